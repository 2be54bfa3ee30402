"""Slurm's commands where they are missing, refuse, or do not answer; and the words on the command line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rltune.nouns.errors import InputError
from rltune.slurm.commands import JobRefused, Slurm, SlurmError, Unreachable
from rltune.slurm.main import main
from rltune.slurm.reading import default_partition


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a script in the place of a command."""

    def put(name: str, text: str) -> None:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return put


def test_without_slurm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """On a machine without Slurm the command would end in a traceback."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["slurm", "once=true", f"state={tmp_path}/s.json"])
    with pytest.raises(SystemExit) as end:
        main()
    told = capsys.readouterr().err.strip()
    assert end.value.code == 1 and told.count("\n") == 0
    assert told.startswith("error: scontrol is not on PATH: Slurm's client commands are needed")


@pytest.mark.parametrize(
    ("says", "kind", "told"),
    [
        ("squeue: error: Unable to contact slurm controller (connect failure)", Unreachable, "does not answer"),
        ("Access/permission denied for job 7", SlurmError, "run as SlurmUser"),
        ("Invalid user id for job 4\nslurm_suspend error: Invalid user id", SlurmError, "depth=advise"),
        ("Invalid job id specified for job 7", JobRefused, "Invalid job id"),
        ("Job has already finished for job 7", JobRefused, "already finished"),
    ],
)
def test_errors_are_one_line(script, says: str, kind: type, told: str) -> None:
    """What Slurm says would be lost, or one job that ended meanwhile would stop the service."""
    script("scontrol", f"echo '{says}' >&2; exit 1")
    with pytest.raises(kind, match=told) as error:
        Slurm().update("7", "Priority=1")
    assert type(error.value) is kind and "\n" not in str(error.value)


def test_no_answer(script) -> None:
    """A controller that hangs would hang the service, which could not be ended any more."""
    script("squeue", "echo 'retrying in 1sec' >&2; exec sleep 30")
    with pytest.raises(Unreachable, match=r"within 0\.5 s .retrying in 1sec"):
        Slurm(timeout_s=0.5).run("squeue")


def test_no_json(script) -> None:
    """A Slurm without its JSON plug-in would end in a traceback."""
    script("squeue", "echo JOBID PARTITION")
    with pytest.raises(SlurmError, match="gave no JSON"):
        Slurm().json("squeue", "--json")


def test_partitions(script) -> None:
    """A slip in the partition's name would decide on nobody's jobs, silently."""
    script("scontrol", f"cat '{Path(__file__).parent / 'data' / 'partitions-22.05.txt'}'")
    assert default_partition(Slurm(), None) == "main" and default_partition(Slurm(), "other") == "other"
    with pytest.raises(InputError, match="partition=gpus is unknown; known are main, other"):
        default_partition(Slurm(), "gpus")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["depth=everything"], "depth='everything' is unknown; known are advise, priority, place"),
        (["policy=las"], "nothing is suspended"),
        (["allocator=fgd"], "use lexicographic, best_fit, least_fragmentation or milp"),
        (["prolog"], "spec=FILE is needed"),
        (["every_s=0"], "every_s=0"),
    ],
)
def test_options_are_checked(words, told, monkeypatch, capsys, tmp_path) -> None:
    """A slip would be found after jobs are held, or not at all."""
    monkeypatch.setattr(sys, "argv", ["slurm", *words])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2 and told in capsys.readouterr().err
