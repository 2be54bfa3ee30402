"""GPUs that online placement of MIG instances provisions, over a lower bound, by policy; decision time at 1,000 GPUs.

OMP_NUM_THREADS=1 python experiments/mig_online.py [--fresh 40] [--processes 2]

Writes mig_online.json and .md beside the other results. Published streams (2,000 events, 5 of each workload) and fresh ones
of the generator modelled on them, from seed 50,000,000 upwards. Nothing was chosen on either: weights, the look-ahead's
horizon and the rule for migration come from generated streams with other seeds (2,000 to 1,000,000 and 2,000,000 to
2,072,800).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from rltune.bench import planning
from rltune.mig.geometry import geometry
from rltune.mig.online import Fleet, FleetOptions, Growth
from rltune.mig.online.events import Event, generate, read_events
from rltune.mig.online.replay import replay

RESULTS = Path(__file__).resolve().parent / "results"
MODEL = "a100-80gb"
FRESH_SEED = 50_000_000
WORKLOADS = planning.LIVE
NO_LIMIT = {"migrate": 1.0, "slack": 0}
ROWS: dict[str, dict[str, Any]] = {
    "random partition that has the size": {},
    "random slot": {"policy": "random"},
    "first-fit": {"policy": "first_fit"},
    "best-fit": {"policy": "best_fit"},
    "fragmentation-aware": {"policy": "fragmentation"},
    "look-ahead (ours)": {"policy": "lookahead"},
    "learned (ours)": {"policy": "learned"},
    "learned, learning on": {"policy": "learned", "learn": True},
    "fragmentation-aware, migrating <= 1 %": {"policy": "fragmentation", "migrate": 0.01},
    "look-ahead, migrating <= 1 %": {"policy": "lookahead", "migrate": 0.01},
    "learned, migrating <= 1 %": {"policy": "learned", "migrate": 0.01},
    "learned, migrating <= 2 %": {"policy": "learned", "migrate": 0.02},
    "learned, migrating <= 2 %, no slack": {"policy": "learned", "migrate": 0.02, "slack": 0},
    "learned, migrating without limit": {"policy": "learned", **NO_LIMIT},
}
PUBLISHED = {"first-fit": (1.125, 1.133), "fragmentation-aware": (1.079, 1.074)}
PUBLISHED |= {"random partition that has the size": (1.187, 1.197)}
"""Ratios known before, on ten streams of which five are here, (balanced, about 60 live)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--fresh", type=int, default=40)
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    begin = time.perf_counter()
    streams = {("fresh", w, i): None for w in WORKLOADS for i in range(options.fresh)}
    streams |= {
        ("published", w, i): planning.recorded_set("acquire_release.json.gz") for w in WORKLOADS for i in range(5)
    }
    tasks = [(row, *key, path) for row in ROWS for key, path in streams.items()]
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        done = pool.starmap(run, tasks, chunksize=8)
    found = {
        "command": f"python experiments/mig_online.py --fresh {options.fresh} --processes {options.processes}",
        "gpu": MODEL,
        "machine": f"{os.cpu_count()} cores, {options.processes} processes",
        "ratios": {
            f"{source} {workload}": {
                row: cell([d for t, d in zip(tasks, done, strict=True) if t[:3] == (row, source, workload)])
                for row in ROWS
            }
            for source, workload in dict.fromkeys(key[:2] for key in streams)
        },
        "decision_us": {row: latency(kw) for row, kw in ROWS.items() if kw},
    }
    found["wall_s"] = round(time.perf_counter() - begin, 1)
    (RESULTS / "mig_online.json").write_text(json.dumps(found, indent=1) + "\n")
    (RESULTS / "mig_online.md").write_text(markdown(found))
    print(RESULTS / "mig_online.md")


def stream(source: str, workload: str, number: int, path: Path | None) -> list[Event]:
    """One stream of a workload."""
    if path is not None:
        return read_events(path, workload, number)
    return generate(FRESH_SEED + 1000 * list(WORKLOADS).index(workload) + number, live=WORKLOADS[workload])


def run(row: str, source: str, workload: str, number: int, path: Path | None) -> tuple[int, int, float]:
    """GPUs at the peak, lower bound, migrations per request."""
    events = stream(source, workload, number, path)
    done = replay(Fleet(FleetOptions((Growth(MODEL),), **ROWS[row])), events).summary
    peak = done["gpus_peak"] if ROWS[row] else random_partition(events, number)
    return peak, done["lower_bound"], done["migrations_per_request"]


def random_partition(events: list[Event], seed: int) -> int:
    """GPUs with fixed partitions: one drawn evenly among the 19 that have the size, drawn again when the GPU is empty."""
    table, draws = geometry(MODEL), np.random.default_rng(seed)
    partitions = [table.multiset(state) for state in table.maximal()]
    free: list[list[str]] = []
    whole: list[int] = []
    where: dict[str, tuple[int, str]] = {}
    for event in events:
        if not event.acquire:
            gpu, kind = where.pop(event.tenant)
            free[gpu].append(kind)
            continue
        kind = event.profile
        gpu = next((g for g, slots in enumerate(free) if kind in slots), None)
        if gpu is None:
            gpu = next((g for g, slots in enumerate(free) if len(slots) == whole[g]), len(free))
            if gpu == len(free):
                free.append([])
                whole.append(0)
            having = [p for p in partitions if kind in p]
            free[gpu] = list(having[draws.integers(len(having))])
            whole[gpu] = len(free[gpu])
        free[gpu].remove(kind)
        where[event.tenant] = (gpu, kind)
    return len(free)


def cell(runs: list[tuple[int, int, float]]) -> dict[str, Any]:
    """Sum of peaks over sum of bounds with a 95 % bootstrap interval over streams; each stream; migrations."""
    peaks, bounds, moved = (np.array(column, float) for column in zip(*runs, strict=True))
    picks = np.random.default_rng(0).integers(len(runs), size=(2000, len(runs)))
    resampled = peaks[picks].sum(1) / bounds[picks].sum(1)
    return {
        "ratio": round(float(peaks.sum() / bounds.sum()), 4),
        "ci95": [round(float(v), 4) for v in np.quantile(resampled, [0.025, 0.975])],
        "mean_bound": round(float(bounds.mean()), 2),
        "migrated_pct": round(100 * float(moved.mean()), 2),
        "most_migrated_pct": round(100 * float(moved.max()), 2),
        "peaks": [int(p) for p in peaks],
        "bounds": [int(b) for b in bounds],
    }


def latency(options: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Microseconds of an acquire on a fleet of about 40 and about 1,000 GPUs, after it has filled."""
    found = {}
    for label, live in (("40 GPUs", 60.0), ("1,000 GPUs", planning.THOUSAND_GPUS)):
        taken, gpus = planning.acquire_us(FleetOptions((Growth(MODEL),), **options), live, FRESH_SEED - 1)
        found[label] = {
            "gpus": gpus,
            "median": round(float(taken.median()), 1),
            "p99": round(float(taken.quantile(0.99)), 1),
        }
    return found


def markdown(found: dict[str, Any]) -> str:
    """The tables, for the page of results."""
    lines = ["# Online MIG fleet: GPUs provisioned over the lower bound", ""]
    lines += [f"`{found['command']}`, {found['machine']}, {found['wall_s']} s, GPUs {found['gpu']}.", ""]
    lines += [
        "Peak of provisioned GPUs, summed over streams, over the sum of lower bounds; in brackets a 95 % bootstrap"
    ]
    lines += [
        "interval over streams. Known before: the ratios recorded on ten published streams, of which five are here.",
        "",
    ]
    columns = list(found["ratios"])
    lines += ["| policy | " + " | ".join(columns) + " | known before |", "|---" * (len(columns) + 2) + "|"]
    for row in ROWS:
        cells = [found["ratios"][column][row] for column in columns]
        texts = [f"{c['ratio']:.3f} [{c['ci95'][0]:.3f}, {c['ci95'][1]:.3f}]" + moved(c) for c in cells]
        known = " / ".join(map(str, PUBLISHED[row])) if row in PUBLISHED else ""
        lines.append(f"| {row} | " + " | ".join(texts) + f" | {known} |")
    bounds = [f"{column}: {next(iter(cells.values()))['mean_bound']}" for column, cells in found["ratios"].items()]
    lines += ["", f"Mean lower bound: {'; '.join(bounds)}.", "", "Peaks on each published stream (bound last):", ""]
    for column in (c for c in columns if c.startswith("published")):
        rows = found["ratios"][column]
        lines += [f"- {column}"] + [f"  - {row}: {c['peaks']}" for row, c in rows.items()]
        lines += [f"  - bound: {next(iter(rows.values()))['bounds']}"]
    lines += [
        "",
        "## Microseconds of an acquire",
        "",
        "| policy | 40 GPUs median / p99 | 1,000 GPUs median / p99 | GPUs |",
    ]
    lines += ["|---|---|---|---|"]
    for row, cells in found["decision_us"].items():
        pairs = [f"{c['median']:.0f} / {c['p99']:.0f}" for c in cells.values()]
        lines.append(f"| {row} | {' | '.join(pairs)} | {cells['1,000 GPUs']['gpus']} |")
    return "\n".join(lines) + "\n"


def moved(found: dict[str, Any]) -> str:
    """Migrations, where there are any."""
    if not found["most_migrated_pct"]:
        return ""
    return f", {found['migrated_pct']} % migrated (most {found['most_migrated_pct']} %)"


if __name__ == "__main__":
    main()
