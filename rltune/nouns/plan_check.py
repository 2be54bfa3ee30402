"""`check_plan`: whether a plan can be carried out, wherever it comes from; and what it leaves open, filled in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from rltune.nouns.jobs import WHOLE
from rltune.nouns.mig_layout import after_start, changed
from rltune.nouns.mig_profiles import SIZE, STARTS
from rltune.nouns.plan import Plan, PlanError, Repartition, Reservation, Snapshot, Start
from rltune.nouns.plan_shape import check_shape


def check_plan(snapshot: Snapshot, plan: Plan) -> Plan:
    """The plan with every start's ``way``, its ``grants`` where GPUs are simulated one by one, and all repartitions filled in.

    Raises PlanError for an over-allocation, an incomplete gang, a foreign pool, a job started twice or not queued, a GPU
    or slice that is taken, a way that the job has not, the suspension of a job that does not run or may not be suspended,
    a repartition that is not possible or not as long as measured, and a reservation that is not free at its time.
    """
    check_shape(plan)
    queue = snapshot.queue
    free = _Free(snapshot)
    waiting = {int(job): i for i, job in enumerate(queue.job) if not (len(queue.running) and queue.running[i])}
    running = {int(job): i for i, job in enumerate(queue.job) if len(queue.running) and queue.running[i]}
    held = {int(job): k for k, job in enumerate(snapshot.running.job)}
    for job in plan.suspensions:
        at = running.pop(int(job), None)
        if at is None:
            raise PlanError(f"job {job} is suspended but does not run (any more), or may not be suspended here")
        free.give_back(held[int(job)])
        waiting[int(job)] = at
    repartitions = tuple(_repartition(free, one) for one in plan.repartitions)
    starts = []
    for start in plan.starts:
        at = waiting.pop(start.job, None)
        if at is None:
            raise PlanError(f"job {start.job} is started but not (or no longer) in the queue")
        placed = _take(snapshot, free, start, at)
        starts.append(free.set_up(placed, queue.asks(at, placed.way)[2]))
    checked = Plan(tuple(starts), plan.report, tuple(plan.suspensions), repartitions, tuple(plan.reservations))
    return replace(checked, reservations=_reservations(snapshot, checked, waiting))


# --- repartitions ------------------------------------------------------------------------------


def _repartition(free: _Free, one: Repartition) -> Repartition:
    """Change the layout as a repartition of the plan says; the same with its seconds."""
    snapshot, where = free.snapshot, f"repartition of GPU {one.gpu} on node {one.node}"
    if free.layout is None:
        raise PlanError(
            f"{where}: no job of the table can use a slice, or mig_reconfiguration is false; there are no instances to change"
        )
    cluster = snapshot.cluster
    if not 0 <= one.node < len(snapshot.free) or not 0 <= one.gpu < cluster.pool_cap[cluster.node_pool[one.node]]:
        raise PlanError(f"{where}: there is no such GPU")
    if snapshot.room.closed[one.node] > 0:
        raise PlanError(f"{where}: the node is down or draining")
    kind, taken = int(cluster.pool_mig[cluster.node_pool[one.node]]), int(free.slices[one.node, one.gpu])
    if kind < 0:
        raise PlanError(f"{where}: its type has no MIG")
    if taken == 0 and free.milli[one.node, one.gpu] < WHOLE:
        raise PlanError(f"{where}: a job holds the GPU or a share of it")
    try:
        layout, seconds = changed(
            int(free.layout[one.node, one.gpu]), kind, taken, one.destroy, one.create, snapshot.mig_mode_s
        )
    except ValueError as error:
        raise PlanError(f"{where}: {error}") from None
    if not np.isnan(one.seconds) and abs(one.seconds - seconds) > 1e-9:
        raise PlanError(
            f"{where}: {one.seconds:g} s; measured are {seconds:g} s (leave seconds out to have them filled in)"
        )
    free.layout[one.node, one.gpu] = layout
    return replace(one, seconds=seconds)


# --- reservations ------------------------------------------------------------------------------


def _reservations(snapshot: Snapshot, plan: Plan, waiting: dict[int, int]) -> tuple[Reservation, ...]:
    """The reservations with ways and grants, by time: each must be free beside the earlier ones, as far as run times are known."""
    done: list[Reservation] = []
    for one in sorted(plan.reservations, key=lambda one: one.at_s):
        at = waiting.get(one.job)
        if at is None:
            raise PlanError(f"job {one.job} is given a reservation but does not wait, or starts now")
        if any(other.job == one.job for other in done):
            raise PlanError(f"job {one.job} is given two reservations")
        if one.at_s < snapshot.now_s:
            raise PlanError(f"job {one.job}: a reservation at {one.at_s:g} s, before now, {snapshot.now_s:g} s")
        free = _free_at(snapshot, plan, one.at_s)
        try:
            for other in done:
                if _ends(snapshot, other, waiting[other.job], other.at_s) > one.at_s:
                    free.take(_start_of(other), waiting[other.job], other.way)
            placed = _take(snapshot, free, _start_of(one), at)
        except PlanError as error:
            raise PlanError(f"reservation at {one.at_s:g} s: {error}") from None
        done.append(replace(one, grants=placed.grants, way=placed.way))
    return tuple(done)


def _ends(snapshot: Snapshot, one: Start | Reservation, at: int, begins: float) -> float:
    """When a checked job that begins then is expected to end, at the latest; infinity where its run time is not known."""
    queue = snapshot.queue
    left = float(queue.run_s[at]) - (float(queue.done_s[at]) if len(queue.done_s) else 0.0)
    if np.isnan(left):
        return np.inf
    speed = float(queue.speed[queue.pool_lo[at] + one.way]) if len(queue.speed) else 1.0
    resumed = len(queue.attained_gpu_s) > 0 and queue.attained_gpu_s[at] > 0
    overhead = snapshot.resume_s + snapshot.migrate_s if resumed else 0.0
    if isinstance(one, Start):
        overhead += sum(change.seconds for change in one.repartitions)
    return begins + overhead + max(0.0, left) / speed


def _start_of(one: Reservation) -> Start:
    return Start(one.job, one.nodes, one.gpus, one.grants, one.way)


def _free_at(snapshot: Snapshot, plan: Plan, at_s: float) -> _Free:
    """What is free at a later time: jobs expected to have ended by then have let their places go."""
    free, running = _Free(snapshot), snapshot.running
    position = {int(job): k for k, job in enumerate(snapshot.queue.job)}
    for k, job in enumerate(running.job):
        # A job that outlives its estimate has not ended yet.
        if int(job) in plan.suspensions or max(float(running.end_s[k]), np.nextafter(snapshot.now_s, np.inf)) <= at_s:
            free.give_back(k)
    for start in plan.starts:
        at = position[start.job]
        if _ends(snapshot, start, at, snapshot.now_s) > at_s:
            free.take(start, at, start.way)
    return free


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


class _Demand(NamedTuple):
    """What a job holds or asks for: GPUs, thousandths of each, MIG profile (-1: none), cores and GB of the whole job."""

    gpus: int
    milli: int
    profile: int
    cpus: float
    memory_gb: float


class _Free:
    """What is free while a plan is checked: counts of whole GPUs, or GPU by GPU where the snapshot has a ``room``."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot, self.room = snapshot, snapshot.room
        self.gpus = snapshot.free.copy()
        self.layout, self.quota_left = None, snapshot.quota_left.copy()
        if self.room is not None:
            self.milli, self.slices = self.room.milli.astype(np.int64), self.room.slices.astype(np.int64)
            self.cpus, self.memory = self.room.cpus.copy(), self.room.memory.copy()
            if self.room.layout.shape[1]:
                self.layout = self.room.layout.astype(np.int64)

    def give_back(self, k: int) -> None:
        """The k-th running job lets its places go."""
        running = self.snapshot.running
        part = slice(int(running.ptr[k]), int(running.ptr[k + 1]))
        held = _Demand(int(running.gpus[part].sum()), WHOLE, -1, 0.0, 0.0)
        if self.room is not None:
            cpus, memory = float(running.cpus[k]), float(running.memory_gb[k])
            held = _Demand(held.gpus, int(running.gpu_milli[k]), int(running.profile[k]), cpus, memory)
        for node, gpus, grant in zip(running.nodes[part], running.gpus[part], running.grants[part], strict=True):
            self._book(held, int(node), int(gpus), int(grant), +1)
        if len(running.group):
            self._charge(int(running.group[k]), -int(running.amount[k]), int(running.job[k]))

    def take(self, start: Start, at: int, way: int) -> Start:
        """Take a start's places; the start with its way and grants. Raises PlanError where they are not free."""
        queue = self.snapshot.queue
        cpus = float(queue.cpus[at]) if len(queue.cpus) else 0.0
        asked = _Demand(*queue.asks(at, way), cpus, float(queue.memory_gb[at]) if len(queue.memory_gb) else 0.0)
        grants: list[int] = []
        group = int(queue.group[at]) if len(queue.group) else -1
        amount = int(queue.way_amount[queue.way[queue.pool_lo[at] + way]]) if group >= 0 else 0
        self._charge(group, amount, start.job)
        try:
            for i, (node, gpus) in enumerate(zip(start.nodes, start.gpus, strict=True)):
                grants.append(self._take_one(start, asked, i, node, gpus))
        except PlanError:
            # Nothing is taken: another way may do.
            for node, gpus, grant in zip(start.nodes, start.gpus, grants, strict=False):
                self._book(asked, node, gpus, grant, +1)
            self._charge(group, -amount, start.job)
            raise
        return replace(start, grants=() if self.room is None else tuple(grants), way=way)

    def set_up(self, start: Start, profile: int) -> Start:
        """The start, with how the layouts of its GPUs change for it; ``profile``: of its slice, -1 none."""
        if self.layout is None:
            if start.repartitions:
                raise PlanError(
                    f"job {start.job}: repartitions, but there are no MIG instances to change; leave them out"
                )
            return start
        done, cluster = [], self.snapshot.cluster
        for node, grant in zip(start.nodes, start.grants, strict=True):
            kind = int(cluster.pool_mig[cluster.node_pool[node]])
            for gpu in [gpu for gpu in range(32) if grant >> gpu & 1 and kind >= 0]:
                before = int(self.layout[node, gpu])
                need = after_start(before, kind, profile, grant >> 32, self.snapshot.mig_mode_s)
                if need.layout != before:
                    done.append(Repartition(node, gpu, need.destroy, need.create, need.seconds))
                self.layout[node, gpu] = need.layout
        if start.repartitions and not _same(start.repartitions, done):
            raise PlanError(f"job {start.job} needs repartitions {tuple(done)}; leave them out to have them filled in")
        return replace(start, repartitions=tuple(done))

    def _charge(self, group: int, amount: int, job: int) -> None:
        """Take ``amount`` thousandths of GPUs of a quota (-1: none); less than 0 gives back."""
        if group < 0:
            return
        if amount > self.quota_left[group]:
            raise PlanError(
                f"job {job}: the plan gives it {amount / WHOLE:g} GPUs, its virtual cluster may hold "
                f"{self.quota_left[group] / WHOLE:g} more"
            )
        self.quota_left[group] -= amount

    def _take_one(self, start: Start, asked: _Demand, i: int, node: int, gpus: int) -> int:
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
        self._book(asked, node, gpus, grant, -1)
        if self.cpus[node] < -1e-6 or self.memory[node] < -1e-6:
            self._book(asked, node, gpus, grant, +1)
            raise PlanError(f"node {node} has not the CPU or memory that job {start.job} asks for")
        return grant

    def _slice(self, node: int, profile: int) -> tuple[int, int]:
        """Memory slices and legal starts (bits) of a MIG profile on a node's GPUs; (0, 0) where it is not possible."""
        kind = int(self.snapshot.cluster.pool_mig[self.snapshot.cluster.node_pool[node]])
        return (0, 0) if kind < 0 else (int(SIZE[profile, kind]), int(STARTS[profile, kind]))

    def _grant(self, asked: _Demand, node: int, gpus: int) -> int | None:
        """Any GPUs, or slice, of a node that fit, those first that need least time to be so; None where none do."""
        if asked.profile >= 0:
            cap = int(self.snapshot.cluster.pool_cap[self.snapshot.cluster.node_pool[node]])
            tried = ((1 << gpu) | (begin << 32) for gpu in range(cap) for begin in range(8))
            fitting = [grant for grant in tried if self._fits(asked, node, gpus, grant)]
            return min(fitting, key=lambda grant: self._setup_s(node, grant, asked.profile), default=None)
        if asked.milli == 0:
            return 0
        able = np.flatnonzero(self.milli[node] >= asked.milli)
        able = able[np.argsort([self._setup_s(node, 1 << int(gpu), -1) for gpu in able], kind="stable")]
        if asked.milli < WHOLE:
            return 1 << int(able[np.argmin(self.milli[node][able])]) if len(able) else None
        return sum(1 << int(gpu) for gpu in able[:gpus]) if len(able) >= gpus else None

    def _setup_s(self, node: int, grant: int, profile: int) -> float:
        """Seconds in which the one GPU of a grant is made ready."""
        kind = int(self.snapshot.cluster.pool_mig[self.snapshot.cluster.node_pool[node]])
        if self.layout is None or kind < 0:
            return 0.0
        layout = int(self.layout[node, (grant & (1 << 32) - 1).bit_length() - 1])
        return after_start(layout, kind, profile, grant >> 32, self.snapshot.mig_mode_s).seconds

    def _fits(self, asked: _Demand, node: int, gpus: int, grant: int) -> bool:
        """Whether the grant names as many GPUs as asked for, or a legal slice, all of them free."""
        named = [gpu for gpu in range(32) if grant >> gpu & 1]
        if asked.milli == 0:
            return not named
        if len(named) != gpus or (named and named[-1] >= self.milli.shape[1]):
            return False
        if asked.profile < 0:
            return grant >> 32 == 0 and bool((self.milli[node][named] >= asked.milli).all())
        (size, starts), begin, taken = self._slice(node, asked.profile), grant >> 32, int(self.slices[node, named[0]])
        mask = ((1 << size) - 1) << begin
        untouched = taken != 0 or self.milli[node, named[0]] == WHOLE
        return bool(size and starts >> begin & 1 and taken & mask == 0 and untouched)

    def _book(self, held: _Demand, node: int, gpus: int, grant: int, sign: int) -> None:
        """Take (-1) or give back (+1) a grant."""
        if self.room is None:
            self.gpus[node] += sign * gpus
            return
        named = [gpu for gpu in range(32) if grant >> gpu & 1]
        if held.profile >= 0:
            size, _ = self._slice(node, held.profile)
            self.slices[node, named[0]] ^= ((1 << size) - 1) << (grant >> 32)
            self.milli[node, named[0]] = 0 if self.slices[node, named[0]] else WHOLE
        else:
            self.milli[node][named] += sign * held.milli
        share = gpus / max(1, held.gpus) if held.milli == WHOLE else 1.0
        self.cpus[node] += sign * held.cpus * share
        self.memory[node] += sign * held.memory_gb * share


def _same(given: Sequence[Repartition], made: Sequence[Repartition]) -> bool:
    """Whether the user gave just these repartitions, with their seconds or without."""
    filled = [
        replace(one, seconds=other.seconds) if np.isnan(one.seconds) else one
        for one, other in zip(given, made, strict=False)
    ]
    return len(given) == len(made) and filled == list(made)
