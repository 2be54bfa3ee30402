"""Cases of the benchmark of the hardware adapter: what it costs beside the driver, on a simulated machine that takes no time."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rltune.devices.adapter import Adapter
from rltune.devices.inventory import inventory
from rltune.devices.simulated import SimulatedDriver
from rltune.devices.spec import Spec, spec_of

GPUS = 8
SMALL, LARGE = ["1g.10gb"] * 7, ["4g.40gb", "3g.40gb"]
REPEATS = 40


def spec(instances: list[str]) -> Spec:
    """The same for every GPU."""
    return spec_of({"version": 1, "gpus": [{"gpu": "all", "instances": instances}]})


def machine(store: Path) -> Adapter:
    """Eight A100-80GB; processes of the machine are not looked for."""
    return Adapter(SimulatedDriver(["a100-80gb"] * GPUS, pace=0, scan=False), store)


def apply_ms(clock: Callable[[], float] = time.perf_counter) -> float:
    """Median milliseconds of plan and apply from 7 x 1g to 4g + 3g on all GPUs and back, the journal on disk included.

    Two of its commits wait for the disk; ``clock`` ``time.process_time`` tells what the rest costs.
    """
    with tempfile.TemporaryDirectory() as folder:
        adapter = machine(Path(folder))
        turns = iter(range(REPEATS + 1))

        def turn() -> None:
            adapter.apply(adapter.plan(spec(SMALL if next(turns) % 2 == 0 else LARGE)))

        found = median_ms(turn, REPEATS, clock)
        adapter.close()
    return found


def show_ms() -> float:
    """Median milliseconds of an inventory as JSON, with 7 instances on every GPU."""
    with tempfile.TemporaryDirectory() as folder:
        adapter = machine(Path(folder))
        adapter.apply(adapter.plan(spec(SMALL)))
        found = median_ms(lambda: json.dumps(inventory(adapter.driver).as_json()), REPEATS)
        adapter.close()
    return found


def median_ms(work: Callable[[], object], repeats: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """After one run that warms up."""
    work()
    taken = []
    for _ in range(repeats):
        begun = clock()
        work()
        taken.append(clock() - begun)
    return 1e3 * float(np.median(taken))
