"""What a policy of one's own is given, and what it may answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import numpy as np

import rltune
from rltune.allocators.whole_gpus import reservation
from rltune.nouns.cluster import Cluster, Pool
from rltune.nouns.plan import Queue, Running, Snapshot


def look(check: Callable[[Snapshot], None]) -> None:
    """Call ``check`` at every decision (later the views show later states)."""
    seen = []

    def policy(queue: Queue, snapshot: Snapshot) -> np.ndarray:
        seen.append(snapshot.now_s)
        check(snapshot)
        return queue.submit_s

    rltune.simulate(rltune.load_trace("synthetic", jobs=30, arrivals_per_h=900.0), "uniform", policy=policy)
    assert len(seen) > 10


def test_a_policy_cannot_change_what_it_sees() -> None:
    """A policy that scales an array in place would shrink gangs in silence, or corrupt the memory of the kernels."""

    def check(seen: Snapshot) -> None:
        held = [seen.free, *seen.cluster]
        held += [getattr(seen.queue, f.name) for f in fields(Queue)]
        held += [getattr(seen.running, f.name) for f in fields(Running)]
        assert [array.flags.writeable for array in held] == [False] * len(held)

    look(check)


def test_the_snapshot_of_an_instant() -> None:
    """A policy would see another clock, queue or running jobs than the simulator's."""

    def check(seen: Snapshot) -> None:
        assert np.array_equal(seen.queue.wait_s, seen.now_s - seen.queue.submit_s)
        assert (seen.queue.wait_s >= 0).all()
        assert not set(seen.queue.job) & set(seen.running.job)
        assert len(seen.running.ptr) == len(seen.running.job) + 1
        busy = np.bincount(seen.running.nodes, seen.running.gpus, minlength=len(seen.free))
        assert np.array_equal(seen.free + busy, seen.cluster.pool_cap[seen.cluster.node_pool])

    look(check)


def test_a_policy_may_answer_with_a_plain_list() -> None:
    """``return [job.submit for ...]`` would be refused as keys of shape ()."""
    trace = rltune.load_trace("synthetic", jobs=30)
    listed = rltune.simulate(trace, "uniform", policy=lambda queue, snapshot: queue.submit_s.tolist())
    assert listed.schedule.equals(rltune.simulate(trace, "uniform", policy="fifo").schedule)


def test_a_reservation_on_a_snapshot_does_not_count_on_shares() -> None:
    """Two jobs that share one GPU would give back two, more than the node has."""
    cluster = Cluster("c", (Pool("a", 1, 2),)).arrays()
    one, zero = np.ones(1, np.int64), np.zeros(1, np.int64)
    queue = Queue(zero, np.zeros(1), np.ones(1), 2 * one, np.zeros(1), np.zeros(1), zero, one, zero)
    both = np.zeros(2, np.int64)
    running = Running(
        np.array([1, 2]), np.array([5.0, 9.0]), np.array([0, 1, 2]), both, both + 1,
        gpu_milli=both + 300, profile=both - 1,
    )  # fmt: skip
    held = reservation(Snapshot(0.0, cluster, one, queue, running), zero, np.zeros((1, 3)))
    assert held is not None
    assert (held.job, held.shadow_s, held.spare.tolist()) == (0, np.inf, [1])
