"""The further tables of Alibaba PAI: who submitted a task and when, what its instances did, and the machines.

Columns as in the ``.header`` files of cluster-trace-gpu-v2020; its page says that ``start_time`` of a job is its
submission, that each ``job_name`` has one ``inst_id``, and its own scripts take a time of 0 for an unknown one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from rltune.nouns.cluster import Cluster, Pool
from rltune.nouns.errors import InputError
from rltune.traces.folder import find
from rltune.traces.table import Table, decode, number_of, one_line, parse_csv, read_bytes, read_chunks

JOB_COLUMNS = ("job_name", "inst_id", "user", "status", "start_time", "end_time")
INSTANCE_COLUMNS = (
    "job_name", "task_name", "inst_name", "worker_name", "inst_id", "status", "start_time", "end_time", "machine",
)  # fmt: skip
GROUP_COLUMNS = ("inst_id", "user", "gpu_type_spec", "group", "workload")
MACHINE_COLUMNS = ("machine", "gpu_type", "cap_cpu", "cap_mem", "cap_gpu")
GPU_TYPES = {"V100M32": "V100-32GB"}
"""Their names of GPU types where ours differ."""
BESIDE = {"job": "pai_job_table.csv", "instance": "pai_instance_table.csv", "group_tag": "pai_group_tag_table.csv"}

Floats = np.ndarray[Any, np.dtype[np.float64]]


def beside(path: Path) -> dict[str, Path]:
    """The tables that lie beside a task table, by name (``BESIDE``), gzipped or not."""
    found = {name: find(path.parent, (file, f"{file}.gz")) for name, file in BESIDE.items()}
    if found["job"] is None:
        found["group_tag"] = None  # its rows are found by the job's inst_id
    return {name: table for name, table in found.items() if table is not None}


def times(tasks: Table, start_s: Floats, end_s: Floats, instances: Path | None) -> tuple[Floats, Floats, list[str]]:
    """Start and end (n_tasks,) of each task, NaN where unknown; where it has none, from its first to its last instance."""
    start_s = np.where(start_s > 0, start_s, np.nan)
    end_s = np.where(end_s > 0, end_s, np.nan)
    open_ends = np.isnan(start_s) | np.isnan(end_s)
    if instances is None or not open_ends.any():
        return start_s, end_s, []
    keys = _keys(tasks.frame)
    span = _spans(instances, set(keys[open_ends]))
    found = span.reindex(keys)
    start_s = np.where(np.isnan(start_s), found["start"].to_numpy(), start_s)
    end_s = np.where(np.isnan(end_s), found["end"].to_numpy(), end_s)
    filled = int((open_ends & np.isfinite(start_s) & np.isfinite(end_s)).sum())
    return start_s, end_s, [f"{filled} tasks without start or end have those of their instances"]


def _spans(path: Path, wanted: set[str]) -> pd.DataFrame:
    """First start and last end of the instances of the wanted tasks."""
    columns = {INSTANCE_COLUMNS.index(c): c for c in ("job_name", "task_name", "start_time", "end_time")}
    parts = []
    for piece in read_chunks(path, columns, len(INSTANCE_COLUMNS)):
        piece = piece[pd.Series(_keys(piece), index=piece.index).isin(wanted)]
        start, end = (number_of(piece, column, path.name) for column in ("start_time", "end_time"))
        times = {"start": np.where(start > 0, start, np.nan), "end": np.where(end > 0, end, np.nan)}
        parts.append(_outer(pd.DataFrame(times, index=_keys(piece))))
    return _outer(pd.concat(parts))


def _outer(spans: pd.DataFrame) -> pd.DataFrame:
    return spans.groupby(level=0).agg({"start": "min", "end": "max"})


def _keys(frame: pd.DataFrame) -> np.ndarray[Any, Any]:
    """(n,) one text for each job and task; "" where either is empty."""
    keys: np.ndarray[Any, Any] = (frame["job_name"] + "/" + frame["task_name"]).fillna("").to_numpy(dtype=object)
    return keys


@dataclass(frozen=True, slots=True)
class Owners:
    """Submission (n_tasks,) in the log's seconds, further columns, and what must be told."""

    submit_s: Floats
    columns: dict[str, Any]
    notes: tuple[str, ...]


def owners(tasks: Table, start_s: Floats, tables: Mapping[str, Path]) -> Owners:
    """User, submission and name of each task; without the job table its start and its role."""
    role = {"name": tasks.frame["task_name"].to_numpy()}
    if "job" not in tables:
        return Owners(start_s, role, ())
    path = tables["job"]
    columns = {JOB_COLUMNS.index(c): c for c in ("job_name", "inst_id", "user", "start_time")}
    parts, wanted = [], set(tasks.frame["job_name"])
    for piece in read_chunks(path, columns, len(JOB_COLUMNS)):
        piece["start_time"] = number_of(piece, "start_time", path.name)
        parts.append(piece[piece["job_name"].isin(wanted)])
    jobs = pd.concat(parts)
    twice = jobs["job_name"].duplicated()
    jobs = jobs[~twice].set_index("job_name").reindex(tasks.frame["job_name"])
    submitted = jobs["start_time"].to_numpy(np.float64)
    known = submitted > 0
    early = known & (submitted > start_s)
    used = known & ~early
    submit_s = np.where(used, submitted, start_s)
    notes = [
        f"submission and user are those of the task's job; {int((~known).sum())} tasks without one and "
        f"{int(early.sum())} that start before it are submitted at their START",
        f"{int(tasks.frame['job_name'].duplicated(keep=False).sum())} tasks share their job with others and are jobs "
        "of their own here",
    ]
    if twice.any():
        notes.append(f"{int(twice.sum())} further rows of the same job in {path.name} passed over")
    found: dict[str, Any] = {"user": jobs["user"].to_numpy(), "wait_s": np.where(used, start_s - submit_s, np.nan)}
    if "group_tag" not in tables:
        return Owners(submit_s, found | role, tuple(notes))
    group = _groups(tables["group_tag"], set(jobs["inst_id"].dropna())).reindex(jobs["inst_id"]).to_numpy()
    notes.append(f"{int(pd.isna(group).sum())} tasks without a group tag have no name")
    return Owners(submit_s, found | {"name": group}, tuple(notes))


def _groups(path: Path, wanted: Iterable[str]) -> pd.Series[Any]:
    """inst_id -> group."""
    columns = {GROUP_COLUMNS.index(c): c for c in ("inst_id", "group")}
    wanted = set(wanted)
    parts = [piece[piece["inst_id"].isin(wanted)] for piece in read_chunks(path, columns, len(GROUP_COLUMNS))]
    tags = pd.concat(parts).dropna()
    return tags[~tags["inst_id"].duplicated()].set_index("inst_id")["group"]


class Machine(NamedTuple):
    """One kind of machine: GPU type by our name, GPUs, CPU cores and memory of each."""

    gpu_type: str
    gpus: int
    cpus: int
    memory_gb: int


PUBLISHED = {
    Machine("P100", 2, 64, 512): 798,
    Machine("T4", 2, 96, 512): 497,
    Machine("MISC", 8, 96, 512): 280,
    Machine("V100-32GB", 8, 96, 384): 135,
    Machine("V100", 8, 96, 512): 59,
    Machine("V100", 8, 96, 384): 45,
    Machine("CPU", 0, 96, 512): 83,
}
"""Machine -> how many: 1,897 with 6,742 GPUs (``pai_machine_spec``)."""


def read_pai_machines(path: str | Path) -> dict[Machine, int]:
    """Machine -> how many, from a ``pai_machine_spec.csv`` with or without its header line."""
    file = Path(path).name
    text = decode(read_bytes(Path(path)), file)
    headed = text.lstrip().startswith(MACHINE_COLUMNS[0] + ",")
    table = parse_csv(text, file, headed=headed)
    if table.frame.shape[1] != len(MACHINE_COLUMNS):
        raise InputError(f"{file}: {table.frame.shape[1]} columns; pai_machine_spec has {', '.join(MACHINE_COLUMNS)}")
    table = Table(file, MACHINE_COLUMNS, table.frame.set_axis(list(MACHINE_COLUMNS), axis=1), table.lines)
    counts: Counter[Machine] = Counter()
    for line, kind, cpus, memory, gpus in zip(
        table.lines, table.frame["gpu_type"], *(table.numbers(c) for c in MACHINE_COLUMNS[2:]), strict=True
    ):
        sizes = np.array([gpus, cpus, memory])
        if not isinstance(kind, str) or not np.isfinite(sizes).all() or (sizes < 0).any() or (sizes % 1 != 0).any():
            raise InputError(
                f"{file}: row {line}: {one_line(kind)!r} with cap_cpu, cap_mem, cap_gpu {cpus:g}, {memory:g}, {gpus:g}; "
                "use a GPU type and three whole numbers"
            )
        counts[Machine(GPU_TYPES.get(kind, kind), int(gpus), int(cpus), int(memory))] += 1
    return dict(sorted(counts.items()))


def pai_cluster(machines: Mapping[Machine, int] | None = None) -> Cluster:
    """The cluster "pai": one pool a kind of machine, node ids consecutive; machines without GPUs are left out.

    Default: the published machines, 1,814 nodes with 6,742 GPUs.
    """
    kinds = sorted((machine, nodes) for machine, nodes in (machines or PUBLISHED).items() if machine.gpus)
    if not kinds:
        raise InputError("pai_cluster: no machine with GPUs; at least one is needed")
    pools: list[Pool] = []
    for machine, nodes in kinds:
        first = sum(pool.nodes for pool in pools)
        name = f"{machine.gpu_type}x{machine.gpus}-{machine.cpus}c-{machine.memory_gb}GB"
        pools.append(
            Pool(
                name,
                nodes,
                machine.gpus,
                machine.gpu_type,
                first_node_id=first,
                cpus=float(machine.cpus),
                memory_gb=float(machine.memory_gb),
            )
        )
    return Cluster("pai", tuple(pools))
