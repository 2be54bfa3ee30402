"""Jobs that ended while we looked, kept in a file: run times learned from them (`rltune.policies.knowledge.predict`), and usage."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rltune.nouns.errors import RunError
from rltune.nouns.jobs import JobTable
from rltune.policies.knowledge import predict
from rltune.policies.preemptive import HALF_LIFE_S
from rltune.slurm.moment import gpus_of
from rltune.slurm.reading import LONGEST_S, Job, Seen

MOST = 20_000
"""Ended jobs that count: the newest. The forecast itself goes by about the last twenty of each group."""


class Ended(NamedTuple):
    """A job that has ended: whose, its name and GPUs, and when it began and ended, seconds since 1970."""

    user: str
    account: str
    name: str
    gpus: int
    start_s: float
    end_s: float


@dataclass
class Past:
    """Jobs that ended, in a file of JSON lines. When one ended is known to the second look: between two of them."""

    path: Path
    ended: list[Ended] = field(default_factory=list)
    running: dict[str, Job] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Past:
        """Of that file; none where there is none. Lines that a kill cut off are left out."""
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        found = [_ended(line) for line in lines[-MOST:]]
        return cls(path, [each for each in found if each is not None])

    def notice(self, seen: Seen) -> int:
        """Take in the jobs that ran at the last look and are gone; how many. RunError where the disk refuses."""
        alive = {job.id for job in seen.everywhere}
        gone = [job for name, job in self.running.items() if name not in alive]
        self.running = {job.id: job for job in seen.jobs if not job.pending}
        new = [ended_now(job, seen.now_s) for job in gone if job.start_s > 0]
        if new:
            try:
                with open(self.path, "a") as file:
                    file.writelines(json.dumps(each) + "\n" for each in new)
            except OSError as error:
                raise RunError(f"{self.path} cannot be written ({error.strerror})") from None
            self.ended = [*self.ended, *new][-MOST:]
        return len(new)

    def believed(self, seen: Seen) -> Seen:
        """The look with forecast run times in the place of time limits, which still bound them.

        A running job that outlives its forecast is believed to run to its limit.
        """
        if not self.ended or not seen.jobs:
            return seen
        forecast = self._forecast(seen)
        jobs = []
        for job, seconds in zip(seen.jobs, forecast, strict=True):
            outlived = not job.pending and seen.now_s - job.start_s >= seconds
            jobs.append(job if outlived or seconds >= job.limit_s else replace(job, believed_s=float(seconds)))
        return replace(seen, jobs=tuple(jobs))

    def usage(self, seen: Seen, flow: str) -> dict[str, float]:
        """GPU-seconds by user or account (``flow``) of jobs that ended or run, older ones counting less: half after a week."""
        now, found = seen.now_s, defaultdict[str, float](float)
        running = [ended_now(job, now) for job in seen.jobs if not job.pending and job.start_s > 0]
        for each in (*self.ended, *running):
            at = [2.0 ** ((when - now) / HALF_LIFE_S) for when in (each.start_s, min(each.end_s, now))]
            found[getattr(each, flow)] += each.gpus * HALF_LIFE_S / math.log(2.0) * max(0.0, at[1] - at[0])
        return dict(found)

    def _forecast(self, seen: Seen) -> Any:
        """(n_jobs,) seconds of the jobs seen, from all that have ended."""
        n, asked = len(self.ended), [(job.user, job.name, gpus_of(job.asked)) for job in seen.jobs]
        first = min(each.start_s for each in self.ended)
        rows = [(each.user, each.name, each.gpus) for each in self.ended] + asked
        # Those to be forecast come last, at one instant behind every end, and end themselves long after: none teaches another.
        now = max(seen.now_s, max(each.end_s for each in self.ended)) - first + 1.0
        table = JobTable.from_columns(
            {
                "submit_s": [each.start_s - first for each in self.ended] + [now] * len(asked),
                "duration_s": [each.end_s - each.start_s for each in self.ended] + [LONGEST_S] * len(asked),
                "num_gpus": [max(1, gpus) for *_, gpus in rows],
                "user": [user for user, *_ in rows],
                "name": [name for _, name, _ in rows],
            }
        )
        assert len(table) == n + len(asked)
        return predict(table)[np.arange(n, n + len(asked))]


def ended_now(job: Job, now_s: float) -> Ended:
    return Ended(job.user, job.account, job.name, gpus_of(job.asked), job.start_s, now_s)


def _ended(line: str) -> Ended | None:
    try:
        user, account, name, gpus, start_s, end_s = json.loads(line)
        found = Ended(str(user), str(account), str(name), int(gpus), float(start_s), float(end_s))
        return found if found.end_s >= found.start_s >= 0 else None
    except (ValueError, TypeError):
        return None


def past_of(state: Path, needed: bool) -> Past | None:
    """The past that forecasts and fair shares rest on, beside the state file; None where neither is asked for."""
    return Past.read(state.with_suffix(".past.jsonl")) if needed else None
