"""The service's decisions beside the simulator's: ``python experiments/service_replay.py`` (RLTUNE_TRACES set).

A day of Helios (Venus, 2020-09-08, its virtual clusters and pools) under several policies, and a week of it on unlike GPUs with MIG
(cluster ``mixed``, measured speeds by class and slice, market, suspension), are simulated, and pushed through the live service's
engine on a clock that is set, with virtual machines: submissions, reports of ends, decisions on disk. A decision is a run: which
job, when, on which nodes. Writes the part "replay" of results/service.json and results/service_replay.md.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from recording import write_part, write_text

import rltune
from rltune.nouns.jobs import Category
from rltune.service.replaying import Decided, Replay, differences, explicit
from rltune.simulator.options import make_options
from rltune.simulator.requests import Rules
from rltune.traces.heterogeneity import load_throughput

DAY, NEXT, WEEK = "2020-09-08", "2020-09-09", "2020-09-15"
BACK = {"suspend_s": 0.0, "resume_s": 60.0}
WIDEST = 64
CASES: tuple[tuple[str, str, dict[str, Any], bool, str], ...] = (
    ("fifo", "easy", {"preemptive": False}, True, "helios"),
    ("sjf", "skip", {"preemptive": False}, True, "helios"),
    ("las", "skip", BACK, False, "helios"),
    ("las", "skip", {"way_rule": "market", **BACK}, False, "mixed"),
    ("gittins", "skip", {"way_rule": "market", **BACK}, False, "mixed"),
)
"""Policy, backfill, options, whether run times are told, world."""


def world(name: str) -> tuple[Any, Any, dict[str, Any], str]:
    """Jobs, cluster, options that say how fast and in which ways they run, source."""
    trace = rltune.load_trace("helios")
    if name == "helios":
        return trace.between(DAY, NEXT).jobs, rltune.load_cluster("helios"), {}, trace.source
    jobs = trace.between(DAY, WEEK).jobs
    jobs = jobs.take(jobs.num_gpus <= WIDEST)
    jobs = replace(jobs, gpu_type=Category.absent(len(jobs)), vc=Category.absent(len(jobs)))
    speed = load_throughput("gavel", missing="assumed", draw=0)
    return jobs, rltune.load_cluster("mixed"), {"speed": speed, "ways": "mig_profiles", "seed": 0}, trace.source


def measure(case: tuple[str, str, dict[str, Any], bool, str]) -> dict[str, Any]:
    policy, backfill, options, known, name = case
    jobs, cluster, more, source = world(name)
    begun = time.perf_counter()
    result = rltune.simulate(
        jobs,
        cluster,
        policy=policy,
        backfill=backfill,
        allocator="best_fit",
        runtimes="exact" if known else "unknown",
        **options,
        **more,
    )
    simulated = [
        Decided(str(x.job_id), float(x.start_s), tuple(map(int, x.nodes))) for x in result.attempts.itertuples()
    ]
    middle = time.perf_counter()
    ways = explicit(jobs, cluster, make_options(options | more)) if more else None
    rules = Rules(policy, backfill, "best_fit", make_options(options), exact=known)
    with tempfile.TemporaryDirectory() as folder:
        served = Replay(jobs, cluster, rules, Path(folder), ways, known).play()
    ended = time.perf_counter()
    different = differences(simulated, served)
    row = {
        "world": name, "policy": policy, "backfill": backfill, "jobs": len(jobs), "decisions": len(simulated),
        "different": different, "simulated_s": round(middle - begun, 1), "served_s": round(ended - middle, 1), "source": source,
        "slices": int(np.sum(result.runs.first_slice[result.runs.ptr[:-1]] >= 0)) if result.runs.first_slice is not None else 0,
    }  # fmt: skip
    print(row, flush=True)
    return row


def main() -> None:
    rows = [measure(case) for case in CASES]
    found = {
        "decisions": sum(row["decisions"] for row in rows),
        "decisions_different": sum(row["different"] for row in rows),
        "rows": rows,
    }
    write_part("replay", found)
    lines = [
        "| world | policy | jobs | decisions | on slices | different | simulation s | service s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['world']} | {r['policy']}, {r['backfill']} | {r['jobs']:,} | {r['decisions']:,} | {r['slices']:,} | {r['different']} "
        f"| {r['simulated_s']} | {r['served_s']} |"
        for r in rows
    ]
    lines += ["", f"Trace: {rows[0]['source']}."]
    write_text("service_replay", "The service's decisions beside the simulator's", __doc__, lines)


if __name__ == "__main__":
    main()
