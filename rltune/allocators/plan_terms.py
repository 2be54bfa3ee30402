"""What a plan is worth by the model's objective, told from its places: the same for the model's plans and for greedy ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rltune.allocators.formulation import Formulation, Instance, Plan
from rltune.allocators.measure import Measure, node_cost
from rltune.allocators.problem import EPS, TERMS, Level
from rltune.allocators.rows import Search, load_unit, remake_on
from rltune.compiled import kernel
from rltune.core.resources.places import Demand, take
from rltune.core.resources.room import Held
from rltune.core.resources.slices import INDICES, START_BIT, lowest
from rltune.nouns.cluster import GRID
from rltune.nouns.jobs import WHOLE

Ints = npt.NDArray[np.int64]


class Parts(NamedTuple):
    """The parts of a plan, (n_parts,) each: ``demand`` as if each were a job, ``node``, ``grant``."""

    demand: Demand
    node: Ints
    grant: Ints


def score(terms: Mapping[str, float], levels: Sequence[Level]) -> tuple[float, ...]:
    """Value of each level, to be minimised."""
    return tuple(
        sum(weight * (-terms[term] if term == "value" else terms[term]) for term, weight in level.items())
        for level in levels
    )


def plan_terms(instance: Instance, plan: Plan, measure: Measure, search: Search, single: Ints) -> dict[str, float]:
    """Every term of the objective for a plan, from its places."""
    asks: list[int] = []
    nodes: list[int] = []
    grants: list[int] = []
    value = slowdown = locality = interruption = 0.0
    for k, place in enumerate(plan):
        if place is None:
            continue
        asks += [int(instance.jobs[k]) if place.ask < 0 else place.ask] * len(place.nodes)
        nodes += place.nodes
        grants += place.grants
        value += float(instance.value[k])
        locality += len(place.nodes) - 1
        if instance.slow is not None:
            slowdown += float(instance.slow[instance.choice(k, place)])
        if instance.holders is not None and (here := instance.holders.place[k]) is not None:
            # Counted from the suspension of all: who runs on is spared it, who moves pays that.
            interruption += float(instance.holders.move[k] * (place != here) - instance.holders.suspend[k])
    answer, parts = np.zeros(2), parts_of(instance.demand, asks, nodes, grants)
    plan_cost(search, instance.cluster, instance.room, instance.idle_instances(), single, parts, measure, answer)
    costs = (float(answer[0]), slowdown, float(locality), float(answer[1]), interruption)
    return dict(zip(TERMS, (value, *costs), strict=True))


@kernel
def plan_cost(search, cluster, room, idle, by_gpu, parts, measure, answer):
    """What the ``parts`` of a plan add: ``answer`` = (fragmentation, seconds).

    ``by_gpu`` (n_pools,): 1 where fragmentation is counted GPU by GPU. Rows of ``search`` are the touched
    nodes (or GPUs) before and after; there must be two for each part.
    """
    demand, node, grant = parts.demand, parts.node, parts.grant
    answer[0], answer[1] = 0.0, 0.0
    used = 0
    for k in range(len(node)):
        p = cluster.node_pool[node[k]]
        gpu = lowest(grant[k] & INDICES) if by_gpu[p] else -1
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
                    remake_on(search, row, at, here >> START_BIT, demand.profile[k], kind)
        search.at[0], search.at[1] = row, here
        take(search.cluster, search.room, demand, k, Held(search.at[:1], search.at[1:], 0, 1), -1)
    for row in range(used):
        answer[0] += node_cost(search.cluster, search.room, measure, row) - search.cost[row]
        answer[1] += search.seconds[row]


def parts_of(demand: Demand, asks: list[int], nodes: list[int], grants: list[int]) -> Parts:
    """The parts of a plan, by the row of the demand that each is of."""
    rows, node, grant = (np.array(column, np.int64) for column in (asks, nodes, grants))
    whole = (demand.milli[rows] == WHOLE) & (demand.profile[rows] < 0)
    part = np.where(whole, np.bitwise_count(grant & INDICES), demand.gpus[rows]).astype(np.int64)
    cpus, memory = (
        np.where(
            part == demand.gpus[rows], amount, np.floor(amount * part / np.maximum(1, demand.gpus[rows]) * GRID) / GRID
        )
        for amount in (demand.cpus[rows], demand.memory[rows])
    )
    return Parts(Demand(part, demand.milli[rows], cpus, memory, demand.profile[rows]), node, grant)


def single_pools(instance: Instance, made: Formulation) -> Ints:
    """(n_pools,) 1 where all parts want one GPU or less and nothing else, so that nothing ties the GPUs of a node together."""
    cluster, demand, answer = instance.cluster, made.items.demand, np.zeros(len(instance.cluster.pool_cap), np.int64)
    for p, (a, b) in enumerate(zip(made.items.lo, made.items.hi, strict=True)):
        free_of_cpu = np.isinf(cluster.pool_cpus[p]) and np.isinf(cluster.pool_memory[p])
        answer[p] = b > a and free_of_cpu and bool(((demand.gpus[a:b] == 1) & (demand.milli[a:b] > 0)).all())
    return answer


def less(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether a is better, by the first level at which they differ."""
    for x, y in zip(a, b, strict=False):
        if abs(x - y) > EPS:
            return x < y
    return False


def best_of(scored: Mapping[str, Sequence[float]]) -> str:
    """Name of the best plan, the first of equals."""
    best = next(iter(scored))
    for name, values in scored.items():
        if less(values, scored[best]):
            best = name
    return best
