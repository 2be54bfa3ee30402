"""What every trace is, and in which form it is available here."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path

from rltune.nouns.errors import InputError
from rltune.traces.folder import MissingTrace
from rltune.traces.load import GENERATED, TRACES, load_trace


@dataclass(frozen=True, slots=True)
class Entry:
    """One name: ``source`` as in ``Trace``, or "missing" or "unreadable"; ``jobs`` as counted on loading, or as drawn."""

    name: str
    source: str
    jobs: int | None
    what: str
    problem: str | None = None


def catalogue(folder: str | Path | None = None) -> list[Entry]:
    """Every name of ``TRACES``, loaded to see what is there unless it is generated."""
    return [_entry(name, folder) for name in TRACES]


def _entry(name: str, folder: str | Path | None) -> Entry:
    what = (inspect.getdoc(TRACES[name]) or "").partition("\n")[0]
    if name in GENERATED:
        return Entry(name, "calibrated", GENERATED[name], what)
    try:
        trace = load_trace(name, folder=folder)
    except MissingTrace as error:
        return Entry(name, "missing", None, what, str(error))
    except InputError as error:
        return Entry(name, "unreadable", None, what, str(error))
    return Entry(name, trace.source, len(trace), what)
