"""Our policy in rounds: an index says what a job's progress is worth, prices what GPU time costs, an assignment decides.

Every round the jobs are assigned to types for the most total value, where a second of job j on type p is worth

    speed_jp x ((UNIT_S x index_j) ^ power + throughput x gpus_j x cost_j).

speed_jp: against the reference type, in whose seconds all work is counted. index_j: completions a second that the job
promises, from its attained work alone: Gittins' index of the jobs that have been here before (online, censored ones
included, `rltune.policies.attained`), or 1 / attained work. cost_j: what a second of its work costs at the cheapest, min over
types of price_p / speed_jp, with the prices of the linear program that spreads the work of all jobs seen so far over the types
(its duals). The second summand is worth that work done at the price of the cheapest type: summed over a placement, the
throughput of the cluster in money. It makes the types stand where they are comparatively good, and the index decides among
jobs for which the types are equally good. Nothing is known of run times.

A job already running counts ``stay`` times as much on its type, which avoids moves where they cost something. Where moving
is free a slow GPU is better than none, so that nothing is refused: values are above 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from rltune.nouns.errors import InputError
from rltune.policies.attained import cost_of_runs
from rltune.rounds.assignment import assign
from rltune.rounds.clock import ACTIVE, ARRIVED, DROPPED, NOW, ROUNDS, Clock, Terms, clock_of, step
from rltune.rounds.jobs import Floats, Ints, RoundJobs
from rltune.rounds.linear import gpu_prices
from rltune.rounds.run import Run, check_workers, need_later_jobs

UNIT_S = 1e5
"""The index counts completions in so many seconds: of the order of a day, as jobs here run."""
FEW, GROWTH = 20, 0.05
"""Index and prices are worked out anew when the jobs that have arrived are more by this share, and by `FEW` at least."""
INDICES = ("gittins", "las", "fair", "exact", "longest")
LAS_S = 600.0
"""Added to the attained work under ``las``, so that new jobs do not count without bound."""


@dataclass(frozen=True, slots=True)
class Market:
    """Constants, chosen on drawn lists of seeds 100 to 102 (experiments/gavel.py --choose), never on a published list.

    ``index``: one of `INDICES`; exact and longest know what work is left: least first, and most first (for the
    makespan). ``power``, ``throughput``, ``stay``:
    see above; throughput 0: the index alone decides.
    """

    index: str = "gittins"
    power: float = 0.5
    throughput: float = 5.0
    stay: float = 1.0

    def __post_init__(self) -> None:
        if self.index not in INDICES:
            raise InputError(f"market: index={self.index!r}; known are {', '.join(INDICES)}")
        if self.power <= 0 or self.throughput < 0 or self.stay < 1:
            raise InputError("market: power must be above 0, throughput 0 or more, stay 1 or more")


@dataclass
class Seen:
    """What is known of jobs, and what those seen so far have taught.

    ``speed`` (n_jobs, types) and ``reference`` (n_jobs,) steps a second: of the first type that a job runs on, in whose seconds
    work is counted; ``kind`` (n_jobs,) class of equal GPUs and speeds. ``cost`` (n_jobs,) of a second of work, mean 1;
    ``begin``, ``seconds`` (bins,): work at which a bin begins, and the work a completion there; ``arrived``: jobs it is from.
    """

    jobs: RoundJobs
    workers: Ints
    speed: Floats = field(init=False)
    reference: Floats = field(init=False)
    kind: Ints = field(init=False)
    cost: Floats = field(init=False)
    begin: Floats = field(default_factory=lambda: np.zeros(1))
    seconds: Floats = field(default_factory=lambda: np.ones(1))
    arrived: int = 0

    def __post_init__(self) -> None:
        rate = self.jobs.rate
        self.reference = rate[np.arange(len(rate)), (rate > 0).argmax(1)]
        self.speed = rate / self.reference[:, None]
        rows = np.column_stack([self.jobs.gpus, self.speed])
        self.kind = np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)
        self.cost = np.ones(len(rate))

    def work_s(self, clock: Clock, some: Ints) -> Floats:
        """(m,) attained work."""
        return np.asarray(clock.done[some] / self.reference[some])

    def learn(self, clock: Clock) -> None:
        """Index and prices anew, if enough jobs have arrived since."""
        arrived = int(clock.counts[ARRIVED])
        if arrived - self.arrived < max(FEW, GROWTH * self.arrived) and self.arrived:
            return
        self.arrived = arrived
        past = np.arange(arrived)
        self.begin, self.seconds = cost_of_runs(self.work_s(clock, past), ~np.isnan(clock.finish[past]))
        _, first, count = np.unique(self.kind[past], return_index=True, return_counts=True)
        # How much work a job is nobody knows beforehand: all classes count by their number of jobs.
        price = gpu_prices(self.speed[first], self.jobs.gpus[first], count.astype(np.float64), self.workers)
        with np.errstate(divide="ignore"):
            each = np.where(self.speed > 0, price / self.speed, np.inf).min(1) * self.jobs.gpus
        self.cost = each / max(float(each[past].mean()), 1e-300)

    def value(self, clock: Clock, present: Ints, how: Market) -> Floats:
        """(m, types) what a second of each job present is worth on each type."""
        work = self.work_s(clock, present)
        left = np.maximum(self.jobs.steps[present] / self.reference[present] - work, 1.0)
        if how.index == "exact":
            promise = 1.0 / left
        elif how.index == "longest":
            # The most work first whatever the gang: for the makespan.
            promise = left * self.jobs.gpus[present] / UNIT_S**2
        elif how.index == "fair":
            # Time since arrival over work done: what the job's slowdown would be, were it to end now.
            promise = (clock.time[NOW] - clock.arrival[present] + LAS_S) / (work + LAS_S) / UNIT_S
        elif how.index == "las":
            promise = 1.0 / (work + LAS_S)
        else:
            promise = 1.0 / self.seconds[np.searchsorted(self.begin, work, "right") - 1]
        worth = (UNIT_S * promise) ** how.power + how.throughput * self.cost[present]
        value = self.speed[present] * worth[:, None]
        running = np.flatnonzero(clock.on[present] >= 0)
        value[running, clock.on[present[running]]] *= how.stay
        return np.asarray(value)


Decide = Callable[[Floats, Ints, Ints, Ints], None]
"""As `rltune.rounds.assignment.assign`."""


def simulate_market(
    jobs: RoundJobs, workers: Ints, how: Market, window: tuple[int, int], terms: Terms | None = None,
    decide: Decide = assign,
) -> Run:  # fmt: skip
    """Run until all jobs of ``window`` (first, last excluded) have ended; see `simulate_published`.

    ``decide``: another assignment of jobs to types than ours.
    """
    check_workers(jobs, workers)
    terms, clock, seen = terms or Terms(), clock_of(jobs), Seen(jobs, np.asarray(workers, np.int64))
    where, first, starts = np.full(len(jobs), -1), window[0], 0
    while clock.time[NOW] < np.inf:
        while first < window[1] and not np.isnan(clock.finish[first]):
            first += 1
        if first == window[1]:
            break
        present = clock.active[: clock.counts[ACTIVE]].copy()
        seen.learn(clock)
        chosen = np.empty(len(present), np.int64)
        decide(seen.value(clock, present, how), clock.gpus[present], seen.workers, chosen)
        where[present] = chosen
        starts += int(((clock.on[present] != chosen) & (chosen >= 0)).sum())
        step(clock, terms, where)
    need_later_jobs(clock, window)
    rounds, dropped = int(clock.counts[ROUNDS]), int(clock.counts[DROPPED])
    return Run(clock.finish - clock.arrival, rounds, rounds, dropped, starts)
