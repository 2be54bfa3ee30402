"""How much of the free GPUs is of no use to the workload: the fragmentation measure of FGD, and one of our own.

*fgd* (Weng et al., USENIX ATC'23, section 3). For a node n and a type of task m, F_n(m) is the free GPU amount
that m could not use there: all of it where the node cannot host m (or m wants no GPU); otherwise that on GPUs
whose free share is smaller than what m asks of one GPU. F_n(M) is the mean over the types M by their frequency.
Of a GPU cut by MIG the free memory slices count; only profiles with a free legal start can use them.

*stranding* adds two losses which that measure does not see, since it asks for room for one task only:

- *starved*: the GPU amount for which the node's free CPU or memory would be too little if tasks of type m filled it,
  over the types that may use the pool, by frequency, `STARVED` times;
- *gaps*: what the free parts of GPUs are worth less than parts of their size are at best, by the prices of the best
  packing of the workload's shares (`rltune.core.resources.fractional_value`), `GAPS` times.

Tried on six workloads of openb (`experiments/openb_fragmentation.py`, seeds 100 to 102): some 130 variants of how full a
node could get of one type, whole or fluid, weights by frequency and GPU amount, best-fit ties, costs of CPU by its mean,
random and best fillings of gaps. Kept was the best mean of the allocation (best-fit ties, +0.01, apart);
half or double either weight costs 0.1 at most.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rltune.compiled import inner, kernel
from rltune.core.resources.fractional_value import share_worth
from rltune.core.resources.room import Demand, demand_of, part_of
from rltune.core.resources.scores import FGD, STRANDING
from rltune.core.resources.slices import bits
from rltune.nouns.cluster import Cluster, eligibility
from rltune.nouns.errors import InputError
from rltune.nouns.jobs import WHOLE, JobTable
from rltune.nouns.mig_profiles import SIZE, STARTS, STARTS_MOST

MEASURES = {"fgd": FGD, "stranding": STRANDING}
"""Measures by name; the rule of the same name places where its measure grows least."""
STARVED, GAPS = 2.0, 8.0
SLICES = SIZE.max(axis=0)
"""(n_types,) memory slices of a GPU, by type that MIG can cut."""


class TaskTypes(NamedTuple):
    """Distinct requests of a workload, and how fragments are measured for it."""

    demand: Demand  # (n_types,) arrays
    share: npt.NDArray[np.float64]  # (n_types,) of the jobs; sums to 1
    allowed: npt.NDArray[np.int8]  # (n_types, n_pools) 1: the type may use the pool
    gap: npt.NDArray[np.float64]  # (WHOLE + 1,) GPU thousandths lost by so many free thousandths on one GPU (STRANDING)
    measure: int  # a code of `MEASURES`


def task_types(jobs: JobTable, cluster: Cluster, measure: str = "fgd") -> TaskTypes:
    """The requests in a job table, by number of GPUs and share, MIG profile, CPU, memory and the pools they may use."""
    if measure not in MEASURES:
        raise InputError(f"measure {measure!r} is unknown; known are {', '.join(MEASURES)}")
    demand, classes = demand_of(jobs, cluster), eligibility(jobs, cluster)
    _, first, counts = np.unique(_keys(demand, classes.cls), axis=0, return_index=True, return_counts=True)
    allowed = np.zeros((len(first), len(cluster.pools)), np.int8)
    for k, c in enumerate(classes.cls[first]):
        allowed[k, classes.pools[classes.ptr[c] : classes.ptr[c + 1]]] = 1
    kinds, share = Demand._make(column[first] for column in demand), counts / len(jobs)
    gap = np.zeros(WHOLE + 1)
    if measure == "stranding":
        shared = (kinds.milli > 0) & (kinds.milli < WHOLE)
        gap = gap_loss(share_worth(kinds.milli[shared], share[shared]))
    return TaskTypes(kinds, share, allowed, gap, MEASURES[measure])


def type_of(jobs: JobTable, cluster: Cluster) -> npt.NDArray[np.int64]:
    """(n_jobs,) row of each job's request in ``task_types(jobs, cluster)``."""
    keys = _keys(demand_of(jobs, cluster), eligibility(jobs, cluster).cls)
    return np.unique(keys, axis=0, return_inverse=True)[1].ravel().astype(np.int64)


def no_types() -> TaskTypes:
    """An unknown workload: everything is of use."""
    none = np.zeros(0, np.int64)
    demand = Demand(none, none.copy(), np.zeros(0), np.zeros(0), none.copy())
    return TaskTypes(demand, np.zeros(0), np.zeros((0, 0), np.int8), np.zeros(WHOLE + 1), FGD)


def gap_loss(worth: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(WHOLE + 1,) thousandths of GPUs: every free thousandth at its best worth anywhere, less what it is worth here."""
    free = np.arange(WHOLE + 1)
    return np.asarray(free * (worth[1:] / free[1:]).max() * WHOLE - worth * WHOLE)


def _keys(demand: Demand, cls: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
    """Rows (n_jobs, 6) that are equal for the same request; types alike in their GPUs sort side by side."""
    columns = (demand.gpus, demand.milli, demand.profile, demand.cpus, demand.memory, cls)
    return np.stack([column.astype(np.float64) for column in columns], axis=1)


@inner
def node_fragments(cluster, room, types, node):
    """Fragments of one node by ``types.measure``, in thousandths of GPUs; 0 where nothing is free.

    Reads nothing but the node's row of ``room``, its pool and the types.
    """
    p = cluster.node_pool[node]
    cut = _cut_free(cluster, room, node)
    free, demand = room.loose[node] + cut, types.demand
    total, usable, asked = 0.0, 0, 0.0
    if free == 0:
        return total
    for k in range(len(types.share)):
        if demand.milli[k] > 0 and (k == 0 or _other_gpus(demand, k)):
            usable = _usable(cluster, room, demand, k, node)
            asked = _asked(cluster, demand, k, p)
        if demand.milli[k] == 0 or types.allowed[k, p] == 0:
            total += types.share[k] * free
            continue
        wasted = free - usable if usable > 0 and _has_cpu(cluster, room, demand, k, node) else free
        total += types.share[k] * wasted
        if types.measure == STRANDING:
            total += STARVED * types.share[k] * _starved(room, demand, k, node, free, asked)
    if types.measure == STRANDING:
        # Shares cannot use what is free of a cut GPU.
        lost = types.gap[1] * cut
        for gpu in range(cluster.pool_cap[p]):
            lost += types.gap[room.milli[node, gpu]]
        total += GAPS * lost
    return total


@inner
def _other_gpus(demand, k):
    """Whether type k asks for other GPUs than the one before it."""
    before = k - 1
    return (
        demand.gpus[k] != demand.gpus[before]
        or demand.milli[k] != demand.milli[before]
        or demand.profile[k] != demand.profile[before]
    )


@inner
def _usable(cluster, room, demand, k, node):
    """Free amount on GPUs that a task of the type could use, 0 if they are too few; CPU and memory aside.

    A gang wider than the node is asked for the widest part it may have here.
    """
    p = cluster.node_pool[node]
    cap, milli, usable = cluster.pool_cap[p], demand.milli[k], 0
    if demand.profile[k] >= 0:
        for gpu in range(cap):
            if can_start(cluster, room, demand.profile[k], node, gpu):
                usable += room.milli[node, gpu] + _gpu_slices(cluster, room, node, gpu)
        return usable
    if milli == WHOLE:
        return room.whole[node] * WHOLE if room.whole[node] >= min(demand.gpus[k], cap) else 0
    for gpu in range(cap):
        if room.milli[node, gpu] >= milli:
            usable += room.milli[node, gpu]
    return usable


@inner
def can_start(cluster, room, profile, node, gpu):
    """Whether a slice of this profile could be cut from the GPU: some legal start is free."""
    kind, taken = cluster.pool_mig[cluster.node_pool[node]], room.slices[node, gpu]
    if kind < 0 or (taken == 0 and room.milli[node, gpu] < WHOLE):
        return False
    for start in range(STARTS_MOST):
        if STARTS[profile, kind] >> start & 1 and taken & (((1 << SIZE[profile, kind]) - 1) << start) == 0:
            return True
    return False


@inner
def _gpu_slices(cluster, room, node, gpu):
    """Free memory slices of a cut GPU, in thousandths of it; 0 if it is not cut."""
    if room.slices[node, gpu] == 0:
        return 0
    slices = SLICES[cluster.pool_mig[cluster.node_pool[node]]]
    return WHOLE * (slices - bits(room.slices[node, gpu])) // slices


@inner
def _cut_free(cluster, room, node):
    """Free memory slices of the node's cut GPUs, in thousandths of GPUs."""
    p, total = cluster.node_pool[node], 0
    if cluster.pool_mig[p] >= 0:
        for gpu in range(cluster.pool_cap[p]):
            total += _gpu_slices(cluster, room, node, gpu)
    return total


@inner
def _has_cpu(cluster, room, demand, k, node):
    """Whether the node is open and has the task's CPU and memory, or those of the widest part it may have here."""
    g, cap = demand.gpus[k], cluster.pool_cap[cluster.node_pool[node]]
    part = cap if demand.milli[k] == WHOLE and g > cap else g
    return (
        room.closed[node] == 0
        and part_of(demand.cpus[k], part, g) <= room.cpus[node]
        and part_of(demand.memory[k], part, g) <= room.memory[node]
    )


@inner
def _asked(cluster, demand, k, p):
    """Thousandths of GPUs that a task of the type takes in pool p."""
    kind, profile = cluster.pool_mig[p], demand.profile[k]
    if profile < 0:
        return 1.0 * demand.gpus[k] * demand.milli[k]
    return 1.0 * WHOLE * SIZE[profile, kind] / SLICES[kind] if kind >= 0 else 1.0 * WHOLE


@inner
def _starved(room, demand, k, node, free, asked):
    """GPU amount of ``free`` for which CPU or memory would not suffice, were tasks of the type poured in."""
    fed = 1.0 * free
    if demand.cpus[k] > 0:
        fed = min(fed, room.cpus[node] / demand.cpus[k] * asked)
    if demand.memory[k] > 0:
        fed = min(fed, room.memory[node] / demand.memory[k] * asked)
    return free - fed


@kernel
def fragments(cluster, room, types):
    """Sum of the fragments of all nodes, in thousandths of GPUs."""
    total = 0.0
    for node in range(len(room.whole)):
        total += node_fragments(cluster, room, types, node)
    return total
