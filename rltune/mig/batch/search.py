"""Anytime search for a batch: it begins from the plans of `rltune.mig.batch.seeds` and keeps the best it has seen.

Annealing in short cycles (`rltune.mig.batch.anneal`), each from one of the seeds or from the best plan, so that a budget of
ten milliseconds and one of a minute use the same search. Never worse than any seed: FAR and every fixed partition among
them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from rltune.mig.batch.anneal import Moving, anneal, keep_as_best, moving_of, set_plan
from rltune.mig.batch.boxes import Boxes, Floats, Ints, boxes_of, times_of
from rltune.mig.batch.plan import Left, Plan, check_plan
from rltune.mig.batch.readout import boxes_in, makespan_of, merged, plan_of
from rltune.mig.batch.seeds import Seed, all_seeds
from rltune.mig.batch.tasks import Tasks
from rltune.mig.batch.timetable import Work, work_of
from rltune.mig.geometry import geometry
from rltune.nouns.errors import InputError

CYCLE = 700
"""Steps of a cycle a task. Chosen, as what follows, on generated batches of 14 (seeds 100 to 107 of each family)."""
HOT, COLD = 0.7, 0.028
"""Temperatures at the ends of a cycle, in units of the mean time for which a task must hold a GPU (least area / slices)."""
THRIFT = (0.3, 3.0)
"""Weights of the area, cycle by cycle: the larger finds frugal plans, the smaller short ones."""
THRIFT_FEW, FEW = (0.3, 3.0, 0.0), 8
"""The same for batches of at most this number of tasks: one long task may be worth any number of slices (generated batches)."""
PIECE = 2000
"""Steps between two looks at the clock: about a millisecond."""


@dataclass(frozen=True)
class Outcome:
    """The best plan; ``seeds``: name -> makespan (s) of each plan the search began from; ``steps`` it made.

    ``trace``: (seconds since the beginning, makespan) whenever the best became better.
    """

    plan: Plan
    seeds: dict[str, float]
    steps: int
    seconds: float
    trace: list[tuple[float, float]] = field(default_factory=list)


def search(
    tasks: Tasks,
    gpus: Sequence[str],
    seconds: float = 1.0,
    seed: int = 0,
    steps: int | None = None,
    left: Sequence[Left] | None = None,
    plans: Sequence[Plan] = (),
) -> Outcome:
    """Plan a batch for at most ``seconds``, or for exactly ``steps`` (then the same seed gives the same plan).

    ``gpus``: GPU models, one a GPU; ``left``: what an earlier batch leaves on each; ``plans``: further plans to begin
    from, such as an agent's. Raises InputError for tasks that fit nowhere and for plans that no GPU could follow.
    """
    if not gpus:
        raise InputError("gpu: give at least one GPU model")
    if not (seconds > 0 and np.isfinite(seconds)):
        raise InputError(f"seconds={seconds}: give a positive number of seconds to search")
    left = tuple(left) if left is not None else tuple(Left() for _ in gpus)
    tables = [geometry(model) for model in gpus]
    models = [table.model for table in tables]
    missing = sorted(set(models) - set(tasks.seconds))
    if missing:
        raise InputError(f"the tasks have no times on {', '.join(missing)}; give some, or leave those GPUs out")
    somewhere = np.any([np.isfinite(tasks.seconds[model]).any(1) for model in models], axis=0)
    if not somewhere.all():
        task = tasks.names[int(np.argmin(somewhere))]
        raise InputError(
            f"task {task!r} fits no slice of {', '.join(dict.fromkeys(models))}; add a GPU that it can use"
        )
    for plan in plans:
        if (plan.gpus, plan.left or left) != (tuple(models), left):
            raise InputError(f"plan {plan.method!r} is for other GPUs, or finds other instances on them; leave it out")
        check_plan(tasks, plan)
    warm_up()
    begun = time.perf_counter()
    times, _ = times_of(tasks)
    boxes = boxes_of(tasks, models, left)
    work = work_of(boxes)
    seeds = all_seeds(tables, times, boxes, work)
    seeds += [Seed(p.method, boxes_in(p, boxes)) for p in plans]
    ends = [makespan_of(s.where, times, boxes, work, s.rule) for s in seeds]
    run = _Run(times, boxes, work, [s.where for s in seeds], seed, begun)
    run.search(begun + seconds if steps is None else np.inf, steps)
    first = seeds[int(np.argmin(ends))]
    candidates = [
        plan_of(merged(run.best, boxes), times, boxes, work, models, left, "search"),
        plan_of(run.best, times, boxes, work, models, left, "search"),
        plan_of(first.where, times, boxes, work, models, left, first.name, first.rule),
        *plans,
    ]
    named = {s.name: end for s, end in zip(seeds, ends, strict=True)} | {p.method: p.makespan_s for p in plans}
    plan = min(candidates, key=lambda plan: plan.makespan_s)
    return Outcome(plan, named, run.steps, time.perf_counter() - begun, run.trace)


@cache
def warm_up() -> None:
    """Load the compiled kernels, once, so that no budget of search is spent on it."""
    model = geometry("A30").model
    tasks = Tasks(("warm-up",), {model: np.ones((1, len(geometry(model).profiles)))})
    boxes = boxes_of(tasks, (model,), (Left(),))
    times, work = times_of(tasks)[0], work_of(boxes)
    seeds = all_seeds((geometry(model),), times, boxes, work)
    makespan_of(seeds[0].where, times, boxes, work)
    _Run(times, boxes, work, [seed.where for seed in seeds], 0, 0.0).search(np.inf, 1)


class _Run:
    """One search: cycles until the deadline or the number of steps."""

    def __init__(self, times: Floats, boxes: Boxes, work: Work, seeds: list[Ints], seed: int, begun: float) -> None:
        self.times, self.boxes, self.work, self.begun = times, boxes, work, begun
        self.moving: Moving = moving_of(times, boxes, seed)
        by_makespan = [(self._set(where), index) for index, where in enumerate(seeds)]
        # A handful of different seeds is enough to begin from; the best of them comes back most often.
        self.starts = [seeds[index] for _, index in sorted(by_makespan)[:4]]
        self.makespan = self._set(self.starts[0])
        keep_as_best(self.moving, self.makespan)
        self.steps = 0
        self.trace = [(time.perf_counter() - begun, self.makespan)]
        self.unit = float((times[:, boxes.column] * boxes.share).min(1).mean())

    @property
    def best(self) -> Ints:
        return self.moving.best

    def _set(self, where: Ints) -> float:
        return float(set_plan(where, self.times, self.boxes, self.moving, self.work))

    def search(self, deadline: float, steps: int | None) -> None:
        cycle, thrift = 0, THRIFT_FEW if len(self.times) <= FEW else THRIFT
        while (steps is None or self.steps < steps) and time.perf_counter() < deadline:
            # Odd cycles go on from the best plan, even ones from the seeds in turn: intensify, diversify.
            self._set(self.best.copy() if cycle % 2 else self.starts[cycle // 2 % len(self.starts)])
            self._cycle(thrift[cycle // 2 % len(thrift)], deadline, steps)
            cycle += 1

    def _cycle(self, thrift: float, deadline: float, steps: int | None) -> None:
        """One cooling; shortened where the budget ends sooner, so that it always cools."""
        length = max(CYCLE * len(self.times), PIECE)
        if steps is not None:
            length = min(length, steps - self.steps)
        begun, done, temperature = time.perf_counter(), 0, HOT
        while done < length:
            piece = min(PIECE, length - done)
            colder = temperature * (COLD / temperature) ** (piece / (length - done))
            anneal(
                piece,
                temperature * self.unit,
                colder * self.unit,
                thrift,
                self.times,
                self.boxes,
                self.moving,
                self.work,
            )
            temperature, done = colder, done + piece
            self._note()
            now = time.perf_counter()
            if now >= deadline:
                break
            if np.isfinite(deadline):
                # Steps that the remaining time allows, by the pace so far.
                length = min(length, done + max(1, int((deadline - now) * done / (now - begun))))
        self.steps += done

    def _note(self) -> None:
        if self.moving.value[1] < self.makespan - 1e-9:
            self.makespan = float(self.moving.value[1])
            self.trace.append((time.perf_counter() - self.begun, self.makespan))
