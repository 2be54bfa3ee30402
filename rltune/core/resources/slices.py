"""Where on a node a MIG slice goes: compiled search of legal free positions, and how a grant is written.

A grant is one integer: bits 0..31 name the node's GPUs, bits 32..35 the first memory slice of a MIG profile.
"""

from __future__ import annotations

from rltune.compiled import inner
from rltune.core.resources.instances import stands
from rltune.nouns.jobs import WHOLE
from rltune.nouns.mig_profiles import SIZE, STARTS, STARTS_MOST

INDICES = (1 << 32) - 1
"""The bits of a grant that name GPUs; the first memory slice stands above them."""
START_BIT = 32


@inner
def find_slice(cluster, room, profile, node):
    """Grant of a legal free position: cut GPUs first, the fullest of them; -1 if there is none.

    Of equals one where an idle instance of the profile stands, then one with other instances, then the first.
    """
    p = cluster.node_pool[node]
    kind = cluster.pool_mig[p]
    if kind < 0 or STARTS[profile, kind] == 0:
        return -1
    best, best_taken, best_ready = -1, -1, -1
    for i in range(cluster.pool_cap[p]):
        taken = room.slices[node, i]
        count = bits(taken)
        if count >= best_taken and (taken != 0 or room.milli[node, i] == WHOLE):
            layout = room.layout[node, i] if room.layout.shape[1] > 0 else 0
            start = best_start(taken, profile, kind, layout)
            if start >= 0:
                ready = 2 if stands(layout, profile, start, kind) else 1 if layout != 0 else 0
                if count > best_taken or ready > best_ready:
                    best, best_taken, best_ready = (1 << i) | (start << START_BIT), count, ready
    return best


@inner
def best_start(taken, profile, kind, layout):
    """The free legal start after which most starts of all profiles stay open; -1 if none is free.

    Of equals one where such an instance stands idle, then the last.
    """
    best, best_open = -1, -1
    for start in range(STARTS_MOST):
        mask = ((1 << SIZE[profile, kind]) - 1) << start
        if STARTS[profile, kind] >> start & 1 and taken & mask == 0:
            still = 2 * open_starts(taken | mask, kind) + (1 if stands(layout, profile, start, kind) else 0)
            if still >= best_open:
                best, best_open = start, still
    return best


@inner
def open_starts(taken, kind):
    """Pairs of profile and legal start that are free on a GPU with these memory slices taken."""
    count = 0
    for other in range(SIZE.shape[0]):
        for start in range(STARTS_MOST):
            if STARTS[other, kind] >> start & 1 and taken & (((1 << SIZE[other, kind]) - 1) << start) == 0:
                count += 1
    return count


@inner
def on_cut(cluster, room, demand, job, node):
    """Whether the slice would come from a GPU of this node that is already cut."""
    grant = find_slice(cluster, room, demand.profile[job], node)
    return room.slices[node, lowest(grant & INDICES)] != 0


@inner
def bits(mask):
    count = 0
    while mask != 0:
        mask &= mask - 1
        count += 1
    return count


@inner
def lowest(mask):
    at = 0
    while mask >> at & 1 == 0:
        at += 1
    return at
