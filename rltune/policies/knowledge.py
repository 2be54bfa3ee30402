"""What a scheduler may know of run times: exactly (known), from the past (predicted), or nothing (none).

Predictions use only jobs that ended in the record before the new one was
submitted: a job counts from submit + recorded wait + duration on (recorded wait
0 where the log has none). So the history is the recorded one, not that of the
simulated schedule, like that of an operator who trains on yesterday's log.
"""

from __future__ import annotations

import heapq

import numpy as np
import numpy.typing as npt

from rltune.errors import InputError
from rltune.jobs import JobTable

KNOWLEDGE = ("known", "predicted", "none")
RECENT = 0.1
"""Weight of the newest run in the running mean of log run times; about the last 20 runs count."""
FIRST_GUESS_S = 200.0
"""Guess before any job has ended: the median Helios GPU job (Hu et al., SC 2021: 206 s)."""


def known_run_times(jobs: JobTable, knowledge: str) -> npt.NDArray[np.float64]:
    """(n_jobs,) run times in seconds as the scheduler believes them, read-only where exact; NaN for ``none``."""
    if knowledge == "known":
        return jobs.duration_s
    if knowledge == "none":
        return np.full(len(jobs), np.nan)
    if knowledge == "predicted":
        return predict(jobs)
    raise InputError(f"knowledge={knowledge!r} is unknown; known are {', '.join(KNOWLEDGE)}")


def predict(jobs: JobTable) -> npt.NDArray[np.float64]:
    """(n_jobs,) predicted seconds: running geometric mean of the most specific group with history.

    Groups, most specific first: (user, VC, name, GPUs), (user, GPUs), (VC, GPUs), (GPUs), all.
    """
    groups = _groups(jobs)
    recorded_wait = np.where(np.isnan(jobs.wait_s), 0.0, jobs.wait_s)
    ends = jobs.submit_s + recorded_wait + jobs.duration_s
    logs = np.log1p(jobs.duration_s)
    means = [np.full(int(g.max()) + 1, np.nan) for g in groups]
    pending: list[tuple[float, int]] = []
    out = np.empty(len(jobs))
    for job in range(len(jobs)):
        while pending and pending[0][0] <= jobs.submit_s[job]:
            _, ended = heapq.heappop(pending)
            for group, mean in zip(groups, means, strict=True):
                at = group[ended]
                mean[at] = logs[ended] if np.isnan(mean[at]) else mean[at] + RECENT * (logs[ended] - mean[at])
        out[job] = FIRST_GUESS_S
        for group, mean in zip(groups, means, strict=True):
            if not np.isnan(mean[group[job]]):
                out[job] = np.expm1(mean[group[job]])
                break
        heapq.heappush(pending, (ends[job], job))
    return np.maximum(out, 1.0)


def _groups(jobs: JobTable) -> list[npt.NDArray[np.int64]]:
    user, vc, name, gpus = jobs.user.codes, jobs.vc.codes, jobs.name.codes, jobs.num_gpus
    levels = ((user, vc, name, gpus), (user, gpus), (vc, gpus), (gpus,), (np.zeros_like(gpus),))
    return [np.unique(np.stack(keys, axis=1), axis=0, return_inverse=True)[1].reshape(-1) for keys in levels]
