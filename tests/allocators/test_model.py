"""The statement of the model in Pyomo and the matrix that decisions are solved from are the same model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pyomo.repn.plugins.standard_form import LinearStandardFormCompiler
from search_cases import random_case
from test_joint import KINDS, MODES, measure_of

from rltune.allocators.highs import Session, matrix_of
from rltune.allocators.joint import JointSolver
from rltune.allocators.model import PyomoSession, pyomo_model
from rltune.allocators.problem import Problem


def problems(seed: int, kind: str, cases: int) -> list[tuple[Problem, Any]]:
    """Problems as the solver meets them, with their levels."""
    found: list[tuple[Problem, Any]] = []
    rng = np.random.default_rng(seed)
    for _ in range(cases):
        case, mode = random_case(rng, kind), str(rng.choice([*MODES]))
        solver = JointSolver(MODES[mode], spread=case.spread)
        kept = solver._solve

        def keep(problem: Problem, levels: Any, *rest: Any, kept: Any = kept) -> Any:
            found.append((problem, levels))
            return kept(problem, levels, *rest)

        JointSolver._solve, original = lambda self, *args, keep=keep: keep(*args), JointSolver._solve  # type: ignore[method-assign]
        try:
            solver.decide(case.instance, measure_of(rng, case, kind), {"nothing": [None] * len(case.instance.jobs)})
        finally:
            JointSolver._solve = original  # type: ignore[method-assign]
    return found


def rows_of(matrix: Any, lower: Any, upper: Any) -> set[Any]:
    """The rows as a set: sorted (column, coefficient) pairs with both bounds, normalised in sign."""
    found = set()
    for row, low, high in zip(matrix, lower, upper, strict=True):
        entries = [(j, float(v)) for j, v in enumerate(row) if v != 0]
        if entries and entries[0][1] < 0:
            entries, low, high = [(j, -v) for j, v in entries], -high, -low
        if entries:
            found.add((tuple(entries), float(low) + 0.0, float(high) + 0.0))
    return found


@pytest.mark.parametrize("kind", KINDS[:4])
def test_the_matrix_is_that_of_the_pyomo_model(kind: str) -> None:
    """Row by row: a constraint changed in one place only would be solved and never be read."""
    for problem, levels in problems(3, kind, 25):
        model = pyomo_model(problem, levels[0])
        form = LinearStandardFormCompiler().write(model, mixed_form=True)
        names = {variable.name: k for k, variable in enumerate(form.columns)}
        n, ways = len(problem.value), len(problem.slowdown)
        order = [*(f"s[{j}]" for j in range(n)), *(f"X[{w}]" for w in range(ways))]
        order += [f"z[{q}]" for q in range(len(problem.column_class))]
        stated = np.zeros((form.A.shape[0], len(order)))
        dense = form.A.toarray()
        for k, name in enumerate(order):
            if name in names:
                stated[:, k] = dense[:, names[name]]
        # Pyomo's mixed form: row bound_type 0 is ==, 1 is <=, -1 is >=.
        kinds = [row.bound_type for row in form.rows]
        low = [-np.inf if t == 1 else b for t, b in zip(kinds, form.rhs, strict=True)]
        high = [np.inf if t == -1 else b for t, b in zip(kinds, form.rhs, strict=True)]
        ours = matrix_of(problem)
        built = np.zeros((len(ours.row_lower), len(order)))
        for k in range(len(order)):
            built[ours.row[ours.start[k] : ours.start[k + 1]], k] = ours.value[ours.start[k] : ours.start[k + 1]]
        assert rows_of(built, ours.row_lower, ours.row_upper) == rows_of(stated, low, high)


@pytest.mark.parametrize("kind", KINDS[:4])
def test_both_interfaces_find_the_same_optimum(kind: str) -> None:
    """Level by level, through Pyomo's own interface to HiGHS and through ours."""
    for problem, levels in problems(4, kind, 25):
        nothing = [np.inf] * len(levels)
        stated = PyomoSession().solve(problem, levels, nothing, np.inf)
        solved = Session().solve(problem, levels, nothing, np.inf)
        assert (stated.status, solved.status) == ("optimal", "optimal")
        assert solved.values == pytest.approx(stated.values, abs=1e-5)


def test_decisions_through_pyomo_are_as_good() -> None:
    """Whoever changes the statement and decides with ``interface: pyomo`` gets plans of the same value."""
    rng = np.random.default_rng(5)
    for kind in KINDS[:3]:
        for _ in range(12):
            case, mode = random_case(rng, kind), str(rng.choice([*MODES]))
            measure, nothing = measure_of(rng, case, kind), {"nothing": [None] * len(case.instance.jobs)}
            reports = [
                JointSolver(MODES[mode], time_limit_s=600, spread=case.spread, interface=interface)
                .decide(case.instance, measure, nothing)
                .report
                for interface in ("highs", "pyomo")
            ]
            assert reports[1]["status"] == "optimal"
            assert reports[1]["objective"] == pytest.approx(reports[0]["objective"], abs=1e-5)
