"""Compiled questions of the detailed simulation about places: where a job fits, how fast it is there, what moving costs."""

from __future__ import annotations

from rltune.allocators.sharing import find, fits, take
from rltune.compiled import inner
from rltune.simulator.fleet.chance import PLACEMENT, draw


@inner
def within_quota(fleet, left, job):
    """Whether the job's virtual cluster may hold so much more; ``left``: a row of `Fleet.left`."""
    group = fleet.work.group[job]
    return group < 0 or fleet.work.amount[job] <= left[group]


@inner
def charge_quota(fleet, left, job, sign):
    """Book (sign = -1) or give back (sign = +1) a job's part of its quota in ``left``."""
    group = fleet.work.group[job]
    if group >= 0:
        left[group] += sign * fleet.work.amount[job]


@inner
def copy_left(source, target):
    for group in range(len(source)):
        target[group] = source[group]


@inner
def job_fits(fleet, room, left, job):
    """Whether ``job`` fits in ``room``, of whose quotas ``left`` is left."""
    c = fleet.work.cls[job]
    choices = fleet.choices
    if not within_quota(fleet, left, job):
        return False
    return fits(fleet.cluster, room, fleet.work.demand, job, choices.pool, choices.ptr[c], choices.ptr[c + 1])


@inner
def find_place(fleet, knobs, room, left, job):
    """Places for ``job`` in ``room``, of whose quotas ``left`` is left, into ``fleet.place``: number of nodes, 0 if none.

    On the fastest GPUs with room.
    """
    if not within_quota(fleet, left, job):
        return 0
    c = fleet.work.cls[job]
    choices = fleet.choices
    lo, hi = choices.ptr[c], choices.ptr[c + 1]
    bits = draw(knobs.seed, PLACEMENT, job, fleet.runs[job])
    while lo < hi:
        stop = choices.stop[lo]
        m = find(fleet.cluster, room, fleet.work.demand, job, choices.pool, lo, stop, knobs.rule, bits, fleet.place)
        if m > 0:
            return m
        lo = stop
    return 0


@inner
def rate_on(fleet, job, node):
    """A job's speed on the pool of ``node``."""
    c = fleet.work.cls[job]
    at = fleet.choices.ptr[c]
    while fleet.choices.pool[at] != fleet.cluster.node_pool[node]:
        at += 1
    return fleet.choices.rate[at]


@inner
def overhead_at(fleet, knobs, job, m):
    """Seconds without progress if ``job`` begins now on the m places in ``fleet.place``: none on its first run."""
    if fleet.runs[job] == 0:
        return 0.0
    moved = fleet.nodes[job] != m
    for i in range(m):
        moved = moved or fleet.node[fleet.work.part[job] + i] != fleet.place.node[i]
    return knobs.suspend + knobs.resume + (knobs.migrate if moved else 0.0)


@inner
def expected_run(fleet, knobs, job, m):
    """Seconds for which a waiting job would hold the m places in ``fleet.place``, as believed."""
    left = max(0.0, fleet.work.estimate[job] - fleet.done[job])
    return left / rate_on(fleet, job, fleet.place.node[0]) + overhead_at(fleet, knobs, job, m)


@inner
def free_in(fleet, room, left, job):
    """Give back a running job's places in ``room``, and its part of a quota in ``left``."""
    base = fleet.work.part[job]
    take(fleet.cluster, room, fleet.work.demand, job, fleet.node, fleet.grant, base, fleet.nodes[job], 1)
    charge_quota(fleet, left, job, 1)


@inner
def occupy(fleet, room, left, job, m):
    """Take the places in ``fleet.place`` for a waiting job in ``room``, and its part of a quota in ``left``."""
    take(fleet.cluster, room, fleet.work.demand, job, fleet.place.node, fleet.place.grant, 0, m, -1)
    charge_quota(fleet, left, job, -1)
