"""Google's cluster traces of 2011 and 2019 (google/cluster-data, CC-BY-4.0): CPU workloads.

They serve as an arrival process: how many GPUs a job wants is invented (one), and every
trace says so. 2011: ``job_events`` parts without a header (format document v2.1), or one
Parquet row a job. 2019: ``collection_events`` with a header, as exported from BigQuery.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

import numpy as np
import pandas as pd

from rltune.nouns.errors import InputError
from rltune.traces.table import Reading, Table

EVENT_COLUMNS = ("time", "missing", "job_id", "type", "user", "scheduling_class", "job_name", "logical_name")
"""``job_events``: microseconds, an information flag, ids and hashed names."""
COLLECTION_COLUMNS = ("time", "type", "collection_id", "priority")
PARQUET_COLUMNS = ("job_id", "submit_us", "schedule_us", "end_us", "end_event", "scheduling_class", "user")
SUBMIT_2011, SCHEDULE_2011, ENDS_2011 = 0, 1, {2: "EVICT", 3: "FAIL", 4: "FINISH", 5: "KILL", 6: "LOST"}
SUBMIT_2019, SCHEDULE_2019, ENDS_2019 = 0, 3, {4: "EVICT", 5: "FAIL", 6: "FINISH", 7: "KILL", 8: "LOST"}
ORIGIN_2011, ORIGIN_2019 = datetime(2011, 5, 1, 18, 50), datetime(2019, 4, 30, 23, 50)
"""Ten minutes before the first event, local time: 2011-05-01 19:00 EDT, 2019-05-01 00:00 PDT (the format documents)."""
INVENTED = "CPU jobs: the GPUs are invented, one a job"


def is_job_events(fields: tuple[str, ...]) -> bool:
    """A first line of ``job_events``: eight fields, the first and third whole numbers, the fourth an event type."""
    return (
        len(fields) == len(EVENT_COLUMNS)
        and fields[0].isdigit()
        and fields[2].isdigit()
        and fields[3].isdigit()
        and int(fields[3]) <= 8
    )


def read_job_events(table: Table) -> Reading:
    """The 2011 job table, or parts of it put together."""
    frame = table.frame.set_axis(list(EVENT_COLUMNS), axis=1)
    table = Table(table.file, EVENT_COLUMNS, frame, table.lines)
    return _from_events(
        table, "job_id", (SUBMIT_2011, SCHEDULE_2011, ENDS_2011), ORIGIN_2011, {"user": "user", "name": "logical_name"}
    )


def read_collections(table: Table) -> Reading:
    """The 2019 collections (jobs and alloc sets)."""
    optional = {"user": "user", "name": "collection_logical_name", "priority": "priority"}
    kept = {ours: theirs for ours, theirs in optional.items() if theirs in table.header}
    return _from_events(table, "collection_id", (SUBMIT_2019, SCHEDULE_2019, ENDS_2019), ORIGIN_2019, kept)


def read_parquet(frame: pd.DataFrame, file: str) -> Reading:
    """One row a job of 2011."""
    first = frame["schedule_us"].astype("Float64").to_numpy(np.float64, na_value=np.nan)
    last = frame["end_us"].astype("Float64").to_numpy(np.float64, na_value=np.nan)
    submit = frame["submit_us"].astype("Float64").to_numpy(np.float64, na_value=np.nan)
    columns = {
        "user": frame["user"],
        "priority": frame["scheduling_class"],
        "status": frame["end_event"].map(ENDS_2011),
    }
    lines = np.arange(1, len(frame) + 1)
    return _jobs(_Lives(frame["job_id"].to_numpy(), submit, first, last, columns, lines), ORIGIN_2011, file)


def _from_events(
    table: Table, key: str, codes: tuple[int, int, dict[int, str]], origin: datetime, optional: dict[str, str]
) -> Reading:
    """Events to jobs: first submission, first start after it, last end."""
    submitted, scheduled, ends = codes
    time, kind = table.numbers("time"), table.numbers("type")
    bad = ~np.isfinite(time) | ~np.isfinite(kind) | table.frame[key].isna().to_numpy()
    if bad.any():
        row = table.lines[int(np.argmax(bad))]
        raise InputError(f"{table.file}: row {row}: time, type or {key} is no number; correct or remove the row")
    events = pd.DataFrame({"job": table.frame[key], "time": time, "kind": kind, "line": table.lines})
    first = events[events.kind == submitted].groupby("job").agg(time=("time", "min"), line=("line", "first"))
    if first.empty:
        raise InputError(f"{table.file}: no submission among {len(events)} events; at least one is needed")
    started = events[events.kind == scheduled].groupby("job").time.min().reindex(first.index)
    last = (
        events[events.kind.isin(ends)]
        .sort_values("time")
        .groupby("job")
        .agg(time=("time", "last"), kind=("kind", "last"))
    )
    last = last.reindex(first.index)
    named = table.frame.set_index(key)
    named = named[~named.index.duplicated()].reindex(first.index)
    columns = {ours: named[theirs] for ours, theirs in optional.items()} | {"status": last.kind.map(ends)}
    times = (first.time.to_numpy(), started.to_numpy(), last.time.to_numpy())
    return _jobs(_Lives(first.index.to_numpy(), *times, columns, first.line.to_numpy()), origin, table.file)


class _Lives(NamedTuple):
    """Jobs as recorded, arrays (n_jobs,): microseconds, further ``columns`` by name, ``lines`` of the file."""

    job_id: np.ndarray
    submit_us: np.ndarray
    start_us: np.ndarray
    end_us: np.ndarray
    columns: dict[str, pd.Series]
    lines: np.ndarray


def _jobs(lives: _Lives, origin: datetime, file: str) -> Reading:
    """Jobs submitted, started and ended within the trace; time 0 stands for before it, 2^63 - 1 for after."""
    _, submit_us, start_us, end_us, columns, lines = lives
    inside = (submit_us > 0) & (start_us > 0) & np.isfinite(end_us) & (end_us < 2.0**62) & (end_us >= start_us)
    if not inside.any():
        raise InputError(
            f"{file}: no job that was submitted, started and ended within the trace; at least one is needed"
        )
    found: dict[str, object] = {
        "job_id": lives.job_id[inside],
        "submit_s": submit_us[inside] / 1e6,
        "duration_s": (end_us - start_us)[inside] / 1e6,
        "num_gpus": np.ones(int(inside.sum()), np.int64),
        "wait_s": np.maximum(0.0, (start_us - submit_us)[inside]) / 1e6,
    }
    found |= {name: values.to_numpy()[inside] for name, values in columns.items()}
    notes = (INVENTED, f"{int((~inside).sum())} jobs not submitted, started and ended within the trace left out")
    return Reading(found, lines[inside], origin, notes, invented="GPUs")
