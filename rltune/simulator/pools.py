"""Each pool of a cluster over time: what it holds, who waits for it, how much of what is free stands on partly used nodes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from rltune.nouns.cluster import Cluster, Eligibility, eligibility
from rltune.nouns.jobs import JobTable
from rltune.nouns.metrics import area
from rltune.simulator.fragments import free_by_pool
from rltune.simulator.runs import GPU, Runs
from rltune.simulator.usage import edges_of, held_milli, queue_level, running_level


def pool_timeline(
    jobs: JobTable, runs: Runs, cluster: Cluster, begin_s: float, end_s: float, step_s: float
) -> pd.DataFrame:
    """Time-weighted means, a row a step of ``step_s`` seconds from ``begin_s`` and pool.

    Columns:
        time_s: where the step begins; pool, gpu_type, gpus, mig: as the cluster has them.
        busy_gpus: held by jobs, shares and slices as fractions; sliced_gpus: of these, in MIG slices; instances: MIG slices held.
        queued_jobs: jobs that wait and may use the pool as they ask for it: one that may use several counts in each.
        partly_free_gpus: free GPUs on partly used nodes.
    """
    edges = edges_of(begin_s, end_s, step_s)
    classes, partly = eligibility(jobs, cluster), free_by_pool(cluster, runs, edges)[:, :, 0] / GPU / step_s
    held = held_milli(runs)
    sliced = np.zeros(len(runs), bool) if runs.profile is None else runs.profile >= 0

    def mean(level: tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]) -> npt.NDArray[np.float64]:
        return np.diff(area(*level, edges)) / step_s

    frames = []
    for p, pool in enumerate(cluster.pools):
        here = runs.pool == p
        columns = {
            "busy_gpus": mean(running_level(runs, held * here)) / GPU,
            "sliced_gpus": mean(running_level(runs, held * (here & sliced))) / GPU,
            "instances": mean(running_level(runs, (here & sliced).astype(np.int64))),
            "queued_jobs": mean(queue_level(jobs, runs, _may_use(classes, p))),
            "partly_free_gpus": partly[:, p],
        }
        told = {"pool": pool.name, "gpu_type": pool.gpu_type, "gpus": pool.gpus, "mig": pool.mig}
        frames.append(pd.DataFrame({"time_s": edges[:-1], **told, **columns}))
    return pd.concat(frames, ignore_index=True)


def _may_use(classes: Eligibility, pool: int) -> npt.NDArray[np.int64]:
    """(n_jobs,) 1 where a job may use the pool."""
    of_class = np.array(
        [pool in classes.pools[low:high] for low, high in zip(classes.ptr, classes.ptr[1:], strict=False)], np.int64
    )
    return of_class[classes.cls]
