"""Alibaba openb, cluster-trace-gpu-v2023 (Weng et al., USENIX ATC'23): pods, many of which share a GPU, and nodes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rltune.nouns.cluster import Cluster, Pool
from rltune.nouns.errors import InputError
from rltune.nouns.jobs import WHOLE, JobTable
from rltune.traces.table import Reading, Table, decode, one_line, parse_csv, read_bytes

POD_COLUMNS = (
    "name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli", "gpu_spec",
    "qos", "pod_phase", "creation_time", "deletion_time", "scheduled_time",
)  # fmt: skip
REQUEST_COLUMNS = POD_COLUMNS[:5]
"""What all lists of pods have; the resampled ones may lack the rest."""
NODE_COLUMNS = ("sn", "cpu_milli", "memory_mib", "gpu", "model")
MODELS = {"V100M16": "V100", "V100M32": "V100-32GB"}
"""Their names that differ from `rltune.nouns.gpus.GPU_TYPES`."""


def read_pods(table: Table) -> Reading:
    """Pods that were scheduled, with their share of a GPU; those without a GPU take CPU and memory of one node."""
    scheduled = np.isfinite(table.numbers("scheduled_time"))
    if not scheduled.any():
        raise InputError(f"{table.file}: no pod that was scheduled; at least one is needed")
    pods = table.keep(scheduled)
    columns = _requests(pods) | {
        "submit_s": pods.frame["creation_time"].to_numpy(),
        "duration_s": pods.numbers("deletion_time") - pods.numbers("scheduled_time"),
        "status": pods.frame["pod_phase"].to_numpy(),
        "name": pods.frame["qos"].to_numpy(),
        "wait_s": pods.numbers("scheduled_time") - pods.numbers("creation_time"),
    }
    gpus, share = pods.numbers("num_gpu"), pods.numbers("gpu_milli")
    notes = (
        f"{int(((gpus > 0) & (share < WHOLE)).sum())} pods ask for a share of a GPU and {int((gpus == 0).sum())} for none",
        f"{int((~scheduled).sum())} pods never scheduled left out",
        "pods were sampled from a larger cluster: these alone load it by 0.2 %",
    )
    return Reading(columns, pods.lines, None, notes)


def read_openb_requests(path: str | Path) -> JobTable:
    """What all pods of a list ask for, scheduled or not; times play no role: submitted in the list's order, no run time.

    For the protocol of `rltune.packing.online`. Lists resampled by the publisher have no times.
    """
    table = _read(path, REQUEST_COLUMNS, "a list of openb pods")
    columns = _requests(table) | {"submit_s": np.arange(len(table)), "duration_s": np.zeros(len(table))}
    return JobTable.from_columns(columns, source=table.file, rows=table.lines)


def read_openb_nodes(path: str | Path) -> Cluster:
    """The cluster "openb" of a node list: one pool a kind of node, in order of first appearance.

    A pod uses one node, so no pool takes gangs wider than its nodes. Node ids count through the pools, since the
    list mixes the kinds.
    """
    table = _read(path, NODE_COLUMNS, "a list of openb nodes")
    number = {column: table.numbers(column) for column in ("cpu_milli", "memory_mib", "gpu")}
    for column, values in number.items():
        bad = ~(values >= (0 if column == "gpu" else 1)) | (values != np.floor(values))
        if bad.any():
            row = int(np.argmax(bad))
            raise InputError(f"{table.file}: row {table.lines[row]}: {column} is no whole number; mend that line")
    models = [MODELS.get(name, name) for name in table.frame["model"].fillna("any")]
    kinds = Counter(zip(*(column.astype(int).tolist() for column in number.values()), models, strict=True))
    pools: list[Pool] = []
    for (cpus, memory, gpus, model), nodes in kinds.items():
        pools.append(
            Pool(
                f"{model if gpus else 'CPU'}x{gpus} {cpus // 1000} cores {memory // 1024} GB",
                nodes,
                gpus,
                model,
                first_node_id=sum(pool.nodes for pool in pools),
                max_gpus_per_job=max(1, gpus),
                cpus=cpus / 1000,
                memory_gb=memory / 1024,
            )
        )
    return Cluster("openb", tuple(pools))


def _requests(pods: Table) -> dict[str, Any]:
    """Columns of what pods ask for; a malformed number stays, to be refused by its row."""
    gpus = pods.frame["num_gpu"]
    none = pods.numbers("num_gpu") == 0
    spec = pods.frame["gpu_spec"] if "gpu_spec" in pods.header else pd.Series([None] * len(pods), dtype=object)
    return {
        "job_id": pods.frame["name"].to_numpy(),
        "num_gpus": gpus.where(~none, "1").to_numpy(),
        "gpu_milli": pods.frame["gpu_milli"].where(~none, "0").to_numpy(),
        "gpu_type": spec.map(_types, na_action="ignore").to_numpy(),
        "cpus": pods.numbers("cpu_milli") / 1000,
        "memory_gb": pods.numbers("memory_mib") / 1024,
    }


def _types(spec: str) -> str:
    """ "V100M16|V100M32" in the names of `rltune.nouns.gpus`."""
    return "|".join(MODELS.get(name, name) for name in spec.split("|"))


def _read(path: str | Path, needed: tuple[str, ...], what: str) -> Table:
    file = Path(path).name
    table = parse_csv(decode(read_bytes(Path(path)), file), file)
    if not set(needed) <= set(table.header):
        raise InputError(f"{file}: columns {one_line(', '.join(table.header))}; {what} has {', '.join(needed)}")
    return table
