"""What a living cluster is asked, and what it answers: requests, the rules that decide, and what an instant has changed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rltune.nouns.jobs import WHOLE, JobTable
from rltune.simulator.decisions import Picker, Steerer
from rltune.simulator.joint import JointAllocator
from rltune.simulator.options import Options


@dataclass(frozen=True, slots=True)
class Request:
    """What a job asks for, as the columns of `rltune.nouns.jobs.JobTable`; ``estimate_s`` NaN: nothing is known.

    ``firm``: once it runs it is neither suspended nor moved.
    """

    gpus: int = 1
    gpu_milli: int = WHOLE
    mig: str | None = None
    gpu_type: str | None = None
    vc: str | None = None
    user: str | None = None
    name: str | None = None
    priority: float = 0.0
    cpus: float = 0.0
    memory_gb: float = 0.0
    ways: str | None = None
    estimate_s: float = float("nan")
    firm: bool = False

    @property
    def kind(self) -> tuple[Any, ...]:
        """What decides where the job may run and how fast; jobs of a kind are of one class."""
        return (self.gpus, self.gpu_milli, self.mig, self.gpu_type, self.vc, self.cpus, self.memory_gb, self.ways)


class Place(NamedTuple):
    """GPUs ``gpus`` of node index ``node``; of a MIG slice the ``profile`` and its first memory slice ``start``."""

    node: int
    gpus: tuple[int, ...]
    profile: str | None = None
    start: int = -1


@dataclass(frozen=True, slots=True)
class Started:
    """A run of ``job`` begins at ``at_s``; work begins at ``ready_s``, once its GPUs are as it needs them.

    ``number``: the how-manieth run of the job, from 1. ``speed``: relative to the recorded hardware.
    """

    job: str
    at_s: float
    ready_s: float
    places: tuple[Place, ...]
    number: int
    speed: float


@dataclass(frozen=True, slots=True)
class Stopped:
    """A run of ``job`` is over at ``at_s``: ``outcome`` of `rltune.simulator.runs.OUTCOMES`."""

    job: str
    at_s: float
    outcome: str


@dataclass(frozen=True, slots=True)
class Cut:
    """GPU ``gpu`` of node index ``node`` has these MIG instances from now on, (profile, first memory slice); ``mig``: mode."""

    node: int
    gpu: int
    mig: bool
    instances: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Changes:
    """What one instant has brought, in this order: runs that stopped, GPUs cut anew, runs that started."""

    at_s: float
    stopped: tuple[Stopped, ...] = ()
    cuts: tuple[Cut, ...] = ()
    started: tuple[Started, ...] = ()


@dataclass(frozen=True, slots=True)
class Rules:
    """By what is decided: as `rltune.simulate` takes them, policies by name or learned ones.

    ``exact``: what is believed of run times is right, so that no job outlives it.
    """

    policy: str | Picker | Steerer = "fifo"
    backfill: str = "skip"
    allocator: str | JointAllocator = "best_fit"
    options: Options = field(default_factory=Options)
    exact: bool = False

    @property
    def baseline(self) -> str:
        return self.policy if isinstance(self.policy, str) else self.policy.baseline


@dataclass(slots=True)
class Live:
    """A job in the state: its row, and what it asked for."""

    id: str
    row: int
    request: Request
    submit_s: float
    known_s: float


def table_of(asked: list[Request], submit_s: Any, run_s: Any) -> JobTable:
    """The requests as a job table, in this order; ``submit_s`` does not fall."""
    columns: dict[str, Any] = {"submit_s": submit_s - min(0.0, float(submit_s[0])), "duration_s": run_s}
    columns["num_gpus"] = [x.gpus for x in asked]
    for name in ("gpu_milli", "mig", "gpu_type", "vc", "user", "name", "priority", "cpus", "memory_gb", "ways"):
        columns[name] = [getattr(x, name) for x in asked]
    return JobTable.from_columns(columns, source="jobs")
