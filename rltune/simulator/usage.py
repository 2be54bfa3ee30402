"""What the GPUs did, read from runs: held, useful and idle GPU-seconds, FLOPS, energy, and levels over time."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from rltune.nouns.cluster import Cluster
from rltune.nouns.errors import InputError
from rltune.nouns.gpus import gpu_type
from rltune.nouns.jobs import JobTable
from rltune.nouns.metrics import area, steps
from rltune.nouns.mig_profiles import PROFILES, SIZE
from rltune.simulator.runs import GPU, Runs

FloatArray = npt.NDArray[np.float64]
MOST_STEPS = 10_000_000
STEPS_S = (60.0, 300.0, 600.0, 1800.0, 3600.0, 10_800.0, 21_600.0, 86_400.0)
"""Usual steps of a timeline."""
POOL_STEPS = 400
"""At most, of a timeline with a row a pool."""
J_PER_KWH = 3.6e6
Level = tuple[FloatArray, npt.NDArray[Any]]
"""A level over time, as `rltune.nouns.metrics.steps` gives it."""


def held_by_pool(runs: Runs, cluster: Cluster) -> FloatArray:
    """(n_pools,) GPU-seconds held by jobs, shares as fractions."""
    held = np.bincount(runs.pool, (runs.end_s - runs.start_s) * runs.held_gpus(), len(cluster.pools))
    return held.astype(np.float64)


def useful_gpu_s(jobs: JobTable, runs: Runs) -> float:
    """GPU-seconds of recorded run time done and kept: no restarts, no work lost to failures.

    In seconds of the recorded hardware, so on other GPUs it is the work done, not the time it took; and of a job with
    several ways to run for the GPUs it asked for, whatever it held.
    """
    several = jobs.ways.codes[runs.job] >= 0
    gpus = runs.held_gpus()
    if several.any():
        gpus = np.where(several, demand_milli(jobs)[runs.job] / GPU, gpus)
    return float((runs.useful_s * gpus).sum())


def flops_utilization(held_s: FloatArray, cluster: Cluster, span_s: float) -> dict[str, Any]:
    """GPU-seconds held x peak FP16 TFLOPS over the span x what the cluster could do; None where a type is unpublished.

    A held GPU counts with its whole peak, whatever the job makes of it. With one GPU type it is the utilisation.
    """
    unknown = sorted({pool.gpu_type for pool in cluster.pools if pool.gpus and gpu_type(pool.gpu_type).tflops is None})
    if unknown:
        return {"mean": None, "reason": f"no published FLOPS of GPU type {', '.join(unknown)}"}
    tflops = np.array([gpu_type(pool.gpu_type).tflops or 0.0 for pool in cluster.pools], np.float64)
    gpus = np.array([pool.gpus for pool in cluster.pools])
    could = float((tflops * gpus).sum()) * span_s
    return {"mean": float((held_s * tflops).sum()) / could if could > 0 else 0.0}


def energy_kwh(held_s: FloatArray, cluster: Cluster, span_s: float) -> dict[str, Any]:
    """Energy of the GPUs alone over ``span_s`` seconds: total ``mean``, and ``busy`` and ``idle`` kWh ``by_type``.

    A held GPU draws its type's average power in training, a share of it that share of the difference to idle, a free
    one its idle power (`rltune.nouns.gpus`: measured by Zeus, else assumed shares of the board's limit). Hosts, network
    and cooling are left out. None where a type's power is unpublished, with the reason.
    """
    by_type: dict[str, Any] = {}
    for pool, held in zip(cluster.pools, held_s, strict=True):
        if pool.gpus == 0:
            continue
        kind = gpu_type(pool.gpu_type)
        if kind.busy_w is None or kind.idle_w is None:
            by_type[pool.gpu_type] = None
            continue
        part = by_type.setdefault(pool.gpu_type, {"busy": 0.0, "idle": 0.0})
        part["busy"] += float(held) * kind.busy_w / J_PER_KWH
        part["idle"] += max(0.0, pool.gpus * span_s - float(held)) * kind.idle_w / J_PER_KWH
    unknown = sorted(name for name, part in by_type.items() if part is None)
    if unknown:
        return {"mean": None, "by_type": by_type, "reason": f"no published power of GPU type {', '.join(unknown)}"}
    return {"mean": sum(part["busy"] + part["idle"] for part in by_type.values()), "by_type": by_type}


def runs_again(runs: Runs) -> npt.NDArray[np.bool_]:
    """(n_runs,) whether the run's job has a later run: at its end the job queues once more."""
    again = np.zeros(len(runs), bool)
    by_job = np.lexsort((runs.start_s, runs.job))
    again[by_job[:-1]] = runs.job[by_job][1:] == runs.job[by_job][:-1]
    return again


def demand_milli(jobs: JobTable) -> npt.NDArray[np.int64]:
    """(n_jobs,) thousandths of GPUs that each job asks for; a MIG slice counts by its memory, as on the smallest GPU of it."""
    milli = jobs.num_gpus.astype(np.int64) * jobs.gpu_milli
    for code, name in enumerate(jobs.mig.names):
        if name in PROFILES:
            share = SIZE[PROFILES.index(name)] / SIZE.max(axis=0)
            milli[jobs.mig.codes == code] = int(GPU * share.max())
    return milli


def queue_level(jobs: JobTable, runs: Runs, weight: npt.NDArray[Any]) -> Level:
    """Sum of ``weight`` (n_jobs,) over waiting jobs; jobs that never run are left out, since none says how long they wait.

    A job waits from submission to its first run, and between its runs. The area is the sum of weight x wait (Little).
    """
    ran = np.unique(runs.job)
    again = runs.job[runs_again(runs)]
    at = np.concatenate([jobs.submit_s[ran], runs.end_s[runs_again(runs)], runs.start_s])
    return steps(at, np.concatenate([weight[ran], weight[again], -weight[runs.job]]))


def busy_level(runs: Runs) -> Level:
    """Thousandths of GPUs held by jobs."""
    return running_level(runs, held_milli(runs))


def held_milli(runs: Runs) -> npt.NDArray[np.int64]:
    """(n_runs,) thousandths of GPUs that each run holds."""
    sums = np.concatenate([[0], np.cumsum(runs.milli)])
    return np.asarray(sums[runs.ptr[1:]] - sums[runs.ptr[:-1]])


def running_level(runs: Runs, weight: npt.NDArray[Any]) -> Level:
    """Sum of ``weight`` (n_runs,) over the runs that go on."""
    return steps(np.concatenate([runs.start_s, runs.end_s]), np.concatenate([weight, -weight]))


def queue_summary(jobs: JobTable, runs: Runs, begin_s: float, end_s: float) -> dict[str, Any]:
    """Time-weighted mean and largest number of waiting jobs, and of GPUs that they wait for, over [begin, end)."""
    out: dict[str, Any] = {}
    for name, weight, unit in (("jobs", np.ones(len(jobs), np.int64), 1), ("gpus", demand_milli(jobs), GPU)):
        at, level = queue_level(jobs, runs, weight)
        mean = float(area(at, level, np.array([end_s]))[0]) / (end_s - begin_s) if end_s > begin_s else 0.0
        out[f"mean_{name}"] = mean / unit
        # Levels that last no time do not count: `steps` keeps the last of an instant.
        out[f"max_{name}"] = float(level.max(initial=0)) / unit
    return out


def step_of(span_s: float, most: int) -> float:
    """The shortest usual step with at most ``most`` over the span."""
    fitting = [step for step in STEPS_S if span_s / step <= most]
    return fitting[0] if fitting else float(np.ceil(span_s / most / STEPS_S[-1]) * STEPS_S[-1])


def timeline(jobs: JobTable, runs: Runs, gpus: int, begin_s: float, end_s: float, step_s: float) -> pd.DataFrame:
    """Time-weighted means by step of ``step_s`` seconds from ``begin_s``; the last step may reach beyond ``end_s``."""
    edges = edges_of(begin_s, end_s, step_s)
    levels = {
        "queued_jobs": queue_level(jobs, runs, np.ones(len(jobs), np.int64)),
        "queued_gpus": queue_level(jobs, runs, demand_milli(jobs)),
        "busy_gpus": busy_level(runs),
    }
    out = {name: np.diff(area(*level, edges)) / step_s for name, level in levels.items()}
    busy = out["busy_gpus"] = out["busy_gpus"] / GPU
    out["queued_gpus"] = out["queued_gpus"] / GPU
    return pd.DataFrame({"time_s": edges[:-1], **out, "free_gpus": gpus - busy})


def edges_of(begin_s: float, end_s: float, step_s: float) -> FloatArray:
    """(n_steps + 1,) bounds of the steps from ``begin_s`` on until all of [begin, end) is covered."""
    if not np.isfinite(step_s) or step_s <= 0:
        raise InputError(f"step_s={step_s!r}; a number of seconds above 0 is needed")
    count = max(1, int(np.ceil((end_s - begin_s) / step_s)))
    if count > MOST_STEPS:
        raise InputError(
            f"step_s={step_s:g} makes {count:,} steps; at most {MOST_STEPS:,} are possible, use longer ones"
        )
    edges: FloatArray = begin_s + step_s * np.arange(count + 1, dtype=np.float64)
    return edges
