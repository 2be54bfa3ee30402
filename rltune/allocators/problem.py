"""The data of the joint model, as `rltune.allocators.model` states it and `rltune.allocators.highs` solves it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
TERMS = ("value", "fragmentation", "slowdown", "locality", "reconfiguration", "interruption")
"""Terms of the objective; the first is to be large, the others small."""
Level = dict[str, float]
"""Weight of each term of one level; only among what is best by all levels before does a level choose."""


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """The model's data; names as in docs/concepts/allocator.md.

    ``value, kind`` (n_jobs,); ``way_kind, slowdown, locality`` (n_ways,), ``group, amount`` (n_ways,): quota that a job
    going that way counts towards, -1 none, and GPUs that it counts for; ``way_parts``: triplets (way, item, how many);
    ``column_class, fragmentation, reconfiguration`` (n_columns,); ``column_parts``: triplets (column, item, how many);
    ``count`` (n_classes,); ``left`` (n_groups,); ``n_items``. ``suspend`` (n_jobs,), ``move`` (n_ways,): GPU-seconds lost
    where a running job is suspended, and where it goes that way; empty: nobody runs.
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
    suspend: Floats = field(default_factory=lambda: np.zeros(0))
    move: Floats = field(default_factory=lambda: np.zeros(0))

    @property
    def n_kinds(self) -> int:
        return int(self.kind.max(initial=-1)) + 1

    def costs(self, level: Level) -> tuple[Floats, Floats, Floats]:
        """Objective of one level, to be minimised: coefficients of s, X and z."""
        weight = {term: level.get(term, 0.0) for term in TERMS}
        # Who goes on running is spared its suspension, so that no constant is left over.
        suspend, move = (weight["interruption"] * x if len(x) else 0.0 for x in (self.suspend, self.move))
        return (
            -weight["value"] * self.value - suspend,
            weight["slowdown"] * self.slowdown + weight["locality"] * self.locality + move,
            weight["fragmentation"] * self.fragmentation + weight["reconfiguration"] * self.reconfiguration,
        )


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


def solved(
    problem: Problem, status: str, values: list[float], bounds: list[float], x: Floats | None, branched: int
) -> Solved:
    """From the columns s, X, z one after the other; None: nothing was found."""
    if x is None:
        return Solved(status, tuple(values), tuple(bounds), branchings=branched)
    n, ways = len(problem.value), len(problem.slowdown)
    whole = np.rint(x).astype(np.int64)
    parts = whole[:n], whole[n : n + ways], whole[n + ways :]
    return Solved(status, tuple(values), tuple(bounds), *parts, branchings=branched)


OPTIMAL, TIME_LIMIT, INFEASIBLE, ERROR = "optimal", "time_limit", "infeasible", "error"
"""What the end of a solver means here. optimal, time_limit: its solution is used if it has one; infeasible (a known plan
is feasible, so a fault) and error: the best known plan, reported as a fallback."""
RESTRICTED = "restricted"
"""Solved, but not all columns were there: what was found is best among them, the bound says what may have been missed."""
EPS = 1e-7
"""Objectives closer than this are equal: costs differ by shares of jobs (about 1e-5), HiGHS errs by 1e-9."""
