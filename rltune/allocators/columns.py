"""Every way to fill a unit of a class with parts of the waiting jobs: the columns of the joint model.

A breadth-first search in compiled code. Its rows are states of one unit each: the first rows are the classes as they
are, every other row is its parent with one more part placed, parts in ascending order of their item, on each GPU (and
from each legal start of a MIG slice) that is not just like one tried before. Of all rows of a class with the same
parts the cheapest is a column. A row equal to an earlier one is not kept.

The search stops where its rows run out: all patterns with few parts come before those with more, so what is lost
is known to be large patterns (`Search.complete`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rltune.allocators.measure import node_cost
from rltune.allocators.partition import clear_all, remake
from rltune.allocators.sharing import Demand, Room, take
from rltune.allocators.sharing_mig import INDICES, START_BIT, bits, lowest
from rltune.allocators.states import mixed
from rltune.cluster import ClusterArrays
from rltune.compiled import inner, kernel
from rltune.jobs import WHOLE
from rltune.mig_profiles import SIZE, STARTS, STARTS_MOST

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

USED, FULL, EACH = 0, 1, 2
"""Slots of ``Search.n``: rows in use; whether rows were wanted beyond those there are; whether equal rows are kept."""
MOST_UNLIKE = 8
"""Free GPUs of a node among which every set is tried for a job of whole GPUs, where they are not alike."""
FRAGMENTATION, SECONDS = 0, 1
"""Columns of the weights by which two arrangements of the same parts are compared."""


class Items(NamedTuple):
    """What may be placed on one unit: a whole job, or a part of a gang; those of pool p are ``lo[p]:hi[p]``.

    ``demand`` (n_items,): of one part; ``late``: 1 where the job may end after the reservation begins, and must fit
    beside it; ``most``: parts that all jobs together could place; ``code``: random number of the item.
    """

    demand: Demand
    lo: Ints
    hi: Ints
    late: Ints
    most: Ints
    code: Ints


class Search(NamedTuple):
    """Rows of the search; ``room, spare, idle`` and ``cluster.node_pool`` have one entry a row.

    ``root``: class; ``parent``; ``item, grant``: the last part and its GPUs by sorted position; ``run``: how often that
    item so far; ``code``: of its parts, ``state``: of its GPUs; ``cost``: fragmentation of the unit, GPUs;
    ``seconds``: of reconfiguration; ``best``: 1 where no row has the same parts for less.
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
    code: Ints
    state: Ints
    cost: Floats
    seconds: Floats
    best: npt.NDArray[np.int8]
    seen: Ints
    cheapest: Ints
    at: Ints
    n: Ints


def build_search(cluster: ClusterArrays, room: Room, rows: int) -> Search:
    """Work space of ``rows`` rows for nodes as wide as those of ``room``."""
    widest = room.milli.shape[1]

    def blank() -> Room:
        return Room(
            *(np.zeros((rows, widest), np.int32) for _ in range(2)), *(np.zeros(rows, np.int64) for _ in range(3)),
            *(np.zeros(rows) for _ in range(2)), np.zeros(rows, np.int64), np.zeros((rows, widest + 2), np.int32),
            room.scale, np.zeros(rows, np.int64),
        )  # fmt: skip

    slots = 1 << (2 * rows).bit_length()
    return Search(
        cluster._replace(node_pool=np.zeros(rows, np.int64)),
        blank(),
        blank(),
        np.zeros((rows, widest), np.int64),
        *(np.zeros(rows, np.int64) for _ in range(7)),
        *(np.zeros(rows) for _ in range(2)),
        np.zeros(rows, np.int8),
        *(np.zeros(slots, np.int64) for _ in range(2)),
        np.zeros(2, np.int64),
        np.zeros(3, np.int64),
    )


@kernel
def search_columns(search, cluster, room, spare, idle, reserved, classes, items, allowed, measure, weights):
    """Fill ``search`` with all patterns of all classes, or as many as it has rows for: the number of rows.

    ``allowed`` (n_classes, n_items): 1 where the item is to be tried on the class; a class without any is left out.
    ``weights`` (n_levels, 2): of fragmentation and seconds, most important level first. There must be more rows than classes.
    """
    search.seen[:] = -1
    search.cheapest[:] = -1
    search.n[USED], search.n[FULL], search.n[EACH] = 0, 0, 0
    for c in range(len(classes.first)):
        p = cluster.node_pool[classes.node[classes.first[c]]]
        wanted = False
        for item in range(items.lo[p], items.hi[p]):
            wanted = wanted or allowed[c, item] == 1
        if wanted:
            load_root(search, search.n[USED], cluster, room, spare, idle, reserved, classes, c, measure)
    row = 0
    while row < search.n[USED]:
        p = search.cluster.node_pool[row]
        for item in range(max(items.lo[p], search.item[row]), items.hi[p]):
            before = search.run[row] if item == search.item[row] else 0
            if (
                before < items.most[item]
                and allowed[search.root[row], item] == 1
                and room_beside(search, items, row, item, reserved)
            ):
                place_everywhere(search, row, item, reserved, items, measure, weights)
        row += 1
    return search.n[USED]


@kernel
def single_costs(search, cluster, room, spare, idle, reserved, classes, items, measure, weights, cost):
    """Fill ``cost`` (n_classes, n_items): what one part of the item alone adds at the most important level; inf: does not fit."""
    search.n[FULL], search.n[EACH] = 0, 1
    for c in range(len(classes.first)):
        load_root(search, 0, cluster, room, spare, idle, reserved, classes, c, measure)
        p = search.cluster.node_pool[0]
        for item in range(items.lo[p], items.hi[p]):
            search.n[USED] = 1
            if room_beside(search, items, 0, item, reserved):
                place_everywhere(search, 0, item, reserved, items, measure, weights)
            for row in range(1, search.n[USED]):
                rise = weights[0, FRAGMENTATION] * (search.cost[row] - search.cost[0])
                cost[c, item] = min(cost[c, item], rise + weights[0, SECONDS] * search.seconds[row])


@inner
def load_root(search, row, cluster, room, spare, idle, reserved, classes, c, measure):
    """Class c as it is, its GPUs in sorted order, into a row."""
    u = classes.first[c]
    node = classes.node[u]
    p = cluster.node_pool[node]
    gpus = 1 if classes.gpu[u] >= 0 else cluster.pool_cap[p]
    search.cluster.node_pool[row] = p
    search.root[row], search.parent[row], search.item[row], search.run[row] = c, -1, -1, 0
    search.code[row], search.state[row], search.seconds[row], search.best[row] = 0, 0, 0.0, 0
    load_row(search.room, row, room, node, classes.perm, u, gpus)
    if reserved:
        load_row(search.spare, row, spare, node, classes.perm, u, gpus)
    for at in range(search.idle.shape[1]):
        search.idle[row, at] = 0
    for at in range(gpus):
        search.idle[row, at] = idle[node, classes.perm[u, at]]
    search.cost[row] = node_cost(search.cluster, search.room, measure, row)
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
def copy_row(room, source, target):
    room.cpus[target], room.memory[target], room.closed[target] = room.cpus[source], room.memory[source], 0
    room.whole[target], room.loose[target] = room.whole[source], room.loose[source]
    room.largest[target] = room.largest[source]
    for at in range(room.milli.shape[1]):
        room.milli[target, at], room.slices[target, at] = room.milli[source, at], room.slices[source, at]


@inner
def room_beside(search, items, row, item, reserved):
    """Whether CPU and memory suffice, now and, for a late part, beside the reservation."""
    cpus, memory = items.demand.cpus[item], items.demand.memory[item]
    if search.room.cpus[row] < cpus or search.room.memory[row] < memory:
        return False
    return not (reserved and items.late[item] and (search.spare.cpus[row] < cpus or search.spare.memory[row] < memory))


@inner
def place_everywhere(search, row, item, reserved, items, measure, weights):
    """A child of ``row`` for each distinct way to place one more ``item``."""
    demand, late = items.demand, reserved and items.late[item] == 1
    cap = search.cluster.pool_cap[search.cluster.node_pool[row]]
    if demand.profile[item] >= 0:
        for gpu in range(cap):
            if not seen_before(search, row, gpu, reserved):
                place_slices(search, row, item, gpu, late, reserved, items, measure, weights)
    elif demand.milli[item] == 0:
        push(search, row, item, np.int64(0), reserved, items, measure, weights)
    elif demand.milli[item] == WHOLE:
        place_whole(search, row, item, cap, late, reserved, items, measure, weights)
    else:
        for gpu in range(cap):
            fits = search.room.milli[row, gpu] >= demand.milli[item]
            if late:
                fits = fits and search.spare.milli[row, gpu] >= demand.milli[item]
            if fits and not seen_before(search, row, gpu, reserved):
                push(search, row, item, np.int64(1) << gpu, reserved, items, measure, weights)


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
def place_whole(search, row, item, cap, late, reserved, items, measure, weights):
    """A child for each set of wholly free GPUs that is not just like one tried before.

    They mostly are alike, and there is one set. Where idle instances or the reservation tell them apart, every set of
    the first `MOST_UNLIKE` is tried.
    """
    wanted, free, first, alike = items.demand.gpus[item], np.int64(0), -1, True
    for gpu in range(cap):
        if search.room.milli[row, gpu] == WHOLE and not (late and search.spare.milli[row, gpu] != WHOLE):
            free |= np.int64(1) << gpu
            first = gpu if first < 0 else first
            alike = alike and same_gpu(search, row, first, gpu, reserved)
    if bits(free) < wanted:
        return
    if not alike:
        for chosen in range(1, np.int64(1) << min(cap, MOST_UNLIKE)):
            if chosen & free == chosen and bits(chosen) == wanted and is_first(search, row, chosen, free, reserved):
                push(search, row, item, np.int64(chosen), reserved, items, measure, weights)
        if cap <= MOST_UNLIKE:
            return
    while bits(free) > wanted:
        free &= ~(np.int64(1) << (63 - leading_zeros(free)))
    push(search, row, item, free, reserved, items, measure, weights)


@inner
def leading_zeros(mask):
    at = 62
    while mask >> at & 1 == 0:
        at -= 1
    return 63 - at


@inner
def is_first(search, row, chosen, free, reserved):
    """Whether the set takes the first of each kind of free GPU."""
    for gpu in range(MOST_UNLIKE):
        if chosen >> gpu & 1 == 0 and free >> gpu & 1 == 1:
            for later in range(gpu + 1, MOST_UNLIKE):
                if chosen >> later & 1 == 1 and same_gpu(search, row, gpu, later, reserved):
                    return False
    return True


@inner
def place_slices(search, row, item, gpu, late, reserved, items, measure, weights):
    """A child for each legal free start of a MIG slice on one GPU."""
    room, spare, profile = search.room, search.spare, items.demand.profile[item]
    kind = search.cluster.pool_mig[search.cluster.node_pool[row]]
    if kind < 0 or STARTS[profile, kind] == 0:
        return
    if room.slices[row, gpu] == 0 and room.milli[row, gpu] != WHOLE:
        return
    if late and spare.slices[row, gpu] == 0 and spare.milli[row, gpu] != WHOLE:
        return
    for start in range(STARTS_MOST):
        mask = ((1 << SIZE[profile, kind]) - 1) << start
        free = STARTS[profile, kind] >> start & 1 == 1 and room.slices[row, gpu] & mask == 0
        if free and not (late and spare.slices[row, gpu] & mask != 0):
            grant = (np.int64(1) << gpu) | (np.int64(start) << START_BIT)
            push(search, row, item, grant, reserved, items, measure, weights)


@inner
def push(search, parent, item, grant, reserved, items, measure, weights):
    """One more row: ``parent`` with ``item`` placed at ``grant``; nothing where an earlier row is the same and no dearer."""
    row = search.n[USED]
    if row == len(search.root):
        search.n[FULL] = 1
        return
    book(search, parent, row, item, grant, reserved, items)
    search.root[row], search.parent[row] = search.root[parent], parent
    search.item[row], search.grant[row] = item, grant
    search.run[row] = search.run[parent] + 1 if search.item[parent] == item else 1
    search.code[row] = search.code[parent] + items.code[item]
    search.state[row] = state_of(search, row, reserved)
    if search.n[EACH] == 0 and is_known(search, row):
        return
    search.cost[row] = node_cost(search.cluster, search.room, measure, row)
    search.n[USED] = row + 1
    if search.n[EACH] == 0:
        keep_cheapest(search, row, weights)


@inner
def book(search, parent, row, item, grant, reserved, items):
    """The parent's state with the part placed, into ``row``."""
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
    take(search.cluster, search.room, items.demand, item, search.at[:1], search.at[1:], 0, 1, -1)
    if reserved:
        copy_row(search.spare, parent, row)
        if items.late[item]:
            take(search.cluster, search.spare, items.demand, item, search.at[:1], search.at[1:], 0, 1, -1)


@inner
def remake_on(search, row, gpu, start, profile, kind):
    """Reconfigure one GPU for the part, and count the seconds."""
    if profile >= 0:
        left, seconds = remake(search.idle[row, gpu], profile, kind, start)
    else:
        left, seconds = np.int64(0), clear_all(search.idle[row, gpu], kind)
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


@inner
def is_known(search, row):
    """Whether an earlier row has the same parts and state and took no longer to reach; else it is entered."""
    slots = len(search.seen) - 1
    slot = mixed(mixed(search.root[row], search.code[row]), search.state[row]) & slots
    while search.seen[slot] >= 0:
        other = search.seen[slot]
        if (
            search.root[other] == search.root[row]
            and search.code[other] == search.code[row]
            and search.state[other] == search.state[row]
        ):
            if search.seconds[other] <= search.seconds[row]:
                return True
            break
        slot = (slot + 1) & slots
    search.seen[slot] = row
    return False


@inner
def keep_cheapest(search, row, weights):
    """Mark the row best of those with its parts, if it is."""
    slots = len(search.cheapest) - 1
    slot = mixed(search.root[row], search.code[row]) & slots
    search.best[row] = 1
    while search.cheapest[slot] >= 0:
        other = search.cheapest[slot]
        if search.root[other] == search.root[row] and search.code[other] == search.code[row]:
            if not_dearer(search, other, row, weights):
                search.best[row] = 0
                return
            search.best[other] = 0
            break
        slot = (slot + 1) & slots
    search.cheapest[slot] = row


@inner
def not_dearer(search, a, b, weights):
    """Whether row a costs at most as much as row b, the most important level first."""
    for level in range(weights.shape[0]):
        x = weights[level, FRAGMENTATION] * search.cost[a] + weights[level, SECONDS] * search.seconds[a]
        y = weights[level, FRAGMENTATION] * search.cost[b] + weights[level, SECONDS] * search.seconds[b]
        if x < y - 1e-12:
            return True
        if x > y + 1e-12:
            return False
    return True


@kernel
def list_parts(search, rows, column, item, parts):
    """Which items the columns of ``rows`` (n,) place and how many: triplets into the last three, their number."""
    m = 0
    for k in range(len(rows)):
        row = rows[k]
        while search.parent[row] >= 0:
            column[m], item[m], parts[m] = k, search.item[row], search.run[row]
            m += 1
            # The run's first row has the parent with the previous item.
            for _ in range(search.run[row]):
                row = search.parent[row]
    return m


@kernel
def plan_cost(search, cluster, room, idle, classes_by_gpu, demand, job, node, grant, measure, answer):
    """What the parts ``job, node, grant`` (n_parts,) of a plan add: ``answer`` = (fragmentation, seconds).

    ``classes_by_gpu`` (n_pools,): 1 where fragmentation is counted GPU by GPU. Rows of ``search`` are the touched
    nodes (or GPUs) before and after; there must be two for each part.
    """
    answer[0], answer[1] = 0.0, 0.0
    used = 0
    for k in range(len(job)):
        p = cluster.node_pool[node[k]]
        gpu = lowest(grant[k] & INDICES) if classes_by_gpu[p] else -1
        row = -1
        for other in range(used):
            # ``parent`` and ``item`` of these rows are the node and GPU they stand for.
            if search.parent[other] == node[k] and search.item[other] == gpu:
                row = other
        if row < 0:
            row = used
            used += 1
            search.parent[row], search.item[row] = node[k], gpu
            search.cluster.node_pool[row] = p
            load_unit(search, row, room, idle, node[k], gpu)
            search.cost[row], search.seconds[row] = node_cost(search.cluster, search.room, measure, row), 0.0
        here = grant[k] if gpu < 0 else (grant[k] >> START_BIT << START_BIT) | 1
        if grant[k] & INDICES == 0:
            here = np.int64(0)
        kind = cluster.pool_mig[p]
        if kind >= 0:
            for at in range(search.idle.shape[1]):
                if here >> at & 1 == 1:
                    remake_on(search, row, at, here >> START_BIT, demand.profile[job[k]], kind)
        search.at[0], search.at[1] = row, here
        take(search.cluster, search.room, demand, job[k], search.at[:1], search.at[1:], 0, 1, -1)
    for row in range(used):
        answer[0] += node_cost(search.cluster, search.room, measure, row) - search.cost[row]
        answer[1] += search.seconds[row]


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
