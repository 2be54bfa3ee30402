"""Who may suspend whom: only those clearly ahead, only after they have waited, and no gang for the sake of one GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rltune
from rltune.nouns.cluster import Cluster, Pool
from rltune.nouns.jobs import JobTable
from rltune.simulator.runs import SUSPENDED

CLUSTER = Cluster("c", (Pool("p", 4, 8),))
RESUME_S = 60.0


def busy(n: int = 400, seed: int = 3) -> JobTable:
    rng = np.random.default_rng(seed)
    columns = {"submit_s": np.sort(rng.uniform(0, 4e4, n)), "duration_s": np.exp(rng.normal(6, 2, n))}
    return JobTable.from_columns(columns | {"num_gpus": rng.choice([1, 1, 2, 4, 8, 16], n)})


def simulate(rows: list[tuple[float, float, int]], cluster: Cluster, **options: Any) -> rltune.Result:
    submit, run, gpus = zip(*rows, strict=True)
    names = [chr(ord("a") + k) for k in range(len(rows))]
    return rltune.simulate(
        JobTable.from_columns({"job_id": names, "submit_s": submit, "duration_s": run, "num_gpus": gpus}),
        cluster,
        **options,
    )


@pytest.mark.parametrize("factor", [1.5, 2.0, 4.0])
def test_a_suspended_job_is_behind_by_the_factor(factor: float) -> None:
    """Jobs of like keys would take turns, a resumption each time."""
    jobs = busy()
    result = rltune.simulate(jobs, CLUSTER, policy="srsf", resume_s=RESUME_S, displace_factor=factor)
    runs, gpus = result.runs, jobs.num_gpus
    suspended = np.flatnonzero(runs.outcome == SUSPENDED)
    assert len(suspended) > 10

    def key(job: int, now: float) -> float:
        before = (runs.job == job) & (runs.end_s <= now)
        return (jobs.duration_s[job] - runs.useful_s[before].sum()) * gpus[job]

    for r in suspended:
        now, victim = runs.end_s[r], runs.job[r]
        ahead = min(key(job, now) for job in runs.job[runs.start_s == now])
        assert key(victim, now) > factor * ahead + RESUME_S * gpus[victim] - 1e-6


def test_who_suspends_has_waited_for_as_long_as_a_resumption_takes() -> None:
    """A job would be suspended for one that free GPUs would have served within the minute."""
    jobs = busy()
    result = rltune.simulate(jobs, CLUSTER, policy="las", runtimes="unknown", resume_s=RESUME_S)
    runs = result.runs
    for now in np.unique(runs.end_s[runs.outcome == SUSPENDED]):
        waits = []
        for job in runs.job[runs.start_s == now]:
            ends = runs.end_s[(runs.job == job) & (runs.end_s <= now)]
            waits.append(now - max(ends, default=jobs.submit_s[job]))
        assert max(waits) >= RESUME_S - 1e-6


def test_its_patience_ends_even_if_nothing_else_happens() -> None:
    """A short job would wait for hours, since nothing happens while the long one runs."""
    result = simulate([(0, 9000, 1), (100, 10, 1)], Cluster("c", (Pool("p", 1, 1),)), policy="srsf", resume_s=RESUME_S)
    assert result.start_s.tolist() == [0, 160] and result.end_s.tolist() == [9070, 170]


def test_where_one_gpu_is_wanted_no_gang_is_broken_up() -> None:
    """Fifteen GPUs would stand idle, and the gang wait for two whole nodes, for a job of one."""
    rows = [(0.0, 9000.0, 16), (0.0, 8000.0, 8), (0.0, 4000.0, 4), (0.0, 4000.0, 4), (1000.0, 10.0, 1)]
    suspended = {}
    for factor in (1.0, 2.0):
        runs = simulate(rows, CLUSTER, policy="srsf", resume_s=RESUME_S, displace_factor=factor).attempts
        suspended[factor] = runs[runs.outcome == "suspended"].job_id.tolist()
    assert suspended == {1.0: ["a"], 2.0: ["d"]}


def test_levels_are_hysteresis_enough() -> None:
    """Tiresias' published rule would be changed by an option that is not of it."""
    jobs = busy()
    plain, with_factor = (
        rltune.simulate(jobs, CLUSTER, policy="las_levels", resume_s=RESUME_S, displace_factor=factor)
        for factor in (1.0, 4.0)
    )
    by_las = rltune.simulate(jobs, CLUSTER, policy="las", resume_s=RESUME_S, las_levels_gpu_s=(3250, 7200, 18_000))
    assert plain.attempts.equals(with_factor.attempts) and plain.attempts.equals(by_las.attempts)


def test_a_job_that_outlives_its_estimate_yields() -> None:
    """A job believed to end at once would hold the GPU before all others for hours."""
    rows, one = [(0, 1000, 1), (100, 30, 1)], Cluster("c", (Pool("p", 1, 1),))
    options = {"policy": "srsf", "runtimes": [10.0, 30.0], "displace_factor": 1.0}
    # At 100 a is believed to need as long again, 100 s, b 30.
    assert simulate(rows, one, **options).start_s.tolist() == [0, 100]
    assert simulate(rows, one, **options, overrun_factor=1.0).start_s.tolist() == [0, 1000]


def test_exact_run_times_are_believed_to_the_end() -> None:
    """A job about to end would be suspended, though its run time is known."""
    rows, one = [(0, 100, 1), (90, 20, 1)], Cluster("c", (Pool("p", 1, 1),))
    assert simulate(rows, one, policy="srsf", displace_factor=1.0).start_s.tolist() == [0, 100]
