"""Suspension: jobs that do not fit may take the place of running jobs that stand behind them in the order (full build).

A pass goes through waiting and running jobs in order. The queue is kept in order between events, and only the running
jobs are sorted anew, so that an event costs what runs and what the pass looks at, not what waits.
"""

from __future__ import annotations

import numpy as np

from rltune.compiled import inner, verb
from rltune.core.backfilling import start_what_fits
from rltune.core.priorities import LOTTERY, ROUND_ROBIN, clearly_ahead, has_waited_enough, key_of, progress
from rltune.core.queue import (
    begin_pass,
    block_class,
    class_blocked,
    leave_line,
    remove_at,
    sort_anew,
    sort_by_key,
    sort_queue,
)
from rltune.core.resources.verbs import book_held, copy_free, find, fits
from rltune.core.runs import start_job, stop_run
from rltune.core.state import (
    BESIDE,
    DISPLACE,
    LONGEST,
    NOW,
    ON_GPUS,
    PRESENT,
    QUEUED,
    ROUND,
    RUNNING,
    SUSPENDED,
    TAGS,
    TICKED,
    WAITING,
    is_full,
    is_lean,
)
from rltune.policies.attained import count_in, gather_ended, work_out_index

# Values of ``Detail.marked``: stays; tried for the job at hand; needed for it; spoken for (`rltune.simulator.suspending`).
STAYS, OFFERED, NEEDED, GONE = range(4)
ALIKE_GPUS = 4
"""Running jobs of up to so many GPUs, half the usual node, are alike to one that wants the place of one of them."""


@inner
def preempt(sim, may_suspend):
    """Start jobs in order; one that does not fit may suspend running jobs of clearly larger key.

    Of those, the last in order go first; one that proves not to be needed stays. With hysteresis (``displace`` other
    than 1) one that alone is enough goes before them, the narrowest: where one GPU is wanted, no gang is broken up.
    Jobs started at this very instant stay too. Wide jobs that fit nowhere do not hold up others: they can suspend
    later ones.
    """
    sort_queue(sim)
    left = begin_pass(sim)
    sim.passed[:] = 0
    running = sort_running(sim) if may_suspend else 0
    i, suspended = 0, False
    # Ends with the last job of a class that may still start, not with the queue.
    while left > 0:
        job = sim.queue[i]
        if class_blocked(sim, job, PRESENT):
            i += 1
            continue
        c = sim.jobs.cls[job]
        m = 0
        # What did not fit before in this pass fits only once a suspension has made room.
        if not class_blocked(sim, job, BESIDE):
            m = find(sim, sim.space, job)
            if m == 0:
                block_class(sim, job, BESIDE)
        if m == 0 and may_suspend and not has_waited_enough(sim, job):
            # One of its class that has waited longer may suspend others all the same.
            sim.passed[c] += 1
            left -= 1
            i += 1
            continue
        if m == 0 and may_suspend:
            made, again = make_room(sim, job, running)
            # Suspended jobs stand further back in the queue now, and may start again elsewhere in this pass.
            left += again
            if made:
                suspended = True
                sim.misfit[BESIDE, :] = 0
                m = find(sim, sim.space, job)
        if m > 0:
            remove_at(sim, i)
            start_job(sim, job, m)
            left -= 1
        else:
            block_class(sim, job, PRESENT)
            # Of its class those that stand before have started, or were passed over and counted.
            left -= sim.waiting[c] - sim.passed[c]
            i += 1
    if suspended and sim.detail.knobs[DISPLACE] != 1.0:
        # What suspensions have left over may do for a job before that was not far enough ahead to suspend any.
        start_what_fits(sim)


@inner
def sort_running(sim):
    """``detail.order[:n]``: running jobs by their keys of this instant; n."""
    n, order = sim.counts[RUNNING], sim.detail.order
    for k in range(n):
        job = sim.active[k]
        order[k] = job
        sim.key[job] = key_of(sim, job)
    sort_by_key(sim, order, n)
    return n


@verb
def may_suspend_now(sim):
    """Whether running jobs may be suspended at this instant."""


@may_suspend_now.when(is_lean)
def _may_suspend_now_lean(sim):
    return False


@may_suspend_now.when(is_full)
def _may_suspend_now_full(sim):
    params = sim.params
    return params.on_event or (params.on_tick and sim.counts[TICKED] == 1)


@inner
def can_make_room(sim, job, running):
    """Whether `make_room` would; ``sim.shadow`` is what is free now."""
    at, enough = offer_behind(sim, job, running)
    for back in range(at, running):
        if sim.detail.marked[sim.detail.order[back]] == OFFERED:
            sim.detail.marked[sim.detail.order[back]] = STAYS
    return enough


@inner
def make_room(sim, job, running):
    """Suspend as few of the running jobs behind ``job`` as let it start.

    Returns whether it can start now (if all together are too few, nothing happens), and how many of the suspended
    jobs may still start in this pass.
    """
    order, marked = sim.detail.order, sim.detail.marked
    copy_free(sim, sim.space, sim.shadow)
    if sim.detail.knobs[DISPLACE] != 1.0:
        alone = narrowest_alone(sim, job, running)
        if alone >= 0:
            stop_run(sim, alone, SUSPENDED)
            return True, 0 if class_blocked(sim, alone, PRESENT) else 1
    at = choose_victims(sim, job, running)
    if at < 0:
        return False, 0
    again = 0
    for back in range(at, running):
        victim = order[back]
        if marked[victim] == NEEDED:
            marked[victim] = STAYS
            stop_run(sim, victim, SUSPENDED)
            if not class_blocked(sim, victim, PRESENT):
                again += 1
    return True, again


@inner
def choose_victims(sim, job, running):
    """Mark as needed as few of the running jobs behind ``job`` as let it fit in ``sim.shadow``: from which place in the order on.

    -1: all of them are too few. Those already marked are not among them.
    """
    order, marked = sim.detail.order, sim.detail.marked
    at, enough = offer_behind(sim, job, running)
    # In order, let each keep its place that the job can do without.
    for back in range(at, running):
        victim = order[back]
        if marked[victim] == OFFERED:
            marked[victim] = STAYS
            if enough:
                book_held(sim, sim.shadow, victim, -1)
                if not fits(sim, sim.shadow, job):
                    book_held(sim, sim.shadow, victim, 1)
                    marked[victim] = NEEDED
    return at if enough else -1


@inner
def offer_behind(sim, job, running):
    """Mark as offered, and give back in ``sim.shadow``, running jobs behind ``job`` until it fits there.

    From which place in the order on, and whether it fits then. Those already marked are not among them.
    """
    order, marked = sim.detail.order, sim.detail.marked
    at, enough = running, False
    # From the last in order on, until the job would fit.
    while at > 0 and not enough:
        victim = order[at - 1]
        if not sim.key[victim] > sim.key[job]:
            break
        at -= 1
        if marked[victim] == STAYS and can_be_suspended(sim, job, victim):
            marked[victim] = OFFERED
            book_held(sim, sim.shadow, victim, 1)
            enough = fits(sim, sim.shadow, job)
    return at, enough


@inner
def narrowest_alone(sim, job, running):
    """The narrowest running job that alone makes room for ``job``, of those the last in order; -1: none does.

    Those already marked are not asked.
    ``sim.shadow`` is what is free now, and is that again afterwards.
    """
    order, marked, best, width = sim.detail.order, sim.detail.marked, -1, 1 << 62
    for back in range(running - 1, -1, -1):
        victim = order[back]
        if not sim.key[victim] > sim.key[job]:
            break
        # Wider ones need not be tried: most are passed over here.
        its = max(ALIKE_GPUS, sim.jobs.gpus[victim])
        if its >= width or marked[victim] != STAYS or not can_be_suspended(sim, job, victim):
            continue
        book_held(sim, sim.shadow, victim, 1)
        if fits(sim, sim.shadow, job):
            best, width = victim, its
        book_held(sim, sim.shadow, victim, -1)
    return best


@inner
def can_be_suspended(sim, job, victim):
    """Whether a job that may be suspended runs, not only since this instant, and the waiting job is clearly ahead of it."""
    if sim.detail.status[victim] != ON_GPUS or sim.detail.since[victim] >= sim.clock[NOW] or sim.detail.firm[victim]:
        return False
    return clearly_ahead(sim, job, victim)


# --- quanta, patience, learning -----------------------------------------------------------------------------


@inner
def new_round(sim):
    """A quantum has ended: a new drawing, and jobs that have run for one go behind all others."""
    if sim.params.order == LOTTERY:
        sim.counts[ROUND] += 1
    elif sim.params.order == ROUND_ROBIN:
        n, detail = sort_running(sim), sim.detail
        for k in range(n):
            job = detail.order[k]
            # Sums of quanta are rounded; a job that has run for one but for that would get a second.
            if sim.clock[NOW] - detail.since[job] >= sim.params.quantum * (1.0 - 1e-9):
                sim.counts[TAGS] += 1
                detail.tag[job] = sim.counts[TAGS]


@inner
def next_patience(sim):
    """When the next waiting job will have waited long enough to suspend others; infinity: none will."""
    detail, patience = sim.detail, sim.params.patience
    if patience <= 0.0 or sim.counts[RUNNING] == 0:
        return np.inf
    # The line is in order of time; what has started or has waited enough leaves it at its head.
    while sim.counts[LONGEST] > 0:
        job = sim.counts[LONGEST] - 1
        if detail.status[job] == WAITING and detail.since[job] + patience > sim.clock[NOW]:
            return detail.since[job] + patience
        leave_line(sim, job)
    return np.inf


@inner
def refresh_index(sim):
    """Work the Gittins index out anew, from jobs that have ended and from how far the present ones have come."""
    known, detail = sim.detail.attained, sim.detail
    gather_ended(known)
    for k in range(sim.counts[QUEUED]):
        job = sim.queue[k]
        if detail.done[job] > 0.0:
            count_in(known, known.scratch, known.size[job], detail.done[job], False)
    for k in range(sim.counts[RUNNING]):
        job = sim.active[k]
        count_in(known, known.scratch, known.size[job], progress(sim, job), False)
    work_out_index(known)
    # All keys have changed.
    sort_anew(sim)
