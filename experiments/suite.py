"""The default tests where they must not fail: ``python experiments/suite.py [--times 2] [--load 10]``.

First once alone, timed (aim: five minutes on two idle cores). Then ``--times`` times as a job in the background of a script, which
ignores Ctrl-C and hands that on, with ``--load`` further processes that do nothing but compute. The tests are those of
``make test``: the same command. Writes results/suite.json and results/suite.md.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from recording import write_part, write_text

ROOT = Path(__file__).resolve().parents[1]
TESTS = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadgroup"]
BUSY = "while True: pass"


def run(load: int, background: bool) -> dict[str, Any]:
    """All default tests; how long they took and what became of them."""
    with ExitStack() as stack:
        for _ in range(load):
            busy = subprocess.Popen([sys.executable, "-c", BUSY])
            stack.callback(busy.wait)
            stack.callback(busy.kill)
        before, begun = os.getloadavg()[0], time.monotonic()
        told = subprocess.run(
            TESTS, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
            preexec_fn=ignore if background else None,
        )  # fmt: skip
        seconds = time.monotonic() - begun
    failed = re.findall(r"^FAILED (\S+)", told.stdout, re.M)
    found = {
        "load": load, "background": background, "seconds": round(seconds, 1), "status": told.returncode, "failed": failed,
        "load_average": [round(before, 1), round(os.getloadavg()[0], 1)],
    }  # fmt: skip
    print(found, flush=True)
    return found


def ignore() -> None:
    """As a shell begins a command with ``&`` in a script."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGQUIT, signal.SIG_IGN)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=2)
    parser.add_argument("--load", type=int, default=10)
    given = parser.parse_args()
    rows = [run(0, False), *(run(given.load, True) for _ in range(given.times))]
    write_part("runs", {"rows": rows}, "suite")
    lines = ["| how | seconds | status | failed | load average, begin and end |", "|---|---|---|---|---|"]
    for row in rows:
        how = f"background, {row['load']} busy processes beside" if row["background"] else "alone"
        load = " and ".join(map(str, row["load_average"]))
        lines.append(f"| {how} | {row['seconds']} | {row['status']} | {', '.join(row['failed']) or 'none'} | {load} |")
    write_text("suite", "The default tests, alone and under load", __doc__, lines)


if __name__ == "__main__":
    main()
