"""The commands of training as users run them, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def train(*options: str, runs: Path) -> subprocess.CompletedProcess[str]:
    return _run("rltune.train", *options, f"runs={runs}")


def evaluate(*options: str, runs: Path) -> subprocess.CompletedProcess[str]:
    return _run("rltune.evaluate", *options, f"runs={runs}")


def _run(module: str, *options: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", module, *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
