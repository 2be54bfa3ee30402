"""Nodes that fail, drain and come back: by a list, and by a seeded random process. The lean build has none."""

from __future__ import annotations

import numpy as np

from rltune.compiled import inner, verb
from rltune.core.heap import push, remove
from rltune.core.repartition import lose_instances
from rltune.core.resources import nodes
from rltune.core.rng import NODE_FAILURE as FAILING
from rltune.core.rng import NODE_REPAIR, exponential
from rltune.core.runs import stop_run
from rltune.core.state import DRAIN, EVENTS, FAIL, FAULTS, NODE_FAILURE, NOW, RUNNING, is_full, is_lean

open_or_close = nodes.close_node


@verb
def next_change(sim):
    """When a node next fails, drains or comes back; infinity: never."""


@next_change.when(is_lean)
def _next_change_lean(sim):
    return np.inf


@next_change.when(is_full)
def _next_change_full(sim):
    return min(next_listed(sim), next_drawn(sim))


@verb
def take_changes(sim, instant):
    """All changes of nodes up to ``instant``, those of the list first."""


@take_changes.when(is_lean)
def _take_changes_lean(sim, instant):
    pass


@take_changes.when(is_full)
def _take_changes_full(sim, instant):
    while next_listed(sim) <= instant:
        listed_event(sim)
        sim.counts[EVENTS] += 1
    while next_drawn(sim) <= instant:
        drawn_event(sim)
        sim.counts[EVENTS] += 1


@inner
def next_listed(sim):
    at = sim.counts[FAULTS]
    return sim.detail.listed_at[at] if at < len(sim.detail.listed_at) else np.inf


@inner
def next_drawn(sim):
    if sim.params.node_mtbf == np.inf:
        return np.inf
    return sim.detail.change[sim.detail.node_heap[0]]


@inner
def listed_event(sim):
    """The next event of the list."""
    at = sim.counts[FAULTS]
    sim.counts[FAULTS] += 1
    node, kind = sim.detail.listed_node[at], sim.detail.listed_kind[at]
    if kind in (FAIL, DRAIN):
        lose_node(sim, node, kind == FAIL)
    else:
        open_or_close(sim.cluster, sim.space, node, -1)


@inner
def lose_node(sim, node, kills):
    """A node takes no more jobs; with ``kills`` the runs on it are lost."""
    open_or_close(sim.cluster, sim.space, node, 1)
    if not kills:
        return
    lose_instances(sim, node)
    k = 0
    while k < sim.counts[RUNNING]:
        job = sim.active[k]
        if holds(sim, job, node):
            stop_run(sim, job, NODE_FAILURE)
            # The heap has been rearranged: look through it again.
            k = 0
        else:
            k += 1


@inner
def holds(sim, job, node):
    """Whether a running job has a place on the node."""
    base = sim.jobs.part[job]
    for i in range(base, base + sim.alloc_len[job]):
        if sim.alloc_node[i] == node:
            return True
    return False


@inner
def seed_failures(sim):
    """Draw every node's first failure."""
    detail, params = sim.detail, sim.params
    for node in range(len(detail.change)):
        detail.change[node] = sim.clock[NOW] + exponential(params.seed, FAILING, node, 0, params.node_mtbf)
        push(detail.node_heap, detail.node_at, node, detail.change, detail.breaks, node)


@inner
def drawn_event(sim):
    """The node that fails or is repaired next does so; the time of its next change is drawn."""
    detail, params = sim.detail, sim.params
    node, n, now = detail.node_heap[0], len(detail.change), sim.clock[NOW]
    remove(detail.node_heap, detail.node_at, n, detail.change, detail.breaks, node)
    if detail.broken[node]:
        detail.broken[node] = 0
        open_or_close(sim.cluster, sim.space, node, -1)
        detail.breaks[node] += 1
        detail.change[node] = now + exponential(params.seed, FAILING, node, detail.breaks[node], params.node_mtbf)
    else:
        detail.broken[node] = 1
        lose_node(sim, node, True)
        detail.change[node] = now + exponential(params.seed, NODE_REPAIR, node, detail.breaks[node], params.node_repair)
    push(detail.node_heap, detail.node_at, n - 1, detail.change, detail.breaks, node)
