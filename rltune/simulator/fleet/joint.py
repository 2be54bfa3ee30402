"""The joint MILP in the detailed simulation: who of the first fitting jobs starts now, and where, decided together.

The rest of the queue follows greedily. Under ``easy`` the first job that would not fit if all before it were placed
one by one holds a reservation: what would still run by then has to fit beside it, in the model, in the plans it starts
from, and behind it. A resumed job counts with all its overheads there, wherever it goes.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from rltune.allocators.formulation import Instance, amounts
from rltune.allocators.measure import Measure
from rltune.allocators.sharing import Room, copy_room, idle_room, take
from rltune.allocators.sharing_fragments import no_types, task_types
from rltune.allocators.sharing_rules import SHARING_RULES
from rltune.cluster import Cluster, ClusterArrays
from rltune.compiled import inner, kernel
from rltune.jobs import WHOLE, JobTable
from rltune.simulator.fleet.passes import (
    BESIDE,
    PRESENT,
    anybody_fits,
    avoid_gpus,
    keep_waiting,
    meet,
    meet_spare,
    misfits,
    set_misfit,
    sort_by_expected_end,
    start_easy,
    start_in_order,
    start_waiting,
)
from rltune.simulator.fleet.placing import charge_quota, copy_left, find_place, free_in, job_fits, occupy, rate_on
from rltune.simulator.fleet.state import (
    EASY,
    NOW,
    OF_ROOM,
    OF_SPARE,
    OF_TRIAL,
    PASSES,
    QUEUED,
    STRICT,
    WAITING,
    Fleet,
    Floats,
    Ints,
    Knobs,
    floats,
    ints,
)

REST = "fgd"
"""Rule of the first known plan, of the reservation, and of whoever is not decided jointly."""
OF_WORKLOAD = {"demand": "fgd", "stranding": "stranding"}
"""Measures of the MILP that know the workload, by the names of `rltune.allocators.sharing_fragments.MEASURES`."""
# Slots of ``Draft.counts``: jobs to decide; how many of them stand before the reserved job; that job, -1 = none;
# whether any fitting job was left to the greedy rest.
JOBS, BEFORE, HELD, SKIPPED = range(4)


class Draft(NamedTuple):
    """One decision in the making; ``head`` jobs at most.

    Job k is ``job[k]``, may use ``pool[lo[k]:hi[k]]`` (``slow, late``: as of `Instance`), and is placed on ``node,
    grant[part[k]:part[k + 1]]`` (none: does not start). ``end, freed``: of jobs before the reserved one, while its time
    is sought; ``beside, met``: work space; ``shadow`` (1,): when the reserved job is expected to start, infinity = no time.
    """

    job: Ints
    part: Ints
    node: Ints
    grant: Ints
    end: Floats
    freed: Ints
    pool: Ints
    lo: Ints
    hi: Ints
    slow: Floats
    late: Ints
    beside: Room
    met: Room
    shadow: Floats
    counts: Ints


def build_draft(cluster: Cluster, head: int) -> Draft:
    """Work space for ``head`` jobs."""
    places, ways = head * max(pool.nodes for pool in cluster.pools), head * len(cluster.pools)
    return Draft(
        job=ints(head), part=ints(head + 1), node=ints(places), grant=ints(places), end=floats(head), freed=ints(head),
        pool=ints(ways), lo=ints(head), hi=ints(head), slow=floats(ways), late=ints(ways), beside=idle_room(cluster),
        met=idle_room(cluster), shadow=floats(1), counts=ints(4),
    )  # fmt: skip


@runtime_checkable
class JointAllocator(Protocol):
    """What is needed of `rltune.allocators.milp.MilpAllocator`; importing that would load its solver."""

    head: int
    measure: str
    solver: Any

    @property
    def stats(self) -> Any: ...

    def values(self, gpus: Any) -> Floats: ...

    def cost_of(self, cluster: ClusterArrays) -> Floats: ...


@dataclass(frozen=True, slots=True)
class Joint:
    """An allocator bound to one simulation."""

    allocator: JointAllocator
    measure: Measure
    by_gpu: bool
    draft: Draft

    @classmethod
    def of(cls, allocator: JointAllocator, jobs: JobTable, cluster: Cluster, fleet: Fleet) -> Joint:
        measure, by_gpu = measure_of(allocator, jobs, cluster, fleet.cluster)
        return cls(allocator, measure, by_gpu, build_draft(cluster, min(int(allocator.head), len(jobs))))

    def decide(self, fleet: Fleet, knobs: Knobs) -> None:
        """Start whoever starts at this instant; the queue is in order and somebody fits."""
        again = True
        while again:
            prepare(fleet, knobs, self.draft)
            self._write(self._plan(fleet, knobs))
            again = start_decided(fleet, knobs, self.draft)

    def _plan(self, fleet: Fleet, knobs: Knobs) -> list[Any]:
        known = {}
        held = int(self.draft.counts[HELD])
        contested = held >= 0 and int(fleet.work.group[held]) >= 0
        for name in (REST, "best_fit"):
            # Jobs before the reserved one stay where the reservation has them: so all of them start, and hold no longer
            # what they have of a quota than it counts on.
            fixed = int(self.draft.counts[BEFORE]) if name == REST or contested else 0
            plan_greedily(fleet, knobs._replace(rule=SHARING_RULES[name]), self.draft, fixed)
            known[name] = self._read()
        return self.allocator.solver.decide(
            self._instance(fleet, knobs), self.measure, known, by_gpu=self.by_gpu
        ).places

    def _instance(self, fleet: Fleet, knobs: Knobs) -> Instance:
        draft, n = self.draft, int(self.draft.counts[JOBS])
        jobs, ways, limited = draft.job[:n], int(draft.hi[n - 1]), fleet.left.shape[1] > 0
        reserved = draft.shadow[0] < np.inf
        gpus = np.maximum(amounts(fleet.work.demand, jobs, fleet.cluster), 1 / WHOLE)
        return Instance(
            cluster=fleet.cluster, room=fleet.room, demand=fleet.work.demand, jobs=jobs,
            value=self.allocator.values(gpus), pools=draft.pool[:ways], lo=draft.lo[:n], hi=draft.hi[:n],
            slow=draft.slow[:ways], late=draft.late[:ways] if reserved else None, spare=fleet.spare if reserved else None,
            group=fleet.work.group[jobs] if limited else None, left=fleet.left[OF_ROOM] / WHOLE if limited else None,
            prefix=knobs.discipline == STRICT,
        )  # fmt: skip

    def _read(self) -> list[Any]:
        """The draft's plan as the solver takes it."""
        draft, found = self.draft, []
        part = draft.part[: draft.counts[JOBS] + 1].tolist()
        for a, b in pairwise(part):
            found.append((tuple(draft.node[a:b].tolist()), tuple(draft.grant[a:b].tolist())) if b > a else None)
        return found

    def _write(self, plan: list[Any]) -> None:
        at = 0
        for k, place in enumerate(plan):
            nodes, grants = place or ((), ())
            self.draft.node[at : at + len(nodes)], self.draft.grant[at : at + len(nodes)] = nodes, grants
            at += len(nodes)
            self.draft.part[k + 1] = at


def measure_of(
    allocator: JointAllocator, jobs: JobTable, cluster: Cluster, arrays: ClusterArrays
) -> tuple[Measure, bool]:
    """The measure of fragmentation, and whether it is a sum over GPUs."""
    rule = OF_WORKLOAD.get(allocator.measure)
    if rule is None:
        return Measure(allocator.cost_of(arrays), no_types()), False
    types = task_types(jobs, cluster, rule)
    return Measure(np.zeros((0, 0)), types), bool(((types.demand.gpus <= 1) | (types.demand.milli == 0)).all())


# --- who is decided on ------------------------------------------------------------------


@kernel
def prepare(fleet, knobs, draft):
    """Fill the draft with the jobs to decide on and their pools, and ``fleet.spare`` under ``easy``."""
    draft.counts[BEFORE], draft.counts[HELD], draft.counts[SKIPPED], draft.shadow[0] = 0, -1, 0, np.inf
    n = 0
    if knobs.discipline == EASY:
        n = place_first(fleet, knobs, draft)
        draft.counts[BEFORE] = n
        if n < len(draft.job) and n < fleet.counts[QUEUED]:
            draft.counts[HELD] = fleet.queue[n]
            draft.shadow[0] = reserve_beside(fleet, knobs, draft, n)
    if knobs.discipline != EASY or draft.counts[HELD] >= 0:
        n = list_fitting(fleet, knobs, draft, n)
    draft.counts[JOBS] = n
    list_pools(fleet, knobs, draft)


@inner
def place_first(fleet, knobs, draft):
    """Place the queue in order into ``fleet.trial`` up to the first job that does not fit: how many, at most a draft's."""
    copy_room(fleet.room, fleet.trial)
    copy_left(fleet.left[OF_ROOM], fleet.left[OF_TRIAL])
    n = 0
    while n < len(draft.job) and n < fleet.counts[QUEUED]:
        job = fleet.queue[n]
        m = find_place(fleet, knobs, fleet.trial, fleet.left[OF_TRIAL], job)
        if m == 0:
            break
        draft.job[n] = job
        draft.end[n] = fleet.clocks[NOW] + longest_run(fleet, knobs, job, rate_on(fleet, job, fleet.place.node[0]))
        write_place(fleet, draft, n, m)
        occupy(fleet, fleet.trial, fleet.left[OF_TRIAL], job, m)
        n += 1
    return n


@inner
def list_fitting(fleet, knobs, draft, n):
    """Add fitting jobs in order to the ``n`` first ones: how many there are then."""
    held = draft.counts[HELD]
    for at in range(n if held < 0 else n + 1, fleet.counts[QUEUED]):
        job = fleet.queue[at]
        if n == len(draft.job):
            break
        fitting = not misfits(fleet, job, PRESENT) and job_fits(fleet, fleet.room, fleet.left[OF_ROOM], job)
        if fitting and contests_quota(fleet, knobs, draft, job):
            draft.counts[SKIPPED] = 1
        elif fitting:
            draft.job[n] = job
            n += 1
        else:
            set_misfit(fleet, job, PRESENT)
            if knobs.discipline == STRICT:
                break
    return n


@inner
def contests_quota(fleet, knobs, draft, job):
    """Whether a job might still count towards the reserved job's quota when that is to start: the model does not know."""
    held, c = draft.counts[HELD], fleet.work.cls[job]
    if held < 0 or fleet.work.group[held] < 0 or fleet.work.group[job] != fleet.work.group[held]:
        return False
    slowest = fleet.choices.rate[fleet.choices.ptr[c + 1] - 1]
    return ends_late(fleet, knobs, draft, job, slowest)


@inner
def would_hold_quota(fleet, knobs, draft, k, rate):
    """Whether job k, placed before the reserved one, would only at this speed still count towards its quota then."""
    held, job = draft.counts[HELD], draft.job[k]
    if held < 0 or fleet.work.group[held] < 0 or fleet.work.group[job] != fleet.work.group[held]:
        return False
    return draft.end[k] <= draft.shadow[0] and ends_late(fleet, knobs, draft, job, rate)


@inner
def list_pools(fleet, knobs, draft):
    """Pools of every job, how much longer it runs there than on its fastest, and whether into the reservation."""
    at = 0
    for k in range(draft.counts[JOBS]):
        job = draft.job[k]
        c = fleet.work.cls[job]
        draft.lo[k] = at
        for q in range(fleet.choices.ptr[c], fleet.choices.ptr[c + 1]):
            rate = fleet.choices.rate[q]
            if k < draft.counts[BEFORE] and would_hold_quota(fleet, knobs, draft, k, rate):
                continue
            draft.pool[at] = fleet.choices.pool[q]
            draft.slow[at] = fleet.choices.rate[fleet.choices.ptr[c]] / rate - 1.0
            draft.late[at] = 1 if ends_late(fleet, knobs, draft, job, rate) else 0
            at += 1
        draft.hi[k] = at


# --- the reservation --------------------------------------------------------------------


@inner
def longest_run(fleet, knobs, job, rate):
    """Seconds for which a waiting job would hold GPUs of that speed, as believed, with every overhead there may be."""
    left = max(0.0, fleet.work.estimate[job] - fleet.done[job])
    return left / rate + (0.0 if fleet.runs[job] == 0 else knobs.suspend + knobs.resume + knobs.migrate)


@inner
def ends_late(fleet, knobs, draft, job, rate):
    """Whether a job started now would still run when the reserved one is to start."""
    return fleet.clocks[NOW] + longest_run(fleet, knobs, job, rate) > draft.shadow[0]


@inner
def placed_late(fleet, knobs, draft, job):
    """The same for the places in ``fleet.place``."""
    return ends_late(fleet, knobs, draft, job, rate_on(fleet, job, fleet.place.node[0]))


@inner
def reserve_beside(fleet, knobs, draft, n):
    """When the reserved job will fit, after the draft's ``n`` jobs in ``fleet.trial`` (infinity: never).

    ``fleet.spare`` is what it leaves free then; of the n jobs nothing is taken in it.
    """
    held, running, at = draft.counts[HELD], sort_by_expected_end(fleet), 0
    copy_room(fleet.trial, fleet.spare)
    copy_left(fleet.left[OF_TRIAL], fleet.left[OF_SPARE])
    draft.freed[:n] = 0
    while True:
        shadow = fleet.key[fleet.order[at]] if at < running else np.inf
        for k in range(n):
            if draft.freed[k] == 0:
                shadow = min(shadow, draft.end[k])
        if shadow == np.inf:
            return shadow
        while at < running and fleet.key[fleet.order[at]] <= shadow:
            free_in(fleet, fleet.spare, fleet.left[OF_SPARE], fleet.order[at])
            at += 1
        free_drafted(fleet, draft, n, shadow)
        m = find_place(fleet, knobs, fleet.spare, fleet.left[OF_SPARE], held)
        if m > 0:
            avoid_gpus(fleet, fleet.spare, fleet.trial, held, m)
            occupy(fleet, fleet.spare, fleet.left[OF_SPARE], held, m)
            free_drafted(fleet, draft, n, np.inf)
            return shadow


@inner
def free_drafted(fleet, draft, n, instant):
    """Give back in ``fleet.spare`` what those of the draft's first ``n`` jobs hold that end by ``instant``."""
    for k in range(n):
        if draft.freed[k] == 0 and draft.end[k] <= instant:
            draft.freed[k] = 1
            base, m = draft.part[k], draft.part[k + 1] - draft.part[k]
            take(fleet.cluster, fleet.spare, fleet.work.demand, draft.job[k], draft.node, draft.grant, base, m, 1)
            charge_quota(fleet, fleet.left[OF_SPARE], draft.job[k], 1)


# --- plans ------------------------------------------------------------------------------


@inner
def write_place(fleet, draft, k, m):
    """The m places in ``fleet.place`` become those of job k; those of the jobs before it are written."""
    base = draft.part[k]
    for i in range(m):
        draft.node[base + i], draft.grant[base + i] = fleet.place.node[i], fleet.place.grant[i]
    draft.part[k + 1] = base + m


@inner
def load_place(fleet, draft, k):
    """Places of job k into ``fleet.place``: how many."""
    base, m = draft.part[k], draft.part[k + 1] - draft.part[k]
    for i in range(m):
        fleet.place.node[i], fleet.place.grant[i] = draft.node[base + i], draft.grant[base + i]
    return m


@kernel
def plan_greedily(fleet, knobs, draft, fixed):
    """Place the draft's jobs one after the other, around the reservation; the first ``fixed`` stay where they are."""
    reserved, stopped = draft.shadow[0] < np.inf, False
    copy_room(fleet.room, fleet.trial)
    copy_left(fleet.left[OF_ROOM], fleet.left[OF_TRIAL])
    if reserved:
        copy_room(fleet.spare, draft.beside)
    for k in range(draft.counts[JOBS]):
        job = draft.job[k]
        m = 0
        if k < fixed:
            m = load_place(fleet, draft, k)
        elif not stopped:
            m = find_around(fleet, knobs, draft, job)
        write_place(fleet, draft, k, m)
        stopped = stopped or (m == 0 and knobs.discipline == STRICT)
        if m > 0:
            occupy(fleet, fleet.trial, fleet.left[OF_TRIAL], job, m)
            if reserved and placed_late(fleet, knobs, draft, job):
                take(fleet.cluster, draft.beside, fleet.work.demand, job, fleet.place.node, fleet.place.grant, 0, m, -1)


@inner
def find_around(fleet, knobs, draft, job):
    """Places in ``fleet.trial``, for a job that ends late also in ``draft.beside``: how many."""
    m = find_place(fleet, knobs, fleet.trial, fleet.left[OF_TRIAL], job)
    if m == 0 or draft.shadow[0] == np.inf:
        return m
    if placed_late(fleet, knobs, draft, job):
        meet(fleet.trial, draft.beside, draft.met)
        return find_place(fleet, knobs, draft.met, fleet.left[OF_TRIAL], job)
    avoid_gpus(fleet, fleet.trial, draft.beside, job, m)
    return m


# --- what starts ------------------------------------------------------------------------


@kernel
def start_decided(fleet, knobs, draft):
    """Start the draft's plan, then whoever else fits; whether there is more to decide jointly at this instant."""
    reserved, left = draft.shadow[0] < np.inf, 0
    for k in range(draft.counts[JOBS]):
        job, m = draft.job[k], load_place(fleet, draft, k)
        if m == 0:
            left += 1
            continue
        if reserved and placed_late(fleet, knobs, draft, job):
            occupy(fleet, fleet.spare, fleet.left[OF_SPARE], job, m)
        start_waiting(fleet, knobs, job, m)
    # Room has only shrunk: where all that fitted were decided on and start, nobody is left who fits.
    all_seen = left == 0 and draft.counts[JOBS] < len(draft.job) and draft.counts[SKIPPED] == 0
    if draft.counts[HELD] >= 0:
        if not all_seen:
            start_around(fleet, knobs, draft)
        keep_waiting(fleet)
        return False
    keep_waiting(fleet)
    if knobs.discipline != EASY:
        if not all_seen:
            start_in_order(fleet, knobs, knobs.discipline == STRICT)
        return False
    if left > 0:
        start_easy(fleet, knobs)
        return False
    return anybody_fits(fleet)


@inner
def start_around(fleet, knobs, draft):
    """Start in order whoever fits now and, if it ends late, beside the reserved job."""
    fleet.counts[PASSES] += 1
    meet_spare(fleet)
    for k in range(fleet.counts[QUEUED]):
        job = fleet.queue[k]
        if job == draft.counts[HELD] or fleet.status[job] != WAITING or misfits(fleet, job, PRESENT):
            continue
        m = find_place(fleet, knobs, fleet.room, fleet.left[OF_ROOM], job)
        if m == 0:
            set_misfit(fleet, job, PRESENT)
            continue
        if placed_late(fleet, knobs, draft, job):
            if misfits(fleet, job, BESIDE):
                continue
            m = find_place(fleet, knobs, fleet.trial, fleet.left[OF_TRIAL], job)
            if m == 0:
                set_misfit(fleet, job, BESIDE)
                continue
            occupy(fleet, fleet.spare, fleet.left[OF_SPARE], job, m)
        elif draft.shadow[0] < np.inf:
            avoid_gpus(fleet, fleet.room, fleet.spare, job, m)
        start_waiting(fleet, knobs, job, m)
        meet_spare(fleet)
