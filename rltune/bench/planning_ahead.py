"""Milliseconds of one plan of conservative backfill, by how many jobs wait."""

from __future__ import annotations

import time

import numpy as np

from rltune.core.conservative import with_profile
from rltune.core.events import advance
from rltune.core.loop import begin, start_by_given_keys
from rltune.core.reference import ref
from rltune.core.state import NOW, PASSES, QUEUED
from rltune.nouns.cluster import Cluster
from rltune.nouns.jobs import JobTable
from rltune.simulator.full import build_state
from rltune.simulator.options import Options

NODES, GPUS_PER_NODE = 100, 8
RUNNING = 320
"""Jobs of the sizes below that the cluster holds at once, about."""


def workload(waiting: int, seed: int = 0) -> JobTable:
    """About so many jobs more than the cluster holds, all there at once, and as many again that follow as others end."""
    rng = np.random.default_rng(seed)
    n = 2 * waiting + RUNNING
    gpus = rng.choice([1, 2, 4, 8, 16], n, p=[0.55, 0.15, 0.1, 0.15, 0.05])
    duration = np.maximum(10.0, rng.lognormal(6.5, 1.8, n))
    # What follows keeps the queue at its length: arrivals at the rate at which the cluster works.
    gap = (duration * gpus).mean() / (NODES * GPUS_PER_NODE)
    submit = np.concatenate([np.zeros(n - waiting), np.cumsum(rng.exponential(gap, waiting))])
    return JobTable.from_columns(
        {"submit_s": np.sort(submit).tolist(), "duration_s": duration.tolist(), "num_gpus": gpus.tolist()}
    )


def plan_ms(waiting: int, plans: int = 100) -> float:
    """Median milliseconds of one plan with about ``waiting`` jobs in the queue (within a tenth)."""
    jobs = workload(waiting)
    cluster = Cluster.from_spec({"pools": [{"nodes": NODES, "gpus_per_node": GPUS_PER_NODE}]})
    sim = build_state(jobs, cluster, "fifo", "conservative", "best_fit", jobs.duration_s, Options()).sim
    state = ref(with_profile(sim, cluster))
    begin(state)
    times: list[float] = []
    while len(times) < plans and advance(state):
        now, queued, passes = float(sim.clock[NOW]), int(sim.counts[QUEUED]), int(sim.counts[PASSES])
        begun = time.perf_counter()
        start_by_given_keys(state)
        seconds = time.perf_counter() - begun
        # One pass asks whether anything fits; only then is there a second, which plans.
        planned = int(sim.counts[PASSES]) - passes == 2
        if planned and now > 0 and abs(queued - waiting) <= waiting / 10:
            times.append(1000 * seconds)
    return float(np.median(times))
