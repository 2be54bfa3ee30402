"""A cluster made to measure, for jobs that come without one: pools of the types they ask for, sized to a load."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from rltune.nouns.asked_slices import shares
from rltune.nouns.cluster import MOST_NODES, Cluster, Pool, distinct_rows
from rltune.nouns.gpus import GPU_TYPES
from rltune.nouns.jobs import JobTable
from rltune.nouns.mig_profiles import NAMES, TYPES

LOAD = 0.85
"""Share of the GPU time that the jobs would fill: little enough that queues end, enough that rules differ."""
NODE = 8
"""GPUs of a node."""
USUAL = "A100-80GB"
"""Type of a pool where jobs leave the choice."""


def fitted(jobs: JobTable) -> Cluster:
    """Nodes of 8 GPUs, a pool a type, at least as many as the widest job needs; MIG where slices are asked for."""
    types, sliced = pool_types(jobs)
    share = shares(jobs)
    span_s = max(float(jobs.submit_s[-1] - jobs.submit_s[0]), float(jobs.duration_s.max()), 1.0)
    pools = []
    for name in dict.fromkeys(types):
        mine = types == name
        busy = float((jobs.duration_s * jobs.num_gpus * share)[mine].sum()) / span_s
        widest = math.ceil(int(jobs.num_gpus[mine & (jobs.mig.codes < 0)].max(initial=1)) / NODE)
        nodes = min(max(math.ceil(busy / LOAD / NODE), widest, 1), MOST_NODES)
        pools.append(
            Pool("nodes" if name == "any" else name.lower(), nodes, NODE, name, mig=bool((mine & sliced).any()))
        )
    return Cluster("fitted", tuple(pools))


def pool_types(jobs: JobTable) -> tuple[npt.NDArray[np.object_], npt.NDArray[np.bool_]]:
    """(n_jobs,) type of the pool that each job is counted to, and whether it asks for a slice.

    Where a job takes several types, one that others need anyway: as few pools as there can be.
    """
    needed = {name for name in jobs.gpu_type.names if "|" not in name}
    types = np.full(len(jobs), "any", object)
    pairs = distinct_rows([jobs.mig.codes, jobs.gpu_type.codes])
    # Slices first: they leave less choice.
    for row in sorted(pairs[0], key=lambda row: jobs.mig.codes[row] < 0):
        mig, kind = jobs.mig.codes[row], jobs.gpu_type.codes[row]
        wanted = jobs.gpu_type.names[kind].split("|") if kind >= 0 else [*TYPES] if mig >= 0 else []
        if mig >= 0:
            profile = jobs.mig.names[mig]
            wanted = [name for name in wanted if name in TYPES and profile in {*NAMES[name], *NAMES[name].values()}]
        known = [name for name in wanted if name in GPU_TYPES]
        chosen = min(known, key=lambda name: (name not in needed, name != USUAL), default="any")
        needed.add(chosen)
        types[(jobs.mig.codes == mig) & (jobs.gpu_type.codes == kind)] = chosen
    return types, (jobs.mig.codes >= 0) & (types != "any")
