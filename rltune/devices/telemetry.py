"""Samples of all GPUs on a steady clock, and what they come to: power, energy, utilisation."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rltune.devices.driver import Driver, Telemetry
from rltune.devices.status import NOT_SUPPORTED, DeviceError, status

VALUES = {
    "memory_total_bytes": "memory size",
    "memory_used_bytes": "used memory",
    "utilization_percent": "utilisation",
    "memory_utilization_percent": "memory utilisation",
    "power_w": "power",
    "temperature_c": "temperature",
    "energy_mj": "energy counter",
}
"""Values of `Telemetry` -> words for people."""
SAMPLED = ("utilization_percent", "memory_used_bytes", "power_w", "temperature_c", "energy_mj")
"""Those that a sample has."""
COLUMNS = ("time_s", "unix_s", "gpu", "uuid", "name", *SAMPLED, "instances", "processes")
"""Of a sample's row: seconds since the start, seconds since 1970, the GPU's number, UUID and name, values, counts."""
LATE = 0.1
"""Share of the interval by which a sample may lag behind its tick before it counts as late."""
MJ_PER_WH = 3.6e6
Row = dict[str, Any]


def untold(code: int) -> Telemetry:
    """Telemetry of which the driver told nothing, with this status."""
    return Telemetry(None, None, None, None, None, None, None, dict.fromkeys(VALUES, code))


class Sampler:
    """Rows of all GPUs, one at a time (`sample`) or on a clock (`run`); no thread.

    What the driver does not tell is None in a row and counted in ``unread`` by GPU, value and NVML status. ``late`` samples
    lagged behind their tick, ``missed`` ticks have none: the driver took longer than ``interval_s``. ``last_s`` seconds from
    the start to the latest sample.
    """

    def __init__(self, driver: Driver, interval_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.driver, self.interval_s, self.clock = driver, interval_s, clock
        self.gpus = driver.gpus()
        self.began = clock()
        self.last_s = 0.0
        self.samples = self.late = self.missed = 0
        self.unread: Counter[tuple[int, str, int]] = Counter()

    def sample(self) -> list[Row]:
        """One row a GPU (`COLUMNS`), all with the time at which the sample began."""
        self.last_s = self.clock() - self.began
        now = {"time_s": self.last_s, "unix_s": time.time()}
        self.samples += 1
        return [now | self._gpu(at) for at in range(len(self.gpus))]

    def _gpu(self, at: int) -> Row:
        identity, told = self.gpus[at], None
        index = identity.index
        try:
            told = self.driver.telemetry(index)
        except DeviceError as error:
            told = untold(error.code)
        for value in SAMPLED:
            if value in told.missing:
                self.unread[index, VALUES[value], told.missing[value]] += 1
        return {
            "gpu": index,
            "uuid": identity.uuid,
            "name": identity.name,
            **{value: getattr(told, value) for value in SAMPLED},
            # The driver has no instances to list while MIG is off.
            "instances": self._count(index, "instances", self.driver.instances, {NOT_SUPPORTED: 0}),
            "processes": self._count(index, "processes", self.driver.processes, {}),
        }

    def _count(
        self, index: int, what: str, listing: Callable[[int], tuple[Any, ...]], meant: Mapping[int, int]
    ) -> int | None:
        try:
            return len(listing(index))
        except DeviceError as error:
            if error.code not in meant:
                self.unread[index, what, error.code] += 1
            return meant.get(error.code)

    def run(self, until_s: float | None, wait: Callable[[float], bool]) -> Iterator[list[Row]]:
        """A sample at every tick 0, 1, 2, ... times the interval since now, the one at ``until_s`` included; None: no end.

        Ticks never drift: a late sample does not move those after it. ``wait(seconds)`` returns True to end at once
        (`threading.Event.wait`).
        """
        self.began, tick = self.clock(), 0
        # A hair more, since 0.3 / 0.1 is less than 3.
        last = math.inf if until_s is None else math.floor(until_s / self.interval_s + 1e-9)
        while tick <= last:
            ahead = tick * self.interval_s - (self.clock() - self.began)
            if wait(max(0.0, ahead)):
                return
            self.late += self.clock() - self.began - tick * self.interval_s > LATE * self.interval_s
            yield self.sample()
            passed = int((self.clock() - self.began) / self.interval_s)
            # The tick that has just passed is still worth a late sample; those before it are lost.
            following = max(tick + 1, passed)
            self.missed += int(min(following, last + 1)) - tick - 1
            tick = following

    def notes(self) -> list[str]:
        """What was not told, and how often."""
        alike: dict[tuple[int, int, int], list[str]] = {}
        for (gpu, what, code), times in sorted(self.unread.items()):
            alike.setdefault((gpu, code, times), []).append(what)
        return gathered(
            (gpu, f"{', '.join(whats)}: missing in {times} of {self.samples} samples: {explained(code)}")
            for (gpu, code, times), whats in alike.items()
        )


def explained(code: int) -> str:
    """What an NVML status means, and its name and number: for notes."""
    row = status(code)
    return f"{row.meaning} ({row.name} {code})"


def gathered(sentences: Iterable[tuple[int, str]]) -> list[str]:
    """(GPU, sentence) as lines, each naming all GPUs it holds for: a machine has eight alike."""
    whose: dict[str, list[int]] = {}
    for gpu, sentence in sentences:
        whose.setdefault(sentence, []).append(gpu)
    return [f"GPU {', '.join(map(str, gpus))}: {sentence}" for sentence, gpus in whose.items()]


@dataclass(slots=True)
class _Energy:
    """``wh`` so far, the seconds that it covers, and the last reading."""

    wh: float = 0.0
    covered_s: float = 0.0
    last: tuple[float, float] | None = None


@dataclass(slots=True)
class Usage:
    """Running figures of one GPU: feed it its rows in order."""

    gpu: int
    samples: int = 0
    power_w: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    """Sum, number and maximum of the readings."""
    utilization_percent: list[float] = field(default_factory=lambda: [0.0, 0.0])
    """Sum and number of the readings."""
    counter: _Energy = field(default_factory=_Energy)
    integral: _Energy = field(default_factory=_Energy)

    def add(self, row: Row) -> None:
        """Take in a row of `Sampler.sample`."""
        self.samples += 1
        if (power := row["power_w"]) is not None:
            total, number, most = self.power_w
            self.power_w = [total + power, number + 1, max(most, power)]
        if (busy := row["utilization_percent"]) is not None:
            self.utilization_percent = [self.utilization_percent[0] + busy, self.utilization_percent[1] + 1]
        self._count(row["time_s"], row["energy_mj"])
        self._integrate(row["time_s"], power)

    def _count(self, now: float, energy_mj: float | None) -> None:
        """The counter knows what was used while nobody looked; one that went back began anew with its driver."""
        if energy_mj is None:
            return
        if self.counter.last is not None and energy_mj >= self.counter.last[1]:
            self.counter.wh += (energy_mj - self.counter.last[1]) / MJ_PER_WH
            self.counter.covered_s += now - self.counter.last[0]
        self.counter.last = (now, energy_mj)

    def _integrate(self, now: float, power_w: float | None) -> None:
        """By trapezoids between neighbouring samples; a sample without power breaks the chain."""
        if power_w is not None and self.integral.last is not None:
            before, power_before = self.integral.last
            self.integral.wh += (power_w + power_before) / 2 * (now - before) / 3600
            self.integral.covered_s += now - before
        self.integral.last = None if power_w is None else (now, power_w)

    @property
    def mean_power_w(self) -> float | None:
        return self.power_w[0] / self.power_w[1] if self.power_w[1] else None

    @property
    def max_power_w(self) -> float | None:
        return self.power_w[2] if self.power_w[1] else None

    @property
    def mean_utilization_percent(self) -> float | None:
        return self.utilization_percent[0] / self.utilization_percent[1] if self.utilization_percent[1] else None

    @property
    def energy(self) -> tuple[float, str, float] | None:
        """(Wh, ``energy counter`` or ``integrated power``, seconds it covers), whichever covers more; None: neither."""
        best = max((self.counter, self.integral), key=lambda e: e.covered_s)
        if not best.covered_s:
            return None
        return best.wh, "energy counter" if best is self.counter else "integrated power", best.covered_s
