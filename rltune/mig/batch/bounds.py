"""What no schedule of a batch can beat, and the program that proves how good a plan is.

On every memory slice the instances that cover it follow one another, each created and, except for the last, destroyed.
So whatever a schedule looks like, its makespan is at least, for every slice, the run times of the tasks in placements over
it, plus the creation and destruction of every such placement once, less one destruction. The least of that over all ways
to put tasks into placements is a small integer program (HiGHS). It leaves out that a GPU reconfigures one instance at a
time, and nothing else, so it lies close below the best plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import Bounds as Range
from scipy.optimize import LinearConstraint, milp
from scipy.sparse import coo_array

from rltune.mig.batch.boxes import Boxes, Floats, Ints, boxes_of, times_of
from rltune.mig.batch.plan import Left
from rltune.mig.batch.tasks import Tasks
from rltune.mig.geometry import geometry

TOLERANCE = 1e-4
"""Relative gap at which the integer program counts as solved."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Lower bounds of the makespan (s).

    ``area``: least compute slices x seconds of every task over the slices of all GPUs (the published yardstick; it leaves
    out all costs and waste); ``longest``: the quickest a single task can be; ``relaxed``: linear relaxation of the program
    above without costs; ``proved``: its optimum, or the bound reached in the time given (None: not asked for).
    """

    area: float
    longest: float
    relaxed: float
    proved: float | None = None

    @property
    def best(self) -> float:
        """The largest of them."""
        return max(self.area, self.longest, self.relaxed, self.proved or 0.0)


def area_bound(tasks: Tasks, gpus: Sequence[str], left: Sequence[Left] | None = None) -> float:
    """Seconds: sum over tasks of least compute slices x seconds, over the slices of all GPUs.

    Where an earlier batch holds slices, the level to which that area fills up what it leaves. With several models a
    slice is the part of its GPU that it is, and a task counts where that is least.
    """
    tables = [geometry(model) for model in gpus]
    compute = {t.model: np.array([p.compute for p in t.profiles]) / t.compute for t in tables}
    area = np.min([(tasks.seconds[model] * compute[model]).min(1) for model in compute], axis=0).sum()
    free_s, width = [], []
    for gpu, table in enumerate(tables):
        held = left[gpu].instances if left else ()
        for s in range(table.compute):
            free_s.append(max([0.0, *(i.busy_until_s for i in held if table.mask(i.placement) >> s & 1)]))
            width.append(1.0 / table.compute)
    order = np.argsort(free_s)
    begins, widths = np.array(free_s)[order], np.cumsum(np.array(width)[order])
    # With the first k slices to come free: level x widths - what is held of them = area.
    levels = (area + np.cumsum(begins * np.array(width)[order])) / widths
    return float(levels.min())


def bounds(tasks: Tasks, gpus: Sequence[str], prove_s: float = 0.0, left: Sequence[Left] | None = None) -> Bounds:
    """All bounds; the integer program is solved for at most ``prove_s`` seconds."""
    models = [geometry(model).model for model in gpus]
    left = tuple(left) if left is not None else tuple(Left() for _ in gpus)
    times, _ = times_of(tasks)
    boxes = boxes_of(tasks, models, left)
    used = np.unique(boxes.column)
    longest = float(np.max(np.min(times[:, used] + _cheapest_create(boxes, used), axis=1)))
    relaxed = _program(times, boxes, np.inf, proof=False)
    proved = _program(times, boxes, prove_s, proof=True) if prove_s > 0 else None
    return Bounds(area_bound(tasks, models, left), longest, relaxed, proved)


def _cheapest_create(boxes: Boxes, columns: Ints) -> Floats:
    """(n_columns,) seconds to create the profile of each column, nothing where an instance is there."""
    return np.array([np.min(np.where(boxes.made > 0, 0.0, boxes.create)[boxes.column == c]) for c in columns])


class _Rows:
    """A sparse matrix under construction, row by row: sum of value x column between low and high."""

    def __init__(self) -> None:
        self.cells: list[tuple[int, int, float]] = []
        self.low: list[float] = []
        self.high: list[float] = []

    def add(self, columns: Iterable[Any], values: Iterable[float], low: float, high: float) -> None:
        self.cells += [(len(self.low), int(c), float(v)) for c, v in zip(columns, values, strict=True)]
        self.low.append(low)
        self.high.append(high)

    def constraint(self, columns: int) -> LinearConstraint:
        rows, cols, values = zip(*self.cells, strict=True)
        matrix = coo_array((values, (rows, cols)), shape=(len(self.low), columns)).tocsr()
        return LinearConstraint(matrix, self.low, self.high)


def _program(times: Floats, boxes: Boxes, limit_s: float, proof: bool) -> float:
    """Lower bound (s) of the program: x[task, box] in [0, 1], y[box] made, z[gpu, slice] used, makespan M.

    Minimise M subject to: every task in one box; x <= y; y <= z on the slices of the box; for every GPU and memory slice,
    what an earlier batch holds it for if z, run times and costs of the boxes over it <= M + one destruction. The first
    half of the order alone: a bound needs no order. Without ``proof`` it is the linear relaxation without costs, which
    takes n_tasks rows instead of n_tasks x n_boxes, and relaxed costs are next to nothing.
    """
    # Eight memory slices, and the media engines as a ninth.
    n, slices = len(times), 9
    task, box = np.nonzero(np.isfinite(times[:, boxes.column]) & (boxes.after == 0))
    y, z = len(task), len(task) + boxes.n
    m = z + len(boxes.clock) * slices
    rows = _Rows()
    for t in range(n):
        mine = np.flatnonzero(task == t)
        rows.add(mine, np.ones(len(mine)), 1.0, 1.0)
    for k, b in enumerate(box if proof else ()):
        rows.add([k, y + b], [1.0, -1.0], -np.inf, 0.0)
    seconds = times[task, boxes.column[box]]
    for slot in range(len(boxes.clock) * slices):
        gpu, s = divmod(slot, slices)
        over = (boxes.gpu == gpu) & (boxes.mask >> s & 1 > 0) & (boxes.after == 0)
        if not over.any():
            continue
        held, new = np.flatnonzero(over[box]), np.flatnonzero(over & (boxes.made == 0))
        busy = float(boxes.busy[over].max()) if proof else 0.0
        rows.add(
            [*held, *(y + new), z + slot, m],
            [*seconds[held], *(boxes.create + boxes.destroy)[new], busy, -1.0],
            -np.inf,
            float(boxes.destroy[over].max()) if proof else 0.0,
        )
        for b in np.flatnonzero(over) if busy > 0 else ():
            rows.add([y + b, z + slot], [1.0, -1.0], -np.inf, 0.0)
    solved = milp(
        np.r_[np.zeros(m), 1.0],
        constraints=rows.constraint(m + 1),
        integrality=np.r_[np.full(m, int(proof)), 0],
        bounds=Range(np.zeros(m + 1), np.r_[np.ones(m), np.inf]),
        options={"mip_rel_gap": TOLERANCE} | ({"time_limit": limit_s} if np.isfinite(limit_s) else {}),
    )
    bound = solved.mip_dual_bound if proof else solved.fun
    # Nothing is known where the solver found nothing in time; zero is a bound.
    return float(bound) if bound is not None and np.isfinite(bound) else 0.0
