"""A `Snapshot` of a live cluster, from tables of what waits and what runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rltune.allocators.fragmentation import demand_cost, demand_of
from rltune.core.resources.counts import BEST_FIT
from rltune.core.state import NOW, SKIP, Plain, build_lean
from rltune.nouns.cluster import Cluster, further_resources
from rltune.nouns.errors import InputError
from rltune.nouns.jobs import JobTable
from rltune.nouns.plan import Running, Snapshot
from rltune.policies.dynamic import STATIC
from rltune.simulator.decisions import queue_of, read_only
from rltune.simulator.run import handle_oversized


def snapshot_of(
    waiting: JobTable, cluster: Cluster, now_s: float | None = None, running: Mapping[str, Sequence[Any]] | None = None
) -> Snapshot:
    """The present instant; position k of its queue is row k of ``waiting``.

    Args:
        waiting: jobs of whole GPUs; ``duration_s`` is the run time as it is believed, seconds.
        now_s: on the clock of ``submit_s``; None: the last submission.
        running: columns ``end_s`` (when a job is expected to end), ``nodes`` and ``gpus`` (of each job the numbers of its
            nodes, from 0, and the GPUs it holds there); a DataFrame will do. None: nothing runs.

    Raises:
        InputError: shares, slices or CPUs; a job that fits nowhere or is submitted later; GPUs held that there are not.
    """
    if (reason := further_resources(waiting, cluster)) is not None:
        raise InputError(f"who is next is asked of whole GPUs ({reason})")
    now = float(waiting.submit_s[-1]) if now_s is None else float(now_s)
    if not now >= waiting.submit_s[-1]:
        raise InputError(f"now_s={now:g}: job {waiting.job_id[-1]} is submitted later, at {waiting.submit_s[-1]:g} s")
    handle_oversized(waiting, waiting.duration_s, cluster, "refuse", "skip", "waiting")
    arrays = cluster.arrays()
    cost = demand_cost(arrays, *demand_of(waiting.num_gpus, arrays))
    n = len(waiting)
    sim = build_lean(waiting, cluster, waiting.duration_s, np.arange(n), cost, Plain(STATIC, SKIP, BEST_FIT))
    sim.clock[NOW] = now
    held = holding(running if running is not None else {"end_s": (), "nodes": (), "gpus": ()})
    free = np.array(sim.space.free, np.int64)
    bad = [node for node in held.nodes if not 0 <= node < len(free)]
    if bad:
        raise InputError(f"running: node {bad[0]} is none of cluster {cluster.name}; 0 to {len(free) - 1} are")
    np.subtract.at(free, held.nodes, held.gpus)
    if (free < 0).any():
        node = int(np.argmin(free))
        raise InputError(f"running: jobs hold {-int(free[node])} GPUs more on node {node} than it has")
    queue = queue_of(sim, np.arange(n), waiting.priority, np.zeros(n, bool))
    return Snapshot(now, arrays, read_only(free), queue, held)


def holding(running: Mapping[str, Sequence[Any]]) -> Running:
    """The running jobs of a table; InputError where columns are missing or do not go together."""
    missing = [name for name in ("end_s", "nodes", "gpus") if name not in running]
    if missing:
        raise InputError(f"running: column {missing[0]} is missing; end_s, nodes and gpus are needed")
    end_s, nodes, gpus = (list(running[name]) for name in ("end_s", "nodes", "gpus"))
    if not len(end_s) == len(nodes) == len(gpus):
        raise InputError(
            f"running: {len(end_s)} end_s, {len(nodes)} nodes, {len(gpus)} gpus; one of each a job is needed"
        )
    wrong = [row for row in range(len(nodes)) if len(nodes[row]) != len(gpus[row]) or min(gpus[row], default=0) < 1]
    if wrong:
        raise InputError(
            f"running: row {wrong[0] + 1}: as many gpus (1 or more) as nodes are needed, at least one of each"
        )
    ptr = np.concatenate([[0], np.cumsum([len(each) for each in nodes])]).astype(np.int64)
    where, many = (np.array([x for each in column for x in each], np.int64) for column in (nodes, gpus))
    return Running(
        job=np.full(len(end_s), -1), end_s=np.array(end_s, np.float64), ptr=ptr, nodes=where, gpus=many,
        grants=np.full(len(where), -1), way=np.zeros(len(end_s), np.int64),
    )  # fmt: skip
