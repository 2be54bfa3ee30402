"""Prices as time goes on, and what they make of the ways of each class: the kernels of `rltune.core.market`.

Reads the queue, running jobs, choices and open nodes; writes ``sim.detail.market``.
"""

from __future__ import annotations

import numpy as np

from rltune.compiled import inner, kernel
from rltune.core.market import (
    BLUR,
    CHANGES,
    CROWD,
    EVERY_S,
    FLOOR,
    FRESH,
    MEMORY,
    MOST_STEPS,
    NEXT,
    PATIENCE,
    REFUSAL,
    STEP,
    WAITING_PER_GPU,
)
from rltune.core.state import NOW, QUEUED, RUNNING

CLOSED = 1e6
"""Price of a pool whose nodes are all closed: no class has its cheapest way there."""
HOUR_S = 3600.0
MEASURED_S = 60.0
"""How long a job runs until its speed there has been measured: of training jobs some hundred iterations."""


@inner
def has_market(sim):
    """Whether ways are chosen by price (full build)."""
    return len(sim.detail.market.knobs) > 0


@kernel
def open_market(sim):
    """Even prices, at time zero."""
    market = sim.detail.market
    market.dual[:] = 1.0
    market.total[:] = 0.0
    market.clock[:] = 0.0
    market.clock[NEXT] = sim.clock[NOW] + EVERY_S
    count_present(sim)
    set_prices(sim)


@inner
def trade(sim):
    """Change prices where their time has come."""
    market, now = sim.detail.market, sim.clock[NOW]
    market.clock[FRESH] = 0.0
    if now < market.clock[NEXT]:
        return
    market.clock[FRESH] = 1.0
    steps = min(MOST_STEPS, 1 + int((now - market.clock[NEXT]) / EVERY_S))
    market.clock[NEXT] = now + EVERY_S
    gpus = count_present(sim)
    crowd = sim.counts[QUEUED] / max(gpus, 1.0)
    market.clock[WAITING_PER_GPU] += (1.0 - (1.0 - MEMORY) ** steps) * (crowd - market.clock[WAITING_PER_GPU])
    for _ in range(steps):
        change_duals(sim, gpus)
        set_prices(sim)
    market.clock[CHANGES] += 1.0
    for p in range(len(market.price)):
        market.total[p] += market.price[p]


@inner
def count_present(sim):
    """Waiting and running jobs of each class, since when the first of them waits, GPUs of open nodes: those of all pools.

    On the way speeds are learned of running jobs, where they are.
    """
    market, room = sim.detail.market, sim.space.room
    market.present[:] = 0
    market.longest[:] = sim.clock[NOW]
    for k in range(sim.counts[QUEUED]):
        job = sim.queue[k]
        c = sim.jobs.cls[job]
        market.present[c] += 1
        market.longest[c] = min(market.longest[c], sim.detail.since[job])
    for k in range(sim.counts[RUNNING]):
        market.present[sim.jobs.cls[sim.active[k]]] += 1
        if sim.params.learns_speed:
            learn_speed(sim, sim.active[k])
    gpus = 0.0
    market.capacity[:] = 0.0
    for node in range(len(room.closed)):
        if room.closed[node] == 0:
            p = sim.cluster.node_pool[node]
            market.capacity[p] += sim.cluster.pool_cap[p]
            gpus += sim.cluster.pool_cap[p]
    return gpus


@inner
def learn_speed(sim, job):
    """The speed of the job's present way is known from now on, if it has run there for long enough, and of all alike."""
    choices, q = sim.choices, sim.detail.way[job]
    if choices.guess[q] == choices.rate[q] or sim.clock[NOW] - sim.detail.ready[job] < MEASURED_S:
        return
    for k in range(len(choices.guess)):
        if choices.alike[k] == choices.alike[q]:
            choices.guess[k] = choices.rate[k]


@inner
def cost_of(sim, q):
    """Job-seconds a second of work by choice q, at present prices."""
    market, choices = sim.detail.market, sim.choices
    return (1.0 + market.share[choices.way[q]] * market.price[choices.pool[q]]) / choices.guess[q]


@inner
def accepts(sim, job, q):
    """Whether a job accepts choice q at present prices; without a market it does."""
    if not has_market(sim):
        return True
    market, c = sim.detail.market, sim.jobs.cls[job]
    last = sim.choices.ptr[c] + market.upto[c] - 1
    return market.excess[q] <= market.excess[market.rank[last]]


@inner
def change_duals(sim, gpus):
    """A step towards prices at which all pools are wanted alike."""
    market, choices, total = sim.detail.market, sim.choices, 0.0
    market.demand[:] = 0.0
    for c in range(len(market.present)):
        lo, hi = choices.ptr[c], choices.ptr[c + 1]
        if market.present[c] == 0 or lo == hi:
            continue
        # The class spreads its demand over ways of nearly the least cost, as a soft minimum.
        weights = 0.0
        for q in range(lo, hi):
            weights += np.exp(-market.excess[q] / BLUR)
        for q in range(lo, hi):
            part = market.present[c] * np.exp(-market.excess[q] / BLUR) / weights
            # A slow way keeps its GPUs longer.
            wanted = part * market.share[choices.way[q]] / choices.guess[q]
            market.demand[choices.pool[q]] += wanted
            total += wanted
    if total == 0.0:
        return
    mean, level = total / max(gpus, 1.0), 0.0
    for p in range(len(market.dual)):
        if market.capacity[p] > 0.0:
            over = market.demand[p] / market.capacity[p] / mean - 1.0
            market.dual[p] *= np.exp(market.knobs[STEP] * min(1.0, over))
            level += market.dual[p] * market.capacity[p] / gpus
    # Relative to the mean over all GPUs: how dear GPUs are at all is another matter.
    for p in range(len(market.dual)):
        market.dual[p] /= max(level, 1e-12)


@inner
def set_prices(sim):
    """Prices from duals and the crowd; costs of all choices, their order, and what each class accepts."""
    market, choices = sim.detail.market, sim.choices
    level = market.knobs[FLOOR] + market.knobs[CROWD] * market.clock[WAITING_PER_GPU]
    for p in range(len(market.price)):
        market.price[p] = level * market.dual[p] if market.capacity[p] > 0.0 else CLOSED
    for c in range(len(market.upto)):
        lo, hi = choices.ptr[c], choices.ptr[c + 1]
        for q in range(lo, hi):
            market.excess[q] = cost_of(sim, q)
            # Insertion: a class has few ways. Of equally dear ones the faster goes first, as the choices do.
            at = q
            while at > lo and market.excess[q] < market.excess[market.rank[at - 1]]:
                market.rank[at] = market.rank[at - 1]
                at -= 1
            market.rank[at] = q
        waits = (sim.clock[NOW] - market.longest[c]) / HOUR_S
        limit = market.knobs[REFUSAL] + market.knobs[PATIENCE] * waits
        accepted, least = 0, market.excess[market.rank[lo]] if lo < hi else 1.0
        for k in range(lo, hi):
            q = market.rank[k]
            market.excess[q] = market.excess[q] / least - 1.0
            accepted += 1 if market.excess[q] <= limit else 0
        market.upto[c] = accepted
