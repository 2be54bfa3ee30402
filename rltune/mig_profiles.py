"""MIG profiles: how many memory slices of a GPU each takes, and where it may begin.

A GPU has 8 memory slices (A30: 4). Legal starts are the placements that
``nvidia-smi mig -lgipp`` lists on A100, H100 80GB and A30; those of H200-141GB are
inferred from identical fractions and instance counts. A profile that may begin
anywhere listed never asks for more compute slices than the GPU has, so memory slices
alone decide. Profiles with a media engine (``+me``), of which a GPU has one, are left out.
On real hardware the driver's own answer wins over this table.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

SEVEN_SLICES = {"1g": (1, (0, 1, 2, 3, 4, 5, 6)), "1g double": (2, (0, 2, 4, 6)), "2g": (2, (0, 2, 4)),
                "3g": (4, (0, 4)), "4g": (4, (0,)), "7g": (8, (0,))}  # fmt: skip
"""Kind of profile -> (memory slices, legal starts) on GPUs of seven compute slices."""
FOUR_SLICES = {"1g": (1, (0, 1, 2, 3)), "2g": (2, (0, 2)), "4g": (4, (0,))}
"""The same on an A30."""
NAMES = {
    "A30": dict(zip(FOUR_SLICES, ("1g.6gb", "2g.12gb", "4g.24gb"), strict=True)),
    "A100-40GB": dict(
        zip(SEVEN_SLICES, ("1g.5gb", "1g.10gb", "2g.10gb", "3g.20gb", "4g.20gb", "7g.40gb"), strict=True)
    ),
    "A100-80GB": dict(
        zip(SEVEN_SLICES, ("1g.10gb", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb"), strict=True)
    ),
    "H100-80GB": dict(
        zip(SEVEN_SLICES, ("1g.10gb", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb"), strict=True)
    ),
    "H200-141GB": dict(
        zip(SEVEN_SLICES, ("1g.18gb", "1g.35gb", "2g.35gb", "3g.71gb", "4g.71gb", "7g.141gb"), strict=True)
    ),
}
"""GPU type -> kind of profile -> the driver's name for it."""
TYPES = tuple(NAMES)
"""GPU types that MIG can cut; a pool's index here is ``ClusterArrays.pool_mig``."""
PROFILES = tuple(sorted({name for kinds in NAMES.values() for name in kinds.values()}))
"""Names a job may ask for; its index here is ``Demand.profile``. The same name can be cut from several types."""
STARTS_MOST = 8
"""No profile begins at this memory slice or beyond."""


def _table() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    size = np.zeros((len(PROFILES), len(TYPES)), np.int64)
    starts = np.zeros_like(size)
    for t, (gpu, kinds) in enumerate(NAMES.items()):
        for kind, name in kinds.items():
            slices, legal = (FOUR_SLICES if gpu == "A30" else SEVEN_SLICES)[kind]
            size[PROFILES.index(name), t] = slices
            starts[PROFILES.index(name), t] = sum(1 << s for s in legal)
    size.setflags(write=False)
    starts.setflags(write=False)
    return size, starts


SIZE, STARTS = _table()
"""(n_profiles, n_types) memory slices, and legal starts as a bitmask; 0: this type has no such profile."""
