"""Compiled episodes: which actions are legal, what an action does, what it earns.

Action a < V picks the a-th visible job, action V waits for the next event. Visible
are the first V legal jobs of the whole queue in the baseline order; room that is left
shows the first jobs that are not legal. So the first legal job of however long a
queue can always be picked. Legal is, by backfilling:

* blocking: every job; one that does not fit is waited for (the reference protocol).
* skip: jobs that fit now.
* easy: jobs that fit now and do not delay the reservation of the first job, in baseline order, that does not.
"""

from __future__ import annotations

import numpy as np

from rltune.compiled import inner, kernel, verb
from rltune.core.backfilling import reserve, start_easy, start_what_fits, start_when_it_fits
from rltune.core.events import advance, can_ever_run, next_time, reset, step_single_event, work_left
from rltune.core.loop import begin_detail, worth_going_on
from rltune.core.priorities import progress
from rltune.core.queue import remove_at
from rltune.core.resources.verbs import (
    book_held,
    copy_free,
    find,
    fits,
    narrow,
    prefer_unreserved,
    take_found,
)
from rltune.core.runs import find_ending_by, fits_ending_by, start_job
from rltune.core.state import (
    ARRIVED,
    BLOCKING,
    EASY,
    FINISHED,
    GIVEN_UP,
    LOGGED,
    NOW,
    ON_GPUS,
    QUEUED,
    RUNNING,
    is_full,
    is_lean,
)
from rltune.nouns.metrics import BOUND_S
from rltune.rl.observe import observe
from rltune.rl.rows import (
    CLOSED,
    DECISIONS,
    FIRST,
    FRESH,
    HEAD,
    LAST_END,
    OVER,
    PAIRED,
    READ,
    RESERVED,
    SCALE,
    SCORED,
    SETTLED,
    SHADOW,
    SHOWN,
    TOTAL,
    WORK,
    is_full_row,
    is_lean_row,
    load,
    row_at,
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


# --- an episode's beginning ---------------------------------------------------------------


@inner
def baseline_pass(sim):
    """Start jobs as the baseline does: by the queue's order, under easy around a reservation, else all that fit."""
    if sim.params.backfill == EASY:
        start_easy(sim)
    else:
        start_what_fits(sim)


@kernel
def begin(batch, i, first_job, warmup):
    """Load an episode into row i, run its first ``warmup`` jobs by the baseline, stop at the first decision."""
    row = row_at(batch, i)
    load(row.sim, batch.table, first_job)
    reset(row.sim)
    begin_detail(row.sim)
    while row.sim.counts[ARRIVED] < warmup:
        advance(row.sim)
        baseline_pass(row.sim)
    open_episode(row)


@kernel
def open_episode(row):
    """Empty books for a state in which some jobs may have started already; those are not scored."""
    sim, episode = row.sim, row.episode
    scored, work, last = 0, 0.0, sim.jobs.submit[0]
    for job in range(len(sim.jobs.submit)):
        episode.scored[job] = 0
        if can_ever_run(sim, job):
            if np.isnan(sim.start[job]):
                episode.scored[job] = 1
                scored += 1
            work += sim.jobs.run[job] * sim.jobs.gpus[job]
            last = sim.jobs.submit[job]
    episode.mark[:] = 0
    episode.tally[:] = 0.0
    episode.mark[SCORED] = max(scored, 1)
    episode.mark[READ] = logged(sim)
    episode.tally[SCALE] = 1.0
    episode.tally[WORK] = work
    episode.tally[FIRST] = sim.jobs.submit[0]
    episode.tally[LAST_END] = last
    for k in range(sim.counts[RUNNING]):
        episode.tally[LAST_END] = max(episode.tally[LAST_END], sim.end[sim.active[k]])


@verb
def logged(sim):
    """Runs that have ended."""


@logged.when(is_lean)
def _logged_lean(sim):
    return 0


@logged.when(is_full)
def _logged_full(sim):
    return sim.counts[LOGGED]


@kernel
def baseline_total(batch, i, score):
    """Mean cost of row i, finished by the baseline order (skip under blocking); spends the row: ``begin`` it again.

    Leaves in ``base`` when the baseline starts every scored job.
    """
    row = row_at(batch, i)
    sim, episode = row.sim, row.episode
    while True:
        baseline_pass(sim)
        if not worth_going_on(sim) or not advance(sim):
            break
    for job in range(len(sim.jobs.submit)):
        episode.base[job] = sim.start[job] if episode.scored[job] == 1 else np.nan
    settle_ended(row, score)
    return episode.tally[SETTLED] / episode.mark[SCORED]


# --- the score ----------------------------------------------------------------------------


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
        return episode.tally[WORK] / (max(episode.tally[LAST_END] - episode.tally[FIRST], 1.0) * gpus)
    # Settles what has ended, so it goes first.
    pending = cost_pending(row, score)
    total = episode.tally[SETTLED] + pending
    return -total / episode.mark[SCORED]


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
        if episode.scored[job] == 1 and log.outcome[k] in (FINISHED, GIVEN_UP):
            jct = log.end[k] - sim.jobs.submit[job]
            episode.tally[SETTLED] += cost_of(score, jct - sim.detail.held[job], jct, sim.jobs.run[job])
    episode.mark[READ] = sim.counts[LOGGED]


@inner
def note_start(row, job, score):
    """A job has just been started by the agent."""
    sim, episode = row.sim, row.episode
    settle_start(row, job, score)
    episode.tally[LAST_END] = max(episode.tally[LAST_END], sim.end[job])
    episode.fresh[episode.mark[FRESH]] = job
    episode.mark[FRESH] += 1


@verb
def settle_start(row, job, score):
    """Book the final cost of a job that starts, where that is certain then."""


@settle_start.when(is_lean_row)
def _settle_start_lean(row, job, score):
    sim = row.sim
    row.episode.tally[SETTLED] += job_cost(score, sim.start[job] - sim.jobs.submit[job], sim.jobs.run[job])


@settle_start.when(is_full_row)
def _settle_start_full(row, job, score):
    pass


# --- actions ------------------------------------------------------------------------------


@inner
def apply(row, action, score, visible):
    """Do ``action``. Sets mark CLOSED when nothing more is to be decided at this instant."""
    sim, episode = row.sim, row.episode
    episode.mark[DECISIONS] += 1
    episode.mark[CLOSED] = 0
    if action == visible:
        episode.mark[CLOSED] = 1
        return
    position = episode.slot[action]
    job = sim.queue[position]
    if sim.params.backfill == BLOCKING:
        if start_when_it_fits(sim, job):
            note_start(row, job, score)
        return
    m = placement(row, job, position)
    start_job(sim, job, m)
    remove_at(sim, position)
    note_start(row, job, score)


@kernel
def placement(row, job, position):
    """Place a legal job around the reservation: it stays where it is while jobs behind it start.

    A start ahead of the reserved job ends the reservation; the next decision makes a new one.
    """
    sim, episode = row.sim, row.episode
    if sim.params.backfill != EASY or position <= episode.mark[HEAD]:
        episode.mark[RESERVED] = 0
        return find(sim, sim.space, job)
    m = find_ending_by(sim, job, episode.tally[SHADOW])
    if m > 0:
        prefer_unreserved(sim, sim.space, sim.spare, job, m)
        return m
    narrow(sim)
    m = find(sim, sim.shadow, job)
    take_found(sim, sim.spare, job, m)
    return m


@inner
def keep_reservation(row, head):
    """Reserve for the queue's position ``head`` unless it holds a reservation of this instant already; its time."""
    sim, episode = row.sim, row.episode
    job = sim.queue[head]
    if episode.mark[RESERVED] != job + 1:
        episode.tally[SHADOW] = reserve(sim, job)
        episode.mark[RESERVED] = job + 1
    narrow(sim)
    return episode.tally[SHADOW]


@inner
def reserved_position(sim):
    """Position of the first queued job that does not fit now; the queue's length if all fit."""
    n = sim.counts[QUEUED]
    for k in range(n):
        if not fits(sim, sim.space, sim.queue[k]):
            return k
    return n


@inner
def mark_legal(row, visible, mask):
    """Choose the visible jobs and fill ``mask`` (V + 1,).

    Returns the number of visible jobs that may be picked and the shadow time; leaves
    ``slot`` (queue positions of the visible jobs) and the marks HEAD and SHOWN.
    """
    sim, episode = row.sim, row.episode
    queued = sim.counts[QUEUED]
    mask[visible] = 1 if next_time(sim) < np.inf else 0
    head = queued
    shadow_time = np.inf
    if sim.params.backfill == EASY:
        head = reserved_position(sim)
        if head < queued:
            shadow_time = keep_reservation(row, head)
    episode.mark[HEAD] = head
    legal, others = 0, 0
    for k in range(queued):
        if legal == visible:
            break
        if is_legal(sim, k, head, shadow_time):
            episode.slot[legal] = k
            legal += 1
        elif others < visible:
            episode.passed[others] = k
            others += 1
    shown = min(legal + others, visible)
    for a in range(legal, shown):
        episode.slot[a] = episode.passed[a - legal]
    for a in range(visible):
        mask[a] = 1 if a < legal else 0
    episode.mark[SHOWN] = shown
    return legal, shadow_time


@inner
def is_legal(sim, position, head, shadow_time):
    """Whether the job at this position of the queue may be picked now."""
    if sim.params.backfill == BLOCKING:
        return True
    job = sim.queue[position]
    return fits(sim, sim.space, job) if position <= head else fits_ending_by(sim, job, shadow_time)


@verb
def nothing_to_decide(sim):
    """Whether no decision will come any more."""


@nothing_to_decide.when(is_lean)
def _nothing_to_decide_lean(sim):
    return sim.counts[QUEUED] == 0 and sim.counts[ARRIVED] == len(sim.jobs.submit)


@nothing_to_decide.when(is_full)
def _nothing_to_decide_full(sim):
    # A running job may fail and come back.
    return not work_left(sim)


@inner
def to_decision(row, visible, mask, wait):
    """Advance to the next decision (at least one event if ``wait``); returns the shadow time. Sets mark OVER."""
    sim, episode = row.sim, row.episode
    while True:
        going = True
        if wait:
            episode.mark[FRESH] = 0
            episode.mark[RESERVED] = 0
            if sim.params.backfill == BLOCKING:
                if sim.counts[QUEUED] == 0 or next_time(sim) < np.inf:
                    step_single_event(sim)
            else:
                going = worth_going_on(sim) and advance(sim)
        if not going or nothing_to_decide(sim):
            episode.mark[OVER] = 1
            episode.mark[SHOWN] = 0
            for a in range(visible):
                mask[a] = 0
            mask[visible] = 1
            return np.inf
        legal, shadow_time = mark_legal(row, visible, mask)
        if legal > 0:
            return shadow_time
        wait = True


# --- what Python calls --------------------------------------------------------------------


@kernel
def reset_row(batch, i, episode, view, mask, jobs, cluster):
    """Begin an episode in row i and observe it.

    ``episode``: first job, jobs of warm-up, score, whether rewards are relative, their floor. Relative rewards are the
    gain on the baseline order in the same time, in units of its cost plus floor. What arrivals cost whoever schedules
    cancels out: most of the variance of a return (input-dependent baselines: Mao et al., ICLR 2019). In the full build,
    where a start does not settle a job's cost, they are in those units but not paired.
    """
    first_job, warmup, score, relative, floor = episode
    row, visible = row_at(batch, i), view
    scale = 1.0
    if relative:
        begin(batch, i, first_job, warmup)
        scale = 1.0 / (baseline_total(batch, i, score) + floor)
    begin(batch, i, first_job, warmup)
    row.episode.tally[SCALE] = scale
    row.episode.mark[PAIRED] = 1 if relative and score != UTILIZATION and starts_settle(row.sim) else 0
    shadow_time = to_decision(row, visible, mask[i], row.sim.counts[QUEUED] == 0)
    observe(row, shadow_time, visible, mask[i], jobs[i], cluster[i])


@verb
def starts_settle(sim):
    """Whether a job's cost is certain when it starts."""


@starts_settle.when(is_lean)
def _starts_settle_lean(sim):
    return True


@starts_settle.when(is_full)
def _starts_settle_full(sim):
    return False


@inner
def close_row(row, score, visible, mask, jobs, cluster):
    """After an action: go to the next decision, observe it; the reward of the step."""
    episode = row.episode
    shadow_time = to_decision(row, visible, mask, episode.mark[CLOSED] == 1)
    observe(row, shadow_time, visible, mask, jobs, cluster)
    total = score_total(row, score)
    if episode.mark[PAIRED] == 1:
        total -= baseline_so_far(row, score)
    reward = (total - episode.tally[TOTAL]) * episode.tally[SCALE]
    episode.tally[TOTAL] = total
    return reward


@kernel
def apply_rows(batch, actions, active, score, visible, mask):
    """Act in every active row; a row whose instant offers nothing more to pick is marked CLOSED."""
    for i in range(len(actions)):
        if active[i]:
            row = row_at(batch, i)
            apply(row, actions[i], score, visible)
            if row.episode.mark[CLOSED] == 0 and row.sim.params.backfill != BLOCKING:
                legal, _ = mark_legal(row, visible, mask[i])
                if legal == 0:
                    row.episode.mark[CLOSED] = 1


@kernel
def close_rows(batch, active, score, visible, mask, jobs, cluster, rewards):
    """Bring every active row to its next decision; rewards (n_envs,)."""
    for i in range(len(active)):
        if active[i]:
            rewards[i] = close_row(row_at(batch, i), score, visible, mask[i], jobs[i], cluster[i])


@kernel
def step_rows(batch, actions, active, score, visible, mask, jobs, cluster, rewards):
    """``apply`` and ``close_row`` for every active row: a whole step where placements are greedy."""
    for i in range(len(actions)):
        if active[i]:
            row = row_at(batch, i)
            apply(row, actions[i], score, visible)
            rewards[i] = close_row(row, score, visible, mask[i], jobs[i], cluster[i])


# --- for a learned policy in a simulation ---------------------------------------------------


@kernel
def open_episode_of(batch):
    """`open_episode` for the only row."""
    open_episode(row_at(batch, 0))


@kernel
def look(batch, visible, mask, jobs, cluster):
    """Which jobs of the only row may be picked at this instant: how many; observed into (1, ...) arrays if any."""
    row = row_at(batch, 0)
    legal, shadow_time = mark_legal(row, visible, mask[0])
    if legal > 0:
        observe(row, shadow_time, visible, mask[0], jobs[0], cluster[0])
    return legal


@kernel
def pick(batch, action, score, visible, mask):
    """Do ``action`` in the only row. Mark CLOSED: it waits, or no further job may be picked at this instant."""
    row = row_at(batch, 0)
    apply(row, action, score, visible)
    if row.episode.mark[CLOSED] == 0:
        legal, _ = mark_legal(row, visible, mask[0])
        row.episode.mark[CLOSED] = 1 if legal == 0 else 0


@kernel
def step_blocking(batch, action, visible, mask, jobs, cluster):
    """One step of the reference protocol in the only row: ``action`` (-1: none yet), then on to the next decision."""
    row = row_at(batch, 0)
    if action < 0:
        reset(row.sim)
        open_episode(row)
    else:
        apply(row, action, WAIT, visible)
    first = action < 0
    wait = row.sim.counts[QUEUED] == 0 if first else row.episode.mark[CLOSED] == 1
    shadow_time = to_decision(row, visible, mask[0], wait)
    observe(row, shadow_time, visible, mask[0], jobs[0], cluster[0])


# --- for the joint placement --------------------------------------------------------------


@kernel
def replace_fresh(batch, i, k, node, gpus, m):
    """Move the k-th job started at this instant to ``node[:m]``, ``gpus[:m]``; all its peers must be lifted first."""
    row = row_at(batch, i)
    sim, job = row.sim, row.episode.fresh[k]
    base = sim.jobs.part[job]
    for j in range(m):
        sim.alloc_node[base + j] = node[j]
        sim.alloc_grant[base + j] = gpus[j]
    sim.alloc_len[job] = m
    book_held(sim, sim.space, job, -1)


@kernel
def lift_fresh(batch, i, k):
    """Give back the GPUs of the k-th job started at this instant, for ``replace_fresh``."""
    row = row_at(batch, i)
    book_held(row.sim, row.sim.space, row.episode.fresh[k], 1)


@kernel
def first_misfit(batch, i):
    """The first queued job that does not fit now, by its row in the episode; -1 if all fit."""
    sim = row_at(batch, i).sim
    head = reserved_position(sim)
    return sim.queue[head] if head < sim.counts[QUEUED] else -1


@kernel
def expected_start(batch, i, job):
    """When a queued job could start, by the expected ends of what runs: now if it fits. The reservation stays."""
    sim = row_at(batch, i).sim
    if fits(sim, sim.space, job):
        return sim.clock[NOW]
    copy_free(sim, sim.spare, sim.shadow)
    begins = reserve(sim, job)
    copy_free(sim, sim.shadow, sim.spare)
    return begins
