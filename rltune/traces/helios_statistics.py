"""Published statistics of Helios clusters, to which the generator is calibrated.

Source: Hu et al., SC'21, doi 10.1145/3458817.3476223, and the figures and tables
of its artifact (S-Lab-System-Group/HeliosArtifact, MIT): ``job_cdf_gpunum``,
``job_cdf_jobtime``, ``cluster_diurnal``, ``cluster_monthly``, ``user_cdf_time``
(read from their vector paths) and ``helios_cluster_summary.csv``.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

SIZES = (1, 2, 4, 8, 12, 16, 24, 32, 40, 48, 56, 64)
"""GPUs at which the size CDFs are published; the last class is everything above."""


@dataclass(frozen=True, slots=True)
class HeliosStatistics:
    """One cluster, GPU jobs only.

    Attributes:
        size_cdf_pct: jobs with at most ``SIZES`` GPUs (12 values), per cent.
        gpu_time_cdf_pct: GPU time of jobs with at most ``SIZES`` GPUs (12 values), per cent.
        mean_gpus: mean gang size.
        gpu_seconds: GPU time of all jobs, by completed, cancelled and failed ones.
        duration_cdf_pct: jobs that run at most 2^0, 2^1, ... 2^21 s (22 values), per cent.
        hourly_jobs: submissions per hour at hours 0..23 of the day, mean over all days.
        months: (first day, days, multi-GPU jobs, single-GPU jobs).
        users: users with GPU jobs.
        user_share_pct: (users from the top, per cent of the others; their share of GPU time, per cent).
        vc_nodes: virtual cluster -> nodes of 8 GPUs, September 2020.
    """

    size_cdf_pct: tuple[float, ...]
    gpu_time_cdf_pct: tuple[float, ...]
    mean_gpus: float
    gpu_seconds: tuple[float, float, float]
    duration_cdf_pct: tuple[float, ...]
    hourly_jobs: tuple[float, ...]
    months: tuple[tuple[date, int, int, int], ...]
    users: int
    user_share_pct: tuple[tuple[float, float], ...]
    vc_nodes: dict[str, int]


VENUS = HeliosStatistics(
    size_cdf_pct=(51.838, 57.383, 64.802, 89.976, 89.98, 94.143, 95.042, 97.76, 98.046, 98.3, 98.476, 98.709),
    gpu_time_cdf_pct=(
        4.633, 8.003, 12.766, 42.135, 42.136, 58.325, 60.18, 83.426, 84.791, 85.862, 87.979, 90.9,
    ),
    mean_gpus=6.736,
    gpu_seconds=(6373315670.0, 4920266598.0, 1052030340.0),
    duration_cdf_pct=(
        1.888, 2.776, 4.057, 6.373, 9.637, 14.763, 23.222, 37.642, 55.054, 65.144, 72.858,
        78.53, 83.668, 86.892, 89.646, 92.327, 95.416, 97.459, 98.902, 99.643, 99.939, 100.0,
    ),
    hourly_jobs=(
        25.851, 18.967, 17.282, 11.077, 7.729, 5.922, 5.403, 6.453, 10.79, 22.945, 37.326, 42.491,
        33.563, 37.431, 44.939, 47.746, 49.983, 49.95, 36.961, 37.851, 38.757, 39.326, 33.121, 29.922,
    ),
    months=(
        (date(2020, 4, 1), 30, 10600, 10311),
        (date(2020, 5, 1), 31, 9941, 7635),
        (date(2020, 6, 1), 30, 7634, 8593),
        (date(2020, 7, 1), 31, 9657, 13114),
        (date(2020, 8, 1), 31, 11522, 10611),
        (date(2020, 9, 1), 27, 10920, 14676),
    ),
    users=156,
    user_share_pct=(
        (0.0, 15.254), (0.645, 27.312), (1.291, 35.166), (1.936, 41.286), (2.581, 46.449), (3.549, 53.273),
        (4.516, 57.933), (5.807, 62.507), (7.42, 67.767), (10.0, 74.582), (12.581, 79.115), (15.484, 83.23),
        (20.323, 88.533), (25.807, 92.63), (30.323, 94.896), (40.323, 97.818), (48.387, 99.037),
        (58.065, 99.762), (71.936, 99.993), (100.0, 100.0),
    ),
    vc_nodes={
        "vcEwI": 9, "vcWoR": 5, "vcHvQ": 8, "vcvGl": 20, "vc8Gr": 6, "vcKeu": 12, "vcKrE": 4, "vcYVn": 11,
        "vchbv": 4, "vcLTP": 8, "vchA3": 3, "vcJsw": 32, "vcefl": 10, "vcvlY": 2, "vcgkz": 1,
    },
)  # fmt: skip

CLUSTERS = {"venus": VENUS}
