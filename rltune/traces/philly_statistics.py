"""Statistics of Microsoft Philly, to which its generator is calibrated.

Source: Jeon et al., ATC'19 (msr-fiddle/philly-traces, CC-BY-4.0): shares, CDFs and rates of the 101,661 jobs that
ran from 2017-10-01 to 2017-12-22, local time, as public copies of the log hold them. The copies tell passed jobs
from others; how the others divide into killed and failed is Table 6 of the paper (13.5 and 17.2 % of all jobs,
37.69 and 17.76 % of the GPU time).
"""

from __future__ import annotations

from datetime import date

from rltune.traces.statistics import ClusterStatistics, Outcomes

KILLED, KILLED_TIME = 13.5 / (13.5 + 17.2), 37.69 / (37.69 + 17.76)
"""Part of the jobs that did not pass, and of their GPU time, that users killed."""


def _ends(passed: float, killed: float) -> tuple[float, float, float]:
    return passed, (100 - passed) * killed, (100 - passed) * (1 - killed)


PHILLY = ClusterStatistics(
    size_cdf_pct=(87.044, 89.323, 94.131, 99.042, 99.054, 99.768, 99.802, 99.989, 99.989, 99.991, 99.991, 99.997),
    gpu_time_cdf_pct=(16.002, 19.011, 37.43, 87.186, 87.189, 97.37, 97.926, 99.95, 99.95, 99.951, 99.951, 99.98),
    mean_gpus=1.6934,
    gpu_seconds=(7694941021.0,),
    duration_cdf_pct=(
        0.027, 0.082, 0.193, 0.532, 1.732, 4.819, 13.775, 24.717, 30.012, 35.656, 45.887, 59.303,
        74.835, 82.758, 88.406, 91.22, 93.764, 96.148, 98.033, 99.166, 99.749, 99.941, 99.999, 100.0,
    ),
    hourly_jobs=(
        68.53, 49.759, 63.831, 60.349, 46.012, 60.096, 83.205, 99.277, 59.253, 46.843, 40.735, 34.783,
        30.301, 31.602, 24.506, 31.241, 51.361, 37.988, 43.59, 37.928, 50.325, 46.904, 64.627, 61.783,
    ),
    months=(
        (date(2017, 10, 1), 31, 5490, 52881),
        (date(2017, 11, 1), 30, 5503, 25569),
        (date(2017, 12, 1), 22, 2178, 10040),
    ),
    users=0,
    user_share_pct=(),
    vc_nodes={},
    widest=(128,),
    weekend_factor=0.465,
    batch_jobs=30.0,
    batch_gap_s=120.0,
    batch_gap_sigma=2.2,
    day_spread=0.5,
    outcomes=Outcomes(
        names=("Pass", "Killed", "Failed"),
        jobs_pct=_ends(75.34, KILLED),
        gpu_time_pct=_ends(36.21, KILLED_TIME),
        sizes=(1, 2, 4, 8, 16, 32),
        by_size_pct=tuple(_ends(passed, KILLED) for passed in (80.7, 73.24, 35.13, 30.09, 24.8, 31.56, 81.82)),
    ),
)  # fmt: skip
"""``batch_*`` and ``day_spread`` are assumptions, chosen by the log's lower quartile and median of the time between
submissions (2 and 8 s, mean 70 s) and the variation of its days (standard deviation 0.8 of the mean)."""

VC_SHARES = {
    "6214e9": (45.421, 18.361, 16), "11cb48": (17.513, 3.599, 32), "6c71a0": (14.151, 7.282, 48),
    "b436b2": (8.700, 18.361, 32), "ee9e8c": (4.931, 24.651, 128), "103959": (2.509, 2.173, 4),
    "0e4a51": (2.353, 6.640, 8), "ed69ec": (1.339, 0.504, 1), "7f04ca": (1.279, 9.595, 32),
    "2869ce": (0.885, 4.494, 32), "e13805": (0.851, 4.303, 32), "51b7ef": (0.062, 0.038, 8),
}  # fmt: skip
"""Virtual cluster -> per cent of the jobs, per cent of the GPU time, widest gang; three with 6 jobs are left out."""
