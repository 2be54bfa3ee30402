"""MIG instances that stand idle on a GPU, and what it costs to make a slice: reuse, create, or destroy and create.

The idle instances of a GPU are one integer: four bits for each memory slice, 1 + the kind of the instance that begins there
(`rltune.nouns.mig_profiles.KIND`), 0 = none. Instances in use are not among them. A slice may
be placed on an idle instance of its own profile and start at no cost; otherwise every idle instance it overlaps is
destroyed and the slice created, one after the other, as the driver does on one GPU. What runs beside is not touched.
"""

from __future__ import annotations

from rltune.compiled import inner
from rltune.nouns.mig_profiles import CREATE_S, DESTROY_S, KIND, SIZE, SIZE_OF_KIND

BITS = 4
"""Bits of one start in the integer of idle instances: 1 + kind of profile (`rltune.nouns.mig_profiles.KIND`), 0 = none."""


def with_idle(idle: int, profile: int, gpu_type: int, start: int) -> int:
    """The integer ``idle`` with one more instance: of ``profile`` on a GPU of type index ``gpu_type``, from slice ``start``."""
    return idle | (1 + int(KIND[profile, gpu_type])) << (BITS * start)


@inner
def remake(idle, profile, kind_of_gpu, start):
    """(idle instances left, seconds) when a slice of ``profile`` from ``start`` is to be used."""
    kind = KIND[profile, kind_of_gpu]
    if (idle >> (BITS * start)) & 15 == kind + 1:
        return idle & ~(15 << (BITS * start)), 0.0
    seconds = CREATE_S[kind, kind_of_gpu]
    end = start + SIZE[profile, kind_of_gpu]
    for s in range(8):
        there = (idle >> (BITS * s)) & 15
        if there > 0 and s < end and s + SIZE_OF_KIND[there - 1, kind_of_gpu] > start:
            idle &= ~(15 << (BITS * s))
            seconds += DESTROY_S[there - 1, kind_of_gpu]
    return idle, seconds


@inner
def clear_all(idle, kind_of_gpu):
    """Seconds to destroy every idle instance of a GPU that is to be used whole or shared."""
    seconds = 0.0
    for s in range(8):
        there = (idle >> (BITS * s)) & 15
        if there > 0:
            seconds += DESTROY_S[there - 1, kind_of_gpu]
    return seconds
