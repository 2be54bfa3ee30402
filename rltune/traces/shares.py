"""Parts of GPUs as schedulers name them: MIG slices, and the GPU types that can be cut so."""

from __future__ import annotations

import re
from typing import NamedTuple

from rltune.nouns.mig_profiles import NAMES

PROFILE = re.compile(
    r"^(?:(?P<model>.*?)[\W_]+)?(?P<profile>\d+g\.\d+gb)(?P<extras>(?:[+.-](?:me(?:\.all)?|gfx))*)$", re.IGNORECASE
)
"""A profile's name, after the GPU's where that is told: ``1g.10gb``, ``a100_3g.20gb``, ``1g.10gb.me`` (``+`` may not stand in
names of Kubernetes)."""


class Request(NamedTuple):
    """What a job asks of GPUs: ``gpus`` of which each gives ``gpu_milli`` thousandths, or so many slices ``mig``.

    ``why_not``: why it cannot be said so, in the words of the notes ("jobs with ..."); "" where it can. ``also``: what the
    notes must count of a job that is kept.
    """

    gpus: int
    gpu_milli: int = 1000
    mig: str | None = None
    gpu_type: str | None = None
    why_not: str = ""
    also: tuple[str, ...] = ()


def slice_of(name: str) -> tuple[str, str] | None:
    """Profile and GPU model of a slice's name, ``a100_3g.20gb`` -> ("3g.20gb", "a100"); None for a whole GPU's name."""
    found = PROFILE.match(name)
    if found is None:
        return None
    extras = re.sub(r"[.](?=me|gfx)", "+", found["extras"].lower()) if found["extras"] else ""
    return found["profile"].lower() + extras, found["model"] or ""


def types_with(profile: str, model: str) -> str | None:
    """GPU types of that model that can be cut so, as "A|B"; None (any) where the model is not told or not known.

    The words of ``model`` count, in any order: ``nvidia_a100_80gb_pcie`` is an A100-80GB.
    """
    words = set(re.split(r"[\W_]+", model.lower()))
    having = [name for name, kinds in NAMES.items() if profile in kinds.values()]
    same = [name for name in having if name.lower().split("-")[0] in words]
    sized = [name for name in same if name.lower().split("-")[-1] in words]
    return "|".join(sized or same) or None
