"""How long `make live` takes to show something: ``python experiments/service_live.py [--minutes 2]``.

The present commit is cloned into a temporary folder, with the Python of this process as the environment that set-up made. There
`rltune.live` runs twice without a terminal: the first run compiles kernels (with `make live` set-up has done that before), the second
finds them. The clock runs from the start of the process to the first line with jobs and GPUs, and the table at the end is read.
Writes the part "live" of results/service.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from recording import write_part

HERE = Path(__file__).resolve().parent
PICTURE = re.compile(r"^\s*\d+ s  .* jobs came")
COMPILING_MINUTES = 0.2


def run(clone: Path, minutes: float) -> dict[str, Any]:
    """One replay: seconds to the first picture, exit status, and what it told at the end."""
    command = [sys.executable, "-m", "rltune.live", f"minutes={minutes:g}"]
    begun, first, told = time.monotonic(), None, []
    process = subprocess.Popen(
        command, cwd=clone, env=os.environ | {"PYTHONPATH": str(clone)}, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if first is None and PICTURE.match(line):
            first = time.monotonic() - begun
        told.append(line.rstrip("\n"))
    status = process.wait()
    at = next((k for k, line in enumerate(told) if line.startswith("replay")), len(told))
    table = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in told[at + 1 :] if re.search(r"\S\s{2,}\S", line))
    trace = next((line.split(maxsplit=1)[1] for line in told if line.startswith("trace")), "")
    return {"first_picture_s": first and round(first, 1), "status": status, "trace": trace, "table": table}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0)
    minutes = parser.parse_args().minutes
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "rltune"
        subprocess.run(["git", "clone", "-q", str(HERE.parent), str(clone)], check=True)
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=clone, capture_output=True, text=True, check=True
        ).stdout.strip()
        compiling = run(clone, COMPILING_MINUTES)
        shown = run(clone, minutes)
    found = shown | {
        "minutes_to_first_picture": shown["first_picture_s"] and round(shown["first_picture_s"] / 60, 2),
        "first_picture_without_kernels_s": compiling["first_picture_s"],
        "refused": int(shown["table"]["refused by the device"]), "lost": int(shown["table"]["lost"]),
        "commit": commit,
    }  # fmt: skip
    write_part("live", found)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
