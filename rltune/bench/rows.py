"""A figure as a row of the record, and how it is timed."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np


def row(
    name: str, value: float | None, unit: str, aim: float | None, trace: str, note: str = "", *, most: bool = False
) -> dict[str, Any]:
    """One figure on a trace; ``value`` None where it could not be measured, ``met`` None where there is no aim.

    ``most``: the aim is not to be exceeded.
    """
    return {
        "name": name,
        "value": None if value is None else round(value, 4),
        "unit": unit,
        "aim": aim,
        "met": None if aim is None or value is None else bool(value <= aim if most else value >= aim),
        "trace": trace,
        "command": " ".join(["python", "-m", "rltune.bench", *sys.argv[1:]]),
        "note": note,
    }


def median_s(work: Callable[[], object], repeats: int) -> float:
    """Median seconds of ``work`` after one run that compiles and warms up."""
    work()
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return float(np.median(times))


def machine() -> dict[str, Any]:
    return {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.platform(terse=True)}
