"""Give jobs a label (an end, a virtual cluster) whose shares of the jobs and of the GPU time are both known."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

BINS = 64
"""Classes of equally many units by GPU time, in each of which one chance holds."""
HEAVY, HEAVY_PART = 2000, 50
"""Units whose labels are apportioned by weight: so many, and at most every fiftieth."""
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
    label = _even(cell, gpu_seconds, chance, rng)
    heaviest = np.argsort(-gpu_seconds, kind="stable")[: min(HEAVY, n // HEAVY_PART)]
    if len(heaviest):
        label[heaviest] = _apportioned(gpu_seconds[heaviest], chance[cell[heaviest]], rng)
    return label


def _even(cell: Ints, gpu_seconds: Floats, chance: Floats, rng: np.random.Generator) -> Ints:
    """Labels (n,) by the chances of the cells, in even steps (golden ratio) from the lightest to the heaviest of each."""
    n, edges = len(cell), np.cumsum(chance, axis=1)[:, :-1]
    order = np.lexsort((gpu_seconds, cell))
    first = np.searchsorted(cell[order], np.arange(len(chance) + 1))
    place = np.arange(n) - first[cell[order]]
    u = np.empty(n)
    u[order] = (rng.random(len(chance))[cell[order]] + place * (5**0.5 - 1) / 2) % 1.0
    label: Ints = (u[:, None] >= edges[cell]).sum(axis=1)
    return label


def _apportioned(weight: Floats, chance: Floats, rng: np.random.Generator) -> Ints:
    """Labels (n,) of heavy units, heaviest first, each to the label that is furthest behind what its chances promised.

    A handful of jobs holds a tenth of a cluster's GPU time: drawn one by one, shares would be a matter of luck.
    """
    behind = weight[0] * (rng.random(chance.shape[1]) - 0.5)
    label = np.empty(len(weight), np.int64)
    for k, (load, promised) in enumerate(zip(weight, chance, strict=True)):
        behind += load * promised
        label[k] = int(np.argmax(np.where(promised > 0, behind, -np.inf)))
        behind[label[k]] -= load
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
