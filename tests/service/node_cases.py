"""What tests of nodes share: orders, waiting for reports, and looking at processes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from rltune.devices.adapter import Adapter
from rltune.devices.simulated import SimulatedDriver
from rltune.service.nodes.local import LocalNode
from rltune.service.orders import Begin, Command, Cut, Held, Report

PATIENCE_S = 120.0
"""For what takes a moment on an idle machine."""
SMALL = ("1g.10gb", 0)
HELD, CUTS = (Held(0, SMALL),), (Cut(0, True, (SMALL,)),)
SLEEP = ("sleep", "600")


def machine(tmp_path, models=("a100-80gb", "a100-80gb"), mig=True, cls=SimulatedDriver, **options):
    """A simulated machine that another process finds again."""
    return cls(list(models), pace=0.0, file=tmp_path / "machine.json", mig=mig, **options)


def local_node(tmp_path, driver=None, **options) -> LocalNode:
    adapter = Adapter(driver or machine(tmp_path), tmp_path / "store")
    return LocalNode("n1", adapter, tmp_path / "state", **options)


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", "-c", code)


def begin(run="r1", argv=SLEEP, held=HELD, cuts=CUTS, **options) -> Begin:
    """By default on the first slice of the first GPU, which is made for it."""
    words = {name: options.pop(name) for name in ("resumes", "rank", "world", "peers") if name in options}
    environment = options.pop("environment", {})
    return Begin(
        run, options.pop("job", f"job-of-{run}"), Command(tuple(argv), environment, **options), held, cuts, **words
    )


def wait_until(holds: Callable[[], object], what: str = "it") -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"{what} never came"
        time.sleep(0.01)


class Heard:
    """The reports of a node so far."""

    def __init__(self, node) -> None:
        self.node, self.all = node, list[Report]()

    def of(self, what: str, run: str | None = None) -> list[Report]:
        self.all += self.node.reports()
        return [one for one in self.all if one.what == what and run in (None, one.run)]

    def wait(self, what: str, run: str | None = None, count: int = 1) -> Report:
        """The ``count``-th report of this kind."""
        wait_until(lambda: len(self.of(what, run)) >= count, f"{what} of {run}; had {self.all}")
        return self.of(what, run)[count - 1]


def output(node, run) -> str:
    first, end = node.log_span(run)
    return node.read_log(run, first, end - first).decode()
