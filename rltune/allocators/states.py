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


class Free(NamedTuple):
    """What is free: ``room`` now, ``spare`` beside the reservation if there is one (``reserved``); ``idle`` (n_nodes, widest): idle MIG
    instances (`rltune.nouns.mig_layout`)."""

    cluster: ClusterArrays
    room: Room
    spare: Room
    idle: Ints
    reserved: bool


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


def classes_of(free: Free, node: Ints, gpu: Ints, apart: Ints | None = None) -> Classes:
    """Group the units (``node, gpu``), see `Classes`.

    ``apart``: nodes that are each a class alone, since running jobs are to be told apart there.
    """
    n, widest = len(node), free.room.milli.shape[1]
    of, first, size = (np.zeros(n, np.int64) for _ in range(3))
    table = np.full(1 << max(4, (2 * n).bit_length()), -1, np.int64)
    found = Classes(node, gpu, of, np.zeros((n, widest), np.int8), np.zeros((n, widest, 2), np.int64), first, size)
    m = classify(free, found, table)
    if apart is not None:
        m = _set_apart(np.flatnonzero(np.isin(node, apart)), of, first, size, m)
    return found._replace(first=first[:m], size=size[:m])


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
def classify(free, units, table):
    """Fill all but ``node, gpu`` of ``units``, a `Classes`: the number of classes. ``table``: hash table, a power of two of -1."""
    cluster, key, perm = free.cluster, units.key, units.perm
    classes = 0
    for u in range(len(units.node)):
        node = units.node[u]
        begin, end = 0, cluster.pool_cap[cluster.node_pool[node]]
        if units.gpu[u] >= 0:
            begin, end = units.gpu[u], units.gpu[u] + 1
        m = 0
        for g in range(begin, end):
            a, b = gpu_key(free, node, g)
            at = m
            while at > 0 and (key[u, at - 1, 0] < a or (key[u, at - 1, 0] == a and key[u, at - 1, 1] < b)):
                key[u, at, 0], key[u, at, 1], perm[u, at] = key[u, at - 1, 0], key[u, at - 1, 1], perm[u, at - 1]
                at -= 1
            key[u, at, 0], key[u, at, 1], perm[u, at] = a, b, g
            m += 1
        slot = _hash(free, units, u, m) & (len(table) - 1)
        while table[slot] >= 0 and not _equal(free, units, u, units.first[table[slot]], m):
            slot = (slot + 1) & (len(table) - 1)
        if table[slot] < 0:
            table[slot] = classes
            units.first[classes], units.size[classes] = u, 0
            classes += 1
        units.of[u] = table[slot]
        units.size[units.of[u]] += 1
    return classes


@inner
def gpu_key(free, node, g):
    """Two integers that say all about one GPU: what is free of it now and beside the reservation; its idle instances."""
    a = (np.int64(free.room.milli[node, g]) << 8) | np.int64(free.room.slices[node, g])
    if free.reserved:
        a = (a << 19) | (np.int64(free.spare.milli[node, g]) << 8) | np.int64(free.spare.slices[node, g])
    return a, free.idle[node, g]


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
def _hash(free, units, u, m):
    node, room = units.node[u], free.room
    h = mixed(np.int64(0x51ED27), free.cluster.node_pool[node])
    h = mixed(mixed(h, _amount(room.cpus[node])), _amount(room.memory[node]))
    if free.reserved:
        h = mixed(mixed(h, _amount(free.spare.cpus[node])), _amount(free.spare.memory[node]))
    for at in range(m):
        h = mixed(mixed(h, units.key[u, at, 0]), units.key[u, at, 1])
    return h


@inner
def _equal(free, units, u, v, m):
    i, j, room, spare = units.node[u], units.node[v], free.room, free.spare
    if free.cluster.node_pool[i] != free.cluster.node_pool[j] or (units.gpu[u] < 0) != (units.gpu[v] < 0):
        return False
    if room.cpus[i] != room.cpus[j] or room.memory[i] != room.memory[j]:
        return False
    if free.reserved and (spare.cpus[i] != spare.cpus[j] or spare.memory[i] != spare.memory[j]):
        return False
    for at in range(m):
        if units.key[u, at, 0] != units.key[v, at, 0] or units.key[u, at, 1] != units.key[v, at, 1]:
            return False
    return True
