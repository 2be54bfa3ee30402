"""What tasks used of their GPU: samples in the background, energy shared among those that ran together."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import NamedTuple

import numpy as np

from rltune.devices.driver import Driver
from rltune.devices.status import UNKNOWN, DeviceError
from rltune.devices.telemetry import untold

JOIN_S = 10.0
"""A driver that does not answer for so long keeps the last sample to itself."""
SLACK_S = 1e-3
"""Seconds that may be uncovered by samples, as sums of times differ."""


class Sample(NamedTuple):
    """``time`` by `time.monotonic`; None: the driver did not tell."""

    time: float
    energy_mj: float | None
    power_w: float | None
    utilization_percent: float | None


class Span(NamedTuple):
    """A task's run, by `time.monotonic`, in an instance of so many compute slices."""

    start: float
    end: float
    slices: int


@dataclass
class Sampling:
    """``with Sampling(driver, [0, 1], 1.0) as sampling``: a sample of each GPU at once, every ``every_s``, and at the end.

    ``samples``: a list a GPU, in the order of ``gpus``; ``notes``: what the driver refused, once; ``hangs``: at the end the driver
    has not answered for `JOIN_S`.
    """

    driver: Driver
    gpus: Sequence[int]
    every_s: float
    notes: list[str] = field(default_factory=list, init=False)
    hangs: bool = field(default=False, init=False)

    def __enter__(self) -> Sampling:
        self.samples: list[list[Sample]] = [[] for _ in self.gpus]
        self._done, first = threading.Event(), threading.Event()
        # Daemon: one that hangs in the driver must not keep this process.
        self._thread = threading.Thread(target=self._run, args=(first,), daemon=True)
        self._thread.start()
        first.wait(JOIN_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join(JOIN_S)
        self.hangs = self._thread.is_alive()
        if self.hangs:
            self.notes.append(f"the driver did not answer for {JOIN_S:g} s when it was asked for a last sample")

    def _run(self, first: threading.Event) -> None:
        self._take()
        first.set()
        tick = time.monotonic()
        ending = False
        while not ending:
            tick = max(tick + self.every_s, time.monotonic())
            ending = self._done.wait(max(0.0, tick - time.monotonic()))
            self._take()

    def _take(self) -> None:
        for gpu, kept in zip(self.gpus, self.samples, strict=True):
            try:
                told = self.driver.telemetry(gpu)
            except DeviceError as error:
                told = untold(error.code)
            except Exception as error:
                # Whatever it is, tasks run on, and the next sample may come.
                told = untold(UNKNOWN)
                if not self.notes:
                    self.notes.append(f"a sample is missing: {type(error).__name__}: {' '.join(str(error).split())}")
            kept.append(Sample(time.monotonic(), told.energy_mj, told.power_w, told.utilization_percent))


def energy_of(samples: Sequence[Sample], spans: Sequence[Span]) -> list[float | None]:
    """Joules of each run on one GPU: an estimate, since GPUs count energy as a whole.

    What the GPU used between two samples (its counter, else its power) counts as evenly spread; at each instant it is shared
    among the runs of that instant by their compute slices, idle power included. None where samples do not cover the run.
    """
    times, joules, covered = _cumulative(samples)
    shares = [0.0] * len(spans)
    complete = [span.end > span.start for span in spans]
    cuts = sorted({t for span in spans for t in (span.start, span.end)})
    for begin, end in itertools.pairwise(cuts):
        running = [k for k, span in enumerate(spans) if span.start <= begin and span.end >= end]
        if not running:
            continue
        used = float(np.interp(end, times, joules) - np.interp(begin, times, joules)) if len(times) else 0.0
        known = float(np.interp(end, times, covered) - np.interp(begin, times, covered)) if len(times) else 0.0
        slices = sum(spans[k].slices for k in running)
        for k in running:
            shares[k] += used * spans[k].slices / slices
            complete[k] &= known >= end - begin - SLACK_S
    return [share if whole else None for share, whole in zip(shares, complete, strict=True)]


def _cumulative(samples: Sequence[Sample]) -> tuple[list[float], list[float], list[float]]:
    """Times; joules used until then; seconds until then for which the driver told how many."""
    joules, covered = [0.0], [0.0]
    for a, b in itertools.pairwise(samples):
        used = None
        if a.energy_mj is not None and b.energy_mj is not None and b.energy_mj >= a.energy_mj:
            used = (b.energy_mj - a.energy_mj) / 1e3
        elif a.power_w is not None and b.power_w is not None:
            used = (a.power_w + b.power_w) / 2 * (b.time - a.time)
        joules.append(joules[-1] + (used or 0.0))
        covered.append(covered[-1] + (0.0 if used is None else b.time - a.time))
    return [sample.time for sample in samples], joules[: len(samples)], covered[: len(samples)]


def utilization_of(samples: Sequence[Sample], start: float, end: float) -> float | None:
    """Mean percent of the samples in a run; of the whole GPU, also where it is shared. None where none told it."""
    told = [s.utilization_percent for s in samples if start <= s.time <= end and s.utilization_percent is not None]
    return float(np.mean(told)) if told else None
