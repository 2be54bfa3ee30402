"""Greedy allocators: one job after the other, by a compiled placement rule."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from rltune.core.resources.counts import RULES, Scratch, Space, book, find, recount, scratch
from rltune.nouns.cluster import ClusterArrays
from rltune.nouns.errors import InputError
from rltune.nouns.plan import FloatArray, IntArray, Plan, Queue, Snapshot, Start


def rule_code(name: str) -> int:
    """Compiled code of a placement rule."""
    if name not in RULES:
        raise InputError(f"allocator {name!r} is unknown; known are {', '.join(RULES)}, milp")
    return RULES[name]


class GreedyAllocator:
    """Starts jobs in order wherever ``rule`` puts them.

    ``cost`` (n_pools, cap + 1): fragmentation cost for the rule least_fragmentation;
    None: `rltune.simulate` counts the demand of the jobs it simulates.
    """

    def __init__(self, rule: str = "best_fit", cost: FloatArray | None = None) -> None:
        self.rule_name, self.rule = rule, rule_code(rule)
        self.cost = cost

    def with_cost(self, cost: FloatArray) -> GreedyAllocator:
        """The same rule with this fragmentation cost."""
        return GreedyAllocator(self.rule_name, cost)

    def allocate(self, snapshot: Snapshot, order: IntArray, backfill: str) -> Plan:
        if backfill == "blocking":
            return Plan(tuple(self._start(snapshot, order, stop_at_first=True)), {"allocator": "greedy"})
        if backfill == "skip":
            return Plan(tuple(self._start(snapshot, order, stop_at_first=False)), {"allocator": "greedy"})
        return Plan(tuple(self._start_easy(snapshot, order)), {"allocator": "greedy"})

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
        started: list[tuple[int, Start]] = []
        spare: Space | None = None
        shadow = np.inf
        for position in map(int, order):
            end = snapshot.now_s + queue.run_s[position]
            if spare is None:
                start = place_one(cluster, space, queue, position, self.rule, work)
                if start is None:
                    shadow, spare = self.reserve(snapshot, started, position, work)
            elif end <= shadow:
                start = place_one(cluster, space, queue, position, self.rule, work)
            else:
                both = space_of(cluster, np.minimum(space.free, spare.free), self.cost)
                start = place_one(cluster, both, queue, position, self.rule, work)
                if start is not None:
                    for held in (space, spare):
                        book(cluster, held, np.array(start.nodes), np.array(start.gpus), 0, len(start.nodes), -1)
            if start is not None:
                started.append((position, start))
                yield start

    def reserve(
        self, snapshot: Snapshot, started: list[tuple[int, Start]], head: int, work: Scratch
    ) -> tuple[float, Space]:
        """Expected time at which queue position ``head`` fits, and what is free beside it then."""
        running, queue = snapshot.running, snapshot.queue
        ends = [
            (max(float(running.end_s[i]), snapshot.now_s), running.nodes[a:b], running.gpus[a:b])
            for i, (a, b) in enumerate(zip(running.ptr, running.ptr[1:], strict=False))
        ] + [(snapshot.now_s + float(queue.run_s[p]), np.array(s.nodes), np.array(s.gpus)) for p, s in started]
        free = snapshot.free.copy()
        for _, start in started:
            free[list(start.nodes)] -= start.gpus
        spare = space_of(snapshot.cluster, free, self.cost)
        for shadow in sorted({end for end, _, _ in ends}):
            for end, nodes, gpus in ends:
                if end == shadow:
                    book(snapshot.cluster, spare, nodes, gpus, 0, len(nodes), 1)
            if place_one(snapshot.cluster, spare, queue, head, self.rule, work) is not None:
                return shadow, spare
        return np.inf, spare


def space_of(cluster: ClusterArrays, free: IntArray, cost: FloatArray | None) -> Space:
    """A working copy of the free capacity ``free`` (n_nodes,)."""
    cap, pools = int(cluster.pool_cap.max()), len(cluster.pool_cap)
    space = Space(
        free=free.astype(np.int64),
        level=np.zeros((pools, cap + 1), np.int64),
        total=np.zeros(pools, np.int64),
        at=np.zeros((cap + 1, (len(free) + 31) // 32), np.int64),
        cost=np.zeros((pools, cap + 1)) if cost is None else cost,
    )
    recount(cluster, space)
    return space


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
