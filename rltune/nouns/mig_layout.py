"""MIG instances that stand on a GPU, as one integer, and what it takes to change them.

A *layout* has four bits for each memory slice, the kind + 1 of the instance that begins there (0: none), and above them
`MODE`, whether MIG mode is on. Compiled code reads it in `rltune.core.resources.instances`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from rltune.nouns.mig_profiles import (
    CREATE_S,
    DESTROY_S,
    KIND,
    KINDS,
    NAMES,
    PROFILES,
    SIZE_OF_KIND,
    STARTS,
    STARTS_MOST,
    TYPES,
)

BITS, ANY = 4, 15
"""Bits for one memory slice of a layout, and the mask of them."""
MODE = 1 << (BITS * STARTS_MOST)
"""The bit of a layout that says that MIG mode is on."""


class Standing(NamedTuple):
    """An instance: the name of its profile, its first memory slice, how many it has, and whether a job uses it."""

    profile: str
    start: int
    size: int
    in_use: bool


def with_instance(layout: int, profile: int, gpu_type: int, start: int) -> int:
    """The layout with one more instance, of profile index ``profile``."""
    return layout | (1 + int(KIND[profile, gpu_type])) << (BITS * start)


def standing(layout: int, gpu_type: int, taken: int) -> tuple[Standing, ...]:
    """Instances of a layout, by first memory slice; ``gpu_type``: index into `TYPES`; ``taken``: bits of slices in use."""
    found = []
    for start in range(STARTS_MOST):
        kind = (layout >> (BITS * start) & ANY) - 1
        if kind >= 0:
            size = int(SIZE_OF_KIND[kind, gpu_type])
            found.append(Standing(NAMES[TYPES[gpu_type]][KINDS[kind]], start, size, bool(taken & _mask(start, size))))
    return tuple(found)


def changed(
    layout: int,
    gpu_type: int,
    taken: int,
    destroy: Iterable[tuple[str, int]],
    create: Iterable[tuple[str, int]],
    mode_s: float,
) -> tuple[int, float]:
    """The layout after these instances, (profile, first memory slice), are destroyed and created, and the seconds.

    ``mode_s``: to turn MIG mode on, where it is off. Raises ValueError, with the reason, where that is not possible.
    """
    seconds = 0.0
    for profile, start in destroy:
        one = next((x for x in standing(layout, gpu_type, taken) if (x.profile, x.start) == (profile, start)), None)
        if one is None:
            raise ValueError(f"no instance {profile} stands at memory slice {start}")
        if one.in_use:
            raise ValueError(f"a job uses the instance {profile} at memory slice {start}")
        layout &= ~(ANY << (BITS * start))
        seconds += float(DESTROY_S[_kind(profile, gpu_type), gpu_type])
    for profile, start in create:
        kind = _kind(profile, gpu_type)
        if not 0 <= start < STARTS_MOST or not STARTS[PROFILES.index(profile), gpu_type] >> start & 1:
            raise ValueError(f"{profile} cannot begin at memory slice {start} of {TYPES[gpu_type]}")
        mine = _mask(start, int(SIZE_OF_KIND[kind, gpu_type]))
        for one in standing(layout, gpu_type, taken):
            if _mask(one.start, one.size) & mine:
                raise ValueError(f"{profile} at memory slice {start} would overlap {one.profile} at {one.start}")
        seconds += float(CREATE_S[kind, gpu_type]) + (0.0 if layout & MODE else mode_s)
        layout |= (kind + 1) << (BITS * start) | MODE
    return layout, seconds


class Need(NamedTuple):
    """What a GPU changes for a job that begins, and the layout after it; instances are (profile, first memory slice)."""

    destroy: tuple[tuple[str, int], ...]
    create: tuple[tuple[str, int], ...]
    layout: int
    seconds: float


def after_start(layout: int, gpu_type: int, profile: int, start: int, mode_s: float) -> Need:
    """How a layout changes for a job that begins on the GPU; what is in its way is idle.

    ``profile``: index into `PROFILES` of the slice that begins at ``start``; -1: the GPU serves whole or in shares.
    ``mode_s``: to turn MIG mode on or off.
    """
    there = standing(layout, gpu_type, 0)
    if profile < 0:
        gone = tuple((one.profile, one.start) for one in there)
        after, seconds = changed(layout, gpu_type, 0, gone, (), mode_s)
        return Need(gone, (), 0, seconds + (mode_s if after else 0.0))
    mine = (PROFILES[profile], start)
    if any((one.profile, one.start) == mine for one in there):
        return Need((), (), layout, 0.0)
    slices = _mask(start, int(SIZE_OF_KIND[KIND[profile, gpu_type], gpu_type]))
    gone = tuple((one.profile, one.start) for one in there if _mask(one.start, one.size) & slices)
    after, seconds = changed(layout, gpu_type, 0, gone, (mine,), mode_s)
    return Need(gone, (mine,), after, seconds)


def _mask(start: int, size: int) -> int:
    return ((1 << size) - 1) << start


def _kind(profile: str, gpu_type: int) -> int:
    kind = int(KIND[PROFILES.index(profile), gpu_type]) if profile in PROFILES else -1
    if kind < 0:
        raise ValueError(
            f"{TYPES[gpu_type]} has no MIG profile {profile!r}; it has {', '.join(NAMES[TYPES[gpu_type]].values())}"
        )
    return kind
