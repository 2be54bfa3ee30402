"""What tests of rltune.slurm share: recorded outputs, made-up jobs and nodes, and a Slurm in memory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rltune.slurm.commands import JobRefused, Unreachable
from rltune.slurm.reading import Asked, Job, Node, Seen, nodes_of, seen_of

DATA = Path(__file__).parent / "data"
NOW_S = 10_000.0


def recorded() -> dict[str, Any]:
    """``squeue --json`` of a Slurm 22.05 with four nodes, as it came (working directories replaced)."""
    return dict(json.loads((DATA / "squeue-22.05.json").read_text()))


def recorded_nodes(partition: str = "main") -> list[Node]:
    return nodes_of((DATA / "nodes-22.05.txt").read_text(), partition)


def recorded_look(partition: str = "main", queue: Any = None) -> Seen:
    return seen_of(queue or recorded(), recorded_nodes(partition), partition, 1_800_000_000.0)


def job(
    number: str, gpus: int = 1, kind: str = "a100", minutes: float = 10.0, submit_s: float = 0.0, **more: Any
) -> Job:
    """A pending job on one node."""
    asked = more.pop("asked", Asked({kind: gpus}, 1, gpus))
    values: dict[str, Any] = {
        "partition": "main", "user": "ann", "name": "", "state": "PENDING", "reason": "Priority", "priority": 1, "nice": 0,
        "whole": number, **more,
    }  # fmt: skip
    return Job(id=number, submit_s=submit_s, limit_s=60.0 * minutes, asked=asked, **values)


def running(number: str, node: str, gpus: int, kind: str = "a100", minutes: float = 10.0, **more: Any) -> Job:
    held = {"state": "RUNNING", "reason": "", "start_s": NOW_S, "nodes": (node,), "held": ({kind: gpus},)}
    return job(number, gpus, kind, minutes, **(held | more))


def node(
    name: str, gpus: Mapping[str, int], used: Mapping[str, int] | None = None, cpus: int = 64, **more: Any
) -> Node:
    return Node(name, dict(gpus), dict(used or {}), more.get("open", True), cpus, more.get("memory", 64_000.0))


def look_of(jobs: Iterable[Job], nodes: Iterable[Node], **more: Any) -> Seen:
    jobs, nodes = tuple(jobs), tuple(nodes)
    names = {each.name for each in nodes}
    mine = tuple(each for each in jobs if (each.partition == "main" if each.pending else names & {*each.nodes}))
    return Seen(NOW_S, "main", mine, nodes, jobs, **more)


FOUR = (
    node("n1", {"a100": 8}),
    node("n2", {"a100": 8}),
    node("n3", {"a100": 8}),
    node("n4", {"a100": 6, "a100_3g.40gb": 2, "a100_1g.10gb": 7}),
)


@dataclass
class Memoryless:
    """A Slurm in memory: what scontrol was seen to do with pending jobs (22.05), and when it is to fail.

    ``own``: Slurm's own priority. ``fail_at``: number of the command before which the process is "killed".
    """

    jobs: dict[str, Job]
    own: int = 100
    fail_at: int | None = None
    down_at: int | None = None
    done: list[tuple[str, ...]] = field(default_factory=list)

    def _next(self, *words: str) -> Job:
        if self.fail_at is not None and len(self.done) >= self.fail_at:
            raise KeyboardInterrupt
        if self.down_at is not None and len(self.done) >= self.down_at:
            raise Unreachable("Slurm's controller does not answer")
        self.done.append(words)
        found = self.jobs.get(words[1])
        if found is None:
            raise JobRefused(f"{words}: Invalid job id specified")
        return found

    def hold(self, name: str) -> None:
        found = self._next("hold", name)
        self.jobs[name] = replace(found, priority=0, reason="JobHeldAdmin")

    def release(self, name: str) -> None:
        found = self._next("release", name)
        self.jobs[name] = replace(found, priority=self.own, reason="Priority" if found.pending else "")

    def update(self, name: str, setting: str) -> None:
        found = self._next("update", name, setting)
        key, _, value = setting.partition("=")
        if key == "Priority":
            # Seen: a priority takes the nice value away.
            self.jobs[name] = replace(found, priority=int(value), nice=0)
        elif key == "Nice":
            self.jobs[name] = replace(found, nice=int(value))
        elif not found.pending:
            raise JobRefused(f"{name}: Invalid node name specified")
        else:
            self.jobs[name] = replace(found, required=value)

    def begin(self, name: str, where: str) -> None:
        """Slurm starts a job."""
        found = self.jobs[name]
        self.jobs[name] = replace(
            found, state="RUNNING", reason="", start_s=NOW_S, nodes=(where,), held=(dict(found.asked.gpus),)
        )

    def look(self, nodes: Iterable[Node] = FOUR) -> Seen:
        """What is to be seen, GPUs in use counted."""
        used: dict[str, dict[str, int]] = {}
        for each in self.jobs.values():
            for name, gpus in zip(each.nodes, each.held, strict=True):
                for kind, count in gpus.items():
                    here = used.setdefault(name, {})
                    here[kind] = here.get(kind, 0) + count
        return look_of(self.jobs.values(), (replace(each, used=used.get(each.name, {})) for each in nodes))
