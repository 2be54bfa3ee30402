"""The joint MILP in the detailed simulation: who of the first fitting jobs starts now, how and where, decided together.

The rest of the queue follows greedily; reservations are in `rltune.simulator.drafts`. Where the order may suspend, running
jobs behind those that wait are decided on too (`rltune.simulator.suspending`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from rltune.allocators.formulation import Holders, Instance, Place
from rltune.allocators.measure import Measure
from rltune.compiled import kernel
from rltune.core.choices import FASTEST
from rltune.core.loop import something_can_start, start_now
from rltune.core.reference import Ref, ref
from rltune.core.repartition import idle_instances
from rltune.core.resources.fragments import no_types, task_types
from rltune.core.resources.room import Room, amounts
from rltune.core.resources.scores import SHARING_RULES
from rltune.core.state import NOW, QUEUED, STARTED, STRICT, TICKED, Floats, Ints, Sim
from rltune.nouns.cluster import Cluster, ClusterArrays
from rltune.nouns.jobs import WHOLE, JobTable
from rltune.nouns.plan import Policy
from rltune.simulator.candidates import choices_of, losses, read_plan, write_plan
from rltune.simulator.decisions import order_by
from rltune.simulator.drafts import BEFORE, HELD, JOBS, Draft, build_draft, plan_greedily, prepare, start_decided
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

REST = "fgd"
"""Rule of the first known plan, of the reservation, and of jobs that are not decided jointly."""
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
    """An allocator bound to one simulation; ``trial``: None where no job is ever suspended."""

    allocator: JointAllocator
    measure: Measure
    by_gpu: bool
    draft: Draft
    work: Ref
    trial: Ref | None = None
    by_rule: dict[str, tuple[Ref, Ref]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, allocator: JointAllocator, jobs: JobTable, cluster: Cluster, sim: Sim, way_rule: str = FASTEST
    ) -> Joint:
        """``way_rule``: of `rltune.core.choices.Taking`: by which a job's ways are better or worse."""
        measure, by_gpu = measure_of(allocator, jobs, cluster, sim.cluster)
        head, loss = min(int(allocator.head), len(jobs)), losses(sim, way_rule)
        draft = build_draft(cluster, sim.choices, loss, head, sim.space)
        trial = None
        if sim.params.on_event or sim.params.on_tick:
            trial = ref(build_trial(cluster, sim.choices, loss, min(head, MOST_STARTERS), sim.space))
        return cls(allocator, measure, by_gpu, draft, ref(draft), trial)

    def take(self, state: Ref) -> None:
        """Start the jobs of this instant; the queue is in order, and some job fits where none may be suspended."""
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
        """Let waiting jobs start; none is suspended."""
        again = True
        while again:
            prepare(state, self.work)
            self._plan(state)
            again = start_decided(state, self.work)

    def place_started(self, sim: Sim) -> bool:
        """Write down where the draft's jobs go, all of which start; whether any goes elsewhere than the draft had it."""
        each, n = self.draft.each, int(self.draft.counts[JOBS])
        known = read_plan(sim, each, n)
        instance = replace(self._instance(sim, n), all_start=True)
        places = self.allocator.solver.decide(instance, self.measure, {"picked": known}, by_gpu=self.by_gpu).places
        write_plan(each, instance, places)
        return places != known

    def _under(self, state: Ref, rule: str) -> Ref:
        """The same state with another rule of placement."""
        made = self.by_rule.get(rule)
        # A state is replaced when its log grows.
        if made is None or made[0] is not state:
            params = state.value.params._replace(rule=SHARING_RULES[rule])
            made = self.by_rule[rule] = state, ref(state.value._replace(params=params))
        return made[1]

    def _plan(self, state: Ref) -> None:
        """Write the decision on the draft's jobs down in it."""
        known, sim, each = {}, state.value, self.draft.each
        n, held = int(self.draft.counts[JOBS]), int(self.draft.counts[HELD])
        contested = held >= 0 and int(sim.detail.group[held]) >= 0
        for name in (REST, GREEDY):
            # Jobs before the reserved one stay where the reservation has them: so all of them start, and hold no longer
            # what they have of a quota than it counts on.
            fixed = int(self.draft.counts[BEFORE]) if name == REST or contested else 0
            plan_greedily(self._under(state, name), self.work, fixed)
            known[name] = read_plan(sim, each, n)
        instance = self._instance(sim, n)
        write_plan(
            each, instance, self.allocator.solver.decide(instance, self.measure, known, by_gpu=self.by_gpu).places
        )

    def _instance(self, sim: Sim, n: int) -> Instance:
        each, limited, reserved = self.draft.each, len(sim.space.left) > 0, self.draft.shadow[0] < np.inf
        choices = choices_of(sim, each, n)
        gpus = np.maximum(amounts(sim.detail.demand, choices["jobs"]), 1 / WHOLE)
        return Instance(
            **choices, room=sim.space.room, value=self.allocator.values(gpus), idle=idle_in(sim, sim.space.room),
            late=each.late[: each.hi[n - 1]] if reserved else None, spare=sim.spare.room if reserved else None,
            group=sim.detail.group[each.job[:n]] if limited else None, left=sim.space.left / WHOLE if limited else None,
            prefix=sim.params.backfill == STRICT,
        )  # fmt: skip

    # --- where running jobs may be suspended ------------------------------------------------

    def _swap(self, state: Ref, work: Ref) -> bool:
        """Decide which of the waiting and running jobs run; False: some job may fit without any being suspended.

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
        if trial.counts[MORE] and trial.counts[STARTERS] < len(trial.each.job) - MOST_RUNNING:
            # The next in order needs the places of more jobs than a decision may be about.
            self.allocator.stats.calls += 1
            self.allocator.stats.fall_back(TOO_MANY)
            pass_greedily(greedy)
            return True
        return bool(trial.counts[STARTERS] == 0)

    def _decide_on_all(self, state: Ref, greedy: Ref, work: Ref) -> None:
        """Write down in the trial what becomes of each of its candidates."""
        sim, trial, stats, n = state.value, work.value, self.allocator.stats, int(work.value.counts[CANDIDATES])
        held = held_places(sim, trial)
        known = {"greedy": read_plan(sim, trial.each, n)}
        keep_all(greedy, work)
        known["keep"] = read_plan(sim, trial.each, n)
        instance = self._swapped(sim, trial, held)
        decision = self.allocator.solver.decide(instance, self.measure, known)
        for k, (place, here) in enumerate(zip(decision.places, held, strict=True)):
            trial.action[k] = LEAVE if place is None else KEEP if place == here else START
        runs, action = trial.runs[:n] == 1, trial.action[:n]
        stats.suspended += int((runs & (action == LEAVE)).sum())
        stats.moved += int((runs & (action == START)).sum())
        stats.kept += int((runs & (action == KEEP)).sum())
        write_plan(trial.each, instance, decision.places)

    def _swapped(self, sim: Sim, trial: Trial, held: list[Place | None]) -> Instance:
        """The decision on all candidates: the room is what is free and what they hold."""
        n, params, limited = len(held), sim.params, len(sim.space.left) > 0
        choices, runs = choices_of(sim, trial.each, n), trial.runs[:n] == 1
        asked = np.array([row if at is None else at.ask for at, row in zip(held, choices["jobs"], strict=True)])
        gpus = np.maximum(amounts(sim.detail.demand, asked), 1 / WHOLE)
        back = params.suspend + params.resume
        return Instance(
            **choices, room=trial.space.room, value=self.allocator.values(gpus, ~runs), idle=idle_in(sim, trial.space.room),
            group=sim.detail.group[trial.each.job[:n]] if limited else None,
            left=trial.space.left / WHOLE if limited else None,
            holders=Holders(
                held, suspend=runs * gpus * max(SHORTEST_S, back), move=runs * gpus * max(SHORTEST_S, back + params.migrate)
            ),
        )  # fmt: skip


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


def held_places(sim: Sim, trial: Trial) -> list[Place | None]:
    """What each candidate that runs holds, None of those that wait."""
    found: list[Place | None] = []
    for k in range(int(trial.counts[CANDIDATES])):
        job = int(trial.each.job[k])
        here = slice(int(sim.jobs.part[job]), int(sim.jobs.part[job]) + int(sim.alloc_len[job]))
        nodes, grants = tuple(sim.alloc_node[here].tolist()), tuple(sim.alloc_grant[here].tolist())
        ask = int(sim.choices.way[sim.detail.way[job]])
        found.append(Place(nodes, grants, ask) if trial.runs[k] else None)
    return found


def idle_in(sim: Sim, room: Room) -> Ints | None:
    """(n_nodes, widest) MIG instances that no job holds in ``room``; None: instances are not kept."""
    if not room.layout.shape[1]:
        return None
    idle = np.zeros(room.layout.shape, np.int64)
    idle_instances(sim.cluster, room, idle)
    return idle


def measure_of(
    allocator: JointAllocator, jobs: JobTable, cluster: Cluster, arrays: ClusterArrays
) -> tuple[Measure, bool]:
    """The measure of fragmentation, and whether it is a sum over GPUs."""
    rule = OF_WORKLOAD.get(allocator.measure)
    if rule is None:
        return Measure(allocator.cost_of(arrays), no_types()), False
    types = task_types(jobs, cluster, rule)
    return Measure(np.zeros((0, 0)), types), bool(((types.demand.gpus <= 1) | (types.demand.milli == 0)).all())
