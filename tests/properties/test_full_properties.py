"""What must hold of every detailed simulation: shares, MIG, preemption, failures, reservations."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pytest
from full_cases import POLICIES, Seen, check, clusters, option_sets, tables
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rltune
from rltune.core import conservative
from rltune.nouns.cluster import Cluster, Pool
from rltune.nouns.jobs import JobTable
from rltune.policies.orders import ORDERS
from tests.some import some

FEW = settings(max_examples=9, deadline=None, suppress_health_check=list(HealthCheck))
MANY = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))


def check_policy(policy: str, data: st.DataObject) -> None:
    jobs, cluster = data.draw(tables()), data.draw(clusters())
    options = data.draw(option_sets(policy, jobs, cluster))
    check(Seen(jobs, cluster, policy=policy, **options), policy)


@pytest.mark.parametrize("policy", POLICIES)
@FEW
@given(st.data())
def test_nothing_is_lost_and_nothing_held_twice(policy: str, data: st.DataObject) -> None:
    """A job would vanish, run on GPUs that another holds or a node that is down, or finish without its work done."""
    check_policy(policy, data)


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
@MANY
@given(st.data())
def test_nothing_is_lost_and_nothing_held_twice_thoroughly(policy: str, data: st.DataObject) -> None:
    """As above, in rarer combinations."""
    check_policy(policy, data)


def same(a: rltune.Result, b: rltune.Result) -> bool:
    return a.attempts.equals(b.attempts) and np.array_equal(a.end_s, b.end_s, equal_nan=True)


def check_order_of_rows(policy: str, data: st.DataObject, names: bool) -> None:
    jobs, cluster = data.draw(tables(most=12)), data.draw(clusters())
    options = data.draw(option_sets(policy, jobs, cluster))
    frame = jobs.to_frame()
    if names:
        # The same order of names, so that ties do not turn.
        frame["job_id"] = [f"z{k}-other" for k in range(len(frame))]
    shuffled = frame.sample(frac=1, random_state=data.draw(st.integers(0, 99)))
    other = JobTable.from_columns({name: column.tolist() for name, column in shuffled.items()})
    first, again = (rltune.simulate(t, cluster, policy=policy, oversized="drop", **options) for t in (jobs, other))
    a, b = first.attempts, again.attempts
    if names:
        a, b = a.drop(columns="job_id"), b.drop(columns="job_id")
        assert np.array_equal(first.runs.job, again.runs.job)
    assert a.equals(b) and np.array_equal(first.end_s, again.end_s, equal_nan=True)


@pytest.mark.parametrize("names", [False, True])
@settings(FEW, max_examples=25)
@given(st.sampled_from(POLICIES), st.data())
def test_neither_the_order_of_rows_nor_the_names_of_jobs_matter(names: bool, policy: str, data: st.DataObject) -> None:
    """Two exports of one log would give two results."""
    check_order_of_rows(policy, data, names)


@settings(FEW, max_examples=20)
@given(st.sampled_from(POLICIES), st.data())
def test_the_same_seed_gives_the_same_result(policy: str, data: st.DataObject) -> None:
    """A result with failures could not be reproduced."""
    jobs, cluster = data.draw(tables(most=12)), data.draw(clusters())
    options = data.draw(option_sets(policy, jobs, cluster))
    first, again = (rltune.simulate(jobs, cluster, policy=policy, oversized="drop", **options) for _ in range(2))
    assert same(first, again)


@pytest.mark.parametrize("option", ["node_mtbf_s", "gpu_mtbf_s"])
def test_another_seed_gives_other_failures(option: str) -> None:
    """Repeating a simulation over seeds would repeat the same failures, and show no uncertainty at all."""
    jobs = rltune.load_trace("synthetic", jobs=200, seed=1).jobs
    results = [rltune.simulate(jobs, "uniform", seed=seed, **{option: 20_000.0}) for seed in range(3)]
    assert not same(results[0], results[1]) and not same(results[1], results[2])


@settings(FEW, max_examples=60)
@given(st.data(), st.sampled_from(sorted(ORDERS)), st.sampled_from(["strict", "skip", "easy"]))
def test_whole_gpus_without_faults_run_as_on_the_fast_loop(data: st.DataObject, policy: str, backfill: str) -> None:
    """A comparison would change because an option that does nothing here was given."""
    check_fast_loop(data, policy, backfill)


@pytest.mark.slow
@settings(MANY, max_examples=1500)
@given(st.data(), st.sampled_from(sorted(ORDERS)), st.sampled_from(["strict", "skip", "easy"]))
def test_whole_gpus_without_faults_run_as_on_the_fast_loop_thoroughly(
    data: st.DataObject, policy: str, backfill: str
) -> None:
    """As above, in rarer combinations."""
    check_fast_loop(data, policy, backfill)


def check_fast_loop(data: st.DataObject, policy: str, backfill: str) -> None:
    jobs, cluster = data.draw(tables(plain=True)), data.draw(clusters(plain=True))
    common: dict[str, Any] = {"policy": policy, "backfill": backfill, "oversized": "drop"}
    common["runtimes"] = data.draw(st.sampled_from(["exact", "predicted", "requested"]))
    fast, detailed = (rltune.simulate(jobs, cluster, **common, **more) for more in ({}, {"max_retries": 10}))
    assert np.array_equal(fast.start_s, detailed.start_s, equal_nan=True)
    assert np.array_equal(fast.end_s, detailed.end_s, equal_nan=True)
    assert fast.schedule.equals(detailed.schedule)
    assert fast.dropped == detailed.dropped


def test_any_number_of_jobs_without_a_gpu_may_run_at_once() -> None:
    """More small jobs on CPUs than there are thousandths of GPUs would overwrite memory."""
    jobs = JobTable.from_columns(
        {"submit_s": [0] * 3000, "duration_s": [5] * 3000, "num_gpus": [1] * 3000, "gpu_milli": [0] * 3000}
    )
    cluster = Cluster("c", (Pool("p", 1, 1),))
    for backfill in ("skip", "conservative"):
        result = rltune.simulate(jobs, cluster, backfill=backfill)
        assert (result.start_s == 0).all() and (result.end_s == 5).all()


def busy(jobs: int) -> tuple[JobTable, Cluster]:
    """A cluster of 40 GPUs with some days' jobs, a third of them shares."""
    frame = rltune.load_trace("synthetic", jobs=jobs, arrivals_per_h=60.0, seed=2).jobs.to_frame()
    frame["num_gpus"] = frame.num_gpus.clip(upper=16)
    shared = (frame.index % 3 == 0) & (frame.num_gpus == 1)
    frame.loc[shared, "gpu_milli"] = 300
    columns = frame[["job_id", "submit_s", "duration_s", "num_gpus", "gpu_milli", "user", "vc"]].to_dict("list")
    return JobTable.from_columns(columns), Cluster("busy", (Pool("a", 3, 8), Pool("b", 4, 4)))


def test_a_plan_that_outgrows_its_memory_says_so_and_stays_possible() -> None:
    """On a large cluster reservations would be left out silently, or jobs be put where others run."""
    jobs, cluster = busy(300)
    whole = rltune.simulate(jobs, cluster, backfill="conservative")
    with mock.patch.object(conservative, "PROFILE_BYTES", 1):
        seen = Seen(jobs, cluster, policy="fifo", backfill="conservative")
    assert "reservations_simplified" not in whole.summary()
    assert seen.result.summary()["reservations_simplified"] > 0
    assert whole.finished.all() and seen.result.finished.all()
    check(seen, "fifo")


BUSY = ("las", "gittins", "srtf", "lottery", "wfq", "fair_user", "round_robin", "fifo")


@pytest.mark.parametrize("policy", some(BUSY, "gittins", "fifo"))
def test_nothing_is_lost_on_a_busy_cluster(policy: str) -> None:
    """What holds of twenty jobs would fail where logs and queues are long."""
    faults = {
        "node_mtbf_s": 20_000.0,
        "node_repair_s": 5000.0,
        "gpu_mtbf_s": 2e5,
        "checkpoint_s": 1800.0,
        "resume_s": 30.0,
        "seed": 4,
    }
    check(Seen(*busy(400), policy=policy, backfill="skip", **faults), policy)
