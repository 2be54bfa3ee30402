"""A job's run: how long it takes where it is placed, how it begins, and what its end leaves.

Lean: a run lasts the job's run time and ends by itself. Full: unlike speeds, overheads of resumed jobs, failures with and
without checkpoints, accounts of attained service, and a log of runs.
"""

from __future__ import annotations

import numpy as np

from rltune.compiled import inner, kernel, verb
from rltune.core.heap import next_in_order, push, remove
from rltune.core.prices import learn_speed
from rltune.core.priorities import charge, size_of
from rltune.core.queue import enqueue, join_line
from rltune.core.repartition import set_up, set_up_s
from rltune.core.resources.verbs import book_held, find, fits, hold_found, way_held
from rltune.core.rng import JOB_FAILURE as FAILING
from rltune.core.rng import exponential
from rltune.core.state import (
    ABANDONED,
    DONE,
    FINISHED,
    GIVEN_UP,
    HELD,
    JOB_FAILURE,
    LOGGED,
    NOW,
    ON_GPUS,
    RUNNING,
    STARTED,
    SUSPENDED,
    WAITING,
    is_full,
    is_lean,
)
from rltune.policies.attained import job_ended
from rltune.policies.learn import learn

# --- beginning --------------------------------------------------------------------------


@kernel
def start_job(sim, job, m):
    """``job`` begins to hold the m places in ``sim.place`` now; the caller takes it out of the queue."""
    overhead = overhead_at(sim, job, m)
    set_up(sim, m)
    hold_found(sim, job, m)
    book_held(sim, sim.space, job, -1)
    time_run(sim, job, overhead)
    sim.turn[job] = sim.counts[STARTED]
    running = sim.counts[RUNNING]
    push(sim.active, sim.active_at, running, sim.end, sim.turn, job)
    push(sim.expected, sim.expected_at, running, sim.believed, sim.turn, job)
    sim.counts[RUNNING] += 1
    sim.counts[STARTED] += 1


@verb
def overhead_at(sim, job, m):
    """Seconds without progress if ``job`` begins now on the m places in ``sim.place``.

    Reconfiguring MIG, and on later runs what suspending, resuming and moving it take, one after the other.
    """


@overhead_at.when(is_lean)
def _overhead_at_lean(sim, job, m):
    return 0.0


@overhead_at.when(is_full)
def _overhead_at_full(sim, job, m):
    setting_up = set_up_s(sim, m)
    if sim.detail.runs[job] == 0:
        return setting_up
    moved, found = sim.alloc_len[job] != m, sim.place.found
    for i in range(m):
        moved = moved or sim.alloc_node[sim.jobs.part[job] + i] != found.node[i]
    return setting_up + sim.params.suspend + sim.params.resume + (sim.params.migrate if moved else 0.0)


@verb
def time_run(sim, job, overhead):
    """Set when the run that begins now will end, and when the scheduler believes it will; open its accounts."""


@time_run.when(is_lean)
def _time_run_lean(sim, job, overhead):
    now = sim.clock[NOW]
    sim.start[job] = now
    sim.end[job] = now + sim.jobs.run[job]
    believed = now + sim.jobs.known[job]
    # A heap must compare: unknown ends come last.
    sim.believed[job] = np.inf if np.isnan(believed) else believed


@time_run.when(is_full)
def _time_run_full(sim, job, overhead):
    now, detail, params = sim.clock[NOW], sim.detail, sim.params
    rate = sim.choices.rate[detail.way[job]]
    detail.status[job], detail.rate[job] = ON_GPUS, rate
    detail.since[job], detail.ready[job] = now, now + overhead
    # What is left of the job's own run time, at this speed, after restoring.
    sim.end[job] = detail.ready[job] + (sim.jobs.run[job] - detail.done[job]) / rate
    believed = detail.ready[job] + (sim.jobs.known[job] - detail.done[job]) / sim.choices.guess[detail.way[job]]
    sim.believed[job] = np.inf if np.isnan(believed) else believed
    # The run may fail before: drawn anew for each run, by its GPUs.
    detail.fails[job] = 0
    size = size_of(sim, job)
    if params.gpu_mtbf < np.inf and size > 0:
        failure = now + exponential(params.seed, FAILING, job, detail.runs[job], params.gpu_mtbf / size)
        if failure < sim.end[job]:
            sim.end[job], detail.fails[job] = failure, 1
    if detail.runs[job] == 0:
        sim.start[job] = now
    detail.runs[job] += 1
    charge(sim, job, 1.0)
    sim.counts[HELD] += sim.alloc_len[job]


# --- what a waiting job is believed to need ----------------------------------------------


@verb
def find_ending_by(sim, job, instant):
    """Places now for a job expected to end by ``instant``: how many; 0: it ends later; -1: it does not fit."""


@find_ending_by.when(is_lean)
def _find_ending_by_lean(sim, job, instant):
    # Speed does not depend on the place, so a job that ends later need not be placed; that it fits is known.
    if sim.clock[NOW] + sim.jobs.known[job] > instant:
        return 0
    return find(sim, sim.space, job)


@find_ending_by.when(is_full)
def _find_ending_by_full(sim, job, instant):
    # Where it cannot end in time even in its fastest way, it need not be placed, as most in a long queue.
    if sim.clock[NOW] + least_run(sim, job) > instant:
        return 0
    m = find(sim, sim.space, job)
    if m == 0:
        return -1
    return 0 if sim.clock[NOW] + expected_run(sim, job, m) > instant else m


@verb
def fits_ending_by(sim, job, instant):
    """Whether a job fits now, and where it is expected to end by ``instant``; else, whether it fits in ``sim.shadow``."""


@fits_ending_by.when(is_lean)
def _fits_ending_by_lean(sim, job, instant):
    if sim.clock[NOW] + sim.jobs.known[job] <= instant:
        return fits(sim, sim.space, job)
    return fits(sim, sim.shadow, job)


@fits_ending_by.when(is_full)
def _fits_ending_by_full(sim, job, instant):
    m = find_ending_by(sim, job, instant)
    return m > 0 or (m == 0 and fits(sim, sim.shadow, job))


@inner
def expected_run(sim, job, m):
    """Seconds for which a waiting job would hold the m places in ``sim.place``, as believed (full build)."""
    left = max(0.0, sim.jobs.known[job] - sim.detail.done[job])
    return left / sim.choices.guess[sim.place.way[0]] + overhead_at(sim, job, m)


@inner
def least_run(sim, job):
    """The same in the fastest of the ways of its class, without overheads: it holds no places for less."""
    choices, c, rate = sim.choices, sim.jobs.cls[job], 0.0
    for q in range(choices.ptr[c], choices.ptr[c + 1]):
        rate = max(rate, choices.guess[q])
    return max(0.0, sim.jobs.known[job] - sim.detail.done[job]) / rate


@inner
def list_by_expected_end(sim):
    """``detail.order[:n]``: running jobs, first expected end first; n (full build)."""
    running = sim.counts[RUNNING]
    sim.frontier[0] = 0
    size = min(running, 1)
    for k in range(running):
        at, size = next_in_order(sim.expected, running, sim.believed, sim.turn, sim.frontier, size)
        sim.detail.order[k] = sim.expected[at]
    return running


# --- ending -----------------------------------------------------------------------------


@inner
def release(sim, job):
    """``job`` lets its places go and leaves the heaps of running jobs."""
    running = sim.counts[RUNNING]
    remove(sim.active, sim.active_at, running, sim.end, sim.turn, job)
    remove(sim.expected, sim.expected_at, running, sim.believed, sim.turn, job)
    sim.counts[RUNNING] = running - 1
    book_held(sim, sim.space, job, 1)


@verb
def end_next(sim):
    """The run that ends first is over."""


@end_next.when(is_lean)
def _end_next_lean(sim):
    release(sim, sim.active[0])


@end_next.when(is_full)
def _end_next_full(sim):
    job = sim.active[0]
    stop_run(sim, job, JOB_FAILURE if sim.detail.fails[job] else FINISHED)


@inner
def stop_run(sim, job, outcome):
    """End the present run of ``job``: settle its accounts, what becomes of it, and write the run down (full build)."""
    now, detail = sim.clock[NOW], sim.detail
    release(sim, job)
    sim.counts[HELD] -= sim.alloc_len[job]
    charge(sim, job, -1.0)
    detail.service[job] += (now - detail.since[job]) * size_of(sim, job)
    detail.held[job] += now - detail.since[job]
    if sim.params.learns_speed:
        learn_speed(sim, job)
    useful = useful_of(sim, job, outcome)
    detail.done[job] += useful
    detail.status[job] = WAITING
    if outcome == FINISHED:
        detail.status[job], detail.final[job] = DONE, now
        if sim.params.learns:
            learn(detail.groups, detail.mean, job, sim.jobs.run[job])
        if sim.params.index_learns:
            job_ended(detail.attained, detail.attained.size[job], sim.jobs.run[job])
    elif outcome != SUSPENDED:
        detail.failures[job] += 1
        if detail.failures[job] > sim.params.retries:
            detail.status[job], outcome = ABANDONED, GIVEN_UP
    write_down(sim, job, now, useful, outcome)
    if detail.status[job] == WAITING:
        join_line(sim, job)
        enqueue(sim, job)


@inner
def withdraw(sim, job):
    """As if the run of ``job`` that has begun at this very instant had not, until `begin_elsewhere` (full build)."""
    detail = sim.detail
    release(sim, job)
    sim.counts[HELD] -= sim.alloc_len[job]
    charge(sim, job, -1.0)
    detail.status[job] = WAITING
    detail.runs[job] -= 1
    if detail.runs[job] == 0:
        sim.start[job] = np.nan
    else:
        recall_place(sim, job)


@inner
def begin_elsewhere(sim, job, m):
    """A run that was withdrawn begins on the m places in ``sim.place``, in its turn (full build)."""
    started = sim.counts[STARTED]
    sim.counts[STARTED] = sim.turn[job]
    start_job(sim, job, m)
    sim.counts[STARTED] = started


@inner
def recall_place(sim, job):
    """The job's places are those of its last run that has ended: to begin there again costs no migration."""
    log, at, base = sim.detail.log, sim.counts[LOGGED] - 1, sim.jobs.part[job]
    while log.job[at] != job:
        at -= 1
    m = log.ptr[at + 1] - log.ptr[at]
    for i in range(m):
        sim.alloc_node[base + i] = log.node[log.ptr[at] + i]
        sim.alloc_grant[base + i] = log.grant[log.ptr[at] + i]
    sim.alloc_len[job] = m


@inner
def useful_of(sim, job, outcome):
    """Seconds of its run time that the present run has done and that are kept."""
    detail, params = sim.detail, sim.params
    left = sim.jobs.run[job] - detail.done[job]
    if outcome == FINISHED:
        return left
    ran = sim.clock[NOW] - detail.ready[job]
    if outcome == SUSPENDED:
        return min(max(0.0, ran) * detail.rate[job], left)
    # What was not yet saved is lost; without checkpoints all since the last suspension.
    saved = 0.0 if params.checkpoint == np.inf else np.floor(ran / params.checkpoint)
    return min(saved * params.checkpoint * detail.rate[job], left) if saved > 0.0 else 0.0


@inner
def write_down(sim, job, now, useful, outcome):
    """Append the run to the log; the loop has seen to it that there is room."""
    log, at = sim.detail.log, sim.counts[LOGGED]
    base, m = sim.jobs.part[job], sim.alloc_len[job]
    log.job[at], log.start[at], log.end[at] = job, sim.detail.since[job], now
    log.useful[at], log.outcome[at], log.way[at] = useful, outcome, way_held(sim, job)
    begin = log.ptr[at]
    for i in range(m):
        log.node[begin + i] = sim.alloc_node[base + i]
        log.grant[begin + i] = sim.alloc_grant[base + i]
    log.ptr[at + 1] = begin + m
    sim.counts[LOGGED] = at + 1


@verb
def log_is_full(sim):
    """Whether all runs ending at one instant might find no room in the log."""


@log_is_full.when(is_lean)
def _log_is_full_lean(sim):
    return False


@log_is_full.when(is_full)
def _log_is_full_full(sim):
    log = sim.detail.log
    runs = sim.counts[LOGGED] + sim.counts[RUNNING] + 1
    places = log.ptr[sim.counts[LOGGED]] + sim.counts[HELD] + 1
    return runs > len(log.job) or places > len(log.node)
