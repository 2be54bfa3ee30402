"""How long one joint decision takes: states of clusters of several sizes, drawn anew for every decision.

A cluster is filled by jobs of a mix until one in a row of many does not fit, then jobs leave at random until a drawn share of
the GPUs is free: what a scheduler meets when something has ended. The queue is drawn from the same mix. Nothing is cached,
and building the model is part of the time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rltune.allocators.formulation import Instance, Place
from rltune.allocators.highs import Session
from rltune.allocators.joint import JointSolver
from rltune.allocators.measure import Measure
from rltune.allocators.milp import MilpAllocator
from rltune.allocators.model import PyomoSession
from rltune.allocators.problem import Level, Problem
from rltune.core.resources.fragments import task_types
from rltune.core.resources.places import Demand, Room, copy_room, demand_of, find, idle_room, place_scratch, take
from rltune.core.resources.room import Among, Held
from rltune.core.resources.scores import SHARING_RULES
from rltune.nouns.cluster import Cluster, ClusterArrays, Eligibility, eligibility
from rltune.nouns.jobs import JobTable
from rltune.nouns.mig_profiles import NAMES
from rltune.nouns.plan import Queue, Running, Snapshot

Ints = npt.NDArray[np.int64]
WHOLE_MODELS = 30
"""Models of a case that are also given to HiGHS as they are, for comparison."""
SIZES, SIZE_SHARES = (1, 2, 4, 8, 16, 32), (0.62, 0.12, 0.10, 0.12, 0.03, 0.01)
"""GPUs of a job: about the published mix of Helios (Hu et al., SC 2021, figure 4), small jobs first."""
MIG_SHARES = (0.4, 0.1, 0.2, 0.15, 0.05, 0.1)
"""Of the profiles of an A100, smallest first, in the drawn mix of slices."""
FREE = (0.02, 0.30)
"""Share of the GPUs that are free, drawn evenly."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Of n decisions, (n,): milliseconds in all, ``solver``: of them in HiGHS, ``states``: classes of equal nodes.

    ``whole`` (n_solved,): milliseconds that HiGHS takes for the same models as they are, branch and bound from the start;
    ``pyomo`` (n_solved,): for the same models through Pyomo's interface, stating them included.
    """

    total: npt.NDArray[np.float64]
    solver: npt.NDArray[np.float64]
    states: npt.NDArray[np.float64]
    whole: npt.NDArray[np.float64]
    pyomo: npt.NDArray[np.float64]
    stats: dict[str, Any]

    @property
    def overhead(self) -> float:
        """What is not HiGHS over what is, medians."""
        solver = float(np.median(self.solver))
        return (float(np.median(self.total)) - solver) / max(solver, 1e-9)


def decay_of(head: int) -> float:
    """0.5, or what keeps the first of that many jobs from being worth over a million times the last."""
    return max(0.5, float(5e5 ** (-1 / max(1, head - 1))))


def mig_gpus(gpus: int) -> tuple[Cluster, JobTable]:
    """A100s in nodes of eight, cut by MIG, and two thousand slices asked for, small ones more often."""
    rng = np.random.default_rng(0)
    pool = {"nodes": gpus // 8, "gpus_per_node": 8, "gpu_type": "A100-80GB", "mig": True}
    profiles = rng.choice([*NAMES["A100-80GB"].values()], 2000, p=MIG_SHARES)
    columns = {
        "submit_s": np.arange(2000),
        "duration_s": np.ones(2000),
        "num_gpus": np.ones(2000, np.int64),
        "mig": profiles,
    }
    return Cluster.from_spec({"name": "mig", "pools": [pool]}), JobTable.from_columns(columns)


def whole_gpus(shapes: list[tuple[int, int]], queue: int, head: int, decisions: int, seed: int = 0) -> Timing:
    """Decisions of `MilpAllocator` on pools of (nodes, GPUs per node), about a ``queue`` of jobs of which ``head`` are decided jointly."""
    rng = np.random.default_rng(seed)
    pools = [{"nodes": nodes, "gpus_per_node": gpus} for nodes, gpus in shapes]
    cluster = Cluster.from_spec({"name": "bench", "pools": pools}).arrays()
    allocator = MilpAllocator(head=head, decay=decay_of(head), time_limit_s=10.0, cache_size=0)
    allowed = np.tile(np.arange(len(shapes)), queue)
    none = np.zeros(0, np.int64)

    def decide() -> tuple[float, dict[str, Any]]:
        free = _free_whole(rng, cluster.pool_cap[cluster.node_pool])
        num_gpus = rng.choice(SIZES, queue, p=SIZE_SHARES).astype(np.int64)
        zeros, at = np.zeros(queue), np.arange(queue) * len(shapes)
        jobs = Queue(np.arange(queue), zeros, zeros, num_gpus, zeros, zeros, at, at + len(shapes), allowed)
        snapshot = Snapshot(0.0, cluster, free, jobs, Running(none, np.zeros(0), np.zeros(1, np.int64), none, none))
        begun = time.perf_counter()
        plan = allocator.allocate(snapshot, np.arange(queue), "skip")
        return time.perf_counter() - begun, plan.report

    return _timed(decide, allocator.solver, decisions)


def shared_gpus(
    cluster: Cluster,
    jobs: JobTable,
    head: int,
    decisions: int,
    *,
    measure: str = "fgd",
    states: int | None = None,
    seed: int = 0,
) -> Timing:
    """Decisions of `JointSolver` on shares, CPU, memory or MIG slices, greedy plans included; the mix is that of ``jobs``.

    ``states``: how many different nodes are drawn; all others are copies of them.
    """
    rng = np.random.default_rng(seed)
    arrays, demand, classes = cluster.arrays(), demand_of(jobs, cluster), eligibility(jobs, cluster)
    types = task_types(jobs, cluster, measure)
    by_gpu = bool((types.demand.gpus <= 1).all()) and not (types.demand.cpus.any() or types.demand.memory.any())
    levels: tuple[Level, ...] = ({"value": 1.0}, {"fragmentation": 1.0, "reconfiguration": 0.1})
    solver = JointSolver(levels, time_limit_s=10.0, cache_size=0)
    work, trial = place_scratch(cluster, types), idle_room(cluster)
    table, room = Measure(np.zeros((0, 0)), types), idle_room(cluster)
    full, held = _filled(rng, cluster, demand, classes)

    def greedily(rows: Any, rule: str) -> list[Place | None]:
        copy_room(room, trial)
        found: list[Place | None] = []
        for row in rows.tolist():
            c = classes.cls[row]
            m = find(
                arrays, trial, demand, row, Among(classes.pools, classes.ptr[c], classes.ptr[c + 1]), SHARING_RULES[rule],
                np.uint64(0), work,
            )  # fmt: skip
            if m:
                take(arrays, trial, demand, row, Held(work.node, work.grant, 0, m), -1)
                found.append(Place(tuple(work.node[:m].tolist()), tuple(work.grant[:m].tolist())))
            else:
                found.append(None)
        return found

    def decide() -> tuple[float, dict[str, Any]]:
        copy_room(full, room)
        for k in rng.permutation(len(held))[: int(rng.uniform(*FREE) * len(held))].tolist():
            row, nodes, grants = held[k]
            take(arrays, room, demand, row, Held(nodes, grants, 0, len(nodes)), 1)
        if states is not None:
            _copied(rng, arrays, room, states)
        rows = rng.integers(0, len(jobs), head)
        begun = time.perf_counter()
        known = {rule: greedily(rows, rule) for rule in ("fgd", "best_fit")}
        instance = Instance(
            arrays, room, demand, rows, np.rint(decay_of(head) ** (np.arange(head) - head + 1.0)), classes.pools,
            classes.ptr[classes.cls[rows]], classes.ptr[classes.cls[rows] + 1],
        )  # fmt: skip
        report = solver.decide(instance, table, known, by_gpu=by_gpu).report
        return time.perf_counter() - begun, report

    return _timed(decide, solver, decisions)


def _timed(decide: Callable[[], tuple[float, dict[str, Any]]], solver: JointSolver, decisions: int) -> Timing:
    """Run ``decide`` often enough, after three runs that compile and warm up."""
    total, in_solver, states = [], [], []
    problems: list[tuple[Problem, Any]] = []
    session = solver.session
    solve = session.solve

    def keeping(problem: Problem, levels: Any, *rest: Any) -> Any:
        problems.append((problem, levels))
        return solve(problem, levels, *rest)

    session.solve = keeping  # type: ignore[method-assign, assignment]
    for _ in range(decisions + 3):
        before = solver.stats.solver_time_s
        seconds, report = decide()
        total.append(1e3 * seconds)
        in_solver.append(1e3 * (solver.stats.solver_time_s - before))
        states.append(report["states"])
    whole = [1e3 * Session().solve_whole(*problem) for problem in problems[3 : 3 + WHOLE_MODELS]]
    pyomo = [_through_pyomo_ms(*problem) for problem in problems[3 : 3 + WHOLE_MODELS]]
    figures = [np.array(x[3:], np.float64) for x in (total, in_solver, states)]
    return Timing(figures[0], figures[1], figures[2], np.array(whole), np.array(pyomo), solver.stats.as_dict())


def _through_pyomo_ms(problem: Problem, levels: Any) -> float:
    """Milliseconds to state and solve the problem in Pyomo."""
    begun = time.perf_counter()
    PyomoSession().solve(problem, levels, [np.inf] * len(levels), np.inf)
    return 1e3 * (time.perf_counter() - begun)


def _free_whole(rng: np.random.Generator, cap: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Free GPUs of each node after jobs have left a full cluster at random: parts of 1, 2, 4 or 8 GPUs come free."""
    free, wanted = np.zeros(len(cap), np.int64), rng.uniform(*FREE) * cap.sum()
    while free.sum() < wanted:
        missing = int(np.ceil((wanted - free.sum()) / 4))
        nodes = rng.choice(len(cap), min(missing, len(cap)), replace=False)
        parts = np.minimum(
            rng.choice(SIZES[:4], len(nodes), p=np.array(SIZE_SHARES[:4]) / sum(SIZE_SHARES[:4])), cap[nodes]
        )
        free[nodes] = np.minimum(cap[nodes], free[nodes] + parts)
    return free


def _filled(
    rng: np.random.Generator, cluster: Cluster, demand: Demand, classes: Eligibility
) -> tuple[Room, list[tuple[int, Ints, Ints]]]:
    """A cluster on which jobs of the mix were placed until twenty in a row did not fit, and who holds what."""
    arrays, room, work = cluster.arrays(), idle_room(cluster), place_scratch(cluster)
    room.turn[:] = rng.permutation(cluster.nodes)
    held: list[tuple[int, Ints, Ints]] = []
    misses = 0
    while misses < 20:
        row = int(rng.integers(0, len(demand.gpus)))
        c = classes.cls[row]
        m = find(
            arrays, room, demand, row, Among(classes.pools, classes.ptr[c], classes.ptr[c + 1]), SHARING_RULES["best_fit"],
            np.uint64(0), work,
        )  # fmt: skip
        misses = 0 if m else misses + 1
        if m:
            held.append((row, work.node[:m].copy(), work.grant[:m].copy()))
            take(arrays, room, demand, row, Held(work.node, work.grant, 0, m), -1)
    return room, held


def _copied(rng: np.random.Generator, cluster: ClusterArrays, room: Room, states: int) -> None:
    """Leave about that many different nodes: within a pool all others become copies of the first ones."""
    nodes = len(room.whole)
    for lo, hi in zip(cluster.pool_lo.tolist(), cluster.pool_hi.tolist(), strict=True):
        source = lo + rng.integers(0, max(1, states * (hi - lo) // nodes), hi - lo)
        for column in (room.milli, room.slices, room.whole, room.loose, room.largest, room.cpus, room.memory):
            column[lo:hi] = column[source]
