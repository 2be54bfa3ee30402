"""rltune: a learned scheduler with an optimising allocator for GPU clusters.

For notebooks::

    trace   = rltune.load_trace("philly")
    cluster = rltune.load_cluster("rltune_philly")
    result  = rltune.simulate(trace.window(74685, 256), cluster, policy="fifo", discipline="blocking")
    result.schedule, result.summary()
"""

from __future__ import annotations

from typing import Any

from rltune.cluster import Cluster
from rltune.config import load_cluster
from rltune.errors import InputError
from rltune.jobs import JobTable
from rltune.plan import Plan, Queue, Snapshot, Start
from rltune.simulator import bounds
from rltune.simulator.bounds import Bounds
from rltune.simulator.result import Result
from rltune.simulator.run import simulate_jobs
from rltune.traces import Trace, load_trace

__version__ = "0.1.0"
__all__ = [
    "Bounds",
    "Cluster",
    "InputError",
    "JobTable",
    "Plan",
    "Queue",
    "Result",
    "Snapshot",
    "Start",
    "Trace",
    "load_cluster",
    "load_trace",
    "lower_bounds",
    "simulate",
]


def simulate(workload: Trace | JobTable, cluster: Cluster | str, **options: Any) -> Result:
    """Simulate a trace (or a job table) on a cluster; see `rltune.simulator.run.simulate_jobs` for the options.

    ``policy``: a name (fifo, sjf, f1, ...) or a function (queue, snapshot) -> keys;
    ``discipline``: blocking, skip, easy; ``allocator``: lexicographic, best_fit,
    least_fragmentation, milp, or an object; ``knowledge``: known, predicted, none.
    """
    jobs, source = (workload, "jobs") if isinstance(workload, JobTable) else (workload.jobs, workload.label)
    if isinstance(cluster, str):
        cluster = load_cluster(cluster)
    if options.get("allocator") == "milp":
        # Pyomo takes a second to import; only those who ask for the MILP wait for it.
        from rltune.allocators.milp import MilpAllocator

        options["allocator"] = MilpAllocator()
    return simulate_jobs(jobs, cluster, source=source, **options)


def lower_bounds(workload: Trace | JobTable, cluster: Cluster | str) -> Bounds:
    """What no schedule without preemption can beat: mean JCT and wait, makespan; see `rltune.simulator.bounds`."""
    jobs = workload if isinstance(workload, JobTable) else workload.jobs
    return bounds.lower_bounds(jobs, load_cluster(cluster) if isinstance(cluster, str) else cluster)
