"""Filling an empty cluster window by window: a number of arrivals are held and placed together by the joint model.

The protocol of `rltune.packing.online`, but the scheduler sees ``window`` requests at once. That is more information
than one request at a time, so results stand in a row of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from rltune.allocators.formulation import Instance, Place
from rltune.allocators.joint import JointSolver
from rltune.allocators.measure import Measure
from rltune.core.resources.fragments import MEASURES
from rltune.core.resources.gradient import changed
from rltune.core.resources.places import Demand, Room, find, take
from rltune.core.resources.places import Place as Work
from rltune.core.resources.room import Among, Held
from rltune.core.resources.scores import SHARING_RULES
from rltune.nouns.cluster import Cluster, ClusterArrays, Eligibility
from rltune.nouns.errors import InputError
from rltune.nouns.jobs import WHOLE, JobTable
from rltune.packing.online import MOST_KNOWN, Filling, rule_work, set_stage

Ints = npt.NDArray[np.int64]
KNOWN = ("fgd", "best_fit")
"""Rules beside the measure's own that place each window one request at a time: plans the model must beat or take."""


def fill_by_window(
    jobs: JobTable,
    cluster: Cluster,
    solver: JointSolver,
    measure: str,
    seed: int,
    window: int = 32,
    requested: float = 1.3,
    known: tuple[str, ...] = KNOWN,
) -> tuple[Filling, dict[str, Any]]:
    """Place shuffled requests, ``window`` at a time, until ``requested`` of the GPUs have been asked for.

    The same seed gives the same requests as to `rltune.packing.online.fill_cluster`. A request is worth its GPUs.
    ``measure``: a rule with a measure of fragmentation (`rltune.core.resources.fragments.MEASURES`).
    Also returns the solver's counters and how often each plan won.
    """
    if window < 1:
        raise InputError(f"window={window}; at least 1 request is needed")
    if measure not in MEASURES:
        raise InputError(f"measure {measure!r} is unknown; known are {', '.join(MEASURES)}")
    arrays, room, demand, classes, amount, order, _ = set_stage(jobs, cluster, seed, requested)
    rules = {name: rule_work(jobs, cluster, name) for name in (measure, *known)}
    if not len(rules[measure].memo.version):
        raise InputError(
            f"{cluster.nodes} nodes and {len(rules[measure].types.share)} kinds of requests: over {MOST_KNOWN} pairs to remember; "
            "use a smaller cluster or fewer kinds"
        )
    for work in rules.values():
        for node in range(cluster.nodes):
            changed(arrays, room, work, node)
    held, wins = 0, dict.fromkeys((*rules, "milp"), 0)
    windows = _Windows(arrays, room, demand, classes, amount, rules, measure)
    for begin in range(0, len(order), window):
        rows = order[begin : begin + window]
        places, winner = windows.place(rows, solver)
        wins[winner] += 1
        for row, place in zip(rows.tolist(), places, strict=True):
            if place is not None:
                windows.book(row, place, -1)
                held += int(amount[row])
    total = cluster.gpus * WHOLE
    filling = Filling(np.array([amount[order].sum() / total]), np.array([held / total]), np.array([np.nan]))
    return filling, solver.stats.as_dict() | {"wins": wins}


class _Windows:
    """The cluster while it fills; each rule's work space remembers rises of nodes that have not changed."""

    def __init__(
        self, cluster: ClusterArrays, room: Room, demand: Demand, classes: Eligibility, amount: Ints,
        rules: Mapping[str, Work], measure: str,
    ) -> None:  # fmt: skip
        self.cluster, self.room, self.demand, self.classes, self.amount = cluster, room, demand, classes, amount
        self.rules, self.rule = rules, measure
        self.measure = Measure(np.zeros((0, 0)), rules[measure].types)

    def place(self, rows: Ints, solver: JointSolver) -> tuple[list[Place | None], str]:
        """Places for a window, and whose plan it is."""
        fitting, near = [], []
        for row in rows.tolist():
            nodes = self.nearest(row, solver.near)
            if len(nodes):
                fitting.append(row)
                near.append(nodes)
        if not fitting:
            return [None] * len(rows), self.rule
        mine = np.array(fitting, np.int64)
        lo = self.classes.ptr[self.classes.cls[mine]]
        hi = self.classes.ptr[self.classes.cls[mine] + 1]
        known = {name: self.greedily(mine, name) for name in self.rules}
        instance = Instance(
            cluster=self.cluster, room=self.room, demand=self.demand, jobs=mine,
            value=self.amount[mine] / WHOLE + 1e-3 * (self.amount[mine] == 0), pools=self.classes.pools, lo=lo, hi=hi, near=near,
        )  # fmt: skip
        decision = solver.decide(instance, self.measure, known)
        found = iter(decision.places)
        inside = {*fitting}
        return [next(found) if row in inside else None for row in rows.tolist()], decision.report["winner"]

    def nearest(self, row: int, near: int) -> Ints:
        """Nodes where the request fits and the measure rises least, at most ``near``; all of a pool where it is a gang of several."""
        work = self.rules[self.rule]
        if self._find(row, self.rule) == 0:
            return np.zeros(0, np.int64)
        # Asking has brought the rises of the request's kind up to date on all nodes of its pools.
        c = self.classes.cls[row]
        pools = self.classes.pools[self.classes.ptr[c] : self.classes.ptr[c + 1]]
        ranges = [np.arange(self.cluster.pool_lo[p], self.cluster.pool_hi[p]) for p in pools]
        wide = self.demand.gpus[row] > self.cluster.pool_cap[pools]
        gangs = [nodes for nodes, several in zip(ranges, wide, strict=True) if several]
        nodes = np.concatenate(
            [np.zeros(0, np.int64), *(n for n, several in zip(ranges, wide, strict=True) if not several)]
        )
        rise = work.memo.rise[work.memo.kind[row], nodes]
        best = np.lexsort((self.room.turn[nodes], rise))[:near]
        return np.sort(np.concatenate([nodes[best[np.isfinite(rise[best])]], *gangs]))

    def greedily(self, rows: Ints, rule: str) -> list[Place | None]:
        """The rule's own places, one request after the other; nothing stays booked."""
        places: list[Place | None] = []
        for row in rows.tolist():
            m, work = self._find(row, rule), self.rules[rule]
            if m == 0:
                places.append(None)
                continue
            place = Place(tuple(work.node[:m].tolist()), tuple(work.grant[:m].tolist()))
            self.book(row, place, -1)
            places.append(place)
        for row, taken in zip(rows.tolist(), places, strict=True):
            if taken is not None:
                self.book(row, taken, 1)
        return places

    def book(self, row: int, place: Place, sign: int) -> None:
        """Take (-1) or give back (+1), and let every rule forget the nodes."""
        nodes, grants = np.array(place.nodes, np.int64), np.array(place.grants, np.int64)
        take(self.cluster, self.room, self.demand, row, Held(nodes, grants, 0, len(nodes)), sign)
        for work in self.rules.values():
            for node in place.nodes:
                changed(self.cluster, self.room, work, node)

    def _find(self, row: int, rule: str) -> int:
        c = self.classes.cls[row]
        among = Among(self.classes.pools, self.classes.ptr[c], self.classes.ptr[c + 1])
        return int(
            find(
                self.cluster, self.room, self.demand, row, among,
                SHARING_RULES[rule], np.uint64(0), self.rules[rule],
            )
        )  # fmt: skip
