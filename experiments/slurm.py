"""Beside a real Slurm: ``python experiments/slurm.py`` (RLTUNE_TRACES set; root; slurmctld, slurmd, slurm-client, munge installed).

200 jobs of an hour of Helios' test range on four made-up nodes of eight GPUs, one of them with MIG slices: mean wait under Slurm's own
multifactor priority and backfill in two forms, and under rltune.slurm in the depths priority and place. Same submissions, by turns.
The policy is chosen by simulation on hours before September. Writes results/slurm.{json,md}; `--go-on` keeps finished runs.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from recording import write_part

import rltune
from rltune.nouns.cluster import Cluster, Pool
from rltune.nouns.jobs import JobTable
from rltune.nouns.metrics import bootstrap_ci
from rltune.policies.orders import ORDERS
from rltune.slurm.commands import Slurm
from rltune.slurm.rehearsal import Wanted, rehearsed
from rltune.slurm.words import fields

OUT = Path(__file__).resolve().parent / "results" / "slurm"
COMMAND = "RLTUNE_TRACES=... OMP_NUM_THREADS=1 python experiments/slurm.py"
JOBS, SPAN_S, LONGEST_S, SHORTEST_S, WIDEST = 200, 60.0, 30.0, 1.0, 24
LOAD = 3.0
"""Run times stand so many times longer to the times between submissions than in the log, so that four nodes are contended."""
NODES = {
    "n1": {"a100": 8},
    "n2": {"a100": 8},
    "n3": {"a100": 8},
    "n4": {"a100": 6, "a100_3g.40gb": 2, "a100_1g.10gb": 7},
}
CLUSTER = Cluster(
    "slurm",
    (
        Pool("whole", 3, 8, vc="a100"), Pool("rest", 1, 6, vc="a100"),
        Pool("3g", 1, 2, vc="a100_3g.40gb"), Pool("1g", 1, 7, vc="a100_1g.10gb"),
    ),
)  # fmt: skip
"""The same nodes as Slurm counts them, for simulations: a type is a virtual cluster."""
QUICK = {
    "SchedulerParameters": "bf_interval=1,bf_resolution=1,bf_continue,bf_max_job_test=1000,sched_interval=1,"
    "default_queue_depth=1000,sched_min_interval=100000,partition_job_depth=1000",
    "MinJobAge": "3600",
    "PriorityCalcPeriod": "1",
    "PriorityMaxAge": "0-1",
}
"""Slurm as quick as it can be made: main scheduler and backfill each second, over the whole queue."""
BY_AGE = {"PriorityWeightAge": "100000"}
SHORT_FIRST = {"PriorityWeightJobSize": "100000000", "PriorityFlags": "SMALL_RELATIVE_TO_TIME"}
"""The form of multifactor that goes by time limits: a job's size over its limit, so that short jobs stand first."""


@dataclass(frozen=True)
class Arm:
    """Who decides: settings of Slurm, and options of rltune.slurm (none: Slurm alone)."""

    name: str
    settings: Mapping[str, str]
    options: tuple[str, ...] = ()


def arms(policy: str) -> list[Arm]:
    ours = (f"policy={policy}", "backfill=easy", "poll_s=0.25", "every_s=5")
    return [
        Arm("Slurm, multifactor by age, backfill", BY_AGE),
        Arm("Slurm, multifactor by size over limit, backfill", SHORT_FIRST),
        Arm("rltune.slurm depth=priority", BY_AGE, ("depth=priority", *ours)),
        Arm("rltune.slurm depth=place allocator=milp", BY_AGE, ("depth=place", "allocator=milp", *ours)),
    ]


# --- the jobs -----------------------------------------------------------------------------------


def hours(jobs: JobTable) -> list[tuple[int, JobTable]]:
    """The first jobs of clock hours with at least `JOBS` submissions, of which at most a tenth are too wide for the nodes; most widths
    first, then most jobs of several GPUs."""
    hour = (jobs.submit_s // 3600).astype(int)
    found = []
    for each, count in zip(*np.unique(hour, return_counts=True), strict=True):
        first = jobs.take(np.flatnonzero(hour == each)[:JOBS])
        if count >= JOBS and (first.num_gpus > WIDEST).mean() <= 0.1:
            found.append((int(each), first))
    return sorted(found, key=lambda pair: (-len(np.unique(pair[1].num_gpus)), -int((pair[1].num_gpus > 1).sum())))


def scaled(jobs: JobTable) -> tuple[JobTable, dict[str, Any]]:
    """The jobs in `SPAN_S` seconds, run times scaled within bounds, widths capped, some single GPUs as slices; and counts."""
    factor = float(jobs.submit_s[-1] - jobs.submit_s[0]) / SPAN_S
    run = jobs.duration_s * LOAD / factor
    asked = jobs.num_gpus.astype(int)
    gpus = np.minimum(asked, WIDEST)
    # Gangs on whole nodes.
    gpus = np.where(gpus > 8, -(-gpus // 8) * 8, gpus)
    kind = np.full(len(jobs), "a100", object)
    single = np.flatnonzero(gpus == 1)
    kind[single[1::3]] = "a100_1g.10gb"
    kind[single[2::9]] = "a100_3g.40gb"
    table = JobTable.from_columns(
        {
            "job_id": np.arange(len(jobs)), "submit_s": (jobs.submit_s - jobs.submit_s[0]) / factor,
            "duration_s": np.clip(run, SHORTEST_S, LONGEST_S), "num_gpus": gpus, "vc": kind,
        }
    )  # fmt: skip
    told = {
        "factor": factor, "run_times_raised_to_the_shortest": int((run < SHORTEST_S).sum()),
        "run_times_cut_to_the_longest": int((run > LONGEST_S).sum()),
        "widths": {str(width): count for width, count in sorted(Counter(asked.tolist()).items())},
        "widths_capped": int((asked > WIDEST).sum()),
        "widths_rounded_to_whole_nodes": int((gpus > np.minimum(asked, WIDEST)).sum()),
        "by_type": dict(Counter(kind.tolist())), "gpu_seconds": float((table.duration_s * table.num_gpus).sum()),
    }  # fmt: skip
    return table, told


def chosen(before: JobTable) -> dict[str, Any]:
    """The order with the least mean wait over hours before the test range, by simulation of the same nodes."""
    parts = [scaled(jobs)[0] for _, jobs in hours(before)[:5]]
    waits = {name: float(np.mean([_wait(part, name) for part in parts])) for name in (*ORDERS, "helios_window")}
    ranked = sorted(waits, key=waits.__getitem__)
    return {"policy": ranked[0], "hours": len(parts), "mean_wait_s": {name: waits[name] for name in ranked}}


def _wait(jobs: JobTable, policy: str) -> float:
    return float(rltune.simulate(jobs, CLUSTER, policy=policy, backfill="easy").summary()["wait_s"]["mean"])


# --- one run ------------------------------------------------------------------------------------


def run(arm: Arm, jobs: JobTable) -> dict[str, Any]:
    """Waits of all jobs (seconds, as Slurm records them) under one arm, and what rltune.slurm logged."""
    with rehearsed(Wanted(NODES, settings={**QUICK, **arm.settings})) as slurm, tempfile.TemporaryDirectory() as folder:
        with beside(arm, slurm, Path(folder)) as log:
            ids = submitted(slurm, jobs)
            ended(slurm)
        told = [fields(line) for line in slurm.run("scontrol", "show", "job", "-o").splitlines()]
        version = slurm.run("sinfo", "--version").strip()
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    by_id = {each["JobId"]: each for each in told}
    waits = [_second(by_id[name]["StartTime"]) - _second(by_id[name]["SubmitTime"]) for name in ids]
    failed = Counter(by_id[name]["JobState"] for name in ids)
    spread = [_second(by_id[name]["SubmitTime"]) for name in ids]
    return {
        "arm": arm.name, "waits_s": waits, "mean_wait_s": float(np.mean(waits)), "states": dict(failed), "version": version,
        "submitted_in_s": max(spread) - min(spread),
        "makespan_s": max(_second(by_id[name]["EndTime"]) for name in ids) - min(spread),
        "load": os.getloadavg()[0], **_of_log(lines),
    }  # fmt: skip


def _of_log(lines: list[dict[str, Any]]) -> dict[str, Any]:
    decisions = [line for line in lines if line["event"] == "decision"]
    acts = [act for line in decisions for act in line["acts"]]
    if not decisions:
        return {}
    seconds = [line["seconds"] for line in decisions]
    return {
        "decisions": len(decisions), "decision_s": {"median": float(np.median(seconds)), "p95": float(np.quantile(seconds, 0.95))},
        "acts": dict(Counter(act["act"] for act in acts)), "refused": sum("refused" in act for act in acts),
    }  # fmt: skip


def _second(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@contextmanager
def beside(arm: Arm, slurm: Slurm, folder: Path) -> Any:
    """rltune.slurm running beside, where the arm has it; gives its log."""
    log = folder / "state.jsonl"
    if not arm.options:
        yield log
        return
    words = [sys.executable, "-m", "rltune.slurm", f"state={folder / 'state.json'}", *arm.options]
    process = subprocess.Popen(words, env={**os.environ, "SLURM_CONF": str(slurm.conf)}, stderr=subprocess.DEVNULL)
    try:
        while not log.exists() or '"begin"' not in log.read_text():
            assert process.poll() is None, f"{' '.join(words)} ended with {process.returncode}"
            time.sleep(0.2)
        yield log
    finally:
        process.terminate()
        process.wait(120)


def submitted(slurm: Slurm, jobs: JobTable) -> list[str]:
    """Submit all jobs at their seconds; their ids."""
    begun, ids = time.monotonic(), []
    for at, seconds, gpus, kind in zip(jobs.submit_s, jobs.duration_s, jobs.num_gpus, jobs.vc.values(), strict=True):
        time.sleep(max(0.0, begun + float(at) - time.monotonic()))
        nodes = -(-int(gpus) // 8)
        # Slurm counts limits in minutes: one a second of run time, so that it knows run times as well as we do.
        limit = math.ceil(float(seconds))
        done = slurm.run(
            "sbatch", "-o", "/dev/null", "-t", str(limit), "-N", str(nodes), f"--gres=gpu:{kind}:{int(gpus) // nodes}",
            "--wrap", f"exec sleep {float(seconds):.3f}",
        )  # fmt: skip
        ids.append(done.split()[-1])
    return ids


def ended(slurm: Slurm) -> None:
    while slurm.run("squeue", "-h", "-o", "%A").strip():
        time.sleep(1.0)


# --- results ------------------------------------------------------------------------------------


def rows_of(runs: list[dict[str, Any]], names: list[str]) -> list[dict[str, Any]]:
    """A row an arm: means over the runs, their range, and the difference to each Slurm arm with a paired interval over the jobs."""
    waits = {name: [each["waits_s"] for each in runs if each["arm"] == name] for name in names}
    mean = {name: np.mean(found, axis=0) for name, found in waits.items() if found}
    rows = []
    for name in mean:
        of_runs = [float(np.mean(each)) for each in waits[name]]
        row = {"arm": name, "runs": len(of_runs), "mean_wait_s": float(np.mean(of_runs)), "of_runs_s": of_runs}
        row["median_wait_s"], row["p95_wait_s"] = (float(np.quantile(waits[name], q)) for q in (0.5, 0.95))
        row["longest_wait_s"] = float(np.mean([max(each) for each in waits[name]]))
        row["interval_s"] = _interval(of_runs)
        row["makespan_s"] = float(np.mean([each["makespan_s"] for each in runs if each["arm"] == name]))
        row["less_than"] = {
            other: {"s": float((mean[other] - mean[name]).mean()), "interval_s": bootstrap_ci(mean[other] - mean[name])}
            for other in mean
            if other.startswith("Slurm") and other != name
        }
        rows.append(row)
    return rows


T95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}
"""Student's t, two-sided 95 %, by the number of runs."""


def _interval(values: list[float]) -> list[float] | None:
    n = len(values)
    if n not in T95:
        return None
    half = T95[n] * float(np.std(values, ddof=1)) / math.sqrt(n)
    return [float(np.mean(values)) - half, float(np.mean(values)) + half]


HEADS = (
    "who decides", "runs", "mean wait s [95 % by runs]", "each run", "median", "p95", "longest", "last end s",
    "less than by age s [95 % by jobs]", "less than by size s [95 % by jobs]",
)  # fmt: skip


def written(result: dict[str, Any]) -> None:
    """Both files of the results."""
    OUT.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    keys = ("arm", "runs", "mean_wait_s", "of_runs_s", "interval_s", "less_than")
    rows = [{key: row[key] for key in keys} for row in result["rows"]]
    # The table may be written anew later, elsewhere: command and machine are those of the runs.
    write_part("slurm", {"rows": rows, "command": result["command"], "machine": result["machine"]})
    lines = ["# Beside a real Slurm", "", *_about(result), "", f"| {' | '.join(HEADS)} |", "|---" * len(HEADS) + "|"]
    for row in result["rows"]:
        against = [_difference(row["less_than"].get(each.name)) for each in arms("")[:2]]
        cells = [
            row["arm"], str(row["runs"]), f"{row['mean_wait_s']:.1f} {_pair(row['interval_s'])}",
            ", ".join(f"{each:.1f}" for each in row["of_runs_s"]), f"{row['median_wait_s']:.1f}", f"{row['p95_wait_s']:.1f}",
            f"{row['longest_wait_s']:.0f}", f"{row['makespan_s']:.0f}", *against,
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *_decided(result["runs"])]
    OUT.with_suffix(".md").write_text("\n".join(lines) + "\n")


def _about(result: dict[str, Any]) -> list[str]:
    """What was run, and what was changed of the log."""
    jobs, choice = result["jobs"], result["choice"]
    widths = ", ".join(f"{count} of {width}" for width, count in jobs["widths"].items())
    types = ", ".join(f"{count} {kind}" for kind, count in jobs["by_type"].items())
    best = ", ".join(f"{name} {wait:.1f} s" for name, wait in list(choice["mean_wait_s"].items())[:4])
    return [
        f"`{COMMAND}`; {result['machine']}; {result['slurm']}; trace: {result['trace']}.",
        "",
        f"Jobs: the first {JOBS} of hour {result['hour']} of the log ({result['hour_is']}): of the test range's hours with {JOBS} "
        "submissions, at most a tenth of them too wide for the nodes, the one with most widths. Submitted",
        f"in {SPAN_S:g} s (factor {jobs['factor']:.1f}). Run times are scaled by the same factor, then {LOAD:g} times longer, so that",
        f"four nodes are contended; {jobs['run_times_raised_to_the_shortest']} raised to {SHORTEST_S:g} s, "
        f"{jobs['run_times_cut_to_the_longest']} cut to {LONGEST_S:g} s. GPUs: {widths}; {jobs['widths_capped']} capped at {WIDEST}.",
        f"Helios names no slices: some single-GPU jobs ask for one by a fixed pattern ({types}). Nodes: three of 8 a100, one of 6 a100,",
        "2 3g.40gb and 7 1g.10gb. Jobs are `sleep`. Time limits, which Slurm counts in minutes, are a minute a second of run time:",
        "everybody knows run times alike, and who ends when 60 times too late.",
        "",
        f"Slurm: `{QUICK['SchedulerParameters']}`.",
        f"By age: `{_settings(BY_AGE)}`. By size over limit, which puts short jobs first: `{_settings(SHORT_FIRST)}`.",
        f"Ours ran beside the form by age. Policy {choice['policy']}: least mean wait of {len(choice['mean_wait_s'])} in simulations of "
        f"{choice['hours']} hours before September ({best}). In simulation,",
        f"without Slurm's delays, it waits {result['simulated_s']:.1f} s on these jobs, fifo {result['simulated_fifo_s']:.1f} s. "
        "Slurm records whole seconds.",
    ]


def _decided(runs: list[dict[str, Any]]) -> list[str]:
    """How many decisions, how long they took, what they changed; and how the jobs ended."""
    lines = []
    for name in dict.fromkeys(each["arm"] for each in runs if "decisions" in each):
        mine = [each for each in runs if each["arm"] == name]
        acts: Counter[str] = sum((Counter(each["acts"]) for each in mine), Counter())
        median = np.median([each["decision_s"]["median"] for each in mine])
        slowest = max(each["decision_s"]["p95"] for each in mine)
        lines.append(
            f"{name}: {sum(each['decisions'] for each in mine)} decisions, median {median:.2f} s, p95 {slowest:.2f} s with their "
            f"commands; changes: {', '.join(f'{count} {act}' for act, count in acts.items())}; "
            f"{sum(each['refused'] for each in mine)} refused (jobs that began meanwhile).\n"
        )
    states: Counter[str] = sum((Counter(each["states"]) for each in runs), Counter())
    loads = [each["load"] for each in runs]
    lines.append(f"Jobs by their last state: {', '.join(f'{count} {state}' for state, count in states.items())}.")
    return [*lines, f"The machine was shared: load {min(loads):.1f} to {max(loads):.1f} at the ends of runs."]


def _settings(settings: Mapping[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in settings.items())


def _pair(pair: Any) -> str:
    return f"[{pair[0]:.1f}, {pair[1]:.1f}]" if pair else ""


def _difference(found: Any) -> str:
    return f"{found['s']:+.1f} {_pair(found['interval_s'])}" if found else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--go-on", action="store_true", help="keep the finished runs of results/slurm.json")
    parser.add_argument("--table", action="store_true", help="only write the table of results/slurm.json anew")
    args = parser.parse_args()
    if args.table:
        found = json.loads(OUT.with_suffix(".json").read_text())
        written(found | {"rows": rows_of(found["runs"], [each.name for each in arms("")])})
        return
    trace = rltune.load_trace("helios")
    choice = chosen(trace.between("2020-04-01", "2020-09-01").jobs)
    hour, first = hours(trace.between("2020-09-01", "2020-09-28").jobs)[0]
    jobs, told = scaled(first)
    kept = json.loads(OUT.with_suffix(".json").read_text())["runs"] if args.go_on else []
    result: dict[str, Any] = {
        "command": COMMAND, "machine": f"{os.cpu_count()} cores, shared, {platform.system()}", "trace": f"{trace.label}, {trace.source}",
        "hour": hour, "hour_is": f"{len(first)} jobs in {first.submit_s[-1] - first.submit_s[0]:.0f} s", "jobs": told, "choice": choice,
        "simulated_s": _wait(jobs, choice["policy"]), "simulated_fifo_s": _wait(jobs, "fifo"), "settings": QUICK, "runs": kept, "rows": [],
    }  # fmt: skip
    for turn in range(args.runs):
        for arm in arms(choice["policy"]):
            if sum(each["arm"] == arm.name for each in result["runs"]) > turn:
                continue
            result["runs"].append(run(arm, jobs))
            result["slurm"] = result["runs"][-1]["version"]
            result["rows"] = rows_of(result["runs"], [each.name for each in arms("")])
            written(result)
            print(f"{arm.name}: {result['runs'][-1]['mean_wait_s']:.1f} s", flush=True)


if __name__ == "__main__":
    main()
