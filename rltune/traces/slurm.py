"""Slurm's accounting: ``sacct --parsable2 --allusers --duplicates --starttime ... --format=...``.

Needed are JobID, Submit, Elapsed (or ElapsedRaw) and one of AllocTRES, ReqTRES; welcome are Eligible, Start, End, State,
User, Account, Partition, JobName, Timelimit (or TimelimitRaw), NCPUS, Priority, Restarts. Times are local wall clock, or
have a UTC offset, or are seconds since 1970 (``SLURM_TIME_FORMAT=%s``).

A job arrives when it is eligible: before that no scheduler may start it (dependencies, holds, ``--begin``). Every
attempt of a requeued job is a run of its own; the components of a heterogeneous job are one gang.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from rltune.nouns.errors import InputError
from rltune.nouns.jobs import WHOLE
from rltune.traces.attempts import named_apart
from rltune.traces.clock import WallClock, local, seconds_since
from rltune.traces.shares import Request
from rltune.traces.slurm_tres import asked, cpus_of, memory_gb_of
from rltune.traces.table import Reading, one_line

NEEDED = ("jobid", "submit", "elapsed")
TRES = ("alloctres", "reqtres")
RAW = {"jobidraw": ("jobid", 1), "elapsedraw": ("elapsed", 1), "timelimitraw": ("timelimit", 60)}
"""Other names of a column, and seconds of their unit."""
REMEDY = (
    "use sacct --parsable2 --duplicates "
    "--format=JobID,User,Partition,JobName,Submit,Eligible,Start,End,Elapsed,Timelimit,State,ReqTRES,AllocTRES"
)
KNOWN = {*NEEDED, *TRES, *RAW, "eligible", "start", "end", "state", "timelimit", "jobname", "partition", "account"}
UNKNOWN = ("", "Unknown", "None", "N/A")
UNLIMITED = ("UNLIMITED", "Partition_Limit", "INVALID")
RUNNING = {
    "PENDING": "are pending", "RUNNING": "have not ended", "SUSPENDED": "have not ended",
    "CONFIGURING": "have not ended", "COMPLETING": "have not ended", "STAGE_OUT": "have not ended",
    "STOPPED": "have not ended", "SIGNALING": "have not ended",
}  # fmt: skip
"""State -> what its jobs do. Records of a requeue or a change of size are attempts that ended, while others go on."""
ATTEMPT = ("REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESIZING")
SPAN = re.compile(r"^(?:(\d{1,9})-)?(?:(\d{1,9}):)?(\d{1,9}):(\d{1,15})(?:\.\d+)?$")
COMPONENT = re.compile(r"^(\d+)\+\d+$")
"""A component of a heterogeneous job: 8001+0, 8001+1."""
ARRAY_REST = re.compile(r"_\[")
"""What of an array has not started is one record: 500_[9201-10000%500]."""
NO_GPU = "jobs without a GPU"


def matches(text: str) -> bool:
    """A first line of names between bars, some of them sacct's."""
    first = _first(text)
    return "|" in first and len(KNOWN & _names(first.split("|"))) >= 2


def near_miss(text: str) -> str | None:
    """What is wrong with output of sacct that ``matches`` does not know, and the remedy; None for other files."""
    lines = [line for line in text.splitlines()[:3] if line.strip()]
    if not lines:
        return None
    if len(KNOWN & _names(lines[0].split(","))) >= 4 and "jobid" in _names(lines[0].split(",")):
        return f"sacct output between commas, which names hold too; {REMEDY}"
    if len(KNOWN & _names(lines[0].split())) >= 2 and "jobid" in _names(lines[0].split()):
        return f"sacct output in columns of spaces, cut to their width; {REMEDY}"
    job = r"\d+([_+]\S*)?(\.\w+)?"
    if lines[0].count("|") >= 3 and re.match(rf"^{job}\|", lines[0]):
        return f"sacct output without its line of names; leave out --noheader (-n) and {REMEDY}"
    return None


class _Record(NamedTuple):
    """A line that is kept. ``gang``: the job it belongs to; ``arrival``: when it was eligible."""

    line: int
    gang: str
    row: Mapping[str, str]
    state: str
    ask: Request
    arrival: datetime
    wait_s: float
    duration_s: float
    limit_s: float
    tres: str


def read(text: str, file: str) -> Reading:
    """GPU jobs that ended, each attempt a run; steps belong to their job, whatever else is left out is counted."""
    frame, lines = _table(text, file)
    steps = frame["jobid"].str.contains(".", regex=False).to_numpy()
    again = ~steps & frame.duplicated().to_numpy()
    counts: Counter[str] = Counter()
    clock = WallClock("Slurm writes YYYY-MM-DDTHH:MM:SS")
    records = []
    wanted = ~steps & ~again
    for line, row in zip(lines[wanted], frame[wanted].to_dict("records"), strict=True):
        record = _record(int(line), row, file, clock, counts)
        if record is not None:
            records.append(record)
    groups = _gangs(records)
    gangs = [group for group in groups if group[0].ask.gpus]
    if len(gangs) < len(groups):
        counts[NO_GPU] += len(groups) - len(gangs)
    if not gangs:
        raise InputError(f"{file}: no GPU job that ended ({_told(counts)}); at least one is needed{_untracked(frame)}")
    arrivals, origin = seconds_since([gang[0].arrival for gang in gangs])
    columns, more = _columns(gangs, arrivals)
    notes = [f"{count} {what} left out" for what, count in counts.items()]
    if steps.any():
        notes.append(f"{int(steps.sum())} lines of job steps belong to their jobs")
    if again.any():
        notes.append(f"{int(again.sum())} lines that repeat another left out")
    return Reading(
        columns,
        np.array([gang[0].line for gang in gangs]),
        local(origin),
        (*notes, *more, *_also(records, frame), *clock.notes(origin), "virtual clusters are its partitions"),
    )


def _record(line: int, row: Mapping[str, str], file: str, clock: WallClock, counts: Counter[str]) -> _Record | None:
    """What a line tells, or None with the reason counted."""
    tres = next((row[name] for name in TRES if row.get(name)), "")
    ask = asked(tres)
    state = row.get("state", "").split(" ")[0].rstrip("+")
    place = f"{file}: row {line} (job {one_line(row['jobid'])})"
    elapsed = _span(row["elapsed"], "Elapsed", place)
    # Components of a heterogeneous job count though they have no GPU: their CPUs are the gang's.
    component = COMPONENT.match(row["jobid"]) is not None and ask.why_not == NO_GPU
    reason = (ask.why_not if not component else "") or _not_run(row, state, elapsed)
    if reason:
        counts[reason] += 1
        return None
    assert elapsed is not None
    submit = clock.read(row["submit"], "Submit", place)
    eligible = row.get("eligible", "")
    arrival = submit if eligible in UNKNOWN else max(submit, clock.read(eligible, "Eligible", place))
    start = row.get("start")
    limit = row.get("timelimit", "")
    return _Record(
        line=line,
        gang=COMPONENT.sub(r"\1", row["jobid"]),
        row=row,
        state=state,
        ask=ask,
        arrival=arrival,
        wait_s=(clock.read(start, "Start", place) - arrival).total_seconds() if start else np.nan,
        duration_s=elapsed,
        limit_s=np.nan if limit in (*UNKNOWN, *UNLIMITED) else (_span(limit, "Timelimit", place) or np.nan),
        tres=tres,
    )


def _not_run(row: Mapping[str, str], state: str, elapsed: float | None) -> str:
    """Why a record is no run; "" for one that is."""
    if state in RUNNING:
        return f"jobs that {RUNNING[state]}" + (" (rests of arrays)" if ARRAY_REST.search(row["jobid"]) else "")
    started = row.get("start", "known") not in UNKNOWN and elapsed is not None
    # Slurm gives a job that never ran its end as its start, and nothing allocated.
    held = bool(elapsed) or bool(row.get("alloctres", state != "CANCELLED"))
    if started and held:
        return "" if state not in ATTEMPT or elapsed else f"jobs that never ran ({state})"
    if state == "CANCELLED":
        return "jobs cancelled while pending"
    return "jobs that never ran" + (f" ({state})" if state else "")


def _gangs(records: Sequence[_Record]) -> list[list[_Record]]:
    """Components of one attempt of a heterogeneous job together, those with GPUs first; every other record alone."""
    gangs: dict[Any, list[_Record]] = {}
    for record in records:
        single = record.gang == record.row["jobid"]
        gangs.setdefault(record.line if single else (record.gang, record.arrival), []).append(record)
    for gang in gangs.values():
        gang.sort(key=lambda record: record.ask.gpus == 0)
    return list(gangs.values())


def _columns(gangs: Sequence[Sequence[_Record]], arrivals: Sequence[float]) -> tuple[dict[str, Any], list[str]]:
    """Columns of the job table, and what must be told of jobs of several records."""
    order = sorted(range(len(gangs)), key=lambda k: (arrivals[k], k))
    named, _ = named_apart([gangs[k][0].gang for k in order])
    names = [""] * len(gangs)
    for k, name in zip(order, named, strict=True):
        names[k] = name
    first = [gang[0] for gang in gangs]
    columns = {
        "job_id": names,
        "submit_s": list(arrivals),
        "duration_s": [max(each.duration_s for each in gang) for gang in gangs],
        "num_gpus": [sum(each.ask.gpus for each in gang) for gang in gangs],
        "gpu_milli": [
            one.ask.gpu_milli if sum(each.ask.gpus for each in gang) == 1 else WHOLE
            for one, gang in zip(first, gangs, strict=True)
        ],
        "mig": [one.ask.mig for one in first],
        "gpu_type": [one.ask.gpu_type for one in first],
        "requested_s": [one.limit_s for one in first],
        "wait_s": [max(each.wait_s for each in gang) for gang in gangs],
        "user": [one.row.get("user") for one in first],
        "vc": [one.row.get("partition") or one.row.get("account") for one in first],
        "name": [one.row.get("jobname") for one in first],
        "status": [one.state for one in first],
        "cpus": [
            sum(cpus_of(each.tres) for each in gang) if len(gang) > 1 else one.row.get("ncpus") or cpus_of(one.tres)
            for one, gang in zip(first, gangs, strict=True)
        ],
        "memory_gb": [sum(memory_gb_of(each.tres) for each in gang) for gang in gangs],
        "priority": [one.row.get("priority") or 0 for one in first],
    }
    return columns, _of_several(gangs)


def _of_several(gangs: Sequence[Sequence[_Record]]) -> list[str]:
    notes = []
    if het := sum(len(gang) > 1 for gang in gangs):
        notes.append(f"{het} heterogeneous jobs are one gang of their components each")
    asks = [[each.ask for each in gang if each.ask.gpus] for gang in gangs if len(gang) > 1]
    mixed = sum(len({(ask.gpu_type, ask.mig, ask.gpu_milli) for ask in gang}) > 1 for gang in asks)
    if mixed:
        notes.append(f"{mixed} heterogeneous jobs on unlike GPUs or parts of them are taken as their first component's")
    owners: dict[str, list[tuple[Any, Any]]] = {}
    for gang in gangs:
        owners.setdefault(gang[0].gang, []).append((gang[0].row.get("user"), gang[0].row.get("jobname")))
    attempts = {name: found for name, found in owners.items() if len(found) > 1}
    recycled = sum(len(set(found)) > 1 for found in attempts.values())
    if len(attempts) > recycled:
        notes.append(
            f"{len(attempts) - recycled} jobs with several attempts (requeued, preempted, resized): each is a run of its own, "
            "named ID, ID#2, ..."
        )
    if recycled:
        notes.append(f"{recycled} ids that Slurm gave to several jobs: the later are named ID#2, ...")
    return notes


def _also(records: Sequence[_Record], frame: pd.DataFrame) -> list[str]:
    """What the notes count of jobs that are kept, and what the log cannot tell."""
    also = Counter(told for record in records for told in record.ask.also)
    notes = [f"{count} {told}" for told, count in also.items()]
    several = sum(record.ask.mig is not None and record.ask.gpus > 1 for record in records)
    if several:
        notes.append(
            f"{several} jobs ask for several MIG slices; a simulated job takes one (oversized=drop counts them)"
        )
    if "eligible" not in frame:
        notes.append(
            "no column Eligible: waits for dependencies, holds and --begin count as waits for GPUs; add it to --format"
        )
    if "restarts" in frame:
        known = pd.to_numeric(frame["restarts"], errors="coerce").fillna(0)
        lost = set(frame["jobid"][known > 0]) - set(frame["jobid"][frame["jobid"].duplicated()])
        if lost:
            notes.append(f"{len(lost)} jobs were requeued before; only sacct --duplicates tells their earlier attempts")
    return notes


def _table(text: str, file: str) -> tuple[pd.DataFrame, np.ndarray]:
    rows = [
        (number, [word.strip() for word in line.split("|")]) for number, line in enumerate(io.StringIO(text), start=1)
    ]
    rows = [(number, words) for number, words in rows if any(words)]
    header = [name.lower().split("%")[0] for name in rows[0][1]]
    if header[-1] == "" and all(len(words) == len(header) and words[-1] == "" for _, words in rows):
        # --parsable ends each line with a bar.
        header, rows = header[:-1], [(number, words[:-1]) for number, words in rows]
    for number, words in rows[1:]:
        if len(words) != len(header):
            raise InputError(
                f"{file}: row {number}: {len(words)} values for {len(header)} columns ({one_line('|'.join(words))}); "
                "was it written with --parsable2? A name with a bar in it must be corrected"
            )
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise InputError(f"{file}: column {twice[0]} stands twice; name each once")
    # Files put together repeat the line of names.
    body = [(number, words) for number, words in rows[1:] if [word.lower().split("%")[0] for word in words] != header]
    frame = pd.DataFrame([words for _, words in body], columns=header, dtype=str)
    for raw, (name, unit) in RAW.items():
        if raw in frame and name not in frame:
            frame[name] = frame[raw] if raw == "jobidraw" else _spans(frame[raw], unit)
    missing = [name for name in NEEDED if name not in frame]
    if missing or not set(TRES) & set(frame):
        raise InputError(f"{file}: sacct output without {', '.join(missing) or 'AllocTRES or ReqTRES'}; {REMEDY}")
    return frame, np.array([number for number, _ in body], np.int64)


def _spans(raw: pd.Series[Any], unit: int) -> pd.Series[Any]:
    """Counts of a unit as sacct's spans; whatever is no number stays, to be refused by its row."""
    return raw.map(lambda text: f"0-0:0:{int(text) * unit}" if text.isdecimal() and len(text) < 13 else text)


def _span(text: str, column: str, place: str) -> float | None:
    """Seconds of ``[days-][hours:]minutes:seconds``; None where unknown. A lone number counts minutes."""
    if text in UNKNOWN:
        return None
    if text.isdecimal() and len(text) < 10:
        return 60.0 * int(text)
    found = SPAN.match(text)
    if found is None:
        raise InputError(f"{place}: {column} is {text!r}, which is no time span; Slurm writes D-HH:MM:SS")
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return 86_400.0 * days + 3_600.0 * hours + 60.0 * minutes + seconds


def _untracked(frame: pd.DataFrame) -> str:
    """The likely cause where no job of a whole log names a GPU."""
    if any(frame[name].str.contains("gres/", regex=False).any() for name in TRES if name in frame):
        return ""
    return "; no job names any gres: does slurm.conf have AccountingStorageTRES=gres/gpu? Only later jobs will have it"


def _first(text: str) -> str:
    return next((line for line in io.StringIO(text) if line.strip()), "")


def _names(words: Sequence[str]) -> set[str]:
    return {word.strip().lower().split("%")[0] for word in words}


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counts.items()) or "no job at all"
