"""A table of jobs pushed into a living cluster event by event, as a service does it: what the tests compare with a simulation."""

from __future__ import annotations

import heapq

import numpy as np

from rltune.nouns.cluster import Cluster
from rltune.nouns.jobs import JobTable
from rltune.simulator.live import LiveCluster
from rltune.simulator.requests import Request, Rules, Started

TEXTS = ("mig", "gpu_type", "vc", "user", "name", "ways")


def request_of(jobs: JobTable, row: int) -> Request:
    """What one job of a table asks for."""
    texts = {name: getattr(jobs, name).values()[row] for name in TEXTS}
    return Request(
        gpus=int(jobs.num_gpus[row]), gpu_milli=int(jobs.gpu_milli[row]), priority=float(jobs.priority[row]),
        cpus=float(jobs.cpus[row]), memory_gb=float(jobs.memory_gb[row]), **texts,
    )  # fmt: skip


class Pushed:
    """Jobs arrive when the table says so, runs end when their work is done; ``runs``: (job, start, nodes, grants) as they began.

    ``remade``: rows after whose submission the state is made anew.
    """

    def __init__(
        self, jobs: JobTable, cluster: Cluster, rules: Rules, known: bool, remade: tuple[int, ...] = ()
    ) -> None:
        self.jobs, self.remade = jobs, remade
        self.live = LiveCluster(cluster, rules, float(jobs.submit_s[0]))
        self.known = jobs.duration_s if known else np.full(len(jobs), np.nan)
        self.done = np.zeros(len(jobs))
        self.running: dict[int, Started] = {}
        self.ends: list[tuple[float, int, int]] = []
        self.runs: list[tuple[int, float, tuple[int, ...]]] = []
        self.begun = 0
        self.turn: dict[int, int] = {}

    def play(self) -> Pushed:
        """To the end of all jobs."""
        arrived, n = 0, len(self.jobs)
        while True:
            end = self.ends[0][0] if self.ends else np.inf
            submit = self.jobs.submit_s[arrived] if arrived < n else np.inf
            now = min(end, submit, self.live.wake_s)
            if now == np.inf:
                return self
            while self.ends and self.ends[0][0] <= now:
                at, turn, job = heapq.heappop(self.ends)
                if self.turn.get(job) == turn:
                    self.live.end(str(job), at, run_s=float(self.jobs.duration_s[job]))
            while arrived < n and self.jobs.submit_s[arrived] <= now:
                request = request_of(self.jobs, arrived)
                self.live.submit(str(arrived), request, float(self.jobs.submit_s[arrived]), float(self.known[arrived]))
                if arrived in self.remade:
                    self.live.rebuild()
                arrived += 1
            self._follow(now)

    def _follow(self, now: float) -> None:
        for change in self.live.advance(now):
            for one in change.stopped:
                job = int(one.job)
                self.turn.pop(job)
                run = self.running.pop(job)
                left = self.jobs.duration_s[job] - self.done[job]
                self.done[job] += min(max(0.0, one.at_s - run.ready_s) * run.speed, left)
            for one in change.started:
                job = int(one.job)
                self.running[job], self.begun = one, self.begun + 1
                self.turn[job] = self.begun
                left = self.jobs.duration_s[job] - self.done[job]
                heapq.heappush(self.ends, (one.ready_s + left / one.speed, self.begun, job))
                nodes = tuple(int(self.live.arrays.node_id[place.node]) for place in one.places)
                self.runs.append((job, one.at_s, nodes))
