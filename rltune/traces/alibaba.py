"""Alibaba PAI, July and August 2020 (cluster-trace-gpu-v2020, Weng et al., NSDI'22; CC-BY-4.0).

Two forms: the published ``pai_task_table.csv`` (without a header) and an 8.2 %
sample of its terminated GPU tasks. Neither has a submission time: a task's
arrival is its start.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from rltune.errors import InputError
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
GPU_TYPES = {"V100M32": "V100-32GB"}
"""Their names of GPU types where ours differ."""
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


def read_tasks(table: Table) -> Reading:
    """The published task table: terminated tasks that ask for GPUs; the others are counted."""
    frame = table.frame.set_axis(list(TASK_COLUMNS), axis=1)
    table = Table(table.file, TASK_COLUMNS, frame, table.lines)
    ended = (frame["status"] == "Terminated").to_numpy()
    on_gpus = table.numbers("plan_gpu") > 0
    known = np.isfinite(table.numbers("start_time")) & np.isfinite(table.numbers("end_time"))
    timed = ended & on_gpus & known
    if not timed.any():
        raise InputError(f"{table.file}: no terminated GPU task; at least one is needed")
    notes = (
        START_NOTE,
        WHOLE_NOTE,
        f"{int((~ended).sum())} tasks that did not terminate, {int((ended & ~on_gpus).sum())} without GPUs "
        f"and {int((ended & on_gpus & ~timed).sum())} without start or end left out",
    )
    jobs = table.keep(timed)
    start_s, instances = jobs.numbers("start_time"), jobs.numbers("inst_num")
    row = pd.Series(jobs.lines).astype(str)
    columns = {
        "job_id": jobs.frame["job_name"] + "/" + jobs.frame["task_name"] + "/" + row,
        "submit_s": start_s - start_s.min(),
        "duration_s": jobs.numbers("end_time") - start_s,
        "num_gpus": instances * np.ceil(jobs.numbers("plan_gpu") / 100),
        "gpu_type": jobs.frame["gpu_type"].replace(GPU_TYPES),
        "cpus": instances * jobs.numbers("plan_cpu") / 100,
        "memory_gb": instances * jobs.numbers("plan_mem"),
    }
    return Reading(columns, jobs.lines, None, notes)
