"""rltune: a learned scheduler with an optimising allocator for GPU clusters.

For notebooks::

    trace   = rltune.load_trace("philly")
    cluster = rltune.load_cluster("rltune_philly")
    result  = rltune.simulate(trace.window(74685, 256), cluster, policy="fifo", backfill="blocking")
    result.schedule, result.summary()
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rltune.api import Next, load_policy, lower_bounds, simulate, who_is_next
    from rltune.config import load_cluster
    from rltune.nouns.cluster import Cluster
    from rltune.nouns.errors import InputError
    from rltune.nouns.jobs import JobTable
    from rltune.nouns.plan import Plan, Queue, Snapshot, Start
    from rltune.simulator.bounds import Bounds
    from rltune.simulator.result import Result
    from rltune.traces import Trace, load_trace

__version__ = "0.2.0"
__all__ = [
    "Bounds",
    "Cluster",
    "InputError",
    "JobTable",
    "Next",
    "Plan",
    "Queue",
    "Result",
    "Snapshot",
    "Start",
    "Trace",
    "load_cluster",
    "load_policy",
    "load_trace",
    "lower_bounds",
    "simulate",
    "who_is_next",
]

# Loaded when first asked for: the simulator takes a second, and `python -m rltune.devices show` does without.
_HOME = {
    "Bounds": "simulator.bounds",
    "Cluster": "nouns.cluster",
    "InputError": "nouns.errors",
    "JobTable": "nouns.jobs",
    "Next": "api",
    "Plan": "nouns.plan",
    "Queue": "nouns.plan",
    "Result": "simulator.result",
    "Snapshot": "nouns.plan",
    "Start": "nouns.plan",
    "Trace": "traces",
    "load_cluster": "config",
    "load_policy": "api",
    "load_trace": "traces",
    "lower_bounds": "api",
    "simulate": "api",
    "who_is_next": "api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'rltune' has no attribute {name!r}")
    value = getattr(import_module(f"rltune.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
