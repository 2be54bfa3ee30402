"""MIG instances change as jobs that begin need them, and the seconds that it takes. The lean build has none."""

from __future__ import annotations

from rltune.compiled import inner, kernel, verb
from rltune.core.resources.instances import MODE, idle_part, layout_for
from rltune.core.resources.slices import START_BIT
from rltune.core.resources.verbs import way_found
from rltune.core.state import NOW, RECONFIGURED, RECONFIGURING, is_full, is_lean


@inner
def set_up_s(sim, m):
    """Seconds until the GPUs of the m places in ``sim.place`` are as the job there needs them (full build).

    A GPU changes one instance at a time, and different GPUs at once; a job begins when all of its GPUs have done.
    """
    layout, found, way, longest = sim.space.room.layout, sim.place.found, way_found(sim), 0.0
    if layout.shape[1] == 0 or sim.detail.demand.milli[way] == 0:
        return longest
    now, mode_s, profile = sim.clock[NOW], sim.params.mig_mode, sim.detail.demand.profile[way]
    for i in range(m):
        node, grant = found.node[i], found.grant[i]
        kind = sim.cluster.pool_mig[sim.cluster.node_pool[node]]
        for gpu in range(layout.shape[1]):
            if kind >= 0 and grant >> gpu & 1:
                _, seconds = layout_for(layout[node, gpu], profile, grant >> START_BIT, kind, mode_s)
                longest = max(longest, max(0.0, sim.detail.changed[node, gpu] - now) + seconds)
    return longest


@verb
def set_up(sim, m):
    """Change the MIG instances of the m places in ``sim.place`` as the job that begins there needs them."""


@set_up.when(is_lean)
def _set_up_lean(sim, m):
    pass


@set_up.when(is_full)
def _set_up_full(sim, m):
    layout, found, way = sim.space.room.layout, sim.place.found, way_found(sim)
    if layout.shape[1] == 0 or sim.detail.demand.milli[way] == 0:
        return
    profile = sim.detail.demand.profile[way]
    for i in range(m):
        node, grant = found.node[i], found.grant[i]
        kind = sim.cluster.pool_mig[sim.cluster.node_pool[node]]
        for gpu in range(layout.shape[1]):
            if kind >= 0 and grant >> gpu & 1:
                after, seconds = layout_for(layout[node, gpu], profile, grant >> START_BIT, kind, sim.params.mig_mode)
                change_layout(sim, node, gpu, after, seconds)


@inner
def change_layout(sim, node, gpu, after, seconds):
    """A GPU's MIG instances change, once those changes that are going on are done (full build)."""
    sim.space.room.layout[node, gpu] = after
    if seconds > 0.0:
        sim.detail.changed[node, gpu] = max(sim.clock[NOW], sim.detail.changed[node, gpu]) + seconds
        sim.counts[RECONFIGURED] += 1
        sim.clock[RECONFIGURING] += seconds


@kernel
def repartition(sim, node, gpu, after, seconds):
    """The same, decided outside, ahead of need."""
    change_layout(sim, node, gpu, after, seconds)


@kernel
def idle_instances(cluster, room, idle):
    """``idle`` (n_nodes, widest): the instances of each GPU that no job holds in ``room``."""
    for node in range(idle.shape[0]):
        kind = cluster.pool_mig[cluster.node_pool[node]]
        for gpu in range(idle.shape[1]):
            idle[node, gpu] = idle_part(room.layout[node, gpu], room.slices[node, gpu], kind) if kind >= 0 else 0


@inner
def lose_instances(sim, node):
    """A node restarts: its MIG mode stays, unless it was just being turned on, and its instances are gone (full build)."""
    layout, changed = sim.space.room.layout, sim.detail.changed
    for gpu in range(layout.shape[1]):
        layout[node, gpu] &= MODE if changed[node, gpu] <= sim.clock[NOW] else 0
        changed[node, gpu] = 0.0
