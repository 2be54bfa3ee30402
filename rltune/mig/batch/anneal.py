"""Simulated annealing over which task is in which box, in steps of about a microsecond.

A step moves one task to another box or exchanges two, and computes the schedule of the GPUs it touches anew,
reconfigurations included. Worse plans are accepted with the probability of Metropolis; the threshold is drawn before the
schedule is computed, so that most bad steps end at a lower bound (`rltune.mig.batch.timetable.span_of`).

The objective is the makespan and, weighed by ``thrift``, the mean time that tasks hold a memory slice: the makespan alone
does not see that a plan wastes slices beside its longest path, and such waste has to go before the makespan can fall.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rltune.compiled import inner, kernel
from rltune.mig.batch.boxes import Boxes, Floats, Ints
from rltune.mig.batch.timetable import LONGEST_TAIL, span_of

MEAN_WEIGHT = 0.1
"""Of the mean span of the GPUs beside the largest: GPUs that end early should keep room, or the largest cannot shrink."""
EXCHANGES = 0.3
"""Share of steps that exchange two tasks."""


class Moving(NamedTuple):
    """A plan under change. (n_tasks,) ``where``, its best ``best``; (n_boxes,) ``load`` s, ``held`` tasks; (n_gpus,) ``span`` s.

    (n_tasks, n_boxes) ``fit``: boxes that each task can run in, the first ``fits`` of each row; ``value``: objective of the
    plan, makespan of the best; ``random``: state of the generator.
    """

    where: Ints
    best: Ints
    load: Floats
    held: Ints
    span: Floats
    fit: Ints
    fits: Ints
    value: Floats
    random: npt.NDArray[np.uint64]


def moving_of(times: Floats, boxes: Boxes, seed: int) -> Moving:
    """Arrays for `anneal`; `set_plan` puts a plan in."""
    can = np.isfinite(times[:, boxes.column])
    fits = can.sum(1)
    # Boxes a task can run in, moved to the front of its row.
    fit = np.argsort(~can, axis=1, kind="stable").astype(np.int64)
    n, gpus = len(times), len(boxes.clock)
    where, best = np.zeros((2, n), np.int64)
    random = np.array([np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] | np.uint64(1)], np.uint64)
    load, count = np.zeros(boxes.n), np.zeros(boxes.n, np.int64)
    return Moving(where, best, load, count, np.zeros(gpus), fit, fits.astype(np.int64), np.zeros(2), random)


@inner
def _random(moving):
    """Uniform in (0, 1]: xorshift64* (Vigna 2016)."""
    x = moving.random[0]
    x ^= x >> np.uint64(12)
    x ^= x << np.uint64(25)
    x ^= x >> np.uint64(27)
    moving.random[0] = x
    return (np.float64((x * np.uint64(2685821657736338717)) >> np.uint64(11)) + 1.0) / 9007199254740992.0


@inner
def _below(n, moving):
    """Uniform integer in [0, n)."""
    return min(int(_random(moving) * n), n - 1)


@inner
def _objective(moving, a, span_a, b, span_b):
    """Largest span and a little of the mean, with the spans of GPUs ``a`` and ``b`` replaced."""
    largest, total = max(span_a, span_b), 0.0
    for g in range(len(moving.span)):
        s = span_a if g == a else span_b if g == b else moving.span[g]
        total += s
        largest = max(largest, s)
    return largest + MEAN_WEIGHT * total / len(moving.span) if len(moving.span) > 1 else largest


@inner
def _held(times, boxes, moving, task, box):
    """Mean seconds for which a task in a box holds a slice of a GPU."""
    return times[task, boxes.column[box]] * boxes.share[box]


@inner
def _put(task, box, times, boxes, moving):
    """Move a task in the loads."""
    old = moving.where[task]
    moving.load[old] -= times[task, boxes.column[old]]
    moving.held[old] -= 1
    if moving.held[old] == 0:
        # Differences of floats would add up over many steps.
        moving.load[old] = 0.0
    moving.load[box] += times[task, boxes.column[box]]
    moving.held[box] += 1
    moving.where[task] = box


@inner
def _evaluate(threshold, a, b, boxes, moving, work):
    """(objective, span of a, span of b) after a change that touched GPUs ``a`` and ``b``; beyond the threshold a bound."""
    span_a = span_of(a, boxes, moving.load, moving.held, LONGEST_TAIL, threshold, work)
    if b == a or span_a > threshold:
        return _objective(moving, a, span_a, a, span_a), span_a, span_a
    span_b = span_of(b, boxes, moving.load, moving.held, LONGEST_TAIL, threshold, work)
    return _objective(moving, a, span_a, b, span_b), span_a, span_b


@kernel
def set_plan(plan, times, boxes, moving, work):
    """Begin from (n_tasks,) boxes; returns the makespan."""
    for b in range(len(boxes.gpu)):
        moving.load[b] = 0.0
        moving.held[b] = 0
    for t in range(len(plan)):
        moving.where[t] = plan[t]
        moving.load[plan[t]] += times[t, boxes.column[plan[t]]]
        moving.held[plan[t]] += 1
    largest = 0.0
    for g in range(len(boxes.clock)):
        moving.span[g] = span_of(g, boxes, moving.load, moving.held, LONGEST_TAIL, np.inf, work)
        largest = max(largest, moving.span[g])
    moving.value[0] = _objective(moving, 0, moving.span[0], 0, moving.span[0])
    return largest


@kernel
def keep_as_best(moving, makespan):
    """The present plan is the best so far."""
    moving.value[1] = makespan
    for t in range(len(moving.where)):
        moving.best[t] = moving.where[t]


@inner
def _keep_if_better(moving):
    largest = 0.0
    for g in range(len(moving.span)):
        largest = max(largest, moving.span[g])
    if largest < moving.value[1] - 1e-9:
        moving.value[1] = largest
        for k in range(len(moving.where)):
            moving.best[k] = moving.where[k]


@kernel
def anneal(steps, hot, cold, thrift, times, boxes, moving, work):
    """``steps`` steps while the temperature (s) falls from ``hot`` to ``cold``, geometrically; how many were accepted.

    ``thrift`` (1): weight of the mean seconds for which a slice is held, beside the makespan.
    """
    n, accepted = len(moving.where), 0
    temperature, cooling = hot, (cold / hot) ** (1.0 / steps)
    for _ in range(steps):
        temperature *= cooling
        t = _below(n, moving)
        old = moving.where[t]
        u = -1
        if n > 1 and _random(moving) < EXCHANGES:
            u = _below(n, moving)
            new = moving.where[u]
            if not np.isfinite(times[t, boxes.column[new]] + times[u, boxes.column[old]]):
                continue
        else:
            new = moving.fit[t, _below(moving.fits[t], moving)]
        if new == old:
            continue
        held = _held(times, boxes, moving, t, new) - _held(times, boxes, moving, t, old)
        if u >= 0:
            held += _held(times, boxes, moving, u, old) - _held(times, boxes, moving, u, new)
        threshold = moving.value[0] - temperature * np.log(_random(moving)) - thrift * held
        _put(t, new, times, boxes, moving)
        if u >= 0:
            _put(u, old, times, boxes, moving)
        a, b = boxes.gpu[old], boxes.gpu[new]
        value, span_a, span_b = _evaluate(threshold, a, b, boxes, moving, work)
        if value > threshold:
            _put(t, old, times, boxes, moving)
            if u >= 0:
                _put(u, new, times, boxes, moving)
            continue
        accepted += 1
        moving.span[a], moving.span[b], moving.value[0] = span_a, span_b, value
        _keep_if_better(moving)
    return accepted
