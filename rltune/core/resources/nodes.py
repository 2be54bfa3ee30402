"""Free resources of the full build: GPUs by node, an index of nodes by free GPUs, and what is left of quotas.

`Room` says what is free on each node. The index is that of `rltune.core.resources.counts`: nodes by how many wholly free
GPUs they have (0 while closed), so that the nodes that can hold a job of whole GPUs are found without a walk over the
cluster. Every change goes through `book` and `close` here, which keep both in step.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rltune.compiled import inner
from rltune.core.resources.counts import (
    BEST_FIT as TIGHT,
)
from rltune.core.resources.counts import (
    Space,
    clear,
    copy_space,
    empty_space,
    find_tight,
    fits_pool,
    lowest_bit,
    recount,
    set_free,
    tight_cost,
    within,
)
from rltune.core.resources.places import find as find_anywhere
from rltune.core.resources.places import fits as fits_anywhere
from rltune.core.resources.room import Room, copy_room, grant_of, idle_room, take
from rltune.core.resources.scores import BEST_FIT, FGD, FIRST_FIT, LEAST_LOADED, RANDOM, STRANDING, node_score
from rltune.nouns.cluster import GRID, Cluster
from rltune.nouns.jobs import WHOLE


class Nodes(NamedTuple):
    """``room``: free resources of every node; ``levels``: open nodes by wholly free GPUs; ``left`` (n_quotas,): thousandths
    of GPUs left of each quota."""

    room: Room
    levels: Space
    left: npt.NDArray[np.int64]


def idle_nodes(cluster: Cluster, left: npt.NDArray[np.int64], keeps_instances: bool = False) -> Nodes:
    """Everything free, every node open, of quotas ``left``; see `rltune.core.resources.room.idle_room`."""
    return Nodes(idle_room(cluster, keeps_instances), empty_space(cluster.arrays()), left.copy())


def nodes_like(cluster: Cluster, nodes: Nodes) -> Nodes:
    """Work space for copies of ``nodes``, of the same cluster."""
    return idle_nodes(cluster, nodes.left, nodes.room.layout.shape[1] > 0)


@inner
def clear_nodes(cluster, nodes, quota):
    """Everything free, every node open, of quotas ``quota``."""
    room = nodes.room
    for node in range(len(room.whole)):
        p = cluster.node_pool[node]
        cap = cluster.pool_cap[p]
        for gpu in range(room.milli.shape[1]):
            room.milli[node, gpu] = WHOLE if gpu < cap else 0
            room.slices[node, gpu] = 0
        for gpu in range(room.layout.shape[1]):
            room.layout[node, gpu] = 0
        room.whole[node], room.loose[node], room.largest[node] = cap, cap * WHOLE, WHOLE if cap > 0 else 0
        room.cpus[node] = np.floor(cluster.pool_cpus[p] * GRID) / GRID
        room.memory[node] = np.floor(cluster.pool_memory[p] * GRID) / GRID
        room.closed[node] = 0
        for k in range(room.pods.shape[1]):
            room.pods[node, k] = 0
    clear(cluster, nodes.levels)
    for group in range(len(quota)):
        nodes.left[group] = quota[group]


# --- keeping the index in step -----------------------------------------------------------


@inner
def index_node(cluster, nodes, node):
    """Bring the index up to date with a node whose room has changed."""
    free = nodes.room.whole[node] if nodes.room.closed[node] == 0 else 0
    if nodes.levels.free[node] != free:
        set_free(cluster, nodes.levels, node, free)


@inner
def book(cluster, nodes, demand, job, held, sign):
    """Take (sign = -1) or give back (sign = +1) the places that ``job`` holds."""
    take(cluster, nodes.room, demand, job, held, sign)
    for i in range(held.base, held.base + held.m):
        index_node(cluster, nodes, held.node[i])


@inner
def charge_quota(nodes, group, amount, sign):
    """Take (-1) or give back (+1) ``amount`` thousandths of GPUs of quota ``group`` (-1: none)."""
    if group >= 0:
        nodes.left[group] += sign * amount


@inner
def close_node(cluster, nodes, node, by):
    """One more (by = +1) or one less (by = -1) reason why the node takes no new job."""
    nodes.room.closed[node] += by
    index_node(cluster, nodes, node)


@inner
def copy_nodes(source, target):
    """Copy all free resources, of the same cluster."""
    copy_room(source.room, target.room)
    copy_space(source.levels, target.levels)
    for group in range(len(source.left)):
        target.left[group] = source.left[group]


# --- what is free in both of two --------------------------------------------------------


@inner
def intersect(cluster, a, b, target):
    """``target``: what is free in both."""
    for node in range(len(target.room.whole)):
        intersect_node(a.room, b.room, target.room, node)
        target.levels.free[node] = target.room.whole[node] if target.room.closed[node] == 0 else 0
    recount(cluster, target.levels)
    intersect_quotas(a, b, target)


@inner
def intersect_places(cluster, a, b, target, node, base, m):
    """The same, where only the nodes ``node[base:base + m]`` and the quotas have changed since."""
    for i in range(base, base + m):
        intersect_node(a.room, b.room, target.room, node[i])
        index_node(cluster, target, node[i])
    intersect_quotas(a, b, target)


@inner
def intersect_quotas(a, b, target):
    for group in range(len(target.left)):
        target.left[group] = min(a.left[group], b.left[group])


@inner
def intersect_node(a, b, target, i):
    """One node: the smaller amounts, GPU by GPU.

    Of a GPU the smaller share; slices taken in either; a GPU cut in one and not wholly free in the other has neither.
    """
    target.cpus[i], target.memory[i] = min(a.cpus[i], b.cpus[i]), min(a.memory[i], b.memory[i])
    target.closed[i] = max(a.closed[i], b.closed[i])
    whole, loose, largest = 0, 0, 0
    for k in range(target.milli.shape[1]):
        milli = min(a.milli[i, k], b.milli[i, k])
        slices = a.slices[i, k] | b.slices[i, k]
        if slices != 0 and (
            (a.slices[i, k] == 0 and a.milli[i, k] < WHOLE) or (b.slices[i, k] == 0 and b.milli[i, k] < WHOLE)
        ):
            slices = -1
        if slices != 0:
            milli = 0
        target.milli[i, k], target.slices[i, k] = milli, slices
        whole += 1 if milli == WHOLE else 0
        loose += milli
        largest = max(largest, milli)
    target.whole[i], target.loose[i], target.largest[i] = whole, loose, largest
    for k in range(target.pods.shape[1]):
        target.pods[i, k] = a.pods[i, k]
    for k in range(target.layout.shape[1]):
        target.layout[i, k] = a.layout[i, k]


# --- does it fit, and where -------------------------------------------------------------


@inner
def of_whole_gpus(demand, job):
    """Whether GPUs, all of them whole, are all that the job asks for: the index alone decides then."""
    return (
        demand.milli[job] == WHOLE and demand.profile[job] < 0 and demand.cpus[job] == 0.0 and demand.memory[job] == 0.0
    )


@inner
def fits(cluster, nodes, demand, job, among):
    """Whether ``job`` fits in one of the pools ``among`` now."""
    if not of_whole_gpus(demand, job):
        return fits_anywhere(cluster, nodes.room, demand, job, among)
    for q in range(among.lo, among.hi):
        if fits_pool(cluster, nodes.levels, demand.gpus[job], among.pools[q]):
            return True
    return False


@inner
def find(cluster, nodes, demand, job, among, rule, bits, work):
    """Place ``job`` in one of the pools ``among``: the number of nodes, 0 if it does not fit; the answer is in ``work.found``.

    As `rltune.core.resources.places.find`, by the index where whole GPUs are all that is asked for. ``bits``: a random uint64.
    """
    if rule in (FGD, STRANDING, RANDOM) or not of_whole_gpus(demand, job):
        return find_anywhere(cluster, nodes.room, demand, job, among, rule, bits, work.found)
    node = best_node(cluster, nodes, demand, job, among, rule)
    if node >= 0:
        work.found.node[0] = node
        work.found.grant[0] = grant_of(cluster, nodes.room, demand, job, node, demand.gpus[job])
        return 1
    best, best_cost = -1, np.inf
    for q in range(among.lo, among.hi):
        p = among.pools[q]
        if demand.gpus[job] > cluster.pool_cap[p] and fits_pool(cluster, nodes.levels, demand.gpus[job], p):
            cost = gang_cost(cluster, nodes, demand.gpus[job], p, rule)
            if cost < best_cost:
                best, best_cost = p, cost
    if best < 0:
        return 0
    m = find_tight(cluster, nodes.levels, demand.gpus[job], best, TIGHT, work.gang)
    for i in range(m):
        node = work.gang.node[i]
        work.found.node[i] = node
        work.found.grant[i] = grant_of(cluster, nodes.room, demand, job, node, work.gang.gpus[i])
    return m


@inner
def gang_cost(cluster, nodes, g, p, rule):
    """Order of pools for a gang over several nodes: that of the rule's own kind."""
    if rule == FIRST_FIT:
        return 0.0
    if rule == LEAST_LOADED:
        free = 0
        for node in range(cluster.pool_lo[p], cluster.pool_hi[p]):
            free += nodes.room.whole[node]
        return -float(free)
    return tight_cost(cluster, nodes.levels, g, p, TIGHT)


@inner
def best_node(cluster, nodes, demand, job, among, rule):
    """The node of smallest score that holds all GPUs of the job, ties by turn; -1 if none does."""
    room, g = nodes.room, demand.gpus[job]
    best, best_score = -1, np.inf
    for q in range(among.lo, among.hi):
        p = among.pools[q]
        for f in range(g, cluster.pool_cap[p] + 1):
            # A node's score under BEST_FIT grows with its free GPUs: a fuller level cannot be beaten by an emptier one.
            if rule == BEST_FIT and best >= 0 and best_score < 0.5 * WHOLE * f / room.scale[2]:
                break
            if nodes.levels.level[p, f] == 0:
                continue
            first, last = cluster.pool_lo[p], cluster.pool_hi[p]
            for w in range(first >> 5, (last + 31) >> 5):
                word = within(nodes.levels.at[f, w], w, first, last)
                while word != 0:
                    node = w * 32 + lowest_bit(word)
                    word &= word - 1
                    score = node_score(cluster, room, demand, job, node, rule)
                    if score < best_score or (score == best_score and room.turn[node] < room.turn[best]):
                        best, best_score = node, score
    return best
