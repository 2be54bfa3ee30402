"""Free GPUs that are hard to use, replayed from runs: on partly used nodes, and by what the queue could not place there.

Both are shares of the free GPUs, time-weighted (free GPU-seconds over free GPU-seconds), while jobs may still arrive.

`unusable_by_demand` is the fragmentation of Fragmentation Gradient Descent (Weng et al., USENIX ATC 2023, section 3)
with the queue itself as the workload: at every instant, for each pool, a job drawn from the jobs that wait and may use
the pool (or, where none waits, from the last `RECENT` submitted that may) cannot use the free GPUs of a node that has
too few whole ones for it, nor a remainder of a shared GPU that is too small. A gang wider than a node needs an empty
one. Runs say how much of a node is held, not of which GPU, so free shares of a node count as one remainder below a
whole GPU: with shares the figure is a lower bound.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rltune.compiled import compiled, inner, kernel
from rltune.nouns.cluster import Cluster, eligibility
from rltune.nouns.jobs import JobTable
from rltune.simulator.runs import GPU, Runs
from rltune.simulator.usage import demand_milli, runs_again

RECENT = 100
"""Submitted jobs that stand for the demand of a pool for which none waits."""


class Replay(NamedTuple):
    """`Runs` for the kernels: (n_runs,) by start, ``by_end`` their order by end; ``ptr``, ``node``, ``milli`` as there."""

    start: npt.NDArray[np.float64]
    end: npt.NDArray[np.float64]
    by_end: npt.NDArray[np.int64]
    ptr: npt.NDArray[np.int64]
    node: npt.NDArray[np.int64]
    milli: npt.NDArray[np.int64]


class Waiting(NamedTuple):
    """Who queues when: rows ``arriving`` (n,) at ``submit`` (n,) seconds, until a run of theirs starts.

    ``job`` (n_runs,): the row that runs, ``again`` (n_runs,): whether it queues once more at the run's end. ``counts``
    (n_jobs,): whether a job counts, ``size`` (n_jobs,): what it asks for, an index into ``needs`` (n_sizes,),
    thousandths of GPUs.
    """

    arriving: npt.NDArray[np.int64]
    submit: npt.NDArray[np.float64]
    job: npt.NDArray[np.int64]
    again: npt.NDArray[np.bool_]
    counts: npt.NDArray[np.bool_]
    size: npt.NDArray[np.int64]
    needs: npt.NDArray[np.int64]


def replay_of(runs: Runs) -> Replay:
    by_end = np.argsort(runs.end_s, kind="stable")
    return Replay(runs.start_s, runs.end_s, by_end, runs.ptr, runs.node, runs.milli)


def partly_used(jobs: JobTable, cluster: Cluster, runs: Runs) -> float:
    """Share of the free GPUs that stand on partly used nodes."""
    edges = np.array([float(jobs.submit_s[0]), float(jobs.submit_s[-1])])
    partly, free = free_by_pool(cluster, runs, edges).sum(axis=(0, 1))
    return float(partly / free) if free > 0 else 0.0


def free_by_pool(cluster: Cluster, runs: Runs, edges: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(n_steps, n_pools, 2) thousandths of GPU-seconds that are free on partly used nodes, and free at all.

    ``edges`` (n_steps + 1,): bounds of the steps, seconds; no run begins before the first.
    """
    arrays = cluster.arrays()
    size = arrays.pool_cap[arrays.node_pool] * GPU
    return np.asarray(_free_by_pool(replay_of(runs), arrays.node_pool, size, len(cluster.pools), edges))


def unusable_by_demand(jobs: JobTable, cluster: Cluster, runs: Runs) -> float:
    """Share of the free GPUs that a job of the queue could not use; jobs that never run or need no GPU do not count."""
    arrays, classes, demand = cluster.arrays(), eligibility(jobs, cluster), demand_milli(jobs)
    ran = np.unique(runs.job)
    needs, size = np.unique(np.minimum(demand, int(arrays.pool_cap.max()) * GPU), return_inverse=True)
    counts = np.zeros(len(jobs), bool)
    counts[ran] = demand[ran] > 0
    arriving, again = np.flatnonzero(counts), runs_again(runs)
    waiting = Waiting(arriving, jobs.submit_s[arriving], runs.job, again, counts, size.astype(np.int64), needs)
    begin, end = float(jobs.submit_s[0]), float(jobs.submit_s[-1])
    return float(_unusable(replay_of(runs), waiting, classes, arrays.node_pool, arrays.pool_cap * GPU, begin, end))


@kernel
def lost(free, need):
    """Of a node's ``free`` thousandths of GPUs, those that a job of ``need`` (at most the node's size) cannot use."""
    rest = free % GPU
    if need >= GPU:
        return rest if free - rest >= need else free
    if rest >= need:
        return 0
    return rest if free >= GPU else free


@compiled
def _unusable(runs, queue, classes, node_pool, node_size, begin, end):
    """Replay arrivals and runs between ``begin`` and ``end``: free shares that the mix of each pool cannot use, over all.

    ``node_pool`` (n_nodes,); ``node_size`` (n_pools,) thousandths of GPUs. Kept for pool p and size of job d:
    ``unfit[p, d]`` free thousandths that d cannot use, ``waiting[p, d]`` and ``recent[p, d]`` jobs; ``ring[p]`` the sizes
    of the last jobs. One event costs pools x sizes at most.
    """
    start, finish, by_end, ptr, node, milli = runs
    arriving, submit, job, again, counts, size_of, needs = queue
    pools, sizes = len(node_size), len(needs)
    free = np.empty(len(node_pool), np.int64)
    unfit = np.zeros((pools, sizes), np.int64)
    waiting = np.zeros((pools, sizes), np.int64)
    recent = np.zeros((pools, sizes), np.int64)
    queued, seen = np.zeros(pools, np.int64), np.zeros(pools, np.int64)
    ring = np.zeros((pools, RECENT), np.int64)
    part = np.zeros(pools)
    for at in range(len(node_pool)):
        free[at] = node_size[node_pool[at]]
    total = free.sum()
    now, area, all_free = begin, 0.0, 0.0
    i = j = k = 0
    while True:
        s = start[i] if i < len(start) else np.inf
        e = finish[by_end[j]] if j < len(start) else np.inf
        a = submit[k] if k < len(submit) else np.inf
        instant = min(s, e, a, end)
        area += part.sum() * (instant - now)
        all_free += total * (instant - now)
        now = instant
        if instant >= end:
            return area / all_free if all_free > 0 else 0.0
        if a <= instant:
            row, step, run = arriving[k], 1, -1
            k += 1
        # At one instant a run's end comes before other starts, but never before its own start.
        elif e < s or (e == s and start[by_end[j]] < e):
            run = by_end[j]
            row, step = job[run], 1 if again[run] else 0
            j += 1
        else:
            run, row, step = i, job[i], -1
            i += 1
        if not counts[row]:
            continue
        d = size_of[row]
        first, last = classes.ptr[classes.cls[row]], classes.ptr[classes.cls[row] + 1]
        for q in range(first, last):
            p = classes.pools[q]
            waiting[p, d] += step
            queued[p] += step
            if run < 0:
                if seen[p] >= RECENT:
                    recent[p, ring[p, seen[p] % RECENT]] -= 1
                ring[p, seen[p] % RECENT] = d
                recent[p, d] += 1
                seen[p] += 1
        if run >= 0:
            sign = -1 if step < 0 else 1
            for x in range(ptr[run], ptr[run + 1]):
                at = node[x]
                p = node_pool[at]
                for c in range(sizes):
                    unfit[p, c] -= lost(free[at], min(needs[c], node_size[p]))
                free[at] += sign * milli[x]
                total += sign * milli[x]
                for c in range(sizes):
                    unfit[p, c] += lost(free[at], min(needs[c], node_size[p]))
        for q in range(first, last):
            p = classes.pools[q]
            part[p] = _mixed(unfit[p], waiting[p], recent[p], queued[p], min(seen[p], RECENT))


@inner
def _mixed(unfit, waiting, recent, queued, seen):
    """Mean of ``unfit`` over the waiting jobs of a pool, or over the recent ones."""
    out, mix, many = 0.0, waiting if queued > 0 else recent, queued if queued > 0 else seen
    for c in range(len(unfit)):
        out += mix[c] * unfit[c]
    return out / many if many > 0 else 0.0


@compiled
def _free_by_pool(runs, node_pool, size, pools, edges):
    """Replay runs between ``edges``: per step and pool, thousandths of GPU-seconds free on partly used nodes, and free.

    ``node_pool, size`` (n_nodes,): the pool of each node, and its thousandths of GPUs.
    """
    start, finish, by_end, ptr, node, milli = runs
    areas = np.zeros((len(edges) - 1, pools, 2))
    free = size.copy()
    total, partly = np.zeros(pools, np.int64), np.zeros(pools, np.int64)
    for at in range(len(size)):
        total[node_pool[at]] += size[at]
    now, step = edges[0], 0
    i = j = 0
    n = len(start)
    while step < len(edges) - 1:
        s = start[i] if i < n else np.inf
        e = finish[by_end[j]] if j < n else np.inf
        instant = min(s, e, edges[step + 1])
        for p in range(pools):
            areas[step, p, 0] += partly[p] * (instant - now)
            areas[step, p, 1] += total[p] * (instant - now)
        now = instant
        if instant >= edges[step + 1]:
            # What happens at an edge happens in the step that it begins.
            step += 1
            continue
        # At one instant a run's end comes before other starts, but never before its own start.
        ends = e < s or (e == s and start[by_end[j]] < e)
        run = by_end[j] if ends else i
        sign = 1 if ends else -1
        if ends:
            j += 1
        else:
            i += 1
        for k in range(ptr[run], ptr[run + 1]):
            at = node[k]
            p = node_pool[at]
            partly[p] -= free[at] if free[at] < size[at] else 0
            free[at] += sign * milli[k]
            total[p] += sign * milli[k]
            partly[p] += free[at] if free[at] < size[at] else 0
    return areas
