"""The readable loop: snapshot, decide, commit. For policies and allocators of one's own, and for the MILP.

It stands on the same event kernels as the compiled disciplines; a test holds
the two to the same schedules.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from rltune.cluster import ClusterArrays
from rltune.core.events import advance, drop_at, reset, step_single_event
from rltune.core.queue import position_of, remove_at
from rltune.core.reference import Ref, ref
from rltune.core.runs import start_job
from rltune.core.state import QUEUED, RUNNING, Sim
from rltune.plan import Allocator, IntArray, Plan, Policy, Queue, Running, Snapshot
from rltune.policies.orders import sequence
from rltune.scheduler import decide


def run_readable(
    sim: Sim, policy: Policy, allocator: Allocator, discipline: str, priority: np.ndarray | None = None
) -> list[dict[str, object]]:
    """Simulate all jobs through `rltune.scheduler.decide`; returns one record a decision.

    ``sim.jobs.rank`` must be the order of arrival.
    """
    state = ref(sim)
    reset(state)
    records: list[dict[str, object]] = []
    # To an allocator both mean the same: stop at the first job that does not fit.
    told = "blocking" if discipline == "strict" else discipline

    def commit(only: IntArray | None = None) -> Plan:
        snapshot = take_snapshot(sim, priority, only)
        plan = decide(snapshot, policy, allocator, told)
        for start in plan.starts:
            m = len(start.nodes)
            sim.place.node[:m], sim.place.gpus[:m] = start.nodes, start.gpus
            start_job(state, start.job, m)
            remove_at(state, position_of(state, start.job))
        records.append(
            {"now_s": snapshot.now_s, "queued": len(snapshot.queue), "started": len(plan.starts)} | plan.report
        )
        return plan

    if discipline == "blocking":
        _loop_blocking(state, policy, priority, commit)
        return records
    while advance(state):
        if sim.counts[QUEUED] > 0:
            commit()
    return records


def _loop_blocking(state: Ref, policy: Policy, priority: np.ndarray | None, commit: Callable[..., Plan]) -> None:
    """As the compiled blocking discipline: a picked job stays picked until it has started."""
    sim = state.value
    while True:
        while sim.counts[QUEUED] == 0:
            if not step_single_event(state):
                return
        if commit().starts:
            continue
        snapshot = take_snapshot(sim, priority)
        head = snapshot.queue.job[sequence(policy(snapshot.queue, snapshot), len(snapshot.queue))[:1]]
        while True:
            if sim.counts[RUNNING] == 0 or not step_single_event(state):
                drop_at(state, position_of(state, head[0]))
                break
            if commit(head).starts:
                break


def read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A view that a plug-in cannot write through."""
    seen = array.view()
    seen.setflags(write=False)
    return seen


def take_snapshot(sim: Sim, priority: np.ndarray | None = None, only: IntArray | None = None) -> Snapshot:
    """Read-only view of the present instant; ``only``: restrict the queue to these jobs."""
    now = float(sim.clock[0])
    job = sim.queue[: sim.counts[QUEUED]].copy() if only is None else only
    c = sim.jobs.cls[job]
    running = sim.active[: sim.counts[RUNNING]].copy()
    lengths = sim.alloc_len[running]
    ptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    where = np.repeat(sim.jobs.part[running] - ptr[:-1], lengths) + np.arange(ptr[-1])
    return Snapshot(
        now_s=now,
        cluster=ClusterArrays(*map(read_only, sim.cluster)),
        free=read_only(sim.space.free),
        queue=Queue(
            job=read_only(job),
            submit_s=read_only(sim.jobs.submit[job]),
            run_s=read_only(sim.jobs.known[job]),
            num_gpus=read_only(sim.jobs.gpus[job]),
            wait_s=read_only(now - sim.jobs.submit[job]),
            priority=read_only(np.zeros(len(job)) if priority is None else priority[job]),
            pool_lo=read_only(sim.choices.ptr[c]),
            pool_hi=read_only(sim.choices.ptr[c + 1]),
            pools=read_only(sim.choices.pool),
        ),
        running=Running(
            job=read_only(running),
            end_s=read_only(sim.start[running] + sim.jobs.known[running]),
            ptr=read_only(ptr),
            nodes=read_only(sim.alloc_node[where]),
            gpus=read_only(sim.alloc_grant[where]),
        ),
    )
