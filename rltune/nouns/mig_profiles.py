"""MIG profiles: how many memory slices of a GPU each takes, and where it may begin.

A GPU has 8 memory slices (A30, RTX PRO 6000: 4). Legal starts are the placements that
``nvidia-smi mig -lgipp`` lists on A100, H100 80GB and A30; those of H200, B200 and B300 are
inferred from identical fractions and instance counts, those of RTX PRO 6000 from the A30's. A profile that may begin
anywhere listed never asks for more compute slices than the GPU has, so memory slices
alone decide. Profiles with a media engine (``+me``), of which a GPU has one, are in `rltune.mig.geometry` only.
On real hardware the driver's own answer wins over this table (`rltune.mig.geometry.from_driver`).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

SEVEN_SLICES = {"1g": (1, (0, 1, 2, 3, 4, 5, 6)), "1g double": (2, (0, 2, 4, 6)), "2g": (2, (0, 2, 4)),
                "3g": (4, (0, 4)), "4g": (4, (0,)), "7g": (8, (0,))}  # fmt: skip
"""Kind of profile -> (memory slices, legal starts) on GPUs of seven compute slices."""
FOUR_SLICES = {"1g": (1, (0, 1, 2, 3)), "2g": (2, (0, 2)), "4g": (4, (0,))}
"""The same on an A30 and, by its instance counts, on an RTX PRO 6000."""
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
    "B200": dict(zip(SEVEN_SLICES, ("1g.23gb", "1g.45gb", "2g.45gb", "3g.90gb", "4g.90gb", "7g.180gb"), strict=True)),
    "B300": dict(zip(SEVEN_SLICES, ("1g.34gb", "1g.67gb", "2g.67gb", "3g.135gb", "4g.135gb", "7g.269gb"), strict=True)),
    "RTX-PRO-6000": dict(zip(FOUR_SLICES, ("1g.24gb", "2g.48gb", "4g.96gb"), strict=True)),
}
"""GPU type -> kind of profile -> the driver's name for it."""
TYPES = tuple(NAMES)
"""GPU types that MIG can cut; a pool's index here is ``ClusterArrays.pool_mig``."""
PROFILES = tuple(sorted({name for kinds in NAMES.values() for name in kinds.values()}))
"""Names a job may ask for; its index here is ``Demand.profile``. The same name can be cut from several types."""
FOUR_SLICE_TYPES = frozenset({"A30", "RTX-PRO-6000"})
"""Types with four memory slices; all others have eight."""
STARTS_MOST = 8
"""No profile begins at this memory slice or beyond."""


def _table() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    size = np.zeros((len(PROFILES), len(TYPES)), np.int64)
    starts = np.zeros_like(size)
    for t, (gpu, kinds) in enumerate(NAMES.items()):
        for kind, name in kinds.items():
            slices, legal = (FOUR_SLICES if gpu in FOUR_SLICE_TYPES else SEVEN_SLICES)[kind]
            size[PROFILES.index(name), t] = slices
            starts[PROFILES.index(name), t] = sum(1 << s for s in legal)
    size.setflags(write=False)
    starts.setflags(write=False)
    return size, starts


SIZE, STARTS = _table()
"""(n_profiles, n_types) memory slices, and legal starts as a bitmask; 0: this type has no such profile."""

KINDS = tuple(SEVEN_SLICES)
"""Kinds of profile; a kind's index here is in ``KIND``."""
COMPUTE = {"1g": 1, "1g double": 1, "2g": 2, "3g": 3, "4g": 4, "7g": 7}
"""Compute slices of each kind, by which creation and destruction were measured."""
MEASURED_S = {
    "A30": ({1: 0.11, 2: 0.12, 4: 0.13}, {1: 0.10, 2: 0.10, 4: 0.10}),
    "A100": ({1: 0.16, 2: 0.17, 3: 0.20, 4: 0.21, 7: 0.24}, {1: 0.20, 2: 0.20, 3: 0.21, 4: 0.21, 7: 0.22}),
    "H100": ({1: 0.16, 2: 0.21, 3: 0.33, 4: 0.38, 7: 0.42}, {1: 0.21, 2: 0.23, 3: 0.25, 4: 0.26, 7: 0.26}),
}
"""Seconds to create and to destroy an instance, by compute slices (FAR, arXiv 2507.13601)."""
MEASURED_AS = {"A30": "A30", "A100-40GB": "A100", "A100-80GB": "A100"}
"""Whose seconds a type is charged; all newer types, of which no measurement is published, are taken as H100."""


def _costs() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    kind = np.full((len(PROFILES), len(TYPES)), -1, np.int64)
    size = np.zeros((len(KINDS), len(TYPES)), np.int64)
    create, destroy = np.zeros((len(KINDS), len(TYPES))), np.zeros((len(KINDS), len(TYPES)))
    for t, (gpu, names) in enumerate(NAMES.items()):
        made, unmade = MEASURED_S[MEASURED_AS.get(gpu, "H100")]
        for name, profile in names.items():
            k = KINDS.index(name)
            kind[PROFILES.index(profile), t] = k
            size[k, t] = SIZE[PROFILES.index(profile), t]
            create[k, t], destroy[k, t] = made[COMPUTE[name]], unmade[COMPUTE[name]]
    for array in (kind, size, create, destroy):
        array.setflags(write=False)
    return kind, size, create, destroy


KIND, SIZE_OF_KIND, CREATE_S, DESTROY_S = _costs()
"""(n_profiles, n_types) index into ``KINDS``, -1: none; (n_kinds, n_types) memory slices, seconds to create and destroy."""

LONGEST_CHANGE_S = 7 * float(DESTROY_S.max()) + float(CREATE_S.max())
"""No change for one job takes longer, MIG mode aside: seven instances destroyed and one created."""
LONGEST_QUEUE_S = 7 * float(DESTROY_S.max() + CREATE_S.max())
"""No job waits longer for its instance, MIG mode aside: with the changes of others that begin on its GPU at the same time."""
