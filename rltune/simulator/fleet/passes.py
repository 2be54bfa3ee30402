"""Compiled passes over the queue: who starts now, and who makes room.

strict, skip, easy as in `rltune.simulator.disciplines`;
conservative in `rltune.simulator.fleet.profile`. ``preempting`` is for orders that may suspend running jobs.
"""

from __future__ import annotations

import numpy as np

from rltune.allocators.sharing import copy_room, take
from rltune.compiled import inner
from rltune.simulator.fleet.events import start_run, stop_run
from rltune.simulator.fleet.keys import key_of, sort_by_key
from rltune.simulator.fleet.placing import (
    charge_quota,
    copy_left,
    expected_run,
    find_place,
    free_in,
    job_fits,
    occupy,
)
from rltune.simulator.fleet.state import NOW, OF_ROOM, OF_SPARE, OF_TRIAL, ON_GPUS, PASSES, QUEUED, RUNNING, WAITING
from rltune.simulator.runs import SUSPENDED

PRESENT, BESIDE = 0, 1
"""Rows of ``Fleet.misfit``."""


@inner
def order_queue(fleet, knobs):
    """Sort the queue by its keys of this instant."""
    n = fleet.counts[QUEUED]
    for k in range(n):
        fleet.key[fleet.queue[k]] = key_of(fleet, knobs, fleet.queue[k])
    sort_by_key(fleet, fleet.queue, n)


@inner
def misfits(fleet, job, row):
    """Whether the job's class has been found not to fit in this pass; nor will a later job of it.

    Room only shrinks; and where jobs are suspended for others, those behind have fewer to suspend.
    """
    return fleet.misfit[row, fleet.work.cls[job]] == fleet.counts[PASSES]


@inner
def set_misfit(fleet, job, row):
    fleet.misfit[row, fleet.work.cls[job]] = fleet.counts[PASSES]


@inner
def keep_waiting(fleet):
    """Close the gaps that started jobs have left in the queue."""
    kept = 0
    for k in range(fleet.counts[QUEUED]):
        job = fleet.queue[k]
        if fleet.status[job] == WAITING:
            fleet.queue[kept] = job
            kept += 1
    fleet.counts[QUEUED] = kept


@inner
def start_waiting(fleet, knobs, job, m):
    """Start a waiting job; the queue is tidied at the end of the pass."""
    fleet.waiting[fleet.work.cls[job]] -= 1
    start_run(fleet, knobs, job, m)


@inner
def start_in_order(fleet, knobs, stops):
    """Start every job that fits, in order; with ``stops`` only up to the first that does not."""
    fleet.counts[PASSES] += 1
    left = fleet.counts[QUEUED]
    for k in range(fleet.counts[QUEUED]):
        if left == 0:
            break
        job = fleet.queue[k]
        if misfits(fleet, job, PRESENT):
            continue
        m = find_place(fleet, knobs, fleet.room, fleet.left[OF_ROOM], job)
        if m > 0:
            start_waiting(fleet, knobs, job, m)
            left -= 1
            continue
        if stops:
            break
        set_misfit(fleet, job, PRESENT)
        left -= fleet.waiting[fleet.work.cls[job]]
    keep_waiting(fleet)


# --- EASY -------------------------------------------------------------------------------


@inner
def expected_end(fleet, job):
    """When a running job ends by what is believed of it; now, if it has outlived that."""
    left = fleet.work.estimate[job] - fleet.done[job]
    return max(fleet.clocks[NOW], fleet.ready[job] + left / fleet.rate[job])


@inner
def sort_by_expected_end(fleet):
    """``fleet.order[:running]``: running jobs, first expected end first."""
    n = fleet.counts[RUNNING]
    for k in range(n):
        job = fleet.active[k]
        fleet.order[k] = job
        fleet.key[job] = expected_end(fleet, job)
    sort_by_key(fleet, fleet.order, n)
    return n


@inner
def reserve(fleet, knobs, head):
    """When ``head`` will fit by the expected ends (infinity: never); ``fleet.spare`` is what it leaves free then."""
    copy_room(fleet.room, fleet.spare)
    copy_left(fleet.left[OF_ROOM], fleet.left[OF_SPARE])
    n = sort_by_expected_end(fleet)
    k = 0
    while k < n:
        shadow = fleet.key[fleet.order[k]]
        while k < n and fleet.key[fleet.order[k]] <= shadow:
            free_in(fleet, fleet.spare, fleet.left[OF_SPARE], fleet.order[k])
            k += 1
        m = find_place(fleet, knobs, fleet.spare, fleet.left[OF_SPARE], head)
        if m > 0:
            avoid_gpus(fleet, fleet.spare, fleet.room, head, m)
            occupy(fleet, fleet.spare, fleet.left[OF_SPARE], head, m)
            return shadow
    return np.inf


@inner
def avoid_gpus(fleet, room, other, job, m):
    """Let a job of whole GPUs take, on each node in ``fleet.place``, GPUs free in ``room`` but not in ``other`` first.

    Whole GPUs of a node are alike: the head should not wait for just the one that another could have now, nor a
    short job take one that is spare beside the head where it could have one that the head gets later.
    """
    if fleet.work.demand.milli[job] != 1000 or fleet.work.demand.profile[job] >= 0:
        return
    for i in range(m):
        node, left, grant = fleet.place.node[i], 0, 0
        for gpu in range(room.milli.shape[1]):
            left += fleet.place.grant[i] >> gpu & 1
        for shared in range(2):
            for gpu in range(room.milli.shape[1]):
                both = 1 if other.milli[node, gpu] == 1000 else 0
                if left > 0 and room.milli[node, gpu] == 1000 and both == shared:
                    grant |= 1 << gpu
                    left -= 1
        fleet.place.grant[i] = grant


@inner
def meet(a, b, target):
    """``target``: what is free in both rooms, whole nodes alike."""
    for i in range(len(target.whole)):
        target.cpus[i], target.memory[i] = min(a.cpus[i], b.cpus[i]), min(a.memory[i], b.memory[i])
        target.closed[i] = max(a.closed[i], b.closed[i])
        meet_gpus(a, b, target, i)


@inner
def meet_left(a, b, target):
    """``target``: what is left of each quota in both."""
    for group in range(len(target)):
        target[group] = min(a[group], b[group])


@inner
def meet_spare(fleet):
    """``fleet.trial``: what is free now and beside the reservation."""
    meet(fleet.room, fleet.spare, fleet.trial)
    meet_left(fleet.left[OF_ROOM], fleet.left[OF_SPARE], fleet.left[OF_TRIAL])


@inner
def meet_gpus(a, b, target, i):
    """GPUs of one node: the smaller share; slices taken in either; a GPU cut in one and whole in the other has neither."""
    whole, loose, largest = 0, 0, 0
    for k in range(target.milli.shape[1]):
        milli = min(a.milli[i, k], b.milli[i, k])
        slices = a.slices[i, k] | b.slices[i, k]
        if slices != 0 and (
            (a.slices[i, k] == 0 and a.milli[i, k] < 1000) or (b.slices[i, k] == 0 and b.milli[i, k] < 1000)
        ):
            slices = -1
        if slices != 0:
            milli = 0
        target.milli[i, k], target.slices[i, k] = milli, slices
        whole += 1 if milli == 1000 else 0
        loose += milli
        largest = max(largest, milli)
    target.whole[i], target.loose[i], target.largest[i] = whole, loose, largest
    for k in range(target.pods.shape[1]):
        target.pods[i, k] = a.pods[i, k]


@inner
def anybody_fits(fleet):
    """Whether any waiting job fits now."""
    for k in range(fleet.counts[QUEUED]):
        job = fleet.queue[k]
        if not misfits(fleet, job, PRESENT):
            if job_fits(fleet, fleet.room, fleet.left[OF_ROOM], job):
                return True
            set_misfit(fleet, job, PRESENT)
    return False


@inner
def first_fits(fleet):
    return job_fits(fleet, fleet.room, fleet.left[OF_ROOM], fleet.queue[0])


@inner
def start_easy(fleet, knobs):
    """Start in order until one job does not fit; reserve for it; backfill the rest around the reservation."""
    fleet.counts[PASSES] += 1
    n = fleet.counts[QUEUED]
    k = 0
    while k < n:
        m = find_place(fleet, knobs, fleet.room, fleet.left[OF_ROOM], fleet.queue[k])
        if m == 0:
            break
        start_waiting(fleet, knobs, fleet.queue[k], m)
        k += 1
    shadow, head, met = np.inf, -1, False
    if k < n:
        head = fleet.queue[k]
        set_misfit(fleet, head, PRESENT)
    for at in range(k + 1, n):
        job = fleet.queue[at]
        if misfits(fleet, job, PRESENT):
            continue
        m = find_place(fleet, knobs, fleet.room, fleet.left[OF_ROOM], job)
        if m == 0:
            set_misfit(fleet, job, PRESENT)
            continue
        if not met:
            # Only now: where nothing else fits, no reservation is needed.
            shadow = reserve(fleet, knobs, head)
            meet_spare(fleet)
            met = True
            m = find_place(fleet, knobs, fleet.room, fleet.left[OF_ROOM], job)
        if fleet.clocks[NOW] + expected_run(fleet, knobs, job, m) > shadow:
            if misfits(fleet, job, BESIDE):
                continue
            m = find_place(fleet, knobs, fleet.trial, fleet.left[OF_TRIAL], job)
            if m == 0:
                set_misfit(fleet, job, BESIDE)
                continue
            # On faster GPUs in between it might end in time, but it holds what it has found.
            occupy(fleet, fleet.spare, fleet.left[OF_SPARE], job, m)
        else:
            avoid_gpus(fleet, fleet.room, fleet.spare, job, m)
        start_waiting(fleet, knobs, job, m)
        meet_spare(fleet)
    keep_waiting(fleet)


# --- making room ------------------------------------------------------------------------


@inner
def preempting(fleet, knobs, may_suspend):
    """Go through all present jobs in order; one that does not fit may suspend running jobs of larger key.

    Of those, the last in order go first; whoever proves not to be needed stays. Jobs started at this very
    instant stay too. Wide jobs that fit nowhere do not hold up others: they can suspend later ones.
    """
    fleet.counts[PASSES] += 1
    n = gather(fleet, knobs)
    for k in range(n):
        job = fleet.order[k]
        if fleet.status[job] != WAITING or misfits(fleet, job, PRESENT):
            continue
        m = find_place(fleet, knobs, fleet.room, fleet.left[OF_ROOM], job)
        if m == 0 and may_suspend and make_room(fleet, knobs, k, n):
            m = find_place(fleet, knobs, fleet.room, fleet.left[OF_ROOM], job)
        if m > 0:
            start_waiting(fleet, knobs, job, m)
        else:
            set_misfit(fleet, job, PRESENT)
    keep_waiting(fleet)


@inner
def gather(fleet, knobs):
    """``fleet.order[:n]``: waiting and running jobs in order."""
    n = 0
    for k in range(fleet.counts[QUEUED]):
        fleet.order[n] = fleet.queue[k]
        n += 1
    for k in range(fleet.counts[RUNNING]):
        fleet.order[n] = fleet.active[k]
        n += 1
    for k in range(n):
        fleet.key[fleet.order[k]] = key_of(fleet, knobs, fleet.order[k])
    sort_by_key(fleet, fleet.order, n)
    return n


@inner
def make_room(fleet, knobs, k, n):
    """Suspend as few jobs behind position k as let job k start; False, and nothing happens, if all are too few."""
    job = fleet.order[k]
    copy_room(fleet.room, fleet.trial)
    copy_left(fleet.left[OF_ROOM], fleet.left[OF_TRIAL])
    at, enough = n, False
    while at > k + 1 and not enough:
        at -= 1
        victim = fleet.order[at]
        fleet.marked[victim] = 0
        if can_be_suspended(fleet, job, victim):
            fleet.marked[victim] = 1
            free_in(fleet, fleet.trial, fleet.left[OF_TRIAL], victim)
            enough = job_fits(fleet, fleet.trial, fleet.left[OF_TRIAL], job)
    if not enough:
        return False
    for back in range(at, n):
        victim = fleet.order[back]
        if fleet.marked[victim] == 1:
            base, m = fleet.work.part[victim], fleet.nodes[victim]
            take(fleet.cluster, fleet.trial, fleet.work.demand, victim, fleet.node, fleet.grant, base, m, -1)
            charge_quota(fleet, fleet.left[OF_TRIAL], victim, -1)
            if not job_fits(fleet, fleet.trial, fleet.left[OF_TRIAL], job):
                free_in(fleet, fleet.trial, fleet.left[OF_TRIAL], victim)
                stop_run(fleet, knobs, victim, SUSPENDED)
            fleet.marked[victim] = 0
    return True


@inner
def can_be_suspended(fleet, job, victim):
    if fleet.status[victim] != ON_GPUS or fleet.since[victim] >= fleet.clocks[NOW]:
        return False
    return fleet.key[victim] > fleet.key[job]
