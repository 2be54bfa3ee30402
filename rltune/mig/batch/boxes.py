"""Boxes: the places a schedule can put tasks into, in an order that needs no search.

Legal placements are nested: any two overlap only if one contains the other. So in any schedule without reconfiguration
costs the tasks of a placement can slide before all tasks of the placements it contains, slice by slice, and no task ends
later: a schedule is which task is in which placement, and nothing else. A *box* is a placement with its place in
that order; a GPU's boxes are the instances it already holds, the placements from large to small, and, where it holds
something and its slices come free at different times, once more from small to large. An instance is made for each box
with tasks. When instances are created and destroyed follows (`rltune.mig.batch.timetable`).

Profiles with the media engines are not nested in this sense, since any two of them exclude each other: for tasks that need
them the order is one of several, plans are legal, and the bounds hold all the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rltune.mig.batch.plan import Left
from rltune.mig.batch.tasks import Tasks
from rltune.mig.geometry import PLAIN, Geometry, Placement, geometry

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
MEDIA = 1 << 8
"""The media engines of a GPU, as if they were one more memory slice: who holds them excludes others that would."""


class Boxes(NamedTuple):
    """Boxes of all GPUs; those of a GPU stand together, in the order their instances may follow one another.

    (n_gpus + 1,) ``first`` box of each GPU; (n_gpus,) ``clock``: seconds until its reconfiguration is free.
    (n_boxes,): ``gpu``; ``column`` of the table of times; ``profile``, ``start``, ``size`` in memory slices; ``mask``: these
    slices as bits, and `MEDIA` where it holds the media engines; ``made``: 1 where the instance is there already;
    ``after``: 1 in the second half of the order; seconds to ``create`` and ``destroy``; ``busy`` seconds with an earlier
    batch; ``share`` of the GPU's slices that it takes.
    """

    first: Ints
    clock: Floats
    gpu: Ints
    column: Ints
    profile: Ints
    start: Ints
    size: Ints
    mask: Ints
    made: Ints
    after: Ints
    create: Floats
    destroy: Floats
    busy: Floats
    share: Floats

    @property
    def n(self) -> int:
        """Boxes of all GPUs."""
        return len(self.gpu)

    def place(self, box: int) -> tuple[int, int, int]:
        """GPU, profile and start of a box."""
        return int(self.gpu[box]), int(self.profile[box]), int(self.start[box])


def times_of(tasks: Tasks) -> tuple[Floats, dict[str, int]]:
    """(n_tasks, n_columns) seconds, models side by side, and the first column of each model."""
    first, at = {}, 0
    for model, table in tasks.seconds.items():
        first[model] = at
        at += table.shape[1]
    return np.ascontiguousarray(np.hstack(list(tasks.seconds.values()))), first


def boxes_of(tasks: Tasks, gpus: Sequence[str], left: Sequence[Left]) -> Boxes:
    """Boxes for a batch on GPUs of these models, ``left`` as an earlier batch leaves them."""
    _, column_of = times_of(tasks)
    whole: list[tuple[int, ...]] = []
    seconds: list[tuple[float, ...]] = []
    first = [0]
    for gpu, model in enumerate(gpus):
        table = geometry(model)
        for place, made, after, busy in _ordered(table, tasks.seconds[model], left[gpu]):
            kind = table.profiles[place.profile]
            mask = table.mask(place) | (MEDIA if kind.media else 0)
            column = column_of[model] + place.profile
            whole.append((gpu, column, place.profile, place.start, kind.size, mask, made, after))
            seconds.append((kind.create_s, kind.destroy_s, busy, _share(table, place)))
        first.append(len(whole))
    clock = np.array([held.reconfiguring_until_s for held in left])
    ints, floats = np.array(whole, np.int64).T.copy(), np.array(seconds, np.float64).T.copy()
    return Boxes(np.array(first), clock, *ints, *floats)


def _ordered(table: Geometry, seconds: Floats, left: Left) -> Iterator[tuple[Placement, int, int, float]]:
    """Boxes of one GPU in order: placement, whether it is made, whether it is of the second half, seconds it is busy."""
    for old in left.instances:
        yield old.placement, 1, 0, old.busy_until_s
    # Placements some task can use, each before those it contains.
    order = sorted(range(len(table.profiles)), key=lambda i: (-table.profiles[i].size, -table.profiles[i].compute))
    usable = table.placements(index for index in order if np.isfinite(seconds[:, index]).any())
    for place in usable:
        yield place, 0, 0, 0.0
    for place in reversed(usable) if left.instances else ():
        if table.profiles[place.profile].size > 1:
            yield place, 0, 1, 0.0


def _share(table: Geometry, place: Placement) -> float:
    """Of the memory slices that compute slices can use: the last of eight belongs to no 1g."""
    end = min(place.start + table.profiles[place.profile].size, table.compute)
    return (end - place.start) / table.compute


def plain_boxes(table: Geometry, boxes: Boxes) -> list[int]:
    """Boxes of 1g to 7g in the first half of the order, of instances yet to be made: the nodes of FAR's tree."""
    plain = {i for i, p in enumerate(table.profiles) if p.kind in PLAIN}
    return [b for b in range(boxes.n) if boxes.profile[b] in plain and not boxes.made[b] and not boxes.after[b]]


def parents(nodes: Sequence[int], boxes: Boxes) -> dict[int, int]:
    """Repartitioning tree: box -> the smallest of the nodes that contains it on its GPU (a root is absent)."""
    above: dict[int, int] = {}
    for at, box in enumerate(nodes):
        for other in nodes[:at]:
            if boxes.gpu[other] == boxes.gpu[box] and boxes.mask[other] & boxes.mask[box] == boxes.mask[box]:
                above[box] = other
    return above
