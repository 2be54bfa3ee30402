"""Lower bounds: below every schedule, tight where theory says so."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rltune
from rltune.nouns.cluster import Cluster, Pool
from rltune.nouns.jobs import JobTable
from rltune.simulator.bounds import lower_bounds

Job = tuple[float, float, int]


def table(jobs: list[Job], **more: list[str | None]) -> JobTable:
    submit, duration, gpus = zip(*jobs, strict=True)
    return JobTable.from_columns({"submit_s": submit, "duration_s": duration, "num_gpus": gpus, **more})


def best_schedules(jobs: list[Job], gpus: int) -> tuple[float, float]:
    """Least mean JCT and least makespan over all active schedules: each order of jobs, each as early as it fits.

    An optimum of any regular measure is among them (Sprecher et al., EJOR 1995).
    """
    least_jct, least_end = np.inf, np.inf
    for order in permutations(jobs):
        placed: list[tuple[float, float, int]] = []
        for submit, duration, wanted in order:
            for begin in sorted({submit, *(end for _, end, _ in placed if end > submit)}):
                instants = [begin, *(s for s, _, _ in placed if begin < s < begin + duration)]
                if all(sum(g for s, e, g in placed if s <= t < e) + wanted <= gpus for t in instants):
                    placed.append((begin, begin + duration, wanted))
                    break
        least_jct = min(least_jct, sum(end - j[0] for (_, end, _), j in zip(placed, order, strict=True)) / len(jobs))
        least_end = min(least_end, max(end for _, end, _ in placed) - min(j[0] for j in jobs))
    return least_jct, least_end


@settings(max_examples=120, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 9), st.integers(1, 3)), min_size=1, max_size=5),
    st.integers(3, 5),
)
def test_no_schedule_beats_the_bounds(jobs: list[Job], gpus: int) -> None:
    """A table would say "3 % above the optimum" of a schedule that the true optimum beats by half."""
    jobs = sorted(jobs)
    bounds = lower_bounds(table(jobs), Cluster("c", (Pool("a", gpus, 1),)))
    jct, end = best_schedules(jobs, gpus)
    assert bounds.jct_s <= jct + 1e-9
    assert bounds.wait_s <= jct - np.mean([j[1] for j in jobs]) + 1e-9
    assert bounds.makespan_s <= end + 1e-9


def test_one_gpu_without_release_dates_is_exact() -> None:
    """On one GPU shortest first is optimal, and the bound must be just that."""
    jobs = [(0.0, d, 1) for d in (5.0, 1.0, 3.0, 2.0)]
    bounds = lower_bounds(table(jobs), Cluster("c", (Pool("a", 1, 1),)))
    assert bounds.jct_s == pytest.approx((1 + 3 + 6 + 11) / 4)
    assert bounds.wait_s == pytest.approx((0 + 1 + 3 + 6) / 4)
    assert bounds.makespan_s == pytest.approx(11)


def test_a_late_wave_bounds_the_makespan() -> None:
    """The work of the last hours cannot begin before it is submitted."""
    jobs = [(0.0, 1.0, 1), (100.0, 8.0, 2), (100.0, 8.0, 2)]
    assert lower_bounds(table(jobs), Cluster("c", (Pool("a", 2, 1),))).makespan_s == pytest.approx(116)


def test_separate_virtual_clusters_are_bounded_apart() -> None:
    """Idle GPUs that a job may not use would be counted for it, and the bound be far too low."""
    jobs = table([(0.0, 10.0, 1)] * 4, vc=["x"] * 4)
    shared = Cluster("c", (Pool("a", 4, 1),))
    split = Cluster("c", (Pool("a", 1, 1, vc="x"), Pool("b", 3, 1, vc="y")))
    assert lower_bounds(jobs, shared).wait_s == 0
    assert lower_bounds(jobs, split).wait_s == pytest.approx((0 + 10 + 20 + 30) / 4)


def test_jobs_that_no_pool_holds_are_left_out() -> None:
    """One impossible job would raise the bound above every schedule of the others."""
    bounds = lower_bounds(table([(0.0, 10.0, 1), (1.0, 1e6, 64)]), Cluster("c", (Pool("a", 2, 1),)))
    assert (bounds.jobs, bounds.jct_s, bounds.makespan_s) == (1, 10.0, 10.0)


@pytest.mark.parametrize("policy", ["fifo", "sjf", "saf", "f4"])
@pytest.mark.parametrize("backfill", ["skip", "easy"])
def test_our_own_schedules_are_above_the_bounds(policy: str, backfill: str) -> None:
    """A simulator that beats the bound has lost work somewhere."""
    trace = rltune.load_trace("synthetic", jobs=3000, arrivals_per_h=300.0, seed=3)
    cluster = rltune.load_cluster("uniform", nodes=16)
    bounds = lower_bounds(trace.jobs, cluster)
    assert bounds.wait_s > 0
    result = rltune.simulate(trace, cluster, policy=policy, backfill=backfill)
    assert result.scores()["jct_s"].mean() >= bounds.jct_s
    assert result.scores()["wait_s"].mean() >= bounds.wait_s
    assert result.makespan_s() >= bounds.makespan_s
