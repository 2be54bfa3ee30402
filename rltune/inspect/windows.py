"""What the page draws of a stretch of time: means of series by step, how full each node was, and single runs where they are few."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from rltune.inspect.recorded import Schedule

Floats = npt.NDArray[np.float64]
MOST_BARS = 10_000
"""Runs that are drawn one by one; above, nodes are drawn by how full they were."""
MOST_NAMED = 1000
"""Runs that carry their jobs' names."""
MOST_STEPS, MOST_ROWS = 4000, 400
"""Of a picture: no screen shows more."""


@dataclass(frozen=True)
class Steps:
    """A step function by its integral from the first change on: (n,) times and the integral up to each."""

    times_s: Floats
    integral: Floats

    def means(self, edges_s: Floats) -> Floats:
        """(n_edges - 1,) exact means between the edges."""
        if not len(self.times_s):
            return np.zeros(len(edges_s) - 1)
        # Before the first change and after the last it is 0, so that the integral stays as it is.
        return np.diff(np.interp(edges_s, self.times_s, self.integral)) / np.diff(edges_s)


def sums(rows: Any, weights: Any, count: int) -> Floats:
    """(count,) sums of ``weights`` by row."""
    return np.asarray(np.bincount(rows, weights, count), np.float64)


def steps_of(start_s: Floats, end_s: Floats, height: Floats) -> Steps:
    """The sum of ``height`` over the stretches from ``start_s`` to ``end_s``."""
    times = np.concatenate([start_s, end_s])
    order = np.argsort(times, kind="stable")
    times = times[order]
    level = np.cumsum(np.concatenate([height, -height])[order])
    integral = np.concatenate([[0.0], np.cumsum(level[:-1] * np.diff(times))]) if len(times) else times
    return Steps(times, integral)


def series(schedule: Schedule, begin_s: float, end_s: float, steps: int) -> bytes:
    """Means of all series of a schedule in ``steps`` equal steps, packed."""
    edges = np.linspace(begin_s, end_s, steps + 1)
    means = {name: each.means(edges).astype(np.float32) for name, each in schedule.series.items()}
    return packed({"begin": begin_s, "end": end_s}, {"time": (edges[:-1] + edges[1:]) / 2} | means)


def picture(
    schedule: Schedule, begin_s: float, end_s: float, steps: int, nodes: tuple[int, int] = (0, MOST_ROWS)
) -> bytes:
    """Nodes ``nodes[0]`` to before ``nodes[1]`` over a stretch, packed: bars where at most `MOST_BARS` are to be seen, else shares.

    Shares: (n_rows, n_steps) how full, 0 to 255; a row stands for ``per_row`` nodes where there are more than `MOST_ROWS`.
    """
    bars, low = schedule.bars, nodes[0]
    high = min(nodes[1], len(schedule.nodes))
    seen = np.flatnonzero((bars.start_s < end_s) & (bars.end_s > begin_s) & (bars.node >= low) & (bars.node < high))
    head = {"begin": begin_s, "end": end_s, "low": low, "high": high}
    if len(seen) <= MOST_BARS:
        outlines = [
            x for x in schedule.outlines if x["start"] < end_s and x["end"] > begin_s and low <= x["node"] < high
        ]
        columns: dict[str, npt.NDArray[Any]] = {
            "start": bars.start_s[seen], "end": bars.end_s[seen], "node": bars.node[seen].astype(np.int32),
            "top": bars.top[seen].astype(np.float32), "height": bars.height[seen].astype(np.float32),
            "run": bars.run[seen].astype(np.int32), "job": schedule.job[bars.run[seen]].astype(np.int32),
        }  # fmt: skip
        jobs = np.unique(columns["job"]) if len(seen) <= MOST_NAMED else ()
        names = {int(job): schedule.names[job] for job in jobs}
        return packed(head | {"mode": "bars", "outlines": outlines, "names": names}, columns)
    per_row = -(-(high - low) // MOST_ROWS)
    rows = -(-(high - low) // per_row)
    caps = np.array([x["gpus"] for x in schedule.nodes[low:high]], float)
    room = sums(np.arange(len(caps)) // per_row, caps, rows)
    full = shares(
        bars.start_s[seen],
        bars.end_s[seen],
        bars.height[seen],
        (bars.node[seen] - low) // per_row,
        np.linspace(begin_s, end_s, steps + 1),
        rows,
    )
    part = np.clip(255 * full / np.maximum(room, 1e-9)[:, None] + 0.5, 0, 255).astype(np.uint8)
    return packed(head | {"mode": "shares", "rows": rows, "steps": steps, "per_row": per_row}, {"share": part.ravel()})


def shares(start_s: Floats, end_s: Floats, height: Floats, row: Any, edges_s: Floats, rows: int) -> Floats:
    """(n_rows, n_steps) means of the sum of ``height`` by row between equally spaced edges."""
    steps, step = len(edges_s) - 1, float(edges_s[1] - edges_s[0])
    at = np.clip(np.concatenate([start_s, end_s]), edges_s[0], edges_s[-1])
    change, rows_twice = np.concatenate([height, -height]), np.concatenate([row, row])
    bin_of = np.minimum(((at - edges_s[0]) / step).astype(np.int64), steps - 1)
    # A change within a step counts there for what is left of it, and in full from the next step on.
    left = (edges_s[bin_of + 1] - at) / step
    size = rows * (steps + 1)
    first = rows_twice * (steps + 1) + bin_of
    within = sums(first, change * left, size).reshape(rows, steps + 1)[:, :steps]
    after = sums(first + 1, change, size + 1)[:size].reshape(rows, steps + 1)
    return np.maximum(within + np.cumsum(after, axis=1)[:, :steps], 0.0)


def packed(head: Mapping[str, Any], columns: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Length of a JSON head (4 bytes, little-endian), the head, then the columns that it lists, each at a multiple of 8 bytes."""
    told = {name: [column.dtype.name, len(column)] for name, column in columns.items()}
    text = json.dumps({**head, "columns": told}).encode()
    text += b" " * (-(4 + len(text)) % 8)
    parts = [len(text).to_bytes(4, "little"), text]
    for column in columns.values():
        data = np.ascontiguousarray(column).astype(column.dtype.newbyteorder("<"), copy=False).tobytes()
        parts += [data, b"\0" * (-len(data) % 8)]
    return b"".join(parts)
