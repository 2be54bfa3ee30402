"""States of single units as rows of arrays: loading a class or a node, placing one more part, telling states apart.

What `rltune.allocators.columns` searches on and `rltune.allocators.plan_terms` replays plans on.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rltune.allocators.measure import Measure, node_cost
from rltune.allocators.states import Classes, Free, mixed
from rltune.compiled import inner
from rltune.core.resources.instances import layout_for
from rltune.core.resources.places import Demand, Room, take
from rltune.core.resources.room import Held
from rltune.core.resources.slices import START_BIT
from rltune.nouns.cluster import ClusterArrays
from rltune.nouns.jobs import WHOLE

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

USED, FULL, EACH = 0, 1, 2
"""Slots of ``Search.n``: rows in use; whether rows were wanted beyond those there are; whether equal rows are kept."""


class Items(NamedTuple):
    """What may be placed on one unit: a whole job, or a part of a gang; those of pool p are ``lo[p]:hi[p]``.

    ``demand`` (n_items,): of one part; ``late``: 1 where the job may end after the reservation begins, and must fit
    beside it; ``most``: parts that all jobs together could place; ``parts`` (n_pools,): the same of all items together;
    ``code``: random number of the item; ``grant``: of a part that a running job holds, by the sorted position of the GPUs
    of its class; -1: any that fits.
    """

    demand: Demand
    lo: Ints
    hi: Ints
    late: Ints
    most: Ints
    parts: Ints
    code: Ints
    grant: Ints


class Given(NamedTuple):
    """What a search is about; ``weights`` (n_levels, 2): of fragmentation and seconds, most important level first."""

    free: Free
    classes: Classes
    items: Items
    measure: Measure
    weights: Floats


class Search(NamedTuple):
    """Rows of the search; ``room, spare, idle`` and ``cluster.node_pool`` have one entry a row.

    ``root``: class; ``parent``; ``item, grant``: the last part and its GPUs by sorted position; ``run``: how often that
    item so far, ``depth``: parts in all; ``code``: of its parts, ``state``: of its GPUs; ``cost``: fragmentation of the unit, GPUs;
    ``seconds``: of reconfiguration; ``best``: 1 where no row has the same parts for less.
    ``seen, cheapest``: hash tables; ``at, kind*``: work space.
    """

    cluster: ClusterArrays
    room: Room
    spare: Room
    idle: Ints
    root: Ints
    parent: Ints
    item: Ints
    grant: Ints
    run: Ints
    depth: Ints
    code: Ints
    state: Ints
    cost: Floats
    seconds: Floats
    best: npt.NDArray[np.int8]
    seen: Ints
    cheapest: Ints
    at: Ints
    n: Ints
    kind: Ints
    kind_first: Ints
    kind_count: Ints
    kind_chosen: Ints
    kind_used: Ints


def build_search(cluster: ClusterArrays, room: Room, rows: int) -> Search:
    """Work space of ``rows`` rows for nodes as wide as those of ``room``."""
    widest = room.milli.shape[1]

    def ints(n: int = rows) -> Ints:
        return np.zeros(n, np.int64)

    def blank() -> Room:
        gpus = np.zeros((rows, widest), np.int32)
        return Room(
            milli=gpus, slices=gpus.copy(), layout=np.zeros((rows, 0), np.int64),
            whole=ints(), loose=ints(), largest=ints(), cpus=np.zeros(rows),
            memory=np.zeros(rows), closed=ints(), pods=np.zeros((rows, widest + 2), np.int32), scale=room.scale, turn=ints(),
        )  # fmt: skip

    slots = 1 << (2 * rows).bit_length()
    return Search(
        cluster=cluster._replace(node_pool=ints()), room=blank(), spare=blank(), idle=np.zeros((rows, widest), np.int64),
        root=ints(), parent=ints(), item=ints(), grant=ints(), run=ints(), depth=ints(), code=ints(), state=ints(), cost=np.zeros(rows),
        seconds=np.zeros(rows), best=np.zeros(rows, np.int8), seen=ints(slots), cheapest=ints(slots), at=ints(2), n=ints(3),
        kind=ints(widest), kind_first=ints(widest), kind_count=ints(widest), kind_chosen=ints(widest), kind_used=ints(widest),
    )  # fmt: skip


@inner
def load_root(search, row, given, c):
    """Class c as it is, its GPUs in sorted order, into a row."""
    free, classes = given.free, given.classes
    u = classes.first[c]
    node = classes.node[u]
    p = free.cluster.node_pool[node]
    gpus = 1 if classes.gpu[u] >= 0 else free.cluster.pool_cap[p]
    search.cluster.node_pool[row] = p
    search.root[row], search.parent[row], search.item[row], search.run[row], search.depth[row] = c, -1, -1, 0, 0
    search.code[row], search.state[row], search.seconds[row], search.best[row] = 0, 0, 0.0, 0
    load_row(search.room, row, free.room, node, classes.perm, u, gpus)
    if free.reserved:
        load_row(search.spare, row, free.spare, node, classes.perm, u, gpus)
    for at in range(search.idle.shape[1]):
        search.idle[row, at] = 0
    for at in range(gpus):
        search.idle[row, at] = free.idle[node, classes.perm[u, at]]
    search.cost[row] = node_cost(search.cluster, search.room, given.measure, row)
    search.n[USED] = row + 1


@inner
def load_row(target, row, source, node, perm, u, gpus):
    target.cpus[row], target.memory[row], target.closed[row] = source.cpus[node], source.memory[node], 0
    whole, loose, largest = 0, 0, 0
    for at in range(target.milli.shape[1]):
        milli, slices = 0, 0
        if at < gpus:
            milli, slices = source.milli[node, perm[u, at]], source.slices[node, perm[u, at]]
        target.milli[row, at], target.slices[row, at] = milli, slices
        whole += 1 if milli == WHOLE else 0
        loose += milli
        largest = max(largest, milli)
    target.whole[row], target.loose[row], target.largest[row] = whole, loose, largest


@inner
def load_unit(search, row, room, idle, node, gpu):
    """A node, or one GPU of it, as it is, into a row."""
    target = search.room
    target.cpus[row], target.memory[row], target.closed[row] = room.cpus[node], room.memory[node], 0
    whole, loose, largest = 0, 0, 0
    for at in range(target.milli.shape[1]):
        source = at if gpu < 0 else gpu
        inside = gpu < 0 or at == 0
        milli = room.milli[node, source] if inside else 0
        target.milli[row, at], target.slices[row, at] = milli, room.slices[node, source] if inside else 0
        search.idle[row, at] = idle[node, source] if inside else 0
        whole += 1 if milli == WHOLE else 0
        loose += milli
        largest = max(largest, milli)
    target.whole[row], target.loose[row], target.largest[row] = whole, loose, largest


@inner
def copy_row(room, source, target):
    room.cpus[target], room.memory[target], room.closed[target] = room.cpus[source], room.memory[source], 0
    room.whole[target], room.loose[target] = room.whole[source], room.loose[source]
    room.largest[target] = room.largest[source]
    for at in range(room.milli.shape[1]):
        room.milli[target, at], room.slices[target, at] = room.milli[source, at], room.slices[source, at]


@inner
def same_gpu(search, row, a, b, reserved):
    """Whether two GPUs of a row are in the same state."""
    room, spare = search.room, search.spare
    if room.milli[row, a] != room.milli[row, b] or room.slices[row, a] != room.slices[row, b]:
        return False
    if search.idle[row, a] != search.idle[row, b]:
        return False
    return not reserved or (spare.milli[row, a] == spare.milli[row, b] and spare.slices[row, a] == spare.slices[row, b])


@inner
def seen_before(search, row, gpu, reserved):
    """Whether an earlier GPU of the row is just like this one."""
    for other in range(gpu):
        if same_gpu(search, row, other, gpu, reserved):
            return True
    return False


@inner
def book(search, given, parent, row, item, grant):
    """The parent's state with the part placed, into ``row``."""
    items = given.items
    search.cluster.node_pool[row] = search.cluster.node_pool[parent]
    copy_row(search.room, parent, row)
    for at in range(search.idle.shape[1]):
        search.idle[row, at] = search.idle[parent, at]
    search.seconds[row] = search.seconds[parent]
    kind = search.cluster.pool_mig[search.cluster.node_pool[row]]
    if kind >= 0:
        for gpu in range(search.idle.shape[1]):
            if grant >> gpu & 1 == 1:
                remake_on(search, row, gpu, grant >> START_BIT, items.demand.profile[item], kind)
    search.at[0], search.at[1] = row, grant
    take(search.cluster, search.room, items.demand, item, Held(search.at[:1], search.at[1:], 0, 1), -1)
    if given.free.reserved:
        copy_row(search.spare, parent, row)
        if items.late[item]:
            take(search.cluster, search.spare, items.demand, item, Held(search.at[:1], search.at[1:], 0, 1), -1)


@inner
def remake_on(search, row, gpu, start, profile, kind):
    """Reconfigure one GPU for the part, and count the seconds."""
    left, seconds = layout_for(search.idle[row, gpu], profile, start, kind, 0.0)
    search.idle[row, gpu] = left
    search.seconds[row] += seconds


@inner
def state_of(search, row, reserved):
    """A number of the GPUs' states, whatever their order."""
    total = np.int64(0)
    for gpu in range(search.cluster.pool_cap[search.cluster.node_pool[row]]):
        h = mixed(
            mixed(np.int64(0x1F35), np.int64(search.room.milli[row, gpu])), np.int64(search.room.slices[row, gpu])
        )
        h = mixed(h, search.idle[row, gpu])
        if reserved:
            h = mixed(mixed(h, np.int64(search.spare.milli[row, gpu])), np.int64(search.spare.slices[row, gpu]))
        total += h
    return total
