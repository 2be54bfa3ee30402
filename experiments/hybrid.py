"""The hybrid on unlike GPUs: ``python experiments/hybrid.py`` (RLTUNE_TRACES set).

Test arrivals of Helios and PAI, and a mix of Helios in which jobs of one GPU hold a third of the time, on the cluster
``mixed``: 224 V100, 112 P100, 112 A100 that may be cut by MIG. Every job is given a class of Gavel's table by a seed (speeds on P100
and V100 as measured, on the A100 as assumed), and a job of one GPU a measured training job (its speeds on slices); it may
run on any type, whole or on a slice. Run times are unknown, jobs may be suspended (60 s a resumption), MIG instances take
their measured time. Orders x placements x two loads x five seeds, mean JCT first.

Nothing is chosen by these stretches: the constants of the market come from ``--choose`` (stretches of May, July and August of
Helios). Writes results/hybrid.{json,md}; ``--choose``: results/hybrid_choice.{json,md}; ``--only TEXT``: rows whose name has it,
the others are kept.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import rltune
from rltune.allocators.milp import MilpAllocator
from rltune.nouns.jobs import Category, JobTable
from rltune.traces.heterogeneity import load_throughput

RESULTS = Path(__file__).resolve().parent / "results"
COMMAND = "RLTUNE_TRACES=... OMP_NUM_THREADS=1 python experiments/hybrid.py"
CLUSTER = rltune.load_cluster("mixed")
LOADS = (0.83, 0.98)
SEEDS = (0, 1, 2, 3, 4)
WIDEST = 64
"""GPUs: wider jobs are left out, since the pools hold 112 and 224; how much time they hold is told."""
THIRD = 1 / 3
ORDERS: dict[str, dict[str, Any]] = {
    "fifo": {"policy": "fifo"},
    "las_levels": {"policy": "las_levels"},
    "las": {"policy": "las"},
    "gittins": {"policy": "gittins", "past_jobs": True},
    "srsf, exact run times": {"policy": "srsf", "runtimes": "exact"},
}
PLACES: dict[str, dict[str, Any]] = {
    "first fit": {"allocator": "first_fit"},
    "best fit": {"allocator": "best_fit"},
    "fgd": {"allocator": "fgd"},
    "best fit, efficient": {"allocator": "best_fit", "way_rule": "efficient"},
    "fgd, efficient": {"allocator": "fgd", "way_rule": "efficient"},
    "market, no refusal": {"allocator": "fgd", "way_rule": "market", "market_refusal": 1e6},
    "market, no prices": {"allocator": "fgd", "way_rule": "market", "market_crowd": 0.0, "market_floor": 0.0},
    "market": {"allocator": "fgd", "way_rule": "market"},
    "market, milp": {"allocator": "milp", "way_rule": "market"},
}
"""The first three take the fastest way with room."""
CLASSIC_ORDERS, CLASSIC_PLACES = ("fifo", "las_levels", "las"), ("first fit", "best fit", "fgd")
HYBRID = "gittins / market"
EXACT_ON = (("las", "gittins"), (0.98,), (0, 1))
"""Orders, loads and seeds on which the MILP decides: it takes minutes where the others take a second."""


@dataclass(frozen=True)
class World:
    """Jobs, what was submitted before them, and the seed by which classes are drawn."""

    name: str
    jobs: JobTable
    past: JobTable
    seed: int
    source: str
    left_out: float


def gpu_time(jobs: JobTable) -> Any:
    """(n,) GPU-seconds of each job."""
    return jobs.num_gpus * jobs.duration_s


def of_load(jobs: JobTable, load: float, speeds: Any) -> JobTable:
    """The jobs with arrivals drawn together (or apart) to the load of the cluster at its mean speed for this work."""
    work, gpus = gpu_time(jobs), np.array([pool.nodes * pool.gpus_per_node for pool in CLUSTER.pools])
    capacity = float((gpus * (work[:, None] * speeds).sum(axis=0) / work.sum()).sum())
    first = jobs.submit_s[0]
    scale = work.sum() / (load * capacity * (jobs.submit_s[-1] - first))
    return replace(jobs, submit_s=first + (jobs.submit_s - first) * scale)


def thickened(jobs: JobTable, seed: int) -> JobTable:
    """Jobs of one GPU doubled until they hold a third of the GPU time, the copies up to half a day earlier or later."""
    rng, one = np.random.default_rng(seed), jobs.num_gpus == 1
    held = gpu_time(jobs)
    times = max(1, round(held[~one].sum() * THIRD / (1 - THIRD) / held[one].sum()))
    frame = jobs.to_frame()
    parts = [frame]
    for k in range(times - 1):
        copy = frame[one].copy()
        shifted = copy["submit_s"] + rng.uniform(-43200, 43200, len(copy))
        copy["submit_s"] = np.clip(shifted, frame["submit_s"].min(), frame["submit_s"].max())
        copy["job_id"] = copy["job_id"].astype(str) + f"-{k}"
        parts.append(copy)
    columns = {name: list(itertools.chain(*(part[name] for part in parts))) for name in frame}
    return JobTable.from_columns({k: v for k, v in columns.items() if any(x is not None for x in v)})


def world(name: str, trace: rltune.Trace, rows: tuple[int, int, int], seed: int, load: float, heavy: bool) -> World:
    """``rows``: where the past begins, the jobs begin, and end."""
    jobs, past = trace.jobs.take(slice(*rows[1:])), trace.jobs.take(slice(*rows[:2]))
    wide = jobs.num_gpus > WIDEST
    left_out = float(gpu_time(jobs)[wide].sum() / gpu_time(jobs).sum())
    jobs = jobs.take(~wide)
    jobs = thickened(jobs, seed) if heavy else jobs
    table = load_throughput("gavel", missing="assumed", draw=seed)
    plain = replace(jobs, gpu_type=Category.absent(len(jobs)))
    speeds = table.speeds(plain, CLUSTER).speed
    return World(name, of_load(plain, load, speeds), past, seed, trace.source, left_out)


def worlds(seed: int) -> Iterator[World]:
    """What the tables report."""
    helios, pai = rltune.load_trace("helios"), rltune.load_trace("alibaba")
    begin, last = first_row(helios, "2020-09-01"), first_row(helios, "2020-09-16")
    quarter = int(0.75 * len(pai))
    for load in LOADS:
        at = f"{100 * load:.0f}"
        yield world(f"helios_{at}", helios, (0, begin, len(helios)), seed, load, False)
        yield world(f"heavy_{at}", helios, (0, begin, last), seed, load, True)
        yield world(f"pai_{at}", pai, (0, quarter, len(pai)), seed, load, False)


def first_row(trace: rltune.Trace, date: str) -> int:
    """First row submitted at or after a date."""
    return int(np.searchsorted(trace.jobs.submit_s, trace.between(date, "2100-01-01").jobs.submit_s[0]))


def run(setting: World, order: dict[str, Any], place: dict[str, Any], **more: Any) -> dict[str, Any]:
    """One simulation: means, and wait and JCT of every job."""
    options = {"runtimes": "unknown", "ways": "mig_profiles", "seed": setting.seed, "backfill": "skip"} | order | place | more
    options["speed"] = {"name": "gavel", "missing": "assumed", "reference": None, "draw": setting.seed}
    if options["policy"] != "fifo":
        options["resume_s"] = 60.0
    if options.get("past_jobs"):
        options["past_jobs"] = setting.past
    if options["allocator"] == "milp":
        options["allocator"] = MilpAllocator(head=8)
    begun = time.perf_counter()
    result = rltune.simulate(setting.jobs, CLUSTER, **options)
    seconds = time.perf_counter() - begun
    assert result.finished.all()
    wait, jct, runs = result.wait_s, result.end_s - setting.jobs.submit_s, result.runs
    sliced = runs.first_slice[runs.ptr[:-1]] >= 0 if runs.first_slice is not None else np.zeros(len(runs), bool)
    return {
        "jct_s": float(jct.mean()), "wait_s": float(wait.mean()), "wait_p99_s": float(np.percentile(wait, 99)),
        "starts_per_job": len(runs) / len(setting.jobs), "on_slices": float(sliced.mean()), "seconds": round(seconds, 1),
        "market": result.extra.get("market"), "allocator": result.allocator_stats or None, "_jct": jct, "_wait": wait,
    }  # fmt: skip


# --- comparing ---------------------------------------------------------------------------


def days_of(setting: World) -> Any:
    """(n,) day of arrival: the unit that is drawn again in the bootstrap, since jobs of one day share their fate."""
    return ((setting.jobs.submit_s - setting.jobs.submit_s[0]) // 86400).astype(int)


def sums_by_day(days: Any, values: Any) -> Any:
    """(n_days, 2) jobs and sum of their values."""
    return np.stack([np.bincount(days), np.bincount(days, weights=values)], axis=1)


def gain(ours: list[Any], theirs: list[Any], draws: int = 2000) -> dict[str, float]:
    """By what share the mean of ours is below theirs, with a 95 % interval: days of all seeds drawn anew, the same for both.

    ``ours, theirs``: `sums_by_day` of each seed.
    """
    a, b = np.concatenate(ours), np.concatenate(theirs)
    rng = np.random.default_rng(0)
    rows = rng.integers(len(a), size=(draws, len(a)))
    drawn = 1.0 - a[rows, 1].sum(axis=1) / b[rows, 1].sum(axis=1)
    low, high = np.percentile(drawn, (2.5, 97.5))
    return {"gain": float(1.0 - a[:, 1].sum() / b[:, 1].sum()), "low": float(low), "high": float(high)}


def measure(seeds: tuple[int, ...], only: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows, and sums by day: (world, rule, seed) -> (jct, wait)."""
    rows, sums = [], {}
    for seed in seeds:
        for setting in worlds(seed):
            for (order, what), (place, how) in itertools.product(ORDERS.items(), PLACES.items()):
                name = f"{order} / {place}"
                if only not in f"{setting.name} {name}" or skipped(setting, order, place):
                    continue
                found = run(setting, what, how)
                days = days_of(setting)
                sums[setting.name, name, seed] = [sums_by_day(days, found.pop(f"_{x}")) for x in ("jct", "wait")]
                rows.append({"world": setting.name, "order": order, "place": place, "seed": seed, "jobs": len(setting.jobs), **found})
                print(f"{setting.name} seed {seed} {name}: JCT {found['jct_s']:,.0f} s, wait {found['wait_s']:,.0f} s, {found['seconds']} s", flush=True)  # fmt: skip
    return rows, sums


def skipped(setting: World, order: str, place: str) -> bool:
    """Where the MILP does not decide."""
    if "milp" not in place:
        return False
    orders, loads, seeds = EXACT_ON
    return order not in orders or setting.seed not in seeds or not setting.name.endswith(tuple(f"_{100 * x:.0f}" for x in loads))
