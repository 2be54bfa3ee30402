"""The present instant of a partition as a `Snapshot`: each GPU type of a node, MIG slices too, stands as a node of its own.

Slurm counts generic resources by type: a node with ``gpu:a100:7,gpu:a100_1g.10gb:7`` has seven whole GPUs and seven slices,
and a job of one type never gets the other. So each (node, type) is a node of whole "GPUs" here, pools are those of equal type
and number, and every order, learned policy and allocator of whole GPUs decides on slices as well.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from rltune.nouns.cluster import MAX_GPUS_PER_NODE, Cluster, Pool
from rltune.nouns.plan import Queue, Running, Snapshot
from rltune.slurm.reading import ADMIN_HOLD, WAITS_FOR_US, Asked, Job, Seen, ends_s
from rltune.traces.shares import slice_of
from rltune.traces.slurm_tres import asked as read_request


class Place(NamedTuple):
    """What a node of the snapshot is: ``gpus`` of one type ("": untyped) of a node of Slurm."""

    node: str
    kind: str
    gpus: int


NOBODY: Mapping[str, Sequence[Place]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Moment:
    """``jobs[k]`` is position k of the snapshot's queue, ``places[i]`` node i of its cluster.

    ``apart``: jobs that wait for GPUs too, which Slurm alone places, and why. ``others``: pending jobs that wait for something else
    (a user's hold, a dependency, a limit), and for what. ``behind``: jobs beyond the first ones that are decided on.
    """

    snapshot: Snapshot
    jobs: tuple[Job, ...]
    places: tuple[Place, ...]
    apart: tuple[tuple[Job, str], ...]
    others: tuple[tuple[Job, str], ...]
    behind: tuple[Job, ...] = ()


def moment_of(
    seen: Seen,
    held: Collection[str] = (),
    sent: Mapping[str, Sequence[Place]] = NOBODY,
    most: int = 1_000_000,
    origin_s: float | None = None,
) -> Moment:
    """The instant that was seen.

    Args:
        held: ids of pending jobs that we hold; an administrator's hold of any other job is not ours to touch.
        sent: id -> places of pending jobs that we have sent there and Slurm has not started yet; they hold them already.
        most: jobs that are decided on, the first by submission; the others wait behind them.
        origin_s: second since 1970 from which submissions count; None: the first of the jobs.
    """
    places, pools, cluster = _cluster(seen)
    waits = replace(seen, jobs=tuple(job for job in seen.jobs if job.id not in sent))
    queue, apart, others, behind = _sorted_out(waits, held, pools, most)
    running = [_as_running(job, sent, seen.now_s) for job in seen.jobs if not job.pending or job.id in sent]
    waiting = sorted((job for job, _ in queue), key=lambda job: job.submit_s)
    lists = {job.id: found for job, found in queue}
    free, in_use = _in_use(seen, places, running, set(sent))
    origin = origin_s if origin_s is not None else min((job.submit_s for job in seen.jobs if job.pending), default=0.0)
    arrays = cluster.arrays()
    snapshot = Snapshot(
        now_s=max(0.0, seen.now_s - origin),
        cluster=arrays,
        free=free,
        queue=_queue(waiting, lists, seen.now_s, origin),
        running=_running(in_use, running, seen.now_s, origin),
    )
    return Moment(snapshot, tuple(waiting), places, tuple(apart), tuple(others), tuple(behind))


def _as_running(job: Job, sent: Mapping[str, Sequence[Place]], now_s: float) -> Job:
    """A job that was sent to nodes as one that begins there now."""
    if job.id not in sent:
        return job
    where = sent[job.id]
    return replace(
        job,
        start_s=now_s,
        nodes=tuple(each.node for each in where),
        held=tuple({each.kind: each.gpus} for each in where),
    )


class Kind(NamedTuple):
    """A pool: nodes of ``gpus`` GPUs of one type, of which ``open`` take jobs."""

    kind: str
    gpus: int
    open: int


def _cluster(seen: Seen) -> tuple[tuple[Place, ...], list[Kind], Cluster]:
    """Places in the order of pools, what each pool is, and the pools as a cluster."""
    of_pool: dict[tuple[str, int], list[Place]] = defaultdict(list)
    for node in seen.nodes:
        for kind, count in node.gpus.items():
            # More than the kernels take on a node (fifty-six slices): several nodes of the snapshot.
            parts = math.ceil(count / MAX_GPUS_PER_NODE)
            for part in range(parts):
                size = count // parts + (part < count % parts)
                of_pool[kind, size].append(Place(node.name, kind, size))
    # Without any GPU a node that is closed stands for all: a cluster has one at least.
    found = dict(of_pool) or {("", 1): [Place("", "", 1)]}
    open_nodes = {node.name for node in seen.nodes if node.open}
    pools = [Kind(*pool, sum(place.node in open_nodes for place in where)) for pool, where in found.items()]
    made = [Pool(f"{kind or 'gpu'}x{size}", len(where), size) for (kind, size), where in found.items()]
    return tuple(place for where in found.values() for place in where), pools, Cluster(seen.partition, tuple(made))


def _sorted_out(
    seen: Seen,
    held: Collection[str],
    pools: Sequence[Kind],
    most: int,
) -> tuple[list[tuple[Job, tuple[int, ...]]], list[tuple[Job, str]], list[tuple[Job, str]], list[Job]]:
    """Pending jobs: those to be decided on with their pools, those that Slurm alone places, those that wait for something
    else, and those behind the first ``most``."""
    running_tasks: dict[str, int] = defaultdict(int)
    for job in seen.jobs:
        running_tasks[job.array] += bool(job.array) and not job.pending
    queue: list[tuple[Job, tuple[int, ...]]] = []
    apart: list[tuple[Job, str]] = []
    others: list[tuple[Job, str]] = []
    behind: list[Job] = []
    for job in sorted((job for job in seen.jobs if job.pending), key=lambda job: job.submit_s):
        if why := waits_for(job, held):
            others.append((job, why))
        elif job.array_most is not None and running_tasks[job.array] >= job.array_most:
            others.append((job, f"{job.array_most} tasks of its array may run at once"))
        elif why := job.apart or ("asks for particular nodes" if job.required else ""):
            apart.append((job, why))
        elif isinstance(found := pools_of(job.asked, pools), str):
            apart.append((job, found))
        elif len(queue) >= most:
            behind.append(job)
        else:
            running_tasks[job.array] += bool(job.array)
            queue.append((job, found))
    return queue, apart, others, behind


def waits_for(job: Job, held: Collection[str]) -> str:
    """What a pending job waits for that is no turn and no GPU; "" where it waits for these. A hold of ours is none."""
    if job.reason == ADMIN_HOLD or job.priority == 0:
        return "" if job.id in held and job.reason == ADMIN_HOLD else f"held ({job.reason})"
    if job.reason in WAITS_FOR_US or job.reason.startswith(("ReqNodeNotAvail", "Nodes required")):
        return ""
    return job.reason


def pools_of(asked: Asked, pools: Sequence[Kind]) -> tuple[int, ...] | str:
    """Pools on whose open nodes a job fits in the form it asks for; or why it is not for us to place."""
    request = read_request(asked.tres)
    if request.why_not:
        return f"is one of the {request.why_not}"
    if request.gpu_milli < 1000 or not asked.gpus:
        return "asks for no whole GPU and no slice"
    kinds, total = [kind for kind in asked.gpus if kind], sum(asked.gpus.values())
    if len(kinds) > 1 or (kinds and "" in asked.gpus and asked.gpus[""] != asked.gpus[kinds[0]]):
        return "asks for GPUs of several types"
    total = asked.gpus[kinds[0]] if kinds else total
    named = [k for k, pool in enumerate(pools) if (pool.kind == kinds[0] if kinds else slice_of(pool.kind) is None)]
    if not named:
        return f"asks for {kinds[0] if kinds else 'GPU'}, which no node of the partition has"
    fitting = [k for k in named if total <= pools[k].gpus * pools[k].open]
    if not fitting:
        return f"asks for {total} {kinds[0] if kinds else 'GPUs'}, more than open nodes of one kind have"
    found = tuple(k for k in fitting if has_form(asked, total, pools[k].gpus))
    return found or _form(asked, total)


def has_form(asked: Asked, total: int, cap: int) -> bool:
    """Whether allocators, which take the fewest nodes of ``cap`` GPUs, place the job in the form that it asks for."""
    fewest = -(-total // cap)
    if asked.nodes is not None and asked.nodes != fewest:
        return False
    return fewest == 1 or asked.per_node is None or asked.per_node == cap


def _form(asked: Asked, total: int) -> str:
    each = f" with {asked.per_node} each" if asked.per_node is not None else ""
    return f"asks for {total} GPUs on {asked.nodes or 'any number of'} nodes{each}; allocators take the fewest nodes"


# --- what is in use -----------------------------------------------------------------------------


def _in_use(
    seen: Seen, places: Sequence[Place], running: Sequence[Job], sent: Collection[str]
) -> tuple[np.ndarray, list[dict[int, int]]]:
    """(n_places,) free GPUs; and by running job, and last by nobody known, GPUs held at each place."""
    left = [place.gpus for place in places]
    of_node: dict[tuple[str, str], list[int]] = defaultdict(list)
    for at, place in enumerate(places):
        of_node[place.node, place.kind].append(at)

    def take(node: str, kind: str, count: int) -> dict[int, int]:
        found = {}
        for at in of_node.get((node, kind), ()):
            if (here := min(count, left[at])) > 0:
                found[at], left[at], count = here, left[at] - here, count - here
        return found

    held: list[dict[int, int]] = []
    counted: dict[tuple[str, str], int] = defaultdict(int)
    for job in running:
        mine: dict[int, int] = {}
        for name, gpus in zip(job.nodes, job.held, strict=True):
            for kind, count in gpus.items():
                counted[name, kind] += count * (job.id not in sent)
                mine |= take(name, kind, count)
        held.append(mine)
    unknown: dict[int, int] = {}
    for node in seen.nodes:
        for kind, count in node.gpus.items():
            # Used by jobs that are not to be seen, or began between the two readings; of a closed node, all.
            missing = count if not node.open else node.used.get(kind, 0) - counted[node.name, kind]
            unknown |= take(node.name, kind, missing)
    free = np.array(left, np.int64)
    free.setflags(write=False)
    return free, [*held, unknown]


def _running(held: Sequence[Mapping[int, int]], running: Sequence[Job], now_s: float, origin_s: float) -> Running:
    """The running jobs and what nobody known holds, which never ends."""
    ends = [ends_s(job, now_s) - origin_s for job in running] + [math.nan]
    kept = [(gpus, end) for gpus, end in zip(held, ends, strict=True) if gpus]
    where = [(at, count) for gpus, _ in kept for at, count in sorted(gpus.items())]
    n = len(kept)
    return Running(
        job=np.full(n, -1),
        end_s=np.array([end for _, end in kept], np.float64),
        ptr=np.concatenate([[0], np.cumsum([len(gpus) for gpus, _ in kept])]).astype(np.int64),
        nodes=np.array([at for at, _ in where], np.int64),
        gpus=np.array([count for _, count in where], np.int64),
        grants=np.full(len(where), -1),
        way=np.zeros(n, np.int64),
    )


def _queue(waiting: Sequence[Job], lists: Mapping[str, tuple[int, ...]], now_s: float, origin_s: float) -> Queue:
    """The waiting jobs, by submission; equal lists of pools stand once."""
    known: dict[tuple[int, ...], int] = {}
    pools: list[int] = []
    for found in lists.values():
        if found not in known:
            known[found] = len(pools)
            pools += found
    n = len(waiting)
    lo = np.array([known[lists[job.id]] for job in waiting], np.int64)
    submit = np.array([max(0.0, job.submit_s - origin_s) for job in waiting], np.float64)
    return Queue(
        job=np.arange(n),
        submit_s=submit,
        run_s=np.array([job.run_s for job in waiting], np.float64),
        num_gpus=np.array([gpus_of(job.asked) for job in waiting], np.int64),
        wait_s=np.maximum(0.0, now_s - origin_s - submit),
        priority=np.array([float(job.priority) for job in waiting], np.float64),
        pool_lo=lo,
        pool_hi=lo + np.array([len(lists[job.id]) for job in waiting], np.int64),
        pools=np.array(pools, np.int64),
        speed=np.ones(len(pools)),
    )


def gpus_of(asked: Asked) -> int:
    """GPUs in all; where a type and the untyped sum are both named, once."""
    typed = sum(count for kind, count in asked.gpus.items() if kind)
    return typed or sum(asked.gpus.values())
