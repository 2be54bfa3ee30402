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

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyomo.environ as pyo
from pyomo.contrib.solver.common.results import SolutionStatus, TerminationCondition
from pyomo.contrib.solver.solvers.highs import Highs

from rltune.cluster import ClusterArrays
from rltune.plan import IntArray

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
            return sum(m.y[p, f, s] for f in range(s, caps[p] + 1)) == sum(m.parts[k, p, s] * m.x[k, p] for k in jobs)

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
