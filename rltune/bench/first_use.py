"""How long a user waits for the first answer: compiling at set-up, and the first command after it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

SIMULATE = "simulate +trace=synthetic trace.jobs=1000 progress=false policy=las options.resume_s=60"
"""Of the detailed simulation, whose kernels take longest to compile."""


class Waits(NamedTuple):
    """Seconds."""

    setup: float  # compiling everything, in an empty cache
    unchanged: float  # the same again
    first_use: float  # the first command after it


def measure(command: str = SIMULATE) -> Waits:
    """Each step in processes of its own, with a cache that begins empty."""
    with tempfile.TemporaryDirectory() as folder:
        return Waits(*(seconds(words, Path(folder)) for words in ("warm", "warm", f"{command} runs=runs")))


def seconds(words: str, folder: Path) -> float:
    """Of ``python -m rltune.<words>``, with the machine code in ``folder``."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(folder / "kernels")}
    begun = time.perf_counter()
    command = [sys.executable, "-m", *f"rltune.{words}".split()]
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return time.perf_counter() - begun
