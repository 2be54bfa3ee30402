"""Upper bound on what any placement could allocate of a list of requests, all of which are known and none obliges.

The fluid relaxation: kinds of jobs are split over pools as if they were a liquid; CPU and memory are those of the
whole pool. What stays of the shape of things: a GPU holds shares that together make at most one GPU, or one whole GPU
(GPU patterns by column generation, Gilmore and Gomory 1961), and a node holds as many wide gangs as its GPUs are a multiple of theirs.
"""

from __future__ import annotations

from collections.abc import Sequence

import highspy
import numpy as np
import numpy.typing as npt

from rltune.core.resources.fractional_value import packed, pattern
from rltune.core.resources.fragments import TaskTypes, task_types, type_of
from rltune.nouns.cluster import Cluster, ClusterArrays
from rltune.nouns.errors import InputError
from rltune.nouns.jobs import WHOLE, JobTable

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

TOLERANCE = 1e-6
"""Least value of a new pattern per GPU, in GPUs; what is left below it is added to the bound."""


def most_allocated(jobs: JobTable, cluster: Cluster, order: npt.ArrayLike) -> float:
    """No placement of the requests ``order`` (n,), rows of ``jobs``, holds more than this share of the cluster's GPUs.

    Raises:
        InputError: a job with a MIG profile, for which the patterns are not known.
    """
    types = task_types(jobs, cluster)
    if (types.demand.profile >= 0).any():
        raise InputError("the bound knows whole GPUs and shares, not MIG profiles; leave those jobs out")
    wanted = np.bincount(type_of(jobs, cluster)[np.asarray(order)], minlength=len(types.share))
    relaxation = _Relaxation(types, cluster.arrays(), wanted)
    return min(1.0, relaxation.solve() / cluster.gpus)


class _Relaxation:
    """The linear program; amounts in GPUs.

    Rows: jobs of each type; then by pool GPUs, CPU, memory, GPUs by gangs of each width, shares of each size.
    """

    def __init__(self, types: TaskTypes, arrays: ClusterArrays, wanted: Ints) -> None:
        demand, self.nodes = types.demand, arrays.pool_hi - arrays.pool_lo
        self.gpus = self.nodes * arrays.pool_cap
        self.sizes = np.unique(demand.milli[(demand.milli > 0) & (demand.milli < WHOLE)])
        self.widths = np.unique(demand.gpus[demand.milli == WHOLE])
        self.types, pools = len(wanted), len(self.nodes)
        self.lp = highspy.Highs()
        self.lp.setOptionValue("output_flag", False)
        self.lp.setOptionValue("threads", 1)
        self.lp.changeObjectiveSense(highspy.ObjSense.kMaximize)
        upper: list[float] = [*wanted.astype(float)]
        for p in range(pools):
            upper += [self.gpus[p], self.nodes[p] * arrays.pool_cpus[p], self.nodes[p] * arrays.pool_memory[p]]
            # Gangs wider than a node fill nodes; of narrower ones as many as fit side by side.
            cap = int(arrays.pool_cap[p])
            upper += [float(self.nodes[p] * (cap // g)) if g <= cap else np.inf for g in self.widths.tolist()]
            upper += [0.0] * len(self.sizes)
        for bound in upper:
            self.lp.addRow(-np.inf, float(bound), 0, np.empty(0, np.int32), np.empty(0))
        for k, p in zip(*np.nonzero(types.allowed * (wanted * demand.milli > 0)[:, None]), strict=True):
            self._add_job(types, int(k), int(p))
        for pool in np.flatnonzero(self.gpus):
            for s, size in enumerate(self.sizes):
                self._add_pattern(int(pool), np.where(np.arange(len(self.sizes)) == s, WHOLE // size, 0))

    def _first(self, p: int) -> int:
        return self.types + p * (3 + len(self.widths) + len(self.sizes))

    def _add_job(self, types: TaskTypes, k: int, p: int) -> None:
        """Variable: how many jobs of type k are in pool p."""
        demand, base = types.demand, self._first(p)
        rows, values = [k, base + 1, base + 2], [1.0, float(demand.cpus[k]), float(demand.memory[k])]
        if demand.milli[k] == WHOLE:
            rows += [base, base + 3 + int(np.searchsorted(self.widths, demand.gpus[k]))]
            values += [float(demand.gpus[k]), 1.0]
        else:
            rows.append(base + 3 + len(self.widths) + int(np.searchsorted(self.sizes, demand.milli[k])))
            values.append(1.0)
        self._add(float(demand.gpus[k] * demand.milli[k]) / WHOLE, rows, values)

    def _add_pattern(self, p: int, count: Ints) -> None:
        """Variable: how many GPUs of pool p offer ``count[s]`` shares of size s."""
        base, sizes = self._first(p), np.flatnonzero(count)
        self._add(0.0, [base, *(base + 3 + len(self.widths) + sizes)], [1.0, *(-count[sizes].astype(float))])

    def _add(self, value: float, rows: Sequence[int], values: Sequence[float]) -> None:
        self.lp.addCol(value, 0.0, np.inf, len(rows), np.array(rows, np.int32), np.array(values))

    def solve(self) -> float:
        """GPUs allocated, with a margin for patterns that are still worth less than ``TOLERANCE``."""
        while True:
            self.lp.run()
            value, dual = self.lp.getInfo().objective_function_value, np.array(self.lp.getSolution().row_dual)
            if not len(self.sizes):
                return float(value)
            margin, added = 0.0, False
            for p, (gain, count) in self._best_patterns(dual).items():
                margin += float(self.gpus[p]) * max(0.0, gain)
                if gain > TOLERANCE:
                    self._add_pattern(p, count)
                    added = True
            if not added:
                return float(value) + margin

    def _best_patterns(self, dual: Floats) -> dict[int, tuple[float, Ints]]:
        """Pool -> value of the best pattern above the price of a GPU, and its shares: knapsacks of all pools at once."""
        pools = np.flatnonzero(self.gpus)
        first = np.array([self._first(int(p)) for p in pools])
        price = np.maximum(0.0, dual[first[:, None] + 3 + len(self.widths) + np.arange(len(self.sizes))])
        best, chosen, _ = packed(self.sizes, price.T)
        return {
            int(p): (float(best[-1, i] - dual[first[i]]), pattern(self.sizes, chosen[:, i]))
            for i, p in enumerate(pools)
        }
