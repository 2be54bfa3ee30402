"""Suspension: jobs that do not fit may take the place of running jobs that stand behind them in the order (full build).

A pass goes through waiting and running jobs in order. The queue is kept in order between events, and only the running
jobs are sorted anew, so that an event costs what runs and what the pass looks at, not what waits.
"""

from __future__ import annotations

from rltune.compiled import inner
from rltune.core.priorities import LOTTERY, ROUND_ROBIN, key_of
from rltune.core.queue import begin_pass, block_class, class_blocked, remove_at, sort_by_key, sort_queue
from rltune.core.resources.verbs import book_held, copy_free, find, fits
from rltune.core.runs import start_job, stop_run
from rltune.core.state import NOW, ON_GPUS, PRESENT, ROUND, RUNNING, SUSPENDED, TAGS


@inner
def preempt(sim, may_suspend):
    """Start jobs in order; one that does not fit may suspend running jobs of larger key.

    Of those, the last in order go first; one that proves not to be needed stays. Jobs started at this very
    instant stay too. Wide jobs that fit nowhere do not hold up others: they can suspend later ones.
    """
    sort_queue(sim)
    left = begin_pass(sim)
    running = sort_running(sim) if may_suspend else 0
    i = 0
    # Ends with the last job of a class that may still start, not with the queue.
    while left > 0:
        job = sim.queue[i]
        if class_blocked(sim, job, PRESENT):
            i += 1
            continue
        m = find(sim, sim.space, job)
        if m == 0 and may_suspend:
            made, again = make_room(sim, job, running)
            # Suspended jobs stand further back in the queue now, and may start again elsewhere in this pass.
            left += again
            if made:
                m = find(sim, sim.space, job)
        if m > 0:
            remove_at(sim, i)
            start_job(sim, job, m)
            left -= 1
        else:
            block_class(sim, job, PRESENT)
            # All of its class that wait stand here or behind: whatever stood before has started.
            left -= sim.waiting[sim.jobs.cls[job]]
            i += 1


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


@inner
def make_room(sim, job, running):
    """Suspend as few of the running jobs behind ``job`` as let it start.

    Returns whether it can start now (if all together are too few, nothing happens), and how many of the suspended
    jobs may still start in this pass.
    """
    order, marked = sim.detail.order, sim.detail.marked
    copy_free(sim, sim.space, sim.shadow)
    at, enough = running, False
    # From the last in order on, until the job would fit.
    while at > 0 and not enough:
        victim = order[at - 1]
        if not sim.key[victim] > sim.key[job]:
            break
        at -= 1
        marked[victim] = 0
        if sim.detail.status[victim] == ON_GPUS and sim.detail.since[victim] < sim.clock[NOW]:
            marked[victim] = 1
            book_held(sim, sim.shadow, victim, 1)
            enough = fits(sim, sim.shadow, job)
    if not enough:
        return False, 0
    # In order, let each keep its place that the job can do without.
    again = 0
    for back in range(at, running):
        victim = order[back]
        if marked[victim] == 1:
            book_held(sim, sim.shadow, victim, -1)
            if not fits(sim, sim.shadow, job):
                book_held(sim, sim.shadow, victim, 1)
                stop_run(sim, victim, SUSPENDED)
                if not class_blocked(sim, victim, PRESENT):
                    again += 1
            marked[victim] = 0
    return True, again


# --- quanta -----------------------------------------------------------------------------


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
