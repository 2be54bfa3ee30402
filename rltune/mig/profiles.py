"""How fast real models run on slices of a GPU: published measurements, and a hook for measuring your own.

The published ones are those of MIGPerf (MLSysOps/MIGProfiler) and SUSTech-HPCLab/MIG_Schedule, on A100-40GB and A100-80GB,
gathered in ``mig_profiles/mig_relative_throughput.csv`` beside the real traces: throughput of a slice over that of
the whole GPU, of the same model, batch and sequence length.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Protocol

import numpy as np
import pandas as pd

from rltune.mig.batch.tasks import Tasks
from rltune.mig.geometry import geometry
from rltune.nouns.documents import cell
from rltune.nouns.errors import InputError

FILE = Path("mig_profiles") / "mig_relative_throughput.csv"
"""Below the folder of real traces."""
DEVICES = {"A100-40GB": "A100-40GB", "A100-80GB": "A100-80GB", "A100-SXM4-80GB": "A100-80GB"}
"""Names in the file -> GPU types."""
COLUMNS = ("source", "device", "task", "model", "batch_size", "seq_length", "mig", "latency", "rel_throughput")
KEYS = ["gpu", "task", "model", "batch_size", "seq_length"]
REPEATS = 3


def read_profiles(path: str | Path) -> pd.DataFrame:
    """A row a measured workload: gpu, task (train or infer), model, batch_size and seq_length (0: not recorded), and a column a
    profile's name.

    A cell is the throughput over that of the whole GPU (median of repeated measurements), missing where it was not
    measured or did not fit. InputError for a file that is none of these.
    """
    path = Path(path)
    try:
        rows = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read ({' '.join(str(error).split())}); give {FILE} of the traces"
        ) from None
    missing = [column for column in COLUMNS if column not in rows]
    if missing:
        raise InputError(f"{path}: no column {missing[0]!r}; the file has {', '.join(COLUMNS)}")
    unknown = sorted(set(rows.device) - set(DEVICES))
    if unknown:
        raise InputError(f"{path}: device {unknown[0]!r} is unknown; known are {', '.join(DEVICES)}")
    # Where a size is not recorded, grouping by it would lose the row.
    sizes = {"batch_size": rows.batch_size.fillna(0), "seq_length": rows.seq_length.fillna(0)}
    rows = rows.assign(gpu=rows.device.map(DEVICES), **sizes)[rows.mig != "MIG-off"]
    return rows.pivot_table("rel_throughput", KEYS, "mig", "median").reset_index()


def tasks_from(profiles: pd.DataFrame, gpu: str, whole_gpu_s: Sequence[float]) -> Tasks:
    """A batch of measured workloads, each of which takes a given time on the whole GPU.

    ``profiles``: (n_tasks,) rows of `read_profiles`; ``whole_gpu_s`` (n_tasks,). A profile that was not measured cannot be
    used; an instance of the whole GPU always can.
    """
    table = geometry(gpu)
    if len(profiles) != len(whole_gpu_s):
        raise InputError(f"{len(profiles)} workloads but {len(whole_gpu_s)} run times; give one each")
    other = sorted(set(profiles.gpu) - {table.model})
    if other:
        raise InputError(f"workloads measured on {other[0]} say nothing of {table.model}; choose rows with its gpu")
    names: list[str] = []
    for row in profiles.to_dict("records"):
        name = f"{row['model']}-{row['task']}-b{row['batch_size']:g}"
        name += f"-s{row['seq_length']:g}" if row["seq_length"] else ""
        names.append(name if name not in names else f"{name}-{len(names)}")
    seconds = np.full((len(names), len(table.profiles)), np.inf)
    for index, profile in enumerate(table.profiles):
        if profile.compute == table.compute:
            seconds[:, index] = whole_gpu_s
        elif profile.name in profiles:
            speed = profiles[profile.name].to_numpy(np.float64)
            seconds[:, index] = np.where(np.isnan(speed), np.inf, np.asarray(whole_gpu_s) / speed)
    return Tasks(tuple(names), {table.model: seconds})


class Measure(Protocol):
    """Runs a task once in an instance of a profile."""

    def __call__(self, task: str, profile: str) -> float | None:
        """Seconds of ``task`` in an instance of ``profile`` (the driver's name); None where it does not fit."""
        ...


def measure_tasks(
    tasks: Sequence[str], gpu: str, measure: Measure, repeats: int = REPEATS, kinds: Sequence[str] | None = None
) -> Tasks:
    """Time every task on every profile (or those of these kinds) of a GPU: medians of ``repeats`` runs.

    What runs a task, on hardware or simulated, is the caller's. A task that does not fit once is not tried again there.
    """
    if repeats < 1:
        raise InputError(f"repeats={repeats}; measure at least once")
    table = geometry(gpu)
    wanted = range(len(table.profiles)) if kinds is None else [table.profile(kind) for kind in kinds]
    seconds = np.full((len(tasks), len(table.profiles)), np.inf)
    for row, task in enumerate(tasks):
        for profile in wanted:
            seconds[row, profile] = _measured(task, table.profiles[profile].name, measure, repeats)
    return Tasks(tuple(tasks), {table.model: seconds})


def _measured(task: str, profile: str, measure: Measure, repeats: int) -> float:
    """Median seconds, infinite where the task does not fit."""
    taken: list[float] = []
    for _ in range(repeats):
        seconds = measure(task, profile)
        if seconds is None:
            return float("inf")
        if not (np.isfinite(seconds) and seconds > 0):
            raise InputError(f"task {task!r} on {profile} took {seconds} s; a positive time, or None, is needed")
        taken.append(seconds)
    return median(taken)


def write_tasks(path: str | Path, tasks: Tasks) -> None:
    """The CSV that `rltune.mig.batch.tasks.read_tasks` reads: a column a profile that some task can use, by its name."""
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        models = list(tasks.seconds)
        used = _used(tasks)
        writer.writerow(["task", *(["model"] if len(models) > 1 else []), *used])
        for row, task in enumerate(tasks.names):
            for model in models:
                known = {p.name: s for p, s in zip(geometry(model).profiles, tasks.seconds[model][row], strict=True)}
                cells = ["" if not np.isfinite(known.get(name, np.inf)) else repr(float(known[name])) for name in used]
                writer.writerow([cell(task), *([model] if len(models) > 1 else []), *cells])


def _used(tasks: Tasks) -> list[str]:
    """Names of the profiles that some task can use."""
    found: dict[str, None] = {}
    for model, seconds in tasks.seconds.items():
        for index, profile in enumerate(geometry(model).profiles):
            if np.isfinite(seconds[:, index]).any():
                found[profile.name] = None
    return list(found)
