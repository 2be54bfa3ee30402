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
from rltune.core.state import EASY, NOW
from rltune.rl.kernels import expected_start, first_misfit, lift_fresh, replace_fresh
from rltune.rl.rows import CLOSED, FRESH, RESERVED, Row, Training, row_at

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

    def place(self, training: Training, i: int, waited: bool) -> None:
        """Place the jobs that row i started at the present instant together.

        Unless the agent chose to wait, what fits beside the new places is decided at the same instant.
        """
        row, batch = training.row(i), training.batch
        sim, mark = row.sim, row.episode.mark
        cost = self.allocator.cost_of(sim.cluster)
        if settled(batch, i, cost, self._parts, self._floor, self._choice, self._tries):
            self.allocator.count_trivial()
            return
        fresh = row.episode.fresh[: mark[FRESH]]
        which = np.flatnonzero(sim.start[fresh] == sim.clock[NOW])
        if len(which) < 2:
            return
        head = first_misfit(batch, i) if sim.params.backfill == EASY else -1
        before = expected_start(batch, i, head) if head >= 0 else np.inf
        old = [self._placement(row, int(job)) for job in fresh[which]]
        for k in which:
            lift_fresh(batch, i, k)
        jobs = fresh[which]
        classes = sim.jobs.cls[jobs]
        new, _ = self.allocator.place_jointly(
            sim.cluster,
            sim.space.free,
            sim.jobs.gpus[jobs].astype(np.int64),
            sim.choices.ptr[classes],
            sim.choices.ptr[classes + 1],
            sim.choices.pool,
            old,
        )
        self._book(batch, i, which, new)
        if head >= 0 and expected_start(batch, i, head) > before:
            self.kept_for_reservation += 1
            for k in which:
                lift_fresh(batch, i, k)
            self._book(batch, i, which, old)
        elif new != old:
            mark[RESERVED] = 0
            mark[CLOSED] = int(waited)

    @staticmethod
    def _placement(row: Row, job: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        sim = row.sim
        part = slice(sim.jobs.part[job], sim.jobs.part[job] + sim.alloc_len[job])
        return tuple(sim.alloc_node[part].tolist()), tuple(sim.alloc_grant[part].tolist())

    @staticmethod
    def _book(batch: Any, i: int, which: Any, placements: Any) -> None:
        for k, (nodes, gpus) in zip(which, placements, strict=True):
            replace_fresh(batch, i, k, np.array(nodes, np.int64), np.array(gpus, np.int64), len(nodes))


@kernel
def settled(batch, i, cost, parts, floor, choice, tries):
    """Whether the provisional places of the jobs that row i started at this instant cannot be bettered.

    By trying every way (`rltune.allocators.enumeration`); for clusters of one pool. ``parts, floor, choice, tries``: work space.
    """
    row = row_at(batch, i)
    sim, episode = row.sim, row.episode
    if len(sim.cluster.pool_cap) != 1:
        return False
    # Counted in the shadow, which is worked out anew before it is used.
    cap, nodes, count = sim.cluster.pool_cap[0], sim.shadow.free, sim.shadow.level[0]
    for node in range(len(nodes)):
        nodes[node] = sim.space.free[node]
    n = 0
    for k in range(episode.mark[FRESH]):
        job = episode.fresh[k]
        # Zero seconds long jobs of this instant have ended: their places are free again.
        if sim.start[job] == sim.clock[NOW] and sim.end[job] == sim.clock[NOW]:
            return False
        for j in range(sim.jobs.part[job], sim.jobs.part[job] + sim.alloc_len[job]):
            nodes[sim.alloc_node[j]] += sim.alloc_grant[j]
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
    for k in range(episode.mark[FRESH]):
        whole += sim.jobs.gpus[episode.fresh[k]] // cap
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
