"""Looking ahead from a living cluster: when waiting jobs will start if no further job is submitted, and what another world would change.

The present is copied and run on (`rltune.core.shadows`), many times, each with other run times: those believed, times a factor
drawn from how past beliefs turned out, or drawn from past jobs where nothing is believed. Worlds that are compared see the same
draws.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from rltune.core.loop import DECIDE, FINISHED_ALL, LOG_FULL, run_for
from rltune.core.reference import ref
from rltune.core.shadows import Cast, present_jobs, progress_of, shadow
from rltune.core.state import LOGGED, NOW, ON_GPUS, Floats, Sim, with_larger_log
from rltune.nouns.cluster import Cluster
from rltune.nouns.errors import InputError
from rltune.policies.preemptive import OVERRUN_FACTOR
from rltune.simulator.guard import drawn_runs
from rltune.simulator.live import LiveCluster
from rltune.simulator.requests import Request, Rules

SAMPLES = 32
HORIZON_S = 30 * 86_400.0
"""Farther ahead nothing is said."""
INSTANTS = 500
"""Of a shadow, between two looks whether all that are watched have begun."""
BUDGET_S = 2.0
"""Seconds of work for an answer: with long queues there are fewer samples, or none that is complete, and the answer says so."""
LEAST = 20
"""Past jobs from which a spread is drawn; with fewer, beliefs are taken as they are, and the answer says so."""


@dataclass(frozen=True, slots=True)
class Past:
    """What ended jobs have taught: ``run_s, gpus`` (n,) of each; ``ratio`` (m,) run time over what was believed, where it was."""

    run_s: Floats = field(default_factory=lambda: np.zeros(0))
    gpus: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    ratio: Floats = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True, slots=True)
class Starts:
    """``start_s`` (samples, jobs): seconds from now until each of ``jobs`` starts; infinity: not within the horizon.

    ``spread``: whether run times were drawn; else all samples are one. ``complete``: false where the time for an answer was not enough
    for the first sample: then infinity is what lies farther ahead than was seen.
    """

    jobs: tuple[str, ...]
    start_s: Floats
    spread: bool
    complete: bool = True

    def quantiles(self, job: str, shares: Sequence[float] = (0.1, 0.5, 0.9)) -> list[float]:
        """Seconds from now by which the job starts with these probabilities; infinity: not within the horizon."""
        column = np.sort(self.start_s[:, self.jobs.index(job)])
        at = [min(len(column) - 1, int(np.ceil(share * len(column))) - 1) for share in shares]
        return [float(column[max(0, k)]) for k in at]


def starts(
    live: LiveCluster,
    past: Past,
    jobs: Sequence[str] | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
    budget_s: float = BUDGET_S,
) -> Starts:
    """When waiting jobs (``jobs``; None: all) of a picture of the present start, if no further job is submitted."""
    sim = live.sim
    waiting = [one for one in live.jobs.values() if int(sim.detail.status[one.row]) != ON_GPUS]
    asked = tuple(one.id for one in waiting if jobs is None or one.id in jobs)
    here = present_jobs(sim)
    rows = np.array([live.jobs[name].row for name in asked], np.int64)
    at = np.searchsorted(here, rows)
    rng, spread, until = np.random.default_rng(seed), len(past.ratio) >= LEAST, time.monotonic() + budget_s
    found, complete = list[Floats](), True
    for k in range(samples if spread or np.isnan(sim.jobs.known[here]).any() else 1):
        if k and time.monotonic() > until:
            break
        run = imagined_runs(sim, here, past, rng)
        made = shadow(sim, Cast(here, len(here), sim.jobs.submit[here], run))
        sample, complete = run_on(live, made, at, until)
        if complete or not found:
            found.append(sample)
        if not complete:
            break
    return Starts(asked, np.array(found).reshape(len(found), len(asked)), spread, complete or len(found) > 1)


def imagined_runs(sim: Sim, here: npt.NDArray[np.int64], past: Past, rng: np.random.Generator) -> Floats:
    """(k,) run times in seconds, of which each job has done less."""
    progress, known = progress_of(sim, here), sim.jobs.known[here].copy()
    if len(past.ratio) >= LEAST:
        known = known * rng.choice(past.ratio, len(known))
    unknown = np.isnan(known)
    if unknown.any():
        known[unknown] = drawn_runs(past.run_s, past.gpus, sim.jobs.gpus[here[unknown]], progress[unknown], rng)
    outlived = known <= progress
    known[outlived] = OVERRUN_FACTOR * progress[outlived] + 1.0
    out: Floats = known
    return out


def run_on(live: LiveCluster, made: Sim, watched: npt.NDArray[np.int64], until: float) -> tuple[Floats, bool]:
    """(k,) seconds from now until the jobs in rows ``watched`` of a shadow hold GPUs (again); and whether that was found out.

    ``until``: on the monotonic clock; then the look ahead breaks off, and infinity is what has not been seen yet.
    """
    state, decision = ref(made), live.decision_for(made)
    now, before = float(made.clock[NOW]), made.detail.runs[watched].copy()
    complete, code = True, run_for(state, INSTANTS)
    while code != FINISHED_ALL:
        if code == DECIDE and decision is not None:
            decision.take(state)
        elif code == LOG_FULL:
            state = ref(with_larger_log(state.value))
        if (state.value.detail.runs[watched] > before).all() or float(state.value.clock[NOW]) > now + HORIZON_S:
            break
        if time.monotonic() > until:
            complete = False
            break
        code = run_for(state, INSTANTS)
    return begun_at(state.value, watched, before) - now, complete


def begun_at(sim: Sim, watched: npt.NDArray[np.int64], before: npt.NDArray[np.int64]) -> Floats:
    """(k,) when each began its first run of those after ``before`` (k,) runs; infinity: it did not."""
    begun = np.full(len(watched), np.inf)
    later = sim.detail.runs[watched] > before
    running = later & (sim.detail.status[watched] == ON_GPUS)
    begun[running] = sim.detail.since[watched[running]]
    log, n = sim.detail.log, int(sim.counts[LOGGED])
    place = {int(row): k for k, row in enumerate(watched.tolist()) if later[k]}
    for k in np.flatnonzero(np.isin(log.job[:n], watched)).tolist():
        if (at := place.get(int(log.job[k]))) is not None:
            begun[at] = min(begun[at], float(log.start[k]))
    return begun


# --- other worlds ---------------------------------------------------------------------------


def with_job(live: LiveCluster, job: str, request: Request, known_s: float) -> LiveCluster:
    """A copy of the present in which one more job has just been submitted. InputError: it can never run."""
    if not live.possible(request):
        raise InputError("it fits on no idle node of this cluster")
    other = live.picture()
    other.submit(job, request, other.now_s, known_s)
    other.advance(other.now_s)
    return other


def with_rules(live: LiveCluster, rules: Rules) -> LiveCluster:
    """A copy of the present in which other rules decide from now on."""
    other = live.fork(rules)
    other.decide_now()
    return other


def with_nodes(live: LiveCluster, pool: str, more: int) -> LiveCluster:
    """A copy of the present in which a pool has ``more`` nodes (less than 0: fewer, which must be idle ones, its last)."""
    pools, shift, at = [], np.zeros(live.cluster.nodes, np.int64), 0
    known = [one.name for one in live.cluster.pools]
    if pool not in known:
        raise InputError(f"pool {pool!r} is unknown; known are {', '.join(known)}")
    moved = 0
    for one in live.cluster.pools:
        count = one.nodes + (more if one.name == pool else 0)
        if count < 1:
            raise InputError(f"pool {pool} has {one.nodes} nodes; at least one must stay")
        shift[at : at + one.nodes] = moved
        if one.name == pool and more < 0:
            shift[at + count : at + one.nodes] = -live.cluster.nodes
        at += one.nodes
        moved += count - one.nodes
        pools.append(replace(one, nodes=count))
    cluster = Cluster(live.cluster.name, tuple(pools))
    return moved_to(live, cluster, np.arange(live.cluster.nodes) + shift)


def moved_to(live: LiveCluster, cluster: Cluster, number: npt.NDArray[np.int64]) -> LiveCluster:
    """The present on another cluster; ``number`` (n_nodes,): what each node is there, below 0: it is gone and must be idle."""
    other = LiveCluster(cluster, live.rules, live.now_s)
    saved = {}
    for one in sorted(live.jobs.values(), key=lambda x: x.row):
        kept = live.saved(one.id)
        if kept["status"] == ON_GPUS:
            kept["places"] = [[int(number[node]), grant] for node, grant in kept["places"]]
            if any(node < 0 for node, _ in kept["places"]):
                raise InputError(f"job {one.id} runs on a node that would go; take fewer away")
        else:
            kept["places"] = []
        other.see(one.request)
        saved[one.id] = kept
    for one in sorted(live.jobs.values(), key=lambda x: x.row):
        other.submit(one.id, one.request, one.submit_s, one.known_s, late=True)
    closed, layouts = np.zeros(cluster.nodes, np.int64), {}
    for node, there in enumerate(number.tolist()):
        if there >= 0:
            closed[there] = live.sim.space.room.closed[node]
            for gpu in range(live.sim.space.room.layout.shape[1]):
                layouts[there, gpu] = live.layout_of(node, gpu)
    other.restore(saved, layouts, closed.tolist())
    other.set_accounts(live.accounts())
    other.advance(other.now_s)
    return other
