"""Everything in one run: ``python experiments/all_at_once.py`` (RLTUNE_TRACES set).

Helios' September arrivals on a cluster of unlike GPUs, part of them cut by MIG: V100, P100, A100 and A100 in slices,
with the published ratios of speed (the A100 by its peak FLOPS); jobs of one GPU may also run on a slice, at measured
speeds of models drawn by a seed; jobs are suspended (60 s a resumption), nodes fail, run times are unknown. The joint MILP
decides beside greedy rules. Every plan that the MILP gives is checked by `check_plan`'s rules in the tests; here the runs
are checked afterwards: nothing is held twice, and no job finishes without its work. Types, slices and models are
assumptions: the log names none of them. Writes results/all_at_once.{json,md}; with ``--choose`` the same on July and August,
for several weights of slow ways, to results/all_at_once_choice.{json,md}: the default weight was chosen by that.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

import rltune
from rltune.allocators.milp import MilpAllocator, default_weights
from rltune.core.state import FINISHED
from rltune.nouns.cluster import Cluster, Pool
from rltune.nouns.throughput import Throughput
from rltune.simulator.joint import Joint

RESULTS = Path(__file__).resolve().parent / "results"
COMMAND = "RLTUNE_TRACES=... OMP_NUM_THREADS=1 python experiments/all_at_once.py"
TEST, VALIDATION = ("2020-09-01", "2020-09-28"), ("2020-07-01", "2020-09-01")
CLUSTER = Cluster(
    "unlike",
    (
        Pool("v100", 40, 8, "V100"),
        Pool("p100", 20, 8, "P100"),
        Pool("a100", 15, 8, "A100-40GB"),
        Pool("mig", 10, 8, "A100-40GB", mig=True),
    ),
)
OPTIONS = {
    "resume_s": 60.0, "node_mtbf_s": 3e6, "node_repair_s": 7200.0, "checkpoint_s": 1800.0, "ways": "mig_profiles",
    "way_rule": "efficient", "way_least_speed": 0.4, "seed": 0,
}  # fmt: skip
GREEDY: dict[str, dict[str, Any]] = {
    "las, best fit": {"policy": "las", "allocator": "best_fit"},
    "gittins, best fit": {"policy": "gittins", "allocator": "best_fit"},
    "gittins, fgd": {"policy": "gittins", "allocator": "fgd"},
    "gittins, best fit, fastest way": {"policy": "gittins", "allocator": "best_fit", "way_rule": "fastest"},
    "gittins, fgd, fastest way": {"policy": "gittins", "allocator": "fgd", "way_rule": "fastest"},
}
JOINT = {"gittins, milp": {"policy": "gittins", "allocator": "milp"}}
WEIGHTS = (3.0, 10.0, 30.0)
WIDE = 128
"""GPUs of a job that fits into one or two pools only, and has to wait until half of one is free."""
HEADS = (
    "policy, allocator", "wait s", f"of it, jobs of {WIDE} GPUs or more", "p99 wait s", "JCT s",
    "starts a job", "runs on slices", "lost runs", "unfinished",
    "ms a decision, median (p99)", "seconds",
)  # fmt: skip


def check(result: rltune.Result) -> None:
    """Nothing is held twice at any instant, and the work of a finished job adds up. Raises AssertionError."""
    runs = result.runs
    assert runs.mask is not None and runs.first_slice is not None
    done = np.zeros(len(result.jobs))
    np.add.at(done, runs.job, runs.useful_s)
    ended = result.finished
    assert np.allclose(done[ended], result.jobs.duration_s[ended], rtol=1e-9, atol=1e-6)
    held: dict[int, list[tuple[float, float, int, int]]] = {}
    for r in range(len(runs)):
        for i in range(runs.ptr[r], runs.ptr[r + 1]):
            one = (float(runs.start_s[r]), float(runs.end_s[r]), int(runs.mask[i]), int(runs.first_slice[i]))
            held.setdefault(int(runs.node[i]), []).append(one)
    for uses in held.values():
        # Ends before starts of the same instant; a slice shares its GPU with other slices that begin elsewhere.
        marks = sorted((t, k, mask, first) for s, e, mask, first in uses if e > s for t, k in ((e, 0), (s, 1)))
        busy: dict[tuple[int, int], int] = {}
        for _, begins, mask, first in marks:
            for gpu in range(32):
                if mask >> gpu & 1:
                    busy[gpu, first] = busy.get((gpu, first), 0) + (1 if begins else -1)
                    assert first >= 0 or busy[gpu, first] <= 1
                    assert busy[gpu, first] <= 1


def measure(jobs: Any, case: dict[str, Any], weight: float | None = None) -> dict[str, Any]:
    """One case: means, starts a job, what the MILP counted, seconds; ``weight``: of slow ways, None: the default."""
    options, spent = {**OPTIONS, **case, "speed": Throughput.published(missing="flops")}, list[float]()
    if case["allocator"] == "milp":
        weights = default_weights() | ({} if weight is None else {"slowdown": weight})
        options["allocator"] = MilpAllocator(head=8, weights=weights)
    inner = Joint.take

    def take(self: Joint, state: Any) -> None:
        calls, at = self.allocator.stats.calls, time.perf_counter()
        inner(self, state)
        if self.allocator.stats.calls > calls:
            spent.append(1e3 * (time.perf_counter() - at))

    begun = time.perf_counter()
    with mock.patch.object(Joint, "take", take):
        result = rltune.simulate(jobs, CLUSTER, runtimes="unknown", **options)
    seconds = time.perf_counter() - begun
    check(result)
    runs, summary = result.runs, result.summary()
    sliced = (runs.first_slice[runs.ptr[:-1]] >= 0) if runs.first_slice is not None else np.zeros(len(runs), bool)
    wait = result.wait_s[result.finished]
    wide = float(wait[jobs.num_gpus[result.finished] >= WIDE].sum() / max(wait.sum(), 1e-9))
    times = {f"decision_ms_p{p}": float(np.percentile(spent, p)) for p in (50, 99)} if spent else {}
    return {
        "wait_s": summary["wait_s"]["mean"], "wide_share": wide, "wait_p99": summary["wait_s"]["p99"], "jct_s": summary["jct_s"]["mean"],
        "starts_per_job": len(runs) / len(jobs), "on_slices": float(sliced.mean()), "unfinished": summary["unfinished"],
        "failed_runs": int((~np.isin(runs.outcome, (FINISHED, 1))).sum()), "seconds": round(seconds, 1), **times,
        "allocator": result.allocator_stats,
    }  # fmt: skip


def text(out: dict[str, Any]) -> str:
    """The table."""
    about = out["_about"]
    lines = [
        "# " + about["title"], "",
        f"`{about['command']}`; {about['from']} to {about['until']}, {about['jobs']:,} jobs, source {about['source']}.",
        f"{CLUSTER.nodes} nodes, {CLUSTER.gpus} GPUs: {', '.join(f'{p.nodes} x {p.gpus_per_node} {p.gpu_type}' for p in CLUSTER.pools)} "
        "(the last may be cut by MIG). Unlike speeds (published ratios), slices for jobs of one GPU, suspension (60 s),",
        f"failing nodes, run times unknown. Machine: {about['machine']}. Every run was checked: nothing held twice, all work done.",
        f"{about['wide_jobs']} jobs ask for {WIDE} GPUs or more; their part in the sum of all waits is told.", "",
        "| " + " | ".join(HEADS) + " |", "|" + "---|" * len(HEADS),
    ]  # fmt: skip
    for name, r in out.items():
        if not name.startswith("_"):
            timed = f"{r['decision_ms_p50']:.1f} ({r['decision_ms_p99']:.0f})" if "decision_ms_p50" in r else "-"
            lines.append(
                f"| {name} | {r['wait_s']:,.1f} | {100 * r['wide_share']:.0f} % | {r['wait_p99']:,.0f} | {r['jct_s']:,.0f} | "
                f"{r['starts_per_job']:.3f} | {100 * r['on_slices']:.1f} % | {r['failed_runs']} | {r['unfinished']} | {timed} | "
                f"{r['seconds']:,.0f} |"
            )
    for name, r in out.items():
        if not name.startswith("_") and r["allocator"]:
            lines += ["", f"Counters of {name}: " + ", ".join(f"{k} {v}" for k, v in r["allocator"].items()) + "."]
    return "\n".join(lines) + "\n"


def report(
    name: str, title: str, between: tuple[str, str], rows: dict[str, tuple[dict[str, Any], float | None]]
) -> None:
    """Measure the rows (case, weight), and write them down."""
    trace = rltune.load_trace("helios").between(*between)
    command = COMMAND + (" --choose" if between == VALIDATION else "")
    about = {
        "title": title, "command": command, "from": between[0], "until": between[1], "jobs": len(trace), "source": trace.source,
        "wide_jobs": int((trace.jobs.num_gpus >= WIDE).sum()),
        "machine": f"{os.cpu_count()} cores, Python {platform.python_version()}",
    }  # fmt: skip
    out: dict[str, Any] = {"_about": about}
    for row, (case, weight) in rows.items():
        out[row] = measure(trace.jobs, case, weight)
        print(row, {k: v for k, v in out[row].items() if k != "allocator"}, flush=True)
        (RESULTS / f"{name}.json").write_text(json.dumps(out, indent=1) + "\n")
        (RESULTS / f"{name}.md").write_text(text(out))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--choose", action="store_true", help="several weights of slow ways, on July and August")
    greedy: dict[str, tuple[dict[str, Any], float | None]] = {name: (case, None) for name, case in GREEDY.items()}
    if parser.parse_args().choose:
        weighed = {f"gittins, milp, weights.slowdown={w:g}": (JOINT["gittins, milp"], w) for w in WEIGHTS}
        report("all_at_once_choice", "Everything in one run: the weight of slow ways", VALIDATION, greedy | weighed)
    else:
        joint = {name: (case, None) for name, case in JOINT.items()}
        report("all_at_once", "Everything in one run", TEST, greedy | joint)


if __name__ == "__main__":
    main()
