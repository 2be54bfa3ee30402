"""Files written whole or not at all."""

from __future__ import annotations

from pathlib import Path

from rltune.nouns.errors import InputError
from rltune.nouns.leftovers import whole_file


def write_whole(path: Path, text: str) -> None:
    """Write a file that is complete once it has its name; InputError where the disk refuses."""
    try:
        with whole_file(path) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another file") from None
