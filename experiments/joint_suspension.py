"""Joint decisions with policies that suspend, on Helios' September: ``python experiments/joint_suspension.py``.

25,000 jobs on 85 nodes of eight GPUs, 60 s a resumption: allocator milp against best fit under las and srsf, on wait, JCT
and runs a job. September has been looked at during development; nothing here was chosen by it: the model was tried on
the first week of August only. Writes results/joint_suspension.{json,md}. Needs RLTUNE_TRACES.
"""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

import rltune
from rltune.allocators.milp import MilpAllocator
from rltune.simulator.joint import Joint

OUT = Path(__file__).resolve().parent / "results" / "joint_suspension"
NODES, JOBS, RESUME_S = 85, 25_000, 60.0
POLICIES = ("las_levels", "srsf")
COMMAND = "RLTUNE_TRACES=... OMP_NUM_THREADS=1 python experiments/joint_suspension.py"


def run(trace: rltune.Trace, cluster: rltune.Cluster, policy: str, allocator: Any, **costs: float) -> dict[str, Any]:
    """Means of one simulation, counters of the allocator, and milliseconds of its decisions."""
    spent: list[float] = []
    inner = Joint.take

    def take(self: Joint, state: Any) -> None:
        calls, begun = self.allocator.stats.calls, time.perf_counter()
        inner(self, state)
        if self.allocator.stats.calls > calls:
            spent.append(1e3 * (time.perf_counter() - begun))

    begun = time.perf_counter()
    with mock.patch.object(Joint, "take", take):
        result = rltune.simulate(trace, cluster, policy=policy, backfill="skip", allocator=allocator, **costs)
    summary, seconds = result.summary(), time.perf_counter() - begun
    times = {f"decision_ms_p{p}": float(np.percentile(spent, p)) for p in (50, 99)} if spent else {}
    return {
        "policy": policy, "allocator": allocator if isinstance(allocator, str) else "milp", **costs,
        "wait_s": summary["wait_s"]["mean"], "wait_ci95": summary["wait_s"]["ci95"], "wait_p99": summary["wait_s"]["p99"],
        "widest5pct_wait_s": summary["wait_s_widest5pct"]["mean"], "jct_s": summary["jct_s"]["mean"],
        "runs_a_job": summary["runs"]["count"] / len(trace), "suspended": summary["runs"]["suspended"],
        "unfinished": summary["unfinished"], "stats": summary.get("allocator"), **times, "seconds": round(seconds, 1),
    }  # fmt: skip


def main() -> None:
    trace = rltune.load_trace("helios").between("2020-09-01", "2020-10-01")
    trace, cluster = trace.take(slice(min(JOBS, len(trace)))), rltune.load_cluster("helios", nodes=NODES)
    rows = [
        run(trace, cluster, policy, allocator, resume_s=RESUME_S)
        for policy in POLICIES
        for allocator in ("best_fit", MilpAllocator())
    ]
    # By week, each from an idle cluster: one change early on changes everything after, so that one pair of runs says little.
    first, day = float(trace.jobs.submit_s[0]), 86_400.0
    weeks = []
    for week in range(4):
        at = (trace.jobs.submit_s - first) // (7 * day) == week
        part = trace.take(slice(int(np.flatnonzero(at)[0]), int(np.flatnonzero(at)[-1]) + 1))
        for policy in POLICIES:
            pair = [run(part, cluster, policy, made, resume_s=RESUME_S) for made in ("best_fit", MilpAllocator())]
            weeks.append({"week": week + 1, "jobs": len(part), "rows": pair})
    about = {
        "command": COMMAND, "trace": trace.label, "source": trace.source, "sha256": trace.sha256, "jobs": len(trace),
        "nodes": NODES, "gpus": cluster.gpus, "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
    }  # fmt: skip
    OUT.with_suffix(".json").write_text(json.dumps({"about": about, "rows": rows, "weeks": weeks}, indent=1) + "\n")
    OUT.with_suffix(".md").write_text(markdown(about, rows, weeks))
    print(OUT.with_suffix(".md"))


def markdown(about: dict[str, Any], rows: list[dict[str, Any]], weeks: list[dict[str, Any]]) -> str:
    heads = (
        "policy", "allocator", "wait s [95 %]", "p99", "widest 5 %", "JCT s", "runs a job", "suspended", "moved", "kept",
        "fallbacks", "ms a decision, median (p99)", "s",
    )  # fmt: skip
    lines = [
        f"# Joint decisions with policies that suspend, {about['trace']}, September, {about['nodes']} nodes ({about['gpus']} GPUs)",
        "",
        f'`{about["command"]}`, {about["jobs"]:,} jobs, source "{about["source"]}", {about["machine"]["cores"]} cores.',
        f"A resumed job holds its GPUs for {RESUME_S:g} s before it gets on. Suspended, moved, kept: running jobs that were",
        "decided on. Milliseconds of decisions in which the model or a known plan was asked. Intervals resample days.",
        "",
        "| " + " | ".join(heads) + " |",
        "|---" * len(heads) + "|",
    ]
    for r in rows:
        low, high = r["wait_ci95"]
        stats = r["stats"] or {}
        fallbacks = ", ".join(f"{k} {v}" for k, v in stats.get("fallbacks", {}).items()) or "-"
        timed = f"{r['decision_ms_p50']:.1f} ({r['decision_ms_p99']:.1f})" if "decision_ms_p50" in r else "-"
        lines.append(
            f"| {r['policy']} | {r['allocator']} | {r['wait_s']:,.0f} [{low:,.0f}, {high:,.0f}] | {r['wait_p99']:,.0f} "
            f"| {r['widest5pct_wait_s']:,.0f} | {r['jct_s']:,.0f} | {r['runs_a_job']:.3f} "
            f"| {stats.get('suspended', r['suspended']):,} | {stats.get('moved', '-')} | {stats.get('kept', '-')} "
            f"| {fallbacks} | {timed} | {r['seconds']:.0f} |"
        )
    lines += ["", "By week, each from an idle cluster: mean wait s, JCT s.", ""]
    lines += ["| week | jobs | policy | best fit | milp | wait | JCT |", "|---|---|---|---|---|---|---|"]
    for w in weeks:
        a, b = w["rows"]
        change = [b[k] / a[k] - 1 for k in ("wait_s", "jct_s")]
        lines.append(
            f"| {w['week']} | {w['jobs']:,} | {a['policy']} | {a['wait_s']:,.0f}, {a['jct_s']:,.0f} "
            f"| {b['wait_s']:,.0f}, {b['jct_s']:,.0f} | {change[0]:+.1%} | {change[1]:+.1%} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
