"""The ten-minute tour is run as it stands, in one shell; what it shows is what is printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_documented_commands import ROOT, is_python, parted

TOUR = ROOT / "docs" / "tour.md"
BY_HAND = ("make live", "rltune inspect", "python -m rltune.serve")
"""They run until somebody ends them, or have tests of their own."""


def steps() -> Iterator[tuple[str, list[str]]]:
    """Each block of the tour that a shell takes, and the lines that the page shows below it."""
    commands = ""
    for block in parted(TOUR)[0]:
        text = "\n".join(line.text for line in block)
        if is_python(block) or text.startswith(BY_HAND):
            continue
        if re.match(r"python|cat|export", text):
            if commands:
                yield commands, []
            commands = text
        else:
            yield commands, text.splitlines()
            commands = ""


def plain(text: str) -> str:
    return " ".join(text.split()).strip()


@pytest.mark.slow
def test_the_tour_shows_what_is_printed(tmp_path: Path) -> None:
    """Whoever follows the tour would see an error, or other figures than the page shows."""
    here = tmp_path / "here"
    here.mkdir()
    parts = list(steps())
    assert len(parts) == 3
    script = "set -e\n" + "\necho @@@\n".join(commands for commands, _ in parts)
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    more = {
        "PATH": path,
        "PYTHONPATH": str(ROOT),
        "RLTUNE_STATE": str(tmp_path / "state"),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "120",
    }
    done = subprocess.run(
        ["bash", "-c", script], cwd=here, env=os.environ | more, capture_output=True, text=True, check=False, timeout=1200
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    for (commands, shown), printed in zip(parts, done.stdout.split("@@@"), strict=True):
        missing = [line for line in shown if plain(line.rstrip(" .│┃")) not in plain(printed)]
        assert not missing, f"after {commands}: {missing} are not in {printed}"
