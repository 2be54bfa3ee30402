"""The core on somebody else's clock: single instants, events that are pushed, and a state put together in the middle (full build).

`rltune.core.loop.run` pulls events from a table of jobs and knows when runs end. A live cluster does not: a job's row is filled
when it is submitted, its end is infinitely far until it is reported, and the clock is that of the wall. The instants
themselves are those of the loop: the same events are taken in, the same decision is taken.
"""

from __future__ import annotations

from rltune.compiled import inner, kernel
from rltune.core.backfilling import NONE_DRAFTED, reserve
from rltune.core.events import next_time
from rltune.core.heap import push, remove
from rltune.core.loop import close_turn, decide, go_to, next_turn, open_turn
from rltune.core.prices import count_present, has_market, set_prices
from rltune.core.priorities import key_of
from rltune.core.queue import join_line, leave_line, position_of, remove_at, sort_by_key, sort_queue
from rltune.core.resources.nodes import index_node
from rltune.core.resources.verbs import book_held, fits
from rltune.core.runs import log_is_full, stop_run
from rltune.core.state import ABANDONED, EVENTS, HELD, JOB_FAILURE, NOW, QUEUED, RUNNING

QUIET, STEPPED, ASKED, FULL = range(4)
"""What `step` did: nothing is due; an instant; the same, and starts are to be decided outside; the log needs more room."""


@kernel
def wake_time(sim):
    """When something happens next, or jobs may be suspended, if nothing is pushed before; infinity: never."""
    return min(next_time(sim), next_turn(sim))


@kernel
def step(sim, limit):
    """The first instant until ``limit`` at which something happens, as the loop does it; `settle` is to follow."""
    if log_is_full(sim):
        return FULL
    instant, tick = next_time(sim), next_turn(sim)
    if min(instant, tick) > limit:
        return QUIET
    go_to(sim, instant, tick)
    return ASKED if decide(sim) else STEPPED


@kernel
def decide_again(sim, instant):
    """An instant without an event: who waits may start, since something was changed from outside; as `step`."""
    if log_is_full(sim):
        return FULL
    sim.clock[NOW] = instant
    sim.counts[EVENTS] += 1
    open_turn(sim, False)
    return ASKED if decide(sim) else STEPPED


@kernel
def settle(sim):
    """After all has been decided at this instant."""
    close_turn(sim)


@kernel
def end_at(sim, job, instant):
    """The present run of ``job`` ends at ``instant``, now or later, instead of when it was going to."""
    running = sim.counts[RUNNING]
    remove(sim.active, sim.active_at, running, sim.end, sim.turn, job)
    sim.end[job] = instant
    push(sim.active, sim.active_at, running - 1, sim.end, sim.turn, job)


@kernel
def fail_at(sim, job, instant):
    """The same by a failure: the job waits again, or is given up when it has failed too often."""
    sim.detail.fails[job] = 1
    end_at(sim, job, instant)


@kernel
def drop_run(sim, job):
    """A running job is given up at this instant."""
    sim.detail.failures[job] = sim.params.retries
    stop_run(sim, job, JOB_FAILURE)


@kernel
def drop_waiting(sim, job):
    """A waiting job leaves the queue and is not heard of again."""
    remove_at(sim, position_of(sim, job))
    if sim.detail.before[job] >= 0:
        leave_line(sim, job)
    sim.detail.status[job] = ABANDONED


@kernel
def put_together(sim, closed, running, waiting):
    """Jobs and nodes of a state whose arrays a job have been filled in take their places.

    ``closed`` (n_nodes,): reasons why a node takes no job; ``running``: jobs that hold their ``alloc`` places, in order of
    starting; ``waiting``: the others, in order of since when they wait.
    """
    for node in range(len(closed)):
        sim.space.room.closed[node] = closed[node]
        index_node(sim.cluster, sim.space, node)
    for k in range(len(running)):
        job = running[k]
        book_held(sim, sim.space, job, -1)
        push(sim.active, sim.active_at, k, sim.end, sim.turn, job)
        push(sim.expected, sim.expected_at, k, sim.believed, sim.turn, job)
        sim.counts[RUNNING] += 1
        sim.counts[HELD] += sim.alloc_len[job]
    for k in range(len(waiting)):
        wait_again(sim, waiting[k], k)
    sim.counts[QUEUED] = len(waiting)
    sort_by_key(sim, sim.queue, len(waiting))
    if has_market(sim):
        count_present(sim)
        set_prices(sim)


@inner
def wait_again(sim, job, at):
    """A job that has been waiting stands in the line, since when it did, and for now at place ``at`` of the queue."""
    since = sim.detail.since[job]
    join_line(sim, job)
    sim.detail.since[job] = since
    sim.key[job] = key_of(sim, job)
    sim.queue[at] = job
    sim.waiting[sim.jobs.cls[job]] += 1


@kernel
def run_out(sim, job, left):
    """The running ``job`` has ``left`` seconds of work yet: what a look ahead believes."""
    detail = sim.detail
    begin = max(sim.clock[NOW], detail.ready[job])
    done = detail.done[job] + max(0.0, sim.clock[NOW] - detail.ready[job]) * detail.rate[job]
    sim.jobs.run[job] = done + left
    end_at(sim, job, begin + left / detail.rate[job])


@kernel
def fits_now(sim, job):
    """Whether there is room for a waiting job now, whoever stands before it."""
    return fits(sim, sim.space, job)


@kernel
def in_order(sim):
    """The queue as it would be gone through now."""
    sort_queue(sim)


@kernel
def reservation(sim, head):
    """When ``head`` will fit by the expected ends, seconds; ``sim.spare`` is what it leaves free then."""
    return reserve(sim, sim.space, NONE_DRAFTED, head)
