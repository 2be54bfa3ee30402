"""The journal of a fleet: one JSON line an accepted event, on disk before it is answered; one process at a time.

Every line ends with a checksum over itself and the one before, so that a line that was altered, lost or put elsewhere shows.
After many events the file is replaced by one line with the whole state (`Journal.replace`), atomically.
"""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from rltune.nouns.errors import InputError
from rltune.nouns.leftovers import sync_folder

Record = dict[str, Any]
HEAD = b'{"event":"fleet"'
"""How every journal begins."""
VERSION = 2
"""Since then lines have checksums."""
CHECK = re.compile(rb',"check":"([0-9a-f]{16})"\}$')
"""The end of a line."""
COMPLETE = re.compile(rb',"check":"[0-9a-f]{16}"\}.')
"""What no half-written line has: it ends before, or there."""
FULL = "the disk is full"


def checksum(body: bytes, before: bytes) -> bytes:
    """Of a line without its checksum (``{...``), after a line with that of ``before``; of the first line ``before`` is empty."""
    return blake2b(before + body, digest_size=8).hexdigest().encode()


class Journal:
    """Appends records to a file; a record that cannot be written whole is taken back, and InputError says why.

    `append` writes, `sync` has the disk write: what was appended is answered after that. Locks the file until it is closed:
    InputError if another process (or another fleet of this one) has it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.lines = 0
        """Lines after the first: what a restart has to go through."""
        self._before_last: tuple[int, bytes] | None = None
        self._check = b""
        self._dirty = False
        self._file = self._opened(self.path, "a")

    def _opened(self, path: Path, mode: str) -> io.FileIO:
        """The file under its name, locked."""
        while True:
            try:
                file = io.FileIO(path, mode)
            except OSError as error:
                raise InputError(f"{self.path}: the journal cannot be opened ({_why(error)})") from None
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.close()
                if isinstance(error, BlockingIOError):
                    raise InputError(
                        f"{self.path}: another process uses this journal; end it first, or name another file"
                    ) from None
                raise InputError(f"{self.path}: the journal cannot be locked ({_why(error)})") from None
            try:
                if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                    return file
            except FileNotFoundError:
                pass
            # Another file took the name between opening and locking.
            file.close()

    def begin(self, head: Record) -> str | None:
        """Write the first line; a note if a half-written one was there, of which nothing ever took effect.

        InputError for a file with anything else in it.
        """
        there = self.path.read_bytes()
        if there and not torn_head(there):
            raise InputError(f"{self.path}: there is a journal already; restore it, or name another file")
        self._file.truncate(0)
        self.append({**head, "version": VERSION})
        self.lines = 0
        self.sync()
        _sync_folder(self.path)
        return f"{self.path}: the first line was half-written; the journal begins anew" if there else None

    def go_on(self, found: Found) -> None:
        """Append after what was read; a last line without its end gets it, a half-written one is cut off."""
        self._check, self.lines = found.check, len(found.records) - 1
        try:
            self._file.truncate(found.whole)
            if found.unended:
                self._file.write(b"\n")
        except OSError as error:
            raise InputError(f"{self.path}: the journal cannot be written ({_why(error)})") from None
        self._dirty = True
        self.sync()

    def append(self, record: Record) -> None:
        """Write one line, whole or not at all."""
        self._check_open()
        line, check = _line(record, self._check)
        end = self._file.seek(0, os.SEEK_END)
        try:
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, "")
        except OSError as error:
            self._file.truncate(end)
            raise InputError(f"{self.path}: the journal cannot be written ({_why(error)}); nothing changed") from None
        self._before_last, self._check, self._dirty = (end, self._check), check, True
        self.lines += 1

    def sync(self) -> None:
        """Have the disk write what was appended. Where that fails nobody knows what is there: the journal takes no more lines."""
        if not self._dirty:
            return
        self._check_open()
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            self.close()
            raise InputError(
                f"{self.path}: the journal cannot be brought to disk ({_why(error)}); end this fleet and restore it"
            ) from None
        self._dirty = False

    def _check_open(self) -> None:
        if self._file.closed:
            raise InputError(f"{self.path}: the journal is closed; end this fleet and restore it")

    def take_back(self) -> None:
        """Remove the line written last: what it says did not come about. Where that fails the journal takes no more lines."""
        assert self._before_last is not None, "nothing was written"
        try:
            self._file.truncate(self._before_last[0])
        except OSError as error:
            self.close()
            raise InputError(
                f"{self.path}: the last event cannot be taken back ({_why(error)}); end this fleet and restore it"
            ) from None
        self._check, self._dirty, self._before_last = self._before_last[1], True, None
        self.lines -= 1

    def replace(self, head: Record) -> None:
        """One line instead of all: a head with the state. The old file stays until the new one is on disk; InputError: it stays."""
        self.sync()
        partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        line, check = _line({**head, "version": VERSION}, b"")
        file = self._opened(partial, "a")
        try:
            file.truncate(0)
            if file.write(line) != len(line):
                raise OSError(errno.ENOSPC, "")
            os.fsync(file.fileno())
            os.replace(partial, self.path)
        except OSError as error:
            file.close()
            partial.unlink(missing_ok=True)
            raise InputError(
                f"{self.path}: the journal cannot be shortened ({_why(error)}); it goes on as it is"
            ) from None
        self._file.close()
        self._file, self._check, self._before_last, self.lines = file, check, None, 0
        _sync_folder(self.path)

    def close(self) -> None:
        self._file.close()


@dataclass(frozen=True)
class Found:
    """A journal as it was read: its ``records``; ``faults``: line number -> what is wrong with its checksum; the last ``check``;
    ``whole`` bytes up to the end of the last record, which is ``unended`` if its newline is missing; ``note`` on what was
    half-written, and is no part of it."""

    records: list[Record]
    faults: dict[int, str]
    check: bytes
    whole: int
    unended: bool
    note: str | None


def read_journal(path: str | Path) -> Found:
    """Records of a journal; InputError for a file that is none, or a broken line before the last. Nothing is changed."""
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: the journal cannot be read ({_why(error)})") from None
    if torn_head(content):
        raise InputError(f"{path}: the journal has no whole line; begin a new fleet with it")
    whole, newline, rest = content.rpartition(b"\n")
    lines = whole.split(b"\n") if newline else []
    records = [_parsed(path, number, line) for number, line in enumerate(lines, start=1)]
    end, unended, note = len(whole) + len(newline), False, None
    if rest and _whole(rest):
        # All of it came to disk but the end of its line; it may have been answered.
        lines, end, unended = [*lines, rest], len(content), True
        records.append(_parsed(path, len(lines), rest))
    elif COMPLETE.search(rest):
        raise InputError(
            f"{path}, line {len(lines) + 1}: altered after it was written; restore the journal from a copy"
        )
    elif rest:
        note = f"{path}: the last line, {len(rest)} bytes, was half-written; it never took effect and was cut off"
    if not records or records[0].get("event") != "fleet":
        raise InputError(f"{path}: not a fleet's journal; its first line must be the event 'fleet'")
    faults, check = _checked(lines, records[0].get("version"))
    if records[0].get("version") is None:
        old = f"{path}: of an earlier version, whose lines have no checksums; those from now on have"
        note = f"{note}; {old}" if note else old
    return Found(records, faults, check, end, unended, note)


def _checked(lines: list[bytes], version: object) -> tuple[dict[int, str], bytes]:
    """What is wrong with the checksums, by line number; and the last one, for the next line."""
    faults: dict[int, str] = {}
    check, begun = b"", version is not None
    for number, line in enumerate(lines, start=1):
        found = CHECK.search(line)
        begun = begun or found is not None
        body = line[: found.start()] if found else line
        due = checksum(body, check)
        if begun and (found is None or found[1] != due):
            faults.setdefault(
                number, "its checksum does not fit: it, or the line before it, was altered, lost or moved"
            )
        check = due
    return faults, check


def torn_head(content: bytes) -> bool:
    """Whether a file holds nothing but the beginning of a journal's first line (or nothing at all)."""
    return b"\n" not in content and content[: len(HEAD)] == HEAD[: len(content)] and not _whole(content)


def _whole(line: bytes) -> bool:
    """Whether a line is a record, all of it."""
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _parsed(path: Path, number: int, line: bytes) -> Record:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise InputError(f"{path}, line {number}: not a JSON record; restore the journal from a copy") from None
    if not isinstance(record, dict) or "event" not in record:
        raise InputError(f"{path}, line {number}: not an event of a fleet")
    return record


def _line(record: Record, before: bytes) -> tuple[bytes, bytes]:
    """A record as a line, and its checksum."""
    body = json.dumps(record, separators=(",", ":"), allow_nan=False).encode()[:-1]
    check = checksum(body, before)
    return body + b',"check":"' + check + b'"}\n', check


def _sync_folder(path: Path) -> None:
    """Have the disk write the file's name too; where a file system refuses that for folders, it does so by itself."""
    with suppress(OSError):
        sync_folder(path.parent)


def _why(error: OSError) -> str:
    return FULL if error.errno in (errno.ENOSPC, errno.EDQUOT) else str(error.strerror)
