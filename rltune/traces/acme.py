"""AcmeTrace: two clusters of Shanghai AI Laboratory, March to August 2023 (Hu et al., NSDI'24; InternLM/AcmeTrace).

``trace_seren.csv`` and ``trace_kalos.csv``. Durations and waits are differences of its times: in the copy of Kalos the column
``duration`` counts the wait too. Times have their UTC offset.
"""

from __future__ import annotations

import numpy as np

from rltune.nouns.errors import InputError
from rltune.traces.attempts import named_apart
from rltune.traces.table import Reading, Table

COLUMNS = (
    "job_id", "user", "node_num", "gpu_num", "cpu_num", "type", "state", "submit_time", "start_time", "end_time",
)  # fmt: skip


def read_jobs(table: Table) -> Reading:
    """GPU jobs that ran; ``name`` is the kind of workload. Whatever else is left out is counted."""
    gpus = table.numbers_or_empty("gpu_num")
    on_gpus = gpus != 0
    ran = table.frame["start_time"].notna().to_numpy() & table.frame["end_time"].notna().to_numpy()
    jobs = table.keep(on_gpus & ran)
    left_out = [
        f"{int(count)} jobs {what} left out"
        for count, what in (((~on_gpus).sum(), "without a GPU"), ((on_gpus & ~ran).sum(), "that never ran"))
        if count
    ]
    if len(jobs) == 0:
        raise InputError(
            f"{table.file}: no GPU job that ran ({', '.join(left_out) or 'no job'}); at least one is needed"
        )
    submit, origin = jobs.instants("submit_time")
    start, end = jobs.instants("start_time")[0], jobs.instants("end_time")[0]
    first = submit.min()
    frame = jobs.frame
    ids, changed = named_apart(frame["job_id"].tolist())
    columns = {
        "job_id": ids,
        "submit_s": submit - first,
        "duration_s": end - start,
        "num_gpus": frame["gpu_num"].to_numpy(),
        "wait_s": start - submit,
        "user": frame["user"].to_numpy(),
        "status": frame["state"].to_numpy(),
        "name": frame["type"].to_numpy(),
        "cpus": np.nan_to_num(jobs.numbers_or_empty("cpu_num")),
    }
    if "mem_per_pod_gb" in jobs.header:
        per_pod, nodes = jobs.numbers_or_empty("mem_per_pod_gb"), jobs.numbers_or_empty("node_num")
        columns["memory_gb"] = np.nan_to_num(per_pod * nodes)
    again = (f"{changed} further rows of one job_id are runs of their own, named ID#2, ...",) if changed else ()
    return Reading(columns, jobs.lines, origin, (*left_out, *again))
