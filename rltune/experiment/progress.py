"""Progress of simulations on the screen: jobs that are over, simulated days, jobs a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rltune.report.console import progress_bar
from rltune.simulator.progress import Seen, watched
from rltune.simulator.result import DAY_S


@contextmanager
def simulating(jobs: int, shown: bool = True) -> Iterator[None]:
    """The one simulation in this context shows how far it is, with the time left; ``jobs``: how many it has."""
    if not shown:
        yield
        return
    with progress_bar("simulating, jobs", jobs) as update, watched(Told(update)):
        yield


@dataclass
class Told:
    """Tells ``update`` how many more jobs of a simulation are over, and the day and the rate as a text."""

    update: Callable[[int, str], None]
    clock: Callable[[], float] = time.monotonic
    _over: int = field(default=0, init=False)
    _rate_from: tuple[float, int] | None = field(default=None, init=False)

    def __call__(self, seen: Seen) -> None:
        now = self.clock()
        if self._rate_from is None or seen.over < self._over:
            # The first look, or that of another simulation.
            self._rate_from, self._over = (now, seen.over), 0 if seen.over < self._over else self._over
        since, over = self._rate_from
        rate = f", {(seen.over - over) / (now - since):,.0f} jobs/s" if now > since and seen.over > over else ""
        self.update(seen.over - self._over, day_of(seen) + rate)
        self._over = seen.over


def day_of(seen: Seen) -> str:
    """The simulated day, from the first submission on, of those on which jobs are submitted."""
    day, last = (seen.now_s - seen.first_s) / DAY_S, (seen.last_s - seen.first_s) / DAY_S
    return f"day {day:,.1f} of {last:,.1f}" if day <= last else f"day {day:,.1f}, all submitted by day {last:,.1f}"
