"""Cases of the benchmark of MIG planning: makespan by budget of search, GPUs provisioned, time of a decision."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from rltune.mig.batch.bounds import area_bound
from rltune.mig.batch.families import FAMILIES, family_batch
from rltune.mig.batch.search import search, warm_up
from rltune.mig.fleet import Fleet, FleetOptions, Growth
from rltune.mig.fleet.events import generate
from rltune.mig.fleet.replay import replay

GPU = "A100-80GB"
AIMS_100_MS = dict(zip(FAMILIES, (1.058, 1.021, 1.051, 1.052, 1.078), strict=True))
"""Makespan / area bound to reach in 100 ms, batches of 14, by family."""
FRESH = 6000
LIVE = {"balanced": None, "steady60": 60.0}
"""Streams of tenants: a random walk; about 60 at a time."""
THOUSAND_GPUS = 1850.0
"""Tenants that about a thousand GPUs hold."""


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


def decision_us(policy: str) -> tuple[float, int]:
    """(median microseconds of an acquire, GPUs) on a fleet of about 1,000 GPUs."""
    fleet = Fleet(FleetOptions((Growth(GPU),), policy=policy))
    events = generate(FRESH, length=int(5 * THOUSAND_GPUS) + 3000, live=THOUSAND_GPUS)
    rows = replay(fleet, events).events
    last = rows[(rows.verb == "acquire") & (rows.event >= len(events) - 3000)]
    return float(last.decision_us.median()), fleet.gpus
