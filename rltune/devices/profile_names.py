"""Names of MIG profiles for drivers that are too old to tell them."""

from __future__ import annotations

import math

EXTRAS = {
    0x7: "+me",  # 1_SLICE_REV1
    0x8: "+me",  # 2_SLICE_REV1
    0xA: "+gfx",
    0xB: "+gfx",
    0xC: "+gfx",
    0xD: "-me",
    0xE: "-me",
    0xF: "+me.all",
    0x10: "+me.all",
    0x11: "+gfx",
}
"""NVML's number of a profile (``NVML_GPU_INSTANCE_PROFILE_*``) -> what its name ends in; all others: nothing."""


def profile_name(number: int, compute: int, memory_mb: int, total_bytes: int, slices: int) -> str:
    """The name that newer drivers give a profile, such as ``3g.40gb`` or ``1g.10gb+me``.

    ``number`` NVML's of the profile, ``compute`` slices, ``memory_mb`` MiB, ``total_bytes`` of the GPU with ``slices``
    memory slices. The GB in a name are those slices as a part of the GPU's memory in whole GB, rounded half up, as
    NVIDIA's tools (mig-parted) derive them.
    """
    taken = math.ceil(memory_mb * 2**20 / total_bytes * slices)
    memory_gb = math.floor(taken / slices * math.ceil(total_bytes / 2**30) + 0.5)
    return f"{compute}g.{memory_gb}gb{EXTRAS.get(number, '')}"
