"""Machine code on disk must not outlive the sources it was compiled from."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from rltune.compiled import PACKAGE

BOUNDED_SLOWDOWN = """
from rltune.rl.kernels import BSLD, job_cost
print(job_cost(BSLD, 99.0, 1.0), sum(job_cost.stats.cache_hits.values()))
"""


def test_a_changed_constant_of_another_module_is_compiled_in(tmp_path: Path) -> None:
    """After an update old machine code would run with the new one, and write past the ends of changed arrays."""
    copy = tmp_path / "rltune"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "conf").symlink_to(PACKAGE.parent / "conf")

    def run() -> list[str]:
        command = [sys.executable, "-c", BOUNDED_SLOWDOWN]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    assert run() == ["10.0", "0"]
    assert run() == ["10.0", "1"]  # from disk
    metrics = copy / "metrics.py"
    text = metrics.read_text()
    assert text.count("BOUND_S = 10.0") == 1
    metrics.write_text(text.replace("BOUND_S = 10.0", "BOUND_S = 20.0"))
    assert run() == ["5.0", "0"]
