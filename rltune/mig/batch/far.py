"""FAR (arXiv 2507.13601, JPDC 2025), written anew from its description: allotments, repartitioning tree, refinement.

1. *Allotments.* Each task begins with the size of least area (compute slices x seconds); then, again and again, the task
   that is longest goes to the size of least area among the strictly larger ones. Every step is a candidate.
2. *List scheduling* of each candidate on the tree of instances: the node that ends first gets the longest task of its size,
   or, when none is left, splits. Reconfigurations are serial on a GPU.
3. *Refinement* of the best candidate: tasks move or swap from the instance that ends last to one of its size that ends first.

A leaf that closes pays no destruction, since nothing follows it. Several GPUs of one model are several trees. Its fourth
step, one batch after the other, is `rltune.mig.batch.sequence`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rltune.compiled import inner, kernel
from rltune.mig.batch.boxes import Boxes, Floats, Ints, parents, plain_boxes
from rltune.mig.batch.timetable import IN_ORDER, Work, span_of
from rltune.mig.geometry import Geometry

ROUNDS = 100
"""Of refinement, as published."""


class Tree(NamedTuple):
    """Sizes and repartitioning trees of GPUs of one model.

    (n_sizes,) ``compute`` slices, ascending, and ``column`` of the times; (n_sizes, n_tasks) ``order``: tasks, longest
    first; (n_nodes,) ``box``, ``size``, ``parent`` (-1: a root), parents before their children.
    """

    compute: Ints
    column: Ints
    order: Ints
    box: Ints
    size: Ints
    parent: Ints


class Scratch(NamedTuple):
    """(n_tasks,) ``size``, ``node``; (n_sizes,) ``next`` in order, tasks ``left``; (n_nodes,) ``end``, ``state`` (0 closed, 1 open, 2 open
    and used), ``since`` its turn; (n_gpus,) ``clock``; (n_boxes,) ``load`` s, ``held`` tasks."""

    size: Ints
    node: Ints
    next: Ints
    left: Ints
    end: Floats
    state: Ints
    since: Ints
    clock: Floats
    load: Floats
    held: Ints


def tree_of(table: Geometry, times: Floats, boxes: Boxes) -> Tree:
    """Trees over the boxes of all GPUs, which must be of one model."""
    nodes = plain_boxes(table, boxes)
    above = parents(nodes, boxes)
    columns = sorted({int(boxes.column[b]) for b in nodes}, key=lambda c: _compute(table, boxes, c))
    number = {b: i for i, b in enumerate(nodes)}
    return Tree(
        np.array([_compute(table, boxes, c) for c in columns], np.int64),
        np.array(columns, np.int64),
        np.array([np.argsort(-times[:, c], kind="stable") for c in columns], np.int64).reshape(
            len(columns), len(times)
        ),
        np.array(nodes, np.int64),
        np.array([columns.index(int(boxes.column[b])) for b in nodes], np.int64),
        np.array([number[above[b]] if b in above else -1 for b in nodes], np.int64),
    )


def _compute(table: Geometry, boxes: Boxes, column: int) -> int:
    box = int(np.flatnonzero(boxes.column == column)[0])
    return table.profiles[int(boxes.profile[box])].compute


def scratch_of(tree: Tree, boxes: Boxes) -> Scratch:
    """Arrays for `far`."""
    tasks, sizes, nodes = tree.order.shape[1], len(tree.column), len(tree.box)
    tasks_, sizes_, nodes_ = (np.zeros((2, k), np.int64) for k in (tasks, sizes, nodes))
    clock, load, count = np.zeros_like(boxes.clock), np.zeros(boxes.n), np.zeros(boxes.n, np.int64)
    return Scratch(
        tasks_[0], tasks_[1], sizes_[0], sizes_[1], np.zeros(nodes), nodes_[0], nodes_[1], clock, load, count
    )


@inner
def _least_area(task, above, times, tree):
    """Size of least compute slices x seconds among those with more than ``above`` slices; -1 if there is none."""
    best, found = np.inf, -1
    for k in range(len(tree.column)):
        area = tree.compute[k] * times[task, tree.column[k]]
        if tree.compute[k] > above and area < best:
            best, found = area, k
    return found


@inner
def _open_first(scratch, n_nodes):
    """The open node that ends first; of several, the one that was opened first."""
    found = -1
    for v in range(n_nodes):
        if scratch.state[v] > 0 and (
            found < 0
            or scratch.end[v] < scratch.end[found]
            or (scratch.end[v] == scratch.end[found] and scratch.since[v] < scratch.since[found])
        ):
            found = v
    return found


@inner
def _begin(times, tree, boxes, scratch):
    """Open the roots, and count tasks by size."""
    for k in range(len(tree.column)):
        scratch.next[k] = 0
        scratch.left[k] = 0
    for t in range(len(scratch.size)):
        scratch.left[scratch.size[t]] += 1
    for v in range(len(tree.box)):
        scratch.state[v] = 1 if tree.parent[v] < 0 else 0
        scratch.end[v] = 0.0
        scratch.since[v] = v
    for g in range(len(boxes.clock)):
        scratch.clock[g] = boxes.clock[g]


@inner
def _place(v, times, tree, boxes, scratch):
    """The longest task left of the node's size goes there; its first one pays the creation."""
    k = tree.size[v]
    while scratch.size[tree.order[k, scratch.next[k]]] != k:
        scratch.next[k] += 1
    task = tree.order[k, scratch.next[k]]
    scratch.next[k] += 1
    scratch.left[k] -= 1
    b = tree.box[v]
    if scratch.state[v] == 1:
        g = boxes.gpu[b]
        scratch.clock[g] = max(scratch.clock[g], scratch.end[v]) + boxes.create[b]
        scratch.end[v] = scratch.clock[g]
        scratch.state[v] = 2
    scratch.end[v] += times[task, tree.column[k]]
    scratch.node[task] = v


@inner
def _split(v, turn, tree, boxes, scratch):
    """Close a node and open those it contains, at its end."""
    children = 0
    for child in range(v + 1, len(tree.box)):
        if tree.parent[child] == v:
            scratch.state[child] = 1
            scratch.end[child] = scratch.end[v]
            scratch.since[child] = turn + child
            children += 1
    b = tree.box[v]
    if scratch.state[v] == 2 and children > 0:
        g = boxes.gpu[b]
        scratch.clock[g] = max(scratch.clock[g], scratch.end[v]) + boxes.destroy[b]
    scratch.state[v] = 0


@inner
def _list_schedule(times, tree, boxes, scratch):
    """Makespan of an allotment; nodes are left in ``scratch.node``."""
    _begin(times, tree, boxes, scratch)
    left, n_nodes, end = len(scratch.size), len(tree.box), 0.0
    turn = n_nodes  # roots had the first turns
    while left > 0:
        v = _open_first(scratch, n_nodes)
        if v < 0:
            return np.inf
        if scratch.left[tree.size[v]] > 0:
            _place(v, times, tree, boxes, scratch)
            end = max(end, scratch.end[v])
            left -= 1
        else:
            _split(v, turn, tree, boxes, scratch)
        turn += n_nodes
    return end


@inner
def _allotments(times, tree, boxes, scratch, best_node):
    """Every candidate; the best one's nodes in ``best_node``. Its makespan, infinite if some task fits no node."""
    best, n = np.inf, len(scratch.size)
    for t in range(n):
        scratch.size[t] = _least_area(t, 0, times, tree)
        if scratch.size[t] < 0:
            return np.inf
    while True:
        end = _list_schedule(times, tree, boxes, scratch)
        if end < best:
            best = end
            for t in range(n):
                best_node[t] = scratch.node[t]
        longest, taking = -1, -1.0
        for t in range(n):
            if times[t, tree.column[scratch.size[t]]] > taking:
                longest, taking = t, times[t, tree.column[scratch.size[t]]]
        larger = _least_area(longest, tree.compute[scratch.size[longest]], times, tree)
        if larger < 0:
            return best
        scratch.size[longest] = larger


@inner
def _makespan(node, times, tree, boxes, scratch, work):
    """Makespan of tasks in nodes; `scratch.end` becomes each node's: its last descendant's, else its nearest ancestor's."""
    for b in range(len(boxes.gpu)):
        scratch.load[b] = 0.0
        scratch.held[b] = 0
    for t in range(len(node)):
        b = tree.box[node[t]]
        scratch.load[b] += times[t, tree.column[tree.size[node[t]]]]
        scratch.held[b] += 1
    end = 0.0
    for g in range(len(boxes.clock)):
        end = max(end, span_of(g, boxes, scratch.load, scratch.held, IN_ORDER, np.inf, work))
    for v in range(len(tree.box)):
        own = work.end_s[tree.box[v]] if scratch.held[tree.box[v]] > 0 else 0.0
        scratch.end[v] = own if own > 0.0 or tree.parent[v] < 0 else scratch.end[tree.parent[v]]
    for v in range(len(tree.box) - 1, -1, -1):
        if tree.parent[v] >= 0:
            scratch.end[tree.parent[v]] = max(scratch.end[tree.parent[v]], scratch.end[v])
    return end


@inner
def _nearest(v, target, gap, node, times, tree):
    """(task to move or -1, task to swap it with or -1): from ``v`` to ``target``, shortening by nearest to half the gap."""
    column = tree.column[tree.size[v]]
    mover, best = -1, gap
    for t in range(len(node)):
        if node[t] == v and times[t, column] < gap and abs(times[t, column] - gap / 2) < best:
            mover, best = t, abs(times[t, column] - gap / 2)
    if mover >= 0:
        return mover, -1
    other = -1
    for t in range(len(node)):
        if node[t] != v:
            continue
        for u in range(len(node)):
            less = times[t, column] - times[u, column]
            if node[u] == target and 0.0 < less < gap and abs(less - gap / 2) < best:
                mover, other, best = t, u, abs(less - gap / 2)
    return mover, other


@inner
def _refine_once(end, node, tree, times, scratch):
    """Move or swap from the leaf that ends last, else from the nodes above it; whether anything changed."""
    last = -1
    for v in range(len(tree.box)):
        # Nodes stand after their parents: the last of equals is the lowest.
        if scratch.held[tree.box[v]] > 0 and scratch.end[v] >= end - 1e-9:
            last = v
    while last >= 0:
        target = -1
        for v in range(len(tree.box)):
            if v != last and tree.size[v] == tree.size[last] and (target < 0 or scratch.end[v] < scratch.end[target]):
                target = v
        if target >= 0 and end - scratch.end[target] > 1e-9:
            mover, other = _nearest(last, target, end - scratch.end[target], node, times, tree)
            if mover >= 0:
                node[mover] = target
                if other >= 0:
                    node[other] = last
                return True
        last = tree.parent[last]
    return False


@kernel
def far(rounds, times, tree, boxes, scratch, work, node, trial):
    """FAR's makespan; (n_tasks,) ``node`` becomes the plan. Infinite where a task fits no node; ``trial`` is scratch."""
    if not np.isfinite(_allotments(times, tree, boxes, scratch, node)):
        return np.inf
    for t in range(len(node)):
        trial[t] = node[t]
    best = _makespan(trial, times, tree, boxes, scratch, work)
    end = best
    for _ in range(rounds):
        if not _refine_once(end, trial, tree, times, scratch):
            break
        end = _makespan(trial, times, tree, boxes, scratch, work)
        if end < best:
            best = end
            for t in range(len(node)):
                node[t] = trial[t]
    return best


def far_boxes(table: Geometry, times: Floats, boxes: Boxes, work: Work, rounds: int = ROUNDS) -> tuple[float, Ints]:
    """FAR's makespan (s) and (n_tasks,) box of each task; infinite when some task fits no plain profile."""
    tree = tree_of(table, times, boxes)
    node, trial = np.zeros((2, len(times)), np.int64)
    if not len(tree.box):
        return np.inf, node
    end = far(rounds, times, tree, boxes, scratch_of(tree, boxes), work, node, trial)
    return float(end), tree.box[node]
