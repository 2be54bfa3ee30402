"""What a simulation reports: by hand, and for jobs that never run."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pandas as pd
import pytest

import rltune
from rltune.allocators.fragmentation import demand_cost, demand_of
from rltune.nouns.cluster import Cluster, Pool
from rltune.nouns.errors import InputError
from rltune.nouns.jobs import JobTable

TWO = Cluster("two", (Pool("a", 2, 4, first_node_id=7),))


def jobs_with_a_giant(last: bool = False) -> JobTable:
    """Three jobs, one of them wider than the cluster of 8."""
    return JobTable.from_columns(
        {
            "job_id": ["a", "giant", "b"],
            "submit_s": [0, 30 if last else 1, 2],
            "duration_s": [10, 10, 10],
            "num_gpus": [4, 9, 8],
        }
    )


@pytest.mark.parametrize("backfill", ["skip", "easy", "blocking"])
def test_an_oversized_job_is_refused_in_one_line(backfill: str) -> None:
    """A job that can never run would be dropped in silence, or wait for ever."""
    with pytest.raises(
        InputError, match=r"job giant \(row 2 by submit time\) wants 9 GPUs.* holds 8; use a larger cluster"
    ) as told:
        rltune.simulate(jobs_with_a_giant(), TWO, backfill=backfill, oversized="refuse")
    assert "\n" not in str(told.value)
    with pytest.raises(InputError, match=r"oversized='ignore' is unknown; known are refuse, drop"):
        rltune.simulate(jobs_with_a_giant(), TWO, backfill=backfill, oversized="ignore")


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("backfill", ["skip", "easy", "blocking"])
def test_a_dropped_job_is_counted_and_enters_no_mean(backfill: str, last: bool) -> None:
    """An episode whose last job is dropped would never end, or the dropped job would count as having waited nothing."""
    result = rltune.simulate(jobs_with_a_giant(last), TWO, backfill=backfill, oversized="drop")
    summary = result.summary()
    assert (summary["unfinished"], result.dropped) == (1, 1)
    assert len(result.scores()["wait_s"]) == 2
    row = result.schedule.set_index("job_id").loc["giant"]
    assert (row.nodes, row.gpus, bool(pd.isna(row.pool))) == ([], [], True)
    assert np.isnan(row.start_s) and np.isnan(row.end_s)
    assert result.schedule.set_index("job_id").loc["b"].start_s == 10


def test_blocking_drops_with_a_warning_by_default() -> None:
    """The reference protocol's silent dropping would stay silent."""
    with pytest.warns(UserWarning, match="job giant.*dropped and counted as unfinished"):
        rltune.simulate(jobs_with_a_giant(), TWO, backfill="blocking")
    with pytest.raises(InputError):
        rltune.simulate(jobs_with_a_giant(), TWO, backfill="skip")


def test_a_cluster_on_which_nothing_runs_still_reports() -> None:
    """A summary of nothing would be a stack trace, or NaN that JSON cannot hold."""
    one = Cluster("one", (Pool("a", 1, 1),))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        summary = rltune.simulate(jobs_with_a_giant(), one, oversized="drop").summary()
    assert summary["unfinished"] == 3
    assert summary["wait_s"]["mean"] is None
    json.dumps(summary, allow_nan=False)


def test_a_job_of_a_type_the_cluster_lacks_is_told_so() -> None:
    """The user would read that a job of one GPU does not fit a pool of four."""
    typed = JobTable.from_columns({"submit_s": [0], "duration_s": [1], "num_gpus": [1], "gpu_type": ["T4"]})
    with pytest.raises(InputError, match="T4"):
        rltune.simulate(typed, Cluster("c", (Pool("a", 1, 4, gpu_type="V100"),)))


def test_a_job_of_a_foreign_virtual_cluster_is_told_so() -> None:
    """The user would not learn which virtual cluster is missing."""
    theirs = JobTable.from_columns({"submit_s": [0], "duration_s": [1], "num_gpus": [1], "vc": ["z"]})
    with pytest.raises(InputError, match="of virtual cluster z"):
        rltune.simulate(theirs, Cluster("c", (Pool("a", 1, 4, vc="x"),)))


def test_schedule_by_hand() -> None:
    """The table a notebook shows would name wrong nodes, pools or times."""
    jobs = JobTable.from_columns(
        {"job_id": ["a", "b"], "submit_s": [3, 4], "duration_s": [10, 2.5], "num_gpus": [6, 3]}
    )
    schedule = rltune.simulate(jobs, TWO, allocator="lexicographic").schedule
    assert list(schedule.columns) == ["job_id", "submit_s", "start_s", "end_s", "nodes", "gpus", "pool"]
    assert schedule.nodes.tolist() == [[7, 8], [7]]
    assert schedule.gpus.tolist() == [[3, 3], [3]]
    assert (schedule.start_s.tolist(), schedule.end_s.tolist()) == ([3, 13], [13, 15.5])
    assert schedule.pool.tolist() == ["a", "a"]


def test_utilisation_and_makespan_by_hand() -> None:
    """Utilisation would be over another time or another number of GPUs than its definition."""
    jobs = JobTable.from_columns({"submit_s": [10, 10, 20], "duration_s": [30, 10, 20], "num_gpus": [4, 8, 4]})
    result = rltune.simulate(jobs, TWO)  # starts 10, 40, 20
    assert result.start_s.tolist() == [10, 40, 20]
    assert result.makespan_s() == 40
    assert result.utilization() == pytest.approx((30 * 4 + 10 * 8 + 20 * 4) / (40 * 8))


def test_fragmentation_by_hand() -> None:
    """Fragmentation would count free GPUs of whole nodes, or time after the last arrival."""
    jobs = JobTable.from_columns({"submit_s": [0, 10, 20], "duration_s": [100, 5, 100], "num_gpus": [2, 4, 1]})
    result = rltune.simulate(jobs, TWO)
    # 0-10: 6 free, 2 on the partly used node; 10-15: 2 free, both on it; 15-20: 6 free, 2 on it.
    assert result.fragmentation() == pytest.approx((2 * 10 + 2 * 5 + 2 * 5) / (6 * 10 + 2 * 5 + 6 * 5))


def test_summary_by_hand() -> None:
    """summary() would not be the schema that the house page names."""
    jobs = JobTable.from_columns({"submit_s": [0, 0, 0], "duration_s": [10, 20, 30], "num_gpus": [8, 8, 8]})
    summary = rltune.simulate(jobs, TWO).summary()
    assert summary["wait_s"]["mean"] == pytest.approx((0 + 10 + 30) / 3)
    assert summary["jct_s"]["max"] == 60
    assert summary["bsld"]["mean"] == pytest.approx((1 + 1.5 + 2) / 3)
    assert summary["utilization"]["mean"] == 1
    assert summary["wait_s"]["ci95"] == [None, None]  # one day
    assert {"fragmentation", "makespan_s", "unfinished", "slowdown", "wait_s_widest5pct"} <= set(summary)
    json.dumps(summary, allow_nan=False)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"policy": "sfj"}, "policy 'sfj' is unknown; known are fifo"),
        (
            {"backfill": "backfill"},
            "backfill='backfill' is unknown; known are blocking, strict, skip, easy, conservative",
        ),
        ({"allocator": "worst_fit"}, "allocator 'worst_fit' is unknown; known are lexicographic, best_fit"),
        ({"runtimes": "all"}, "runtimes='all' is unknown; known are exact, requested, predicted"),
    ],
)
def test_unknown_names_are_refused_with_the_known_ones(options: dict[str, str], said: str) -> None:
    """A typing error in a notebook would be a KeyError."""
    with pytest.raises(InputError, match=said):
        rltune.simulate(rltune.load_trace("synthetic", jobs=5), "uniform", **options)


def test_an_empty_table_is_refused() -> None:
    """A filter that matches nothing would read compiled arrays past their end."""
    trace = rltune.load_trace("synthetic", jobs=5)
    with pytest.raises(InputError, match=r"no jobs|empty"):
        rltune.simulate(trace.jobs.take(slice(0, 0)), "uniform")


def test_least_fragmentation_by_name_uses_the_jobs_own_demand() -> None:
    """allocator="least_fragmentation" would be best fit under another name."""
    trace = rltune.load_trace("synthetic", jobs=400, arrivals_per_h=900.0, gpu_mix={1: 0.4, 3: 0.3, 5: 0.3})
    cluster = rltune.load_cluster({"pools": [{"nodes": 12, "gpus_per_node": 8}]})
    demand = demand_of(trace.jobs.num_gpus, cluster.arrays())
    cost = demand_cost(cluster.arrays(), demand.sizes, demand.shares)
    explicit = rltune.simulate(trace, cluster, allocator="least_fragmentation", cost=cost)
    assert not explicit.schedule.equals(rltune.simulate(trace, cluster, allocator="best_fit").schedule)
    assert rltune.simulate(trace, cluster, allocator="least_fragmentation").schedule.equals(explicit.schedule)


@pytest.mark.parametrize(
    ("pool", "job", "said"),
    [
        ({}, {"gpu_milli": 500}, "1 jobs ask for a share of a GPU"),
        ({}, {"gpu_milli": 0}, "1 jobs need no GPU"),
        ({}, {"mig": "1g.10gb"}, "1 jobs ask for a MIG profile"),
        ({"cpus": 8}, {"cpus": 100}, "1 pools limit CPU or memory"),
    ],
)
def test_what_whole_gpus_cannot_tell_is_refused(pool: dict[str, float], job: dict[str, float], said: str) -> None:
    """Half a GPU would be placed by a rule of whole GPUs, or 100 cores found on a node of eight."""
    cluster = rltune.load_cluster({"pools": [{"nodes": 1, "gpus_per_node": 2} | pool]})
    columns = {"submit_s": [0], "duration_s": [1], "num_gpus": [1]} | {name: [value] for name, value in job.items()}
    with pytest.raises(InputError, match=f"{said}: this is simulated GPU by GPU, which takes the allocators"):
        rltune.simulate(JobTable.from_columns(columns), cluster, allocator="lexicographic")
