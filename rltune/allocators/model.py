"""The joint model as mathematics: which jobs start now, in which way, and which pattern of parts each node takes.

    minimise, level by level,   weight . (fragmentation, slowdown, locality, reconfiguration, interruption)
                                -  value of what starts or goes on

    place[k]     sum_w X[w]  ==  sum_j s[j]                      every started job of kind k goes one way
    fill[i]      sum_q parts[q, i] z[q]  ==  sum_w parts[w, i] X[w]      every part of item i is in some pattern
    nodes[c]     sum_(q of c) z[q]  <=  count[c]                 no more patterns than nodes in that state
    quota[g]     sum_(w of g) amount[w] X[w]  <=  left[g]
    order[j]     s[j + 1]  <=  s[j]                              only where a prefix of the queue may start
    s binary; X, z integer >= 0

Capacity of every resource, legal MIG starts and the reservation are in the patterns: a pattern exists only where its
parts fit together, now and, those that may run on, beside the reserved job. docs/concepts/allocator.md explains each set.

Decisions are solved from the same `Problem` by `rltune.allocators.highs`, which hands HiGHS the matrix directly and is several
times faster; with ``interface: pyomo`` they go through this statement and Pyomo's
persistent interface. A test holds both to the same optimum and, row by row, to the same matrix.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyomo.environ as pyo
from pyomo.contrib.solver.common.results import SolutionStatus, TerminationCondition
from pyomo.contrib.solver.solvers.highs import Highs

from rltune.allocators.problem import (
    EPS,
    ERROR,
    INFEASIBLE,
    OPTIMAL,
    TIME_LIMIT,
    Floats,
    Ints,
    Level,
    Problem,
    Solved,
    solved,
)  # fmt: skip

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
"""What an end of Pyomo's interface means here."""


def pyomo_model(problem: Problem, level: Level) -> Any:
    """The problem as a Pyomo model that minimises one level."""
    jobs, ways, columns = range(len(problem.value)), range(len(problem.slowdown)), range(len(problem.column_class))
    groups = range(len(problem.left))
    jobs_of = _lists(problem.kind, problem.n_kinds)
    ways_of = _lists(problem.way_kind, problem.n_kinds)
    columns_of = _lists(problem.column_class, len(problem.count))
    in_way, in_column = _by_item(problem.way_parts, problem.n_items), _by_item(problem.column_parts, problem.n_items)
    cost_s, cost_x, cost_z = problem.costs(level)

    m = pyo.ConcreteModel()
    m.s = pyo.Var(jobs, domain=pyo.Binary)
    m.X = pyo.Var(ways, domain=pyo.NonNegativeIntegers)
    m.z = pyo.Var(columns, domain=pyo.NonNegativeIntegers)
    m.objective = pyo.Objective(
        expr=pyo.quicksum(cost_s[j] * m.s[j] for j in jobs)
        + pyo.quicksum(cost_x[w] * m.X[w] for w in ways)
        + pyo.quicksum(cost_z[q] * m.z[q] for q in columns),
        sense=pyo.minimize,
    )
    m.place = pyo.Constraint(
        range(problem.n_kinds), rule=lambda m, k: sum(m.X[w] for w in ways_of[k]) == sum(m.s[j] for j in jobs_of[k])
    )
    m.fill = pyo.Constraint(
        range(problem.n_items),
        rule=lambda m, i: sum(n * m.z[q] for q, n in in_column[i]) == sum(n * m.X[w] for w, n in in_way[i]),
    )
    m.nodes = pyo.Constraint(
        [c for c, mine in enumerate(columns_of) if mine],
        rule=lambda m, c: sum(m.z[q] for q in columns_of[c]) <= int(problem.count[c]),
    )
    m.quota = pyo.Constraint(
        [g for g in groups if (problem.group == g).any()],
        rule=lambda m, g: (
            sum(float(problem.amount[w]) * m.X[w] for w in np.flatnonzero(problem.group == g).tolist())
            <= float(problem.left[g])
        ),
    )
    m.order = pyo.Constraint(range(len(jobs) - 1 if problem.prefix else 0), rule=lambda m, j: m.s[j + 1] <= m.s[j])
    if problem.all_start:
        for j in jobs:
            m.s[j].setlb(1)
    return m


def _lists(label: Ints, n: int) -> list[list[int]]:
    """Positions of each of the labels 0..n-1."""
    return [np.flatnonzero(label == k).tolist() for k in range(n)]


def _by_item(parts: tuple[Ints, Ints, Ints], n_items: int) -> list[list[tuple[int, int]]]:
    found: list[list[tuple[int, int]]] = [[] for _ in range(n_items)]
    for owner, item, times in zip(*(column.tolist() for column in parts), strict=True):
        found[item].append((owner, times))
    return found


class PyomoSession:
    """Decisions through the statement above: `rltune.allocators.highs.Session`'s solve, slower, for who wants to read or change it."""

    def __init__(self) -> None:
        self.solver_s = 0.0

    def solve(self, problem: Problem, levels: Sequence[Level], incumbent: Sequence[float], deadline: float) -> Solved:
        """The best solution by ``levels``; the known plan's ``incumbent`` is not used. Whatever the solver raises passes through."""
        values: list[float] = []
        bounds: list[float] = []
        x: Floats | None = None
        for k, level in enumerate(levels):
            model = pyomo_model(problem, level)
            _hold(model, problem, levels[:k], values)
            status, bound, found = self._run(model, deadline)
            bounds.append(bound)
            if found is None:
                return solved(problem, status, values, bounds, x, 0)
            x = found
            values.append(float(np.concatenate(problem.costs(level)) @ np.rint(x)))
            if status != OPTIMAL:
                return solved(problem, status, values, bounds, x, 0)
        return solved(problem, OPTIMAL, values, bounds, x, 0)

    def _run(self, model: Any, deadline: float) -> tuple[str, float, Floats | None]:
        """Status, bound and the variables s, X, z one after the other."""
        begun = time.perf_counter()
        if deadline <= begun:
            return TIME_LIMIT, -np.inf, None
        solver = Highs()
        # By default a time limit raises although an incumbent exists, and no incumbent raises on loading.
        solver.config.raise_exception_on_nonoptimal_result = False
        solver.config.load_solutions = False
        solver.config.threads, solver.config.rel_gap, solver.config.abs_gap = 1, 0.0, EPS / 10
        results = solver.solve(model, time_limit=min(deadline - begun, 1e6))
        self.solver_s += time.perf_counter() - begun
        status = STATUS[results.termination_condition]
        bound = -np.inf if results.objective_bound is None else float(results.objective_bound)
        if results.solution_status not in (SolutionStatus.optimal, SolutionStatus.feasible):
            return status, bound, None
        results.solution_loader.load_vars()
        # A variable that no row and no cost mentions never reaches the solver.
        return status, bound, np.array([v.value or 0.0 for each in (model.s, model.X, model.z) for v in each.values()])


def _hold(model: Any, problem: Problem, levels: Sequence[Level], values: Sequence[float]) -> None:
    """Only solutions as good as ``values`` by the levels before."""
    model.held = pyo.ConstraintList()
    for level, value in zip(levels, values, strict=True):
        costs = zip(problem.costs(level), (model.s, model.X, model.z), strict=True)
        total = [float(c) * v for cost, variable in costs for c, v in zip(cost, variable.values(), strict=True) if c]
        if total:
            model.held.add(pyo.quicksum(total) <= value + 10 * EPS)
