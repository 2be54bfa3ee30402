"""Alibaba PAI, July and August 2020 (cluster-trace-gpu-v2020, Weng et al., NSDI'22; CC-BY-4.0).

Two forms: the published tables (without headers), of which ``pai_task_table.csv`` is needed and
the others are joined where they lie beside it, and an 8.2 % sample of the terminated GPU tasks.
Only the job table has submission times: without it, a task's arrival is its start.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rltune.nouns.errors import InputError
from rltune.nouns.jobs import WHOLE
from rltune.traces import alibaba_tables
from rltune.traces.table import Reading, Table

SAMPLE_COLUMNS = (
    "job_name", "task_name", "task_row", "arrival_s", "duration_s", "duration_censored", "gpu_count",
)  # fmt: skip
TASK_COLUMNS = (
    "job_name", "task_name", "inst_num", "status", "start_time",
    "end_time", "plan_cpu", "plan_mem", "plan_gpu", "gpu_type",
)  # fmt: skip
"""``pai_task_table.header``; plan_cpu and plan_gpu in percent, plan_mem in GB, each for one instance."""
TASK_STATUSES = ("Terminated", "Failed", "Running", "Waiting")
ENDED = ("Terminated", "Failed")
"""Failed tasks held their GPUs too."""
START_NOTE = "arrival is the task's START time: the log has no submission time"
WHOLE_NOTE = "fractional GPU requests are rounded up to whole GPUs"


def read_sample(table: Table) -> Reading:
    """The 8.2 % sample: whole-GPU gangs, durations clamped at 48 h."""
    frame = table.frame
    clamped = int((table.numbers("duration_censored") == 1).sum())
    columns = {
        "job_id": (frame["job_name"] + "/" + frame["task_name"] + "/" + frame["task_row"]).to_numpy(),
        "submit_s": frame["arrival_s"].to_numpy(),
        "duration_s": frame["duration_s"].to_numpy(),
        "num_gpus": frame["gpu_count"].to_numpy(),
    }
    notes = (
        START_NOTE,
        WHOLE_NOTE,
        "8.2 % random sample of the terminated GPU tasks",
        f"{clamped} durations clamped at 48 h by the sample",
    )
    return Reading(columns, table.lines, None, notes)


def read_tasks(table: Table, beside: Mapping[str, Path] | None = None) -> Reading:
    """Tasks that ended and asked for GPUs, each a job of its own; the others are counted.

    ``beside``: further tables by name (``alibaba_tables.beside``): "job" gives user and submission, "instance" the
    times that the task lacks, "group_tag" the tag of recurring tasks (as ``name``; else that is the task's role).
    """
    beside = beside or {}
    frame = table.frame.set_axis(list(TASK_COLUMNS), axis=1)
    table = Table(table.file, TASK_COLUMNS, frame, table.lines)
    number = {c: table.numbers_or_empty(c) for c in ("start_time", "end_time", "plan_cpu", "plan_mem", "plan_gpu")}
    ended = frame["status"].isin(ENDED).to_numpy()
    on_gpus = number["plan_gpu"] > 0
    wanted = ended & on_gpus
    start_s, end_s, notes = alibaba_tables.times(
        table.keep(wanted), number["start_time"][wanted], number["end_time"][wanted], beside.get("instance")
    )
    timed = np.isfinite(start_s) & np.isfinite(end_s)
    forward = timed & (end_s >= start_s)
    kept = np.flatnonzero(wanted)[forward]
    if len(kept) == 0:
        raise InputError(f"{table.file}: no GPU task that ended with known times; at least one is needed")
    left_out = (
        f"{int((~ended).sum())} tasks that did not end, {int((ended & ~on_gpus).sum())} without GPUs, "
        f"{int((~timed).sum())} without start or end and {int((timed & ~forward).sum())} that end before they start "
        "left out"
    )
    rows = np.zeros(len(table), bool)
    rows[kept] = True
    jobs = table.keep(rows)
    start_s = start_s[forward]
    owner = alibaba_tables.owners(jobs, start_s, beside)
    instances = jobs.numbers("inst_num")
    asked, request_notes = requests(instances, number["plan_gpu"][rows])
    columns = {
        "job_id": jobs.frame["job_name"] + "/" + jobs.frame["task_name"] + "/" + pd.Series(jobs.lines).astype(str),
        "submit_s": owner.submit_s - owner.submit_s.min(),
        "duration_s": end_s[forward] - start_s,
        "gpu_type": jobs.frame["gpu_type"].replace(alibaba_tables.GPU_TYPES).to_numpy(),
        "cpus": instances * np.nan_to_num(number["plan_cpu"][rows]) / 100,
        "memory_gb": instances * np.nan_to_num(number["plan_mem"][rows]),
        "status": jobs.frame["status"].to_numpy(),
        **asked,
        **owner.columns,
    }
    told = (left_out, *notes, *request_notes, *(owner.notes or (START_NOTE,)))
    return Reading(columns, jobs.lines, None, told, tuple(path.name for path in beside.values()))


def requests(instances: np.ndarray, plan_gpu: np.ndarray) -> tuple[dict[str, Any], list[str]]:
    """num_gpus and gpu_milli (n_tasks,) and what must be told.

    A task of one instance keeps its share of one GPU. A gang of instances that each ask for a share gets a whole
    GPU for each: the instances run on shares of different GPUs, and a gang's GPUs are whole.
    """
    shared = plan_gpu < 100
    alone = shared & (instances == 1)
    columns = {
        "num_gpus": np.where(alone, 1, instances * np.ceil(plan_gpu / 100)),
        "gpu_milli": np.where(alone, np.clip(np.ceil(plan_gpu * WHOLE / 100), 1, WHOLE), WHOLE),
    }
    notes = [f"{int(alone.sum())} tasks ask for a share of one GPU"]
    gangs = shared & (instances > 1)
    if gangs.any():
        more = float((instances * (1 - plan_gpu / 100))[gangs].sum())
        notes.append(
            f"{int(gangs.sum())} gangs of instances that each ask for a share get a whole GPU for each, "
            f"{more:.0f} GPUs more than asked for"
        )
    odd = ~shared & (plan_gpu % 100 != 0)
    if odd.any():
        notes.append(f"{int(odd.sum())} tasks whose instances ask for a broken number of GPUs get the next whole one")
    return columns, notes
