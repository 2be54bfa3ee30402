"""One adapter at a time on a GPU."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rltune.errors import InputError

POLL_S = 0.05


def default_locks() -> Path:
    """Where all adapters of this machine look, whoever runs them and wherever their journals are."""
    folder = Path("/run/lock")
    return folder if os.access(folder, os.W_OK) else Path(tempfile.gettempdir())


@contextmanager
def locked(path: Path, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the lock; InputError if another process (or another adapter of this one) has it for longer than ``wait_s``."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise InputError(
            f"{path}: the lock cannot be opened ({error.strerror}); name another folder with --locks"
        ) from None
    try:
        _take(file, path, time.monotonic() + wait_s)
        os.truncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(file)


def _take(file: int, path: Path, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                holder = os.pread(file, 20, 0).decode(errors="replace").strip() or "unknown"
                raise InputError(
                    f"{path}: another adapter (pid {holder}) is changing this GPU; try again, or wait for it (--wait 60)"
                ) from None
        except OSError as error:
            raise InputError(f"{path}: cannot be locked ({error.strerror}); name another folder with --locks") from None
        time.sleep(POLL_S)
