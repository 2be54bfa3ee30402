"""The shortest of all schedules of a few tasks on one empty GPU, by branch and bound.

Nothing is assumed of its form: a placement may be created again and again, and instances may follow one another in
any order. First every way to put the tasks into instances is enumerated, as long as the costs and run times on some memory
slice, or on all together, stay below the best schedule known; then, for each, every sequence of creations and
destructions. Each reconfiguration begins as early as the one before it and the tasks in its way allow: a schedule in
which one begins later ends no earlier.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from rltune.mig.batch.boxes import MEDIA, Boxes, Floats, boxes_of, times_of
from rltune.mig.batch.plan import Left
from rltune.mig.batch.tasks import Tasks
from rltune.mig.geometry import Geometry, geometry
from rltune.nouns.errors import InputError

MOST_TASKS = 8
"""More would take minutes."""
MARGIN = 1e-7
"""Seconds by which a schedule must be shorter to count as shorter."""
TWINS = {8: ((0, 1, 1), (2, 3, 1), (4, 5, 1), (0, 2, 2)), 4: ((0, 1, 1), (2, 3, 1), (0, 2, 2))}
"""Memory slices -> (start, start, size) of parts that may be exchanged, with all placements in them."""


def shortest(tasks: Tasks, gpu: str, known_s: float) -> float:
    """Makespan (s) of the shortest schedule; ``known_s`` that of a schedule at hand, returned if none is shorter.

    Raises InputError for more than `MOST_TASKS` tasks.
    """
    if len(tasks) > MOST_TASKS:
        raise InputError(
            f"the exact optimum is for at most {MOST_TASKS} tasks, not {len(tasks)}; use the bounds instead"
        )
    times, _ = times_of(tasks)
    boxes = boxes_of(tasks, (geometry(gpu).model,), (Left(),))
    return _Grouping(times, boxes, geometry(gpu), known_s).solve()


@dataclass(slots=True)
class _Instance:
    box: int
    mask: int
    seconds: float


@dataclass(slots=True)
class _Grouping:
    """Ways to put tasks into instances, the longest task first; ``best`` the shortest makespan so far."""

    times: Floats
    boxes: Boxes
    table: Geometry
    best: float
    order: list[int] = field(init=False)
    rest: list[float] = field(init=False)
    masks: list[int] = field(init=False)
    opened: list[_Instance] = field(default_factory=list)

    def solve(self) -> float:
        least = np.min(self.times[:, self.boxes.column] * self.boxes.share, axis=1)
        self.order = np.argsort(-least).tolist()
        # Area of the tasks still to be placed, as a part of the GPU.
        self.rest = np.r_[np.cumsum(least[self.order][::-1])[::-1], 0.0].tolist()
        self.masks = self.boxes.mask.tolist()
        self._place(0)
        return self.best

    def _place(self, at: int) -> None:
        if at == len(self.order):
            self.best = min(self.best, _Sequencing(self.opened, self.boxes, self.best).solve())
            return
        task = self.order[at]
        for instance in tuple(self.opened):
            seconds = float(self.times[task, self.boxes.column[instance.box]])
            if np.isfinite(seconds):
                instance.seconds += seconds
                if self._promising(at + 1):
                    self._place(at + 1)
                instance.seconds -= seconds
        for box, mask in enumerate(self.masks):
            seconds = float(self.times[task, self.boxes.column[box]])
            if np.isfinite(seconds) and not self._twin_of_earlier(mask):
                self.opened.append(_Instance(box, mask, seconds))
                if self._promising(at + 1):
                    self._place(at + 1)
                self.opened.pop()

    def _promising(self, at: int) -> bool:
        """Whether the slices, with every creation and all destructions but the last, leave the best within reach."""
        held = [0.0] * self.table.slices
        spare = 0.0
        for instance in self.opened:
            cost = float(self.boxes.create[instance.box] + self.boxes.destroy[instance.box])
            spare = max(spare, float(self.boxes.destroy[instance.box]))
            for s in range(self.table.slices):
                if instance.mask >> s & 1:
                    held[s] += instance.seconds + cost
        # Beyond its compute slices a GPU has no memory slice that a 1g could use.
        mean = sum(held[: self.table.compute]) / self.table.compute + self.rest[at]
        return max(max(held), mean) - spare < self.best - MARGIN

    def _twin_of_earlier(self, mask: int) -> bool:
        """Whether an exchange of two parts that look alike so far turns this placement into one that came before."""
        for first, second, size in TWINS[self.table.slices]:
            one, other = ((1 << size) - 1) << first, ((1 << size) - 1) << second
            if mask & ~(other | MEDIA) == 0 and all(
                bool(i.mask & one) == bool(i.mask & other) and (i.mask & (one | other) in (0, one | other))
                for i in self.opened
            ):
                return True
        return False


class _Sequencing:
    """Sequences of creations and destructions for given instances."""

    def __init__(self, instances: list[_Instance], boxes: Boxes, best: float) -> None:
        self.mask = [i.mask for i in instances]
        self.seconds = [i.seconds for i in instances]
        self.create = [float(boxes.create[i.box]) for i in instances]
        self.destroy = [float(boxes.destroy[i.box]) for i in instances]
        self.best = best
        # 0 to be created, 1 there, 2 destroyed.
        self.state = [0] * len(instances)
        self.end = [0.0] * len(instances)

    def solve(self) -> float:
        self._next(0.0)
        return self.best

    def _next(self, clock: float) -> None:
        waiting = [i for i, state in enumerate(self.state) if state == 0]
        if not waiting:
            self.best = min(self.best, max(self.end))
            return
        if self._bound(clock, waiting) >= self.best - MARGIN:
            return
        there = [i for i, state in enumerate(self.state) if state == 1]
        for i in waiting:
            if not any(self.mask[i] & self.mask[j] for j in there):
                self.state[i], self.end[i] = 1, clock + self.create[i] + self.seconds[i]
                self._next(clock + self.create[i])
                self.state[i] = 0
        for j in there:
            if any(self.mask[i] & self.mask[j] for i in waiting):
                self.state[j] = 2
                self._next(max(clock, self.end[j]) + self.destroy[j])
                self.state[j] = 1

    def _bound(self, clock: float, waiting: list[int]) -> float:
        """What ends earliest on each slice, were reconfigurations of different slices not in each other's way."""
        longest = max((end for end, state in zip(self.end, self.state, strict=True) if state), default=0.0)
        for s in range(8):
            behind = sum(self.create[i] + self.seconds[i] for i in waiting if self.mask[i] >> s & 1)
            if behind:
                free = clock
                for j, state in enumerate(self.state):
                    if state == 1 and self.mask[j] >> s & 1:
                        free = max(clock, self.end[j]) + self.destroy[j]
                longest = max(longest, free + behind)
        return longest
