"""Slurm's accounting: ``sacct --parsable2 --allusers --starttime ... --format=...``.

Needed are JobID, Submit, Elapsed and one of AllocTRES, ReqTRES; welcome are Start, State,
User, Account, Partition, JobName, Timelimit, NCPUS, Priority. Times are local wall clock.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd

from rltune.nouns.errors import InputError
from rltune.traces.table import Reading, one_line

NEEDED = ("jobid", "submit", "elapsed")
TRES = ("alloctres", "reqtres")
UNKNOWN = ("", "Unknown", "None", "N/A")
UNLIMITED = ("UNLIMITED", "Partition_Limit", "INVALID")
RUNNING = ("PENDING", "RUNNING", "SUSPENDED", "REQUEUED", "CONFIGURING", "COMPLETING", "RESIZING")
GPUS = re.compile(r"(?:^|,)gres/gpu(?::([\w.+-]+))?=(\d+)")
MEMORY = re.compile(r"(?:^|,)mem=([\d.]+)([KMGTP]?)")
CPUS = re.compile(r"(?:^|,)cpu=(\d+)")
GIB = {"": 2.0**-10, "K": 2.0**-20, "M": 2.0**-10, "G": 1.0, "T": 2.0**10, "P": 2.0**20}
"""Gibibytes of Slurm's units; a bare number counts mebibytes."""
SPAN = re.compile(r"^(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)(?:\.\d+)?$")


def matches(text: str) -> bool:
    """A first line of names between bars, JobID among them."""
    first = next((line for line in io.StringIO(text) if line.strip()), "")
    return "|" in first and {"jobid", "submit"} <= {name.strip().lower() for name in first.split("|")}


def read(text: str, file: str) -> Reading:
    """Ended GPU jobs; steps belong to their job, whatever else is left out is counted."""
    frame, lines = _table(text, file)
    steps = frame["jobid"].str.contains(".", regex=False)
    counts: Counter[str] = Counter()
    columns: dict[str, list[Any]] = {name: [] for name in (
        "job_id", "submit", "duration_s", "num_gpus", "gpu_type", "requested_s", "wait_s", "user", "vc", "name",
        "status", "cpus", "memory_gb", "priority",
    )}  # fmt: skip
    kept = []
    for line, row in zip(lines[~steps], frame[~steps].to_dict("records"), strict=True):
        tres = next((row[name] for name in TRES if row.get(name)), "")
        gpus, kind = gpus_of(tres)
        state = row.get("state", "").split(" ")[0].rstrip("+")
        place = f"{file}: row {line} (job {row['jobid']})"
        elapsed = _span(row["elapsed"], "Elapsed", place)
        reason = (
            "jobs without a GPU" if gpus == 0
            else "jobs that have not ended" if state in RUNNING
            else "jobs that never ran" if elapsed is None or row.get("start", "known") in UNKNOWN
            else ""
        )  # fmt: skip
        if reason:
            counts[reason] += 1
            continue
        submit = _clock(row["submit"], "Submit", place)
        start = row.get("start")
        limit = row.get("timelimit", "")
        kept.append(line)
        columns["job_id"].append(row["jobid"])
        columns["submit"].append(submit)
        columns["duration_s"].append(elapsed)
        columns["num_gpus"].append(gpus)
        columns["gpu_type"].append(kind)
        columns["requested_s"].append(np.nan if limit in (*UNKNOWN, *UNLIMITED) else _span(limit, "Timelimit", place))
        columns["wait_s"].append((_clock(start, "Start", place) - submit).total_seconds() if start else np.nan)
        columns["user"].append(row.get("user"))
        columns["vc"].append(row.get("partition") or row.get("account"))
        columns["name"].append(row.get("jobname"))
        columns["status"].append(state)
        columns["cpus"].append(row.get("ncpus") or _first(CPUS, tres))
        columns["memory_gb"].append(_memory(tres))
        columns["priority"].append(row.get("priority") or 0)
    if not kept:
        raise InputError(f"{file}: no GPU job that ended ({_told(counts)}); at least one is needed")
    origin = min(columns["submit"])
    columns["submit_s"] = [(submit - origin).total_seconds() for submit in columns.pop("submit")]
    notes = [f"{count} {what} left out" for what, count in counts.items()]
    if steps.any():
        notes.append(f"{int(steps.sum())} lines of job steps belong to their jobs")
    return Reading(columns, np.array(kept), origin, (*notes, "virtual clusters are its partitions"))


def gpus_of(tres: str) -> tuple[int, str | None]:
    """GPUs of a TRES string, and their type: ``cpu=8,gres/gpu=2,gres/gpu:a100=2`` -> (2, "a100").

    Typed entries repeat what the untyped one counts; of several types the first is named.
    """
    found = [(kind or None, int(count)) for kind, count in GPUS.findall(tres)]
    total = sum(count for kind, count in found if kind is None) or sum(count for _, count in found)
    return total, next((kind for kind, _ in found if kind), None)


def _table(text: str, file: str) -> tuple[pd.DataFrame, np.ndarray]:
    rows = [(number, line.rstrip("\n").split("|")) for number, line in enumerate(io.StringIO(text), start=1)]
    rows = [(number, words) for number, words in rows if any(word.strip() for word in words)]
    header = [name.strip().lower() for name in rows[0][1]]
    missing = [name for name in NEEDED if name not in header]
    if missing or not set(TRES) & set(header):
        raise InputError(
            f"{file}: sacct output without {', '.join(missing) or 'AllocTRES or ReqTRES'}; use "
            "sacct --parsable2 --format=JobID,User,Partition,JobName,Submit,Start,Elapsed,Timelimit,State,ReqTRES,AllocTRES"
        )
    for number, words in rows[1:]:
        if len(words) != len(header):
            raise InputError(
                f"{file}: row {number}: {len(words)} values for {len(header)} columns ({one_line('|'.join(words))}); "
                "was it written with --parsable2? A name with a bar in it must be corrected"
            )
    frame = pd.DataFrame([words for _, words in rows[1:]], columns=header, dtype=str)
    return frame, np.array([number for number, _ in rows[1:]], np.int64)


def _span(text: str, column: str, place: str) -> float | None:
    """Seconds of ``[days-][hours:]minutes:seconds``; None where unknown. A lone number counts minutes."""
    if text in UNKNOWN:
        return None
    if text.isdigit():
        return 60.0 * int(text)
    found = SPAN.match(text)
    if found is None:
        raise InputError(f"{place}: {column} is {text!r}, which is no time span; Slurm writes D-HH:MM:SS")
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return 86_400.0 * days + 3_600.0 * hours + 60.0 * minutes + seconds


def _clock(text: str, column: str, place: str) -> datetime:
    try:
        return datetime.fromisoformat(text).replace(tzinfo=None)
    except ValueError:
        raise InputError(f"{place}: {column} is {text!r}, which is no time; Slurm writes YYYY-MM-DDTHH:MM:SS") from None


def _first(pattern: re.Pattern[str], text: str) -> str | int:
    found = pattern.search(text)
    return found[1] if found else 0


def _memory(tres: str) -> float:
    found = MEMORY.search(tres)
    return float(found[1]) * GIB[found[2]] if found else 0.0


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counts.items()) or "no job at all"
