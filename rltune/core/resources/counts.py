"""Compiled placement: where would a gang go, given the free GPUs of every node.

One function finds (``find``), one asks only whether (``fits``), one books
(``book``). They are the only code that decides placements greedily: the
simulator's event loop, the training environment and the allocators on
snapshots all call them.

A gang of g GPUs uses exactly m = ceil(g / GPUs per node) nodes of one pool.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rltune.compiled import inner, kernel
from rltune.nouns.cluster import MAX_GPUS_PER_NODE, ClusterArrays

LEXICOGRAPHIC = 0
BEST_FIT = 1
LEAST_FRAGMENTATION = 2
_BIT_AT = np.empty(32, np.int64)
_BIT_AT[[((0x077CB531 << k) & 0xFFFFFFFF) >> 27 for k in range(32)]] = np.arange(32)
RULES = {"lexicographic": LEXICOGRAPHIC, "best_fit": BEST_FIT, "least_fragmentation": LEAST_FRAGMENTATION}


class Space(NamedTuple):
    """Free whole GPUs by node, and an index of nodes by them: the lowest with f free is found without a walk."""

    free: npt.NDArray[np.int64]  # (n_nodes,) free GPUs
    level: npt.NDArray[np.int64]  # (n_pools, cap + 1) nodes with f free GPUs
    total: npt.NDArray[np.int64]  # (n_pools,) free GPUs
    at: npt.NDArray[np.int64]  # (cap + 1, words) which nodes have f free GPUs, as bits, 32 nodes a word
    cost: npt.NDArray[np.float64]  # (n_pools, cap + 1) of a node with f free GPUs; read by LEAST_FRAGMENTATION


class Scratch(NamedTuple):
    """Work space of ``find``; its answer is (``node``, ``gpus``)[:m]."""

    node: npt.NDArray[np.int64]  # (widest pool,) nodes taken
    gpus: npt.NDArray[np.int64]  # (widest pool,) GPUs on each
    try_node: npt.NDArray[np.int64]  # (widest pool,) a candidate
    try_gpus: npt.NDArray[np.int64]  # (widest pool,)
    take: npt.NDArray[np.int64]  # (most GPUs a node + 1,) nodes to take at each level
    left: npt.NDArray[np.int64]  # (most GPUs a node + 1,)


def empty_space(cluster: ClusterArrays, cost: npt.NDArray[np.float64] | None = None) -> Space:
    """The free capacity of the idle cluster."""
    cap = int(cluster.pool_cap.max())
    n_pools = len(cluster.pool_cap)
    space = Space(
        free=np.empty(len(cluster.node_pool), np.int64),
        level=np.empty((n_pools, cap + 1), np.int64),
        total=np.empty(n_pools, np.int64),
        at=np.empty((cap + 1, (len(cluster.node_pool) + 31) // 32), np.int64),
        cost=np.zeros((n_pools, cap + 1)) if cost is None else cost,
    )
    clear(cluster, space)
    return space


def space_of(cluster: ClusterArrays, free: npt.NDArray[np.int64], cost: npt.NDArray[np.float64] | None = None) -> Space:
    """A working copy of the free capacity ``free`` (n_nodes,)."""
    space = empty_space(cluster, cost)
    space.free[:] = free
    recount(cluster, space)
    return space


def scratch(cluster: ClusterArrays) -> Scratch:
    widest = int((cluster.pool_hi - cluster.pool_lo).max())
    return Scratch(
        *(np.zeros(widest, np.int64) for _ in range(4)),
        *(np.zeros(MAX_GPUS_PER_NODE + 1, np.int64) for _ in range(2)),
    )


@kernel
def clear(cluster, space):
    """Free every GPU."""
    for p in range(len(cluster.pool_cap)):
        for i in range(cluster.pool_lo[p], cluster.pool_hi[p]):
            space.free[i] = cluster.pool_cap[p]
    recount(cluster, space)


@inner
def copy_space(source, target):
    """Copy the free capacity."""
    for i in range(len(source.free)):
        target.free[i] = source.free[i]
    for p in range(len(source.total)):
        target.total[p] = source.total[p]
        for f in range(source.level.shape[1]):
            target.level[p, f] = source.level[p, f]
    for f in range(source.at.shape[0]):
        for w in range(source.at.shape[1]):
            target.at[f, w] = source.at[f, w]


@kernel
def free_gpus(space):
    """Free GPUs of all pools."""
    total = 0
    for p in range(len(space.total)):
        total += space.total[p]
    return total


@kernel
def recount(cluster, space):
    """Rebuild all else from ``free``."""
    space.level[:] = 0
    space.total[:] = 0
    space.at[:] = 0
    for i in range(len(space.free)):
        p, f = cluster.node_pool[i], space.free[i]
        space.level[p, f] += 1
        space.total[p] += f
        space.at[f, i >> 5] |= 1 << (i & 31)


@inner
def set_free(cluster, space, node, after):
    """Give a node ``after`` free GPUs."""
    p = cluster.node_pool[node]
    before = space.free[node]
    bit = 1 << (node & 31)
    space.free[node] = after
    space.level[p, before] -= 1
    space.level[p, after] += 1
    space.at[before, node >> 5] &= ~bit
    space.at[after, node >> 5] |= bit
    space.total[p] += after - before


@kernel
def book(cluster, space, nodes, gpus, base, m, sign):
    """Take (sign = -1) or give back (sign = +1) ``gpus[base:base + m]`` on ``nodes[base:base + m]``."""
    for i in range(base, base + m):
        set_free(cluster, space, nodes[i], space.free[nodes[i]] + sign * gpus[i])


@inner
def lowest_bit(word):
    """Position of the lowest set bit of a word of 32 (Leiserson, Prokop, Randall 1998: de Bruijn sequence)."""
    return _BIT_AT[(((word & -word) * 0x077CB531) & 0xFFFFFFFF) >> 27]


@kernel
def within(word, w, lo, hi):
    """The bits of word number ``w`` that stand for nodes lo <= node < hi."""
    if w == lo >> 5:
        word &= -1 << (lo & 31)
    if w == hi >> 5:
        word &= (1 << (hi & 31)) - 1
    return word


@inner
def first_node(cluster, space, p, f):
    """The lowest node of pool p with f free GPUs; there must be one."""
    lo, hi = cluster.pool_lo[p], cluster.pool_hi[p]
    w = lo >> 5
    word = within(space.at[f, w], w, lo, hi)
    while word == 0:
        w += 1
        word = within(space.at[f, w], w, lo, hi)
    return w * 32 + lowest_bit(word)


@inner
def fits_pool(cluster, space, g, p):
    """Whether exactly ceil(g / cap) nodes of pool p can hold g GPUs now."""
    if space.total[p] < g:
        return False
    cap = cluster.pool_cap[p]
    if g <= cap:
        for f in range(cap, g - 1, -1):
            if space.level[p, f] > 0:
                return True
        return False
    nodes_left = (g + cap - 1) // cap
    got = 0
    for f in range(cap, 0, -1):
        k = min(space.level[p, f], nodes_left)
        got += k * f
        nodes_left -= k
        if nodes_left == 0:
            break
    return nodes_left == 0 and got >= g


@kernel
def fits(cluster, space, g, pools, lo, hi):
    """Whether a gang of g GPUs fits in one of ``pools[lo:hi]`` now."""
    for i in range(lo, hi):
        if fits_pool(cluster, space, g, pools[i]):
            return True
    return False


@kernel
def find(cluster, space, g, pools, lo, hi, rule, work):
    """Place g GPUs in one of ``pools[lo:hi]``: the number of nodes used, 0 if it does not fit.

    The placement is left in ``work.node[:m], work.gpus[:m]``, by ascending node.
    """
    if rule == LEXICOGRAPHIC:
        return _find_lexicographic(cluster, space, g, pools, lo, hi, work)
    best, best_cost = -1, np.inf
    if hi == lo + 1:
        best = pools[lo]
        if not fits_pool(cluster, space, g, best):
            return 0
        return find_tight(cluster, space, g, best, rule, work)
    for i in range(lo, hi):
        p = pools[i]
        if fits_pool(cluster, space, g, p):
            cost = tight_cost(cluster, space, g, p, rule)
            if cost < best_cost:
                best, best_cost = p, cost
    if best < 0:
        return 0
    return find_tight(cluster, space, g, best, rule, work)


# --- best fit and least fragmentation -------------------------------------------------


@inner
def _tight_level(cluster, space, g, p, rule):
    """Free count of the node a part of g <= cap GPUs goes to; -1 if none has room.

    BEST_FIT: the fullest node with room. LEAST_FRAGMENTATION: the smallest rise of
    the fragmentation cost, ties to the fullest.
    """
    best, best_cost = -1, np.inf
    for f in range(g, cluster.pool_cap[p] + 1):
        if space.level[p, f] > 0:
            if rule == BEST_FIT:
                return f
            rise = space.cost[p, f - g] - space.cost[p, f]
            if rise < best_cost - 1e-12:
                best, best_cost = f, rise
    return best


@inner
def tight_cost(cluster, space, g, p, rule):
    """Order of pools for one gang: GPUs left on its partly used node, or the rise in fragmentation."""
    cap = cluster.pool_cap[p]
    rest = g % cap
    if rest == 0:
        return 0.0 if rule == BEST_FIT else -(g // cap) * space.cost[p, cap]
    f = _tight_level(cluster, space, rest, p, rule)
    if f < 0:
        return 1e9
    if rule == BEST_FIT:
        return float(f - rest)
    return space.cost[p, f - rest] - space.cost[p, f] - (g // cap) * space.cost[p, cap]


@inner
def find_tight(cluster, space, g, p, rule, work):
    """Whole free nodes first and the rest on the tightest node; failing that, the m freest nodes."""
    cap = cluster.pool_cap[p]
    if g <= cap:
        f = _tight_level(cluster, space, g, p, rule)
        work.node[0], work.gpus[0] = first_node(cluster, space, p, f), g
        return 1
    whole, rest = g // cap, g % cap
    m = whole + (1 if rest > 0 else 0)
    f = _tight_level(cluster, space, rest, p, rule) if rest > 0 else 0
    work.take[: cap + 1] = 0
    work.take[cap] = whole
    if rest > 0 and f > 0 and space.level[p, cap] >= whole + (1 if f == cap else 0):
        work.take[f] += 1
        return _collect(cluster, space, g, p, m, f, work)
    if rest == 0:
        return _collect(cluster, space, g, p, m, cap, work)
    left = m
    last = cap
    for level in range(cap, 0, -1):
        k = min(space.level[p, level], left)
        work.take[level] = k
        left -= k
        if k > 0:
            last = level
        if left == 0:
            break
    return _collect(cluster, space, g, p, m, last, work)


@inner
def _collect(cluster, space, g, p, m, last, work):
    """Take ``work.take[f]`` nodes of each level, lowest ids first; the last of level ``last`` is left partly free."""
    cap = cluster.pool_cap[p]
    spare = -g
    for f in range(1, cap + 1):
        work.left[f] = work.take[f]
        spare += f * work.take[f]
    count = 0
    lo, hi = cluster.pool_lo[p], cluster.pool_hi[p]
    for w in range(lo >> 5, (hi + 31) >> 5):
        word = 0
        for f in range(1, cap + 1):
            if work.left[f] > 0:
                word |= space.at[f, w]
        word = within(word, w, lo, hi)
        while word != 0:
            i = w * 32 + lowest_bit(word)
            word &= word - 1
            f = space.free[i]
            if work.left[f] > 0:
                work.left[f] -= 1
                work.node[count] = i
                work.gpus[count] = f - spare if f == last and work.left[f] == 0 else f
                count += 1
                if count == m:
                    return m
    return m


# --- lexicographic (RLTune) -----------------------------------------------------------


@inner
def _find_lexicographic(cluster, space, g, pools, lo, hi, work):
    best = 0
    for i in range(lo, hi):
        p = pools[i]
        if not fits_pool(cluster, space, g, p):
            continue
        if g <= cluster.pool_cap[p]:
            node = cluster.pool_lo[p]
            while space.free[node] < g:
                node += 1
            work.try_node[0], work.try_gpus[0] = node, g
            best = _keep_smaller(cluster, best, 1, work)
        else:
            best = _try_patterns(cluster, space, g, p, best, work)
    return best


@inner
def _try_patterns(cluster, space, g, p, best, work):
    """All ways to take m nodes from the groups of equal free counts.

    The nodes fall short of m full ones by at most ``slack`` = m cap - g < cap
    GPUs together, so only few patterns exist: an odometer runs over
    how many nodes miss 1, 2, ... GPUs; the rest are entirely free.
    """
    cap = cluster.pool_cap[p]
    m = (g + cap - 1) // cap
    slack = m * cap - g
    deepest = min(slack, cap - 1)
    work.take[: cap + 1] = 0
    partly, missing = 0, 0
    while True:
        whole = m - partly
        if 0 <= whole <= space.level[p, cap]:
            work.take[cap] = whole
            spare = slack - missing
            for last in range(1, cap + 1):
                k = work.take[last]
                if k > 0 and k * last - spare >= k:
                    _lay_out(cluster, space, p, last, k * last - spare, work)
                    best = _keep_smaller(cluster, best, m, work)
                    if spare == 0:
                        break
        miss = 1
        while miss <= deepest:
            level = cap - miss
            if work.take[level] < space.level[p, level] and missing + miss <= slack and partly < m:
                work.take[level] += 1
                partly += 1
                missing += miss
                break
            partly -= work.take[level]
            missing -= miss * work.take[level]
            work.take[level] = 0
            miss += 1
        if miss > deepest:
            return best


@inner
def _lay_out(cluster, space, p, last, amount, work):
    """Candidate for ``work.take``: group ``last`` shares ``amount`` GPUs as evenly as whole GPUs allow.

    Of all non-increasing splits the most even is the lexicographically smallest.
    """
    cap = cluster.pool_cap[p]
    for f in range(1, cap + 1):
        work.left[f] = work.take[f]
    k = work.take[last]
    base, extra = amount // k, amount % k
    count = 0
    for i in range(cluster.pool_lo[p], cluster.pool_hi[p]):
        f = space.free[i]
        if f > 0 and work.left[f] > 0:
            work.left[f] -= 1
            gpus = f
            if f == last:
                gpus = base
                if extra > 0:
                    gpus += 1
                    extra -= 1
            work.try_node[count] = i
            work.try_gpus[count] = gpus
            count += 1


@inner
def _keep_smaller(cluster, best, m, work):
    """Keep the candidate of m nodes if it is smaller, as a list of (node id, GPUs), than the one of ``best`` nodes."""
    smaller = best == 0
    if not smaller:
        for i in range(min(best, m)):
            a, b = cluster.node_id[work.try_node[i]], cluster.node_id[work.node[i]]
            if a == b:
                a, b = work.try_gpus[i], work.gpus[i]
            if a != b:
                smaller = a < b
                break
        else:
            smaller = m < best
    if smaller:
        for i in range(m):
            work.node[i] = work.try_node[i]
            work.gpus[i] = work.try_gpus[i]
        return m
    return best


@kernel
def fit_alone(cluster, space, num_gpus, lo, hi, pools, answer):
    """Fill ``answer`` (n,): 1 where the job fits in one of its pools now."""
    for k in range(len(num_gpus)):
        for i in range(lo[k], hi[k]):
            if fits_pool(cluster, space, num_gpus[k], pools[i]):
                answer[k] = 1
