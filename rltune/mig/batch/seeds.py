"""Plans that need no search: FAR, fixed partitions, a greedy one. The search begins from them, and is judged by them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from rltune.compiled import kernel
from rltune.mig.batch.boxes import Boxes, Floats, Ints
from rltune.mig.batch.far import far_boxes
from rltune.mig.batch.timetable import IN_ORDER, LONGEST_TAIL, Work
from rltune.mig.geometry import Geometry


class Seed(NamedTuple):
    """``where``: (n_tasks,) boxes; ``rule`` of its reconfigurations (`rltune.mig.batch.timetable`)."""

    name: str
    where: Ints
    rule: int = LONGEST_TAIL


@kernel
def _fill(order, allowed, times, boxes, end, where):
    """Each task in turn to the allowed box where it ends first; False where some task fits none.

    ``allowed`` (n_boxes,), ``end`` (n_boxes,) when each box is free at first.
    """
    for t in order:
        best, found = np.inf, -1
        for b in range(len(allowed)):
            if allowed[b] and end[b] + times[t, boxes.column[b]] < best:
                best, found = end[b] + times[t, boxes.column[b]], b
        if found < 0:
            return False
        end[found] = best
        where[t] = found
    return True


def _longest_first(times: Floats) -> Ints:
    """Tasks by their quickest time, the longest first."""
    return np.argsort(-times.min(1), kind="stable")


def _partition(state: set[tuple[int, int]], boxes: Boxes) -> Ints:
    """(n_boxes,) 1 for the boxes of a partition, on every GPU; instances that are there are not used anew."""
    return np.array(
        [
            int(not boxes.made[b] and not boxes.after[b] and (int(boxes.profile[b]), int(boxes.start[b])) in state)
            for b in range(boxes.n)
        ]
    )


def _ready(allowed: Ints, boxes: Boxes) -> Floats:
    """(n_boxes,) when each box of a partition is created, one after the other on each GPU, largest first."""
    ready = np.zeros(boxes.n)
    for gpu in range(len(boxes.clock)):
        mine = [b for b in range(boxes.first[gpu], boxes.first[gpu + 1]) if allowed[b]]
        ready[mine] = boxes.clock[gpu] + np.cumsum(boxes.create[mine])
    return ready


def fixed_partitions(table: Geometry, times: Floats, boxes: Boxes, longest_first: bool = True) -> Iterator[Seed]:
    """List scheduling on each maximal partition that stays as it is, in the order given or longest first."""
    order = _longest_first(times) if longest_first else np.arange(len(times))
    for state in table.maximal():
        allowed = _partition({(p.profile, p.start) for p in state}, boxes)
        if not allowed.any():
            continue
        where = np.zeros(len(times), np.int64)
        if _fill(order, allowed, times, boxes, _ready(allowed, boxes), where):
            yield Seed(f"fixed {table.describe(state)}", where)


def far(table: Geometry, times: Floats, boxes: Boxes, work: Work) -> Iterator[Seed]:
    """FAR, if every task fits a plain profile."""
    end, where = far_boxes(table, times, boxes, work)
    if np.isfinite(end):
        yield Seed("far", where, IN_ORDER)


def mirrored(seed: Seed, boxes: Boxes) -> Seed:
    """The seed reversed in time, as FAR continues a batch: from small to large, where a GPU has boxes for it."""
    after = {boxes.place(b): b for b in range(boxes.n) if boxes.after[b]}
    where = np.array([after.get(boxes.place(b), int(b)) for b in seed.where], np.int64)
    return Seed(f"{seed.name} reversed", where)


def greedy(times: Floats, boxes: Boxes) -> Seed:
    """The longest task first, each in the box where it ends first, reconfigurations left out.

    For GPUs of several models, and tasks that need profiles beyond 1g to 7g, where neither FAR nor a partition has a plan.
    """
    load, where = np.zeros(boxes.n), np.zeros(len(times), np.int64)
    for t in _longest_first(times):
        ends = [_end_if(b, boxes, load) + times[t, boxes.column[b]] for b in range(boxes.n)]
        where[t] = int(np.argmin(ends))
        load[where[t]] += times[t, boxes.column[where[t]]]
    return Seed("greedy", where)


def _end_if(box: int, boxes: Boxes, load: Floats) -> float:
    """When the busiest memory slice of a box is free of what is placed so far, were there no reconfiguration."""
    mine = range(boxes.first[boxes.gpu[box]], boxes.first[boxes.gpu[box] + 1])
    slices = np.zeros(8)
    for b in mine:
        slices[boxes.start[b] : boxes.start[b] + boxes.size[b]] += load[b] + boxes.busy[b]
    return float(slices[boxes.start[box] : boxes.start[box] + boxes.size[box]].max())


def all_seeds(tables: Sequence[Geometry], times: Floats, boxes: Boxes, work: Work) -> list[Seed]:
    """Every plan that needs no search. Of GPUs of several models only `greedy` knows."""
    found = []
    if len({table.model for table in tables}) == 1:
        found += [*far(tables[0], times, boxes, work), *fixed_partitions(tables[0], times, boxes)]
    if not found or boxes.made.any():
        found.append(greedy(times, boxes))
    if boxes.after.any():
        found += [mirrored(seed, boxes) for seed in tuple(found)]
    return found
