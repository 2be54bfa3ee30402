"""The service's journal as a trace: what came and ran, for `rltune.simulate` and `rltune.train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rltune.nouns.cluster import Cluster
from rltune.nouns.errors import InputError
from rltune.nouns.jobs import JobTable
from rltune.service.records import JOB, record_of, spec_of
from rltune.service.specs import JobSpec, request_of
from rltune.service.store import Store
from rltune.traces.plain import write
from rltune.traces.trace import Trace

STATUS = {"done": "COMPLETED", "failed": "FAILED", "cancelled": "CANCELLED"}
COLUMNS = ("gpu_milli", "mig", "gpu_type", "vc", "user", "name", "priority", "cpus", "memory_gb", "ways")


def export(store: Store, path: Path, leases: bool = True) -> tuple[int, int]:
    """Jobs (and leases) that have run and are over, as a CSV of `rltune.traces.plain`; how many are in it, and how many are not.

    ``duration_s``: what their runs took together. InputError where nothing has run.
    """
    kept = store.meta("cluster")
    if kept is None:
        raise InputError(f"{store.path}: no service has run on it; there is nothing to export")
    cluster = Cluster.from_spec(kept)
    columns: dict[str, list[Any]] = {}
    left_out = 0
    for row in store.read("SELECT * FROM jobs ORDER BY submit_s, seq"):
        if (
            row["state"] not in STATUS
            or row["started_s"] is None
            or row["ran_s"] <= 0
            or not (leases or row["kind"] == JOB)
        ):
            left_out += 1
            continue
        for name, value in _entry(row, cluster).items():
            columns.setdefault(name, []).append(value)
    if not columns:
        raise InputError(f"{store.path}: no job is over that has run; there is nothing to export")
    jobs = JobTable.from_columns(columns, source=str(store.path))
    write(Trace.of(jobs, name="service", source="user"), path)
    return len(jobs), left_out


def _entry(row: Any, cluster: Cluster) -> dict[str, Any]:
    record = record_of(row, request_of(spec_of(row), row["tenant"], cluster))
    estimate = record.spec.estimate_s if isinstance(record.spec, JobSpec) else None
    return {
        "job_id": record.id,
        "submit_s": record.submit_s,
        "duration_s": record.ran_s,
        "num_gpus": record.request.gpus,
        "status": STATUS[record.state],
        "wait_s": (record.started_s or 0.0) - record.submit_s,
        "requested_s": float("nan") if estimate is None else float(estimate),
        **{name: getattr(record.request, name) for name in COLUMNS},
    }


def faults(store: Store) -> list[str]:
    """What is wrong with a database: its file, or what stands in it. Empty: nothing."""
    found = store.check()
    if found:
        return found
    (count, first, last) = store.read("SELECT COUNT(*), MIN(seq), MAX(seq) FROM events")[0]
    if count and last - first + 1 != count:
        found.append(f"events: {count} between numbers {first} and {last}; some are missing")
    for row in store.read(
        "SELECT id FROM jobs WHERE state IN ('running', 'starting') AND run NOT IN (SELECT run FROM runs)"
    ):
        found.append(f"{row['id']}: its run is not in the table of runs")
    for row in store.read("SELECT run FROM runs WHERE end_s < start_s"):
        found.append(f"{row['run']}: ends before it begins")
    return found + _taken_twice(store)


def _taken_twice(store: Store) -> list[str]:
    """GPUs and slices that two hold at once."""
    holders: dict[tuple[int, int, Any, int], str] = {}
    found = []
    for row in store.read("SELECT id, places, spec FROM jobs WHERE state IN ('running', 'starting') ORDER BY seq"):
        if json.loads(row["spec"]).get("share") is not None:
            continue
        for node, gpus, profile, start in json.loads(row["places"]):
            for gpu in gpus:
                other = holders.setdefault((node, gpu, profile, start), row["id"])
                if other != row["id"]:
                    found.append(f"{other} and {row['id']} hold the same of node {node}, GPU {gpu}")
    return found
