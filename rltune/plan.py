"""What a decision sees (``Snapshot``), what it answers (``Plan``), and the protocols of the plug-ins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rltune.cluster import ClusterArrays

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Queue:
    """The waiting jobs, in order of arrival; arrays have shape (n_queued,) and are read-only.

    ``job``: row in the job table. ``run_s``: run time as the scheduler knows it
    (exact, predicted, or NaN for runtimes ``unknown``). Job i may use
    ``pools[pool_lo[i]:pool_hi[i]]``.
    """

    job: IntArray
    submit_s: FloatArray
    run_s: FloatArray
    num_gpus: IntArray
    wait_s: FloatArray
    priority: FloatArray
    pool_lo: IntArray
    pool_hi: IntArray
    pools: IntArray

    def __len__(self) -> int:
        return len(self.job)


@dataclass(frozen=True, slots=True)
class Running:
    """The running jobs; shape (n_running,). ``end_s`` is expected from the known run time.

    Job i holds ``gpus[ptr[i]:ptr[i + 1]]`` GPUs on ``nodes[ptr[i]:ptr[i + 1]]``.
    """

    job: IntArray
    end_s: FloatArray
    ptr: IntArray
    nodes: IntArray
    gpus: IntArray


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of one instant, after all its events. ``free`` (n_nodes,) GPUs, read-only."""

    now_s: float
    cluster: ClusterArrays
    free: IntArray
    queue: Queue
    running: Running


@dataclass(frozen=True, slots=True)
class Start:
    """Start the job of row ``job`` now with ``gpus[i]`` GPUs on node index ``nodes[i]``."""

    job: int
    nodes: tuple[int, ...]
    gpus: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What starts now, in order. ``report``: the allocator's own account (status, gap, time, fallback)."""

    starts: tuple[Start, ...]
    report: dict[str, Any] = field(default_factory=dict)


class PlanError(RuntimeError):
    """A plug-in answered with an impossible plan; the message names job and reason."""


Keys = npt.ArrayLike | Sequence[npt.ArrayLike]
Policy = Callable[[Queue, Snapshot], Keys]
"""Orders the queue: returns a key (n_queued,), or several by significance; smallest goes first."""


class Allocator(Protocol):
    """Turns an ordered queue into a plan."""

    def allocate(self, snapshot: Snapshot, order: IntArray, backfill: str) -> Plan:
        """``order``: positions in the queue, first to start first. ``backfill``: blocking, skip or easy."""
        ...


def check_plan(snapshot: Snapshot, plan: Plan) -> None:
    """Refuse an over-allocation, an incomplete gang, a foreign pool, a job started twice or not queued."""
    free = snapshot.free.copy()
    queue, cluster = snapshot.queue, snapshot.cluster
    position = {int(job): i for i, job in enumerate(queue.job)}
    for start in plan.starts:
        at = position.pop(start.job, None)
        if at is None:
            raise PlanError(f"job {start.job} is started but not (or no longer) in the queue")
        whole = all(isinstance(x, int | np.integer) for x in (*start.nodes, *start.gpus))
        if not whole or not start.nodes or len(start.nodes) != len(start.gpus) or min(start.gpus) < 1:
            raise PlanError(
                f"job {start.job}: nodes {start.nodes} and GPUs {start.gpus} are not pairs of whole numbers"
            )
        if sum(start.gpus) != queue.num_gpus[at]:
            raise PlanError(f"job {start.job} wants {queue.num_gpus[at]} GPUs, the plan gives {start.gpus}")
        if not all(0 <= node < len(free) for node in start.nodes):
            raise PlanError(f"job {start.job}: nodes {start.nodes} do not all exist; there are {len(free)}")
        if len(set(start.nodes)) < len(start.nodes):
            raise PlanError(f"job {start.job} names a node twice: {start.nodes}")
        pools = {int(cluster.node_pool[node]) for node in start.nodes}
        allowed = set(queue.pools[queue.pool_lo[at] : queue.pool_hi[at]].tolist())
        if len(pools) != 1 or not pools <= allowed:
            raise PlanError(f"job {start.job} may use one of pools {sorted(allowed)}, the plan uses {sorted(pools)}")
        fewest = -(-int(queue.num_gpus[at]) // int(cluster.pool_cap[pools.pop()]))
        if len(start.nodes) != fewest:
            raise PlanError(f"job {start.job} needs {fewest} nodes of its pool, the plan uses {len(start.nodes)}")
        for node, gpus in zip(start.nodes, start.gpus, strict=True):
            free[node] -= gpus
            if free[node] < 0:
                raise PlanError(f"node {node} is over-allocated by job {start.job}")
