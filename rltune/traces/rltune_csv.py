"""RLTune's own CSV (GPU_Traces of dshruti20/RLTune): 19 columns, with or without a header; -1 = absent."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rltune.nouns.errors import InputError
from rltune.traces.table import Reading, Table

COLUMNS = (
    "job_id", "submit_time", "wait_time", "run_time", "num_gpus", "cpu_time", "used_memory", "request_cpus",
    "request_time", "request_memory", "status", "user_id", "group_id", "executable_number", "queue_number",
    "partition_number", "proceeding_job_number", "vc_id", "gpu_type",
)  # fmt: skip
"""The columns of its README; a twentieth is undocumented and passed over."""
GPU_TYPES = ("T4", "MISC", "P100", "V100", "V100-32GB")
"""Names of its GPU type codes 0 to 4 (README); V100 is its V100_16GB."""


def is_headerless(fields: tuple[str, ...]) -> bool:
    """A first line of 19 or 20 values whose times and GPUs are numbers."""
    return len(fields) in (len(COLUMNS), len(COLUMNS) + 1) and all(_is_number(fields[i]) for i in (1, 3, 4))


def matches(header: tuple[str, ...]) -> bool:
    """The 19 names, or these and one more."""
    return header[: len(COLUMNS)] == COLUMNS and len(header) <= len(COLUMNS) + 1


def read(table: Table) -> Reading:
    """Jobs with their VC and GPU type; times count from the file's own zero."""
    extra = table.frame.shape[1] - len(COLUMNS)
    frame = table.frame.iloc[:, : len(COLUMNS)].set_axis(list(COLUMNS), axis=1)
    table = Table(table.file, COLUMNS, frame, table.lines)
    wait_s = table.numbers("wait_time")
    columns = {
        "job_id": frame["job_id"].to_numpy(),
        "submit_s": frame["submit_time"].to_numpy(),
        "duration_s": frame["run_time"].to_numpy(),
        "num_gpus": frame["num_gpus"].to_numpy(),
        "vc": frame["vc_id"].to_numpy(),
        "user": frame["user_id"].to_numpy(),
        "gpu_type": _gpu_types(table),
        "status": frame["status"].to_numpy(),
        "cpus": np.maximum(table.numbers("request_cpus"), 0),
        "memory_gb": np.maximum(table.numbers("request_memory"), 0),
        "wait_s": np.where(wait_s < 0, np.nan, wait_s),
    }
    notes = ("the undocumented twentieth column is passed over",) if extra else ()
    return Reading(columns, table.lines, None, notes)


def _gpu_types(table: Table) -> npt.NDArray[np.object_]:
    codes = table.numbers("gpu_type")
    codes = np.where(np.isnan(codes), -1, codes)
    bad = ~np.isin(codes, np.arange(-1, len(GPU_TYPES)))
    if bad.any():
        row = int(np.argmax(bad))
        raise InputError(
            f"{table.file}: row {table.lines[row]}: gpu_type is {table.frame['gpu_type'].iloc[row]!r}; "
            "use 0 (T4), 1 (MISC), 2 (P100), 3 (V100), 4 (V100-32GB) or -1 (any)"
        )
    names: npt.NDArray[np.object_] = np.array([*GPU_TYPES, None], dtype=object)[codes.astype(int)]
    return names


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
