"""What a scheduler may know of run times.

- exact: exactly. unknown: nothing.
- requested: what the user asked for (the job's time limit).
- predicted: learned (`rltune.policies.learn`) from jobs that ended *in the record* before the new one was submitted: a
  job counts from submit + recorded wait + duration on (recorded wait 0 where the log has none), like an operator who
  trains on yesterday's log.
- online: learned from jobs that ended in the simulated schedule itself; in `rltune.simulate` only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rltune.nouns.errors import InputError
from rltune.nouns.jobs import JobTable
from rltune.nouns.renamed import refuse_old_runtimes
from rltune.policies.learn import group_table, replay

RUNTIMES = ("exact", "predicted", "unknown")
"""What tables compare; ordered, each knows more than the next."""
SIMULATED = ("exact", "requested", "predicted", "online", "unknown")
"""What `rltune.simulate` takes."""
WITHIN = 2.0
"""Forecasts within this factor of the truth count as close."""


def known_run_times(jobs: JobTable, runtimes: str) -> npt.NDArray[np.float64]:
    """(n_jobs,) run times in seconds as the scheduler believes them, read-only where exact; NaN for ``unknown``."""
    if runtimes == "exact":
        return jobs.duration_s
    if runtimes == "unknown":
        return np.full(len(jobs), np.nan)
    if runtimes == "predicted":
        return predict(jobs)
    if runtimes == "requested":
        absent = np.isnan(jobs.requested_s)
        if absent.any():
            row = int(np.argmax(absent))
            raise InputError(
                f"runtimes=requested: {int(absent.sum())} of {len(jobs)} jobs, first {jobs.job_id[row]}, have no "
                "requested_s; use runtimes=predicted, or a log with time limits"
            )
        return jobs.requested_s
    refuse_old_runtimes(runtimes)
    raise InputError(f"runtimes={runtimes!r} is unknown; known are {', '.join(SIMULATED)}")


def predict(jobs: JobTable) -> npt.NDArray[np.float64]:
    """(n_jobs,) predicted seconds, each from the jobs that had ended in the record by its submission."""
    groups = group_table(jobs)
    recorded_wait = np.where(np.isnan(jobs.wait_s), 0.0, jobs.wait_s)
    ends = jobs.submit_s + recorded_wait + jobs.duration_s
    mean = np.full(int(groups.max()) + 1, np.nan)
    by_end = np.argsort(ends, kind="stable")
    return replay(jobs.submit_s.copy(), jobs.duration_s.copy(), ends, by_end, groups, mean)


def forecast_error(jobs: JobTable, known_s: npt.NDArray[np.float64]) -> dict[str, Any]:
    """How far believed run times (n_jobs,) are from the true ones; times below 1 s count as 1 s.

    ``q_error``: max(believed / true, true / believed), median and 90th percentile (Moerkotte, Neumann, Steidl, VLDB
    2009); ``within_2x``: share of q-errors up to 2; ``mae_s``: mean absolute error; ``underestimated``: share of jobs
    that outlive the belief. None where nothing is believed.
    """
    given = ~np.isnan(known_s)
    if not given.any():
        return {
            "jobs": 0,
            "q_error": {"p50": None, "p90": None},
            "within_2x": None,
            "mae_s": None,
            "underestimated": None,
        }
    true, believed = np.maximum(jobs.duration_s[given], 1.0), np.maximum(known_s[given], 1.0)
    q = np.maximum(believed / true, true / believed)
    return {
        "jobs": int(given.sum()),
        "q_error": {"p50": float(np.median(q)), "p90": float(np.percentile(q, 90))},
        "within_2x": float((q <= WITHIN).mean()),
        "mae_s": float(np.abs(believed - true).mean()),
        "underestimated": float((believed < true).mean()),
    }
