"""A policy that decides beside the active one and is only written down: would it do the same, and what else?

Before an instant is decided on, the present is copied; the copy is decided on by the shadow policy in a thread of its own. What it
would have started is compared with what was started. While that thread is busy, instants are passed over, and counted.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rltune.nouns.errors import InputError
from rltune.simulator.live import LiveCluster
from rltune.simulator.requests import Changes, Rules

log = logging.getLogger("rltune.service")


@dataclass(slots=True)
class Tally:
    """``compared`` instants, of which both policies started the same jobs at ``agreed``; ``passed_over``; ``error`` the last one."""

    compared: int = 0
    agreed: int = 0
    passed_over: int = 0
    only_active: int = 0
    only_shadow: int = 0
    error: str = ""


@dataclass(slots=True)
class _Instant:
    before: LiveCluster
    now_s: float
    started: list[str] = field(default_factory=list)


class Shadow:
    """``name`` and ``rules`` of the policy; ``differs`` is called, from the shadow's thread, with each instant at which it differs."""

    def __init__(self, name: str, rules: Rules, differs: Callable[[dict[str, Any]], Any]) -> None:
        self.name, self.rules, self.tally, self._differs = name, rules, Tally(), differs
        self._instants: queue.Queue[_Instant | None] = queue.Queue(maxsize=1)
        self._busy = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
        self._thread.start()

    def before(self, live: LiveCluster, now_s: float) -> _Instant | None:
        """On the engine's thread, before it decides: a copy, or None while the last one is looked at."""
        if self._busy.is_set():
            self.tally.passed_over += 1
            return None
        return _Instant(live.picture(), now_s)

    def after(self, instant: _Instant, changes: Sequence[Changes]) -> None:
        """What was started; where nobody waits there is nothing to compare."""
        instant.started = [one.job for change in changes for one in change.started]
        if instant.started or instant.before.sim.counts[0] or instant.before.waiting_to_arrive:
            self._busy.set()
            self._instants.put(instant)

    def stop(self) -> None:
        """The thread ends after the instant at hand."""
        self._instants.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (instant := self._instants.get()) is not None:
            try:
                self._compare(instant)
            except InputError as error:
                self.tally.error = str(error)
            except Exception as error:
                log.exception("the shadow policy %s failed", self.name)
                self.tally.error = f"{type(error).__name__}: {error}"
            self._busy.clear()

    def _compare(self, instant: _Instant) -> None:
        instant.before.use(self.rules)
        mine = {one.job for change in instant.before.advance(instant.now_s) for one in change.started}
        theirs = set(instant.started)
        self.tally.compared += 1
        self.tally.agreed += mine == theirs
        self.tally.only_active += len(theirs - mine)
        self.tally.only_shadow += len(mine - theirs)
        if mine != theirs:
            self._differs(
                {"at_s": instant.now_s, "only_active": sorted(theirs - mine), "only_shadow": sorted(mine - theirs)}
            )
