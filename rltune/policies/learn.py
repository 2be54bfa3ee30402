"""Run times learned from jobs that have ended: the newest runs of the most specific group that has a history.

Groups, most specific first: (user, VC, name, GPUs), (user, GPUs), (VC, GPUs), (GPUs), all. Each keeps a running
mean of log run times, so that its forecast is a geometric mean, in which about the last 20 runs count.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rltune.compiled import compiled, inner
from rltune.nouns.cluster import distinct_rows
from rltune.nouns.jobs import JobTable

RECENT = 0.1
"""Weight of the newest run in the running mean of log run times; about the last 20 runs count."""
FIRST_GUESS_S = 200.0
"""Guess before any job has ended: the median Helios GPU job (Hu et al., SC 2021: 206 s)."""


def group_table(jobs: JobTable) -> npt.NDArray[np.int64]:
    """(levels, n_jobs) each job's groups, most specific first, numbered through."""
    user, vc, name, gpus = jobs.user.codes, jobs.vc.codes, jobs.name.codes, jobs.num_gpus
    levels = ((user, vc, name, gpus), (user, gpus), (vc, gpus), (gpus,), (np.zeros_like(gpus),))
    out, first = np.empty((len(levels), len(jobs)), np.int64), 0
    for row, columns in zip(out, levels, strict=True):
        kinds, kind = distinct_rows(columns)
        row[:] = kind + first
        first += len(kinds)
    return out


@inner
def learn(groups, mean, job, run):
    """A job has ended after ``run`` seconds; ``mean`` (n_groups,): NaN without history."""
    for level in range(groups.shape[0]):
        g = groups[level, job]
        value = np.log1p(run)
        mean[g] = value if np.isnan(mean[g]) else mean[g] + RECENT * (value - mean[g])


@inner
def estimate_of(groups, mean, job):
    """Forecast of a job's run time, at least 1 s."""
    for level in range(groups.shape[0]):
        g = groups[level, job]
        if not np.isnan(mean[g]):
            return max(1.0, np.expm1(mean[g]))
    return FIRST_GUESS_S


@compiled
def replay(submit, run, ends, by_end, groups, mean):
    """(n_jobs,) forecasts at submission, from jobs that had ended by then; ``by_end``: jobs in order of ``ends``."""
    out = np.empty(len(submit))
    k = 0
    for job in range(len(submit)):
        # A later job of the same instant has not been seen yet, even if it takes no time.
        while k < len(by_end) and ends[by_end[k]] <= submit[job] and by_end[k] < job:
            learn(groups, mean, by_end[k], run[by_end[k]])
            k += 1
        out[job] = estimate_of(groups, mean, job)
    return out
