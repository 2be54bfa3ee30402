"""What must be known of a cluster to generate jobs like its own: published numbers and declared assumptions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date

import numpy as np

SIZES = (1, 2, 4, 8, 12, 16, 24, 32, 40, 48, 56, 64)
"""GPUs at which the size CDFs of Helios are published; the last class is everything above."""
WIDEST = (72, 80, 96, 128, 160)
"""Assumption: gang sizes above 64 GPUs; their weights follow from the published mean gang size."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """How jobs end.

    Attributes:
        names: of the ends, as the log calls them.
        jobs_pct: jobs that end so, per cent.
        gpu_time_pct: GPU time of the jobs that end so, per cent.
        sizes: GPUs up to which a row of ``by_size_pct`` holds; the last row is everything above.
        by_size_pct: jobs of that size that end so, per cent (len(sizes) + 1 rows); the first two prevail.
    """

    names: tuple[str, ...]
    jobs_pct: tuple[float, ...]
    gpu_time_pct: tuple[float, ...]
    sizes: tuple[int, ...]
    by_size_pct: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class ClusterStatistics:
    """One cluster, GPU jobs only.

    Attributes:
        size_cdf_pct: jobs with at most ``sizes`` GPUs, per cent.
        gpu_time_cdf_pct: GPU time of jobs with at most ``sizes`` GPUs, per cent.
        mean_gpus: mean gang size.
        gpu_seconds: GPU time of all jobs, in parts that add up.
        duration_cdf_pct: jobs that run at most 2^0, 2^1, 2^2, ... s, per cent.
        hourly_jobs: submissions per hour at hours 0..23 of the day, mean over all days.
        months: (first day, days, multi-GPU jobs, single-GPU jobs) of consecutive stretches.
        users: users with GPU jobs; 0: not published, none is generated.
        user_share_pct: (users from the top, per cent of the others; their share of GPU time, per cent).
        vc_nodes: virtual cluster -> nodes of 8 GPUs.
        vc_busy: virtual cluster -> share of its GPUs in use; empty: equal.
        sizes, widest: gang sizes of the CDFs, and those of the class above them.
        weekend_factor: submissions of a Saturday or Sunday hour against a weekday's.
        batch_jobs: mean number of jobs a user submits in one go (geometric).
        batch_gap_s, batch_gap_sigma: mean seconds between two jobs of a batch; exponential, or where sigma > 0
            log-normal with that standard deviation of the logarithm.
        day_spread: standard deviation of the logarithm of a day's rate; 0: days differ by weekday alone.
        outcomes: how jobs end; None: not generated.
    """

    size_cdf_pct: tuple[float, ...]
    gpu_time_cdf_pct: tuple[float, ...]
    mean_gpus: float
    gpu_seconds: tuple[float, ...]
    duration_cdf_pct: tuple[float, ...]
    hourly_jobs: tuple[float, ...]
    months: tuple[tuple[date, int, int, int], ...]
    users: int
    user_share_pct: tuple[tuple[float, float], ...]
    vc_nodes: dict[str, int]
    vc_busy: dict[str, float] | None = None
    sizes: tuple[int, ...] = SIZES
    widest: tuple[int, ...] = WIDEST
    weekend_factor: float = 0.7
    batch_jobs: float = 3.0
    batch_gap_s: float = 30.0
    batch_gap_sigma: float = 0.0
    day_spread: float = 0.0
    outcomes: Outcomes | None = None

    @property
    def jobs(self) -> int:
        """Jobs of all months."""
        return sum(multi + single for _, _, multi, single in self.months)

    def scaled(self, jobs: int) -> ClusterStatistics:
        """The same span with ``jobs`` jobs in all: the rate, and so the load, changes in proportion."""
        counts = np.array([count for month in self.months for count in month[2:]])
        upto = np.rint(np.cumsum(counts) * (jobs / counts.sum())).astype(int)
        parts = np.diff(upto, prepend=0).reshape(-1, 2).tolist()
        months = tuple((m[0], m[1], multi, single) for m, (multi, single) in zip(self.months, parts, strict=True))
        return replace(self, months=months, gpu_seconds=tuple(s * jobs / self.jobs for s in self.gpu_seconds))
