"""Compiled queue disciplines: who may start when the head of the queue does not fit.

blocking: nobody (RLTune's semantics, exactly: a head once picked stays the head until it has started).
strict: nobody, but who is the head is asked anew at every instant, so that a later job of higher priority
goes first (the simulators of Helios, SC 2021, and Lucid, ASPLOS 2023). skip: whoever fits, in order.
easy: whoever does not delay the head's reservation (EASY backfilling, Lifka,
JSSPP 1995), which counts nodes and not only GPUs.
"""

from __future__ import annotations

import numpy as np

from rltune.allocators.placement import book, copy_space, free_gpus, recount, set_free
from rltune.compiled import inner, kernel
from rltune.policies.dynamic import STATIC, dynamic_key
from rltune.simulator.events import (
    advance,
    drop_at,
    find_job,
    job_fits,
    remove_at,
    reset,
    start_job,
    step_single_event,
)
from rltune.simulator.heap import next_in_order
from rltune.simulator.state import PASSES, QUEUED, RUNNING

NOW, BESIDE = 0, 1
"""Rows of ``Sim.misfit``."""

BLOCKING = 0
SKIP = 1
EASY = 2
STRICT = 3
DISCIPLINES = {"blocking": BLOCKING, "skip": SKIP, "easy": EASY}
"""What policies are trained and judged under."""
SIMULATED = DISCIPLINES | {"strict": STRICT}
"""What `rltune.simulate` knows besides: an anchor to published results."""


@inner
def sort_queue(sim, order):
    """Bring the queue into a time-dependent order, ties by submission; cheap when it is nearly sorted already."""
    n = sim.counts[QUEUED]
    now = sim.clock[0]
    for i in range(n):
        job = sim.queue[i]
        key = dynamic_key(order, now - sim.jobs.submit[job], sim.jobs.known[job], sim.jobs.gpus[job])
        sim.key[job] = key
        at = i
        while at > 0:
            before = sim.queue[at - 1]
            # Equal keys: first come, first served, whatever the order at an earlier instant was.
            if sim.key[before] < key or (sim.key[before] == key and before < job):
                break
            sim.queue[at] = before
            at -= 1
        sim.queue[at] = job


@kernel
def run_to_end(sim, order, discipline, rule):
    """Simulate all jobs. ``order``: STATIC (by rank) or the code of a time-dependent key."""
    reset(sim)
    if discipline == BLOCKING:
        _run_blocking(sim, order, rule)
        return
    while advance(sim):
        if sim.counts[QUEUED] > 0:
            if order != STATIC:
                sort_queue(sim, order)
            if discipline == SKIP:
                start_what_fits(sim, rule)
            elif discipline == STRICT:
                start_in_order(sim, rule)
            else:
                start_easy(sim, rule)


@inner
def _run_blocking(sim, order, rule):
    """The reference protocol's loop: due arrivals come in only while a job blocks or the queue is empty."""
    while True:
        while sim.counts[QUEUED] == 0:
            if not step_single_event(sim):
                return
        if order != STATIC:
            sort_queue(sim, order)
        start_when_it_fits(sim, sim.queue[0], rule)


@inner
def start_when_it_fits(sim, job, rule):
    """Advance event by event until ``job`` of the queue fits, and start it; False if it never can."""
    m = find_job(sim, sim.space, job, rule)
    while m == 0:
        if sim.counts[RUNNING] == 0 or not step_single_event(sim):
            drop_at(sim, position_of(sim, job))
            return False
        m = find_job(sim, sim.space, job, rule)
    start_job(sim, job, m)
    remove_at(sim, position_of(sim, job))
    return True


@kernel
def position_of(sim, job):
    at = 0
    while sim.queue[at] != job:
        at += 1
    return at


@inner
def begin_pass(sim):
    """A new pass over the queue: how many queued jobs are of classes that may still fit."""
    sim.counts[PASSES] += 1
    return sim.counts[QUEUED]


@inner
def drop_class(sim, job, row):
    """The class of ``job`` does not fit in this pass, nor will it: free capacity only shrinks."""
    sim.misfit[row, sim.jobs.cls[job]] = sim.counts[PASSES]


@inner
def has_misfitted(sim, job, row):
    return sim.misfit[row, sim.jobs.cls[job]] == sim.counts[PASSES]


@inner
def close_gap(sim, kept, rest):
    """Move the queue's jobs from position ``rest`` on down to ``kept``; its length follows."""
    n = sim.counts[QUEUED]
    if kept < rest:
        for k in range(rest, n):
            sim.queue[kept + k - rest] = sim.queue[k]
    sim.counts[QUEUED] = n - (rest - kept)


@inner
def start_what_fits(sim, rule):
    """One pass over the queue in order, starting every job that fits."""
    left = begin_pass(sim)
    free = free_gpus(sim.space)
    kept, i = 0, 0
    # Ends with the last job of a class that still fits, not with the queue.
    while left > 0 and free > 0:
        job = sim.queue[i]
        i += 1
        if not has_misfitted(sim, job, NOW):
            c = sim.jobs.cls[job]
            m = 0
            if sim.jobs.gpus[job] <= free and job_fits(sim, job):
                m = find_job(sim, sim.space, job, rule)
            if m > 0:
                start_job(sim, job, m)
                free -= sim.jobs.gpus[job]
                sim.waiting[c] -= 1
                left -= 1
                continue
            drop_class(sim, job, NOW)
            left -= sim.waiting[c]
        sim.queue[kept] = job
        kept += 1
    close_gap(sim, kept, i)


@inner
def start_in_order(sim, rule):
    """Start jobs in order up to the first that does not fit."""
    n = sim.counts[QUEUED]
    at = 0
    while at < n:
        m = find_job(sim, sim.space, sim.queue[at], rule)
        if m == 0:
            break
        start_job(sim, sim.queue[at], m)
        at += 1
    if at > 0:
        for i in range(at, n):
            sim.queue[i - at] = sim.queue[i]
        sim.counts[QUEUED] = n - at


@inner
def start_easy(sim, rule):
    """Start in order until one job does not fit; reserve for it; backfill the rest around the reservation."""
    left = begin_pass(sim)
    i = 0
    while i < sim.counts[QUEUED]:
        job = sim.queue[i]
        m = find_job(sim, sim.space, job, rule)
        if m == 0:
            break
        start_job(sim, job, m)
        sim.waiting[sim.jobs.cls[job]] -= 1
        left -= 1
        i += 1
    kept, head, shadow, reserved = 0, -1, np.inf, False
    if left > 0:
        head = sim.queue[i]
        drop_class(sim, head, NOW)
        left -= sim.waiting[sim.jobs.cls[head]]
        sim.queue[0] = head
        sim.passed[:] = 0
        kept, i = 1, i + 1
    while left > 0:
        job = sim.queue[i]
        i += 1
        if not has_misfitted(sim, job, NOW):
            c = sim.jobs.cls[job]
            if not job_fits(sim, job):
                drop_class(sim, job, NOW)
                left -= sim.waiting[c] - sim.passed[c]
            else:
                if not reserved:
                    # Only now: where nothing else fits, no reservation is needed.
                    shadow = reserve(sim, head, rule)
                    set_shadow(sim)
                    reserved = True
                left -= 1
                m = find_backfill(sim, job, shadow, rule)
                if m > 0:
                    start_beside(sim, job, m, shadow)
                    sim.waiting[c] -= 1
                    continue
                sim.passed[c] += 1
        sim.queue[kept] = job
        kept += 1
    close_gap(sim, kept, i)


@inner
def start_beside(sim, job, m, shadow):
    """Start a backfilled job; one that outlasts the shadow time takes from what the reservation leaves."""
    if sim.clock[0] + sim.jobs.known[job] > shadow:
        book(sim.cluster, sim.spare, sim.work.node, sim.work.gpus, 0, m, -1)
    start_job(sim, job, m)
    for k in range(m):
        node = sim.work.node[k]
        set_free(sim.cluster, sim.shadow, node, min(sim.space.free[node], sim.spare.free[node]))


@kernel
def reserve(sim, head, rule):
    """When ``head`` will fit by the expected ends; ``sim.spare`` is what it leaves free then.

    Returns the shadow time; infinity (nothing reserved) if the head cannot run
    even on the idle cluster.
    """
    copy_space(sim.space, sim.spare)
    running, now = sim.counts[RUNNING], sim.clock[0]
    sim.frontier[0] = 0
    size = min(running, 1)
    while size > 0:
        at, size = next_in_order(sim.expected, running, sim.believed, sim.turn, sim.frontier, size)
        shadow = max(sim.believed[sim.expected[at]], now)
        give_back(sim, sim.expected[at])
        # All that is expected to have ended by then, also what outlives its estimate.
        while size > 0 and max(sim.believed[sim.expected[sim.frontier[0]]], now) <= shadow:
            at, size = next_in_order(sim.expected, running, sim.believed, sim.turn, sim.frontier, size)
            give_back(sim, sim.expected[at])
        m = find_job(sim, sim.spare, head, rule)
        if m > 0:
            book(sim.cluster, sim.spare, sim.work.node, sim.work.gpus, 0, m, -1)
            return shadow
    return np.inf


@inner
def give_back(sim, job):
    """Free a running job's GPUs in the spare capacity."""
    book(sim.cluster, sim.spare, sim.alloc_node, sim.alloc_gpus, sim.jobs.part[job], sim.alloc_len[job], 1)


@inner
def set_shadow(sim):
    """``sim.shadow``: what is free now and beside the reservation."""
    for i in range(len(sim.shadow.free)):
        sim.shadow.free[i] = min(sim.space.free[i], sim.spare.free[i])
    recount(sim.cluster, sim.shadow)


@inner
def find_backfill(sim, job, shadow, rule):
    """A placement for ``job`` now that does not delay the reservation: number of nodes, 0 if none.

    A job expected to end by the shadow time may use any free GPU, a longer one
    only what is free now and spare then.
    """
    if sim.clock[0] + sim.jobs.known[job] <= shadow:
        return find_job(sim, sim.space, job, rule)
    if has_misfitted(sim, job, BESIDE):
        return 0
    m = find_job(sim, sim.shadow, job, rule)
    if m == 0:
        drop_class(sim, job, BESIDE)
    return m
