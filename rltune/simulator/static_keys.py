"""Keys of a static order for jobs that come one by one."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import numpy as np

from rltune.core.state import Sim
from rltune.nouns.plan import Queue
from rltune.simulator.requests import Live

GAP = float(1 << 20)
"""Between neighbouring keys, so that many jobs can be put between them."""


class StaticKeys:
    """Numbers between those of the neighbours in the order.

    ``keys``: of `rltune.policies.orders.Order`. Jobs with equal keys stand in order of arrival.
    """

    def __init__(self, keys: Any) -> None:
        self._keys = keys
        self._sorted: list[tuple[float, ...]] = []
        self._number: list[float] = []
        self._rows: dict[int, tuple[float, ...]] = {}

    def place(self, sim: Sim, jobs: Sequence[Live]) -> None:
        """Write the keys of jobs into their rows."""
        mine = self._keys_of(jobs)
        self._rows.update(zip([one.row for one in jobs], mine, strict=True))
        if len(jobs) > 1 or not self._sorted:
            self._sorted = sorted({*self._sorted, *mine})
            self._number_anew(sim)
            return
        at = bisect_left(self._sorted, mine[0])
        if at == len(self._sorted) or self._sorted[at] != mine[0]:
            low = self._number[at - 1] if at else self._number[0] - 2 * GAP
            high = self._number[at] if at < len(self._number) else low + 2 * GAP
            between = (low + high) / 2
            self._sorted.insert(at, mine[0])
            self._number.insert(at, between)
            if not low < between < high:
                self._number_anew(sim)
        sim.key[jobs[0].row] = self._number[at]

    def _number_anew(self, sim: Sim) -> None:
        """Even gaps again; the order stays."""
        self._number = [GAP * k for k in range(len(self._sorted))]
        of_key = dict(zip(self._sorted, self._number, strict=True))
        sim.key[list(self._rows)] = [of_key[key] for key in self._rows.values()]

    def _keys_of(self, jobs: Sequence[Live]) -> list[tuple[float, ...]]:
        n = len(jobs)
        if not n:
            return []
        none = np.zeros(n, np.int64)
        queue = Queue(
            job=none, submit_s=np.array([one.submit_s for one in jobs]), run_s=np.array([one.known_s for one in jobs]),
            num_gpus=np.array([one.request.gpus for one in jobs], np.int64), wait_s=np.zeros(n),
            priority=np.array([one.request.priority for one in jobs]), pool_lo=none, pool_hi=none, pools=none,
        )  # fmt: skip
        keys = self._keys(queue)
        columns = [np.asarray(key, np.float64).tolist() for key in (keys if isinstance(keys, tuple) else (keys,))]
        return list(zip(*columns, strict=True))
