"""The joint MILP in the detailed simulation: who of the first fitting jobs starts now, and where, decided together.

The rest of the queue follows greedily. Under ``easy`` the first job that would not fit if all before it were placed
one by one holds a reservation: what would still run by then has to fit beside it, in the model, in the plans it starts
from, and behind it. A resumed job counts with all its overheads there, wherever it goes.

Where the order may suspend, running jobs behind those that wait are decided on too (`rltune.simulator.suspending`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from rltune.allocators.formulation import Holders, Instance
from rltune.allocators.measure import Measure
from rltune.compiled import inner, kernel
from rltune.core.backfilling import start_easy, start_in_order, start_what_fits
from rltune.core.conservative import anything_fits
from rltune.core.loop import something_can_start, start_now
from rltune.core.queue import begin_pass, block_class, class_blocked
from rltune.core.reference import Ref, ref
from rltune.core.resources import nodes
from rltune.core.resources.fragments import no_types, task_types
from rltune.core.resources.nodes import Nodes, charge_quota, intersect, nodes_like
from rltune.core.resources.room import Held, amounts
from rltune.core.resources.scores import SHARING_RULES
from rltune.core.resources.slices import INDICES, START_BIT
from rltune.core.resources.verbs import (
    book_held,
    choice_on,
    copy_free,
    find,
    fits,
    narrow,
    narrow_at,
    prefer_unreserved,
    take_found,
    way_found,
    way_held,
)
from rltune.core.runs import list_by_expected_end, start_job
from rltune.core.state import (
    BESIDE,
    EASY,
    NOW,
    PRESENT,
    QUEUED,
    STARTED,
    STRICT,
    TICKED,
    WAITING,
    Floats,
    Ints,
    Sim,
    floats,
    ints,
)
from rltune.nouns.cluster import Cluster, ClusterArrays
from rltune.nouns.jobs import WHOLE, JobTable
from rltune.nouns.mig_layout import with_instance
from rltune.nouns.plan import Policy
from rltune.simulator.decisions import order_by
from rltune.simulator.suspending import (
    CANDIDATES,
    KEEP,
    LEAVE,
    MORE,
    MOST_RUNNING,
    START,
    STARTERS,
    Trial,
    build_trial,
    carry_out,
    fill,
    keep_all,
    sort_given,
    try_out,
)

book_nodes = nodes.book

REST = "fgd"
"""Rule of the first known plan, of the reservation, and of whoever is not decided jointly."""
OF_WORKLOAD = {"demand": "fgd", "stranding": "stranding"}
"""Measures of the MILP that know the workload, by the names of `rltune.core.resources.fragments.MEASURES`."""
GREEDY = "best_fit"
"""Rule of the second known plan, and of the pass where running jobs may be suspended."""
MOST_STARTERS = 8
"""Waiting jobs of one decision that may suspend: with twice as many running ones their values stay within the solver's range."""
SHORTEST_S = 1.0
"""Seconds that an interruption is charged at least: without, jobs would move for a trifle of fragmentation."""
TOO_MANY = "too_many_candidates"
"""Fallback: the pass would suspend more running jobs for one that waits than a decision may be about."""
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
    beside: Nodes
    met: Nodes
    shadow: Floats
    counts: Ints


def build_draft(cluster: Cluster, head: int, free: Nodes) -> Draft:
    """Work space for ``head`` jobs on free resources like ``free``."""
    places, ways = head * max(pool.nodes for pool in cluster.pools), head * len(cluster.pools)
    return Draft(
        job=ints(head), part=ints(head + 1), node=ints(places), grant=ints(places), end=floats(head), freed=ints(head),
        pool=ints(ways), lo=ints(head), hi=ints(head), slow=floats(ways), late=ints(ways), beside=nodes_like(cluster, free),
        met=nodes_like(cluster, free), shadow=floats(1), counts=ints(4),
    )  # fmt: skip


@runtime_checkable
class JointAllocator(Protocol):
    """What is needed of `rltune.allocators.milp.MilpAllocator`; importing that would load its solver."""

    head: int
    measure: str
    solver: Any

    @property
    def stats(self) -> Any: ...

    def count_trivial(self) -> None: ...

    def values(self, gpus: Any, waiting: Any = None) -> Floats: ...

    def cost_of(self, cluster: ClusterArrays) -> Floats: ...


@dataclass(frozen=True, slots=True)
class Joint:
    """An allocator bound to one simulation; ``trial``: None where nobody is ever suspended."""

    allocator: JointAllocator
    measure: Measure
    by_gpu: bool
    draft: Draft
    work: Ref
    trial: Ref | None = None
    by_rule: dict[str, tuple[Ref, Ref]] = field(default_factory=dict)

    @classmethod
    def of(cls, allocator: JointAllocator, jobs: JobTable, cluster: Cluster, sim: Sim) -> Joint:
        measure, by_gpu = measure_of(allocator, jobs, cluster, sim.cluster)
        head = min(int(allocator.head), len(jobs))
        draft = build_draft(cluster, head, sim.space)
        trial = None
        if sim.params.on_event or sim.params.on_tick:
            trial = ref(build_trial(cluster, min(head, MOST_STARTERS), sim.space))
        return cls(allocator, measure, by_gpu, draft, ref(draft), trial)

    def take(self, state: Ref) -> None:
        """Start whoever starts at this instant; the queue is in order, and somebody fits where nobody may be suspended."""
        if self.trial is None:
            self._start(state)
            return
        may_suspend = state.value.params.on_event or state.value.counts[TICKED] == 1
        if not may_suspend:
            if anyone_fits(state):
                self._start(state)
            return
        while not self._swap(state, self.trial):
            # Asked anew after a trial: what did not fit there may fit here.
            if anyone_fits(state):
                self._start(state)
            if not self.trial.value.counts[MORE]:
                return

    def _start(self, state: Ref) -> None:
        """Let waiting jobs start, and nobody be suspended."""
        again = True
        while again:
            prepare(state, self.work)
            self._write(self._plan(state))
            again = start_decided(state, self.work)

    def place_started(self, sim: Sim) -> bool:
        """Write down where the draft's jobs go, all of which start; whether any goes elsewhere than the draft had it."""
        known = self._read()
        instance = replace(self._instance(sim), all_start=True)
        places = self.allocator.solver.decide(instance, self.measure, {"picked": known}, by_gpu=self.by_gpu).places
        self._write(places)
        return places != known

    def _under(self, state: Ref, rule: str) -> Ref:
        """The same state with another rule of placement."""
        made = self.by_rule.get(rule)
        # A state is replaced when its log grows.
        if made is None or made[0] is not state:
            params = state.value.params._replace(rule=SHARING_RULES[rule])
            made = self.by_rule[rule] = state, ref(state.value._replace(params=params))
        return made[1]

    def _plan(self, state: Ref) -> list[Any]:
        known, sim = {}, state.value
        held = int(self.draft.counts[HELD])
        contested = held >= 0 and int(sim.detail.group[held]) >= 0
        for name in (REST, GREEDY):
            # Jobs before the reserved one stay where the reservation has them: so all of them start, and hold no longer
            # what they have of a quota than it counts on.
            fixed = int(self.draft.counts[BEFORE]) if name == REST or contested else 0
            plan_greedily(self._under(state, name), self.work, fixed)
            known[name] = self._read()
        return self.allocator.solver.decide(self._instance(sim), self.measure, known, by_gpu=self.by_gpu).places

    def _instance(self, sim: Sim) -> Instance:
        draft, n = self.draft, int(self.draft.counts[JOBS])
        jobs, ways, limited = draft.job[:n], int(draft.hi[n - 1]), len(sim.space.left) > 0
        reserved = draft.shadow[0] < np.inf
        asked = asked_by(sim, jobs)
        gpus = np.maximum(amounts(sim.detail.demand, asked), 1 / WHOLE)
        return Instance(
            cluster=sim.cluster, room=sim.space.room, demand=sim.detail.demand, jobs=asked,
            value=self.allocator.values(gpus), pools=draft.pool[:ways], lo=draft.lo[:n], hi=draft.hi[:n],
            slow=draft.slow[:ways], late=draft.late[:ways] if reserved else None, spare=sim.spare.room if reserved else None,
            group=sim.detail.group[jobs] if limited else None, left=sim.space.left / WHOLE if limited else None,
            prefix=sim.params.backfill == STRICT,
        )  # fmt: skip

    # --- where running jobs may be suspended ------------------------------------------------

    def _swap(self, state: Ref, work: Ref) -> bool:
        """Decide who of the waiting and running jobs runs; False: somebody may fit, and nobody would be suspended for him.

        As many decisions as the pass is long, each on whom it comes to next.
        """
        greedy, trial = self._under(state, GREEDY), work.value
        while try_out(greedy, work) > 0:
            before = int(state.value.counts[STARTED])
            self._decide_on_all(state, greedy, work)
            carry_out(greedy, work)
            if not trial.counts[MORE] or int(state.value.counts[STARTED]) == before:
                fill(greedy)
                return True
        if trial.counts[MORE] and trial.counts[STARTERS] < len(trial.job) - MOST_RUNNING:
            # The next in order needs the places of more jobs than a decision may be about.
            self.allocator.stats.calls += 1
            self.allocator.stats.fall_back(TOO_MANY)
            pass_greedily(greedy)
            return True
        return bool(trial.counts[STARTERS] == 0)

    def _decide_on_all(self, state: Ref, greedy: Ref, work: Ref) -> None:
        """Write down in the trial what becomes of each of its candidates."""
        trial, stats, n = work.value, self.allocator.stats, int(work.value.counts[CANDIDATES])
        held = held_places(state.value, trial)
        known = {"greedy": read_trial(trial)}
        keep_all(greedy, work)
        known["keep"] = read_trial(trial)
        decision = self.allocator.solver.decide(self._swapped(state.value, trial, held), self.measure, known)
        for k, (place, here) in enumerate(zip(decision.places, held, strict=True)):
            trial.action[k] = LEAVE if place is None else KEEP if place == here else START
        runs, action = trial.runs[:n] == 1, trial.action[:n]
        stats.suspended += int((runs & (action == LEAVE)).sum())
        stats.moved += int((runs & (action == START)).sum())
        stats.kept += int((runs & (action == KEEP)).sum())
        write_trial(trial, decision.places)

    def _swapped(self, sim: Sim, trial: Trial, held: list[Any]) -> Instance:
        """The decision on all candidates: the room is what is free and what they hold."""
        n, params, limited = len(held), sim.params, len(sim.space.left) > 0
        jobs, ways, runs = trial.job[:n], int(trial.hi[n - 1]), trial.runs[:n] == 1
        asked = asked_by(sim, jobs)
        gpus = np.maximum(amounts(sim.detail.demand, asked), 1 / WHOLE)
        back = params.suspend + params.resume
        return Instance(
            cluster=sim.cluster, room=trial.space.room, demand=sim.detail.demand, jobs=asked,
            value=self.allocator.values(gpus, ~runs), pools=trial.pool[:ways], lo=trial.lo[:n], hi=trial.hi[:n],
            slow=trial.slow[:ways], idle=held_instances(sim, trial, held),
            group=sim.detail.group[jobs] if limited else None, left=trial.space.left / WHOLE if limited else None,
            holders=Holders(
                held, suspend=runs * gpus * max(SHORTEST_S, back), move=runs * gpus * max(SHORTEST_S, back + params.migrate)
            ),
        )  # fmt: skip

    # --- drafts -----------------------------------------------------------------------------

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


@dataclass(frozen=True, slots=True)
class Ordered:
    """The same with the order of a policy of one's own."""

    policy: Policy
    priority: Floats
    joint: Joint
    records: list[dict[str, object]] = field(default_factory=list)

    def take(self, state: Ref) -> None:
        """Ask the policy, then decide jointly if any job fits, or may be made to fit."""
        suspends = self.joint.trial is not None
        order_by(state.value, self.policy, self.priority, suspends)
        waiting, started = int(state.value.counts[QUEUED]), int(state.value.counts[STARTED])
        sort_given(state)
        if suspends or anyone_fits(state):
            self.joint.take(state)
        begun = int(state.value.counts[STARTED]) - started
        self.records.append({"now_s": float(state.value.clock[NOW]), "queued": waiting, "started": begun})


@kernel
def anyone_fits(sim):
    """Whether a job that may start now fits."""
    return something_can_start(sim)


@kernel
def pass_greedily(sim):
    """The compiled pass."""
    start_now(sim)


def asked_by(sim: Sim, jobs: Ints) -> Ints:
    """(n,) row of the demand of each job: all its ways ask for the same here (`rltune.core.choices.Taking.alike`)."""
    return sim.choices.way[sim.choices.ptr[sim.jobs.cls[jobs]]]


def held_places(sim: Sim, trial: Trial) -> list[Any]:
    """(nodes, grants) of each candidate that runs, None of those that wait."""
    found: list[Any] = []
    for k in range(int(trial.counts[CANDIDATES])):
        job = int(trial.job[k])
        base = int(sim.jobs.part[job])
        end = base + int(sim.alloc_len[job])
        here = tuple(sim.alloc_node[base:end].tolist()), tuple(sim.alloc_grant[base:end].tolist())
        found.append(here if trial.runs[k] else None)
    return found


def held_instances(sim: Sim, trial: Trial, held: list[Any]) -> Ints | None:
    """(n_nodes, widest) MIG instances of the candidates, which they leave behind where they go; None: there are none."""
    profile = sim.detail.demand.profile[asked_by(sim, trial.job[: len(held)])]
    cut = [k for k, place in enumerate(held) if place is not None and profile[k] >= 0]
    if not cut:
        return None
    idle = np.zeros(sim.space.room.milli.shape, np.int64)
    for k in cut:
        (node,), (grant,) = held[k]
        gpu, kind = (grant & INDICES).bit_length() - 1, int(sim.cluster.pool_mig[sim.cluster.node_pool[node]])
        idle[node, gpu] = with_instance(int(idle[node, gpu]), int(profile[k]), kind, grant >> START_BIT)
    return idle


def read_trial(trial: Trial) -> list[Any]:
    """The plan written down in the trial as the solver takes it."""
    found: list[Any] = []
    for a, m in zip(trial.first[: trial.counts[CANDIDATES]].tolist(), trial.length.tolist(), strict=False):
        found.append((tuple(trial.node[a : a + m].tolist()), tuple(trial.grant[a : a + m].tolist())) if m else None)
    return found


def write_trial(trial: Trial, plan: list[Any]) -> None:
    at = 0
    for k, place in enumerate(plan):
        nodes, grants = place or ((), ())
        trial.node[at : at + len(nodes)], trial.grant[at : at + len(nodes)] = nodes, grants
        trial.first[k], trial.length[k] = at, len(nodes)
        at += len(nodes)


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
def prepare(sim, draft):
    """Fill the draft with the jobs to decide on and their pools, and ``sim.spare`` under ``easy``."""
    draft.counts[BEFORE], draft.counts[HELD], draft.counts[SKIPPED], draft.shadow[0] = 0, -1, 0, np.inf
    n = 0
    if sim.params.backfill == EASY:
        n = place_first(sim, draft)
        draft.counts[BEFORE] = n
        if n < len(draft.job) and n < sim.counts[QUEUED]:
            draft.counts[HELD] = sim.queue[n]
            draft.shadow[0] = reserve_beside(sim, draft, n)
    if sim.params.backfill != EASY or draft.counts[HELD] >= 0:
        n = list_fitting(sim, draft, n)
    draft.counts[JOBS] = n
    list_pools(sim, draft)


@inner
def place_first(sim, draft):
    """Place the queue in order into ``sim.shadow`` up to the first job that does not fit: how many, at most a draft's."""
    copy_free(sim, sim.space, sim.shadow)
    n = 0
    while n < len(draft.job) and n < sim.counts[QUEUED]:
        job = sim.queue[n]
        m = find(sim, sim.shadow, job)
        if m == 0:
            break
        draft.job[n] = job
        draft.end[n] = sim.clock[NOW] + longest_run(sim, job, sim.choices.rate[sim.place.way[0]])
        write_place(sim, draft, n, m)
        take_found(sim, sim.shadow, job, m)
        n += 1
    return n


@inner
def list_fitting(sim, draft, n):
    """Add fitting jobs in order to the ``n`` first ones: how many there are then."""
    held = draft.counts[HELD]
    for at in range(n if held < 0 else n + 1, sim.counts[QUEUED]):
        job = sim.queue[at]
        if n == len(draft.job):
            break
        fitting = not class_blocked(sim, job, PRESENT) and fits(sim, sim.space, job)
        if fitting and contests_quota(sim, draft, job):
            draft.counts[SKIPPED] = 1
        elif fitting:
            draft.job[n] = job
            n += 1
        else:
            block_class(sim, job, PRESENT)
            if sim.params.backfill == STRICT:
                break
    return n


@inner
def contests_quota(sim, draft, job):
    """Whether a job might still count towards the reserved job's quota when that is to start: the model does not know."""
    held, c = draft.counts[HELD], sim.jobs.cls[job]
    if held < 0 or sim.detail.group[held] < 0 or sim.detail.group[job] != sim.detail.group[held]:
        return False
    slowest = sim.choices.rate[sim.choices.ptr[c + 1] - 1]
    return ends_late(sim, draft, job, slowest)


@inner
def would_hold_quota(sim, draft, k, rate):
    """Whether job k, placed before the reserved one, would only at this speed still count towards its quota then."""
    held, job = draft.counts[HELD], draft.job[k]
    if held < 0 or sim.detail.group[held] < 0 or sim.detail.group[job] != sim.detail.group[held]:
        return False
    return draft.end[k] <= draft.shadow[0] and ends_late(sim, draft, job, rate)


@inner
def list_pools(sim, draft):
    """Pools of every job, how much longer it runs there than on its fastest, and whether into the reservation."""
    at = 0
    for k in range(draft.counts[JOBS]):
        job = draft.job[k]
        c = sim.jobs.cls[job]
        draft.lo[k] = at
        for q in range(sim.choices.ptr[c], sim.choices.ptr[c + 1]):
            rate = sim.choices.rate[q]
            if k < draft.counts[BEFORE] and would_hold_quota(sim, draft, k, rate):
                continue
            draft.pool[at] = sim.choices.pool[q]
            draft.slow[at] = sim.choices.rate[sim.choices.ptr[c]] / rate - 1.0
            draft.late[at] = 1 if ends_late(sim, draft, job, rate) else 0
            at += 1
        draft.hi[k] = at


# --- the reservation --------------------------------------------------------------------


@inner
def longest_run(sim, job, rate):
    """Seconds for which a waiting job would hold GPUs of that speed, as believed, with every overhead there may be."""
    left = max(0.0, sim.jobs.known[job] - sim.detail.done[job])
    again = 0.0 if sim.detail.runs[job] == 0 else sim.params.suspend + sim.params.resume + sim.params.migrate
    return left / rate + again + (sim.params.mig_longest if sim.space.room.layout.shape[1] > 0 else 0.0)


@inner
def ends_late(sim, draft, job, rate):
    """Whether a job started now would still run when the reserved one is to start."""
    return sim.clock[NOW] + longest_run(sim, job, rate) > draft.shadow[0]


@inner
def placed_late(sim, draft, job):
    """The same for the places in ``sim.place``."""
    return ends_late(sim, draft, job, sim.choices.rate[sim.place.way[0]])


@inner
def reserve_beside(sim, draft, n):
    """When the reserved job will fit, after the draft's ``n`` jobs in ``sim.shadow`` (infinity: never).

    ``sim.spare`` is what it leaves free then; of the n jobs nothing is taken in it.
    """
    held, running, at = draft.counts[HELD], list_by_expected_end(sim), 0
    copy_free(sim, sim.shadow, sim.spare)
    order, now = sim.detail.order, sim.clock[NOW]
    draft.freed[:n] = 0
    while True:
        shadow = max(sim.believed[order[at]], now) if at < running else np.inf
        for k in range(n):
            if draft.freed[k] == 0:
                shadow = min(shadow, draft.end[k])
        if shadow == np.inf:
            return shadow
        while at < running and max(sim.believed[order[at]], now) <= shadow:
            book_held(sim, sim.spare, order[at], 1)
            at += 1
        free_drafted(sim, draft, n, shadow)
        m = find(sim, sim.spare, held)
        if m > 0:
            prefer_unreserved(sim, sim.spare, sim.shadow, held, m)
            take_found(sim, sim.spare, held, m)
            free_drafted(sim, draft, n, np.inf)
            return shadow


@inner
def free_drafted(sim, draft, n, instant):
    """Give back in ``sim.spare`` what those of the draft's first ``n`` jobs hold that end by ``instant``."""
    for k in range(n):
        if draft.freed[k] == 0 and draft.end[k] <= instant:
            draft.freed[k] = 1
            base, m = draft.part[k], draft.part[k + 1] - draft.part[k]
            job = draft.job[k]
            way = way_held(sim, job)
            book_nodes(sim.cluster, sim.spare, sim.detail.demand, way, Held(draft.node, draft.grant, base, m), 1)
            charge_quota(sim.spare, sim.detail.group[job], sim.detail.amount[way], 1)


# --- plans ------------------------------------------------------------------------------


@inner
def write_place(sim, draft, k, m):
    """The m places in ``sim.place`` become those of job k; those of the jobs before it are written."""
    base = draft.part[k]
    for i in range(m):
        draft.node[base + i], draft.grant[base + i] = sim.place.found.node[i], sim.place.found.grant[i]
    draft.part[k + 1] = base + m


@inner
def load_place(sim, draft, k):
    """Places of job k into ``sim.place``: how many."""
    base, m = draft.part[k], draft.part[k + 1] - draft.part[k]
    for i in range(m):
        sim.place.found.node[i], sim.place.found.grant[i] = draft.node[base + i], draft.grant[base + i]
    if m > 0:
        sim.place.way[0] = choice_on(sim, draft.job[k], sim.place.found.node[0])
    return m


@kernel
def plan_greedily(sim, draft, fixed):
    """Place the draft's jobs one after the other, around the reservation; the first ``fixed`` stay where they are."""
    reserved, stopped = draft.shadow[0] < np.inf, False
    copy_free(sim, sim.space, sim.shadow)
    if reserved:
        copy_free(sim, sim.spare, draft.beside)
    for k in range(draft.counts[JOBS]):
        job = draft.job[k]
        m = 0
        if k < fixed:
            m = load_place(sim, draft, k)
        elif not stopped:
            m = find_around(sim, draft, job)
        write_place(sim, draft, k, m)
        stopped = stopped or (m == 0 and sim.params.backfill == STRICT)
        if m > 0:
            take_found(sim, sim.shadow, job, m)
            if reserved and placed_late(sim, draft, job):
                found = sim.place.found
                held = Held(found.node, found.grant, 0, m)
                book_nodes(sim.cluster, draft.beside, sim.detail.demand, way_found(sim), held, -1)


@inner
def find_around(sim, draft, job):
    """Places in ``sim.shadow``, for a job that ends late also in ``draft.beside``: how many."""
    m = find(sim, sim.shadow, job)
    if m == 0 or draft.shadow[0] == np.inf:
        return m
    if placed_late(sim, draft, job):
        intersect(sim.cluster, sim.shadow, draft.beside, draft.met)
        # Quotas beside the reservation are seen to where the jobs to decide are listed.
        for group in range(len(draft.met.left)):
            draft.met.left[group] = sim.shadow.left[group]
        return find(sim, draft.met, job)
    prefer_unreserved(sim, sim.shadow, draft.beside, job, m)
    return m


# --- what starts ------------------------------------------------------------------------


@inner
def start_waiting(sim, job, m):
    """Start a waiting job; the queue is tidied at the end of the pass."""
    sim.waiting[sim.jobs.cls[job]] -= 1
    start_job(sim, job, m)


@inner
def keep_waiting(sim):
    """Close the gaps that started jobs have left in the queue."""
    kept = 0
    for k in range(sim.counts[QUEUED]):
        job = sim.queue[k]
        if sim.detail.status[job] == WAITING:
            sim.queue[kept] = job
            kept += 1
    sim.counts[QUEUED] = kept


@inner
def start_strict_or_skip(sim):
    """The greedy rest where nothing is reserved."""
    if sim.params.backfill == STRICT:
        start_in_order(sim)
    else:
        start_what_fits(sim)


@kernel
def start_decided(sim, draft):
    """Start the draft's plan, then whoever else fits; whether there is more to decide jointly at this instant."""
    reserved, left = draft.shadow[0] < np.inf, 0
    for k in range(draft.counts[JOBS]):
        job, m = draft.job[k], load_place(sim, draft, k)
        if m == 0:
            left += 1
            continue
        if reserved and placed_late(sim, draft, job):
            take_found(sim, sim.spare, job, m)
        start_waiting(sim, job, m)
    # Room has only shrunk: where all that fitted were decided on and start, nobody is left who fits.
    all_seen = left == 0 and draft.counts[JOBS] < len(draft.job) and draft.counts[SKIPPED] == 0
    if draft.counts[HELD] >= 0:
        if not all_seen:
            start_around(sim, draft)
        keep_waiting(sim)
        return False
    keep_waiting(sim)
    if sim.params.backfill != EASY:
        if not all_seen:
            start_strict_or_skip(sim)
        return False
    if left > 0:
        start_easy(sim)
        return False
    return anything_fits(sim)


@inner
def start_around(sim, draft):
    """Start in order whoever fits now and, if it ends late, beside the reserved job."""
    begin_pass(sim)
    narrow(sim)
    for k in range(sim.counts[QUEUED]):
        job = sim.queue[k]
        if job == draft.counts[HELD] or sim.detail.status[job] != WAITING or class_blocked(sim, job, PRESENT):
            continue
        m = find(sim, sim.space, job)
        if m == 0:
            block_class(sim, job, PRESENT)
            continue
        if placed_late(sim, draft, job):
            if class_blocked(sim, job, BESIDE):
                continue
            m = find(sim, sim.shadow, job)
            if m == 0:
                block_class(sim, job, BESIDE)
                continue
            take_found(sim, sim.spare, job, m)
        elif draft.shadow[0] < np.inf:
            prefer_unreserved(sim, sim.space, sim.spare, job, m)
        start_waiting(sim, job, m)
        narrow_at(sim, job)
