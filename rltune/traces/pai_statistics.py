"""Statistics of Alibaba PAI, July and August 2020, to which its generator is calibrated.

Source: cluster-trace-gpu-v2020 (Weng et al., NSDI'22; CC-BY-4.0). Gang sizes, durations and the rhythm of starts
are those of a random sample of 60,105 of the 732,691 terminated GPU tasks (8.2 %), whose requests are rounded up
to whole GPUs and whose durations are clamped at 48 h; requests and GPU types are marginals of all 1,261,050 tasks.
"""

from __future__ import annotations

from datetime import date

from rltune.traces.statistics import ClusterStatistics

TASKS, MULTI = 732_691, 168_431
"""Terminated GPU tasks, and those of them (22.988 % in the sample) whose instances ask for more than one GPU in all."""

PAI = ClusterStatistics(
    sizes=(1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 16, 20, 25, 30, 32, 40, 50, 60, 64, 80, 100, 128, 150, 200),
    size_cdf_pct=(
        77.014, 80.092, 81.596, 83.008, 84.717, 84.961, 86.209, 90.265, 91.091, 91.518, 92.442, 94.663,
        95.338, 96.473, 96.586, 97.426, 98.95, 99.14, 99.256, 99.456, 99.842, 99.854, 99.917, 99.975,
    ),
    gpu_time_cdf_pct=(
        8.249, 9.015, 9.258, 10.728, 11.78, 12.08, 15.459, 19.555, 22.429, 23.533, 26.391, 33.307,
        36.456, 43.385, 45.293, 51.172, 65.397, 67.23, 67.65, 74.259, 87.649, 89.572, 95.369, 98.672,
    ),
    widest=(400,),
    mean_gpus=4.9686,
    gpu_seconds=(2476275122.0 / 60_105 * TASKS,),
    duration_cdf_pct=(
        0.0, 0.0, 0.0, 0.022, 0.611, 6.778, 16.653, 24.775, 35.423, 47.286, 57.807, 67.434,
        76.553, 85.816, 92.625, 96.822, 98.985, 99.659, 100.0,
    ),
    hourly_jobs=(
        1578, 2073, 2297, 2424, 3018, 2331, 2106, 2949, 3235, 2658, 2508, 2532,
        2769, 2614, 2855, 2846, 2384, 2337, 2185, 1718, 1762, 3726, 2732, 2468,
    ),
    months=((date(2020, 7, 1), 64, MULTI, TASKS - MULTI),),
    users=0,
    user_share_pct=(),
    vc_nodes={},
    weekend_factor=1.0,
    day_spread=0.2,
)  # fmt: skip
"""``hourly_jobs`` are starts of the sample by hours after its first one (its dates are not real), in all 64 days;
``batch_jobs`` and ``batch_gap_s`` are assumptions, ``day_spread`` is the sample's (0.2)."""

REQUESTS = {100: 442_591, 25: 272_243, 50: 136_701, 10: 116_648}
"""plan_gpu (per cent of a GPU) -> tasks; the four requests up to one GPU whose counts are published."""
GPU_TYPES = {"MISC": 696_000, "T4": 227_000, "P100": 73_000, "V100": 29_000, "V100-32GB": 19_000}
"""GPU type -> tasks (thousands are published); V100-32GB is their V100M32. 218,000 more name none (CPU tasks)."""
