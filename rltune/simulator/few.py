"""Few jobs that all start, each on one node: their best places by the MILP's objective, without a solver.

What a node costs depends on the set of jobs it gets, so the best way to hand sets out to the nodes one after the other is
found exactly, in time nodes x 3^jobs: ``best[S]``, the least cost of the jobs S on the nodes so far, is the minimum over
the subsets that the next node takes. GPUs of a node are counted, not told apart, so that the minimum is a bound where
shares have to be packed; then the places are tried, and the MILP is asked where they prove impossible. It is also asked
about gangs over several nodes, where there are MIG instances, more jobs, and measures of fragmentation that look at
single GPUs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rltune.allocators.problem import EPS
from rltune.compiled import inner
from rltune.core.resources.nodes import book, intersect
from rltune.core.resources.room import Held, grant_of, hosts
from rltune.core.resources.verbs import copy_free
from rltune.core.state import Floats, Ints, floats, ints
from rltune.nouns.jobs import WHOLE

if TYPE_CHECKING:
    from rltune.simulator.joint import Joint

MOST = 6
"""Jobs; one more takes three times as long."""
ASK, STAY, MOVE = range(3)
"""What `place_few` found: the solver has to be asked; the places are best; the draft has better ones now."""
# Slots of ``Few.counts``: whether the objective is one that is understood here.
USABLE = 0
MILLI, GPUS, CPUS, MEMORY, SLOW, LATE = range(6)


class Few(NamedTuple):
    """Work space; ``table`` (n_pools, cap + 1): cost of a node by free GPUs; ``weights``: of fragmentation, of slowdown.

    ``choice`` (MOST, n_pools): number of the job's choice in that pool, -1 = none, ``late``: whether it would run into the
    reservation there; ``total`` (6, 2^MOST): what a set of jobs
    asks for in the pool at hand; ``cost`` (2^MOST,): of the set on the node at hand, ``best``: on the nodes so far; ``takes``
    (n_nodes, 2^MOST): the part of the set that the node gets then; ``node, grant`` (MOST,): places.
    """

    table: Floats
    weights: Floats
    choice: Ints
    late: Ints
    total: Floats
    cost: Floats
    best: Floats
    takes: Ints
    node: Ints
    grant: Ints
    counts: Ints


def build_few(joint: Joint, pools: int, nodes: int) -> Few:
    """For the objective of ``joint``, on a cluster of so many pools and nodes."""
    levels, sets = joint.allocator.solver.levels, 1 << MOST
    costs = levels[-1] if len(levels) == 1 or set(levels[0]) == {"value"} else {}
    # Of several levels of costs the first would go first.
    usable = len(levels) <= 2 and joint.measure.table.size > 0
    return Few(
        table=joint.measure.table, weights=np.array([costs.get(name, 0.0) for name in ("fragmentation", "slowdown")]),
        choice=np.zeros((MOST, pools), np.int64), late=np.zeros((MOST, pools), np.int64),
        total=np.zeros((6, sets)), cost=floats(sets), best=floats(sets),
        takes=np.zeros((nodes, sets), np.int64), node=ints(MOST), grant=ints(MOST), counts=np.array([usable], np.int64),
    )  # fmt: skip


@inner
def place_few(sim, draft, few, n):
    """Write the best places of the draft's ``n`` jobs, which hold none now, into it: ASK, STAY or MOVE."""
    if (
        few.counts[USABLE] == 0
        or n > MOST
        or sim.space.room.layout.shape[1] > 0
        or not list_choices(sim, draft, few, n)
    ):
        return ASK
    now = cost_of_draft(sim, draft, few, n)
    share_out(sim, draft, few, n)
    if now <= few.best[(1 << n) - 1] + EPS:
        return STAY
    if not realise_few(sim, draft, few, n):
        return ASK
    each = draft.each
    for k in range(n):
        each.node[k], each.grant[k], each.first[k], each.length[k] = few.node[k], few.grant[k], k, 1
        each.chosen[k] = few.choice[k, sim.cluster.node_pool[few.node[k]]]
    return MOVE


@inner
def list_choices(sim, draft, few, n):
    """Fill ``choice, late``; False: a job may be a gang or a slice, has several choices in one pool, or unlike ones of a quota."""
    demand, choices, each = sim.detail.demand, sim.choices, draft.each
    for k in range(n):
        few.choice[k] = -1
        for at in range(each.lo[k], each.hi[k]):
            q = each.choice[at]
            p, way = choices.pool[q], choices.way[q]
            if demand.profile[way] >= 0 or few.choice[k, p] >= 0:
                return False
            if demand.milli[way] == WHOLE and demand.gpus[way] > sim.cluster.pool_cap[p]:
                return False
            if len(sim.space.left) > 0 and way != choices.way[each.choice[each.lo[k]]]:
                return False
            few.choice[k, p], few.late[k, p] = q, each.late[at]
    return True


@inner
def add_up(sim, draft, few, n, p):
    """Fill ``total`` for the pool; sets with a job that may not use it want more than there is."""
    demand, choices, total = sim.detail.demand, sim.choices, few.total
    total[:, 0] = 0.0
    for s in range(1, 1 << n):
        k = 0
        while s >> k & 1 == 0:
            k += 1
        rest, q = s & (s - 1), few.choice[k, p]
        for what in range(6):
            total[what, s] = total[what, rest]
        if q < 0:
            total[MILLI, s] = np.inf
            continue
        way = choices.way[q]
        gpus = demand.gpus[way] if demand.milli[way] == WHOLE else 0
        total[MILLI, s] += demand.gpus[way] * demand.milli[way]
        total[GPUS, s] += gpus
        total[CPUS, s] += demand.cpus[way]
        total[MEMORY, s] += demand.memory[way]
        total[SLOW, s] += draft.each.loss[q]
        total[LATE, s] += gpus * few.late[k, p]


@inner
def cost_at(few, p, milli):
    """Cost of a node of the pool with so many thousandths free."""
    low, rest = int(milli) // WHOLE, int(milli) % WHOLE
    if rest == 0:
        return few.table[p, low]
    return few.table[p, low] + (few.table[p, low + 1] - few.table[p, low]) * rest / WHOLE


@inner
def cost_of_draft(sim, draft, few, n):
    """What the draft's places cost."""
    demand, choices, each, cost = sim.detail.demand, sim.choices, draft.each, 0.0
    for k in range(n):
        node = each.node[each.first[k]]
        p, taken, first = sim.cluster.node_pool[node], 0, True
        for other in range(n):
            if each.node[each.first[other]] == node:
                first = first and other >= k
                way = choices.way[few.choice[other, p]]
                taken += demand.gpus[way] * demand.milli[way]
        if first:
            loose = sim.space.room.loose[node]
            cost += few.weights[0] * (cost_at(few, p, loose - taken) - cost_at(few, p, loose))
        cost += few.weights[1] * each.loss[few.choice[k, p]]
    return cost


@inner
def share_out(sim, draft, few, n):
    """Fill ``best`` and ``takes``, node after node."""
    full = (1 << n) - 1
    few.best[: full + 1] = np.inf
    few.best[0] = 0.0
    for p in range(len(sim.cluster.pool_cap)):
        add_up(sim, draft, few, n, p)
        for node in range(sim.cluster.pool_lo[p], sim.cluster.pool_hi[p]):
            few.takes[node, : full + 1] = 0
            if not price_sets(sim, draft, few, n, p, node):
                continue
            # From the largest set down, so that what is left for the nodes before is still theirs alone.
            for s in range(full, 0, -1):
                part = s
                while part > 0:
                    if few.best[s ^ part] + few.cost[part] < few.best[s]:
                        few.best[s] = few.best[s ^ part] + few.cost[part]
                        few.takes[node, s] = part
                    part = (part - 1) & s


@inner
def price_sets(sim, draft, few, n, p, node):
    """Fill ``cost`` for the node, infinity where the set does not fit; whether any does."""
    room, total, possible = sim.space.room, few.total, 0
    for k in range(n):
        if few.choice[k, p] >= 0 and fits_alone(sim, few, k, p, node):
            possible |= 1 << k
    if possible == 0:
        return False
    now = cost_at(few, p, room.loose[node])
    spare = sim.spare.room.whole[node] if draft.shadow[0] < np.inf else room.whole[node]
    for s in range(1, 1 << n):
        few.cost[s] = np.inf
        if s & ~possible or total[MILLI, s] > room.loose[node] or total[GPUS, s] > room.whole[node]:
            continue
        if total[CPUS, s] > room.cpus[node] or total[MEMORY, s] > room.memory[node] or total[LATE, s] > spare:
            continue
        rise = cost_at(few, p, room.loose[node] - total[MILLI, s]) - now
        few.cost[s] = few.weights[0] * rise + few.weights[1] * total[SLOW, s]
    return True


@inner
def fits_alone(sim, few, k, p, node):
    """Whether job k fits on the node, and beside the reservation if it ends late."""
    way = sim.choices.way[few.choice[k, p]]
    if not hosts(sim.cluster, sim.space.room, sim.detail.demand, way, node):
        return False
    return few.late[k, p] == 0 or hosts(sim.cluster, sim.spare.room, sim.detail.demand, way, node)


@inner
def realise_few(sim, draft, few, n):
    """Places of least cost into ``node, grant``; False: they do not fit together after all."""
    s = (1 << n) - 1
    if few.best[s] == np.inf:
        return False
    for node in range(len(sim.cluster.node_pool) - 1, -1, -1):
        part = few.takes[node, s]
        for k in range(n):
            if part >> k & 1 == 1:
                few.node[k] = node
        s ^= part
    copy_free(sim, sim.space, sim.shadow)
    # First those that end late, where it is free then too.
    if draft.shadow[0] < np.inf:
        intersect(sim.cluster, sim.space, sim.spare, draft.met)
        for k in range(n):
            if few.late[k, sim.cluster.node_pool[few.node[k]]] == 1 and not put_down(sim, draft, few, k, draft.met):
                return False
    for k in range(n):
        if few.late[k, sim.cluster.node_pool[few.node[k]]] == 0 and not put_down(sim, draft, few, k, sim.shadow):
            return False
    return True


@inner
def put_down(sim, draft, few, k, space):
    """Choose GPUs of its node for job k in ``space``, and take them there and in ``sim.shadow``; False: it does not fit."""
    node, demand = few.node[k], sim.detail.demand
    way = sim.choices.way[few.choice[k, sim.cluster.node_pool[node]]]
    if not hosts(sim.cluster, space.room, demand, way, node):
        return False
    few.grant[k] = grant_of(sim.cluster, space.room, demand, way, node, demand.gpus[way])
    held = Held(few.node, few.grant, k, 1)
    book(sim.cluster, sim.shadow, demand, way, held, -1)
    if draft.shadow[0] < np.inf:
        book(sim.cluster, draft.met, demand, way, held, -1)
    return True
