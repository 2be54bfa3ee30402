"""Recognise a file by its content and read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from rltune.nouns.errors import InputError
from rltune.nouns.jobs import JobTable
from rltune.traces import (
    acme,
    alibaba,
    alibaba_spot,
    alibaba_tables,
    google,
    google_requests,
    helios,
    kubernetes,
    openb,
    own,
    parquet,
    philly,
    plain,
    rltune_csv,
    slurm,
    swf,
)
from rltune.traces.folder import find
from rltune.traces.table import Reading, Table, decode, first_fields, one_line, parse_csv, parse_json, read_bytes
from rltune.traces.trace import Trace


class CsvFormat(NamedTuple):
    """A delimited format: ``matches`` looks at its header (lower case), ``read`` takes its rows."""

    name: str
    matches: Callable[[tuple[str, ...]], bool]
    read: Callable[[Table], Reading]


def _has(columns: tuple[str, ...]) -> Callable[[tuple[str, ...]], bool]:
    return lambda header: set(columns) <= set(header)


CSV_FORMATS = (
    CsvFormat("plain (job_id, submit_s, duration_s, num_gpus, ...)", plain.matches, plain.read),
    CsvFormat("Helios cluster_log.csv", _has(helios.LOG_COLUMNS), helios.read_log),
    CsvFormat("Helios copy venus_jobs.csv", _has(helios.COPY_COLUMNS), helios.read_copy),
    CsvFormat("Helios September slice", _has(helios.SLICE_COLUMNS), helios.read_slice),
    CsvFormat("Philly copy philly_jobs.csv", _has(philly.JOBS_COLUMNS), philly.read_jobs),
    CsvFormat("Sia/Pollux philly.csv", _has(philly.SIA_COLUMNS), philly.read_sia),
    CsvFormat("Alibaba pai_tasks.csv", _has(alibaba.SAMPLE_COLUMNS), alibaba.read_sample),
    CsvFormat("Alibaba openb pod list", _has(openb.POD_COLUMNS), openb.read_pods),
    CsvFormat("AcmeTrace trace_seren.csv, trace_kalos.csv", _has(acme.COLUMNS), acme.read_jobs),
    CsvFormat("Alibaba v2026-spot-gpu job_info_df.csv", _has(alibaba_spot.COLUMNS), alibaba_spot.read_jobs),
    CsvFormat("Google 2019 collection_events", _has(google.COLLECTION_COLUMNS), google.read_collections),
    CsvFormat("RLTune (19 or 20 columns)", rltune_csv.matches, rltune_csv.read),
)
TASK_TABLES = ("pai_task_table.csv", "pai_task_table.csv.gz")
OTHER_FORMATS = (
    "Philly cluster_job_log (JSON)",
    "Kubernetes pod list (JSON)",
    "Alibaba pai_task_table.csv or the folder of its tables",
    "Google 2011 job_events or its Parquet",
    "a folder of Google's job_events and task_events, or collection_events and instance_events",
    "Standard Workload Format",
    "Slurm sacct --parsable2",
    "rltune Parquet",
)


def read_file(path: Path, columns: Mapping[str, Any] | None = None) -> Reading | Trace:
    """What a file of any known format holds, or a folder of tables; our own Parquet comes back as the trace it was.

    ``columns``: of a table of one's own, our name -> its column, where the usual names do not tell (`rltune.traces.own`).
    """
    if columns:
        return _read_own(parse_csv(decode(read_bytes(path), path.name), path.name), columns)
    if path.is_dir() and (task_table := find(path, TASK_TABLES)) is not None:
        path = task_table
    elif path.is_dir() and google_requests.matches(path):
        return google_requests.read(path)
    file = path.name
    content = read_bytes(path)
    if content.startswith(parquet.MAGIC) or path.suffix == ".parquet":
        return parquet.read(content, file)
    text = decode(content, file)
    if text.lstrip().startswith(("[", "{")):
        return _read_json(text, file)
    if slurm.matches(text):
        return slurm.read(text, file)
    if swf.matches(text):
        return swf.read(text, file)
    fields = first_fields(text)
    if rltune_csv.is_headerless(fields):
        return rltune_csv.read(parse_csv(text, file, headed=False))
    if len(fields) == len(alibaba.TASK_COLUMNS) and fields[3] in alibaba.TASK_STATUSES:
        return alibaba.read_tasks(parse_csv(text, file, headed=False), alibaba_tables.beside(path))
    if google.is_job_events(fields):
        return google.read_job_events(parse_csv(text, file, headed=False))
    header = tuple(name.lower() for name in fields)
    for known in CSV_FORMATS:
        if known.matches(header):
            return _read_csv(known, parse_csv(text, file))
    if not (slurm.near_miss(text) or kubernetes.near_miss_of_text(text)) and own.matches(header):
        return _read_own(parse_csv(text, file), {})
    raise _unknown(text, file, fields)


def _read_own(table: Table, columns: Mapping[str, Any]) -> Reading:
    return _with_comments(own.read(table, columns), table)


def _read_csv(known: CsvFormat, table: Table) -> Reading:
    if not known.matches(table.header):
        raise InputError(f"{table.file}: row 1: the quotes of the column names do not come in pairs; mend them")
    return _with_comments(known.read(table), table)


def _with_comments(found: Reading, table: Table) -> Reading:
    if not table.comments:
        return found
    return replace(found, notes=(*found.notes, f"{table.comments} comment lines (#) between the rows passed over"))


def _read_json(text: str, file: str) -> Reading:
    try:
        document = parse_json(text, file)
    except InputError:
        if kubernetes.is_lines(text):
            told = f"{file}: Kubernetes objects one after the other, not a list of pods; {kubernetes.REMEDY}"
            raise InputError(told) from None
        raise
    if kubernetes.matches(document):
        return kubernetes.read(document, file)
    if wrong := kubernetes.near_miss(document):
        raise InputError(f"{file}: {wrong}")
    return philly.read_log(document, file)


def _unknown(text: str, file: str, fields: tuple[str, ...]) -> InputError:
    if wrong := slurm.near_miss(text) or kubernetes.near_miss_of_text(text):
        return InputError(f"{file}: {wrong}")
    found = one_line(", ".join(fields))
    accepted = "; ".join([*(known.name for known in CSV_FORMATS), *OTHER_FORMATS])
    return InputError(
        f"{file}: no known format; found columns {found}{plain.near_miss(fields)}; say what they are, e.g. "
        f"trace.columns.submit_s=COLUMN trace.columns.duration_s=COLUMN; accepted are {accepted}"
    )


def without_negative_waits(found: Reading) -> Reading:
    """Waits below 0 as unknown, and counted: the log's clock was set back, or its columns are of different clocks."""
    if found.columns.get("wait_s") is None:
        return found
    waits = pd.to_numeric(pd.Series(np.asarray(found.columns["wait_s"])), errors="coerce")
    negative = (waits < 0).to_numpy()
    if not negative.any():
        return found
    told = (
        f"{int(negative.sum())} jobs start before they were submitted: their waits are taken as unknown (times of a night in "
        "which the clock was set back? Write them with a UTC offset)"
    )
    kept = pd.Series(np.asarray(found.columns["wait_s"])).mask(negative, np.nan).to_numpy()
    return replace(found, columns=found.columns | {"wait_s": kept}, notes=(*found.notes, told))


def read_trace(
    path: Path,
    *,
    name: str,
    source: str,
    label: str | None = None,
    change: Callable[[Reading], Reading] | None = None,
    columns: Mapping[str, Any] | None = None,
) -> Trace:
    """The trace in a file; ``change`` works on what was read before the jobs are checked; ``columns`` as of `read_file`."""
    found = read_file(path, columns)
    if isinstance(found, Trace):
        if change is not None:
            raise InputError(f"{path.name}: {name} is made from the original file, not from our Parquet")
        return replace(found, files=(path.name,))
    if change is not None:
        found = change(found)
    found = without_negative_waits(found)
    jobs = JobTable.from_columns(found.columns, source=path.name, rows=found.rows)
    notes = found.notes
    submit_s = np.asarray(found.columns["submit_s"], dtype=np.float64)
    if (np.diff(submit_s) < 0).any():
        notes = (*notes, "rows were not in order of submission and have been sorted")
    if label is None and found.invented:
        label = f"{name} ({found.invented} invented)"
    files = (path.name, *found.files)
    return Trace.of(jobs, name=name, source=source, origin=found.origin, files=files, label=label, notes=notes)
