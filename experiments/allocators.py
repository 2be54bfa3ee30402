"""The same order under several allocators: what joint placement by the MILP does to waits, utilisation and fragmentation.

OMP_NUM_THREADS=1 python experiments/allocators.py golden|month|hard     (RLTUNE_TRACES set; each writes its own record)

golden: the 16 public windows of RLTune's protocol on its clusters. month: the last quarter of the PAI sample on the PAI
machine mix (its test stretch), jobs on whole GPUs of equal speed, then with shares and unlike speeds. hard: drawn workloads
where placing is hard (mixed node sizes, shares with CPU, MIG slices, wide gangs). Loads, orders and allocators were fixed
beforehand; the load of the month was set on the training stretch.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import rltune
from rltune.allocators.fragmentation import demand_of
from rltune.allocators.milp import MilpAllocator
from rltune.nouns.cluster import Cluster
from rltune.nouns.jobs import JobTable
from rltune.nouns.metrics import ci95, reduction
from rltune.nouns.throughput import Throughput
from rltune.simulator.usage import demand_milli
from rltune.traces.folder import traces_folder

RESULTS = Path(__file__).parent / "results"
SETS = ("philly_x1", "philly_x10", "helios_x1", "helios_x10", "alibaba_x10")
PAI_SPEED = {"V100": 4.05, "V100-32GB": 4.05, "P100": 3.32, "T4": 2.09, "MISC": 3.32}
"""V100 and P100 as measured by Gavel, T4 by its FP32 peak beside the V100's; of the unnamed MISC nothing is known: as P100."""
PLAN_GPU = {1000: 442_591, 250: 272_243, 500: 136_701, 100: 116_648}
"""Thousandths of a GPU asked for by PAI's tasks of at most one GPU, from the published marginals of the full table."""
LOAD = 0.9


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("part", choices=("golden", "month", "hard"))
    part = parser.parse_args().part
    begun = time.perf_counter()
    rows = list({"golden": golden, "month": month, "hard": hard}[part]())
    found = {
        "command": f"python experiments/allocators.py {part}",
        "machine": f"{os.cpu_count()} cores, one process",
        "wall_s": round(time.perf_counter() - begun, 1),
        "rows": rows,
    }
    (RESULTS / f"allocators_{part}.json").write_text(json.dumps(found, indent=1) + "\n")
    (RESULTS / f"allocators_{part}.md").write_text(markdown(part, found))
    print(RESULTS / f"allocators_{part}.md")


def milp(jobs: JobTable, cluster: Cluster, measure: str, **options: Any) -> MilpAllocator:
    """The MILP with the demand of these jobs."""
    return MilpAllocator(measure, demand_of(jobs.num_gpus, cluster.arrays()), **options)


# --- the golden windows -------------------------------------------------------------------


def golden() -> Iterator[dict[str, Any]]:
    """A row for each set, order, backfill and allocator: mean over 16 windows, paired with lexicographic and best fit."""
    folder = traces_folder().parent / "golden" / "rltune"
    for name in SETS:
        data = json.loads(gzip.decompress((folder / f"{name}.json.gz").read_bytes()))
        starts = [window["start"] for window in data["policies"]["fcfs"]]
        cluster_name, squeeze = name.split("_x")
        trace = rltune.load_trace(f"rltune_{cluster_name}", squeeze=int(squeeze))
        cluster = rltune.load_cluster(f"rltune_{cluster_name}")
        for policy in ("fifo", "sjf"):
            for backfill in ("blocking", "skip"):
                waits: dict[str, Any] = {}
                stats: dict[str, Any] = {}
                for label in ("lexicographic", "best_fit", "milp, quadratic", "milp, demand"):
                    each, stats[label] = golden_windows(trace, cluster, starts, policy, backfill, label)
                    waits[label] = np.array(each)
                for label, values in waits.items():
                    yield {
                        "set": name, "policy": policy, "backfill": backfill, "allocator": label,
                        "wait_s": float(values.mean()), "windows": values.tolist(), "stats": stats[label],
                        "against": {base: reduction(values, waits[base]) for base in ("lexicographic", "best_fit") if base != label},
                    }  # fmt: skip


def golden_windows(
    trace: Any, cluster: Cluster, starts: list[int], policy: str, backfill: str, label: str
) -> tuple[list[float], dict[str, Any]]:
    """Mean wait of each window, and the MILP's counters."""
    allocator: Any = label
    if label.startswith("milp"):
        allocator = milp(trace.window(0, 12_000).jobs, cluster, label.removeprefix("milp, "))
    found = []
    for start in starts:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            result = rltune.simulate(
                trace.window(start, 256),
                cluster,
                policy=policy,
                backfill=backfill,
                allocator=allocator,
                oversized="drop",
            )
        found.append(float(result.scores()["wait_s"].mean()))
    return found, {} if isinstance(allocator, str) else counted(allocator.stats.as_dict())


# --- the month on unlike machines ----------------------------------------------------------


def month() -> Iterator[dict[str, Any]]:
    """PAI's test stretch on its machine mix, scaled to the widest gang; shares and speeds as the second half."""
    base = rltune.load_trace("alibaba")
    cluster = rltune.load_cluster("alibaba_window")
    train = rltune.traces.split(base, [0.0, 0.6]).jobs
    span_s = float(train.submit_s[-1] - train.submit_s[0])
    load = float((train.duration_s * train.num_gpus).sum()) / (span_s * cluster.gpus)
    trace = rltune.load_trace("alibaba", load_scale=LOAD / load)
    test = rltune.traces.split(trace, [0.75, 1.0])
    about = {
        "source": trace.source,
        "trace": trace.label,
        "load_scale": LOAD / load,
        "jobs": len(test),
        "nodes": cluster.nodes,
    }
    for policy, backfill in (("fifo", "skip"), ("sjf", "skip"), ("saf", "easy")):
        labels = ("best_fit", "least_fragmentation", "milp, quadratic", "milp, demand")
        yield from compared("whole GPUs", test.jobs, cluster, policy, backfill, labels, about, {})
    shared = with_shares(test.jobs)
    speeds = {"speed": Throughput.of_ratios(PAI_SPEED, "PAI types", reference="P100", missing="one")}
    about = about | {
        "jobs": len(shared),
        "source": f"{trace.source}; shares and speeds drawn, see PLAN_GPU and PAI_SPEED",
    }
    for policy, backfill in (("fifo", "skip"), ("saf", "easy")):
        labels = ("best_fit", "fgd", "stranding", "milp, demand", "milp, stranding")
        yield from compared("shares and unlike speeds", shared, cluster, policy, backfill, labels, about, speeds)


def with_shares(jobs: JobTable) -> JobTable:
    """The jobs, those of one GPU asking for what PAI's tasks of at most one GPU ask for."""
    rng = np.random.default_rng(0)
    weights = np.array([*PLAN_GPU.values()], float)
    milli = rng.choice([*PLAN_GPU], len(jobs), p=weights / weights.sum())
    columns = {name: np.asarray(getattr(jobs, name)) for name in ("submit_s", "duration_s", "num_gpus")}
    columns["gpu_milli"] = np.where(columns["num_gpus"] == 1, milli, 1000)
    return JobTable.from_columns({"job_id": jobs.job_id.astype(object), **columns})


# --- where placing is hard -----------------------------------------------------------------

SCENARIOS: dict[str, Any] = {
    "mixed node sizes": {
        "pools": [{"nodes": 12, "gpus_per_node": 2}, {"nodes": 10, "gpus_per_node": 4}, {"nodes": 7, "gpus_per_node": 8}],
        "gpus": ((1, 0.45), (2, 0.2), (3, 0.1), (4, 0.13), (6, 0.04), (8, 0.08)),
    },
    "shares with CPU": {
        "pools": [{"nodes": 8, "gpus_per_node": 4, "cpus": 32}, {"nodes": 6, "gpus_per_node": 8, "cpus": 96}],
        "gpus": ((0.25, 0.25), (0.4, 0.1), (0.5, 0.15), (0.7, 0.08), (1, 0.27), (2, 0.08), (4, 0.05), (8, 0.02)),
        "cpus_per_gpu": (2, 16),
    },
    "MIG slices": {
        "pools": [{"nodes": 6, "gpus_per_node": 4, "gpu_type": "A100-80GB", "mig": True}],
        "mig": (("1g.10gb", 0.4), ("2g.20gb", 0.22), ("3g.40gb", 0.2), ("4g.40gb", 0.1), ("7g.80gb", 0.08)),
    },
    "wide gangs": {
        "pools": [{"nodes": 24, "gpus_per_node": 8}],
        "gpus": ((1, 0.4), (2, 0.15), (4, 0.15), (8, 0.12), (12, 0.06), (20, 0.06), (32, 0.06)),
    },
}  # fmt: skip
SEEDS, JOBS = 6, 1200


def hard() -> Iterator[dict[str, Any]]:
    """Each scenario with two orders, all seeds pooled; pairs are seeds."""
    for name, scenario in SCENARIOS.items():
        cluster = Cluster.from_spec({"name": name, "pools": scenario["pools"]})
        detailed = "mig" in scenario or "cpus_per_gpu" in scenario
        first = "first_fit" if detailed else "lexicographic"
        labels = (first, "best_fit", *(("fgd", "stranding") if detailed else ("least_fragmentation",)), "milp, demand")
        labels += ("milp, stranding",) if detailed else ("milp, quadratic",)
        for policy, backfill in (("fifo", "skip"), ("sjf", "easy")):
            runs: dict[str, list[Any]] = {label: [] for label in labels}
            stats: dict[str, dict[str, Any]] = {}
            for seed in range(SEEDS):
                jobs = drawn(scenario, cluster, seed)
                for label in labels:
                    result = simulated(jobs, cluster, policy, backfill, label, {})
                    runs[label].append(figures(result, jobs, cluster))
                    stats[label] = counted(result.summary().get("allocator", {}), stats.get(label))
            for label in labels:
                waits = {base: np.array([run["wait_s"] for run in runs[base]]) for base in runs}
                yield {
                    "set": name, "policy": policy, "backfill": backfill, "allocator": label, "jobs": JOBS * SEEDS,
                    **{key: float(np.mean([run[key] for run in runs[label]])) for key in runs[label][0]},
                    "stats": stats[label],
                    "against": {base: reduction(waits[label], waits[base]) for base in labels[:-2] if base != label},
                }  # fmt: skip


def drawn(scenario: dict[str, Any], cluster: Cluster, seed: int) -> JobTable:
    """Jobs with log-normal run times (median 20 min) that offer `LOAD` of the GPUs."""
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {"duration_s": np.ceil(np.exp(rng.normal(np.log(1200), 1.2, JOBS)))}
    if "mig" in scenario:
        names, shares = zip(*scenario["mig"], strict=True)
        columns["mig"] = rng.choice(names, JOBS, p=shares)
        columns["num_gpus"] = np.ones(JOBS, np.int64)
        # Memory slices over the eight of a GPU; a 3g takes four.
        held = np.array([{"1": 1, "2": 2, "3": 4, "4": 4, "7": 8}[m[0]] / 8 for m in columns["mig"]])
    else:
        sizes, shares = zip(*scenario["gpus"], strict=True)
        held = rng.choice(sizes, JOBS, p=shares)
        columns["num_gpus"] = np.maximum(1, held).astype(np.int64)
        if "cpus_per_gpu" in scenario:
            columns["gpu_milli"] = np.where(held < 1, held * 1000, 1000).astype(np.int64)
            columns["cpus"] = np.floor(rng.uniform(*scenario["cpus_per_gpu"], JOBS) * held)
    span_s = float((columns["duration_s"] * held).sum()) / (cluster.gpus * LOAD)
    columns["submit_s"] = np.floor(np.sort(rng.random(JOBS)) * span_s)
    return JobTable.from_columns(columns)


# --- one comparison ------------------------------------------------------------------------


def compared(
    name: str, jobs: JobTable, cluster: Cluster, policy: str, backfill: str, labels: tuple[str, ...],
    about: dict[str, Any], options: dict[str, Any],
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """A row for each allocator on the same jobs; pairs are days of submission."""
    day = ((jobs.submit_s - jobs.submit_s[0]) // 86_400).astype(int)
    results: dict[str, Any] = {}
    for label in labels:
        begun = time.perf_counter()
        results[label] = simulated(jobs, cluster, policy, backfill, label, options), time.perf_counter() - begun
    waits = {label: np.nan_to_num(result.wait_s) for label, (result, _) in results.items()}
    for label, (result, seconds) in results.items():
        over_time = fragments_over_time(result, jobs, cluster)
        yield {
            "set": name, "policy": policy, "backfill": backfill, "allocator": label, **about,
            **figures(result, jobs, cluster), "wait_ci95": ci95(waits[label], day),
            "fragments_ci95": ci95(over_time), "fragments_by_hour": [round(float(x), 4) for x in over_time],
            "seconds": round(seconds, 1), "stats": counted(result.summary().get("allocator", {})),
            "against": {base: reduction(waits[label], waits[base], pairs=day) for base in labels if base != label and "milp" not in base},
        }  # fmt: skip


def simulated(
    jobs: JobTable, cluster: Cluster, policy: str, backfill: str, label: str, options: dict[str, Any]
) -> rltune.Result:
    allocator: Any = milp(jobs, cluster, label.removeprefix("milp, ")) if label.startswith("milp") else label
    return rltune.simulate(
        jobs, cluster, policy=policy, backfill=backfill, allocator=allocator, oversized="drop", **options
    )


def figures(result: rltune.Result, jobs: JobTable, cluster: Cluster) -> dict[str, float]:
    """Means of a run; ``fragments``: free GPUs that a random job could not use, % of all GPUs, mean over the hours."""
    summary = result.summary()
    return {
        "wait_s": summary["wait_s"]["mean"], "wait_p99": summary["wait_s"]["p99"], "jct_s": summary["jct_s"]["mean"],
        "bsld": summary["bsld"]["mean"], "utilization": summary["utilization"]["mean"],
        "widest5pct_wait_s": summary["wait_s_widest5pct"]["mean"],
        "fragments": float(np.mean(fragments_over_time(result, jobs, cluster))), "unfinished": summary["unfinished"],
    }  # fmt: skip


def fragments_over_time(result: rltune.Result, jobs: JobTable, cluster: Cluster) -> np.ndarray:
    """(n_hours,) free GPUs that a job drawn from the workload could not use, % of all, while jobs arrive.

    By FGD's definition; runs say how much of a node is held and not of which GPU, so shares count as packed best.
    """
    arrays, runs = cluster.arrays(), result.runs
    size = arrays.pool_cap[arrays.node_pool] * 1000
    needs, counts = np.unique(np.minimum(demand_milli(jobs), int(size.max())), return_counts=True)
    owner = np.repeat(np.arange(len(runs.job)), np.diff(runs.ptr))
    found = []
    for now in np.arange(jobs.submit_s[0], jobs.submit_s[-1], 3600.0):
        on = (runs.start_s[owner] <= now) & (runs.end_s[owner] > now)
        free = size - np.bincount(runs.node[on], runs.milli[on], len(size)).astype(np.int64)
        lost = 0.0
        for need, count in zip(needs.tolist(), counts.tolist(), strict=True):
            want = np.minimum(need, size)
            rest = free % 1000
            whole = np.where(free - rest >= want, rest, free)
            part = np.where(rest >= want, 0, np.where(free >= 1000, rest, free))
            lost += count * float(np.where(want >= 1000, whole, part).sum())
        found.append(100 * lost / counts.sum() / size.sum())
    return np.array(found)


def counted(stats: dict[str, Any], more: dict[str, Any] | None = None) -> dict[str, Any]:
    """The counters that matter, summed."""
    names = ("calls", "trivial", "cache_hits", "solves", "improved", "restricted", "truncated", "time_s")
    kept = {name: stats.get(name, 0) + (more or {}).get(name, 0) for name in names}
    fallbacks = dict((more or {}).get("fallbacks", {}))
    for reason, times in stats.get("fallbacks", {}).items():
        fallbacks[reason] = fallbacks.get(reason, 0) + times
    return kept | {"fallbacks": fallbacks}


def markdown(part: str, found: dict[str, Any]) -> str:
    """A table: waits, what changed against the greedy rules, and what the MILP did."""
    bases = sorted({base for row in found["rows"] for base in row["against"]})
    extra = [key for key in ("utilization", "fragments", "wait_p99") if key in found["rows"][0]]
    heads = [
        "set",
        "order",
        "allocator",
        "wait s",
        *extra,
        *(f"less wait than {base}" for base in bases),
        "decisions",
        "improved",
        "fallbacks",
    ]
    lines = [
        f"# Allocators compared: {part}", "",
        f"`{found['command']}`; {found['machine']}, {found['wall_s']:.0f} s. Positive: less wait than that rule, with 95 % "
        "intervals over windows, days or seeds. fragments: free GPUs that a random job of the workload could not use, % of all GPUs.",
        *(f"{row['set']}: {row['trace']}, {row['source']}, {row['jobs']:,} jobs, {row['nodes']} nodes, arrivals x {row['load_scale']:.2f}."
          for row in found["rows"][:1] + found["rows"][-1:] if "trace" in row),
        "", "| " + " | ".join(heads) + " |", "|---" * len(heads) + "|",
    ]  # fmt: skip
    for row in found["rows"]:
        stats = row["stats"]
        cells = [row["set"], f"{row['policy']}, {row['backfill']}", row["allocator"], f"{row['wait_s']:,.0f}"]
        cells += [
            f"{row[key]:,.3f}"
            if key == "utilization"
            else f"{row[key]:,.2f}"
            if key == "fragments"
            else f"{row[key]:,.0f}"
            for key in extra
        ]
        cells += [percent(row["against"].get(base)) for base in bases]
        mine = row["allocator"].startswith("milp")
        cells += (
            [f"{stats['calls']:,}", f"{stats['improved']:,}", str(stats["fallbacks"] or 0)] if mine else ["", "", ""]
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def percent(change: dict[str, Any] | None) -> str:
    if change is None or change["reduction"] is None:
        return ""
    low, high = change["ci95"]
    interval = "" if low is None else f" [{100 * low:+.1f}, {100 * high:+.1f}]"
    return f"{100 * change['reduction']:+.1f} %{interval}"


if __name__ == "__main__":
    main()
