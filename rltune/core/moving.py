"""Running jobs that move to a cheaper way of theirs, once prices have changed and nobody who waits wants it (full build)."""

from __future__ import annotations

from rltune.compiled import inner
from rltune.core.market import FRESH, MOVES
from rltune.core.preemption import sort_running
from rltune.core.prices import has_market
from rltune.core.priorities import progress
from rltune.core.queue import begin_pass, block_class, class_blocked, position_of, remove_at
from rltune.core.resources.verbs import find
from rltune.core.runs import overhead_at, start_job, stop_run
from rltune.core.state import NOW, PRESENT, SUSPENDED

WORTH = 2.0
"""What a move is expected to save must be more than this times what it costs."""


@inner
def may_move(sim):
    """Whether running jobs may move at this instant: prices have just changed, and the order may suspend."""
    if not has_market(sim) or not (sim.params.on_event or sim.params.on_tick):
        return False
    return sim.detail.market.clock[FRESH] == 1.0


@inner
def move_to_cheaper(sim):
    """Move running jobs, first in order first, to the cheapest way that has room now where that is worth it.

    A job that has run for t is expected to run for about t more (as it is where run times are spread over many orders
    of magnitude): the saving is that share of t by which the other way costs less; a move costs its overheads.
    """
    running = sort_running(sim)
    begin_pass(sim)
    sim.detail.market.clock[FRESH] = 0.0
    market, order = sim.detail.market, sim.detail.order
    for k in range(running):
        job = order[k]
        here = market.excess[sim.detail.way[job]]
        if here <= 0.0 or sim.detail.since[job] >= sim.clock[NOW] or class_blocked(sim, job, PRESENT):
            continue
        if sim.detail.firm[job]:
            continue
        m = find(sim, sim.space, job)
        if m == 0:
            block_class(sim, job, PRESENT)
            continue
        saved = 1.0 - (1.0 + market.excess[sim.place.way[0]]) / (1.0 + here)
        left = progress(sim, job) / sim.detail.rate[job]
        if saved * left > WORTH * overhead_at(sim, job, m):
            stop_run(sim, job, SUSPENDED)
            remove_at(sim, position_of(sim, job))
            start_job(sim, job, m)
            market.clock[MOVES] += 1.0
