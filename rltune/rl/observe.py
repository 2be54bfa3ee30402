"""What the agent sees, compiled: features of the visible jobs and of the cluster, all in [0, 1].

Nothing here may show more of run times than the scheduler knows (`Jobs.known`).
"""

from __future__ import annotations

import numpy as np

from rltune.compiled import inner, kernel
from rltune.metrics import BOUND_S
from rltune.rl.batch import HEAD, SHOWN, view
from rltune.simulator.disciplines import BLOCKING
from rltune.simulator.events import job_fits
from rltune.simulator.state import QUEUED, RUNNING

JOB_FEATURES = (
    "wait",
    "run_time",
    "area",
    "gpus",
    "bounded_slowdown",
    "can_start",
    "fits",
    "demand_of_free",
    "order_position",
    "reserved",
    "ends_before_reservation",
    "gpus_left_on_node",
)
CLUSTER_FEATURES = (
    "free",
    "partly_used",
    "queue_length",
    "visible_that_can_start",
    "next_completion",
    "reservation_delay",
    "reserved_gpus",
    "queued_gpus",
)
# Logarithmic scales: a week of waiting, a month of running, a month on 1,000 GPUs, a slowdown of 1e5, 10,000 queued.
WAIT_SCALE = 1 / np.log1p(7 * 86_400.0)
RUN_SCALE = 1 / np.log1p(30 * 86_400.0)
AREA_SCALE = 1 / np.log1p(30 * 86_400.0 * 1_000)
SLOWDOWN_SCALE = 1 / np.log(1e5)
QUEUE_SCALE = 1 / np.log1p(10_000.0)


@inner
def observe(batch, i, shadow, discipline, visible, mask, jobs, cluster):
    """Write row i of the observation: ``jobs`` (n_envs, V, 12) and ``cluster`` (n_envs, 8), all in [0, 1]."""
    sim = view(batch, i)
    now = sim.clock[0]
    queued, shown, head = sim.counts[QUEUED], batch.mark[i, SHOWN], batch.mark[i, HEAD]
    free, size, partly = 0, 0, 0
    for p in range(len(sim.cluster.pool_cap)):
        cap = sim.cluster.pool_cap[p]
        nodes = sim.cluster.pool_hi[p] - sim.cluster.pool_lo[p]
        size += nodes * cap
        free += sim.space.total[p]
        partly += nodes - sim.space.level[p, cap] - sim.space.level[p, 0]
    startable = 0
    for a in range(shown):
        position = batch.slot[i, a]
        # Under blocking every job may be picked, whether or not it can start at once.
        can_start = job_fits(sim, sim.queue[position]) if discipline == BLOCKING else mask[i, a] == 1
        startable += 1 if can_start else 0
        job_features(sim, position, now, free, size, head, shadow, can_start, jobs[i, a])
    for a in range(shown, visible):
        for f in range(jobs.shape[2]):
            jobs[i, a, f] = 0.0
    demand = 0
    for k in range(queued):
        demand += sim.jobs.gpus[sim.queue[k]]
    out = cluster[i]
    out[0] = free / size
    out[1] = partly / len(sim.cluster.node_pool)
    out[2] = min(1.0, np.log1p(queued) * QUEUE_SCALE)
    out[3] = startable / visible
    out[4] = clip(np.log1p(until_expected_completion(sim)) * WAIT_SCALE)
    out[5] = clip(np.log1p(min(shadow - now, 1e9)) * WAIT_SCALE) if head < queued else 0.0
    out[6] = min(1.0, sim.jobs.gpus[sim.queue[head]] / size) if head < queued else 0.0
    out[7] = demand / (demand + size)


@inner
def until_expected_completion(sim):
    """Seconds until a running job is expected to end, by the run times the scheduler believes.

    1e9 with nothing running, 0 where run times are unknown. True ends would show the
    agent what predictions cannot know.
    """
    running = sim.counts[RUNNING]
    if running == 0:
        return 1e9
    first = sim.expected[0]
    if np.isnan(sim.jobs.known[first]):
        return 0.0
    return min(max(sim.start[first] + sim.jobs.known[first] - sim.clock[0], 0.0), 1e9)


@inner
def job_features(sim, position, now, free, size, head, shadow, can_start, out):
    """The features of JOB_FEATURES for one visible job; unknown run times are 0."""
    job = sim.queue[position]
    gpus = sim.jobs.gpus[job]
    wait = now - sim.jobs.submit[job]
    known = sim.jobs.known[job]
    unknown = np.isnan(known)
    run = 0.0 if unknown else known
    here = can_start or job_fits(sim, job)
    out[0] = clip(np.log1p(wait) * WAIT_SCALE)
    out[1] = clip(np.log1p(run) * RUN_SCALE)
    out[2] = clip(np.log1p(run * gpus) * AREA_SCALE)
    out[3] = clip(np.log2(1.0 + gpus) / np.log2(1.0 + size))
    out[4] = 0.0 if unknown else clip(np.log(max(1.0, (wait + run) / max(run, BOUND_S))) * SLOWDOWN_SCALE)
    out[5] = 1.0 if can_start else 0.0
    out[6] = 1.0 if here else 0.0
    out[7] = min(1.0, gpus / free) if free > 0 else 1.0
    out[8] = clip(np.log1p(position) * QUEUE_SCALE)
    out[9] = 1.0 if position == head else 0.0
    out[10] = 1.0 if not unknown and now + run <= shadow else 0.0
    out[11] = left_on_node(sim, job, gpus) if here else 1.0


@inner
def left_on_node(sim, job, gpus):
    """Share of a node's GPUs left free beside the job's partly used node, on the tightest node of its pools."""
    c = sim.jobs.cls[job]
    best = 1.0
    for k in range(sim.pools.ptr[c], sim.pools.ptr[c + 1]):
        p = sim.pools.pool[k]
        cap = sim.cluster.pool_cap[p]
        rest = gpus % cap
        if rest == 0:
            return 0.0
        for f in range(rest, cap + 1):
            if sim.space.level[p, f] > 0:
                best = min(best, (f - rest) / cap)
                break
    return best


@kernel
def clip(x):
    return min(1.0, max(0.0, x))
