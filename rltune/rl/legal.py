"""Which jobs may be picked at an instant, and what becomes of those that the agent passes over.

Visible are the first V legal jobs of the whole queue in the baseline order; room that is left shows the first jobs that
are not legal. So the first legal job of however long a queue can always be picked. Legal is, by backfilling:

* blocking: every job; one that does not fit is waited for (the reference protocol).
* skip: jobs that fit now, and, where the baseline may suspend, those for which running jobs that stand behind them in its
  order make room (`rltune.core.preemption`).
* easy: jobs that fit now and do not delay the reservation of the first job, in baseline order, that does not.

Where running jobs may be suspended, an instant is one pass of the baseline, with the agent choosing who is next in it: a job
before the one picked for which no room could be made, or a class of jobs, is not looked at again, though suspensions
may have left room that fits it. Once no job can start so, what has been left over goes to the jobs that fit.
"""

from __future__ import annotations

import numpy as np

from rltune.compiled import inner, verb
from rltune.core.backfilling import NONE_DRAFTED, reserve
from rltune.core.loop import something_comes
from rltune.core.preemption import can_make_room, make_room, may_suspend_now, sort_running
from rltune.core.priorities import has_waited_enough
from rltune.core.queue import sort_queue
from rltune.core.resources.verbs import copy_free, fits, narrow
from rltune.core.runs import fits_ending_by
from rltune.core.state import BLOCKING, DISPLACE, EASY, QUEUED
from rltune.rl.rows import (
    FRESH,
    HEAD,
    LEFTOVERS,
    LOOK,
    MADE,
    PASS,
    RESERVED,
    SHADOW,
    SHOWN,
    SORTED,
    is_full_row,
    is_lean_row,
)


@inner
def begin_instant(row):
    """Nothing has been decided at this instant yet."""
    mark = row.episode.mark
    mark[FRESH], mark[SORTED], mark[MADE], mark[LEFTOVERS] = 0, 0, 0, 0
    begin_pass(row)


@inner
def begin_pass(row):
    """Jobs passed over at this instant are looked at again, and the reservation is made anew."""
    row.episode.mark[RESERVED] = 0
    row.episode.mark[PASS] += 1


@inner
def mark_legal(row, visible, mask):
    """Choose the visible jobs and fill ``mask`` (V + 1,).

    Returns the number of visible jobs that may be picked and the shadow time; leaves
    ``slot`` (queue positions of the visible jobs) and the marks HEAD and SHOWN.
    """
    sim, episode = row.sim, row.episode
    sort_queue(sim)
    mask[visible] = 1 if something_comes(sim) else 0
    episode.mark[LOOK] += 1
    head, shadow_time = sim.counts[QUEUED], np.inf
    if sim.params.backfill == EASY:
        head = first_misfit(row)
        if head < sim.counts[QUEUED]:
            shadow_time = keep_reservation(row, head)
    episode.mark[HEAD] = head
    legal = choose_visible(row, visible, shadow_time)
    if legal == 0 and leaves_over(row):
        episode.mark[LEFTOVERS] = 1
        legal = choose_visible(row, visible, shadow_time)
    for a in range(visible):
        mask[a] = 1 if a < legal else 0
    return legal, shadow_time


@inner
def choose_visible(row, visible, shadow_time):
    """Fill ``slot``, legal jobs first, and the mark SHOWN; how many are legal."""
    sim, episode = row.sim, row.episode
    legal, others = 0, 0
    for k in range(sim.counts[QUEUED]):
        if legal == visible:
            break
        if is_legal(row, k, shadow_time):
            episode.slot[legal] = k
            legal += 1
        elif others < visible:
            episode.others[others] = k
            others += 1
    shown = min(legal + others, visible)
    for a in range(legal, shown):
        episode.slot[a] = episode.others[a - legal]
    episode.mark[SHOWN] = shown
    return legal


@inner
def is_legal(row, position, shadow_time):
    """Whether the job at this position of the queue may be picked now."""
    sim = row.sim
    job = sim.queue[position]
    if sim.params.backfill == BLOCKING:
        return True
    if sim.params.backfill != EASY:
        return can_start(row, job)
    if position <= row.episode.mark[HEAD]:
        return fits_here(row, job)
    return fits_here(row, job) and fits_ending_by(sim, job, shadow_time)


@inner
def fits_here(row, job):
    """Whether the job fits now, without suspending any; asked once a class and look."""
    sim, episode = row.sim, row.episode
    c, look = sim.jobs.cls[job], episode.mark[LOOK]
    if episode.fitting[c] == look:
        return True
    if episode.misfit[c] == look:
        return False
    found = fits(sim, sim.space, job)
    if found:
        episode.fitting[c] = look
    else:
        episode.misfit[c] = look
    return found


# --- reservations -------------------------------------------------------------------------


@inner
def first_misfit(row):
    """Position of the first queued job that does not fit now; the queue's length if all fit."""
    sim = row.sim
    n = sim.counts[QUEUED]
    for k in range(n):
        if not fits_here(row, sim.queue[k]):
            return k
    return n


@inner
def keep_reservation(row, head):
    """Reserve for the queue's position ``head`` unless it holds a reservation of this instant already; its time."""
    sim, episode = row.sim, row.episode
    job = sim.queue[head]
    if episode.mark[RESERVED] != job + 1:
        episode.tally[SHADOW] = reserve(sim, sim.space, NONE_DRAFTED, job)
        episode.mark[RESERVED] = job + 1
    narrow(sim)
    return episode.tally[SHADOW]


# --- where running jobs may be suspended --------------------------------------------------


@verb
def can_start(row, job):
    """Whether the job fits, or room may be made for it in this pass."""


@can_start.when(is_lean_row)
def _can_start_lean(row, job):
    return fits_here(row, job)


@can_start.when(is_full_row)
def _can_start_full(row, job):
    sim, episode = row.sim, row.episode
    if not displaces(row):
        return fits_here(row, job)
    c, look, this_pass = sim.jobs.cls[job], episode.mark[LOOK], episode.mark[PASS]
    if episode.barred[c] == this_pass or episode.passed[job] == this_pass:
        return False
    if fits_here(row, job):
        return True
    if episode.hopeless[c] == look or not has_waited_enough(sim, job):
        return False
    copy_free(sim, sim.space, sim.shadow)
    if can_make_room(sim, job, in_order(row)):
        return True
    # Later jobs of the class may suspend fewer.
    episode.hopeless[c] = look
    return False


@inner
def displaces(row):
    """Whether a job may be picked at this point of the instant for which others would be suspended (full build)."""
    return may_suspend_now(row.sim) and row.episode.mark[LEFTOVERS] == 0


@inner
def in_order(row):
    """Running jobs in ``detail.order``, sorted once an instant: how many (full build)."""
    mark = row.episode.mark
    if mark[SORTED] == 0:
        mark[SORTED] = 1 + sort_running(row.sim)
    return mark[SORTED] - 1


@verb
def leaves_over(row):
    """Whether suspensions of this pass may have left room for jobs before, which could not suspend any."""


@leaves_over.when(is_lean_row)
def _leaves_over_lean(row):
    return False


@leaves_over.when(is_full_row)
def _leaves_over_full(row):
    return displaces(row) and row.episode.mark[MADE] == 1 and row.sim.detail.knobs[DISPLACE] != 1.0


@verb
def make_way(row, action, position):
    """The ``action``-th visible job is picked: pass over those before it that cannot start, and make room for it."""


@make_way.when(is_lean_row)
def _make_way_lean(row, action, position):
    pass


@make_way.when(is_full_row)
def _make_way_full(row, action, position):
    sim = row.sim
    if not displaces(row):
        return
    pass_over(row, action, position)
    job = sim.queue[position]
    if not fits_here(row, job):
        make_room(sim, job, in_order(row))
        row.episode.mark[MADE] = 1


@inner
def pass_over(row, action, position):
    """Jobs before ``position`` that are not legal start no more in this pass; nor do their classes, but for impatience."""
    sim, episode, a = row.sim, row.episode, 0
    for k in range(position):
        if a < action and episode.slot[a] == k:
            a += 1
            continue
        job = sim.queue[k]
        episode.passed[job] = episode.mark[PASS]
        if has_waited_enough(sim, job):
            episode.barred[sim.jobs.cls[job]] = episode.mark[PASS]
