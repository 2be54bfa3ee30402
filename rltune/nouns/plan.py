"""What a decision sees (``Snapshot``), what it answers (``Plan``), and the protocols of the plug-ins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rltune.nouns.cluster import ClusterArrays
from rltune.nouns.jobs import WHOLE
from rltune.nouns.mig_layout import Standing, standing

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
    done and kept in ended runs. ``group``: the quota that it counts towards, -1 none, by ``way_amount`` (n_ways,) thousandths
    of GPUs (both empty where whole GPUs alone are simulated).
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
    way_amount: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    group: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))

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
    where only counts are simulated; ``way`` is the number of the way it runs in. What it holds, as of `Queue`:
    ``gpu_milli, profile, cpus, memory_gb``, and ``amount`` thousandths of GPUs of quota ``group`` (empty where whole GPUs
    alone are simulated).
    """

    job: IntArray
    end_s: FloatArray
    ptr: IntArray
    nodes: IntArray
    gpus: IntArray
    grants: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    way: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    gpu_milli: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    profile: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    cpus: FloatArray = field(default_factory=lambda: np.zeros(0))
    memory_gb: FloatArray = field(default_factory=lambda: np.zeros(0))
    group: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    amount: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of one instant, after all its events. ``free`` (n_nodes,) whole GPUs of open nodes, read-only.

    ``room``: `rltune.core.resources.room.Room`, what is free GPU by GPU, with shares, slices, CPU and memory; None
    where only whole GPUs are simulated. ``mig_mode_s``: seconds to turn a GPU's MIG mode on or off;
    ``resume_s, migrate_s``: of a job that has run before, to suspend and resume it, and to move it. ``quota_left`` (n_quotas,):
    thousandths of GPUs that the jobs of each quota may hold besides.
    """

    now_s: float
    cluster: ClusterArrays
    free: IntArray
    queue: Queue
    running: Running
    room: Any = None
    mig_mode_s: float = 0.0
    resume_s: float = 0.0
    migrate_s: float = 0.0
    quota_left: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))

    def instances(self, node: int, gpu: int) -> tuple[Standing, ...]:
        """MIG instances that stand on a GPU, in use or idle; none where slices appear in no time, or there is no such GPU."""
        if self.room is None or not 0 <= node < len(self.free) or not 0 <= gpu < self.room.layout.shape[1]:
            return ()
        kind = int(self.cluster.pool_mig[self.cluster.node_pool[node]])
        return standing(int(self.room.layout[node, gpu]), kind, int(self.room.slices[node, gpu]))


@dataclass(frozen=True, slots=True)
class Repartition:
    """MIG instances of GPU ``gpu`` of node index ``node`` change: some are destroyed, then some created, one after the other.

    An instance is the name of its profile and its first memory slice, e.g. ``("3g.20gb", 4)``. ``seconds``: that it takes;
    NaN: as measured, which `rltune.nouns.plan_check.check_plan` fills in.
    """

    node: int
    gpu: int
    destroy: tuple[tuple[str, int], ...] = ()
    create: tuple[tuple[str, int], ...] = ()
    seconds: float = float("nan")


@dataclass(frozen=True, slots=True)
class Reservation:
    """A waiting job's places at a later time ``at_s``, in seconds; the rest as of `Start`.

    What this plan starts must leave them free by then, as far as run times are known. Nothing else keeps them: they are
    checked with this plan and forgotten, so give them again with the next one.
    """

    job: int
    at_s: float
    nodes: tuple[int, ...]
    gpus: tuple[int, ...]
    grants: tuple[int, ...] = ()
    way: int = -1


@dataclass(frozen=True, slots=True)
class Start:
    """Start the job of row ``job`` now with ``gpus[i]`` GPUs on node index ``nodes[i]``.

    A job of a share, a slice or no GPU starts on one node, with ``gpus`` (1,), (1,) or (0,). ``grants[i]`` names the GPUs of
    the node by bits 0 to 31, and the first memory slice of a MIG profile by bits 32 to 35; empty: any that fit.
    ``way``: number of the way to run in, from 0 (a position in the job's part of ``Queue.pools``); -1: the first in the
    nodes' pool that asks for as many GPUs as ``gpus`` gives and that these nodes have free. ``repartitions``: how MIG
    instances change for it; the check fills them in.
    """

    job: int
    nodes: tuple[int, ...]
    gpus: tuple[int, ...]
    grants: tuple[int, ...] = ()
    way: int = -1
    repartitions: tuple[Repartition, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens now, in this order: ``suspensions`` of running jobs (rows of the job table), ``repartitions``, ``starts``.

    A job suspended and started moves. ``repartitions``: of MIG GPUs ahead of need; those that a start needs come with it.
    ``reservations``: places that this plan leaves to waiting jobs for later. ``report``: the allocator's own account (status, gap, time,
    fallback).
    """

    starts: tuple[Start, ...]
    report: dict[str, Any] = field(default_factory=dict)
    suspensions: tuple[int, ...] = ()
    repartitions: tuple[Repartition, ...] = ()
    reservations: tuple[Reservation, ...] = ()


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
