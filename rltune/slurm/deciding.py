"""One decision on a moment: who starts where, in which order the others stand, and why, in words."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from rltune.allocators.fragmentation import cost_table, demand_of
from rltune.allocators.greedy import GreedyAllocator
from rltune.core.resources.counts import RULES
from rltune.nouns.errors import InputError
from rltune.nouns.plan import IntArray, Plan, Snapshot, Start
from rltune.nouns.plan_check import check_plan
from rltune.policies.orders import sequence
from rltune.scheduler import decide
from rltune.slurm.moment import Moment, Place
from rltune.slurm.policies import policy_of
from rltune.slurm.reading import Job, Seen

NOTHING_USED: Mapping[str, float] = MappingProxyType({})
TRIES = 8
"""Decisions in one look, each without a job that had no CPU or memory where the one before placed it."""


@dataclass(frozen=True, slots=True)
class Row:
    """A job in a decision: ``places`` and GPUs on each where it starts now, none where it waits; ``why`` in words."""

    job: Job
    places: tuple[Place, ...]
    why: str
    expected_s: float | None = None

    @property
    def starts(self) -> bool:
        return bool(self.places)

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(place.node for place in self.places))


@dataclass(frozen=True, slots=True)
class Decision:
    """Those that start now first, then those that wait, in their order; ``report``: the allocator's own account.

    ``apart`` and ``others`` as of `rltune.slurm.moment.Moment`.
    """

    rows: tuple[Row, ...]
    apart: tuple[tuple[Job, str], ...]
    others: tuple[tuple[Job, str], ...]
    report: Mapping[str, Any] = field(default_factory=dict)

    @property
    def starts(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.starts)

    def ranked(self) -> list[Job]:
        """All jobs that wait for GPUs, first to start first; one that only Slurm places stands among the waiting by submission."""
        ranked = [row.job for row in self.starts]
        behind = sorted((job for job, _ in self.apart), key=lambda job: job.submit_s)
        for row in self.rows:
            if row.starts:
                continue
            while behind and behind[0].submit_s <= row.job.submit_s:
                ranked.append(behind.pop(0))
            ranked.append(row.job)
        return ranked + behind


class Decider:
    """A policy by name (an order, a shipped model, a file) and an allocator; ``decide`` answers to a moment.

    Raises InputError for policies that decide in a simulation only: those that suspend, agents in index form.
    """

    def __init__(self, policy: str, allocator: Mapping[str, Any], backfill: str) -> None:
        self.name, self.backfill = policy, backfill
        if allocator["name"] not in (*RULES, "milp"):
            raise InputError(
                f"allocator={allocator['name']} places jobs GPU by GPU in a simulation; beside Slurm, which counts GPUs by node and "
                f"type, use {', '.join(RULES)} or milp"
            )
        self.policy = policy_of(policy)
        self._node = dict(allocator)

    @property
    def reserves(self) -> bool:
        """Whether the first job that does not fit is kept its time by what starts before it."""
        return self.backfill == "easy" and not self.policy.picks

    def decide(self, seen: Seen, moment: Moment, usage: Mapping[str, float] = NOTHING_USED) -> Decision:
        """Who starts now, who waits, and why; ``usage``: of users or accounts, for policies that go by it."""
        snapshot, policy = moment.snapshot, self.policy.keys(moment.jobs, usage)
        short: dict[int, str] = {}
        allocator = self._allocator(snapshot)
        for _ in range(TRIES):
            first, plan = self._plan(snapshot, policy, allocator, short)
            lacking = without_room(seen, moment, plan)
            if not lacking:
                break
            short |= lacking
        plan = replace(plan, starts=tuple(start for start in plan.starts if start.job not in short))
        return described(self, moment, first, plan, short)

    def _allocator(self, snapshot: Snapshot) -> Any:
        """The allocator for the jobs that wait now: their demand is what fragmentation is measured by."""
        demand = demand_of(snapshot.queue.num_gpus, snapshot.cluster) if len(snapshot.queue) else None
        if self._node["name"] != "milp":
            cost = None if demand is None else cost_table(snapshot.cluster, "demand", demand)
            return GreedyAllocator(self._node["name"], cost)
        # The solver takes a while to import; only those who ask for the MILP wait for it.
        from rltune.allocators.milp import MilpAllocator

        return MilpAllocator(demand=demand, **{name: value for name, value in self._node.items() if name != "name"})

    def _plan(
        self, snapshot: Snapshot, policy: Any, allocator: Any, without: Mapping[int, str]
    ) -> tuple[IntArray, Plan]:
        """(n_queued,) positions in their order, and the checked plan; ``without``: positions that may not start."""
        queue, n = snapshot.queue, len(snapshot.queue)
        if not n:
            return np.zeros(0, np.int64), Plan(())
        if self.policy.picks:
            start, wait = policy.answer(snapshot)
            chosen = start[~np.isin(start, list(without))]
            # The network has said who waits: the allocator places those it picked, and nobody else.
            return np.concatenate([start, wait]), check_plan(snapshot, allocator.allocate(snapshot, chosen, "skip"))
        first = sequence(policy(queue, snapshot), n)
        if without:
            left = first[~np.isin(first, list(without))]
            return first, check_plan(snapshot, allocator.allocate(snapshot, left, self.backfill))
        return first, decide(snapshot, policy, allocator, self.backfill)


def without_room(seen: Seen, moment: Moment, plan: Plan) -> dict[int, str]:
    """Positions of starts for which their nodes lack CPUs or memory, beside the starts before them; or whose form is another."""
    cpus = {node.name: node.cpus_free for node in seen.nodes}
    memory = {node.name: node.memory_free_mb for node in seen.nodes}
    lacking: dict[int, str] = {}
    for start in plan.starts:
        job = moment.jobs[start.job]
        nodes = [moment.places[at].node for at in start.nodes]
        each, amount = -(-job.asked.cpus // len(nodes)), job.asked.memory_mb / len(nodes)
        few = [name for name in nodes if cpus[name] < each]
        full = [name for name in nodes if seen.counts_memory and memory[name] < amount]
        if few:
            lacking[start.job] = f"GPUs are free on {few[0]}, but of {each} CPUs {cpus[few[0]]}"
        elif full:
            lacking[start.job] = f"GPUs are free on {full[0]}, but of {amount:g} MB of memory {memory[full[0]]:g}"
        elif not _in_form(job, start):
            lacking[start.job] = f"the allocator's places ({', '.join(nodes)}) are not in the form that it asks for"
        else:
            for name in nodes:
                cpus[name] -= each
                memory[name] -= amount
    return lacking


def _in_form(job: Job, start: Start) -> bool:
    asked = job.asked
    right = asked.nodes is None or len(start.nodes) == asked.nodes
    return right and (asked.per_node is None or all(gpus == asked.per_node for gpus in start.gpus))


# --- in words -----------------------------------------------------------------------------------


def described(decider: Decider, moment: Moment, first: IntArray, plan: Plan, short: Mapping[int, str]) -> Decision:
    """The decision with a reason for each job."""
    rank = {int(position): k for k, position in enumerate(first)}
    started = {start.job: start for start in plan.starts}
    waiting = [int(position) for position in first if int(position) not in started]
    after = after_starts(moment.snapshot, plan)
    head = next((position for position in waiting if position not in short), None)
    rows = []
    waiting_ranks = [rank[position] for position in waiting]
    for start in plan.starts:
        places = tuple(moment.places[at]._replace(gpus=gpus) for at, gpus in zip(start.nodes, start.gpus, strict=True))
        ahead = bisect_left(waiting_ranks, rank[start.job])
        behind = f", {ahead} that wait stand before it and are not delayed" if ahead else ""
        why = f"number {rank[start.job] + 1} of {len(first)} by {decider.name}{behind}"
        rows.append(Row(moment.jobs[start.job], places, why))
    reasons: dict[tuple[int, ...], str] = {}
    queue = moment.snapshot.queue
    for k, position in enumerate(waiting):
        kept = decider.reserves and position == head
        expected = expected_start(moment.snapshot, after, position) if kept else None
        # Jobs that ask for the same wait for the same.
        alike = (int(queue.num_gpus[position]), int(queue.pool_lo[position]), int(position == head))
        if position not in short and alike not in reasons:
            reasons[alike] = _why_waits(decider, moment, after, position, head)
        why = short.get(position) or reasons[alike]
        rows.append(Row(moment.jobs[position], (), f"{f'{k} ahead' if k else 'next'}; {why}", expected))
    many = len(moment.jobs)
    rows += [Row(job, (), f"stands behind the first {many} jobs, which are decided on") for job in moment.behind]
    return Decision(tuple(rows), moment.apart, moment.others, dict(plan.report))


def after_starts(snapshot: Snapshot, plan: Plan) -> IntArray:
    """(n_places,) free GPUs once the plan's jobs have started."""
    free = snapshot.free.copy()
    for start in plan.starts:
        free[list(start.nodes)] -= start.gpus
    return free


def _why_waits(decider: Decider, moment: Moment, free: IntArray, position: int, head: int | None) -> str:
    gpus, what, in_all, most = lacks_of(moment, free, position)
    if most is not None:
        return f"wants {gpus} {what}; {in_all} are free, at most {most} on a node"
    if decider.policy.picks:
        return f"{gpus} {what} are free for it; {decider.name} keeps them for others"
    if head is not None and position != head:
        return f"{gpus} {what} are free, but would delay job {moment.jobs[head].id}, which is first"
    return f"{gpus} {what} are free, but backfill={decider.backfill} or the allocator leaves them to others"


def lacks_of(moment: Moment, free: IntArray, position: int) -> tuple[int, str, int, int | None]:
    """GPUs that a job asks for, their types in words, how many of them are free in all, and on one node; None where it fits."""
    queue, cluster = moment.snapshot.queue, moment.snapshot.cluster
    pools = queue.pools[queue.pool_lo[position] : queue.pool_hi[position]]
    what = " or ".join(dict.fromkeys(moment.places[cluster.pool_lo[pool]].kind or "GPU" for pool in pools))
    parts = [free[cluster.pool_lo[pool] : cluster.pool_hi[pool]] for pool in pools]
    most = None if fits(moment.snapshot, free, position) else max(int(part.max()) for part in parts)
    return int(queue.num_gpus[position]), what, sum(int(part.sum()) for part in parts), most


def fits(snapshot: Snapshot, free: IntArray, position: int) -> bool:
    """Whether the job fits on these free GPUs alone."""
    queue, cluster = snapshot.queue, snapshot.cluster
    gpus = int(queue.num_gpus[position])
    for pool in queue.pools[queue.pool_lo[position] : queue.pool_hi[position]]:
        cap = int(cluster.pool_cap[pool])
        here = np.sort(free[cluster.pool_lo[pool] : cluster.pool_hi[pool]])[::-1]
        # As allocators place: on the fewest nodes.
        if int(here[: -(-gpus // cap)].sum()) >= gpus:
            return True
    return False


def expected_start(snapshot: Snapshot, free: IntArray, position: int) -> float | None:
    """Second of the snapshot's clock by which enough running jobs have reached their limits; None: not by what is known.

    Jobs that this plan starts are not counted: it leaves the first in the queue its time.
    """
    running, free = snapshot.running, free.copy()
    for k in np.argsort(np.where(np.isnan(running.end_s), np.inf, running.end_s), kind="stable"):
        if not math.isfinite(running.end_s[k]):
            return None
        part = slice(int(running.ptr[k]), int(running.ptr[k + 1]))
        free[running.nodes[part]] += running.gpus[part]
        if fits(snapshot, free, position):
            return float(running.end_s[k])
    return None
