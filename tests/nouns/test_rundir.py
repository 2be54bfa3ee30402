"""A run directory appears whole or not at all."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from rltune import compare, evaluate, train
from rltune.config.choices import node
from rltune.config.commands import Evaluate, Simulate, Train
from rltune.config.declare import defaults
from rltune.config.mig import MigBatch, MigServe, MigTrain
from rltune.mig_commands import batch, serve
from rltune.mig_commands import train as mig_train
from rltune.nouns.errors import InputError
from rltune.nouns.leftovers import whole_file
from rltune.rundir import RunDirectory


def test_a_finished_run_has_its_name_and_files(tmp_path: Path) -> None:
    """Results would not be where the last line of the screen says."""
    with RunDirectory(tmp_path / "runs", "mine") as run:
        run.write_json("summary.json", {"a": 1})
        assert not run.final.exists()
    assert json.loads((tmp_path / "runs" / "mine" / "summary.json").read_text()) == {"a": 1}
    assert os.listdir(tmp_path / "runs") == ["mine"]


@pytest.mark.parametrize(
    "error", [InputError("bad"), RuntimeError("bug"), KeyboardInterrupt()], ids=lambda e: type(e).__name__
)
def test_a_failed_run_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    """Half a run would look like a whole one."""
    with pytest.raises(type(error)), RunDirectory(tmp_path, "mine") as run:
        run.write_json("summary.json", {})
        raise error
    assert os.listdir(tmp_path) == []


def test_a_run_of_the_same_name_is_not_overwritten(tmp_path: Path) -> None:
    """Yesterday's results would be lost."""
    for value in (1, 2):
        with RunDirectory(tmp_path, "mine") as run:
            run.write_json("summary.json", value)
    assert len(os.listdir(tmp_path)) == 2
    assert (tmp_path / "mine" / "summary.json").read_text() == "1\n"


@pytest.mark.parametrize(
    "name",
    ["", "a/b", "..", ".hidden", "x" * 300, "nul\0byte"],
    ids=["empty", "slash", "up", "dot", "long", "nul"],
)
def test_names_that_are_no_names_are_refused(tmp_path: Path, name: str) -> None:
    """Results would be written elsewhere, hidden, or end in a stack trace."""
    with pytest.raises(InputError), RunDirectory(tmp_path, name):
        pass
    assert os.listdir(tmp_path) == []


def test_a_killed_run_does_not_stand_in_the_way(tmp_path: Path) -> None:
    """After a power cut the same command would be refused for ever, with advice to free disk space."""
    (tmp_path / ".mine.partial").mkdir()
    (tmp_path / ".mine.partial" / "summary.json").write_text("{}")
    with RunDirectory(tmp_path, "mine") as run:
        run.write_json("table.json", {})
    assert os.listdir(run.final) == ["table.json"]


def test_nan_is_not_written(tmp_path: Path) -> None:
    """summary.json would not be JSON for other tools."""
    with pytest.raises(ValueError, match="not JSON compliant"), RunDirectory(tmp_path, "mine") as run:
        run.write_json("summary.json", {"a": float("nan")})
    assert os.listdir(tmp_path) == []


def test_a_disk_that_refuses_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk would be a stack trace, or leave half a run."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with (
        pytest.raises(
            InputError, match=r"summary\.json: cannot be written \(No space left on device\); free some space"
        ),
        RunDirectory(tmp_path, "mine") as run,
    ):
        run.write_json("summary.json", {})
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_told_also_by_foreign_writers(tmp_path: Path) -> None:
    """A figure or table written by a library onto a full disk would end in a stack trace."""
    with pytest.raises(InputError, match="No space left on device"), RunDirectory(tmp_path, "mine"):
        raise OSError(28, "No space left on device")
    assert os.listdir(tmp_path) == []


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    """runs=FILE would be a stack trace."""
    (tmp_path / "runs").write_text("")
    with pytest.raises(InputError, match="choose another folder"), RunDirectory(tmp_path / "runs", "mine"):
        pass


CHOSEN = {group: node(group, name) for group, name in (("algo", "ppo"), ("allocator", "milp"))}
STARTS = {
    "simulate": (importlib.import_module("rltune.simulate").main, Simulate),
    "evaluate": (evaluate.main, Evaluate),
    "train": (train.main, Train),
    "mig batch": (batch.plan_batches, MigBatch),
    "mig serve-trace": (serve.serve_trace, MigServe),
    "mig train": (mig_train.train, MigTrain),
}
"""Every command with options by name that leaves a run directory, and their declaration."""


@pytest.mark.parametrize("command", STARTS)
def test_what_killed_runs_left_is_removed_on_request(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hidden directories would fill the disk, and the user have to find out their names."""
    monkeypatch.chdir(tmp_path)
    start, declared = STARTS[command]
    left = tmp_path / "runs" / ".mine.7-00000000.partial"
    left.mkdir(parents=True)
    nowhere = {"trace": {"name": "file", "path": "missing.csv"}, "tasks": "missing.csv", "events": "missing.csv"}
    options: dict[str, Any] = {**defaults(declared), "tasks": "missing.csv", "remove_partial": True}
    options |= {name: value for name, value in nowhere.items() if name in options and command != "mig train"}
    options |= {"tasks": [6, 20], "checkpoint": "missing"} if command == "mig train" else {}
    options |= CHOSEN if command == "train" else {}
    with RunDirectory("runs", "alive") as alive:
        # The command stops at its missing input, after the removal.
        with pytest.raises(Exception):  # noqa: B017
            start(options)
        assert alive.path.is_dir()
    assert not left.exists()
    assert f"{Path('runs', left.name)}, left by a run that was killed, is removed" in capsys.readouterr().err


def test_compare_removes_on_request_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its hidden directories would stay."""
    left = tmp_path / ".mine.7-00000000.partial"
    left.mkdir()
    assert compare.main([str(tmp_path / "none"), "--runs", str(tmp_path), "--remove-partial"]) == 2
    assert not left.exists() and "is removed" in capsys.readouterr().err


def test_a_training_to_go_on_with_is_not_removed(tmp_path: Path) -> None:
    """resume= would find nothing."""
    with pytest.raises(InputError, match="remove_partial=true could remove what resume= goes on from"):
        train.main({**defaults(Train), **CHOSEN, "runs": str(tmp_path), "remove_partial": True, "resume": "x"})


# --- single files -----------------------------------------------------------------------


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """A conversion that failed half-way would leave a file that looks converted, or a hidden one."""
    path = tmp_path / "jobs.csv"
    path.write_text("old")
    with pytest.raises(OSError), whole_file(path) as partial:
        partial.write_text("half")
        raise OSError(28, "No space left on device")
    assert os.listdir(tmp_path) == ["jobs.csv"] and path.read_text() == "old"
    with whole_file(path) as partial:
        partial.write_text("new")
    assert os.listdir(tmp_path) == ["jobs.csv"] and path.read_text() == "new"


def test_what_a_killed_writer_left_goes_with_the_next_writing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every killed conversion would leave a hidden file for good; one that still goes on would lose its."""
    (tmp_path / ".jobs.csv.7-00000000.partial").write_text("half")
    (tmp_path / ".other.csv.7-00000000.partial").write_text("half")
    with whole_file(tmp_path / "jobs.csv") as first, whole_file(tmp_path / "jobs.csv") as second:
        first.write_text("1")
        second.write_text("2")
    assert sorted(os.listdir(tmp_path)) == [".other.csv.7-00000000.partial", "jobs.csv"]
    assert capsys.readouterr().err.count(".jobs.csv.7-00000000.partial, left by a command that was killed") == 1
