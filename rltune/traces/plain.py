"""The plain CSV format: our own column names, to write by hand or export to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rltune.nouns.documents import cell, uncell
from rltune.nouns.errors import InputError
from rltune.nouns.jobs import WHOLE
from rltune.traces.own import spelled_slices, spelled_types
from rltune.traces.table import Reading, Table, one_line
from rltune.traces.trace import Trace
from rltune.traces.writing import replace_file

NEEDED = ("job_id", "submit_s", "duration_s", "num_gpus")
OPTIONAL = (
    "gpu_type", "vc", "user", "priority", "cpus", "memory_gb", "status", "name", "wait_s", "requested_s", "gpu_milli", "mig",
    "ways",
)  # fmt: skip
NAMES = ("job_id", "gpu_type", "vc", "user", "status", "name", "mig", "ways")
"""Columns of text: in files, an apostrophe guards what spreadsheets would take for a formula."""
IF_ABSENT = {"priority": 0, "cpus": 0, "memory_gb": 0, "gpu_milli": WHOLE}


def matches(header: tuple[str, ...]) -> bool:
    """The four needed columns are there, and every other one is known."""
    return set(NEEDED) <= set(header) <= {*NEEDED, *OPTIONAL}


def near_miss(fields: Sequence[str]) -> str:
    """What keeps a header with half of the needed columns from being the plain format's; "" for others."""
    header = {name.lower() for name in fields}
    missing = [name for name in NEEDED if name not in header]
    strange = sorted(header - {*NEEDED, *OPTIONAL})
    if len(missing) > len(NEEDED) // 2:
        return ""
    wrong = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"knows no {one_line(', '.join(strange))}"] * bool(
        strange
    )
    return f" (the plain format {' and '.join(wrong)})" if wrong else ""


def read(table: Table) -> Reading:
    """Columns as they stand; an empty job_id is refused."""
    nameless = table.frame["job_id"].isna().to_numpy()
    if nameless.any():
        row = table.lines[int(np.argmax(nameless))]
        raise InputError(f"{table.file}: row {row}: job_id is empty; give every job a name")
    names: dict[str, Any] = {column: table.frame[column].map(uncell) for column in NAMES if column in table.header}
    if "gpu_type" in names:
        names["gpu_type"], _ = spelled_types(names["gpu_type"])
    if "mig" in names:
        names["mig"] = spelled_slices(names["mig"])[1]
    return Reading({c: np.asarray(names.get(c, table.frame[c])) for c in table.header}, table.lines)


def write(trace: Trace, path: str | Path) -> Path:
    """A plain CSV of the trace's jobs; optional columns without any value are left out."""
    frame = trace.jobs.to_frame()
    empty = [c for c in OPTIONAL if frame[c].isna().all() or (c in IF_ABSENT and (frame[c] == IF_ABSENT[c]).all())]
    frame = frame.assign(**{column: frame[column].map(cell) for column in NAMES})
    text = frame[[*NEEDED, *OPTIONAL]].drop(columns=empty).to_csv(index=False)
    return replace_file(Path(path), lambda temporary: temporary.write_text(text, encoding="utf-8"))
