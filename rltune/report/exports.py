"""A schedule for other programs: CSV, Parquet, and the Chrome trace event format."""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from rltune.nouns.documents import cell

EXPORTS = ("csv", "parquet", "chrome")
US = 1e6
"""Microseconds of a second, the unit of the Chrome trace event format."""
LANES = 1000
"""Threads kept for one node: more runs than that never share one."""


def export(
    kind: str, schedule: pd.DataFrame, attempts: pd.DataFrame, pools: Mapping[str, str], file: Callable[[str], Path]
) -> None:
    """Write schedule.csv, schedule.parquet or trace.json; ``file`` gives the path of a name, ``pools``: name -> GPU type."""
    if kind == "csv":
        flat = schedule.assign(
            **{column: [";".join(map(str, v)) for v in schedule[column]] for column in ("nodes", "gpus")}
        )
        flat = flat.apply(lambda column: column.map(cell) if column.dtype == object else column)
        flat.to_csv(file("schedule.csv"), index=False)
    elif kind == "parquet":
        schedule.to_parquet(file("schedule.parquet"), index=False)
    else:
        write_chrome(attempts, pools, file("trace.json"))


def write_chrome(attempts: pd.DataFrame, pools: Mapping[str, str], path: Path) -> None:
    """Runs as "complete events" (ph X) of the Chrome trace event format, for chrome://tracing and ui.perfetto.dev.

    A process is a pool, a thread a node; runs that share a node go to further threads of it (lanes), since slices of
    one thread may not overlap. A gang has one slice on each of its nodes. Times in microseconds.
    """
    with path.open("w") as out:
        out.write('{"displayTimeUnit": "ms", "traceEvents": [\n')
        for k, event in enumerate(_events(attempts, pools)):
            out.write((",\n" if k else "") + json.dumps(event))
        out.write("\n]}\n")


def _events(attempts: pd.DataFrame, pools: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    number = {name: k for k, name in enumerate(pools)}
    for name, kind in pools.items():
        title = name if kind in (name, "any") else f"{name} ({kind})"
        yield {"ph": "M", "name": "process_name", "pid": number[name], "tid": 0, "args": {"name": title}}
    ending: dict[tuple[int, int], list[tuple[float, int]]] = {}
    free: dict[tuple[int, int], list[int]] = {}
    lanes: dict[tuple[int, int], int] = {}
    columns = ("job_id", "start_s", "end_s", "outcome", "nodes", "gpus", "pool")
    for job, start, end, outcome, nodes, gpus, pool in zip(*(attempts[c] for c in columns), strict=True):
        pid = number[pool]
        for node, held in zip(nodes, gpus, strict=True):
            at = (pid, int(node))
            running, idle = ending.setdefault(at, []), free.setdefault(at, [])
            while running and running[0][0] <= start:
                heapq.heappush(idle, heapq.heappop(running)[1])
            if idle:
                lane = heapq.heappop(idle)
            else:
                lane = lanes.get(at, 0)
                lanes[at] = lane + 1
                yield _thread(pid, int(node), lane)
            heapq.heappush(running, (end, lane))
            yield {
                "ph": "X",
                "name": str(job),
                "cat": str(outcome),
                "pid": pid,
                "tid": int(node) * LANES + lane,
                "ts": round(start * US),
                "dur": round(end * US) - round(start * US),
                "args": {"gpus": float(held), "gang": len(nodes), "outcome": str(outcome)},
            }


def _thread(pid: int, node: int, lane: int) -> dict[str, Any]:
    name = f"node {node}" if lane == 0 else f"node {node}, run {lane + 1}"
    return {"ph": "M", "name": "thread_name", "pid": pid, "tid": node * LANES + lane, "args": {"name": name}}
