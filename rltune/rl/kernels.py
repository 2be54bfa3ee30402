"""Compiled episodes: what an action does, what it earns.

Action a < V picks the a-th visible job (`rltune.rl.legal`), action V waits for the next event.
"""

from __future__ import annotations

import numpy as np

from rltune.compiled import inner, kernel, verb
from rltune.core.backfilling import NONE_DRAFTED, reserve, start_what_fits, start_when_it_fits
from rltune.core.events import can_ever_run, next_time, reset, step_single_event, work_left
from rltune.core.loop import begin_detail, go_on, start_now
from rltune.core.queue import remove_at, sort_queue
from rltune.core.resources.verbs import (
    book_held,
    copy_free,
    find,
    fits,
    narrow,
    prefer_unreserved,
    take_found,
)
from rltune.core.runs import find_ending_by, log_is_full, start_job
from rltune.core.state import (
    ARRIVED,
    BLOCKING,
    EASY,
    LOGGED,
    NOW,
    QUEUED,
    RECONFIGURED,
    RECONFIGURING,
    RUNNING,
    is_full,
    is_lean,
)
from rltune.rl.legal import begin_instant, first_misfit, make_way, mark_legal
from rltune.rl.observe import observe
from rltune.rl.rows import (
    CLOSED,
    DECISIONS,
    FIRST,
    FRESH,
    FULL,
    HEAD,
    LAST_END,
    LOOK,
    OVER,
    PAIRED,
    READ,
    REMADE,
    REMADE_S,
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
from rltune.rl.scoring import UTILIZATION, WAIT, baseline_so_far, count_run, note_start, score_total, settle_ended

# --- an episode's beginning ---------------------------------------------------------------


@inner
def baseline_pass(sim):
    """Start jobs as the baseline does; under blocking all that fit."""
    if sim.params.backfill == BLOCKING:
        sort_queue(sim)
        start_what_fits(sim)
    else:
        start_now(sim)


@kernel
def begin(batch, i, first_job, warmup):
    """Load an episode into row i, run its first ``warmup`` jobs by the baseline, stop at the first decision.

    False: the log has no room for their runs (`rltune.rl.rows.Training.grow`).
    """
    row = row_at(batch, i)
    load(row.sim, batch.table, first_job)
    reset(row.sim)
    begin_detail(row.sim)
    while row.sim.counts[ARRIVED] < warmup:
        if log_is_full(row.sim):
            return False
        go_on(row.sim)
        baseline_pass(row.sim)
    open_episode(row)
    return True


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
    episode.fitting[:] = 0
    episode.misfit[:] = 0
    episode.hopeless[:] = 0
    episode.barred[:] = 0
    episode.passed[:] = 0
    begin_instant(row)
    episode.mark[SCORED] = max(scored, 1)
    episode.tally[SCALE] = 1.0
    episode.tally[FIRST] = sim.jobs.submit[0]
    episode.tally[LAST_END] = last
    open_accounts(row, work)


@verb
def open_accounts(row, work):
    """What has run before the episode; ``work``: GPU-seconds that all jobs ask for."""


@open_accounts.when(is_lean_row)
def _open_accounts_lean(row, work):
    sim, tally = row.sim, row.episode.tally
    tally[WORK] = work
    for k in range(sim.counts[RUNNING]):
        tally[LAST_END] = max(tally[LAST_END], sim.end[sim.active[k]])


@open_accounts.when(is_full_row)
def _open_accounts_full(row, work):
    for k in range(row.sim.counts[LOGGED]):
        count_run(row, k)
    row.episode.mark[READ] = row.sim.counts[LOGGED]


@kernel
def baseline_total(batch, i, score):
    """Mean cost of row i, finished by the baseline order (skip under blocking); spends the row: ``begin`` it again.

    Leaves in ``base`` when the baseline starts every scored job. NaN: the log has no room (`rltune.rl.rows.Training.grow`).
    """
    row = row_at(batch, i)
    sim, episode = row.sim, row.episode
    while True:
        baseline_pass(sim)
        if log_is_full(sim):
            return np.nan
        if not go_on(sim):
            break
    for job in range(len(sim.jobs.submit)):
        episode.base[job] = sim.start[job] if episode.scored[job] == 1 else np.nan
    settle_ended(row, score)
    return episode.tally[SETTLED] / episode.mark[SCORED]


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
    make_way(row, action, position)
    m = placement(row, job, position)
    if episode.mark[FRESH] == 0:
        keep_instances(row)
    start_job(sim, job, m)
    remove_at(sim, position)
    note_start(row, job, score)


@verb
def keep_instances(row):
    """Write down the MIG instances before the first start of an instant, which may have to be undone."""


@keep_instances.when(is_lean_row)
def _keep_instances_lean(row):
    pass


@keep_instances.when(is_full_row)
def _keep_instances_full(row):
    sim, episode = row.sim, row.episode
    episode.mark[REMADE], episode.tally[REMADE_S] = sim.counts[RECONFIGURED], sim.clock[RECONFIGURING]
    copy_instances(sim.space.room.layout, sim.detail.changed, episode.layout, episode.changed)


@inner
def copy_instances(layout, changed, layout_to, changed_to):
    for node in range(layout.shape[0]):
        for gpu in range(layout.shape[1]):
            layout_to[node, gpu], changed_to[node, gpu] = layout[node, gpu], changed[node, gpu]


@inner
def restore_instances(row):
    """MIG instances as they were before the first start of this instant (full build)."""
    sim, episode = row.sim, row.episode
    sim.counts[RECONFIGURED], sim.clock[RECONFIGURING] = episode.mark[REMADE], episode.tally[REMADE_S]
    copy_instances(episode.layout, episode.changed, sim.space.room.layout, sim.detail.changed)


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
    """Advance to the next decision (at least one event if ``wait``); returns the shadow time. Sets mark OVER.

    Sets mark FULL, and stops on the way, where the log has no room for further runs.
    """
    sim, episode = row.sim, row.episode
    while True:
        going = True
        if wait:
            if log_is_full(sim):
                episode.mark[FULL] = 1
                return np.inf
            begin_instant(row)
            if sim.params.backfill == BLOCKING:
                if sim.counts[QUEUED] == 0 or next_time(sim) < np.inf:
                    step_single_event(sim)
            else:
                going = go_on(sim)
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
def reset_row(batch, i, episode, visible, seen):
    """Begin an episode in row i and observe it.

    ``episode``: first job, jobs of warm-up, score, whether rewards are relative, their floor. Relative rewards are the
    gain on the baseline order in the same time, in units of its cost plus floor. What arrivals cost under any policy
    cancels out: most of the variance of a return (input-dependent baselines: Mao et al., ICLR 2019). In the full build,
    where a start does not settle a job's cost, they are in those units but not paired. False: the log has no room for
    the runs of an episode (`rltune.rl.rows.Training.grow`).
    """
    first_job, warmup, score, relative, floor = episode
    row = row_at(batch, i)
    scale = 1.0
    if relative:
        total = baseline_total(batch, i, score) if begin(batch, i, first_job, warmup) else np.nan
        if np.isnan(total):
            return False
        scale = 1.0 / (total + floor)
    if not begin(batch, i, first_job, warmup):
        return False
    row.episode.tally[SCALE] = scale
    row.episode.mark[PAIRED] = 1 if relative and score != UTILIZATION and starts_settle(row.sim) else 0
    shadow_time = to_decision(row, visible, seen.mask[i], row.sim.counts[QUEUED] == 0)
    if row.episode.mark[FULL] == 1:
        return False
    observe(row, shadow_time, visible, seen.mask[i], seen.jobs[i], seen.cluster[i])
    return True


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
    """After an action: go to the next decision, observe it; the reward of the step.

    Where mark FULL is set there is none yet: call it again when the log has room.
    """
    episode = row.episode
    episode.mark[FULL] = 0
    shadow_time = to_decision(row, visible, mask, episode.mark[CLOSED] == 1)
    if episode.mark[FULL] == 1:
        return 0.0
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
def close_rows(batch, active, score, visible, seen, rewards):
    """Bring every active row to its next decision; rewards (n_envs,)."""
    for i in range(len(active)):
        if active[i]:
            row = row_at(batch, i)
            rewards[i] = close_row(row, score, visible, seen.mask[i], seen.jobs[i], seen.cluster[i])


@kernel
def step_rows(batch, actions, active, score, visible, seen, rewards):
    """``apply`` and ``close_row`` for every active row: a whole step where placements are greedy."""
    for i in range(len(actions)):
        if active[i]:
            row = row_at(batch, i)
            apply(row, actions[i], score, visible)
            rewards[i] = close_row(row, score, visible, seen.mask[i], seen.jobs[i], seen.cluster[i])


# --- for a learned policy in a simulation ---------------------------------------------------


@kernel
def open_episode_of(batch):
    """`open_episode` for the only row."""
    open_episode(row_at(batch, 0))


@kernel
def begin_instant_of(batch):
    """`begin_instant` for the only row."""
    begin_instant(row_at(batch, 0))


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


@inner
def job_to_reserve_for(row):
    """The first queued job that does not fit now, by its row in the episode; -1 if all fit."""
    row.episode.mark[LOOK] += 1
    head = first_misfit(row)
    return row.sim.queue[head] if head < row.sim.counts[QUEUED] else -1


@kernel
def misfit_of(batch, i):
    """The same for row i."""
    return job_to_reserve_for(row_at(batch, i))


@kernel
def expected_start(batch, i, job):
    """When a queued job could start, by the expected ends of what runs: now if it fits. The reservation stays."""
    sim = row_at(batch, i).sim
    if fits(sim, sim.space, job):
        return sim.clock[NOW]
    copy_free(sim, sim.spare, sim.shadow)
    begins = reserve(sim, sim.space, NONE_DRAFTED, job)
    copy_free(sim, sim.shadow, sim.spare)
    return begins
