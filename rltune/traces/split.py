"""Cut a trace into the stretches an experiment trains, validates and tests on."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

from rltune.nouns.errors import InputError
from rltune.traces.trace import Trace


def split(trace: Trace, bounds: Sequence[Any]) -> Trace:
    """The half-open stretch ``[begin, end)`` of a trace.

    ``bounds``: two ISO dates (submit time), two integers (job index), or two
    fractions of the jobs of which at least one is a float (0.0 to 1.0).
    """
    if isinstance(bounds, str) or len(bounds) != 2:
        raise InputError(f"trace {trace.name}: bounds {bounds!r} are not a pair; {_ACCEPTED}")
    begin, end = bounds
    if all(isinstance(bound, str | date) for bound in (begin, end)):
        return trace.between(begin, end)
    if any(isinstance(bound, bool) or not isinstance(bound, int | float) for bound in (begin, end)):
        raise InputError(f"trace {trace.name}: bounds {begin!r}, {end!r} are of no known kind; {_ACCEPTED}")
    jobs = len(trace)
    if isinstance(begin, float) or isinstance(end, float):
        if not 0 <= begin < end <= 1:
            raise InputError(f"trace {trace.name}: fractions {begin}, {end} do not rise within 0.0 to 1.0")
        begin, end = round(begin * jobs), round(end * jobs)
    if not 0 <= begin < end <= jobs:
        raise InputError(f"trace {trace.name}: jobs [{begin}, {end}) do not lie within its [0, {jobs})")
    return trace.take(slice(begin, end))


_ACCEPTED = "use dates ['2020-04-01', '2020-08-01'], job indices [0, 9000] or fractions [0.0, 0.6]"
