"""Solving the joint model: its matrix from arrays, a HiGHS instance that is kept, level by level.

First the relaxation: where it is integral, as it mostly is, or no better than the plan already known (the incumbent), the
level is settled by a few simplex steps. Costs are often multiples of some number (values of 1, 2, 4, ...; eighths of
GPUs), so that "no better" means "by less than that number". Else columns whose reduced cost alone makes them worse than the
incumbent are closed, and a small tree of relaxations, each a few steps from the last, is searched here; HiGHS' own
branch and bound, which takes some milliseconds to begin, gets what is not settled after `SMALL_TREE` of them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import highspy
import numpy as np
import numpy.typing as npt
from highspy import HighsModelStatus

from rltune.allocators.problem import (
    EPS,
    ERROR,
    INFEASIBLE,
    OPTIMAL,
    TIME_LIMIT,
    Level,
    Problem,
    Solved,
    solved,
)  # fmt: skip

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

MEANING = {
    "kOptimal": OPTIMAL,
    "kModelEmpty": OPTIMAL,
    "kTimeLimit": TIME_LIMIT,
    "kIterationLimit": TIME_LIMIT,
    "kSolutionLimit": TIME_LIMIT,
    "kObjectiveBound": TIME_LIMIT,
    "kObjectiveTarget": TIME_LIMIT,
    "kInterrupt": TIME_LIMIT,
    "kHighsInterrupt": TIME_LIMIT,
    "kInfeasible": INFEASIBLE,
    "kUnboundedOrInfeasible": INFEASIBLE,
    "kUnbounded": ERROR,
    "kMemoryLimit": ERROR,
    "kNotset": ERROR,
    "kLoadError": ERROR,
    "kModelError": ERROR,
    "kPresolveError": ERROR,
    "kSolveError": ERROR,
    "kPostsolveError": ERROR,
    "kUnknown": ERROR,
}
"""What an end of HiGHS means here, see `rltune.allocators.problem`."""
STATUS: dict[HighsModelStatus, str] = {
    status: MEANING.get(name, ERROR) for name, status in HighsModelStatus.__members__.items()
}
"""The same by HiGHS' own values; a status that it may get one day is an error."""

INTEGRAL = 1e-6
EXACT = 1e-9
"""Feasibility tolerance of HiGHS: below `EPS`, with which a level is held while the next one is solved."""
SMALL_TREE = 60
"""Relaxations solved in our own tree, some 0.1 ms each, before a problem is left to HiGHS' branch and bound."""
FINEST = 1e5
"""Costs are looked at as multiples of 1 / FINEST."""


class Matrix(NamedTuple):
    """Columns s, X, z one after the other; rows as in `rltune.allocators.model`, in that order; compressed by column."""

    start: npt.NDArray[np.int32]
    row: npt.NDArray[np.int32]
    value: Floats
    lower: Floats
    upper: Floats
    row_lower: Floats
    row_upper: Floats


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
        (group_row[problem.group[counted]], n + counted, problem.amount[counted]),
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
            ("mip_feasibility_tolerance", EXACT), ("primal_feasibility_tolerance", EXACT),
        ):  # fmt: skip
            self.highs.setOptionValue(option, value)
        self.solver_s = 0.0

    def __reduce__(self) -> tuple[type[Session], tuple[()]]:
        """To another process a fresh one is sent: HiGHS itself cannot be pickled, and nothing of it is worth keeping."""
        return Session, ()

    def solve_whole(self, problem: Problem, levels: Sequence[Level]) -> float:
        """Seconds for the model as it is, by branch and bound from the start, level by level: what there is to save."""
        begun = time.perf_counter()
        self._pass(problem, levels[0], 1)
        columns = np.arange(self.highs.getNumCol(), dtype=np.int32)
        for k, level in enumerate(levels):
            if k > 0:
                self._fix(np.concatenate(problem.costs(levels[k - 1])), self.highs.getInfo().objective_function_value)
                self.highs.changeColsCost(len(columns), columns, np.concatenate(problem.costs(level)))
            self._run(np.inf)
        return time.perf_counter() - begun

    def _pass(self, problem: Problem, level: Level, integrality: int) -> Matrix:
        """Hand the model over, all columns of one kind (0: continuous, 1: whole numbers)."""
        matrix, cost = matrix_of(problem), np.concatenate(problem.costs(level))
        self.highs.passModel(
            len(cost), len(matrix.row_lower), len(matrix.row), 1, 1, 0.0, cost, matrix.lower, matrix.upper,
            matrix.row_lower, matrix.row_upper, matrix.start, matrix.row, matrix.value,
            np.full(len(cost), integrality, np.int32),
        )  # fmt: skip
        return matrix

    def solve(self, problem: Problem, levels: Sequence[Level], incumbent: Sequence[float], deadline: float) -> Solved:
        """The best solution by ``levels``; ``incumbent``: values of a known plan, most important level first.

        Optimal without a solution: nothing is better than the known plan. ``deadline``: `time.perf_counter` second.
        Whatever HiGHS raises passes through.
        """
        matrix, cost = self._pass(problem, levels[0], 0), np.concatenate(problem.costs(levels[0]))
        columns = np.arange(len(cost), dtype=np.int32)
        values: list[float] = []
        bounds: list[float] = []
        x: Floats | None = None
        branched = 0
        ahead, status = True, OPTIMAL
        for k, level in enumerate(levels):
            if k > 0:
                self._fix(np.concatenate(problem.costs(levels[k - 1])), values[-1])
                cost = np.concatenate(problem.costs(level))
                self.highs.changeColsCost(len(columns), columns, cost)
            # While no level has beaten the incumbent, its value is a cut-off for this one.
            cutoff = incumbent[k] if ahead else np.inf
            status, value, bound, found, did = self._level(matrix, cost, columns, cutoff, deadline)
            branched += did
            bounds.append(bound)
            if found is not None:
                # Better than the incumbent at this level: from here on it is no measure.
                x, ahead = found, False
                values.append(value)
            elif status == OPTIMAL:
                # Nothing is better than the incumbent here: go on among what is as good.
                values.append(cutoff)
            if status != OPTIMAL:
                break
        return solved(problem, status, values, bounds, x, branched)

    def _level(
        self, matrix: Matrix, cost: Floats, columns: npt.NDArray[np.int32], cutoff: float, deadline: float
    ) -> tuple[str, float, float, Floats | None, int]:
        """(status, value, bound, solution or None, whether it branched); None with optimal: none is better than ``cutoff``."""
        status = self._run(deadline)
        if status != OPTIMAL:
            return status, np.inf, -np.inf, None, 0
        solution = self.highs.getSolution()
        x, reduced = np.array(solution.col_value), np.array(solution.col_dual)
        bound = float(cost @ x)
        if _fraction(x) <= INTEGRAL:
            value = float(cost @ np.rint(x))
            return (
                (OPTIMAL, value, min(bound, value), x, 0)
                if value < cutoff - EPS
                else (OPTIMAL, np.inf, cutoff, None, 0)
            )
        grain = _grain(cost)
        limit = _limit(cutoff, grain)
        if bound > limit:
            return OPTIMAL, np.inf, cutoff, None, 0
        closed = columns[(x <= INTEGRAL) & (matrix.lower == 0) & (bound + reduced > limit)]
        upper = matrix.upper.copy()
        upper[closed] = 0.0
        self.highs.changeColsBounds(len(closed), closed, np.zeros(len(closed)), np.zeros(len(closed)))
        try:
            best, found, finished = self._search_tree(matrix.lower, upper, cost, x, cutoff, grain, deadline)
            status, low = OPTIMAL, best
            if not finished:
                status, low, better = self._branch(cost, columns, bound, best, deadline)
                if better is not None:
                    best, found = float(cost @ np.rint(better)), better
            return status, np.inf if found is None else best, min(low, best), found, 1
        finally:
            self.highs.changeColsBounds(len(closed), closed, matrix.lower[closed], matrix.upper[closed])

    def _search_tree(
        self, lower: Floats, upper: Floats, cost: Floats, x: Floats, cutoff: float, grain: float, deadline: float
    ) -> tuple[float, Floats | None, bool]:
        """Value and solution of the best below ``cutoff``, ``cutoff`` and None if there is none; whether the tree is finished.

        Depth first, nearest side first: each relaxation differs from the last in a few bounds, and starts from its basis.
        """
        best, found = cutoff, None
        stack: list[tuple[tuple[int, float, float], ...]] = []
        applied: tuple[tuple[int, float, float], ...] = ()
        self._divide(x, lower, upper, (), stack)
        try:
            for _ in range(SMALL_TREE):
                if not stack:
                    return best, found, True
                node = stack.pop()
                shared = sum(1 for a, b in zip(applied, node, strict=False) if a == b)
                for column, _, _ in applied[shared:]:
                    self.highs.changeColBounds(column, lower[column], upper[column])
                # A column may be bound twice on the way down; the last counts.
                for column, low, high in node:
                    self.highs.changeColBounds(column, low, high)
                applied = node
                status = self._run(deadline)
                if status == INFEASIBLE:
                    continue
                if status != OPTIMAL:
                    break
                x = np.array(self.highs.getSolution().col_value)
                value = float(cost @ x)
                if value > _limit(best, grain):
                    continue
                if _fraction(x) <= INTEGRAL:
                    value = float(cost @ np.rint(x))
                    best, found = (value, x) if value < best - EPS else (best, found)
                    continue
                self._divide(x, lower, upper, node, stack)
            return best, found, False
        finally:
            for column, _, _ in applied:
                self.highs.changeColBounds(column, lower[column], upper[column])

    @staticmethod
    def _divide(x: Floats, lower: Floats, upper: Floats, node: Any, stack: list[Any]) -> None:
        """Two halves of a node, by its first fractional column: who starts, first job first, settles most of the rest.

        The nearer half comes off the stack first.
        """
        column = int(np.argmax(np.abs(x - np.rint(x)) > INTEGRAL))
        below = float(np.floor(x[column]))
        low, high = float(lower[column]), float(upper[column])
        for at, a, b in node:
            if at == column:
                low, high = a, b
        halves = ((*node, (column, low, below)), (*node, (column, below + 1, high)))
        stack.extend(halves if x[column] - below >= 0.5 else halves[::-1])

    def _branch(
        self, cost: Floats, columns: npt.NDArray[np.int32], bound: float, cutoff: float, deadline: float
    ) -> tuple[str, float, Floats | None]:
        """HiGHS' own branch and bound: status, bound, and a solution if one is better than ``cutoff``."""
        try:
            self.highs.changeColsIntegrality(len(columns), columns, np.full(len(columns), 1, np.uint8))
            status = self._run(deadline)
            info = self.highs.getInfo()
            x = np.array(self.highs.getSolution().col_value) if info.primal_solution_status == 2 else None
            best = float(info.mip_dual_bound)
        finally:
            self.highs.changeColsIntegrality(len(columns), columns, np.full(len(columns), 0, np.uint8))
        if status == INFEASIBLE and np.isfinite(cutoff):
            # All that is left is worse than what is known.
            return OPTIMAL, cutoff, None
        if x is None or status in (INFEASIBLE, ERROR):
            return status, bound, None
        value = float(cost @ np.rint(x))
        return status, max(bound, min(best, value)), x if value < cutoff - EPS else None

    def _fix(self, cost: Floats, value: float) -> None:
        """From here on only solutions at least as good by the level before."""
        used = np.flatnonzero(cost).astype(np.int32)
        self.highs.addRow(-highspy.kHighsInf, value + EPS, len(used), used, cost[used])

    def _run(self, deadline: float) -> str:
        begun = time.perf_counter()
        if deadline - begun <= 0:
            return TIME_LIMIT
        left = deadline - begun if np.isfinite(deadline) else highspy.kHighsInf
        self.highs.setOptionValue("time_limit", self.highs.getRunTime() + left)
        self.highs.run()
        self.solver_s += time.perf_counter() - begun
        return STATUS[self.highs.getModelStatus()]


def _fraction(x: Floats) -> float:
    """The largest distance of any of the numbers from a whole one."""
    return float(np.abs(x - np.rint(x)).max(initial=0.0))


def _limit(cutoff: float, grain: float) -> float:
    """The most that a solution better than ``cutoff`` can cost: less by `EPS`, and a multiple of ``grain``."""
    if grain == 0 or not np.isfinite(cutoff):
        return cutoff - EPS
    return float((np.ceil((cutoff - EPS) / grain) - 1) * grain + EPS)


def _grain(cost: Floats) -> float:
    """A number of which all costs are multiples, so that two solutions differ by it at least, or not; 0: none was found."""
    scaled = cost * FINEST
    whole = np.rint(scaled)
    if np.abs(scaled - whole).max(initial=0.0) > 1e-4 or np.abs(whole).max(initial=0.0) > 2.0**52:
        return 0.0
    return float(np.gcd.reduce(whole.astype(np.int64))) / FINEST
