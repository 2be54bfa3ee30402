"""Runs: which job held which GPUs from when to when. Schedules and metrics of every simulation are computed from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rltune.core.state import FINISHED, Sim

OUTCOMES = ("finished", "suspended", "node failure", "job failure", "given up")
"""Why a run ended: the job finished; was suspended; lost a node; failed itself; failed for the last time allowed. In the
order of the codes of `rltune.core.state`."""
GPU = 1000
"""Thousandths of a GPU."""


@dataclass(frozen=True, slots=True)
class Runs:
    """Stretches in which a job held GPUs, by start; a job that was never stopped has one. Arrays (n_runs,), read-only.

    Attributes:
        job: row in the job table.
        start_s, end_s: seconds; GPUs are held in [start, end).
        useful_s: seconds of the job's own run time done and kept, on its recorded hardware; sums to
            the run time over the runs of a finished job (restarts, and work lost to failures, do not count).
        outcome: index into ``OUTCOMES``.
        pool: index into the cluster's pools.
        ptr: (n_runs + 1,) run i holds ``milli[ptr[i]:ptr[i + 1]]`` thousandths of GPUs on node indices
            ``node[ptr[i]:ptr[i + 1]]`` (counted over all pools).
        mask: like ``node``: which GPUs of that node, as bits; None from the plain loop, which only counts them.
        first_slice: like ``node``: first memory slice of a MIG slice, -1 for anything else; None likewise.
        profile: MIG profile that the run held, an index into `rltune.nouns.mig_profiles.PROFILES`, -1 = none; None likewise.
    """

    job: npt.NDArray[np.int64]
    start_s: npt.NDArray[np.float64]
    end_s: npt.NDArray[np.float64]
    useful_s: npt.NDArray[np.float64]
    outcome: npt.NDArray[np.int8]
    pool: npt.NDArray[np.int64]
    ptr: npt.NDArray[np.int64]
    node: npt.NDArray[np.int64]
    milli: npt.NDArray[np.int64]
    mask: npt.NDArray[np.int64] | None = None
    first_slice: npt.NDArray[np.int64] | None = None
    profile: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.job)

    def held_gpus(self) -> npt.NDArray[np.float64]:
        """(n_runs,) GPUs held, shares as fractions."""
        sums = np.concatenate([[0], np.cumsum(self.milli)])
        return (sums[self.ptr[1:]] - sums[self.ptr[:-1]]) / GPU


def runs_of(sim: Sim) -> Runs:
    """One run for each job that started, from a finished simulation without interruptions."""
    job = np.argsort(sim.start, kind="stable")[: int((~np.isnan(sim.start)).sum())].astype(np.int64)
    length = sim.alloc_len[job].astype(np.int64)
    ptr = np.concatenate([[0], np.cumsum(length)]).astype(np.int64)
    where = np.repeat(sim.jobs.part[job] - ptr[:-1], length) + np.arange(ptr[-1])
    node = sim.alloc_node[where].astype(np.int64)
    return frozen_runs(
        job=job,
        start_s=sim.start[job],
        end_s=sim.end[job],
        useful_s=sim.jobs.run[job],
        outcome=np.full(len(job), FINISHED, np.int8),
        pool=sim.cluster.node_pool[node[ptr[:-1]]],
        ptr=ptr,
        node=node,
        milli=sim.alloc_grant[where].astype(np.int64) * GPU,
    )


def frozen_runs(**columns: npt.NDArray[Any]) -> Runs:
    """Runs of these columns, which are made read-only."""
    for column in columns.values():
        column.setflags(write=False)
    return Runs(**columns)
