"""Fairness among tenants (users, or virtual clusters): Jain's index and finish-time fairness.

Jain's index of x_1 ... x_n is (sum x)^2 / (n sum x^2): 1 when all are equal, 1/n when one has everything (Jain, Chiu,
Hawe, DEC-TR-301, 1984). Here x is the mean bounded slowdown of a tenant's finished jobs: what its users feel, without
unit, so that tenants of short and of long jobs can stand side by side.

Finish-time fairness rho = T_shared / T_independent (Themis: Mahajan et al., NSDI 2020): the JCT of a job in the shared
cluster over its JCT on a cluster of the tenant's own of 1/N the size. At most 1 means that sharing cost nothing.
N is, as in Themis, the contention met: the number of tenants that have a job waiting or running, averaged over the
time from the job's submission to its end (in the simulated schedule). T_independent is approximated
(`independent_s`): the tenant's jobs in order of submission, first come, first served, on its share of the GPUs as one
machine that splits freely and is as fast as recorded, and never less than the job's own run time. What this leaves
out: node boundaries, and that a narrow job cannot use a wide share (both make T_independent too short and rho too
large); that the tenant might order its jobs better than first come (too long, rho too small). Jobs without a tenant
and jobs without an end take no part. Times below 10 s count as 10 s, as in the bounded slowdown.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rltune.compiled import compiled
from rltune.nouns.metrics import BOUND_S, area, steps

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.integer[Any]]


def jain(values: FloatArray) -> float:
    """Jain's index of ``values`` (n,) >= 0, n >= 1; 1 where all are 0."""
    # Scaled, so that squares of very large or small values stay numbers.
    largest = float(np.max(values))
    if largest == 0:
        return 1.0
    x = np.asarray(values, np.float64) / largest
    return min(1.0, float(x.sum() ** 2 / (len(x) * (x * x).sum())))


def finish_time_fairness(
    submit_s: FloatArray, end_s: FloatArray, run_s: FloatArray, work: FloatArray, tenant: IntArray, gpus: float
) -> FloatArray:
    """(n,) rho of finished jobs, sorted by submission.

    ``work`` (n,): run time x GPUs; ``tenant`` (n,): whose, 0 ... ; ``gpus``: of the whole cluster.
    """
    contention = mean_contention(submit_s, end_s, tenant)
    alone = independent_s(submit_s, run_s, work * contention / gpus, tenant, np.zeros(int(tenant.max()) + 1))
    return np.asarray(np.maximum(end_s - submit_s, BOUND_S) / np.maximum(alone, BOUND_S))


def mean_contention(submit_s: FloatArray, end_s: FloatArray, tenant: IntArray) -> FloatArray:
    """(n,) tenants with a job in the system, averaged over each job's time in it; >= 1."""
    order = np.lexsort((submit_s, tenant))
    begin, end = busy_periods(submit_s[order], end_s[order], tenant[order])
    at, level = steps(np.concatenate([begin, end]), np.repeat([1, -1], len(begin)))
    stay = end_s - submit_s
    total = area(at, level, end_s) - area(at, level, submit_s)
    return np.maximum(1.0, np.divide(total, stay, out=np.ones(len(stay)), where=stay > 0))


@compiled
def busy_periods(begin, end, tenant):
    """Unions of the intervals of each tenant: begins, ends; ``begin, end, tenant`` (n,) sorted by tenant, then begin."""
    first, last = np.empty(len(begin)), np.empty(len(begin))
    k = -1
    for i in range(len(begin)):
        if k >= 0 and tenant[i] == tenant[i - 1] and begin[i] <= last[k]:
            last[k] = max(last[k], end[i])
        else:
            k += 1
            first[k], last[k] = begin[i], end[i]
    return first[: k + 1], last[: k + 1]


@compiled
def independent_s(submit, run, share, tenant, free):
    """(n,) seconds from submission to end on the tenant's own share, first come, first served.

    ``share`` (n,): seconds that the tenant's share needs for the job's work; ``free`` (tenants,): work space, zeros.
    """
    out = np.empty(len(submit))
    for i in range(len(submit)):
        done = max(free[tenant[i]], submit[i]) + share[i]
        free[tenant[i]] = done
        out[i] = max(run[i], done - submit[i])
    return out
