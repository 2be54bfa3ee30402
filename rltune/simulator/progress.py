"""How far a simulation has come, told while it runs.

Who wants to know says so around any simulation (`watched`); the loop of the core then returns every tenth of a second, and
the state is looked at. Without anybody watching it runs to its end in one go.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import NamedTuple

from rltune.core.state import ARRIVED, NOW, QUEUED, RUNNING, Sim

EVERY_S = 0.1
"""Between two looks at the state."""
FIRST_STEPS = 1_000
MOST_STEPS = 1 << 40
"""Instants that the loop simulates before it returns: at first, and at most."""


class Seen(NamedTuple):
    """Where a simulation stands: the clock and the first and last submission, in seconds; jobs that are over, and all."""

    now_s: float
    first_s: float
    last_s: float
    over: int
    jobs: int


Watch = Callable[[Seen], None]
_watch: ContextVar[Watch | None] = ContextVar("watch", default=None)


@contextmanager
def watched(watch: Watch | None) -> Iterator[None]:
    """Simulations in this context tell ``watch`` where they stand, some ten times a second and at their end."""
    token = _watch.set(watch)
    try:
        yield
    finally:
        _watch.reset(token)


def seen_of(sim: Sim) -> Seen:
    """Where a simulation stands; jobs that wait, run or are suspended are not over."""
    over = int(sim.counts[ARRIVED] - sim.counts[QUEUED] - sim.counts[RUNNING])
    submit = sim.jobs.submit
    return Seen(float(sim.clock[NOW]), float(submit[0]), float(submit[-1]), over, len(submit))


@dataclass(slots=True)
class Pace:
    """When a running simulation is looked at, and how many instants the loop is to simulate until then."""

    watch: Watch | None = field(default_factory=_watch.get)
    clock: Callable[[], float] = time.monotonic
    steps: int = field(init=False)
    _looked_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.steps = MOST_STEPS if self.watch is None else FIRST_STEPS
        self._looked_s = self.clock()

    def look(self, sim: Sim, whole: bool = False) -> None:
        """Tell the watch if it is time. ``whole``: the loop has gone all its steps, whose number then follows the time."""
        if self.watch is None:
            return
        spent = self.clock() - self._looked_s
        if whole:
            # At most doubled: the next stretch may have far longer queues.
            self.steps = max(1, min(MOST_STEPS, int(self.steps * min(2.0, EVERY_S / max(spent, 1e-9)))))
        if spent >= EVERY_S or (whole and spent >= EVERY_S / 2):
            self.tell(sim)

    def tell(self, sim: Sim) -> None:
        """Tell the watch now."""
        if self.watch is not None:
            self.watch(seen_of(sim))
            self._looked_s = self.clock()
