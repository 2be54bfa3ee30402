"""Philly's machines: the published list, and the cluster it describes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from rltune.nouns.cluster import Cluster, Pool
from rltune.nouns.errors import InputError
from rltune.traces.table import decode, one_line, parse_csv, read_bytes

COLUMNS = ("machineid", "number of gpus", "single gpu mem")
"""Header of ``cluster_machine_list``, in lower case."""
PUBLISHED = {("12GB", 2): 321, ("24GB", 8): 231}
"""(GPU type, GPUs per node) -> nodes: 552 machines with 2,490 GPUs (``cluster_machine_list``)."""


def read_philly_machines(path: str | Path) -> dict[tuple[str, int], int]:
    """(GPU type by memory, GPUs per node) -> nodes, from a machine list; nodes without GPUs are left out."""
    file = Path(path).name
    table = parse_csv(decode(read_bytes(Path(path)), file), file)
    if not set(COLUMNS) <= set(table.header):
        raise InputError(
            f"{file}: columns {one_line(', '.join(table.header))}; "
            "Philly's machine list has machineId, number of GPUs, single GPU mem"
        )
    nodes: Counter[tuple[str, int]] = Counter()
    rows = zip(table.lines, table.frame["number of gpus"], table.frame["single gpu mem"], strict=True)
    for line, gpus, memory in rows:
        if not str(gpus).strip().isdigit() or not isinstance(memory, str):
            raise InputError(f"{file}: row {line}: {gpus!r} GPUs of {memory!r}; use e.g. 2 and 12GB")
        if int(gpus):
            nodes[memory.strip(), int(gpus)] += 1
    return dict(sorted(nodes.items()))


def philly_cluster(machines: dict[tuple[str, int], int] | None = None) -> Cluster:
    """The cluster "philly": one pool a kind of machine, node ids consecutive; default: the published list."""
    pools: list[Pool] = []
    for (gpu_type, gpus), nodes in sorted((machines or PUBLISHED).items()):
        first = sum(pool.nodes for pool in pools)
        pools.append(Pool(f"{gpu_type}x{gpus}", nodes, gpus, gpu_type, first_node_id=first))
    return Cluster("philly", tuple(pools))
