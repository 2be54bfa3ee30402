"""The loop: what wakes it, what it lives through, how it ends."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from slurm_cases import Memoryless, job

from rltune.slurm import service
from rltune.slurm.acting import Hands
from rltune.slurm.commands import Unreachable
from rltune.slurm.deciding import Decider
from rltune.slurm.remembering import read_memory
from rltune.slurm.service import Beside, Ending
from rltune.slurm.telling import Log


class Told(Memoryless):
    """A Slurm in memory whose squeue answers one line a job; ``answers``: what each look does instead (an error, or a change)."""

    def __init__(self, answers: list[Any], ending: Ending) -> None:
        super().__init__({"1": job("1", 8, priority=100)})
        self.answers, self.ending, self.looks = answers, ending, 0

    def run(self, *words: str) -> str:
        if not self.answers:
            os.kill(os.getpid(), signal.SIGTERM)
            return ""
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return str(answer)


def looped(
    answers: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every_s: float = 1000.0
) -> tuple[Told, Ending]:
    with Ending() as ending:
        slurm = Told(answers, ending)
        monkeypatch.setattr(service, "look", lambda *_: (setattr(slurm, "looks", slurm.looks + 1), slurm.look())[1])
        hands = Hands(slurm, read_memory(tmp_path / "s.json", "main"), "advise")
        cfg = {
            "most": 10,
            "depth": "advise",
            "allocator": {"name": "best_fit"},
            "backfill": "easy",
            "every_s": every_s,
            "poll_s": 0.001,
        }
        decider = Decider("fifo", {"name": "best_fit"}, "easy")
        Beside(slurm, "main", hands, decider, Log(tmp_path / "log.jsonl"), cfg, False).loop(ending)
        return slurm, ending


def test_changes_wake_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that came would wait for the next half minute; or each rewrite of a reason would bring a decision."""
    answers = [
        "1 PENDING Priority",
        "1 PENDING Resources",
        "1 PENDING None",
        "1 RUNNING None",
        "2 PENDING Priority\n1 RUNNING None",
    ]
    slurm, ending = looped(answers, tmp_path, monkeypatch)
    assert slurm.looks == 4, "at the start, when 1 began, when 2 came, and when all were gone"
    assert ending.got == signal.SIGTERM


def test_a_controller_that_is_away_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A restart of slurmctld would end the service."""
    away = [Unreachable("Slurm's controller does not answer") for _ in range(3)]
    slurm, _ = looped(["1 PENDING Priority", *away, "1 PENDING Priority"], tmp_path, monkeypatch)
    err = capsys.readouterr().err
    assert err.count("going on trying") == 1 and "answers again" in err and slurm.looks == 2


def test_an_ignored_ctrl_c_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under nohup the service would end with the terminal."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Ending():
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
