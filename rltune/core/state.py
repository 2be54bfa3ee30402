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
from rltune.core.market import Market
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
# when they wait, + 1 (0: none); GPUs whose MIG instances were changed.
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
    RECONFIGURED,
) = range(17)
COUNTERS = 17
# Values of ``Detail.status``.
FUTURE, WAITING, ON_GPUS, DONE, IMPOSSIBLE, ABANDONED = range(6)
# Slots of ``Sim.clock``: now; the next quantum's end; virtual time of weighted fair queueing; seconds of changing MIG
# instances, summed over GPUs.
NOW, TICK, VIRTUAL, RECONFIGURING = range(4)
CLOCKS = 4
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
# Slots of ``Detail.knobs``: how many times a waiting job's key must go into a running one's to suspend it; power of a job's
# GPUs in the keys of las and gittins.
DISPLACE, BREADTH = range(2)


class Jobs(NamedTuple):
    """The workload, sorted by submission; nothing in it changes but what is learned online."""

    submit: Floats  # (n_jobs,) seconds
    run: Floats  # (n_jobs,) true run time on the recorded hardware, seconds
    known: Floats  # (n_jobs,) what the scheduler believes of it; NaN: nothing; learned online: written at arrival
    gpus: Int32s  # (n_jobs,) GPUs asked for
    cls: Int32s  # (n_jobs,) class of equal demand, pools and speeds
    rank: Int32s  # (n_jobs,) position in a static order, ties already broken
    part: Int32s  # (n_jobs + 1,) where the job's slots in ``Sim.alloc_*`` begin


class Plain(NamedTuple):
    """Scalars of the lean build."""

    order: int  # code of `rltune.policies.dynamic`
    backfill: int  # BLOCKING to CONSERVATIVE
    rule: int  # code of `rltune.core.resources.counts.RULES`
    outside: int = 0  # who decides: INSIDE, WHEN_ANY_FITS, ALWAYS


class Parameters(NamedTuple):
    """Scalars of the full build; times in seconds, infinity = never."""

    order: int  # code of `rltune.core.priorities`
    backfill: int  # BLOCKING to CONSERVATIVE
    rule: int  # code of `rltune.core.resources.scores.SHARING_RULES`
    on_event: bool  # jobs may be suspended whenever something happens
    on_tick: bool  # jobs may be suspended when a quantum ends
    outside: int  # who decides: INSIDE, WHEN_ANY_FITS, ALWAYS
    quantum: float  # length of a time slice
    suspend: float  # saving a job's state; like the next two charged when it resumes
    resume: float  # restoring it
    migrate: float  # moving it, where its nodes are others
    checkpoint: float  # between checkpoints: what a failure costs at most
    node_mtbf: float  # mean time between failures of a node, exponential
    node_repair: float  # mean time to its repair, exponential
    gpu_mtbf: float  # mean time between failures of a job, for each GPU it holds
    retries: int  # failures that a job survives
    half_life: float  # of the usage that fair share charges
    reservations: int  # of conservative backfill; -1: all
    learns: bool  # run times are learned from jobs that end
    learns_speed: bool  # so are speeds that are not known, from runs
    seed: int  # of failures, lottery, random placement
    patience: float  # how long a job waits before it suspends others
    overrun: float  # least total run time that is believed, over what the job has run
    index_learns: bool  # the Gittins index goes on learning
    mig_mode: float  # to turn MIG mode of a GPU on or off
    mig_longest: float  # longest that changing MIG instances keeps a job from beginning; 0: slices appear in no time


class Lean(NamedTuple):
    """The lean build: no detail at all."""

    none: int


class Log(NamedTuple):
    """Ended runs, as `rltune.simulator.runs.Runs`: ``counts[LOGGED]`` of them. Replaced by a longer one when it is full."""

    job: Int32s  # (most runs,) row in the job table
    start: Floats  # (most runs,) seconds
    end: Floats  # (most runs,) seconds
    useful: Floats  # (most runs,) seconds of its run time that it did and that were kept
    outcome: Int8s  # (most runs,) FINISHED to GIVEN_UP
    way: Int32s  # (most runs,) row of the demand that it held
    ptr: Ints  # (most runs + 1,) where its places begin
    node: Int32s  # (most places,)
    grant: Ints  # (most places,) as of `rltune.core.resources.slices`


class Detail(NamedTuple):
    """What the full build has besides. Times in seconds."""

    # Ways to run, as ``Choices.way`` names them.
    demand: Demand  # what each asks for, (n_ways,) arrays
    size: Floats  # (n_ways,) GPUs held: shares as fractions, a MIG slice as one
    amount: Ints  # (n_ways,) thousandths of GPUs that count towards a quota, a slice by its memory
    # Jobs: what is given.
    priority: Floats  # (n_jobs,) larger is more important
    weight: Floats  # (n_jobs,) tickets of the lottery, shares of weighted fair queueing
    flow: Ints  # (n_jobs,) user or virtual cluster that fair share charges
    group: Ints  # (n_jobs,) quota that it counts towards; -1: none
    quota: Ints  # (n_quotas,) thousandths of GPUs
    groups: Ints  # (levels, n_jobs) groups of like jobs, of `rltune.policies.learn`
    mean: Floats  # (n_groups,) running mean of log(1 + run time in seconds) learned of each
    # Jobs: what becomes of them.
    way: Ints  # (n_jobs,) the choice that it holds or held last; its first until it has run
    status: Int8s  # (n_jobs,) FUTURE to ABANDONED
    done: Floats  # (n_jobs,) seconds of its run time done and kept in ended runs
    since: Floats  # (n_jobs,) start of the present run, or of waiting
    ready: Floats  # (n_jobs,) when restoring and reconfiguring end and work begins
    rate: Floats  # (n_jobs,) speed of the present run relative to the recorded hardware
    fails: Int8s  # (n_jobs,) whether the present run ends by a failure
    service: Floats  # (n_jobs,) GPU-seconds of ended runs
    held: Floats  # (n_jobs,) seconds of ended runs
    runs: Ints  # (n_jobs,) begun so far
    failures: Ints  # (n_jobs,) so far
    final: Floats  # (n_jobs,) completion; NaN: not completed
    firm: Int8s  # (n_jobs,) 1: once it runs it is neither suspended nor moved
    tag: Floats  # (n_jobs,) of fair queueing and round robin, see `rltune.core.priorities`
    before: (
        Int32s  # (n_jobs,) neighbour in the line of waiting jobs by since when they wait, + 1; 0: none, -1: not in line
    )
    behind: Int32s  # (n_jobs,) the same on the other side
    marked: Int8s  # (n_jobs,) work space of suspension
    order: Int32s  # (n_jobs,) work space of sorting
    # Flows of fair share.
    used: Floats  # (n_flows,) GPU-seconds, decayed, as of ``used_at``
    using: Floats  # (n_flows,) GPUs held
    used_at: Floats  # (n_flows,)
    # Nodes and GPUs.
    change: Floats  # (n_nodes,) when the seeded process next fails or repairs the node
    broken: Int8s  # (n_nodes,) whether that process has it down
    breaks: Ints  # (n_nodes,) how often it failed
    changed: Floats  # (n_nodes, widest or 0) when the last change of a GPU's MIG instances ends
    node_heap: Ints  # (n_nodes,) nodes by ``change``
    node_at: Ints  # (n_nodes,) their places there
    listed_at: Floats  # (n_listed,) times of listed events
    listed_node: Ints  # (n_listed,)
    listed_kind: Ints  # (n_listed,) FAIL to REOPEN
    # Of policies and backfilling.
    knobs: Floats  # (2,) of the priority index, see the slots above; may change while a simulation runs
    thresholds: Floats  # (n_levels,) of las, GPU-seconds; empty: continuous
    attained: Attained  # of the Gittins index
    market: Market  # by which ways are chosen
    log: Log
    profile: Any  # of conservative backfill, `rltune.core.conservative.Profile`


PER_JOB = (
    "way", "priority", "weight", "flow", "group", "groups", "status", "done", "since", "ready", "rate", "fails",
    "service", "held", "runs", "failures", "final", "firm", "tag", "marked", "order", "before", "behind",
)  # fmt: skip
"""Parts of `Detail` with an entry a job, on the last axis."""


class Sim(NamedTuple):
    """All that changes, and what it refers to. ``space`` and all that holds resources: `Space` (lean), `Nodes` (full)."""

    cluster: ClusterArrays
    jobs: Jobs
    choices: Choices  # what each class may be given, first to try first
    # Resources.
    space: Any  # free now
    spare: Any  # what a reservation leaves at its time
    shadow: Any  # free now and beside the reservation
    place: Any  # work space of finding places, and its answer
    # Waiting jobs.
    queue: Int32s  # (n_jobs,) the first ``counts[QUEUED]``, in order
    merged: Int32s  # (n_jobs,) work space of sorting
    waiting: Ints  # (n_classes,) waiting jobs of each class
    passed: Ints  # (n_classes,) how many of them the present pass has left waiting though they fit
    misfit: Ints  # (2, n_classes) last pass in which the class did not fit: now; beside the reservation
    fitted: Ints  # (n_classes,) runs started when the present pass found that the class fits; -1: it has not
    # Running jobs.
    active: Int32s  # (most running,) heap of the first ``counts[RUNNING]`` by ``end``
    active_at: Int32s  # (n_jobs,) places there
    expected: Int32s  # (most running,) the same by ``believed``
    expected_at: Int32s  # (n_jobs,)
    frontier: Int32s  # (most running + 1,) work space of walking a heap in order
    # Jobs.
    start: Floats  # (n_jobs,) first start, seconds; NaN: none yet
    end: Floats  # (n_jobs,) end of the present run, seconds
    believed: Floats  # (n_jobs,) the same as the scheduler believes; infinity: not known
    turn: Int32s  # (n_jobs,) order of starting
    key: Floats  # (n_jobs,) position in the order of this instant
    alloc_node: Int32s  # (places,) job j's from ``jobs.part[j]``, ``alloc_len[j]`` of them
    alloc_grant: Any  # (places,) GPUs there: how many (lean), or which (full, `rltune.core.resources.slices`)
    alloc_len: Int32s  # (n_jobs,)
    # The whole.
    clock: Floats  # (CLOCKS,) seconds, see the slots above
    counts: Ints  # (COUNTERS,) see the slots above
    params: Any  # `Plain` (lean), `Parameters` (full)
    detail: Any  # `Lean`, `Detail`: chooses the build


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
        passed=ints(classes), misfit=np.zeros((2, classes), np.int64), fitted=ints(classes), active=int32s(most), active_at=int32s(n),
        expected=int32s(most), expected_at=int32s(n), frontier=int32s(most + 1), start=np.full(n, np.nan),
        end=np.full(n, np.nan), believed=floats(n), turn=int32s(n), key=floats(n), alloc_node=int32s(places),
        alloc_grant=np.zeros(places, grant), alloc_len=int32s(n), clock=floats(CLOCKS), counts=ints(COUNTERS), **parts,
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
    """What the full build knows of every job, (n_jobs,) each, beside the job table: see `Detail` and `Jobs`.

    ``offered``: ways to run by class; ``quotas``: the quota of each job (-1: none) and the size of each in thousandths of
    GPUs, None: no quotas; ``groups`` (levels, n_jobs): of `rltune.policies.learn`; ``knobs``: of `Detail`.
    """

    known: Floats
    rank: npt.NDArray[Any]
    weight: Floats
    flow: npt.NDArray[Any]
    offered: Offered
    quotas: tuple[Ints, Ints] | None
    groups: Ints
    attained: Attained
    knobs: Floats
    market: Market


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
    keeps = params.mig_longest > 0.0 and bool((demand.profile >= 0).any())
    part = slots(jobs, cluster, cls, choices, demand)
    table, arrays = job_arrays(jobs, np.array(columns.known), columns.rank, cls, part), cluster.arrays()
    # Of jobs that need no GPU any number may run at once.
    most = n if (jobs.gpu_milli == 0).any() else min(n, cluster.gpus * WHOLE)
    sim = blank(
        arrays, table, choices, most, np.int64,
        space=idle_nodes(cluster, quotas[1], keeps), spare=idle_nodes(cluster, quotas[1], keeps),
        shadow=idle_nodes(cluster, quotas[1], keeps),
        place=FullPlace(place_scratch(cluster, types), scratch(arrays), ints(1)), params=params,
        detail=detail_of(jobs, cluster, columns, quotas, listed, thresholds, int(table.part[-1])),
    )  # fmt: skip
    detail = sim.detail._replace(changed=np.zeros(sim.space.room.layout.shape))
    return sim._replace(merged=int32s(n), detail=detail)


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
        firm=np.zeros(n, np.int8),
        tag=floats(n), marked=np.zeros(n, np.int8), order=int32s(n), used=floats(flows), using=floats(flows),
        used_at=floats(flows), change=np.full(nodes, np.inf), broken=np.zeros(nodes, np.int8), breaks=ints(nodes), changed=np.zeros((0, 0)),
        node_heap=ints(nodes), node_at=ints(nodes), listed_at=listed[0], listed_node=listed[1], listed_kind=listed[2],
        knobs=columns.knobs, thresholds=thresholds, attained=columns.attained, market=columns.market, before=np.full(n, -1, np.int32),
        behind=np.full(n, -1, np.int32), log=empty_log(n + 64, places + 64), profile=None,
    )  # fmt: skip


def empty_log(runs: int, places: int) -> Log:
    """Room for so many ended runs on so many nodes together."""
    return Log(
        job=int32s(runs), start=floats(runs), end=floats(runs), useful=floats(runs), outcome=np.zeros(runs, np.int8),
        way=int32s(runs), ptr=ints(runs + 1), node=int32s(places), grant=ints(places),
    )  # fmt: skip


def copied(part: Any) -> Any:
    """A state, or a part of it, with arrays of its own."""
    if isinstance(part, np.ndarray):
        return part.copy()
    return type(part)(*map(copied, part)) if hasattr(part, "_fields") else part


def longer(array: npt.NDArray[Any], n: int, fill: Any = 0) -> npt.NDArray[Any]:
    """The array with ``n`` entries on its last axis."""
    out = np.full((*array.shape[:-1], n), fill, array.dtype)
    out[..., : array.shape[-1]] = array
    return out


def larger_log(log: Log) -> Log:
    """The same runs, and room for as many more; of one state or, with a leading axis, of many."""

    def larger(name: str) -> Any:
        old = getattr(log, name)
        more = log.node.shape[-1] if name in ("node", "grant") else log.job.shape[-1]
        return longer(old, old.shape[-1] + more)

    return Log(*map(larger, Log._fields))


def with_larger_log(sim: Sim) -> Sim:
    """The same state, with twice the room for runs."""
    return sim._replace(detail=sim.detail._replace(log=larger_log(sim.detail.log)))
