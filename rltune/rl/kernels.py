"""Compiled episodes: which actions are legal, what an action does, what it earns.

Action a < V picks the a-th visible job, action V waits for the next event. Visible
are the first V legal jobs of the whole queue in the baseline order; room that is left
shows the first jobs that are not legal. So the first legal job of however long a
queue can always be picked. Legal is, by discipline:

* blocking: every job; one that does not fit is waited for (the reference protocol).
* skip: jobs that fit now.
* easy: jobs that fit now and do not delay the reservation of the first job, in baseline order, that does not.
"""

from __future__ import annotations

import numpy as np

from rltune.allocators.placement import book, fits, recount
from rltune.compiled import inner, kernel
from rltune.metrics import BOUND_S
from rltune.rl.batch import (
    CLOSED,
    DECISIONS,
    DONE,
    FIRST,
    FRESH,
    HEAD,
    LAST_END,
    OVER,
    PAIRED,
    RESERVED,
    SCALE,
    SCORED,
    SHADOW,
    SHOWN,
    TOTAL,
    WORK,
    load,
    view,
)
from rltune.rl.observe import observe
from rltune.simulator.disciplines import (
    BLOCKING,
    EASY,
    reserve,
    start_easy,
    start_what_fits,
    start_when_it_fits,
)
from rltune.simulator.events import (
    advance,
    can_ever_run,
    find_job,
    job_fits,
    next_event,
    remove_at,
    reset,
    start_job,
    step_single_event,
)
from rltune.simulator.state import ARRIVED, QUEUED, RUNNING

BSLD, WAIT, JCT, UTILIZATION, SLOWDOWN = range(5)
SCORE_CODES = {"bsld": BSLD, "wait": WAIT, "jct": JCT, "utilization": UTILIZATION, "slowdown": SLOWDOWN}


@inner
def job_cost(score, wait, run):
    """What one job adds to the score; for utilization nothing."""
    if score == WAIT:
        return wait
    if score == JCT:
        return wait + run
    if score == BSLD:
        return max(1.0, (wait + run) / max(run, BOUND_S))
    if score == SLOWDOWN:
        return (wait + run) / max(run, 1.0)
    return 0.0


@kernel
def begin(batch, i, table, first_job, warmup, discipline, rule):
    """Load an episode into row i, run its first ``warmup`` jobs by the baseline, stop at the first decision."""
    load(batch, i, table, first_job)
    sim = view(batch, i)
    reset(sim)
    while sim.counts[ARRIVED] < warmup:
        advance(sim)
        if discipline == EASY:
            start_easy(sim, rule)
        else:
            start_what_fits(sim, rule)
    scored = 0
    work = 0.0
    last = sim.jobs.submit[0]
    for job in range(len(sim.jobs.submit)):
        if can_ever_run(sim, job):
            scored += 1 if np.isnan(sim.start[job]) else 0
            work += sim.jobs.run[job] * sim.jobs.gpus[job]
            last = sim.jobs.submit[job]
    batch.mark[i, :] = 0
    batch.tally[i, :] = 0.0
    batch.mark[i, SCORED] = max(scored, 1)
    batch.tally[i, SCALE] = 1.0
    batch.tally[i, WORK] = work
    batch.tally[i, FIRST] = sim.jobs.submit[0]
    batch.tally[i, LAST_END] = last
    for k in range(sim.counts[RUNNING]):
        batch.tally[i, LAST_END] = max(batch.tally[i, LAST_END], sim.end[sim.active[k]])


@kernel
def baseline_total(batch, i, discipline, rule, score):
    """Mean cost of row i, finished by the baseline order (skip under blocking); spends the row: ``begin`` it again.

    Leaves in ``base[i]`` when the baseline starts every scored job.
    """
    sim = view(batch, i)
    n = len(sim.jobs.submit)
    for job in range(n):
        sim.key[job] = 0.0 if np.isnan(sim.start[job]) else 1.0
    while True:
        if discipline == EASY:
            start_easy(sim, rule)
        else:
            start_what_fits(sim, rule)
        if not advance(sim):
            break
    total = 0.0
    for job in range(n):
        batch.base[i, job] = sim.start[job] if sim.key[job] == 0.0 else np.nan
        if not np.isnan(batch.base[i, job]):
            total += job_cost(score, sim.start[job] - sim.jobs.submit[job], sim.jobs.run[job])
    return total / batch.mark[i, SCORED]


@inner
def baseline_so_far(batch, i, score):
    """What ``score_total`` would say of the baseline order at row i's clock; of its whole schedule once row i is over."""
    now = np.inf if batch.mark[i, OVER] == 1 else batch.clock[i, 0]
    total = 0.0
    for job in range(batch.submit.shape[1]):
        submit = batch.submit[i, job]
        if submit > now:
            break
        begun = batch.base[i, job]
        if not np.isnan(begun):
            total += job_cost(score, min(now, begun) - submit, batch.run[i, job])
    return -total / batch.mark[i, SCORED]


@inner
def score_total(batch, i, score):
    """Score of row i so far, larger is better: minus the mean cost of scored jobs, or the utilisation in reach."""
    sim = view(batch, i)
    if score == UTILIZATION:
        end = batch.tally[i, LAST_END]
        gpus = 0
        for p in range(len(sim.cluster.pool_cap)):
            gpus += sim.cluster.pool_cap[p] * (sim.cluster.pool_hi[p] - sim.cluster.pool_lo[p])
        return batch.tally[i, WORK] / (max(end - batch.tally[i, FIRST], 1.0) * gpus)
    total = batch.tally[i, DONE]
    for k in range(sim.counts[QUEUED]):
        job = sim.queue[k]
        # The part of the cost that waiting has already made certain.
        total += job_cost(score, sim.clock[0] - sim.jobs.submit[job], sim.jobs.run[job])
    return -total / batch.mark[i, SCORED]


@inner
def settle_start(batch, i, job, score):
    """Book the final cost of a job that has just started."""
    sim = view(batch, i)
    batch.tally[i, DONE] += job_cost(score, sim.start[job] - sim.jobs.submit[job], sim.jobs.run[job])
    batch.tally[i, LAST_END] = max(batch.tally[i, LAST_END], sim.end[job])
    batch.fresh[i, batch.mark[i, FRESH]] = job
    batch.mark[i, FRESH] += 1


@inner
def apply(batch, i, action, discipline, rule, score, visible):
    """Do ``action`` in row i. Sets mark CLOSED when nothing more is to be decided at this instant."""
    sim = view(batch, i)
    batch.mark[i, DECISIONS] += 1
    batch.mark[i, CLOSED] = 0
    if action == visible:
        batch.mark[i, CLOSED] = 1
        return
    position = batch.slot[i, action]
    job = sim.queue[position]
    if discipline == BLOCKING:
        if start_when_it_fits(sim, job, rule):
            settle_start(batch, i, job, score)
        return
    m = placement(batch, i, job, position, discipline, rule)
    start_job(sim, job, m)
    remove_at(sim, position)
    settle_start(batch, i, job, score)


@kernel
def placement(batch, i, job, position, discipline, rule):
    """Place a legal job around the reservation: it stays where it is while jobs behind it start.

    A start ahead of the reserved job ends the reservation; the next decision makes a new one.
    """
    sim = view(batch, i)
    if discipline == EASY and position > batch.mark[i, HEAD]:
        if sim.clock[0] + sim.jobs.known[job] > batch.tally[i, SHADOW]:
            narrow(batch, i)
            m = find_job(sim, sim.shadow, job, rule)
            for k in range(m):
                batch.spare_free[i, sim.work.node[k]] -= sim.work.gpus[k]
            return m
    else:
        batch.mark[i, RESERVED] = 0
    return find_job(sim, sim.space, job, rule)


@kernel
def narrow(batch, i):
    """Bring into ``shadow`` what is free now and spare at the shadow time."""
    sim = view(batch, i)
    for node in range(len(sim.shadow.free)):
        sim.shadow.free[node] = min(sim.space.free[node], batch.spare_free[i, node])
    recount(sim.cluster, sim.shadow)


@inner
def keep_reservation(batch, i, head, rule):
    """Reserve for the queue's position ``head`` unless it holds a reservation of this instant already."""
    sim = view(batch, i)
    job = sim.queue[head]
    if batch.mark[i, RESERVED] != job + 1:
        batch.tally[i, SHADOW] = reserve(sim, job, rule)
        batch.mark[i, RESERVED] = job + 1
        for node in range(len(sim.spare.free)):
            batch.spare_free[i, node] = sim.spare.free[node]
    narrow(batch, i)
    return batch.tally[i, SHADOW]


@inner
def reserved_position(sim):
    """Position of the first queued job that does not fit now; the queue's length if all fit."""
    n = sim.counts[QUEUED]
    for k in range(n):
        if not job_fits(sim, sim.queue[k]):
            return k
    return n


@inner
def mark_legal(batch, i, discipline, rule, visible, mask):
    """Choose the visible jobs of row i and fill ``mask[i]`` (V + 1,).

    Returns the number of visible jobs that may be picked and the shadow time; leaves
    ``slot[i]`` (queue positions of the visible jobs) and the marks HEAD and SHOWN.
    """
    sim = view(batch, i)
    queued = sim.counts[QUEUED]
    mask[i, visible] = 1 if next_event(sim) < np.inf else 0
    head = queued
    shadow = np.inf
    if discipline == EASY:
        head = reserved_position(sim)
        if head < queued:
            shadow = keep_reservation(batch, i, head, rule)
    batch.mark[i, HEAD] = head
    legal, others = 0, 0
    for k in range(queued):
        if legal == visible:
            break
        if is_legal(sim, k, head, shadow, discipline):
            batch.slot[i, legal] = k
            legal += 1
        elif others < visible:
            batch.passed[i, others] = k
            others += 1
    shown = min(legal + others, visible)
    for a in range(legal, shown):
        batch.slot[i, a] = batch.passed[i, a - legal]
    for a in range(visible):
        mask[i, a] = 1 if a < legal else 0
    batch.mark[i, SHOWN] = shown
    return legal, shadow


@inner
def is_legal(sim, position, head, shadow, discipline):
    """Whether the job at this position of the queue may be picked now."""
    if discipline == BLOCKING:
        return True
    job = sim.queue[position]
    c = sim.jobs.cls[job]
    short = position <= head or sim.clock[0] + sim.jobs.known[job] <= shadow
    space = sim.space if short else sim.shadow
    return fits(sim.cluster, space, sim.jobs.gpus[job], sim.pools.pool, sim.pools.ptr[c], sim.pools.ptr[c + 1])


@inner
def to_decision(batch, i, discipline, rule, visible, mask, wait):
    """Advance row i to the next decision (at least one event if ``wait``); returns the shadow time. Sets mark OVER."""
    sim = view(batch, i)
    n = len(sim.jobs.submit)
    while True:
        if wait:
            batch.mark[i, FRESH] = 0
            batch.mark[i, RESERVED] = 0
            if discipline == BLOCKING:
                if sim.counts[QUEUED] == 0 or next_event(sim) < np.inf:
                    step_single_event(sim)
            else:
                advance(sim)
        if sim.counts[QUEUED] == 0 and sim.counts[ARRIVED] == n:
            batch.mark[i, OVER] = 1
            batch.mark[i, SHOWN] = 0
            for a in range(visible):
                mask[i, a] = 0
            mask[i, visible] = 1
            return np.inf
        legal, shadow = mark_legal(batch, i, discipline, rule, visible, mask)
        if legal > 0:
            return shadow
        wait = True


@kernel
def reset_row(
    batch, i, table, first_job, warmup, discipline, rule, score, relative, floor, visible, mask, jobs, cluster
):
    """Begin an episode in row i and observe it.

    ``relative``: rewards are the gain on the baseline order in the same time, in units of
    its cost plus floor. What arrivals cost whoever schedules cancels out: most of the
    variance of a return (input-dependent baselines: Mao et al., ICLR 2019).
    """
    scale = 1.0
    if relative:
        begin(batch, i, table, first_job, warmup, discipline, rule)
        scale = 1.0 / (baseline_total(batch, i, discipline, rule, score) + floor)
    begin(batch, i, table, first_job, warmup, discipline, rule)
    batch.tally[i, SCALE] = scale
    batch.mark[i, PAIRED] = 1 if relative and score != UTILIZATION else 0
    shadow = to_decision(batch, i, discipline, rule, visible, mask, batch.counts[i, QUEUED] == 0)
    observe(batch, i, shadow, discipline, visible, mask, jobs, cluster)


@inner
def close_row(batch, i, discipline, rule, score, visible, mask, jobs, cluster):
    """After an action: go to the next decision, observe it; the reward of the step."""
    shadow = to_decision(batch, i, discipline, rule, visible, mask, batch.mark[i, CLOSED] == 1)
    observe(batch, i, shadow, discipline, visible, mask, jobs, cluster)
    total = score_total(batch, i, score)
    if batch.mark[i, PAIRED] == 1:
        total -= baseline_so_far(batch, i, score)
    reward = (total - batch.tally[i, TOTAL]) * batch.tally[i, SCALE]
    batch.tally[i, TOTAL] = total
    return reward


@kernel
def apply_rows(batch, actions, active, discipline, rule, score, visible, mask):
    """Act in every active row; a row whose instant offers nothing more to pick is marked CLOSED."""
    for i in range(len(actions)):
        if active[i]:
            apply(batch, i, actions[i], discipline, rule, score, visible)
            if batch.mark[i, CLOSED] == 0 and discipline != BLOCKING:
                legal, _ = mark_legal(batch, i, discipline, rule, visible, mask)
                if legal == 0:
                    batch.mark[i, CLOSED] = 1


@kernel
def close_rows(batch, active, discipline, rule, score, visible, mask, jobs, cluster, rewards):
    """Bring every active row to its next decision; rewards (n_envs,)."""
    for i in range(len(active)):
        if active[i]:
            rewards[i] = close_row(batch, i, discipline, rule, score, visible, mask, jobs, cluster)


@kernel
def step_rows(batch, actions, active, discipline, rule, score, visible, mask, jobs, cluster, rewards):
    """``apply`` and ``close_row`` for every active row: a whole step where placements are greedy."""
    for i in range(len(actions)):
        if active[i]:
            apply(batch, i, actions[i], discipline, rule, score, visible)
            rewards[i] = close_row(batch, i, discipline, rule, score, visible, mask, jobs, cluster)


@kernel
def replace_fresh(batch, i, k, node, gpus, m):
    """Move the k-th job started at this instant to ``node[:m]``, ``gpus[:m]``; all its peers must be lifted first."""
    sim = view(batch, i)
    job = batch.fresh[i, k]
    base = sim.jobs.part[job]
    for j in range(m):
        sim.alloc_node[base + j] = node[j]
        sim.alloc_gpus[base + j] = gpus[j]
    sim.alloc_len[job] = m
    book(sim.cluster, sim.space, node, gpus, 0, m, -1)


@kernel
def lift_fresh(batch, i, k):
    """Give back the GPUs of the k-th job started at this instant, for ``replace_fresh``."""
    sim = view(batch, i)
    job = batch.fresh[i, k]
    book(sim.cluster, sim.space, sim.alloc_node, sim.alloc_gpus, sim.jobs.part[job], sim.alloc_len[job], 1)


@kernel
def first_misfit(batch, i):
    """The first queued job that does not fit now, by its row in the episode; -1 if all fit."""
    sim = view(batch, i)
    head = reserved_position(sim)
    return sim.queue[head] if head < sim.counts[QUEUED] else -1


@kernel
def expected_start(batch, i, job, rule):
    """When a queued job could start, by the expected ends of what runs: now if it fits."""
    sim = view(batch, i)
    return sim.clock[0] if job_fits(sim, job) else reserve(sim, job, rule)
