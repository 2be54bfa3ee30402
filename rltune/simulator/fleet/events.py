"""Compiled events of the detailed simulation: arrivals, starts, ends and interruptions of runs, failures of nodes."""

from __future__ import annotations

import numpy as np

from rltune.allocators.sharing import take
from rltune.compiled import inner
from rltune.policies.learn import estimate_of, learn
from rltune.simulator.fleet.chance import JOB_FAILURE, NODE_FAILURE, NODE_REPAIR, exponential
from rltune.simulator.fleet.keys import charge, size_of, tag_arrival
from rltune.simulator.fleet.placing import charge_quota, overhead_at, rate_on
from rltune.simulator.fleet.state import (
    ABANDONED,
    ARRIVED,
    DONE,
    DRAIN,
    DROPPED,
    EVENTS,
    FAIL,
    FAULTS,
    HELD,
    IMPOSSIBLE,
    LOGGED,
    NOW,
    OF_ROOM,
    ON_GPUS,
    QUEUED,
    RUNNING,
    STARTED,
    WAITING,
)
from rltune.simulator.heap import push, remove
from rltune.simulator.runs import FINISHED, GIVEN_UP, SUSPENDED
from rltune.simulator.runs import JOB_FAILURE as FAILED
from rltune.simulator.runs import NODE_FAILURE as LOST_NODE

# --- runs -------------------------------------------------------------------------------


@inner
def start_run(fleet, knobs, job, m):
    """``job`` begins to hold the m places in ``fleet.place``; the caller takes it out of the queue."""
    now, base = fleet.clocks[NOW], fleet.work.part[job]
    overhead = overhead_at(fleet, knobs, job, m)
    for i in range(m):
        fleet.node[base + i] = fleet.place.node[i]
        fleet.grant[base + i] = fleet.place.grant[i]
    fleet.nodes[job] = m
    take(fleet.cluster, fleet.room, fleet.work.demand, job, fleet.node, fleet.grant, base, m, -1)
    charge_quota(fleet, fleet.left[OF_ROOM], job, -1)
    fleet.status[job] = ON_GPUS
    fleet.since[job], fleet.ready[job] = now, now + overhead
    fleet.rate[job] = rate_on(fleet, job, fleet.node[base])
    fleet.end[job] = fleet.ready[job] + (fleet.work.run[job] - fleet.done[job]) / fleet.rate[job]
    fleet.fails[job] = 0
    size = size_of(fleet, job)
    if knobs.gpu_mtbf < np.inf and size > 0:
        failure = now + exponential(knobs.seed, JOB_FAILURE, job, fleet.runs[job], knobs.gpu_mtbf / size)
        if failure < fleet.end[job]:
            fleet.end[job], fleet.fails[job] = failure, 1
    if fleet.runs[job] == 0:
        fleet.first[job] = now
    fleet.runs[job] += 1
    charge(fleet, knobs, job, 1.0)
    fleet.turn[job] = fleet.counts[STARTED]
    push(fleet.active, fleet.active_at, fleet.counts[RUNNING], fleet.end, fleet.turn, job)
    fleet.counts[RUNNING] += 1
    fleet.counts[STARTED] += 1
    fleet.counts[HELD] += m


@inner
def stop_run(fleet, knobs, job, outcome):
    """End the present run of ``job``: free its places, write the run down, settle what becomes of the job."""
    now, base, m = fleet.clocks[NOW], fleet.work.part[job], fleet.nodes[job]
    remove(fleet.active, fleet.active_at, fleet.counts[RUNNING], fleet.end, fleet.turn, job)
    fleet.counts[RUNNING] -= 1
    fleet.counts[HELD] -= m
    take(fleet.cluster, fleet.room, fleet.work.demand, job, fleet.node, fleet.grant, base, m, 1)
    charge_quota(fleet, fleet.left[OF_ROOM], job, 1)
    charge(fleet, knobs, job, -1.0)
    fleet.service[job] += (now - fleet.since[job]) * size_of(fleet, job)
    useful = max(0.0, now - fleet.ready[job]) * fleet.rate[job]
    if outcome == FINISHED:
        useful = fleet.work.run[job] - fleet.done[job]
    elif outcome != SUSPENDED:
        # What was not yet saved is lost; without checkpoints all since the last suspension.
        saved = 0.0 if knobs.checkpoint == np.inf else np.floor((now - fleet.ready[job]) / knobs.checkpoint)
        useful = saved * knobs.checkpoint * fleet.rate[job] if saved > 0.0 else 0.0
    useful = min(useful, fleet.work.run[job] - fleet.done[job])
    fleet.done[job] += useful
    if outcome == FINISHED:
        fleet.status[job], fleet.final[job] = DONE, now
        if knobs.learns:
            learn(fleet.work.groups, fleet.mean, job, fleet.work.run[job])
    elif outcome == SUSPENDED:
        enqueue(fleet, job)
    else:
        fleet.failures[job] += 1
        if fleet.failures[job] > knobs.retries:
            fleet.status[job], outcome = ABANDONED, GIVEN_UP
        else:
            enqueue(fleet, job)
    write_down(fleet, job, now, useful, outcome)


@inner
def write_down(fleet, job, now, useful, outcome):
    """Append the run to the log; the loop has seen to it that there is room."""
    log, at = fleet.log, fleet.counts[LOGGED]
    base, m = fleet.work.part[job], fleet.nodes[job]
    log.job[at], log.start[at], log.end[at] = job, fleet.since[job], now
    log.useful[at], log.outcome[at] = useful, outcome
    begin = log.ptr[at]
    for i in range(m):
        log.node[begin + i] = fleet.node[base + i]
        log.grant[begin + i] = fleet.grant[base + i]
    log.ptr[at + 1] = begin + m
    fleet.counts[LOGGED] = at + 1


@inner
def enqueue(fleet, job):
    fleet.status[job] = WAITING
    fleet.queue[fleet.counts[QUEUED]] = job
    fleet.counts[QUEUED] += 1
    fleet.waiting[fleet.work.cls[job]] += 1


# --- what happens -----------------------------------------------------------------------


@inner
def arrive(fleet, knobs):
    """The next job of the table joins the queue; one that no idle pool could hold is counted and set aside."""
    job = fleet.counts[ARRIVED]
    fleet.counts[ARRIVED] += 1
    c = fleet.work.cls[job]
    if fleet.choices.ptr[c] == fleet.choices.ptr[c + 1]:
        fleet.status[job] = IMPOSSIBLE
        fleet.counts[DROPPED] += 1
        return
    if knobs.learns:
        fleet.work.estimate[job] = estimate_of(fleet.work.groups, fleet.mean, job)
    tag_arrival(fleet, knobs, job)
    enqueue(fleet, job)


@inner
def end_next(fleet, knobs):
    """The run that ends first is over: finished, or failed."""
    job = fleet.active[0]
    stop_run(fleet, knobs, job, FAILED if fleet.fails[job] else FINISHED)


@inner
def close_node(fleet, knobs, node, kills):
    """A node takes no more jobs; with ``kills`` the runs on it are lost."""
    fleet.room.closed[node] += 1
    if not kills:
        return
    k = 0
    while k < fleet.counts[RUNNING]:
        job = fleet.active[k]
        if holds(fleet, job, node):
            stop_run(fleet, knobs, job, LOST_NODE)
            k = 0
        else:
            k += 1


@inner
def holds(fleet, job, node):
    base = fleet.work.part[job]
    for i in range(base, base + fleet.nodes[job]):
        if fleet.node[i] == node:
            return True
    return False


@inner
def listed_event(fleet, knobs):
    """The next event of the list."""
    at = fleet.counts[FAULTS]
    fleet.counts[FAULTS] += 1
    node, kind = fleet.listed_node[at], fleet.listed_kind[at]
    if kind in (FAIL, DRAIN):
        close_node(fleet, knobs, node, kind == FAIL)
    else:
        fleet.room.closed[node] -= 1


@inner
def seed_failures(fleet, knobs):
    """Draw every node's first failure."""
    for node in range(len(fleet.change)):
        fleet.change[node] = fleet.clocks[NOW] + exponential(knobs.seed, NODE_FAILURE, node, 0, knobs.node_mtbf)
        push(fleet.node_heap, fleet.node_at, node, fleet.change, fleet.breaks, node)


@inner
def node_changes(fleet, knobs):
    """The node that fails or is repaired next does so; the time of its next change is drawn."""
    node, n = fleet.node_heap[0], len(fleet.change)
    remove(fleet.node_heap, fleet.node_at, n, fleet.change, fleet.breaks, node)
    now = fleet.clocks[NOW]
    if fleet.broken[node]:
        fleet.broken[node] = 0
        fleet.room.closed[node] -= 1
        fleet.breaks[node] += 1
        fleet.change[node] = now + exponential(knobs.seed, NODE_FAILURE, node, fleet.breaks[node], knobs.node_mtbf)
    else:
        fleet.broken[node] = 1
        close_node(fleet, knobs, node, True)
        fleet.change[node] = now + exponential(knobs.seed, NODE_REPAIR, node, fleet.breaks[node], knobs.node_repair)
    push(fleet.node_heap, fleet.node_at, n - 1, fleet.change, fleet.breaks, node)


@inner
def next_end(fleet):
    return fleet.end[fleet.active[0]] if fleet.counts[RUNNING] > 0 else np.inf


@inner
def next_arrival(fleet):
    job = fleet.counts[ARRIVED]
    return fleet.work.submit[job] if job < len(fleet.work.submit) else np.inf


@inner
def next_listed(fleet):
    at = fleet.counts[FAULTS]
    return fleet.listed_at[at] if at < len(fleet.listed_at) else np.inf


@inner
def next_node_change(fleet, knobs):
    if knobs.node_mtbf == np.inf:
        return np.inf
    return fleet.change[fleet.node_heap[0]]


@inner
def take_in(fleet, knobs, instant):
    """All that happens at this instant: ends, then changes of the cluster, then arrivals."""
    fleet.clocks[NOW] = instant
    while next_end(fleet) <= instant:
        end_next(fleet, knobs)
        fleet.counts[EVENTS] += 1
    while next_listed(fleet) <= instant:
        listed_event(fleet, knobs)
        fleet.counts[EVENTS] += 1
    while next_node_change(fleet, knobs) <= instant:
        node_changes(fleet, knobs)
        fleet.counts[EVENTS] += 1
    while next_arrival(fleet) <= instant:
        arrive(fleet, knobs)
        fleet.counts[EVENTS] += 1
