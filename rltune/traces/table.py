"""Text files in: bytes, gzip, comments and line numbers, each failure told in one line."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from rltune.nouns.errors import InputError

GZIP_MAGIC = b"\x1f\x8b"
CHUNK_ROWS = 500_000
"""Rows of a large table read at once."""
SHOWN_CHARACTERS = 160
"""How much of a foreign text an error message quotes."""


@dataclass(frozen=True, slots=True)
class Table:
    """A delimited file as text.

    Attributes:
        file: base name, for messages.
        header: column names, stripped and in lower case; () where the file has no header line.
        frame: the values as str, NaN where empty; columns named by ``header`` or 0, 1, ...
        lines: (n_rows,) line number of each row in the file.
    """

    file: str
    header: tuple[str, ...]
    frame: pd.DataFrame
    lines: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.frame)

    def keep(self, rows: npt.NDArray[np.bool_]) -> Table:
        """The rows where the mask (n_rows,) is true."""
        return Table(self.file, self.header, self.frame[rows].reset_index(drop=True), self.lines[rows])

    def numbers(self, column: str) -> npt.NDArray[np.float64]:
        """A column as numbers, NaN where it holds none (``JobTable`` refuses those by line)."""
        return pd.to_numeric(self.frame[column], errors="coerce").to_numpy(np.float64, na_value=np.nan)

    def numbers_or_empty(self, column: str) -> npt.NDArray[np.float64]:
        """A column as numbers, NaN where it is empty; whatever else is no finite number is refused by line."""
        found = self.numbers(column)
        bad = self.frame[column].notna().to_numpy() & ~np.isfinite(found)
        if bad.any():
            row = int(np.argmax(bad))
            raise InputError(
                f"{self.file}: row {self.lines[row]}: {column} is {one_line(self.frame[column].iloc[row])!r}, "
                "which is no number; correct or remove the row"
            )
        return found

    def clock(self, column: str) -> npt.NDArray[np.datetime64]:
        """A wall-clock column (n_rows,) in whole seconds; a value that is no time is refused by line."""
        text = self.frame[column]
        times = pd.to_datetime(text, format="%Y-%m-%d %H:%M:%S", errors="coerce")
        bad = times.isna().to_numpy()
        if bad.any():
            row = int(np.argmax(bad))
            raise InputError(
                f"{self.file}: row {self.lines[row]}: {column} is {text.iloc[row]!r}, which is no time; "
                "use YYYY-MM-DD HH:MM:SS"
            )
        return times.to_numpy().astype("datetime64[s]")


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reader found: columns for ``JobTable.from_columns`` and what must be told about them.

    ``rows`` (n_jobs,): line or record numbers for messages; ``origin``: wall clock of second 0; ``files``: base
    names of the files read beside the first; ``invented``: what the label must say is no data, such as "GPUs".
    """

    columns: dict[str, Any]
    rows: npt.NDArray[np.int64]
    origin: datetime | None = None
    notes: tuple[str, ...] = field(default=())
    files: tuple[str, ...] = ()
    invented: str = ""


def read_bytes(path: Path) -> bytes:
    """A file's content, unpacked if it is gzip; InputError if missing, empty, unreadable or truncated."""
    try:
        content = path.read_bytes()
        if content.startswith(GZIP_MAGIC):
            content = gzip.decompress(content)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; give the path of a trace or a known name") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a directory; give a file in it") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path.name}: damaged gzip ({one_line(error)}); fetch it again") from None
    except OSError as error:
        raise InputError(f"{path.name}: cannot be read ({error.strerror or one_line(error)})") from None
    if not content.strip():
        raise InputError(f"{path.name}: the file is empty; at least one job is needed")
    return content


def read_chunks(path: Path, columns: dict[int, str], width: int, headed: bool = False) -> Iterator[pd.DataFrame]:
    """A large CSV in pieces, as text: place among its ``width`` columns -> name of those wanted.

    The index of a piece is the line in the file. InputError as ``read_bytes`` and ``parse_csv`` give it.
    """
    try:
        with path.open("rb") as file:
            packed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        pieces = pd.read_csv(
            path,
            header=0 if headed else None,
            dtype=str,
            chunksize=CHUNK_ROWS,
            compression="gzip" if packed else None,
            skip_blank_lines=False,
            encoding="utf-8-sig",
        )
        with pieces:
            for piece in pieces:
                if piece.shape[1] != width or not isinstance(piece.index, pd.RangeIndex):
                    raise InputError(f"{path.name}: {piece.shape[1]} columns where {width} are needed")
                piece.index += 2 if headed else 1
                yield piece.iloc[:, list(columns)].set_axis(list(columns.values()), axis=1)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise InputError(f"{path.name}: not a regular CSV file ({one_line(error)}); mend that line") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path.name}: damaged gzip ({one_line(error)}); fetch it again") from None
    except OSError as error:
        raise InputError(f"{path.name}: cannot be read ({error.strerror or one_line(error)})") from None


def number_of(piece: pd.DataFrame, column: str, file: str) -> npt.NDArray[np.float64]:
    """A column of a piece as numbers, NaN where it is empty; whatever else is refused by line."""
    lines = piece.index.to_numpy(np.int64)
    return Table(file, tuple(piece.columns), piece, lines).numbers_or_empty(column)


def decode(content: bytes, file: str) -> str:
    """UTF-8 text (with or without a byte order mark)."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: byte {error.start} is not UTF-8 text; save the trace as UTF-8") from None


def first_fields(text: str) -> tuple[str, ...]:
    """The stripped fields of the first line that is neither empty nor a # comment."""
    for line in io.StringIO(text):
        if line.strip() and not line.startswith("#"):
            return tuple(value.strip().strip('"') for value in line.split(","))
    return ()


def parse_csv(text: str, file: str, *, headed: bool = True) -> Table:
    """Comma-separated text whose leading # lines are comments; empty lines are passed over."""
    before = 0
    for line in io.StringIO(text):
        if line.strip() and not line.startswith("#"):
            break
        before += 1
    try:
        frame = pd.read_csv(
            io.StringIO(text),
            header=0 if headed else None,
            dtype=str,
            skiprows=before,
            skip_blank_lines=False,
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise InputError(f"{file}: not a regular CSV file ({one_line(error)}); mend that line") from None
    if not isinstance(frame.index, pd.RangeIndex):
        raise InputError(f"{file}: row {before + 2}: more values than the header has columns; mend that line")
    header = tuple(str(name).strip().lower() for name in frame.columns) if headed else ()
    if headed:
        frame.columns = pd.Index(header)
    filled = frame.notna().any(axis=1).to_numpy()
    lines = np.arange(len(frame), dtype=np.int64) + before + (2 if headed else 1)
    return Table(file, header, frame, lines).keep(filled)


def parse_json(text: str, file: str) -> Any:
    """A JSON document; malformed JSON is refused in one line."""
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{file}: malformed JSON ({one_line(error)}); fetch the file again") from None


def seconds_from_first(clock: npt.NDArray[np.datetime64]) -> tuple[npt.NDArray[np.float64], datetime]:
    """Seconds (n,) after the earliest time, and that time."""
    first = clock.min()
    origin: datetime = first.astype("datetime64[s]").item()
    return (clock - first).astype("timedelta64[s]").astype(np.float64), origin


def one_line(text: object) -> str:
    """Foreign text made fit for a one-line message."""
    flat = " ".join(str(text).split())
    return flat if len(flat) <= SHOWN_CHARACTERS else flat[: SHOWN_CHARACTERS - 3] + "..."
