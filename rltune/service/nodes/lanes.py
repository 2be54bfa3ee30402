"""One thread a GPU for its changes, so that a driver that is slow or hangs holds nothing else up."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from rltune.devices.execution.executor import CHANGE_S
from rltune.nouns.errors import InputError
from rltune.service.nodes.cuts import Device
from rltune.service.orders import Cut, Held

_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be done to a GPU, for a run or for none: a cut, and to name what the run holds there (with each: whether alone).

    When it is done: ``named`` for CUDA_VISIBLE_DEVICES, or a ``problem``.
    """

    gpu: int
    cut: Cut | None = None
    run: str = ""
    held: tuple[tuple[Held, bool], ...] = ()
    named: tuple[str, ...] = ()
    problem: str = ""
    number: int = field(default_factory=lambda: next(_numbers))


class Lane:
    """``waiting`` changes of one GPU in their order; `do` begins one, which comes back through ``done`` from its thread.

    ``busy`` until then; ``problem``: why the GPU is not to be relied on.
    """

    def __init__(self, device: Device, done: Callable[[Change], None], wake: Callable[[], None]) -> None:
        self.waiting: deque[Change] = deque()
        self.busy, self.problem, self.at_work = False, "", -1
        self._device, self._done, self._wake = device, done, wake
        self._change: Change | None = None
        self._since = 0.0
        self._todo: queue.SimpleQueue[Change | None] = queue.SimpleQueue()
        # Daemon: a thread that hangs in the driver must not keep this process.
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def do(self, change: Change) -> None:
        self.busy, self.at_work, self._change, self._since = True, change.number, change, time.monotonic()
        self._todo.put(change)

    def end(self) -> None:
        self._todo.put(None)
        if not self.problem:
            self._thread.join(CHANGE_S)

    def overdue(self) -> Change | None:
        """The change that hangs, once, under another number; the lane stays busy until the driver answers."""
        if not self.busy or self._change is None or time.monotonic() < self._since + CHANGE_S:
            return None
        change, self._change = self._change, None
        self.problem = (
            f"GPU {change.gpu}: a change has not ended after {CHANGE_S:.0f} s: the driver may hang (see dmesg)"
        )
        return replace(change, number=-1)

    def _run(self) -> None:
        while (change := self._todo.get()) is not None:
            self._done(self._tried(change))
            self._wake()

    def _tried(self, change: Change) -> Change:
        try:
            return replace(change, named=tuple(self._device.prepare(change.gpu, change.cut, change.held)))
        except InputError as error:
            return replace(change, problem=str(error))
        except Exception as error:
            return replace(change, problem=f"{type(error).__name__}: {' '.join(str(error).split())}")
