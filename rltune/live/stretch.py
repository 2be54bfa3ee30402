"""A stretch of a trace as requests to the service: scaled in time, drawn down to what the cluster holds, some of it on MIG slices."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rltune.config.traces import trace_node
from rltune.mig.geometry import geometry
from rltune.nouns.cluster import Cluster
from rltune.nouns.errors import InputError
from rltune.nouns.mig_profiles import NAMES
from rltune.traces import Trace, from_config
from rltune.traces.load import load_trace

TASK = Path(__file__).with_name("task.py")
LEAST_S = 1.0
"""A run shorter than that is little more than the start of its process."""
LONGEST = 1 / 3
"""Longest run, as share of the replay: longer ones would only show that they run."""
MOST_A_MINUTE = 90
"""Jobs that one small machine can begin as processes beside everything else."""
SUBMITTED = 0.9
"""Share of the replay in which jobs come: the last ones can be seen to run."""
TENANTS = ("ann", "bob", "cyd")
PROFILES = (1, 2, 3)
"""Compute slices of the profiles asked for."""
EFFICIENCY = 1.3
"""Of ways on slices: how much more than its share of a GPU a slice does for a small job (the replay's own choice, told)."""


@dataclass(frozen=True, slots=True)
class Coming:
    """A job to be submitted ``at_s`` after the start; ``body``: of POST /v1/jobs."""

    at_s: float
    tenant: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Stretch:
    """``notes``: what was changed of the trace, a line each; ``label``: of the trace, with its source."""

    label: str
    jobs: tuple[Coming, ...]
    notes: tuple[str, ...]


def stretch_of(cfg: Mapping[str, Any], cluster: Cluster, folder: Path) -> Stretch:
    """What is replayed; ``folder``: where jobs save how far they are. InputError: the stretch has no job."""
    trace = from_config(trace_node(cfg["trace"])) if cfg["trace"] is not None else load_trace("helios")
    rng = np.random.default_rng(int(cfg["seed"]))
    seconds, speed = 60.0 * float(cfg["minutes"]), float(cfg["speed"])
    jobs = trace.jobs
    first = min(int(float(cfg["begin"]) * len(jobs)), len(jobs) - 1)
    begin = float(jobs.submit_s[first])
    inside = np.flatnonzero((jobs.submit_s >= begin) & (jobs.submit_s <= begin + SUBMITTED * seconds * speed))
    inside = inside[(inside >= first) & (jobs.num_gpus[inside] > 0)]
    if len(inside) == 0:
        raise InputError(
            f"begin={cfg['begin']:g}: no job of {trace.label} in the stretch; begin earlier, or raise speed"
        )
    widest = max(pool.gpus_per_node for pool in cluster.pools)
    width = np.minimum(jobs.num_gpus[inside], widest)
    run_s = np.clip(jobs.duration_s[inside] / speed, LEAST_S, LONGEST * seconds)
    asked = float(np.sum(width * run_s))
    share = min(1.0, float(cfg["load"]) * cluster.gpus * seconds / asked, MOST_A_MINUTE * seconds / 60 / len(inside))
    taken = np.flatnonzero(rng.random(len(inside)) < share)
    if len(taken) == 0:
        raise InputError(f"load={cfg['load']:g}: no job is drawn; raise load or minutes")
    asks = Asks(cluster, float(cfg["slices"]), rng)
    coming = tuple(
        Coming(
            (float(jobs.submit_s[inside[k]]) - begin) / speed,
            TENANTS[int(inside[k]) % len(TENANTS)],
            asks.body(int(width[k]), float(run_s[k]), folder),
        )
        for k in taken
    )
    percent = 100 * share * asked / (cluster.gpus * seconds)
    notes = [
        f"{len(taken)} of {len(inside)} jobs, drawn so that they ask for about {percent:.0f} % of the cluster (seed={cfg['seed']})",
        *changed(trace, inside[taken], widest, speed, LONGEST * seconds),
        *asks.notes(),
    ]
    return Stretch(trace.label, coming, tuple(notes))


def changed(trace: Trace, taken: Any, widest: int, speed: float, longest_s: float) -> list[str]:
    """What is otherwise than in the trace, in numbers."""
    wide = int(np.sum(trace.jobs.num_gpus[taken] > widest))
    run_s = trace.jobs.duration_s[taken] / speed
    long, short = int(np.sum(run_s > longest_s)), int(np.sum(run_s < LEAST_S))
    return [
        f"{count} {what}"
        for count, what in (
            (wide, f"jobs of more than {widest} GPUs ask for {widest}"),
            (long, f"jobs cut to {longest_s:.0f} s"),
            (short, f"jobs made {LEAST_S:g} s long"),
        )
        if count
    ]


class Asks:
    """What jobs ask for; one-GPU jobs partly a slice, or either (`ways`), by drawing."""

    def __init__(self, cluster: Cluster, share: float, rng: np.random.Generator) -> None:
        self._share, self._rng = share, rng
        self._kind = next((pool.gpu_type for pool in cluster.pools if pool.mig), None)
        self.drawn: Counter[str] = Counter()

    def body(self, gpus: int, run_s: float, folder: Path) -> dict[str, Any]:
        """A job that takes ``run_s`` seconds on what it asks for."""
        asked: dict[str, Any] = {"gpus": gpus}
        speeds = ""
        if gpus == 1 and self._kind is not None and self._rng.random() < self._share:
            asked, speeds = self._sliced(self._kind)
        return asked | {
            "command": [
                sys.executable,
                "-I",
                "-S",
                str(TASK),
                f"{run_s:.2f}",
                str(folder),
                *([speeds] if speeds else []),
            ],
            "estimate_s": round(run_s, 2),
            "grace_s": 5,
        }

    def _sliced(self, kind: str) -> tuple[dict[str, Any], str]:
        compute = int(self._rng.choice(PROFILES))
        profile = next(name for name in NAMES[kind].values() if name.startswith(f"{compute}g."))
        if self._rng.random() < 0.5:
            self.drawn["ask for a MIG slice"] += 1
            return {"profile": profile}, ""
        self.drawn["run on a GPU or on a slice (ways)"] += 1
        speed = min(1.0, EFFICIENCY * compute / self._whole(kind))
        return {"ways": [f"1x{kind}", f"{profile}@{speed:.2f}"]}, f"{compute}={speed:.2f}"

    def _whole(self, kind: str) -> int:
        table = geometry(kind)
        return table.compute if table is not None else 7

    def notes(self) -> list[str]:
        return [f"{count} one-GPU jobs {what}" for what, count in self.drawn.items()]
