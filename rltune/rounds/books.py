"""Gavel's books: from shares of time to who runs in a round. Compiled.

Semantics: read from Gavel's code (stanford-futuredata/gavel, commit c4fa400; gangs as booked in May 2020, when the
published runs were made, or as later) and checked job by job against its recorded runs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rltune.compiled import compiled, inner
from rltune.rounds.clock import ACTIVE, CHANGED, NOW, RAN, step
from rltune.rounds.jobs import Floats, Ints, RoundJobs

RUN_OUT, DUE, OVER = range(3)


class Books(NamedTuple):
    """What decides priorities: (n, types) ``share``, ``time`` s run since the last allocation, ``deficit`` s; (n,) ``has`` an
    allocation; (types,) ``total`` s, ``workers``; ``last`` (1,): instant of the last allocation;
    scratch (n,): ``key``, ``heap``, ``where``.
    """

    share: Floats
    time: Floats
    deficit: Floats
    has: npt.NDArray[np.bool_]
    total: Floats
    workers: Ints
    last: Floats
    key: Floats
    heap: Ints
    where: Ints


class Rules(NamedTuple):
    """What the kernels need of `Published`, and ``half_s``: half a round, with which the books of a job begin."""

    fifo: bool
    each_gpu: bool
    reset_s: float
    half_s: float


def books_of(jobs: RoundJobs, workers: Ints, half_s: float) -> Books:
    """Empty books."""
    shape, n = jobs.rate.shape, len(jobs)
    return Books(
        np.zeros(shape), np.full(shape, half_s), np.zeros(shape), np.zeros(n, np.bool_), np.zeros(shape[1]),
        np.asarray(workers, np.int64), np.zeros(1), np.zeros(n), np.zeros(n, np.int64), np.full(n, -1),
    )  # fmt: skip


@compiled
def reset(clock, books, half_s):
    """Begin new books at an allocation: what each job is behind its share is carried over as its deficit."""
    n, since = clock.counts[ACTIVE], clock.time[NOW] - books.last[0]
    for kind in range(len(books.workers)):
        for a in range(n):
            job = clock.active[a]
            owed = books.share[job, kind] * since if books.has[job] else 0.0
            books.deficit[job, kind] += owed - (books.time[job, kind] - half_s)
            books.time[job, kind] = half_s
        books.total[kind] = half_s * n
    books.last[0] = clock.time[NOW]
    clock.counts[CHANGED] = 0


@compiled
def play(clock, books, terms, rules, orders, at, window):
    """Play rounds until an allocation is due, the window's jobs have ended, or the drawn type orders are used up.

    ``at``: (next row of ``orders``, first job of the window that may not have ended).
    """
    while True:
        while at[1] < window[1] and not np.isnan(clock.finish[at[1]]):
            at[1] += 1
        if at[1] == window[1] or clock.time[NOW] == np.inf:
            return OVER
        waited = clock.time[NOW] - books.last[0]
        if clock.counts[CHANGED] == 1 and (waited >= rules.reset_s or books.last[0] == 0.0):
            return DUE
        if at[0] == len(orders):
            return RUN_OUT
        choose(clock, books, rules, orders[at[0]])
        at[0] += 1
        step(clock, terms, books.where)
        book(clock, books, rules)


@inner
def choose(clock, books, rules, order):
    """Fill the types one after the other, the job furthest behind its share first; smaller ones pass those that do not fit."""
    n = clock.counts[ACTIVE]
    for a in range(n):
        books.where[clock.active[a]] = -1
    for kind in order:
        size = 0
        for a in range(n):
            job = clock.active[a]
            books.key[job] = priority(books, job, kind)
            waits = books.where[job] < 0 and clock.rate[job, kind] > 0.0
            if waits and (books.key[job] > 0.0 or not rules.fifo):
                books.heap[size] = job
                size += 1
        for top in range(size // 2 - 1, -1, -1):
            sink(books, kind, size, top)
        free = books.workers[kind]
        while size > 0 and free > 0:
            job = books.heap[0]
            size -= 1
            books.heap[0] = books.heap[size]
            sink(books, kind, size, 0)
            if clock.gpus[job] <= free:
                books.where[job] = kind
                free -= clock.gpus[job]
    for a in range(n):
        # A job without an allocation holds the GPUs it was given, but is not started.
        if not books.has[clock.active[a]]:
            books.where[clock.active[a]] = -1


@inner
def priority(books, job, kind):
    """Share over the share of time had so far; 0 without an allocation."""
    share = books.share[job, kind]
    if not books.has[job] or share == 0.0:
        return 0.0
    return share / (books.time[job, kind] / books.total[kind])


@inner
def ahead(books, kind, a, b):
    """Whether job a is looked at before job b on a type."""
    if books.key[a] != books.key[b]:
        return books.key[a] > books.key[b]
    if books.deficit[a, kind] != books.deficit[b, kind]:
        return books.deficit[a, kind] > books.deficit[b, kind]
    if books.share[a, kind] != books.share[b, kind]:
        return books.share[a, kind] > books.share[b, kind]
    return a < b


@inner
def sink(books, kind, size, at):
    """Move the job at index ``at`` of the heap down to where it belongs."""
    job = books.heap[at]
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and ahead(books, kind, books.heap[child + 1], books.heap[child]):
            child += 1
        if not ahead(books, kind, books.heap[child], job):
            break
        books.heap[at] = books.heap[child]
        at = child
    books.heap[at] = job


@inner
def book(clock, books, rules):
    """Add the last round's run times to the books, latest end first (the order of the sums)."""
    for r in range(clock.counts[RAN]):
        job = clock.ran[r]
        kind = clock.on[job]
        parts = clock.gpus[job] if rules.each_gpu else 1
        part = clock.took[job] / parts
        ended = not np.isnan(clock.finish[job])
        for k in range(parts):
            books.time[job, kind] += part
            # May 2020: of a job that ends, one GPU's part only is added to the total.
            if k == 0 or not ended:
                books.total[kind] += part
