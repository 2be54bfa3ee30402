"""Fragmentation of whole free GPUs: what a node with f free GPUs costs, and the metric over a cluster.

A cost table has shape (n_pools, cap + 1), cap = the most GPUs of any node:
``cost[p, f]`` in GPUs (`quadratic_cost`, `demand_cost`) or nodes (`partly_used_cost`)
for one node of pool p with f free GPUs; entries beyond the pool's own node size are 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rltune.compiled import kernel
from rltune.nouns.cluster import ClusterArrays
from rltune.nouns.errors import InputError

FloatArray = npt.NDArray[np.float64]
MEASURES = ("quadratic", "demand", "stranding", "partly_used")
OF_WORKLOAD = ("demand", "stranding")
"""Measures that ask what the workload wants. Of whole GPUs without CPU and memory they are the same (`demand_cost`); with
shares, MIG slices, CPU or memory they are those of `rltune.core.resources.fragments`."""


class Demand(NamedTuple):
    """The workload as FGD sees it: gang ``sizes`` (n_sizes,), GPUs, and their ``shares`` of the jobs."""

    sizes: tuple[int, ...]
    shares: tuple[float, ...]


def demand_of(num_gpus: npt.ArrayLike, cluster: ClusterArrays) -> Demand:
    """Sizes and shares of a job table's GPU counts ``num_gpus`` (n_jobs,).

    Gangs wider than the largest node are counted as one size, since each needs an empty node anywhere.
    """
    widths = np.minimum(np.asarray(num_gpus, np.int64), int(cluster.pool_cap.max()))
    sizes, counts = np.unique(widths, return_counts=True)
    return Demand(tuple(sizes.tolist()), tuple((counts / max(1, len(widths))).tolist()))


def demand_cost(cluster: ClusterArrays, sizes: Sequence[int], shares: Sequence[float]) -> FloatArray:
    """Free GPUs that a random job could not use: (n_pools, cap + 1), in GPUs.

    A node with f free GPUs costs ``sum_s share_s * (f if size s > f else 0)``, the
    whole-GPU case of Fragmentation Gradient Descent (Weng et al., USENIX ATC'23,
    section 3). A gang wider than a node needs an empty one, so its size counts as
    min(size, GPUs per node), and an empty node costs nothing.
    """
    cost = np.zeros((len(cluster.pool_cap), int(cluster.pool_cap.max()) + 1))
    for p, cap in enumerate(cluster.pool_cap.tolist()):
        needed = np.minimum(np.asarray(sizes, np.int64), cap)
        for f in range(1, cap):
            cost[p, f] = f * float(np.asarray(shares)[needed > f].sum())
    return cost


def quadratic_cost(cluster: ClusterArrays) -> FloatArray:
    """f (cap - f) / cap for a node with f of cap GPUs free: (n_pools, cap + 1), in GPUs.

    0 for an idle and for a full node, most for a half used one. Since the sum of f is
    settled by which jobs start, the least cost is the largest sum of f squared: best
    fit for a single job, and its optimum for several at once. Needs no workload.
    """
    cost = np.zeros((len(cluster.pool_cap), int(cluster.pool_cap.max()) + 1))
    for p, cap in enumerate(cluster.pool_cap.tolist()):
        free = np.arange(cap + 1)
        cost[p, : cap + 1] = free * (cap - free) / max(1, cap)
    return cost


def partly_used_cost(cluster: ClusterArrays) -> FloatArray:
    """1 for a node neither idle nor full, else 0: (n_pools, cap + 1), in nodes (RLTune's measure)."""
    cost = np.zeros((len(cluster.pool_cap), int(cluster.pool_cap.max()) + 1))
    for p, cap in enumerate(cluster.pool_cap.tolist()):
        cost[p, 1:cap] = 1.0
    return cost


def cost_table(cluster: ClusterArrays, measure: str, demand: Demand | None = None) -> FloatArray:
    """The cost table of a measure; "demand" and "stranding" need the workload's. Raises InputError for an unknown one."""
    if measure in OF_WORKLOAD and demand is not None:
        return demand_cost(cluster, *demand)
    if measure == "quadratic":
        return quadratic_cost(cluster)
    if measure == "partly_used":
        return partly_used_cost(cluster)
    if measure in OF_WORKLOAD:
        raise InputError(f"measure={measure} needs the workload's demand; give it, or take measure=quadratic")
    raise InputError(f"measure={measure!r} is unknown; known are {', '.join(MEASURES)}")


@kernel
def fragmentation(level: npt.NDArray[np.int64], cost: FloatArray) -> float:
    """Cost per free GPU: a number, 0 when no GPU is free.

    ``level`` (n_pools, cap + 1): nodes by free count (`placement.Space.level`). With
    `demand_cost` this is the share of the free GPUs that a random job could not use.
    """
    lost, free = 0.0, 0
    for p in range(level.shape[0]):
        for f in range(1, level.shape[1]):
            lost += level[p, f] * cost[p, f]
            free += level[p, f] * f
    return lost / free if free > 0 else 0.0
