"""Text files in: bytes, gzip, comments and line numbers, each failure told in one line."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from rltune.nouns.documents import Gunzip, gunzip
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
        lines: (n_rows,) line of the file at which each row begins.
        comments: # lines between the rows, passed over.
    """

    file: str
    header: tuple[str, ...]
    frame: pd.DataFrame
    lines: npt.NDArray[np.int64]
    comments: int = 0

    def __len__(self) -> int:
        return len(self.frame)

    def keep(self, rows: npt.NDArray[np.bool_]) -> Table:
        """The rows where the mask (n_rows,) is true."""
        return replace(self, frame=self.frame[rows].reset_index(drop=True), lines=self.lines[rows])

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

    def instants(self, column: str) -> tuple[npt.NDArray[np.float64], datetime]:
        """A column of times with UTC offsets as seconds since 1970 (n_rows,), and the wall clock of the earliest.

        A value that is no such time is refused by line.
        """
        text = self.frame[column]
        times = pd.to_datetime(text, format="ISO8601", errors="coerce", utc=True)
        bad = times.isna().to_numpy() | ~text.map(
            lambda one: isinstance(one, str) and OFFSET.search(one) is not None
        ).to_numpy(bool)
        if bad.any():
            row = int(np.argmax(bad))
            raise InputError(
                f"{self.file}: row {self.lines[row]}: {column} is {one_line(text.iloc[row])!r}, which is no time with a UTC "
                "offset; use YYYY-MM-DD HH:MM:SS+00:00"
            )
        seconds = times.dt.tz_localize(None).to_numpy().astype("datetime64[us]").astype(np.float64) / 1e6
        first = int(np.argmin(seconds))
        sign, hours, minutes = OFFSET.search(text.iloc[first]).groups()  # type: ignore[union-attr]
        ahead = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
        utc: datetime = times.iloc[first].tz_localize(None).to_pydatetime()
        return seconds, utc - ahead if sign == "-" else utc + ahead


OFFSET = re.compile(r"(?:Z|([+-])(\d\d):?(\d\d))$")


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
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; give the path of a trace or a known name") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a directory; give a file in it") from None
    except OSError as error:
        raise InputError(f"{path.name}: cannot be read ({error.strerror or one_line(error)})") from None
    if content.startswith(GZIP_MAGIC):
        content = gunzip(content, path.name)
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
        with path.open("rb") as file:
            source: Any = Gunzip(file, path.stat().st_size, path.name) if packed else file
            pieces = pd.read_csv(
                source,
                header=0 if headed else None,
                dtype=str,
                chunksize=CHUNK_ROWS,
                skip_blank_lines=False,
                encoding="utf-8-sig",
            )
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
    """Comma-separated text; empty lines and # lines (comments) are passed over, blanks around cells do not count.

    Only an empty cell is absent: ``NA`` and ``null`` are names. InputError for a column that stands twice.
    """
    text, lines, comments = _uncommented(text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text, file)
    try:
        frame = pd.read_csv(
            io.StringIO(text),
            header=None,
            dtype=str,
            skip_blank_lines=False,
            keep_default_na=False,
            na_values=[""],
            skipinitialspace=True,
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise InputError(f"{file}: not a regular CSV file ({_at_its_line(error, lines)}); mend that line") from None
    if len(frame) != len(lines):
        raise InputError(f"{file}: quotes do not come in pairs, rows cannot be told apart; mend them")
    if BLANKS.search(text):
        frame = frame.apply(lambda column: column.str.strip()).replace("", np.nan)
    header: tuple[str, ...] = ()
    if headed:
        header = tuple("" if pd.isna(name) else str(name).lower() for name in frame.iloc[0])
        twice = next((name for k, name in enumerate(header) if name in header[:k]), None)
        if twice is not None:
            raise InputError(f"{file}: row {lines[0]}: column {twice!r} stands twice; name each once")
        frame, lines = frame.iloc[1:].set_axis(list(header), axis=1).reset_index(drop=True), lines[1:]
    filled = frame.notna().any(axis=1).to_numpy()
    return Table(file, header, frame, lines, comments).keep(filled)


BLANKS = re.compile(r"[^\S\n][,\n\"]|[,\n\"][^\S\n]|[^\S\n]$")
"""Space beside a separator or a quote."""


def _uncommented(text: str, file: str) -> tuple[str, npt.NDArray[np.int64], int]:
    """The text from its first line with data on and without comments, the line at which each row begins, and how many
    comments stood between rows."""
    if '"' not in text and "\n#" not in text and not text[:1].isspace() and not text.startswith("#"):
        # Most files: every line is a row.
        return text, np.arange(1, text.count("\n") + (not text.endswith("\n")) + 1, dtype=np.int64), 0
    kept: list[str] = []
    starts: list[int] = []
    comments, fresh = 0, True

    def lines() -> Iterator[str]:
        nonlocal comments, fresh
        for number, line in enumerate(io.StringIO(text), start=1):
            if fresh and (line.startswith("#") or not (kept or line.strip())):
                comments += bool(kept)
                continue
            if fresh:
                starts.append(number)
            fresh = False
            kept.append(line)
            yield line

    if '"' not in text:
        for _ in lines():
            fresh = True
    else:
        try:
            for _ in csv.reader(lines()):
                fresh = True
        except csv.Error as error:
            raise InputError(f"{file}: row {starts[-1]}: not a regular CSV file ({error}); mend that line") from None
    return "".join(kept), np.array(starts, np.int64), comments


def _at_its_line(error: Exception, lines: npt.NDArray[np.int64]) -> str:
    """The parser's message with the line of the file in the place of the row's number."""

    def place(found: re.Match[str]) -> str:
        row = int(found[1])
        return f"line {lines[row - 1] if row <= len(lines) else row}"

    return re.sub(r"line (\d+)", place, one_line(error))


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
