"""Who of the waiting jobs a joint decision is about, around which reservation, and what becomes of its plan (kernels).

Under ``easy`` the first job that would not fit if all before it were placed one by one holds a reservation: what would
still run by then has to fit beside it, in the model, in the plans it starts from, and behind it. A resumed job counts
with all its overheads there, wherever it goes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rltune.compiled import inner, kernel
from rltune.core.backfilling import Drafted, reserve, start_around, start_easy, start_in_order, start_what_fits
from rltune.core.choices import Choices
from rltune.core.conservative import anything_fits
from rltune.core.prices import accepts
from rltune.core.queue import block_class, class_blocked
from rltune.core.resources import nodes
from rltune.core.resources.nodes import Nodes, intersect, nodes_like
from rltune.core.resources.room import Held
from rltune.core.resources.verbs import copy_free, find, fits, prefer_unreserved, take_found, way_found
from rltune.core.runs import start_job
from rltune.core.state import EASY, NOW, PRESENT, QUEUED, STRICT, Floats, Ints, floats, ints
from rltune.nouns.cluster import Cluster
from rltune.simulator.candidates import Candidates, build_candidates, keep_waiting, load_place, write_place

book_nodes = nodes.book

# Slots of ``Draft.counts``: jobs to decide; how many of them stand before the reserved job; that job, -1 = none;
# whether any fitting job was left to the greedy rest.
JOBS, BEFORE, HELD, SKIPPED = range(4)


class Draft(NamedTuple):
    """One decision about waiting jobs in the making: ``each`` of them.

    ``end, freed``: of jobs before the reserved one, while its time is sought; ``beside, met``: work space; ``shadow`` (1,): when the
    reserved job is expected to start, infinity = no time.
    """

    each: Candidates
    end: Floats
    freed: Ints
    beside: Nodes
    met: Nodes
    shadow: Floats
    counts: Ints


def build_draft(cluster: Cluster, choices: Choices, loss: Floats, head: int, free: Nodes) -> Draft:
    """Work space for ``head`` jobs on free resources like ``free``."""
    return Draft(
        each=build_candidates(cluster, choices, loss, head), end=floats(head), freed=ints(head),
        beside=nodes_like(cluster, free), met=nodes_like(cluster, free), shadow=floats(1), counts=ints(4),
    )  # fmt: skip


# --- who is decided on ------------------------------------------------------------------


@kernel
def prepare(sim, draft):
    """Fill the draft with the jobs to decide on and their pools, and ``sim.spare`` under ``easy``."""
    draft.counts[BEFORE], draft.counts[HELD], draft.counts[SKIPPED], draft.shadow[0] = 0, -1, 0, np.inf
    n = 0
    if sim.params.backfill == EASY:
        n = place_first(sim, draft)
        draft.counts[BEFORE] = n
        if n < len(draft.each.job) and n < sim.counts[QUEUED]:
            draft.counts[HELD] = sim.queue[n]
            draft.freed[:n] = 0
            draft.shadow[0] = reserve(sim, sim.shadow, first_of(draft, n), draft.counts[HELD])
    if sim.params.backfill != EASY or draft.counts[HELD] >= 0:
        n = list_fitting(sim, draft, n)
    draft.counts[JOBS] = n
    list_choices(sim, draft)


@inner
def place_first(sim, draft):
    """Place the queue in order into ``sim.shadow`` up to the first job that does not fit: how many, at most a draft's."""
    copy_free(sim, sim.space, sim.shadow)
    draft.each.spots[0], n = 0, 0
    while n < len(draft.each.job) and n < sim.counts[QUEUED]:
        job = sim.queue[n]
        m = find(sim, sim.shadow, job)
        if m == 0:
            break
        draft.each.job[n] = job
        draft.end[n] = sim.clock[NOW] + longest_run(sim, job, sim.choices.guess[sim.place.way[0]])
        write_place(sim, draft.each, n, m)
        take_found(sim, sim.shadow, job, m)
        n += 1
    return n


@inner
def list_fitting(sim, draft, n):
    """Add fitting jobs in order to the ``n`` first ones: how many there are then."""
    held = draft.counts[HELD]
    for at in range(n if held < 0 else n + 1, sim.counts[QUEUED]):
        job = sim.queue[at]
        if n == len(draft.each.job):
            break
        fitting = not class_blocked(sim, job, PRESENT) and fits(sim, sim.space, job)
        if fitting and contests_quota(sim, draft, job):
            draft.counts[SKIPPED] = 1
        elif fitting:
            draft.each.job[n] = job
            n += 1
        else:
            block_class(sim, job, PRESENT)
            if sim.params.backfill == STRICT:
                break
    return n


@inner
def contests_quota(sim, draft, job):
    """Whether a job might still count towards the reserved job's quota when that is to start: the model does not know."""
    held, c = draft.counts[HELD], sim.jobs.cls[job]
    if held < 0 or sim.detail.group[held] < 0 or sim.detail.group[job] != sim.detail.group[held]:
        return False
    slowest = np.inf
    for q in range(sim.choices.ptr[c], sim.choices.ptr[c + 1]):
        slowest = min(slowest, sim.choices.guess[q])
    return ends_late(sim, draft, job, slowest)


@inner
def would_hold_quota(sim, draft, k, q):
    """Whether job k, placed before the reserved one, would by choice q hold more of its quota then than was counted on."""
    held, job = draft.counts[HELD], draft.each.job[k]
    if held < 0 or sim.detail.group[held] < 0 or sim.detail.group[job] != sim.detail.group[held]:
        return False
    amount, way = sim.detail.amount, sim.choices.way
    counted = 0 if draft.end[k] <= draft.shadow[0] else amount[way[draft.each.chosen[k]]]
    return amount[way[q]] > counted and ends_late(sim, draft, job, sim.choices.guess[q])


@inner
def list_choices(sim, draft):
    """What every job may be given, and whether it would run into the reservation there."""
    each, at = draft.each, 0
    for k in range(draft.counts[JOBS]):
        job = each.job[k]
        c = sim.jobs.cls[job]
        each.lo[k] = at
        for q in range(sim.choices.ptr[c], sim.choices.ptr[c + 1]):
            if k < draft.counts[BEFORE] and would_hold_quota(sim, draft, k, q):
                continue
            if not accepts(sim, job, q):
                continue
            each.choice[at] = q
            each.late[at] = 1 if ends_late(sim, draft, job, sim.choices.guess[q]) else 0
            at += 1
        each.hi[k] = at


# --- the reservation --------------------------------------------------------------------


@inner
def longest_run(sim, job, rate):
    """Seconds for which a waiting job would hold GPUs of that speed, as believed, with every overhead there may be."""
    left = max(0.0, sim.jobs.known[job] - sim.detail.done[job])
    again = 0.0 if sim.detail.runs[job] == 0 else sim.params.suspend + sim.params.resume + sim.params.migrate
    return left / rate + again + (sim.params.mig_longest if sim.space.room.layout.shape[1] > 0 else 0.0)


@inner
def ends_late(sim, draft, job, rate):
    """Whether a job started now would still run when the reserved one is to start."""
    return sim.clock[NOW] + longest_run(sim, job, rate) > draft.shadow[0]


@inner
def placed_late(sim, draft, job):
    """The same for the places in ``sim.place``."""
    return ends_late(sim, draft, job, sim.choices.guess[sim.place.way[0]])


@inner
def first_of(draft, n):
    """The draft's first ``n`` jobs, which hold their places in ``sim.shadow``, as a reservation counts them."""
    each = draft.each
    return Drafted(n, each.job, each.chosen, each.first, each.length, each.node, each.grant, draft.end, draft.freed)


# --- plans ------------------------------------------------------------------------------


@kernel
def plan_greedily(sim, draft, fixed):
    """Place the draft's jobs one after the other, around the reservation; the first ``fixed`` stay where they are."""
    reserved, stopped = draft.shadow[0] < np.inf, False
    copy_free(sim, sim.space, sim.shadow)
    if reserved:
        copy_free(sim, sim.spare, draft.beside)
    draft.each.spots[0] = 0
    for k in range(draft.counts[JOBS]):
        job = draft.each.job[k]
        m = 0
        if k < fixed:
            m = load_place(sim, draft.each, k)
        elif not stopped:
            m = find_around(sim, draft, job)
        write_place(sim, draft.each, k, m)
        stopped = stopped or (m == 0 and sim.params.backfill == STRICT)
        if m > 0:
            take_found(sim, sim.shadow, job, m)
            if reserved and placed_late(sim, draft, job):
                found = sim.place.found
                places = Held(found.node, found.grant, 0, m)
                book_nodes(sim.cluster, draft.beside, sim.detail.demand, way_found(sim), places, -1)


@inner
def find_around(sim, draft, job):
    """Places in ``sim.shadow``, for a job that ends late also in ``draft.beside``: how many."""
    m = find(sim, sim.shadow, job)
    if m == 0 or draft.shadow[0] == np.inf:
        return m
    if placed_late(sim, draft, job):
        intersect(sim.cluster, sim.shadow, draft.beside, draft.met)
        # Quotas beside the reservation are seen to where the jobs to decide are listed.
        for group in range(len(draft.met.left)):
            draft.met.left[group] = sim.shadow.left[group]
        return find(sim, draft.met, job)
    prefer_unreserved(sim, sim.shadow, draft.beside, job, m)
    return m


# --- what starts ------------------------------------------------------------------------


@inner
def start_waiting(sim, job, m):
    """Start a waiting job; the queue is tidied at the end of the pass."""
    sim.waiting[sim.jobs.cls[job]] -= 1
    start_job(sim, job, m)


@inner
def start_strict_or_skip(sim):
    """The greedy rest where nothing is reserved."""
    if sim.params.backfill == STRICT:
        start_in_order(sim)
    else:
        start_what_fits(sim)


@kernel
def start_decided(sim, draft):
    """Start the draft's plan, then the other jobs that fit; whether there is more to decide jointly at this instant."""
    reserved, left = draft.shadow[0] < np.inf, 0
    for k in range(draft.counts[JOBS]):
        job, m = draft.each.job[k], load_place(sim, draft.each, k)
        if m == 0:
            left += 1
            continue
        if reserved and placed_late(sim, draft, job):
            take_found(sim, sim.spare, job, m)
        start_waiting(sim, job, m)
    # Room has only shrunk: where all that fitted were decided on and start, no job is left that fits.
    all_seen = left == 0 and draft.counts[JOBS] < len(draft.each.job) and draft.counts[SKIPPED] == 0
    keep_waiting(sim)
    if draft.counts[HELD] >= 0:
        if not all_seen:
            start_around(sim, draft.counts[HELD], draft.shadow[0])
        return False
    if sim.params.backfill != EASY:
        if not all_seen:
            start_strict_or_skip(sim)
        return False
    if left > 0:
        start_easy(sim)
        return False
    return anything_fits(sim)
