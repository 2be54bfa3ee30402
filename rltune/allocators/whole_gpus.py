"""Snapshots of whole GPUs and the joint model: what is free as a `Room`, reservations, and greedy plans around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rltune.allocators.formulation import Place
from rltune.core.backfilling import reserve_for_misfit, start_around
from rltune.core.loop import start_by_given_keys
from rltune.core.resources.counts import LEAST_FRAGMENTATION, fit_alone, space_of
from rltune.core.resources.places import Demand, Room
from rltune.core.snapshots import set_spare, start_placed, started, state_of
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
    state = state_of(snapshot, order, "easy", LEAST_FRAGMENTATION, cost)
    head, shadow = reserve_for_misfit(state)
    if head < 0:
        return None
    free = state.value.spare.free
    for k, start in started(state, snapshot):
        if snapshot.now_s + snapshot.queue.run_s[k] > shadow:
            free[list(start.nodes)] += start.gpus
    return Held(int(head), float(shadow), free)


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
    state = state_of(snapshot, jobs, "strict" if prefix else "skip", rule, cost)
    spare = None if held is None else held.spare.copy()
    for k, (nodes, gpus) in (placed or {}).items():
        start_placed(state, k, nodes, gpus)
        if held is not None and spare is not None and snapshot.now_s + float(snapshot.queue.run_s[k]) > held.shadow_s:
            spare[list(nodes)] -= gpus
    if held is None or spare is None:
        start_by_given_keys(state)
    else:
        set_spare(state, spare)
        start_around(state, -1, held.shadow_s)
    found = {k: (start.nodes, start.gpus) for k, start in started(state, snapshot)}
    return [found.get(k) for k in jobs.tolist()]


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
