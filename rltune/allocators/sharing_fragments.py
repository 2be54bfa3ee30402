"""How much of the free GPUs is of no use to the workload: the fragmentation measure of FGD.

Weng et al., USENIX ATC'23, section 3. For a node n and a type of task m, F_n(m) is the free GPU amount
that m could not use there: all of it where the node cannot host m (or m wants no GPU); otherwise that on GPUs
whose free share is smaller than what m asks of one GPU. F_n(M) is the mean over the types M by their frequency.
A GPU cut by MIG counts as in use, whatever slices are free.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rltune.allocators.sharing import Demand, demand_of, hosts, usable_gpus
from rltune.cluster import Cluster, eligibility
from rltune.compiled import inner, kernel
from rltune.jobs import WHOLE, JobTable


class TaskTypes(NamedTuple):
    """Distinct requests of a workload.

    ``demand`` (n_types,) each; ``share`` (n_types,): of the jobs, sums to 1; ``allowed`` (n_types, n_pools): 1 where
    the type may use the pool.
    """

    demand: Demand
    share: npt.NDArray[np.float64]
    allowed: npt.NDArray[np.int8]


def task_types(jobs: JobTable, cluster: Cluster) -> TaskTypes:
    """The requests in a job table, by number of GPUs and share, CPU, memory, MIG profile and the pools they may use."""
    demand, classes = demand_of(jobs, cluster), eligibility(jobs, cluster)
    keys = np.stack([*(column.astype(np.float64) for column in demand), classes.cls.astype(np.float64)], axis=1)
    _, first, counts = np.unique(keys, axis=0, return_index=True, return_counts=True)
    allowed = np.zeros((len(first), len(cluster.pools)), np.int8)
    for k, c in enumerate(classes.cls[first]):
        allowed[k, classes.pools[classes.ptr[c] : classes.ptr[c + 1]]] = 1
    return TaskTypes(Demand._make(column[first] for column in demand), counts / len(jobs), allowed)


@inner
def node_fragments(cluster, room, types, node):
    """F_n(M) of one node, in thousandths of GPUs."""
    p = cluster.node_pool[node]
    cap = cluster.pool_cap[p]
    total = 0.0
    if room.loose[node] == 0:
        return total
    for k in range(len(types.share)):
        milli = types.demand.milli[k]
        wasted = room.loose[node]
        if milli > 0 and types.allowed[k, p] and _serves(cluster, room, types.demand, k, node, cap):
            wasted = 0
            for gpu in range(cap):
                if room.milli[node, gpu] < milli:
                    wasted += room.milli[node, gpu]
        total += types.share[k] * wasted
    return total


@inner
def _serves(cluster, room, demand, job, node, cap):
    """Whether the node could hold the task, or the widest part of a gang of several nodes."""
    if demand.milli[job] == WHOLE and demand.gpus[job] > cap:
        return usable_gpus(room, demand, job, node, cap) == cap
    return hosts(cluster, room, demand, job, node)


@kernel
def fragments(cluster, room, types):
    """Sum of F_n(M) over all nodes: fragmented GPUs in thousandths."""
    total = 0.0
    for node in range(len(room.whole)):
        total += node_fragments(cluster, room, types, node)
    return total
