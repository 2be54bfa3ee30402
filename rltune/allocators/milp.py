"""The MILP as a plug-in: `Snapshot` and order in, `Plan` out, by one joint decision (`rltune.allocators.joint`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rltune.allocators.formulation import Floats, Instance
from rltune.allocators.fragmentation import MEASURES, OF_WORKLOAD, Demand, cost_table
from rltune.allocators.joint import JointSolver, Stats
from rltune.allocators.measure import Measure
from rltune.allocators.problem import TERMS, Level
from rltune.allocators.whole_gpus import (
    Held,
    Placement,
    counts_of,
    fitting_now,
    grants_of,
    greedily,
    own_pools,
    requests_of,
    reservation,
    room_of,
)  # fmt: skip
from rltune.core.resources.counts import BEST_FIT, LEAST_FRAGMENTATION
from rltune.core.resources.fragments import no_types
from rltune.nouns.cluster import ClusterArrays
from rltune.nouns.errors import InputError
from rltune.nouns.plan import FloatArray, IntArray, Plan, Snapshot, Start

MODES = ("starts_first", "weighted", "lexicographic")
WORTHS = ("order", "gpus")
WEIGHTS = (1e-3, 1e6)
"""Least and largest weight; beyond them costs drown in the solver's tolerances, or drown everything else."""
INTERFACES = ("highs", "pyomo")
WIDEST_VALUE_RANGE = 1e6
"""Of the first job's value over the last one's; beyond it the last ones drown in the solver's tolerances."""


def default_weights() -> dict[str, float]:
    """Weight of each cost of the objective, see docs/concepts/allocator.md."""
    return {"interruption": 0.1, "fragmentation": 1.0, "slowdown": 10.0, "locality": 0.1, "reconfiguration": 0.1}


@dataclass(slots=True)
class MilpAllocator:
    """Decides the first ``head`` fitting jobs jointly, the rest of the order greedily after them.

    Of n jobs, job k is worth ``decay ** (k - (n - 1))`` (the last one 1), rounded, times its GPUs with ``worth`` = gpus.
    Running jobs that may be suspended are worth alike between two that wait (`values`).
    Only decisions that reach the time limit depend on the machine.

    Attributes:
        measure: of fragmentation: quadratic (a half used node is worst; joint best fit), demand (free GPUs that a random job
            of the workload could not use: FGD), stranding (also what lacks CPU or memory, and gaps that no other share
            fills) or partly_used (nodes neither idle nor full). quadratic was chosen on August, the validation month of
            Helios (experiments/milp_measures.py). See `rltune.allocators.fragmentation`.
        demand: of the workload, for the measures demand and stranding.
        head: first fitting jobs of the order that are decided jointly; the rest is placed greedily after them.
        mode: starts_first (who starts by value alone, then where by the weights), weighted (one sum of both; a start may be
            given up for its cost) or lexicographic (value, then one cost after the other in the order of the weights).
        worth: of a job: order (its place in the queue alone) or gpus (that times its GPUs).
        decay: value of a job relative to the one before it. Up to 0.5 (with worth=order, mode not weighted) an earlier job is
            never given up for any number of later ones (the policy decides who, the model where); towards 1, as many start
            as possible.
        weights: what one unit of each cost weighs: a GPU of expected fragmentation; the extra run time of a job on slower
            GPUs (0.5 = half as long again), with its extra GPU-time where way_rule=efficient (10: chosen on July and August
            of Helios, on GPUs of unlike speeds); each node of a gang beyond the first; a second of MIG reconfiguration; a
            GPU-second that suspending, resuming and moving a running job will take (interruption).
        time_limit_s: solver time of one decision; 0 = always the best greedy plan.
        rows: patterns of parts searched in one decision; where states of nodes are too many for that, each part is tried on
            the `near` cheapest states only, and the report's bound says what that may have cost.
        near: states tried for each part, see `rows`.
        cache_size: solutions kept, one a distinct free state and set of jobs (a few kB each).
        interface: highs (the model's matrix straight to HiGHS) or pyomo (through its statement in Pyomo, slower).
    """

    measure: str = "quadratic"
    demand: Demand | None = None
    head: int = 16
    mode: str = "starts_first"
    worth: str = "order"
    decay: float = 0.5
    weights: Mapping[str, float] = field(default_factory=default_weights)
    time_limit_s: float = 1.0
    rows: int = 4096
    near: int = 8
    cache_size: int = 20_000
    interface: str = "highs"
    solver: JointSolver = field(init=False, repr=False)
    _bound_to: tuple[ClusterArrays, FloatArray, Measure] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self._check()
        self.solver = JointSolver(
            self._levels(),
            float(self.time_limit_s),
            int(self.rows),
            int(self.near),
            cache_size=int(self.cache_size),
            interface=self.interface,
        )

    def _check(self) -> None:
        if self.measure not in MEASURES or (self.measure in OF_WORKLOAD and self.demand is None):
            raise InputError(
                f"allocator milp: measure={self.measure!r}; known are {', '.join(MEASURES)} ({' and '.join(OF_WORKLOAD)} with demand=...)"
            )
        for option, known in (("mode", MODES), ("worth", WORTHS), ("interface", INTERFACES)):
            if getattr(self, option) not in known:
                raise InputError(f"allocator milp: {option}={getattr(self, option)!r}; known are {', '.join(known)}")
        for option, least in (("head", 1), ("rows", 16), ("near", 1), ("cache_size", 0)):
            value = getattr(self, option)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
                raise InputError(f"allocator milp: {option}={value!r}; a whole number of at least {least} is needed")
        for option, value in (("time_limit_s", self.time_limit_s), ("decay", self.decay)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
                raise InputError(f"allocator milp: {option}={value!r}; a number of at least 0 is needed")
        if not 0 < self.decay <= 1:
            raise InputError(f"allocator milp: decay={self.decay}; more than 0 and at most 1 is possible")
        if (1 - self.head) * math.log(self.decay) > math.log(WIDEST_VALUE_RANGE):
            raise InputError(
                f"allocator milp: head={self.head} with decay={self.decay} makes the first job worth over "
                f"{WIDEST_VALUE_RANGE:g} times the last; take a smaller head or a larger decay"
            )
        costs = TERMS[1:]
        if not isinstance(self.weights, Mapping) or (unknown := [name for name in self.weights if name not in costs]):
            what = (
                f"weights.{unknown[0]} is unknown" if isinstance(self.weights, Mapping) else f"weights={self.weights!r}"
            )
            raise InputError(f"allocator milp: {what}; known are weights.{', weights.'.join(costs)}")
        for name, value in self.weights.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not (value == 0 or WEIGHTS[0] <= value <= WEIGHTS[1]):
                raise InputError(
                    f"allocator milp: weights.{name}={value!r}; 0 or a number from {WEIGHTS[0]:g} to {WEIGHTS[1]:g} is needed"
                )

    def _levels(self) -> tuple[Level, ...]:
        costs = {name: float(weight) for name, weight in self.weights.items() if weight > 0}
        if self.mode == "weighted":
            return ({"value": 1.0, **costs},)
        if self.mode == "lexicographic":
            return ({"value": 1.0}, *({name: weight} for name, weight in costs.items()))
        return ({"value": 1.0}, costs) if costs else ({"value": 1.0},)

    @property
    def stats(self) -> Stats:
        """Counters over the life of the allocator."""
        return self.solver.stats

    def values(self, gpus: Any, waiting: Any = None) -> Floats:
        """(n,) what starting, or going on with, each of n jobs of ``gpus`` (n,) is worth, first in order first.

        ``waiting`` (n,): False for jobs that run; None: all wait. A job is worth 1, and (1 / decay - 1) times all that
        stand behind it together; running jobs with no waiting one between them count as equals: no one of them is before
        another.
        """
        n = len(gpus)
        if waiting is None:
            # Whole numbers: two plans then differ by 1 or not at all, which spares the solver most proofs.
            value = np.rint(float(self.decay) ** (np.arange(n) - (n - 1.0)))
        else:
            value, behind, alike = np.zeros(n), 0.0, 0.0
            for k in range(n - 1, -1, -1):
                if waiting[k]:
                    behind, alike = behind + alike, 0.0
                value[k] = np.rint(1.0 + (1.0 / float(self.decay) - 1.0) * behind)
                alike += value[k]
                if waiting[k]:
                    behind, alike = behind + alike, 0.0
        return value * np.asarray(gpus, np.float64) if self.worth == "gpus" else value

    def cost_of(self, cluster: ClusterArrays) -> FloatArray:
        """(n_pools, cap + 1) fragmentation cost of a node, computed once a cluster."""
        return self._bind(cluster)[1]

    def _bind(self, cluster: ClusterArrays) -> tuple[ClusterArrays, FloatArray, Measure]:
        if self._bound_to is None or self._bound_to[0] is not cluster:
            table = cost_table(cluster, self.measure, self.demand)
            self._bound_to = (cluster, table, Measure(table, no_types()))
        return self._bound_to

    def count_trivial(self) -> None:
        """Count a decision that was seen to be settled without asking (`rltune.rl.joint`)."""
        self.stats.calls += 1
        self.stats.trivial += 1

    # --- whole GPUs: snapshots ------------------------------------------------------------

    def allocate(self, snapshot: Snapshot, order: IntArray, backfill: str) -> Plan:
        """See `rltune.nouns.plan.Allocator`. skip: any job of the head may start; blocking: only a prefix.

        easy: what may run on when the first job that does not fit is expected to start must fit beside it. The head is the
        first fitting jobs of the order; jobs behind it, and those of it that the model left, start greedily if they fit.
        """
        cluster, queue = snapshot.cluster, snapshot.queue
        cost = self.cost_of(cluster)
        order = np.asarray(order, np.int64)
        fitting = fitting_now(snapshot, order, cost)
        if backfill == "blocking":
            stop = np.flatnonzero(~fitting)
            order = order[: stop[0]] if len(stop) else order
            fitting = fitting[: len(order)]
        held = reservation(snapshot, order, cost) if backfill == "easy" and not fitting.all() else None
        candidates = order[fitting]
        if held is not None:
            # Whoever waits for the reservation does not start, even where another order of placing would let it.
            candidates = candidates[candidates != held.job]
        head = candidates[: self.head]
        known = {
            name: grants_of(snapshot.free, greedily(snapshot, head, rule, cost, held, prefix=backfill == "blocking"))
            for name, rule in (("fgd", LEAST_FRAGMENTATION), ("best_fit", BEST_FIT))
        }
        decision = self.solver.decide(self._instance(snapshot, head, held, backfill), self._bind(cluster)[2], known)
        placed = {int(k): counts_of(place) for k, place in zip(head, decision.places, strict=True) if place is not None}
        left = np.array([k for k in candidates.tolist() if k not in placed], np.int64)
        rest = greedily(snapshot, left, LEAST_FRAGMENTATION, cost, held, placed=placed, prefix=backfill == "blocking")
        placed |= {int(k): place for k, place in zip(left, rest, strict=True) if place is not None}
        starts = tuple(Start(int(queue.job[k]), *placed[k]) for k in order.tolist() if k in placed)
        return Plan(starts, decision.report)

    def _instance(self, snapshot: Snapshot, head: IntArray, held: Held | None, backfill: str) -> Instance:
        cluster, queue = snapshot.cluster, snapshot.queue
        lo, hi = queue.pool_lo[head], queue.pool_hi[head]
        late = None
        if held is not None:
            pools, lo, hi = own_pools(queue.pools, lo, hi)
            late = np.repeat((snapshot.now_s + queue.run_s[head] > held.shadow_s).astype(np.int64), hi - lo)
        return Instance(
            cluster=cluster,
            room=room_of(cluster, snapshot.free),
            demand=requests_of(queue.num_gpus[head]),
            jobs=np.arange(len(head)),
            value=self.values(queue.num_gpus[head]),
            pools=queue.pools if held is None else pools,
            lo=lo,
            hi=hi,
            late=late,
            spare=None if held is None else room_of(cluster, held.spare),
            prefix=backfill == "blocking",
        )

    def place_jointly(
        self,
        cluster: ClusterArrays,
        free: IntArray,
        num_gpus: IntArray,
        pool_lo: IntArray,
        pool_hi: IntArray,
        pools: IntArray,
        incumbent: Sequence[tuple[Sequence[int], Sequence[int]]],
    ) -> tuple[list[Placement], dict[str, Any]]:
        """Place n jobs that start together at the least cost: n placements and the report.

        ``free`` (n_nodes,) before any of them starts; ``num_gpus, pool_lo, pool_hi`` (n,): job i may use
        ``pools[pool_lo[i]:pool_hi[i]]``; ``incumbent``: n placements that fit together, kept unless there
        are better ones.
        """
        # Equal sets of jobs share a cached answer whatever their order: widest first.
        by_width = np.argsort(-num_gpus, kind="stable")
        known: list[Placement | None] = [
            (tuple(int(n) for n in incumbent[i][0]), tuple(int(g) for g in incumbent[i][1])) for i in by_width
        ]
        instance = Instance(
            cluster=cluster, room=room_of(cluster, free), demand=requests_of(num_gpus[by_width]),
            jobs=np.arange(len(by_width)), value=np.ones(len(by_width)), pools=pools, lo=pool_lo[by_width],
            hi=pool_hi[by_width], all_start=True,
        )  # fmt: skip
        decision = self.solver.decide(instance, self._bind(cluster)[2], {"greedy": grants_of(free, known)})
        answer = {int(i): counts_of(place) for i, place in zip(by_width, decision.places, strict=True) if place}
        return [answer[i] for i in range(len(num_gpus))], decision.report
