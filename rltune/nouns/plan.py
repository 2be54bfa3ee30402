"""What a decision sees (``Snapshot``), what it answers (``Plan``), and the protocols of the plug-ins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rltune.nouns.cluster import ClusterArrays
from rltune.nouns.jobs import WHOLE
from rltune.nouns.mig_profiles import SIZE, STARTS

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Queue:
    """The waiting jobs, in order of arrival; arrays have shape (n_queued,) and are read-only.

    Where running jobs may be suspended they are shown too, marked in ``running``.
    ``job``: row in the job table. ``run_s``: run time as the scheduler knows it
    (exact, predicted, or NaN for runtimes ``unknown``). Job i may use
    ``pools[pool_lo[i]:pool_hi[i]]``, at ``speed`` of the same positions relative to the recorded hardware, the way that
    greedy placement tries first first; what it holds there is row ``way`` of the same positions of ``way_gpus`` (n_ways,)
    GPUs, ``way_milli`` thousandths of each, and ``way_profile``, which differs only for a job with several ways to run
    (all four are empty where whole GPUs alone are simulated; see `asks`). ``num_gpus``: GPUs that it asked for;
    ``gpu_milli``: thousandths of a GPU (1000: whole ones) and ``profile``: index into
    `rltune.nouns.mig_profiles.PROFILES`, -1 none, of the way that it holds or held last, or of its first;
    ``cpus, memory_gb``: of the whole job; ``attained_gpu_s``: GPU-seconds held so far; ``done_s``: seconds of its run time
    done and kept in ended runs.
    """

    job: IntArray
    submit_s: FloatArray
    run_s: FloatArray
    num_gpus: IntArray
    wait_s: FloatArray
    priority: FloatArray
    pool_lo: IntArray
    pool_hi: IntArray
    pools: IntArray
    speed: FloatArray = field(default_factory=lambda: np.zeros(0))
    gpu_milli: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    profile: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    attained_gpu_s: FloatArray = field(default_factory=lambda: np.zeros(0))
    cpus: FloatArray = field(default_factory=lambda: np.zeros(0))
    memory_gb: FloatArray = field(default_factory=lambda: np.zeros(0))
    done_s: FloatArray = field(default_factory=lambda: np.zeros(0))
    running: BoolArray = field(default_factory=lambda: np.zeros(0, bool))
    way: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    way_gpus: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    way_milli: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    way_profile: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.job)

    def asks(self, at: int, way: int) -> tuple[int, int, int]:
        """GPUs, thousandths of each and MIG profile of way number ``way``, from 0, of the job at position ``at``."""
        if not len(self.way):
            whole = not len(self.gpu_milli)
            return (
                int(self.num_gpus[at]),
                WHOLE if whole else int(self.gpu_milli[at]),
                -1 if whole else int(self.profile[at]),
            )
        row = int(self.way[self.pool_lo[at] + way])
        return int(self.way_gpus[row]), int(self.way_milli[row]), int(self.way_profile[row])


@dataclass(frozen=True, slots=True)
class Running:
    """The running jobs; shape (n_running,). ``end_s`` is expected from the known run time.

    Job i holds ``gpus[ptr[i]:ptr[i + 1]]`` GPUs on ``nodes[ptr[i]:ptr[i + 1]]``; ``grants`` name them (see `Start`), -1
    where only counts are simulated; ``way`` is the number of the way it runs in.
    """

    job: IntArray
    end_s: FloatArray
    ptr: IntArray
    nodes: IntArray
    gpus: IntArray
    grants: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    way: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of one instant, after all its events. ``free`` (n_nodes,) whole GPUs of open nodes, read-only.

    ``room``: `rltune.core.resources.room.Room`, what is free GPU by GPU, with shares, slices, CPU and memory; None
    where only whole GPUs are simulated.
    """

    now_s: float
    cluster: ClusterArrays
    free: IntArray
    queue: Queue
    running: Running
    room: Any = None


@dataclass(frozen=True, slots=True)
class Start:
    """Start the job of row ``job`` now with ``gpus[i]`` GPUs on node index ``nodes[i]``.

    A job of a share, a slice or no GPU starts on one node, with ``gpus`` (1,), (1,) or (0,). ``grants[i]`` names the GPUs of
    the node by bits 0 to 31, and the first memory slice of a MIG profile by bits 32 to 35; empty: any that fit.
    ``way``: number of the way to run in, from 0 (a position in the job's part of ``Queue.pools``); -1: the first in the
    nodes' pool that asks for as many GPUs as ``gpus`` gives and that these nodes have free.
    """

    job: int
    nodes: tuple[int, ...]
    gpus: tuple[int, ...]
    grants: tuple[int, ...] = ()
    way: int = -1


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens now: ``suspensions`` of running jobs (rows of the job table), then ``starts``, in order.

    A job in both moves. ``report``: the allocator's own account (status, gap, time, fallback).
    """

    starts: tuple[Start, ...]
    report: dict[str, Any] = field(default_factory=dict)
    suspensions: tuple[int, ...] = ()


class PlanError(RuntimeError):
    """A plug-in answered with an impossible plan; the message names job and reason."""


Keys = npt.ArrayLike | Sequence[npt.ArrayLike]
Policy = Callable[[Queue, Snapshot], Keys]
"""Orders the queue: returns a key (n_queued,), or several by significance; smallest goes first."""


class Allocator(Protocol):
    """Turns an ordered queue into a plan."""

    def allocate(self, snapshot: Snapshot, order: IntArray, backfill: str) -> Plan:
        """``order``: positions in the queue, first to start first. ``backfill``: blocking, skip or easy."""
        ...


def check_plan(snapshot: Snapshot, plan: Plan) -> Plan:
    """The plan with every start's ``way`` filled in, and its ``grants`` where GPUs are simulated one by one.

    Raises PlanError for an over-allocation, an incomplete gang, a foreign pool, a job started twice or not queued, a GPU
    or slice that is taken, a way that the job has not, and the suspension of a job that does not run or may not be suspended.
    """
    queue = snapshot.queue
    free = _Free(snapshot)
    waiting = {int(job): i for i, job in enumerate(queue.job) if not (len(queue.running) and queue.running[i])}
    running = {int(job): i for i, job in enumerate(queue.job) if len(queue.running) and queue.running[i]}
    held = {int(job): k for k, job in enumerate(snapshot.running.job)}
    for job in plan.suspensions:
        at = running.pop(int(job), None)
        if at is None:
            raise PlanError(f"job {job} is suspended but does not run (any more), or may not be suspended here")
        free.give_back(at, held[int(job)])
        waiting[int(job)] = at
    starts = []
    for start in plan.starts:
        at = waiting.pop(start.job, None)
        if at is None:
            raise PlanError(f"job {start.job} is started but not (or no longer) in the queue")
        starts.append(_take(snapshot, free, start, at))
    return Plan(tuple(starts), plan.report, plan.suspensions)


def _take(snapshot: Snapshot, free: _Free, start: Start, at: int) -> Start:
    """The start in the way it names, or in the first that it matches and that is free."""
    ways = _ways(snapshot, start, at)
    for way in ways[:-1]:
        try:
            _check_shape(snapshot, start, at, way)
            return free.take(start, at, way)
        except PlanError:
            continue
    # The error names what is wrong with the last one.
    _check_shape(snapshot, start, at, ways[-1])
    return free.take(start, at, ways[-1])


def _ways(snapshot: Snapshot, start: Start, at: int) -> list[int]:
    """Numbers of the ways that a start may mean, at least one: the one it names, or those of the pool of its nodes."""
    queue, cluster = snapshot.queue, snapshot.cluster
    count = int(queue.pool_hi[at] - queue.pool_lo[at])
    whole = all(isinstance(x, int | np.integer) for x in (start.way, *start.nodes, *start.gpus, *start.grants))
    if not whole or not start.nodes or len(start.nodes) != len(start.gpus):
        raise PlanError(f"job {start.job}: nodes {start.nodes} and GPUs {start.gpus} are not pairs of whole numbers")
    if not -1 <= start.way < count:
        raise PlanError(f"job {start.job}: way {start.way}; it has ways 0 to {count - 1}, -1 for any")
    if not all(0 <= node < len(snapshot.free) for node in start.nodes):
        raise PlanError(f"job {start.job}: nodes {start.nodes} do not all exist; there are {len(snapshot.free)}")
    if len(set(start.nodes)) < len(start.nodes):
        raise PlanError(f"job {start.job} names a node twice: {start.nodes}")
    pools = {int(cluster.node_pool[node]) for node in start.nodes}
    offered = queue.pools[queue.pool_lo[at] : queue.pool_hi[at]].tolist()
    meant = [way for way in range(count) if {offered[way]} == pools and start.way in (-1, way)]
    if not meant:
        allowed = set(offered) if start.way < 0 else {offered[start.way]}
        raise PlanError(f"job {start.job} may use one of pools {sorted(allowed)}, the plan uses {sorted(pools)}")
    # Of several, those that ask for as many GPUs as the plan gives.
    same = [way for way in meant if _total(queue.asks(at, way)) == sum(start.gpus)]
    return same or meant[:1]


def _total(asked: tuple[int, int, int]) -> int:
    """GPUs that a way takes part of."""
    return asked[0] if asked[1] > 0 else 0


def _check_shape(snapshot: Snapshot, start: Start, at: int, way: int) -> None:
    """GPUs and nodes as the job of queue position ``at`` may have them in this way."""
    asked = snapshot.queue.asks(at, way)
    wanted = _total(asked)
    if min(start.gpus) < min(1, wanted):
        raise PlanError(f"job {start.job}: nodes {start.nodes} and GPUs {start.gpus} are not pairs of whole numbers")
    if start.grants and len(start.grants) != len(start.nodes):
        raise PlanError(
            f"job {start.job}: {len(start.grants)} grants for {len(start.nodes)} nodes; give one a node, or none"
        )
    if sum(start.gpus) != wanted:
        raise PlanError(f"job {start.job} wants {wanted} GPUs, the plan gives {start.gpus}")
    cap = int(snapshot.cluster.pool_cap[snapshot.cluster.node_pool[start.nodes[0]]])
    fewest = max(1, -(-wanted // max(1, cap)))
    if len(start.nodes) != fewest:
        raise PlanError(f"job {start.job} needs {fewest} nodes of its pool, the plan uses {len(start.nodes)}")


class _Free:
    """What is free while a plan is checked: counts of whole GPUs, or GPU by GPU where the snapshot has a ``room``."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot, self.room = snapshot, snapshot.room
        self.gpus = snapshot.free.copy()
        if self.room is not None:
            self.milli, self.slices = self.room.milli.astype(np.int64), self.room.slices.astype(np.int64)
            self.cpus, self.memory = self.room.cpus.copy(), self.room.memory.copy()

    def give_back(self, at: int, k: int) -> None:
        """The k-th running job, at position ``at`` of the queue, lets its GPUs go."""
        running = self.snapshot.running
        asked = self.snapshot.queue.asks(at, int(running.way[k]) if len(running.way) else 0)
        for i in range(int(running.ptr[k]), int(running.ptr[k + 1])):
            self._book(at, asked, int(running.nodes[i]), int(running.gpus[i]), int(running.grants[i]), +1)

    def take(self, start: Start, at: int, way: int) -> Start:
        """Take a start's places; the start with its way and grants. Raises PlanError where they are not free."""
        asked = self.snapshot.queue.asks(at, way)
        grants: list[int] = []
        try:
            for i, (node, gpus) in enumerate(zip(start.nodes, start.gpus, strict=True)):
                grants.append(self._take_one(start, at, asked, i, node, gpus))
        except PlanError:
            # Nothing is taken: another way may do.
            for node, gpus, grant in zip(start.nodes, start.gpus, grants, strict=False):
                self._book(at, asked, node, gpus, grant, +1)
            raise
        return Start(start.job, start.nodes, start.gpus, start.grants if self.room is None else tuple(grants), way)

    def _take_one(self, start: Start, at: int, asked: tuple[int, int, int], i: int, node: int, gpus: int) -> int:
        """Take the i-th place of a start; its grant."""
        if self.room is None:
            if self.gpus[node] < gpus:
                raise PlanError(f"node {node} is over-allocated by job {start.job}")
            self.gpus[node] -= gpus
            return -1
        grant = start.grants[i] if start.grants else self._grant(asked, node, gpus)
        if self.room.closed[node] > 0:
            raise PlanError(f"node {node} takes no jobs now, the plan puts job {start.job} there")
        if grant is None or not self._fits(asked, node, gpus, grant):
            raise PlanError(f"node {node} is over-allocated by job {start.job}")
        self._book(at, asked, node, gpus, grant, -1)
        if self.cpus[node] < -1e-6 or self.memory[node] < -1e-6:
            self._book(at, asked, node, gpus, grant, +1)
            raise PlanError(f"node {node} has not the CPU or memory that job {start.job} asks for")
        return grant

    def _slice(self, node: int, profile: int) -> tuple[int, int]:
        """Memory slices and legal starts (bits) of a MIG profile on a node's GPUs; (0, 0) where it is not possible."""
        kind = int(self.snapshot.cluster.pool_mig[self.snapshot.cluster.node_pool[node]])
        return (0, 0) if kind < 0 else (int(SIZE[profile, kind]), int(STARTS[profile, kind]))

    def _grant(self, asked: tuple[int, int, int], node: int, gpus: int) -> int | None:
        """Any GPUs, or slice, of a node that fit; None where none do."""
        _, milli, profile = asked
        if profile >= 0:
            cap = int(self.snapshot.cluster.pool_cap[self.snapshot.cluster.node_pool[node]])
            tried = ((1 << gpu) | (begin << 32) for gpu in range(cap) for begin in range(8))
            return next((grant for grant in tried if self._fits(asked, node, gpus, grant)), None)
        if milli == 0:
            return 0
        able = np.flatnonzero(self.milli[node] >= milli)
        if milli < WHOLE:
            return 1 << int(able[np.argmin(self.milli[node][able])]) if len(able) else None
        return sum(1 << int(gpu) for gpu in able[:gpus]) if len(able) >= gpus else None

    def _fits(self, asked: tuple[int, int, int], node: int, gpus: int, grant: int) -> bool:
        """Whether the grant names as many GPUs as asked for, or a legal slice, all of them free."""
        _, milli, profile = asked
        named = [gpu for gpu in range(32) if grant >> gpu & 1]
        if milli == 0:
            return not named
        if len(named) != gpus or (named and named[-1] >= self.milli.shape[1]):
            return False
        if profile < 0:
            return grant >> 32 == 0 and bool((self.milli[node][named] >= milli).all())
        (size, starts), begin, taken = self._slice(node, profile), grant >> 32, int(self.slices[node, named[0]])
        mask = ((1 << size) - 1) << begin
        untouched = taken != 0 or self.milli[node, named[0]] == WHOLE
        return bool(size and starts >> begin & 1 and taken & mask == 0 and untouched)

    def _book(self, at: int, asked: tuple[int, int, int], node: int, gpus: int, grant: int, sign: int) -> None:
        """Take (-1) or give back (+1) a grant."""
        if self.room is None:
            self.gpus[node] += sign * gpus
            return
        (total, milli, profile), queue = asked, self.snapshot.queue
        named = [gpu for gpu in range(32) if grant >> gpu & 1]
        if profile >= 0:
            size, _ = self._slice(node, profile)
            self.slices[node, named[0]] ^= ((1 << size) - 1) << (grant >> 32)
            self.milli[node, named[0]] = 0 if self.slices[node, named[0]] else WHOLE
        else:
            self.milli[node][named] += sign * milli
        share = gpus / max(1, total) if milli == WHOLE else 1.0
        self.cpus[node] += sign * queue.cpus[at] * share
        self.memory[node] += sign * queue.memory_gb[at] * share
