"""The result of a simulation: the schedule as a table, and its summary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from rltune.core.state import DROPPED, EVENTS, Sim
from rltune.nouns.cluster import Cluster
from rltune.nouns.errors import InputError
from rltune.nouns.fairness import finish_time_fairness, jain
from rltune.nouns.jobs import Category, JobTable
from rltune.nouns.metrics import distribution, job_scores, starvation, widest
from rltune.nouns.mig_profiles import PROFILES
from rltune.simulator import bounds, fragments, pools, usage
from rltune.simulator.recording import Recorder
from rltune.simulator.runs import GPU, OUTCOMES, Runs, runs_of

DAY_S = 86_400.0
GROUPS = ("vc", "user", "priority", "gpu_type", "name", "status", "mig", "num_gpus")
"""Columns of the job table that `Result.by` can group by."""
TENANTS = ("vc", "user")
"""Groups whose fairness is in the summary."""


@dataclass(frozen=True, repr=False)
class Result:
    """A finished simulation of ``jobs`` on ``cluster``.

    ``start_s, end_s`` (n_jobs,): first start and last end, NaN for a job that never ran or never ended.
    ``events``: arrivals, completions and whatever else was simulated; ``dropped``: jobs that no idle pool
    could hold. ``make_runs``: builds `runs`, when first asked for. ``decisions``: one record a decision
    where the readable loop made them, else empty. ``extra``: further entries of the summary from the full build;
    ``interrupted``: whether any job may have several runs; ``recorded``: what was decided and by what, where that was asked for.
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
    interrupted: bool = True
    recorded: Recorder | None = None

    def __repr__(self) -> str:
        """One line: a notebook would print every array."""
        told = "; ".join(f"{name} {value}" for name, value in self._headline().items())
        return f"Result({len(self.jobs):,} jobs on {self.cluster.name}, {self.cluster.gpus:,} GPUs: {told})"

    def _repr_html_(self) -> str:
        """What a notebook shows: the means and the tail, and where the rest is."""
        line = "<tr><td>{}</td><td style='text-align:right'>{}</td></tr>"
        rows = "".join(line.format(escape(name), escape(value)) for name, value in self._headline().items())
        title = escape(f"{len(self.jobs):,} jobs on {self.cluster.name}, {self.cluster.gpus:,} GPUs")
        return f"<table><caption>{title}</caption>{rows}</table><small>more: .summary(), .schedule, .timeline(step_s)</small>"

    def _headline(self) -> dict[str, str]:
        done = self.finished
        if not done.any():
            return {"finished": "none"}
        scores = self.scores()
        means = {"mean wait (s)": "wait_s", "mean JCT (s)": "jct_s", "mean bounded slowdown": "bsld"}
        out = {name: f"{float(np.mean(scores[key])):,.4g}" for name, key in means.items()}
        out["p99 wait (s)"] = f"{float(np.quantile(scores['wait_s'], 0.99)):,.4g}"
        out["utilisation"] = f"{self.utilization():.3f}"
        return out | ({"unfinished": f"{int((~done).sum()):,}"} if not done.all() else {})

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
            decisions or [], allocator_stats or {}, interrupted=False,
        )  # fmt: skip

    @cached_property
    def runs(self) -> Runs:
        """Which job held which GPUs when, by start."""
        return self.make_runs()

    @property
    def started(self) -> npt.NDArray[np.bool_]:
        return ~np.isnan(self.start_s)

    @property
    def finished(self) -> npt.NDArray[np.bool_]:
        """(n_jobs,) whether the job came to its end; the others count as unfinished and enter no mean."""
        return ~np.isnan(self.end_s)

    @property
    def wait_s(self) -> npt.NDArray[np.float64]:
        """(n_jobs,) seconds without GPUs between submission and the end of the last run; NaN for jobs that never ran."""
        waited = self.start_s - self.jobs.submit_s
        return waited + self._between_runs_s if self.interrupted else waited

    @cached_property
    def _between_runs_s(self) -> npt.NDArray[np.float64]:
        """(n_jobs,) seconds between a job's runs."""
        runs, gaps = self.runs, np.zeros(len(self.jobs))
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
        """One row a run, by start: job_id, start_s, end_s, useful_s, outcome, nodes, gpus, pool as in `schedule`.

        And of a run in a MIG slice: mig (the profile; None for all others), gpu (which of its node's GPUs, from 0; else -1),
        first_slice (memory slice it begins at; else -1).
        """
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
            | self._slices()
        )

    def _slices(self) -> dict[str, npt.NDArray[Any]]:
        """(n_runs,) each: which MIG slice a run held."""
        runs, n = self.runs, len(self.runs)
        if runs.mask is None or runs.first_slice is None or runs.profile is None:
            return {"mig": np.full(n, None), "gpu": np.full(n, -1), "first_slice": np.full(n, -1)}
        codes, first = runs.profile, runs.ptr[:-1]
        # A slice is of one GPU: one bit, whose number is how many are below it.
        gpu = np.bitwise_count(runs.mask[first] - 1).astype(np.int64)
        names = np.array([*PROFILES, None], dtype=object)
        return {
            "mig": names[codes],
            "gpu": np.where(codes >= 0, gpu, -1),
            "first_slice": np.where(codes >= 0, runs.first_slice[first], -1),
        }

    def scores(self) -> dict[str, npt.NDArray[np.float64]]:
        """Per-job wait_s, jct_s, bsld, slowdown of the jobs that finished, in submit order."""
        done = self.finished
        jct_s = self.end_s[done] - self.jobs.submit_s[done]
        return job_scores(self.wait_s[done], self.jobs.duration_s[done], jct_s)

    def makespan_s(self) -> float:
        """Last end of a run - first submit."""
        return float(self.runs.end_s.max() - self.jobs.submit_s[0]) if len(self.runs) else 0.0

    def utilization(self) -> float:
        """GPU-seconds held by jobs over makespan x cluster GPUs."""
        return self._share(float(self._held_s.sum()))

    def goodput(self) -> float:
        """GPU-seconds of run time done and kept (as recorded; no restarts, no lost work) over makespan x cluster GPUs."""
        return self._share(usage.useful_gpu_s(self.jobs, self.runs))

    def _share(self, gpu_s: float) -> float:
        span = self.makespan_s()
        return gpu_s / (span * self.cluster.gpus) if span > 0 and self.cluster.gpus else 0.0

    @cached_property
    def _held_s(self) -> npt.NDArray[np.float64]:
        """(n_pools,) GPU-seconds held by jobs."""
        return usage.held_by_pool(self.runs, self.cluster)

    def fragmentation(self) -> float:
        """Time-weighted mean share of the free GPUs that stand on partly used nodes, while jobs may still arrive."""
        return fragments.partly_used(self.jobs, self.cluster, self.runs)

    def fragmentation_by_demand(self) -> float:
        """Share of the free GPUs that the waiting jobs' mix cannot use, likewise; see `rltune.simulator.fragments`."""
        return fragments.unusable_by_demand(self.jobs, self.cluster, self.runs)

    def timeline(self, step_s: float = 3600.0) -> pd.DataFrame:
        """Means by step of ``step_s`` seconds from the first submission to the last end.

        Columns time_s (where the step begins), queued_jobs, queued_gpus, busy_gpus, free_gpus.
        """
        begin = float(self.jobs.submit_s[0])
        return usage.timeline(self.jobs, self.runs, self.cluster.gpus, begin, begin + self.makespan_s(), step_s)

    def pool_timeline(self, step_s: float = 3600.0) -> pd.DataFrame:
        """The same for each pool, with MIG slices and fragmentation; columns: `rltune.simulator.pools.pool_timeline`."""
        begin = float(self.jobs.submit_s[0])
        return pools.pool_timeline(self.jobs, self.runs, self.cluster, begin, begin + self.makespan_s(), step_s)

    def energy_kwh(self) -> dict[str, Any]:
        """Energy of the GPUs over the makespan, where the power of their types is known: `rltune.simulator.usage.energy_kwh`."""
        return usage.energy_kwh(self._held_s, self.cluster, self.makespan_s())

    def by(self, column: str) -> pd.DataFrame:
        """A row for each value of a column of the job table (`GROUPS`), "-" where it is absent.

        Columns: jobs, unfinished, gpu_h (GPU-hours held); means over finished jobs of wait_s, jct_s, bsld, and
        wait_s_p99; for a tenant (vc, user) rho, its mean finish-time fairness (`rltune.nouns.fairness`).
        """
        if column not in GROUPS:
            raise InputError(f"by({column!r}): no such grouping; known are {', '.join(GROUPS)}")
        values = getattr(self.jobs, column)
        groups = pd.Series(values.values() if isinstance(values, Category) else values).fillna("-")
        held = np.bincount(self.runs.job, (self.runs.end_s - self.runs.start_s) * self.runs.held_gpus(), len(self.jobs))
        done = self.finished
        frame = pd.DataFrame({"jobs": 1, "unfinished": ~done, "gpu_h": held / 3600.0})
        out = frame.groupby(groups.to_numpy()).sum()
        scores = pd.DataFrame({name: self.scores()[name] for name in ("wait_s", "jct_s", "bsld")})
        by_group = scores.groupby(groups.to_numpy()[done])
        out = out.join(by_group.mean()).join(by_group.wait_s.quantile(0.99).rename("wait_s_p99"))
        if column in TENANTS and (tenants := self._tenants(column)).any():
            rho = pd.Series(self._rho(column)).groupby(groups.to_numpy()[tenants]).mean()
            out = out.join(rho.rename("rho"))
        return out.rename_axis(column)

    def _tenants(self, column: str) -> npt.NDArray[np.bool_]:
        """(n_jobs,) finished jobs that have a tenant."""
        return self.finished & (getattr(self.jobs, column).codes >= 0)

    def _rho(self, column: str) -> npt.NDArray[np.float64]:
        """Finish-time fairness of the jobs of `_tenants`."""
        rows, jobs = self._tenants(column), self.jobs
        work = jobs.duration_s[rows] * usage.demand_milli(jobs)[rows] / GPU
        tenant = getattr(jobs, column).codes[rows]
        return finish_time_fairness(
            jobs.submit_s[rows], self.end_s[rows], jobs.duration_s[rows], work, tenant, float(self.cluster.gpus)
        )

    def fairness(self, column: str) -> dict[str, Any] | None:
        """Among the tenants of a column (vc, user): Jain's index of their mean bounded slowdowns; rho. None below two.

        ``rho``: mean and p99 over jobs, ``worst`` the largest mean of a tenant, ``above_1`` the share of jobs that
        sharing delayed. Definitions: `rltune.nouns.fairness`.
        """
        rows = self._tenants(column)
        codes = getattr(self.jobs, column).codes[rows]
        counts = np.bincount(codes)
        present = counts > 0
        if present.sum() < 2:
            return None
        bsld = self.scores()["bsld"][rows[self.finished]]
        rho = self._rho(column)
        by_tenant = np.bincount(codes, rho)[present] / counts[present]
        return {
            "tenants": int(present.sum()),
            "jain_bsld": jain(np.bincount(codes, bsld)[present] / counts[present]),
            "rho": {
                "mean": float(rho.mean()),
                "p99": float(np.percentile(rho, 99)),
                "worst": float(by_tenant.max()),
                "above_1": float((rho > 1 + 1e-9).mean()),
            },
        }

    def bounds(self) -> dict[str, Any]:
        """Lower bounds of mean JCT, mean wait and makespan of the finished jobs, and how far above them this schedule is.

        ``jct_s, wait_s, makespan_s``: each {"bound", "reached", "above"}, above = reached / bound - 1, None where the
        bound is 0. ``preemptive``: whether they allow for interruptions, as this schedule had some; else they hold for
        schedules without preemption only. ``reason``: why there are none (`rltune.simulator.bounds`).
        """
        runs, done = self.runs, self.finished
        if not done.any():
            return {"reason": "no job finished"}
        if (self.jobs.mig.codes[done] >= 0).any():
            return {"reason": "no bound for MIG slices"}
        if (self.jobs.ways.codes[done] >= 0).any():
            return {"reason": "no bound where jobs have several ways to run"}
        if (runs.useful_s > (runs.end_s - runs.start_s) * (1 + 1e-9) + 1e-6).any():
            return {"reason": "no bound where jobs run faster than recorded"}
        preemptive = len(runs) > len(np.unique(runs.job))
        found = bounds.lower_bounds(self.jobs.take(done), self.cluster, preemptive)
        last, first = float(self.end_s[done].max()), float(self.jobs.submit_s[done][0])
        scores = self.scores()
        reached = {"jct_s": scores["jct_s"].mean(), "wait_s": scores["wait_s"].mean(), "makespan_s": last - first}
        out: dict[str, Any] = {"preemptive": preemptive}
        for name, value in reached.items():
            least = getattr(found, name)
            above = float(value) / least - 1 if least > 0 else None
            out[name] = {"bound": least, "reached": float(value), "above": above}
        return out

    def summary(self) -> dict[str, Any]:
        """Metrics as in summary.json. Intervals resample days of submission (jobs of a day are not independent)."""
        done, runs, begin = self.finished, self.runs, float(self.jobs.submit_s[0])
        days = np.floor(self.jobs.submit_s[done] / DAY_S)
        scores = self.scores()
        out: dict[str, Any] = {name: distribution(values, days) for name, values in scores.items()}
        wide = widest(self.jobs.num_gpus)[done]
        out["wait_s_widest5pct"] = distribution(scores["wait_s"][wide], days[wide])
        span = self.makespan_s()
        out["utilization"] = {"mean": self.utilization()}
        out["goodput"] = {"mean": self.goodput()}
        out["flops_utilization"] = usage.flops_utilization(self._held_s, self.cluster, span)
        out["energy_kwh"] = self.energy_kwh()
        out["fragmentation"] = {"mean": self.fragmentation()}
        out["fragmentation_by_demand"] = {"mean": self.fragmentation_by_demand()}
        out["makespan_s"] = {"mean": span}
        out["queue"] = usage.queue_summary(self.jobs, runs, begin, begin + span)
        out["starvation"] = starvation(self.wait_s[self.started]) | {"never_started": int((~self.started).sum())}
        out["fairness"] = {column: self.fairness(column) for column in TENANTS}
        ends = np.bincount(runs.outcome, minlength=len(OUTCOMES))
        out["runs"] = {"count": len(runs)} | {name: int(n) for name, n in zip(OUTCOMES, ends, strict=True)}
        out["unfinished"] = int((~done).sum())
        if self.allocator_stats:
            out["allocator"] = self.allocator_stats
        return out | self.extra
