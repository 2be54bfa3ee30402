"""The queue of waiting jobs, always in order: putting in, taking out, sorting where keys move.

Reads ``jobs.cls``, ranks and keys; writes ``queue, merged, waiting, misfit, key`` and the counters of the queue, and the line of
waiting jobs (``before, behind, since``) of the full build.
"""

from __future__ import annotations

from rltune.compiled import inner, kernel
from rltune.core.priorities import key_of, keys_move, precedes
from rltune.core.state import LONGEST, NEWEST, NOW, PASSES, QUEUED

MOVES_LITTLE = 16
"""Steps a job that an insertion sort may take before the queue is merged instead."""


@inner
def enqueue(sim, job):
    """Put a job into the queue, at its place in the order; the place, among equals behind those before it."""
    sim.key[job] = key_of(sim, job)
    at = sim.counts[QUEUED]
    # Mostly a job goes behind all others, or near the end.
    if at > 0 and precedes(sim, job, sim.queue[at - 1]):
        # Else behind all that precede it: by halving, since the queue is in order.
        lo, hi = 0, at
        while lo < hi:
            mid = (lo + hi) >> 1
            if precedes(sim, job, sim.queue[mid]):
                hi = mid
            else:
                lo = mid + 1
        for i in range(at, lo, -1):
            sim.queue[i] = sim.queue[i - 1]
        at = lo
    sim.queue[at] = job
    sim.counts[QUEUED] += 1
    sim.waiting[sim.jobs.cls[job]] += 1
    return at


@inner
def join_line(sim, job):
    """A job begins to wait: the last in the line by since when jobs wait (full build)."""
    detail = sim.detail
    detail.since[job] = sim.clock[NOW]
    if sim.params.patience <= 0.0:
        return
    if detail.before[job] >= 0:
        leave_line(sim, job)
    last = sim.counts[NEWEST]
    detail.before[job], detail.behind[job] = last, 0
    if last > 0:
        detail.behind[last - 1] = job + 1
    else:
        sim.counts[LONGEST] = job + 1
    sim.counts[NEWEST] = job + 1


@inner
def leave_line(sim, job):
    """A job leaves the line."""
    detail = sim.detail
    first, last = detail.before[job], detail.behind[job]
    if first > 0:
        detail.behind[first - 1] = last
    else:
        sim.counts[LONGEST] = last
    if last > 0:
        detail.before[last - 1] = first
    else:
        sim.counts[NEWEST] = first
    detail.before[job] = detail.behind[job] = -1


@kernel
def remove_at(sim, position):
    """Take one job out of the queue."""
    sim.waiting[sim.jobs.cls[sim.queue[position]]] -= 1
    sim.counts[QUEUED] -= 1
    for i in range(position, sim.counts[QUEUED]):
        sim.queue[i] = sim.queue[i + 1]


@kernel
def position_of(sim, job):
    """Where a waiting job stands."""
    at = 0
    while sim.queue[at] != job:
        at += 1
    return at


@kernel
def sort_queue(sim):
    """Bring the queue into the order of this instant."""
    if keys_move(sim):
        sort_anew(sim)


@inner
def sort_anew(sim):
    """The same, with all keys worked out anew."""
    n = sim.counts[QUEUED]
    for k in range(n):
        sim.key[sim.queue[k]] = key_of(sim, sim.queue[k])
    sort_by_key(sim, sim.queue, n)


@inner
def sort_by_key(sim, jobs, n):
    """Bring ``jobs[:n]`` into the order of their keys; cheap when they nearly are."""
    budget = MOVES_LITTLE * n
    # Insertion sort; where it turns out long, what is left is merged, which bounds the cost by n log n.
    for k in range(1, n):
        job = jobs[k]
        at = k
        while at > 0 and precedes(sim, job, jobs[at - 1]):
            jobs[at] = jobs[at - 1]
            at -= 1
            budget -= 1
        jobs[at] = job
        if budget < 0:
            merge_sort(sim, jobs, n)
            return


@inner
def merge_sort(sim, jobs, n):
    """The same for any order: bottom-up merging through ``sim.merged``."""
    width = 1
    while width < n:
        for lo in range(0, n, 2 * width):
            # Two neighbouring runs, each in order; of equals those of the first go first (stable).
            mid, hi = min(lo + width, n), min(lo + 2 * width, n)
            i, j = lo, mid
            for k in range(lo, hi):
                if i < mid and (j >= hi or not precedes(sim, jobs[j], jobs[i])):
                    sim.merged[k] = jobs[i]
                    i += 1
                else:
                    sim.merged[k] = jobs[j]
                    j += 1
        for k in range(n):
            jobs[k] = sim.merged[k]
        width *= 2


# --- one pass over the queue ------------------------------------------------------------


@inner
def begin_pass(sim):
    """A new pass over the queue: how many queued jobs are of classes that may still fit."""
    sim.counts[PASSES] += 1
    return sim.counts[QUEUED]


@inner
def block_class(sim, job, row):
    """The class of ``job`` does not fit in this pass, nor will it: free capacity only shrinks."""
    sim.misfit[row, sim.jobs.cls[job]] = sim.counts[PASSES]


@inner
def class_blocked(sim, job, row):
    """Whether the class of ``job`` has been found not to fit in this pass; ``row``: PRESENT or BESIDE."""
    return sim.misfit[row, sim.jobs.cls[job]] == sim.counts[PASSES]


@inner
def close_gap(sim, kept, rest):
    """Move the queue's jobs from position ``rest`` on down to ``kept``; its length follows."""
    n = sim.counts[QUEUED]
    if kept < rest:
        for k in range(rest, n):
            sim.queue[kept + k - rest] = sim.queue[k]
    sim.counts[QUEUED] = n - (rest - kept)
