"""The optimising allocator inside an episode: jobs started at one instant are placed together.

While the agent picks, each job gets a provisional greedy place (so that the mask
can say what still fits). When the instant closes, the MILP places all of them
anew, from the state before any of them, with the least fragmentation. Under
``easy`` the new places must not delay the reservation; if they would, the
provisional ones stay, and ``kept_for_reservation`` counts it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rltune.allocators.enumeration import NONE, search
from rltune.allocators.milp import MilpAllocator
from rltune.compiled import kernel
from rltune.rl.batch import CLOSED, FRESH, RESERVED, Batch, view
from rltune.rl.kernels import expected_start, first_misfit, lift_fresh, replace_fresh
from rltune.simulator.disciplines import EASY

EPS = 1e-9
"""Rises closer than this are equal; the model itself tells no finer differences."""
MOST_PARTS = 16
"""Jobs of one instant that do not fill whole nodes, beyond which the model is asked."""


class JointPlacement:
    """Applies a `MilpAllocator` to the rows of a batch; ``stats`` are the allocator's plus our own counter."""

    def __init__(self, allocator: MilpAllocator) -> None:
        self.allocator = allocator
        self.kept_for_reservation = 0
        self._parts = np.zeros(MOST_PARTS, np.int64)
        self._choice = np.zeros(MOST_PARTS, np.int64)
        self._floor = np.zeros(MOST_PARTS + 1)
        self._tries = np.zeros(1, np.int64)

    @property
    def stats(self) -> dict[str, Any]:
        return self.allocator.stats.as_dict() | {"kept_for_reservation": self.kept_for_reservation}

    def place(self, batch: Batch, i: int, options: tuple[int, int, int], waited: bool) -> None:
        """Place the jobs that row i started at the present instant together.

        Unless the agent chose to wait, what fits beside the new places is decided at the same instant.
        """
        backfill, rule, _ = options
        cost = self.allocator.cost_of(batch.cluster)
        if settled(batch, i, cost, self._parts, self._floor, self._choice, self._tries):
            self.allocator.count_trivial()
            return
        fresh = batch.fresh[i, : batch.mark[i, FRESH]]
        which = np.flatnonzero(batch.start[i, fresh] == batch.clock[i, 0])
        if len(which) < 2:
            return
        head = first_misfit(batch, i) if backfill == EASY else -1
        before = expected_start(batch, i, head, rule) if head >= 0 else np.inf
        old = [self._placement(batch, i, int(job)) for job in fresh[which]]
        for k in which:
            lift_fresh(batch, i, k)
        jobs = fresh[which]
        classes = batch.cls[i, jobs]
        new, _ = self.allocator.place_jointly(
            batch.cluster,
            batch.free[i],
            batch.gpus[i, jobs],
            batch.pools.ptr[classes],
            batch.pools.ptr[classes + 1],
            batch.pools.pool,
            old,
        )
        self._book(batch, i, which, new)
        if head >= 0 and expected_start(batch, i, head, rule) > before:
            self.kept_for_reservation += 1
            for k in which:
                lift_fresh(batch, i, k)
            self._book(batch, i, which, old)
        elif new != old:
            batch.mark[i, RESERVED] = 0
            batch.mark[i, CLOSED] = int(waited)

    @staticmethod
    def _placement(batch: Batch, i: int, job: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        part = slice(batch.part[i, job], batch.part[i, job] + batch.alloc_len[i, job])
        return tuple(batch.alloc_node[i, part].tolist()), tuple(batch.alloc_gpus[i, part].tolist())

    @staticmethod
    def _book(batch: Batch, i: int, which: Any, placements: Any) -> None:
        for k, (nodes, gpus) in zip(which, placements, strict=True):
            replace_fresh(batch, i, k, np.array(nodes, np.int64), np.array(gpus, np.int64), len(nodes))


@kernel
def settled(batch, i, cost, parts, floor, choice, tries):
    """Whether the provisional places of the jobs that row i started at this instant cannot be bettered.

    By trying every way (`rltune.allocators.enumeration`); for clusters of one pool. ``parts, floor, choice, tries``: work space.
    """
    if len(batch.cluster.pool_cap) != 1:
        return False
    sim = view(batch, i)
    cap, nodes, count = batch.cluster.pool_cap[0], sim.spare.free, sim.spare.level[0]
    for node in range(len(nodes)):
        nodes[node] = sim.space.free[node]
    n = 0
    for k in range(batch.mark[i, FRESH]):
        job = batch.fresh[i, k]
        # Zero seconds long jobs of this instant have ended: their places are free again.
        if sim.start[job] == sim.clock[0] and sim.end[job] == sim.clock[0]:
            return False
        for j in range(sim.jobs.part[job], sim.jobs.part[job] + sim.alloc_len[job]):
            nodes[sim.alloc_node[j]] += sim.alloc_gpus[j]
        rest = sim.jobs.gpus[job] % cap
        if rest > 0:
            if n == len(parts):
                return False
            at = n
            while at > 0 and parts[at - 1] < rest:
                parts[at] = parts[at - 1]
                at -= 1
            parts[at] = rest
            n += 1
    whole = 0
    for k in range(batch.mark[i, FRESH]):
        whole += sim.jobs.gpus[batch.fresh[i, k]] // cap
    rise = -whole * (cost[0, 0] - cost[0, cap])
    for f in range(cap + 1):
        count[f] = 0
    for node in range(len(nodes)):
        count[nodes[node]] += 1
        rise += cost[0, sim.space.free[node]] - cost[0, nodes[node]]
    count[cap] -= whole
    if count[cap] < 0:
        return False
    return search(count, cost[0], parts, n, rise - EPS, floor, choice, tries) == NONE
