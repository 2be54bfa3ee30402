"""From the driver's name of a GPU to the name of its type in rltune's tables (`rltune.nouns.mig_profiles.TYPES`)."""

from __future__ import annotations

import re
from typing import NamedTuple

from rltune.nouns.gpus import GPU_TYPES

GIB = 1 << 30
SIMULATED = "simulated "
"""Before the type's own name: how `rltune.devices.simulated` calls its GPUs."""
TOLERANCE = 0.08
"""Share by which reported memory may be off the nominal: ECC and firmware take some, and the next variant is 15 % away."""


class Model(NamedTuple):
    """``name`` as in the tables; ``spelled`` what the driver's name must match; ``memory_gib`` of the whole GPU."""

    name: str
    spelled: re.Pattern[str]
    memory_gib: float


def _spelled(pattern: str) -> re.Pattern[str]:
    # Drivers before R470 leave out the maker.
    return re.compile(rf"(?:nvidia )?{pattern}", re.IGNORECASE)


MODELS = (
    Model("A100-40GB", _spelled(r"a100[- ](?:sxm4-40gb|pcie-40gb|40gb pcie)"), 40),
    Model("A100-80GB", _spelled(r"a100[- ](?:sxm4-80gb|pcie-80gb|80gb pcie)"), 80),
    Model("A30", _spelled(r"a30(?: pcie)?"), 24),
    Model("H100-80GB", _spelled(r"h100(?: 80gb hbm[23]e?| pcie| sxm5)?"), 80),
    Model("H200-141GB", _spelled(r"h200(?: nvl| sxm5)?"), 140),
    Model("B200", _spelled(r"b200(?: sxm6)?(?: ac)?"), 179),
    Model("B300", _spelled(r"b300(?: sxm6)?(?: ac)?"), 269),
    Model("RTX-PRO-6000", _spelled(r"rtx pro 6000 blackwell(?: [\w -]+ edition)?"), 96),
)
"""Types of the tables; memory as their drivers report it.

Not among them, since their profiles are others: H100 NVL (94 GB) and 96 GB, A100 64 GB, GH200, GB200, GB300, H20, and
GPUs of vGPU guests.
"""


def model_of(name: str, memory_bytes: int | None) -> str | None:
    """Type name of a GPU by the driver's ``name`` (``NVIDIA A100-SXM4-80GB``); None where the tables do not have it.

    ``memory_bytes`` of the whole GPU tells variants of one name apart (``NVIDIA H100 PCIe`` of 80 and of 64 GB); None where it
    is unknown, then the name decides.
    """
    words = " ".join(name.split())
    for model in MODELS:
        if words == SIMULATED + model.name:
            return model.name
        if model.spelled.fullmatch(words):
            off = 0.0 if memory_bytes is None else abs(memory_bytes / GIB / model.memory_gib - 1)
            return model.name if off <= TOLERANCE else None
    return None


def type_of(name: str, memory_bytes: int | None) -> str:
    """GPU type of ours (`rltune.nouns.gpus.GPU_TYPES`), also of GPUs without MIG (``Tesla V100-SXM2-32GB``); ``any`` for others."""
    model = model_of(name, memory_bytes)
    if model is not None:
        return model
    words = set(re.split(r"[ -]+", name))
    for known in GPU_TYPES.values():
        if known.memory_gb and known.name.split("-")[0] in words and memory_bytes is not None:
            off = abs(memory_bytes / GIB / known.memory_gb - 1)
            if off <= TOLERANCE:
                return known.name
    return "any"
