"""Compiled placement on nodes with CPU and memory, GPUs shared by the thousandth, and GPUs cut by MIG.

The same four verbs as in `rltune.core.resources.counts`, which knows whole GPUs only: ``fits``
asks, ``find`` chooses, ``take`` books and gives back, ``copy_room`` copies.

What a job may ask for:

- *whole GPUs*: a gang of g uses exactly m = ceil(g / GPUs per node) nodes of one pool. With m > 1: nodes
  it fills entirely first and the rest on the tightest node; failing that the m nodes with most room. CPU
  and memory are split over its nodes in proportion to the GPUs and must fit on each.
- *a share* (milli < 1000) of one GPU: of those of the chosen node the fullest on which it fits (RANDOM: any; LEAST_LOADED: the
  emptiest GPU of all nodes; FGD, STRANDING: the one on which their measure grows least).
- *no GPU* (milli = 0): CPU and memory of one node.
- *a MIG profile*: a legal free position on a GPU of a matching type that is already cut or wholly free,
  cut ones first (FGD, STRANDING: where their measure grows least). A cut GPU takes no other jobs until its last slice is given back.

Nodes and booking: `rltune.core.resources.room`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rltune.compiled import inner, kernel
from rltune.core.resources.fragments import TaskTypes, no_types
from rltune.core.resources.gradient import Memo, least_rise, memo
from rltune.core.resources.room import (
    Demand,
    Room,
    copy_room,
    demand_of,
    grant_of,
    hosts,
    idle_room,
    less_to_do,
    take,
    usable_gpus,
)
from rltune.core.resources.scores import FGD, FIRST_FIT, LEAST_LOADED, RANDOM, STRANDING, UNCUT, node_score
from rltune.core.resources.slices import INDICES, on_cut
from rltune.nouns.cluster import Cluster
from rltune.nouns.jobs import WHOLE

__all__ = (
    "Demand", "Place", "Room", "copy_room", "demand_of", "find", "fits", "idle_room", "place_scratch", "take",
)  # fmt: skip


class Place(NamedTuple):
    """Work space of ``find``; its answer is (``node``, ``grant``)[:m], by ascending node."""

    node: npt.NDArray[np.int64]  # (longest pool,)
    grant: npt.NDArray[np.int64]  # (longest pool,) GPUs there, as of `rltune.core.resources.slices`
    usable: npt.NDArray[np.int64]  # (n_nodes,) whole GPUs that a gang could use there
    fitting: npt.NDArray[np.int64]  # (n_nodes,) nodes to draw from (RANDOM)
    level: npt.NDArray[np.int64]  # (widest + 1,) nodes by usable GPUs
    want: npt.NDArray[np.int64]  # (widest + 1,) nodes to take at each level
    types: TaskTypes  # the workload, for FGD and STRANDING
    memo: Memo  # rises known already; empty unless `rltune.packing.online.fill` keeps it


def place_scratch(cluster: Cluster, types: TaskTypes | None = None) -> Place:
    """Work space for any job on this cluster; to FGD and STRANDING all nodes are alike if they do not know the types."""
    longest, widest = max(pool.nodes for pool in cluster.pools), max(1, *(pool.gpus_per_node for pool in cluster.pools))
    return Place(
        node=np.zeros(longest, np.int64),
        grant=np.zeros(longest, np.int64),
        usable=np.zeros(cluster.nodes, np.int64),
        fitting=np.zeros(cluster.nodes, np.int64),
        level=np.zeros(widest + 1, np.int64),
        want=np.zeros(widest + 1, np.int64),
        types=no_types() if types is None else types,
        memo=memo(np.zeros(0, np.int64), 0, 0),
    )


# --- does it fit ----------------------------------------------------------------------


@kernel
def fits(cluster, room, demand, job, among):
    """Whether ``job`` fits in one of the pools ``among`` now."""
    g, milli = demand.gpus[job], demand.milli[job]
    for q in range(among.lo, among.hi):
        p = among.pools[q]
        if milli < WHOLE or g <= cluster.pool_cap[p]:
            for node in range(cluster.pool_lo[p], cluster.pool_hi[p]):
                if hosts(cluster, room, demand, job, node):
                    return True
        elif _gang_fits(cluster, room, demand, job, p):
            return True
    return False


@inner
def _gang_fits(cluster, room, demand, job, p):
    """Whether ceil(g / cap) nodes of pool p hold the gang: the fullest usable ones decide."""
    g, cap = demand.gpus[job], cluster.pool_cap[p]
    if cap == 0:
        return False
    left, got, level = (g + cap - 1) // cap, 0, cap
    # Counting level by level instead of keeping a histogram: no work space is handed in here.
    while level > 0 and left > 0 and got < g:
        for node in range(cluster.pool_lo[p], cluster.pool_hi[p]):
            if left > 0 and room.whole[node] >= level and usable_gpus(room, demand, job, node, cap) == level:
                got += level
                left -= 1
        level -= 1
    return got >= g


# --- where does it go -----------------------------------------------------------------


@kernel
def find(cluster, room, demand, job, among, rule, draw, work):
    """Place ``job`` in one of the pools ``among``: the number of nodes used, 0 if it does not fit; see `Place` for the answer.

    ``rule``: one of `rltune.core.resources.scores.SHARING_RULES`; ``draw``: a random uint64, read by RANDOM only.
    One node where one can hold it; all allowed pools compete for it. Else a gang of the pool
    that it leaves tightest (FIRST_FIT: the first; LEAST_LOADED: with most free GPUs).
    """
    if rule in (FGD, STRANDING):
        node = least_rise(cluster, room, demand, job, among, work)
    else:
        node = _best_node(cluster, room, demand, job, among, rule, draw, work)
    if node >= 0:
        work.node[0] = node
        shared = 0 < demand.milli[job] < WHOLE
        if rule == RANDOM and shared:
            work.grant[0] = _random_gpu(room, demand.milli[job], node, draw)
        elif rule == LEAST_LOADED and shared:
            work.grant[0] = _emptiest_gpu(room, node)
        elif rule not in (FGD, STRANDING):
            work.grant[0] = grant_of(cluster, room, demand, job, node, demand.gpus[job])
        return 1
    if demand.milli[job] < WHOLE or demand.gpus[job] == 1:
        return 0
    best, best_cost = -1, np.inf
    for q in range(among.lo, among.hi):
        p = among.pools[q]
        if demand.gpus[job] > cluster.pool_cap[p] and _gang_fits(cluster, room, demand, job, p):
            cost = _pool_cost(cluster, room, demand, job, p, rule, work)
            if cost < best_cost:
                best, best_cost = p, cost
    if best < 0:
        return 0
    return _find_gang(cluster, room, demand, job, best, work)


@inner
def _best_node(cluster, room, demand, job, among, rule, draw, work):
    """The node of smallest score that can hold the whole job, ties by turn; -1 if none can."""
    best, best_score, count = -1, np.inf, 0
    whole = demand.milli[job] == WHOLE
    for q in range(among.lo, among.hi):
        p = among.pools[q]
        if whole and demand.gpus[job] > cluster.pool_cap[p]:
            continue
        for node in range(cluster.pool_lo[p], cluster.pool_hi[p]):
            if not hosts(cluster, room, demand, job, node):
                continue
            if rule == RANDOM:
                work.fitting[count] = node
                count += 1
                continue
            score = node_score(cluster, room, demand, job, node, rule)
            if demand.profile[job] >= 0 and not on_cut(cluster, room, demand, job, node):
                score += UNCUT
            if score < best_score or (score == best_score and room.turn[node] < room.turn[best]):
                best, best_score = node, score
    if count > 0:
        return work.fitting[(draw & np.uint64(INDICES)) % np.uint64(count)]
    return best


@inner
def _emptiest_gpu(room, node):
    """The least loaded GPU of the node; of equals one without idle MIG instances."""
    best = 0
    for i in range(1, room.milli.shape[1]):
        if room.milli[node, i] > room.milli[node, best] or less_to_do(room, node, i, best):
            best = i
    return 1 << best


@inner
def _random_gpu(room, milli, node, draw):
    """Any GPU of the node on which the share fits, by the upper half of ``draw``; the lower half chose the node."""
    count = 0
    for i in range(room.milli.shape[1]):
        count += room.milli[node, i] >= milli
    left = np.int64((draw >> np.uint64(32)) % np.uint64(count))
    for i in range(room.milli.shape[1]):
        if room.milli[node, i] >= milli:
            if left == 0:
                return 1 << i
            left -= 1
    return 0


# --- gangs over several nodes -----------------------------------------------------------


@inner
def _levels(cluster, room, demand, job, p, work):
    """Fill ``work.usable`` for pool p and ``work.level``: its nodes by usable GPUs."""
    cap = cluster.pool_cap[p]
    work.level[:] = 0
    for node in range(cluster.pool_lo[p], cluster.pool_hi[p]):
        work.usable[node] = usable_gpus(room, demand, job, node, cap)
        work.level[work.usable[node]] += 1


@inner
def _tightest(work, rest, cap):
    """Fewest usable GPUs, at least ``rest``, of any node; -1 if none has as many."""
    for f in range(rest, cap + 1):
        if work.level[f] > 0:
            return f
    return -1


@inner
def _pool_cost(cluster, room, demand, job, p, rule, work):
    """Order of pools for one gang: GPUs left on its partly used node, as BEST_FIT of `rltune.core.resources.counts`."""
    if rule == FIRST_FIT:
        return 0.0
    if rule == LEAST_LOADED:
        free = 0
        for node in range(cluster.pool_lo[p], cluster.pool_hi[p]):
            free += room.whole[node]
        return -float(free)
    _levels(cluster, room, demand, job, p, work)
    rest = demand.gpus[job] % cluster.pool_cap[p]
    f = _tightest(work, rest, cluster.pool_cap[p])
    return 0.0 if rest == 0 else 1e9 if f < 0 else float(f - rest)


@inner
def _find_gang(cluster, room, demand, job, p, work):
    """Entirely usable nodes first and the rest on the tightest; failing that, the m nodes with most usable GPUs."""
    g, cap = demand.gpus[job], cluster.pool_cap[p]
    full, rest = g // cap, g % cap
    _levels(cluster, room, demand, job, p, work)
    work.want[:] = 0
    f = _tightest(work, rest, cap) if rest > 0 else cap
    if f > 0 and work.level[cap] >= full + (1 if f == cap and rest > 0 else 0):
        work.want[cap] = full
        if rest > 0:
            work.want[f] += 1
        last = f
    else:
        left, last = (g + cap - 1) // cap, cap
        for level in range(cap, 0, -1):
            work.want[level] = min(work.level[level], left)
            left -= work.want[level]
            if work.want[level] > 0:
                last = level
    spare = -g
    for level in range(1, cap + 1):
        spare += level * work.want[level]
    m = 0
    for node in range(cluster.pool_lo[p], cluster.pool_hi[p]):
        level = work.usable[node]
        if level > 0 and work.want[level] > 0:
            work.want[level] -= 1
            amount = level
            if level == last and work.want[level] == 0:
                amount -= spare
            work.node[m] = node
            work.grant[m] = grant_of(cluster, room, demand, job, node, amount)
            m += 1
    return m
