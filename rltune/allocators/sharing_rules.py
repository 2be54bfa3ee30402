"""Which of the nodes that can hold a job gets it: scores, smallest first, ties to the lowest node."""

from __future__ import annotations

from rltune.compiled import kernel
from rltune.jobs import WHOLE

FIRST_FIT, BEST_FIT, LEAST_LOADED, RANDOM, DOT_PROD, GPU_CLUSTERING, GPU_PACKING = range(7)
SHARING_RULES: dict[str, int] = {
    "first_fit": FIRST_FIT,
    "best_fit": BEST_FIT,
    "least_loaded": LEAST_LOADED,
    "random": RANDOM,
    "dot_prod": DOT_PROD,
    "gpu_clustering": GPU_CLUSTERING,
    "gpu_packing": GPU_PACKING,
}


@kernel
def node_score(cluster, room, demand, job, node, rule):
    """Score of a node that can hold ``job`` (RANDOM has none).

    Jobs without a GPU keep away from nodes with free GPUs under FIRST_FIT and LEAST_LOADED; the published
    rules treat them as any other.
    """
    if demand.milli[job] == 0 and rule in (FIRST_FIT, LEAST_LOADED):
        return float(room.loose[node])
    if rule == BEST_FIT:
        return _least_left(room, node)
    if rule == LEAST_LOADED:
        return -float(room.loose[node])
    if rule == DOT_PROD:
        return _dot_product(room, demand, job, node)
    if rule == GPU_CLUSTERING:
        return _clustering(room, demand, job, node)
    if rule == GPU_PACKING:
        return _packing(cluster, room, demand, job, node)
    return 0.0


@kernel
def _relative(free, scale):
    """Free CPU or memory relative to the largest node; 0 where none is declared."""
    return 0.0 if free > scale * 2 else free / scale


@kernel
def _least_left(room, node):
    """Weighted sum of what is free: CPU and GPU, each relative to the largest node, half and half."""
    return 0.5 * _relative(room.cpus[node], room.scale[0]) + 0.5 * room.loose[node] / room.scale[2]


@kernel
def _dot_product(room, demand, job, node):
    """Sum over CPU and GPU of free times asked, each relative to the largest node."""
    cpus = _relative(room.cpus[node], room.scale[0]) * demand.cpus[job] / room.scale[0]
    return cpus + room.loose[node] / room.scale[2] * demand.gpus[job] * demand.milli[job] / room.scale[2]


@kernel
def _kind(room, demand, job):
    """Column of ``room.pods`` that counts jobs like this one; -1: none does."""
    if demand.profile[job] >= 0:
        return room.pods.shape[1] - 1
    if demand.milli[job] == WHOLE:
        return min(demand.gpus[job], room.pods.shape[1] - 2)
    return 0 if demand.milli[job] > 0 else -1


@kernel
def _clustering(room, demand, job, node):
    """Nodes that host jobs of the same request first, then the fullest."""
    kind = _kind(room, demand, job)
    same = kind >= 0 and room.pods[node, kind] > 0
    return (0.0 if same else 1e3) + _least_left(room, node)


@kernel
def _packing(cluster, room, demand, job, node):
    """GPUs already shared first, then free GPUs of nodes in use, then untouched nodes; in each the fullest node."""
    cap = cluster.pool_cap[cluster.node_pool[node]]
    tier = 2.0 if room.whole[node] == cap else 1.0
    if 0 < demand.milli[job] < WHOLE and demand.profile[job] < 0:
        for gpu in range(cap):
            if demand.milli[job] <= room.milli[node, gpu] < WHOLE:
                tier = 0.0
    return tier * 1e3 + _least_left(room, node)
