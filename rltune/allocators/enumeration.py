"""Whether the places of a few jobs in one pool can be bettered, by trying every way: often no solver is needed."""

from __future__ import annotations

import numpy as np

from rltune.compiled import kernel

MOST_TRIES = 20_000
"""Steps of the search, a few nanoseconds each, before it is left to the solver (which takes milliseconds)."""
NONE, BETTER, UNKNOWN = range(3)


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
