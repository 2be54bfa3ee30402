"""The optimising allocator where an agent picks: jobs started at one instant are placed together.

While the agent picks, each job gets a provisional greedy place (so that the mask
can say what still fits). When the instant closes, the MILP places all of them
anew, from the state before any of them, with the least fragmentation.

Lean build (`JointPlacement`): under ``easy`` the new places must not delay the reservation; if they would, the
provisional ones stay, and ``kept_for_reservation`` counts it. Full build (`JointStarts`): the decision of
`rltune.simulator.joint` on pools, nodes, GPUs and slices of jobs that all start, around the reservation.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rltune.allocators.enumeration import NONE, search
from rltune.allocators.milp import MilpAllocator
from rltune.compiled import inner, kernel
from rltune.core.backfilling import NONE_DRAFTED, reserve
from rltune.core.reference import ref
from rltune.core.resources.verbs import book_held
from rltune.core.runs import begin_elsewhere, withdraw
from rltune.core.state import EASY, NOW, Detail, Sim
from rltune.nouns.cluster import Cluster
from rltune.nouns.jobs import JobTable
from rltune.rl.kernels import (
    expected_start,
    job_to_reserve_for,
    lift_fresh,
    misfit_of,
    replace_fresh,
    restore_instances,
)
from rltune.rl.legal import begin_pass
from rltune.rl.rows import CLOSED, FRESH, RESERVED, Row, Training, row_at
from rltune.simulator.candidates import load_place
from rltune.simulator.drafts import BEFORE, HELD, JOBS, SKIPPED, list_choices
from rltune.simulator.few import ASK, MOVE, build_few, place_few
from rltune.simulator.joint import Joint

EPS = 1e-9
"""Rises closer than this are equal; the model itself tells no finer differences."""
MOST_PARTS = 16
"""Jobs of one instant that do not fill whole nodes, beyond which the model is asked."""
NONE_LEFT, TOO_MANY, CONTESTED = -1, -2, -3
"""Beside ASK, STAY and MOVE: there was no job to place; more than a decision may be about; the reserved job's quota is at stake."""
STAND_IN = {TOO_MANY: "too_many_starts", CONTESTED: "contested_quota"}
"""Fallbacks: the provisional places stay."""


class JointPlacement:
    """Applies a `MilpAllocator` to the rows of a batch; ``stats`` are the allocator's plus our own counter."""

    fewest = 2
    """Jobs of one instant that are worth a decision: one is placed where fragmentation grows least when it is picked."""

    def __init__(self, allocator: MilpAllocator) -> None:
        self.allocator = allocator
        self.kept_for_reservation = 0
        self._parts = np.zeros(MOST_PARTS, np.int64)
        self._choice = np.zeros(MOST_PARTS, np.int64)
        self._floor = np.zeros(MOST_PARTS + 1)
        self._tries = np.zeros(1, np.int64)

    @property
    def stats(self) -> dict[str, Any]:
        return self.allocator.stats.as_dict() | {"kept_for_reservation": self.kept_for_reservation}

    def on(self, jobs: JobTable, cluster: Cluster, sim: Sim, way_rule: str) -> Any:
        """The same, or `JointStarts`, for states like ``sim``; ``way_rule``: see `Joint.of`."""
        if not isinstance(sim.detail, Detail):
            return self
        return JointStarts(Joint.of(self.allocator, jobs, cluster, sim, way_rule))

    def place(self, training: Training, i: int, waited: bool) -> None:
        """Place the jobs that row i started at the present instant together.

        Unless the agent chose to wait, what fits beside the new places is decided at the same instant.
        """
        row, batch = training.row(i), training.batch
        sim, mark = row.sim, row.episode.mark
        cost = self.allocator.cost_of(sim.cluster)
        if settled(batch, i, cost, self._parts, self._floor, self._choice, self._tries):
            self.allocator.count_trivial()
            return
        fresh = row.episode.fresh[: mark[FRESH]]
        which = np.flatnonzero(sim.start[fresh] == sim.clock[NOW])
        if len(which) < 2:
            return
        head = misfit_of(batch, i) if sim.params.backfill == EASY else -1
        before = expected_start(batch, i, head) if head >= 0 else np.inf
        old = [self._placement(row, int(job)) for job in fresh[which]]
        for k in which:
            lift_fresh(batch, i, k)
        jobs = fresh[which]
        classes = sim.jobs.cls[jobs]
        new, _ = self.allocator.place_jointly(
            sim.cluster,
            sim.space.free,
            sim.jobs.gpus[jobs].astype(np.int64),
            sim.choices.ptr[classes],
            sim.choices.ptr[classes + 1],
            sim.choices.pool,
            old,
        )
        self._book(batch, i, which, new)
        if head >= 0 and expected_start(batch, i, head) > before:
            self.kept_for_reservation += 1
            for k in which:
                lift_fresh(batch, i, k)
            self._book(batch, i, which, old)
        elif new != old:
            mark[RESERVED] = 0
            mark[CLOSED] = int(waited)

    @staticmethod
    def _placement(row: Row, job: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        sim = row.sim
        part = slice(sim.jobs.part[job], sim.jobs.part[job] + sim.alloc_len[job])
        return tuple(sim.alloc_node[part].tolist()), tuple(sim.alloc_grant[part].tolist())

    @staticmethod
    def _book(batch: Any, i: int, which: Any, placements: Any) -> None:
        for k, (nodes, gpus) in zip(which, placements, strict=True):
            replace_fresh(batch, i, k, np.array(nodes, np.int64), np.array(gpus, np.int64), len(nodes))


class JointStarts:
    """Applies a `rltune.simulator.joint.Joint` to the rows of a batch (full build)."""

    fewest = 1
    """Even a single job may be better off elsewhere: on another GPU type."""

    def __init__(self, joint: Joint) -> None:
        self.joint, draft = joint, joint.draft
        room = draft.met.room
        self._few = ref(build_few(joint, len(draft.met.levels.total), len(room.whole)))

    def place(self, rows: Any, i: int, waited: bool) -> None:
        """As `JointPlacement.place`; where there are more jobs than a decision may be about, in several decisions, one after the other.

        ``rows``: `rltune.rl.rows.Training`, or the like.
        """
        joint, begin, moved = self.joint, 0, False
        while (answer := propose(rows.batch, i, joint.work, self._few, begin)) != NONE_LEFT:
            if answer in STAND_IN:
                joint.allocator.stats.calls += 1
                joint.allocator.stats.fall_back(STAND_IN[answer])
            if answer == TOO_MANY:
                return
            if answer == ASK:
                moved |= joint.place_started(rows.row(i).sim)
                settle(rows.batch, i, joint.work)
            elif answer != CONTESTED:
                joint.allocator.count_trivial()
                moved |= answer == MOVE
            begin += int(joint.draft.counts[JOBS])
        if moved:
            reopen(rows.batch, i, waited)


@kernel
def propose(batch, i, draft, few, begin):
    """Place the jobs that row i has started at this instant, from number ``begin`` on, if that can be told without a solver.

    NONE_LEFT: there are none; STAY, MOVE: they run, where they ran or elsewhere; ASK: none has started, see `settle`.
    TOO_MANY: all stay, for MIG instances are as they were only when no job of this instant has started. CONTESTED: these stay,
    for the model does not know what they hold of the reserved job's quota when that is to start.
    """
    row = row_at(batch, i)
    if row.episode.layout.shape[1] > 0 and row.episode.mark[FRESH] > len(draft.each.job):
        return TOO_MANY
    n = lift(row, draft, begin)
    if n == 0:
        return NONE_LEFT
    answer = CONTESTED if contests_reserved(row.sim, draft, n) else place_few(row.sim, draft, few, n)
    if answer != ASK:
        start_all(row.sim, draft)
    return answer


@inner
def lift(row, draft, begin):
    """Fill the draft with these jobs, as if they had not started: how many.

    They stand in the draft where they stood. Under ``easy`` it holds the reservation that they leave.
    """
    sim, fresh = row.sim, row.episode.fresh
    each = draft.each
    n = min(len(each.job), row.episode.mark[FRESH] - begin)
    draft.counts[BEFORE], draft.counts[HELD], draft.counts[SKIPPED], draft.shadow[0] = 0, -1, 0, np.inf
    draft.counts[JOBS], each.spots[0] = n, 0
    if n == 0:
        return 0
    if sim.params.backfill == EASY:
        draft.counts[HELD] = job_to_reserve_for(row)
        row.episode.mark[RESERVED] = 0
    if draft.counts[HELD] >= 0:
        draft.shadow[0] = reserve(sim, sim.space, NONE_DRAFTED, draft.counts[HELD])
    for k in range(n):
        job = fresh[begin + k]
        each.job[k] = job
        write_held(sim, each, k)
        # What has not ended by then is still taken in ``sim.spare``.
        if draft.shadow[0] < np.inf and max(sim.believed[job], sim.clock[NOW]) > draft.shadow[0]:
            book_held(sim, sim.spare, job, 1)
        withdraw(sim, job)
    restore_instances(row)
    list_choices(sim, draft)
    return n


@inner
def contests_reserved(sim, draft, n):
    """Whether one of the draft's ``n`` jobs counts towards the quota of the job that holds the reservation."""
    held = draft.counts[HELD]
    group = sim.detail.group[held] if held >= 0 else -1
    for k in range(n):
        if group >= 0 and sim.detail.group[draft.each.job[k]] == group:
            return True
    return False


@inner
def write_held(sim, each, k):
    """What candidate k holds becomes its place in the plan."""
    job, at = each.job[k], each.spots[0]
    base, m = sim.jobs.part[job], sim.alloc_len[job]
    for i in range(m):
        each.node[at + i], each.grant[at + i] = sim.alloc_node[base + i], sim.alloc_grant[base + i]
    each.first[k], each.length[k], each.chosen[k] = at, m, sim.detail.way[job]
    each.spots[0] += m


@kernel
def settle(batch, i, draft):
    """Start the draft's jobs where it says."""
    start_all(row_at(batch, i).sim, draft)


@inner
def start_all(sim, draft):
    """The same, in order."""
    for k in range(draft.counts[JOBS]):
        begin_elsewhere(sim, draft.each.job[k], load_place(sim, draft.each, k))


@kernel
def reopen(batch, i, waited):
    """Unless the agent chose to wait, what fits beside the new places is decided at the same instant."""
    row = row_at(batch, i)
    row.episode.mark[CLOSED] = 1 if waited else 0
    begin_pass(row)


@kernel
def settled(batch, i, cost, parts, floor, choice, tries):
    """Whether the provisional places of the jobs that row i started at this instant cannot be bettered.

    By trying every way (`rltune.allocators.enumeration`); for clusters of one pool. ``parts, floor, choice, tries``: work space.
    """
    row = row_at(batch, i)
    sim, episode = row.sim, row.episode
    if len(sim.cluster.pool_cap) != 1:
        return False
    # Counted in the shadow, which is worked out anew before it is used.
    cap, nodes, count = sim.cluster.pool_cap[0], sim.shadow.free, sim.shadow.level[0]
    for node in range(len(nodes)):
        nodes[node] = sim.space.free[node]
    n = 0
    for k in range(episode.mark[FRESH]):
        job = episode.fresh[k]
        # Zero seconds long jobs of this instant have ended: their places are free again.
        if sim.start[job] == sim.clock[NOW] and sim.end[job] == sim.clock[NOW]:
            return False
        for j in range(sim.jobs.part[job], sim.jobs.part[job] + sim.alloc_len[job]):
            nodes[sim.alloc_node[j]] += sim.alloc_grant[j]
        rest = sim.jobs.gpus[job] % cap
        if rest > 0:
            if n == len(parts):
                return False
            at = n
            while at > 0 and parts[at - 1] < rest:
                parts[at] = parts[at - 1]
                at -= 1
            parts[at] = rest
            n += 1
    whole = 0
    for k in range(episode.mark[FRESH]):
        whole += sim.jobs.gpus[episode.fresh[k]] // cap
    rise = -whole * (cost[0, 0] - cost[0, cap])
    for f in range(cap + 1):
        count[f] = 0
    for node in range(len(nodes)):
        count[nodes[node]] += 1
        rise += cost[0, sim.space.free[node]] - cost[0, nodes[node]]
    count[cap] -= whole
    if count[cap] < 0:
        return False
    return search(count, cost[0], parts, n, rise - EPS, floor, choice, tries) == NONE
