"""GPU types: the names a pool or a job may carry.

Memory sizes are the vendor's data sheets. ``12GB`` and ``24GB`` are the two
unnamed types of the Philly machine list, ``MISC`` the unnamed ones of Alibaba
PAI; ``G1``, ``G2``, ``G3`` are the undisclosed ones of Alibaba openb; ``any`` stands in a pool whose trace publishes no type.
"""

from __future__ import annotations

from dataclasses import dataclass

from rltune.errors import InputError


@dataclass(frozen=True, slots=True)
class GpuType:
    """A GPU model: ``name`` as used in traces and clusters, ``memory_gb`` per GPU (None: unpublished)."""

    name: str
    memory_gb: float | None


GPU_TYPES: dict[str, GpuType] = {
    gpu.name: gpu
    for gpu in (
        GpuType("any", None),
        GpuType("12GB", 12),
        GpuType("24GB", 24),
        GpuType("MISC", None),
        GpuType("G1", None),
        GpuType("G2", None),
        GpuType("G3", None),
        GpuType("K80", 12),
        GpuType("M40", 24),
        GpuType("T4", 16),
        GpuType("P100", 16),
        GpuType("V100", 16),
        GpuType("V100-32GB", 32),
        GpuType("A10", 24),
        GpuType("A30", 24),
        GpuType("A100-40GB", 40),
        GpuType("A100-80GB", 80),
        GpuType("H100-80GB", 80),
        GpuType("H200-141GB", 141),
    )
}


def gpu_type(name: str) -> GpuType:
    """The type of that name; InputError lists the known ones."""
    try:
        return GPU_TYPES[name]
    except KeyError:
        raise InputError(f"GPU type {name!r} is unknown; known are {', '.join(GPU_TYPES)}") from None
