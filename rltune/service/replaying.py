"""A recorded stream of jobs through the service, on a clock that is set: the decisions of a simulation, or it says where not.

Machines are virtual: they carry every order out at once, and a run ends when its job's run time is done.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rltune.core.choices import Offered, Taking, offer
from rltune.nouns.cluster import Cluster, Pool
from rltune.nouns.jobs import WHOLE, JobTable
from rltune.nouns.mig_profiles import PROFILES
from rltune.service.clock import SetClock
from rltune.service.dispatch import Seat
from rltune.service.engine import Asked, Engine, Settings
from rltune.service.ledger import Event
from rltune.service.nodes.virtual import VirtualNode
from rltune.service.specs import JobSpec
from rltune.service.store import Store
from rltune.simulator.options import Options, job_speed
from rltune.simulator.requests import Rules
from rltune.simulator.ways import with_ways


class Decided(NamedTuple):
    """A run that was begun: job, second, node ids."""

    job: str
    at_s: float
    nodes: tuple[int, ...]


def explicit(jobs: JobTable, cluster: Cluster, options: Options) -> list[list[str]]:
    """Of each job the ways to run with their speeds, as a client would list them: what tables and options say, written out."""
    speed, _ = job_speed(options, jobs, cluster)
    jobs, _ = with_ways(jobs, cluster, options, speed)
    offered = offer(jobs, cluster, speed, None, Taking(options.way_rule, float(options.way_least_speed)))
    of_class = [_ways(offered, cluster, c) for c in range(len(offered.choices.ptr) - 1)]
    return [of_class[c] for c in offered.cls.tolist()]


def _ways(offered: Offered, cluster: Cluster, c: int) -> list[str]:
    choices, demand, out = offered.choices, offered.demand, []
    for q in range(int(choices.ptr[c]), int(choices.ptr[c + 1])):
        kind, way = cluster.pools[int(choices.pool[q])].gpu_type, int(choices.way[q])
        profile, milli = int(demand.profile[way]), int(demand.milli[way])
        what = f"{int(demand.gpus[way])}x{kind}" if milli == WHOLE else f"{milli / WHOLE:g}x{kind}"
        out.append(f"{PROFILES[profile]}:{kind}@{choices.rate[q]!r}" if profile >= 0 else f"{what}@{choices.rate[q]!r}")
    return [text.replace("np.float64(", "").replace(")", "") for text in dict.fromkeys(out)]


class Replay:
    """``Replay(jobs, cluster, rules, folder).play()``: what was decided.

    ``ways``: of each job as clients list them, None: what the job table asks for. ``known``: whether run times are told as estimates.
    """

    def __init__(
        self,
        jobs: JobTable,
        cluster: Cluster,
        rules: Rules,
        folder: Path,
        ways: Sequence[list[str]] | None = None,
        known: bool = False,
    ) -> None:
        self.jobs, self.cluster, self.ways, self.known = jobs, cluster, ways, known
        self.clock = SetClock(float(jobs.submit_s[0]))
        machines, seats = virtual_machines(cluster)
        self.machines = {machine.name: machine for machine in machines}
        self.store = Store(folder / "replay.sqlite")
        settings = Settings("requested" if known else "unknown", most_waiting=10**7, most_of_tenant=10**7)
        self.engine = Engine(self.store, cluster, rules, machines, seats, self.clock, settings)
        self.engine.listeners.append(self._heard)
        self.decided: list[Decided] = []
        self._row: dict[str, int] = {}
        self._done = np.zeros(len(jobs))
        self._begun: dict[str, tuple[float, float]] = {}
        self._ends: list[tuple[float, int, str]] = []

    def play(self) -> list[Decided]:
        """To the end of all jobs."""
        arrived, n, engine = 0, len(self.jobs), self.engine
        while True:
            end = self._ends[0][0] if self._ends else np.inf
            submit = self.jobs.submit_s[arrived] if arrived < n else np.inf
            now = min(end, submit, engine.live.wake_s)
            if now == np.inf:
                self.store.close()
                return self.decided
            self.clock.set(now)
            while self._ends and self._ends[0][0] <= now:
                self._end(heapq.heappop(self._ends)[2])
            asked = []
            while arrived < n and self.jobs.submit_s[arrived] <= now:
                asked.append(self._submission(arrived))
                arrived += 1
            engine.turn(asked)
            for one in asked:
                one.future.result(timeout=0)

    def _submission(self, row: int) -> Asked:
        spec = self.spec(row)

        def act(engine: Engine) -> Any:
            (name,) = engine.submit([spec], self.jobs.vc.values()[row] or "all")
            self._row[name] = row
            return name

        return Asked(Future(), act)

    def spec(self, row: int) -> JobSpec:
        """A job of the table as a client would submit it."""
        jobs = self.jobs
        asked: dict[str, Any] = {
            "command": ["replayed"],
            "gpus": int(jobs.num_gpus[row]),
            "priority": int(jobs.priority[row]),
        }
        if self.known:
            asked["estimate_s"] = max(1e-3, float(jobs.duration_s[row]))
        if self.ways is not None:
            return JobSpec.model_validate(asked | {"ways": self.ways[row]})
        if (mig := jobs.mig.values()[row]) is not None:
            asked["profile"] = mig
        if (kinds := jobs.gpu_type.values()[row]) is not None:
            asked["gpu_types"] = kinds.split("|")
        if jobs.gpu_milli[row] != WHOLE:
            asked["share"] = float(jobs.gpu_milli[row]) / WHOLE
        return JobSpec.model_validate(asked)

    def _end(self, run: str) -> None:
        """A run's work is done, unless it has been suspended meanwhile."""
        job = run.rpartition(".")[0]
        record = self.engine.ledger.records[job]
        if record.run == run and record.holds:
            for machine in self.engine.dispatch.machines_of(record.places):
                self.machines[machine].end(run)

    def _heard(self, news: list[Event]) -> None:
        for event in news:
            if event.job is None:
                continue
            if event.what == "stopped" and event.job in self._begun:
                ready, speed = self._begun.pop(event.job)
                row = self._row[event.job]
                left = float(self.jobs.duration_s[row]) - self._done[row]
                self._done[row] += min(max(0.0, event.at_s - ready) * speed, left)
            elif event.what == "started":
                self._start(event)

    def _start(self, event: Event) -> None:
        assert event.job is not None
        row, ready, speed = self._row[event.job], event.data["ready_s"], event.data["speed"]
        self._begun[event.job] = ready, speed
        left = float(self.jobs.duration_s[row]) - self._done[row]
        heapq.heappush(self._ends, (ready + left / speed, len(self.decided), event.data["run"]))
        nodes = tuple(int(name.rpartition("-")[2]) for name in event.data["nodes"])
        self.decided.append(Decided(str(self.jobs.job_id[row]), event.at_s, nodes))


def virtual_machines(cluster: Cluster) -> tuple[list[VirtualNode], list[Seat]]:
    """A machine a node of the cluster, called by its pool and node id."""
    machines, seats = [], []
    for pool in cluster.pools:
        for k in range(pool.nodes):
            name = f"{pool.name}-{pool.first_node_id + k}"
            machines.append(VirtualNode(name, kinds_of(pool), mig=pool.mig))
            seats.append(Seat(name, tuple(range(pool.gpus_per_node))))
    return machines, seats


def kinds_of(pool: Pool) -> list[str]:
    return [pool.gpu_type] * pool.gpus_per_node


def differences(simulated: Sequence[Decided], served: Sequence[Decided], within_s: float = 1e-3) -> int:
    """Decisions that are not the same: of a job's k-th run another second (beyond rounding) or other nodes, or no such run."""
    a, b = _by_job(simulated), _by_job(served)
    count = 0
    for job in a.keys() | b.keys():
        mine, theirs = a.get(job, []), b.get(job, [])
        count += abs(len(mine) - len(theirs))
        for x, y in zip(mine, theirs, strict=False):
            count += abs(x.at_s - y.at_s) > within_s or sorted(x.nodes) != sorted(y.nodes)
    return int(count)


def _by_job(decided: Sequence[Decided]) -> dict[str, list[Decided]]:
    out: dict[str, list[Decided]] = {}
    for one in sorted(decided, key=lambda x: (x.job, x.at_s)):
        out.setdefault(one.job, []).append(one)
    return out
