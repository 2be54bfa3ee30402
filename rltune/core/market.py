"""A market of GPUs: every job takes the cheapest of its ways, and waits rather than take one that is much dearer (full build).

A way's cost, in seconds of run time on the recorded hardware a second of work, is

    cost = (1 + gpus x price) / speed:

the job's own time, and what its GPUs cost those who wait. That price, in job-seconds a GPU-second, is how many jobs wait for
each GPU (a GPU-second taken from all of them delays each by its share of it), times the dual price of the pool relative to
the others. Duals are found online: a pool that the present jobs, given the prices, want more than the others grows
dearer (tatonnement; Walras, 1874; that it finds the duals of the assignment of divisible work: Eisenberg and Gale, 1959).

A job refuses ways whose cost is more than ``1 + refusal`` times that of its cheapest, whether or not there is room in
that; what is refused grows less while jobs of its class wait. Without refusal prices change little, since whoever is offered
only a dear GPU takes it; without prices all want the same.

The kernels are in `rltune.core.prices`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rltune.core.choices import Choices
from rltune.nouns.cluster import ClusterArrays

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# Slots of ``Market.knobs``: waiting jobs a GPU that count as one; price when nobody waits; share by which a way may be
# dearer; by how much more a hour of waiting; step of the duals.
CROWD, FLOOR, REFUSAL, PATIENCE, STEP = range(5)
KNOBS = 5
CROWD_PRICE, FLOOR_PRICE, REFUSAL_SHARE, PATIENCE_SHARE, DUAL_STEP = 3.0, 0.2, 0.3, 0.01, 0.05
"""Defaults of the knobs: chosen on stretches of May, July and August of Helios at three loads. They hardly matter
(experiments/steering.py; ``experiments/hybrid.py --choose`` searches from here)."""
EVERY_S = 600.0
"""Seconds between changes of prices."""
BLUR = 0.05
"""Share of cost over which demand is spread on ways that cost nearly the same: prices do not jump."""
MEMORY = 0.1
"""Weight of the present in the running mean of waiting jobs a GPU, a change of prices."""
MOST_STEPS = 36
"""Changes of prices made up for after a quiet time, at most: they would lead back to even prices anyway."""
# Slots of ``Market.clock``: time of the next change; waiting jobs a GPU, running mean; changes so far;
# whether they have just changed; running jobs moved to cheaper ways so far.
NEXT, WAITING_PER_GPU, CHANGES, FRESH, MOVES = range(5)
CLOCKS = 5


class Market(NamedTuple):
    """Prices and what follows from them; empty arrays: no market."""

    knobs: Floats  # (KNOBS,) see the slots above
    share: Floats  # (n_ways,) GPUs that a way holds, a MIG slice by its memory
    dual: Floats  # (n_pools,) relative to the mean over all GPUs
    price: Floats  # (n_pools,) job-seconds a GPU-second
    demand: Floats  # (n_pools,) GPUs that the present jobs want, work space
    capacity: Floats  # (n_pools,) GPUs of open nodes
    excess: Floats  # (n_choices,) cost of each choice over that of the cheapest of its class, minus 1
    rank: Ints  # (n_choices,) choices of each class, cheapest first
    upto: Ints  # (n_classes,) how many of them the class accepts
    present: Ints  # (n_classes,) waiting and running jobs, work space
    longest: Floats  # (n_classes,) since when the longest-waiting job of the class waits, seconds, work space
    total: Floats  # (n_pools,) sum of prices over all changes
    clock: Floats  # (CLOCKS,) see the slots above


def no_market() -> Market:
    """For the other rules of ways."""
    none, whole = np.zeros(0), np.zeros(0, np.int64)
    return Market(none, none, none, none, none, none, none, whole, whole, whole, none, none, none)


def market_of(cluster: ClusterArrays, choices: Choices, share: Floats, knobs: Floats) -> Market:
    """At time zero, before `open_market`; ``share`` (n_ways,), ``knobs`` (KNOBS,)."""
    pools, n, classes = len(cluster.pool_cap), len(choices.pool), len(choices.ptr) - 1
    zeros = np.zeros
    return Market(
        knobs=knobs, share=share, dual=zeros(pools), price=zeros(pools), demand=zeros(pools), capacity=zeros(pools),
        excess=zeros(n), rank=zeros(n, np.int64), upto=zeros(classes, np.int64), present=zeros(classes, np.int64),
        longest=zeros(classes), total=zeros(pools), clock=zeros(CLOCKS),
    )  # fmt: skip
