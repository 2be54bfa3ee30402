"""Our Parquet files: the job table and its provenance, with the content's hash checked on reading."""

from __future__ import annotations

import io
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rltune.nouns.errors import InputError
from rltune.nouns.jobs import JobTable
from rltune.traces import google
from rltune.traces.table import Reading, one_line
from rltune.traces.trace import Trace
from rltune.traces.writing import replace_file

MAGIC = b"PAR1"
METADATA_KEY = b"rltune.trace"
SCHEMA_VERSION = 1
MOST_ROWS = 50_000_000
"""Sixty times the largest published trace; a file of a kilobyte can claim more."""


def write(trace: Trace, path: str | Path) -> Path:
    """Write a trace with its name, source, origin, label, notes and sha256."""
    about = {
        "schema_version": SCHEMA_VERSION,
        "name": trace.name,
        "source": trace.source,
        "origin": None if trace.origin is None else trace.origin.isoformat(),
        "label": trace.label,
        "files": list(trace.files),
        "notes": list(trace.notes),
        "sha256": trace.sha256,
    }
    table = pa.Table.from_pandas(trace.jobs.to_frame(), preserve_index=False)
    table = table.replace_schema_metadata({METADATA_KEY: json.dumps(about).encode()})
    return replace_file(Path(path), lambda temporary: pq.write_table(table, temporary, compression="zstd"))


def read(content: bytes, file: str) -> Trace | Reading:
    """A trace written by ``write``, or Google's jobs of 2011; InputError if damaged, foreign or changed since."""
    try:
        rows = pq.read_metadata(io.BytesIO(content)).num_rows
        if rows > MOST_ROWS:
            raise InputError(f"{file}: {rows:,} rows; at most {MOST_ROWS:,} can be read, cut the file")
        table = pq.read_table(io.BytesIO(content))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{file}: damaged Parquet file ({one_line(error)}); write it again") from None
    stored = (table.schema.metadata or {}).get(METADATA_KEY)
    if stored is None and set(google.PARQUET_COLUMNS) <= set(table.column_names):
        return google.read_parquet(table.to_pandas(), file)
    if stored is None:
        columns = one_line(", ".join(table.column_names))
        raise InputError(
            f"{file}: a Parquet file that rltune did not write (columns {columns}); "
            "make it with `python -m rltune.traces convert`"
        )
    about = _about(stored, file)
    if about.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"{file}: schema version {about.get('schema_version')}, known is {SCHEMA_VERSION}; convert it again"
        )
    jobs = JobTable.from_columns({c: table[c].to_pandas() for c in table.column_names}, source=file)
    try:
        trace = _trace(jobs, about)
        stored_hash = about["sha256"]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{file}: what it says of its origin is damaged ({one_line(repr(error))}); convert it again"
        ) from None
    if trace.sha256 != stored_hash:
        raise InputError(f"{file}: the jobs do not match the stored sha256; write the file again")
    return trace


def _about(stored: bytes, file: str) -> dict[str, Any]:
    try:
        return dict(json.loads(stored))
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(
            f"{file}: what it says of its origin is damaged ({one_line(error)}); convert it again"
        ) from None


def _trace(jobs: JobTable, about: dict[str, Any]) -> Trace:
    return Trace.of(
        jobs,
        name=about["name"],
        source=about["source"],
        origin=None if about["origin"] is None else datetime.fromisoformat(about["origin"]),
        files=tuple(about["files"]),
        label=about["label"],
        notes=tuple(about["notes"]),
    )
