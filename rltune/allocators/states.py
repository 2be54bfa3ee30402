"""Nodes in equal states, counted instead of named: what keeps the model small however large the cluster is.

A *unit* is what one pattern of jobs is placed on: a node, or a single GPU of a node where nothing but the GPU ties
its jobs together (`rltune.allocators.joint`). Units of one pool with the same free GPUs (as a multiset: GPUs of a
node are alike), CPU, memory and partition, now and beside the reservation, are one *class*. The first unit of a class
stands for all; ``perm`` says which GPU of each unit has the place of which GPU of the first.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rltune.compiled import inner, kernel
from rltune.core.resources.places import Room
from rltune.nouns.cluster import GRID, ClusterArrays

Ints = npt.NDArray[np.int64]


class Classes(NamedTuple):
    """``node, gpu`` (n_units,): the unit, gpu -1 = the whole node; ``of`` (n_units,): its class; ``perm`` (n_units, widest).

    ``key`` (n_units, widest, 2): states of its GPUs, sorted; ``first, size`` (n_classes,): first unit, and how many.
    """

    node: Ints
    gpu: Ints
    of: Ints
    perm: npt.NDArray[np.int8]
    key: Ints
    first: Ints
    size: Ints


def classes_of(
    cluster: ClusterArrays, room: Room, spare: Room, idle: Ints, node: Ints, gpu: Ints, *, reserved: bool,
    apart: Ints | None = None,
) -> Classes:  # fmt: skip
    """Group the units (``node, gpu``), see `Classes`. ``idle``: see `rltune.nouns.mig_layout`; ``spare`` counts if ``reserved``.

    ``apart``: nodes that are each a class alone, since running jobs are to be told apart there.
    """
    n, widest = len(node), room.milli.shape[1]
    key, perm = np.zeros((n, widest, 2), np.int64), np.zeros((n, widest), np.int8)
    of, first, count = (np.zeros(n, np.int64) for _ in range(3))
    table = np.full(1 << max(4, (2 * n).bit_length()), -1, np.int64)
    m = classify(cluster, room, spare, idle, reserved, node, gpu, key, perm, of, first, count, table)
    if apart is not None:
        m = _set_apart(np.flatnonzero(np.isin(node, apart)), of, first, count, m)
    return Classes(node, gpu, of, perm, key, first[:m], count[:m])


def _set_apart(units: Ints, of: Ints, first: Ints, count: Ints, m: int) -> int:
    """Make each of the units a class alone, others keep theirs: how many classes there are then."""
    single = np.isin(np.arange(len(of)), units)
    rest = of[~single]
    used, inverse = np.unique(rest, return_inverse=True)
    of[~single] = inverse
    of[units] = len(used) + np.arange(len(units))
    m = len(used) + len(units)
    count[:m] = np.bincount(of, minlength=m)
    for c in range(m):
        first[c] = np.argmax(of == c)
    return m


@kernel
def classify(cluster, room, spare, idle, reserved, unit_node, unit_gpu, key, perm, of, first, count, table):
    """Fill ``key, perm, of, first, count``: the number of classes. ``table``: hash table, a power of two of -1."""
    classes = 0
    for u in range(len(unit_node)):
        node = unit_node[u]
        begin, end = 0, cluster.pool_cap[cluster.node_pool[node]]
        if unit_gpu[u] >= 0:
            begin, end = unit_gpu[u], unit_gpu[u] + 1
        m = 0
        for g in range(begin, end):
            a, b = gpu_key(room, spare, idle, reserved, node, g)
            at = m
            while at > 0 and (key[u, at - 1, 0] < a or (key[u, at - 1, 0] == a and key[u, at - 1, 1] < b)):
                key[u, at, 0], key[u, at, 1], perm[u, at] = key[u, at - 1, 0], key[u, at - 1, 1], perm[u, at - 1]
                at -= 1
            key[u, at, 0], key[u, at, 1], perm[u, at] = a, b, g
            m += 1
        slot = _hash(cluster, room, spare, reserved, node, key, u, m) & (len(table) - 1)
        while table[slot] >= 0 and not _equal(
            cluster, room, spare, reserved, unit_node, unit_gpu, key, u, first[table[slot]], m
        ):
            slot = (slot + 1) & (len(table) - 1)
        if table[slot] < 0:
            table[slot] = classes
            first[classes], count[classes] = u, 0
            classes += 1
        of[u] = table[slot]
        count[of[u]] += 1
    return classes


@inner
def gpu_key(room, spare, idle, reserved, node, g):
    """Two integers that say all about one GPU: what is free of it now and beside the reservation; its idle instances."""
    a = (np.int64(room.milli[node, g]) << 8) | np.int64(room.slices[node, g])
    if reserved:
        a = (a << 19) | (np.int64(spare.milli[node, g]) << 8) | np.int64(spare.slices[node, g])
    return a, idle[node, g]


@inner
def mixed(h, x):
    """One more number in a hash; integers wrap."""
    h = (h ^ x) * 0x2545F4914F6CDD1D
    return h ^ (h >> 29)


@inner
def _amount(x):
    """CPU or memory as an integer; -1 where none is declared."""
    return np.int64(x * GRID) if x < 1e12 else np.int64(-1)


@inner
def _hash(cluster, room, spare, reserved, node, key, u, m):
    h = mixed(
        mixed(mixed(np.int64(0x51ED27), cluster.node_pool[node]), _amount(room.cpus[node])), _amount(room.memory[node])
    )
    if reserved:
        h = mixed(mixed(h, _amount(spare.cpus[node])), _amount(spare.memory[node]))
    for at in range(m):
        h = mixed(mixed(h, key[u, at, 0]), key[u, at, 1])
    return h


@inner
def _equal(cluster, room, spare, reserved, unit_node, unit_gpu, key, u, v, m):
    i, j = unit_node[u], unit_node[v]
    if cluster.node_pool[i] != cluster.node_pool[j] or (unit_gpu[u] < 0) != (unit_gpu[v] < 0):
        return False
    if room.cpus[i] != room.cpus[j] or room.memory[i] != room.memory[j]:
        return False
    if reserved and (spare.cpus[i] != spare.cpus[j] or spare.memory[i] != spare.memory[j]):
        return False
    for at in range(m):
        if key[u, at, 0] != key[v, at, 0] or key[u, at, 1] != key[v, at, 1]:
            return False
    return True
