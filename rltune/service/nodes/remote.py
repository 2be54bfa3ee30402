"""A node at the other end of a wire: what was ordered and not yet answered, what runs there, whether it is lost or back.

Nothing here knows what the wire is (`ray_nodes` does): it fetches `to_send`, and brings `answered`, `reconciled`, `not_delivered`.
Every order is sent until a report answers it; since orders may be given twice that is safe after any failure.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from rltune.service.orders import Begin, Cut, Inventory, Order, Report, Stop, Suspend

OVER = ("ended", "lost", "refused")
"""Reports after which nothing is there of a run."""


class RemoteNode:
    """``RemoteNode(name, lost_after_s, ask)``: a `rltune.service.orders.Node`, absent until it is `reconciled`.

    ``ask(method, ...)`` calls the node and waits for its answer, OSError where there is none. One that has not answered for
    ``lost_after_s`` seconds is lost: a report says so for each of its runs, orders are answered as refused, and when it is back,
    runs that were given up are stopped there.
    """

    def __init__(
        self, name: str, lost_after_s: float, ask: Callable[..., Any], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name, self.lost_after_s, self.ask, self._clock = name, lost_after_s, ask, clock
        self.present = False
        """Whether orders reach it."""
        self.wake: Callable[[], None] = lambda: None
        """Called when there is something to send."""
        self._turn = threading.RLock()
        self._heard_at = clock()
        self._incarnation, self._acknowledged = "", 0
        self._live: set[str] = set()
        self._given_up: set[str] = set()
        self._open: dict[tuple[str, str | int], Order] = {}
        self._outbox: list[Order] = []
        self._to_forget: list[str] = []
        self._reports: deque[Report] = deque()
        self._to_reconcile = True
        self._live_then: frozenset[str] = frozenset()

    # What the service calls.

    def inventory(self) -> Inventory:
        found: Inventory = self.ask("inventory")
        with self._turn:
            if not self.present:
                raise OSError(f"node {self.name} does not answer; it is lost until it is reconciled")
            runs = {run: state for run, state in found.runs.items() if run not in self._given_up}
            self._live |= {run for run, state in runs.items() if state not in OVER}
            return replace(found, runs=runs, codes={run: code for run, code in found.codes.items() if run in runs})

    def carry_out(self, orders: Sequence[Order]) -> None:
        with self._turn:
            for order in orders:
                if self.present:
                    self._add(order)
                else:
                    self._answer(order)
        self.wake()

    def reports(self) -> list[Report]:
        found = []
        while self._reports:
            found.append(self._reports.popleft())
        return found

    def log_path(self, run: str) -> str:
        """On the node's own disk."""
        path: str = self.ask("log_path", run)
        return path

    def read_log(self, run: str, offset: int, most: int) -> bytes:
        data: bytes = self.ask("read_log", run, offset, most)
        return data

    def log_span(self, run: str) -> tuple[int, int]:
        span: tuple[int, int] = self.ask("log_span", run)
        return span

    def forget(self, runs: Sequence[str]) -> None:
        with self._turn:
            self._to_forget += runs
        self.wake()

    def close(self) -> None:
        """Nothing to let go of: the node goes on."""

    # What the wire calls.

    @property
    def heard(self) -> tuple[str, int]:
        """Incarnation of the node, and number of the last report that came from it."""
        return self._incarnation, self._acknowledged

    def to_send(self) -> tuple[list[Order], list[str]]:
        """Orders that have not been sent yet, and runs to forget; they are taken as sent."""
        with self._turn:
            sent = self._outbox, self._to_forget
            self._outbox, self._to_forget = [], []
            return sent

    def not_delivered(self) -> None:
        """Something that was sent may not have arrived: all that is not answered goes once more."""
        with self._turn:
            self._outbox = list(self._open.values())

    def to_reconcile(self) -> bool:
        """Whether the node's inventory is needed; it is taken as asked for, now."""
        with self._turn:
            needed, self._to_reconcile = self._to_reconcile, False
            if needed:
                self._live_then = frozenset(self._live)
            return needed

    def not_reconciled(self) -> None:
        """The inventory could not be had."""
        with self._turn:
            self._to_reconcile = True

    def answered(self, incarnation: str, reports: Sequence[tuple[int, Report]]) -> None:
        """The node says which incarnation it is, and what has happened there, numbered."""
        with self._turn:
            self._heard_at = self._clock()
            if incarnation != self._incarnation:
                self._incarnation, self._acknowledged, self._to_reconcile = incarnation, 0, True
            self._to_reconcile |= not self.present
            for number, report in reports:
                if number > self._acknowledged:
                    self._acknowledged = number
                    self._absorb(report)

    def reconciled(self, found: Inventory) -> None:
        """What was there after `to_reconcile`: the node is present; what it has lost, and what was given up, is settled."""
        with self._turn:
            self._heard_at = self._clock()
            self.present = True
            begun = {run for kind, run in self._open if kind == "Begin"}
            for run in sorted((self._live_then & self._live) - found.runs.keys() - begun):
                self._live.discard(run)
                self._tell("lost", run, "the node began anew, and does not know it")
            for run in sorted(self._given_up):
                # Also those that it does not know: they may be waiting for their GPUs.
                self._open["Stop", run] = Stop(run)
            self.not_delivered()

    def look(self) -> bool:
        """Whether the node is lost since now, because it has been silent for too long."""
        with self._turn:
            if not self.present or self._clock() < self._heard_at + self.lost_after_s:
                return False
            self.present, self._to_reconcile = False, True
            waiting, self._open, self._outbox = list(self._open.values()), {}, []
            begun = {order.run for order in waiting if isinstance(order, Begin)}
            runs, self._live = self._live | begun, set()
            self._given_up |= runs
            for run in sorted(runs):
                self._tell("lost", run, self._silence())
            for order in waiting:
                if isinstance(order, Cut):
                    self._answer(order)
            return True

    # Both.

    def _add(self, order: Order) -> None:
        key = (type(order).__name__, order.gpu if isinstance(order, Cut) else order.run)
        # The newest of a kind counts, in its place of the order.
        self._open.pop(key, None)
        self._open[key] = order
        self._outbox.append(order)

    def _silence(self) -> str:
        return f"node {self.name} has not answered for {self.lost_after_s:g} s"

    def _tell(self, what: str, run: str = "", message: str = "", gpu: int = -1) -> None:
        self._reports.append(Report(what, time.time(), run, gpu, message=message))

    def _answer(self, order: Order) -> None:
        """For a node that cannot."""
        match order:
            case Begin():
                self._tell("refused", order.run, self._silence())
            case Cut():
                self._tell("not_cut", "", self._silence(), order.gpu)
            case Suspend() | Stop():
                self._tell("lost", order.run, self._silence())

    def _absorb(self, report: Report) -> None:
        run = report.run
        if not run:
            self._open.pop(("Cut", report.gpu), None)
        elif report.what in ("cut", "not_cut"):
            pass  # a part of a Begin, which its own report answers
        else:
            begin = self._open.pop(("Begin", run), None)
            if report.what == "began" and isinstance(begin, Begin) and begin.resumes:
                self._live.discard(begin.resumes)
            for kind in (
                ("Suspend", "Stop") if report.what in OVER else ("Suspend",) if report.what == "suspended" else ()
            ):
                self._open.pop((kind, run), None)
            if run in self._given_up:
                if report.what in OVER:
                    self._given_up.discard(run)
                    self._to_forget.append(run)
                return
            (self._live.discard if report.what in OVER else self._live.add)(run)
        self._reports.append(report)
