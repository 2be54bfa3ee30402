"""Snapshots of whole GPUs and the joint model: what is free as a `Room`, reservations, and greedy plans around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rltune.allocators.formulation import Place
from rltune.allocators.greedy import GreedyAllocator, place_one, space_of
from rltune.core.resources.counts import book, fit_alone, scratch
from rltune.core.resources.places import Demand, Room
from rltune.nouns.cluster import ClusterArrays
from rltune.nouns.jobs import WHOLE
from rltune.nouns.plan import FloatArray, IntArray, Snapshot

Placement = tuple[tuple[int, ...], tuple[int, ...]]
"""(nodes, gpus): node indices ascending and the GPUs taken on each."""


@dataclass(frozen=True, slots=True)
class Held:
    """A reservation: queue position ``job`` is expected to start at ``shadow_s``; ``spare`` (n_nodes,) GPUs free then beside it.

    Jobs that start now are not in ``spare`` yet: those that end later have to fit there too.
    """

    job: int
    shadow_s: float
    spare: IntArray


def reservation(snapshot: Snapshot, order: IntArray, cost: FloatArray) -> Held | None:
    """As EASY reserves: all before the first job that does not fit start, placed by least fragmentation."""
    cluster, queue = snapshot.cluster, snapshot.queue
    greedy = GreedyAllocator("least_fragmentation", cost)
    space, work = space_of(cluster, snapshot.free, cost), scratch(cluster)
    started: list[tuple[int, Any]] = []
    for position in order.tolist():
        start = place_one(cluster, space, queue, position, greedy.rule, work)
        if start is None:
            shadow, spare = greedy.reserve(snapshot, started, position, work)
            free = spare.free.copy()
            for k, s in started:
                if snapshot.now_s + queue.run_s[k] > shadow:
                    free[list(s.nodes)] += s.gpus
            return Held(position, float(shadow), free)
        started.append((position, start))
    return None


def greedily(
    snapshot: Snapshot,
    jobs: IntArray,
    rule: int,
    cost: FloatArray,
    held: Held | None,
    *,
    prefix: bool,
    placed: Mapping[int, Placement] | None = None,
) -> list[Placement | None]:
    """One job after the other where ``rule`` puts it, beside what is already ``placed`` and around the reservation."""
    cluster, queue, work = snapshot.cluster, snapshot.queue, scratch(snapshot.cluster)
    space = space_of(cluster, snapshot.free, cost)
    spare = None if held is None else space_of(cluster, held.spare, cost)

    def book_both(nodes: Any, gpus: Any, late: bool, *, now: bool) -> None:
        nodes, gpus = np.array(nodes), np.array(gpus)
        if now:
            book(cluster, space, nodes, gpus, 0, len(nodes), -1)
        if spare is not None and late:
            book(cluster, spare, nodes, gpus, 0, len(nodes), -1)

    def is_late(k: int) -> bool:
        return held is not None and snapshot.now_s + float(queue.run_s[k]) > held.shadow_s

    for k, (nodes, gpus) in (placed or {}).items():
        book_both(nodes, gpus, is_late(k), now=True)
    found: list[Placement | None] = []
    for k in jobs.tolist():
        start, late = None, is_late(k)
        if space.total.any() and not (prefix and None in found):
            if late and spare is not None:
                both = space_of(cluster, np.minimum(space.free, spare.free), cost)
                start = place_one(cluster, both, queue, k, rule, work)
            else:
                start = place_one(cluster, space, queue, k, rule, work)
        found.append(None if start is None else (start.nodes, start.gpus))
        if start is not None:
            book_both(start.nodes, start.gpus, late, now=late and spare is not None)
    return found


def fitting_now(snapshot: Snapshot, order: IntArray, cost: FloatArray) -> Any:
    """(n,) whether each job of the order fits now, alone."""
    cluster, queue = snapshot.cluster, snapshot.queue
    answer = np.zeros(len(order), np.int64)
    fit_alone(
        cluster, space_of(cluster, snapshot.free, cost), queue.num_gpus[order], queue.pool_lo[order],
        queue.pool_hi[order], queue.pools, answer,
    )  # fmt: skip
    return answer == 1


def room_of(cluster: ClusterArrays, free: IntArray) -> Room:
    """Free GPUs by node as a `Room`: the first GPUs of a node are the free ones."""
    widest = int(cluster.pool_cap.max())
    milli = np.where(np.arange(widest) < np.asarray(free)[:, None], WHOLE, 0).astype(np.int32)
    free = np.asarray(free, np.int64)
    zeros = np.zeros(len(free), np.int64)
    return Room(
        milli=milli, slices=np.zeros_like(milli), layout=np.zeros((len(free), 0), np.int64),
        whole=free, loose=free * WHOLE, largest=np.where(free > 0, WHOLE, 0),
        cpus=np.full(len(free), np.inf), memory=np.full(len(free), np.inf), closed=zeros,
        pods=np.zeros((len(free), widest + 2), np.int32), scale=np.ones(3), turn=zeros,
    )  # fmt: skip


def requests_of(num_gpus: IntArray) -> Demand:
    """Jobs of so many whole GPUs, and nothing else."""
    n = len(num_gpus)
    return Demand(num_gpus.astype(np.int64), np.full(n, WHOLE), np.zeros(n), np.zeros(n), np.full(n, -1))


def own_pools(pools: IntArray, lo: IntArray, hi: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """The same lists of pools, each job's its own, so that what differs by job can stand beside them."""
    length = hi - lo
    end = np.cumsum(length)
    where = np.arange(end[-1] if len(end) else 0) + np.repeat(lo - (end - length), length)
    return pools[where], end - length, end


def grants_of(free: IntArray, places: Sequence[Placement | None]) -> list[Place | None]:
    """GPUs by number instead of how many: the next free ones of each node (`room_of`)."""
    next_gpu: dict[int, int] = {}
    found: list[Place | None] = []
    for place in places:
        if place is None:
            found.append(None)
            continue
        grants = []
        for node, gpus in zip(*place, strict=True):
            begin = next_gpu.get(node, 0)
            next_gpu[node] = begin + gpus
            grants.append(((1 << gpus) - 1) << begin)
        found.append(Place(place[0], tuple(grants)))
    return found


def counts_of(place: Place) -> Placement:
    """(nodes, how many GPUs on each)."""
    return place.nodes, tuple(grant.bit_count() for grant in place.grants)
