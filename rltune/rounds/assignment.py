"""Which jobs run on which GPU type: the most total value within each type's GPUs. Compiled.

Single-GPU jobs: exact, by inserting one job after the other along the best chain of moves between types (successive
longest paths; with three types a chain has at most three moves). Gangs: the same with every gang split into single GPUs
gives the price of a GPU of each type (the duals of that relaxation); gangs are then placed in order of value a GPU above
price, and improved by moves, exchanges and evictions until none helps; beside the integer program:
experiments/gavel.py --exactness.
"""

from __future__ import annotations

import numpy as np

from rltune.compiled import compiled

NEVER = -1e300
TINY = 1e-12
SWEEPS = 20
"""Rounds of improvement at most; three or four are usual."""


@compiled
def assign(value, gpus, workers, where):
    """Fill ``where`` (n,) with a type or -1. ``value`` (n, types) of running, not above 0: cannot; (types,) ``workers`` GPUs."""
    if gpus.sum() == len(gpus):
        assign_singles(value, workers, where)
    else:
        assign_gangs(value, gpus, workers, where)


@compiled
def assign_singles(value, workers, where):
    """Exact, for jobs of one GPU."""
    n, types = value.shape
    held = np.zeros((types, workers.max()), np.int64)
    count = np.zeros(types, np.int64)
    gain, via = np.zeros((types, types + 1)), np.zeros((types, types + 1), np.int64)
    reach, before = np.zeros(types), np.zeros(types, np.int64)
    where[:] = -1
    for job in range(n):
        best_moves(value, workers, held, count, gain, via)
        # The most that the chain of moves to each type is worth, the job's own value first.
        for a in range(types):
            reach[a], before[a] = value[job, a] if value[job, a] > 0.0 else NEVER, -1
        for _ in range(types):
            for a in range(types):
                for b in range(types):
                    if a != b and reach[a] + gain[a, b] > reach[b] + TINY * abs(reach[b]):
                        reach[b], before[b] = reach[a] + gain[a, b], a
        most, end = 0.0, -1
        for a in range(types):
            if reach[a] + gain[a, types] > most:
                most, end = reach[a] + gain[a, types], a
        if end >= 0:
            move_along(job, end, held, count, workers, via, before, where)


@compiled
def best_moves(value, workers, held, count, gain, via):
    """The best single move from each type to each other, and out of it (last column; 0 where a GPU is free)."""
    types = len(workers)
    for a in range(types):
        for b in range(types + 1):
            gain[a, b] = NEVER
            if a == b:
                continue
            if b == types and count[a] < workers[a]:
                gain[a, b] = 0.0
                continue
            for k in range(count[a]):
                job = held[a, k]
                if b < types and value[job, b] <= 0.0:
                    continue
                more = (value[job, b] if b < types else 0.0) - value[job, a]
                if more > gain[a, b]:
                    gain[a, b], via[a, b] = more, k


@compiled
def move_along(job, end, held, count, workers, via, before, where):
    """Carry out a chain of moves that ends on a type: who leaves it, who comes from the type before, and at last the job."""
    types = len(workers)
    if count[end] < workers[end]:
        hole = count[end]
        count[end] += 1
    else:
        hole = via[end, types]
        where[held[end, hole]] = -1
    at = end
    for _ in range(types):
        if before[at] < 0:
            break
        last = before[at]
        moved = held[last, via[last, at]]
        held[at, hole] = moved
        where[moved] = at
        hole, at = via[last, at], last
    held[at, hole] = job
    where[job] = at


@compiled
def assign_gangs(value, gpus, workers, where):
    """Near the most value, for gangs; each stands on one type."""
    n, types = value.shape
    prices = gpu_prices(value, gpus, workers)
    surplus = np.empty(n)
    for job in range(n):
        surplus[job] = NEVER
        for kind in range(types):
            if value[job, kind] > 0.0:
                surplus[job] = max(surplus[job], value[job, kind] / gpus[job] - prices[kind])
    free = workers.copy()
    where[:] = -1
    for job in np.argsort(-surplus):
        most = -TINY
        for kind in range(types):
            over = value[job, kind] / gpus[job] - prices[kind]
            if value[job, kind] > 0.0 and free[kind] >= gpus[job] and over > most:
                most, where[job] = over, kind
        if where[job] >= 0:
            free[where[job]] -= gpus[job]
    for _ in range(SWEEPS):
        better = False
        for job in range(n):
            better = improve(value, gpus, free, where, job) or better
        if not better:
            break


@compiled
def gpu_prices(value, gpus, workers):
    """(types,) what one more GPU of each type would be worth, if gangs could be split."""
    n, types = value.shape
    each, of = np.empty((gpus.sum(), types)), 0
    for job in range(n):
        for _ in range(gpus[job]):
            each[of] = value[job] / gpus[job]
            of += 1
    where, count = np.empty(of, np.int64), np.zeros(types, np.int64)
    assign_singles(each, workers, where)
    gain = np.full((types, types), NEVER)
    price = np.full(types, np.inf)
    for k in range(of):
        a = where[k]
        if a >= 0:
            count[a] += 1
            price[a] = min(price[a], each[k, a])
            for b in range(types):
                if b != a and each[k, b] > 0.0:
                    gain[a, b] = max(gain[a, b], each[k, b] - each[k, a])
    for a in range(types):
        if count[a] < workers[a]:
            price[a] = 0.0
    # A GPU of a type is worth no more than moving its cheapest occupant to another and paying there.
    for _ in range(types):
        for a in range(types):
            for b in range(types):
                if a != b and gain[a, b] > NEVER:
                    price[a] = min(price[a], price[b] - gain[a, b])
    return price


@compiled
def improve(value, gpus, free, where, job):
    """Move one job to where most is gained: room, another job's place, or that of several smaller ones. Whether it moved."""
    n, types = value.shape
    now = value[job, where[job]] if where[job] >= 0 else 0.0
    least = TINY * max(1.0, now)
    most, to, other = least, -1, -1
    for kind in range(types):
        if kind == where[job] or value[job, kind] <= 0.0:
            continue
        gain = value[job, kind] - now
        if free[kind] >= gpus[job]:
            if gain > most:
                most, to, other = gain, kind, -1
            continue
        for it in range(n):
            if where[it] == kind and free[kind] + gpus[it] >= gpus[job]:
                place, worth = second_place(value, gpus, free, where, it, job)
                if gain + worth - value[it, kind] > most:
                    most, to, other = gain + worth - value[it, kind], kind, it
        if gpus[job] > 1 and gain - evict(value, gpus, free, where, job, kind, False) > most:
            most, to, other = gain - evict(value, gpus, free, where, job, kind, False), kind, n
    if to < 0:
        return False
    place = -1
    if 0 <= other < n:
        place, worth = second_place(value, gpus, free, where, other, job)
    if where[job] >= 0:
        free[where[job]] += gpus[job]
        where[job] = -1
    if other == n:
        evict(value, gpus, free, where, job, to, True)
    elif other >= 0:
        free[to] += gpus[other]
        where[other] = place
        if place >= 0:
            free[place] -= gpus[other]
    where[job] = to
    free[to] -= gpus[job]
    return True


@compiled
def second_place(value, gpus, free, where, other, job):
    """Where a job would go that makes room for another one, which leaves its own place: (type or -1, value)."""
    place, most = -1, 0.0
    for kind in range(value.shape[1]):
        room = free[kind] + (gpus[job] if where[job] == kind else 0)
        if kind != where[other] and room >= gpus[other] and value[other, kind] > most:
            place, most = kind, value[other, kind]
    return place, most


@compiled
def evict(value, gpus, free, where, job, kind, really):
    """Value lost where smaller jobs leave a type to a gang, least value a GPU first; inf where that makes no room."""
    n = len(gpus)
    need, lost = gpus[job] - free[kind], 0.0
    gone = np.zeros(n, np.bool_)
    while need > 0:
        least, it = np.inf, -1
        for k in range(n):
            if where[k] == kind and not gone[k] and gpus[k] < gpus[job]:
                # GPUs beyond the need are of no use.
                each = value[k, kind] / min(gpus[k], need)
                if each < least:
                    least, it = each, k
        if it < 0:
            return np.inf
        gone[it] = True
        lost += value[it, kind]
        need -= gpus[it]
    if really:
        for k in range(n):
            if gone[k]:
                where[k] = -1
                free[kind] += gpus[k]
    return lost
