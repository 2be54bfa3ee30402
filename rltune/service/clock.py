"""The service's time: seconds since its first start, which never go back."""

from __future__ import annotations

import time


class WallClock:
    """Seconds that go on while the service runs, whatever happens to the wall clock, and while it does not run.

    ``origin``: wall-clock seconds since 1970 of second 0; ``last_s``: the latest second that was ever given out. If the wall
    clock stands before that (it was set back while the service was down), time goes on from there.
    """

    def __init__(self, origin: float, last_s: float = 0.0) -> None:
        self.origin, self._last = origin, last_s
        self._base = max(last_s, time.time() - origin)
        self._begin = time.monotonic()

    def now(self) -> float:
        """Seconds; never less than before."""
        self._last = max(self._last, self._base + time.monotonic() - self._begin)
        return self._last

    def wall(self, seconds: float) -> float:
        """Seconds since 1970 of a second of the service, for people."""
        return self.origin + seconds


class SetClock:
    """A clock that stands until it is set: for replays of recorded streams."""

    def __init__(self, now_s: float = 0.0, origin: float = 0.0) -> None:
        self.origin, self._now = origin, now_s

    def now(self) -> float:
        return self._now

    def set(self, now_s: float) -> None:
        """Forward only."""
        self._now = max(self._now, now_s)

    def wall(self, seconds: float) -> float:
        return self.origin + seconds


Clock = WallClock | SetClock
