"""The GPUs of one type in a fleet, grouped by state."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

import numpy as np

from rltune.mig.geometry import Placement
from rltune.mig.online.states import StateTable

NONE = np.iinfo(np.int64).max
"""Lowest GPU number of a state that no GPU is in."""
Key = tuple[str, str]
"""Tenant and the name of its request (empty for the only one)."""


@dataclass(slots=True)
class Gpu:
    """``number`` in the fleet; ``state`` id of the tenants' instances; ``held``: the request that holds each; ``idle``:
    released instances that are not destroyed yet; ``empty_since`` in the fleet's clock, of no meaning while one is held."""

    number: int
    state: int = 0
    held: dict[Placement, Key] = field(default_factory=dict)
    idle: set[Placement] = field(default_factory=set)
    empty_since: float = 0.0


class Pool:
    """``counts`` and ``lowest`` GPU number by state, kept up to date as GPUs come, change and go."""

    def __init__(self, table: StateTable, limit: int | None) -> None:
        self.table, self.limit = table, limit
        self.clear()

    def clear(self) -> None:
        """No GPUs."""
        self.counts = np.zeros(len(self.table.states), np.int64)
        self.lowest = np.full(len(self.table.states), NONE, np.int64)
        self.gpus: dict[int, Gpu] = {}
        self.members: dict[int, set[int]] = {}
        self._heaps: dict[int, list[int]] = {}
        self.idle_at: dict[Placement, set[int]] = {}
        self.aside: set[int] = set()
        """Numbers of GPUs that nothing is to be placed on: as far as choices go, they are not there."""

    def set_aside(self, number: int) -> None:
        """Place nothing on a GPU until it is `take_in`; what is on it stays."""
        if number not in self.aside:
            self._leave(self.gpus[number])
            self.aside.add(number)

    def take_in(self, number: int) -> None:
        """Place on it again."""
        if number in self.aside:
            self.aside.discard(number)
            self._enter(self.gpus[number])

    def add(self, number: int, clock: float) -> Gpu:
        """A new, empty GPU."""
        gpu = self.gpus[number] = Gpu(number, empty_since=clock)
        self._enter(gpu)
        return gpu

    def remove(self, number: int) -> None:
        """An empty GPU goes."""
        self._leave(self.gpus.pop(number))
        self.aside.discard(number)

    def change(self, gpu: Gpu, state: int) -> None:
        """A GPU's state has changed."""
        self._leave(gpu)
        gpu.state = state
        self._enter(gpu)

    def keep_idle(self, gpu: Gpu, placement: Placement) -> None:
        """A released instance stays."""
        gpu.idle.add(placement)
        self.idle_at.setdefault(placement, set()).add(gpu.number)

    def drop_idle(self, gpu: Gpu, placement: Placement) -> None:
        """An idle instance is used again or destroyed."""
        gpu.idle.discard(placement)
        self.idle_at[placement].discard(gpu.number)

    def choose(self, state: int, placement: Placement) -> tuple[int, bool]:
        """The GPU of a state to take: one with this very instance idle if there is one, else that with the lowest number.

        The second value says whether the instance is there already.
        """
        ready = self.idle_at.get(placement, set()) & self.members.get(state, set())
        return (min(ready), True) if ready else (int(self.lowest[state]), False)

    def _enter(self, gpu: Gpu) -> None:
        if gpu.number in self.aside:
            return
        self.members.setdefault(gpu.state, set()).add(gpu.number)
        heapq.heappush(self._heaps.setdefault(gpu.state, []), gpu.number)
        self._recount(gpu.state)

    def _leave(self, gpu: Gpu) -> None:
        if gpu.number in self.aside:
            return
        self.members[gpu.state].discard(gpu.number)
        self._recount(gpu.state)

    def _recount(self, state: int) -> None:
        heap, members = self._heaps[state], self.members[state]
        # Numbers of GPUs that have left stay in the heap until they come up.
        while heap and heap[0] not in members:
            heapq.heappop(heap)
        self.counts[state] = len(members)
        self.lowest[state] = heap[0] if heap else NONE
