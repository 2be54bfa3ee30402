"""What a decision changes in Slurm, by depth; and how everything is given back.

Each change is in the memory, on disk, before Slurm hears of it. A job that somebody else changes meanwhile is theirs from then on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from rltune.slurm.commands import JobRefused, Slurm
from rltune.slurm.deciding import Decision, Row
from rltune.slurm.moment import Moment, moment_of
from rltune.slurm.ranking import HIGHEST, renumbered
from rltune.slurm.reading import ADMIN_HOLD, Job, Seen
from rltune.slurm.remembering import DiskRefuses, Mark, Memory
from rltune.slurm.words import hosts, ranges

Act = dict[str, Any]
"""One change: ``job``, ``act``, what it was set to, and ``refused`` where Slurm refused it."""


@dataclass
class Hands:
    """Changes Slurm as far as ``depth`` allows, and remembers. ``patience_s``: after so long a job that Slurm does not start where
    it was sent is held again. ``floor``: least priority given; None: what Slurm gave any of the partition's jobs at the first look."""

    slurm: Slurm
    memory: Memory
    depth: str
    patience_s: float = 30.0
    floor: int | None = None
    clock: Callable[[], float] = time.time

    # --- looking --------------------------------------------------------------------------------

    def moment(self, seen: Seen, most: int) -> Moment:
        """The instant as the next decision has to see it: what we hold waits, what we sent holds its places, what others took
        from us is not ours."""
        marks = self.memory.marks
        pending = {job.id for job in seen.jobs if job.pending}
        if self.memory.origin_s is None:
            self.memory.origin_s = min((job.submit_s for job in seen.jobs if job.pending), default=seen.now_s)
        jobs = tuple(self._as_ours(job) for job in seen.jobs)
        held = {job for job, mark in marks.items() if mark.held and not mark.let_go}
        sent = {
            job: mark.sent
            for job, mark in marks.items()
            if mark.sent and not mark.held and not mark.ran and job in pending
        }
        return moment_of(replace(seen, jobs=jobs), held, sent, most, self.memory.origin_s)

    def _as_ours(self, job: Job) -> Job:
        """A job with Slurm's own priority and without the nodes that we named; one that somebody else has changed is for Slurm alone."""
        mark, rank = self.memory.marks.get(job.id), self.memory.marks.get(key_of(job))
        if (mark and mark.let_go) or (rank and rank.let_go):
            return replace(job, apart=job.apart or "was changed by somebody else since")
        own = (rank or mark or NO_MARK).own
        if own and job.pending and (job.priority == 0 or (rank and job.priority in rank.priorities)):
            job = replace(job, priority=own)
        return replace(job, required="") if mark and names_ours(job, mark) else job

    def notice(self, seen: Seen) -> list[Act]:
        """Bring the memory up to what was seen: jobs that ended, began, began again, or were changed by somebody else."""
        marks, acts = self.memory.marks, []
        alive = by_name(seen.everywhere)
        for name, mark in list(marks.items()):
            job = alive.get(name, [None])[0]
            if job is None or job.user != mark.user:
                del marks[name]
            elif not job.pending:
                if mark.held and job.reason == ADMIN_HOLD:
                    # It began while it was being held; put back into the queue, it would be held.
                    acts += self._do(name, "release", "it runs", partial(self.slurm.release, name))
                mark.held, mark.sure, mark.ran = False, False, True
            elif mark.ran and mark.sent:
                # It was put back into the queue, and would wait for the nodes that we named then.
                acts += self._do(name, "clear nodes", "", partial(self.slurm.update, name, "ReqNodeList="))
                mark.sent, mark.ran = (), False
            elif not mark.let_go and taken_from_us(job, mark):
                mark.let_go, mark.held, mark.sure = True, False, False
                acts.append({"job": name, "act": "let go", "why": "somebody else released it or changed its priority"})
            elif mark.sent and not mark.held and self.clock() - mark.sent_s > self.patience_s:
                acts += self._call_back(name, mark, job)
        self.memory.save()
        return acts

    def _call_back(self, name: str, mark: Mark, job: Job) -> list[Act]:
        """Hold a job again that Slurm did not start."""
        mark.held, mark.sure = True, False
        self.memory.save()
        acts = self._do(
            name, "hold", f"not started within {self.patience_s:g} s ({job.reason})", partial(self.slurm.hold, name)
        )
        mark.sure = "refused" not in acts[-1]
        acts += self._do(name, "clear nodes", "", partial(self.slurm.update, name, "ReqNodeList="))
        mark.sent = ()
        return acts

    # --- acting ---------------------------------------------------------------------------------

    def act(self, seen: Seen, decision: Decision) -> list[Act]:
        """Do what the depth allows."""
        done: list[Act] = []
        if self.depth == "priority":
            done = self._rank(seen, decision)
        elif self.depth == "place":
            done = self._place(decision)
        self.memory.save()
        return done

    def _rank(self, seen: Seen, decision: Decision) -> list[Act]:
        """Priorities that fall in the decision's order; an array has one for all its pending tasks."""
        marks = self.memory.marks
        jobs: dict[str, list[Job]] = {}
        for job in decision.ranked():
            if not ((mark := marks.get(key_of(job))) and mark.let_go):
                jobs.setdefault(key_of(job), []).append(job)
        if self.memory.floor is None:
            first = max((job.priority for job in seen.jobs if job.pending), default=0)
            self.memory.floor = min(HIGHEST // 2, first if self.floor is None else self.floor)
        present = {name: mark.priority for name, mark in marks.items() if mark.priority is not None}
        changes = renumbered(list(jobs), present, self.memory.floor)
        for name, number in changes.items():
            mark = marks.setdefault(name, new_mark(jobs[name][0]))
            mark.next_priority = number
        self.memory.save()
        acts = []
        for name, number in changes.items():
            # All that is pending of an array together: a part of it would become a record of its own.
            whole, mark = ",".join(dict.fromkeys(job.whole for job in jobs[name])), marks[name]
            acts += self._do(name, "priority", number, partial(self.slurm.update, whole, f"Priority={number}"))
            if "refused" not in acts[-1]:
                mark.priority = number
            mark.next_priority = None
        return acts

    def _place(self, decision: Decision) -> list[Act]:
        """Hold those that wait; name the nodes of those that start, and release them."""
        marks = self.memory.marks
        fresh = [row.job for row in decision.rows if not row.starts and not (marks.get(row.job.id) or NO_MARK).sure]
        for job in fresh:
            marks.setdefault(job.id, new_mark(job)).held = True
        for row in decision.starts:
            mark = marks.setdefault(row.job.id, new_mark(row.job))
            mark.sent, mark.sent_s, mark.ran = row.places, self.clock(), False
        self.memory.save()
        acts: list[Act] = []
        for job in fresh:
            if marks[job.id].sent:
                # Sent, and no answer came; it waits again.
                acts += self._do(job.id, "clear nodes", "", partial(self.slurm.update, job.id, "ReqNodeList="))
                marks[job.id].sent = ()
        for name, tasks in together(fresh).items():
            done = self._do(name, "hold", "", partial(self.slurm.hold, name))
            for job in tasks:
                marks[job.id].held = marks[job.id].sure = "refused" not in done[0]
            acts += done
        for job, _ in decision.apart:
            acts += self._left(job)
        for row in decision.starts:
            acts += self._send(row, marks[row.job.id])
        return acts

    def _left(self, job: Job) -> list[Act]:
        """A job that we hold and that only Slurm may place now is Slurm's again."""
        mark = self.memory.marks.get(job.id)
        if mark is None or not mark.held:
            return []
        acts = self._do(job.id, "release", "left to Slurm", partial(self.slurm.release, job.id))
        mark.held = mark.sure = False
        return acts

    def _send(self, row: Row, mark: Mark) -> list[Act]:
        name, nodes = row.job.id, ",".join(row.nodes)
        acts = self._do(name, "nodes", nodes, partial(self.slurm.update, name, f"ReqNodeList={nodes}"))
        if "refused" in acts[-1]:
            mark.sent = ()
            return acts
        if mark.held:
            # Where no answer comes, the next look shows whether it is released.
            mark.sure = False
            acts += self._do(name, "release", "", partial(self.slurm.release, name))
            mark.held = "refused" in acts[-1]
        return acts

    def _do(self, job: str, act: str, value: Any, call: Callable[[], None]) -> list[Act]:
        done: Act = {"job": job, "act": act} | ({"value": value} if value != "" else {})
        try:
            call()
        except JobRefused as error:
            done["refused"] = str(error)
        return [done]

    # --- giving back ----------------------------------------------------------------------------

    def give_back(self, everywhere: Iterable[Job]) -> list[Act]:
        """Priorities to Slurm's own computation, nodes as they were, holds of ours released. What is done is forgotten.

        Jobs that run go on; the nodes of one cannot be changed, so they are remembered until it ends.
        """
        marks, acts = self.memory.marks, []
        alive = by_name(everywhere)
        failed: DiskRefuses | None = None
        for name, mark in list(marks.items()):
            jobs = [job for job in alive.get(name, []) if job.user == mark.user]
            try:
                acts += self._give_back(jobs, name, mark)
            except DiskRefuses as error:
                # The others must not stay held for that.
                failed = error
        self.memory.floor = None
        if failed is not None:
            raise failed
        self.memory.save()
        return acts

    def _give_back(self, jobs: Sequence[Job], name: str, mark: Mark) -> list[Act]:
        """One job, or the tasks of an array; it is forgotten unless it runs on nodes that we named."""
        acts: list[Act] = []
        if jobs and not jobs[0].pending:
            if mark.held and jobs[0].reason == ADMIN_HOLD:
                acts += self._do(name, "release", "it runs", partial(self.slurm.release, name))
            mark.held, mark.sure, mark.ran = False, False, True
            if mark.sent:
                return acts
        if pending := [job for job in jobs if job.pending]:
            acts += self._returned(pending, name, mark)
        del self.memory.marks[name]
        self.memory.save()
        return acts

    def _returned(self, jobs: Sequence[Job], name: str, mark: Mark) -> list[Act]:
        """Pending jobs as they were before."""
        acts: list[Act] = []
        if names_ours(jobs[0], mark):
            acts += self._do(name, "clear nodes", "", partial(self.slurm.update, name, "ReqNodeList="))
        ranked = [job for job in jobs if job.priority in mark.priorities]
        if ranked:
            # Only a job that is released gets a priority of Slurm's own again.
            mark.held = True
            self.memory.save()
            whole = in_one_word(ranked)
            acts += self._do(name, "hold", "to give its priority back", partial(self.slurm.hold, whole))
        held = ranked or [job for job in jobs if mark.held and job.reason == ADMIN_HOLD]
        if held:
            acts += self._do(name, "release", "", partial(self.slurm.release, in_one_word(held)))
        if mark.priorities and mark.nice and not mark.let_go:
            acts += self._do(
                name, "nice", mark.nice, partial(self.slurm.update, in_one_word(jobs), f"Nice={mark.nice}")
            )
        return acts


NO_MARK = Mark("")


def new_mark(job: Job) -> Mark:
    return Mark(job.user, nice=job.nice, own=job.priority)


def key_of(job: Job) -> str:
    """What a job's priority is remembered under: an array's number, since its tasks have one priority."""
    return job.array or job.id


def names_ours(job: Job, mark: Mark) -> bool:
    """Whether the nodes that a job asks for are those that we named."""
    return bool(mark.sent) and set(hosts(job.required)) == set(mark.nodes)


def taken_from_us(job: Job, mark: Mark) -> bool:
    """Whether somebody else has released a job that we hold, or changed the priority that we gave."""
    if mark.held:
        return mark.sure and job.reason != ADMIN_HOLD and job.priority > 0
    return mark.priority is not None and job.priority > 0 and job.priority not in mark.priorities


def by_name(jobs: Iterable[Job]) -> dict[str, list[Job]]:
    """Jobs by id and by array, the pending ones first."""
    found: dict[str, list[Job]] = {}
    for job in sorted(jobs, key=lambda job: not job.pending):
        for name in {job.id, key_of(job)}:
            found.setdefault(name, []).append(job)
    return found


def together(jobs: Sequence[Job]) -> dict[str, list[Job]]:
    """Jobs by what scontrol takes for them; tasks of an array in one word."""
    arrays: dict[str, list[Job]] = {}
    for job in jobs:
        arrays.setdefault(key_of(job), []).append(job)
    return {in_one_word(tasks): tasks for tasks in arrays.values()}


def in_one_word(jobs: Sequence[Job]) -> str:
    """One job, or tasks of one array, as scontrol takes them: ``9_[1-2,7]``."""
    if len(jobs) == 1:
        return jobs[0].id
    return f"{jobs[0].array}_[{ranges(int(job.id.partition('_')[2]) for job in jobs)}]"
