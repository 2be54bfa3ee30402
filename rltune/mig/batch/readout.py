"""From boxes to a plan and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rltune.mig.batch.boxes import Boxes, Floats, Ints
from rltune.mig.batch.plan import Instance, Left, Plan, Run
from rltune.mig.batch.timetable import LONGEST_TAIL, Work, span
from rltune.mig.geometry import Placement


def makespan_of(where: Ints, times: Floats, boxes: Boxes, work: Work, rule: int = LONGEST_TAIL) -> float:
    """Seconds until the last task ends when task i runs in box ``where[i]``; the schedule is left in ``work``."""
    seconds = times[np.arange(len(where)), boxes.column[where]]
    load, held = np.bincount(where, seconds, boxes.n), np.bincount(where, minlength=boxes.n)
    return max(float(span(gpu, boxes, load, held, rule, work)) for gpu in range(len(boxes.clock)))


def plan_of(
    where: Ints, times: Floats, boxes: Boxes, work: Work, gpus: Sequence[str], left: Sequence[Left], method: str,
    rule: int = LONGEST_TAIL,
) -> Plan:  # fmt: skip
    """The plan in which task i runs in box ``where[i]``, those of a box one after the other, longest first."""
    makespan_of(where, times, boxes, work, rule)
    seconds = times[np.arange(len(where)), boxes.column[where]]
    instances, runs = [], []
    for box in np.flatnonzero((np.bincount(where, minlength=boxes.n) > 0) | (boxes.made > 0)):
        made = bool(boxes.made[box])
        begin = float(boxes.busy[box] if made else work.create_s[box] + boxes.create[box])
        goes = float(work.destroy_s[box])
        instances.append(
            Instance(
                int(boxes.gpu[box]),
                Placement(int(boxes.profile[box]), int(boxes.start[box])),
                None if made else float(work.create_s[box]),
                None if made else begin,
                goes if np.isfinite(goes) else None,
                goes + float(boxes.destroy[box]) if np.isfinite(goes) else None,
                float(boxes.busy[box]),
            )
        )
        members = np.flatnonzero(where == box)
        for task in members[np.argsort(-seconds[members], kind="stable")]:
            runs.append(Run(int(task), len(instances) - 1, begin, begin + float(seconds[task])))
            begin += float(seconds[task])
    runs.sort(key=lambda run: (run.start_s, run.task))
    return Plan(tuple(gpus), tuple(instances), tuple(runs), method, tuple(left))


def merged(where: Ints, boxes: Boxes) -> Ints:
    """The same with the tasks of two boxes in one where the second would only make the first one's instance anew."""
    where = where.copy()
    held = np.bincount(where, minlength=boxes.n) > 0
    for gpu in range(len(boxes.clock)):
        last: dict[int, int] = {}
        for box in range(boxes.first[gpu], boxes.first[gpu + 1]):
            if not (held[box] or boxes.made[box]):
                continue
            slices = [s for s in range(9) if boxes.mask[box] >> s & 1]
            before = {last.get(s, -1) for s in slices}
            other = before.pop() if len(before) == 1 else -1
            if other >= 0 and boxes.column[other] == boxes.column[box] and boxes.start[other] == boxes.start[box]:
                where[where == box] = other
            else:
                last |= dict.fromkeys(slices, box)
    return where


def boxes_in(plan: Plan, boxes: Boxes) -> Ints:
    """(n_tasks,) box of each task of a plan, by whatever method, on the same GPUs.

    Where a plan used a placement twice, the box holds the tasks of both.
    """
    number = {boxes.place(b): b for b in reversed(range(boxes.n)) if not boxes.made[b]}
    where = np.zeros(len(plan.runs), np.int64)
    for run in plan.runs:
        instance = plan.instances[run.instance]
        where[run.task] = number[instance.gpu, instance.placement.profile, instance.placement.start]
    return where
