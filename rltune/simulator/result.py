"""What a simulation leaves: the schedule as a table, and its summary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from rltune.cluster import Cluster
from rltune.compiled import compiled
from rltune.jobs import JobTable
from rltune.metrics import distribution, job_scores, widest
from rltune.simulator.runs import GPU, OUTCOMES, Runs, runs_of
from rltune.simulator.state import DROPPED, EVENTS, Sim

DAY_S = 86_400.0


@dataclass(frozen=True)
class Result:
    """A finished simulation of ``jobs`` on ``cluster``.

    ``start_s, end_s`` (n_jobs,): first start and last end, NaN for a job that never ran or never ended.
    ``events``: arrivals, completions and whatever else was simulated; ``dropped``: jobs that no idle pool
    could hold. ``make_runs``: builds `runs`, when first asked for. ``decisions``: one record a decision
    where the readable loop made them, else empty. ``extra``: what the detailed simulation has to tell beside.
    """

    jobs: JobTable
    cluster: Cluster
    start_s: npt.NDArray[np.float64]
    end_s: npt.NDArray[np.float64]
    make_runs: Callable[[], Runs]
    events: int
    dropped: int
    decisions: list[dict[str, Any]] = field(default_factory=list)
    allocator_stats: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        jobs: JobTable,
        cluster: Cluster,
        sim: Sim,
        decisions: list[dict[str, Any]] | None = None,
        allocator_stats: dict[str, Any] | None = None,
    ) -> Result:
        """From a simulator's final state."""
        return cls(
            jobs, cluster, sim.start, sim.end, lambda: runs_of(sim), int(sim.counts[EVENTS]), int(sim.counts[DROPPED]),
            decisions or [], allocator_stats or {},
        )  # fmt: skip

    @cached_property
    def runs(self) -> Runs:
        """Who held which GPUs, by start."""
        return self.make_runs()

    @property
    def started(self) -> npt.NDArray[np.bool_]:
        return ~np.isnan(self.start_s)

    @property
    def wait_s(self) -> npt.NDArray[np.float64]:
        """(n_jobs,) seconds between submission and end without GPUs; NaN for unfinished jobs."""
        return self.start_s - self.jobs.submit_s + self._between_runs_s

    @cached_property
    def _between_runs_s(self) -> npt.NDArray[np.float64]:
        """(n_jobs,) seconds between a job's runs."""
        runs, gaps = self.runs, np.zeros(len(self.jobs))
        if len(runs) > int(self.started.sum()):
            by_job = np.lexsort((runs.start_s, runs.job))
            again = runs.job[by_job][1:] == runs.job[by_job][:-1]
            idle = runs.start_s[by_job][1:] - runs.end_s[by_job][:-1]
            np.add.at(gaps, runs.job[by_job][1:][again], idle[again])
        return gaps

    @cached_property
    def schedule(self) -> pd.DataFrame:
        """Columns job_id, submit_s, start_s, end_s, nodes (list), gpus (list, one per node), pool; submit order.

        Node ids count within their pool as the cluster numbers them. A job that ran several times shows its
        last places (`attempts` has all); one that never ran has empty lists.
        """
        runs, node_id = self.runs, self.cluster.arrays().node_id
        last = np.full(len(self.jobs), -1)
        last[runs.job] = np.arange(len(runs))
        places = [slice(runs.ptr[r], runs.ptr[r + 1]) if r >= 0 else slice(0, 0) for r in last]
        gpus = runs.milli // GPU if (runs.milli % GPU == 0).all() else runs.milli / GPU
        return pd.DataFrame(
            {
                "job_id": self.jobs.job_id.astype(object),
                "submit_s": self.jobs.submit_s,
                "start_s": self.start_s,
                "end_s": self.end_s,
                "nodes": [node_id[runs.node[place]].tolist() for place in places],
                "gpus": [gpus[place].tolist() for place in places],
                "pool": [self.cluster.pools[runs.pool[r]].name if r >= 0 else None for r in last],
            }
        )

    @cached_property
    def attempts(self) -> pd.DataFrame:
        """One row a run, by start: job_id, start_s, end_s, useful_s, outcome, nodes, gpus, pool as in `schedule`."""
        runs, node_id = self.runs, self.cluster.arrays().node_id
        places = [slice(a, b) for a, b in zip(runs.ptr, runs.ptr[1:], strict=False)]
        names = np.array([pool.name for pool in self.cluster.pools], dtype=object)
        return pd.DataFrame(
            {
                "job_id": self.jobs.job_id[runs.job].astype(object),
                "start_s": runs.start_s,
                "end_s": runs.end_s,
                "useful_s": runs.useful_s,
                "outcome": np.array(OUTCOMES, dtype=object)[runs.outcome],
                "nodes": [node_id[runs.node[place]].tolist() for place in places],
                "gpus": [(runs.milli[place] / GPU).tolist() for place in places],
                "pool": names[runs.pool],
            }
        )

    def scores(self) -> dict[str, npt.NDArray[np.float64]]:
        """Per-job wait_s, jct_s, bsld, slowdown of the jobs that ran, in submit order."""
        ran = self.started
        return job_scores(self.wait_s[ran], self.jobs.duration_s[ran])

    def utilization(self) -> float:
        """Busy GPU-seconds over (last end - first submit) x cluster GPUs."""
        ran = self.started
        if not ran.any() or self.makespan_s() <= 0:
            return 0.0
        work = float((self.jobs.duration_s[ran] * self.jobs.num_gpus[ran]).sum())
        return work / (self.makespan_s() * self.cluster.gpus)

    def makespan_s(self) -> float:
        """Last end - first submit."""
        ran = self.started
        return float(self.end_s[ran].max() - self.jobs.submit_s[0]) if ran.any() else 0.0

    def fragmentation(self) -> float:
        """Time-weighted mean share of the free GPUs that stand on partly used nodes, while jobs may still arrive."""
        runs, arrays = self.runs, self.cluster.arrays()
        return float(
            _free_on_partly_used(
                runs.start_s, runs.end_s, np.argsort(runs.end_s, kind="stable"), runs.ptr, runs.node, runs.milli,
                arrays.pool_cap[arrays.node_pool] * GPU, float(self.jobs.submit_s[0]), float(self.jobs.submit_s[-1]),
            )
        )  # fmt: skip

    def summary(self) -> dict[str, Any]:
        """Metrics as in summary.json. Intervals resample days of submission (jobs of a day are not independent)."""
        ran = self.started
        days = np.floor(self.jobs.submit_s[ran] / DAY_S)
        out: dict[str, Any] = {name: distribution(values, days) for name, values in self.scores().items()}
        wide = widest(self.jobs.num_gpus)[ran]
        out["wait_s_widest5pct"] = distribution(self.wait_s[ran][wide], days[wide])
        out["utilization"] = {"mean": self.utilization()}
        out["fragmentation"] = {"mean": self.fragmentation()}
        out["makespan_s"] = {"mean": self.makespan_s()}
        out["unfinished"] = int((~ran).sum())
        if self.allocator_stats:
            out["allocator"] = self.allocator_stats
        return out | self.extra


@compiled
def _free_on_partly_used(start, finish, by_end, ptr, node, milli, size, begin, end):
    """Replay runs, sorted by start, between ``begin`` and ``end``: free shares on partly used nodes over all free."""
    free = size.copy()
    total, partly = free.sum(), 0
    now, area, all_free = begin, 0.0, 0.0
    i = j = 0
    n = len(start)
    while True:
        s = start[i] if i < n else np.inf
        e = finish[by_end[j]] if j < n else np.inf
        instant = min(s, e, end)
        area += partly * (instant - now)
        all_free += total * (instant - now)
        now = instant
        if instant >= end:
            return area / all_free if all_free > 0 else 0.0
        # At one instant a run's end comes before other starts, but never before its own start.
        ends = e <= s and start[by_end[j]] < e
        run = by_end[j] if ends else i
        sign = 1 if ends else -1
        if ends:
            j += 1
        else:
            i += 1
        for k in range(ptr[run], ptr[run + 1]):
            at = node[k]
            partly -= free[at] if free[at] < size[at] else 0
            free[at] += sign * milli[k]
            total += sign * milli[k]
            partly += free[at] if free[at] < size[at] else 0
