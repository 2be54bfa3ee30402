"""How the simulator's cost grows: ``python -m rltune.bench.scaling JOBS GPUS POLICY BACKFILL [LOAD]``, one case a process.

The workload is drawn, not recorded: sizes and run times by Helios' published distributions (Venus), Poisson arrivals
at an offered load (GPU-seconds asked for over GPU-seconds there are) of ``LOAD``. A case prints one line of JSON;
peak memory is that of the whole process, drawing the jobs and the table of results included.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterable
from typing import Any

import numpy as np

import rltune
from rltune.nouns.cluster import Cluster
from rltune.nouns.jobs import JobTable
from rltune.rundir import peak_rss_mb
from rltune.traces.calibrated import duration_quantiles
from rltune.traces.helios_statistics import VENUS

GPUS_PER_NODE = 8
LOAD = 0.9


def draw_jobs(jobs: int, gpus: int, load: float, seed: int = 0) -> JobTable:
    """Jobs that keep ``gpus`` busy at ``load`` on average."""
    rng = np.random.default_rng(seed)
    duration_s = duration_quantiles(VENUS, rng.random(jobs))
    shares = np.array(VENUS.size_cdf_pct) / 100
    # The last class, "wider", has no published size: the widest that has one stands for it.
    at = np.minimum(np.searchsorted(shares, rng.random(jobs)), len(VENUS.sizes) - 1)
    num_gpus = np.array(VENUS.sizes, np.int32)[at]
    span_s = float((duration_s * num_gpus).sum()) / (gpus * load)
    submit_s = np.sort(rng.random(jobs)) * span_s
    return JobTable.from_columns({"submit_s": submit_s, "duration_s": duration_s, "num_gpus": num_gpus})


def measure(jobs: int, gpus: int, policy: str, backfill: str, load: float = LOAD) -> dict[str, Any]:
    """Seconds of one simulation, from the job table to start and end times, after a small one that compiles; peak memory.

    The detailed simulation's seconds include the table of its runs, which the plain one builds when asked.
    """
    cluster = Cluster.from_spec({"pools": [{"nodes": gpus // GPUS_PER_NODE, "gpus_per_node": GPUS_PER_NODE}]})
    warm = draw_jobs(100, gpus, load)
    rltune.simulate(warm, cluster, policy=policy, backfill=backfill)
    table = draw_jobs(jobs, gpus, load)
    begun = time.perf_counter()
    result = rltune.simulate(table, cluster, policy=policy, backfill=backfill)
    seconds = time.perf_counter() - begun
    return {
        "jobs": jobs, "gpus": gpus, "policy": policy, "backfill": backfill, "load": load,
        "seconds": round(seconds, 4), "jobs_per_s": round(jobs / seconds), "events": result.events,
        "mean_wait_s": round(float(result.wait_s.mean()), 1), "runs": len(result.runs) if result.interrupted else None,
        "peak_rss_mb": round(peak_rss_mb()),
    }  # fmt: skip


def in_own_process(*case: Any) -> dict[str, Any]:
    """The case measured by a fresh interpreter, so that its memory is its own."""
    command = [sys.executable, "-m", "rltune.bench.scaling", *map(str, case)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def exponent(cases: Iterable[dict[str, Any]]) -> float:
    """b of seconds ~ jobs^b, by least squares of logarithms."""
    points = [(np.log(case["jobs"]), np.log(case["seconds"])) for case in cases]
    x, y = np.array(points).T
    return float(np.polyfit(x, y, 1)[0])


if __name__ == "__main__":
    given = sys.argv[1:]
    print(json.dumps(measure(int(given[0]), int(given[1]), given[2], given[3], *map(float, given[4:]))))
