"""Filling an empty cluster one job after the other: the protocol of the fragmentation experiments.

Weng et al., USENIX ATC'23, section 6: the jobs are shuffled, random copies of them are appended until together they
request a given multiple of the cluster's GPUs, and they are placed in that order. No job leaves, and what does not fit is
rejected. Reported is what is allocated, and what of the free GPUs is of no use, against what was requested so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rltune.compiled import kernel
from rltune.core.resources.fragments import MEASURES, fragments, task_types, type_of
from rltune.core.resources.gradient import changed, memo
from rltune.core.resources.places import Demand, Place, Room, demand_of, find, idle_room, place_scratch, take
from rltune.core.resources.room import Among, Held
from rltune.core.resources.scores import SHARING_RULES
from rltune.nouns.cluster import Cluster, ClusterArrays, Eligibility, eligibility
from rltune.nouns.errors import InputError
from rltune.nouns.jobs import WHOLE, JobTable


@dataclass(frozen=True, slots=True)
class Filling:
    """State of the cluster at points of request, all (n_points,) as a share of the cluster's GPUs.

    ``requested``: GPUs asked for so far (the first job with which the point is reached is included);
    ``allocated``: GPUs held; ``fragmented``: free GPUs that a random job of the workload could not use, NaN if not measured.
    """

    requested: npt.NDArray[np.float64]
    allocated: npt.NDArray[np.float64]
    fragmented: npt.NDArray[np.float64]


class Stage(NamedTuple):
    """An empty cluster and who asks for it: ``amount`` (n_jobs,) thousandths of GPUs, ``order``: rows in turn.

    ``rng`` has drawn the order of requests and of nodes, and nothing else.
    """

    cluster: ClusterArrays
    room: Room
    demand: Demand
    classes: Eligibility
    amount: npt.NDArray[np.int64]
    order: npt.NDArray[np.int64]
    rng: np.random.Generator


def set_stage(jobs: JobTable, cluster: Cluster, seed: int, requested: float) -> Stage:
    """The same for every way to fill the cluster until ``requested`` of its GPUs have been asked for."""
    demand, room, rng = demand_of(jobs, cluster), idle_room(cluster), np.random.default_rng(seed)
    amount = demand.gpus * demand.milli
    order = shuffled_requests(amount, requested * cluster.gpus * WHOLE, rng)
    room.turn[:] = rng.permutation(cluster.nodes)
    return Stage(cluster.arrays(), room, demand, eligibility(jobs, cluster), amount, order, rng)


def fill_cluster(
    jobs: JobTable,
    cluster: Cluster,
    rule: str,
    seed: int,
    points: Sequence[float] = (1.3,),
    *,
    measure_fragments: bool = False,
) -> Filling:
    """Place shuffled jobs until ``points[-1]`` of the cluster's GPUs have been requested.

    The same seed gives the same requests to every rule. Equally good nodes are taken in an order drawn at the start:
    a real scheduler meets its nodes in some fixed order that has nothing to do with their kind.

    Raises:
        InputError: unknown rule, points that do not ascend from above 0, no job with a GPU.
    """
    if rule not in SHARING_RULES:
        raise InputError(f"rule {rule!r} is unknown; known are {', '.join(SHARING_RULES)}")
    if not points or (np.diff([0.0, *points]) <= 0).any():
        raise InputError(f"points {tuple(points)}: give shares of the cluster's GPUs, ascending from above 0")
    arrays, room, demand, classes, amount, order, rng = set_stage(jobs, cluster, seed, points[-1])
    draws = rng.integers(0, 2**63, len(order), dtype=np.uint64)
    asked = np.cumsum(amount[order])
    types = task_types(jobs, cluster) if measure_fragments else None
    work, begin, held = rule_work(jobs, cluster, rule), 0, 0
    for node in range(cluster.nodes):
        changed(arrays, room, work, node)
    rows = []
    for point in points:
        end = int(np.searchsorted(asked, point * cluster.gpus * WHOLE)) + 1
        held += fill(arrays, room, demand, classes, order[begin:end], draws[begin:end], SHARING_RULES[rule], work)
        wasted = np.nan if types is None else fragments(arrays, room, types)
        rows.append((asked[end - 1], held, wasted))
        begin = end
    requested, allocated, fragmented = np.array(rows).T / (cluster.gpus * WHOLE)
    return Filling(requested, allocated, fragmented)


MOST_KNOWN = 20_000_000
"""Pairs of task type and node up to which rises are remembered: 500 MB."""


def rule_work(jobs: JobTable, cluster: Cluster, rule: str) -> Place:
    """Work space; for a rule with a measure with the task types, and with what it knows of nodes that do not change."""
    if rule not in MEASURES:
        return place_scratch(cluster)
    types = task_types(jobs, cluster, rule)
    work = place_scratch(cluster, types)
    if len(types.share) * cluster.nodes > MOST_KNOWN:
        return work
    return work._replace(memo=memo(type_of(jobs, cluster), len(types.share), cluster.nodes))


def requests(jobs: JobTable, cluster: Cluster, seed: int, point: float = 1.3) -> npt.NDArray[np.int64]:
    """The rows of ``jobs`` that `fill_cluster` tries to place, in order."""
    demand = demand_of(jobs, cluster)
    return shuffled_requests(demand.gpus * demand.milli, point * cluster.gpus * WHOLE, np.random.default_rng(seed))


def shuffled_requests(amount: npt.NDArray[np.int64], target: float, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Rows of the jobs, shuffled, then random ones again until their ``amount`` (n_jobs,) sums to ``target`` or more."""
    if amount.sum() == 0:
        raise InputError("no job asks for a GPU; the cluster cannot be filled")
    order = rng.permutation(len(amount))
    while amount[order].sum() < target:
        order = np.concatenate([order, rng.integers(0, len(amount), len(amount))])
    return order[: int(np.searchsorted(np.cumsum(amount[order]), target)) + 1]


@kernel
def fill(cluster, room, demand, classes, order, draws, rule, work):
    """Place the jobs ``order`` (n,) in turn, leaving out what does not fit: thousandths of GPUs taken.

    ``classes``: an `rltune.nouns.cluster.Eligibility`; ``draws`` (n,) uint64, read by the rule RANDOM.
    """
    held = 0
    for at in range(len(order)):
        job = order[at]
        c = classes.cls[job]
        among = Among(classes.pools, classes.ptr[c], classes.ptr[c + 1])
        m = find(cluster, room, demand, job, among, rule, draws[at], work)
        if m > 0:
            take(cluster, room, demand, job, Held(work.node, work.grant, 0, m), -1)
            for part in range(m):
                changed(cluster, room, work, work.node[part])
            held += demand.gpus[job] * demand.milli[job]
    return held
