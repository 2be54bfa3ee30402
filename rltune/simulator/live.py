"""A cluster as it lives: the core's full build on a clock from outside, with jobs that come one by one and ends that are reported.

Events are reported to a `LiveCluster` (`submit`, `end`, `cancel`, `change_node`) and `advance` moves its clock; it
answers with what starts and stops. Every instant is that of a simulation: a recorded stream that is pushed in gives its schedule.

The arrays of the state are longer than the jobs there are. A new job fills the next row from the row of an earlier job of the
same class (equal request, virtual cluster and ways). The state is made anew (`LiveCluster.rebuild`) when rows run out, for a
class not seen before, and for another policy; what has become of each job is carried over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np

from rltune.core import live as kernels
from rltune.core.choices import may_run
from rltune.core.conservative import with_profile
from rltune.core.loop import begin
from rltune.core.priorities import GIVEN
from rltune.core.reference import ref
from rltune.core.resources.slices import INDICES, START_BIT
from rltune.core.state import (
    ALWAYS,
    ARRIVED,
    FAULTS,
    FUTURE,
    IMPOSSIBLE,
    INSIDE,
    LOGGED,
    NOW,
    ON_GPUS,
    RUNNING,
    STARTED,
    WAITING,
    Floats,
    Sim,
    copied,
)
from rltune.nouns.cluster import Cluster
from rltune.nouns.errors import InputError
from rltune.nouns.jobs import JobTable
from rltune.nouns.mig_layout import standing
from rltune.nouns.mig_profiles import PROFILES
from rltune.policies.dynamic import STATIC
from rltune.policies.orders import order
from rltune.simulator.carrying import carry_accounts, carry_jobs, carry_node_events, padded, stand_up
from rltune.simulator.decisions import Decision, Picker, Steerer
from rltune.simulator.full import build_state, decision_of, preemptive_policy
from rltune.simulator.keeping import restore_row, saved_accounts, saved_row, take_accounts
from rltune.simulator.options import KINDS
from rltune.simulator.requests import Changes, Cut, Live, Place, Request, Rules, Started, Stopped, table_of
from rltune.simulator.runs import OUTCOMES
from rltune.simulator.static_keys import StaticKeys

ROOM = 512
"""Rows that are free at least after the state has been made anew."""
NEVER = float("inf")
MOST_KINDS = 10_000
"""Kinds of requests of which it is remembered whether they can be."""
LEAST_WEIGHT = 1e-9
"""Of lottery and weighted fair queueing: tickets are 1 + priority, and must be more than none."""


class LiveCluster:
    """See the module. ``now_s``: where the clock begins, seconds; it never goes back.

    Raises InputError for rules that do not go together, as `rltune.simulate` does.
    """

    def __init__(self, cluster: Cluster, rules: Rules, now_s: float = 0.0) -> None:
        self.cluster, self.rules = cluster, rules
        self.jobs: dict[str, Live] = {}
        self.examples: dict[tuple[Any, ...], Request] = {}
        self._of_row: dict[int, Live] = {}
        self._possible: dict[tuple[Any, ...], bool] = {}
        self._flows: dict[str | None, int] = {None: 0}
        self._now, self._asked = now_s, NEVER
        self.arrays = cluster.arrays()
        self.state: Any = None
        self._flow_name: str | None = None
        for vc in [None, *dict(rules.options.quotas or ())]:
            self.see(Request(vc=vc))
        self.rebuild()

    # --- copies, and what is kept on disk ---------------------------------------------------

    def fork(self, rules: Rules | None = None) -> LiveCluster:
        """The same cluster, to go on by itself under the same or other rules: nothing that happens there has an effect here."""
        other = self.picture()
        other.rules = self.rules if rules is None else rules
        other.rebuild()
        return other

    def picture(self) -> LiveCluster:
        """The present as it is, cheaply taken; for nothing but to be looked at, or forked in another thread."""
        other = copy(self)
        other.jobs = {name: copy(one) for name, one in self.jobs.items()}
        other.examples, other._flows = dict(self.examples), dict(self._flows)
        other.state = ref(copied(self.sim))
        # The state's own clock stands at its last event.
        other.sim.clock[NOW] = self._now
        return other

    def saved(self, job: str) -> dict[str, Any]:
        """What has become of a job so far, as plain values; `restore` takes it."""
        return saved_row(self.sim, self.jobs[job].row)

    def restore(
        self, saved: Mapping[str, Mapping[str, Any]], layouts: Mapping[tuple[int, int], int], closed: Sequence[int]
    ) -> None:
        """Jobs that have been submitted to this new cluster, in order, are as they were `saved` (waiting or running).

        ``layouts``: (node, GPU) to the MIG instances there, as `layout_of`; ``closed`` (n_nodes,): reasons why nodes take no job.
        """
        sim = self.sim
        for (node, gpu), layout in layouts.items():
            if gpu < sim.space.room.layout.shape[1]:
                sim.space.room.layout[node, gpu] = layout
        for name, kept in saved.items():
            restore_row(sim, self.jobs[name].row, kept)
        sim.counts[STARTED] = 1 + max([int(kept["turn"]) for kept in saved.values()], default=-1)
        arrived = [one for name, one in self.jobs.items() if name in saved]
        sim.counts[ARRIVED] = len(self.examples) + len(arrived)
        self._pending = len(self.jobs) - len(arrived)
        stand_up(self.state, np.array(closed, np.int64))
        self._layout = sim.space.room.layout.copy()
        self._stir()

    def accounts(self) -> dict[str, Any]:
        """Prices, fair shares and what was learned of run times, as plain values; `set_accounts` takes them."""
        return {"charged": self._flow_name} | saved_accounts(self.sim, self._flows)

    def set_accounts(self, kept: Mapping[str, Any]) -> None:
        """Take up accounts of earlier, as far as the present rules know them; after `restore`."""
        usage = kept["usage"] if kept["charged"] == self._flow_name else []
        for name, _, _ in usage:
            self._flows.setdefault(name, len(self._flows))
        if len(self._flows) > len(self.sim.detail.used):
            self.rebuild()
        take_accounts(self.sim, self._flows, dict(kept) | {"usage": usage})

    def layout_of(self, node: int, gpu: int) -> int:
        """The MIG instances of a GPU as one number (`rltune.nouns.mig_layout`); 0: none, MIG mode off."""
        layout = self.sim.space.room.layout
        return int(layout[node, gpu]) if layout.shape[1] else 0

    # --- what is reported -----------------------------------------------------------------------

    @property
    def now_s(self) -> float:
        return self._now

    @property
    def sim(self) -> Sim:
        sim: Sim = self.state.value
        return sim

    def of_row(self, row: int) -> Live | None:
        """The job in a row of the state."""
        return self._of_row.get(row)

    def possible(self, request: Request) -> bool:
        """Whether some idle pool could hold such a job in one of its ways."""
        if request.kind in self.examples:
            c = int(self.sim.jobs.cls[self._example(request)])
            return bool(self.sim.choices.ptr[c] < self.sim.choices.ptr[c + 1])
        known = self._possible.get(request.kind)
        if known is None:
            known = bool(may_run(table_of([request], np.zeros(1), np.zeros(1)), self.cluster)[0])
            if len(self._possible) < MOST_KINDS:
                self._possible[request.kind] = known
        return known

    def submit(
        self, job: str, request: Request, at_s: float, known_s: float = float("nan"), late: bool = False
    ) -> None:
        """A job waits from ``at_s`` on, not before now (``late``: also before); ``known_s``: what is believed of its run time, seconds.

        The same instant is decided on by the next `advance`. InputError for a name twice.
        """
        if job in self.jobs:
            raise InputError(f"job {job} is there already; give each job a name of its own")
        self.see(request)
        row = int(self.sim.counts[ARRIVED]) + self._pending
        if not self._has_room(row, request):
            self.rebuild()
            row = int(self.sim.counts[ARRIVED]) + self._pending
        one = Live(job, row, request, at_s if late else max(at_s, self._now), known_s)
        self.jobs[job] = self._of_row[row] = one
        self._fill(one)
        self._pending += 1

    def end(self, job: str, at_s: float, run_s: float | None = None, failed: bool = False) -> bool:
        """The present run of a job is over; ``run_s``: what its run time has turned out to be on the recorded hardware.

        ``failed``: it waits again, unless it has failed too often. False: it does not run, so nothing happens.
        """
        row = self.jobs[job].row
        if int(self.sim.detail.status[row]) != ON_GPUS:
            return False
        at, detail = max(at_s, self._now), self.sim.detail
        if failed:
            # How long it runs is as unknown as before: the run that follows must not end by itself.
            kernels.fail_at(self.state, row, at)
            return True
        if run_s is None:
            run_s = float(detail.done[row]) + max(0.0, at - float(detail.ready[row])) * float(detail.rate[row])
        self.sim.jobs.run[row] = max(run_s, float(detail.done[row]))
        kernels.end_at(self.state, row, at)
        return True

    def cancel(self, job: str, at_s: float | None = None) -> list[Changes]:
        """A job goes, waiting or running, at ``at_s`` (None: the present instant); others may start in its place by the next `advance`.

        One that has only just been submitted is taken in first, with all that is due: the last of the changes is that it goes.
        """
        out = []
        if int(self.sim.detail.status[self.jobs[job].row]) == FUTURE:
            out = self.advance(self._now)
        row, before = self.jobs[job].row, self._mark()
        status, clock = int(self.sim.detail.status[row]), self.sim.clock
        # The core's clock stands at the last event; it goes on, but not past one that is due.
        clock[NOW] = max(
            float(clock[NOW]), min(self._now if at_s is None else at_s, float(kernels.wake_time(self.state)))
        )
        if status == WAITING:
            kernels.drop_waiting(self.state, row)
        elif status == ON_GPUS:
            kernels.drop_run(self.state, row)
        self._stir()
        return [*out, self._changes(before)]

    def change_node(self, node: int, kind: str, at_s: float) -> None:
        """A node fails (its runs are lost), is repaired, drains or is reopened at ``at_s``; ``kind`` as of `Options.node_events`."""
        detail, at = self.sim.detail, int(self.sim.counts[FAULTS]) + self._listed
        if at >= len(detail.listed_at):
            self.rebuild()
            detail, at = self.sim.detail, self._listed
        detail.listed_at[at], detail.listed_node[at], detail.listed_kind[at] = max(at_s, self._now), node, KINDS[kind]
        self._listed += 1

    def forget(self, jobs: Iterable[str]) -> None:
        """Jobs that are over: they are no longer known by name."""
        for job in jobs:
            one = self.jobs.pop(job, None)
            if one is not None:
                self._of_row.pop(one.row, None)

    def use(self, rules: Rules) -> None:
        """From now on other rules decide; InputError, and no change, where they do not go with the jobs there are."""
        before, self.rules = self.rules, rules
        try:
            self.rebuild()
        except InputError:
            self.rules = before
            raise
        self._stir()

    # --- what follows -----------------------------------------------------------------------

    @property
    def waiting_to_arrive(self) -> int:
        """Jobs that have been submitted since the last instant."""
        return self._pending

    @property
    def wake_s(self) -> float:
        """When something happens by itself, or is due since it was pushed; infinity: never."""
        return min(float(kernels.wake_time(self.state)), self._asked)

    def advance(self, now_s: float) -> list[Changes]:
        """The clock is ``now_s``: all that has become due, instant by instant, and what was decided there."""
        out = []
        while True:
            before = self._mark()
            code = kernels.step(self.state, now_s)
            if code == kernels.QUIET and self._asked <= now_s:
                # Something left without an event: who waits may start now.
                code = kernels.decide_again(self.state, now_s)
            if code == kernels.FULL:
                self.rebuild()
                continue
            if code == kernels.QUIET:
                break
            self._asked = NEVER
            self._pending = self._listed = 0
            if code == kernels.ASKED and self.decision is not None:
                self.decision.take(self.state)
            kernels.settle(self.state)
            self._now = float(self.sim.clock[NOW])
            out.append(self._changes(before))
        self._now = max(self._now, now_s)
        return out

    def decide_now(self) -> list[Changes]:
        """An instant now, though nothing has happened."""
        self._stir()
        return self.advance(self._now)

    def _stir(self) -> None:
        """The next `advance` decides though nothing is due."""
        self._asked = self._now

    # --- rows -------------------------------------------------------------------------------

    def see(self, request: Request) -> None:
        """Remember the class of a request; a new one needs a new state."""
        if request.kind in self.examples:
            return
        self.examples[request.kind] = replace(request, user=None, name=None, priority=0.0, firm=False)
        if self.state is not None:
            try:
                self.rebuild()
            except InputError:
                del self.examples[request.kind]
                raise

    def _example(self, request: Request) -> int:
        return self._example_rows[request.kind]

    def _places(self, example: int) -> int:
        part = self.sim.jobs.part
        return int(part[example + 1] - part[example])

    def _has_room(self, row: int, request: Request) -> bool:
        sim, example = self.sim, self._example(request)
        places = int(sim.jobs.part[row]) + self._places(example) if row < len(sim.jobs.submit) else 0
        return (
            row < len(sim.jobs.submit)
            and places <= len(sim.alloc_node)
            and (self._flow_of(request) in self._flows or len(self._flows) < len(sim.detail.used))
        )

    def _flow_of(self, request: Request) -> str | None:
        return getattr(request, self._flow_name) if self._flow_name is not None else None

    def _fill(self, one: Live) -> None:
        """Write the row of a job that has just been submitted."""
        sim, row, example = self.sim, one.row, self._example(one.request)
        jobs, detail = sim.jobs, sim.detail
        jobs.submit[row], jobs.run[row], jobs.known[row] = one.submit_s, NEVER, one.known_s
        jobs.gpus[row], jobs.cls[row], jobs.rank[row] = jobs.gpus[example], jobs.cls[example], row
        jobs.part[row + 1] = jobs.part[row] + self._places(example)
        detail.way[row], detail.group[row] = detail.way[example], detail.group[example]
        if len(detail.attained.size):
            detail.attained.size[row] = detail.attained.size[example]
        self._fill_own(sim, [one], np.array([row]))

    def _fill_own(self, sim: Sim, jobs: Sequence[Live], rows: Any) -> None:
        """What is the jobs' own, not their classes'."""
        detail = sim.detail
        priority = np.array([one.request.priority for one in jobs], np.float64)
        sim.jobs.submit[rows] = [one.submit_s for one in jobs]
        detail.priority[rows], detail.weight[rows] = priority, np.maximum(LEAST_WEIGHT, 1.0 + priority)
        detail.firm[rows] = [one.request.firm for one in jobs]
        detail.flow[rows] = [self._flows.setdefault(self._flow_of(one.request), len(self._flows)) for one in jobs]
        if self._static is not None:
            self._static.place(sim, jobs)

    # --- the state, made anew ---------------------------------------------------------------

    def rebuild(self) -> None:
        """The same jobs under the same or other rules, in a state with room for more."""
        old = None if self.state is None else self.sim
        alive = sorted((x for x in self.jobs.values() if self._alive(x.row)), key=lambda x: x.row)
        rules, first, was = self.rules, len(self.examples), np.array([x.row for x in alive], np.int64)
        table, known = self._table(alive)
        built = build_state(
            table, self.cluster, rules.baseline, rules.backfill, rules.allocator, known, rules.options,
            isinstance(rules.policy, Picker),
        )  # fmt: skip
        charged = flow_of_policy(rules.baseline)
        flows = self._flow_names(charged, alive)
        same_flows = old is not None and charged == self._flow_name
        widest = int(np.diff(built.sim.jobs.part).max())
        sim = padded(built.sim, len(table) + max(ROOM, len(alive)), len(flows) + ROOM, widest)
        static = sim.params.order == STATIC
        if static:
            sim = sim._replace(params=sim.params._replace(order=GIVEN))
        if isinstance(rules.policy, Steerer) and sim.params.outside == INSIDE:
            sim = sim._replace(params=sim.params._replace(outside=ALWAYS))
        sim = with_profile(sim, self.cluster)
        state = ref(sim)
        begin(state)
        # Nothing has failed to be made: from here on the new state counts.
        self._flow_name, self._flows = charged, flows
        self._example_rows = {kind: k for k, kind in enumerate(self.examples)}
        self._static = StaticKeys(order(rules.baseline).keys) if static else None
        # Examples are of no time, and teach nothing.
        sim.detail.status[:first], sim.jobs.submit[:first] = IMPOSSIBLE, -NEVER
        sim.jobs.run[:] = NEVER
        now = np.arange(first, first + len(alive))
        closed = np.zeros(self.cluster.nodes, np.int64)
        waiting_events = 0
        if old is not None:
            waiting_events = carry_node_events(old, sim, self._listed)
            carry_accounts(old, sim, same_flows)
            carry_jobs(old, sim, was, now)
            closed = old.space.room.closed.copy()
        for row, one in zip(now.tolist(), alive, strict=True):
            one.row = row
        self._fill_own(sim, alive, now)
        pending = int((sim.detail.status[now] == FUTURE).sum())
        sim.counts[ARRIVED] = first + len(alive) - pending
        self._pending, self._listed, self.state = pending, waiting_events, state
        self._of_row, self.jobs = {x.row: x for x in alive}, {x.id: x for x in alive}
        stand_up(state, closed)
        self._layout = sim.space.room.layout.copy()
        self._table_now = long_enough(table, rules.allocator)
        self.decision = self.decision_for(sim)

    def decision_for(self, sim: Sim) -> Decision | None:
        """What decides outside the kernels in a state like the present one; None: the kernels decide all."""
        rules = self.rules
        return decision_of(
            self._table_now, self.cluster, sim, rules.policy, rules.backfill, rules.allocator, rules.options.way_rule
        )  # fmt: skip

    def _alive(self, row: int) -> bool:
        return int(self.sim.detail.status[row]) in (FUTURE, WAITING, ON_GPUS)

    def _table(self, alive: list[Live]) -> tuple[JobTable, Floats]:
        """Examples of every class first, as if they had been there at the beginning; then the jobs in order of arrival."""
        first = len(self.examples)
        begin_s = min([self._now, *(x.submit_s for x in alive)])
        submit = np.array([begin_s] * first + [x.submit_s for x in alive])
        known = np.array([1.0] * first + [x.known_s for x in alive])
        # Where run times are estimates they must not pass for true ones.
        run = np.where(np.isnan(known), 1.0, known + (0.0 if self.rules.exact else 1.0))
        return table_of([*self.examples.values(), *(x.request for x in alive)], submit, run), known

    def _flow_names(self, charged: str | None, alive: list[Live]) -> dict[str | None, int]:
        """Number of the account of each user or virtual cluster that is charged."""
        names: dict[str | None, int] = {None: 0}
        if charged is None:
            return names
        names = dict(self._flows) if self.state is not None and charged == self._flow_name else names
        for one in alive:
            names.setdefault(getattr(one.request, charged), len(names))
        return names

    # --- what has changed -------------------------------------------------------------------

    def _mark(self) -> tuple[int, int, int]:
        counts = self.sim.counts
        return int(counts[LOGGED]), int(counts[STARTED]), int(counts[RUNNING])

    def _changes(self, before: tuple[int, int, int]) -> Changes:
        sim = self.sim
        logged, started, _ = before
        log, stopped = sim.detail.log, []
        for k in range(logged, int(sim.counts[LOGGED])):
            one = self._of_row.get(int(log.job[k]))
            if one is not None:
                stopped.append(Stopped(one.id, float(log.end[k]), OUTCOMES[int(log.outcome[k])]))
        running = sim.active[: sim.counts[RUNNING]]
        fresh = running[sim.turn[running] >= started] if int(sim.counts[STARTED]) > started else running[:0]
        fresh = fresh[np.argsort(sim.turn[fresh])]
        return Changes(
            float(sim.clock[NOW]), tuple(stopped), self._cuts(), tuple(self._started(int(row)) for row in fresh)
        )

    def _cuts(self) -> tuple[Cut, ...]:
        layout = self.sim.space.room.layout
        if not layout.shape[1] or np.array_equal(layout, self._layout):
            return ()
        changed = np.argwhere(layout != self._layout)
        self._layout = layout.copy()
        return tuple(self.cut_of(int(node), int(gpu)) for node, gpu in changed)

    def cut_of(self, node: int, gpu: int) -> Cut:
        """The MIG instances of a GPU as they are decided on."""
        room = self.sim.space.room
        if not room.layout.shape[1]:
            return Cut(node, gpu, False, ())
        kind = int(self.arrays.pool_mig[self.arrays.node_pool[node]])
        layout = int(room.layout[node, gpu])
        there = () if kind < 0 else standing(layout, kind, int(room.slices[node, gpu]))
        return Cut(node, gpu, layout != 0, tuple((x.profile, x.start) for x in there))

    def places_of(self, row: int) -> tuple[Place, ...]:
        """What a running job holds."""
        sim = self.sim
        way = int(sim.choices.way[sim.detail.way[row]])
        profile = int(sim.detail.demand.profile[way])
        out = []
        for at in range(int(sim.jobs.part[row]), int(sim.jobs.part[row]) + int(sim.alloc_len[row])):
            grant = int(sim.alloc_grant[at])
            gpus = tuple(k for k in range(32) if (grant & INDICES) >> k & 1)
            if profile >= 0:
                out.append(Place(int(sim.alloc_node[at]), gpus, PROFILES[profile], grant >> START_BIT))
            else:
                out.append(Place(int(sim.alloc_node[at]), gpus))
        return tuple(out)

    def _started(self, row: int) -> Started:
        detail = self.sim.detail
        return Started(
            self._of_row[row].id, float(detail.since[row]), float(detail.ready[row]), self.places_of(row),
            int(detail.runs[row]), float(detail.rate[row]),
        )  # fmt: skip


def flow_of_policy(name: str) -> str | None:
    """Whose usage a policy charges: user, vc, or None."""
    special = preemptive_policy(name)
    return None if special is None else special.flow


def long_enough(table: JobTable, allocator: Any) -> JobTable:
    """At least as many rows as the joint allocator decides on together."""
    wanted = int(getattr(allocator, "head", 0))
    return table if len(table) >= wanted else table.take(np.resize(np.arange(len(table)), wanted))
