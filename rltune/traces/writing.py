"""Files out: whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rltune.nouns.errors import InputError
from rltune.nouns.leftovers import whole_file


def replace_file(path: Path, write: Callable[[Path], object]) -> Path:
    """Let ``write`` fill a temporary file beside ``path``, then put it in place at once.

    InputError if the folder is missing, not writable or full; nothing half-written stays.
    """
    try:
        with whole_file(path) as partial:
            write(partial)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}); "
            "make the folder, free space there or choose another place"
        ) from None
    return path
