"""What all workloads share: options, the result that is printed, threads. No PyTorch here: not every workload needs it."""

from __future__ import annotations

import json
import math
import os
import resource
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from rltune.nouns.errors import InputError

SLICES = "RLTUNE_COMPUTE_SLICES"
"""Environment variable with the compute slices of the instance that a task was given."""


@dataclass(frozen=True, slots=True)
class Options:
    """``device`` auto, cuda or cpu; ``steps`` None: by device; ``scale`` multiplies sizes; ``size`` of matrices (matmul).

    ``threads``: ``slices`` for as many CPU threads as the task has compute slices, None: as the environment says
    (OMP_NUM_THREADS).
    """

    device: str = "auto"
    seed: int = 0
    steps: int | None = None
    scale: float = 1.0
    size: int | None = None
    threads: str | None = None

    def __post_init__(self) -> None:
        for name, value in (("steps or epochs", self.steps), ("size", self.size)):
            if value is not None and value < 1:
                raise InputError(f"{name} {value}: a whole number of at least 1 is needed")
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise InputError(f"--scale {self.scale}: a number above 0 is needed")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"--seed {self.seed}: a whole number from 0 to 2**32 - 1 is needed")

    def scaled(self, size: int) -> int:
        """A size times the scale, at least 1."""
        return max(1, round(size * self.scale))

    def cpu_threads(self) -> int | None:
        """Threads to use on the CPU where ``threads`` is ``slices``; None: leave them as they are."""
        if self.threads is None:
            return None
        text = os.environ.get(SLICES, "")
        if not text.isdecimal() or int(text) < 1:
            raise InputError(f"--threads slices: {SLICES}={text!r}; set it to a whole number of at least 1")
        return min(len(os.sched_getaffinity(0)), int(text))


@dataclass(frozen=True, slots=True)
class Result:
    """What a workload did.

    ``seconds`` of the work alone, without loading libraries and data; ``steps`` steps, epochs or rounds; ``quality`` a figure
    called ``quality_name`` on data not trained on, ``trivial_quality`` that of a predictor that has learned nothing;
    ``peak_memory_bytes`` of the GPU as PyTorch allocated it, on the CPU of the whole process; ``sizes`` as chosen.
    """

    workload: str
    device: str
    device_name: str
    seconds: float
    steps: int
    throughput: float
    throughput_unit: str
    quality: float
    quality_name: str
    trivial_quality: float | None
    peak_memory_bytes: int
    threads: int
    seed: int
    sizes: dict[str, int]

    def line(self) -> str:
        """As one line of JSON; InputError where training went astray, since JSON has no NaN."""
        if not math.isfinite(self.quality):
            raise InputError(
                f"{self.workload}: {self.quality_name} is {self.quality}: training diverged; try another --scale"
            )
        return json.dumps(asdict(self), allow_nan=False)


class TooLarge(InputError):
    """The workload does not fit in the memory that is there."""

    exit_status = 3


def say(workload: str, device: str, steps: int, sizes: Mapping[str, int]) -> None:
    """What is about to run, on standard error."""
    what = ", ".join(f"{name} {value}" for name, value in {"steps": steps, **sizes}.items())
    print(f"{workload} on {device}: {what}", file=sys.stderr, flush=True)


def process_peak_bytes() -> int:
    """Most memory that this process has had resident (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
