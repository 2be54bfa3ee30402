"""Small random decisions, and exhaustive search over them that knows nothing of the model."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import combinations

import numpy as np

from rltune.nouns.cluster import Cluster, ClusterArrays
from rltune.nouns.plan import Plan, Queue, Running, Snapshot

Job = tuple[int, tuple[int, ...]]
"""(GPUs, pools it may use)."""
Node = tuple[int, int]
"""(pool, free GPUs)."""


def make_cluster(shapes: list[tuple[int, int]]) -> ClusterArrays:
    """One pool a (nodes, GPUs per node)."""
    pools = [{"nodes": nodes, "gpus_per_node": cap} for nodes, cap in shapes]
    return Cluster.from_spec({"name": "test", "pools": pools}).arrays()


def make_snapshot(cluster: ClusterArrays, free: np.ndarray, jobs: list[Job]) -> Snapshot:
    """A queue of ``jobs`` and nothing running; job rows count from 100, so that rows and positions differ."""
    n = len(jobs)
    ends = np.cumsum([len(pools) for _, pools in jobs]).astype(np.int64)
    lengths = np.array([len(pools) for _, pools in jobs], np.int64)
    zeros, none = np.zeros(n), np.zeros(0, np.int64)
    queue = Queue(
        job=np.arange(n) + 100,
        submit_s=zeros,
        run_s=zeros,
        num_gpus=np.array([gpus for gpus, _ in jobs], np.int64),
        wait_s=zeros,
        priority=zeros,
        pool_lo=ends - lengths,
        pool_hi=ends,
        pools=np.array([p for _, pools in jobs for p in pools], np.int64),
    )
    return Snapshot(0.0, cluster, free, queue, Running(none, np.zeros(0), np.zeros(1, np.int64), none, none))


def random_case(
    rng: np.random.Generator, caps: tuple[int, ...] = (1, 2, 4, 8)
) -> tuple[ClusterArrays, np.ndarray, list[Job]]:
    """One to three pools of one to four nodes in random states, and one to five jobs."""
    shapes = [(int(rng.integers(1, 5)), int(rng.choice(caps))) for _ in range(rng.integers(1, 4))]
    cluster = make_cluster(shapes)
    free = rng.integers(0, cluster.pool_cap[cluster.node_pool] + 1)
    jobs = []
    for _ in range(rng.integers(1, 6)):
        pools = [p for p in range(len(shapes)) if rng.random() < 0.7] or [0]
        widest = max(shapes[p][0] * shapes[p][1] for p in pools)
        gpus = int(min(widest, rng.choice([1, 1, 2, 2, 3, 4, 5, 8, 12])))
        jobs.append((gpus, tuple(p for p in pools if shapes[p][0] * shapes[p][1] >= gpus)))
    return cluster, free, jobs


def _placements(nodes: tuple[Node, ...], job: Job, caps: tuple[int, ...]) -> Iterator[tuple[Node, ...]]:
    """Every state after placing the job on entirely free nodes and one node for the rest."""
    gpus, pools = job
    for p in pools:
        whole, rest = divmod(gpus, caps[p])
        full = [i for i, node in enumerate(nodes) if node == (p, caps[p])]
        for used in combinations(full, whole):
            after = [(q, 0) if i in used else (q, f) for i, (q, f) in enumerate(nodes)]
            if rest == 0:
                yield tuple(sorted(after))
                continue
            for i, (q, f) in enumerate(after):
                if q == p and f >= rest:
                    yield tuple(sorted([*after[:i], (q, f - rest), *after[i + 1 :]]))


def best_by_search(
    cluster: ClusterArrays, free: np.ndarray, jobs: list[Job], cost: np.ndarray, blocking: bool = False
) -> tuple[tuple[bool, ...], float]:
    """The best (started, -rise), earlier starts first: over all subsets of jobs, pools and nodes."""
    caps = tuple(cluster.pool_cap.tolist())

    @cache
    def best(nodes: tuple[Node, ...], k: int) -> tuple[tuple[bool, ...], float]:
        if k == len(jobs):
            return (), -sum(float(cost[p, f]) for p, f in nodes)
        rest = ((False,) * (len(jobs) - k - 1), -sum(float(cost[p, f]) for p, f in nodes))
        options = [rest if blocking else best(nodes, k + 1)]
        options = [((False, *started), value) for started, value in options]
        for after in set(_placements(nodes, jobs[k], caps)):
            started, value = best(after, k + 1)
            options.append(((True, *started), value))
        return max(options)

    nodes = tuple(sorted((int(p), int(f)) for p, f in zip(cluster.node_pool, free, strict=True)))
    started, value = best(nodes, 0)
    return started, value + sum(float(cost[p, f]) for p, f in nodes)


def worth(snapshot: Snapshot, plan: Plan, cost: np.ndarray) -> tuple[tuple[bool, ...], float]:
    """(started, -rise) of a plan, by its nodes."""
    rows = {start.job for start in plan.starts}
    after = snapshot.free.copy()
    for start in plan.starts:
        for node, gpus in zip(start.nodes, start.gpus, strict=True):
            after[node] -= gpus
    pool = snapshot.cluster.node_pool
    return tuple(int(j) in rows for j in snapshot.queue.job), float(
        (cost[pool, snapshot.free] - cost[pool, after]).sum()
    )


def is_even(snapshot: Snapshot, plan: Plan) -> bool:
    """Whether every gang takes entirely free nodes and at most one more."""
    cap = snapshot.cluster.pool_cap[snapshot.cluster.node_pool]
    return all(sum(g < cap[n] for n, g in zip(s.nodes, s.gpus, strict=True)) <= 1 for s in plan.starts)
