"""Joint allocation by a MILP: which of the first waiting jobs start now, in which pool and on which nodes.

Nodes of a pool with the same free count are interchangeable, so the model counts
them instead of naming them and does not grow with the cluster. A gang of g GPUs
in a pool of cap GPUs per node is floor(g / cap) whole-node parts and one rest part of
g mod cap GPUs; taking a part of s GPUs from a node with f free is an arc f -> f - s:

    maximise   sum_k value_k sum_p x[k, p] - weight sum_(p, f, s) (cost[p, f - s] - cost[p, f]) y[p, f, s]
    sum_s y[p, f, s] <= count[p, f] + sum_s y[p, f + s, s]        nodes that have, or come to have, f free
    sum_f y[p, f, s] == sum_k parts[k, p, s] x[k, p]              every part of a started gang is placed
    sum_p x[k, p] <= 1,  x binary,  y integer >= 0

Any integer flow splits into one path a node, that is one set of parts a node, and the
costs along a path telescope: the model is the exact pattern (cutting-stock) formulation
with O(cap^2) columns a pool instead of one a pattern (arc-flow, Valerio de Carvalho 1999).

Not expressible: a gang split unevenly over several partly used nodes, which the greedy rule
tries when too few nodes are entirely free. Greedy's plan is always scored by its real
rise in fragmentation and kept where it is better, so nothing is lost against greedy.
"""

from __future__ import annotations

import time
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyomo.environ as pyo
from pyomo.contrib.solver.common.results import SolutionStatus, TerminationCondition
from pyomo.contrib.solver.solvers.highs import Highs

from rltune.allocators.fragmentation import Demand, demand_cost, demand_of, partly_used_cost
from rltune.allocators.greedy import place_one, space_of
from rltune.allocators.placement import LEAST_FRAGMENTATION, Space, book, fits_pool, scratch
from rltune.cluster import Cluster, ClusterArrays
from rltune.compiled import kernel
from rltune.errors import InputError
from rltune.jobs import JobTable
from rltune.plan import FloatArray, IntArray, Plan, Queue, Snapshot, Start

Placement = tuple[tuple[int, ...], tuple[int, ...]]
"""(nodes, gpus): node indices ascending and the GPUs taken on each."""

OPTIMAL, TIME_LIMIT, INFEASIBLE, ERROR = "optimal", "time_limit", "infeasible", "error"
WITH_INCUMBENT, WITHOUT = "time_limit_with_incumbent", "time_limit_without"
STATUS: dict[TerminationCondition, str] = {
    TerminationCondition.convergenceCriteriaSatisfied: OPTIMAL,
    TerminationCondition.maxTimeLimit: TIME_LIMIT,
    TerminationCondition.iterationLimit: TIME_LIMIT,
    TerminationCondition.objectiveLimit: TIME_LIMIT,
    TerminationCondition.interrupted: TIME_LIMIT,
    TerminationCondition.provenInfeasible: INFEASIBLE,
    TerminationCondition.locallyInfeasible: INFEASIBLE,
    TerminationCondition.infeasibleOrUnbounded: INFEASIBLE,
    TerminationCondition.unbounded: ERROR,
    TerminationCondition.minStepLength: ERROR,
    TerminationCondition.error: ERROR,
    TerminationCondition.licensingProblems: ERROR,
    TerminationCondition.emptyModel: ERROR,
    TerminationCondition.unknown: ERROR,
}
"""What a solver's end means here. optimal, time_limit: use its solution if it has one, else greedy's plan;
infeasible (starting nothing is always feasible, so a fault) and error: greedy's plan."""
SEVERITY = (OPTIMAL, WITH_INCUMBENT, WITHOUT, INFEASIBLE, ERROR)

EPS = 1e-7
"""Objectives closer than this are equal: costs differ by shares of jobs (about 1e-5), HiGHS errs by 1e-9."""
WIDEST_VALUE_RANGE = 1e6
"""Of the first job's value over the last one's; beyond it fragmentation drowns in the solver's tolerances."""
MODELS_KEPT = 32
"""Persistent models, one a tuple of pool shapes and number of job slots; each takes 3 to 30 ms to build."""
ALL_START_WEIGHT = 0.5
"""Fragmentation weight of `place_jointly`: any in (0, 1) starts every job first, then minimises the rise."""


# --- the joint problem ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Problem:
    """Jobs that compete for the same pools, without names of jobs or nodes, and so the key of the cache.

    ``caps`` (n_pools,); ``cost`` and ``count`` (n_pools, cap + 1): fragmentation cost and nodes by
    free GPUs, the latter cut off at the number of parts that could ever be placed there;
    ``jobs``: (GPUs, pools where it fits now), first to start first; ``values`` (n_jobs,);
    ``weight``: objective per unit of cost; ``prefix``: a job may start only if all before it do.
    """

    caps: tuple[int, ...]
    cost: tuple[tuple[float, ...], ...]
    count: tuple[tuple[int, ...], ...]
    jobs: tuple[tuple[int, tuple[int, ...]], ...]
    values: tuple[float, ...]
    weight: float
    prefix: bool

    def objective(self, started: Sequence[bool], rise: float) -> float:
        return sum(v for v, s in zip(self.values, started, strict=True) if s) - self.weight * rise


@dataclass(frozen=True, slots=True)
class Answer:
    """What the solver found: ``pool`` (n_jobs,) or -1; ``moves``: (pool, f, s, nodes that give s of f GPUs).

    ``pool`` is None where it found nothing; ``objective`` is recomputed from the rounded integers.
    """

    status: str
    bound: float
    pool: tuple[int, ...] | None = None
    moves: tuple[tuple[int, int, int, int], ...] = ()
    objective: float = -np.inf


def rise_range(
    costs: Sequence[Sequence[float]], caps: Sequence[int], gpus: int, pool: int, levels: int
) -> tuple[float, float]:
    """Smallest and largest rise in cost of a gang in a pool, its rest part met by one of ``levels``.

    Bit f of ``levels``: a node with f free GPUs may be met; (inf, -inf) where none has room.
    """
    cost, cap = costs[pool], caps[pool]
    whole, rest = divmod(gpus, cap)
    base = whole * (cost[0] - cost[cap])
    if rest == 0:
        return base, base
    rises = [cost[f - rest] - cost[f] for f in range(rest, cap + 1) if levels >> f & 1]
    return (base + min(rises), base + max(rises)) if rises else (np.inf, -np.inf)


def upper_bound(problem: Problem) -> float:
    """No plan of the model is better: every job starts, on the kindest free count that others could leave it.

    Infinite where a job has no expressible placement, since greedy may still place it unevenly.
    """
    present = [sum(1 << f for f, n in enumerate(row) if n) for row in problem.count]
    bound = sum(problem.values)
    for k, (gpus, pools) in enumerate(problem.jobs):
        lowest = np.inf
        for p in pools:
            levels = present[p]
            for other, (size, places) in enumerate(problem.jobs):
                if other != k and p in places:
                    levels |= levels >> (size % problem.caps[p])
            lowest = min(lowest, rise_range(problem.cost, problem.caps, gpus, p, levels)[0])
        if not pools:
            return np.inf
        bound -= problem.weight * lowest
    return bound


# --- the persistent model -------------------------------------------------------------


class JointModel:
    """One Pyomo model for a tuple of pool shapes and up to ``slots`` jobs, kept in HiGHS and re-solved.

    Every part size 1..cap has its arcs, so no job size ever needs another model. Columns a pool:
    cap (cap + 1) / 2 + slots; with the 32 GPUs per node that `rltune.cluster` allows, 528 + slots.
    """

    def __init__(self, caps: tuple[int, ...], cost: tuple[tuple[float, ...], ...], slots: int) -> None:
        self.caps, self.slots = caps, slots
        pools, jobs = range(len(caps)), range(slots)
        self.arcs = [(p, f, s) for p in pools for f in range(1, caps[p] + 1) for s in range(1, f + 1)]
        states = [(p, f) for p in pools for f in range(1, caps[p] + 1)]
        rise = {(p, f, s): cost[p][f - s] - cost[p][f] for p, f, s in self.arcs}

        m = self.model = pyo.ConcreteModel()
        m.count = pyo.Param(states, mutable=True, initialize=0)
        m.parts = pyo.Param(jobs, states, mutable=True, initialize=1)
        m.open = pyo.Param(jobs, pools, mutable=True, initialize=1)
        m.value = pyo.Param(jobs, mutable=True, initialize=1.0)
        m.weight = pyo.Param(mutable=True, initialize=1.0)
        m.prefix = pyo.Param(mutable=True, initialize=1)
        m.x = pyo.Var(jobs, pools, domain=pyo.Integers, bounds=lambda m, k, p: (0, m.open[k, p]))
        m.y = pyo.Var(self.arcs, domain=pyo.NonNegativeIntegers)

        def nodes_suffice(m: Any, p: int, f: int) -> Any:
            taken = sum(m.y[p, f, s] for s in range(1, f + 1))
            return taken - sum(m.y[p, f + s, s] for s in range(1, caps[p] - f + 1)) <= m.count[p, f]

        def parts_placed(m: Any, p: int, s: int) -> Any:
            return sum(m.y[p, f, s] for f in range(s, caps[p] + 1)) == sum(
                m.parts[k, p, s] * m.x[k, p] for k in jobs
            )

        m.nodes_suffice = pyo.Constraint(states, rule=nodes_suffice)
        m.parts_placed = pyo.Constraint(states, rule=parts_placed)
        m.one_pool = pyo.Constraint(jobs, rule=lambda m, k: sum(m.x[k, p] for p in pools) <= 1)
        m.in_order = pyo.Constraint(
            range(slots - 1), rule=lambda m, k: sum(m.x[k, p] - m.prefix * m.x[k + 1, p] for p in pools) >= 0
        )
        started = sum(m.value[k] * m.x[k, p] for k in jobs for p in pools)
        m.objective = pyo.Objective(
            expr=started - m.weight * sum(rise[arc] * m.y[arc] for arc in self.arcs), sense=pyo.maximize
        )
        self.rise = rise
        self.solver = self._solver()

    @staticmethod
    def _solver() -> Highs:
        solver = Highs()
        # Only parameters ever change, so the searches for other changes are switched off.
        for check in list(solver.config.auto_updates):
            setattr(solver.config.auto_updates, check, check == "update_parameters")
        # By default a time limit raises although an incumbent exists, and no incumbent raises on loading.
        solver.config.raise_exception_on_nonoptimal_result = False
        solver.config.load_solutions = False
        solver.config.threads = 1
        solver.config.rel_gap = 0.0
        solver.config.abs_gap = EPS / 10
        return solver

    def solve(self, problem: Problem, time_limit_s: float) -> Answer:
        """Set the parameters, solve, read. Whatever the solver raises passes through."""
        self._update(problem)
        results = self.solver.solve(self.model, time_limit=time_limit_s)
        status = STATUS[results.termination_condition]
        found = results.solution_status in (SolutionStatus.optimal, SolutionStatus.feasible)
        if status == TIME_LIMIT:
            status = WITH_INCUMBENT if found else WITHOUT
        bound = np.inf if results.objective_bound is None else float(results.objective_bound)
        if not found or status in (INFEASIBLE, ERROR):
            return Answer(status, bound)
        results.solution_loader.load_vars()
        return self._read(problem, status, bound)

    def _update(self, problem: Problem) -> None:
        m, n = self.model, len(problem.jobs)
        m.weight.value, m.prefix.value = problem.weight, int(problem.prefix)
        for p, cap in enumerate(self.caps):
            for f in range(1, cap + 1):
                m.count[p, f].value = problem.count[p][f]
        for k in range(self.slots):
            gpus, pools = problem.jobs[k] if k < n else (0, ())
            m.value[k].value = problem.values[k] if k < n else 0.0
            for p, cap in enumerate(self.caps):
                m.open[k, p].value = int(p in pools)
                whole, rest = divmod(gpus, cap)
                for s in range(1, cap + 1):
                    m.parts[k, p, s].value = whole if s == cap else int(s == rest)

    def _read(self, problem: Problem, status: str, bound: float) -> Answer:
        m = self.model
        exact = [v.value for v in m.x.values()] + [v.value for v in m.y.values()]
        # Rows have integer coefficients: rounding by less than this cannot break one.
        if max(abs(v - round(v)) for v in exact) > 1e-4:
            return Answer(ERROR, bound)
        pool = [-1] * len(problem.jobs)
        for k in range(len(problem.jobs)):
            for p in range(len(self.caps)):
                if round(m.x[k, p].value):
                    pool[k] = p
        moves = tuple((*arc, n) for arc in self.arcs if (n := round(m.y[arc].value)))
        rise = sum(self.rise[p, f, s] * n for p, f, s, n in moves)
        return Answer(status, bound, tuple(pool), moves, problem.objective([p >= 0 for p in pool], rise))


def realise(
    answer: Answer, problem: Problem, pool_ids: Sequence[int], cluster: ClusterArrays, free: IntArray
) -> list[Placement | None]:
    """Nodes for the moves, lowest index first within a free count, jobs in order; None = not started."""
    assert answer.pool is not None
    spots: dict[tuple[int, int], list[int]] = defaultdict(list)
    for p, pool in enumerate(pool_ids):
        lo, hi = int(cluster.pool_lo[pool]), int(cluster.pool_hi[pool])
        arrived: dict[int, list[int]] = defaultdict(list)
        for f in range(problem.caps[p], 0, -1):
            moves = [(s, n) for q, level, s, n in answer.moves if (q, level) == (p, f)]
            needed = sum(n for _, n in moves)
            if needed:
                nodes = sorted(arrived[f] + (np.flatnonzero(free[lo:hi] == f)[:needed] + lo).tolist())
                for s, n in moves:
                    spots[p, s] += nodes[:n]
                    arrived[f - s] += nodes[:n]
                    del nodes[:n]
    placements: list[Placement | None] = []
    for (gpus, _), p in zip(problem.jobs, answer.pool, strict=True):
        if p < 0:
            placements.append(None)
            continue
        whole, rest = divmod(gpus, problem.caps[p])
        taken = [(spots[p, problem.caps[p]].pop(0), problem.caps[p]) for _ in range(whole)]
        if rest:
            taken.append((spots[p, rest].pop(0), rest))
        nodes_, gpus_ = zip(*sorted(taken), strict=True)
        placements.append((nodes_, gpus_))
    return placements


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

    ``demand``: the workload's sizes and shares for `demand_cost`; None measures partly used nodes.
    ``time_limit_s``: solver seconds of one decision; only decisions that reach it depend on the machine.
    ``cache_size``: optimal answers kept, the latest used.
    """

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
        if self.head < 1:
            raise InputError(f"allocator milp: head={self.head}; at least 1 job is needed")
        if not 0 < self.decay <= 1:
            raise InputError(f"allocator milp: decay={self.decay}; more than 0 and at most 1 is possible")
        if min(self.time_limit_s, self.fragmentation_weight, self.cache_size) < 0:
            raise InputError(
                "allocator milp: time_limit_s, fragmentation_weight and cache_size must not be negative"
            )
        if self.decay ** (1 - self.head) > WIDEST_VALUE_RANGE:
            raise InputError(
                f"allocator milp: head={self.head} with decay={self.decay} makes the first job worth over "
                f"{WIDEST_VALUE_RANGE:g} times the last; take a smaller head or a larger decay"
            )

    def allocate(self, snapshot: Snapshot, order: IntArray, discipline: str) -> Plan:
        """See `rltune.plan.Allocator`. skip: any job of the head may start; blocking: only a prefix.

        The head is the first fitting jobs of the order. Jobs behind it, and those of it that the joint
        part left, start greedily if they still fit.
        """
        if discipline not in ("blocking", "skip"):
            raise InputError(
                "allocator=milp knows the disciplines blocking and skip; use allocator=best_fit for easy"
            )
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
        chosen = {
            k: placement for k, placement in zip(head.tolist(), placed, strict=True) if placement is not None
        }
        for nodes, gpus in chosen.values():
            book(cluster, space, np.array(nodes), np.array(gpus), 0, len(nodes), -1)
        left = np.array([k for k in order.tolist() if k not in chosen], np.int64)
        chosen |= _greedy(cluster, space, queue, left, blocking)
        return Plan(
            tuple(Start(int(queue.job[k]), *chosen[k]) for k in order.tolist() if k in chosen), report
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
        answer: dict[int, Placement] = {
            int(i): p for i, p in zip(by_width, placed, strict=True) if p is not None
        }
        return [answer[i] for i in range(len(num_gpus))], report

    def _space(self, cluster: ClusterArrays, free: IntArray) -> Space:
        """The free capacity with the fragmentation cost, which is computed once a cluster."""
        if self._bound_to is None or self._bound_to[0] is not cluster:
            cost = partly_used_cost(cluster) if self.demand is None else demand_cost(cluster, *self.demand)
            self._bound_to = (cluster, cost)
        return space_of(cluster, free, self._bound_to[1])

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
        score = problem.objective([g is not None for g in greedy], _rise(cluster, space, greedy))
        bound = upper_bound(problem)
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


def milp_for(jobs: JobTable, cluster: Cluster) -> MilpAllocator:
    """The default allocator, with fragmentation measured for the sizes of these jobs."""
    return MilpAllocator(demand_of(jobs.num_gpus, cluster.arrays()))


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
    return Problem(
        caps, cost, tuple(count), jobs, values, fragmentation_weight / span if span else 0.0, prefix
    )


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
