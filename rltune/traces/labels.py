"""Give jobs a label (an end, a virtual cluster) whose shares of the jobs and of the GPU time are both known."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

BINS = 64
"""Classes of equally many units by GPU time, in each of which one chance holds."""
ROUNDS, STEP = 600, 0.3
"""Of the fit; it takes some milliseconds, for it sees classes and not jobs."""


def tilted(
    gpu_seconds: Floats,
    jobs_share: Any,
    time_share: Any,
    rng: np.random.Generator,
    *,
    jobs: npt.NDArray[Any] | None = None,
    stratum: Ints | None = None,
    base: npt.NDArray[Any] | None = None,
) -> Ints:
    """(n,) labels 0..k-1 of n units (jobs, or batches of jobs).

    A unit of stratum s with GPU time t gets label k with a chance proportional to
    base[s, k] exp(a_k + b_k log t); a and b are fitted to the two shares.

    Args:
        gpu_seconds: (n,) GPU time of each unit.
        jobs_share, time_share: (k,) shares of the jobs and of the GPU time, all > 0; each is scaled to sum 1.
        jobs: (n,) jobs of each unit; default 1.
        stratum, base: (n,) classes of the units, (strata, k) weights; 0 forbids.
    """
    n = len(gpu_seconds)
    jobs = np.ones(n) if jobs is None else jobs
    stratum = np.zeros(n, np.int64) if stratum is None else stratum
    wanted, load = (np.asarray(share, float) / np.sum(share) for share in (jobs_share, time_share))
    weight = np.ones((int(stratum.max()) + 1, len(wanted))) if base is None else np.asarray(base, float)
    rank = np.empty(n, np.int64)
    rank[np.argsort(gpu_seconds, kind="stable")] = np.arange(n)
    cell = stratum * BINS + rank * BINS // n
    chance = _fit(cell, gpu_seconds, jobs, wanted, load, np.repeat(weight, BINS, axis=0))
    edges = np.cumsum(chance, axis=1)[:, :-1]
    # Even numbers within a cell, in the order of GPU time: the few units that hold most of it keep to the chances.
    order = np.lexsort((gpu_seconds * rng.uniform(0.8, 1.25, n), cell))
    first = np.searchsorted(cell[order], np.arange(len(chance) + 1))
    place = np.arange(n) - first[cell[order]]
    golden = (5**0.5 - 1) / 2
    u = np.empty(n)
    u[order] = (rng.random(len(chance))[cell[order]] + place * golden) % 1.0
    label: Ints = (u[:, None] >= edges[cell]).sum(axis=1)
    return label


def _fit(
    cell: Ints, gpu_seconds: Floats, jobs: npt.NDArray[Any], wanted: Floats, load: Floats, weight: Floats
) -> Floats:
    """(cells, k) chances at which the expected shares are the wanted ones."""
    cells = len(weight)
    mass = np.bincount(cell, weights=jobs, minlength=cells)
    time = np.bincount(cell, weights=gpu_seconds, minlength=cells)
    size = np.log(np.maximum(time, 1) / np.maximum(mass, 1))
    size = (size - np.average(size, weights=mass)) / max(1e-9, size[mass > 0].std())
    mass, time = mass / mass.sum(), time / time.sum()
    a, b = np.log(wanted), np.zeros(len(wanted))
    chance = weight
    for _ in range(ROUNDS):
        score = a + b * size[:, None]
        chance = weight * np.exp(score - score.max(axis=1, keepdims=True))
        chance /= np.maximum(chance.sum(axis=1, keepdims=True), 1e-300)
        off = np.log(wanted / np.maximum(mass @ chance, 1e-9))
        a += STEP * off
        b += STEP * (np.log(load / np.maximum(time @ chance, 1e-9)) - off) / 2
    return chance
