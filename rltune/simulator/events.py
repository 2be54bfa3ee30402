"""Compiled events: arrivals, starts, completions, and the queue and heaps they keep.

Time is in seconds. Completions of an instant come before its arrivals, jobs of
the same instant in the order of the table: the same input gives the same schedule.
"""

from __future__ import annotations

import numpy as np

from rltune.allocators.placement import book, clear, find, fits
from rltune.compiled import inner, kernel
from rltune.simulator.heap import push, remove
from rltune.simulator.state import ARRIVED, DROPPED, EVENTS, QUEUED, RUNNING, STARTED


@kernel
def reset(sim):
    """Back to an idle cluster with nothing arrived; the clock at the first submission."""
    clear(sim.cluster, sim.space)
    sim.start[:] = np.nan
    sim.end[:] = np.nan
    sim.alloc_len[:] = 0
    sim.waiting[:] = 0
    sim.misfit[:] = 0
    sim.counts[:] = 0
    sim.clock[0] = sim.jobs.submit[0]


@inner
def job_fits(sim, job):
    c = sim.jobs.cls[job]
    return fits(sim.cluster, sim.space, sim.jobs.gpus[job], sim.pools.pool, sim.pools.ptr[c], sim.pools.ptr[c + 1])


@inner
def find_job(sim, space, job, rule):
    """Placement of ``job`` in ``space`` into ``sim.work``: number of nodes, 0 if it does not fit."""
    c = sim.jobs.cls[job]
    lo, hi = sim.pools.ptr[c], sim.pools.ptr[c + 1]
    return find(sim.cluster, space, sim.jobs.gpus[job], sim.pools.pool, lo, hi, rule, sim.work)


@kernel
def start_job(sim, job, m):
    """Start ``job`` now on the m nodes in ``sim.work``; the caller takes it out of the queue."""
    base = sim.jobs.part[job]
    for i in range(m):
        sim.alloc_node[base + i] = sim.work.node[i]
        sim.alloc_gpus[base + i] = sim.work.gpus[i]
    sim.alloc_len[job] = m
    book(sim.cluster, sim.space, sim.work.node, sim.work.gpus, 0, m, -1)
    sim.start[job] = sim.clock[0]
    sim.end[job] = sim.clock[0] + sim.jobs.run[job]
    believed = sim.clock[0] + sim.jobs.known[job]
    # A heap must compare: unknown ends come last.
    sim.believed[job] = np.inf if np.isnan(believed) else believed
    sim.turn[job] = sim.counts[STARTED]
    running = sim.counts[RUNNING]
    push(sim.active, sim.active_at, running, sim.end, sim.turn, job)
    push(sim.expected, sim.expected_at, running, sim.believed, sim.turn, job)
    sim.counts[RUNNING] += 1
    sim.counts[STARTED] += 1


@inner
def complete_next(sim):
    """End the job that ends first."""
    running = sim.counts[RUNNING]
    job = sim.active[0]
    remove(sim.active, sim.active_at, running, sim.end, sim.turn, job)
    remove(sim.expected, sim.expected_at, running, sim.believed, sim.turn, job)
    sim.counts[RUNNING] = running - 1
    book(sim.cluster, sim.space, sim.alloc_node, sim.alloc_gpus, sim.jobs.part[job], sim.alloc_len[job], 1)


@inner
def precedes(sim, a, b):
    """Whether job a goes before job b in the static order."""
    return sim.jobs.rank[a] < sim.jobs.rank[b]


@inner
def arrive_next(sim):
    """Put the next job of the table into the queue, at its place in the static order."""
    job = sim.counts[ARRIVED]
    sim.counts[ARRIVED] += 1
    at = sim.counts[QUEUED]
    if at > 0 and precedes(sim, job, sim.queue[at - 1]):
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


@kernel
def remove_at(sim, position):
    """Take one job out of the queue."""
    sim.waiting[sim.jobs.cls[sim.queue[position]]] -= 1
    sim.counts[QUEUED] -= 1
    for i in range(position, sim.counts[QUEUED]):
        sim.queue[i] = sim.queue[i + 1]


@inner
def next_completion(sim):
    return sim.end[sim.active[0]] if sim.counts[RUNNING] > 0 else np.inf


@inner
def next_arrival(sim):
    """Submission of the next job, not before now; infinity when all have arrived."""
    job = sim.counts[ARRIVED]
    if job == len(sim.jobs.submit):
        return np.inf
    return max(sim.jobs.submit[job], sim.clock[0])


@inner
def next_event(sim):
    return min(next_completion(sim), next_arrival(sim))


@kernel
def advance(sim):
    """Go to the next instant with an event and take in all its events; False when none is left."""
    instant = next_event(sim)
    if instant == np.inf:
        return False
    sim.clock[0] = instant
    while next_completion(sim) <= instant:
        complete_next(sim)
        sim.counts[EVENTS] += 1
    while next_arrival(sim) <= instant:
        if can_ever_run(sim, sim.counts[ARRIVED]):
            arrive_next(sim)
        else:
            sim.counts[ARRIVED] += 1
            sim.counts[DROPPED] += 1
        sim.counts[EVENTS] += 1
    return True


@inner
def can_ever_run(sim, job):
    """Whether some idle pool could hold the job."""
    c = sim.jobs.cls[job]
    return sim.pools.ptr[c] < sim.pools.ptr[c + 1]


@kernel
def step_single_event(sim):
    """RLTune's clock: one event, an arrival before a completion of the same instant; False when none is left."""
    arrival, completion = next_arrival(sim), next_completion(sim)
    if arrival == np.inf and completion == np.inf:
        return False
    sim.counts[EVENTS] += 1
    if arrival <= completion:
        sim.clock[0] = arrival
        arrive_next(sim)
    else:
        sim.clock[0] = max(completion, sim.clock[0])
        complete_next(sim)
    return True


@kernel
def drop_at(sim, position):
    """A job that no idle pool could hold leaves the queue; it is counted and stays without a start."""
    remove_at(sim, position)
    sim.counts[DROPPED] += 1
