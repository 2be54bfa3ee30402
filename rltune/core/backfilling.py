"""Backfilling: which jobs may start when one before them in the order does not fit.

blocking: none (RLTune's semantics, exactly: a job once picked stays the head until it has started).
strict: none, but the head is chosen anew at every instant, so that a later job of higher priority
goes first (the simulators of Helios, SC 2021, and Lucid, ASPLOS 2023). skip: every job that fits, in order.
easy: every job that does not delay the head's reservation (EASY backfilling, Lifka, JSSPP 1995), which counts nodes
and not only GPUs. conservative: `rltune.core.conservative`.

A pass reads the queue, in order, and what is free; it writes the queue without the jobs that start, ``waiting`` and
``misfit``, ``fitted`` of classes, ``spare`` and ``shadow`` under easy, and by `start_job` all that a run begins with.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rltune.compiled import class_of, inner, kernel, verb
from rltune.core.events import drop_at, step_single_event
from rltune.core.heap import next_in_order
from rltune.core.queue import begin_pass, block_class, class_blocked, close_gap, position_of, remove_at
from rltune.core.resources.nodes import book, charge_quota
from rltune.core.resources.room import Held
from rltune.core.resources.verbs import (
    book_held,
    copy_free,
    find,
    fits,
    free_units,
    narrow,
    narrow_at,
    prefer_unreserved,
    take_found,
    wants_units,
)
from rltune.core.runs import find_ending_by, start_job
from rltune.core.state import BESIDE, NOW, PRESENT, QUEUED, RUNNING, STARTED, Floats, Ints


@inner
def start_when_it_fits(sim, job):
    """Advance event by event until ``job`` of the queue fits, and start it; False if it never can (blocking)."""
    m = find(sim, sim.space, job)
    while m == 0:
        # Nothing runs that could make room: no later event will help.
        if sim.counts[RUNNING] == 0 or not step_single_event(sim):
            drop_at(sim, position_of(sim, job))
            return False
        m = find(sim, sim.space, job)
    start_job(sim, job, m)
    remove_at(sim, position_of(sim, job))
    return True


@inner
def start_in_order(sim):
    """Start jobs in order up to the first that does not fit (strict)."""
    # Those that started have left gaps: the others move to the front.
    close_gap(sim, 0, start_up_to_misfit(sim))


@inner
def start_up_to_misfit(sim):
    """Start jobs in order up to the first that does not fit: how many. They still stand in the queue."""
    n = sim.counts[QUEUED]
    at = 0
    while at < n:
        job = sim.queue[at]
        m = find(sim, sim.space, job)
        if m == 0:
            break
        start_job(sim, job, m)
        sim.waiting[sim.jobs.cls[job]] -= 1
        at += 1
    return at


@inner
def start_what_fits(sim):
    """One pass over the queue in order, starting every job that fits (skip)."""
    left = begin_pass(sim)
    free = free_units(sim)
    kept, i = 0, 0
    # Ends with the last job of a class that still fits, not with the queue.
    while left > 0 and free > 0:
        job = sim.queue[i]
        i += 1
        if not class_blocked(sim, job, PRESENT):
            c = sim.jobs.cls[job]
            m = 0
            # Asking whether is cheaper than finding where, and most do not fit.
            if wants_units(sim, job) <= free and fits(sim, sim.space, job):
                m = find(sim, sim.space, job)
            if m > 0:
                start_job(sim, job, m)
                free -= wants_units(sim, job)
                sim.waiting[c] -= 1
                left -= 1
                continue
            # Free resources only shrink during a pass: no other job of its class need be tried.
            block_class(sim, job, PRESENT)
            left -= sim.waiting[c]
        # It stays, in its place behind those that stay before it.
        sim.queue[kept] = job
        kept += 1
    close_gap(sim, kept, i)


# --- EASY -------------------------------------------------------------------------------


@inner
def start_easy(sim):
    """Start in order until one job does not fit; reserve for it; backfill the rest around the reservation."""
    left = begin_pass(sim)
    # Before the head: jobs start as under any other rule.
    at = start_up_to_misfit(sim)
    left -= at
    if left == 0:
        close_gap(sim, 0, at)
        return
    # The head: the first that does not fit, so that none of its class does; it moves to the front of the queue.
    head = sim.queue[at]
    block_class(sim, head, PRESENT)
    left -= sim.waiting[sim.jobs.cls[head]]
    sim.queue[0] = head
    pass_around(sim, head, np.nan, Stretch(1, at + 1, left))


@kernel
def start_around(sim, head, shadow_time):
    """Backfill the queue around what ``sim.spare`` leaves at ``shadow_time``; ``head`` (-1: none) is passed over."""
    left = begin_pass(sim)
    narrow(sim)
    pass_around(sim, head, shadow_time, Stretch(0, 0, left))


class Stretch(NamedTuple):
    """What a pass has still to do: the queue from position ``rest`` on, of which ``left`` jobs may fit.

    Those that wait on move to position ``kept`` and behind it.
    """

    kept: int
    rest: int
    left: int


@inner
def pass_around(sim, head, shadow_time, stretch):
    """Start what fits now and does not delay ``head``; ``shadow_time``: NaN where it is yet to be reserved for."""
    kept, i, left = stretch.kept, stretch.rest, stretch.left
    sim.passed[:], sim.fitted[:] = 0, -1
    # Ends with the last job of a class that still fits.
    while left > 0:
        job = sim.queue[i]
        i += 1
        if not class_blocked(sim, job, PRESENT):
            c = sim.jobs.cls[job]
            if job != head and not still_fits(sim, job):
                block_class(sim, job, PRESENT)
                left -= sim.waiting[c] - sim.passed[c]
            else:
                if np.isnan(shadow_time):
                    # Only now: where nothing else fits, no reservation is needed.
                    shadow_time = reserve(sim, sim.space, NONE_DRAFTED, head)
                    narrow(sim)
                left -= 1
                if job != head and backfill(sim, job, shadow_time):
                    sim.waiting[c] -= 1
                    continue
                # It fits, and is left waiting for the head's sake: not to be counted again when its class is blocked.
                sim.passed[c] += 1
        sim.queue[kept] = job
        kept += 1
    close_gap(sim, kept, i)


@inner
def still_fits(sim, job):
    """Whether a job fits now: asked once a class between two starts of a pass, not once a waiting job."""
    c = sim.jobs.cls[job]
    if sim.fitted[c] != sim.counts[STARTED] and fits(sim, sim.space, job):
        sim.fitted[c] = sim.counts[STARTED]
    return sim.fitted[c] == sim.counts[STARTED]


@inner
def backfill(sim, job, shadow_time):
    """Start a job that fits now where it does not delay the reservation; False if there is no such place.

    A job expected to end by the shadow time may use any free GPU, a longer one only what is free now and spare then,
    of which it takes its part.
    """
    m = find_ending_by(sim, job, shadow_time)
    if m > 0:
        # It will be gone: any places do, those that the head does not need first.
        prefer_unreserved(sim, sim.space, sim.spare, job, m)
    else:
        if class_blocked(sim, job, BESIDE):
            return False
        # It will still run then: only what is free now and spare beside the head.
        m = find(sim, sim.shadow, job)
        if m == 0:
            block_class(sim, job, BESIDE)
            return False
        take_found(sim, sim.spare, job, m)
    start_job(sim, job, m)
    narrow_at(sim, job)
    return True


class NoneDrafted(NamedTuple):
    """No drafted jobs: a reservation by running jobs alone."""

    none: int


NONE_DRAFTED = NoneDrafted(0)


class Drafted(NamedTuple):
    """Jobs that a plan in the making lets start now, counted by a reservation as if they ran (full build).

    ``n`` jobs: ``job[k]`` by its choice ``chosen[k]`` on ``node, grant[first[k]:first[k] + length[k]]`` until
    ``end[k]`` seconds; ``freed[k]``: whether the reservation has counted that end.
    """

    n: int
    job: Ints
    chosen: Ints
    first: Ints
    length: Ints
    node: Ints
    grant: Ints
    end: Floats
    freed: Ints


@kernel
def reserve(sim, free, drafted, head):
    """When ``head`` will fit by the expected ends; ``sim.spare`` is what it leaves free then.

    Of running jobs and ``drafted`` ones (`NONE_DRAFTED`, `Drafted`), which have taken their places in ``free``; in ``sim.spare``
    drafted jobs hold nothing. Returns the shadow time; infinity if the head does not fit before a job of unknown end
    is over, or never (nothing is reserved then).
    """
    # From what is free now, jobs let theirs go in the order of their expected ends, until the head fits.
    copy_free(sim, free, sim.spare)
    running, now = sim.counts[RUNNING], sim.clock[NOW]
    sim.frontier[0] = 0
    size = min(running, 1)
    while True:
        shadow_time = next_drafted_end(sim, drafted)
        if size > 0:
            shadow_time = min(shadow_time, max(sim.believed[sim.expected[sim.frontier[0]]], now))
        # All that is expected to have ended by then, also what outlives its estimate.
        while size > 0 and max(sim.believed[sim.expected[sim.frontier[0]]], now) <= shadow_time:
            at, size = next_in_order(sim.expected, running, sim.believed, sim.turn, sim.frontier, size)
            book_held(sim, sim.spare, sim.expected[at], 1)
        free_drafted(sim, drafted, shadow_time)
        # Whether is asked at every end, where only once.
        if fits(sim, sim.spare, head):
            m = find(sim, sim.spare, head)
            prefer_unreserved(sim, sim.spare, free, head, m)
            take_found(sim, sim.spare, head, m)
            free_drafted(sim, drafted, np.inf)
            return shadow_time
        if shadow_time == np.inf:
            return np.inf


@kernel
def reserve_for_misfit(sim):
    """Start in order up to the first job that does not fit, and reserve for it: the job, -1 if all fit, and its time."""
    at = start_up_to_misfit(sim)
    head = -1 if at == sim.counts[QUEUED] else sim.queue[at]
    close_gap(sim, 0, at)
    return head, np.inf if head < 0 else reserve(sim, sim.space, NONE_DRAFTED, head)


def is_none_drafted(sim, drafted, *_):
    """Whether there are no drafted jobs: the condition of verbs."""
    return class_of(drafted) is NoneDrafted


def is_drafted(sim, drafted, *_):
    """Whether there may be drafted jobs."""
    return class_of(drafted) is Drafted


@verb
def next_drafted_end(sim, drafted):
    """The first end of a drafted job that has not been counted; infinity: none."""


@next_drafted_end.when(is_none_drafted)
def _next_drafted_end_none(sim, drafted):
    return np.inf


@next_drafted_end.when(is_drafted)
def _next_drafted_end_some(sim, drafted):
    first = np.inf
    for k in range(drafted.n):
        if drafted.freed[k] == 0:
            first = min(first, drafted.end[k])
    return first


@verb
def free_drafted(sim, drafted, instant):
    """Give back in ``sim.spare`` what drafted jobs hold that end by ``instant``."""


@free_drafted.when(is_none_drafted)
def _free_drafted_none(sim, drafted, instant):
    pass


@free_drafted.when(is_drafted)
def _free_drafted_some(sim, drafted, instant):
    for k in range(drafted.n):
        if drafted.freed[k] == 0 and drafted.end[k] <= instant:
            drafted.freed[k] = 1
            way = sim.choices.way[drafted.chosen[k]]
            held = Held(drafted.node, drafted.grant, drafted.first[k], drafted.length[k])
            book(sim.cluster, sim.spare, sim.detail.demand, way, held, 1)
            charge_quota(sim.spare, sim.detail.group[drafted.job[k]], sim.detail.amount[way], 1)
