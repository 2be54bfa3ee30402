"""Time in rounds: who runs until when, what ends, who arrives. Compiled; whoever decides calls `step` with a placement.

At an instant each chosen job gets a micro-task of as many whole steps as fit into the round, or all that are left. The
next instant is the latest end among them, a little less than a round later. A job that ends earlier has its own
end as finish time; its GPUs idle until the instant. If nothing runs, the clock jumps to the next arrival (Gavel,
Narayanan et al., OSDI 2020, its simulator; Shockwave, Zheng et al., NSDI 2023, a fork of it).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rltune.compiled import compiled, inner
from rltune.nouns.errors import InputError
from rltune.rounds.jobs import Floats, Ints, RoundJobs

NOW, LAST = range(2)
ACTIVE, RAN, ARRIVED, ROUNDS, CHANGED, DROPPED = range(6)
PATIENCE = 5
"""Failed micro-tasks in a row after which a gang is dropped (Gavel's scheduler)."""


class Terms(NamedTuple):
    """The protocol. ``round_s``: of a round; ``move_s``: lost at the begin of a micro-task by a job that resumes or changes
    its type; ``restart_s``: lost as in Shockwave, by every job that did not run in the round before, its first start
    included, from micro-tasks longer than ``restart_from_s``, whose end stays; ``failing``: a gang's last micro-task of fewer
    steps than GPUs fails, as in Gavel after May 2020; ``whole``: steps are whole numbers, cut where time is lost;
    ``dropped_ends``: a gang that failed too often counts as finished (Shockwave), else it has no finish time.
    """

    round_s: float = 360.0
    move_s: float = 0.0
    restart_s: float = 0.0
    restart_from_s: float = 0.0
    failing: bool = False
    whole: bool = False
    dropped_ends: bool = False


class Clock(NamedTuple):
    """A running simulation of n jobs; only `step` changes it.

    (n,) ``arrival`` s, ``gpus``, ``steps``, ``limit`` s (booked run time after which a job counts as finished; inf: none);
    ``rate`` (n, types) steps/s; (n,) ``done`` steps, ``booked`` s of run time, ``finish`` s (NaN: not yet), ``on`` type
    of the last round or -1, ``began`` whether it ever ran, ``failed`` in a row, ``end`` s and ``took`` s of its last micro-task.
    ``active``: first counts[ACTIVE] are the jobs present, by id; ``ran``: first counts[RAN] are those of the last round,
    latest end first, as they are booked. ``time``: (NOW, LAST) this instant and the one before, s; ``counts``: see above.
    """

    arrival: Floats
    gpus: Ints
    steps: Floats
    limit: Floats
    rate: Floats
    done: Floats
    booked: Floats
    finish: Floats
    on: Ints
    began: npt.NDArray[np.bool_]
    failed: Ints
    end: Floats
    took: Floats
    active: Ints
    ran: Ints
    time: Floats
    counts: Ints


def clock_of(jobs: RoundJobs, limit_s: Floats | None = None) -> Clock:
    """At time 0, with the jobs that arrive then."""
    n = len(jobs)
    if not n:
        raise InputError("no jobs to simulate in rounds")
    zeros, ints = (lambda: np.zeros(n)), (lambda: np.zeros(n, np.int64))
    clock = Clock(
        np.ascontiguousarray(jobs.arrival_s, dtype=np.float64),
        np.ascontiguousarray(jobs.gpus, dtype=np.int64),
        np.ascontiguousarray(jobs.steps, dtype=np.float64),
        np.full(n, np.inf) if limit_s is None else np.asarray(limit_s, np.float64),
        np.ascontiguousarray(jobs.rate, dtype=np.float64),
        zeros(), zeros(), np.full(n, np.nan), np.full(n, -1), np.zeros(n, np.bool_), ints(), zeros(), zeros(), ints(), ints(),
        np.zeros(2), np.zeros(6, np.int64),
    )  # fmt: skip
    arrive(clock)
    return clock


@compiled
def arrive(clock):
    """Take in the jobs that have arrived by now."""
    counts = clock.counts
    while counts[ARRIVED] < len(clock.arrival) and clock.arrival[counts[ARRIVED]] <= clock.time[NOW]:
        clock.active[counts[ACTIVE]] = counts[ARRIVED]
        counts[ACTIVE] += 1
        counts[ARRIVED] += 1
        counts[CHANGED] = 1


@inner
def start(clock, terms, job, kind):
    """Give a job its micro-task on a type: its end, and the steps it makes (negative: it fails)."""
    rate, left = clock.rate[job, kind], clock.steps[job] - clock.done[job]
    now = clock.time[NOW]
    lost = terms.move_s if clock.began[job] and clock.on[job] != kind else 0.0
    n = min(np.floor((terms.round_s - lost) * rate), left)
    clock.end[job] = now + lost + n / rate
    clock.took[job] = clock.end[job] - clock.time[LAST]
    length = clock.end[job] - now
    # The very first round of all is exempt from Shockwave's charge.
    if terms.restart_s > 0.0 and clock.on[job] < 0 and clock.counts[ROUNDS] > 0 and length > terms.restart_from_s:
        n = n * (clock.took[job] - terms.restart_s) / clock.took[job]
        n = np.floor(n) if terms.whole else n
        clock.took[job] -= terms.restart_s
    return -1.0 if terms.failing and n < clock.gpus[job] else n


@compiled
def step(clock, terms, where):
    """One round: jobs run where ``where`` (n,) says (type, or -1), the clock goes on, jobs end and arrive."""
    counts, m = clock.counts, 0
    latest = -1.0
    for a in range(counts[ACTIVE]):
        job = clock.active[a]
        kind = where[job]
        if kind >= 0:
            made = start(clock, terms, job, kind)
            if made < 0.0:
                clock.failed[job] += 1
                counts[CHANGED] = 1
            else:
                clock.failed[job] = 0
                clock.done[job] += made
            clock.booked[job] += clock.took[job]
            clock.began[job] = True
            latest = max(latest, clock.end[job])
            # Insertion keeps the latest end first, equal ends by id.
            at = m
            while at > 0 and clock.end[clock.ran[at - 1]] < clock.end[job]:
                clock.ran[at] = clock.ran[at - 1]
                at -= 1
            clock.ran[at] = job
            m += 1
        clock.on[job] = kind
    counts[RAN] = m
    if m > 0:
        clock.time[LAST] = latest
        clock.time[NOW] = latest
    elif counts[ARRIVED] < len(clock.arrival):
        clock.time[NOW] = clock.arrival[counts[ARRIVED]]
    else:
        clock.time[NOW] = np.inf
    counts[ROUNDS] += 1
    leave(clock, terms)
    arrive(clock)


@inner
def leave(clock, terms):
    """Jobs of the last round that are done leave, at their own micro-task's end."""
    counts, kept = clock.counts, 0
    for a in range(counts[ACTIVE]):
        job = clock.active[a]
        over = clock.done[job] >= clock.steps[job] or clock.booked[job] > clock.limit[job]
        if clock.on[job] >= 0 and (over or clock.failed[job] >= PATIENCE):
            if not over:
                counts[DROPPED] += 1
            clock.finish[job] = clock.end[job] if over or terms.dropped_ends else np.inf
            counts[CHANGED] = 1
        else:
            clock.active[kept] = job
            kept += 1
    counts[ACTIVE] = kept
