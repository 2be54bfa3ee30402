"""Names for what the model counted: nodes and GPUs for its patterns, places for jobs."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rltune.allocators.formulation import Formulation, Instance, Place
from rltune.allocators.problem import Solved
from rltune.allocators.rows import Search
from rltune.allocators.states import Classes

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What the solver chose, without names: ``patterns``: (class, how many nodes, ((item, grant), ...)); see `Solved`."""

    solved: Solved
    patterns: tuple[tuple[int, int, tuple[tuple[int, int], ...]], ...]
    bounds: tuple[float, ...]


def patterns_in_use(search: Search, rows: Ints, z: Ints) -> tuple[tuple[int, int, tuple[tuple[int, int], ...]], ...]:
    """The columns in use, each as its parts in the order of placing."""
    found = []
    for column in np.flatnonzero(z).tolist():
        row, parts = int(rows[column]), []
        while search.parent[row] >= 0:
            parts.append((int(search.item[row]), int(search.grant[row])))
            row = int(search.parent[row])
        found.append((int(search.root[rows[column]]), int(z[column]), tuple(reversed(parts))))
    return tuple(found)


def realise(instance: Instance, made: Formulation, classes: Classes, answer: Answer) -> list[Place | None]:
    """Names for what was counted: units of a class in order of their nodes, jobs in order of the queue."""
    spots: dict[int, list[tuple[int, int]]] = defaultdict(list)
    units = {c: np.flatnonzero(classes.of == c).tolist() for c in {c for c, _, _ in answer.patterns}}
    for c, times, parts in answer.patterns:
        for u in units[c][:times]:
            for item, grant in parts:
                spots[item].append((int(classes.node[u]), _renamed(grant, classes.perm[u])))
        del units[c][:times]
    for places in spots.values():
        places.sort(reverse=True)
    solved = answer.solved
    assert solved.s is not None and solved.X is not None
    ways: dict[int, list[int]] = defaultdict(list)
    for w, way in enumerate(made.ways):
        ways[way.kind] += [w] * int(solved.X[w])
    for mine in ways.values():
        mine.sort(key=lambda w: (made.ways[w].slowdown, made.ways[w].locality, w), reverse=True)
    found: list[Place | None] = []
    for k, kind in enumerate(made.kind):
        if not solved.s[k]:
            found.append(None)
            continue
        taken: dict[int, int] = defaultdict(int)
        way = made.ways[ways[kind].pop()]
        for item, times in way.parts:
            for _ in range(times):
                node, grant = spots[item].pop()
                taken[node] |= grant
        nodes, grants = zip(*sorted(taken.items()), strict=True)
        found.append(Place(nodes, grants, instance.ask(k, way.choice)))
    return found


def _renamed(grant: int, perm: Any) -> int:
    """A grant by sorted position as one by the unit's own GPUs."""
    gpus = 0
    for at in range(len(perm)):
        if grant >> at & 1:
            gpus |= 1 << int(perm[at])
    return gpus | grant >> 32 << 32
