"""A seeded generator of made-up jobs: arrivals, durations, gang sizes, GPU types, priorities, owners, task families."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rltune.nouns.errors import InputError
from rltune.nouns.gpus import gpu_type
from rltune.nouns.jobs import JobTable
from rltune.traces.arrivals import ARRIVALS, submissions
from rltune.traces.durations import DURATIONS, runtimes
from rltune.traces.families import chosen, tasks
from rltune.traces.trace import Trace

GPU_MIX = {1: 0.7, 2: 0.1, 4: 0.1, 8: 0.1}
"""GPUs of a gang -> share of the jobs; a round choice, not measured anywhere."""
MEDIAN_S, MEAN_S = 600.0, 3600.0
"""Of the durations; round choices too."""


@dataclass(frozen=True)
class SyntheticJobs:
    """Made-up jobs.

    Attributes:
        jobs: how many.
        arrivals_per_h: mean rate, jobs an hour.
        median_s, mean_s: of the durations, seconds; mean_s >= median_s.
        gpu_mix: GPUs of a gang -> weight; default ``GPU_MIX``.
        vcs, users: how many to spread the jobs over; 0: none.
        arrivals: "poisson", "diurnal" (busy days, quiet nights and weekends; second 0 is a Monday's midnight)
            or "bursty" (many jobs at once).
        durations: "lognormal", or "pareto" for a heavier tail.
        gpu_types: GPU type -> weight; default: jobs take any type.
        priorities: priority -> weight; default: all equal.
        user_skew: the k-th user submits as 1 / k^user_skew (Zipf); 0: all alike.
        families: True, or family -> weight: tasks of the kinds of ``FAMILIES`` with their own durations, gang
            sizes, shares, CPUs and memory, in place of ``median_s``, ``mean_s``, ``gpu_mix`` and ``durations``.

    Raises:
        InputError: values out of range or unknown names.
    """

    seed: int = 0
    jobs: int = 1000
    arrivals_per_h: float = 60.0
    median_s: float = MEDIAN_S
    mean_s: float = MEAN_S
    gpu_mix: Mapping[int, float] | None = None
    vcs: int = 0
    users: int = 0
    arrivals: str = "poisson"
    durations: str = "lognormal"
    gpu_types: Mapping[str, float] | None = None
    priorities: Mapping[float, float] | None = None
    user_skew: float = 0.0
    families: Mapping[str, float] | bool = False

    def __post_init__(self) -> None:
        others = min(self.vcs, self.users, self.user_skew)
        if self.jobs < 1 or self.arrivals_per_h <= 0 or not 0 < self.median_s <= self.mean_s or others < 0:
            raise InputError(
                f"trace synthetic: jobs={self.jobs}, arrivals_per_h={self.arrivals_per_h}, median_s={self.median_s}, "
                f"mean_s={self.mean_s}, vcs={self.vcs}, users={self.users}, user_skew={self.user_skew}; "
                "needed are jobs >= 1, arrivals_per_h > 0, 0 < median_s <= mean_s, others >= 0"
            )
        _one_of("arrivals", self.arrivals, ARRIVALS)
        _one_of("durations", self.durations, DURATIONS)
        own = (self.median_s, self.mean_s, self.durations) != (MEDIAN_S, MEAN_S, "lognormal")
        if self.families and (self.gpu_mix is not None or own):
            raise InputError(
                "trace synthetic: families bring their own durations and gang sizes; "
                "leave median_s, mean_s, durations and gpu_mix out"
            )

    def draw(self) -> Trace:
        """The trace; equal settings give equal jobs. InputError for weights that are none, and unknown types or families."""
        mix = _weights("gpu_mix", "gang size", GPU_MIX if self.gpu_mix is None else self.gpu_mix, int)
        types = _weights("gpu_types", "GPU type", self.gpu_types or {}, str)
        levels = _weights("priorities", "priority", self.priorities or {}, float)
        kinds = _weights("families", "family", chosen(self.families), str)
        for name in types:
            gpu_type(name)
        rng, jobs = np.random.default_rng(self.seed), self.jobs
        # The order of the draws is kept, and new ones come last: older options give the jobs they always gave.
        columns: dict[str, Any] = {
            "submit_s": submissions(jobs, self.arrivals_per_h, self.arrivals, rng).round(),
            "duration_s": runtimes(jobs, self.median_s, self.mean_s, self.durations, rng),
            "num_gpus": _drawn(mix, jobs, rng),
            "job_id": [f"synthetic-{k:05d}" for k in range(jobs)],
            "vc": _named("vc", rng.integers(self.vcs, size=jobs)) if self.vcs else None,
            "user": _named("user", _owners(self.users, self.user_skew, jobs, rng)) if self.users else None,
        }
        if types:
            columns["gpu_type"] = _drawn(types, jobs, rng)
        if levels:
            columns["priority"] = _drawn(levels, jobs, rng)
        if kinds:
            columns |= tasks(kinds, types, jobs, rng)
        table = JobTable.from_columns(columns, source="synthetic")
        return Trace.of(table, name="synthetic", source="synthetic", notes=self._notes(list(kinds)))

    def _notes(self, families: Sequence[str]) -> tuple[str, ...]:
        lengths = f"median {self.median_s:g} s, mean {self.mean_s:g} s"
        if families:
            lengths = f"families {', '.join(families)}"
        # The defaults are not named.
        named = [each for each in (self.arrivals, self.durations) if each not in ("poisson", "lognormal")]
        drawn = ", ".join([f"made up: {self.arrivals_per_h:g} jobs/h", lengths, f"seed {self.seed}", *named])
        if not families:
            return (drawn,)
        return (
            drawn,
            "families: work as in Pollux's workload; gang sizes, GPU types and gradient boosting are invented",
        )


def _one_of(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"trace synthetic: {option}={value!r}; use one of {', '.join(known)}")


def _weights(option: str, what: str, given: Mapping[Any, float], kind: type) -> dict[Any, float]:
    """The mapping with keys of one kind; InputError unless its weights are at least 0 and not all 0."""
    try:
        weights = {kind(key): float(weight) for key, weight in given.items()}
        values = np.array(list(weights.values()))
        if kind is int and any(size < 1 or size != float(key) for size, key in zip(weights, given, strict=True)):
            raise ValueError
    except (AttributeError, TypeError, ValueError):
        raise InputError(f"trace synthetic: {option}={given!r}; give each {what} a weight, e.g. {{...: 0.5}}") from None
    absent_is_fine = option != "gpu_mix" and len(weights) == 0
    if not absent_is_fine and (
        len(weights) == 0 or not (np.isfinite(values) & (values >= 0)).all() or not values.sum()
    ):
        raise InputError(f"trace synthetic: {option}={weights}; give each {what} a weight >= 0, not all 0")
    return weights


def _drawn(weights: Mapping[Any, float], jobs: int, rng: np.random.Generator) -> np.ndarray:
    """(jobs,) keys in the shares of their weights."""
    share = np.array(list(weights.values()))
    return rng.choice(list(weights), size=jobs, p=share / share.sum())


def _owners(users: int, skew: float, jobs: int, rng: np.random.Generator) -> np.ndarray:
    if skew == 0:
        return rng.integers(users, size=jobs)
    share = np.arange(1, users + 1) ** -float(skew)
    return rng.choice(users, size=jobs, p=share / share.sum())


def _named(prefix: str, codes: np.ndarray) -> np.ndarray:
    """(jobs,) ``prefix`` with each code."""
    names = np.array([f"{prefix}{k}" for k in range(int(codes.max()) + 1)], dtype=object)
    found: np.ndarray = names[codes]
    return found
