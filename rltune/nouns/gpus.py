"""GPU types: the names a pool or a job may carry, and what one GPU of the type can do and draws.

Memory, speed and board power are the vendor's data sheets (K80: half a board of two GPUs; P100: PCIe; V100, A100,
H100, H200: SXM; of B200, B300 and RTX-PRO-6000 the memory of the whole GPU's MIG profile). ``12GB`` and ``24GB`` are the
two unnamed types of the Philly machine list, ``MISC`` the unnamed ones of Alibaba PAI, ``G1``, ``G2``, ``G3`` the
undisclosed ones of Alibaba openb; ``any`` stands in a pool whose trace publishes no type.

Power under load is a measured share of the board's limit: Zeus (You, Chung, Chowdhury, NSDI 2023; ml-energy/zeus,
trace/summary_power_*.csv) gives the average power of BERT, ResNet-50, ShuffleNetV2, DeepSpeech2 and NCF in training,
by batch size and optimizer. At the highest limit, averaged over settings and then over the five jobs, it is 0.63 of
250 W on a V100, 0.47 of 250 W on a P100, 0.62 of 300 W on an A40 and 0.67 of 260 W on a Quadro RTX 6000.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rltune.nouns.errors import InputError

BUSY_SHARE = 0.60
"""Draw of a held GPU over its board's limit where its type was not measured: the mean of the four that were."""
IDLE_SHARE = 0.14
"""Draw of an idle GPU over its board's limit, for every type: the least that Zeus saw a V100 draw in any setting (NCF,
34.8 of 250 W; P100: 33.3 of 250 W). An upper bound of those two GPUs' idle draw, and an assumption for the others."""


@dataclass(frozen=True, slots=True)
class GpuType:
    """A GPU model; what is unpublished is None.

    ``name`` as used in traces and clusters; per GPU: ``memory_gb``; ``tflops``, peak dense FP16 (tensor cores where
    it has them; FP32 on K80 and M40, whose FP16 is no faster); ``tdp_w``, the board's power limit; ``busy_share``,
    the measured part of it that training draws.
    """

    name: str
    memory_gb: float | None
    tflops: float | None = None
    tdp_w: float | None = None
    busy_share: float = BUSY_SHARE

    @property
    def busy_w(self) -> float | None:
        """Average watts while a job holds the GPU."""
        return None if self.tdp_w is None else self.busy_share * self.tdp_w

    @property
    def idle_w(self) -> float | None:
        """Watts while no job holds the GPU."""
        return None if self.tdp_w is None else IDLE_SHARE * self.tdp_w


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
        GpuType("K80", 12, 4.37, 150),
        GpuType("M40", 24, 7.0, 250),
        GpuType("T4", 16, 65, 70),
        GpuType("P100", 16, 18.7, 250, 0.47),
        GpuType("V100", 16, 125, 300, 0.63),
        GpuType("V100-32GB", 32, 125, 300, 0.63),
        GpuType("A10", 24),
        GpuType("A30", 24, 165, 165),
        GpuType("A100-40GB", 40, 312, 400),
        GpuType("A100-80GB", 80, 312, 400),
        GpuType("H100-80GB", 80, 989, 700),
        GpuType("H200-141GB", 141, 989, 700),
        GpuType("B200", 180),
        GpuType("B300", 269),
        GpuType("RTX-PRO-6000", 96),
    )
}


def usual_types(name: str) -> tuple[str, ...]:
    """Types that a usual spelling may mean: ``a100`` two, ``A100-SXM4-40GB`` and ``NVIDIA H100 80GB HBM3`` one, others none."""
    if name in GPU_TYPES:
        return (name,)
    words = set(re.split(r"[\W_]+", re.sub(r"(\d)\s*g(?:i?b)?\b", r"\1gb", name.lower())))
    sizes = {word for word in words if re.fullmatch(r"\d+gb", word)}
    found = []
    for gpu in GPU_TYPES.values():
        own = set(gpu.name.lower().split("-")) - {f"{gpu.memory_gb:g}gb" if gpu.memory_gb else ""}
        # Types without a name of their own (12GB, G1, MISC, any) have no other spelling.
        if gpu.memory_gb is not None and own and own <= words:
            found += [gpu.name] if not sizes or f"{gpu.memory_gb:g}gb" in sizes else []
    return tuple(found)


def gpu_type(name: str) -> GpuType:
    """The type of that name; InputError lists the known ones."""
    try:
        return GPU_TYPES[name]
    except KeyError:
        raise InputError(f"GPU type {name!r} is unknown; known are {', '.join(GPU_TYPES)}") from None
