"""What the tests of commands share: a small trace of one's own, options that make a run short, and what a refusal is."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROWS = [f"j{k},{k * 30},{k % 7 * 200 + 5},{k % 3 + 1}" for k in range(120)]
HEADER = "job_id,submit_s,duration_s,num_gpus"
QUICK = (
    "protocol.window=16",
    "windows=3",
    "policy=[fifo,sjf]",
    "backfill=[skip,easy]",
    "nodes=2",
    "progress=false",
)
Told = tuple[int, str, str]
"""Exit status, standard output, standard error."""
Command = Callable[..., Told]


def write(path: Path, rows: list[str], header: str = HEADER) -> None:
    path.write_text("\n".join([header, *rows]) + "\n")


def refused(told: Told, here: Path, said: str, *, alone: bool = False) -> str:
    """Exit status 2, one error line that holds ``said``, no traceback, no run directory. ``alone``: and nothing else."""
    status, out, err = told
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert status == 2, err
    assert len(errors) == 1, err
    assert said in errors[0]
    assert "Traceback" not in err
    assert not alone or err.splitlines() == errors
    runs = here / "runs"
    assert not runs.exists() or [p for p in runs.iterdir() if not p.name.startswith(".")] == [], out
    return errors[0]


def no_nan(value: Any) -> bool:
    if isinstance(value, dict):
        return all(no_nan(v) for v in value.values())
    if isinstance(value, list):
        return all(no_nan(v) for v in value)
    return not isinstance(value, float) or math.isfinite(value)
