"""What an agent in index form sees, compiled: the whole world in a fixed number of features, all in [0, 1].

Waiting and running jobs are summed by size and by attained service, so nothing depends on their order or number. Nothing
here shows anything of run times.
"""

from __future__ import annotations

import numpy as np

from rltune.compiled import inner, kernel
from rltune.core.market import WAITING_PER_GPU
from rltune.core.prices import has_market
from rltune.core.priorities import attained, size_of
from rltune.core.state import ARRIVED, NOW, QUEUED, RUNNING
from rltune.rl.rows import row_at

SIZES = (0.0, 2.0, 4.0, 8.0)
"""GPUs from which a size class begins; shares and slices are in the first."""
SERVED_GPU_S = (0.0, 600.0, 7_200.0, 86_400.0)
"""GPU-seconds of attained service from which a class begins."""
POOLS = 4
"""Pools that are seen one by one, as the cluster lists them; the last place is for all further ones: free of all, the dearest."""
HOURS = (1.0, 4.0, 24.0)
"""Over which arrivals are counted."""
HOUR_S, DAY_S, WEEK_S, MONTH_S = 3600.0, 86_400.0, 604_800.0, 30 * 86_400.0
CELLS = len(SIZES) * len(SERVED_GPU_S)
QUEUE_AT, RUNNING_AT = 0, CELLS
WAITS_AT = 2 * CELLS
FREE_AT = WAITS_AT + 4
DUALS_AT, PRICES_AT = FREE_AT + POOLS, FREE_AT + 2 * POOLS
CLOCK_AT = FREE_AT + 3 * POOLS
ARRIVALS_AT = CLOCK_AT + 4
WIDTH = ARRIVALS_AT + 2 * len(HOURS)


def feature_names() -> tuple[str, ...]:
    """(61,) in the order of an observation."""
    cells = [f"{size:g} GPUs, {served:g} GPU-s" for size in SIZES for served in SERVED_GPU_S]
    pools = [f"{what} {p}" for what in ("free", "dual", "price") for p in range(POOLS)]
    return (
        *(f"waiting {cell}" for cell in cells),
        *(f"running {cell}" for cell in cells),
        "longest_wait", "mean_wait", "waiting_per_gpu", "waiting_per_gpu_mean",
        *pools,
        "day_sin", "day_cos", "week_sin", "week_cos",
        *(f"{what} in {hours:g} h" for hours in HOURS for what in ("jobs", "gpus")),
    )  # fmt: skip


FEATURES = feature_names()


@kernel
def observe_world(sim, out):
    """Write the features (61,) of a state."""
    out[:] = 0.0
    gpus = see_pools(sim, out)
    see_jobs(sim, gpus, out)
    see_clock(sim, out)
    see_arrivals(sim, gpus, out)


@kernel
def observe_row(batch, i, out):
    """The same for row i, into ``out[i]``."""
    observe_world(row_at(batch, i).sim, out[i])


@inner
def squash(x):
    """From [0, infinity) to [0, 1)."""
    return x / (1.0 + x)


@inner
def class_of(bounds, x):
    """The last class that begins at or below ``x``."""
    k = len(bounds) - 1
    while k > 0 and x < bounds[k]:
        k -= 1
    return k


@inner
def see_pools(sim, out):
    """Free GPUs, duals and prices by pool; returns GPUs of open nodes, at least 1."""
    cluster, room, levels = sim.cluster, sim.space.room, sim.space.levels
    total, free, cap = 0.0, 0.0, 0.0
    for p in range(len(cluster.pool_cap)):
        place = min(p, POOLS - 1)
        if p < POOLS:
            free, cap = 0.0, 0.0
        for node in range(cluster.pool_lo[p], cluster.pool_hi[p]):
            if room.closed[node] == 0:
                free += levels.free[node]
                cap += cluster.pool_cap[p]
                total += cluster.pool_cap[p]
        out[FREE_AT + place] = free / cap if cap > 0.0 else 0.0
        if has_market(sim):
            out[DUALS_AT + place] = max(out[DUALS_AT + place], squash(sim.detail.market.dual[p]))
            out[PRICES_AT + place] = max(out[PRICES_AT + place], squash(sim.detail.market.price[p]))
    return max(total, 1.0)


@inner
def see_jobs(sim, gpus, out):
    """Waiting and running jobs by size and attained service, in GPUs a GPU; waits."""
    now, longest, total = sim.clock[NOW], 0.0, 0.0
    for k in range(sim.counts[QUEUED]):
        job = sim.queue[k]
        out[QUEUE_AT + cell_of(sim, job)] += size_of(sim, job) / gpus
        waited = now - sim.detail.since[job]
        longest, total = max(longest, waited), total + waited
    for k in range(sim.counts[RUNNING]):
        job = sim.active[k]
        out[RUNNING_AT + cell_of(sim, job)] += size_of(sim, job) / gpus
    for k in range(2 * CELLS):
        out[k] = squash(out[k])
    n = sim.counts[QUEUED]
    out[WAITS_AT] = log_time(longest)
    out[WAITS_AT + 1] = log_time(total / n) if n > 0 else 0.0
    out[WAITS_AT + 2] = squash(n / gpus)
    if has_market(sim):
        out[WAITS_AT + 3] = squash(sim.detail.market.clock[WAITING_PER_GPU])


@inner
def log_time(seconds):
    """On a logarithmic scale up to a month."""
    return min(1.0, np.log1p(seconds) / np.log1p(MONTH_S))


@inner
def cell_of(sim, job):
    """The class of size and attained service of a job."""
    return len(SERVED_GPU_S) * class_of(SIZES, size_of(sim, job)) + class_of(SERVED_GPU_S, attained(sim, job))


@inner
def see_clock(sim, out):
    """Hour of the day and of the week, each as a point on a circle."""
    for k, period in enumerate((DAY_S, WEEK_S)):
        turn = 2.0 * np.pi * sim.clock[NOW] / period
        out[CLOCK_AT + 2 * k] = 0.5 + 0.5 * np.sin(turn)
        out[CLOCK_AT + 2 * k + 1] = 0.5 + 0.5 * np.cos(turn)


@inner
def see_arrivals(sim, gpus, out):
    """Jobs, and GPUs they ask for, that came in the last hours, a GPU."""
    now, job = sim.clock[NOW], sim.counts[ARRIVED] - 1
    jobs, asked, k = 0.0, 0.0, 0
    while k < len(HOURS):
        while job >= 0 and sim.jobs.submit[job] > now - HOURS[k] * HOUR_S:
            jobs += 1.0
            asked += sim.jobs.gpus[job]
            job -= 1
        out[ARRIVALS_AT + 2 * k] = squash(jobs / gpus)
        out[ARRIVALS_AT + 2 * k + 1] = squash(asked / gpus)
        k += 1
