"""Greedy starts and EASY written to be read, node by node in Python: what the compiled passes on snapshots are held to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from rltune.allocators.greedy import GreedyAllocator
from rltune.allocators.whole_gpus import Held, Placement, greedily, reservation
from rltune.core.resources.counts import LEAST_FRAGMENTATION, Scratch, Space, book, find, scratch, space_of
from rltune.nouns.cluster import ClusterArrays
from rltune.nouns.plan import FloatArray, IntArray, Plan, Queue, Snapshot, Start

Begun = list[tuple[int, Start]]
"""(position in the queue, start)."""


class Readable:
    """Starts jobs in order wherever ``rule`` puts them."""

    def __init__(self, rule: int, cost: FloatArray | None) -> None:
        self.rule, self.cost = rule, cost

    def starts(self, snapshot: Snapshot, order: IntArray, backfill: str) -> tuple[Start, ...]:
        """What an allocator starts."""
        if backfill == "easy":
            return tuple(self._start_easy(snapshot, order))
        return tuple(self._start(snapshot, order, stop_at_first=backfill == "blocking"))

    def _start(self, snapshot: Snapshot, order: IntArray, *, stop_at_first: bool) -> Iterable[Start]:
        space, work = space_of(snapshot.cluster, snapshot.free, self.cost), scratch(snapshot.cluster)
        for position in order:
            start = place_one(snapshot.cluster, space, snapshot.queue, int(position), self.rule, work)
            if start is not None:
                yield start
            elif stop_at_first:
                return

    def _start_easy(self, snapshot: Snapshot, order: IntArray) -> Iterable[Start]:
        cluster, queue = snapshot.cluster, snapshot.queue
        space, work = space_of(cluster, snapshot.free, self.cost), scratch(cluster)
        begun: Begun = []
        spare: Space | None = None
        shadow = np.inf
        for position in map(int, order):
            end = snapshot.now_s + queue.run_s[position]
            if spare is None:
                start = place_one(cluster, space, queue, position, self.rule, work)
                if start is None:
                    shadow, spare = self.reserve(snapshot, begun, position)
            elif end <= shadow:
                start = place_one(cluster, space, queue, position, self.rule, work)
            else:
                both = space_of(cluster, np.minimum(space.free, spare.free), self.cost)
                start = place_one(cluster, both, queue, position, self.rule, work)
                if start is not None:
                    for held in (space, spare):
                        book(cluster, held, np.array(start.nodes), np.array(start.gpus), 0, len(start.nodes), -1)
            if start is not None:
                begun.append((position, start))
                yield start

    def reserve(self, snapshot: Snapshot, begun: Begun, head: int) -> tuple[float, Space]:
        """When queue position ``head`` is expected to fit once these have ``begun``, and what is free beside it then."""
        running, queue, work = snapshot.running, snapshot.queue, scratch(snapshot.cluster)
        ends = [
            (max(float(running.end_s[i]), snapshot.now_s), running.nodes[a:b], running.gpus[a:b])
            for i, (a, b) in enumerate(zip(running.ptr, running.ptr[1:], strict=False))
        ] + [(snapshot.now_s + float(queue.run_s[p]), np.array(s.nodes), np.array(s.gpus)) for p, s in begun]
        free = snapshot.free.copy()
        for _, start in begun:
            free[list(start.nodes)] -= start.gpus
        spare = space_of(snapshot.cluster, free, self.cost)
        for shadow in sorted({end for end, _, _ in ends}):
            for end, nodes, gpus in ends:
                if end == shadow:
                    book(snapshot.cluster, spare, nodes, gpus, 0, len(nodes), 1)
            if place_one(snapshot.cluster, spare, queue, head, self.rule, work) is not None:
                return shadow, spare
        return np.inf, spare

    def reservation(self, snapshot: Snapshot, order: IntArray) -> Held | None:
        """That of the first job that does not fit where all before it start."""
        space, work = space_of(snapshot.cluster, snapshot.free, self.cost), scratch(snapshot.cluster)
        begun: Begun = []
        for position in order.tolist():
            start = place_one(snapshot.cluster, space, snapshot.queue, position, self.rule, work)
            if start is None:
                shadow, spare = self.reserve(snapshot, begun, position)
                free = spare.free.copy()
                for k, s in begun:
                    if snapshot.now_s + snapshot.queue.run_s[k] > shadow:
                        free[list(s.nodes)] += s.gpus
                return Held(position, float(shadow), free)
            begun.append((position, start))
        return None

    def around(
        self, snapshot: Snapshot, jobs: IntArray, held: Held | None, prefix: bool, placed: Mapping[int, Placement]
    ) -> list[Placement | None]:
        """Where ``jobs`` go beside what is already ``placed`` and around the reservation."""
        cluster, free = snapshot.cluster, snapshot.free.copy()
        spare = free.copy() if held is None else held.spare.copy()
        found: list[Placement | None] = []

        def is_late(k: int) -> bool:
            return held is not None and snapshot.now_s + float(snapshot.queue.run_s[k]) > held.shadow_s

        def take(k: int, nodes: Any, gpus: Any) -> None:
            free[list(nodes)] -= gpus
            if is_late(k):
                spare[list(nodes)] -= gpus

        for k, place in placed.items():
            take(k, *place)
        for k in jobs.tolist():
            start = None
            if not (prefix and None in found):
                open_now = space_of(cluster, np.minimum(free, spare) if is_late(k) else free, self.cost)
                start = place_one(cluster, open_now, snapshot.queue, k, self.rule, scratch(cluster))
            found.append(None if start is None else (start.nodes, start.gpus))
            if start is not None:
                take(k, start.nodes, start.gpus)
        return found


def place_one(
    cluster: ClusterArrays, space: Space, queue: Queue, position: int, rule: int, work: Scratch
) -> Start | None:
    """Place and book the job at ``position`` of the queue; None if it does not fit."""
    lo, hi = queue.pool_lo[position], queue.pool_hi[position]
    m = find(cluster, space, queue.num_gpus[position], queue.pools, lo, hi, rule, work)
    if m == 0:
        return None
    book(cluster, space, work.node, work.gpus, 0, m, -1)
    return Start(int(queue.job[position]), tuple(work.node[:m].tolist()), tuple(work.gpus[:m].tolist()))


class Compared(GreedyAllocator):
    """The greedy allocator, which asserts at every decision that the readable one decides the same."""

    def with_cost(self, cost: FloatArray) -> GreedyAllocator:
        return Compared(self.rule_name, cost)

    def allocate(self, snapshot: Snapshot, order: IntArray, backfill: str) -> Plan:
        plan = super().allocate(snapshot, order, backfill)
        readable = Readable(self.rule, self.cost)
        assert plan.starts == readable.starts(snapshot, order, backfill)
        self.compare_parts(snapshot, order, readable)
        return plan

    def compare_parts(self, snapshot: Snapshot, order: IntArray, readable: Readable) -> None:
        """The same of what the MILP takes from a snapshot: the reservation, and greedy plans around it."""
        by_cost = Readable(LEAST_FRAGMENTATION, self.cost)
        held, expected = reservation(snapshot, order, self.cost), by_cost.reservation(snapshot, order)
        assert (held is None) == (expected is None)
        if held is not None and expected is not None:
            assert (held.job, held.shadow_s) == (expected.job, expected.shadow_s)
            assert np.array_equal(held.spare, expected.spare)
        for around in (None, held):
            others = order if around is None else order[order != around.job]
            all_of_it = readable.around(snapshot, others, around, False, {})
            assert greedily(snapshot, others, self.rule, self.cost, around, prefix=False) == all_of_it
            # Every second of those that start has its place already.
            placed = {int(k): place for k, place in list(zip(others, all_of_it, strict=True))[::2] if place is not None}
            rest = np.array([k for k in others.tolist() if k not in placed], np.int64)
            for prefix in (False, True) if around is None else (False,):
                found = greedily(snapshot, rest, self.rule, self.cost, around, prefix=prefix, placed=placed)
                assert found == readable.around(snapshot, rest, around, prefix, placed)
