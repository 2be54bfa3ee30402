"""Alibaba, high-priority and spot jobs (cluster-trace-v2026-spot-gpu; Duan et al., ASPLOS'26; alibaba/clusterdata)."""

from __future__ import annotations

import numpy as np

from rltune.nouns.errors import InputError
from rltune.traces.alibaba import requests
from rltune.traces.table import Reading, Table, one_line

COLUMNS = (
    "job_name", "organization", "gpu_model", "cpu_request", "gpu_request", "worker_num", "submit_time", "duration", "job_type",
)  # fmt: skip
PRIORITY = {"HP": 1, "Spot": 0}
MODELS = {"A100-SXM4-80GB": "A100-80GB"}
"""Their names of GPU models where ours differ."""


def read_jobs(table: Table) -> Reading:
    """GPU jobs: the organisation is the virtual cluster, high-priority jobs go before spot jobs."""
    wanted = table.numbers_or_empty("gpu_request") > 0
    jobs = table.keep(wanted)
    if len(jobs) == 0:
        raise InputError(f"{table.file}: no job asks for a GPU; at least one is needed")
    kind = jobs.frame["job_type"]
    bad = ~kind.isin(list(PRIORITY)).to_numpy()
    if bad.any():
        row = int(np.argmax(bad))
        raise InputError(
            f"{table.file}: row {jobs.lines[row]}: job_type is {one_line(kind.iloc[row])!r}; known are {', '.join(PRIORITY)}"
        )
    workers, cpus = jobs.numbers_or_empty("worker_num"), jobs.numbers_or_empty("cpu_request")
    asked, notes = requests(workers, 100 * jobs.numbers_or_empty("gpu_request"))
    columns = {
        "job_id": jobs.frame["job_name"].to_numpy(),
        "submit_s": jobs.frame["submit_time"].to_numpy(),
        "duration_s": jobs.frame["duration"].to_numpy(),
        "gpu_type": jobs.frame["gpu_model"].replace(MODELS).to_numpy(),
        "vc": jobs.frame["organization"].to_numpy(),
        "priority": kind.map(PRIORITY).to_numpy(),
        "name": kind.to_numpy(),
        "cpus": np.nan_to_num(workers * cpus),
        **asked,
    }
    left_out = [f"{int((~wanted).sum())} jobs without a GPU left out"] if not wanted.all() else []
    each = "gpu_request and cpu_request are taken as those of each worker"
    return Reading(columns, jobs.lines, None, (*left_out, *notes, each, "the log has no users and no waits"))
