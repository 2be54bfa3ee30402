"""rltune: a learned scheduler with an optimising allocator for GPU clusters.

For notebooks::

    trace   = rltune.load_trace("philly")
    cluster = rltune.load_cluster("rltune_philly")
    result  = rltune.simulate(trace.window(74685, 256), cluster, policy="fifo", discipline="blocking")
    result.schedule, result.summary()
"""

from __future__ import annotations

from rltune.api import lower_bounds, simulate
from rltune.cluster import Cluster
from rltune.config import load_cluster
from rltune.errors import InputError
from rltune.jobs import JobTable
from rltune.plan import Plan, Queue, Snapshot, Start
from rltune.simulator.bounds import Bounds
from rltune.simulator.result import Result
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
