"""A node without device and processes: takes orders, reports at once. For load tests with thousands, and for replays."""

from __future__ import annotations

import heapq
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rltune.service.orders import Begin, Cut, Gpu, Held, Inventory, Order, Report, Stop, Suspend

BEGAN, SUSPENDED, ENDED = "began", "suspended", "ended"


class _Run(NamedTuple):
    state: str
    held: tuple[Held, ...]
    devices: str
    lease: bool
    code: int = 0


class VirtualNode:
    """``VirtualNode(name, ["A100-80GB"] * 8, mig=True)``: a `rltune.service.orders.Node`, to be used by one thread at a time.

    ``kinds``: the type of each GPU; ``mig``: whether MIG is on at first; ``clock``: seconds since 1970 for reports. A run ends when
    `end` says so; the command ``sleep N`` ends by itself after N seconds. It knows no geometry: any cut is legal that takes nothing
    away from a run.
    """

    __slots__ = ("_clock", "_cuts", "_due", "_kinds", "_mig", "_reports", "_runs", "name")

    def __init__(
        self, name: str, kinds: Sequence[str], mig: bool = False, clock: Callable[[], float] = time.time
    ) -> None:
        self.name, self._kinds, self._mig, self._clock = name, kinds, mig, clock
        # Only what differs from the beginning: most of thousands of nodes are alike.
        self._cuts: dict[int, Cut] = {}
        self._runs: dict[str, _Run] = {}
        self._reports: deque[Report] | None = None
        self._due: list[tuple[float, str]] | None = None

    def end(self, run: str, code: int = 0) -> None:
        """The run ends by itself; KeyError for one that is not there, nothing for one that has ended."""
        if self._runs[run].state != ENDED:
            self._move(run, ENDED, code)

    def inventory(self) -> Inventory:
        gpus = tuple(
            Gpu(f"GPU-{self.name}-{number}", kind, (cut := self._cut(number)).mig, cut.instances)
            for number, kind in enumerate(self._kinds)
        )
        states = {name: run.state for name, run in self._runs.items()}
        return Inventory(self.name, gpus, states, {n: run.code for n, run in self._runs.items() if run.state == ENDED})

    def carry_out(self, orders: Sequence[Order]) -> None:
        for order in orders:
            match order:
                case Cut():
                    self._make(order)
                case Begin():
                    self._begin(order)
                case Suspend():
                    self._leave(order.run, SUSPENDED)
                case Stop():
                    self._leave(order.run, ENDED)

    def reports(self) -> list[Report]:
        found = []
        while self._due and self._due[0][0] <= time.monotonic():
            run = heapq.heappop(self._due)[1]
            if run in self._runs and self._runs[run].state == BEGAN:
                self._move(run, ENDED, 0)
        # One by one: whoever appends meanwhile appends to this very queue.
        while self._reports:
            found.append(self._reports.popleft())
        return found

    def log_path(self, run: str) -> str:
        return os.devnull

    def read_log(self, run: str, offset: int, most: int) -> bytes:
        return b""

    def log_span(self, run: str) -> tuple[int, int]:
        return 0, 0

    def forget(self, runs: Sequence[str]) -> None:
        for run in runs:
            if run in self._runs and self._runs[run].state != BEGAN:
                del self._runs[run]

    def close(self) -> None:
        """Nothing to let go of."""

    def _tell(self, what: str, run: str = "", *, gpu: int = -1, code: int = 0, message: str = "") -> None:
        if self._reports is None:
            self._reports = deque()
        self._reports.append(Report(what, self._clock(), run, gpu, code, message))

    def _cut(self, gpu: int) -> Cut:
        return self._cuts.get(gpu) or Cut(gpu, self._mig)

    def _make(self, cut: Cut, run: str = "") -> bool:
        """Whether a cut could be made; it is told."""
        problem = "" if 0 <= cut.gpu < len(self._kinds) else f"GPU {cut.gpu}: this node has {len(self._kinds)}"
        for name, other in self._runs.items():
            if other.state == BEGAN and not all(map(cut.leaves, other.held)):
                problem = f"GPU {cut.gpu}: run {name} holds what would have to go; stop it first"
        if not problem:
            self._cuts[cut.gpu] = cut
        self._tell("not_cut" if problem else "cut", run, gpu=cut.gpu, message=problem)
        return not problem

    def _begin(self, order: Begin) -> None:
        known = self._runs.get(order.run)
        if known is not None:
            self._tell(known.state, order.run, code=known.code, message=known.devices)
            return
        made = [self._make(cut, order.run) for cut in order.cuts]
        problem = self._problem(order) if all(made) else "a cut could not be made"
        if problem:
            self._tell("refused", order.run, message=problem)
            return
        if order.resumes:
            self._runs.pop(order.resumes, None)
        devices = ",".join(self._device(held) for held in order.held)
        self._runs[order.run] = _Run(BEGAN, order.held, devices, not order.command.argv)
        if len(order.command.argv) == 2 and order.command.argv[0] == "sleep":
            self._due = self._due or []
            heapq.heappush(self._due, (time.monotonic() + float(order.command.argv[1]), order.run))
        self._tell(BEGAN, order.run, message=devices)

    def _problem(self, order: Begin) -> str:
        """Why a run cannot begin on what it is to hold; empty if it can."""
        for held in order.held:
            if not 0 <= held.gpu < len(self._kinds):
                return f"GPU {held.gpu}: this node has {len(self._kinds)}"
            cut = self._cut(held.gpu)
            if held.instance not in cut.instances if held.instance is not None else cut.mig:
                return f"GPU {held.gpu}: it is not cut as the run needs it"
            if held.instance is None:
                continue
            for name, other in self._runs.items():
                if other.state == BEGAN and held in other.held:
                    return f"GPU {held.gpu}: run {name} holds it; stop it first"
        return ""

    def _device(self, held: Held) -> str:
        place = "" if held.instance is None else f"-{held.instance[0]}@{held.instance[1]}"
        return f"{'MIG' if place else 'GPU'}-{self.name}-{held.gpu}{place}"

    def _leave(self, run: str, state: str) -> None:
        known = self._runs.get(run)
        if known is None:
            self._tell("lost", run, message=f"{self.name} has no run of this name")
        elif known.state == ENDED or known.state == state:
            self._tell(known.state, run, code=known.code)
        else:
            self._move(run, state, 0 if known.lease or state == SUSPENDED else -signal.SIGTERM)

    def _move(self, run: str, state: str, code: int) -> None:
        self._runs[run] = self._runs[run]._replace(state=state, code=code)
        self._tell(state, run, code=code)
