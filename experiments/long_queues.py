"""EASY under long queues, this version beside another: ``git worktree add /elsewhere COMMIT``, then
``python experiments/long_queues.py --before /elsewhere`` (RLTUNE_TRACES set).

The first jobs of the world ``heavy_98`` of hybrid.py, arriving eight times as fast as there, so that most of them wait
together. The versions take turns, each in a process of its own that has compiled and run everything once before; what
is compared is the whole simulation, and that its schedule is the same run for run. Writes results/long_queues.{json,md}.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
RESULTS = HERE.parent / "results"
COMMAND = "RLTUNE_TRACES=... OMP_NUM_THREADS=1 python experiments/long_queues.py --before PATH"
SIZES = (2000, 4000, 6000)
FURTHER = (12_000,)
"""Jobs with which this version alone is measured."""
FASTER = 8.0
"""How many times as fast as in hybrid.py jobs arrive."""
RULES = tuple((place, ways) for place in ("best_fit", "fgd") for ways in ("fastest", "market"))
TURNS = 2


def serve() -> None:
    """Reads lines (jobs, allocator, rule of ways), answers with CPU seconds, mean wait, longest queue and a hash of the schedule."""
    import numpy as np

    import rltune

    sys.path.insert(0, str(Path.cwd() / "experiments"))
    import hybrid

    helios = rltune.load_trace("helios")
    rows = (0, hybrid.first_row(helios, "2020-09-01"), hybrid.first_row(helios, "2020-09-08"))
    jobs = hybrid.world("heavy_98", helios, rows, 0, 0.98, True).jobs
    first = jobs.submit_s[0]
    jobs = replace(jobs, submit_s=first + (jobs.submit_s - first) / FASTER)

    def run(n: int, allocator: str, ways: str) -> dict[str, Any]:
        options = {"policy": "fifo", "backfill": "easy", "runtimes": "predicted", "ways": "mig_profiles", "seed": 0}
        speed = {"name": "gavel", "missing": "assumed", "reference": None, "draw": 0}
        some, begun = jobs.take(slice(0, n)), time.process_time()
        result = rltune.simulate(some, hybrid.CLUSTER, allocator=allocator, way_rule=ways, speed=speed, **options)
        seconds, runs = time.process_time() - begun, result.runs
        parts = (runs.start_s, runs.end_s, runs.node, runs.mask, runs.first_slice)
        told = hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()
        queued = np.searchsorted(np.sort(some.submit_s), some.submit_s, "right") - np.searchsorted(
            np.sort(result.start_s), some.submit_s, "right"
        )
        return {
            "seconds": seconds, "wait_s": float(result.wait_s.mean()), "longest_queue": int(queued.max()), "schedule": told,
        }  # fmt: skip

    for allocator, ways in RULES:
        run(200, allocator, ways)
    print("ready", flush=True)
    for line in sys.stdin:
        n, allocator, ways = line.split()
        print(json.dumps(run(int(n), allocator, ways)), flush=True)


def worker(root: Path) -> subprocess.Popen[str]:
    """A process that serves the version at ``root``."""
    return subprocess.Popen(
        [sys.executable, str(HERE), "--serve"], cwd=root, env=os.environ | {"PYTHONPATH": str(root)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip


def ask(process: subprocess.Popen[str], *what: Any) -> dict[str, Any]:
    """One simulation of a version."""
    assert process.stdin is not None and process.stdout is not None
    print(*what, file=process.stdin, flush=True)
    found: dict[str, Any] = json.loads(process.stdout.readline())
    return found


def measure(before: Path) -> list[dict[str, Any]]:
    """A row for each number of jobs and rule: least seconds of the turns, of which long ones are few."""
    old, new = worker(before), worker(HERE.parents[1])
    rows = []
    try:
        for each in (old, new):
            assert each.stdout is not None
            assert each.stdout.readline().strip() == "ready"
        for n in (*SIZES, *FURTHER):
            for allocator, ways in RULES:
                turns = TURNS if n < SIZES[-2] else 1
                sides = (old, new) if n in SIZES else (new,)
                found = [[ask(side, n, allocator, ways) for side in sides] for _ in range(turns)]
                last = found[-1]
                assert len({x["schedule"] for pair in found for x in pair}) == 1, (
                    f"{n} {allocator} {ways}: schedules differ"
                )
                seconds = [min(pair[k]["seconds"] for pair in found) for k in range(len(sides))]
                rows.append(
                    {
                        "jobs": n, "allocator": allocator, "ways": ways, "longest_queue": last[-1]["longest_queue"],
                        "mean_wait_s": last[-1]["wait_s"], "seconds": seconds[-1],
                        "before_seconds": seconds[0] if len(sides) == 2 else None, "schedule": last[-1]["schedule"],
                    }
                )  # fmt: skip
                print(rows[-1], flush=True)
    finally:
        old.kill()
        new.kill()
    return rows


def text(out: dict[str, Any]) -> str:
    """The table."""
    lines = [
        "# EASY under long queues", "",
        f"`{out['_about']['command']}`; {out['_about']['source']} trace; machine: {out['_about']['machine']}. fifo, predicted run times.",
        "CPU seconds of a whole simulation, since other work ran beside; every schedule is the same in both versions.", "",
        "| allocator | ways | jobs | longest queue | before, s | now, s | ratio |", "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in sorted(out["rows"], key=lambda r: (r["allocator"], r["ways"], r["jobs"])):
        old = row["before_seconds"]
        told = ("-", "-") if old is None else (f"{old:.2f}", f"{old / row['seconds']:.1f}")
        lines.append(
            f"| {row['allocator']} | {row['ways']} | {row['jobs']:,} | {row['longest_queue']:,} | {told[0]} | "
            f"{row['seconds']:.2f} | {told[1]} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--serve", action="store_true")
    given = parser.parse_args()
    if given.serve:
        serve()
        return
    if given.before is None:
        parser.error("--before PATH: a checkout of the version to compare with is needed")
    commit = subprocess.run(
        ["git", "-C", str(given.before), "rev-parse", "--short", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()
    about = {
        "command": COMMAND, "machine": f"{os.cpu_count()} cores, {platform.machine()}", "source": "real", "before": commit,
    }  # fmt: skip
    out = {"_about": about, "rows": measure(given.before.resolve())}
    (RESULTS / "long_queues.json").write_text(json.dumps(out, indent=1) + "\n")
    (RESULTS / "long_queues.md").write_text(text(out))


if __name__ == "__main__":
    main()
