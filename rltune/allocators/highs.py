"""Solving the joint model: its matrix from arrays, a HiGHS instance that is kept, level by level.

First the relaxation: where it is integral, as it mostly is, or no better than the plan already known (the incumbent), the
level is settled by a few simplex steps. Else columns whose reduced cost alone makes them worse than the incumbent are
closed, and HiGHS branches on the rest.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import highspy
import numpy as np
import numpy.typing as npt
from highspy import HighsModelStatus, HighsVarType

from rltune.allocators.model import Level, Problem

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

OPTIMAL, TIME_LIMIT, INFEASIBLE, ERROR = "optimal", "time_limit", "infeasible", "error"
STATUS: dict[HighsModelStatus, str] = {
    HighsModelStatus.kOptimal: OPTIMAL,
    HighsModelStatus.kModelEmpty: OPTIMAL,
    HighsModelStatus.kTimeLimit: TIME_LIMIT,
    HighsModelStatus.kIterationLimit: TIME_LIMIT,
    HighsModelStatus.kSolutionLimit: TIME_LIMIT,
    HighsModelStatus.kObjectiveBound: TIME_LIMIT,
    HighsModelStatus.kObjectiveTarget: TIME_LIMIT,
    HighsModelStatus.kInterrupt: TIME_LIMIT,
    HighsModelStatus.kInfeasible: INFEASIBLE,
    HighsModelStatus.kUnboundedOrInfeasible: INFEASIBLE,
    HighsModelStatus.kUnbounded: ERROR,
    HighsModelStatus.kMemoryLimit: ERROR,
    HighsModelStatus.kNotset: ERROR,
    HighsModelStatus.kLoadError: ERROR,
    HighsModelStatus.kModelError: ERROR,
    HighsModelStatus.kPresolveError: ERROR,
    HighsModelStatus.kSolveError: ERROR,
    HighsModelStatus.kPostsolveError: ERROR,
    HighsModelStatus.kUnknown: ERROR,
}
"""What an end of HiGHS means here. optimal, time_limit: use its solution if it has one; infeasible (the incumbent is
feasible, so a fault) and error: the incumbent, reported as a fallback."""
SEVERITY = (OPTIMAL, TIME_LIMIT, INFEASIBLE, ERROR)

EPS = 1e-7
"""Objectives closer than this are equal: costs differ by shares of jobs (about 1e-5), HiGHS errs by 1e-9."""
INTEGRAL = 1e-6


class Matrix(NamedTuple):
    """Columns s, X, z one after the other; rows as in `rltune.allocators.model`, in that order; compressed by column."""

    start: npt.NDArray[np.int32]
    row: npt.NDArray[np.int32]
    value: Floats
    lower: Floats
    upper: Floats
    row_lower: Floats
    row_upper: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Solved:
    """``status``; ``s, X, z`` whole numbers, None where nothing was found; ``values, bounds``: of the levels solved."""

    status: str
    values: tuple[float, ...]
    bounds: tuple[float, ...]
    s: Ints | None = None
    X: Ints | None = None
    z: Ints | None = None
    branchings: int = 0


def matrix_of(problem: Problem) -> Matrix:
    """The constraints of the problem as arrays."""
    n, ways, columns = len(problem.value), len(problem.slowdown), len(problem.column_class)
    kinds, items = problem.n_kinds, problem.n_items
    used = np.unique(problem.column_class)
    groups = np.unique(problem.group[problem.group >= 0])
    nodes_row, group_row = np.full(len(problem.count), -1), np.full(len(problem.left), -1)
    nodes_row[used] = kinds + items + np.arange(len(used))
    group_row[groups] = kinds + items + len(used) + np.arange(len(groups))
    first_order = kinds + items + len(used) + len(groups)
    orders = n - 1 if problem.prefix else 0
    way, way_item, way_times = problem.way_parts
    col, col_item, col_times = problem.column_parts
    counted = np.flatnonzero(problem.group >= 0)
    earlier = np.arange(orders)
    entry = [
        (problem.kind, np.arange(n), -np.ones(n)),
        (problem.way_kind, n + np.arange(ways), np.ones(ways)),
        (kinds + way_item, n + way, -way_times.astype(np.float64)),
        (kinds + col_item, n + ways + col, col_times.astype(np.float64)),
        (nodes_row[problem.column_class], n + ways + np.arange(columns), np.ones(columns)),
        (group_row[problem.group[counted]], counted, problem.amount[counted]),
        (first_order + earlier, earlier + 1, np.ones(orders)),
        (first_order + earlier, earlier, -np.ones(orders)),
    ]
    row, column, value = (np.concatenate([e[k] for e in entry]) for k in range(3))
    by = np.argsort(column * (first_order + orders + 1) + row, kind="stable")
    width = n + ways + columns
    upper_s = np.ones(n)
    many = np.bincount(problem.kind, minlength=kinds).astype(np.float64)
    return Matrix(
        start=np.concatenate([[0], np.cumsum(np.bincount(column, minlength=width))]).astype(np.int32),
        row=row[by].astype(np.int32),
        value=value[by],
        lower=np.concatenate([np.full(n, float(problem.all_start)), np.zeros(ways + columns)]),
        upper=np.concatenate([upper_s, many[problem.way_kind], problem.count[problem.column_class].astype(np.float64)]),
        row_lower=np.concatenate([np.zeros(kinds + items), np.full(len(used) + len(groups) + orders, -np.inf)]),
        row_upper=np.concatenate(
            [np.zeros(kinds + items), problem.count[used].astype(np.float64), problem.left[groups], np.zeros(orders)]
        ),
    )


class Session:
    """One HiGHS instance for all problems: one thread, no output, optimal to the last digit."""

    def __init__(self) -> None:
        self.highs = highspy.Highs()
        for option, value in (
            ("output_flag", False), ("threads", 1), ("mip_rel_gap", 0.0), ("mip_abs_gap", EPS / 10),
            ("mip_feasibility_tolerance", 1e-7),
        ):  # fmt: skip
            self.highs.setOptionValue(option, value)
        self.solver_s = 0.0

    def solve(
        self, problem: Problem, levels: Sequence[Level], incumbent: Sequence[float], deadline: float
    ) -> Solved:
        """The best solution by ``levels``; ``incumbent``: values of a known plan, most important level first.

        ``deadline``: `time.perf_counter` second. Whatever HiGHS raises passes through.
        """
        matrix, width = matrix_of(problem), len(problem.value) + len(problem.slowdown) + len(problem.column_class)
        cost = np.concatenate(problem.costs(levels[0]))
        self.highs.passModel(
            width, len(matrix.row_lower), len(matrix.row), 1, 1, 0.0, cost, matrix.lower, matrix.upper,
            matrix.row_lower, matrix.row_upper, matrix.start, matrix.row, matrix.value, np.zeros(width, np.int32),
        )  # fmt: skip
        columns = np.arange(width, dtype=np.int32)
        values: list[float] = []
        bounds: list[float] = []
        x: Floats | None = None
        branched = 0
        ahead, status = True, OPTIMAL
        for k, level in enumerate(levels):
            if k > 0:
                self._fix(np.concatenate(problem.costs(levels[k - 1])), values[-1])
                cost = np.concatenate(problem.costs(level))
                self.highs.changeColsCost(width, columns, cost)
            # While no level has beaten the incumbent, its value is a cut-off for this one.
            cutoff = incumbent[k] if ahead else np.inf
            status, value, bound, found, did = self._level(matrix, cost, columns, cutoff, deadline)
            branched += did
            bounds.append(bound)
            if found is None and status == OPTIMAL:
                # Nothing is better than the incumbent here: go on among what is as good.
                values.append(cutoff)
                continue
            if found is None:
                break
            x = found
            values.append(value)
            ahead = ahead and value > cutoff - EPS
            if status != OPTIMAL:
                break
        return _solved(problem, status, values, bounds, x, branched)

    def _level(
        self, matrix: Matrix, cost: Floats, columns: npt.NDArray[np.int32], cutoff: float, deadline: float
    ) -> tuple[str, float, float, Floats | None, int]:
        """(status, value, bound, solution or None, whether it branched); None with optimal: not better than ``cutoff``."""
        status = self._run(deadline)
        if status != OPTIMAL:
            return status, np.inf, -np.inf, None, 0
        solution = self.highs.getSolution()
        x, reduced = np.array(solution.col_value), np.array(solution.col_dual)
        bound = float(cost @ x)
        if np.abs(x - np.rint(x)).max(initial=0.0) <= INTEGRAL:
            return OPTIMAL, bound, bound, x, 0
        if bound >= cutoff - EPS:
            return OPTIMAL, np.inf, cutoff, None, 0
        closed = columns[(x <= INTEGRAL) & (matrix.lower == 0) & (bound + reduced > cutoff + EPS)]
        try:
            zeros = np.zeros(len(closed))
            self.highs.changeColsBounds(len(closed), closed, zeros, zeros)
            self.highs.changeColsIntegrality(len(columns), columns, np.full(len(columns), 1, np.uint8))
            status = self._run(deadline)
            info = self.highs.getInfo()
            found = info.primal_solution_status == 2
            x = np.array(self.highs.getSolution().col_value) if found else x
            best = float(info.mip_dual_bound)
        finally:
            self.highs.changeColsIntegrality(len(columns), columns, np.full(len(columns), 0, np.uint8))
            self.highs.changeColsBounds(len(closed), closed, matrix.lower[closed], matrix.upper[closed])
        if status == INFEASIBLE and len(closed):
            # All that is left is worse than the incumbent.
            return OPTIMAL, np.inf, cutoff, None, 1
        if not found or status in (INFEASIBLE, ERROR):
            return status, np.inf, bound, None, 1
        return status, float(cost @ np.rint(x)), max(bound, min(best, float(cost @ x))), x, 1

    def _fix(self, cost: Floats, value: float) -> None:
        """From here on only solutions at least as good by the level before."""
        used = np.flatnonzero(cost).astype(np.int32)
        self.highs.addRow(-highspy.kHighsInf, value + EPS, len(used), used, cost[used])

    def _run(self, deadline: float) -> str:
        begun = time.perf_counter()
        if deadline - begun <= 0:
            return TIME_LIMIT
        self.highs.setOptionValue("time_limit", self.highs.getRunTime() + deadline - begun)
        self.highs.run()
        self.solver_s += time.perf_counter() - begun
        return STATUS[self.highs.getModelStatus()]


def _solved(
    problem: Problem, status: str, values: list[float], bounds: list[float], x: Floats | None, branched: int
) -> Solved:
    if x is None:
        return Solved(status, tuple(values), tuple(bounds), branchings=branched)
    n, ways = len(problem.value), len(problem.slowdown)
    whole = np.rint(x).astype(np.int64)
    parts = whole[:n], whole[n : n + ways], whole[n + ways :]
    return Solved(status, tuple(values), tuple(bounds), *parts, branchings=branched)
