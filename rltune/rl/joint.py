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

from rltune.allocators.milp import MilpAllocator
from rltune.rl.batch import CLOSED, FRESH, RESERVED, Batch
from rltune.rl.kernels import expected_start, first_misfit, lift_fresh, replace_fresh
from rltune.simulator.disciplines import EASY


class JointPlacement:
    """Applies a `MilpAllocator` to the rows of a batch; ``stats`` are the allocator's plus our own counter."""

    def __init__(self, allocator: MilpAllocator) -> None:
        self.allocator = allocator
        self.kept_for_reservation = 0

    @property
    def stats(self) -> dict[str, Any]:
        return self.allocator.stats.as_dict() | {"kept_for_reservation": self.kept_for_reservation}

    def place(self, batch: Batch, i: int, options: tuple[int, int, int], waited: bool) -> None:
        """Place the jobs that row i started at the present instant together.

        Unless the agent chose to wait, what fits beside the new places is decided at the same instant.
        """
        discipline, rule, _ = options
        fresh = batch.fresh[i, : batch.mark[i, FRESH]]
        which = np.flatnonzero(batch.start[i, fresh] == batch.clock[i, 0])
        if len(which) < 2:
            return
        head = first_misfit(batch, i) if discipline == EASY else -1
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
