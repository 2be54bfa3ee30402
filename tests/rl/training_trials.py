"""Trainings killed at random instants and gone on with, each held against one that nobody touched.

A warm process forks a training as `python -m rltune.train` runs it, on a small network and trace. It is killed
(SIGKILL, sometimes SIGTERM) at a random instant, its newest checkpoint sometimes damaged, and then gone on with by
``resume=``, again and again until it is done. Then its curve and its policy must be those of the run that nobody touched.
RLlib samples in this process and needs Ray for one thing only, a reference to its own options: nothing is started.
"""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import sys
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field
from io import StringIO
from mmap import mmap
from pathlib import Path
from typing import Any

import numpy as np
import ray

import rltune.rl.checkpoints
import rltune.train
from rltune.config.commands import Train
from rltune.entry import run_main
from rltune.rundir import CHECKPOINT, cut_off

EPOCHS, EVERY = 45, 3
SEED = 15
SMALL = (
    "+trace=synthetic", "trace.jobs=900", "trace.arrivals_per_h=400", "nodes=4", "protocol.window=32", "visible=8",
    "windows_per_epoch=2", "validate_every=2", "validation_windows=4", "evaluate=false", "allocator=best_fit", "algo.envs=4",
    "algo.threads=1", "algo.minibatch=64", "progress=false", "oversized=drop", "baseline=fifo", f"epochs={EPOCHS}", f"checkpoint_every={EVERY}",
    "name=run",
)  # fmt: skip
KILLED, TOLD = -signal.SIGKILL, 128 + signal.SIGTERM
TERM, DAMAGE = 0.15, 0.1
"""Share of kills that are SIGTERM, and of those after which the newest checkpoint is damaged."""
SOON = 0.4
"""A kill comes within this share of the time that a whole training takes."""
LONGEST_S = 300.0
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


@dataclass
class TrainingKills:
    """What happened: ``kills``, ``terms`` of them SIGTERM, ``early`` before a first checkpoint (begun anew), ``damaged``
    checkpoints; ``trainings`` that came to their end, and what went wrong: kills after which a run was ``not_resumed``,
    ``lost`` more than the last interval, ended with ``other_curve`` or policy."""

    kills: int = 0
    terms: int = 0
    early: int = 0
    damaged: int = 0
    trainings: int = 0
    not_resumed: int = 0
    lost: int = 0
    other_curve: int = 0
    faults: list[str] = field(default_factory=list)


def kill_trainings(seed: int, kills: int, patience_s: float) -> TrainingKills:
    """Trainings until so many have been killed, or ``patience_s`` seconds are over."""
    rng, counts, begun = np.random.default_rng(seed), TrainingKills(), time.monotonic()
    ray.put = lambda value: value
    rltune.train.start_ray = lambda: None
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        _warm(Path(folder) / "warm")
        while counts.kills < kills and time.monotonic() - begun < patience_s:
            chosen = int(rng.integers(1_000_000))
            whole = _Training(Path(folder) / f"whole{counts.trainings}", chosen)
            since = time.monotonic()
            status = whole.run()
            assert status == 0, whole.told
            took = time.monotonic() - since
            _Trial(Path(folder) / f"cut{counts.trainings}", chosen, whole, took, rng, counts).run(kills)
            counts.trainings += 1
    return counts


def _warm(folder: Path) -> None:
    """A short training in this process, so that those it forks find everything imported and compiled."""
    sys.argv = ["rltune.train", *SMALL, "epochs=2", f"runs={folder}"]
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        run_main(rltune.train.main, Train)


class _Training:
    """One run in ``folder``; ``done``: epochs that it has told."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.told, self.epochs = "", mmap(-1, 8)
        folder.mkdir()

    @property
    def done(self) -> int:
        return int.from_bytes(self.epochs[:8], "little")

    @property
    def final(self) -> Path:
        return self.folder / "run"

    def run(self, kill_after_s: float | None = None, number: int = signal.SIGKILL, *options: str) -> int:
        """Exit status, negative for a signal; ``number`` is sent after so many seconds."""
        self.epochs[:8] = bytes(8)
        said = self.folder / "said"
        child = os.fork()
        if child == 0:
            self._child(said, options)
        status = _wait(child, LONGEST_S if kill_after_s is None else kill_after_s)
        if status is None:
            os.kill(child, number)
            status = _wait(child, LONGEST_S)
        self.told = said.read_text()
        return KILLED if status is None else status

    def _child(self, said: Path, options: tuple[str, ...]) -> None:
        code = 70
        try:
            with said.open("w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            take = rltune.rl.checkpoints.Checkpoints.take

            def noted(this: Any, epoch: int, state: Any) -> None:
                self.epochs[:8] = epoch.to_bytes(8, "little")
                take(this, epoch, state)

            rltune.rl.checkpoints.Checkpoints.take = noted  # type: ignore[method-assign]
            sys.argv = ["rltune.train", *SMALL, f"seed={self.seed}", f"runs={self.folder}", *options]
            run_main(rltune.train.main, Train)
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def saved(self) -> int | None:
        """Epochs of the newest checkpoint."""
        folders = [self.final, *cut_off(self.final)]
        names = [path.name for folder in folders for path in (folder / CHECKPOINT).glob("epoch-*.safetensors")]
        return max((int(re.sub(r"\D", "", name)) for name in names), default=None)

    def curve(self) -> list[dict[str, str]]:
        """Its rows without the clock."""
        with (self.final / "curve.csv").open(newline="") as file:
            return [{k: v for k, v in row.items() if k != "wall_s"} for row in csv.DictReader(file)]

    def policy(self) -> bytes:
        return (self.final / "policy.safetensors").read_bytes()


def _wait(child: int, seconds: float) -> int | None:
    """Its status; None while it runs."""
    end = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= end:
            return None
        time.sleep(0.001)


class _Trial:
    """One training, killed until it is done, beside ``whole``, which took ``took_s`` seconds."""

    def __init__(
        self, folder: Path, seed: int, whole: _Training, took_s: float, rng: np.random.Generator, counts: TrainingKills
    ) -> None:
        self.training, self.whole, self.took_s = _Training(folder, seed), whole, took_s
        self.rng, self.counts = rng, counts

    def run(self, most: int) -> None:
        training, counts = self.training, self.counts
        while True:
            options = () if training.saved() is None else (f"resume={training.final}",)
            before = training.saved() or 0
            number = signal.SIGTERM if self.rng.random() < TERM else signal.SIGKILL
            last = counts.kills >= most
            status = training.run(None if last else float(self.rng.uniform(0, SOON * self.took_s)), number, *options)
            if self.training.final.exists():
                break  # complete, even where a kill came behind it
            if status not in (KILLED, TOLD, 130, -signal.SIGTERM):
                counts.not_resumed += 1
                counts.faults.append(f"seed {training.seed}, status {status}: {training.told[-300:]}")
                return
            counts.kills += 1
            counts.terms += number == signal.SIGTERM
            self._check(max(before, training.done), number, status)
            if training.saved() is None:
                counts.early += 1
            elif self.rng.random() < DAMAGE:
                self._damage()
        if training.curve() != self.whole.curve() or training.policy() != self.whole.policy():
            counts.other_curve += 1
            counts.faults.append(f"seed {training.seed}: another curve or policy than without kills")

    def _check(self, done: int, number: int, status: int) -> None:
        """No more than an interval is lost by SIGKILL, nothing by SIGTERM, which tells how to go on."""
        saved = self.training.saved() or 0
        if done - saved > (EVERY if number == signal.SIGKILL else 0):
            self.counts.lost += 1
            self.counts.faults.append(f"seed {self.training.seed}: {done} epochs done, {saved} saved, status {status}")
        if status == TOLD and done and f"resume={self.training.final}" not in self.training.told:
            self.counts.faults.append(f"seed {self.training.seed}: not told how to go on: {self.training.told[-300:]}")

    def _damage(self) -> None:
        """Cut the newest checkpoint short or change a byte, where there is one before it."""
        folder = cut_off(self.training.final)[-1]
        files = sorted((folder / CHECKPOINT).glob("epoch-*.safetensors"))
        if len(files) < 2:
            return
        data = bytearray(files[-1].read_bytes())
        at = int(self.rng.integers(len(data)))
        if self.rng.random() < 0.5:
            data = data[:at]
        else:
            data[at] ^= 1 << int(self.rng.integers(8))
        files[-1].write_bytes(data)
        self.counts.damaged += 1


if __name__ == "__main__":
    # A process of its own: one that has forked trainings, and taken Ray's part from it, is of no use to other tests.
    found = asdict(kill_trainings(SEED, int(sys.argv[1]), LONGEST_S))
    print(json.dumps(found))
