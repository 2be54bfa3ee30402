"""What a simulation leaves: the schedule as a table, and its summary."""

from __future__ import annotations

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
from rltune.simulator.state import DROPPED, EVENTS, Sim

DAY_S = 86_400.0


@dataclass(frozen=True)
class Result:
    """A finished simulation of ``jobs`` on ``cluster``.

    ``start_s, end_s`` (n_jobs,): NaN for a job that never ran. ``decisions``: one
    record a decision where the readable loop made them, else empty.
    """

    jobs: JobTable
    cluster: Cluster
    start_s: npt.NDArray[np.float64]
    end_s: npt.NDArray[np.float64]
    sim: Sim
    decisions: list[dict[str, Any]] = field(default_factory=list)
    allocator_stats: dict[str, Any] = field(default_factory=dict)

    @property
    def started(self) -> npt.NDArray[np.bool_]:
        return ~np.isnan(self.start_s)

    @property
    def wait_s(self) -> npt.NDArray[np.float64]:
        """(n_jobs,) start - submit; NaN for unfinished jobs."""
        return self.start_s - self.jobs.submit_s

    @cached_property
    def schedule(self) -> pd.DataFrame:
        """Columns job_id, submit_s, start_s, end_s, nodes (list), gpus (list, one per node), pool; submit order.

        Node ids count within their pool as the cluster numbers them. Unfinished jobs have empty lists.
        """
        part, length = self.sim.jobs.part, self.sim.alloc_len
        places = [slice(a, a + m) for a, m in zip(part, length, strict=False)]
        of_node = self.sim.cluster.node_pool
        pool = [
            self.cluster.pools[of_node[self.sim.alloc_node[s.start]]].name if s.stop > s.start else None for s in places
        ]
        return pd.DataFrame(
            {
                "job_id": self.jobs.job_id,
                "submit_s": self.jobs.submit_s,
                "start_s": self.start_s,
                "end_s": self.end_s,
                "nodes": [self.sim.cluster.node_id[self.sim.alloc_node[s]].tolist() for s in places],
                "gpus": [self.sim.alloc_gpus[s].tolist() for s in places],
                "pool": pool,
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
        return float(
            _free_on_partly_used(
                self.sim,
                np.argsort(self.start_s, kind="stable"),
                np.argsort(self.end_s, kind="stable"),
                float(self.jobs.submit_s[0]),
                float(self.jobs.submit_s[-1]),
            )
        )

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
        return out

    @property
    def dropped(self) -> int:
        """Jobs that no idle pool could hold."""
        return int(self.sim.counts[DROPPED])

    @property
    def events(self) -> int:
        return int(self.sim.counts[EVENTS])


@compiled
def _free_on_partly_used(sim, by_start, by_end, begin, end):
    """Replay starts and ends between ``begin`` and ``end``; integrate free GPUs on partly used nodes over free GPUs."""
    cap = sim.cluster.pool_cap
    free = np.empty(len(sim.cluster.node_pool), np.int64)
    for i in range(len(free)):
        free[i] = cap[sim.cluster.node_pool[i]]
    total, partly = free.sum(), 0
    now, area, busy_free = begin, 0.0, 0.0
    i = j = 0
    n = len(by_start)
    while True:
        s = sim.start[by_start[i]] if i < n else np.inf
        e = sim.end[by_end[j]] if j < n else np.inf
        s = np.inf if np.isnan(s) else s
        e = np.inf if np.isnan(e) else e
        instant = min(s, e, end)
        area += partly * (instant - now)
        busy_free += total * (instant - now)
        now = instant
        if instant >= end:
            return area / busy_free if busy_free > 0 else 0.0
        # At one instant a job's end comes before other starts, but never before its own start.
        ends = e <= s and sim.start[by_end[j]] < e
        job = by_end[j] if ends else by_start[i]
        sign = 1 if ends else -1
        if ends:
            j += 1
        else:
            i += 1
        for k in range(sim.jobs.part[job], sim.jobs.part[job] + sim.alloc_len[job]):
            node = sim.alloc_node[k]
            size = cap[sim.cluster.node_pool[node]]
            partly -= free[node] if free[node] < size else 0
            free[node] += sign * sim.alloc_gpus[k]
            total += sign * sim.alloc_gpus[k]
            partly += free[node] if free[node] < size else 0
