"""Priorities that put jobs in an order, with as few changes as possible."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence

STEP = 1_000
"""Between neighbours of an order that is numbered anew: so many arrivals find room between them."""
ROOM = 1_000
"""Steps below the last job of a new numbering, for arrivals that stand last."""
HIGHEST = 4_000_000_000
"""Of Slurm's priorities, which are 32 bits; the last ones have meanings of their own."""


def renumbered(order: Sequence[str], present: Mapping[str, int], floor: int) -> dict[str, int]:
    """New priorities of those jobs that need one; jobs of ``order``, first to start first, then have falling priorities.

    Args:
        present: priorities that jobs have of us.
        floor: all are above it.

    The most jobs that stand in order already keep theirs; the others get numbers between them. Where there is no room, all are
    numbered anew.
    """
    kept = _longest_falling([(job, present[job]) for job in order if present.get(job, floor) > floor])
    changes: dict[str, int] = {}
    run: list[str] = []
    above = HIGHEST
    for job in [*order, None]:
        if job is not None and job not in kept:
            run.append(job)
            continue
        below = floor if job is None else present[job]
        if run:
            found = _between(above, below, len(run), first=above == HIGHEST, last=job is None)
            if found is None:
                return _anew(order, present, floor)
            changes |= dict(zip(run, found, strict=True))
            run = []
        above = below
    return changes


def _between(above: int, below: int, n: int, first: bool, last: bool) -> list[int] | None:
    """n falling numbers between two; at an open end, a step apart. None: no room."""
    if first and last:
        return None
    if first:
        return [below + STEP * k for k in range(n, 0, -1)] if below + STEP * n < HIGHEST else None
    step = (above - below) // (n + 1)
    step = min(STEP, step) if last else step
    return [above - step * k for k in range(1, n + 1)] if step >= 1 else None


def _anew(order: Sequence[str], present: Mapping[str, int], floor: int) -> dict[str, int]:
    n = len(order)
    step = max(1, min(STEP, (HIGHEST - floor) // (2 * n + 1)))
    room = min(ROOM * step, (HIGHEST - floor) // 2)
    numbers = {job: floor + room + step * (n - k) for k, job in enumerate(order)}
    return {job: number for job, number in numbers.items() if present.get(job) != number}


def _longest_falling(pairs: Sequence[tuple[str, int]]) -> set[str]:
    """Jobs of a longest strictly falling subsequence (patience sorting)."""
    tops: list[int] = []
    at: list[int] = []
    before: list[int] = []
    for k, (_, number) in enumerate(pairs):
        where = bisect_left(tops, -number)
        before.append(at[where - 1] if where else -1)
        if where == len(tops):
            tops.append(-number)
            at.append(k)
        else:
            tops[where], at[where] = -number, k
    found, k = set(), at[-1] if at else -1
    while k >= 0:
        found.add(pairs[k][0])
        k = before[k]
    return found
