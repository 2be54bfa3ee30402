"""The loop: go to the next instant, take in what happens, let jobs start."""

from __future__ import annotations

import numpy as np

from rltune.compiled import inner, kernel, verb
from rltune.core.backfilling import start_easy, start_in_order, start_what_fits, start_when_it_fits
from rltune.core.conservative import anything_fits, start_conservative
from rltune.core.events import next_time, reset, step_single_event, take_in, work_left
from rltune.core.faults import seed_failures
from rltune.core.moving import may_move, move_to_cheaper
from rltune.core.preemption import may_suspend_now, new_round, next_patience, preempt, refresh_index
from rltune.core.prices import has_market, open_market, trade
from rltune.core.priorities import key_of
from rltune.core.queue import begin_pass, sort_anew, sort_by_key, sort_queue
from rltune.core.resources.verbs import fits
from rltune.core.runs import log_is_full
from rltune.core.state import (
    ALWAYS,
    ARRIVED,
    BLOCKING,
    CONSERVATIVE,
    EVENTS,
    INSIDE,
    NOW,
    QUEUED,
    RUNNING,
    SKIP,
    STALLED,
    STRICT,
    TICK,
    TICKED,
    is_full,
    is_lean,
)
from rltune.policies.attained import is_stale

FINISHED_ALL, LOG_FULL, DECIDE, PAUSED = range(4)
"""Why `run_for` returns: nothing is left; the log needs more room; starts are to be decided outside; all steps are done."""
EVERYTHING = 1 << 62
"""Steps without an end."""
STALLS = 100_000
"""Changes of nodes after which jobs that wait on an otherwise idle cluster are left unfinished, and counted so."""


@kernel
def begin(sim):
    """Time zero: the clock at the first submission."""
    reset(sim)
    begin_detail(sim)


@kernel
def run(sim):
    """Simulate until nothing is left, the log needs more room, or starts are to be decided outside; which of them."""
    return run_for(sim, EVERYTHING)


@kernel
def run_for(sim, steps):
    """The same, for ``steps`` instants at most (blocking: picked jobs): PAUSED if they are done, to be called again."""
    if sim.params.backfill == BLOCKING:
        return run_blocking(sim, steps)
    for _ in range(steps):
        code = one_instant(sim)
        if code != PAUSED:
            return code
    return PAUSED


@kernel
def run_until(sim, until):
    """The same, for as long as something happens by ``until``, seconds; PAUSED where it comes later."""
    while min(next_time(sim), next_turn(sim)) <= until:
        code = one_instant(sim)
        if code != PAUSED:
            return code
    return PAUSED


@inner
def one_instant(sim):
    """The next instant, and its decision; PAUSED where the one after it may follow at once."""
    if log_is_full(sim):
        return LOG_FULL
    if not go_on(sim):
        return FINISHED_ALL
    return DECIDE if decide(sim) else PAUSED


@inner
def go_on(sim):
    """To the next instant at which something happens or jobs may be suspended; False: there is none, or it is in vain."""
    close_turn(sim)
    instant, tick = next_time(sim), next_turn(sim)
    if min(instant, tick) == np.inf or not worth_going_on(sim):
        return False
    go_to(sim, instant, tick)
    return True


@inner
def go_to(sim, instant, tick):
    """To the next event or to the end of a quantum, whichever comes first."""
    if tick < instant:
        sim.clock[NOW] = tick
        sim.counts[EVENTS] += 1
    else:
        take_in(sim, instant)
    open_turn(sim, tick <= instant)


@inner
def something_comes(sim):
    """Whether there will be another instant."""
    return min(next_time(sim), next_turn(sim)) < np.inf


@inner
def run_blocking(sim, steps):
    """The reference protocol's loop: due arrivals come in only while a job blocks or the queue is empty."""
    for _ in range(steps):
        while sim.counts[QUEUED] == 0:
            if not step_single_event(sim):
                return FINISHED_ALL
        sort_queue(sim)
        start_when_it_fits(sim, sim.queue[0])
    return PAUSED


@inner
def start_jobs(sim):
    """One pass over the queue, by the chosen backfilling."""
    if sim.params.backfill == SKIP:
        start_what_fits(sim)
    elif sim.params.backfill == STRICT:
        start_in_order(sim)
    else:
        start_easy(sim)


# --- what differs between the builds -----------------------------------------------------


@verb
def begin_detail(sim):
    """Clocks and failures at the start."""


@begin_detail.when(is_lean)
def _begin_detail_lean(sim):
    pass


@begin_detail.when(is_full)
def _begin_detail_full(sim):
    sim.clock[TICK] = sim.clock[NOW]
    if sim.params.node_mtbf < np.inf:
        seed_failures(sim)
    if has_market(sim):
        open_market(sim)


@verb
def open_turn(sim, ticks):
    """Before jobs start at this instant: new rounds, keys and prices; ``ticks``: a quantum ends now."""


@open_turn.when(is_lean)
def _open_turn_lean(sim, ticks):
    pass


@open_turn.when(is_full)
def _open_turn_full(sim, ticks):
    if ticks:
        new_round(sim)
    sim.counts[TICKED] = 1 if ticks else 0
    if sim.counts[QUEUED] > 0 and sim.params.index_learns and is_stale(sim.detail.attained):
        refresh_index(sim)
    if has_market(sim):
        trade(sim)


@verb
def close_turn(sim):
    """After all has been decided at this instant."""


@close_turn.when(is_lean)
def _close_turn_lean(sim):
    pass


@close_turn.when(is_full)
def _close_turn_full(sim):
    if may_move(sim):
        move_to_cheaper(sim)


@verb
def decide(sim):
    """Let jobs start at this instant. Whether starts are to be decided outside."""


@decide.when(is_lean)
def _decide_lean(sim):
    if sim.counts[QUEUED] == 0:
        return False
    if sim.params.outside == ALWAYS:
        return True
    start_now(sim)
    return False


@decide.when(is_full)
def _decide_full(sim):
    params = sim.params
    if sim.counts[QUEUED] == 0:
        return False
    if params.outside == INSIDE:
        start_now(sim)
        return False
    return params.outside == ALWAYS or something_can_start(sim)


@verb
def start_now(sim):
    """Let jobs start by the order, backfilling and placement rule of the parameters."""


@start_now.when(is_lean)
def _start_now_lean(sim):
    sort_queue(sim)
    start_jobs(sim)


@start_now.when(is_full)
def _start_now_full(sim):
    params = sim.params
    if params.on_event or params.on_tick:
        preempt(sim, may_suspend_now(sim))
    elif params.backfill == CONSERVATIVE:
        start_conservative(sim)
    else:
        sort_queue(sim)
        start_jobs(sim)


@kernel
def start_here(sim):
    """Let jobs start at this instant, as where nothing decides outside the kernels."""
    start_now(sim)


@kernel
def put_in_order(sim):
    """Bring the queue into order after what orders it has been changed from outside."""
    sort_anew(sim)


@kernel
def work_out_keys(sim):
    """Bring ``sim.key`` of all waiting and running jobs up to date."""
    for k in range(sim.counts[QUEUED]):
        sim.key[sim.queue[k]] = key_of(sim, sim.queue[k])
    for k in range(sim.counts[RUNNING]):
        sim.key[sim.active[k]] = key_of(sim, sim.active[k])


@kernel
def start_by_given_keys(sim):
    """The same after keys have been given from outside (``sim.key``)."""
    sort_by_key(sim, sim.queue, sim.counts[QUEUED])
    start_now(sim)


@inner
def something_can_start(sim):
    """Whether a job that may start now fits."""
    sort_queue(sim)
    begin_pass(sim)
    return fits(sim, sim.space, sim.queue[0]) if sim.params.backfill == STRICT else anything_fits(sim)


@verb
def next_turn(sim):
    """When jobs may be suspended next though nothing happens; infinity: never."""


@next_turn.when(is_lean)
def _next_turn_lean(sim):
    return np.inf


@next_turn.when(is_full)
def _next_turn_full(sim):
    return min(next_tick(sim), next_patience(sim))


@inner
def next_tick(sim):
    """End of the present quantum; infinity where no job waits for one."""
    if not sim.params.on_tick or sim.counts[QUEUED] == 0 or sim.counts[RUNNING] == 0:
        return np.inf
    now, quantum = sim.clock[NOW], sim.params.quantum
    if sim.clock[TICK] <= now:
        passed = np.floor((now - sim.clock[TICK]) / quantum) + 1.0
        sim.clock[TICK] += passed * quantum
        # Rounding may leave it at this very instant.
        if sim.clock[TICK] <= now:
            sim.clock[TICK] = now + quantum
    return sim.clock[TICK]


@verb
def worth_going_on(sim):
    """Whether a job may still start or end. A waiting job that can never start ends a simulation with the last event."""


@worth_going_on.when(is_lean)
def _worth_going_on_lean(sim):
    return True


@worth_going_on.when(is_full)
def _worth_going_on_full(sim):
    # Nodes may come and go for ever with nothing running and no job to come: the rest waits in vain.
    if sim.counts[RUNNING] > 0 or sim.counts[ARRIVED] < len(sim.jobs.submit):
        sim.counts[STALLED] = 0
    else:
        sim.counts[STALLED] += 1
    return work_left(sim) and sim.counts[STALLED] <= STALLS
