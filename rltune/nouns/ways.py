"""Ways to run a job: text such as ``1xA100 | 3g.20gb@0.8 | 1g.5gb@0.45 | 2xV100@0.6``, read and checked here alone.

A job runs in one of its ways at a time, and which is decided when it starts. A way is

- ``NxTYPE``: N whole GPUs of a type (`rltune.nouns.gpus`), or of all types of one chip (``A100``: 40 and 80 GB);
- ``0.5xTYPE``: a share of one GPU, in thousandths;
- a MIG profile by the driver's name (``3g.20gb``), on every type that has it, or on one (``3g.20gb:A100-40GB``);
- ``request``: what the other columns of the job table ask for.

``@SPEED`` is the speed relative to the recorded hardware; without it a way is as fast as the job is on that pool (1
unless speeds by GPU type are given). The job's CPU cores and memory are the same in every way.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from rltune.nouns.errors import InputError
from rltune.nouns.gpus import GPU_TYPES
from rltune.nouns.mig_profiles import NAMES, PROFILES

MOST_GPUS = 1_000_000
ACCEPTED = "give e.g. request | 2xV100@0.6 | 0.5xA100-40GB@0.7 | 3g.20gb@0.8"
_COUNTED = re.compile(r"([0-9.]+)\s*x\s*(\S+)", re.IGNORECASE)


class Way(NamedTuple):
    """One way to run.

    ``gpus``: GPUs, of which each gives ``milli`` thousandths; 0: what the job table asks for. ``profile``: of MIG, None =
    no slice; ``gpu_type``: accepted types as "A|B", None = any; ``speed``: relative to the recorded hardware, None =
    that of the pool.
    """

    gpus: int
    milli: int
    profile: str | None
    gpu_type: str | None
    speed: float | None


@lru_cache(maxsize=4096)
def parse_ways(text: str) -> tuple[Way, ...]:
    """The ways that a text lists, in its order; InputError says which is wrong and what is accepted."""
    ways = tuple(_way(part.strip()) for part in text.split("|"))
    for k, way in enumerate(ways):
        if way[:-1] in [other[:-1] for other in ways[:k]]:
            raise InputError(f"{text.split('|')[k].strip()!r} is there twice; give each way once")
    return ways


def _way(text: str) -> Way:
    name, at, speed = (part.strip() for part in text.partition("@"))
    fast = _speed(text, speed) if at else None
    if name == "request":
        return Way(0, 0, None, None, fast)
    if counted := _COUNTED.fullmatch(name):
        return Way(*_count(text, counted[1]), None, _types(text, counted[2]), fast)
    profile, on, kind = (part.strip() for part in name.partition(":"))
    if profile not in PROFILES:
        raise InputError(f"{text!r} is no way to run: {ACCEPTED}; MIG profiles are {', '.join(PROFILES)}")
    if on and profile not in NAMES.get(kind, {}).values():
        having = [gpu for gpu, names in NAMES.items() if profile in names.values()]
        raise InputError(
            f"{text!r}: GPU type {kind!r} has no MIG profile {profile}; those that do are {', '.join(having)}"
        )
    return Way(1, 1000, profile, kind if on else None, fast)


def _count(text: str, number: str) -> tuple[int, int]:
    """GPUs and thousandths of each."""
    try:
        gpus = float(number)
    except ValueError:
        gpus = 0.0
    milli = round(1000 * gpus)
    if 0 < gpus < 1 and milli >= 1 and abs(1000 * gpus - milli) < 1e-6:
        return 1, milli
    if gpus < 1 or gpus != int(gpus) or gpus > MOST_GPUS:
        raise InputError(
            f"{text!r}: {number} GPUs; give a whole number up to {MOST_GPUS:,}, or a share such as 0.5 in thousandths"
        )
    return int(gpus), 1000


def _types(text: str, name: str) -> str:
    """A type, or all types of a chip."""
    if name in GPU_TYPES:
        return name
    # A100 is no type, but its two sizes of memory are types of one chip.
    same = [
        gpu for gpu in GPU_TYPES if gpu.startswith(f"{name}-") and gpu[len(name) + 1 :].removesuffix("GB").isdigit()
    ]
    if not same:
        raise InputError(f"{text!r}: GPU type {name!r} is unknown; known are {', '.join(GPU_TYPES)}")
    return "|".join(same)


def _speed(text: str, number: str) -> float:
    try:
        speed = float(number)
    except ValueError:
        speed = 0.0
    if not 0 < speed < 1e6:
        raise InputError(f"{text!r}: speed {number!r}; give a number above 0 and below a million, 1 = as recorded")
    return speed
