"""What no schedule can beat: lower bounds on mean JCT, mean wait and makespan.

Setting: job j is submitted at r_j, runs p_j seconds without interruption on g_j GPUs (a share of one
GPU counts as that share) that are held together, equally fast wherever it runs. Pools that share no job,
directly or through others, are bounded apart (`components`). Let G be the GPUs of a
component and q_j = p_j g_j / G, the time that all of them together would need for j.

**Relaxation.** Any feasible schedule keeps at most G GPUs busy, so a single machine
that may split its time can copy it: while j runs, the machine gives it the share
g_j / G, and j gets q_j in all, not before r_j. Nodes, gangs and placement are forgotten.

**Mean JCT, two bounds**, of which the larger holds:

1. The machine ends every job no later than the schedule does. Shortest remaining time
   first minimises the sum of completion times on it (Schrage, 1968). So sum C_j >= sum C_j(SRPT).
2. The mean busy time of j on the machine, M_j, is C_j - p_j / 2, since j holds a constant
   share from C_j - p_j to C_j. Among all preemptive schedules of one machine, running at
   any time the released job of the smallest q_j minimises sum M_j (Goemans, 1997; Goemans
   et al., SIAM J. Discrete Math. 15, 2002, theorem 3.2 with unit weights). So
   sum C_j >= sum (M_j(that schedule) + p_j / 2): the squashed area bound (Turek et al., SPAA 1994) with release dates.

The first holds for preemptive schedules too, the second only without preemption. Mean wait
is mean JCT minus mean run time, never below 0. Restarts, failures and slower GPUs only add to any
schedule, so the bounds stay true; GPUs faster than the recorded ones break all of them.

**Makespan**: the last end is at least r_j + p_j for every j, and at least t plus the work
submitted at t or later over G, for every submission time t; minus the first submission.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rltune.compiled import inner, kernel
from rltune.nouns.cluster import Cluster, eligibility
from rltune.nouns.errors import InputError
from rltune.nouns.jobs import WHOLE, JobTable

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Bounds:
    """Lower bounds in seconds over ``jobs`` jobs that the cluster can hold; mean values over those jobs."""

    jobs: int
    jct_s: float
    wait_s: float
    makespan_s: float


def lower_bounds(jobs: JobTable, cluster: Cluster, preemptive: bool = False) -> Bounds:
    """Bounds for any schedule of these jobs; jobs that no idle pool can hold are left out.

    ``preemptive``: also for schedules that interrupt jobs; else for those without preemption, which is tighter.
    Raises InputError for jobs with several ways to run: in another way they may take less time, or less of a GPU.
    """
    if (jobs.ways.codes >= 0).any():
        raise InputError("no bound where jobs list several ways to run; leave the column ways out")
    part, gpus = components(jobs, cluster)
    jct_sum, run_sum, last, count = 0.0, 0.0, -np.inf, 0
    for k in range(len(gpus)):
        rows = part == k
        if not rows.any():
            continue
        submit, run = jobs.submit_s[rows], jobs.duration_s[rows]
        # A virtual cluster of CPU nodes alone has no GPUs, and its jobs want none.
        squashed = run * jobs.num_gpus[rows] * (jobs.gpu_milli[rows] / WHOLE) / max(gpus[k], 1)
        completions = max(completion_sum(submit, squashed, run, preemptive), float((submit + run).sum()))
        jct_sum += completions - float(submit.sum())
        run_sum += float(run.sum())
        count += int(rows.sum())
        last = max(last, float((submit + run).max()), last_end(submit, squashed))
    if count == 0:
        return Bounds(0, 0.0, 0.0, 0.0)
    first = float(jobs.submit_s[part >= 0][0])
    return Bounds(count, jct_sum / count, max(0.0, jct_sum - run_sum) / count, last - first)


def components(jobs: JobTable, cluster: Cluster) -> tuple[IntArray, IntArray]:
    """(n_jobs,) component of every job, -1 if no pool holds it; (n_components,) GPUs of the pools that its jobs may use."""
    classes = eligibility(jobs, cluster)
    pools = len(cluster.pools)
    root = np.arange(pools)
    for c in range(len(classes.ptr) - 1):
        members = classes.pools[classes.ptr[c] : classes.ptr[c + 1]]
        for p in members:
            root[root == root[p]] = root[members[0]]
    names, place = np.unique(root, return_inverse=True)
    gpus = np.zeros(len(names), np.int64)
    for p, pool in enumerate(cluster.pools):
        gpus[place[p]] += pool.nodes * pool.gpus_per_node
    held = np.diff(classes.ptr) > 0
    first = np.full(len(held), -1, np.int64)
    first[held] = place[classes.pools[classes.ptr[:-1][held]]]
    return first[classes.cls], gpus


def completion_sum(submit_s: FloatArray, squashed_s: FloatArray, run_s: FloatArray, preemptive: bool = False) -> float:
    """The larger of both bounds on the sum of completion times, or the preemptive one; (n,), ``submit_s`` ascending."""
    n = len(submit_s)
    # Where time is short, seconds since 1970 would cost digits.
    origin = float(submit_s[0])
    heap, left = np.zeros(n, np.int64), np.zeros(n)
    shortest = machine(submit_s - origin, squashed_s, True, heap, left, np.zeros(n))
    if preemptive:
        return shortest + n * origin
    busy = machine(submit_s - origin, squashed_s, False, heap, left, np.zeros(n))
    return max(shortest, busy + float(run_s.sum()) / 2) + n * origin


def last_end(submit_s: FloatArray, squashed_s: FloatArray) -> float:
    """Latest t + (work submitted at t or later) over submission times t; (n,) arrays, ``submit_s`` ascending."""
    return float((submit_s + np.cumsum(squashed_s[::-1])[::-1]).max())


@kernel
def machine(submit, length, remaining, heap, left, busy):
    """Preemptive schedule of one machine: sum of completion times, or (not ``remaining``) of mean busy times.

    ``remaining``: the least remaining time goes first (SRPT), else the least length.
    ``heap, left, busy`` (n,): work space; ``left`` is the time that a job still needs, ``busy`` the
    integral of t over its time on the machine.
    """
    n = len(submit)
    size, arrived, now, total = 0, 0, 0.0, 0.0
    for j in range(n):
        left[j] = length[j]
        busy[j] = 0.0
    while arrived < n or size > 0:
        if size == 0:
            now = max(now, submit[arrived])
        while arrived < n and submit[arrived] <= now:
            if length[arrived] == 0.0:
                total += submit[arrived]
            else:
                heap[size] = arrived
                size += 1
                rise(heap, size - 1, left if remaining else length)
            arrived += 1
        if size == 0:
            continue
        job = heap[0]
        until = now + left[job]
        cut = arrived < n and submit[arrived] < until
        if cut:
            until = submit[arrived]
        busy[job] += (until - now) * (now + until) / 2
        left[job] = left[job] - (until - now) if cut else 0.0
        now = until
        if left[job] <= 0.0:
            total += now if remaining else busy[job] / length[job]
            size -= 1
            heap[0] = heap[size]
            sink(heap, size, left if remaining else length)
    return total


@kernel
def rise(heap, at, key):
    """Move the last element up to its place; the smallest key is at the top."""
    job = heap[at]
    while at > 0 and key[heap[(at - 1) >> 1]] > key[job]:
        heap[at] = heap[(at - 1) >> 1]
        at = (at - 1) >> 1
    heap[at] = job


@inner
def sink(heap, size, key):
    """Move the first element down to its place."""
    if size == 0:
        return
    job, at = heap[0], 0
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and key[heap[child + 1]] < key[heap[child]]:
            child += 1
        if key[heap[child]] >= key[job]:
            break
        heap[at] = heap[child]
        at = child
    heap[at] = job
