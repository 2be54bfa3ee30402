"""Every way to fill a unit of a class with parts of the waiting jobs: the columns of the joint model.

A breadth-first search in compiled code. Its rows are states of one unit each: the first rows are the classes as they
are, every other row is its parent with one more part placed, parts in ascending order of their item, on each GPU (and
from each legal start of a MIG slice) that is not just like one tried before. Of all rows of a class with the same
parts the cheapest is a column. A row equal to an earlier one is not kept.

The search stops where its rows run out: all patterns with few parts come before those with more, so what is lost
is known to be large patterns (`Search.complete`).
"""

from __future__ import annotations

import numpy as np

from rltune.allocators.measure import node_cost
from rltune.allocators.rows import EACH, FULL, USED, book, load_root, same_gpu, seen_before, state_of
from rltune.allocators.states import mixed
from rltune.compiled import inner, kernel
from rltune.core.resources.slices import START_BIT
from rltune.nouns.jobs import WHOLE
from rltune.nouns.mig_profiles import SIZE, STARTS, STARTS_MOST

FRAGMENTATION, SECONDS = 0, 1
"""Columns of the weights by which two arrangements of the same parts are compared."""


@kernel
def search_columns(search, given, allowed):
    """Fill ``search`` with all patterns of all classes, or as many as it has rows for: the number of rows.

    ``allowed`` (n_classes, n_items): 1 where the item is to be tried on the class; a class without any is left out.
    Classes for which no row is left are left out like patterns. No pattern has more parts than all jobs together.
    """
    cluster, classes, items = given.free.cluster, given.classes, given.items
    search.seen[:] = -1
    search.cheapest[:] = -1
    search.n[USED], search.n[FULL], search.n[EACH] = 0, 0, 0
    for c in range(len(classes.first)):
        p = cluster.node_pool[classes.node[classes.first[c]]]
        wanted = False
        for item in range(items.lo[p], items.hi[p]):
            wanted = wanted or allowed[c, item] == 1
        if wanted and search.n[USED] == len(search.root):
            search.n[FULL] = 1
        elif wanted:
            load_root(search, search.n[USED], given, c)
    row = 0
    while row < search.n[USED]:
        p = search.cluster.node_pool[row]
        end = items.hi[p] if search.depth[row] < items.parts[p] else 0
        for item in range(max(items.lo[p], search.item[row]), end):
            before = search.run[row] if item == search.item[row] else 0
            if (
                before < items.most[item]
                and allowed[search.root[row], item] == 1
                and room_beside(search, given, row, item)
            ):
                place_everywhere(search, given, row, item)
        row += 1
    return search.n[USED]


@kernel
def single_costs(search, given, cost):
    """Fill ``cost`` (n_classes, n_items): what one part of the item alone adds at the most important level; inf: does not fit."""
    items, weights = given.items, given.weights
    search.n[FULL], search.n[EACH] = 0, 1
    for c in range(len(given.classes.first)):
        load_root(search, 0, given, c)
        p = search.cluster.node_pool[0]
        for item in range(items.lo[p], items.hi[p]):
            # What a running job holds is tried where it is, and nowhere else.
            if items.grant[item] >= 0:
                continue
            search.n[USED] = 1
            if room_beside(search, given, 0, item):
                place_everywhere(search, given, 0, item)
            for row in range(1, search.n[USED]):
                rise = weights[0, FRAGMENTATION] * (search.cost[row] - search.cost[0])
                cost[c, item] = min(cost[c, item], rise + weights[0, SECONDS] * search.seconds[row])


@inner
def is_late(given, item):
    """Whether a part has to fit beside the reservation too."""
    return given.free.reserved and given.items.late[item] == 1


@inner
def room_beside(search, given, row, item):
    """Whether CPU and memory suffice, now and, for a late part, beside the reservation."""
    cpus, memory = given.items.demand.cpus[item], given.items.demand.memory[item]
    if search.room.cpus[row] < cpus or search.room.memory[row] < memory:
        return False
    return not (is_late(given, item) and (search.spare.cpus[row] < cpus or search.spare.memory[row] < memory))


@inner
def place_everywhere(search, given, row, item):
    """A child of ``row`` for each distinct way to place one more ``item``."""
    items, demand = given.items, given.items.demand
    cap = search.cluster.pool_cap[search.cluster.node_pool[row]]
    if items.grant[item] >= 0:
        # Held parts do not overlap and come first: its GPUs are still as they were.
        push(search, given, row, item, items.grant[item])
    elif demand.profile[item] >= 0:
        for gpu in range(cap):
            if not seen_before(search, row, gpu, given.free.reserved):
                place_slices(search, given, row, item, gpu)
    elif demand.milli[item] == 0:
        push(search, given, row, item, np.int64(0))
    elif demand.milli[item] == WHOLE:
        place_whole(search, given, row, item, cap)
    else:
        for gpu in range(cap):
            fits = search.room.milli[row, gpu] >= demand.milli[item]
            if is_late(given, item):
                fits = fits and search.spare.milli[row, gpu] >= demand.milli[item]
            if fits and not seen_before(search, row, gpu, given.free.reserved):
                push(search, given, row, item, np.int64(1) << gpu)


@inner
def place_whole(search, given, row, item, cap):
    """A child for each set of wholly free GPUs that is not just like another.

    They mostly are alike, and there is one set. Where idle instances or the reservation tell kinds of them apart, the sets
    are all ways to take so many of each kind, in the order of an odometer.
    """
    wanted, kinds, free, late = given.items.demand.gpus[item], 0, 0, is_late(given, item)
    first, count, chosen = search.kind_first, search.kind_count, search.kind_chosen
    for gpu in range(cap):
        search.kind[gpu] = -1
        if search.room.milli[row, gpu] != WHOLE or (late and search.spare.milli[row, gpu] != WHOLE):
            continue
        free += 1
        k = 0
        while k < kinds and not same_gpu(search, row, first[k], gpu, given.free.reserved):
            k += 1
        if k == kinds:
            first[k], count[k] = gpu, 0
            kinds += 1
        search.kind[gpu] = k
        count[k] += 1
    if free < wanted:
        return
    fill_from(count, chosen, 0, kinds, wanted)
    while True:
        push(search, given, row, item, set_of_gpus(search, cap))
        # The last kind that can give one to those behind it.
        k, behind, room = kinds - 1, 0, 0
        while k >= 0 and (chosen[k] == 0 or room == 0):
            behind += chosen[k]
            room += count[k] - chosen[k]
            k -= 1
        if k < 0:
            return
        chosen[k] -= 1
        fill_from(count, chosen, k + 1, kinds, behind + 1)


@inner
def fill_from(count, chosen, k, kinds, wanted):
    """Take ``wanted`` GPUs of the kinds from k on, the first ones first."""
    for kind in range(k, kinds):
        chosen[kind] = min(count[kind], wanted)
        wanted -= chosen[kind]


@inner
def set_of_gpus(search, cap):
    """The first GPUs of each kind, as many as are chosen of it, as a grant."""
    grant = np.int64(0)
    for kind in range(len(search.kind_used)):
        search.kind_used[kind] = 0
    for gpu in range(cap):
        k = search.kind[gpu]
        if k >= 0 and search.kind_used[k] < search.kind_chosen[k]:
            search.kind_used[k] += 1
            grant |= np.int64(1) << gpu
    return grant


@inner
def place_slices(search, given, row, item, gpu):
    """A child for each legal free start of a MIG slice on one GPU."""
    room, spare, profile, late = search.room, search.spare, given.items.demand.profile[item], is_late(given, item)
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
            push(search, given, row, item, (np.int64(1) << gpu) | (np.int64(start) << START_BIT))


@inner
def push(search, given, parent, item, grant):
    """One more row: ``parent`` with ``item`` placed at ``grant``; nothing where an earlier row is the same and no dearer."""
    row = search.n[USED]
    if row == len(search.root):
        search.n[FULL] = 1
        return
    book(search, given, parent, row, item, grant)
    search.root[row], search.parent[row] = search.root[parent], parent
    search.item[row], search.grant[row] = item, grant
    search.run[row] = search.run[parent] + 1 if search.item[parent] == item else 1
    search.depth[row] = search.depth[parent] + 1
    search.code[row] = search.code[parent] + given.items.code[item]
    search.state[row] = state_of(search, row, given.free.reserved)
    if search.n[EACH] == 0 and is_known(search, row):
        return
    search.cost[row] = node_cost(search.cluster, search.room, given.measure, row)
    search.n[USED] = row + 1
    if search.n[EACH] == 0:
        keep_cheapest(search, row, given.weights)


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
    """Which items the columns of ``rows`` (n,) place and how many: triplets into the last three, and how many there are.

    Those beyond the arrays' length are only counted.
    """
    m = 0
    for k in range(len(rows)):
        row = rows[k]
        while search.parent[row] >= 0:
            if m < len(column):
                column[m], item[m], parts[m] = k, search.item[row], search.run[row]
            m += 1
            # The run's first row has the parent with the previous item.
            for _ in range(search.run[row]):
                row = search.parent[row]
    return m
