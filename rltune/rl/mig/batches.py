"""Batches to train and to validate on, drawn from the published families of synthetic tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rltune.mig.batch.families import FAMILIES, SIZES, family_batch
from rltune.mig.batch.tasks import Tasks
from rltune.mig.geometry import geometry
from rltune.rl.mig.env import Episode

POOL = 4000
"""Tasks of each family that training batches are drawn from: drawing afresh would take as long as learning."""


@dataclass(frozen=True)
class Mixture:
    """What training batches are like.

    ``families`` alike often; ``tasks`` (least, most) in a batch that is visible at once; ``online`` share of batches of
    which ``window`` tasks are visible at a time, with ``online_tasks`` (least, most); ``needy`` share of batches in
    which some tasks cannot run on small profiles; ``scale`` largest factor, up or down, on the times of half of the
    batches.
    """

    families: tuple[str, ...] = tuple(FAMILIES)
    tasks: tuple[int, int] = (6, 20)
    online: float = 0.2
    online_tasks: tuple[int, int] = (15, 50)
    window: int = 5
    needy: float = 0.1
    scale: float = 5.0


class Sampler:
    """Draws episodes of a mixture; a `rltune.rl.mig.env.Source`."""

    def __init__(self, mixture: Mixture, model: str, seed: int) -> None:
        rng = np.random.default_rng([seed, 0])
        self.mixture = mixture
        self.pools = [family_batch(family, POOL, rng, model).seconds[model] for family in mixture.families]

    def __call__(self, rng: np.random.Generator) -> Episode:
        mixture = self.mixture
        pool = self.pools[rng.integers(len(self.pools))]
        online = rng.random() < mixture.online
        n = int(rng.integers(*(mixture.online_tasks if online else mixture.tasks), endpoint=True))
        seconds = pool[rng.integers(len(pool), size=n)]
        if rng.random() < 0.5:
            seconds = seconds * mixture.scale ** rng.uniform(-1.0, 1.0)
        if rng.random() < mixture.needy:
            seconds = needy(seconds, rng)
        return Episode(seconds, mixture.window if online else n)


def needy(seconds: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """The same tasks, some of which need more memory than small profiles have (profiles go from large to small)."""
    usable = np.flatnonzero(np.isfinite(seconds).any(0))
    largest = usable[rng.integers(len(usable), size=len(seconds))]
    some = rng.random(len(seconds)) < 0.3
    return np.where(some[:, None] & (np.arange(seconds.shape[1]) > largest[:, None]), np.inf, seconds)


def drawn(families: Sequence[str], each: int, tasks: int, model: str, seed: Sequence[int]) -> dict[str, list[Tasks]]:
    """``each`` fresh batches of every family."""
    rng = np.random.default_rng(list(seed))
    return {family: [family_batch(family, tasks, rng, model) for _ in range(each)] for family in families}


def family_profiles(model: str) -> tuple[int, ...]:
    """Profiles that the families have times for."""
    return tuple(sorted(geometry(model).profile(f"{size}g") for size in SIZES))
