"""Tables of one's own: usual names of columns, clock times, GPU types and slices in usual spellings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import rltune
from rltune.nouns.errors import InputError
from rltune.nouns.gpus import usual_types
from rltune.traces.own import guessed


def loaded(tmp_path: Path, text: str, **options: Any) -> rltune.Trace:
    path = tmp_path / "mine.csv"
    path.write_text(text)
    return rltune.load_trace(path, **options)


def test_usual_names_iso_times_and_spellings_are_read(tmp_path: Path) -> None:
    """A first own log would take a converter before the first table."""
    trace = loaded(
        tmp_path,
        "Job ID,Owner,Submit Time,Started At,Finished At,GPUs,GPU Model,MIG,colour\n"
        "a,ann,2024-03-01T08:00:00,2024-03-01T08:05:00,2024-03-01T09:00:00,1,a100,1g,red\n"
        "b,bob,2024-03-01 08:01,2024-03-01 08:01,2024-03-01 08:02,4,A100-SXM4-40GB,,\n"
        "c,bob,2024-03-01 08:02,,,4,A100-SXM4-40GB,,\n"
        "d,bob,2024-03-01 08:03,2024-03-01 08:04,2024-03-01 08:05,0,,,\n"
        "e,bob,2024-03-01 08:04,2024-03-01 08:04,2024-03-01 08:05,0.5,Tesla V100-SXM2-16GB,none,\n",
    )
    jobs = trace.jobs
    assert list(jobs.job_id) == ["a", "b", "e"] and list(jobs.submit_s) == [0, 60, 240]
    assert list(jobs.duration_s) == [3300, 60, 60] and list(jobs.wait_s) == [300, 0, 0]
    assert list(jobs.gpu_type.values()) == ["A100-40GB|A100-80GB", "A100-40GB", "V100"]
    assert list(jobs.mig.values()) == ["1g", None, None] and list(jobs.user.values()) == ["ann", "bob", "bob"]
    assert list(jobs.gpu_milli) == [1000, 1000, 500] and str(trace.origin) == "2024-03-01 08:00:00"
    told = "\n".join(trace.notes)
    assert "submit_s from submit time" in told and "not read: colour" in told
    assert "1 jobs without a start or an end left out" in told and "1 jobs without a GPU left out" in told


@pytest.mark.parametrize(
    ("header", "row", "submit_s", "duration_s"),
    [
        ("submit,duration_min,gpus", "90,2,1", 90, 120),
        ("created_at,runtime,gpus", "1709280000,0:30:05,1", 0, 1805),
        ("created_at,elapsed,gpus", "1709280000,1-02:00:00,1", 0, 93_600),
        ("submitted,run_time_h,gpu_count", "2024-03-01T08:00:00+02:00,0.5,1", 0, 1800),
        ("submit_ms,duration_ms,gpus", "5000,2500,1", 5, 2.5),
        ("arrival_time,start_s,end_s,gpu", "10,20,35,a100", 10, 15),
    ],
)
def test_units_and_clocks(header: str, row: str, submit_s: float, duration_s: float, tmp_path: Path) -> None:
    """Minutes would be read as seconds, or seconds since 1970 as a trace of fifty years."""
    jobs = loaded(tmp_path, f"{header}\n{row}\n").jobs
    assert (jobs.submit_s[0], jobs.duration_s[0], jobs.num_gpus[0]) == (submit_s, duration_s, 1)


def test_columns_can_be_named(tmp_path: Path) -> None:
    """A log with unusual names would need a converter."""
    text = "who,sent,took,cards\nann,5,7,2\n"
    with pytest.raises(InputError, match=r"say what they are, e.g. trace.columns.submit_s=COLUMN"):
        loaded(tmp_path, text)
    columns = {"submit_s": "sent", "duration_s": "took", "num_gpus": "cards", "user": "who"}
    jobs = loaded(tmp_path, text, columns=columns).jobs
    assert (jobs.submit_s[0], jobs.duration_s[0], jobs.num_gpus[0], jobs.user.values()[0]) == (5, 7, 2, "ann")


HEAD = "job_id,submit_time,duration,gpus"


@pytest.mark.parametrize(
    ("text", "columns", "told"),
    [
        (f"{HEAD},gpu_mili\na,1,1,1,500\n", {}, "column 'gpu_mili' looks like gpu_milli; say what it is: trace.columns.gpu_milli=gpu_mili"),
        (f"{HEAD}\na,2024-03-01 8 o'clock,1,1\n", {}, "row 2: submit_time is \"2024-03-01 8 o'clock\"; needed is YYYY-MM-DD"),
        (f"{HEAD}\na,2024-03-01,1,1\nb,2024-03-01T09:00+01:00,1,1\n", {}, "row 3: submit_time is '2024-03-01T09:00+01:00'"),
        (f"{HEAD}\na,1709280000000,1,1\n", {}, "has milliseconds or finer since 1970; call it submit_time_ms"),
        (f"{HEAD}\na,1,soon,1\n", {}, "row 2: duration is 'soon'; needed are seconds, or HH:MM:SS"),
        (f"{HEAD}\na,1,,1\n", {}, "row 2: duration is empty"),
        (f"{HEAD}\na,1,-5,1\n", {}, "duration_s is negative"),
        (f"{HEAD}\na,1,5,many\n", {}, "row 2: gpus is 'many', which is no number"),
        ("submit_time,start_time,end_time,gpus\n1,2024-03-01,2024-03-02,1\n", {}, "has numbers, column start_time clock times"),
        ("submit_time,start_time,end_time,gpus\n1,,,1\n", {}, "no job has a start, an end and a GPU"),
        (f"{HEAD}\na,1,1,1\n", {"submit": "submit_time"}, "trace.columns.submit is unknown; known are job_id"),
        (f"{HEAD}\na,1,1,1\n", {"submit_s": "submitted"}, "no column 'submitted'.*did you mean submit_time?"),
        (f"{HEAD}\na,1,1,1\n", {"submit_s": None}, "no column was recognised as submit_s"),
    ],
)  # fmt: skip
def test_what_is_doubtful_is_refused_with_the_remedy(text: str, columns: Any, told: str, tmp_path: Path) -> None:
    """A wrong guess would look like a result."""
    with pytest.raises(InputError) as refused:
        loaded(tmp_path, text, columns=columns)
    message = str(refused.value)
    assert all(part in message for part in told.split(".*")) and "\n" not in message


def test_the_surest_name_wins_and_a_column_is_left_unread_on_request(tmp_path: Path) -> None:
    """Which of two times was taken would be a matter of their order in the file."""
    assert guessed(["created", "submit_time", "state"])["submit_s"].header == "submit_time"
    trace = loaded(tmp_path, f"{HEAD},prio\na,1,1,1,high\n", columns={"priority": None})
    assert trace.jobs.priority[0] == 0 and "not read: prio" in trace.notes[0]


@pytest.mark.parametrize(
    ("name", "types"),
    [
        ("a100", ("A100-40GB", "A100-80GB")), ("NVIDIA A100 80GB PCIe", ("A100-80GB",)), ("A100-SXM4-40GB", ("A100-40GB",)),
        ("V100", ("V100",)), ("NVIDIA H100 80GB HBM3", ("H100-80GB",)), ("tesla t4", ("T4",)), ("rtx pro 6000", ("RTX-PRO-6000",)),
        ("A10G", ()), ("RTX3090", ()), ("12gb", ()),
    ],
)  # fmt: skip
def test_gpu_types_by_what_people_call_them(name: str, types: tuple[str, ...]) -> None:
    """A job that names its GPU as the driver does would find no pool."""
    assert usual_types(name) == types
