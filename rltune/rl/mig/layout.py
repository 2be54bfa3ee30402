"""The placements that an agent chooses from on one GPU type, as arrays for the kernels. No PyTorch or Ray here.

The network knows kinds of profiles, not names: each is one of six *slots*, those of a GPU with seven compute slices.
A profile with media engines shares the slot of the one without; those of a GPU with four slices take the slots nearest
to their fraction of the GPU, so that one policy serves all types.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rltune.mig.batch.tasks import Tasks
from rltune.mig.geometry import Geometry, Placement, geometry

SLOTS = ("1g", "1g double", "2g", "3g", "4g", "7g")
SLOTS_OF_FOUR = {"1g": "2g", "2g": "3g", "4g": "7g"}
"""Quarters, halves and the whole of a GPU with four slices, by the slot of about the same fraction."""
FIXED_FEATURES = (*SLOTS, "compute_share", "memory_share", "start_share")


class Layout(NamedTuple):
    """P placements of profiles with K columns of seconds.

    ``profile`` (P,) index into ``Geometry.profiles``; ``start`` (P,) memory slice; ``slot`` (P,) index into ``SLOTS``;
    ``compute`` (P,) slices; ``create_s``, ``destroy_s`` (P,) seconds; ``conflict`` (P, P) whether two cannot be there
    together; ``used`` (K,) whether a profile has placements here; ``column_slot`` (K,), ``column_compute`` (K,) of all
    profiles; ``total`` (1,) compute slices of the GPU;
    ``fixed`` (P, 9) features that never change (``FIXED_FEATURES``).
    """

    profile: npt.NDArray[np.int64]
    start: npt.NDArray[np.int64]
    slot: npt.NDArray[np.int64]
    compute: npt.NDArray[np.float64]
    create_s: npt.NDArray[np.float64]
    destroy_s: npt.NDArray[np.float64]
    conflict: npt.NDArray[np.bool_]
    used: npt.NDArray[np.bool_]
    column_slot: npt.NDArray[np.int64]
    column_compute: npt.NDArray[np.float64]
    total: npt.NDArray[np.float64]
    fixed: npt.NDArray[np.float32]


@cache
def make_layout(model: str, profiles: tuple[int, ...] | None = None) -> Layout:
    """The layout of a GPU type with these profiles (default: all), indices into ``geometry(model).profiles``."""
    table = geometry(model)
    chosen = sorted(set(range(len(table.profiles)) if profiles is None else profiles))
    places = table.placements(chosen)
    of = [table.profiles[p.profile] for p in places]
    column_slot = np.array([_slot(table, profile.kind) for profile in table.profiles])
    used = np.zeros(len(table.profiles), bool)
    used[chosen] = True
    slot = column_slot[[p.profile for p in places]]
    fixed = np.zeros((len(places), len(FIXED_FEATURES)), np.float32)
    fixed[np.arange(len(places)), slot] = 1.0
    fixed[:, -3] = [profile.compute / table.compute for profile in of]
    fixed[:, -2] = [profile.size / table.slices for profile in of]
    fixed[:, -1] = [p.start / table.slices for p in places]
    return Layout(
        profile=np.array([p.profile for p in places]),
        start=np.array([p.start for p in places]),
        slot=slot,
        compute=np.array([float(profile.compute) for profile in of]),
        create_s=np.array([profile.create_s for profile in of]),
        destroy_s=np.array([profile.destroy_s for profile in of]),
        conflict=np.array([[_conflict(table, a, b) for b in places] for a in places]),
        used=used,
        column_slot=column_slot,
        column_compute=np.array([float(profile.compute) for profile in table.profiles]),
        total=np.array([float(table.compute)]),
        fixed=fixed,
    )


def profiles_for(tasks: Tasks, model: str, online: bool = False) -> tuple[int, ...]:
    """Profiles worth a placement: some task can run there, and with media engines faster than without.

    ``online``: which profiles have times at all is known beforehand, how long hidden tasks take on them is not.
    """
    table, seconds = geometry(model), tasks.seconds[geometry(model).model]
    kept = []
    for index, profile in enumerate(table.profiles):
        plain = table.profile(profile.kind.removesuffix("+me"))
        redundant = not online and profile.media and bool(np.all(seconds[:, plain] <= seconds[:, index]))
        if np.isfinite(seconds[:, index]).any() and not redundant:
            kept.append(index)
    return tuple(kept)


def _slot(table: Geometry, kind: str) -> int:
    plain = kind.removesuffix("+me")
    return SLOTS.index(plain if table.slices == 8 else SLOTS_OF_FOUR[plain])


def _conflict(table: Geometry, one: Placement, other: Placement) -> bool:
    """The number of instances of a profile is limited by memory slices, except where only one has the media engines."""
    both_media = table.profiles[one.profile].media and table.profiles[other.profile].media
    return bool(table.mask(one) & table.mask(other)) or both_media
