"""Families of synthetic batches, as the authors of FAR generate them (artecs RL_MIG_scheduler; arXiv 2507.13601).

A task takes t1 on one compute slice and t_s = t_{s-1} (s - 1 + x) / s on s: x = 0 is linear scaling, x = 1 none, x < 0
super-linear. Times are kept at 1, 2, 3, 4 and 7 slices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rltune.mig.batch.tasks import Tasks, tasks_of

SIZES = (1, 2, 3, 4, 7)
"""Compute slices of the profiles 1g, 2g, 3g, 4g and 7g."""


@dataclass(frozen=True, slots=True)
class Family:
    """``scales_to``: probability that a task scales to 1, 2, 3, 4, 7 slices; ``memory_bound`` share; range of ``t1_s``."""

    scales_to: tuple[float, float, float, float, float]
    memory_bound: float
    t1_s: tuple[float, float] = (90.0, 100.0)


FAMILIES: Mapping[str, Family] = {
    "good_scaling": Family((0, 0, 0, 0.5, 0.5), 0.75),
    "bad_scaling": Family((0.5, 0.5, 0, 0, 0), 0.25),
    "mix_scaling_extreme": Family((0.45, 0.05, 0, 0.05, 0.45), 0.5),
    "mix_scaling_soft": Family((0.2, 0.2, 0.2, 0.2, 0.2), 0.5),
    "wide_times": Family((0.2, 0.2, 0.2, 0.2, 0.2), 0.5, (1.0, 100.0)),
}
MEMORY_BOUND_ENDS = 0.025
"""Probability, at every further slice, that a memory-bound task is so no longer."""


def family_times(family: str, tasks: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """(tasks, 5) seconds at 1, 2, 3, 4 and 7 compute slices."""
    return np.array([_times(FAMILIES[family], rng) for _ in range(tasks)])


def family_batch(family: str, tasks: int, rng: np.random.Generator, model: str = "A100-80GB") -> Tasks:
    """A batch of the family for a GPU of seven slices."""
    times = family_times(family, tasks, rng)
    return tasks_of(model, {f"{size}g": times[:, column] for column, size in enumerate(SIZES)})


def _times(family: Family, rng: np.random.Generator) -> list[float]:
    scales_to = SIZES[rng.choice(len(SIZES), p=family.scales_to)]
    memory_bound = rng.random() < family.memory_bound
    seconds = rng.uniform(*family.t1_s)
    kept = [seconds]
    for size in range(2, SIZES[-1] + 1):
        memory_bound = memory_bound and rng.random() >= MEMORY_BOUND_ENDS
        # From 3g to 4g compute grows and memory does not: both have four memory slices.
        if size > scales_to or (memory_bound and size == 4):
            x = np.clip(rng.normal(0.75, 0.25), 0.5, 1.0)
        elif memory_bound:
            x = np.clip(rng.normal(-0.3, 0.3), -0.5, 0.0)
        else:
            x = np.clip(rng.normal(0.05, 0.05), 0.0, 0.1)
        seconds *= (size - 1 + x) / size
        if size in SIZES:
            kept.append(seconds)
    return kept
