"""The simulator's state: arrays, laid out so that one kernel serves one run or a batch of training episodes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rltune.allocators.placement import Scratch, Space, empty_space, scratch
from rltune.cluster import Cluster, ClusterArrays, Eligibility, eligibility
from rltune.errors import InputError
from rltune.jobs import JobTable

MOST_SLOTS = 2**31 - 1
"""Places of jobs on nodes are counted in 32 bits."""

# Slots of ``Sim.counts``.
QUEUED, RUNNING, ARRIVED, DROPPED, EVENTS, STARTED, PASSES = range(7)
COUNTERS = 7


class Jobs(NamedTuple):
    """The workload; arrays (n_jobs,), sorted by ``submit``.

    ``run``: true run time; ``known``: what the scheduler believes (NaN: nothing);
    ``cls``: class of equal size and pools; ``rank``: position in a static order, ties
    already broken; ``part``: where the job's slots in ``Sim.alloc_*`` begin, (n_jobs + 1,).
    """

    submit: npt.NDArray[np.float64]
    run: npt.NDArray[np.float64]
    known: npt.NDArray[np.float64]
    gpus: npt.NDArray[np.int32]
    cls: npt.NDArray[np.int32]
    rank: npt.NDArray[np.int32]
    part: npt.NDArray[np.int32]


class Pools(NamedTuple):
    """Job classes: class c may use ``pool[ptr[c]:ptr[c + 1]]``."""

    ptr: npt.NDArray[np.int64]
    pool: npt.NDArray[np.int64]


class Sim(NamedTuple):
    """All that changes, and what it refers to.

    ``queue`` (n_jobs,): the first ``counts[QUEUED]`` are waiting, in order; ``waiting`` (n_classes,): how many of each
    class, ``passed`` how many of them the present pass has left waiting though they fit, ``misfit`` (2, n_classes): the
    last pass in which the class did not fit (now; beside the reservation too);
    ``active``: heap of the first ``counts[RUNNING]`` running jobs by end, ``expected`` the same by ``believed`` end,
    ``active_at, expected_at`` (n_jobs,) their places there, ``frontier``: work space of walking one in order;
    ``start, end, believed`` (n_jobs,) seconds, NaN until known; ``turn`` (n_jobs,): order of starting;
    ``alloc_node, alloc_gpus``: job j's placement from ``jobs.part[j]``, ``alloc_len[j]`` nodes;
    ``clock`` (1,) seconds; ``counts`` (COUNTERS,).
    """

    cluster: ClusterArrays
    pools: Pools
    jobs: Jobs
    space: Space
    queue: npt.NDArray[np.int32]
    waiting: npt.NDArray[np.int64]
    passed: npt.NDArray[np.int64]
    misfit: npt.NDArray[np.int64]
    active: npt.NDArray[np.int32]
    expected: npt.NDArray[np.int32]
    frontier: npt.NDArray[np.int32]
    active_at: npt.NDArray[np.int32]
    expected_at: npt.NDArray[np.int32]
    turn: npt.NDArray[np.int32]
    start: npt.NDArray[np.float64]
    end: npt.NDArray[np.float64]
    believed: npt.NDArray[np.float64]
    alloc_node: npt.NDArray[np.int32]
    alloc_gpus: npt.NDArray[np.int32]
    alloc_len: npt.NDArray[np.int32]
    key: npt.NDArray[np.float64]
    clock: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]
    work: Scratch
    shadow: Space
    spare: Space


def slots(jobs: JobTable, cluster: Cluster, classes: Eligibility) -> npt.NDArray[np.int32]:
    """(n_jobs + 1,) offsets: the most nodes each job can occupy, summed."""
    caps = np.array([pool.gpus_per_node for pool in cluster.pools], np.int64)
    smallest = np.array(
        [
            caps[classes.pools[a:b]].min() if b > a else caps.max()
            for a, b in zip(classes.ptr, classes.ptr[1:], strict=False)
        ]
    )
    need = -(-jobs.num_gpus // smallest.astype(np.int32)[classes.cls])
    total = int(need.sum(dtype=np.int64))
    if total > MOST_SLOTS:
        raise InputError(f"the jobs ask for {total:,} places on nodes together; {MOST_SLOTS:,} are possible: use fewer")
    part = np.zeros(len(jobs) + 1, np.int32)
    np.cumsum(need, out=part[1:])
    return part


def job_arrays(
    jobs: JobTable, cluster: Cluster, known_s: npt.NDArray[np.float64], rank: npt.NDArray[Any]
) -> tuple[Jobs, Pools]:
    """The workload as kernels see it. ``known_s`` (n_jobs,): run times as known; ``rank`` (n_jobs,) static order."""
    classes = eligibility(jobs, cluster)
    run = jobs.duration_s.copy()
    same = known_s is jobs.duration_s or np.shares_memory(known_s, jobs.duration_s)
    arrays = Jobs(
        submit=jobs.submit_s.copy(),
        run=run,
        known=run if same else np.array(known_s, np.float64),
        gpus=jobs.num_gpus.copy(),
        cls=classes.cls,
        rank=np.array(rank, np.int32),
        part=slots(jobs, cluster, classes),
    )
    return arrays, Pools(classes.ptr, classes.pools)


def build(
    jobs: JobTable,
    cluster: Cluster,
    known_s: npt.NDArray[np.float64],
    rank: npt.NDArray[Any],
    cost: npt.NDArray[np.float64] | None = None,
) -> Sim:
    """A state at time zero; see `job_arrays`."""
    table, pools = job_arrays(jobs, cluster, known_s, rank)
    arrays = cluster.arrays()
    n, classes = len(jobs), len(pools.ptr) - 1
    most = min(n, cluster.gpus)
    return Sim(
        cluster=arrays,
        pools=pools,
        jobs=table,
        space=empty_space(arrays, cost),
        queue=np.zeros(n, np.int32),
        waiting=np.zeros(classes, np.int64),
        passed=np.zeros(classes, np.int64),
        misfit=np.zeros((2, classes), np.int64),
        active=np.zeros(most, np.int32),
        expected=np.zeros(most, np.int32),
        frontier=np.zeros(most + 1, np.int32),
        active_at=np.zeros(n, np.int32),
        expected_at=np.zeros(n, np.int32),
        turn=np.zeros(n, np.int32),
        start=np.full(n, np.nan),
        end=np.full(n, np.nan),
        believed=np.zeros(n),
        alloc_node=np.zeros(int(table.part[-1]), np.int32),
        alloc_gpus=np.zeros(int(table.part[-1]), np.int32),
        alloc_len=np.zeros(n, np.int32),
        key=np.zeros(n),
        clock=np.zeros(1),
        counts=np.zeros(COUNTERS, np.int64),
        work=scratch(arrays),
        shadow=empty_space(arrays, cost),
        spare=empty_space(arrays, cost),
    )
