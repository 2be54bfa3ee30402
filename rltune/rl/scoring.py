"""The score of an episode so far, whose differences are the rewards: they add up to it."""

from __future__ import annotations

import numpy as np

from rltune.compiled import inner, kernel, verb
from rltune.core.events import can_ever_run
from rltune.core.priorities import progress
from rltune.core.resources.verbs import (
    way_held,
)
from rltune.core.state import (
    FINISHED,
    FUTURE,
    GIVEN_UP,
    LOGGED,
    NOW,
    ON_GPUS,
    QUEUED,
    RUNNING,
    WAITING,
)
from rltune.nouns.jobs import WHOLE
from rltune.nouns.metrics import BOUND_S
from rltune.rl.rows import (
    FIRST,
    FRESH,
    LAST_END,
    OVER,
    READ,
    SCORED,
    SETTLED,
    WORK,
    is_full_row,
    is_lean_row,
)

BSLD, WAIT, JCT, UTILIZATION, SLOWDOWN = range(5)
SCORE_CODES = {"bsld": BSLD, "wait": WAIT, "jct": JCT, "utilization": UTILIZATION, "slowdown": SLOWDOWN}


@kernel
def job_cost(score, wait, run):
    """What a job that waited and then ran adds to the score; for utilization nothing."""
    return cost_of(score, wait, wait + run, run)


@inner
def cost_of(score, wait, jct, run):
    """The same where completion is not wait plus run time: seconds without GPUs, from submission to end, and of work."""
    if score == WAIT:
        return wait
    if score == JCT:
        return jct
    if score == BSLD:
        return max(1.0, jct / max(run, BOUND_S))
    if score == SLOWDOWN:
        return jct / max(run, 1.0)
    return 0.0


@inner
def baseline_so_far(row, score):
    """What ``score_total`` would say of the baseline order at the row's clock; of its whole schedule once it is over."""
    jobs, episode = row.sim.jobs, row.episode
    now = np.inf if episode.mark[OVER] == 1 else row.sim.clock[NOW]
    total = 0.0
    for job in range(len(jobs.submit)):
        submit = jobs.submit[job]
        if submit > now:
            break
        begun = episode.base[job]
        if not np.isnan(begun):
            total += job_cost(score, min(now, begun) - submit, jobs.run[job])
    return -total / episode.mark[SCORED]


@inner
def score_total(row, score):
    """Score of the row so far, larger is better: minus the mean cost of scored jobs, or the utilisation in reach."""
    sim, episode = row.sim, row.episode
    if score == UTILIZATION:
        gpus = 0
        for p in range(len(sim.cluster.pool_cap)):
            gpus += sim.cluster.pool_cap[p] * (sim.cluster.pool_hi[p] - sim.cluster.pool_lo[p])
        span = last_end(row) - episode.tally[FIRST]
        return work_in_reach(row) / (max(span, 1.0) * gpus)
    # Settles what has ended, so it goes first.
    pending = cost_pending(row, score)
    total = episode.tally[SETTLED] + pending
    return -total / episode.mark[SCORED]


@verb
def last_end(row):
    """When the last run that has begun will end."""


@last_end.when(is_lean_row)
def _last_end_lean(row):
    return row.episode.tally[LAST_END]


@last_end.when(is_full_row)
def _last_end_full(row):
    settle_ended(row, UTILIZATION)
    sim, last = row.sim, row.episode.tally[LAST_END]
    for k in range(sim.counts[RUNNING]):
        last = max(last, sim.end[sim.active[k]])
    return last


@verb
def work_in_reach(row):
    """GPU-seconds that jobs will have held when all have ended, as far as that is certain."""


@work_in_reach.when(is_lean_row)
def _work_in_reach_lean(row):
    return row.episode.tally[WORK]


@work_in_reach.when(is_full_row)
def _work_in_reach_full(row):
    sim, detail = row.sim, row.sim.detail
    held = row.episode.tally[WORK]
    for job in range(len(sim.jobs.submit)):
        gpus = detail.amount[way_held(sim, job)] / WHOLE
        if detail.status[job] == ON_GPUS:
            held += (sim.end[job] - detail.since[job]) * gpus
        elif detail.status[job] in (FUTURE, WAITING) and can_ever_run(sim, job):
            held += (sim.jobs.run[job] - detail.done[job]) * gpus
    return held


@inner
def count_run(row, k):
    """The k-th run that has ended held GPUs (full build)."""
    sim, tally, log = row.sim, row.episode.tally, row.sim.detail.log
    tally[WORK] += (log.end[k] - log.start[k]) * sim.detail.amount[log.way[k]] / WHOLE
    tally[LAST_END] = max(tally[LAST_END], log.end[k])


@verb
def cost_pending(row, score):
    """The part of the cost that is already certain of jobs whose cost is not settled yet."""


@cost_pending.when(is_lean_row)
def _cost_pending_lean(row, score):
    sim, total = row.sim, 0.0
    for k in range(sim.counts[QUEUED]):
        job = sim.queue[k]
        total += job_cost(score, sim.clock[NOW] - sim.jobs.submit[job], sim.jobs.run[job])
    return total


@cost_pending.when(is_full_row)
def _cost_pending_full(row, score):
    settle_ended(row, score)
    sim, total = row.sim, 0.0
    for k in range(sim.counts[QUEUED]):
        total += cost_so_far(row, sim.queue[k], score)
    for k in range(sim.counts[RUNNING]):
        total += cost_so_far(row, sim.active[k], score)
    return total


@inner
def cost_so_far(row, job, score):
    """Cost of a job that has arrived and not ended, as if what is left of its work took its recorded time."""
    sim, detail = row.sim, row.sim.detail
    if row.episode.scored[job] == 0:
        return 0.0
    waited = sim.clock[NOW] - sim.jobs.submit[job] - detail.held[job]
    if detail.status[job] == ON_GPUS:
        waited -= sim.clock[NOW] - detail.since[job]
    left = sim.jobs.run[job] - progress(sim, job)
    return cost_of(score, waited, sim.clock[NOW] - sim.jobs.submit[job] + left, sim.jobs.run[job])


@verb
def settle_ended(row, score):
    """Book the final cost of jobs that have ended since the last call."""


@settle_ended.when(is_lean_row)
def _settle_ended_lean(row, score):
    # A lean run cannot be interrupted, so a job's cost is certain at its start; here all have started by the baseline.
    sim = row.sim
    for job in range(len(sim.jobs.submit)):
        if row.episode.scored[job] == 1 and not np.isnan(sim.start[job]):
            settle_start(row, job, score)


@settle_ended.when(is_full_row)
def _settle_ended_full(row, score):
    sim, episode, log = row.sim, row.episode, row.sim.detail.log
    for k in range(episode.mark[READ], sim.counts[LOGGED]):
        job = log.job[k]
        count_run(row, k)
        if episode.scored[job] == 1 and log.outcome[k] in (FINISHED, GIVEN_UP):
            jct = log.end[k] - sim.jobs.submit[job]
            episode.tally[SETTLED] += cost_of(score, jct - sim.detail.held[job], jct, sim.jobs.run[job])
    episode.mark[READ] = sim.counts[LOGGED]


@inner
def note_start(row, job, score):
    """A job has just been started by the agent."""
    episode = row.episode
    settle_start(row, job, score)
    episode.fresh[episode.mark[FRESH]] = job
    episode.mark[FRESH] += 1


@verb
def settle_start(row, job, score):
    """Book the final cost of a job that starts, where that is certain then."""


@settle_start.when(is_lean_row)
def _settle_start_lean(row, job, score):
    sim, tally = row.sim, row.episode.tally
    tally[SETTLED] += job_cost(score, sim.start[job] - sim.jobs.submit[job], sim.jobs.run[job])
    tally[LAST_END] = max(tally[LAST_END], sim.end[job])


@settle_start.when(is_full_row)
def _settle_start_full(row, job, score):
    pass
