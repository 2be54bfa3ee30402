"""CPU and memory requests of Google's jobs: a folder of the job and the task tables of 2011, or of 2019.

2011: ``job_events`` and ``task_events``, folders of parts or files that begin so, without headers (format document
v2.1). 2019: ``collection_events`` and ``instance_events`` with headers, as exported from BigQuery. Requests are parts
of the largest machine (1.0), summed over the job's tasks, each by its first submission.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from rltune.nouns.errors import InputError
from rltune.traces import google
from rltune.traces.table import Reading, Table, decode, first_fields, number_of, parse_csv, read_bytes, read_chunks

TASK_COLUMNS = (
    "time", "missing", "job_id", "task_index", "machine_id", "type", "user", "scheduling_class", "priority",
    "cpus", "memory", "disk", "different_machine",
)  # fmt: skip
"""``task_events`` of 2011."""
PREFIXES = {"cpus": ("resource_request.cpus", "resource_request_cpus", "cpus"),
            "memory": ("resource_request.memory", "resource_request_memory", "memory")}  # fmt: skip
"""How exports of 2019 name the two parts of ``resource_request``."""
UNIT_NOTE = "cpus and memory_gb are parts of the largest machine (1.0), as the log gives them: no cores, no GB"


@dataclass(frozen=True, slots=True)
class _Year:
    """One version of the trace: names of its tables, and how requests are found in the second."""

    jobs: str
    tasks: str
    headed: bool
    submit: int


YEARS = (_Year("job_events", "task_events", False, google.SUBMIT_2011),
         _Year("collection_events", "instance_events", True, google.SUBMIT_2019))  # fmt: skip


def matches(folder: Path) -> bool:
    """Whether the job table of either year lies in the folder."""
    return any(_parts(folder, year.jobs) for year in YEARS)


def read(folder: Path) -> Reading:
    """The jobs of ``google.py``, with the summed requests of their tasks where the task table is there too."""
    year = next(year for year in YEARS if _parts(folder, year.jobs))
    files = _parts(folder, year.jobs)
    table = _put_together(files, year)
    found = google.read_collections(table) if year.headed else google.read_job_events(table)
    parts = _parts(folder, year.tasks)
    if not parts:
        told = f"no {year.tasks} beside them: no CPU and memory requests"
        return replace(found, files=tuple(f.name for f in files), notes=(*found.notes, told))
    requests = pd.concat([_requests(part, year) for part in parts])
    requests = requests[~requests.duplicated(["job", "task"])]
    per_job = requests.groupby("job").agg(
        tasks=("task", "size"), cpus=("cpus", "sum"), memory=("memory", "sum"), priority=("priority", "max")
    )
    ids = pd.Index(np.asarray(found.columns["job_id"]).astype(str))
    joined = per_job.reindex(ids)
    without = int(joined["tasks"].isna().sum())
    foreign = int((~per_job.index.isin(ids)).sum())
    columns = found.columns | {
        "cpus": joined["cpus"].fillna(0.0).to_numpy(),
        "memory_gb": joined["memory"].fillna(0.0).to_numpy(),
    }
    if "priority" not in columns:
        columns["priority"] = joined["priority"].fillna(0.0).to_numpy()
    notes = (
        *found.notes,
        UNIT_NOTE,
        f"requests of {int(joined['tasks'].sum())} tasks; {without} jobs without a submitted task ask for nothing",
        f"{int((requests['cpus'].isna() | requests['memory'].isna()).sum())} tasks without a request count as 0",
        f"tasks of {foreign} jobs that are left out or not in {year.jobs} passed over",
    )
    return replace(found, columns=columns, files=tuple(f.name for f in (*files, *parts)), notes=notes)


def _parts(folder: Path, name: str) -> list[Path]:
    """Files of a table in order: of a folder of that name, or files that begin with it."""
    inside = folder / name
    files = inside.glob("*") if inside.is_dir() else folder.glob(f"{name}*")
    return sorted(file for file in files if file.is_file() and file.name.endswith((".csv", ".csv.gz")))


def _put_together(files: list[Path], year: _Year) -> Table:
    """The parts as one table; its lines count on from part to part."""
    tables = [parse_csv(decode(read_bytes(file), file.name), file.name, headed=year.headed) for file in files]
    if len({table.header for table in tables}) > 1:
        raise InputError(f"{year.jobs}: its parts have different columns; export them alike")
    if not year.headed and any(table.frame.shape[1] != len(google.EVENT_COLUMNS) for table in tables):
        raise InputError(f"{year.jobs}: {len(google.EVENT_COLUMNS)} columns are needed in every part")
    if year.headed and not set(google.COLLECTION_COLUMNS) <= set(tables[0].header):
        raise InputError(f"{year.jobs}: columns {', '.join(google.COLLECTION_COLUMNS)} are needed in every part")
    if len(tables) == 1:
        return tables[0]
    passed = np.cumsum([0, *(int(table.lines.max(initial=0)) for table in tables[:-1])])
    lines = np.concatenate([table.lines + before for table, before in zip(tables, passed, strict=True)])
    frame = pd.concat([table.frame for table in tables], ignore_index=True)
    return Table(f"{year.jobs} ({len(files)} parts, rows counted through)", tables[0].header, frame, lines)


def _requests(path: Path, year: _Year) -> pd.DataFrame:
    """job, task, cpus, memory, priority of each task's first submission in one part."""
    columns, width = _places(path) if year.headed else _PLACES_2011
    parts = []
    for piece in read_chunks(path, columns, width, headed=year.headed):
        piece = piece[piece.notna().any(axis=1)]
        kind = number_of(piece, "type", path.name)
        bad = np.isnan(kind) | piece["job"].isna().to_numpy() | piece["task"].isna().to_numpy()
        if bad.any():
            row = piece.index[int(np.argmax(bad))]
            raise InputError(f"{path.name}: row {row}: event type, job or task is empty; correct or remove the row")
        piece = piece[kind == year.submit]
        numbers = {c: number_of(piece, c, path.name) for c in ("cpus", "memory", "priority") if c in piece}
        piece = pd.DataFrame({"job": piece["job"], "task": piece["task"], "priority": 0.0} | numbers)
        parts.append(piece[~piece.duplicated(["job", "task"])])
    return pd.concat(parts)


_PLACES_2011 = ({2: "job", 3: "task", 5: "type", 8: "priority", 9: "cpus", 10: "memory"}, len(TASK_COLUMNS))


def _places(path: Path) -> tuple[dict[int, str], int]:
    """Where the columns of an export of 2019 stand, and how many there are."""
    header = [name.lower() for name in first_fields(decode(read_bytes(path), path.name))]
    names = {"collection_id": ("collection_id",), "instance_index": ("instance_index",), "type": ("type",)} | PREFIXES
    found = {ours: next((header.index(n) for n in theirs if n in header), None) for ours, theirs in names.items()}
    missing = [name for name, place in found.items() if place is None]
    if missing:
        raise InputError(f"{path.name}: no column {', '.join(missing)}; export resource_request as cpus and memory")
    ours = {"collection_id": "job", "instance_index": "task"}
    places = {place: ours.get(name, name) for name, place in found.items() if place is not None}
    if "priority" in header:
        places[header.index("priority")] = "priority"
    return places, len(header)
