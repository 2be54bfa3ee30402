"""Placement on the node and GPU where a measure of fragmentation grows least: the rules FGD and STRANDING.

Of equal rises the node of least turn; on it the fullest GPU, and of MIG slices the one that other rules would take.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rltune.compiled import inner, kernel
from rltune.core.resources.fragments import node_fragments
from rltune.core.resources.room import Held, grant_of, hosts, take
from rltune.core.resources.slices import START_BIT
from rltune.nouns.jobs import WHOLE
from rltune.nouns.mig_profiles import SIZE, STARTS, STARTS_MOST

EXACT = 1024.0
"""Rises are rounded to 1 / EXACT thousandths of a GPU, so that equal ones are equal in spite of their sums' order."""


class Memo(NamedTuple):
    """Rises already worked out, for one room that changes only where ``changed`` is called. Length 0: none are kept."""

    kind: npt.NDArray[np.int64]  # (n_jobs,) type of each job
    stamp: npt.NDArray[np.int64]  # (n_types, n_nodes) version of the node for which the next two hold
    rise: npt.NDArray[np.float64]  # (n_types, n_nodes) of the measure; infinity: it does not fit
    grant: npt.NDArray[np.int64]  # (n_types, n_nodes) GPUs where it rises least
    version: npt.NDArray[np.int64]  # (n_nodes,) of the node now
    before: npt.NDArray[np.float64]  # (n_nodes,) its fragments now


def memo(kind: npt.NDArray[np.int64], types: int, nodes: int) -> Memo:
    """Nothing is known yet; call ``changed`` for every node before use."""
    shape = (types, nodes)
    return Memo(
        kind,
        np.zeros(shape, np.int64),
        np.zeros(shape),
        np.zeros(shape, np.int64),
        np.zeros(nodes, np.int64),
        np.zeros(nodes),
    )


@kernel
def changed(cluster, room, work, node):
    """Forget what was known of the node."""
    if len(work.memo.version) > 0:
        work.memo.version[node] += 1
        work.memo.before[node] = node_fragments(cluster, room, work.types, node)


@inner
def least_rise(cluster, room, demand, job, among, work):
    """The node where the measure rises least, -1 if none can hold the whole job; its grant is in ``work.grant[0]``."""
    best, best_rise, best_grant = -1, np.inf, 0
    known = work.memo
    whole = demand.milli[job] == WHOLE
    for q in range(among.lo, among.hi):
        p = among.pools[q]
        if whole and demand.gpus[job] > cluster.pool_cap[p]:
            continue
        for node in range(cluster.pool_lo[p], cluster.pool_hi[p]):
            if len(known.version) > 0:
                kind = known.kind[job]
                if known.stamp[kind, node] != known.version[node]:
                    known.stamp[kind, node] = known.version[node]
                    known.rise[kind, node] = _rise(cluster, room, demand, job, node, known.before[node], work)
                    known.grant[kind, node] = work.grant[0]
                rise, grant = known.rise[kind, node], known.grant[kind, node]
            elif hosts(cluster, room, demand, job, node):
                before = node_fragments(cluster, room, work.types, node)
                rise, grant = _rise(cluster, room, demand, job, node, before, work), work.grant[0]
            else:
                continue
            if rise < best_rise or (rise == best_rise and best >= 0 and room.turn[node] < room.turn[best]):
                best, best_rise, best_grant = node, rise, grant
    work.grant[0] = best_grant
    return best


@inner
def _rise(cluster, room, demand, job, node, before, work):
    """Least rise of the node's fragments over the GPUs that the job could have there; infinity if it does not fit.

    Leaves the grant in ``work.grant[0]``.
    """
    if not hosts(cluster, room, demand, job, node):
        return np.inf
    plain = grant_of(cluster, room, demand, job, node, demand.gpus[job])
    best, rise = plain, _after(cluster, room, demand, job, node, plain, before, work)
    cap, milli = cluster.pool_cap[cluster.node_pool[node]], demand.milli[job]
    if demand.profile[job] >= 0:
        kind, profile = cluster.pool_mig[cluster.node_pool[node]], demand.profile[job]
        for gpu in range(cap):
            taken = room.slices[node, gpu]
            if (taken == 0 and room.milli[node, gpu] < WHOLE) or _seen(room, node, gpu):
                continue
            for start in range(STARTS_MOST):
                mask = ((1 << SIZE[profile, kind]) - 1) << start
                if STARTS[profile, kind] >> start & 1 and taken & mask == 0:
                    grant = (1 << gpu) | (start << START_BIT)
                    other = _after(cluster, room, demand, job, node, grant, before, work)
                    if other < rise:
                        best, rise = grant, other
    elif 0 < milli < WHOLE:
        fullest = 0
        for gpu in range(cap):
            if room.milli[node, gpu] < milli or _seen(room, node, gpu):
                continue
            other = _after(cluster, room, demand, job, node, 1 << gpu, before, work)
            if other < rise or (other == rise and fullest > 0 and room.milli[node, gpu] < fullest):
                best, rise, fullest = 1 << gpu, other, room.milli[node, gpu]
    work.grant[0] = best
    return rise


@inner
def _seen(room, node, gpu):
    """Whether an earlier GPU of the node is just as free."""
    for other in range(gpu):
        if room.milli[node, other] == room.milli[node, gpu] and room.slices[node, other] == room.slices[node, gpu]:
            return True
    return False


@inner
def _after(cluster, room, demand, job, node, grant, before, work):
    """Rise of the node's fragments if the job got ``grant`` there."""
    work.node[0], work.grant[0] = node, grant
    take(cluster, room, demand, job, Held(work.node, work.grant, 0, 1), -1)
    after = node_fragments(cluster, room, work.types, node)
    take(cluster, room, demand, job, Held(work.node, work.grant, 0, 1), 1)
    return np.floor((after - before) * EXACT + 0.5) / EXACT
