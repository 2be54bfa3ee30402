"""The compiled loop of the detailed simulation."""

from __future__ import annotations

import numpy as np

from rltune.compiled import inner, kernel
from rltune.simulator.fleet.events import (
    next_arrival,
    next_end,
    next_listed,
    next_node_change,
    seed_failures,
    take_in,
)
from rltune.simulator.fleet.keys import LOTTERY, ROUND_ROBIN
from rltune.simulator.fleet.passes import anybody_fits, first_fits, order_queue, preempting, start_easy, start_in_order
from rltune.simulator.fleet.profile import start_conservative
from rltune.simulator.fleet.state import (
    ARRIVED,
    CONSERVATIVE,
    EASY,
    EVENTS,
    HELD,
    LOGGED,
    NOW,
    PASSES,
    QUEUED,
    ROUND,
    RUNNING,
    STALLED,
    STRICT,
    TAGS,
    TICK,
)

FINISHED_ALL, LOG_FULL, DECIDE = range(3)
STALLS = 100_000
"""Changes of nodes after which jobs that wait on an otherwise idle cluster are left unfinished, and counted so."""


@kernel
def begin(fleet, knobs):
    """The clock at the first submission."""
    fleet.clocks[NOW] = fleet.work.submit[0]
    fleet.clocks[TICK] = fleet.work.submit[0]
    if knobs.node_mtbf < np.inf:
        seed_failures(fleet, knobs)


@kernel
def advance_all(fleet, knobs, profile):
    """Simulate until nothing is left, the log needs more room, or starts are to be decided; the answer says which."""
    while True:
        if log_is_full(fleet):
            return LOG_FULL
        instant = min(next_end(fleet), next_arrival(fleet), next_listed(fleet), next_node_change(fleet, knobs))
        tick = next_tick(fleet, knobs)
        if not work_left(fleet) or min(instant, tick) == np.inf or has_stalled(fleet):
            return FINISHED_ALL
        if tick < instant:
            fleet.clocks[NOW] = tick
            fleet.counts[EVENTS] += 1
        else:
            take_in(fleet, knobs, instant)
        if not knobs.joint:
            decide(fleet, knobs, profile, tick <= instant)
        elif somebody_can_start(fleet, knobs):
            return DECIDE


@inner
def somebody_can_start(fleet, knobs):
    """Sort the queue; whether anybody who may start now fits."""
    if fleet.counts[QUEUED] == 0:
        return False
    order_queue(fleet, knobs)
    fleet.counts[PASSES] += 1
    return first_fits(fleet) if knobs.discipline == STRICT else anybody_fits(fleet)


@inner
def work_left(fleet):
    """Jobs to come, waiting or running. A waiting job that can never start ends the simulation with the last event."""
    return fleet.counts[ARRIVED] < len(fleet.work.submit) or fleet.counts[QUEUED] > 0 or fleet.counts[RUNNING] > 0


@inner
def has_stalled(fleet):
    """Whether nodes have come and gone very often with nothing running and nobody to come: the rest waits in vain."""
    if fleet.counts[RUNNING] > 0 or fleet.counts[ARRIVED] < len(fleet.work.submit):
        fleet.counts[STALLED] = 0
    else:
        fleet.counts[STALLED] += 1
    return fleet.counts[STALLED] > STALLS


@inner
def log_is_full(fleet):
    """Whether all runs ending at one instant might find no room."""
    log = fleet.log
    runs = fleet.counts[LOGGED] + fleet.counts[RUNNING] + 1
    places = log.ptr[fleet.counts[LOGGED]] + fleet.counts[HELD] + 1
    return runs > len(log.job) or places > len(log.node)


@inner
def next_tick(fleet, knobs):
    """End of the present quantum; infinity where nobody waits for one."""
    if not knobs.on_tick or fleet.counts[QUEUED] == 0 or fleet.counts[RUNNING] == 0:
        return np.inf
    now = fleet.clocks[NOW]
    if fleet.clocks[TICK] <= now:
        passed = np.floor((now - fleet.clocks[TICK]) / knobs.quantum) + 1.0
        fleet.clocks[TICK] += passed * knobs.quantum
        # Rounding may leave it at this very instant.
        if fleet.clocks[TICK] <= now:
            fleet.clocks[TICK] = now + knobs.quantum
    return fleet.clocks[TICK]


@inner
def decide(fleet, knobs, profile, ticks):
    """One pass at this instant, by order and discipline; ``ticks``: a quantum ends now."""
    if ticks:
        new_round(fleet, knobs)
    if fleet.counts[QUEUED] == 0:
        return
    if knobs.on_event or knobs.on_tick:
        preempting(fleet, knobs, knobs.on_event or ticks)
        return
    order_queue(fleet, knobs)
    if knobs.discipline == EASY:
        start_easy(fleet, knobs)
    elif knobs.discipline == CONSERVATIVE:
        start_conservative(fleet, knobs, profile)
    else:
        start_in_order(fleet, knobs, knobs.discipline == STRICT)


@inner
def new_round(fleet, knobs):
    """A quantum has ended: a new drawing, and who has run for one goes behind all others."""
    if knobs.order == LOTTERY:
        fleet.counts[ROUND] += 1
    elif knobs.order == ROUND_ROBIN:
        n = fleet.counts[RUNNING]
        for k in range(n):
            fleet.order[k] = fleet.active[k]
            fleet.key[fleet.active[k]] = fleet.tag[fleet.active[k]]
        send_back(fleet, knobs, n)


@inner
def send_back(fleet, knobs, n):
    """New tags for the running jobs in ``fleet.order[:n]`` that have used up their quantum, in their present order."""
    sort_running(fleet, n)
    for k in range(n):
        job = fleet.order[k]
        # Sums of quanta are rounded; who has run for one but for that would get a second.
        if fleet.clocks[NOW] - fleet.since[job] >= knobs.quantum * (1.0 - 1e-9):
            fleet.counts[TAGS] += 1
            fleet.tag[job] = fleet.counts[TAGS]


@inner
def sort_running(fleet, n):
    for k in range(1, n):
        job, at = fleet.order[k], k
        while at > 0 and fleet.key[fleet.order[at - 1]] > fleet.key[job]:
            fleet.order[at] = fleet.order[at - 1]
            at -= 1
        fleet.order[at] = job
