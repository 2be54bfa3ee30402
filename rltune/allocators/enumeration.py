"""Whether a plan that starts a few jobs in one pool can be beaten, by trying every way: often no solver is needed."""

from __future__ import annotations

import numpy as np

from rltune.allocators.arcflow import EPS, Problem, rise_range
from rltune.compiled import kernel

MOST_TRIES = 20_000
"""Steps of the search, a few nanoseconds each, before it is left to the solver (which takes milliseconds)."""
NONE, BETTER, UNKNOWN = range(3)


def proves_best(problem: Problem, rise: float) -> bool:
    """Whether no plan of the model starts all jobs with a smaller rise; False also where the search says nothing.

    It says nothing for several pools, where starting all jobs is not best, and beyond
    ``MOST_TRIES``. Whole-node parts need idle nodes and cost the same on any of them; what is
    tried are the free counts that the jobs' rest parts meet, one after the other.
    """
    if len(problem.caps) != 1 or any(pools != (0,) for _, pools in problem.jobs):
        return False
    cap, cost = problem.caps[0], np.array(problem.cost[0])
    rests = np.array(sorted((gpus % cap for gpus, _ in problem.jobs if gpus % cap), reverse=True), np.int64)
    whole = sum(gpus // cap for gpus, _ in problem.jobs)
    count = np.array(problem.count[0], np.int64)
    ranges = [rise_range(problem.cost, problem.caps, gpus, 0, -1) for gpus, _ in problem.jobs]
    span = sum(high - low for low, high in ranges)
    if count[cap] < whole or problem.weight * span >= min(problem.values):
        return False
    count[cap] -= whole
    budget = rise - whole * (cost[0] - cost[cap]) - EPS / max(problem.weight, EPS)
    n = len(rests)
    work = np.zeros(n + 1), np.zeros(n, np.int64), np.zeros(1, np.int64)
    return bool(search(count, cost, rests, n, budget, *work) == NONE)


@kernel
def search(count, cost, parts, n, budget, floor, choice, tries):
    """Whether ``parts[:n]`` fit on nodes counted by free GPUs, ``count`` (cap + 1,), for less than ``budget``.

    Depth first, without recursion (Numba's disk cache does not take it). ``floor`` (n + 1,),
    ``choice`` (n,), ``tries`` (1,): work space; ``count`` is spent.
    """
    # The least that the parts from each on can cost, whatever they meet.
    floor[n] = 0.0
    for k in range(n - 1, -1, -1):
        least = np.inf
        for free in range(parts[k], len(count)):
            least = min(least, cost[free - parts[k]] - cost[free])
        floor[k] = floor[k + 1] + least
    tries[0] = 0
    if floor[0] >= budget:
        return NONE
    if n == 0:
        return BETTER
    spent, at = 0.0, 0
    choice[0] = parts[0] - 1
    while at >= 0:
        part, free = parts[at], choice[at]
        if free >= part:
            count[free] += 1
            count[free - part] -= 1
            spent -= cost[free - part] - cost[free]
        free += 1
        while free < len(count) and count[free] <= 0:
            free += 1
        if free >= len(count):
            at -= 1
            continue
        tries[0] += 1
        if tries[0] > MOST_TRIES:
            return UNKNOWN
        choice[at] = free
        count[free] -= 1
        count[free - part] += 1
        spent += cost[free - part] - cost[free]
        if spent + floor[at + 1] >= budget:
            continue
        if at + 1 == n:
            return BETTER
        at += 1
        choice[at] = parts[at] - 1
    return NONE
