"""Families of training tasks, each with its own share, work, width and GPU types.

Shares and work are those of the workload of Pollux (Qiao et al., OSDI'21, Table 1), on whose jobs Sia and others
run too: a family takes the share of the models it stands for and their class of GPU time (small: up to 1 GPU-hour,
medium: 1 to 10, large: 10 to 100, extra large: 100 to 1,000). Pollux has no gradient boosting: that family is
invented as a whole. Widths and GPU types are INVENTED for all: Pollux lets its jobs grow and shrink.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rltune.nouns.errors import InputError
from rltune.nouns.jobs import WHOLE


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of task.

    Attributes:
        share: weight among the families.
        gpu_hours: (least, most, weight) of its classes of work; log-uniform within a class.
        widths: GPUs of a gang -> weight.
        gpu_milli: share of its GPU in thousandths where it asks for one GPU.
        gpu_types: GPU type -> factor on the weight that the trace gives that type; 1 where absent.
        cpus_per_gpu, memory_gb_per_gpu: what it asks for beside GPUs.
    """

    share: float
    gpu_hours: tuple[tuple[float, float, float], ...]
    widths: Mapping[int, float]
    gpu_milli: int = WHOLE
    gpu_types: Mapping[str, float] | None = None
    cpus_per_gpu: float = 8.0
    memory_gb_per_gpu: float = 64.0


LEAST_HOURS = 0.01
"""Work of the smallest job of the class "up to 1 GPU-hour"."""
SMALL, MEDIUM, LARGE, EXTRA = (LEAST_HOURS, 1.0), (1.0, 10.0), (10.0, 100.0), (100.0, 1000.0)
FAMILIES: dict[str, Family] = {
    # ResNet-18 on CIFAR-10 (small, 36 %) and ResNet-50 on ImageNet (extra large, 2 %).
    "image-classification": Family(0.38, ((*SMALL, 36.0), (*EXTRA, 2.0)), {1: 0.7, 2: 0.15, 4: 0.1, 8: 0.05}),
    # DeepSpeech2, speech recognition (medium, 10 %): recurrent, one machine.
    "lstm": Family(0.10, ((*MEDIUM, 1.0),), {1: 0.6, 2: 0.25, 4: 0.15}),
    # YOLOv3, object detection (large, 6 %).
    "cnn": Family(0.06, ((*LARGE, 1.0),), {1: 0.2, 2: 0.2, 4: 0.3, 8: 0.3}),
    # BERT, question answering (medium, 10 %): wants memory, so types of 32 GB and more are twice as likely.
    "transformer": Family(
        0.10,
        ((*MEDIUM, 1.0),),
        {1: 0.3, 2: 0.2, 4: 0.2, 8: 0.25, 16: 0.05},
        gpu_types={"V100-32GB": 2.0, "A100-40GB": 2.0, "A100-80GB": 2.0, "H100-80GB": 2.0, "H200-141GB": 2.0},
        memory_gb_per_gpu=128.0,
    ),
    # Invented: short, half a GPU, many CPUs; its weight is the one of Pollux's sixth model (small, 36 %).
    "gradient-boosting": Family(
        0.36, ((*SMALL, 1.0),), {1: 1.0}, gpu_milli=WHOLE // 2, cpus_per_gpu=16.0, memory_gb_per_gpu=32.0
    ),
}  # fmt: skip


def chosen(families: Mapping[str, float] | bool) -> dict[str, float]:
    """Family -> weight: all with their own for True, else those of the mapping; InputError for unknown ones."""
    if isinstance(families, bool):
        return {name: family.share for name, family in FAMILIES.items()} if families else {}
    unknown = [str(name) for name in families if name not in FAMILIES]
    if unknown:
        raise InputError(
            f"trace synthetic: unknown family {', '.join(unknown)}; known are {', '.join(FAMILIES)}, or true for all"
        )
    return {str(name): float(weight) for name, weight in families.items()}


def tasks(weights: Mapping[str, float], gpu_types: Mapping[str, float], jobs: int, rng: np.random.Generator) -> Any:
    """Columns (jobs,) of tasks: name, duration_s, num_gpus, gpu_milli, cpus, memory_gb and, if there are types, gpu_type.

    A task of ``w`` GPU-hours on ``n`` GPUs runs w / n hours (a share of a GPU counts as that share).
    """
    names = list(weights)
    share = np.array([weights[name] for name in names])
    which = rng.choice(len(names), size=jobs, p=share / share.sum())
    column: dict[str, Any] = {
        "name": np.array(names, dtype=object)[which],
        "duration_s": np.empty(jobs),
        "num_gpus": np.empty(jobs, np.int64),
        "gpu_milli": np.empty(jobs, np.int64),
        "cpus": np.empty(jobs),
        "memory_gb": np.empty(jobs),
    }
    if gpu_types:
        column["gpu_type"] = np.empty(jobs, dtype=object)
    for code, name in enumerate(names):
        rows = np.flatnonzero(which == code)
        for key, values in _family(FAMILIES[name], gpu_types, len(rows), rng).items():
            column[key][rows] = values
    return column


def _family(family: Family, gpu_types: Mapping[str, float], n: int, rng: np.random.Generator) -> dict[str, Any]:
    """The columns of n tasks of one family."""
    least, most, weight = np.array(family.gpu_hours).T
    work = rng.choice(len(weight), size=n, p=weight / weight.sum())
    hours = least[work] * (most / least)[work] ** rng.random(n)
    width = rng.choice(list(family.widths), size=n, p=np.array(list(family.widths.values())))
    milli = np.where(width == 1, family.gpu_milli, WHOLE)
    found: dict[str, Any] = {
        "duration_s": np.maximum(1, (hours * 3600 / (width * milli / WHOLE)).round()),
        "num_gpus": width,
        "gpu_milli": milli,
        "cpus": width * family.cpus_per_gpu,
        "memory_gb": width * family.memory_gb_per_gpu,
    }
    if gpu_types:
        pull = np.array([weight * (family.gpu_types or {}).get(kind, 1.0) for kind, weight in gpu_types.items()])
        found["gpu_type"] = np.array(list(gpu_types), dtype=object)[rng.choice(len(pull), size=n, p=pull / pull.sum())]
    return found
