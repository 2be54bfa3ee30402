"""State of the detailed simulation: arrays that compiled kernels act on."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rltune.allocators.formulation import amounts
from rltune.allocators.sharing import Demand, Place, Room, demand_of, idle_room, place_scratch
from rltune.allocators.sharing_fragments import TaskTypes
from rltune.cluster import Cluster, ClusterArrays, distinct_rows, eligibility
from rltune.jobs import WHOLE, JobTable

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]

# Slots of ``Fleet.counts``.
QUEUED, RUNNING, ARRIVED, DROPPED, EVENTS, STARTED, PASSES, LOGGED, HELD, FAULTS, ROUND, TAGS, STALLED = range(13)
COUNTERS = 13
# Values of ``Fleet.status``.
FUTURE, WAITING, ON_GPUS, DONE, IMPOSSIBLE, ABANDONED = range(6)
# Slots of ``Fleet.clocks``: now; the next quantum's end; virtual time of weighted fair queueing.
NOW, TICK, VIRTUAL = range(3)
# Rows of ``Fleet.left``: the quotas that go with the room of that name.
OF_ROOM, OF_TRIAL, OF_SPARE = range(3)
# Values of ``Knobs.discipline``.
STRICT, SKIP, EASY, CONSERVATIVE = range(4)
FLEET_DISCIPLINES = {"strict": STRICT, "skip": SKIP, "easy": EASY, "conservative": CONSERVATIVE}
# Kinds of listed cluster events.
FAIL, REPAIR, DRAIN, REOPEN = range(4)


class Knobs(NamedTuple):
    """Scalars of one simulation; times in seconds, infinity = never.

    ``order``: code of `rltune.simulator.fleet.keys`; ``on_event, on_tick``: whether jobs may be suspended
    when something happens, and when a quantum ends; ``joint``: whether starts are decided outside the
    kernels (`rltune.simulator.fleet.joint`); ``retries``: failures a job survives.
    """

    order: int
    on_event: bool
    on_tick: bool
    joint: bool
    discipline: int
    rule: int
    quantum: float
    suspend: float
    resume: float
    migrate: float
    checkpoint: float
    node_mtbf: float
    node_repair: float
    gpu_mtbf: float
    retries: int
    half_life: float
    reservations: int
    learns: bool
    seed: int


class Work(NamedTuple):
    """The workload; arrays (n_jobs,) sorted by ``submit``.

    ``run``: seconds on the recorded hardware; ``estimate``: what the scheduler believes of it (filled in at
    arrival where it learns online); ``rank``: position in a static order; ``weight``: tickets, shares;
    ``flow``: user or virtual cluster that fair share charges; ``cls``: class of equal demand, pools and speeds;
    ``part`` (n_jobs + 1,): slots in ``Fleet.node`` and ``Fleet.grant``; ``groups`` (levels, n_jobs): of `learn`;
    ``group``: quota that the job counts towards, -1 none; ``amount``: thousandths of GPUs it counts for there.
    """

    submit: Floats
    run: Floats
    estimate: Floats
    rank: Ints
    priority: Floats
    weight: Floats
    flow: Ints
    cls: Ints
    part: Ints
    groups: Ints
    group: Ints
    amount: Ints
    demand: Demand


class Choices(NamedTuple):
    """Class c may use ``pool[ptr[c]:ptr[c + 1]]``, fastest first; ``rate``: its speed there relative to the recorded
    hardware; ``stop[i]``: end of the stretch of pools as fast as number i."""

    ptr: Ints
    pool: Ints
    rate: Floats
    stop: Ints


class Log(NamedTuple):
    """Ended runs, as `rltune.simulator.runs.Runs`; ``counts[LOGGED]`` of them. Grows between calls of the kernel."""

    job: Int32s
    start: Floats
    end: Floats
    useful: Floats
    outcome: npt.NDArray[np.int8]
    ptr: Ints
    node: Int32s
    grant: Ints


class Fleet(NamedTuple):
    """All that changes.

    Per job: ``status``; ``done``: seconds of its run time done and kept; ``since, ready``: start of the present run,
    and when restoring ends; ``rate``: its speed; ``end``: next event of the run, ``fails``: whether that is a failure;
    ``service``: GPU-seconds of ended runs; ``runs, failures``: counts; ``first, final``: first start, completion;
    ``node, grant, nodes``: present or last places; ``turn``: order of starting; ``key, tag``: see `keys`.
    ``queue``: waiting jobs, ``order, spare_order``: work space of sorting; ``active, active_at``: heap by ``end``.
    Per class: ``waiting``, ``misfit`` (2, n): pass in which it did not fit. Per flow: ``used`` GPU-seconds, decayed,
    ``using`` GPUs, as of ``used_at``. Per node: ``change``: when the seeded process next fails or repairs it,
    ``broken``, ``breaks``: how often. ``listed_*``: listed events. ``mean``: of `learn`. ``left`` (3, n_quotas):
    thousandths of GPUs left of each quota, beside ``room``, ``trial`` and ``spare``.
    """

    cluster: ClusterArrays
    work: Work
    choices: Choices
    room: Room
    trial: Room
    spare: Room
    place: Place
    log: Log
    status: npt.NDArray[np.int8]
    done: Floats
    since: Floats
    ready: Floats
    rate: Floats
    end: Floats
    fails: npt.NDArray[np.int8]
    service: Floats
    runs: Ints
    failures: Ints
    first: Floats
    final: Floats
    node: Ints
    grant: Ints
    nodes: Ints
    turn: Ints
    key: Floats
    tag: Floats
    queue: Ints
    order: Ints
    spare_order: Ints
    marked: npt.NDArray[np.int8]
    active: Ints
    active_at: Ints
    waiting: Ints
    misfit: Ints
    used: Floats
    using: Floats
    used_at: Floats
    change: Floats
    broken: npt.NDArray[np.int8]
    breaks: Ints
    node_heap: Ints
    node_at: Ints
    listed_at: Floats
    listed_node: Ints
    listed_kind: Ints
    thresholds: Floats
    mean: Floats
    left: Ints
    clocks: Floats
    counts: Ints


def build_fleet(
    jobs: JobTable,
    cluster: Cluster,
    *,
    estimate: Floats,
    rank: Any,
    weight: Floats,
    flow: Any,
    speed: Floats | None,
    listed: tuple[Floats, Ints, Ints],
    thresholds: Floats,
    groups: Ints,
    types: TaskTypes | None,
    quotas: tuple[Ints, Ints] | None = None,
) -> Fleet:
    """A state at time zero; ``speed`` (n_jobs, n_pools) relative to the recorded hardware, None: 1 everywhere.

    ``types``: the workload, for placement by a measure of fragmentation; ``quotas``: the quota of each job (-1: none) and
    the size of each, thousandths of GPUs.
    """
    group, left = quotas or (np.full(len(jobs), -1), ints(0))
    cls, choices = classes_by_speed(jobs, cluster, speed, group)
    arrays, n = cluster.arrays(), len(jobs)
    part = places_needed(jobs, arrays, cls, choices)
    # Of jobs that need no GPU any number may run at once.
    most = n if (jobs.gpu_milli == 0).any() else min(n, cluster.gpus * WHOLE)
    classes, flows, nodes = len(choices.ptr) - 1, int(np.max(flow, initial=0)) + 1, len(arrays.node_pool)
    demand = demand_of(jobs, cluster)
    work = Work(
        submit=jobs.submit_s.copy(),
        run=jobs.duration_s.copy(),
        estimate=np.array(estimate, np.float64),
        rank=np.array(rank, np.int64),
        priority=np.array(jobs.priority, np.float64),
        weight=np.array(weight, np.float64),
        flow=np.array(flow, np.int64),
        cls=cls,
        part=part,
        groups=groups,
        group=group,
        amount=np.rint(WHOLE * amounts(demand, np.arange(n), arrays)).astype(np.int64),
        demand=demand,
    )
    never = np.full(n, np.nan)
    return Fleet(
        cluster=arrays, work=work, choices=choices,
        room=idle_room(cluster), trial=idle_room(cluster), spare=idle_room(cluster),
        place=place_scratch(cluster, types),
        log=empty_log(n + 64, int(part[-1]) + 64),
        status=np.zeros(n, np.int8), done=floats(n), since=floats(n), ready=floats(n), rate=np.ones(n), end=never.copy(),
        fails=np.zeros(n, np.int8), service=floats(n), runs=ints(n), failures=ints(n), first=never.copy(),
        final=never.copy(), node=ints(int(part[-1])), grant=ints(int(part[-1])), nodes=ints(n), turn=ints(n),
        key=floats(n), tag=floats(n), queue=ints(n), order=ints(n), spare_order=ints(n),
        marked=np.zeros(n, np.int8), active=ints(most), active_at=ints(n), waiting=ints(classes),
        misfit=np.zeros((2, classes), np.int64), used=floats(flows), using=floats(flows), used_at=floats(flows),
        change=np.full(nodes, np.inf), broken=np.zeros(nodes, np.int8), breaks=ints(nodes), node_heap=ints(nodes),
        node_at=ints(nodes), listed_at=listed[0], listed_node=listed[1], listed_kind=listed[2], thresholds=thresholds,
        mean=np.full(int(groups.max(initial=-1)) + 1, np.nan), left=np.repeat(left[None], 3, 0),
        clocks=floats(3), counts=ints(COUNTERS),
    )  # fmt: skip


def floats(n: int) -> Floats:
    return np.zeros(n)


def ints(n: int) -> Ints:
    return np.zeros(n, np.int64)


def empty_log(runs: int, places: int) -> Log:
    """Room for so many ended runs on so many nodes together."""
    return Log(
        job=np.zeros(runs, np.int32), start=np.zeros(runs), end=np.zeros(runs), useful=np.zeros(runs),
        outcome=np.zeros(runs, np.int8), ptr=np.zeros(runs + 1, np.int64), node=np.zeros(places, np.int32),
        grant=np.zeros(places, np.int64),
    )  # fmt: skip


def grown_log(log: Log) -> Log:
    """The same runs, twice the room."""
    larger = empty_log(2 * len(log.job), 2 * len(log.node))
    for name in Log._fields:
        old = getattr(log, name)
        getattr(larger, name)[: len(old)] = old
    return larger


def classes_by_speed(jobs: JobTable, cluster: Cluster, speed: Floats | None, group: Ints) -> tuple[Ints, Choices]:
    """Classes of `rltune.cluster.eligibility`, split where speeds or quotas differ; pools of a class fastest first."""
    base = eligibility(jobs, cluster)
    columns = [] if speed is None else [np.unique(x, return_inverse=True)[1] for x in speed.T]
    first, kind = distinct_rows([base.cls, *columns, *([group] if (group >= 0).any() else [])])
    ptr, pools, rates, stops = [0], [], [], []
    for row in first:
        mine = base.pools[base.ptr[base.cls[row]] : base.ptr[base.cls[row] + 1]]
        rate = np.ones(len(mine)) if speed is None else speed[row, mine]
        fastest = np.argsort(-rate, kind="stable")
        mine, rate = mine[fastest], rate[fastest]
        # Index of the first slower pool: -rate ascends.
        stops.extend((ptr[-1] + np.searchsorted(-rate, -rate, side="right")).tolist())
        pools.extend(mine.tolist())
        rates.extend(rate.tolist())
        ptr.append(len(pools))
    return kind.astype(np.int64), Choices(
        np.array(ptr, np.int64), np.array(pools, np.int64), np.array(rates, np.float64), np.array(stops, np.int64)
    )


def places_needed(jobs: JobTable, arrays: ClusterArrays, cls: Ints, choices: Choices) -> Ints:
    """(n_jobs + 1,) offsets: the most nodes each job can occupy, summed."""
    caps = np.maximum(arrays.pool_cap, 1)
    smallest = np.array(
        [
            caps[choices.pool[a:b]].min() if b > a else caps.max()
            for a, b in zip(choices.ptr, choices.ptr[1:], strict=False)
        ]
    )
    return np.concatenate([[0], np.cumsum(-(-jobs.num_gpus.astype(np.int64) // smallest[cls]))])
