"""Metrics of the cluster against numbers worked out by hand, also for jobs that were interrupted, shared or given up."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rltune
from rltune.core.state import FINISHED, GIVEN_UP, JOB_FAILURE, SUSPENDED
from rltune.nouns.cluster import Cluster, Pool
from rltune.nouns.errors import InputError
from rltune.nouns.gpus import GPU_TYPES
from rltune.nouns.jobs import JobTable
from rltune.simulator.fragments import lost
from rltune.simulator.result import Result
from rltune.simulator.runs import frozen_runs

TWO = Cluster("two", (Pool("a", 2, 4, gpu_type="V100"),))


@pytest.fixture
def interrupted() -> Result:
    """a makes room for b and restarts (10 s lost), c has half a GPU, d fails twice and is given up. Makespan 160 s."""
    jobs = JobTable.from_columns(
        {
            "job_id": ["a", "b", "c", "d"],
            "submit_s": [0, 10, 20, 30],
            "duration_s": [100, 50, 50, 20],
            "num_gpus": [4, 4, 1, 1],
            "gpu_milli": [1000, 1000, 500, 1000],
            "vc": ["x", "y", "y", "x"],
            "priority": [1, 2, 1, 1],
        }
    )
    runs = frozen_runs(
        job=np.array([0, 2, 3, 1, 3, 0]),
        start_s=np.array([0.0, 20, 30, 40, 60, 90]),
        end_s=np.array([40.0, 70, 50, 90, 80, 160]),
        useful_s=np.array([40.0, 50, 0, 50, 0, 60]),
        outcome=np.array([SUSPENDED, FINISHED, JOB_FAILURE, FINISHED, GIVEN_UP, FINISHED], np.int8),
        pool=np.zeros(6, np.int64),
        ptr=np.arange(7),
        node=np.array([0, 1, 1, 0, 1, 0]),
        milli=np.array([4000, 500, 1000, 4000, 1000, 4000]),
    )
    start, end = np.array([0.0, 40, 20, 30]), np.array([160.0, 90, 70, np.nan])
    return Result(jobs, TWO, start, end, lambda: runs, events=10, dropped=0)


def test_interrupted_jobs_by_hand(interrupted: Result) -> None:
    """Time between runs would not be wait, restarts not JCT, and a job that was given up would enter the means."""
    scores = interrupted.scores()
    assert scores["wait_s"].tolist() == [50, 30, 0]
    assert scores["jct_s"].tolist() == [160, 80, 50]
    assert scores["bsld"].tolist() == [1.6, 1.6, 1]
    assert interrupted.makespan_s() == 160
    summary = interrupted.summary()
    assert summary["unfinished"] == 1
    assert summary["runs"] == {
        "count": 6, "finished": 3, "suspended": 1, "node failure": 0, "job failure": 1, "given up": 1
    }  # fmt: skip
    assert summary["starvation"] == {"max_wait_s": 50, "waiting_over_24h": 0, "never_started": 0}
    json.dumps(summary, allow_nan=False)


def test_held_and_useful_time_by_hand(interrupted: Result) -> None:
    """Lost work and restarts would count as goodput, or half a GPU as a whole one."""
    held = 4 * (40 + 70) + 4 * 50 + 0.5 * 50 + 20 + 20
    assert interrupted.utilization() == pytest.approx(held / (160 * 8))
    assert interrupted.goodput() == pytest.approx((4 * 100 + 4 * 50 + 0.5 * 50) / (160 * 8))
    summary = interrupted.summary()
    assert summary["flops_utilization"]["mean"] == pytest.approx(held / (160 * 8))
    busy, idle = held * 0.63 * 300 / 3.6e6, (160 * 8 - held) * 0.14 * 300 / 3.6e6
    assert summary["energy_kwh"]["by_type"]["V100"] == pytest.approx({"busy": busy, "idle": idle})
    assert summary["energy_kwh"]["mean"] == pytest.approx(busy + idle)


def test_queue_and_timeline_by_hand(interrupted: Result) -> None:
    """A suspended job would vanish from the queue until it runs again, or a figure show a sample instead of a mean."""
    # b waits 10-40, a waits 40-90, d waits 50-60.
    assert interrupted.summary()["queue"] == pytest.approx(
        {"mean_jobs": 90 / 160, "max_jobs": 2, "mean_gpus": (4 * 30 + 4 * 50 + 10) / 160, "max_gpus": 5}
    )
    line = interrupted.timeline(40)
    assert line.time_s.tolist() == [0, 40, 80, 120]
    assert line.queued_jobs.tolist() == pytest.approx([30 / 40, 50 / 40, 10 / 40, 0])
    assert line.queued_gpus.tolist() == pytest.approx([120 / 40, (160 + 10) / 40, 1, 0])
    assert line.busy_gpus.tolist() == pytest.approx([180 / 40, (160 + 15 + 10 + 20) / 40, 4, 4])
    assert (line.busy_gpus + line.free_gpus).tolist() == pytest.approx([8] * 4)
    for step in (0, -1, np.nan, np.inf, 1e-6):
        with pytest.raises(InputError, match="step_s"):
            interrupted.timeline(step)


def test_groups_by_hand(interrupted: Result) -> None:
    """A virtual cluster's mean would hold jobs of another, or of jobs that never came to their end."""
    table = interrupted.by("vc")
    assert table.index.tolist() == ["x", "y"]
    assert table.jobs.tolist() == [2, 2] and table.unfinished.tolist() == [1, 0]
    assert table.wait_s.tolist() == [50, 15] and table.jct_s.tolist() == [160, 65]
    assert table.gpu_h.tolist() == pytest.approx([(440 + 40) / 3600, (200 + 25) / 3600])
    assert interrupted.by("priority").jct_s.tolist() == [105, 80]
    assert interrupted.by("user").index.tolist() == ["-"]
    with pytest.raises(InputError, match="known are vc, user, priority"):
        interrupted.by("colour")


def test_fairness_of_tenants_by_hand(interrupted: Result) -> None:
    """Jain's index would be over jobs instead of tenants, or a tenant without a finished job count as one."""
    found = interrupted.fairness("vc")
    assert found is not None and found["tenants"] == 2
    x, y = 1.6, 1.3
    assert found["jain_bsld"] == pytest.approx((x + y) ** 2 / (2 * (x * x + y * y)))
    # y is in the system 10-90 with x all the while: N = 2; x: 160 s, of which 80 with y.
    alone = [100 * 4 * 1.5 / 8, 50 * 4 * 2 / 8, 10 + 50 - 10]
    rho = [160 / max(100, alone[0]), 80 / max(50, alone[1]), 50 / max(50, 40 + 50 * 0.5 * 2 / 8)]
    assert found["rho"]["mean"] == pytest.approx(np.mean(rho))
    assert found["rho"]["worst"] == pytest.approx(1.6)
    assert interrupted.by("vc").rho.tolist() == pytest.approx([rho[0], np.mean(rho[1:])])
    assert interrupted.fairness("user") is None


def test_bounds_allow_for_interruptions_only_where_there_were_some(interrupted: Result) -> None:
    """The table would hold a preemptive schedule against a bound that only others must keep."""
    found = interrupted.bounds()
    assert found["preemptive"] is True
    assert found["jct_s"]["reached"] == pytest.approx((160 + 80 + 50) / 3)
    assert found["jct_s"]["bound"] == pytest.approx((100 + 50 + 50) / 3)  # the GPUs suffice for all at once
    assert found["makespan_s"]["above"] == pytest.approx(160 / 100 - 1)
    jobs = JobTable.from_columns({"submit_s": [0, 0], "duration_s": [10, 30], "num_gpus": [8, 8]})
    found = rltune.simulate(jobs, TWO, policy="sjf").bounds()
    assert found["preemptive"] is False
    assert [found[name]["above"] for name in ("jct_s", "wait_s", "makespan_s")] == pytest.approx([0, 0, 0])
    shares = JobTable.from_columns(
        {"submit_s": [0, 0], "duration_s": [10, 30], "num_gpus": [1, 1], "gpu_milli": [500, 500]}
    )
    one = Cluster("one", (Pool("a", 1, 1),))
    assert rltune.lower_bounds(shares, one).makespan_s == 30  # not 40: both fit one GPU
    assert rltune.lower_bounds(jobs, TWO, preemptive=True).jct_s == pytest.approx((10 + 40) / 2)


def test_no_bound_is_claimed_where_none_holds(interrupted: Result) -> None:
    """A faster GPU than the recorded one would put a schedule below its "lower bound"."""
    fast = frozen_runs(**{f: np.array(getattr(interrupted.runs, f)) for f in interrupted.runs.__dataclass_fields__})
    fast = frozen_runs(
        **{f: np.array(getattr(fast, f)) for f in fast.__dataclass_fields__ if f != "useful_s"},
        useful_s=np.array(fast.useful_s) * 2,
    )
    result = Result(interrupted.jobs, TWO, interrupted.start_s, interrupted.end_s, lambda: fast, 10, 0)
    assert result.bounds() == {"reason": "no bound where jobs run faster than recorded"}


def test_flops_and_energy_by_pool() -> None:
    """An hour of a T4 would weigh as much as an hour of a V100."""
    mixed = Cluster("mixed", (Pool("t", 1, 1, gpu_type="T4"), Pool("v", 1, 1, gpu_type="V100")))
    jobs = JobTable.from_columns(
        {"submit_s": [0, 0], "duration_s": [3600, 1800], "num_gpus": [1, 1], "gpu_type": ["T4", "V100"]}
    )
    summary = rltune.simulate(jobs, mixed).summary()
    assert summary["utilization"]["mean"] == pytest.approx(0.75)
    assert summary["flops_utilization"]["mean"] == pytest.approx((65 + 125 / 2) / (65 + 125))
    kwh = summary["energy_kwh"]["by_type"]
    assert kwh["T4"] == pytest.approx({"busy": 0.60 * 70 / 1000, "idle": 0})
    assert kwh["V100"] == pytest.approx({"busy": 0.63 * 300 / 2000, "idle": 0.14 * 300 / 2000})


def test_unpublished_figures_are_none_with_the_reason() -> None:
    """A cluster of unnamed GPUs would be told to draw no power."""
    mixed = Cluster("mixed", (Pool("t", 1, 1, gpu_type="MISC"), Pool("v", 1, 1, gpu_type="V100")))
    summary = rltune.simulate(
        JobTable.from_columns({"submit_s": [0], "duration_s": [9], "num_gpus": [1]}), mixed
    ).summary()
    assert summary["flops_utilization"] == {"mean": None, "reason": "no published FLOPS of GPU type MISC"}
    assert summary["energy_kwh"]["mean"] is None
    assert summary["energy_kwh"]["by_type"]["V100"] is not None
    assert "MISC" in summary["energy_kwh"]["reason"]


def test_every_gpu_type_with_a_power_has_flops_and_draws_less_idle_than_busy() -> None:
    """A new type with half its figures would make one metric None and the other not."""
    for kind in GPU_TYPES.values():
        assert (kind.tflops is None) == (kind.tdp_w is None) == (kind.busy_w is None) == (kind.idle_w is None)
        if kind.tdp_w is not None and kind.busy_w is not None and kind.idle_w is not None:
            assert 0 < kind.idle_w < kind.busy_w < kind.tdp_w


@pytest.mark.parametrize(
    ("free", "need", "expected"),
    [(4000, 4000, 0), (2000, 4000, 2000), (2500, 2000, 500), (2500, 3000, 2500), (2500, 400, 0), (2500, 600, 500),
     (300, 600, 300), (0, 1000, 0)],
)  # fmt: skip
def test_what_a_job_cannot_use_of_a_node(free: int, need: int, expected: int) -> None:
    """Fragmentation would count GPUs that the job can use, or miss a remainder that is too small for it."""
    assert lost(free, need) == expected


def test_fragmentation_by_demand_by_hand() -> None:
    """Free GPUs would count as lost although the waiting jobs fit them, or the mix be of jobs that nobody submitted yet."""
    jobs = JobTable.from_columns({"submit_s": [0, 10, 20], "duration_s": [100, 5, 100], "num_gpus": [2, 4, 1]})
    # 0-10: 2 + 4 free, demand {2}: none lost; 10-15: 2 free, {2, 4}: half of them; 15-20: 2 + 4 free, {2, 4}: 2 x 1/2.
    assert rltune.simulate(jobs, TWO).fragmentation_by_demand() == pytest.approx((1 * 5 + 1 * 5) / (60 + 10 + 30))
    jobs = JobTable.from_columns({"submit_s": [0, 10, 20], "duration_s": [100, 5, 100], "num_gpus": [2, 8, 1]})
    # From 10 on the gang of 8 waits, which needs empty nodes: the 2 beside the first job are lost to it.
    assert rltune.simulate(jobs, TWO).fragmentation_by_demand() == pytest.approx(2 * 10 / (6 * 20))


def test_fragmentation_by_demand_minds_who_may_use_a_pool() -> None:
    """GPUs of one virtual cluster would count as lost because a job of another does not fit them."""
    own = Cluster("own", (Pool("x", 1, 4, vc="x"), Pool("y", 1, 4, vc="y")))
    jobs = JobTable.from_columns(
        {"submit_s": [0, 0, 10], "duration_s": [50, 50, 50], "num_gpus": [2, 1, 4], "vc": ["x", "y", "y"]}
    )
    # x: 2 free for its demand {2}. y: 3 free, demand {1} until the gang of 4 comes, at which the replay ends.
    assert rltune.simulate(jobs, own).fragmentation_by_demand() == 0
    later = JobTable.from_columns(
        {
            "submit_s": [0, 0, 10, 20],
            "duration_s": [50, 50, 50, 9],
            "num_gpus": [2, 1, 4, 1],
            "vc": ["x", "y", "y", "y"],
        }
    )
    assert rltune.simulate(later, own).fragmentation_by_demand() == pytest.approx(3 * 10 / (5 * 20))


def test_nothing_ran() -> None:
    """A cluster on which nothing fits would be a stack trace in the new metrics."""
    one = Cluster("one", (Pool("a", 1, 1, gpu_type="T4"),))
    jobs = JobTable.from_columns({"submit_s": [0, 5], "duration_s": [9, 9], "num_gpus": [2, 2], "vc": ["x", "y"]})
    result = rltune.simulate(jobs, one, oversized="drop")
    summary = result.summary()
    assert (summary["goodput"]["mean"], summary["energy_kwh"]["mean"], summary["queue"]["mean_jobs"]) == (0, 0, 0)
    assert summary["fairness"] == {"vc": None, "user": None}
    assert result.bounds() == {"reason": "no job finished"}
    assert result.timeline(10).busy_gpus.tolist() == [0]
    assert result.by("vc").unfinished.tolist() == [1, 1]


@settings(max_examples=40, deadline=None)
@given(
    jobs=st.lists(
        st.tuples(st.integers(0, 300), st.integers(0, 200), st.integers(1, 8), st.integers(0, 3)),
        min_size=1,
        max_size=40,
    ),
    backfill=st.sampled_from(["blocking", "skip", "easy"]),
)
def test_what_must_hold_for_any_schedule(jobs: list[tuple[int, int, int, int]], backfill: str) -> None:
    """A share would leave 0 to 1, the queue would not be the sum of waits (Little), or a schedule beat its bound."""
    submit, run, gpus, user = (np.array(column) for column in zip(*jobs, strict=True))
    table = JobTable.from_columns(
        {"submit_s": submit, "duration_s": run, "num_gpus": gpus, "user": [f"u{u}" for u in user]}
    )
    result = rltune.simulate(table, TWO, backfill=backfill)
    summary, span = result.summary(), result.makespan_s()
    for name in ("utilization", "goodput", "flops_utilization", "fragmentation", "fragmentation_by_demand"):
        assert -1e-9 <= summary[name]["mean"] <= 1 + 1e-9
    assert summary["goodput"]["mean"] == pytest.approx(summary["utilization"]["mean"])
    assert summary["queue"]["mean_jobs"] * span == pytest.approx(float(result.wait_s.sum()), abs=1e-6)
    line = result.timeline(17.0)
    assert line.queued_jobs.sum() * 17 == pytest.approx(float(result.wait_s.sum()), abs=1e-6)
    assert line.busy_gpus.sum() * 17 == pytest.approx(summary["utilization"]["mean"] * span * 8, abs=1e-6)
    assert (line.free_gpus >= -1e-9).all()
    for name in ("jct_s", "wait_s", "makespan_s"):
        found = result.bounds()[name]
        assert found["reached"] >= found["bound"] - 1e-6
    if (fair := result.fairness("user")) is not None:
        assert 1 / fair["tenants"] - 1e-9 <= fair["jain_bsld"] <= 1
        assert fair["rho"]["mean"] > 0
    assert result.by("user").jobs.sum() == len(table)


def test_fragmentation_with_jobs_of_no_time() -> None:
    """A job of zero seconds would make the replay start later runs at once, and read past the last one."""
    jobs = JobTable.from_columns({"submit_s": [0, 10, 20], "duration_s": [0, 100, 100], "num_gpus": [2, 2, 1]})
    result = rltune.simulate(jobs, TWO)
    # 0-10: 8 free on idle nodes; 10-20: 6 free, 2 of them beside the second job, which its own size still fits.
    assert result.fragmentation() == pytest.approx(2 * 10 / (8 * 10 + 6 * 10))
    assert result.fragmentation_by_demand() == 0
    jobs = JobTable.from_columns({"submit_s": [0, 30], "duration_s": [0, 5], "num_gpus": [2, 9]})
    result = rltune.simulate(jobs, TWO, oversized="drop")
    assert (result.fragmentation(), result.fragmentation_by_demand()) == (0, 0)


def test_a_virtual_cluster_without_gpus_has_bounds() -> None:
    """The command would simulate everything and then fail to write that a bound is no number."""
    cluster = Cluster.from_spec({"pools": [{"nodes": 1, "gpus_per_node": 0, "cpus": 6, "vc": "y"}]})
    columns = {
        "submit_s": [0, 0],
        "duration_s": [5, 5],
        "num_gpus": [1, 1],
        "gpu_milli": [0, 0],
        "cpus": [6, 6],
        "vc": ["y", "y"],
    }
    result = rltune.simulate(JobTable.from_columns(columns), cluster)
    assert result.end_s.tolist() == [5, 10]
    json.dumps([result.bounds(), result.summary()], allow_nan=False)


def test_a_gang_spreads_over_nodes_for_its_cpus() -> None:
    """A gang that runs as 6 and 6 GPUs would be refused, since 8 of them would need more CPUs than a node has."""
    cluster = Cluster.from_spec({"pools": [{"nodes": 2, "gpus_per_node": 8, "cpus": 6}]})
    columns = {"submit_s": [0], "duration_s": [5], "num_gpus": [12], "cpus": [12]}
    assert rltune.simulate(JobTable.from_columns(columns), cluster).schedule.gpus[0] == [6, 6]
    with pytest.raises(InputError, match="wants 14 CPUs, 0 GB, which no node"):
        rltune.simulate(JobTable.from_columns({**columns, "cpus": [14]}), cluster)
