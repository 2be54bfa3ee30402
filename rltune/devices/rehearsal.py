"""A simulated schedule on simulated GPUs: every MIG slice that a job held is created and destroyed, in virtual time.

A device with the rules of the driver is asked for every slice that the simulator booked: what it refuses no GPU would have
done. Each run creates its instance and destroys it, which is the most that changing instances can take: the simulator keeps
idle instances and charges the changes that a run needs to that run (`mig_reconfiguration`; then they are part of ``run_s``).
The MIG mode is on throughout: that a GPU changes between slices and whole jobs, which may take a reset, is not counted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import pandas as pd

from rltune.devices.simulated import SimulatedDriver
from rltune.devices.state import compute_slices
from rltune.devices.status import DeviceError, status
from rltune.mig.geometry import Profile, geometry
from rltune.nouns.cluster import Cluster
from rltune.nouns.errors import InputError

COLUMNS = ("job_id", "start_s", "end_s", "nodes", "gpus", "pool", "mig", "gpu", "first_slice")
"""What is read of a schedule, as in `rltune.simulator.result.Result.attempts` and ``runs.parquet``."""


class Refusal(NamedTuple):
    """What a device refused: ``action`` create or destroy, ``at_s`` in the schedule's seconds, ``status`` as NVML names it."""

    job: str
    gpu: str
    profile: str
    start: int
    action: str
    at_s: float
    status: str


@dataclass
class Kind:
    """What was done with one profile of a GPU type; seconds are documented ones; ``run_s`` jobs held such slices."""

    created: int = 0
    destroyed: int = 0
    create_s: float = 0.0
    destroy_s: float = 0.0
    run_s: float = 0.0


@dataclass
class Rehearsal:
    """``kinds``: (GPU type, profile) -> `Kind`; ``refusals`` none where the schedule could be; ``gpus`` that were cut.

    ``skipped``: runs that need no instance, by what they held: whole GPUs, a share of one, no GPU.
    """

    kinds: dict[tuple[str, str], Kind] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    gpus: int = 0

    @property
    def total(self) -> Kind:
        """All profiles together."""
        found = self.kinds.values()
        return Kind(*(sum(getattr(kind, name) for kind in found) for name in Kind.__dataclass_fields__))

    @property
    def overhead(self) -> float:
        """Seconds of creation and destruction over those that jobs held slices; NaN where none did."""
        total = self.total
        return (total.create_s + total.destroy_s) / total.run_s if total.run_s else float("nan")


class _Run(NamedTuple):
    """A run in a slice: of ``gpu`` (node and GPU, as text), of ``model``."""

    job: str
    gpu: str
    model: str
    profile: str
    start: int
    begin_s: float
    end_s: float


def rehearse(schedule: pd.DataFrame, cluster: Cluster) -> Rehearsal:
    """Replay a schedule's MIG slices on simulated GPUs, one for each that was cut.

    ``schedule``: `Result.attempts`, or the ``runs.parquet`` of a run directory. What a device refuses is listed, and the replay
    goes on. InputError for a frame without the columns, a pool, node or GPU that the cluster has not, or times that are none.
    """
    missing = [name for name in COLUMNS if name not in schedule.columns]
    if missing:
        raise InputError(f"schedule: column {missing[0]!r} is missing; give Result.attempts, or simulate again")
    done = Rehearsal()
    cut = schedule.mig.notna().to_numpy()
    done.skipped = Counter(_held(gpus) for gpus in schedule.gpus[~cut])
    stage = _Stage(done)
    for begins, run in _in_order(list(_runs(schedule[cut], cluster))):
        (stage.begin if begins else stage.end)(run)
    done.gpus = len(stage.drivers)
    done.kinds = dict(sorted(done.kinds.items()))
    return done


def _held(gpus: list[float]) -> str:
    total = float(sum(gpus))
    return "no GPU" if total == 0 else "whole GPUs" if total.is_integer() else "a share of a GPU"


def _runs(rows: pd.DataFrame, cluster: Cluster) -> Iterator[_Run]:
    pools = {pool.name: pool for pool in cluster.pools}
    columns = [rows[name].tolist() for name in COLUMNS]
    for job, begin_s, end_s, nodes, _, name, profile, gpu, start in zip(*columns, strict=True):
        where = f"schedule: job {job}"
        pool = pools.get(name)
        if pool is None or not pool.mig:
            known = ", ".join(name for name, one in pools.items() if one.mig) or "none"
            raise InputError(f"{where}: pool {name!r} of {cluster.name} has no MIG; pools with it: {known}")
        if not (math.isfinite(begin_s) and math.isfinite(end_s) and begin_s <= end_s):
            raise InputError(f"{where}: from {begin_s:g} to {end_s:g} s is no time; simulate again")
        node = int(nodes[0]) if len(nodes) == 1 else -1
        inside = 0 <= node - pool.first_node_id < pool.nodes
        if not inside or not 0 <= gpu < pool.gpus_per_node:
            raise InputError(f"{where}: nodes {list(nodes)}, GPU {gpu}: pool {pool.name} has no such GPU")
        place = f"{pool.name} node {node} GPU {gpu}"
        yield _Run(str(job), place, pool.gpu_type, str(profile), int(start), float(begin_s), float(end_s))


def _in_order(runs: list[_Run]) -> Iterator[tuple[bool, _Run]]:
    """Beginnings (True) and ends as they happen.

    At one instant as in the simulator: what ends makes room, runs without duration come and go, the others begin.
    """
    events: list[tuple[float, int, int, bool]] = []
    for number, run in enumerate(runs):
        brief = run.begin_s == run.end_s
        events.append((run.begin_s, 1 if brief else 2, number, True))
        events.append((run.end_s, 1 if brief else 0, number, False))
    # Of a run without duration the beginning was put in first, and the sort keeps it so.
    for _, _, number, begins in sorted(events, key=lambda event: event[:3]):
        yield begins, runs[number]


class _Stage:
    """The simulated GPUs, and which instance each run holds."""

    def __init__(self, done: Rehearsal) -> None:
        self.done = done
        self.drivers: dict[str, SimulatedDriver] = {}
        self._instances: dict[_Run, tuple[int, int]] = {}
        self._profiles: dict[tuple[str, str], Profile] = {}

    def begin(self, run: _Run) -> None:
        driver = self.drivers.get(run.gpu)
        if driver is None:
            # Nothing real runs here: no seconds are waited, and no processes looked for.
            driver = self.drivers[run.gpu] = SimulatedDriver([run.model], pace=0.0, scan=False)
        try:
            number = driver.create_gpu_instance(0, run.profile, run.start)
            inner = driver.create_compute_instance(0, number, compute_slices(run.profile))
        except DeviceError as error:
            self._refused(run, "create", run.begin_s, error)
            return
        self._instances[run] = number, inner
        kind = self._kind(run)
        kind.created += 1
        kind.create_s += self._profile(run).create_s
        kind.run_s += run.end_s - run.begin_s

    def end(self, run: _Run) -> None:
        held = self._instances.pop(run, None)
        if held is None:
            return  # its creation was refused, and is listed
        driver = self.drivers[run.gpu]
        try:
            driver.destroy_compute_instance(0, held[0], held[1])
            driver.destroy_gpu_instance(0, held[0])
        except DeviceError as error:
            self._refused(run, "destroy", run.end_s, error)
            return
        kind = self._kind(run)
        kind.destroyed += 1
        kind.destroy_s += self._profile(run).destroy_s

    def _refused(self, run: _Run, action: str, at_s: float, error: DeviceError) -> None:
        name = status(error.code).name
        self.done.refusals.append(Refusal(run.job, run.gpu, run.profile, run.start, action, at_s, name))

    def _kind(self, run: _Run) -> Kind:
        return self.done.kinds.setdefault((run.model, run.profile), Kind())

    def _profile(self, run: _Run) -> Profile:
        key = run.model, run.profile
        if key not in self._profiles:
            table = geometry(run.model)
            self._profiles[key] = table.profiles[table.profile(run.profile)]
        return self._profiles[key]
