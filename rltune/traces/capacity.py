"""Cluster sizes over time: a table of GPUs by day and virtual cluster, as Helios publishes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rltune.nouns.cluster import Cluster
from rltune.nouns.errors import InputError
from rltune.traces.table import decode, parse_csv, read_bytes
from rltune.traces.trace import Trace


def read_capacity(path: str | Path, trace: Trace, cluster: Cluster) -> list[tuple[float, str, int]]:
    """(seconds, pool, nodes) whenever a pool's size changes, from a CSV with ``date`` and a column of GPUs a pool.

    A column names a pool or its VC; ``total`` and columns that no pool of the cluster bears are passed over. Counts are
    divided by the pool's GPUs per node, rounded down; more than the pool has is refused, since the cluster's pools are
    their largest sizes. Days before the trace's first job set the size it begins with.
    """
    file = Path(path)
    table = parse_csv(decode(read_bytes(file), file.name), file.name)
    if "date" not in table.header:
        raise InputError(f"{file.name}: no column date; give date and the GPUs of each pool, a row a day")
    if trace.origin is None:
        raise InputError(f"{file.name}: trace {trace.name} has no wall clock to place dates on")
    days = pd.to_datetime(table.frame["date"], format="%Y-%m-%d", errors="coerce")
    if days.isna().any():
        row = int(table.lines[int(np.argmax(days.isna().to_numpy()))])
        raise InputError(f"{file.name}: row {row}: date is no YYYY-MM-DD")
    if not (days.is_monotonic_increasing and days.is_unique):
        raise InputError(f"{file.name}: dates do not rise from row to row; sort them, one row a day")
    seconds = (days - pd.Timestamp(trace.origin)).dt.total_seconds().to_numpy()
    out: list[tuple[float, str, int]] = []
    for pool in cluster.pools:
        column = next((c for c in (pool.name, pool.vc) if c is not None and c.lower() in table.header), None)
        if column is None:
            continue
        gpus = table.numbers(column.lower())
        bad = ~np.isfinite(gpus) | (gpus < 0) | (gpus > pool.gpus)
        if bad.any():
            row = int(table.lines[int(np.argmax(bad))])
            raise InputError(f"{file.name}: row {row}: {column} is not a number from 0 to {pool.gpus}, the pool's size")
        nodes = (gpus // pool.gpus_per_node).astype(int)
        before = seconds <= trace.jobs.submit_s[0]
        first = int(np.flatnonzero(before)[-1]) if before.any() else 0
        last = pool.nodes
        for at in range(first, len(nodes)):
            if nodes[at] != last:
                out.append((max(0.0, float(seconds[at])), pool.name, int(nodes[at])))
                last = int(nodes[at])
    if not out and not any(
        (p.vc or p.name).lower() in table.header or p.name.lower() in table.header for p in cluster.pools
    ):
        raise InputError(
            f"{file.name}: no column names a pool or VC of cluster {cluster.name}; give a cluster with pools of those VCs"
        )
    return out


def with_capacity(options: Mapping[str, Any], trace: Trace, cluster: Cluster) -> dict[str, Any]:
    """Options of a simulation with the sizes over time read from the file that they name, if they do."""
    if not isinstance(options.get("capacity"), str):
        return dict(options)
    return {**options, "capacity": read_capacity(options["capacity"], trace, cluster)}
