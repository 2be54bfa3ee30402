"""Compiled keys of the detailed simulation, smallest first, ties by submission; and what they keep account of.

Named orders of `rltune.policies.orders` serve by ``rank`` or by `rltune.policies.dynamic`. The others:

- srtf: least remaining run time; srsf: times GPUs (Gu et al., Tiresias, NSDI 2019).
- las: two-dimensional least attained service, GPU-seconds (Tiresias), in levels (``thresholds``; none: continuous).
- priority: tiers, larger is more urgent.
- round_robin: who has run a quantum goes behind all others.
- lottery: every quantum a drawing with tickets in proportion to weight (Waldspurger and Weihl, OSDI 1994). A
  uniform u to the power 1/tickets, largest first, draws without replacement in that proportion (Efraimidis and
  Spirakis, 2006); -log(u) / tickets orders the same way.
- wfq: start-time fair queueing (Goyal, Vin, Cheng, SIGCOMM 1996) of jobs by weight: virtual time at arrival plus
  GPU-seconds served over weight.
- fair_share: usage of the job's user or virtual cluster, decayed by a half-life as in Slurm's multifactor plug-in.
"""

from __future__ import annotations

import numpy as np

from rltune.compiled import inner
from rltune.policies.dynamic import LEXP, SEXP, STATIC, UNICEF, WFP3, dynamic_key
from rltune.simulator.fleet.chance import LOTTERY as DRAWING
from rltune.simulator.fleet.chance import exponential
from rltune.simulator.fleet.state import NOW, ON_GPUS, QUEUED, ROUND, RUNNING, TAGS, VIRTUAL

SRTF, SRSF, LAS, PRIORITY, ROUND_ROBIN, LOTTERY, WFQ, FAIR_SHARE = range(10, 18)
MOVES_LITTLE = 16
"""Steps a job that an insertion sort may take before the queue is merged instead."""


@inner
def progress(fleet, job):
    """Seconds of its run time that a job has done, those of the present run included."""
    if fleet.status[job] != ON_GPUS:
        return fleet.done[job]
    return fleet.done[job] + max(0.0, fleet.clocks[NOW] - fleet.ready[job]) * fleet.rate[job]


@inner
def size_of(fleet, job):
    """GPUs of a job, shares as fractions."""
    return fleet.work.demand.gpus[job] * fleet.work.demand.milli[job] / 1000.0


@inner
def attained(fleet, job):
    """GPU-seconds a job has held."""
    if fleet.status[job] != ON_GPUS:
        return fleet.service[job]
    return fleet.service[job] + (fleet.clocks[NOW] - fleet.since[job]) * size_of(fleet, job)


@inner
def usage(fleet, knobs, flow):
    """Decayed GPU-seconds of a user or virtual cluster now: solves du/dt = using - decay u."""
    passed = fleet.clocks[NOW] - fleet.used_at[flow]
    if knobs.half_life == np.inf:
        return fleet.used[flow] + fleet.using[flow] * passed
    decay = np.log(2.0) / knobs.half_life
    # expm1: for a very long half-life 1 - exp(-x) would lose all its digits.
    return fleet.used[flow] * np.exp(-decay * passed) - fleet.using[flow] * np.expm1(-decay * passed) / decay


@inner
def charge(fleet, knobs, job, sign):
    """A job begins (+1) or ends (-1) to hold GPUs on its flow's account."""
    flow = fleet.work.flow[job]
    fleet.used[flow] = usage(fleet, knobs, flow)
    fleet.used_at[flow] = fleet.clocks[NOW]
    fleet.using[flow] += sign * size_of(fleet, job)


@inner
def key_of(fleet, knobs, job):
    """A job's key now."""
    order = knobs.order
    if order == STATIC:
        return float(fleet.work.rank[job])
    if order in (WFP3, UNICEF, SEXP, LEXP):
        waited = fleet.clocks[NOW] - fleet.work.submit[job]
        return dynamic_key(order, waited, fleet.work.estimate[job], fleet.work.demand.gpus[job])
    if order in (SRTF, SRSF):
        left = max(0.0, fleet.work.estimate[job] - progress(fleet, job))
        return left if order == SRTF else left * size_of(fleet, job)
    if order == LAS:
        return level(fleet, attained(fleet, job))
    if order == PRIORITY:
        return -fleet.work.priority[job]
    if order == ROUND_ROBIN:
        return fleet.tag[job]
    if order == LOTTERY:
        return exponential(knobs.seed, DRAWING, job, fleet.counts[ROUND], 1.0 / fleet.work.weight[job])
    if order == WFQ:
        return fleet.tag[job] + attained(fleet, job) / fleet.work.weight[job]
    return usage(fleet, knobs, fleet.work.flow[job])


@inner
def level(fleet, service):
    """Number of thresholds passed; the service itself where there are none."""
    if len(fleet.thresholds) == 0:
        return service
    passed = 0
    while passed < len(fleet.thresholds) and service >= fleet.thresholds[passed]:
        passed += 1
    return float(passed)


@inner
def tag_arrival(fleet, knobs, job):
    """A new job's tag: behind all others in a round, or the virtual time of the least served."""
    if knobs.order == ROUND_ROBIN:
        fleet.counts[TAGS] += 1
        fleet.tag[job] = fleet.counts[TAGS]
    elif knobs.order == WFQ:
        least = np.inf
        for k in range(fleet.counts[QUEUED]):
            least = min(least, key_of(fleet, knobs, fleet.queue[k]))
        for k in range(fleet.counts[RUNNING]):
            least = min(least, key_of(fleet, knobs, fleet.active[k]))
        if least < np.inf:
            fleet.clocks[VIRTUAL] = max(fleet.clocks[VIRTUAL], least)
        fleet.tag[job] = fleet.clocks[VIRTUAL]


@inner
def sort_by_key(fleet, jobs, n):
    """Bring ``jobs[:n]`` into the order of their keys, ties by submission."""
    budget = MOVES_LITTLE * n
    for k in range(1, n):
        job = jobs[k]
        at = k
        while at > 0 and goes_before(fleet, job, jobs[at - 1]):
            jobs[at] = jobs[at - 1]
            at -= 1
            budget -= 1
        jobs[at] = job
        if budget < 0:
            merge_sort(fleet, jobs, n)
            return


@inner
def goes_before(fleet, a, b):
    return fleet.key[a] < fleet.key[b] or (fleet.key[a] == fleet.key[b] and a < b)


@inner
def merge_sort(fleet, jobs, n):
    """The same for any order: bottom-up merging through ``spare_order``."""
    width = 1
    while width < n:
        for lo in range(0, n, 2 * width):
            mid, hi = min(lo + width, n), min(lo + 2 * width, n)
            i, j = lo, mid
            for k in range(lo, hi):
                if i < mid and (j >= hi or not goes_before(fleet, jobs[j], jobs[i])):
                    fleet.spare_order[k] = jobs[i]
                    i += 1
                else:
                    fleet.spare_order[k] = jobs[j]
                    j += 1
        for k in range(n):
            jobs[k] = fleet.spare_order[k]
        width *= 2
