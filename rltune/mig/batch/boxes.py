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

from collections.abc import Sequence
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
    (n_boxes,): ``gpu``; ``column`` of the table of times; ``profile``, ``start``, ``size`` in memory slices; seconds to
    ``create`` and ``destroy``; ``made``: 1 where the instance is there already, ``busy`` seconds with an earlier batch;
    ``after``: 1 in the second half of the order; ``share`` of the GPU's slices that it takes;
    ``mask``: its memory slices as bits, and `MEDIA` where it holds the media engines, which a GPU has once.
    """

    first: Ints
    clock: Floats
    gpu: Ints
    column: Ints
    profile: Ints
    start: Ints
    size: Ints
    create: Floats
    destroy: Floats
    made: Ints
    busy: Floats
    after: Ints
    share: Floats
    mask: Ints

    @property
    def n(self) -> int:
        """Boxes of all GPUs."""
        return len(self.gpu)


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
    rows, first = [], [0]
    for gpu, model in enumerate(gpus):
        table = geometry(model)
        usable = [bool(np.isfinite(column).any()) for column in tasks.seconds[model].T]
        for old in left[gpu].instances:
            profile = table.profiles[old.placement.profile]
            rows.append((gpu, column_of[model], old.placement, profile, 1, old.busy_until_s, 0))
        chosen = _chosen(table, usable)
        rows += [(gpu, column_of[model], p, table.profiles[p.profile], 0, 0.0, 0) for p in chosen]
        if left[gpu].instances:
            again = [p for p in reversed(chosen) if table.profiles[p.profile].size > 1]
            rows += [(gpu, column_of[model], p, table.profiles[p.profile], 0, 0.0, 1) for p in again]
        first.append(len(rows))
    whole = [(g, c + p.profile, p.profile, p.start, kind.size, made, after) for g, c, p, kind, made, _, after in rows]
    gpu_, column, profile_, start, size, made_, after_ = (np.array(v, np.int64) for v in zip(*whole, strict=True))
    seconds = [(kind.create_s, kind.destroy_s, busy) for *_, kind, _, busy, _ in rows]
    create, destroy, busy_ = (np.array(v, np.float64) for v in zip(*seconds, strict=True))
    clock = np.array([held.reconfiguring_until_s for held in left])
    return Boxes(
        np.array(first),
        clock,
        gpu_,
        column,
        profile_,
        start,
        size,
        create,
        destroy,
        made_,
        busy_,
        after_,
        _share(gpus, gpu_, start, size),
        np.array([(((1 << kind.size) - 1) << p.start) | (MEDIA if kind.media else 0) for _, _, p, kind, *_ in rows]),
    )


def _share(gpus: Sequence[str], gpu: Ints, start: Ints, size: Ints) -> Floats:
    """Of the memory slices that compute slices can use: the last of eight belongs to no 1g."""
    compute = np.array([geometry(model).compute for model in gpus])[gpu]
    return (np.minimum(start + size, compute) - start) / compute


def _chosen(table: Geometry, usable: list[bool]) -> list[Placement]:
    """Placements some task can use, each before those it contains."""
    order = sorted(range(len(table.profiles)), key=lambda i: (-table.profiles[i].size, -table.profiles[i].compute))
    found = []
    for index in order:
        profile = table.profiles[index]
        if usable[index]:
            found += [Placement(index, start) for start in profile.starts]
    return found


def parents(table: Geometry, boxes: Boxes, gpu: int) -> dict[int, int]:
    """Repartitioning tree: box -> the smallest plain box of the GPU that contains it (the root is absent).

    Boxes of instances that are there, of the second half of the order, and of profiles beyond 1g to 7g are no nodes.
    """
    plain = {i for i, p in enumerate(table.profiles) if p.kind in PLAIN}
    span = range(boxes.first[gpu], boxes.first[gpu + 1])
    nodes = [b for b in span if boxes.profile[b] in plain and not boxes.made[b] and not boxes.after[b]]
    above: dict[int, int] = {}
    for at, box in enumerate(nodes):
        for other in nodes[:at]:
            if boxes.start[other] <= boxes.start[box] and (
                boxes.start[other] + boxes.size[other] >= boxes.start[box] + boxes.size[box]
            ):
                above[box] = other
    return above
