"""Where trace files lie."""

from __future__ import annotations

import os
from pathlib import Path

from rltune.nouns.errors import InputError

VARIABLE = "RLTUNE_TRACES"


class MissingTrace(InputError):
    """A known trace of which no file lies in the folder."""


def traces_folder(folder: str | Path | None = None) -> Path:
    """``folder``, else $RLTUNE_TRACES, else ``traces/`` here, else ``traces/`` of the checkout, where there is one.

    A folder that was named but does not exist is an InputError.
    """
    for origin, named in (("folder", folder), (VARIABLE, os.environ.get(VARIABLE) or None)):
        if named is not None:
            if not Path(named).is_dir():
                raise InputError(f"{origin}={named}: no such folder; make it or unset it")
            return Path(named)
    here, checkout = Path("traces"), Path(__file__).parents[2] / "traces"
    return checkout if checkout.is_dir() and not here.is_dir() else here


def find(folder: Path, candidates: tuple[str, ...]) -> Path | None:
    """The first of the relative paths that is a file in ``folder``."""
    return next((folder / name for name in candidates if (folder / name).is_file()), None)


def need(folder: Path, candidates: tuple[str, ...], name: str, remedy: str) -> Path:
    """The same, or MissingTrace with the remedy."""
    path = find(folder, candidates)
    if path is None:
        raise MissingTrace(f"trace {name}: none of {', '.join(candidates)} lies in {folder}; {remedy}")
    return path
