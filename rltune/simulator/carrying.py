"""From one state of a living cluster to the next: longer arrays, and what has become of each job carried over.

States differ in their rules, in the classes of jobs they know, and in how many rows they have; the cluster is the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rltune.core import live as kernels
from rltune.core.reference import Ref
from rltune.core.state import (
    DROPPED,
    EVENTS,
    FAULTS,
    LOGGED,
    ON_GPUS,
    PASSES,
    PER_JOB,
    RECONFIGURED,
    ROUND,
    STARTED,
    TAGS,
    WAITING,
    Ints,
    Sim,
    empty_log,
    longer,
)

NEVER = float("inf")
JOBS_FILL = {"submit": NEVER, "run": NEVER, "known": np.nan}
SIM_ROWS = ("queue", "merged", "active_at", "expected_at", "start", "end", "believed", "turn", "key", "alloc_len")
"""Parts of `Sim` with an entry a job."""
FILL = {
    "start": np.nan,
    "end": np.nan,
    "final": np.nan,
    "rate": 1.0,
    "weight": 1.0,
    "before": -1,
    "behind": -1,
    "group": -1,
}
"""What stands in a row without a job; 0 where nothing is named."""
LISTED = 64
"""Events of nodes that can be pushed before the state is made anew."""
KEPT_COUNTS = (DROPPED, EVENTS, STARTED, PASSES, ROUND, TAGS, RECONFIGURED)
OWN_JOBS = ("submit", "known", "run")
OWN_SIM = ("start", "end", "believed", "turn", "key", "alloc_len")
REMAKE = ("weight", "flow", "group", "groups", "way", "before", "behind", "order", "marked")
"""Parts of `Detail` with an entry a job that follow from the rules, not from what has happened."""


MARKET, LEARNED = ("dual", "price", "total", "clock"), ("tally", "scratch", "cost", "counts")
"""Parts of the market and of the Gittins index that are learned."""


def padded(sim: Sim, rows: int, flows: int, most_places: int) -> Sim:
    """The state with room for ``rows`` jobs in all, ``flows`` accounts of fair share, and ``most_places`` nodes a further job."""
    n, jobs, detail = len(sim.jobs.submit), sim.jobs, sim.detail
    places = int(jobs.part[n]) + max(1, most_places) * (rows - n)
    part = longer(jobs.part, rows + 1, jobs.part[n])
    arrays = {f: longer(getattr(jobs, f), rows, JOBS_FILL.get(f, 0)) for f in jobs._fields if f != "part"}
    per_job = {f: longer(getattr(detail, f), rows, FILL.get(f, 0)) for f in PER_JOB if f != "groups"}
    rows_of_sim: dict[str, Any] = {f: longer(getattr(sim, f), rows, FILL.get(f, 0)) for f in SIM_ROWS}
    attained = detail.attained
    if len(attained.size):
        attained = attained._replace(size=longer(attained.size, rows))
    listed = {
        "listed_at": np.full(LISTED, NEVER), "listed_node": np.zeros(LISTED, np.int64), "listed_kind": np.zeros(LISTED, np.int64)
    }  # fmt: skip
    return sim._replace(
        jobs=jobs._replace(part=part, **arrays),
        **rows_of_sim,
        active=longer(sim.active, rows), expected=longer(sim.expected, rows), frontier=longer(sim.frontier, rows + 1),
        alloc_node=longer(sim.alloc_node, places), alloc_grant=longer(sim.alloc_grant, places),
        detail=detail._replace(
            **per_job, **listed, attained=attained, log=empty_log(2 * rows + 64, 2 * places + 64),
            used=longer(detail.used, flows), using=longer(detail.using, flows), used_at=longer(detail.used_at, flows),
        ),
    )  # fmt: skip


def carry_jobs(old: Sim, new: Sim, was: Ints, now: Ints) -> None:
    """What has become of the jobs in rows ``was`` of the old state, which are rows ``now`` of the new one."""
    for name in OWN_JOBS:
        getattr(new.jobs, name)[now] = getattr(old.jobs, name)[was]
    for name in OWN_SIM:
        getattr(new, name)[now] = getattr(old, name)[was]
    for name in PER_JOB:
        if name not in REMAKE:
            getattr(new.detail, name)[..., now] = getattr(old.detail, name)[..., was]
    for a, b in zip(was[old.alloc_len[was] > 0].tolist(), now[old.alloc_len[was] > 0].tolist(), strict=True):
        m, here, there = int(old.alloc_len[a]), int(old.jobs.part[a]), int(new.jobs.part[b])
        new.alloc_node[there : there + m] = old.alloc_node[here : here + m]
        new.alloc_grant[there : there + m] = old.alloc_grant[here : here + m]
    carry_ways(old, new, was, now)
    carry_last_runs(old, new, was, now)


def carry_ways(old: Sim, new: Sim, was: Ints, now: Ints) -> None:
    """The way that a job holds, or held last, among those that it has now: same pool, same request."""
    has_run = old.detail.runs[was] > 0
    for a, b in zip(was[has_run].tolist(), now[has_run].tolist(), strict=True):
        at, c = int(old.detail.way[a]), int(new.jobs.cls[b])
        pool, ask = int(old.choices.pool[at]), asked(old, int(old.choices.way[at]))
        for q in range(int(new.choices.ptr[c]), int(new.choices.ptr[c + 1])):
            if int(new.choices.pool[q]) == pool and asked(new, int(new.choices.way[q])) == ask:
                new.detail.way[b] = q


def asked(sim: Sim, way: int) -> tuple[float, ...]:
    """What a row of the demand asks for."""
    return tuple(float(column[way]) for column in sim.detail.demand)


def carry_last_runs(old: Sim, new: Sim, was: Ints, now: Ints) -> None:
    """Of each job the last run that has ended: to begin there again costs no migration."""
    log, n, into = old.detail.log, int(old.counts[LOGGED]), new.detail.log
    of_job = {int(a): int(b) for a, b in zip(was, now, strict=True)}
    last = {int(job): k for k, job in enumerate(log.job[:n].tolist()) if job in of_job}
    at = 0
    for job, k in last.items():
        begin, m = int(into.ptr[at]), int(log.ptr[k + 1] - log.ptr[k])
        for name in ("start", "end", "useful", "outcome"):
            getattr(into, name)[at] = getattr(log, name)[k]
        into.job[at], into.way[at], into.ptr[at + 1] = (
            of_job[job],
            new.choices.way[new.detail.way[of_job[job]]],
            begin + m,
        )
        into.node[begin : begin + m] = log.node[log.ptr[k] : log.ptr[k + 1]]
        into.grant[begin : begin + m] = log.grant[log.ptr[k] : log.ptr[k + 1]]
        at += 1
    new.counts[LOGGED] = at


def carry_accounts(old: Sim, new: Sim, same_flows: bool) -> None:
    """The clock, counters, fair shares, prices and what was learned of run times; GPUs as they are cut."""
    new.clock[:] = old.clock
    new.counts[list(KEPT_COUNTS)] = old.counts[list(KEPT_COUNTS)]
    if same_flows:
        for name in ("used", "using", "used_at"):
            before = getattr(old.detail, name)
            getattr(new.detail, name)[: len(before)] = before[: len(getattr(new.detail, name))]
    if new.space.room.layout.shape == old.space.room.layout.shape:
        new.space.room.layout[:] = old.space.room.layout
        new.detail.changed[:] = old.detail.changed
    if len(new.detail.market.price) and len(old.detail.market.price):
        for name in MARKET:
            getattr(new.detail.market, name)[:] = getattr(old.detail.market, name)
    if new.detail.attained.tally.size and old.detail.attained.tally.size:
        for name in LEARNED:
            getattr(new.detail.attained, name)[:] = getattr(old.detail.attained, name)


def stand_up(state: Ref, closed: Ints) -> None:
    """Waiting and running jobs take their places; ``closed`` (n_nodes,): reasons why nodes take no job."""
    sim: Sim = state.value
    status = sim.detail.status
    running, waiting = np.flatnonzero(status == ON_GPUS), np.flatnonzero(status == WAITING)
    running = running[np.argsort(sim.turn[running], kind="stable")]
    waiting = waiting[np.argsort(sim.detail.since[waiting], kind="stable")]
    kernels.put_together(state, closed, running, waiting)


def carry_node_events(old: Sim, new: Sim, pushed: int) -> int:
    """Events of nodes that have been pushed and not yet taken in; how many."""
    at = int(old.counts[FAULTS])
    for name in ("listed_at", "listed_node", "listed_kind"):
        getattr(new.detail, name)[:pushed] = getattr(old.detail, name)[at : at + pushed]
    return pushed
