"""Shadow simulation: whether what was learned does no worse from here on than rules that need no learning.

The present state is copied without what the scheduler does not know (`rltune.core.shadows`). Run times are those that the
declared knowledge says; where it says nothing, those of jobs of as many GPUs that have ended, of which only those count that ran
longer than the job has by now. The jobs of the recent past come again, as the future. Every contender runs on from the same
copy, and what it costs the jobs in it by the end of the time looked ahead decides.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rltune.core import priorities
from rltune.core.loop import DECIDE, FINISHED_ALL, LOG_FULL, PAUSED, put_in_order, run_until, start_here
from rltune.core.reference import Ref, ref
from rltune.core.shadows import Cast, held_until, present_jobs, progress_of, shadow
from rltune.core.state import ALWAYS, ARRIVED, DONE, INSIDE, NOW, Detail, Sim, with_larger_log
from rltune.nouns.errors import InputError
from rltune.nouns.metrics import BOUND_S
from rltune.policies.dynamic import STATIC
from rltune.policies.learn import FIRST_GUESS_S
from rltune.policies.orders import ORDERS, order, sequence
from rltune.policies.preemptive import OVERRUN_FACTOR
from rltune.simulator.decisions import Decision, queue_of

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Whole = npt.NDArray[np.integer[Any]]

SUSPENDING = {"srtf": priorities.SRTF, "srsf": priorities.SRSF, "las": priorities.LAS, "gittins": priorities.GITTINS}
"""Rules that may take the place of one another where running jobs may be suspended."""
FEW = 20
"""Ended jobs of as many GPUs from which run times are drawn; with fewer, from all that have ended."""
COMING, SHORTEST_S = 2_000, 600.0
"""Where more jobs than this came in the time to be looked ahead, shadows look only as far as the newest of them span, but
this many seconds at least: a crowd must not make a check take minutes."""
LEAST = 1e-9
"""Share by which costs may differ and count as the same: sums of the same seconds in another order."""


@dataclass(frozen=True, slots=True)
class Guard:
    """When what was learned is judged, and by what; times in simulated seconds.

    Attributes:
        ahead_s: how far shadows run ahead.
        every_s: how long a verdict holds.
        tolerance: share by which the cost of what was learned may be above that of a rule and count as no worse: one shadow is
            one draw of what may come.
        rule: the rule beside the baseline that what was learned must not be worse than; None: `usual_rule`.
    """

    ahead_s: float = 7_200.0
    every_s: float = 900.0
    rule: str | None = None
    tolerance: float = 0.01

    def __post_init__(self) -> None:
        for name in ("ahead_s", "every_s"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < np.inf:
                raise InputError(f"shadow.{name}={value!r}; give a number of seconds above 0")
        if (
            isinstance(self.tolerance, bool)
            or not isinstance(self.tolerance, int | float)
            or not 0 <= self.tolerance < 1
        ):
            raise InputError(f"shadow.tolerance={self.tolerance!r}; give a share, from 0 to below 1")


class Verdict(NamedTuple):
    """``costs``: of each contender, "learned" first, the baseline next; wall ``seconds``."""

    costs: dict[str, float]
    seconds: float

    def allows(self, decides: bool, tolerance: float) -> bool:
        """Whether what was learned may decide, if until now it ``decides``: its cost is not above that of any rule.

        Where it costs what the baseline costs, whoever decides goes on.
        """
        learned, baseline, *others = self.costs.values()
        slack = max(tolerance, LEAST)
        no_worse = all(learned <= other + slack * abs(other) for other in (baseline, *others))
        return no_worse and (decides or abs(learned - baseline) > LEAST * abs(baseline))


def judge(
    sim: Sim,
    learned: Callable[[Sim], Decision],
    rules: Sequence[str],
    score: str,
    ahead_s: float,
    rng: np.random.Generator,
    prepare: Callable[[Ref], None] | None = None,
) -> Verdict:
    """Run shadows of ``sim``, which is left as it is, at an instant at which starts are to be decided.

    Args:
        learned: makes what decides in a shadow, a state of its own.
        rules: names, that of the baseline first; see `rules_of`.
        score: what costs are measured by, of `rltune.nouns.metrics.SCORES`.
        rng: draws run times where nothing is known; the same for all contenders.
        prepare: done to the shadow of each rule before it runs.
    """
    begun, ahead_s = time.perf_counter(), within_reach(sim, ahead_s)
    cast = imagined(sim, ahead_s, rng)
    costs = {"learned": _cost_of_learned(sim, cast, learned, score, ahead_s)}
    for name in rules:
        state = ref(ordered_by(shadow(sim, cast), name))
        if prepare is not None:
            prepare(state)
        put_in_order(state)
        costs[name] = cost(state, None, score, ahead_s)
    return Verdict(costs, time.perf_counter() - begun)


def _cost_of_learned(sim: Sim, cast: Cast, learned: Callable[[Sim], Decision], score: str, ahead_s: float) -> float:
    made = shadow(sim, cast)
    made = made._replace(params=made.params._replace(outside=ALWAYS))
    return cost(ref(made), learned(made), score, ahead_s)


# --- what is imagined -------------------------------------------------------------------


def within_reach(sim: Sim, ahead_s: float) -> float:
    """Seconds that a shadow runs ahead, of ``ahead_s``: see `COMING`."""
    arrived = int(sim.counts[ARRIVED])
    if arrived <= COMING:
        return ahead_s
    return min(ahead_s, max(SHORTEST_S, float(sim.clock[NOW] - sim.jobs.submit[arrived - COMING])))


def imagined(sim: Sim, ahead_s: float, rng: np.random.Generator) -> Cast:
    """Who is in a shadow: the present jobs, and those of the last ``ahead_s`` seconds again, with run times as believed."""
    now, here = float(sim.clock[NOW]), present_jobs(sim)
    arrived = np.arange(sim.counts[ARRIVED])
    recent = arrived[sim.jobs.submit[arrived] > now - ahead_s][-COMING:]
    # Jobs that no pool can hold would only be set aside again.
    c = sim.jobs.cls[recent]
    recent = recent[sim.choices.ptr[c] < sim.choices.ptr[c + 1]]
    again = np.where(ended(sim, recent), sim.jobs.run[recent], believed_runs(sim, recent, rng))
    return Cast(
        job=np.concatenate([here, recent]),
        present=len(here),
        submit=np.concatenate([sim.jobs.submit[here], np.maximum(sim.jobs.submit[recent] + ahead_s, now)]),
        run=np.concatenate([believed_runs(sim, here, rng), again]),
    )


def ended(sim: Sim, job: Ints) -> npt.NDArray[np.bool_]:
    """(k,) whether each job has ended, so that its run time is known to all."""
    if isinstance(sim.detail, Detail):
        return np.asarray(sim.detail.status[job] == DONE)
    running = np.zeros(len(sim.start), bool)
    running[present_jobs(sim)] = True
    return ~np.isnan(sim.start[job]) & ~running[job]


def believed_runs(sim: Sim, job: Ints, rng: np.random.Generator) -> Floats:
    """(k,) run times in seconds, of which each job has done less: as known, else as drawn from jobs that have ended.

    A job that has outlived what was known is believed to need as long again as it has run (`OVERRUN_FACTOR`).
    """
    progress, known = progress_of(sim, job), sim.jobs.known[job].copy()
    outlived = known < progress * (1.0 - LEAST)
    known[outlived] = OVERRUN_FACTOR * progress[outlived]
    unknown = np.isnan(known)
    if unknown.any():
        arrived = np.arange(sim.counts[ARRIVED])
        past = arrived[ended(sim, arrived)]
        known[unknown] = drawn_runs(
            sim.jobs.run[past], sim.jobs.gpus[past], sim.jobs.gpus[job[unknown]], progress[unknown], rng
        )
    return np.maximum(known, progress)


def drawn_runs(past_s: Floats, past_gpus: Whole, gpus: Whole, progress: Floats, rng: np.random.Generator) -> Floats:
    """(k,) run times of jobs of ``gpus`` that have run for ``progress`` seconds, from those of jobs that have ended."""
    out = np.maximum(OVERRUN_FACTOR * progress, FIRST_GUESS_S)
    share = rng.random(len(gpus))
    for size in np.unique(gpus):
        mine, like = np.flatnonzero(gpus == size), past_s[past_gpus == size]
        pool = np.sort(like if len(like) >= FEW else past_s)
        first = np.searchsorted(pool, progress[mine], side="right")
        longer = first < len(pool)
        at = first[longer] + (share[mine[longer]] * (len(pool) - first[longer])).astype(np.int64)
        out[mine[longer]] = pool[at]
    return out


# --- running on -------------------------------------------------------------------------


def cost(state: Ref, decision: Decision | None, score: str, ahead_s: float) -> float:
    """What the jobs of a shadow cost a job by ``ahead_s`` from now, less being better; runs the state on.

    ``decision``: who lets jobs start; None: the kernels do, by the parameters of the state.
    """
    sim: Sim = state.value
    now = float(sim.clock[NOW])
    until, before = now + ahead_s, held_until(sim, now)
    if decision is None:
        start_here(state)
    else:
        decision.take(state)
    while (code := run_until(state, until)) not in (FINISHED_ALL, PAUSED):
        if code == LOG_FULL:
            state = ref(with_larger_log(state.value))
        elif code == DECIDE:
            assert decision is not None
            decision.take(state)
    return cost_until(state.value, now, until, before, score)


def cost_until(sim: Sim, now: float, until: float, before: Floats, score: str) -> float:
    """The same of a state that has been run on; ``before`` (k,): seconds that jobs had held places for."""
    begin = np.maximum(sim.jobs.submit, now)
    end = sim.detail.final if isinstance(sim.detail, Detail) else np.where(np.isnan(sim.start), np.nan, sim.end)
    in_system = np.maximum(0.0, np.minimum(np.where(np.isnan(end), until, end), until) - begin)
    held = held_until(sim, until) - before
    per_job = {
        "wait": in_system - held,
        "jct": in_system,
        "bsld": in_system / np.maximum(sim.jobs.run, BOUND_S),
        "slowdown": in_system / np.maximum(sim.jobs.run, 1.0),
        "utilization": -held * sim.jobs.gpus,
    }[score]
    return float(per_job.mean())


# --- rules ------------------------------------------------------------------------------


def ordered_by(sim: Sim, rule: str) -> Sim:
    """A shadow in which a rule decides, in the kernels; its queue is yet to be brought into order."""
    params = sim.params._replace(outside=INSIDE)
    if rule in SUSPENDING:
        return sim._replace(params=params._replace(order=SUSPENDING[rule]))
    chosen, n = order(rule), len(sim.jobs.submit)
    if chosen.code == STATIC:
        rows = np.arange(n)
        queue = queue_of(sim, rows, np.zeros(n), np.zeros(n, bool))
        sim.jobs.rank[sequence(chosen.keys(queue), n)] = rows
    return sim._replace(params=params._replace(order=chosen.code))


def usual_rule(baseline: str, timed: bool) -> str | None:
    """The rule beside a baseline: las where that suspends, else sjf or, with run times unknown, fifo; None: there is none.

    ``timed``: whether anything is known of run times.
    """
    suspends = baseline in SUSPENDING
    among = ["las", *(["srsf"] if timed else [])] if suspends else ["sjf", "f1"] if timed else ["fifo", "smallest"]
    return next((name for name in among if name != baseline), None)


def rules_of(guard: Guard, baseline: str, timed: bool) -> tuple[str, ...]:
    """The rules that what was learned must not be worse than. InputError for one that cannot stand beside the baseline."""
    if baseline not in SUSPENDING and baseline not in ORDERS:
        raise InputError(
            f"guard: a policy with baseline={baseline} cannot be guarded; its baseline must be an order or one of {', '.join(SUSPENDING)}"
        )
    other = guard.rule or usual_rule(baseline, timed)
    among = [name for name in SUSPENDING if name in ("las", baseline) or (timed and name != "gittins")]
    if baseline not in SUSPENDING:
        among = [name for name, each in ORDERS.items() if timed or not each.needs_run_time]
    if other is not None and other not in among:
        raise InputError(f"shadow.rule={other!r} beside baseline={baseline}; use {', '.join(among)}, or null")
    return tuple(dict.fromkeys(name for name in (baseline, other) if name is not None))
