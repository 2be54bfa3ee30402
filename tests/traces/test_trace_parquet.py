"""Parquet keeps a trace whole and notices a change."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rltune.nouns.errors import InputError
from rltune.traces import Trace, load_trace, parquet


def test_round_trip_keeps_jobs_and_provenance(tmp_path: Path, by_hand: Trace) -> None:
    """A converted trace would lose where it comes from."""
    again = load_trace(parquet.write(by_hand, tmp_path / "hand.parquet"))
    assert again.sha256 == by_hand.sha256
    assert (again.name, again.source, again.origin, again.label, again.notes) == (
        by_hand.name, by_hand.source, by_hand.origin, by_hand.label, by_hand.notes,
    )  # fmt: skip
    assert again.files == ("hand.parquet",)
    assert again.jobs.to_frame().equals(by_hand.jobs.to_frame())


@pytest.mark.parametrize("column", ["duration_s", "vc"])
def test_changed_content_is_refused(tmp_path: Path, by_hand: Trace, column: str) -> None:
    """A file edited by hand would pass as the original."""
    path = parquet.write(by_hand, tmp_path / "hand.parquet")
    table = pq.read_table(path)
    values = table[column].to_pylist()
    table = table.set_column(table.column_names.index(column), column, [values[::-1]])
    pq.write_table(table, path)
    with pytest.raises(InputError, match="do not match the stored sha256"):
        load_trace(path)


def test_foreign_parquet_is_refused(tmp_path: Path, by_hand: Trace) -> None:
    """A Parquet file of something else would end in a stack trace."""
    path = tmp_path / "foreign.parquet"
    by_hand.jobs.to_frame()[["job_id"]].to_parquet(path)
    with pytest.raises(InputError, match="rltune did not write"):
        load_trace(path)


def test_failed_write_leaves_the_old_file(tmp_path: Path, by_hand: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk would destroy the trace that was there."""
    path = parquet.write(by_hand, tmp_path / "hand.parquet")
    before = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(InputError, match="No space left on device"):
        parquet.write(by_hand.window(0, 1), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["hand.parquet"]


def test_missing_folder_is_told(tmp_path: Path, by_hand: Trace) -> None:
    """A misspelt output folder would end in a stack trace."""
    with pytest.raises(InputError, match="cannot be written"):
        parquet.write(by_hand, tmp_path / "nowhere" / "hand.parquet")
