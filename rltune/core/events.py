"""What happens, and when: arrivals, ends of runs, changes of nodes.

Time is in seconds. At one instant runs end first, then nodes change, then jobs arrive in the order of the table: the same
input gives the same schedule. `next_time` and `take_in` are apart, so that a table of jobs, a step of training and a live
clock can each drive them.

Reads submissions, the heap of running jobs and the next changes of nodes; writes the clock, the counters, the queue, and
through `end_next` and `take_changes` all that ends of runs and failures change.
"""

from __future__ import annotations

import numpy as np

from rltune.compiled import inner, kernel, verb
from rltune.core.faults import next_change, take_changes
from rltune.core.priorities import tag_arrival
from rltune.core.queue import enqueue, join_line, remove_at
from rltune.core.resources.verbs import clear_free
from rltune.core.runs import end_next
from rltune.core.state import (
    ARRIVED,
    DROPPED,
    EVENTS,
    FUTURE,
    IMPOSSIBLE,
    NOW,
    QUEUED,
    RUNNING,
    WAITING,
    is_full,
    is_lean,
)
from rltune.policies.learn import estimate_of


@kernel
def reset(sim):
    """Back to an idle cluster with nothing arrived; the clock at the first submission."""
    clear_free(sim, sim.space)
    reset_detail(sim)
    sim.start[:] = np.nan
    sim.end[:] = np.nan
    sim.alloc_len[:] = 0
    sim.waiting[:] = 0
    sim.misfit[:] = 0
    sim.counts[:] = 0
    sim.clock[:] = 0.0
    sim.clock[NOW] = sim.jobs.submit[0]


@verb
def reset_detail(sim):
    """Forget all runs, failures and accounts."""


@reset_detail.when(is_lean)
def _reset_detail_lean(sim):
    pass


@reset_detail.when(is_full)
def _reset_detail_full(sim):
    detail = sim.detail
    for job in range(len(detail.way)):
        detail.way[job] = sim.choices.ptr[sim.jobs.cls[job]]
    detail.status[:] = FUTURE
    detail.done[:] = 0.0
    detail.service[:] = 0.0
    detail.held[:] = 0.0
    detail.runs[:] = 0
    detail.failures[:] = 0
    detail.fails[:] = 0
    detail.final[:] = np.nan
    detail.mean[:] = np.nan
    detail.used[:] = 0.0
    detail.using[:] = 0.0
    detail.used_at[:] = 0.0
    detail.broken[:] = 0
    detail.breaks[:] = 0
    detail.changed[:] = 0.0
    detail.before[:] = -1
    detail.behind[:] = -1


@inner
def next_end(sim):
    """End of the run that ends first."""
    return sim.end[sim.active[0]] if sim.counts[RUNNING] > 0 else np.inf


@inner
def next_arrival(sim):
    """Submission of the next job, not before now; infinity when all have arrived."""
    job = sim.counts[ARRIVED]
    if job == len(sim.jobs.submit):
        return np.inf
    return max(sim.jobs.submit[job], sim.clock[NOW])


@kernel
def next_time(sim):
    """When something happens next; infinity: never."""
    return min(next_end(sim), next_arrival(sim), next_change(sim))


@kernel
def take_in(sim, instant):
    """The clock goes to ``instant``, and all that happens by then is taken in."""
    sim.clock[NOW] = instant
    while next_end(sim) <= instant:
        end_next(sim)
        sim.counts[EVENTS] += 1
    take_changes(sim, instant)
    while next_arrival(sim) <= instant:
        arrive_next(sim)
        sim.counts[EVENTS] += 1


@kernel
def advance(sim):
    """Go to the next instant at which something happens and take all of it in; False when nothing is left."""
    instant = next_time(sim)
    if instant == np.inf:
        return False
    take_in(sim, instant)
    return True


@inner
def can_ever_run(sim, job):
    """Whether some idle pool could hold the job."""
    c = sim.jobs.cls[job]
    return sim.choices.ptr[c] < sim.choices.ptr[c + 1]


@inner
def arrive_next(sim):
    """The next job of the table joins the queue; one that no idle pool could hold is counted and set aside."""
    job = sim.counts[ARRIVED]
    sim.counts[ARRIVED] += 1
    possible = can_ever_run(sim, job)
    greet(sim, job, possible)
    if possible:
        enqueue(sim, job)
    else:
        sim.counts[DROPPED] += 1


@verb
def greet(sim, job, possible):
    """What is learned of a job, and noted, when it arrives."""


@greet.when(is_lean)
def _greet_lean(sim, job, possible):
    pass


@greet.when(is_full)
def _greet_full(sim, job, possible):
    detail = sim.detail
    if not possible:
        detail.status[job] = IMPOSSIBLE
        return
    if sim.params.learns:
        sim.jobs.known[job] = estimate_of(detail.groups, detail.mean, job)
    detail.status[job] = WAITING
    tag_arrival(sim, job)
    join_line(sim, job)


@kernel
def step_single_event(sim):
    """RLTune's clock: one event, an arrival before a completion of the same instant; False when none is left."""
    arrival, completion = next_arrival(sim), next_end(sim)
    if arrival == np.inf and completion == np.inf:
        return False
    sim.counts[EVENTS] += 1
    if arrival <= completion:
        sim.clock[NOW] = arrival
        job = sim.counts[ARRIVED]
        sim.counts[ARRIVED] += 1
        # In this protocol also a job that fits nowhere queues; it is dropped when its turn comes.
        enqueue(sim, job)
    else:
        sim.clock[NOW] = max(completion, sim.clock[NOW])
        end_next(sim)
    return True


@kernel
def drop_at(sim, position):
    """A job that no idle pool could hold leaves the queue; it is counted and stays without a start."""
    remove_at(sim, position)
    sim.counts[DROPPED] += 1


@inner
def work_left(sim):
    """Jobs to come, waiting or running."""
    return sim.counts[ARRIVED] < len(sim.jobs.submit) or sim.counts[QUEUED] > 0 or sim.counts[RUNNING] > 0
