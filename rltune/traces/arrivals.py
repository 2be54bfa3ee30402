"""When made-up jobs are submitted: evenly at random, by day and week, or in bursts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

ARRIVALS = ("poisson", "diurnal", "bursty")
HOURS = (
    0.93, 0.68, 0.62, 0.40, 0.28, 0.21, 0.19, 0.23, 0.39, 0.82, 1.34, 1.53,
    1.21, 1.35, 1.62, 1.72, 1.80, 1.80, 1.33, 1.36, 1.39, 1.41, 1.19, 1.08,
)  # fmt: skip
"""Rate of each hour of the day against the mean: Helios Venus (``helios_statistics``), rounded."""
WEEKEND = 0.7
"""Assumption: rate of days 5 and 6 of each week against the others'."""
BURST_JOBS, BURST_GAP_S = 20.0, 10.0
"""Assumption: mean jobs of a burst (geometric) and mean seconds between two of them (exponential)."""


def submissions(jobs: int, rate_per_h: float, kind: str, rng: np.random.Generator) -> Floats:
    """(jobs,) rising seconds at the mean rate ``rate_per_h``; ``kind`` is one of ``ARRIVALS``."""
    if kind == "bursty":
        return _bursts(jobs, rate_per_h, rng)
    passed_s: Floats = np.cumsum(rng.exponential(3600 / rate_per_h, jobs))
    return passed_s if kind == "poisson" else _by_week(passed_s)


def week() -> Floats:
    """(168,) rate of each hour of a week against the mean."""
    days = np.where(np.arange(7) >= 5, WEEKEND, 1.0)
    rate = np.outer(days, HOURS).reshape(-1)
    scaled: Floats = rate / rate.mean()
    return scaled


def _by_week(passed_s: Floats) -> Floats:
    """A Poisson process of constant rate, stretched where the week is quiet and squeezed where it is busy."""
    whole, rest = np.divmod(passed_s, 168 * 3600)
    work = np.concatenate([[0.0], np.cumsum(week())]) * 3600
    stretched: Floats = whole * 168 * 3600 + np.interp(rest, work, np.arange(169) * 3600.0)
    return stretched


def _bursts(jobs: int, rate_per_h: float, rng: np.random.Generator) -> Floats:
    """Poisson bursts of a geometric number of jobs; their counts vary 2 BURST_JOBS - 1 times as much as Poisson's."""
    opens = rng.random(jobs) < 1 / BURST_JOBS
    opens[0] = True
    burst = np.cumsum(opens) - 1
    begin_s = np.cumsum(rng.exponential(3600 / rate_per_h * BURST_JOBS, burst[-1] + 1))
    since = np.cumsum(rng.exponential(BURST_GAP_S, jobs))
    return np.sort(begin_s[burst] + since - since[np.flatnonzero(opens)][burst])
