"""Verbs over free resources, one implementation a build: does a job fit, where, take, give back, copy, intersect.

Lean: counts of whole GPUs (`rltune.core.resources.counts`). Full: GPUs by node (`rltune.core.resources.nodes`), in the
first of the job's ways (`rltune.core.choices`) that has room. An answer of ``find`` lies in ``sim.place`` until the next one.
"""

from __future__ import annotations

from rltune.compiled import inner, verb
from rltune.core.prices import has_market
from rltune.core.resources.counts import book as book_counts
from rltune.core.resources.counts import clear as clear_counts
from rltune.core.resources.counts import copy_space, free_gpus, recount, set_free
from rltune.core.resources.counts import find as find_counts
from rltune.core.resources.counts import fits as fits_counts
from rltune.core.resources.nodes import book as book_nodes
from rltune.core.resources.nodes import charge_quota, clear_nodes, copy_nodes
from rltune.core.resources.nodes import find as find_nodes
from rltune.core.resources.nodes import fits as fits_nodes
from rltune.core.resources.nodes import intersect as intersect_nodes
from rltune.core.resources.nodes import intersect_places as intersect_nodes_at
from rltune.core.resources.room import Among, Held
from rltune.core.rng import PLACEMENT, draw
from rltune.core.state import is_full, is_lean
from rltune.nouns.jobs import WHOLE


@verb
def fits(sim, space, job):
    """Whether ``job`` fits in ``space``."""


@fits.when(is_lean)
def _fits_lean(sim, space, job):
    c = sim.jobs.cls[job]
    return fits_counts(
        sim.cluster, space, sim.jobs.gpus[job], sim.choices.pool, sim.choices.ptr[c], sim.choices.ptr[c + 1]
    )


@fits.when(is_full)
def _fits_full(sim, space, job):
    c, choices, demand = sim.jobs.cls[job], sim.choices, sim.detail.demand
    lo, hi = choices.ptr[c], choices.ptr[c + 1]
    if has_market(sim):
        return fits_accepted(sim, space, job)
    # Any way will do.
    while lo < hi:
        stop, way = choices.stop[lo], choices.way[lo]
        if quota_allows(sim, space, job, way) and fits_nodes(
            sim.cluster, space, demand, way, Among(choices.pool, lo, stop)
        ):
            return True
        lo = stop
    return False


@inner
def fits_accepted(sim, space, job):
    """The same, in a way that the job accepts at present prices (full build)."""
    market, c = sim.detail.market, sim.jobs.cls[job]
    lo = sim.choices.ptr[c]
    for k in range(lo, lo + market.upto[c]):
        q = market.rank[k]
        way = sim.choices.way[q]
        if quota_allows(sim, space, job, way) and fits_nodes(
            sim.cluster, space, sim.detail.demand, way, Among(sim.choices.pool, q, q + 1)
        ):
            return True
    return False


@inner
def quota_allows(sim, space, job, way):
    """Whether the job's virtual cluster may hold as much more as this way asks for."""
    group = sim.detail.group[job]
    return group < 0 or sim.detail.amount[way] <= space.left[group]


@verb
def find(sim, space, job):
    """Places for ``job`` in ``space``: the number of nodes, 0 if it does not fit."""


@find.when(is_lean)
def _find_lean(sim, space, job):
    c = sim.jobs.cls[job]
    lo, hi = sim.choices.ptr[c], sim.choices.ptr[c + 1]
    return find_counts(sim.cluster, space, sim.jobs.gpus[job], sim.choices.pool, lo, hi, sim.params.rule, sim.place)


@find.when(is_full)
def _find_full(sim, space, job):
    choices, demand, c = sim.choices, sim.detail.demand, sim.jobs.cls[job]
    lo, hi = choices.ptr[c], choices.ptr[c + 1]
    bits = draw(sim.params.seed, PLACEMENT, job, sim.detail.runs[job])
    if has_market(sim):
        return find_accepted(sim, space, job, bits)
    # The fastest way first; pools of one speed and demand compete.
    while lo < hi:
        stop, way = choices.stop[lo], choices.way[lo]
        if quota_allows(sim, space, job, way):
            among = Among(choices.pool, lo, stop)
            m = find_nodes(sim.cluster, space, demand, way, among, sim.params.rule, bits, sim.place)
            if m > 0:
                # All of a stretch are the same way but for the pool, which the nodes tell.
                sim.place.way[0] = lo
                return m
        lo = stop
    return 0


@inner
def find_accepted(sim, space, job, bits):
    """The same in the cheapest way that has room, of those that the job accepts (full build)."""
    market, choices, c = sim.detail.market, sim.choices, sim.jobs.cls[job]
    lo = choices.ptr[c]
    for k in range(lo, lo + market.upto[c]):
        q = market.rank[k]
        way = choices.way[q]
        if quota_allows(sim, space, job, way):
            among = Among(choices.pool, q, q + 1)
            m = find_nodes(sim.cluster, space, sim.detail.demand, way, among, sim.params.rule, bits, sim.place)
            if m > 0:
                sim.place.way[0] = q
                return m
    return 0


@inner
def way_found(sim):
    """Row of the demand that the places in ``sim.place`` are for (full build)."""
    return sim.choices.way[sim.place.way[0]]


@inner
def way_held(sim, job):
    """Row of the demand that a job holds or held last; that of its first choice until it has run (full build)."""
    return sim.choices.way[sim.detail.way[job]]


@verb
def take_found(sim, space, job, m):
    """Take the m places in ``sim.place`` for ``job`` in ``space``."""


@take_found.when(is_lean)
def _take_found_lean(sim, space, job, m):
    book_counts(sim.cluster, space, sim.place.node, sim.place.gpus, 0, m, -1)


@take_found.when(is_full)
def _take_found_full(sim, space, job, m):
    found, way = sim.place.found, way_found(sim)
    book_nodes(sim.cluster, space, sim.detail.demand, way, Held(found.node, found.grant, 0, m), -1)
    charge_quota(space, sim.detail.group[job], sim.detail.amount[way], -1)


@verb
def book_held(sim, space, job, sign):
    """Take (sign = -1) or give back (sign = +1) in ``space`` the places that ``job`` holds."""


@book_held.when(is_lean)
def _book_held_lean(sim, space, job, sign):
    book_counts(sim.cluster, space, sim.alloc_node, sim.alloc_grant, sim.jobs.part[job], sim.alloc_len[job], sign)


@book_held.when(is_full)
def _book_held_full(sim, space, job, sign):
    base, m, way = sim.jobs.part[job], sim.alloc_len[job], way_held(sim, job)
    book_nodes(sim.cluster, space, sim.detail.demand, way, Held(sim.alloc_node, sim.alloc_grant, base, m), sign)
    charge_quota(space, sim.detail.group[job], sim.detail.amount[way], sign)


@verb
def hold_found(sim, job, m):
    """Write the m places in ``sim.place`` down as those of ``job``."""


@hold_found.when(is_lean)
def _hold_found_lean(sim, job, m):
    base = sim.jobs.part[job]
    for i in range(m):
        sim.alloc_node[base + i] = sim.place.node[i]
        sim.alloc_grant[base + i] = sim.place.gpus[i]
    sim.alloc_len[job] = m


@hold_found.when(is_full)
def _hold_found_full(sim, job, m):
    base = sim.jobs.part[job]
    for i in range(m):
        sim.alloc_node[base + i] = sim.place.found.node[i]
        sim.alloc_grant[base + i] = sim.place.found.grant[i]
    sim.alloc_len[job] = m
    sim.detail.way[job] = sim.place.way[0]


@verb
def copy_free(sim, source, target):
    """Copy all free resources."""


@copy_free.when(is_lean)
def _copy_free_lean(sim, source, target):
    copy_space(source, target)


@copy_free.when(is_full)
def _copy_free_full(sim, source, target):
    copy_nodes(source, target)


@verb
def clear_free(sim, space):
    """Everything free, at the start."""


@clear_free.when(is_lean)
def _clear_free_lean(sim, space):
    clear_counts(sim.cluster, space)


@clear_free.when(is_full)
def _clear_free_full(sim, space):
    clear_nodes(sim.cluster, space, sim.detail.quota)


@verb
def narrow(sim):
    """``sim.shadow``: what is free in both ``sim.space`` and ``sim.spare``."""


@narrow.when(is_lean)
def _narrow_lean(sim):
    for i in range(len(sim.shadow.free)):
        sim.shadow.free[i] = min(sim.space.free[i], sim.spare.free[i])
    recount(sim.cluster, sim.shadow)


@narrow.when(is_full)
def _narrow_full(sim):
    intersect_nodes(sim.cluster, sim.space, sim.spare, sim.shadow)


@verb
def narrow_at(sim, job):
    """The same, where only the places that ``job`` holds have changed since."""


@narrow_at.when(is_lean)
def _narrow_at_lean(sim, job):
    base = sim.jobs.part[job]
    for k in range(base, base + sim.alloc_len[job]):
        node = sim.alloc_node[k]
        set_free(sim.cluster, sim.shadow, node, min(sim.space.free[node], sim.spare.free[node]))


@narrow_at.when(is_full)
def _narrow_at_full(sim, job):
    base, m = sim.jobs.part[job], sim.alloc_len[job]
    intersect_nodes_at(sim.cluster, sim.space, sim.spare, sim.shadow, sim.alloc_node, base, m)


@verb
def prefer_unreserved(sim, space, other, job, m):
    """Let whole GPUs in ``sim.place`` be, on each node, those free in ``space`` but not in ``other`` first.

    Whole GPUs of a node are alike: a reserved job should not wait for just the one that another could have now, nor a
    short job take one that is spare beside the reservation where it could have one that the reserved job gets later.
    """


@prefer_unreserved.when(is_lean)
def _prefer_unreserved_lean(sim, space, other, job, m):
    # Counts do not tell GPUs apart.
    pass


@prefer_unreserved.when(is_full)
def _prefer_unreserved_full(sim, space, other, job, m):
    way = way_found(sim)
    if sim.detail.demand.milli[way] != WHOLE or sim.detail.demand.profile[way] >= 0:
        return
    found, milli, others = sim.place.found, space.room.milli, other.room.milli
    for i in range(m):
        node, left, grant = found.node[i], 0, 0
        for gpu in range(milli.shape[1]):
            left += found.grant[i] >> gpu & 1
        # Of those alike, GPUs without idle MIG instances first.
        for turn in range(4):
            for gpu in range(milli.shape[1]):
                idle = space.room.layout.shape[1] > 0 and space.room.layout[node, gpu] != 0
                both = (2 if others[node, gpu] == WHOLE else 0) + (1 if idle else 0)
                if left > 0 and milli[node, gpu] == WHOLE and both == turn:
                    grant |= 1 << gpu
                    left -= 1
        found.grant[i] = grant


@verb
def free_units(sim):
    """GPUs with which a pass over the queue may end early; where jobs may need none, more than any pass could use."""


@free_units.when(is_lean)
def _free_units_lean(sim):
    return free_gpus(sim.space)


@free_units.when(is_full)
def _free_units_full(sim):
    return 1 << 62


@verb
def wants_units(sim, job):
    """What a job takes of ``free_units``."""


@wants_units.when(is_lean)
def _wants_units_lean(sim, job):
    return sim.jobs.gpus[job]


@wants_units.when(is_full)
def _wants_units_full(sim, job):
    return 0
