"""The journal of a fleet: one JSON line an accepted event, on disk before it takes effect; one process at a time."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from rltune.nouns.errors import InputError

Record = dict[str, Any]
HEAD = b'{"event":"fleet"'
"""How every journal begins."""


class Journal:
    """Appends records to a file; a record that cannot be written whole is taken back, and InputError says why.

    Locks the file until it is closed: InputError if another process (or another fleet of this one) has it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._before_last: int | None = None
        try:
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115  (open as long as the fleet)
        except OSError as error:
            raise InputError(f"{self.path}: the journal cannot be opened ({error.strerror})") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            if isinstance(error, BlockingIOError):
                raise InputError(
                    f"{self.path}: another process uses this journal; end it first, or name another file"
                ) from None
            raise InputError(f"{self.path}: the journal cannot be locked ({error.strerror})") from None

    def begin(self, head: Record) -> str | None:
        """Write the first line; a note if a half-written one was there, of which nothing ever took effect.

        InputError for a file with anything else in it.
        """
        there = self.path.read_bytes()
        if there and not torn_head(there):
            raise InputError(f"{self.path}: there is a journal already; restore it, or name another file")
        self._file.truncate(0)
        self.append(head)
        return f"{self.path}: the first line was half-written; the journal begins anew" if there else None

    def append(self, record: Record) -> None:
        """Write one line, whole or not at all."""
        if self._file.closed:
            raise InputError(f"{self.path}: the journal is closed; end this fleet and restore it")
        line = (json.dumps(record, separators=(",", ":"), allow_nan=False) + "\n").encode()
        end = self._file.seek(0, os.SEEK_END)
        try:
            if self._file.write(line) != len(line):
                raise OSError(28, "No space left on device")
        except OSError as error:
            self._file.truncate(end)
            raise InputError(
                f"{self.path}: the journal cannot be written ({error.strerror}); nothing changed"
            ) from None

        self._before_last = end

    def take_back(self) -> None:
        """Remove the line written last: what it says did not come about. Where that fails the journal takes no more lines."""
        assert self._before_last is not None, "nothing was written"
        try:
            self._file.truncate(self._before_last)
        except OSError as error:
            self.close()
            raise InputError(
                f"{self.path}: the last event cannot be taken back ({error.strerror}); end this fleet and restore it"
            ) from None

    def close(self) -> None:
        self._file.close()


def read_journal(path: str | Path) -> tuple[list[Record], str | None]:
    """Records of a journal, and a note if its last line was half-written: that one is cut off the file.

    InputError for a file that is none, or a broken line before the last.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: the journal cannot be read ({error.strerror})") from None
    if torn_head(content):
        raise InputError(f"{path}: the journal has no whole line; begin a new fleet with it")
    whole, newline, rest = content.rpartition(b"\n")
    records = [_parsed(path, number, line) for number, line in enumerate(whole.splitlines(), start=1)]
    if not records or records[0].get("event") != "fleet":
        raise InputError(f"{path}: not a fleet's journal; its first line must be the event 'fleet'")
    if not rest:
        return records, None
    os.truncate(path, len(whole) + len(newline))
    return records, f"{path}: the last line, {len(rest)} bytes, was half-written; it never took effect and was cut off"


def torn_head(content: bytes) -> bool:
    """Whether a file holds nothing but the beginning of a journal's first line (or nothing at all)."""
    return b"\n" not in content and content[: len(HEAD)] == HEAD[: len(content)]


def _parsed(path: Path, number: int, line: bytes) -> Record:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise InputError(f"{path}, line {number}: not a JSON record; restore the journal from a copy") from None
    if not isinstance(record, dict) or "event" not in record:
        raise InputError(f"{path}, line {number}: not an event of a fleet")
    return record
