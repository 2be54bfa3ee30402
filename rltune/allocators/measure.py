"""What a partly used node costs, as the joint model counts it: one number in GPUs for a node in any state."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rltune.compiled import inner, kernel
from rltune.core.resources.fragments import TaskTypes, node_fragments
from rltune.nouns.jobs import WHOLE


class Measure(NamedTuple):
    """``table`` (n_pools, cap + 1) of `rltune.allocators.fragmentation`, by free GPUs; where it is empty (0, 0), the
    fragmentation of `rltune.core.resources.fragments` for the workload ``types``."""

    table: npt.NDArray[np.float64]
    types: TaskTypes


@inner
def node_cost(cluster, room, measure, node):
    """Fragmentation of one node, GPUs; a table is interpolated between whole numbers of free GPUs."""
    if measure.table.shape[0] == 0:
        return node_fragments(cluster, room, measure.types, node) / WHOLE
    row = measure.table[cluster.node_pool[node]]
    low, rest = room.loose[node] // WHOLE, room.loose[node] % WHOLE
    if rest == 0:
        return row[low]
    return row[low] + (row[low + 1] - row[low]) * rest / WHOLE


@kernel
def nodes_cost(cluster, room, measure, nodes):
    """Sum of `node_cost` over ``nodes`` (n,)."""
    total = 0.0
    for k in range(len(nodes)):
        total += node_cost(cluster, room, measure, nodes[k])
    return total
