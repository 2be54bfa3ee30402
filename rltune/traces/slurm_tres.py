"""What a TRES string of Slurm asks for: whole GPUs, MIG slices, percent of a GPU (MPS), shards."""

from __future__ import annotations

import re
from functools import lru_cache

from rltune.traces.shares import Request, slice_of, types_with

GRES = re.compile(r"(?:^|,)gres/([\w-]+)(?::([^=,]+))?=(\d+)(?=,|$)")
MPS_WHOLE = 100
"""Slurm's manual (gres.conf): so much of gres/mps stands for one GPU unless a site counts otherwise."""
MEMORY = re.compile(r"(?:^|,)mem=(\d+(?:\.\d+)?)([KMGTP]?)")
CPUS = re.compile(r"(?:^|,)cpu=(\d+)")
GIB = {"": 2.0**-10, "K": 2.0**-20, "M": 2.0**-10, "G": 1.0, "T": 2.0**10, "P": 2.0**20}
"""Gibibytes of Slurm's units; a bare number counts mebibytes."""
USAGE = ("gpumem", "gpuutil")
"""Measured of a job, not asked for."""


def gpus_of(tres: str) -> tuple[int, str | None]:
    """GPUs of a TRES string, and their type: ``cpu=8,gres/gpu=2,gres/gpu:a100=2`` -> (2, "a100").

    Typed entries repeat what the untyped one counts; of several types the first is named.
    """
    found = _gpu_entries(tres)
    total = sum(count for kind, count in found if kind is None) or sum(count for _, count in found)
    return total, next((kind for kind, count in found if kind and count), None)


@lru_cache(maxsize=4096)
def asked(tres: str) -> Request:
    """What a job asks of GPUs; without one, ``gpus`` is 0."""
    total, kind = gpus_of(tres)
    if total == 0:
        return _without_gpu(tres)
    typed = [(kind, count) for kind, count in _gpu_entries(tres) if kind and count]
    cut = [(*found, count) for kind, count in typed if (found := slice_of(kind)) is not None]
    slices = sum(count for *_, count in cut)
    if not slices:
        several = ("jobs on GPUs of several types are named by the first",) if len(typed) > 1 else ()
        return Request(total, gpu_type=kind, also=several)
    if total > slices or len(cut) < len(typed):
        return Request(total, why_not="jobs with whole GPUs and MIG slices together")
    if len({profile for profile, _, _ in cut}) > 1:
        return Request(total, why_not="jobs with MIG slices of several profiles")
    profile, model, _ = cut[0]
    return Request(slices, mig=profile, gpu_type=types_with(profile, model))


def cpus_of(tres: str) -> int:
    """CPUs of a TRES string, 0 where none are named."""
    found = CPUS.search(tres)
    return int(found[1]) if found else 0


def memory_gb_of(tres: str) -> float:
    """Gibibytes of a TRES string, 0 where none are named."""
    found = MEMORY.search(tres)
    return float(found[1]) * GIB[found[2]] if found else 0.0


def _gpu_entries(tres: str) -> list[tuple[str | None, int]]:
    return [(kind or None, int(count[:15])) for name, kind, count in GRES.findall(tres) if name == "gpu"]


def _without_gpu(tres: str) -> Request:
    amounts: dict[str, int] = {}
    for name, _, count in GRES.findall(tres):
        # A typed entry repeats what the untyped one counts.
        amounts[name] = max(amounts.get(name, 0), int(count[:15]))
    if percent := amounts.get("mps", 0):
        if percent > MPS_WHOLE:
            return Request(0, why_not=f"jobs with gres/mps above {MPS_WHOLE}, which is one GPU in Slurm's manual")
        told = f"jobs on a share of a GPU (gres/mps, {MPS_WHOLE} of which are taken as one GPU)"
        return Request(1, gpu_milli=1000 * percent // MPS_WHOLE, also=(told,))
    if amounts.get("shard", 0):
        return Request(0, why_not="jobs on shares of GPUs (gres/shard: how many make a GPU, the log does not tell)")
    other = next((name for name, count in amounts.items() if count and name not in USAGE), None)
    return Request(0, why_not="jobs without a GPU" + (f" (gres/{other})" if other else ""))
