"""Files out whole or not at all; what a killed command has left of one goes when the file is written again."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A hidden file beside ``path`` to be filled in this context; it takes the name ``path`` on leaving without an error.

    OSError where the disk refuses. Hidden files of the same name that killed commands left are removed, and named on
    standard error: nothing is in them that is not being written anew.
    """
    for left in left_of(path):
        left.unlink(missing_ok=True)
        print(f"note: {left}, left by a command that was killed, is removed", file=sys.stderr)
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        with open(partial, "xb") as held:
            # As long as it is locked, its command is alive; what writes to it must not replace it.
            with contextlib.suppress(OSError):
                fcntl.flock(held, fcntl.LOCK_SH)
            yield partial
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Names in a folder are on disk: a renamed file survives a power cut. OSError where the disk refuses."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def left_of(path: Path) -> list[Path]:
    """Hidden files of `whole_file` for ``path`` whose commands are no longer there, by name."""
    try:
        beside = sorted(path.parent.iterdir())
    except OSError:
        return []
    begins = f".{path.name}."
    return [each for each in beside if each.name.startswith(begins) and each.suffix == ".partial" and is_left(each)]


def is_left(path: Path) -> bool:
    """Whether no process has this file or directory locked; False where that cannot be told."""
    with contextlib.suppress(OSError):
        opened = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        finally:
            os.close(opened)
    return False
