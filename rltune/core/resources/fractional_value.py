"""What the free part of a GPU is worth to shares, if a workload's shares were packed as well as possible.

Bin packing by patterns (Gilmore and Gomory 1961): as few GPUs as possible hold the shares in the proportions of the
workload. The prices of that linear program say which part of a GPU a share of each size costs: two of 480 thousandths
half a GPU each, one of 810 that leaves nothing of use a whole one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rltune.nouns.jobs import WHOLE

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

TOLERANCE = 1e-9


def share_worth(milli: npt.ArrayLike, share: npt.ArrayLike) -> Floats:
    """(WHOLE + 1,) worth in GPUs of so many free thousandths of one GPU, for shares ``milli`` in proportions ``share``.

    Ascends from 0; a wholly free GPU is worth 1, as other jobs use it too.
    """
    sizes, kind = np.unique(np.asarray(milli, np.int64), return_inverse=True)
    worth = np.zeros(WHOLE + 1)
    if len(sizes):
        best, _, unit = packed(
            sizes, _prices(sizes, np.bincount(kind, np.asarray(share, np.float64)).astype(np.float64))[:, None]
        )
        worth = np.repeat(best[:, 0], unit)[: WHOLE + 1]
    worth[WHOLE] = 1.0
    return np.minimum(worth, 1.0)


def _prices(sizes: Ints, share: Floats) -> Floats:
    """Price of each size, in GPUs: the most that the workload can cost while no pattern costs more than one GPU."""
    # Loading the solver takes longer than this program; most simulations do without.
    from scipy.optimize import linprog

    patterns = [np.where(np.arange(len(sizes)) == s, WHOLE // size, 0) for s, size in enumerate(sizes)]
    while True:
        price = linprog(-share, A_ub=np.array(patterns), b_ub=np.ones(len(patterns)), bounds=(0, None)).x
        best, chosen, _ = packed(sizes, price[:, None])
        if best[-1, 0] <= 1 + TOLERANCE:
            return np.asarray(price, np.float64)
        patterns.append(pattern(sizes, chosen[:, 0]))


def packed(sizes: Ints, price: Floats) -> tuple[Floats, Ints, int]:
    """Most valuable shares on one GPU at several ``price`` lists (n_sizes, n): knapsacks, all at once.

    Returns the value (m, n) of a room of 0, 1, ... units, the size put in last (-1: none), and the thousandths of a unit.
    """
    unit = int(np.gcd.reduce([WHOLE, *sizes]))
    steps = sizes // unit
    best = np.zeros((WHOLE // unit + 1, price.shape[1]))
    chosen = np.full(best.shape, -1)
    for room in range(int(steps[0]), len(best)):
        fitting = int(np.searchsorted(steps, room, side="right"))
        values = best[room - steps[:fitting]] + price[:fitting]
        chosen[room], best[room] = values.argmax(axis=0), values.max(axis=0)
    return best, chosen, unit


def pattern(sizes: Ints, chosen: Ints) -> Ints:
    """(n_sizes,) shares of each size on a whole GPU, from one column of ``packed``'s choices."""
    count, room = np.zeros(len(sizes), np.int64), len(chosen) - 1
    unit = WHOLE // room
    while chosen[room] >= 0:
        count[chosen[room]] += 1
        room -= int(sizes[chosen[room]]) // unit
    return count
