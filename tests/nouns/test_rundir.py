"""A run directory appears whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from rltune.nouns.errors import InputError
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
