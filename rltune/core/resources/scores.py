"""Which of the nodes that can hold a job gets it: scores, smallest first.

The rules beside which Fragmentation Gradient Descent was published (Weng et al., USENIX ATC'23, section 6). Where
their description leaves freedom, the choice is one whose results agree with the published table
(`experiments/openb_fragmentation.py`). These choices were fitted: some 500 variants were run on six of its workloads
(default, cpu250, gpushare100, gpuspec20, gpuspec33, multigpu50), and the authors' code was not consulted. So they
may differ from it and still agree in the mean.

- "free" is CPU and GPU, not memory, each relative to the largest node of the cluster;
- the dot product is the mean over both, in whole percent as scores of a Kubernetes scheduler are, and so often equal;
- clustering counts all shares as one kind of request, and takes the fullest node by GPUs among equals;
- packing asks first for a GPU already shared on which the share fits, then for a node of which some GPU is in use, at
  last for an untouched node, small ones first;
- random draws the node and, for a share, the GPU on it (with the fullest GPU it fragments less than published);
- clustering and packing have no opinion on jobs without a GPU.

FGD itself, and STRANDING, place where a measure grows least (`rltune.core.resources.gradient`) and have no score.

Equal scores go by ``Room.turn``: lowest node first, unless another order was set.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rltune.compiled import inner
from rltune.nouns.errors import InputError
from rltune.nouns.jobs import WHOLE

FIRST_FIT, BEST_FIT, LEAST_LOADED, RANDOM, DOT_PROD, GPU_CLUSTERING, GPU_PACKING, FGD, STRANDING = range(9)
SHARING_RULES: dict[str, int] = {
    "first_fit": FIRST_FIT,
    "best_fit": BEST_FIT,
    "least_loaded": LEAST_LOADED,
    "random": RANDOM,
    "dot_prod": DOT_PROD,
    "gpu_clustering": GPU_CLUSTERING,
    "gpu_packing": GPU_PACKING,
    "fgd": FGD,
    "stranding": STRANDING,
}
NEXT_TIER = 1e3
"""More than any score within a tier: free GPUs of a node, at most 32."""
UNCUT = 1e6
"""Added where a MIG slice would need a GPU that is not cut yet: more than any score."""


@dataclass(frozen=True, slots=True)
class SharingRule:
    """An allocator of the detailed simulation, by the name of its rule."""

    rule: str

    def __post_init__(self) -> None:
        if self.rule not in SHARING_RULES:
            raise InputError(f"allocator {self.rule!r} is unknown; known are {', '.join(SHARING_RULES)}")


@inner
def node_score(cluster, room, demand, job, node, rule):
    """Score of a node that can hold ``job``; RANDOM, FGD and STRANDING have none, FIRST_FIT the same for all.

    Jobs without a GPU keep away from nodes with free GPUs under FIRST_FIT and LEAST_LOADED; the published
    rules know no such care.
    """
    if demand.milli[job] == 0 and rule in (FIRST_FIT, LEAST_LOADED):
        return float(room.loose[node])
    if rule == BEST_FIT:
        return _least_left(room, node)
    if rule == LEAST_LOADED and 0 < demand.milli[job] < WHOLE:
        # The least loaded GPU decides, then the node.
        return -1e6 * room.largest[node] - room.loose[node]
    if rule == LEAST_LOADED:
        return -float(room.loose[node])
    if rule == DOT_PROD:
        return _dot_product(room, demand, job, node)
    if rule == GPU_CLUSTERING:
        return _clustering(room, demand, job, node)
    if rule == GPU_PACKING:
        return _packing(cluster, room, demand, job, node)
    return 0.0


@inner
def _relative(free, most):
    """Free CPU relative to the largest node; 0 where none is declared (free is infinite then)."""
    return 0.0 if free > most else free / most


@inner
def _least_left(room, node):
    """Weighted sum of what is free: CPU and GPU, half and half."""
    return 0.5 * _relative(room.cpus[node], room.scale[0]) + 0.5 * room.loose[node] / room.scale[2]


@inner
def _dot_product(room, demand, job, node):
    """Mean over CPU and GPU of free times asked, in whole percent."""
    cpus = _relative(room.cpus[node], room.scale[0]) * demand.cpus[job] / room.scale[0]
    gpus = room.loose[node] / room.scale[2] * demand.gpus[job] * demand.milli[job] / room.scale[2]
    return np.floor(50.0 * (cpus + gpus))


@inner
def _clustering(room, demand, job, node):
    """Nodes that host jobs of the same request first, then the fullest by GPUs."""
    if demand.profile[job] >= 0:
        kind = room.pods.shape[1] - 1
    elif demand.milli[job] == WHOLE:
        kind = min(demand.gpus[job], room.pods.shape[1] - 2)
    elif demand.milli[job] > 0:
        kind = 0
    else:
        return 0.0
    return (0.0 if room.pods[node, kind] > 0 else NEXT_TIER) + room.loose[node] / WHOLE


@inner
def _packing(cluster, room, demand, job, node):
    """GPUs already shared first, then free GPUs of nodes in use, then untouched nodes, small ones first."""
    milli, cap = demand.milli[job], cluster.pool_cap[cluster.node_pool[node]]
    if milli == 0:
        return 0.0
    if milli < WHOLE:
        for gpu in range(cap):
            if milli <= room.milli[node, gpu] < WHOLE:
                return 0.0
    return NEXT_TIER if room.whole[node] < cap else 2 * NEXT_TIER + cap
