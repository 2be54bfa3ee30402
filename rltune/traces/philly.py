"""Microsoft Philly, August to December 2017 (Jeon et al., ATC'19; msr-fiddle/philly-traces, CC-BY-4.0).

Three forms: the published ``cluster_job_log`` (JSON), a CSV of its jobs that
ran, and the CSV of its passed jobs that Pollux and Sia use.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from rltune.nouns.errors import InputError
from rltune.traces.table import Reading, Table, one_line, seconds_from_first

LOG_KEYS = ("status", "vc", "jobid", "attempts", "submitted_time", "user")
JOBS_COLUMNS = (
    "job_idx", "vc", "submit_s", "submit_time_local", "num_gpus", "duration_s", "status", "in_pcs",
)  # fmt: skip
SIA_COLUMNS = ("timestamp", "duration", "num_gpus", "gpu_time", "cluster")
CLOCK_CHANGE = datetime(2017, 11, 5, 2)
"""US Pacific clocks went back one hour here; the log's times are local wall clock."""
CLOCK_NOTE = f"seconds run through the clock change of {CLOCK_CHANGE:%Y-%m-%d}: dates after it are an hour late"


def read_jobs(table: Table) -> Reading:
    """All jobs that ran, seconds counted through the clock change; no user, no attempts."""
    clock = table.clock("submit_time_local")
    submit_s = table.numbers("submit_s")
    origin: datetime = (clock[0] - np.timedelta64(int(np.nan_to_num(submit_s[0])), "s")).item()
    columns = {
        "job_id": [f"philly-job-{index}" for index in table.frame["job_idx"]],
        "submit_s": table.frame["submit_s"].to_numpy(),
        "duration_s": table.frame["duration_s"].to_numpy(),
        "num_gpus": table.frame["num_gpus"].to_numpy(),
        "vc": table.frame["vc"].to_numpy(),
        "status": table.frame["status"].to_numpy(),
    }
    return Reading(columns, table.lines, origin, (CLOCK_NOTE, "the copy has no user and no recorded wait"))


def read_sia(table: Table) -> Reading:
    """The passed jobs; job k in order of time (stable) is named ``philly-%05d``, ``cluster`` is its VC."""
    submit_s, origin = seconds_from_first(table.clock("timestamp"))
    order = np.argsort(submit_s, kind="stable")
    frame = table.frame.iloc[order]
    columns = {
        "job_id": [f"philly-{k:05d}" for k in range(len(frame))],
        "submit_s": submit_s[order],
        "duration_s": frame["duration"].to_numpy(),
        "num_gpus": frame["num_gpus"].to_numpy(),
        "vc": frame["cluster"].to_numpy(),
    }
    notes = ("seconds are differences of the wall clock", "passed jobs only")
    return Reading(columns, table.lines[order], origin, notes)


@dataclass(frozen=True, slots=True)
class _Job:
    """One record of the log that ran: times in seconds of elapsed local time, GPUs of the first attempt."""

    record: int
    entry: Mapping[str, Any]
    submit: datetime
    wait_s: float
    duration_s: float
    num_gpus: int


def read_log(document: Any, file: str) -> Reading:
    """The published JSON log, parsed; jobs that never ran or never ended are left out and counted."""
    counts: Counter[str] = Counter()
    jobs = [
        job
        for record, entry in enumerate(_entries(document, file), start=1)
        if (job := _job(entry, record, file, counts)) is not None
    ]
    if not jobs:
        raise InputError(f"{file}: no job with a finished attempt; at least one is needed")
    origin = min(job.submit for job in jobs)
    columns = {
        "job_id": [job.entry["jobid"] for job in jobs],
        "submit_s": [(job.submit - origin).total_seconds() for job in jobs],
        "duration_s": [job.duration_s for job in jobs],
        "num_gpus": [job.num_gpus for job in jobs],
        "vc": [job.entry["vc"] for job in jobs],
        "user": [job.entry["user"] for job in jobs],
        "status": [job.entry["status"] for job in jobs],
        "wait_s": [job.wait_s for job in jobs],
    }
    told = tuple(f"{count} {what}" for what, count in counts.items())
    return Reading(columns, np.array([job.record for job in jobs]), origin, (*told, CLOCK_NOTE))


def _entries(entries: Any, file: str) -> Sequence[Mapping[str, Any]]:
    if not isinstance(entries, list) or not entries:
        raise InputError(
            f"{file}: JSON, but no list of jobs; accepted are Philly's cluster_job_log and Kubernetes pod lists"
        )
    for record, entry in enumerate(entries, start=1):
        missing = [key for key in LOG_KEYS if not isinstance(entry, dict) or key not in entry]
        if missing:
            raise InputError(
                f"{file}: record {record}: {', '.join(missing)} is missing; "
                f"Philly's cluster_job_log has {', '.join(LOG_KEYS)}"
            )
    return entries


def _job(entry: Mapping[str, Any], record: int, file: str, counts: Counter[str]) -> _Job | None:
    """The job, or None with the reason counted."""
    attempts = entry["attempts"]
    if not attempts:
        counts["jobs without an attempt left out"] += 1
        return None
    place = f"{file}: record {record} (job {entry['jobid']})"
    submit = _clock(entry["submitted_time"], place)
    try:
        spans = _in_order(
            submit, [(_clock(a.get("start_time"), place), _clock(a.get("end_time"), place)) for a in attempts]
        )
        num_gpus = next((n for n in map(_gpus, attempts) if n), 0)
    except (AttributeError, KeyError, TypeError):
        raise InputError(
            f"{place}: an attempt is malformed; needed are start_time, end_time and detail with gpus"
        ) from None
    if num_gpus == 0:
        counts["jobs without a recorded GPU left out"] += 1
        return None
    finished = [(start, end) for start, end in spans if start is not None and end is not None]
    if not finished:
        counts["jobs without a finished attempt left out"] += 1
        return None
    if submit is None:
        raise InputError(f"{place}: submitted_time is missing; correct or remove the record")
    if len(finished) < len(spans):
        counts["jobs with an attempt of unknown start or end, which counts as no run time"] += 1
    start = spans[0][0]
    return _Job(
        record=record,
        entry=entry,
        submit=submit,
        wait_s=np.nan if start is None else (start - submit).total_seconds(),
        duration_s=sum((end - start).total_seconds() for start, end in finished),
        num_gpus=num_gpus,
    )


Span = tuple[datetime | None, datetime | None]


def _in_order(submit: datetime | None, spans: Sequence[Span]) -> list[Span]:
    """Starts and ends, an hour on where only that keeps their order: of 1 to 2 o'clock the log does not tell which."""
    last, found = submit, []
    for span in spans:
        moved = []
        for time in span:
            twice = time is not None and CLOCK_CHANGE - timedelta(hours=1) <= time < CLOCK_CHANGE
            time = (
                time + timedelta(hours=1) if time is not None and twice and last is not None and time < last else time
            )
            last = time or last
            moved.append(time)
        found.append((moved[0], moved[1]))
    return found


def _gpus(attempt: Mapping[str, Any]) -> int:
    return sum(len(machine["gpus"]) for machine in attempt["detail"])


def _clock(text: Any, place: str) -> datetime | None:
    """Local wall clock as elapsed time (an hour more after the clock change); None for 'None'."""
    if text in (None, "", "None"):
        return None
    try:
        clock = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        raise InputError(f"{place}: {one_line(repr(text))} is no time; use YYYY-MM-DD HH:MM:SS") from None
    return clock + timedelta(hours=1) if clock >= CLOCK_CHANGE else clock
