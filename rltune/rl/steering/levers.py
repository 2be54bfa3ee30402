"""What an agent in index form may set, and how far: parameters of the market and of the priority index.

An action is a number in [-1, 1] a lever, on a logarithmic scale: 0 leaves the parameter as the options have it, 1 and -1 multiply
and divide it by the lever's reach. Of the displacement factor that is its excess over 1, so that no lever changes a sign.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rltune.core.market import CROWD, FLOOR, PATIENCE, REFUSAL
from rltune.core.priorities import GITTINS, LAS
from rltune.core.state import BREADTH, DISPLACE, Detail, Sim
from rltune.nouns.errors import InputError

Floats = npt.NDArray[np.float64]

LEVERS = (
    "market_crowd",
    "market_floor",
    "market_refusal",
    "market_patience",
    "displace_factor",
    "gpu_power",
)
"""Options of the simulation that an action sets, in its order."""
KNOB_OF = (CROWD, FLOOR, REFUSAL, PATIENCE)
"""Slots of ``Market.knobs`` that the first levers are."""
EXCESS, POWER = len(KNOB_OF), len(KNOB_OF) + 1
"""Places of the other two."""
REACH = np.array((4.0, 4.0, 4.0, 4.0, 4.0, 1.5))
"""By what factor each may be changed at most: wide enough for every constant that a search has found (experiments/hybrid.py)."""


def usual_of(sim: Sim) -> Floats:
    """(6,) the levers as the options have them; NaN where they have no effect on this simulation.

    Raises InputError where none has any.
    """
    usual = np.full(len(LEVERS), np.nan)
    if isinstance(sim.detail, Detail):
        market, index = sim.detail.market, sim.detail.knobs
        if len(market.knobs):
            usual[: len(KNOB_OF)] = market.knobs[list(KNOB_OF)]
        if index[DISPLACE] != 1.0:
            usual[EXCESS] = index[DISPLACE]
        if sim.params.order == GITTINS or (sim.params.order == LAS and not len(sim.detail.thresholds)):
            usual[POWER] = index[BREADTH]
    if np.isnan(usual).all():
        raise InputError(
            "an agent in index form has nothing to set here: it needs a market (options.way_rule=market), or a policy that "
            "suspends by attained service or remaining work (las, gittins, srsf, srtf)"
        )
    return usual


def values_of(actions: npt.ArrayLike, usual: Floats) -> Floats:
    """(..., 6) values that actions (..., 6) give the levers; exactly the usual ones for 0. Raises ValueError for NaN."""
    given = np.asarray(actions, np.float64)
    if np.isnan(given).any():
        raise ValueError(f"actions {given} are no numbers")
    factor = REACH ** np.clip(given, -1.0, 1.0)
    values = usual * factor
    values[..., EXCESS] = 1.0 + (usual[EXCESS] - 1.0) * factor[..., EXCESS]
    # Rounding must not make another schedule of the baseline.
    return np.where(factor == 1.0, usual, values)
