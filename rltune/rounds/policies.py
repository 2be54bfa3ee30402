"""Gavel's policies as it runs them: FIFO blind and aware, least attained service (max-min fairness) blind and aware."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np

from rltune.nouns.errors import InputError
from rltune.rounds.clock import Clock
from rltune.rounds.gavel import Published
from rltune.rounds.jobs import Floats, Ints
from rltune.rounds.linear import max_min_shares, most_shares

NAMES = ("fifo", "fifo_perf", "max_min_fairness", "max_min_fairness_perf")


def published(name: str, workers: Ints, seed: int = 0, each_gpu: bool = True, solver: str = "highs") -> Published:
    """A policy by Gavel's name; ``perf``: knows the speeds. ``each_gpu``: gangs as booked in May 2020. ``solver``: of `MaxMin`."""
    workers = np.asarray(workers, np.int64)
    if name == "fifo":
        return Published(Fifo(workers, random.Random(seed)).allocate, fifo=True, blind=True, each_gpu=each_gpu)
    if name == "fifo_perf":
        return Published(FifoAware(workers).allocate, fifo=True, each_gpu=each_gpu)
    if name == "max_min_fairness":
        return Published(MaxMin(workers, "reference", solver).allocate, blind=True, each_gpu=each_gpu)
    if name == "max_min_fairness_perf":
        return Published(MaxMin(workers, "speeds", solver).allocate, each_gpu=each_gpu)
    raise InputError(f"published policy {name!r} is unknown; known are {', '.join(NAMES)}")


@dataclass
class Fifo:
    """Jobs keep the type they were given until they end. Steps b and c are as coded there, oddities included: a queued job
    takes over the type of one that ended; on free GPUs a type is drawn, but the job is given to the last of the list.
    """

    workers: Ints
    draw: random.Random
    type_of: dict[int, int] = field(default_factory=dict)

    def allocate(self, clock: Clock, present: Ints) -> Floats:
        free = self.workers.copy()
        waiting = np.ones(len(clock.arrival), bool)
        waiting[list(self.type_of)] = False
        queue, head = present[waiting[present]], 0
        here = set(present.tolist())
        for job in sorted(self.type_of):
            kind = self.type_of[job]
            if job in here:
                free[kind] -= clock.gpus[job]
                continue
            del self.type_of[job]
            if head < len(queue) and clock.gpus[queue[head]] <= free[kind] and clock.rate[queue[head], kind] > 0:
                self.type_of[int(queue[head])] = kind
                free[kind] -= clock.gpus[queue[head]]
                head += 1
        self._fill(clock, queue[head:], free)
        share = np.zeros((len(present), len(self.workers)))
        for k, job in enumerate(present.tolist()):
            if job in self.type_of:
                share[k, self.type_of[job]] = 1.0
        return share

    def _fill(self, clock: Clock, queue: Ints, free: Ints) -> None:
        """Step c. Types in alphabetical order: those of `GAVEL_TYPES` reversed."""
        types = [kind for kind in reversed(range(len(free))) if free[kind] > 0]
        for job in queue.tolist():
            fitting = [kind for kind in types if free[kind] >= clock.gpus[job]]
            if not fitting:
                break
            drawn = fitting[self.draw.randrange(len(fitting))]
            kind = types[-1]
            if clock.rate[job, kind] > 0:
                self.type_of[job] = kind
                free[kind] -= clock.gpus[job]
                if free[kind] == 0:
                    types.remove(drawn)
            if not types:
                break


@dataclass
class FifoAware:
    """From scratch each time, in order of arrival: the fastest type with room, until a job fits nowhere."""

    workers: Ints

    def allocate(self, clock: Clock, present: Ints) -> Floats:
        free = self.workers.copy()
        share = np.zeros((len(present), len(free)))
        # Ties go to the alphabetically first, the last of `GAVEL_TYPES`.
        order = np.argsort(-clock.rate[present][:, ::-1], axis=1, kind="stable")
        for k, job in enumerate(present.tolist()):
            fitting = [kind for kind in len(free) - 1 - order[k] if free[kind] >= clock.gpus[job]]
            if not fitting:
                break
            # Where it can only be put on a type that it does not run on, the job is passed over.
            if clock.rate[job, fitting[0]] > 0:
                share[k, fitting[0]] = 1.0
                free[fitting[0]] -= clock.gpus[job]
        return share


@dataclass
class MaxMin:
    """Least attained service as Gavel words it: maximise the least normalised throughput, one linear program.

    The optimum is not unique, and which one the solver returns decides the schedule: Gavel's (ECOS) lies inside the optimal
    face, HiGHS' on a vertex. ``solver``: see `max_min_shares`. ``sees``: "speeds"; "reference": every type is taken to be as fast
    as the first, as blind LAS had it in May 2020; "nothing": as fast as 1 (later, and in Shockwave).
    """

    workers: Ints
    sees: str = "speeds"
    solver: str = "highs"

    def allocate(self, clock: Clock, present: Ints) -> Floats:
        if not len(present):
            return np.zeros((0, len(self.workers)))
        rate = clock.rate[present]
        if self.sees == "reference":
            rate = np.repeat(rate[:, :1], len(self.workers), axis=1)
        elif self.sees == "nothing":
            rate = np.ones_like(rate)
        gpus = clock.gpus[present].astype(np.float64)
        # In the order of Gavel's own operations: last digits decide among optima.
        each = self.workers[::-1] / len(present)
        mean = (rate[:, ::-1] * (each / each.sum())).sum(1)
        return max_min_shares(rate * (1.0 / mean)[:, None] * gpus[:, None], gpus, self.workers, self.solver)


@dataclass
class MaxSum:
    """Shockwave's MST (max_sum_throughput_perf): the most steps a second in all, on one type; ECOS."""

    workers: Ints

    def allocate(self, clock: Clock, present: Ints) -> Floats:
        if not len(present):
            return np.zeros((0, 1))
        gpus = clock.gpus[present].astype(np.float64)
        return most_shares(clock.rate[present, 0], gpus, int(self.workers[0]))[:, None]
