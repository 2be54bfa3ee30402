"""A table of one's own: columns by their usual names, clock times, GPU types and MIG profiles in usual spellings.

Nothing is guessed in silence: the notes say which column was taken for what, and which were not read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from rltune.nouns.documents import uncell
from rltune.nouns.errors import InputError
from rltune.nouns.gpus import usual_types
from rltune.nouns.jobs import WHOLE
from rltune.traces.shares import slice_of, types_with
from rltune.traces.table import OFFSET, Reading, Table, one_line

Floats = npt.NDArray[np.float64]

CLOCKS = ("submit_s", "start_s", "end_s")
SPANS = ("duration_s", "wait_s", "requested_s")
TEXTS = ("job_id", "vc", "user", "status", "name", "ways")
NUMBERS = ("priority", "cpus", "memory_gb", "gpu_milli")
SPELLINGS: Mapping[str, Sequence[str]] = {
    "job_id": ("job_id", "jobid", "job", "id", "job_uid", "uid", "uuid", "task_id"),
    "submit_s": ("submit", "submit_time", "submitted", "submitted_at", "submission_time", "submit_at", "submission", "arrival",
                 "arrival_time", "arrived_at", "queued_at", "queue_time", "created_at", "created", "creation_time", "create_time"),
    "start_s": ("start", "start_time", "started", "started_at", "begin", "begin_time"),
    "end_s": ("end", "end_time", "ended", "ended_at", "finish", "finish_time", "finished", "finished_at", "completed_at",
              "completion_time", "stop", "stop_time"),
    "duration_s": ("duration", "run_time", "runtime", "run", "elapsed", "elapsed_time", "execution_time", "job_duration"),
    "num_gpus": ("num_gpus", "gpus", "n_gpus", "ngpus", "num_gpu", "gpu_num", "gpu_count", "gpus_requested", "requested_gpus", "req_gpus",
                 "gpu_request", "gpu"),
    "gpu_type": ("gpu_type", "gpu_model", "gpu_name", "gpu_kind", "accelerator", "accelerator_type", "gputype"),
    "mig": ("mig", "mig_profile", "profile", "slice", "mig_slice", "gpu_profile"),
    "gpu_milli": ("gpu_milli",),
    "vc": ("vc", "virtual_cluster", "queue", "partition", "project", "namespace", "team", "group", "account"),
    "user": ("user", "user_id", "username", "user_name", "owner", "submitter"),
    "name": ("name", "job_name", "jobname", "task_name"),
    "priority": ("priority", "prio"),
    "cpus": ("cpus", "cpu", "num_cpus", "n_cpus", "ncpus", "cpu_num", "cpu_count", "cores"),
    "memory_gb": ("memory_gb", "mem_gb", "ram_gb"),
    "status": ("status", "state", "job_status", "job_state"),
    "wait_s": ("wait", "wait_time", "waiting_time", "queue_delay", "pending_time"),
    "requested_s": ("requested", "time_limit", "timelimit", "requested_time", "limit"),
    "ways": ("ways",),
}  # fmt: skip
"""Our name -> what people call it, the surest first; each may have a unit behind it (``duration_min``)."""
UNITS = {"ms": 1e-3, "s": 1.0, "sec": 1.0, "secs": 1.0, "seconds": 1.0, "min": 60.0, "mins": 60.0, "minutes": 60.0,
         "h": 3600.0, "hr": 3600.0, "hrs": 3600.0, "hours": 3600.0}  # fmt: skip
EPOCH_S, EPOCH_MS = 1e9, 1e12
"""Numbers from here on are seconds, and milliseconds, since 1970."""
KIND = re.compile(r"[1-7]g")
NO_SLICE = ("none", "no", "false", "0", "-", "whole", "full", "n/a", "na", "null")
HMS = re.compile(r"(?:(\d+)[-d ]\s*)?(\d+):(\d\d?)(?::(\d\d?(?:\.\d+)?))?")
CLOSE = 0.85
"""Likeness of two names (difflib) from which on one is a slip of the other."""
OPTION = "trace.columns.{}={}"


@dataclass(frozen=True)
class Column:
    """A column of the file, and how many seconds one of its numbers is (None: no unit in its name)."""

    header: str
    unit: float | None = None


def matches(header: Sequence[str]) -> bool:
    """Whether the columns can be told apart by their usual names: a submission, and a run time or an end."""
    found = guessed(header)
    timed = "duration_s" in found or {"start_s", "end_s"} <= set(found)
    return "submit_s" in found and timed and bool({"num_gpus", "gpu_type", "mig"} & set(found))


def guessed(header: Sequence[str]) -> dict[str, Column]:
    """Our names -> the columns that bear one of their spellings."""
    place: dict[str, tuple[str, int]] = {
        spelling: (ours, k) for ours, known in SPELLINGS.items() for k, spelling in enumerate((ours, *known))
    }
    best: dict[str, tuple[int, Column]] = {}
    for name in header:
        plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
        base, _, unit = plain.rpartition("_")
        for spelling, scale in ((plain, None), (base, UNITS.get(unit))):
            if spelling in place and (spelling == plain or scale is not None):
                ours, rank = place[spelling]
                # submit_s says its unit, job_s would not be one.
                own = UNITS.get(ours.rpartition("_")[2]) if spelling == ours else None
                if spelling != plain and ours not in (*CLOCKS, *SPANS):
                    continue
                if ours not in best or rank < best[ours][0]:
                    best[ours] = (rank, Column(name, scale if scale is not None else own))
                break
    return {ours: column for ours, (_, column) in best.items()}


def read(table: Table, columns: Mapping[str, Any] | None = None) -> Reading:
    """The jobs; ``columns``: our name -> the file's, over what is guessed (None: none is read for it).

    InputError names what is missing or doubtful, and the option that says it.
    """
    chosen = guessed(table.header) | _given(table, columns or {})
    chosen = {ours: column for ours, column in chosen.items() if column.header}
    _split_gpu(table, chosen, columns or {})
    _check(table, chosen, columns or {})
    clocks, origin = _clocks(table, chosen)
    spans = {ours: _span(table, chosen[ours]) for ours in SPANS if ours in chosen}
    if "duration_s" not in spans:
        spans["duration_s"] = clocks["end_s"] - clocks["start_s"]
    if "start_s" in clocks and "wait_s" not in spans:
        spans["wait_s"] = clocks["start_s"] - clocks["submit_s"]
    asked, notes = _asked(table, chosen)
    out: dict[str, Any] = {"submit_s": clocks["submit_s"], **spans, **asked}
    out |= {ours: table.frame[chosen[ours].header].map(uncell).to_numpy() for ours in TEXTS if ours in chosen}
    out |= {ours: table.numbers_or_empty(chosen[ours].header) for ours in NUMBERS if ours in chosen}
    kept, left = _kept(table, chosen, out)
    _check_empty(table, chosen, out, kept)
    notes = (_told(table, chosen, origin), *left, *notes)
    return Reading({name: np.asarray(values)[kept] for name, values in out.items()}, table.lines[kept], origin, notes)


def _given(table: Table, columns: Mapping[str, Any]) -> dict[str, Column]:
    """What the user says, checked."""
    found = {}
    for ours, theirs in columns.items():
        if ours not in SPELLINGS:
            near = get_close_matches(str(ours), SPELLINGS, 1)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise InputError(f"trace.columns.{ours} is unknown; known are {', '.join(SPELLINGS)}{meant}")
        if theirs is None:
            found[ours] = Column("")
            continue
        name = str(theirs).strip().lower()
        if name not in table.header:
            near = get_close_matches(name, table.header, 1)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise InputError(
                f"{table.file}: no column {one_line(theirs)!r} ({OPTION.format(ours, one_line(theirs))}); there are "
                f"{one_line(', '.join(table.header))}{meant}"
            )
        found[ours] = Column(name, UNITS.get(name.rpartition("_")[2]))
    return found


def _split_gpu(table: Table, chosen: dict[str, Column], columns: Mapping[str, Any]) -> None:
    """A column ``gpu`` counts, or names a type."""
    column = chosen.get("num_gpus")
    if column is None or column.header != "gpu" or "num_gpus" in columns or not table.frame["gpu"].notna().any():
        return
    if pd.to_numeric(table.frame[column.header], errors="coerce").notna().any():
        return
    del chosen["num_gpus"]
    chosen.setdefault("gpu_type", column)


def _check(table: Table, chosen: Mapping[str, Column], columns: Mapping[str, Any]) -> None:
    """Refuse what lacks a time, and a column whose name is a slip of one that would be read."""
    lacks = [] if "submit_s" in chosen else ["submit_s"]
    lacks += [] if "duration_s" in chosen or {"start_s", "end_s"} <= chosen.keys() else ["duration_s"]
    if lacks:
        raise InputError(
            f"{table.file}: no column was recognised as {' and '.join(lacks)} (duration_s: or start_s and end_s) among "
            f"{one_line(', '.join(table.header))}; say which: {OPTION.format(lacks[0], 'COLUMN')}"
        )
    known = {
        spelling: ours for ours, spellings in SPELLINGS.items() for spelling in (ours, *spellings) if ours not in chosen
    }
    for name in _unread(table, chosen):
        near = get_close_matches(name, known, 1, CLOSE)
        if near and known[near[0]] not in columns:
            raise InputError(
                f"{table.file}: column {one_line(name)!r} looks like {near[0]}; say what it is: {OPTION.format(known[near[0]], name)}, "
                f"or {OPTION.format(known[near[0]], 'null')} to leave it unread"
            )


def _unread(table: Table, chosen: Mapping[str, Column]) -> list[str]:
    used = {column.header for column in chosen.values()}
    return [name for name in table.header if name and name not in used]


# --- times ----------------------------------------------------------------------------


def _clocks(table: Table, chosen: Mapping[str, Column]) -> tuple[dict[str, Floats], datetime | None]:
    """Submissions, starts and ends in seconds after the first submission (numbers that count from 0 stay), and its wall clock."""
    numeric = {ours: _numeric(table, chosen[ours]) for ours in CLOCKS if ours in chosen}
    kinds = {ours: values is not None for ours, values in numeric.items()}
    if len(set(kinds.values())) > 1:
        numbers, texts = (next(chosen[o].header for o in kinds if kinds[o] is is_number) for is_number in (True, False))
        raise InputError(f"{table.file}: column {numbers} has numbers, column {texts} clock times; write both alike")
    if kinds["submit_s"]:
        return _counted(table, chosen, {ours: values for ours, values in numeric.items() if values is not None})
    aware = {ours: _aware(table, chosen[ours].header) for ours in numeric}
    if len(set(aware.values())) > 1:
        raise InputError(
            f"{table.file}: some of {', '.join(chosen[o].header for o in aware)} have a UTC offset, others none; write all alike"
        )
    since = {ours: _since_1970(table, chosen[ours].header, aware[ours]) for ours in numeric}
    first = float(np.nanmin(since["submit_s"]))
    origin = datetime.fromtimestamp(first, UTC).replace(tzinfo=None)
    if aware["submit_s"]:
        origin = table.instants(chosen["submit_s"].header)[1]
    return {ours: values - first for ours, values in since.items()}, origin


def _numeric(table: Table, column: Column) -> Floats | None:
    """The column as numbers, NaN where it is empty; None where something else stands in it."""
    numbers = table.numbers(column.header)
    bad = table.frame[column.header].notna().to_numpy() & ~np.isfinite(numbers)
    return None if bad.any() else numbers * (column.unit or 1.0)


def _counted(
    table: Table, chosen: Mapping[str, Column], numbers: dict[str, Floats]
) -> tuple[dict[str, Floats], datetime | None]:
    """Times that are numbers: of their own count, or since 1970."""
    submit_s = numbers["submit_s"]
    least = float(np.nanmin(submit_s)) if np.isfinite(submit_s).any() else 0.0
    if least >= EPOCH_MS:
        name = chosen["submit_s"].header
        raise InputError(
            f"{table.file}: column {name} has milliseconds or finer since 1970; call it {name}_ms, or divide by 1000"
        )
    if least < EPOCH_S:
        return numbers, None
    return {ours: values - least for ours, values in numbers.items()}, datetime.fromtimestamp(least, UTC).replace(
        tzinfo=None
    )


def _aware(table: Table, header: str) -> bool:
    """Whether the first clock time of a column has a UTC offset; one that differs is refused where it is read."""
    given = table.frame[header].dropna()
    return OFFSET.search(str(given.iloc[0])) is not None


def _since_1970(table: Table, header: str, aware: bool) -> Floats:
    """Clock times (n,) as seconds, NaN where empty; whatever else is refused by line."""
    text = table.frame[header]
    times = pd.to_datetime(text, format="ISO8601", errors="coerce", utc=True)
    offset = text.map(lambda one: isinstance(one, str) and OFFSET.search(one) is not None).to_numpy(bool)
    bad = text.notna().to_numpy() & (times.isna().to_numpy() | (offset != aware))
    if bad.any():
        row = int(np.argmax(bad))
        what = (
            "YYYY-MM-DD HH:MM:SS+00:00, with an offset as in the rows before"
            if aware
            else "YYYY-MM-DD HH:MM:SS, or seconds"
        )
        raise InputError(
            f"{table.file}: row {table.lines[row]}: {header} is {one_line(text.iloc[row])!r}; needed is {what}"
        )
    return np.asarray((times - pd.Timestamp(0, tz="UTC")).dt.total_seconds(), np.float64)


def _span(table: Table, column: Column) -> Floats:
    """A length of time in seconds: a number, or ``[D-]HH:MM[:SS]``; NaN where empty."""
    found = _numeric(table, column)
    if found is not None:
        return found
    text = table.frame[column.header]
    out = np.full(len(table), np.nan)
    for row, one in enumerate(text):
        if not isinstance(one, str):
            continue
        parts = HMS.fullmatch(one)
        if parts is None:
            raise InputError(
                f"{table.file}: row {table.lines[row]}: {column.header} is {one_line(one)!r}; needed are seconds, or HH:MM:SS"
            )
        days, hours, minutes, seconds = (float(part or 0) for part in parts.groups())
        out[row] = days * 86_400 + hours * 3600 + minutes * 60 + seconds
    return out


# --- GPUs -----------------------------------------------------------------------------


def _asked(table: Table, chosen: Mapping[str, Column]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Columns on GPUs: how many, of which type, which slice."""
    n, out, notes = len(table), dict[str, Any](), list[str]()
    gpus = table.numbers_or_empty(chosen["num_gpus"].header) if "num_gpus" in chosen else np.ones(n)
    if "num_gpus" not in chosen:
        notes.append("no column with a number of GPUs: each job is taken to ask for one")
    share = np.where((gpus > 0) & (gpus < 1), np.round(gpus * WHOLE), WHOLE)
    out["num_gpus"] = np.where(share < WHOLE, 1.0, gpus)
    if (share < WHOLE).any():
        out["gpu_milli"] = np.maximum(share, 1.0)
    kinds, slices = np.full(n, None, object), np.full(n, None, object)
    if "gpu_type" in chosen:
        kinds, slices = spelled_types(table.frame[chosen["gpu_type"].header])
    if "mig" in chosen:
        models, found = spelled_slices(table.frame[chosen["mig"].header])
        slices = np.where(found == None, slices, found)  # noqa: E711  (element by element)
        kinds = np.where(kinds == None, models, kinds)  # noqa: E711
    if "gpu_type" in chosen or "mig" in chosen:
        out |= {"gpu_type": kinds, "mig": slices}
    return out, tuple(notes)


def spelled_types(values: pd.Series[Any]) -> tuple[npt.NDArray[np.object_], npt.NDArray[np.object_]]:
    """GPU types (n,) as ``A|B`` by what people call them, and slices where that is what is named; unknown names stay."""
    types, slices = {}, {}
    for value in values.dropna().unique():
        name = uncell(str(value)).strip()
        cut = slice_of(name)
        each = [kind for part in name.split("|") for kind in usual_types(part) or (part,)]
        types[value] = types_with(*cut) if cut else "|".join(dict.fromkeys(each))
        slices[value] = cut[0] if cut else None
    return _mapped(values, types), _mapped(values, slices)


def spelled_slices(values: pd.Series[Any]) -> tuple[npt.NDArray[np.object_], npt.NDArray[np.object_]]:
    """GPU types (n,) where a slice's name tells them, and slices; ``1g`` stays for the cluster to say what it is there."""
    types, slices = {}, {}
    for value in values.dropna().unique():
        name = re.sub(r"^mig[\W_]*", "", uncell(str(value)).strip().lower())
        cut = slice_of(name)
        types[value] = types_with(*cut) if cut else None
        slices[value] = cut[0] if cut else None if name in NO_SLICE else name
    return _mapped(values, types), _mapped(values, slices)


def _mapped(values: pd.Series[Any], to: Mapping[Any, Any]) -> npt.NDArray[np.object_]:
    out = np.full(len(values), None, object)
    for row, value in enumerate(values):
        out[row] = to.get(value)
    return out


# --- what is told ---------------------------------------------------------------------


def _kept(
    table: Table, chosen: Mapping[str, Column], out: Mapping[str, Any]
) -> tuple[npt.NDArray[np.bool_], list[str]]:
    """Rows of jobs that ran on GPUs, and a sentence for each kind of the others."""
    unended = np.isnan(out["duration_s"]) & ("duration_s" not in chosen)
    without = ~unended & (out["num_gpus"] == 0)
    told = [(unended, "jobs without a start or an end left out"), (without, "jobs without a GPU left out")]
    kept = ~unended & ~without
    if not kept.any():
        raise InputError(f"{table.file}: no job has a start, an end and a GPU; at least one is needed")
    return kept, [f"{int(rows.sum())} {what}" for rows, what in told if rows.any()]


def _check_empty(
    table: Table, chosen: Mapping[str, Column], out: Mapping[str, Any], kept: npt.NDArray[np.bool_]
) -> None:
    """Refuse an empty cell where a job needs a value."""
    for ours in ("submit_s", "duration_s", "num_gpus", "job_id"):
        if ours in chosen and (bad := kept & pd.isna(out[ours])).any():
            row = table.lines[int(np.argmax(bad))]
            raise InputError(f"{table.file}: row {row}: {chosen[ours].header} is empty; give it, or remove the row")


def _told(table: Table, chosen: Mapping[str, Column], origin: datetime | None) -> str:
    """Which column was taken for what."""
    renamed = [f"{ours} from {column.header}" for ours, column in chosen.items() if ours != column.header]
    text = f"columns by their names: {', '.join(renamed)}" if renamed else "columns bear our names"
    text += "" if origin is None else "; times count from the first submission"
    unread = _unread(table, chosen)
    return text + (f"; not read: {one_line(', '.join(unread))}" if unread else "")
