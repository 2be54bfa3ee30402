"""Policies and allocators of one's own, on both builds of the core."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rltune
from rltune.allocators.greedy import GreedyAllocator
from rltune.nouns.cluster import Cluster, Pool
from rltune.nouns.jobs import JobTable
from rltune.nouns.plan import Plan, PlanError, Queue, Snapshot, Start
from rltune.policies.orders import ORDERS

CLUSTER = Cluster("c", (Pool("a", 2, 4), Pool("b", 2, 2)))
MIG = Cluster("m", (Pool("a", 1, 2, "A100-40GB", mig=True),))


def workload(n: int = 60, seed: int = 0) -> JobTable:
    rng = np.random.default_rng(seed)
    return JobTable.from_columns(
        {
            "submit_s": np.sort(rng.integers(0, 6 * n, n)).tolist(),
            "duration_s": rng.integers(1, 120, n).tolist(),
            "num_gpus": rng.choice([1, 1, 2, 4, 6], n).tolist(),
        }
    )


@pytest.mark.parametrize("backfill", ["strict", "skip", "easy", "conservative"])
@pytest.mark.parametrize("options", [{}, {"max_retries": 2, "node_mtbf_s": 400.0}], ids=["lean", "full"])
def test_keys_of_ones_own_go_the_compiled_way(backfill: str, options: dict[str, Any]) -> None:
    """The same order as a function would give another schedule than under its name."""
    own, named = (
        rltune.simulate(workload(), CLUSTER, policy=p, backfill=backfill, oversized="drop", **options)
        for p in (lambda queue, snapshot: queue.run_s * queue.num_gpus, "saf")
    )
    assert own.attempts.equals(named.attempts)
    assert len(own.decisions) > 10


def test_a_policy_of_ones_own_may_suspend() -> None:
    """Research on preemptive policies would need changes in the kernels."""

    def las(queue: Queue, snapshot: Snapshot) -> np.ndarray:
        return queue.attained_gpu_s

    own = rltune.simulate(workload(), CLUSTER, policy=las, preemptive=True, resume_s=1.0, oversized="drop")
    named = rltune.simulate(
        workload(),
        CLUSTER,
        policy="las",
        las_levels_gpu_s=[],
        quantum_s=1e9,
        resume_s=1.0,
        oversized="drop",
        preemptive=True,
    )
    assert len(own.runs) > len(own.jobs)
    assert np.array_equal(own.end_s, named.end_s)


class OneAtATime:
    """Starts the first job that fits on any node alone."""

    def allocate(self, snapshot: Snapshot, order: Any, backfill: str) -> Plan:
        for k in order:
            for node in np.flatnonzero(snapshot.free >= snapshot.queue.num_gpus[k]):
                start = Start(int(snapshot.queue.job[k]), (int(node),), (int(snapshot.queue.num_gpus[k]),))
                return Plan((start,))
        return Plan(())


@pytest.mark.parametrize("options", [{}, {"max_retries": 2}], ids=["lean", "full"])
@pytest.mark.parametrize("policy", ["fifo", "srtf", "wfp3"])
def test_an_allocator_of_ones_own_starts_jobs(options: dict[str, Any], policy: str) -> None:
    """A few lines of Python would not do to try a placement idea."""
    if policy == "srtf" and not options:
        options = {"max_retries": 1, "preemptive": False}
    jobs = workload()
    narrow = jobs.take(np.flatnonzero(jobs.num_gpus <= 2))
    result = rltune.simulate(narrow, CLUSTER, policy=policy, allocator=OneAtATime(), backfill="skip", **options)
    assert result.finished.all()
    assert [len(nodes) for nodes in result.schedule.nodes] == [1] * len(narrow)


class Swap:
    """Suspends the job that runs for the one that waits, at every decision."""

    def allocate(self, snapshot: Snapshot, order: Any, backfill: str) -> Plan:
        waiting = [int(snapshot.queue.job[k]) for k in order if not snapshot.queue.running[k]]
        running = [int(job) for job in snapshot.running.job]
        if running:
            return Plan((Start(waiting[0], (0,), (1,)),), {}, tuple(running))
        return Plan((Start(waiting[0], (0,), (1,)),))


def test_a_plan_may_suspend() -> None:
    """An allocator of one's own could only start jobs."""
    jobs = JobTable.from_columns({"submit_s": [0, 10], "duration_s": [30, 5], "num_gpus": [1, 1]})
    result = rltune.simulate(
        jobs, Cluster("c", (Pool("a", 1, 1),)), policy="fifo", allocator=Swap(), preemptive=True, resume_s=2.0
    )
    # Job 0 runs 10 s, job 1 takes its place for 5 s; job 0 has 20 s left and 2 s of restoring.
    assert result.end_s.tolist() == [37.0, 15.0]


class Cut:
    """Puts every slice where it is told."""

    def __init__(self, *grants: int) -> None:
        self.grants = list(grants)

    def allocate(self, snapshot: Snapshot, order: Any, backfill: str) -> Plan:
        starts = [
            Start(int(snapshot.queue.job[k]), (0,), (1,), (self.grants[int(snapshot.queue.job[k])],)) for k in order
        ]
        return Plan(tuple(starts))


def slices(*profiles: str) -> JobTable:
    n = len(profiles)
    return JobTable.from_columns(
        {"submit_s": [0] * n, "duration_s": [9] * n, "num_gpus": [1] * n, "mig": list(profiles)}
    )


def test_a_plan_names_slices() -> None:
    """Placements of MIG slices could not be tried from outside."""
    result = rltune.simulate(
        slices("3g.20gb", "3g.20gb"), MIG, policy="fifo", allocator=Cut(1 | 0 << 32, 1 | 4 << 32), max_retries=1
    )
    assert result.runs.first_slice.tolist() == [0, 4] and result.runs.mask.tolist() == [1, 1]


@pytest.mark.parametrize(
    "grants", [(1 | 0 << 32, 1 | 0 << 32), (1 | 1 << 32, 1 | 4 << 32), (4, 1), (3, 1)],
    ids=["a slice twice", "no legal start", "no such GPU", "two GPUs for one slice"],
)  # fmt: skip
def test_impossible_slices_are_refused(grants: tuple[int, int]) -> None:
    """A slice would be held twice, or begin where the hardware does not allow it."""
    with pytest.raises(PlanError, match="over-allocated"):
        rltune.simulate(slices("3g.20gb", "3g.20gb"), MIG, policy="fifo", allocator=Cut(*grants), max_retries=1)


class Stranger:
    """Suspends a job that does not run."""

    def allocate(self, snapshot: Snapshot, order: Any, backfill: str) -> Plan:
        return Plan((), {}, (int(snapshot.queue.job[order[0]]),))


def test_only_running_jobs_are_suspended() -> None:
    """A plan would take GPUs back that nobody holds."""
    with pytest.raises(PlanError, match="suspended but does not run"):
        rltune.simulate(workload(3), CLUSTER, policy="fifo", allocator=Stranger(), preemptive=True)


@pytest.mark.parametrize("name", ["fifo", "sjf", "wfp3"])
@pytest.mark.parametrize("backfill", ["skip", "easy"])
def test_the_readable_allocator_agrees_with_the_kernels(name: str, backfill: str) -> None:
    """The compiled road and a decision of snapshot, order and plan would part."""
    own = rltune.simulate(
        workload(), CLUSTER, policy=ORDERS[name], backfill=backfill, allocator=GreedyAllocator("best_fit")
    )
    assert np.array_equal(own.start_s, rltune.simulate(workload(), CLUSTER, policy=name, backfill=backfill).start_s)
