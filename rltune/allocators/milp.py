"""Joint allocation: which of the first waiting jobs start now, in which pool and on which nodes.

The model and its mathematics are in `rltune.allocators.arcflow`; here it is applied:
jobs that compete are grouped, trivial and known cases are answered without the
solver, greedy's plan is the incumbent, and every fallback is counted and reported.
"""

from __future__ import annotations

import time
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from rltune.allocators.arcflow import (
    ALL_START_WEIGHT,
    EPS,
    ERROR,
    MODELS_KEPT,
    OPTIMAL,
    SEVERITY,
    WIDEST_VALUE_RANGE,
    WITHOUT,
    Answer,
    JointModel,
    Placement,
    Problem,
    realise,
    rise_range,
    upper_bound,
)
from rltune.allocators.enumeration import proves_best
from rltune.allocators.fragmentation import MEASURES, Demand, cost_table
from rltune.allocators.greedy import GreedyAllocator, place_one, space_of
from rltune.allocators.placement import LEAST_FRAGMENTATION, Space, book, fits_pool, scratch
from rltune.cluster import ClusterArrays
from rltune.compiled import kernel
from rltune.errors import InputError
from rltune.plan import FloatArray, IntArray, Plan, Queue, Snapshot, Start

# --- who competes with whom -----------------------------------------------------------


@kernel
def room(
    cluster: ClusterArrays,
    space: Space,
    num_gpus: IntArray,
    lo: IntArray,
    hi: IntArray,
    pools: IntArray,
    answer: IntArray,
) -> None:
    """How each job fits each pool now, into ``answer`` (n_jobs, n_pools), zeros before.

    0: not; 1: only by an uneven split; 2: as whole nodes and one rest.
    """
    for k in range(len(num_gpus)):
        for i in range(lo[k], hi[k]):
            p = pools[i]
            if fits_pool(cluster, space, num_gpus[k], p):
                cap = cluster.pool_cap[p]
                whole, rest = num_gpus[k] // cap, num_gpus[k] % cap
                nodes_left = -whole
                for f in range(rest if rest > 0 else cap, cap + 1):
                    nodes_left += space.level[p, f]
                even = space.level[p, cap] >= whole and nodes_left >= (1 if rest > 0 else 0)
                answer[k, p] = 2 if even else 1


def groups_of(fit: IntArray) -> list[tuple[list[int], list[int]]]:
    """[(jobs, pools), ...] that compete, directly or through others; ``fit`` (n_jobs, n_pools) of `room`."""
    groups: list[tuple[list[int], set[int]]] = []
    for k, row in enumerate(fit):
        jobs, pools = [k], set(np.flatnonzero(row).tolist())
        apart = []
        for group in groups:
            if group[1] & pools:
                jobs, pools = group[0] + jobs, group[1] | pools
            else:
                apart.append(group)
        groups = [*apart, (sorted(jobs), pools)]
    return [(jobs, sorted(pools)) for jobs, pools in groups]


RESERVATION = "would_delay_the_reservation"

# --- the allocator --------------------------------------------------------------------


@dataclass(slots=True)
class Stats:
    """Counters over the life of an allocator; a decision (call) has one or several groups."""

    calls: int = 0
    groups: int = 0
    trivial: int = 0
    cache_hits: int = 0
    solves: int = 0
    model_builds: int = 0
    improved: int = 0
    fallbacks: dict[str, int] = field(default_factory=dict)
    time_s: float = 0.0
    solver_time_s: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one group: its placements (None = not started) and the account of it."""

    placements: list[Placement | None]
    winner: str
    status: str
    objective: float
    bound: float
    reason: str = ""


@dataclass(slots=True)
class MilpAllocator:
    """Decides the first ``head`` fitting jobs jointly, the rest of the order greedily after them.

    Groups of jobs that cannot meet in any pool are solved apart. Within a group of n jobs, job k is worth
    ``decay ** (k - (n - 1))`` (the last one 1), and ``fragmentation_weight`` is what the whole possible
    range of the rise in fragmentation is worth. Below 1, no start is given up for less
    fragmentation; with ``decay`` <= 0.5 moreover no earlier job is given up for later ones.
    Both hold for placements the model can express (see the module).

    ``measure``: of fragmentation: quadratic, demand (of the workload ``demand``) or partly_used, see
    `rltune.allocators.fragmentation`.
    ``time_limit_s``: solver seconds of one decision; only decisions that reach it depend on the machine.
    ``cache_size``: optimal answers kept, the latest used.
    """

    measure: str = "quadratic"
    demand: Demand | None = None
    head: int = 16
    time_limit_s: float = 1.0
    decay: float = 0.5
    fragmentation_weight: float = 0.9
    cache_size: int = 20_000
    stats: Stats = field(default_factory=Stats, init=False)
    _answers: OrderedDict[Problem, Answer] = field(default_factory=OrderedDict, init=False, repr=False)
    _models: OrderedDict[Any, JointModel] = field(default_factory=OrderedDict, init=False, repr=False)
    _bound_to: tuple[ClusterArrays, FloatArray] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.measure not in MEASURES or (self.measure == "demand" and self.demand is None):
            raise InputError(
                f"allocator milp: measure={self.measure!r}; known are {', '.join(MEASURES)} (demand with demand=...)"
            )
        if self.head < 1:
            raise InputError(f"allocator milp: head={self.head}; at least 1 job is needed")
        if not 0 < self.decay <= 1:
            raise InputError(f"allocator milp: decay={self.decay}; more than 0 and at most 1 is possible")
        if min(self.time_limit_s, self.fragmentation_weight, self.cache_size) < 0:
            raise InputError("allocator milp: time_limit_s, fragmentation_weight and cache_size must not be negative")
        if self.decay ** (1 - self.head) > WIDEST_VALUE_RANGE:
            raise InputError(
                f"allocator milp: head={self.head} with decay={self.decay} makes the first job worth over "
                f"{WIDEST_VALUE_RANGE:g} times the last; take a smaller head or a larger decay"
            )

    def allocate(self, snapshot: Snapshot, order: IntArray, discipline: str) -> Plan:
        """See `rltune.plan.Allocator`. skip: any job of the head may start; blocking: only a prefix.

        The head is the first fitting jobs of the order. Jobs behind it, and those of it that the joint
        part left, start greedily if they still fit. easy: greedy decides around its reservation who starts, the model where.
        """
        if discipline == "easy":
            return self._allocate_easy(snapshot, order)
        begun = time.perf_counter()
        cluster, queue, blocking = snapshot.cluster, snapshot.queue, discipline == "blocking"
        space = self._space(cluster, snapshot.free)
        order = np.asarray(order, np.int64)
        fit = self._room(cluster, space, queue.num_gpus, queue.pool_lo, queue.pool_hi, queue.pools, order)
        able = fit.any(axis=1)
        # What does not fit now fits no better once others have started: it is out of this decision.
        keep = np.logical_and.accumulate(able) if blocking else able
        order, fit = order[keep], fit[keep]
        head = order[: self.head]
        greedy = _greedy(cluster, self._space(cluster, snapshot.free), queue, head, blocking)
        placed, report = self._decide(
            cluster,
            space,
            queue.num_gpus[head],
            fit[: self.head],
            [greedy.get(k) for k in head.tolist()],
            (self.decay, self.fragmentation_weight),
            blocking,
            begun,
        )
        chosen = {k: placement for k, placement in zip(head.tolist(), placed, strict=True) if placement is not None}
        for nodes, gpus in chosen.values():
            book(cluster, space, np.array(nodes), np.array(gpus), 0, len(nodes), -1)
        left = np.array([k for k in order.tolist() if k not in chosen], np.int64)
        chosen |= _greedy(cluster, space, queue, left, blocking)
        return Plan(tuple(Start(int(queue.job[k]), *chosen[k]) for k in order.tolist() if k in chosen), report)

    def _allocate_easy(self, snapshot: Snapshot, order: IntArray) -> Plan:
        """The starts of greedy EASY, placed jointly unless that would delay the reservation of the first job left."""
        cluster, queue = snapshot.cluster, snapshot.queue
        cost = self._space(cluster, snapshot.free).cost
        greedy = GreedyAllocator("least_fragmentation", cost)
        starts = greedy.allocate(snapshot, order, "easy").starts
        if len(starts) < 2:
            return Plan(starts, _report([], 0.0))
        position = {int(job): k for k, job in enumerate(queue.job)}
        rows = np.array([position[start.job] for start in starts], np.int64)
        lo, hi = queue.pool_lo[rows], queue.pool_hi[rows]
        old = [(start.nodes, start.gpus) for start in starts]
        placed, report = self.place_jointly(cluster, snapshot.free, queue.num_gpus[rows], lo, hi, queue.pools, old)
        new = tuple(Start(start.job, *placement) for start, placement in zip(starts, placed, strict=True))
        started = set(rows.tolist())
        head = next((int(k) for k in order if int(k) not in started), None)
        if head is None or self._begins(snapshot, greedy, rows, new, head) <= self._begins(
            snapshot, greedy, rows, starts, head
        ):
            return Plan(new, report)
        self.stats.fallbacks[RESERVATION] = self.stats.fallbacks.get(RESERVATION, 0) + 1
        return Plan(starts, report | {"winner": "greedy", "fallback": True, "reason": RESERVATION})

    @staticmethod
    def _begins(
        snapshot: Snapshot, greedy: GreedyAllocator, rows: IntArray, starts: Sequence[Start], head: int
    ) -> float:
        """When queue position ``head`` can start beside ``starts``, by expected ends; now if it fits."""
        cluster, work = snapshot.cluster, scratch(snapshot.cluster)
        free = snapshot.free.copy()
        for start in starts:
            free[list(start.nodes)] -= start.gpus
        if (
            place_one(cluster, space_of(cluster, free, greedy.cost), snapshot.queue, head, greedy.rule, work)
            is not None
        ):
            return snapshot.now_s
        return greedy.reserve(snapshot, list(zip(rows.tolist(), starts, strict=True)), head, work)[0]

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
        """Place n jobs that start together with the least rise in fragmentation: n placements and the report.

        ``free`` (n_nodes,) before any of them starts; ``num_gpus, pool_lo, pool_hi`` (n,): job i may use
        ``pools[pool_lo[i]:pool_hi[i]]``; ``incumbent``: n placements that fit together, kept unless there
        are better ones.
        """
        begun = time.perf_counter()
        # Equal sets of jobs share a cached answer whatever their order: widest first.
        by_width = np.argsort(-num_gpus, kind="stable")
        space = self._space(cluster, free)
        fit = self._room(cluster, space, num_gpus, pool_lo, pool_hi, pools, by_width)
        known: list[Placement | None] = [
            (tuple(int(n) for n in incumbent[i][0]), tuple(int(g) for g in incumbent[i][1])) for i in by_width
        ]
        weights = (1.0, ALL_START_WEIGHT)
        placed, report = self._decide(cluster, space, num_gpus[by_width], fit, known, weights, False, begun)
        answer: dict[int, Placement] = {int(i): p for i, p in zip(by_width, placed, strict=True) if p is not None}
        return [answer[i] for i in range(len(num_gpus))], report

    def cost_of(self, cluster: ClusterArrays) -> FloatArray:
        """(n_pools, cap + 1) fragmentation cost of a node, computed once a cluster."""
        if self._bound_to is None or self._bound_to[0] is not cluster:
            self._bound_to = (cluster, cost_table(cluster, self.measure, self.demand))
        return self._bound_to[1]

    def count_trivial(self) -> None:
        """Count a decision that was seen to be settled without asking (`rltune.rl.joint`)."""
        self.stats.calls += 1
        self.stats.groups += 1
        self.stats.trivial += 1

    def _space(self, cluster: ClusterArrays, free: IntArray) -> Space:
        return space_of(cluster, free, self.cost_of(cluster))

    @staticmethod
    def _room(
        cluster: ClusterArrays,
        space: Space,
        num_gpus: IntArray,
        pool_lo: IntArray,
        pool_hi: IntArray,
        pools: IntArray,
        order: IntArray,
    ) -> IntArray:
        """`room` of the jobs ``order`` (n,): (n, n_pools)."""
        fit = np.zeros((len(order), len(cluster.pool_cap)), np.int64)
        room(cluster, space, num_gpus[order], pool_lo[order], pool_hi[order], pools, fit)
        return fit

    def _decide(
        self,
        cluster: ClusterArrays,
        space: Space,
        num_gpus: IntArray,
        fit: IntArray,
        greedy: list[Placement | None],
        weights: tuple[float, float],
        prefix: bool,
        begun: float,
    ) -> tuple[list[Placement | None], dict[str, Any]]:
        """Group by group, the better of greedy's and the model's placements; ``begun``: s, `perf_counter`."""
        self.stats.calls += 1
        deadline = time.perf_counter() + self.time_limit_s
        placements = list(greedy)
        outcomes = []
        # A prefix of the order ties all its jobs together, whichever pools they use.
        together = [(list(range(len(fit))), np.flatnonzero(fit.any(axis=0)).tolist())] if len(fit) else []
        for jobs, pools in together if prefix else groups_of(fit):
            sizes = num_gpus[jobs].tolist()
            problem = _problem(cluster, space, sizes, fit[np.ix_(jobs, pools)], pools, weights, prefix)
            outcome = self._best(problem, pools, cluster, space, [greedy[k] for k in jobs], deadline)
            for k, placement in zip(jobs, outcome.placements, strict=True):
                placements[k] = placement
            outcomes.append(outcome)
        elapsed = time.perf_counter() - begun
        self.stats.time_s += elapsed
        return placements, _report(outcomes, elapsed)

    def _best(
        self,
        problem: Problem,
        pools: Sequence[int],
        cluster: ClusterArrays,
        space: Space,
        greedy: list[Placement | None],
        deadline: float,
    ) -> Outcome:
        """Greedy's placements unless the model's are better; whatever keeps it from answering is counted."""
        self.stats.groups += 1
        rise = _rise(cluster, space, greedy)
        score = problem.objective([g is not None for g in greedy], rise)
        bound = upper_bound(problem)
        if score < bound - EPS and None not in greedy and proves_best(problem, rise):
            bound = score
        if score >= bound - EPS:
            self.stats.trivial += 1
            return Outcome(greedy, "trivial", OPTIMAL, score, bound)
        answer, reason = self._answer(problem, deadline)
        bound = min(bound, answer.bound)
        if answer.pool is not None and answer.objective > score + EPS:
            self.stats.improved += 1
            placements = realise(answer, problem, pools, cluster, space.free)
            return Outcome(placements, "milp", answer.status, answer.objective, bound)
        if answer.pool is not None and answer.objective < score - EPS:
            reason = "worse_than_greedy"
        if reason:
            self.stats.fallbacks[reason] = self.stats.fallbacks.get(reason, 0) + 1
        return Outcome(greedy, "greedy", answer.status, score, bound, reason)

    def _answer(self, problem: Problem, deadline: float) -> tuple[Answer, str]:
        """From the cache, else from the solver by ``deadline``: the answer, and the reason if it is empty."""
        if problem in self._answers:
            self.stats.cache_hits += 1
            self._answers.move_to_end(problem)
            return self._answers[problem], ""
        left_s = deadline - time.perf_counter()
        if left_s <= 0:
            return Answer(WITHOUT, np.inf), WITHOUT
        solving = time.perf_counter()
        self.stats.solves += 1
        try:
            answer = self._model(problem).solve(problem, left_s)
        except Exception as fault:
            # Whatever a foreign solver raises, scheduling goes on, and the report and the counter tell.
            # The state of a persistent solver after a fault is unknown.
            self._models.clear()
            answer, reason = Answer(ERROR, np.inf), f"{ERROR}: {type(fault).__name__}"
        else:
            reason = answer.status if answer.pool is None else ""
        self.stats.solver_time_s += time.perf_counter() - solving
        if answer.status == OPTIMAL and answer.pool is not None:
            self._answers[problem] = answer
            if len(self._answers) > self.cache_size:
                self._answers.popitem(last=False)
        return answer, reason

    def _model(self, problem: Problem) -> JointModel:
        """The model for these pool shapes, with job slots in powers of two: few jobs make a small model."""
        slots = 1 << (len(problem.jobs) - 1).bit_length()
        key = (problem.caps, problem.cost, slots)
        if key not in self._models:
            self.stats.model_builds += 1
            self._models[key] = JointModel(*key)
            if len(self._models) > MODELS_KEPT:
                self._models.popitem(last=False)
        self._models.move_to_end(key)
        return self._models[key]


def _problem(
    cluster: ClusterArrays,
    space: Space,
    sizes: list[int],
    fit: IntArray,
    pools: list[int],
    weights: tuple[float, float],
    prefix: bool,
) -> Problem:
    """``sizes`` (n_jobs,) GPUs; ``fit`` (n_jobs, len(pools)) of `room`; ``weights``: decay, fragmentation."""
    decay, fragmentation_weight = weights
    caps = tuple(int(cluster.pool_cap[p]) for p in pools)
    cost = tuple(tuple(space.cost[p, : cap + 1].tolist()) for p, cap in zip(pools, caps, strict=True))
    jobs = tuple((g, tuple(np.flatnonzero(row == 2).tolist())) for g, row in zip(sizes, fit, strict=True))
    count, lowest, highest = [], [0.0] * len(jobs), [0.0] * len(jobs)
    for q, (p, cap) in enumerate(zip(pools, caps, strict=True)):
        parts = 0
        for k, (gpus, places) in enumerate(jobs):
            if q in places:
                parts += -(-gpus // cap)
                low, high = rise_range(cost, caps, gpus, q, -1)
                lowest[k], highest[k] = min(lowest[k], low), max(highest[k], high)
        count.append(tuple(min(parts, n) for n in space.level[p, : cap + 1].tolist()))
    span = sum(highest) - sum(lowest)
    values = tuple(decay ** (k - len(jobs) + 1) for k in range(len(jobs)))
    return Problem(caps, cost, tuple(count), jobs, values, fragmentation_weight / span if span else 0.0, prefix)


def _rise(cluster: ClusterArrays, space: Space, placements: Sequence[Placement | None]) -> float:
    """Rise in fragmentation cost when all placements are booked together."""
    taken: dict[int, int] = defaultdict(int)
    for placement in placements:
        for node, gpus in zip(*(placement or ((), ())), strict=True):
            taken[node] += gpus
    rise = 0.0
    for node, gpus in taken.items():
        row, f = space.cost[cluster.node_pool[node]], space.free[node]
        rise += float(row[f - gpus] - row[f])
    return rise


def _greedy(
    cluster: ClusterArrays, space: Space, queue: Queue, order: IntArray, blocking: bool
) -> dict[int, Placement]:
    """Queue position -> placement, one by one where fragmentation rises least; books them in ``space``."""
    placements: dict[int, Placement] = {}
    work = scratch(cluster)
    for k in order.tolist():
        if not space.total.any():
            break
        start = place_one(cluster, space, queue, k, LEAST_FRAGMENTATION, work)
        if start is not None:
            placements[k] = (start.nodes, start.gpus)
        elif blocking:
            break
    return placements


def _report(outcomes: Sequence[Outcome], time_s: float) -> dict[str, Any]:
    """One account of all groups; objective, bound and gap are sums, in values of a group's last job."""
    winners = {outcome.winner for outcome in outcomes}
    objective = sum(outcome.objective for outcome in outcomes)
    bound = sum(outcome.bound for outcome in outcomes)
    reasons = sorted({outcome.reason for outcome in outcomes if outcome.reason})
    return {
        "allocator": "milp",
        "status": max((outcome.status for outcome in outcomes), key=SEVERITY.index, default=OPTIMAL),
        "objective": objective,
        "bound": bound if np.isfinite(bound) else None,
        "gap": max(0.0, bound - objective) if np.isfinite(bound) else None,
        "time_s": time_s,
        "groups": len(outcomes),
        "winner": next((w for w in ("milp", "greedy") if w in winners), "trivial"),
        "fallback": bool(reasons),
        "reason": "; ".join(reasons),
    }
