"""Compiled rounds: levers are set, jobs start by the order and the market, and the clock runs to the next round."""

from __future__ import annotations

import numpy as np

from rltune.compiled import kernel
from rltune.core.loop import go_on, start_now
from rltune.core.market import CROWD, FLOOR, PATIENCE, REFUSAL
from rltune.core.prices import has_market
from rltune.core.queue import sort_anew
from rltune.core.runs import log_is_full
from rltune.core.state import ARRIVED, BREADTH, DISPLACE, NOW, QUEUED
from rltune.rl.kernels import begin
from rltune.rl.rows import SCORED, row_at
from rltune.rl.scoring import UTILIZATION, cost_of, score_total
from rltune.rl.steering.levers import EXCESS, POWER

ROUND, OVER, FULL = range(3)
"""Where `advance_row` stops: a round begins; the episode is over; the log needs more room."""


# --- on a state ----------------------------------------------------------------------------


@kernel
def set_levers(sim, values):
    """Set what the simulation goes by from now on; ``values`` (6,) of `rltune.rl.steering.levers.LEVERS`, NaN: left as it is.

    Prices and refusals follow at their next change.
    """
    if has_market(sim):
        knobs = sim.detail.market.knobs
        knobs[CROWD], knobs[FLOOR], knobs[REFUSAL], knobs[PATIENCE] = values[0], values[1], values[2], values[3]
    index = sim.detail.knobs
    if not np.isnan(values[EXCESS]):
        index[DISPLACE] = values[EXCESS]
    if np.isnan(values[POWER]) or values[POWER] == index[BREADTH]:
        return
    index[BREADTH] = values[POWER]
    # Keys of waiting jobs stand still but for this.
    sort_anew(sim)


# --- on rows of a batch --------------------------------------------------------------------


@kernel
def begin_row(batch, i, first_job, warmup, values):
    """Load an episode into row i and run its warm-up with the levers at ``values``; False: the log has no room."""
    set_levers(row_at(batch, i).sim, values)
    return begin(batch, i, first_job, warmup)


@kernel
def advance_row(batch, i, opens, values, until):
    """Go on to the first instant from ``until`` on at which jobs wait, where the next round begins, or to another stop.

    ``opens``: a round begins here: first set the levers of row i to ``values``, and let jobs start. Not: the row has just begun,
    or stopped on the way because the log had no room.
    """
    sim = row_at(batch, i).sim
    if opens:
        set_levers(sim, values)
        start_now(sim)
    while True:
        if log_is_full(sim):
            return FULL
        if not go_on(sim):
            return OVER
        if sim.counts[QUEUED] > 0:
            if sim.clock[NOW] >= until:
                return ROUND
            start_now(sim)


@kernel
def total_of(batch, i, score):
    """Score of row i so far: `rltune.rl.scoring.score_total`."""
    return score_total(row_at(batch, i), score)


@kernel
def delay_of(batch, i, score):
    """The same less what jobs that have arrived would cost without any wait: it changes with what is decided alone."""
    row = row_at(batch, i)
    sim, ideal = row.sim, 0.0
    if score != UTILIZATION:
        for job in range(sim.counts[ARRIVED]):
            if row.episode.scored[job] == 1:
                ideal += cost_of(score, 0.0, sim.jobs.run[job], sim.jobs.run[job])
    return score_total(row, score) + ideal / row.episode.mark[SCORED]
