"""``scontrol show job -d -o`` as records of ``squeue --json``, for Slurms whose JSON is missing, or lacks what a job holds on its nodes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from rltune.slurm.words import fields, hosts, word

HELD = re.compile(r"\bNodes=(\S+) CPU_IDs=\S* Mem=\d+ GRES=(\S*)")
SPAN = re.compile(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)$")
MEGABYTES = {"": 1.0, "K": 2.0**-10, "M": 1.0, "G": 2.0**10, "T": 2.0**20}
SHARED = {"NO": "none", "YES": "shared", "USER": "user", "MCS": "mcs"}
"""OverSubscribe of scontrol in the words of the JSON."""


def records_of(text: str) -> Iterator[dict[str, Any]]:
    """A record a line, with the fields that `rltune.slurm.reading.jobs_of` reads."""
    for line in text.splitlines():
        told = fields(line)
        if "JobId" in told:
            yield _record(told, line)


def _record(told: Mapping[str, str], line: str) -> dict[str, Any]:
    fewest, _, most = told.get("NumNodes", "1").partition("-")
    pending = told["JobState"] == "PENDING"
    array = int(told.get("ArrayJobId") or 0)
    tasks = told.get("ArrayTaskId", "")
    return {
        "job_id": int(told["JobId"]),
        "job_state": told["JobState"],
        "state_reason": _reason(told.get("Reason", "")),
        "partition": told.get("Partition", ""),
        "user_name": told.get("UserId", "").partition("(")[0],
        "account": word(told.get("Account")),
        "name": told.get("JobName", ""),
        "priority": int(told.get("Priority") or 0),
        "nice": int(told.get("Nice") or 0),
        "submit_time": _second(told.get("SubmitTime", "")),
        "eligible_time": _second(told.get("EligibleTime", "")),
        "start_time": _second(told.get("StartTime", "")),
        "time_limit": _minutes(told.get("TimeLimit", "")),
        "nodes": word(told.get("NodeList")),
        "gres_detail": [] if pending else held_in(line),
        "node_count": int(fewest or 1),
        "max_nodes": int(most or 0),
        "tasks": int(told.get("NumTasks") or 1),
        "cpus": int(told.get("NumCPUs") or 1),
        "memory_per_node": _megabytes(told.get("MinMemoryNode", "")),
        "memory_per_cpu": _megabytes(told.get("MinMemoryCPU", "")),
        "tres_per_job": told.get("TresPerJob", ""),
        "tres_per_node": told.get("TresPerNode", ""),
        "tres_per_task": told.get("TresPerTask", ""),
        "tres_per_socket": told.get("TresPerSocket", ""),
        "required_nodes": word(told.get("ReqNodeList")),
        "excluded_nodes": word(told.get("ExcNodeList")),
        "features": word(told.get("Features")),
        "licenses": word(told.get("Licenses")),
        "resv_name": told.get("Reservation", ""),
        "het_job_id": int(told.get("HetJobId") or 0),
        "shared": SHARED.get(told.get("OverSubscribe", "")),
        "array_job_id": array,
        "array_task_string": tasks if array and pending and not tasks.isdecimal() else "",
        "array_task_id": int(tasks) if tasks.isdecimal() else None,
    }


def held_in(line: str) -> list[str]:
    """Generic resources that a running job holds on each of its nodes, in their order."""
    by_node = {node: gres for where, gres in HELD.findall(line) for node in hosts(where)}
    return [by_node.get(node, "") for node in hosts(word(fields(line).get("NodeList")))]


def _reason(text: str) -> str:
    """In the words of the JSON, which has none of the details."""
    first = text.partition(",")[0]
    return "Resources" if first.startswith("Nodes_required_for_job") else first


def _second(text: str) -> float:
    """Seconds since 1970 of a local time; 0 for none."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0


def _minutes(text: str) -> float:
    """Minutes of ``1-00:30:00`` or ``00:30:00``; 0 where there is no limit."""
    found = SPAN.match(text)
    if found is None:
        return 0.0
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return days * 1440 + hours * 60 + minutes + seconds / 60


def _megabytes(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)", text)
    return float(found[1]) * MEGABYTES[found[2]] if found else 0.0
