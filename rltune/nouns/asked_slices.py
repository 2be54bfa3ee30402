"""What jobs ask for, seen from a cluster: slices by compute alone (``1g``), and how much of its GPU time all of them would fill."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from rltune.nouns.cluster import Cluster, accepts, distinct_rows
from rltune.nouns.jobs import WHOLE, Category, JobTable
from rltune.nouns.mig_profiles import NAMES, PROFILES, SEVEN_SLICES, SIZE, TYPES

BARE = tuple(kind for kind in SEVEN_SLICES if " " not in kind)
COMPUTE_SLICES = 7
"""Of a GPU; those with four are the exception."""


def with_profiles(jobs: JobTable, cluster: Cluster) -> JobTable:
    """The jobs with the profiles of the cluster's MIG pools in the place of bare kinds.

    Where pools of several types may serve a job, each type's profile is a way to run. A kind that no pool has stays, for
    whoever refuses jobs that can never run.
    """
    bare = [code for code, name in enumerate(jobs.mig.names) if name in BARE]
    if not bare:
        return jobs
    slices: Any = jobs.mig.values()
    ways: Any = jobs.ways.values()
    types = [*jobs.gpu_type.names, None]
    for code in bare:
        for kind in np.unique(jobs.gpu_type.codes[jobs.mig.codes == code]):
            rows = (jobs.mig.codes == code) & (jobs.gpu_type.codes == kind)
            offered = profiles_of(jobs.mig.names[code], types[kind], cluster)
            if offered:
                slices[rows] = next(iter(offered.values()))
            if len(set(offered.values())) > 1:
                ways[rows & (jobs.ways.codes < 0)] = " | ".join(
                    f"{profile}:{name}" for name, profile in offered.items()
                )
    return replace(jobs, mig=Category.of(slices, len(jobs)), ways=Category.of(ways, len(jobs)))


def profiles_of(kind: str, wanted: str | None, cluster: Cluster) -> dict[str, str]:
    """GPU type of a MIG pool that a job may use -> its profile of that kind."""
    mine = [pool.gpu_type for pool in cluster.pools if pool.mig and accepts(wanted, pool.gpu_type)]
    return {name: NAMES[name][kind] for name in dict.fromkeys(mine) if kind in NAMES[name]}


def shares(jobs: JobTable) -> npt.NDArray[np.float64]:
    """(n_jobs,) part of each of its GPUs that a job takes: its share, or its slice's memory slices (of ``1g`` its compute slices)."""
    out = jobs.gpu_milli / WHOLE
    for row in distinct_rows([jobs.mig.codes, jobs.gpu_type.codes])[0] if jobs.mig.names else ():
        mig, kind = jobs.mig.codes[row], jobs.gpu_type.codes[row]
        if mig >= 0:
            wanted = jobs.gpu_type.names[kind] if kind >= 0 else None
            out[(jobs.mig.codes == mig) & (jobs.gpu_type.codes == kind)] = _part(jobs.mig.names[mig], wanted)
    return out


def _part(name: str, wanted: str | None) -> float:
    """Part of a GPU that a slice is; where types differ the least, and 1 where no type has it."""
    if name in BARE:
        return min(1.0, int(name[0]) / COMPUTE_SLICES)
    if name not in PROFILES:
        return 1.0
    parts = SIZE[PROFILES.index(name)] / SIZE.max(axis=0)
    mine = [part for part, kind in zip(parts, TYPES, strict=True) if part > 0 and accepts(wanted, kind)]
    return float(min(mine, default=1.0))


def load_on(jobs: JobTable, cluster: Cluster) -> float | None:
    """GPU time asked for over what the cluster has from the first to the last submission; None where that is one instant."""
    span_s = float(jobs.submit_s[-1] - jobs.submit_s[0])
    asked = float((jobs.duration_s * jobs.num_gpus * shares(jobs)).sum())
    return asked / (span_s * cluster.gpus) if span_s and cluster.gpus else None
