"""What notebooks call: `rltune.simulate` and `rltune.lower_bounds`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rltune.config import load_cluster
from rltune.nouns.cluster import Cluster
from rltune.nouns.errors import InputError
from rltune.nouns.jobs import JobTable
from rltune.simulator import bounds
from rltune.simulator.bounds import Bounds
from rltune.simulator.result import Result
from rltune.simulator.run import simulate_jobs
from rltune.traces import Trace


def simulate(workload: Trace | JobTable, cluster: Cluster | str, **options: Any) -> Result:
    """Simulate a trace (or a job table) on a cluster; see `rltune.simulator.run.simulate_jobs` for all options.

    ``policy``: a name (fifo, sjf, f1, ...), a file or run directory of a learned policy, or a function
    (queue, snapshot) -> keys; ``backfill``: blocking, strict, skip, easy, conservative; ``allocator``: lexicographic, best_fit,
    least_fragmentation, milp (also an object ``MilpAllocator`` with options), or an object;
    ``runtimes``: exact, requested, predicted, online, unknown.
    """
    if not isinstance(workload, Trace | JobTable):
        raise InputError(
            f"simulate: {type(workload).__name__} is no trace or job table; use rltune.load_trace, or "
            "rltune.JobTable.from_columns(frame)"
        )
    if isinstance(cluster, str):
        cluster = load_cluster(cluster)
    if isinstance(options.get("policy"), str) and is_policy_file(options["policy"]):
        # PyTorch takes a while to import; only learned policies need it.
        from rltune.rl.policy_file import load_policy

        options["policy"] = load_policy(options["policy"])
    if options.get("allocator") == "milp":
        # The solver takes a while to import; only those who ask for the MILP wait for it.
        from rltune.allocators.milp import MilpAllocator

        options["allocator"] = MilpAllocator()
    return simulate_jobs(workload, cluster, **options)


def is_policy_file(policy: str) -> bool:
    """Whether a policy is named by its file, or by the run directory that it lies in, and not by a name of the list."""
    return policy.endswith(".safetensors") or "/" in policy or Path(policy).is_dir()


def lower_bounds(workload: Trace | JobTable, cluster: Cluster | str, preemptive: bool = False) -> Bounds:
    """What no schedule can beat: mean JCT and wait, makespan; see `rltune.simulator.bounds`.

    ``preemptive``: also none that interrupts jobs; else none without preemption, which is tighter.
    """
    jobs = workload if isinstance(workload, JobTable) else workload.jobs
    return bounds.lower_bounds(jobs, load_cluster(cluster) if isinstance(cluster, str) else cluster, preemptive)
