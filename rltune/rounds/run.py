"""What a simulation in rounds is asked and answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rltune.nouns.errors import InputError
from rltune.rounds.clock import NOW, Clock
from rltune.rounds.jobs import Floats, Ints, RoundJobs


@dataclass(frozen=True, slots=True)
class Run:
    """A finished simulation: ``jct_s`` (n_jobs,), NaN where not finished, inf where dropped; rounds and allocations made."""

    jct_s: Floats
    rounds: int
    allocations: int
    dropped: int
    starts: int = 0

    def mean_jct_s(self, window: tuple[int, int]) -> float:
        """Of the jobs first to last (excluded) that finished."""
        jct = self.jct_s[window[0] : window[1]]
        return float(jct[np.isfinite(jct)].mean())


def check_workers(jobs: RoundJobs, workers: Ints) -> None:
    """InputError where the numbers of GPUs do not fit the jobs."""
    if jobs.rate.shape[1] != len(workers):
        raise InputError(f"{len(workers)} numbers of GPUs for {jobs.rate.shape[1]} types; give one a type")
    large = jobs.gpus > np.where(jobs.rate > 0, workers, 0).max(1)
    if large.any():
        raise InputError(
            f"job {int(large.argmax())}: its gang is larger than every type that it runs on; give more GPUs"
        )


def need_later_jobs(clock: Clock, window: tuple[int, int]) -> None:
    """InputError where the list has run out of arrivals while jobs of a window inside it were running."""
    if window[1] < len(clock.arrival) and clock.arrival[-1] < clock.time[NOW]:
        raise InputError(
            f"the list's {len(clock.arrival):,} jobs have all arrived before those of the window ended: draw a longer list"
        )
