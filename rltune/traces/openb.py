"""Alibaba openb, cluster-trace-gpu-v2023 (Weng et al., USENIX ATC'23): pods, many of which share a GPU."""

from __future__ import annotations

import numpy as np

from rltune.errors import InputError
from rltune.traces.table import Reading, Table

POD_COLUMNS = (
    "name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli", "gpu_spec",
    "qos", "pod_phase", "creation_time", "deletion_time", "scheduled_time",
)  # fmt: skip


def read_pods(table: Table) -> Reading:
    """GPU pods that were scheduled; a share of a GPU becomes a whole one, and is counted."""
    gpus, share = table.numbers("num_gpu"), table.numbers("gpu_milli")
    scheduled = np.isfinite(table.numbers("scheduled_time"))
    # A malformed count is not 0: it stays, to be refused by its row.
    on_gpus = gpus != 0
    keep = scheduled & on_gpus
    if not keep.any():
        raise InputError(f"{table.file}: no GPU pod that was scheduled; at least one is needed")
    pods = table.keep(keep)
    frame = pods.frame
    # "V100M16|V100M32" accepts several models; a job table names one type or any.
    one_model = frame["gpu_spec"].where(~frame["gpu_spec"].astype(str).str.contains("|", regex=False), None)
    several = int(frame["gpu_spec"].notna().sum() - one_model.notna().sum())
    columns = {
        "job_id": frame["name"].to_numpy(),
        "submit_s": frame["creation_time"].to_numpy(),
        "duration_s": pods.numbers("deletion_time") - pods.numbers("scheduled_time"),
        "num_gpus": frame["num_gpu"].to_numpy(),
        "gpu_type": one_model.to_numpy(),
        "status": frame["pod_phase"].to_numpy(),
        "name": frame["qos"].to_numpy(),
        "cpus": pods.numbers("cpu_milli") / 1000,
        "memory_gb": pods.numbers("memory_mib") / 1024,
        "wait_s": pods.numbers("scheduled_time") - pods.numbers("creation_time"),
    }
    notes = [
        f"{int((keep & (share < 1000)).sum())} pods that ask for a share of a GPU are given a whole one",
        f"{int((~on_gpus).sum())} pods without a GPU and {int((on_gpus & ~scheduled).sum())} never scheduled left out",
        "pods were sampled from a larger cluster: these alone load it by 0.2 %",
    ]
    if several:
        notes.append(f"{several} pods that accept several GPU models may use any")
    return Reading(columns, pods.lines, None, tuple(notes))
