"""What no plan undercuts, by a look at the columns: often enough to see that a known plan is best."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rltune.allocators.formulation import Formulation
from rltune.allocators.measure import Measure
from rltune.allocators.problem import Level, Problem
from rltune.core.resources.fragments import GAPS, STARVED
from rltune.core.resources.scores import STRANDING
from rltune.nouns.jobs import WHOLE

Floats = npt.NDArray[np.float64]
NEVER = 1e12
"""Cost of what cannot be placed at all."""


def least_costs(
    made: Formulation, problem: Problem, measure: Measure, levels: Sequence[Level], *, complete: bool
) -> tuple[float, ...]:
    """A value of each level that no plan undercuts, without a solver.

    Every part at the least share of any column it is in: a feasible solution of the relaxation's dual. Where not all
    columns are there, a part of g GPUs lowers fragmentation by g at most.
    """
    found = []
    for level in levels:
        cost_s, cost_x, cost_z = problem.costs(level)
        if complete:
            column, item, times = problem.column_parts
            share = cost_z / np.bincount(column, times, len(cost_z)).clip(1)
            least = np.full(problem.n_items, np.inf)
            np.minimum.at(least, item, share[column])
        else:
            least = -level.get("fragmentation", 0.0) * _largest_fall(made, measure)
        way, item, times = problem.way_parts
        per_way = cost_x + np.bincount(way, np.where(np.isfinite(least[item]), least[item] * times, NEVER), len(cost_x))
        per_kind = np.full(problem.n_kinds, NEVER)
        np.minimum.at(per_kind, problem.way_kind, per_way)
        each = cost_s + per_kind[problem.kind]
        found.append(float(each.sum() if problem.all_start else np.minimum(0.0, each).sum()))
    return tuple(found)


def _largest_fall(made: Formulation, measure: Measure) -> Floats:
    """(n_items,) GPUs by which one part can lower fragmentation at most."""
    demand = made.items.demand
    if measure.table.shape[0] == 0:
        types = measure.types
        most = 1.0 + STARVED if types.measure == STRANDING else 1.0
        # A slice of a cut GPU lowers the loss by its own thousandths, each at the first's rate.
        most_gap = max(float(types.gap.max()), WHOLE * float(types.gap[1]))
        gaps = GAPS * most_gap / WHOLE if types.measure == STRANDING else 0.0
        return np.where(demand.milli > 0, demand.gpus * (most * demand.milli / WHOLE + gaps), 0.0)
    spans = (measure.table.max(axis=1) - measure.table.min(axis=1))[: len(made.items.lo)]
    return np.asarray(np.repeat(spans, made.items.hi - made.items.lo), np.float64)
