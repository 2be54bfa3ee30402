"""The state of the core: arrays that compiled kernels act on, in two builds.

`Sim` holds what both builds need. ``Sim.detail`` chooses the build: `Lean`, which has nothing, or `Detail`. Verbs
(`rltune.core.resources.verbs`, `rltune.core.runs`, `rltune.core.faults`, `rltune.core.priorities`) are compiled for the
one or the other; all else is written once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rltune.core.choices import Choices, Offered, plain_choices, slots
from rltune.core.resources.counts import Scratch, empty_space, scratch
from rltune.core.resources.fragments import TaskTypes
from rltune.core.resources.nodes import idle_nodes
from rltune.core.resources.places import Demand, Place, place_scratch
from rltune.core.resources.room import amounts
from rltune.nouns.cluster import Cluster, ClusterArrays
from rltune.nouns.jobs import WHOLE, JobTable
from rltune.policies.attained import Attained

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]
Int8s = npt.NDArray[np.int8]

# Slots of ``Sim.counts``: jobs that wait, run, have arrived, could never run; events; runs started; passes over the
# queue; runs logged and the places that running jobs hold; listed cluster events taken in; drawings of the lottery; tags
# given; node changes in vain; whether a quantum ends at this instant; first and last of the line of waiting jobs by since
# when they wait, + 1 (0: none).
(
    QUEUED,
    RUNNING,
    ARRIVED,
    DROPPED,
    EVENTS,
    STARTED,
    PASSES,
    LOGGED,
    HELD,
    FAULTS,
    ROUND,
    TAGS,
    STALLED,
    TICKED,
    LONGEST,
    NEWEST,
) = range(16)
COUNTERS = 16
# Values of ``Detail.status``.
FUTURE, WAITING, ON_GPUS, DONE, IMPOSSIBLE, ABANDONED = range(6)
# Slots of ``Sim.clock``: now; the next quantum's end; virtual time of weighted fair queueing.
NOW, TICK, VIRTUAL = range(3)
# Rows of ``Sim.misfit``: does not fit now; does not fit beside the reservation.
PRESENT, BESIDE = 0, 1
# How jobs behind one that does not fit may pass it: `rltune.core.backfilling`.
BLOCKING, SKIP, EASY, STRICT, CONSERVATIVE = range(5)
BACKFILLS = {"blocking": BLOCKING, "strict": STRICT, "skip": SKIP, "easy": EASY, "conservative": CONSERVATIVE}
# Why a run ended: `rltune.simulator.runs.OUTCOMES`.
FINISHED, SUSPENDED, NODE_FAILURE, JOB_FAILURE, GIVEN_UP = range(5)
# Where it is decided who starts: in the kernels; outside, once any job fits; outside, at every instant with waiting jobs.
INSIDE, WHEN_ANY_FITS, ALWAYS = range(3)
# Kinds of listed cluster events.
FAIL, REPAIR, DRAIN, REOPEN = range(4)


class Jobs(NamedTuple):
    """The workload; arrays (n_jobs,), sorted by ``submit``.

    ``run``: true run time in seconds on the recorded hardware; ``known``: what the scheduler believes of it (NaN:
    nothing; filled in at arrival where it is learned online); ``gpus``: asked for; ``cls``: class of equal demand, pools
    and speeds; ``rank``: position in a static order, ties already broken; ``part`` (n_jobs + 1,): where the job's slots
    in ``Sim.alloc_*`` begin.
    """

    submit: Floats
    run: Floats
    known: Floats
    gpus: Int32s
    cls: Int32s
    rank: Int32s
    part: Int32s


class Plain(NamedTuple):
    """Scalars of the lean build: codes of the order, of backfilling, of the placement rule, and of who decides."""

    order: int
    backfill: int
    rule: int
    outside: int = 0


class Parameters(NamedTuple):
    """Scalars of the full build; times in seconds, infinity = never.

    ``order``: code of `rltune.core.priorities`; ``on_event, on_tick``: whether jobs may be suspended when something
    happens, and when a quantum ends; ``outside``: whether starts are decided outside the kernels;
    ``retries``: failures a job survives; ``reservations``: of conservative backfill, -1 = all; ``learns``: run times are
    learned from jobs that end; ``displace``: how many times a waiting job's key must go into a running one's, ``patience``:
    seconds it waits before it suspends others; ``overrun``: least total run time of a job over what it has run;
    ``index_learns``: whether the Gittins index goes on learning.
    """

    order: int
    backfill: int
    rule: int
    on_event: bool
    on_tick: bool
    outside: int
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
    displace: float
    patience: float
    overrun: float
    index_learns: bool


class Lean(NamedTuple):
    """The lean build: no detail at all."""

    none: int


class Log(NamedTuple):
    """Ended runs, as `rltune.simulator.runs.Runs`; ``counts[LOGGED]`` of them. Grows between calls of the kernel.

    ``way``: row of the demand that the run held.
    """

    job: Int32s
    start: Floats
    end: Floats
    useful: Floats
    outcome: Int8s
    way: Int32s
    ptr: Ints
    node: Int32s
    grant: Ints


class Detail(NamedTuple):
    """What the full build has besides.

    Per way to run (n_ways,), as `rltune.core.choices.Choices.way` names them: ``demand``; ``size``: GPUs held, shares as
    fractions, a MIG slice as one; ``amount``: thousandths of GPUs that count towards a quota, a slice by its memory.
    Per job (n_jobs,): ``way``: the choice that it holds or held last, its first until it has run; ``priority``;
    ``weight``: tickets, shares; ``flow``: user or virtual cluster that fair share charges; ``group``: quota that it counts
    towards, -1 none, ``quota`` (n_quotas,): thousandths of GPUs of each; ``groups`` (levels, n_jobs) and ``mean``: of
    `rltune.policies.learn`; ``status``;
    ``done``: seconds of its run time done and kept; ``since, ready``: start of the present run, or of waiting, and when
    restoring ends;
    ``rate``: its speed; ``fails``: whether the run ends by a failure; ``service``: GPU-seconds and ``held``: seconds of
    ended runs; ``runs, failures``: counts; ``final``: completion; ``tag``: see `rltune.core.priorities`; ``marked``: work
    space. ``order`` (n_jobs,): work space of sorting.
    Per flow: ``used`` GPU-seconds, decayed, ``using`` GPUs, as of ``used_at``. Per node: ``change``: when the seeded
    process next fails or repairs it, ``broken``, ``breaks``: how often, ``node_heap, node_at``: by next change.
    ``listed_*``: listed events by time. ``thresholds``: of las, GPU-seconds; ``attained``: of
    the Gittins index. ``before, behind`` (n_jobs,): neighbours in the line of waiting jobs by since when they wait, + 1 (0:
    none; -1: not in line). ``profile``: of conservative backfill.
    """

    demand: Demand
    size: Floats
    way: Ints
    priority: Floats
    weight: Floats
    flow: Ints
    group: Ints
    amount: Ints
    quota: Ints
    groups: Ints
    mean: Floats
    status: Int8s
    done: Floats
    since: Floats
    ready: Floats
    rate: Floats
    fails: Int8s
    service: Floats
    held: Floats
    runs: Ints
    failures: Ints
    final: Floats
    tag: Floats
    marked: Int8s
    order: Int32s
    used: Floats
    using: Floats
    used_at: Floats
    change: Floats
    broken: Int8s
    breaks: Ints
    node_heap: Ints
    node_at: Ints
    listed_at: Floats
    listed_node: Ints
    listed_kind: Ints
    thresholds: Floats
    attained: Attained
    before: Int32s
    behind: Int32s
    log: Log
    profile: Any


PER_JOB = (
    "way", "priority", "weight", "flow", "group", "groups", "status", "done", "since", "ready", "rate", "fails",
    "service", "held", "runs", "failures", "final", "tag", "marked", "order", "before", "behind",
)  # fmt: skip
"""Parts of `Detail` with an entry a job, on the last axis."""


class Sim(NamedTuple):
    """All that changes, and what it refers to.

    ``space``: free resources now; ``spare``: what a reservation leaves at its time; ``shadow``: free now and beside the
    reservation; ``place``: work space of finding places, and its answer.
    ``queue`` (n_jobs,): the first ``counts[QUEUED]`` are waiting, in order; ``merged`` (n_jobs,): work space of sorting;
    ``waiting`` (n_classes,): how many of each class, ``passed``: how many of them the present pass has left waiting though
    they fit, ``misfit`` (2, n_classes): the last pass in which the class did not fit (now; beside the reservation).
    ``active``: heap of the first ``counts[RUNNING]`` running jobs by ``end``, ``expected``: the same by ``believed`` end,
    ``active_at, expected_at`` (n_jobs,) their places there, ``frontier``: work space of walking one in order.
    ``start`` (n_jobs,): first start, ``end``: of the present run, ``believed``: the same as the scheduler believes,
    seconds, NaN until known; ``turn``: order of starting; ``key``: position in the order of this instant.
    ``alloc_node, alloc_grant``: job j's places from ``jobs.part[j]``, ``alloc_len[j]`` nodes; a grant is a number of GPUs
    (lean) or names them (full). ``clock``: seconds; ``counts``: see the slots above.
    """

    cluster: ClusterArrays
    jobs: Jobs
    choices: Choices
    space: Any
    spare: Any
    shadow: Any
    place: Any
    queue: Int32s
    merged: Int32s
    waiting: Ints
    passed: Ints
    misfit: Ints
    active: Int32s
    active_at: Int32s
    expected: Int32s
    expected_at: Int32s
    frontier: Int32s
    start: Floats
    end: Floats
    believed: Floats
    turn: Int32s
    key: Floats
    alloc_node: Int32s
    alloc_grant: Any
    alloc_len: Int32s
    clock: Floats
    counts: Ints
    params: Any
    detail: Any


def part_class(kind: Any, name: str) -> Any:
    """The class of a part, by the Numba type of `rltune.core.reference.ref` of a state."""
    return getattr(kind.place(name)[1], "instance_class", None)


def is_lean(sim: Any, *_: Any) -> bool:
    """Whether the Numba type of a `Sim` is that of the lean build: the condition of verbs."""
    return part_class(sim, "detail") is Lean


def is_full(sim: Any, *_: Any) -> bool:
    """Whether the Numba type of a `Sim` is that of the full build."""
    return part_class(sim, "detail") is Detail


# --- building ---------------------------------------------------------------------------


def floats(n: int) -> Floats:
    return np.zeros(n)


def ints(n: int) -> Ints:
    return np.zeros(n, np.int64)


def int32s(n: int) -> Int32s:
    return np.zeros(n, np.int32)


def job_arrays(jobs: JobTable, known_s: Floats, rank: npt.NDArray[Any], cls: Int32s, part: Int32s) -> Jobs:
    """The workload as kernels see it.

    Args:
        known_s: (n_jobs,) run times as known.
        rank: (n_jobs,) position in the static order.
        cls, part: of `rltune.core.choices`: class of each job, offsets of its places.
    """
    run = jobs.duration_s.copy()
    same = known_s is jobs.duration_s or np.shares_memory(known_s, jobs.duration_s)
    return Jobs(
        submit=jobs.submit_s.copy(),
        run=run,
        known=run if same else np.array(known_s, np.float64),
        gpus=jobs.num_gpus.copy(),
        cls=cls,
        rank=np.array(rank, np.int32),
        part=part,
    )


def blank(cluster: ClusterArrays, jobs: Jobs, choices: Choices, most: int, grant: Any, **parts: Any) -> Sim:
    """A state in which nothing has arrived; ``most``: jobs that may run at once; ``grant``: type of grants."""
    n, classes, places = len(jobs.submit), len(choices.ptr) - 1, int(jobs.part[-1])
    return Sim(
        cluster=cluster, jobs=jobs, choices=choices, queue=int32s(n), merged=int32s(0), waiting=ints(classes),
        passed=ints(classes), misfit=np.zeros((2, classes), np.int64), active=int32s(most), active_at=int32s(n),
        expected=int32s(most), expected_at=int32s(n), frontier=int32s(most + 1), start=np.full(n, np.nan),
        end=np.full(n, np.nan), believed=floats(n), turn=int32s(n), key=floats(n), alloc_node=int32s(places),
        alloc_grant=np.zeros(places, grant), alloc_len=int32s(n), clock=floats(3), counts=ints(COUNTERS), **parts,
    )  # fmt: skip


def build_lean(
    jobs: JobTable,
    cluster: Cluster,
    known_s: Floats,
    rank: npt.NDArray[Any],
    cost: Floats | None = None,
    params: Plain | None = None,
) -> Sim:
    """The lean build at time zero; see `job_arrays`. ``cost``: of `rltune.core.resources.counts.Space`."""
    cls, choices = plain_choices(jobs, cluster)
    table = job_arrays(jobs, known_s, rank, cls, slots(jobs, cluster, cls, choices))
    arrays, params = cluster.arrays(), params or Plain(0, SKIP, 0)
    sim = blank(
        arrays, table, choices, min(len(jobs), cluster.gpus), np.int32,
        space=empty_space(arrays, cost), spare=empty_space(arrays, cost), shadow=empty_space(arrays, cost),
        place=scratch(arrays), params=params, detail=Lean(0),
    )  # fmt: skip
    # A static order is never sorted again.
    return sim if params.order == 0 else sim._replace(merged=int32s(len(jobs)))


class Columns(NamedTuple):
    """What the full build is told of every job, (n_jobs,) each, beside the job table: see `Detail` and `Jobs`.

    ``offered``: ways to run by class; ``quotas``: the quota of each job (-1: none) and the size of each in thousandths of
    GPUs, None: no quotas; ``groups`` (levels, n_jobs): of `rltune.policies.learn`.
    """

    known: Floats
    rank: npt.NDArray[Any]
    weight: Floats
    flow: npt.NDArray[Any]
    offered: Offered
    quotas: tuple[Ints, Ints] | None
    groups: Ints
    attained: Attained


def build_full(
    jobs: JobTable,
    cluster: Cluster,
    columns: Columns,
    params: Parameters,
    listed: tuple[Floats, Ints, Ints],
    thresholds: Floats,
    types: TaskTypes | None,
) -> Sim:
    """The full build at time zero, without a profile (`rltune.core.conservative.with_profile`).

    ``listed``: time, node and kind of listed events; ``thresholds``: of las; ``types``: the workload, for placement by a
    measure of fragmentation.
    """
    n, quotas = len(jobs), columns.quotas or (np.full(len(jobs), -1), ints(0))
    cls, choices, demand = columns.offered[:3]
    part = slots(jobs, cluster, cls, choices, demand)
    table, arrays = job_arrays(jobs, np.array(columns.known), columns.rank, cls, part), cluster.arrays()
    # Of jobs that need no GPU any number may run at once.
    most = n if (jobs.gpu_milli == 0).any() else min(n, cluster.gpus * WHOLE)
    sim = blank(
        arrays, table, choices, most, np.int64,
        space=idle_nodes(cluster, quotas[1]), spare=idle_nodes(cluster, quotas[1]), shadow=idle_nodes(cluster, quotas[1]),
        place=FullPlace(place_scratch(cluster, types), scratch(arrays), ints(1)), params=params,
        detail=detail_of(jobs, cluster, columns, quotas, listed, thresholds, int(table.part[-1])),
    )  # fmt: skip
    return sim._replace(merged=int32s(n))


class FullPlace(NamedTuple):
    """Work space of the full build: its answer is ``(found.node, found.grant)[:m]`` and ``way[0]``, the choice taken.

    ``gang``: of whole-GPU gangs.
    """

    found: Place
    gang: Scratch
    way: Ints


def detail_of(
    jobs: JobTable,
    cluster: Cluster,
    columns: Columns,
    quotas: tuple[Ints, Ints],
    listed: tuple[Floats, Ints, Ints],
    thresholds: Floats,
    places: int,
) -> Detail:
    """`Detail` at time zero; ``places``: nodes that all jobs together may occupy."""
    n, nodes, flows = len(jobs), cluster.nodes, int(np.max(columns.flow, initial=0)) + 1
    demand = columns.offered.demand
    return Detail(
        demand=demand, size=demand.gpus * demand.milli / WHOLE, way=ints(n),
        priority=np.array(jobs.priority, np.float64), weight=np.array(columns.weight, np.float64),
        flow=np.array(columns.flow, np.int64), group=np.asarray(quotas[0], np.int64), quota=quotas[1],
        amount=np.rint(WHOLE * amounts(demand, np.arange(len(demand.gpus)))).astype(np.int64),
        groups=columns.groups, mean=np.full(int(columns.groups.max(initial=-1)) + 1, np.nan),
        status=np.zeros(n, np.int8), done=floats(n), since=floats(n), ready=floats(n), rate=np.ones(n),
        fails=np.zeros(n, np.int8), service=floats(n), held=floats(n), runs=ints(n), failures=ints(n), final=np.full(n, np.nan),
        tag=floats(n), marked=np.zeros(n, np.int8), order=int32s(n), used=floats(flows), using=floats(flows),
        used_at=floats(flows), change=np.full(nodes, np.inf), broken=np.zeros(nodes, np.int8), breaks=ints(nodes),
        node_heap=ints(nodes), node_at=ints(nodes), listed_at=listed[0], listed_node=listed[1], listed_kind=listed[2],
        thresholds=thresholds, attained=columns.attained, before=np.full(n, -1, np.int32),
        behind=np.full(n, -1, np.int32), log=empty_log(n + 64, places + 64), profile=None,
    )  # fmt: skip


def empty_log(runs: int, places: int) -> Log:
    """Room for so many ended runs on so many nodes together."""
    return Log(
        job=int32s(runs), start=floats(runs), end=floats(runs), useful=floats(runs), outcome=np.zeros(runs, np.int8),
        way=int32s(runs), ptr=ints(runs + 1), node=int32s(places), grant=ints(places),
    )  # fmt: skip


def larger_log(log: Log) -> Log:
    """The same runs, and room for as many more; of one state or, with a leading axis, of many."""

    def longer(name: str) -> Any:
        old = getattr(log, name)
        more = log.node.shape[-1] if name in ("node", "grant") else log.job.shape[-1]
        made = np.zeros((*old.shape[:-1], old.shape[-1] + more), old.dtype)
        made[..., : old.shape[-1]] = old
        return made

    return Log(*map(longer, Log._fields))


def with_larger_log(sim: Sim) -> Sim:
    """The same state, with twice the room for runs."""
    return sim._replace(detail=sim.detail._replace(log=larger_log(sim.detail.log)))
