"""The Standard Workload Format of the Parallel Workloads Archive, version 2.2 (Chapin et al., JSSPP 1999).

Lines of 18 numbers, -1 where unknown; lines that begin with ``;`` are comments, some of
which are header fields (``; UnixStartTime: 820454400``). Times are seconds.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from datetime import UTC, datetime

import numpy as np

from rltune.nouns.errors import InputError
from rltune.traces.table import Reading, one_line

FIELDS = (
    "job", "submit", "wait", "run", "allocated", "cpu_time", "memory", "requested", "requested_time",
    "requested_memory", "status", "user", "group", "executable", "queue", "partition", "preceding", "think",
)  # fmt: skip
STATUSES = {0: "FAILED", 1: "COMPLETED", 2: "PARTIAL", 3: "LAST_PARTIAL", 4: "FAILED_PARTIAL", 5: "CANCELLED"}
PARTIAL = (2, 3, 4)
CANCELLED = 5
"""Parts of a job that also stands in the log as a whole."""
HEADER = re.compile(r"^;\s*(\w+):\s*(.*)$")
PROCESSOR_NOTE = "the log counts processors; each stands for one GPU here"


def matches(text: str) -> bool:
    """A first line of data with 18 numbers, or a first comment of the format."""
    for line in io.StringIO(text):
        words = line.split()
        if not words or line.startswith("#"):
            continue
        if line.startswith(";"):
            return True
        return len(words) == len(FIELDS) and all(_is_number(word) for word in words)
    return False


def read(text: str, file: str) -> Reading:
    """Jobs that ran; those that never did, and the parts of checkpointed jobs, are left out and counted."""
    header, rows, lines = _parse(text, file)
    counts: Counter[str] = Counter()
    keep = np.zeros(len(rows), bool)
    for k, row in enumerate(rows):
        if row[FIELDS.index("status")] in PARTIAL:
            counts["parts of checkpointed jobs left out (the whole job stands beside them)"] += 1
        elif row[FIELDS.index("run")] < 0:
            counts["jobs that never ran left out"] += 1
        elif row[FIELDS.index("status")] == CANCELLED and row[FIELDS.index("run")] == 0:
            counts["jobs cancelled before they ran left out"] += 1
        elif max(row[FIELDS.index("allocated")], row[FIELDS.index("requested")]) < 1:
            counts["jobs of an unknown number of processors left out"] += 1
        else:
            keep[k] = True
    if not keep.any():
        raise InputError(f"{file}: no job that ran; at least one is needed")
    column = dict(zip(FIELDS, np.array(rows)[keep].T, strict=True))
    requested, allocated = column["requested"], column["allocated"]
    columns = {
        "job_id": column["job"].astype(np.int64),
        "submit_s": column["submit"],
        "duration_s": column["run"],
        "num_gpus": np.where(requested >= 1, requested, allocated),
        "requested_s": _known(column["requested_time"]),
        "wait_s": _known(column["wait"]),
        "user": column["user"].astype(np.int64),
        "vc": column["queue"].astype(np.int64),
        "name": column["executable"].astype(np.int64),
        "status": [STATUSES.get(int(code)) for code in column["status"]],
    }
    notes = (*(f"{count} {what}" for what, count in counts.items()), PROCESSOR_NOTE, "virtual clusters are its queues")
    return Reading(columns, np.array(lines)[keep], _origin(header), notes)


def _parse(text: str, file: str) -> tuple[dict[str, str], list[list[float]], list[int]]:
    header: dict[str, str] = {}
    rows, lines = [], []
    for number, line in enumerate(io.StringIO(text), start=1):
        if line.startswith((";", "#")):
            if found := HEADER.match(line):
                header.setdefault(found[1], found[2].strip())
            continue
        words = line.split()
        if not words:
            continue
        if len(words) != len(FIELDS) or not all(_is_number(word) for word in words):
            raise InputError(
                f"{file}: row {number}: {one_line(line)!r} is no line of {len(FIELDS)} numbers; correct or remove it"
            )
        rows.append([float(word) for word in words])
        lines.append(number)
    if not rows:
        raise InputError(f"{file}: no job in this SWF file; at least one is needed")
    return header, rows, lines


def _is_number(word: str) -> bool:
    try:
        return bool(np.isfinite(float(word)))
    except ValueError:
        return False


def _known(values: np.ndarray) -> np.ndarray:
    return np.where(values >= 0, values, np.nan)


def _origin(header: dict[str, str]) -> datetime | None:
    """Wall clock (UTC) of second 0, where the header tells it."""
    try:
        return datetime.fromtimestamp(float(header["UnixStartTime"]), UTC).replace(tzinfo=None)
    except (KeyError, ValueError, OverflowError, OSError):
        return None
