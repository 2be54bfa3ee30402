"""Backfilling: which jobs may start when one before them in the order does not fit.

blocking: none (RLTune's semantics, exactly: a job once picked stays the head until it has started).
strict: none, but the head is chosen anew at every instant, so that a later job of higher priority
goes first (the simulators of Helios, SC 2021, and Lucid, ASPLOS 2023). skip: every job that fits, in order.
easy: every job that does not delay the head's reservation (EASY backfilling, Lifka, JSSPP 1995), which counts nodes
and not only GPUs. conservative: `rltune.core.conservative`.

A pass reads the queue, in order, and what is free; it writes the queue without the jobs that start, ``waiting`` and
``misfit`` of classes, ``spare`` and ``shadow`` under easy, and by `start_job` all that a run begins with.
"""

from __future__ import annotations

import numpy as np

from rltune.compiled import inner, kernel
from rltune.core.events import drop_at, step_single_event
from rltune.core.heap import next_in_order
from rltune.core.queue import begin_pass, block_class, class_blocked, close_gap, position_of, remove_at
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
from rltune.core.state import BESIDE, NOW, PRESENT, QUEUED, RUNNING


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
    # The first ``at`` have started: the others move to the front.
    close_gap(sim, 0, at)


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
    i = 0
    # Before the head: jobs start as under any other rule.
    while i < sim.counts[QUEUED]:
        job = sim.queue[i]
        m = find(sim, sim.space, job)
        if m == 0:
            break
        start_job(sim, job, m)
        sim.waiting[sim.jobs.cls[job]] -= 1
        left -= 1
        i += 1
    kept, head, shadow_time, reserved = 0, -1, np.inf, False
    # The head: the first that does not fit, so that none of its class does; it moves to the front of the queue.
    if left > 0:
        head = sim.queue[i]
        block_class(sim, head, PRESENT)
        left -= sim.waiting[sim.jobs.cls[head]]
        sim.queue[0] = head
        sim.passed[:] = 0
        kept, i = 1, i + 1
    # Behind the head: ends with the last job of a class that still fits.
    while left > 0:
        job = sim.queue[i]
        i += 1
        if not class_blocked(sim, job, PRESENT):
            c = sim.jobs.cls[job]
            if not fits(sim, sim.space, job):
                block_class(sim, job, PRESENT)
                left -= sim.waiting[c] - sim.passed[c]
            else:
                if not reserved:
                    # Only now: where nothing else fits, no reservation is needed.
                    shadow_time = reserve(sim, head)
                    narrow(sim)
                    reserved = True
                left -= 1
                if backfill(sim, job, shadow_time):
                    sim.waiting[c] -= 1
                    continue
                # It fits, and is left waiting for the head's sake: not to be counted again when its class is blocked.
                sim.passed[c] += 1
        sim.queue[kept] = job
        kept += 1
    close_gap(sim, kept, i)


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


@kernel
def reserve(sim, head):
    """When ``head`` will fit by the expected ends; ``sim.spare`` is what it leaves free then.

    Returns the shadow time; infinity (nothing reserved) if the head cannot run even when all have ended.
    """
    # From what is free now, running jobs let theirs go in the order of their expected ends, until the head fits.
    copy_free(sim, sim.space, sim.spare)
    running, now = sim.counts[RUNNING], sim.clock[NOW]
    sim.frontier[0] = 0
    size = min(running, 1)
    while size > 0:
        at, size = next_in_order(sim.expected, running, sim.believed, sim.turn, sim.frontier, size)
        shadow_time = max(sim.believed[sim.expected[at]], now)
        book_held(sim, sim.spare, sim.expected[at], 1)
        # All that is expected to have ended by then, also what outlives its estimate.
        while size > 0 and max(sim.believed[sim.expected[sim.frontier[0]]], now) <= shadow_time:
            at, size = next_in_order(sim.expected, running, sim.believed, sim.turn, sim.frontier, size)
            book_held(sim, sim.spare, sim.expected[at], 1)
        m = find(sim, sim.spare, head)
        if m > 0:
            prefer_unreserved(sim, sim.spare, sim.space, head, m)
            take_found(sim, sim.spare, head, m)
            return shadow_time
    return np.inf
