"""Run directories made by hand, with a schedule that can be reckoned on paper."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import rltune
from rltune.rl.network import JobNetwork, NetworkConfig
from rltune.rl.policy_file import LearnedPolicy
from rltune.rl.rules import Rules
from rltune.simulate import job_table

POOL = {
    "name": "p", "nodes": 2, "gpus_per_node": 4, "gpu_type": "any", "vc": None, "first_node_id": 5,
    "max_gpus_per_job": None, "cpus": None, "memory_gb": None, "mig": False,
}  # fmt: skip
HOSTILE = '<img src=x onerror="window.pwned=1">'


def simulated(folder: Path, last: str = "d", label: str = "by hand") -> Path:
    """a, b fill both nodes; c (8 GPUs) waits 190 s; ``last`` (2 GPUs) came after c, starts at 100 and overtakes it.

    |   | submitted | GPUs | runs    |
    |---|-----------|------|---------|
    | a | 0         | 4    | 0-100   |
    | b | 0         | 4    | 0-200   |
    | c | 10        | 8    | 200-250 |
    | d | 20        | 2    | 100-130 |
    """
    folder.mkdir(parents=True)
    pd.DataFrame(
        {"job_id": ["a", "b", "c", last], "submit_s": [0.0, 0, 10, 20], "start_s": [0.0, 0, 200, 100],
         "end_s": [100.0, 200, 250, 130], "duration_s": [100.0, 200, 50, 30], "num_gpus": [4, 4, 8, 2],
         "gpu_milli": [1000] * 4, "vc": [None, last, None, last], "user": None, "priority": 0, "finished": True}
    ).to_parquet(folder / "jobs.parquet")  # fmt: skip
    pd.DataFrame(
        {"job_id": ["a", "b", last, "c"], "start_s": [0.0, 0, 100, 200], "end_s": [100.0, 200, 130, 250],
         "useful_s": [100.0, 200, 30, 50], "outcome": "finished", "nodes": [[5], [6], [5], [5, 6]],
         "gpus": [[4.0], [4.0], [2.0], [4.0, 4.0]], "pool": "p", "mig": None, "gpu": -1, "first_slice": -1}
    ).to_parquet(folder / "runs.parquet")  # fmt: skip
    summary = {
        "command": "simulate", "trace": {"label": label}, "cluster": {"name": "two", "pools": [POOL]},
        "simulation": {"policy": "fifo", "backfill": "skip", "runtimes": "exact", "allocator": "best_fit"},
        "policies": {"fifo-skip-exact-best_fit": {}}, "remarks": [],
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def written(folder: Path, result: Any) -> Path:
    """A simulation's result as `rltune.simulate` leaves it."""
    run = simulated(folder)
    job_table(result).to_parquet(run / "jobs.parquet", index=False)
    result.attempts.to_parquet(run / "runs.parquet", index=False)
    if result.recorded is not None:
        result.recorded.write(lambda name: run / name)
    summary = json.loads((run / "summary.json").read_text())
    summary["cluster"]["pools"] = [asdict(pool) for pool in result.cluster.pools]
    (run / "summary.json").write_text(json.dumps(summary))
    return run


def crowded(**options: Any) -> Any:
    """A simulation whose decisions are written down, of 40 jobs that queue for two nodes; the widest has a hostile name."""
    rng = np.random.default_rng(3)
    columns = {
        "job_id": [f"j{k}" for k in range(39)] + [HOSTILE], "submit_s": np.sort(rng.uniform(0, 600, 40)),
        "duration_s": rng.exponential(400, 40) + 1, "num_gpus": [*rng.choice([1, 2, 4], 39), 8],
    }  # fmt: skip
    cluster = rltune.load_cluster("uniform").with_nodes(2)
    return rltune.simulate(rltune.JobTable.from_columns(columns), cluster, decisions=True, **options)


def learned() -> Any:
    """The same, picked by a network with random weights."""
    torch.manual_seed(4)
    network = JobNetwork(NetworkConfig(visible=16))
    with torch.no_grad():
        for weights in network.parameters():
            weights.normal_(0.0, 0.3)
    return crowded(policy=LearnedPolicy(network.eval(), Rules(baseline="sjf", visible=16, window=10), {}))


def evaluated(folder: Path) -> Path:
    """Two policies on one window of two jobs."""
    folder.mkdir(parents=True)
    rows = [(policy, 0, name, 0.0, start, start + 10.0, 1) for policy, first in (("fifo", 0.0), ("sjf", 10.0))
            for name, start in (("x", first), ("y", 10.0 - first))]  # fmt: skip
    columns = ["policy", "window", "job_id", "submit_s", "start_s", "end_s", "num_gpus"]
    pd.DataFrame(rows, columns=columns).to_parquet(folder / "jobs.parquet")
    (folder / "summary.json").write_text(json.dumps({"command": "evaluate", "cluster": {"nodes": 1, "gpus": 1}}))
    return folder


def planned(folder: Path) -> Path:
    """Three tasks on an A30: two in slices 1g (memory slices 0 and 1), then one in 2g of both after they are gone."""
    folder.mkdir(parents=True)
    pd.DataFrame(
        {"batch": "0", "task": ["t0", "t1", "t2"], "gpu": 0, "model": "A30", "gpu_slices": 4,
         "profile": ["1g.6gb", "1g.6gb", "2g.12gb"], "start_slice": [0, 1, 0], "slices": [1, 1, 2],
         "start_s": [0.1, 0.2, 5.0], "end_s": [4.0, 4.5, 9.0]}
    ).to_parquet(folder / "plan.parquet")  # fmt: skip
    pd.DataFrame(
        {"batch": "0", "gpu": 0, "model": "A30", "gpu_slices": 4, "profile": ["1g.6gb", "1g.6gb", "2g.12gb"],
         "start_slice": [0, 1, 0], "slices": [1, 1, 2], "create_s": [0.0, 0.1, 4.8], "ready_s": [0.1, 0.2, 5.0],
         "destroy_s": [4.5, 4.6, None], "gone_s": [4.6, 4.7, None]}
    ).to_parquet(folder / "instances.parquet")  # fmt: skip
    batch = {"label": "", "arrival_s": 0.0, "method": "search", "reconfigurations": 5}
    (folder / "summary.json").write_text(json.dumps({"command": "mig batch", "gpus": ["A30"], "batches": [batch]}))
    return folder
