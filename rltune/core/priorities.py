"""Keys of jobs, smallest first, ties by submission; and the accounts that they rest on.

Named orders of `rltune.policies.orders` serve by ``rank`` or by `rltune.policies.dynamic`. The others:

- srtf: least remaining run time as believed; srsf: times GPUs (Gu et al., Tiresias, NSDI 2019).
- las: two-dimensional least attained service, GPU-seconds (Tiresias); las_levels: the same in levels (``thresholds``).
- gittins: GPU-seconds a completion, by what past jobs of its size needed: `rltune.policies.attained`.
- priority: tiers, larger is more urgent.
- round_robin: a job that has run a quantum goes behind all others.
- lottery: every quantum a drawing with tickets in proportion to weight (Waldspurger and Weihl, OSDI 1994). A
  uniform u to the power 1/tickets, largest first, draws without replacement in that proportion (Efraimidis and
  Spirakis, 2006); -log(u) / tickets orders the same way.
- wfq: start-time fair queueing (Goyal, Vin, Cheng, SIGCOMM 1996) of jobs by weight: virtual time at arrival plus
  GPU-seconds served over weight.
- fair_share: usage of the job's user or virtual cluster, decayed by a half-life as in Slurm's multifactor plug-in.
"""

from __future__ import annotations

import numpy as np

from rltune.compiled import inner, verb
from rltune.core.rng import LOTTERY as DRAWING
from rltune.core.rng import exponential
from rltune.core.state import (
    BREADTH,
    DISPLACE,
    NOW,
    ON_GPUS,
    QUEUED,
    ROUND,
    RUNNING,
    TAGS,
    VIRTUAL,
    is_full,
    is_lean,
)
from rltune.policies.attained import gittins_key
from rltune.policies.dynamic import LEXP, SEXP, STATIC, UNICEF, WFP3, dynamic_key

SRTF, SRSF, LAS, PRIORITY, ROUND_ROBIN, LOTTERY, WFQ, FAIR_SHARE, GITTINS = range(10, 19)
GIVEN = 30
"""Keys are given from outside, by a policy of one's own, at every decision."""


# --- accounts of the full build ---------------------------------------------------------


@inner
def progress(sim, job):
    """Seconds of its run time that a job has done, those of the present run included."""
    detail = sim.detail
    if detail.status[job] != ON_GPUS:
        return detail.done[job]
    return detail.done[job] + max(0.0, sim.clock[NOW] - detail.ready[job]) * detail.rate[job]


@inner
def size_of(sim, job):
    """GPUs of a job in the way it holds or held last, in its first way until it has run; shares as fractions."""
    return sim.detail.size[sim.choices.way[sim.detail.way[job]]]


@inner
def attained(sim, job):
    """GPU-seconds a job has held."""
    detail = sim.detail
    if detail.status[job] != ON_GPUS:
        return detail.service[job]
    return detail.service[job] + (sim.clock[NOW] - detail.since[job]) * size_of(sim, job)


@inner
def usage(sim, flow):
    """Decayed GPU-seconds of a user or virtual cluster now: solves du/dt = using - decay u."""
    detail, half_life = sim.detail, sim.params.half_life
    passed = sim.clock[NOW] - detail.used_at[flow]
    if half_life == np.inf:
        return detail.used[flow] + detail.using[flow] * passed
    decay = np.log(2.0) / half_life
    # expm1: for a very long half-life 1 - exp(-x) would lose all its digits.
    return detail.used[flow] * np.exp(-decay * passed) - detail.using[flow] * np.expm1(-decay * passed) / decay


@inner
def charge(sim, job, sign):
    """A job begins (+1) or ends (-1) to hold GPUs on its flow's account."""
    flow = sim.detail.flow[job]
    sim.detail.used[flow] = usage(sim, flow)
    sim.detail.used_at[flow] = sim.clock[NOW]
    sim.detail.using[flow] += sign * size_of(sim, job)


# --- keys -------------------------------------------------------------------------------


@inner
def keys_move(sim):
    """Whether keys of jobs change while they wait, so that the queue has to be sorted anew at every decision.

    Not: remaining work, attained service, tiers, tags; they stand still until the job runs.
    """
    return sim.params.order in (WFP3, UNICEF, SEXP, LEXP, LOTTERY, FAIR_SHARE)


@verb
def key_of(sim, job):
    """A job's key now."""


@key_of.when(is_lean)
def _key_of_lean(sim, job):
    order = sim.params.order
    if order == STATIC:
        return float(sim.jobs.rank[job])
    if order == GIVEN:
        return sim.key[job]
    return dynamic_key(order, sim.clock[NOW] - sim.jobs.submit[job], sim.jobs.known[job], sim.jobs.gpus[job])


@key_of.when(is_full)
def _key_of_full(sim, job):
    order, detail = sim.params.order, sim.detail
    if order == STATIC:
        return float(sim.jobs.rank[job])
    if order == GIVEN:
        return sim.key[job]
    if order in (WFP3, UNICEF, SEXP, LEXP):
        waited = sim.clock[NOW] - sim.jobs.submit[job]
        return dynamic_key(order, waited, sim.jobs.known[job], sim.jobs.gpus[job])
    if order in (SRTF, SRSF):
        left = believed_left(sim, job)
        return left if order == SRTF else left * size_of(sim, job)
    if order == LAS:
        return level(sim, attained(sim, job) * breadth(sim, job))
    if order == GITTINS:
        return gittins_key(detail.attained, job, progress(sim, job), size_of(sim, job)) * breadth(sim, job)
    if order == PRIORITY:
        return -detail.priority[job]
    if order == ROUND_ROBIN:
        return detail.tag[job]
    if order == LOTTERY:
        return exponential(sim.params.seed, DRAWING, job, sim.counts[ROUND], 1.0 / detail.weight[job])
    if order == WFQ:
        return detail.tag[job] + attained(sim, job) / detail.weight[job]
    return usage(sim, detail.flow[job])


@inner
def breadth(sim, job):
    """By what a job's key grows beyond its GPUs: GPUs to the power ``breadth`` - 1."""
    power = sim.detail.knobs[BREADTH]
    return 1.0 if power == 1.0 else size_of(sim, job) ** (power - 1.0)


@inner
def believed_left(sim, job):
    """Seconds that a job is believed to need yet.

    All in all at least ``overrun`` times what it has run: else a job that outlives its estimate would be about to end,
    and hold its GPUs before all others, until it does.
    """
    ran = progress(sim, job)
    return max(0.0, max(sim.jobs.known[job], sim.params.overrun * ran) - ran)


@inner
def clearly_ahead(sim, job, victim):
    """Whether a waiting job is so far ahead of a running one that suspending that is worth while.

    Its key must be below the other's by the factor ``displace`` and by what resuming the other will cost: GPU-seconds,
    as the keys are (srtf: seconds). The second keeps jobs with keys near 0 from taking turns. Factor 1: any gap will do.
    """
    if sim.detail.knobs[DISPLACE] == 1.0:
        return sim.key[victim] > sim.key[job]
    return sim.key[victim] > sim.detail.knobs[DISPLACE] * sim.key[job] + resumption(sim, victim)


@inner
def resumption(sim, victim):
    """What resuming a running job will cost, in the unit of keys."""
    cost = sim.params.suspend + sim.params.resume
    return cost if sim.params.order == SRTF else cost * size_of(sim, victim) * breadth(sim, victim)


@inner
def standing(sim, job):
    """Where a running job stands among waiting ones: behind just those, by their keys, that are clearly ahead of it."""
    if sim.detail.knobs[DISPLACE] == 1.0:
        return sim.key[job]
    return (sim.key[job] - resumption(sim, job)) / sim.detail.knobs[DISPLACE]


@inner
def has_waited_enough(sim, job):
    """Whether a waiting job may suspend others: it waits for free GPUs first as long as a resumption would cost.

    To wait until that costs as much as what it would save is never more than twice the best (Karlin et al., 1988).
    """
    return sim.clock[NOW] >= sim.detail.since[job] + sim.params.patience


@inner
def level(sim, service):
    """Number of thresholds passed; the service itself where there are none."""
    thresholds = sim.detail.thresholds
    if len(thresholds) == 0:
        return service
    passed = 0
    while passed < len(thresholds) and service >= thresholds[passed]:
        passed += 1
    return float(passed)


@verb
def precedes(sim, a, b):
    """Whether job a goes before job b, by their keys as last worked out."""


@precedes.when(is_lean)
def _precedes_lean(sim, a, b):
    if sim.params.order == STATIC:
        return sim.jobs.rank[a] < sim.jobs.rank[b]
    return sim.key[a] < sim.key[b] or (sim.key[a] == sim.key[b] and a < b)


@precedes.when(is_full)
def _precedes_full(sim, a, b):
    return sim.key[a] < sim.key[b] or (sim.key[a] == sim.key[b] and a < b)


@inner
def tag_arrival(sim, job):
    """A new job's tag: behind all others in a round, or the virtual time of the least served."""
    detail, order = sim.detail, sim.params.order
    if order == ROUND_ROBIN:
        sim.counts[TAGS] += 1
        detail.tag[job] = sim.counts[TAGS]
    elif order == WFQ:
        # The queue is in order, so its first job is the least served of those that wait.
        least = sim.key[sim.queue[0]] if sim.counts[QUEUED] > 0 else np.inf
        for k in range(sim.counts[RUNNING]):
            least = min(least, key_of(sim, sim.active[k]))
        if least < np.inf:
            sim.clock[VIRTUAL] = max(sim.clock[VIRTUAL], least)
        detail.tag[job] = sim.clock[VIRTUAL]
