"""What the agent sees, compiled: features of the visible jobs and of the cluster, all in [0, 1].

Nothing here may show more of run times than the scheduler knows (`Jobs.known`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rltune.compiled import inner, kernel, verb
from rltune.core.priorities import size_of
from rltune.core.state import BLOCKING, NOW, QUEUED, RUNNING, Sim, is_full, is_lean
from rltune.nouns.jobs import WHOLE
from rltune.nouns.metrics import BOUND_S
from rltune.rl.legal import fits_here
from rltune.rl.rows import HEAD, SHOWN
from rltune.simulator.recording import FLAG, LOG, LOG1P, SHARE, Feature

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


def features_of(sim: Sim) -> tuple[list[Feature], list[Feature]]:
    """What the features of jobs and of the cluster say, and in which unit, for whoever reads them."""
    gpus = max(1.0, float(((sim.cluster.pool_hi - sim.cluster.pool_lo) * sim.cluster.pool_cap).sum()))
    of_jobs = [
        Feature("wait", "s", LOG1P, float(WAIT_SCALE)), Feature("run_time", "s", LOG1P, float(RUN_SCALE)),
        Feature("area", "GPU-s", LOG1P, float(AREA_SCALE)), Feature("gpus", "GPUs", LOG1P, float(1 / np.log1p(gpus))),
        Feature("bounded_slowdown", "", LOG, float(SLOWDOWN_SCALE)), Feature("can_start", kind=FLAG), Feature("fits", kind=FLAG),
        Feature("demand_of_free", kind=SHARE), Feature("order_position", "", LOG1P, float(QUEUE_SCALE)),
        Feature("reserved", kind=FLAG), Feature("ends_before_reservation", kind=FLAG), Feature("gpus_left_on_node", kind=SHARE),
    ]  # fmt: skip
    of_cluster = [
        Feature("free", kind=SHARE), Feature("partly_used", kind=SHARE), Feature("queue_length", "jobs", LOG1P, float(QUEUE_SCALE)),
        Feature("visible_that_can_start", kind=SHARE), Feature("next_completion", "s", LOG1P, float(WAIT_SCALE)),
        Feature("reservation_delay", "s", LOG1P, float(WAIT_SCALE)), Feature("reserved_gpus", kind=SHARE),
        Feature("queued_gpus", kind=SHARE),
    ]  # fmt: skip
    return of_jobs, of_cluster


class Seen(NamedTuple):
    """Observations of all rows."""

    mask: npt.NDArray[np.int8]  # (n_envs, V + 1) 1: the action is legal
    jobs: npt.NDArray[np.float32]  # (n_envs, V, 12) in [0, 1]
    cluster: npt.NDArray[np.float32]  # (n_envs, 8) in [0, 1]


@inner
def observe(row, shadow_time, visible, mask, jobs, cluster):
    """Write one row of the observation: ``jobs`` (V, 12) and ``cluster`` (8,), all in [0, 1]."""
    sim, episode = row.sim, row.episode
    now, index = sim.clock[NOW], index_of(sim)
    queued, shown, head = sim.counts[QUEUED], episode.mark[SHOWN], episode.mark[HEAD]
    size, partly = 0, 0
    for p in range(len(sim.cluster.pool_cap)):
        cap = sim.cluster.pool_cap[p]
        nodes = sim.cluster.pool_hi[p] - sim.cluster.pool_lo[p]
        size += nodes * cap
        partly += nodes - index.level[p, cap] - index.level[p, 0]
    # A cluster may be of CPUs alone.
    size, free = max(size, 1), free_share(sim)
    startable = 0
    for a in range(shown):
        position = episode.slot[a]
        # Under blocking every job may be picked, whether or not it can start at once.
        blocking = sim.params.backfill == BLOCKING
        can_start = fits_here(row, sim.queue[position]) if blocking else mask[a] == 1
        startable += 1 if can_start else 0
        job_features(row, position, free, size, shadow_time, can_start, jobs[a])
    for a in range(shown, visible):
        for f in range(jobs.shape[1]):
            jobs[a, f] = 0.0
    demand = 0.0
    for k in range(queued):
        demand += gpus_of(sim, sim.queue[k])
    cluster[0] = free / size
    cluster[1] = partly / len(sim.cluster.node_pool)
    cluster[2] = min(1.0, np.log1p(queued) * QUEUE_SCALE)
    cluster[3] = startable / visible
    cluster[4] = clip(np.log1p(until_expected_completion(sim)) * WAIT_SCALE)
    cluster[5] = clip(np.log1p(min(shadow_time - now, 1e9)) * WAIT_SCALE) if head < queued else 0.0
    cluster[6] = min(1.0, gpus_of(sim, sim.queue[head]) / size) if head < queued else 0.0
    cluster[7] = demand / (demand + size)


@verb
def index_of(sim):
    """Free nodes by wholly free GPUs, now."""


@index_of.when(is_lean)
def _index_of_lean(sim):
    return sim.space


@index_of.when(is_full)
def _index_of_full(sim):
    return sim.space.levels


@verb
def free_share(sim):
    """GPUs free now, free parts of shared ones included."""


@free_share.when(is_lean)
def _free_share_lean(sim):
    free = 0
    for p in range(len(sim.space.total)):
        free += sim.space.total[p]
    return float(free)


@free_share.when(is_full)
def _free_share_full(sim):
    free, room = 0.0, sim.space.room
    for node in range(len(room.loose)):
        if room.closed[node] == 0:
            free += room.loose[node] / WHOLE
    return free


@verb
def gpus_of(sim, job):
    """GPUs a job asks for, a share as its fraction."""


@gpus_of.when(is_lean)
def _gpus_of_lean(sim, job):
    return float(sim.jobs.gpus[job])


@gpus_of.when(is_full)
def _gpus_of_full(sim, job):
    return size_of(sim, job)


@verb
def believed_left(sim, job):
    """Seconds that a waiting job would run now, as believed; NaN: unknown."""


@believed_left.when(is_lean)
def _believed_left_lean(sim, job):
    return sim.jobs.known[job]


@believed_left.when(is_full)
def _believed_left_full(sim, job):
    # In the way it would get first: on its fastest GPUs.
    fastest = sim.choices.guess[sim.choices.ptr[sim.jobs.cls[job]]]
    left = sim.jobs.known[job] - sim.detail.done[job]
    return left if np.isnan(left) else max(0.0, left) / fastest


@inner
def until_expected_completion(sim):
    """Seconds until a running job is expected to end, by the run times the scheduler believes.

    1e9 with nothing running, 0 where run times are unknown. True ends would show the
    agent what predictions cannot know.
    """
    if sim.counts[RUNNING] == 0:
        return 1e9
    first = sim.expected[0]
    if np.isnan(sim.jobs.known[first]):
        return 0.0
    return min(max(sim.believed[first] - sim.clock[NOW], 0.0), 1e9)


@inner
def job_features(row, position, free, size, shadow_time, can_start, out):
    """The features of JOB_FEATURES for one visible job; unknown run times are 0."""
    sim, head = row.sim, row.episode.mark[HEAD]
    job, now = sim.queue[position], sim.clock[NOW]
    gpus = gpus_of(sim, job)
    wait = now - sim.jobs.submit[job]
    known = believed_left(sim, job)
    unknown = np.isnan(known)
    run = 0.0 if unknown else known
    # A job that can start and does not fit suspends others.
    here = fits_here(row, job)
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
    out[10] = 1.0 if not unknown and now + run <= shadow_time else 0.0
    out[11] = left_on_node(sim, job) if here else 1.0


@inner
def left_on_node(sim, job):
    """Share of a node's GPUs left free beside the job's partly used node, on the tightest node of its pools."""
    c, index = sim.jobs.cls[job], index_of(sim)
    best = 1.0
    for k in range(sim.choices.ptr[c], sim.choices.ptr[c + 1]):
        p = sim.choices.pool[k]
        cap = sim.cluster.pool_cap[p]
        if cap == 0:
            continue
        rest = sim.jobs.gpus[job] % cap
        if rest == 0:
            return 0.0
        for f in range(rest, cap + 1):
            if index.level[p, f] > 0:
                best = min(best, (f - rest) / cap)
                break
    return best


@kernel
def clip(x):
    return min(1.0, max(0.0, x))
