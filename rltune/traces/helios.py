"""SenseTime Helios, cluster Venus (Hu et al., SC'21, doi 10.1145/3458817.3476223; CC-BY-4.0).

Three forms: the published ``cluster_log.csv``, a copy of its GPU jobs with
durations clamped at 48 h, and a slice of two virtual clusters in September.
"""

from __future__ import annotations

from datetime import datetime

import numpy as np

from rltune.nouns.errors import InputError
from rltune.traces.table import Reading, Table, seconds_from_first

LOG_COLUMNS = (
    "job_id", "user", "vc", "gpu_num", "cpu_num", "node_num", "state",
    "submit_time", "start_time", "end_time", "duration", "queue",
)  # fmt: skip
"""Header of ``cluster_log.csv`` (README of S-Lab-System-Group/HeliosData)."""
NEVER = ("None", "Unknown", "nan", "NaT")
"""What stands in the place of a start that never was."""
COPY_COLUMNS = (
    "job_id", "log_row", "arrival_s", "submit_time", "gpu_num", "duration_s", "duration_censored",
)  # fmt: skip
SLICE_COLUMNS = (
    "job_id", "user", "tenant", "class", "submit_time", "num_chips",
    "chip_type", "num_nodes", "duration_s", "walltime_limit_s", "final_status",
)  # fmt: skip
SLICE_ORIGIN = datetime(2020, 9, 1)
"""Second 0 of the slice (its own header lines)."""


def read_log(table: Table) -> Reading:
    """The published log; jobs without a GPU are left out and counted."""
    gpus = table.numbers("gpu_num")
    on_gpus = gpus != 0
    notes = []
    if not on_gpus.all():
        notes.append(f"{int((~on_gpus).sum())} jobs without a GPU left out")
    ran = ~table.frame["start_time"].isin(NEVER).to_numpy() & table.frame["start_time"].notna().to_numpy()
    if (on_gpus & ~ran).any():
        notes.append(f"{int((on_gpus & ~ran).sum())} jobs that never ran left out")
    jobs = table.keep(on_gpus & ran)
    if len(jobs) == 0:
        raise InputError(f"{table.file}: no GPU job that ran; at least one is needed")
    submit_s, origin = seconds_from_first(jobs.clock("submit_time"))
    frame = jobs.frame
    columns = {
        "job_id": frame["job_id"].to_numpy(),
        "submit_s": submit_s,
        "duration_s": frame["duration"].to_numpy(),
        "num_gpus": frame["gpu_num"].to_numpy(),
        "vc": frame["vc"].to_numpy(),
        "user": frame["user"].to_numpy(),
        "status": frame["state"].to_numpy(),
        "cpus": frame["cpu_num"].to_numpy(),
        "wait_s": frame["queue"].to_numpy(),
    }
    return Reading(columns, jobs.lines, origin, tuple(notes))


def read_copy(table: Table) -> Reading:
    """All GPU jobs of Venus with durations clamped at 48 h; no user, VC or state."""
    arrival_s = table.numbers("arrival_s")
    clock = table.clock("submit_time")
    origin: datetime = (clock[0] - np.timedelta64(int(np.nan_to_num(arrival_s[0])), "s")).item()
    clamped = int((table.numbers("duration_censored") == 1).sum())
    columns = {
        "job_id": table.frame["job_id"].to_numpy(),
        "submit_s": table.frame["arrival_s"].to_numpy(),
        "duration_s": table.frame["duration_s"].to_numpy(),
        "num_gpus": table.frame["gpu_num"].to_numpy(),
    }
    notes = (f"{clamped} durations clamped at 48 h by the copy", "the copy has no user, VC or state")
    return Reading(columns, table.lines, origin, notes)


def read_slice(table: Table) -> Reading:
    """Two virtual clusters in September 2020, with user, VC and state; durations unclamped."""
    frame = table.frame
    columns = {
        "job_id": frame["job_id"].to_numpy(),
        "submit_s": table.numbers("submit_time") / 1e6,  # the slice counts microseconds
        "duration_s": frame["duration_s"].to_numpy(),
        "num_gpus": frame["num_chips"].to_numpy(),
        "vc": frame["tenant"].to_numpy(),
        "user": frame["user"].to_numpy(),
        "status": frame["final_status"].to_numpy(),
    }
    return Reading(columns, table.lines, SLICE_ORIGIN)
