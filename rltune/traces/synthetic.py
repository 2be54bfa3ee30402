"""A plain seeded generator: Poisson arrivals, log-normal durations, a fixed mix of gang sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from rltune.errors import InputError
from rltune.jobs import JobTable
from rltune.traces.trace import Trace

GPU_MIX = {1: 0.7, 2: 0.1, 4: 0.1, 8: 0.1}
"""GPUs of a gang -> share of the jobs; a round choice, not measured anywhere."""


def synthetic(
    seed: int = 0,
    jobs: int = 1000,
    arrivals_per_h: float = 60.0,
    median_s: float = 600.0,
    mean_s: float = 3600.0,
    gpu_mix: Mapping[int, float] | None = None,
    vcs: int = 0,
    users: int = 0,
) -> Trace:
    """Made-up jobs.

    Args:
        jobs: how many.
        arrivals_per_h: Poisson rate, jobs an hour.
        median_s, mean_s: of the log-normal durations, seconds; mean_s >= median_s.
        gpu_mix: GPUs of a gang -> weight; default ``GPU_MIX``.
        vcs, users: how many to spread the jobs over evenly; 0: none.
    """
    if jobs < 1 or arrivals_per_h <= 0 or not 0 < median_s <= mean_s or vcs < 0 or users < 0:
        raise InputError(
            f"trace synthetic: jobs={jobs}, arrivals_per_h={arrivals_per_h}, median_s={median_s}, "
            f"mean_s={mean_s}, vcs={vcs}, users={users}; "
            "needed are jobs >= 1, arrivals_per_h > 0, 0 < median_s <= mean_s, others >= 0"
        )
    mix = GPU_MIX if gpu_mix is None else {int(size): float(weight) for size, weight in gpu_mix.items()}
    weights = np.array(list(mix.values()))
    if len(mix) == 0 or (weights < 0).any() or weights.sum() == 0:
        raise InputError(f"trace synthetic: gpu_mix={mix}; give each gang size a weight >= 0, not all 0")
    rng = np.random.default_rng(seed)
    sigma = math.sqrt(2 * math.log(mean_s / median_s))  # mean = median x exp(sigma^2 / 2)
    columns = {
        "submit_s": np.cumsum(rng.exponential(3600 / arrivals_per_h, jobs)).round(),
        "duration_s": np.maximum(1, rng.lognormal(math.log(median_s), sigma, jobs).round()),
        "num_gpus": rng.choice(list(mix), size=jobs, p=weights / weights.sum()),
        "job_id": [f"synthetic-{k:05d}" for k in range(jobs)],
        "vc": [f"vc{k}" for k in rng.integers(vcs, size=jobs)] if vcs else None,
        "user": [f"user{k}" for k in rng.integers(users, size=jobs)] if users else None,
    }
    notes = (f"made up: {arrivals_per_h:g} jobs/h, median {median_s:g} s, mean {mean_s:g} s, seed {seed}",)
    table = JobTable.from_columns(columns, source="synthetic")
    return Trace.of(table, name="synthetic", source="synthetic", notes=notes)
