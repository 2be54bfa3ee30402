"""A machine that does what the test says, and an engine without a thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from rltune.nouns.cluster import Cluster
from rltune.service.clock import SetClock
from rltune.service.dispatch import Seat
from rltune.service.engine import Asked, Engine, Settings
from rltune.service.orders import Begin, Gpu, Inventory, Order, Report, Stop, Suspend
from rltune.service.restart import reconcile, restore
from rltune.service.store import Store
from rltune.simulator.options import make_options
from rltune.simulator.requests import Rules

CLUSTER = Cluster.from_spec(
    {"pools": [{"name": "a", "nodes": 2, "gpus_per_node": 2, "gpu_type": "A100-40GB", "mig": True}]}
)


class FakeMachine:
    """Keeps its orders; runs begin at once unless ``lazy``."""

    def __init__(self, name: str) -> None:
        self.name, self.lazy = name, False
        self.orders: list[Order] = []
        self.runs: dict[str, str] = {}
        self.codes: dict[str, int] = {}
        self.logs: dict[str, bytes] = {}
        self._reports: list[Report] = []

    def carry_out(self, orders: Sequence[Order]) -> None:
        for order in orders:
            self.orders.append(order)
            if isinstance(order, Begin) and not self.lazy and self.runs.get(order.run) != "ended":
                self.begin(order.run)
            elif isinstance(order, Suspend):
                self.runs[order.run] = "suspended"
                self._reports.append(Report("suspended", 0.0, order.run))
            elif isinstance(order, Stop) and self.runs.get(order.run) in ("began", "suspended"):
                self.end(order.run, -15)

    def begin(self, run: str) -> None:
        self.runs[run] = "began"
        self._reports.append(Report("began", 0.0, run, message=f"{self.name}-device"))

    def end(self, run: str, code: int = 0) -> None:
        self.runs[run], self.codes[run] = "ended", code
        self._reports.append(Report("ended", 0.0, run, code=code))

    def say(self, report: Report) -> None:
        self._reports.append(report)

    def reports(self) -> list[Report]:
        out, self._reports = self._reports, []
        return out

    def inventory(self) -> Inventory:
        gpu = Gpu("GPU-0", "A100-40GB", True)
        return Inventory(self.name, (gpu, gpu), dict(self.runs), dict(self.codes))

    def log_path(self, run: str) -> str:
        return f"/nowhere/{run}"

    def read_log(self, run: str, offset: int, most: int) -> bytes:
        return self.logs.get(run, b"")[offset : offset + most]

    def log_span(self, run: str) -> tuple[int, int]:
        return 0, len(self.logs.get(run, b""))

    def forget(self, runs: Sequence[str]) -> None:
        for run in runs:
            self.runs.pop(run, None)

    def close(self) -> None:
        pass


class Hand:
    """An engine whose turns are taken by hand, on a clock that is set by hand."""

    def __init__(
        self,
        path: Path,
        machines: Sequence[FakeMachine] | None = None,
        rules: Rules | None = None,
        settings: Settings | None = None,
        now: float = 0.0,
    ) -> None:
        self.machines = list(machines or [FakeMachine("m0"), FakeMachine("m1")])
        self.clock = SetClock(now)
        self.store = Store(path / "state.sqlite")
        seats = [Seat("m0", (0, 1)), Seat("m1", (0, 1))]
        self.engine = Engine(
            self.store, CLUSTER, rules or Rules(), self.machines, seats, self.clock, settings or Settings()
        )
        restore(self.engine)
        self.counts = reconcile(self.engine)

    def ask(self, act: Callable[[Engine], Any]) -> Any:
        """One turn with one request; its answer, or its error."""
        future: Future[Any] = Future()
        self.engine.turn([Asked(future, act)])
        return future.result(timeout=0)

    def later(self, act: Callable[[Engine, Future[Any]], Any]) -> Future[Any]:
        """One turn with a request that may be answered later."""
        future: Future[Any] = Future()
        self.engine.turn([Asked(future, lambda engine: act(engine, future))])
        return future

    def turn(self, now: float | None = None) -> None:
        if now is not None:
            self.clock.set(now)
        self.engine.turn()

    def state(self, job: str) -> str:
        return self.engine.ledger.records[job].state

    def close(self) -> None:
        self.store.close()


def suspending() -> Rules:
    return Rules("priority", "skip", options=make_options({"suspend_s": 1.0, "resume_s": 1.0}))
