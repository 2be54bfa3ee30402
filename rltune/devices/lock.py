"""One adapter at a time on a GPU."""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rltune.nouns.errors import InputError

POLL_S = 0.05
LONGEST_NOTE = 200
"""Bytes of the note in a lock's file."""


def default_locks() -> Path:
    """Where all adapters of this machine look, under any user and with any journal."""
    folder = Path("/run/lock")
    return folder if os.access(folder, os.W_OK) else Path("/tmp")


class Held:
    """A lock that is held: ``last`` says what `sign` wrote last in it, under any holder; empty: it was never held."""

    def __init__(self, file: int) -> None:
        self._file = file
        _, _, self.last = os.pread(file, LONGEST_NOTE, 0).decode(errors="replace").strip().partition(" ")
        self._write()

    def sign(self, text: str) -> None:
        """Say who changes the GPU now."""
        self.last = text
        self._write()

    def _write(self) -> None:
        note = f"{os.getpid()} {self.last}".strip().encode() + b"\n"
        # On a full disk without it: the lock itself holds all the same.
        with suppress(OSError):
            os.pwrite(self._file, note, 0)
            os.truncate(self._file, len(note))


@contextmanager
def locked(path: Path, wait_s: float = 0.0) -> Iterator[Held]:
    """Hold the lock; InputError if another process (or another adapter of this one) has it for longer than ``wait_s``."""
    deadline = time.monotonic() + wait_s
    while True:
        file = _open(path)
        try:
            _take(file, path, deadline)
            if not _is(file, path):
                # Somebody removed it between opening and locking: others would lock another file of this name.
                continue
            yield Held(file)
            return
        finally:
            os.close(file)


def _open(path: Path) -> int:
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # Not created where it is there: in shared folders the kernel may refuse that for another user's file.
            file = os.open(path, flags)
        except FileNotFoundError:
            file = os.open(path, flags | os.O_CREAT, 0o666)
            # For every user, whatever our umask says.
            os.fchmod(file, 0o666)
    except PermissionError:
        raise InputError(f"{path}: the lock belongs to another user; have its owner chmod 666 it") from None
    except OSError as error:
        raise InputError(
            f"{path}: the lock cannot be opened ({error.strerror}); name another folder with --locks"
        ) from None
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise InputError(f"{path}: is no file, so it cannot be the lock; remove it")
    return file


def _is(file: int, path: Path) -> bool:
    """Whether the name still stands for the file that is open."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except OSError:
        return False


def _take(file: int, path: Path, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                holder = os.pread(file, 20, 0).decode(errors="replace").partition(" ")[0].strip() or "unknown"
                raise InputError(
                    f"{path}: another adapter (pid {holder}) is changing this GPU; try again, or wait for it (--wait 60)"
                ) from None
        except OSError as error:
            raise InputError(f"{path}: cannot be locked ({error.strerror}); name another folder with --locks") from None
        time.sleep(POLL_S)
