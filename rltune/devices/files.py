"""Files written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from rltune.nouns.errors import InputError


def write_whole(path: Path, text: str) -> None:
    """Write a file that is complete once it has its name; InputError where the disk refuses."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another file") from None
