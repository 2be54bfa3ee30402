"""What drivers tell of GPUs beyond the geometry's tables: PCI ids, and every profile that they list.

Profiles with graphics (``+gfx``), without (``-me``) or with all media engines (``+me.all``) come with RTX PRO 6000 only, as
``nvidia-smi mig -lgip`` lists them there. Which of them go together follows from the engines each takes: the GPU has four
sets of decoder, encoder and JPEG unit, and one optical-flow accelerator (OFA).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

from rltune.devices.driver import DeviceProfile
from rltune.mig.geometry import Geometry, Profile, geometry

VENDOR = 0x10DE
PCI_IDS = {
    "A30": 0x20B710DE, "A100-40GB": 0x20B010DE, "A100-80GB": 0x20B210DE, "H100-80GB": 0x233010DE, "H200-141GB": 0x233510DE,
    "B200": 0x290110DE, "B300": 0x318210DE, "RTX-PRO-6000": 0x2BB510DE,
}  # fmt: skip
"""GPU type -> device and vendor in one number, of the SXM board where there are several; as mig-parted's device-filter has it."""
IDS = {"1g": 19, "1g+me": 20, "1g double": 15, "2g": 14, "3g": 9, "4g": 5, "7g": 0}
IDS_OF_FOUR = {
    "1g": 14, "1g+me": 21, "1g+gfx": 47, "1g+me.all": 65, "1g-me": 67,
    "2g": 5, "2g+me": 6, "2g+gfx": 35, "2g+me.all": 64, "2g-me": 66, "4g": 0, "4g+gfx": 32,
}  # fmt: skip
"""Kind -> profile id as the drivers of A100 (seven slices), A30 and RTX PRO 6000 (four) list them."""


class Extra(NamedTuple):
    """A profile that the geometry's table has not: the ``kind`` it is like, what its name ends in, ``most`` on a GPU."""

    like: str
    suffix: str
    most: int


EXTRAS = {
    "RTX-PRO-6000": (
        Extra("1g", "+me", 1), Extra("1g", "+gfx", 4), Extra("1g", "+me.all", 1), Extra("1g", "-me", 4),
        Extra("2g", "+gfx", 2), Extra("2g", "+me.all", 1), Extra("2g", "-me", 2), Extra("4g", "+gfx", 1),
    ),
}  # fmt: skip
ENGINES = 4
"""Sets of media engines of an RTX PRO 6000: one a slice, unless a profile takes none or all."""


@cache
def driver_geometry(model: str) -> Geometry:
    """The geometry's table with every profile that a driver lists; those of the table keep their indices."""
    table = geometry(model)
    kinds = {profile.kind: profile for profile in table.profiles}
    return Geometry(
        table.model,
        table.slices,
        table.compute,
        table.profiles + tuple(_like(kinds[extra.like], extra) for extra in EXTRAS.get(table.model, ())),
    )


def _like(plain: Profile, extra: Extra) -> Profile:
    return Profile(
        plain.name + extra.suffix, plain.kind + extra.suffix, plain.compute, plain.size, plain.starts, extra.most,
        plain.memory_gb, extra.suffix.startswith("+me"), plain.create_s, plain.destroy_s,
    )  # fmt: skip


def engines_left(table: Geometry, here: Iterable[int], profile: int) -> bool:
    """Whether media engines are left for one more of ``profile`` beside those ``here`` (indices of profiles).

    Only where profiles without engines or with all of them exist: elsewhere the geometry's own rule, one instance with
    ``+me``, is all there is to it.
    """
    if table.model not in EXTRAS:
        return True
    rows = [table.profiles[index] for index in (*here, profile)]
    # One with all engines leaves the others none.
    taken = sum(ENGINES if ".all" in row.kind else 0 if "-me" in row.kind else row.compute for row in rows)
    return taken <= ENGINES


def profiles_of(model: str) -> tuple[DeviceProfile, ...]:
    """What a driver would list for a type of `rltune.nouns.mig_profiles`."""
    table = driver_geometry(model)
    ids = IDS if table.slices == 8 else IDS_OF_FOUR
    return tuple(
        DeviceProfile(p.name, ids[p.kind], p.compute, p.size, p.starts, p.most, int(p.memory_gb * 1024))
        for p in table.profiles
    )
