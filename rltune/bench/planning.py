"""Cases of the benchmark of MIG planning, which experiments share: recorded and fresh batches, streams, decision time."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from rltune.mig.batch.bounds import area_bound
from rltune.mig.batch.boxes import boxes_of, times_of
from rltune.mig.batch.families import SIZES, family_batch
from rltune.mig.batch.far import far_boxes
from rltune.mig.batch.plan import Left
from rltune.mig.batch.search import search, warm_up
from rltune.mig.batch.tasks import Tasks, tasks_of
from rltune.mig.batch.timetable import work_of
from rltune.mig.geometry import geometry
from rltune.mig.online import Fleet, FleetOptions, Growth
from rltune.mig.online.events import generate
from rltune.mig.online.replay import replay
from rltune.traces.folder import traces_folder

GPU = "A100-80GB"
AIMS = {
    "good_scaling": (1.058, 1.045),
    "bad_scaling": (1.021, 1.015),
    "mix_scaling_extreme": (1.051, 1.035),
    "mix_scaling_soft": (1.052, 1.035),
    "wide_times": (1.078, 1.05),
}
"""Makespan / area bound to reach in 100 ms and in 1 s, batches of 14, by family."""
FRESH = 6000
LIVE = {"balanced": None, "steady60": 60.0}
"""Streams of tenants: a random walk; about 60 at a time."""
THOUSAND_GPUS = 1850.0
"""Tenants that about a thousand GPUs hold."""


def recorded_set(name: str) -> Path:
    """A file of recorded MIG workloads: golden/mig beside the real traces."""
    return traces_folder().resolve().parent / "golden" / "mig" / name


def recorded_batches(family: str) -> Iterator[tuple[Tasks, float]]:
    """Batches that FAR's authors' code generated, each with the makespan (s) that their FAR reached."""
    data = json.loads(gzip.decompress(recorded_set("artecs_batches_n14.json.gz").read_bytes()))["families"][family]
    for times, far_s in zip(data["batches"], data["far_makespan_s"], strict=True):
        columns = np.array(times).T
        yield tasks_of(GPU, {f"{size}g": column for size, column in zip(SIZES, columns, strict=True)}), far_s


def rodinia() -> Tasks:
    """Eight Rodinia kernels measured on an A30."""
    kernels = json.loads(recorded_set("rodinia_a30_times.json").read_text())["tasks"]
    return tasks_of("A30", {f"{size}g": [k[str(size)] for k in kernels.values()] for size in (1, 2, 4)}, tuple(kernels))


def batch_ratio(family: str, seconds: float, batches: int = 20) -> float:
    """Mean makespan / area bound of fresh batches of 14 tasks of a family, searched for so long each."""
    warm_up()
    ratios = []
    for seed in range(FRESH, FRESH + batches):
        tasks = family_batch(family, 14, np.random.default_rng(seed), GPU)
        ratios.append(search(tasks, (GPU,), seconds).plan.makespan_s / area_bound(tasks, (GPU,)))
    return float(np.mean(ratios))


def steps_per_s(seconds: float = 1.0) -> float:
    """Steps of the search a second on a batch of 14 tasks."""
    warm_up()
    outcome = search(family_batch("wide_times", 14, np.random.default_rng(FRESH), GPU), (GPU,), seconds)
    return outcome.steps / outcome.seconds


def growth_in_tasks(sizes: Sequence[int] = (1_000, 10_000), steps: int = 200_000) -> float:
    """Exponent b of seconds ~ tasks^b for so many steps of search and everything around them."""
    taken = []
    for n in sizes:
        tasks = family_batch("wide_times", n, np.random.default_rng(FRESH), GPU)
        begun = time.perf_counter()
        search(tasks, (GPU,), steps=steps)
        taken.append(time.perf_counter() - begun)
    return float(np.log(taken[-1] / taken[0]) / np.log(sizes[-1] / sizes[0]))


def online_ratio(workload: str, policy: str, streams: int = 20) -> float:
    """Peak of provisioned GPUs over the lower bound, both summed over generated streams of 2,000 events."""
    peaks = bounds = 0
    for number in range(streams):
        events = generate(FRESH + number, live=LIVE[workload])
        done = replay(Fleet(FleetOptions((Growth(GPU),), policy=policy)), events).summary
        peaks += done["gpus_peak"]
        bounds += done["lower_bound"]
    return peaks / bounds


def acquire_us(options: FleetOptions, live: float, seed: int = FRESH) -> tuple[pd.Series[float], int]:
    """Microseconds of the last acquires on a fleet that has filled with about ``live`` tenants, and its GPUs."""
    fleet = Fleet(options)
    events = generate(seed, length=int(5 * live) + 3000, live=live)
    rows = replay(fleet, events).events
    return rows[(rows.verb == "acquire") & (rows.event >= len(events) - 3000)].decision_us, fleet.gpus


def far_ms(batches: int = 20) -> float:
    """Median milliseconds of FAR on a batch of 14 tasks."""
    warm_up()
    taken = []
    for seed in range(FRESH, FRESH + batches):
        tasks = family_batch("wide_times", 14, np.random.default_rng(seed), GPU)
        times, boxes = times_of(tasks)[0], boxes_of(tasks, (GPU,), (Left(),))
        work = work_of(boxes)
        begun = time.perf_counter()
        far_boxes(geometry(GPU), times, boxes, work)
        taken.append(1e3 * (time.perf_counter() - begun))
    return float(np.median(taken))


def setup_ms(batches: int = 20) -> float:
    """Median milliseconds of a search of one step: all seeds and the plan, 14 tasks."""
    warm_up()
    taken = []
    for seed in range(FRESH, FRESH + batches):
        tasks = family_batch("wide_times", 14, np.random.default_rng(seed), GPU)
        begun = time.perf_counter()
        search(tasks, (GPU,), steps=1)
        taken.append(1e3 * (time.perf_counter() - begun))
    return float(np.median(taken))


def large_ratio(seconds: float) -> float:
    """Makespan / area bound of 1,000 tasks on four GPUs."""
    warm_up()
    tasks = family_batch("wide_times", 1000, np.random.default_rng(FRESH), GPU)
    gpus = (GPU,) * 4
    return search(tasks, gpus, seconds).plan.makespan_s / area_bound(tasks, gpus)
