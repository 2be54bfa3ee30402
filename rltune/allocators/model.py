"""The joint model as mathematics: which jobs start now, in which way, and which pattern of parts each node takes.

    minimise, level by level,   weight . (fragmentation, slowdown, locality, reconfiguration)  -  value of what starts

    place[k]     sum_w X[w]  ==  sum_j s[j]                      every started job of kind k goes one way
    fill[i]      sum_q parts[q, i] z[q]  ==  sum_w parts[w, i] X[w]      every part of item i is in some pattern
    nodes[c]     sum_(q of c) z[q]  <=  count[c]                 no more patterns than nodes in that state
    quota[g]     sum_(j of g) amount[j] s[j]  <=  left[g]
    order[j]     s[j + 1]  <=  s[j]                              only where a prefix of the queue may start
    s binary; X, z integer >= 0

Capacity of every resource, legal MIG starts and the reservation are in the patterns: a pattern exists only where its
parts fit together, now and, those that may run on, beside the reserved job. docs/allocator.md explains each set. The
statement below is the only use of Pyomo. Decisions are solved from the same `Problem` by `rltune.allocators.highs`, which
hands HiGHS the matrix directly, since Pyomo takes longer to build it than HiGHS to solve it; a test holds both to the
same optimum and, row by row, to the same matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
TERMS = ("value", "fragmentation", "slowdown", "locality", "reconfiguration")
"""Terms of the objective; the first is to be large, the others small."""
Level = dict[str, float]
"""Weight of each term of one level; only among what is best by all levels before does a level choose."""


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """The model's data; names as in docs/allocator.md.

    ``value, kind, amount, group`` (n_jobs,); ``way_kind, slowdown, locality`` (n_ways,); ``way_parts``: triplets
    (way, item, how many); ``column_class, fragmentation, reconfiguration`` (n_columns,); ``column_parts``: triplets
    (column, item, how many); ``count`` (n_classes,); ``left`` (n_groups,); ``n_items``.
    """

    value: Floats
    kind: Ints
    way_kind: Ints
    way_parts: tuple[Ints, Ints, Ints]
    slowdown: Floats
    locality: Floats
    column_class: Ints
    column_parts: tuple[Ints, Ints, Ints]
    fragmentation: Floats
    reconfiguration: Floats
    count: Ints
    n_items: int
    group: Ints
    amount: Floats
    left: Floats
    prefix: bool = False
    all_start: bool = False

    @property
    def n_kinds(self) -> int:
        return int(self.kind.max(initial=-1)) + 1

    def costs(self, level: Level) -> tuple[Floats, Floats, Floats]:
        """Objective of one level, to be minimised: coefficients of s, X and z."""
        weight = {term: level.get(term, 0.0) for term in TERMS}
        return (
            -weight["value"] * self.value,
            weight["slowdown"] * self.slowdown + weight["locality"] * self.locality,
            weight["fragmentation"] * self.fragmentation + weight["reconfiguration"] * self.reconfiguration,
        )


def pyomo_model(problem: Problem, level: Level) -> Any:
    """The problem as a Pyomo model that minimises one level."""
    import pyomo.environ as pyo

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
            sum(float(problem.amount[j]) * m.s[j] for j in np.flatnonzero(problem.group == g).tolist())
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


def solve_with_pyomo(problem: Problem, levels: Sequence[Level]) -> list[float]:
    """The best value of each level, through Pyomo's own persistent interface to HiGHS: the reference for tests."""
    import pyomo.environ as pyo
    from pyomo.contrib.solver.solvers.highs import Highs

    solver = Highs()
    solver.config.rel_gap, solver.config.abs_gap, solver.config.threads = 0.0, 1e-9, 1
    found: list[float] = []
    for k, level in enumerate(levels):
        model = pyomo_model(problem, level)
        model.held = pyo.ConstraintList()
        for before, value in zip(levels[:k], found, strict=True):
            costs = zip(problem.costs(before), (model.s, model.X, model.z), strict=True)
            total = [
                float(c) * v for cost, variable in costs for c, v in zip(cost, variable.values(), strict=True) if c
            ]
            if total:
                model.held.add(sum(total) <= value + 1e-6)
        solver.solve(model)
        found.append(float(pyo.value(model.objective)))
    return found
