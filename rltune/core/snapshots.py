"""The state of one instant, from the `Snapshot` of it: what decides on a snapshot runs the same passes as a simulation.

Whole GPUs alone (the lean build). Job k of the state is position k of the snapshot's queue; running jobs follow.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from rltune.core.choices import Choices
from rltune.core.placing import start_there
from rltune.core.reference import Ref, ref
from rltune.core.resources.counts import empty_space, recount, scratch, space_of
from rltune.core.state import (
    BACKFILLS,
    NOW,
    PASSES,
    QUEUED,
    RUNNING,
    STARTED,
    Floats,
    Ints,
    Jobs,
    Lean,
    Plain,
    Sim,
    blank,
)
from rltune.nouns.jobs import WHOLE
from rltune.nouns.plan import Queue, Running, Snapshot, Start
from rltune.policies.dynamic import STATIC


def state_of(snapshot: Snapshot, order: Ints, backfill: str, rule: int, cost: Floats | None = None) -> Ref:
    """The lean state of the snapshot's instant, by reference, for the kernels of the core.

    Args:
        order: positions in the queue that may start, first to start first.
        backfill: a name of `rltune.core.state.BACKFILLS`, but for conservative.
        rule: code of `rltune.core.resources.counts.RULES`.
        cost: of `rltune.core.resources.counts.Space`.

    Of jobs that run on shares or slices the state knows nothing: no reservation counts on what they will let go.
    """
    cluster, queue, running = snapshot.cluster, snapshot.queue, snapshot.running
    n, r = len(queue), len(running.job)
    jobs, choices = jobs_of(snapshot, order)
    sim = blank(
        cluster, jobs, choices, n + r, np.int32,
        space=space_of(cluster, snapshot.free, cost), spare=empty_space(cluster, cost),
        shadow=empty_space(cluster, cost), place=scratch(cluster), params=Plain(STATIC, BACKFILLS[backfill], rule),
        detail=Lean(0),
    )  # fmt: skip
    sim.clock[NOW] = snapshot.now_s
    sim.queue[: len(order)] = order
    sim.counts[[QUEUED, RUNNING, STARTED, PASSES]] = len(order), r, r, 0
    sim.waiting[:] = np.bincount(jobs.cls[order], minlength=len(sim.waiting))
    hold(sim, running, n)
    return ref(sim)


def jobs_of(snapshot: Snapshot, order: Ints) -> tuple[Jobs, Choices]:
    """The jobs of the queue and those that run, as kernels see them; equal requests for equal pools are a class."""
    queue, running = snapshot.queue, snapshot.running
    n, r = len(queue), len(running.job)
    widths = np.diff(running.ptr)
    cls, choices = classes_of(queue)
    gpus = np.concatenate([queue.num_gpus, np.zeros(r, np.int64)]).astype(np.int32)
    rank, known = np.zeros(n + r, np.int32), np.concatenate([queue.run_s, np.zeros(r)])
    rank[order] = np.arange(len(order))
    most = np.maximum(1, -(-queue.num_gpus // int(snapshot.cluster.pool_cap.min())))
    part = np.concatenate([[0], np.cumsum(np.concatenate([most, widths]))]).astype(np.int32)
    kinds = np.concatenate([cls, np.zeros(r, np.int64)]).astype(np.int32)
    return Jobs(np.zeros(n + r), known, known, gpus, kinds, rank, part), choices


def classes_of(queue: Queue) -> tuple[Ints, Choices]:
    """(n_queued,) class of each job, and the pools of each class, all equally fast."""
    if not len(queue):
        none = np.zeros(0, np.int64)
        return none, Choices(np.zeros(2, np.int64), none, np.zeros(0), none, none, np.zeros(0), none)
    asked = np.stack([queue.num_gpus, queue.pool_lo, queue.pool_hi], axis=1)
    rows, cls = np.unique(asked, axis=0, return_inverse=True)
    length = rows[:, 2] - rows[:, 1]
    ptr = np.concatenate([[0], np.cumsum(length)]).astype(np.int64)
    pools = queue.pools[np.arange(ptr[-1]) + np.repeat(rows[:, 1] - ptr[:-1], length)]
    stop = np.repeat(ptr[1:], length)
    zeros, ones = np.zeros(len(pools), np.int64), np.ones(len(pools))
    return cls.reshape(-1), Choices(ptr, pools, ones, stop, zeros, ones, zeros)


def hold(sim: Sim, running: Running, first: int) -> None:
    """Running jobs, from job ``first`` of the state on, hold what they hold; sorted by their ends they are a heap."""
    r = len(running.job)
    mine = np.arange(first, first + r)
    end = np.where(np.isnan(running.end_s), np.inf, running.end_s)
    gpus = running.gpus
    if len(running.gpu_milli):
        whole = (running.gpu_milli == WHOLE) & (running.profile < 0)
        gpus = np.where(np.repeat(whole, np.diff(running.ptr)), gpus, 0)
    at = sim.jobs.part[first]
    sim.alloc_node[at : at + len(gpus)], sim.alloc_grant[at : at + len(gpus)] = running.nodes, gpus
    sim.alloc_len[mine] = np.diff(running.ptr)
    sim.end[mine] = sim.believed[mine] = end
    sim.turn[mine] = np.arange(r)
    for heap, place in ((sim.active, sim.active_at), (sim.expected, sim.expected_at)):
        heap[:r] = first + np.argsort(end, kind="stable")
        place[heap[:r]] = np.arange(r)


def start_placed(state: Ref, position: int, nodes: Iterable[int], gpus: Iterable[int]) -> None:
    """The job at this position of the snapshot's queue, not in the order, begins to hold these GPUs."""
    where, many = np.array(nodes, np.int64), np.array(gpus, np.int64)
    start_there(state, position, 0, where, many, np.full(len(where), -1))


def set_spare(state: Ref, spare: Ints) -> None:
    """What a reservation leaves free is ``spare`` (n_nodes,)."""
    sim = state.value
    sim.spare.free[:] = spare
    recount(sim.cluster, sim.spare)


def started(state: Ref, snapshot: Snapshot) -> list[tuple[int, Start]]:
    """(position in the queue, start) of the jobs that began on this state, first to start first."""
    sim, n = state.value, len(snapshot.queue)
    running = sim.active[: sim.counts[RUNNING]]
    mine = running[running < n]
    found = []
    for k in mine[np.argsort(sim.turn[mine])].tolist():
        a = int(sim.jobs.part[k])
        b = a + int(sim.alloc_len[k])
        nodes, gpus = tuple(sim.alloc_node[a:b].tolist()), tuple(sim.alloc_grant[a:b].tolist())
        found.append((k, Start(int(snapshot.queue.job[k]), nodes, gpus)))
    return found
