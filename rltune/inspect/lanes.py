"""Where in its node a run is drawn: slices where they were cut, everything else in the first GPUs that are free."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Segment = tuple[float, float, float]
"""Top and height in GPUs, and when it becomes free."""
EPSILON = 1e-9


def lanes(
    run: Ints, node: Ints, top: Floats, gpus: Floats, start_s: Floats, end_s: Floats, cap: Ints
) -> tuple[Ints, Ints, Floats, Floats, Floats, Floats]:
    """Bars as in `rltune.inspect.recorded.Bars`, from one row for each run and node (n,), by start.

    ``top``: first GPU, -1: not recorded; ``gpus``: held there; ``cap`` (n_nodes,): GPUs of each node. A run on GPUs that do not
    lie side by side gets several bars.
    """
    held: dict[int, list[Segment]] = {}
    rows: list[int] = []
    tops: list[float] = []
    heights: list[float] = []
    for k, (n, at, size, start, end) in enumerate(
        zip(*(x.tolist() for x in (node, top, gpus, start_s, end_s)), strict=True)
    ):
        busy = [each for each in held.get(n, ()) if each[2] > start + EPSILON]
        for a, height in [(at, size)] if at >= 0 else free_segments(busy, size, int(cap[n])):
            busy.append((a, height, end))
            rows.append(k)
            tops.append(a)
            heights.append(height)
        held[n] = busy
    index = np.array(rows, np.int64)
    return run[index], node[index], np.array(tops), np.array(heights), start_s[index], end_s[index]


def free_segments(busy: list[Segment], size: float, cap: int) -> list[tuple[float, float]]:
    """Top and height of where ``size`` GPUs fit beside ``busy``; at the top where nothing is free (recorded GPUs came later)."""
    taken: list[list[tuple[float, float]]] = [[] for _ in range(cap)]
    for a, height, _ in busy:
        for gpu in range(int(a + EPSILON), min(cap, math.ceil(a + height - EPSILON))):
            taken[gpu].append((max(a - gpu, 0.0), min(a + height - gpu, 1.0)))
    if size < 1 - EPSILON:
        for gpu in range(cap):
            if (at := gap(sorted(taken[gpu]), size)) is not None:
                return [(gpu + at, size)]
        return [(0.0, size)]
    free = [gpu for gpu in range(cap) if not taken[gpu]][: round(size)]
    if len(free) < round(size):
        return [(0.0, size)]
    found = [(float(free[0]), 1.0)]
    for gpu in free[1:]:
        first, height = found[-1]
        if gpu == first + height:
            found[-1] = (first, height + 1.0)
        else:
            found.append((float(gpu), 1.0))
    return found


def gap(taken: list[tuple[float, float]], size: float) -> float | None:
    """Where in one GPU a share fits; None: nowhere."""
    at = 0.0
    for begin, end in taken:
        if begin - at >= size - EPSILON:
            return at
        at = max(at, end)
    return at if 1.0 - at >= size - EPSILON else None
