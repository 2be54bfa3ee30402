"""Predictions know the past and nothing else."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rltune
from rltune.nouns.cluster import Cluster, Pool
from rltune.nouns.errors import InputError
from rltune.nouns.jobs import JobTable
from rltune.policies.knowledge import known_run_times, predict
from rltune.policies.learn import FIRST_GUESS_S, RECENT


@st.composite
def tables(draw: st.DrawFn) -> dict[str, Any]:
    n = draw(st.integers(2, 25))

    def column(values: Any) -> list[Any]:
        return draw(st.lists(st.sampled_from(values), min_size=n, max_size=n))

    return {
        "job_id": [f"j{k}" for k in range(n)],
        "submit_s": sorted(draw(st.lists(st.integers(0, 100), min_size=n, max_size=n))),
        "duration_s": column([0, 1, 5, 20, 60, 1000]),
        "num_gpus": column([1, 2, 8]),
        "user": column(["u", "v", None]),
        "vc": column(["x", None]),
        "name": column(["train", "eval"]),
        "wait_s": column([0, 3, 50, None]),
    }


@settings(max_examples=150, deadline=None)
@given(tables(), st.data())
def test_predictions_do_not_know_jobs_that_have_not_ended(columns: dict[str, Any], data: st.DataObject) -> None:
    """The "predicted" rows of the table would look into the future."""
    jobs = JobTable.from_columns(columns)
    changed = data.draw(st.integers(0, len(jobs) - 1))
    duration = list(columns["duration_s"])
    duration[changed] = data.draw(st.sampled_from([0, 2, 30, 500, 10_000]))
    before, after = predict(jobs), predict(JobTable.from_columns(columns | {"duration_s": duration}))
    waited = columns["wait_s"][changed] or 0
    first_end = columns["submit_s"][changed] + waited + min(duration[changed], columns["duration_s"][changed])
    unaware = jobs.submit_s < first_end
    assert np.array_equal(before[unaware], after[unaware])


def test_predictions_by_hand() -> None:
    """The running geometric mean, or the choice of the group, would differ from what the documentation says."""
    jobs = JobTable.from_columns(
        {
            "submit_s": [0, 10, 100, 200, 300, 400],
            "duration_s": [50, 60, 8, 1, 1, 1],
            "num_gpus": [1, 1, 1, 1, 1, 4],
            "user": ["u", "v", "u", "u", "w", "w"],
            "vc": ["x"] * 6,
            "name": ["a", "a", "a", "a", "a", "a"],
        }
    )
    u = math.log1p(50) + RECENT * (math.log1p(8) - math.log1p(50))
    everyone = math.log1p(50)  # ends in order: 50 (job 0), 70 (job 1), 108 (job 2), 201 (job 3)
    for seconds in (60, 8, 1):
        everyone += RECENT * (math.log1p(seconds) - everyone)
    all_five = everyone + RECENT * (math.log1p(1) - everyone)
    expected = [FIRST_GUESS_S, FIRST_GUESS_S, 50, math.expm1(u), math.expm1(everyone), math.expm1(all_five)]
    assert predict(jobs) == pytest.approx(expected)


def test_a_recorded_wait_delays_what_is_known() -> None:
    """A job that waited an hour in the record would count as history while it still waited."""
    columns = {"submit_s": [0, 100, 5000], "duration_s": [10, 10, 10], "num_gpus": [1, 1, 1], "wait_s": [3600, 0, 0]}
    assert predict(JobTable.from_columns(columns)).tolist() == pytest.approx([FIRST_GUESS_S, FIRST_GUESS_S, 10])


def test_predictions_are_at_least_a_second() -> None:
    """Jobs of zero seconds would be predicted to take no time, and be backfilled anywhere."""
    columns = {"submit_s": [0, 1, 2], "duration_s": [0, 0, 0], "num_gpus": [1, 1, 1]}
    assert predict(JobTable.from_columns(columns)).tolist() == [FIRST_GUESS_S, 1, 1]


def test_exact_is_the_truth_and_unknown_is_nan() -> None:
    """runtimes=exact would not be the truth; runtimes=unknown would leak it."""
    jobs = JobTable.from_columns({"submit_s": [0, 1], "duration_s": [7.5, 0], "num_gpus": [1, 2]})
    assert known_run_times(jobs, "exact").tolist() == [7.5, 0]
    assert np.isnan(known_run_times(jobs, "unknown")).all()
    with pytest.raises(InputError, match="'guess' is unknown; known are exact, requested, predicted, online, unknown"):
        known_run_times(jobs, "guess")


def test_none_refuses_the_reservation() -> None:
    """EASY without run times would reserve at random."""
    jobs = JobTable.from_columns({"submit_s": [0, 1], "duration_s": [7.5, 0], "num_gpus": [1, 2]})
    with pytest.raises(InputError, match="backfill=easy needs run times"):
        rltune.simulate(jobs, "uniform", backfill="easy", runtimes="unknown")


@pytest.mark.parametrize("known", [[5.0], [5.0] * 4, [[5.0, 5.0, 5.0]], [5.0, -1.0, 5.0], [5.0, np.inf, 5.0]], ids=str)
def test_run_times_of_ones_own_are_checked(known: Any) -> None:
    """A user's predictions of the wrong shape or sign would be read past their end by compiled code."""
    jobs = JobTable.from_columns({"submit_s": [0, 1, 2], "duration_s": [7.5, 1, 3], "num_gpus": [8, 8, 8]})
    cluster = rltune.load_cluster({"pools": [{"nodes": 1, "gpus_per_node": 8}]})
    with pytest.raises(InputError, match=r"runtimes|run time"):
        rltune.simulate(jobs, cluster, backfill="easy", runtimes=np.array(known))


def test_online_forecasts_know_what_has_ended_in_the_simulation_only() -> None:
    """A scheduler that learns as it goes would know jobs that are still waiting in its own schedule."""
    jobs = JobTable.from_columns({"submit_s": [0, 1, 20, 1005], "duration_s": [1000, 10, 10, 10], "num_gpus": [1] * 4})
    cluster = Cluster("c", (Pool("p", 1, 1),))
    # In the record (no waits) job 1 ends first, at 11. On one GPU job 0 does, at 1000, then 1 at 1010 and 2 at 1020.
    online = rltune.simulate(jobs, cluster, policy="fifo", runtimes="online")
    assert online.start_s.tolist() == [0, 1000, 1010, 1020]
    believed = [FIRST_GUESS_S, FIRST_GUESS_S, FIRST_GUESS_S, 1000.0]
    error = np.abs(np.array(believed) - jobs.duration_s).mean()
    assert online.extra["forecast"]["mae_s"] == pytest.approx(error)
    assert known_run_times(jobs, "predicted")[2] == pytest.approx(10)


def test_online_forecasts_decide() -> None:
    """What has been learned in the simulation would never reach the policy."""
    # u's job takes 100 s, v's 10 s; then u and v submit one more each, u first: shortest remaining time takes v's.
    jobs = JobTable.from_columns(
        {
            "submit_s": [0, 1, 50, 51],
            "duration_s": [100, 10, 100, 10],
            "num_gpus": [1] * 4,
            "user": ["u", "v", "u", "v"],
        }
    )
    one = Cluster("c", (Pool("p", 1, 1),))
    online = rltune.simulate(jobs, one, policy="srtf", runtimes="online")
    # Nobody has ended when they come: all are believed to take 200 s, and go in turn.
    assert online.start_s.tolist() == [0, 100, 110, 210]
    later = JobTable.from_columns(
        {**jobs.to_frame()[["duration_s", "num_gpus", "user"]].to_dict("list"), "submit_s": [0, 1, 120, 125]}
    )
    # Job 2 (u) comes at 120, believed to take 100 s; job 3 (v) at 125, believed to take 10 s: it takes over.
    assert rltune.simulate(later, one, policy="srtf", runtimes="online").start_s.tolist() == [0, 100, 120, 125]


@pytest.mark.parametrize("policy", ["fifo", "sjf", "srtf"])
def test_missing_time_limits_are_refused(policy: str) -> None:
    """Jobs without a limit would silently be taken for jobs of no time, or of unlimited time."""
    jobs = JobTable.from_columns(
        {"submit_s": [0, 1], "duration_s": [5, 5], "num_gpus": [1, 1], "requested_s": [10, None], "job_id": ["a", "b"]}
    )
    cluster = Cluster("c", (Pool("p", 1, 1),))
    with pytest.raises(InputError, match="1 of 2 jobs, first b, have no requested_s"):
        rltune.simulate(jobs, cluster, policy=policy, runtimes="requested")
