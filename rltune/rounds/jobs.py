"""Job lists of the published round-based simulations: Gavel's continuous ones and Shockwave's 120 jobs.

A job is a number of training steps and its speed, in steps a second, on each GPU type. Gavel's lists (Narayanan et al.,
OSDI 2020) are read from files or drawn as its generator draws them: `draw_gavel_jobs` with seeds 0 to 2 gives the
published lists, step by step of Python's generators, and other seeds give lists to choose constants on.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from rltune.nouns.errors import InputError
from rltune.nouns.throughput import Throughput

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

GAVEL_TYPES = ("V100", "P100", "K80")
"""In the order in which Gavel fills them where speeds are known."""
GAVEL_MODELS = (
    *(f"ResNet-18 (batch size {2**k})" for k in range(4, 9)),
    *(f"ResNet-50 (batch size {2**k})" for k in range(4, 8)),
    *(f"Transformer (batch size {2**k})" for k in range(4, 9)),
    "A3C",
    *(f"LM (batch size {5 * 2**k})" for k in range(5)),
    *(f"Recommendation (batch size {2**k})" for k in range(9, 14)),
    "CycleGAN",
)
"""Gavel's table of models in the order of May 2020, when the published runs were made (reordered in August 2020)."""
NOT_DISTRIBUTED = ("Recommendation", "A3C", "CycleGAN")
"""Models that run on one GPU only: a gang draws its model again."""


@dataclass(frozen=True, slots=True)
class RoundJobs:
    """Jobs in order of arrival.

    Attributes:
        arrival_s: (n_jobs,) not decreasing.
        gpus: (n_jobs,) GPUs of the gang, all of one type.
        steps: (n_jobs,) training steps, above 0.
        rate: (n_jobs, n_types) steps a second of the whole gang; 0: it cannot run there.
        model: (n_jobs,) names.
        types: names of the GPU types.
    """

    arrival_s: Floats
    gpus: Ints
    steps: Floats
    rate: Floats
    model: tuple[str, ...]
    types: tuple[str, ...] = GAVEL_TYPES

    def __post_init__(self) -> None:
        n = len(self.arrival_s)
        if self.rate.shape != (n, len(self.types)) or not len(self.gpus) == len(self.steps) == len(self.model) == n:
            raise InputError("jobs of rounds: columns differ in length; give one value a job, and a speed a type")
        if n and ((np.diff(self.arrival_s) < 0).any() or self.arrival_s[0] < 0):
            raise InputError("jobs of rounds: arrival_s must start at 0 or later and not decrease; sort the jobs")
        idle = (self.gpus < 1) | ~(self.steps > 0) | ~(self.rate > 0).any(1)
        if idle.any():
            raise InputError(
                f"jobs of rounds: job {int(idle.argmax())} has no GPU, no steps, or no type that it runs on"
            )

    def __len__(self) -> int:
        return len(self.arrival_s)

    def shortest_s(self) -> Floats:
        """(n_jobs,) seconds alone on the job's fastest type."""
        return np.asarray(self.steps / self.rate.max(1))


def read_gavel_jobs(path: Path) -> RoundJobs:
    """A list with columns submit_s, model, num_gpus, run_v100_s, run_p100_s, run_k80_s (empty: cannot run there), steps."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; set RLTUNE_TRACES to the folder of gavel_continuous/")
    table = pd.read_csv(path)
    columns = [f"run_{name.lower()}_s" for name in GAVEL_TYPES]
    if missing := {"submit_s", "model", "num_gpus", "steps", *columns} - set(table):
        raise InputError(f"{path.name}: column {', '.join(sorted(missing))} is missing")
    steps = table["steps"].to_numpy(np.float64)
    rate = np.nan_to_num(steps[:, None] / table[columns].to_numpy(np.float64), nan=0.0)
    gpus = table["num_gpus"].to_numpy(np.int64)
    return RoundJobs(table["submit_s"].to_numpy(np.float64), gpus, steps, rate, tuple(table["model"]))


def rates_of(table: Throughput, types: tuple[str, ...] = GAVEL_TYPES) -> Mapping[tuple[str, int], Floats]:
    """(model, GPUs) -> (n_types,) steps a second on one node, 0 where not measured; from a table of steps a second."""
    rate = np.nan_to_num(table.rate[:, :, 0][:, :, [table.types.index(name) for name in types]], nan=0.0)
    return {(model, gpus): rate[m, g] for m, model in enumerate(table.classes) for g, gpus in enumerate(table.scales)}


def draw_gavel_jobs(
    n_jobs: int, jobs_per_hour: float, seed: int, rates: Mapping[tuple[str, int], Floats], gangs: bool = False
) -> RoundJobs:
    """The list of Gavel's generator: Poisson arrivals; 80 % log-uniform 10^1.5 to 10^3 minutes on V100, 20 % 10^3 to 10^4.

    ``rates``: see `rates_of`. ``gangs``: 1, 2, 4, 8 GPUs with probabilities .7 .1 .15 .05, else one GPU each.
    """
    draw, gap = random.Random(seed + 2), random.Random(seed + 3)
    arrival, now = np.zeros(n_jobs), 0.0
    gpus, steps, models = np.ones(n_jobs, np.int64), np.zeros(n_jobs), []
    for j in range(n_jobs):
        if j:
            now += -math.log(1.0 - gap.random()) * 3600.0 / jobs_per_hour
        arrival[j] = now
        size = draw.uniform(0, 1)
        if gangs:
            gpus[j] = 1 if size < 0.7 else 2 if size <= 0.8 else 4 if size <= 0.95 else 8
        seconds = 60 * 10 ** (draw.uniform(3, 4) if draw.random() >= 0.8 else draw.uniform(1.5, 3))
        model = draw.choice(GAVEL_MODELS)
        while gpus[j] > 1 and model.startswith(NOT_DISTRIBUTED):
            model = draw.choice(GAVEL_MODELS)
        models.append(model)
        steps[j] = seconds * rates[model, int(gpus[j])][0]
    rate = np.array([rates[model, int(k)] for model, k in zip(models, gpus, strict=True)])
    return RoundJobs(arrival, gpus, steps, rate, tuple(models))
