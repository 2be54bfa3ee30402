"""What must hold of every schedule, whatever the workload."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from readable_easy import Compared

import rltune
from rltune.allocators.greedy import GreedyAllocator
from rltune.nouns.cluster import Cluster, Pool
from rltune.nouns.jobs import JobTable
from rltune.policies.orders import ORDERS

DISCIPLINES = ("blocking", "strict", "skip", "easy")
RULES = ("best_fit", "lexicographic", "least_fragmentation")
CLUSTERS = (
    Cluster("one", (Pool("a", 3, 4),)),
    Cluster("two", (Pool("a", 2, 2, max_gpus_per_job=3), Pool("b", 2, 4))),
    Cluster("vcs", (Pool("a", 2, 4, vc="x"), Pool("b", 1, 4, vc="y"))),
)


@st.composite
def workloads(draw: st.DrawFn) -> tuple[JobTable, Cluster]:
    cluster = draw(st.sampled_from(CLUSTERS))
    n = draw(st.integers(1, 24))
    widest = {"x": 8, "y": 4}
    vcs = [draw(st.sampled_from(["x", "y"])) for _ in range(n)]
    limits = [widest[vc] if cluster.name == "vcs" else 8 for vc in vcs]
    jobs = JobTable.from_columns(
        {
            "job_id": [f"j{k}" for k in range(n)],
            "submit_s": [draw(st.integers(0, 60)) for _ in range(n)],
            "duration_s": [draw(st.sampled_from([0, 1, 5, 7.5, 30, 100])) for _ in range(n)],
            "num_gpus": [draw(st.integers(1, limit)) for limit in limits],
            "vc": vcs,
        }
    )
    return jobs, cluster


def check_conservation(result: rltune.Result) -> None:
    """Gangs whole, in allowed pools, never more GPUs than a node has at any instant, no start before submission."""
    jobs, schedule = result.jobs, result.schedule
    assert result.started.all()
    assert (result.start_s >= jobs.submit_s).all()
    assert np.array_equal(result.end_s, result.start_s + jobs.duration_s)
    assert [sum(g) for g in schedule.gpus] == jobs.num_gpus.tolist()
    pools = {pool.name: pool for pool in result.cluster.pools}
    load: dict[tuple[str, int], list[tuple[float, float, int]]] = {}
    for row, vc in zip(schedule.itertuples(), jobs.vc.values(), strict=True):
        pool = pools[row.pool]
        assert pool.vc in (None, vc)
        assert len(set(row.nodes)) == len(row.nodes) == -(-sum(row.gpus) // pool.gpus_per_node)
        for node, gpus in zip(row.nodes, row.gpus, strict=True):
            load.setdefault((row.pool, node), []).append((row.start_s, row.end_s, gpus))
    for (pool_name, _), uses in load.items():
        for instant, _, _ in uses:
            busy = sum(g for s, e, g in uses if s <= instant < e)
            assert busy <= pools[pool_name].gpus_per_node


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(workloads(), st.sampled_from(sorted(ORDERS)), st.sampled_from(DISCIPLINES), st.sampled_from(RULES))
def test_no_job_and_no_gpu_is_lost(work: tuple[JobTable, Cluster], policy: str, backfill: str, rule: str) -> None:
    """A schedule would use GPUs that do not exist, split a gang, or forget a job."""
    check_conservation(rltune.simulate(*work, policy=policy, backfill=backfill, allocator=rule))


def test_equal_keys_of_a_moving_order_go_by_submission() -> None:
    """Two jobs whose keys meet would start in the order of an earlier instant, unlike in the loop by snapshots."""
    rows = [(0, 0, 1), (0, 100, 3), (2, 30, 3), (2, 30, 3), (30, 0, 3), (31, 0, 2)]
    submit, duration, gpus = zip(*rows, strict=True)
    jobs = JobTable.from_columns({"submit_s": submit, "duration_s": duration, "num_gpus": gpus})
    cluster = Cluster("c", (Pool("a", 3, 4),))
    for policy in ("sexp", "lexp", "wfp3", "unicef"):
        fast = rltune.simulate(jobs, cluster, policy=policy)
        readable = rltune.simulate(jobs, cluster, policy=ORDERS[policy], allocator=GreedyAllocator("best_fit"))
        assert fast.schedule.equals(readable.schedule), policy


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(workloads(), st.sampled_from(sorted(ORDERS)), st.sampled_from(DISCIPLINES), st.sampled_from(RULES))
def test_the_readable_loop_is_the_compiled_one(
    work: tuple[JobTable, Cluster], policy: str, backfill: str, rule: str
) -> None:
    """A policy of one's own (decided on snapshots) would be compared with baselines run by different rules."""
    fast = rltune.simulate(*work, policy=policy, backfill=backfill, allocator=rule)
    readable = rltune.simulate(*work, policy=ORDERS[policy], backfill=backfill, allocator=Compared(rule))
    assert fast.schedule.equals(readable.schedule)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(workloads(), st.randoms())
def test_the_order_of_rows_in_the_file_does_not_matter(work: tuple[JobTable, Cluster], random: object) -> None:
    """Two exports of one log would give two results (ties aside: submit times made distinct here)."""
    jobs, cluster = work
    frame = jobs.to_frame()[["job_id", "submit_s", "duration_s", "num_gpus", "vc"]]
    frame["submit_s"] = np.arange(len(frame)) + frame["submit_s"].sort_values().to_numpy()
    shuffled = frame.sample(frac=1, random_state=np.random.RandomState(len(frame)))
    a, b = (JobTable.from_columns(f.to_dict("list")) for f in (frame, shuffled))
    for backfill in DISCIPLINES:
        first, second = (rltune.simulate(t, cluster, policy="sjf", backfill=backfill) for t in (a, b))
        assert first.schedule.equals(second.schedule)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(workloads())
def test_easy_never_delays_the_first_blocked_job(work: tuple[JobTable, Cluster]) -> None:
    """Backfilling would push back the very job it reserves for: with FIFO order the first to block starts no later."""
    jobs, cluster = work
    easy = rltune.simulate(jobs, cluster, policy="fifo", backfill="easy")
    strict = rltune.simulate(jobs, cluster, policy=lambda queue, snapshot: queue.submit_s, backfill="blocking")
    blocked = np.flatnonzero(strict.wait_s > 0)
    if len(blocked):
        assert easy.start_s[blocked[0]] <= strict.start_s[blocked[0]]


def test_an_easy_reservation_counts_nodes_and_not_only_gpus() -> None:
    """A long job would be backfilled onto the node the head needs whole, although enough GPUs stay free in sum."""
    jobs = JobTable.from_columns(
        {
            "job_id": ["a", "b", "head", "long"],
            "submit_s": [0, 0, 1, 2],
            "duration_s": [10, 50, 5, 1000],
            "num_gpus": [3, 1, 4, 1],
        }
    )
    # Node 0 holds a (3 GPUs); best fit puts b beside it. The head needs a whole node of 4: node 1 is free at once.
    two = Cluster("two", (Pool("n", 2, 4),))
    result = rltune.simulate(jobs, two, policy="fifo", backfill="easy")
    assert result.start_s.tolist() == [0, 0, 1, 6]
    # Three nodes' worth of work on one: the head waits for b until 50; `long` may not take the GPU a frees at 10.
    one = Cluster("one", (Pool("n", 1, 4),))
    result = rltune.simulate(jobs, one, policy="fifo", backfill="easy")
    assert result.start_s.tolist() == [0, 0, 50, 55]
    # Two nodes, two GPUs free on each when the head (4 on one node) comes: 4 GPUs are free, but no node is.
    apart = JobTable.from_columns(
        {
            "job_id": ["x", "y", "head", "long", "short"],
            "submit_s": [0, 0, 1, 2, 2],
            "duration_s": [100, 20, 5, 1000, 18],
            "num_gpus": [3, 3, 4, 1, 1],
        }
    )
    result = rltune.simulate(apart, two, policy="fifo", backfill="easy", allocator="lexicographic")
    # y's node (1) is whole at 20, so the head is reserved there; `long` goes beside x on node 0 at once.
    assert result.start_s.tolist() == [0, 0, 20, 2, 2]
    assert result.schedule.nodes.tolist()[3] == [0]


def test_same_input_same_schedule() -> None:
    """A result could not be reproduced."""
    trace = rltune.load_trace("synthetic", jobs=400, seed=3)
    runs = [rltune.simulate(trace, "uniform", policy="wfp3", backfill="easy").schedule for _ in range(2)]
    assert runs[0].equals(runs[1])


def test_a_policy_may_be_any_function() -> None:
    """The documented three-line plug-in would not work or would differ from the built-in order it imitates."""
    trace = rltune.load_trace("synthetic", jobs=300, seed=1)
    mine = rltune.simulate(trace, "uniform", policy=lambda queue, snapshot: queue.run_s * queue.num_gpus)
    assert mine.schedule.equals(rltune.simulate(trace, "uniform", policy="saf").schedule)


def test_a_policy_that_answers_nonsense_is_told_so() -> None:
    """A NaN or a missing key would silently order the queue at random."""
    trace = rltune.load_trace("synthetic", jobs=50)
    with pytest.raises(rltune.InputError, match="NaN key"):
        rltune.simulate(trace, "uniform", policy=lambda queue, snapshot: queue.submit_s * np.nan)
    with pytest.raises(rltune.InputError, match="one key a job"):
        rltune.simulate(trace, "uniform", policy=lambda queue, snapshot: [1.0, 2.0, 3.0] * 50)
