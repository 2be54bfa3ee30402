"""A moment of a schedule: who held what, and who waited, with what was known of each."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rltune.inspect.recorded import Schedule
from rltune.inspect.windows import sums

MOST_WAITING = 100
"""Of the queue that are told one by one."""
ORDERS = {
    "next": "who was then started first",
    "submitted": "submission",
    "waited": "longest wait",
    "size": "most GPUs",
    "attained": "most attained service",
}
"""Orders in which the queue can be told. The policy's own is in its decisions (`rltune.inspect.decisions`)."""


def moment(schedule: Schedule, at_s: float, order: str = "next") -> dict[str, Any]:
    """The state at a second: bars on nodes as columns, and the queue as rows, the first `MOST_WAITING` in an order of `ORDERS`."""
    bars = schedule.bars
    now = np.flatnonzero((bars.start_s <= at_s) & (at_s < bars.end_s))
    job = schedule.job[bars.run[now]]
    running = (schedule.start_s <= at_s) & (at_s < schedule.end_s)
    return {
        "at": at_s,
        "running": int(running.sum()),
        "busy_gpus": float(schedule.held[running].sum()),
        "bars": {
            "node": bars.node[now].tolist(), "top": bars.top[now].round(4).tolist(),
            "height": bars.height[now].round(4).tolist(), "job": job.tolist(),
        },
        "outlines": [x for x in schedule.outlines if x["start"] <= at_s < x["end"]],
        "names": {int(k): schedule.names[k] for k in np.unique(job)},
        "queue": queue(schedule, at_s, order),
    }  # fmt: skip


def queue(schedule: Schedule, at_s: float, order: str) -> dict[str, Any]:
    """Who waited; wait in all up to then, GPU-seconds held before (attained), seconds until the next start."""
    job_of, since, to = schedule.waits
    here = np.flatnonzero((since <= at_s) & (at_s < to))
    job = job_of[here]
    waited = waited_until(schedule, job, at_s)
    attained = attained_until(schedule, job, at_s)
    keys = {
        "next": to[here],
        "submitted": schedule.submit_s[job],
        "waited": -waited,
        "size": -schedule.gpus[job],
        "attained": -attained,
    }
    first = np.argsort(keys[order], kind="stable")[:MOST_WAITING]
    rows = [
        {
            "job": int(job[k]), "name": schedule.names[job[k]], "gpus": float(schedule.gpus[job[k]]),
            "submitted": float(schedule.submit_s[job[k]]), "waited": float(waited[k]), "attained": float(attained[k]),
            "starts_in": float(to[here[k]] - at_s), "more": {name: values[job[k]] for name, values in schedule.columns.items()},
        }
        for k in first
    ]  # fmt: skip
    return {"waiting": len(job), "gpus": float(schedule.gpus[job].sum()), "rows": rows}


def waited_until(schedule: Schedule, jobs: npt.NDArray[np.int64], at_s: float) -> npt.NDArray[np.float64]:
    """(len(jobs),) seconds that each has waited up to a second."""
    job, since, to = schedule.waits
    waited = sums(job, np.clip(at_s - since, 0.0, to - since), len(schedule.names))
    return waited[jobs]


def attained_until(schedule: Schedule, jobs: npt.NDArray[np.int64], at_s: float) -> npt.NDArray[np.float64]:
    """(len(jobs),) GPU-seconds that each has held up to a second."""
    held = np.clip(at_s - schedule.start_s, 0.0, schedule.end_s - schedule.start_s) * schedule.held
    return sums(schedule.job, held, len(schedule.names))[jobs]
