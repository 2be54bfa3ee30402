"""The simulator's state: arrays, laid out so that one kernel serves one run or a batch of training episodes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rltune.allocators.placement import Scratch, Space, empty_space, scratch
from rltune.cluster import Cluster, ClusterArrays, Eligibility, eligibility
from rltune.jobs import JobTable

# Slots of ``Sim.counts``.
QUEUED, RUNNING, ARRIVED, DROPPED, EVENTS = range(5)
COUNTERS = 5


class Jobs(NamedTuple):
    """The workload; arrays (n_jobs,), sorted by ``submit``.

    ``run``: true run time; ``known``: what the scheduler believes (NaN: nothing);
    ``rank``: position in a static order, ties already broken; ``part``: where
    the job's slots in ``Sim.alloc_*`` begin, (n_jobs + 1,).
    """

    submit: npt.NDArray[np.float64]
    run: npt.NDArray[np.float64]
    known: npt.NDArray[np.float64]
    gpus: npt.NDArray[np.int64]
    cls: npt.NDArray[np.int64]
    rank: npt.NDArray[np.int64]
    part: npt.NDArray[np.int64]


class Pools(NamedTuple):
    """Job classes: class c may use ``pool[ptr[c]:ptr[c + 1]]``."""

    ptr: npt.NDArray[np.int64]
    pool: npt.NDArray[np.int64]


class Sim(NamedTuple):
    """All that changes, and what it refers to.

    ``queue`` (n_jobs,): the first ``counts[QUEUED]`` are waiting, in order;
    ``active`` (n_jobs,): the first ``counts[RUNNING]`` run, latest end first;
    ``expected`` the same by expected end; ``start, end`` (n_jobs,) seconds, NaN until known;
    ``alloc_node, alloc_gpus``: job j's placement from ``jobs.part[j]``, ``alloc_len[j]`` nodes;
    ``clock`` (1,) seconds; ``counts`` (COUNTERS,).
    """

    cluster: ClusterArrays
    pools: Pools
    jobs: Jobs
    space: Space
    queue: npt.NDArray[np.int64]
    active: npt.NDArray[np.int64]
    expected: npt.NDArray[np.int64]
    start: npt.NDArray[np.float64]
    end: npt.NDArray[np.float64]
    alloc_node: npt.NDArray[np.int64]
    alloc_gpus: npt.NDArray[np.int64]
    alloc_len: npt.NDArray[np.int64]
    key: npt.NDArray[np.float64]
    clock: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]
    work: Scratch
    shadow: Space
    spare: Space


def slots(jobs: JobTable, cluster: Cluster, classes: Eligibility) -> npt.NDArray[np.int64]:
    """(n_jobs + 1,) offsets: the most nodes each job can occupy, summed."""
    caps = np.array([pool.gpus_per_node for pool in cluster.pools], np.int64)
    smallest = np.array(
        [
            caps[classes.pools[a:b]].min() if b > a else caps.max()
            for a, b in zip(classes.ptr, classes.ptr[1:], strict=False)
        ]
    )
    need = -(-jobs.num_gpus.astype(np.int64) // smallest[classes.cls])
    return np.concatenate([[0], np.cumsum(need)]).astype(np.int64)


def build(
    jobs: JobTable,
    cluster: Cluster,
    known_s: npt.NDArray[np.float64],
    rank: npt.NDArray[np.int64],
    cost: npt.NDArray[np.float64] | None = None,
) -> Sim:
    """A state at time zero. ``known_s`` (n_jobs,): run times as known; ``rank`` (n_jobs,) static order."""
    classes = eligibility(jobs, cluster)
    arrays = cluster.arrays()
    part = slots(jobs, cluster, classes)
    n = len(jobs)
    return Sim(
        cluster=arrays,
        pools=Pools(classes.ptr, classes.pools),
        jobs=Jobs(
            submit=jobs.submit_s.copy(),
            run=jobs.duration_s.copy(),
            known=np.asarray(known_s, np.float64).copy(),
            gpus=jobs.num_gpus.astype(np.int64),
            cls=classes.cls,
            rank=np.asarray(rank, np.int64).copy(),
            part=part,
        ),
        space=empty_space(arrays, cost),
        queue=np.zeros(n, np.int64),
        active=np.zeros(n, np.int64),
        expected=np.zeros(n, np.int64),
        start=np.full(n, np.nan),
        end=np.full(n, np.nan),
        alloc_node=np.zeros(int(part[-1]), np.int64),
        alloc_gpus=np.zeros(int(part[-1]), np.int64),
        alloc_len=np.zeros(n, np.int64),
        key=np.zeros(n),
        clock=np.zeros(1),
        counts=np.zeros(COUNTERS, np.int64),
        work=scratch(arrays),
        shadow=empty_space(arrays, cost),
        spare=empty_space(arrays, cost),
    )
