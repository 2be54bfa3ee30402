"""The joint allocator against exhaustive search, against greedy, and when its solver fails."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from highspy import HighsModelStatus
from hypothesis import given, settings
from hypothesis import strategies as st
from joint_cases import best_by_search, is_even, make_cluster, make_snapshot, random_case, worth
from pyomo.contrib.solver.common.results import TerminationCondition
from readable_easy import Readable

import rltune
from rltune.allocators import milp, whole_gpus
from rltune.allocators.fragmentation import Demand, demand_cost, partly_used_cost, quadratic_cost
from rltune.allocators.greedy import GreedyAllocator
from rltune.allocators.highs import MEANING, Session
from rltune.allocators.milp import MilpAllocator
from rltune.allocators.model import STATUS
from rltune.allocators.problem import Solved
from rltune.core.resources.counts import LEAST_FRAGMENTATION
from rltune.nouns.errors import InputError
from rltune.nouns.plan import IntArray, Plan, Snapshot
from rltune.nouns.plan_check import check_plan

DEMAND = Demand((1, 2, 3, 4, 5, 8), (0.4, 0.2, 0.1, 0.15, 0.05, 0.1))
ONLY = {"fragmentation": 1.0}
"""Weights under which the objective is what `joint_cases.worth` measures."""
CONF = Path(__file__).parents[2] / "conf" / "allocator"


def in_two_pools() -> tuple[Any, np.ndarray, list[Any]]:
    """A job with both pools comes before one that may use only the first: greedy takes the wrong pool."""
    return make_cluster([(1, 4), (1, 4)]), np.array([2, 3]), [(2, (0, 1)), (2, (0,))]


def check_against_search(seed: int, cases: int, backfill: str) -> None:
    """Plans are as good as exhaustive search; better only by an uneven split, which the search leaves out."""
    rng = np.random.default_rng(seed)
    allocator = MilpAllocator("demand", DEMAND, time_limit_s=60, weights=ONLY)
    for _ in range(cases):
        cluster, free, jobs = random_case(rng)
        snapshot = make_snapshot(cluster, free, jobs)
        plan = allocator.allocate(snapshot, np.arange(len(jobs)), backfill)
        check_plan(snapshot, plan)
        cost = demand_cost(cluster, *DEMAND)
        started, gain = worth(snapshot, plan, cost)
        best_started, best_gain = best_by_search(cluster, free, jobs, cost, backfill == "blocking")
        context = f"{cluster}, free {free}, jobs {jobs}: {plan}"
        assert (started, gain + 1e-6) >= (best_started, best_gain), context
        if is_even(snapshot, plan):
            assert started == best_started, context
            assert gain == pytest.approx(best_gain, abs=1e-6), context
    assert allocator.stats.solves > cases / 20
    assert allocator.stats.improved > 0


@pytest.mark.parametrize("backfill", ["skip", "blocking"])
def test_plans_equal_exhaustive_search(backfill: str) -> None:
    """The earliest jobs start that can, with the least fragmentation, over all subsets, pools and nodes."""
    check_against_search(1, 400, backfill)


@pytest.mark.slow
@pytest.mark.parametrize("backfill", ["skip", "blocking"])
def test_plans_equal_exhaustive_search_on_many_cases(backfill: str) -> None:
    """The same on eight thousand other cases."""
    check_against_search(2, 8000, backfill)


def test_a_job_with_a_choice_makes_way_for_one_without() -> None:
    """Greedy starts one of the two jobs, the joint model both."""
    cluster, free, jobs = in_two_pools()
    snapshot = make_snapshot(cluster, free, jobs)
    cost = demand_cost(cluster, *DEMAND)
    alone = GreedyAllocator("least_fragmentation", cost).allocate(snapshot, np.arange(2), "skip")
    together = MilpAllocator("demand", DEMAND, time_limit_s=600).allocate(snapshot, np.arange(2), "skip")
    assert (len(alone.starts), len(together.starts)) == (1, 2)
    assert together.report["winner"] == "milp"
    assert together.report["status"] == "optimal"
    assert together.report["gap"] == pytest.approx(0, abs=1e-6)


@settings(max_examples=120, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0.0, 1e-6, 0.002, 1.0]), st.sampled_from(["skip", "blocking"]))
def test_never_worse_than_greedy_at_any_time_limit(seed: int, limit_s: float, backfill: str) -> None:
    """By the started jobs in order, then fragmentation; and a fallback is reported and counted."""
    cluster, free, jobs = random_case(np.random.default_rng(seed))
    snapshot = make_snapshot(cluster, free, jobs)
    cost = demand_cost(cluster, *DEMAND)
    allocator = MilpAllocator("demand", DEMAND, time_limit_s=limit_s, weights=ONLY)
    plan = allocator.allocate(snapshot, np.arange(len(jobs)), backfill)
    check_plan(snapshot, plan)
    greedy = GreedyAllocator("least_fragmentation", cost).allocate(snapshot, np.arange(len(jobs)), backfill)
    started, gain = worth(snapshot, plan, cost)
    assert (started, gain + 1e-6) >= worth(snapshot, greedy, cost)
    assert plan.report["fallback"] == bool(allocator.stats.fallbacks)
    assert plan.report["fallback"] == bool(plan.report["reason"])
    if limit_s == 0:
        assert plan.report["winner"] != "milp"


def failing(*_: Any, **__: Any) -> Any:
    raise RuntimeError("no licence, no memory, no luck")


FAILURES = [
    (failing, "error", "error: RuntimeError"),
    (lambda *_: Solved("time_limit", (), ()), "time_limit", "time_limit"),
    (lambda *_: Solved("infeasible", (), ()), "infeasible", "infeasible"),
]


@pytest.mark.parametrize(("solve", "status", "reason"), FAILURES)
def test_a_failing_solver_falls_back_to_greedy_and_says_so(
    monkeypatch: pytest.MonkeyPatch, solve: Any, status: str, reason: str
) -> None:
    """The plan is greedy's, the report names the reason, the counter moves."""
    cluster, free, jobs = in_two_pools()
    snapshot = make_snapshot(cluster, free, jobs)
    allocator = MilpAllocator("demand", DEMAND, time_limit_s=600)
    monkeypatch.setattr(Session, "solve", solve)
    plan = allocator.allocate(snapshot, np.arange(2), "skip")
    greedy = GreedyAllocator("least_fragmentation", demand_cost(cluster, *DEMAND))
    assert plan.starts == greedy.allocate(snapshot, np.arange(2), "skip").starts
    report = plan.report
    assert (report["winner"], report["status"], report["fallback"]) == ("fgd", status, True)
    assert report["reason"] == reason
    assert allocator.stats.fallbacks == {reason: 1}


def test_an_allocator_can_be_sent_to_another_process() -> None:
    """Training hands it to Ray's workers; HiGHS' own objects cannot be pickled."""
    cluster, free, jobs = in_two_pools()
    snapshot = make_snapshot(cluster, free, jobs)
    here = MilpAllocator("demand", DEMAND, time_limit_s=600)
    plan = here.allocate(snapshot, np.arange(2), "skip")
    there = pickle.loads(pickle.dumps(here))
    assert there.allocate(snapshot, np.arange(2), "skip").starts == plan.starts


def test_a_failed_solve_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next decision asks the solver again and gets its optimum."""
    cluster, free, jobs = in_two_pools()
    snapshot = make_snapshot(cluster, free, jobs)
    allocator = MilpAllocator("demand", DEMAND, time_limit_s=600)
    with monkeypatch.context() as patch:
        patch.setattr(Session, "solve", failing)
        allocator.allocate(snapshot, np.arange(2), "skip")
    assert len(allocator.allocate(snapshot, np.arange(2), "skip").starts) == 2


def test_blocking_starts_only_a_prefix() -> None:
    """Nothing behind the first job that cannot start may start, whatever fits."""
    rng = np.random.default_rng(5)
    allocator = MilpAllocator("demand", DEMAND, head=3, time_limit_s=600)
    for _ in range(300):
        cluster, free, jobs = random_case(rng)
        order = rng.permutation(len(jobs))
        plan = allocator.allocate(make_snapshot(cluster, free, jobs), order, "blocking")
        assert [start.job - 100 for start in plan.starts] == order[: len(plan.starts)].tolist()


def test_jobs_behind_the_head_start_where_they_fit() -> None:
    """With a head of one, ten jobs of one GPU still fill ten GPUs."""
    snapshot = make_snapshot(make_cluster([(3, 4)]), np.array([4, 4, 4]), [(1, (0,))] * 10)
    for backfill in ("skip", "blocking"):
        assert len(MilpAllocator(head=1).allocate(snapshot, np.arange(10), backfill).starts) == 10


def test_plans_do_not_depend_on_earlier_decisions() -> None:
    """The same snapshots in reverse order give the same plans, whatever model and cache saw before."""
    rng = np.random.default_rng(6)
    cases = [random_case(rng) for _ in range(150)]

    def plans(order: list[int]) -> dict[int, Any]:
        allocator = MilpAllocator("demand", DEMAND, time_limit_s=60, weights=ONLY)
        found = {}
        for i in order:
            cluster, free, jobs = cases[i]
            found[i] = allocator.allocate(make_snapshot(cluster, free, jobs), np.arange(len(jobs)), "skip").starts
        return found

    assert plans([*range(150)]) == plans([*range(149, -1, -1)])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_shuffled_nodes_change_the_nodes_but_not_the_worth(seed: int) -> None:
    """Counting equal nodes instead of naming them loses nothing, in whatever order they stand."""
    rng = np.random.default_rng(seed)
    cluster, free, jobs = random_case(rng)
    shuffled = free.copy()
    for lo, hi in zip(cluster.pool_lo, cluster.pool_hi, strict=True):
        shuffled[lo:hi] = rng.permutation(free[lo:hi])
    cost = demand_cost(cluster, *DEMAND)
    found = []
    for state in (free, shuffled):
        snapshot = make_snapshot(cluster, state, jobs)
        plan = SHARED.allocate(snapshot, np.arange(len(jobs)), "skip")
        check_plan(snapshot, plan)
        found.append(worth(snapshot, plan, cost))
    assert found[0][0] == found[1][0]
    assert found[0][1] == pytest.approx(found[1][1], abs=1e-6)


SHARED = MilpAllocator("demand", DEMAND, time_limit_s=60, weights=ONLY)


def test_jobs_placed_jointly_all_start_with_the_least_fragmentation() -> None:
    """From the placements of another rule to the optimum of exhaustive search."""
    rng = np.random.default_rng(7)
    allocator = MilpAllocator("partly_used", time_limit_s=60, weights=ONLY)
    for _ in range(500):
        cluster, free, jobs = random_case(rng)
        cost = partly_used_cost(cluster)
        provisional = GreedyAllocator("lexicographic").allocate(
            make_snapshot(cluster, free, jobs), np.arange(len(jobs)), "skip"
        )
        jobs = [jobs[start.job - 100] for start in provisional.starts]
        snapshot = make_snapshot(cluster, free, jobs)
        queue = snapshot.queue
        incumbent = [(start.nodes, start.gpus) for start in provisional.starts]
        placed, report = allocator.place_jointly(
            cluster, free, queue.num_gpus, queue.pool_lo, queue.pool_hi, queue.pools, incumbent
        )
        starts = tuple(milp.Start(100 + i, *placement) for i, placement in enumerate(placed))
        plan = milp.Plan(starts, report)
        check_plan(snapshot, plan)
        assert len(starts) == len(jobs)
        best_started, best_gain = best_by_search(cluster, free, jobs, cost)
        if all(best_started) and is_even(snapshot, plan):
            assert worth(snapshot, plan, cost)[1] == pytest.approx(best_gain, abs=1e-6)


def test_an_equal_state_is_answered_from_the_cache() -> None:
    """Other nodes and other jobs in the same states cost no second solve."""
    cluster = make_cluster([(3, 4), (3, 4)])
    allocator = MilpAllocator("demand", DEMAND, time_limit_s=600)
    for free in (np.array([2, 0, 0, 3, 0, 0]), np.array([0, 0, 2, 0, 3, 0])):
        plan = allocator.allocate(make_snapshot(cluster, free, [(2, (0, 1)), (2, (0,))]), np.arange(2), "skip")
        assert len(plan.starts) == 2
    assert (allocator.stats.solves, allocator.stats.cache_hits) == (1, 1)


def test_a_decision_without_a_choice_never_reaches_the_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    """No job that fits, or jobs that cannot be in each other's way, are decided without a solve."""
    monkeypatch.setattr(Session, "solve", failing)
    cluster = make_cluster([(1, 4), (1, 4)])
    for free, jobs in (
        ([0, 0], [(1, (0, 1))]),
        ([4, 4], [(8, (0,)), (2, (1,))]),
        ([4, 4], [(4, (0,)), (4, (1,))]),
    ):
        plan = MilpAllocator("demand", DEMAND, time_limit_s=600).allocate(
            make_snapshot(cluster, np.array(free), [*jobs]), np.arange(len(jobs)), "skip"
        )
        assert (plan.report["winner"], plan.report["fallback"]) == ("fgd", False)


def test_every_solver_status_has_a_meaning() -> None:
    """A status that a new HiGHS or Pyomo may report fails here, not in a run."""
    assert set(STATUS) == set(TerminationCondition)
    assert set(HighsModelStatus.__members__) <= set(MEANING)


@pytest.mark.parametrize(
    "options",
    [{"head": 0}, {"decay": 0.0}, {"decay": 1.1}, {"time_limit_s": -1.0}, {"head": 40}],
)
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    """In one line that names the option."""
    with pytest.raises(InputError, match=next(iter(options))):
        MilpAllocator(**options)


class Watched(MilpAllocator):
    """Asserts after each decision that the job with the reservation begins no later than promised.

    And that the first jobs to start are those of greedy EASY or earlier ones.
    """

    joint = 0

    def allocate(self, snapshot: Snapshot, order: IntArray, backfill: str) -> Plan:
        plan = super().allocate(snapshot, order, backfill)
        cost = quadratic_cost(snapshot.cluster)
        held = whole_gpus.reservation(snapshot, order, cost)
        if held is not None:
            Watched.joint += len(plan.starts) > 1
            position = {int(job): k for k, job in enumerate(snapshot.queue.job)}
            rows = [position[start.job] for start in plan.starts]
            assert held.job not in rows
            greedy = GreedyAllocator("least_fragmentation", cost)
            alone = {start.job for start in greedy.allocate(snapshot, order, "easy").starts}
            jobs = [int(snapshot.queue.job[k]) for k in order]
            started = {start.job for start in plan.starts}
            assert [job in started for job in jobs] >= [job in alone for job in jobs]
            readable = Readable(LEAST_FRAGMENTATION, cost)
            begins, _ = readable.reserve(snapshot, list(zip(rows, plan.starts, strict=True)), held.job)
            assert begins <= held.shadow_s
        return plan


def test_easy_backfilling_keeps_the_reservation() -> None:
    """Placing the jobs of an instant anew could break up the nodes that a wide job waits for."""
    trace = rltune.load_trace(
        "synthetic", jobs=120, seed=5, arrivals_per_h=400.0, gpu_mix={1: 0.4, 2: 0.2, 3: 0.2, 8: 0.15, 16: 0.05}
    )
    cluster = rltune.load_cluster({"pools": [{"nodes": 4, "gpus_per_node": 8}]})
    allocator = Watched()
    result = rltune.simulate(trace, cluster, policy="fifo", backfill="easy", allocator=allocator)
    assert result.started.all()
    assert Watched.joint > 0
