"""What Slurm tells of its jobs and nodes, as values: one look at a partition."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rltune.nouns.errors import InputError
from rltune.slurm.commands import NoJson, Slurm, SlurmError
from rltune.slurm.records import records_of
from rltune.slurm.words import NOTHING, as_tres, fields, gres, hosts, number, other_gres, takes_jobs, tasks, word

WAITS_FOR_US = ("None", "Priority", "Resources", "")
"""Reasons of pending jobs that wait for nothing but their turn and GPUs."""
ADMIN_HOLD, USER_HOLD = "JobHeldAdmin", "JobHeldUser"
LONGEST_S = 365 * 86_400.0
"""Run time of a job without a limit, as Slurm's own backfill takes it: a year."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a job asks: GPUs by type ("": any) in all; on ``nodes`` nodes exactly (None: any number), ``per_node`` GPUs on each
    (None: any split). ``other``: further generic resources, in the words of job logs. ``cpus, memory_mb``: in all."""

    gpus: Mapping[str, int]
    nodes: int | None = None
    per_node: int | None = None
    other: tuple[str, ...] = ()
    cpus: int = 1
    memory_mb: float = 0.0

    @property
    def tres(self) -> str:
        """As job logs have it, for `rltune.traces.slurm_tres`."""
        return as_tres(self.gpus, self.other)


@dataclass(frozen=True, slots=True)
class Job:
    """One job, or one pending task of an array; ``id`` as scontrol takes it. Times: seconds since 1970.

    ``whole``: all pending tasks of its array, as scontrol takes them (``9_[1-4]``), else ``id``. ``nodes, held``: of a
    running job, its nodes and the GPUs on each by type. ``limit_s``: its time limit; ``believed_s``: a forecast that is shorter.
    ``array_most``: tasks of its array that may run
    at once. ``required``: the nodes that it names. ``apart``: why nobody but Slurm may place it, whatever it names; "" where we may.
    """

    id: str
    submit_s: float
    partition: str
    user: str
    name: str
    state: str
    reason: str
    priority: int
    nice: int
    limit_s: float
    asked: Asked
    whole: str = ""
    start_s: float = 0.0
    nodes: tuple[str, ...] = ()
    held: tuple[Mapping[str, int], ...] = ()
    required: str = ""
    array: str = ""
    array_most: int | None = None
    apart: str = ""
    believed_s: float | None = None
    account: str = ""

    @property
    def run_s(self) -> float:
        """Its run time as believed."""
        return self.limit_s if self.believed_s is None else self.believed_s

    @property
    def pending(self) -> bool:
        return self.state == "PENDING"


@dataclass(frozen=True, slots=True)
class Node:
    """A node: its GPUs and those in use, by type; ``open``: whether it takes jobs; CPUs and MB of memory that are free."""

    name: str
    gpus: Mapping[str, int]
    used: Mapping[str, int]
    open: bool
    cpus_free: int
    memory_free_mb: float
    state: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """One look: ``jobs`` of every partition that run on the partition's nodes, and the pending ones of the partition itself.

    ``everywhere``: all jobs of all partitions that wait or run. ``counts_memory``: whether jobs may wait for memory.
    """

    now_s: float
    partition: str
    jobs: tuple[Job, ...]
    nodes: tuple[Node, ...]
    everywhere: tuple[Job, ...] = ()
    counts_memory: bool = False
    notes: tuple[str, ...] = field(default=())


def default_partition(slurm: Slurm, wanted: str | None) -> str:
    """The partition of that name, or the default one. InputError where there is none."""
    found = [fields(line) for line in slurm.run("scontrol", "show", "partition", "-o").splitlines() if line.strip()]
    names = [each.get("PartitionName", "") for each in found]
    if wanted is None:
        wanted = next((each["PartitionName"] for each in found if each.get("Default") == "YES"), None)
        if wanted is None:
            raise InputError(f"this Slurm has no default partition; give partition={names[0] if names else 'NAME'}")
    if wanted not in names:
        raise InputError(f"partition={wanted} is unknown; known are {', '.join(names) or 'none'}")
    return wanted


def look(slurm: Slurm, partition: str, clock: Any = time.time) -> Seen:
    """Read queue and nodes. A job that starts between both is seen waiting while its GPUs are in use; the next look is right."""
    queue = queue_of(slurm)
    nodes = nodes_of(slurm.run("scontrol", "show", "node", "-d", "-o"), partition)
    return seen_of(queue, nodes, partition, float(clock()))


def queue_of(slurm: Slurm) -> Any:
    """The queue in the form of ``squeue --json``, from ``scontrol`` where that is missing or does not say what running jobs hold."""
    try:
        queue = slurm.json("squeue", "--json")
    except NoJson:
        return {"jobs": list(records_of(slurm.run("scontrol", "show", "job", "-d", "-o")))}
    jobs = queue.get("jobs") if isinstance(queue, Mapping) else None
    if isinstance(jobs, list) and any(_lacks_gres(record) for record in jobs):
        detail = {each["job_id"]: each for each in records_of(slurm.run("scontrol", "show", "job", "-d", "-o"))}
        for record in jobs:
            if _lacks_gres(record) and record["job_id"] in detail:
                record["gres_detail"] = detail[record["job_id"]]["gres_detail"]
    return queue


def _lacks_gres(record: Any) -> bool:
    """Whether a running job asked for GPUs, and its record does not say where it holds them."""
    asks = any(gres(word(record.get(f"tres_per_{of}"))) for of in ("job", "node", "task", "socket"))
    return asks and word(record.get("job_state")) == "RUNNING" and not record.get("gres_detail")


def counts_memory(slurm: Slurm) -> bool:
    """Whether this Slurm counts memory (``CR_*_Memory``), so that a job may wait for it."""
    config = slurm.run("scontrol", "show", "config")
    found = re.search(r"^SelectTypeParameters\s*=\s*(\S+)", config, re.MULTILINE)
    return found is not None and "MEMORY" in found[1].upper()


def seen_of(queue: Any, nodes: Iterable[Node], partition: str, now_s: float) -> Seen:
    """One look from ``squeue --json`` and the partition's nodes. SlurmError for JSON of another shape."""
    if not isinstance(queue, Mapping) or not isinstance(queue.get("jobs"), list):
        raise SlurmError("squeue --json has no list 'jobs'; its data parser is one that rltune does not know")
    mine = tuple(nodes)
    if not mine:
        raise InputError(f"partition {partition} has no nodes")
    names = {node.name for node in mine}
    everywhere: list[Job] = []
    notes = []
    for record in queue["jobs"]:
        try:
            everywhere += jobs_of(record)
        except (KeyError, TypeError, ValueError) as error:
            notes.append(f"job {record.get('job_id', '?')} cannot be read and is left alone ({_told(error)})")
            continue
    jobs = (
        job for job in everywhere if (partition in job.partition.split(",") if job.pending else names & {*job.nodes})
    )
    return Seen(now_s, partition, tuple(jobs), mine, tuple(everywhere), notes=tuple(notes))


def _told(error: Exception) -> str:
    return f"field {error} is missing" if isinstance(error, KeyError) else str(error)


def jobs_of(record: Mapping[str, Any]) -> list[Job]:
    """The job of a record of ``squeue --json``; of an array's pending tasks one each; none for one that neither waits nor runs."""
    state = word(record["job_state"])
    if state not in ("PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "STOPPED"):
        return []
    where = hosts(word(record.get("nodes"))) if state != "PENDING" else []
    held = [gres(text) for text in record.get("gres_detail") or []]
    limit_min = number(record.get("time_limit"))
    asked = asked_of(record)
    whole, task_ids, most = _ids(record)
    job = Job(
        id=str(record["job_id"]),
        submit_s=max(number(record.get("submit_time")), number(record.get("eligible_time"))),
        partition=word(record.get("partition")),
        user=word(record.get("user_name")),
        account=word(record.get("account")),
        name=word(record.get("name")),
        state="PENDING" if state == "PENDING" else "RUNNING",
        reason=word(record.get("state_reason")),
        priority=int(number(record.get("priority"))),
        nice=int(number(record.get("nice"))),
        limit_s=min(60.0 * limit_min, LONGEST_S) if limit_min > 0 else LONGEST_S,
        asked=asked,
        start_s=number(record.get("start_time")),
        nodes=tuple(where),
        held=tuple(held if len(held) == len(where) else [{} for _ in where]),
        required=word(record.get("required_nodes")),
        array="" if number(record.get("array_job_id")) == 0 else str(int(number(record["array_job_id"]))),
        array_most=most,
        apart=apart(record, asked) if state == "PENDING" else "",
        whole=whole,
    )
    return [job] if not task_ids else [replace(job, id=task) for task in task_ids]


def _ids(record: Mapping[str, Any]) -> tuple[str, list[str], int | None]:
    """How scontrol takes all that is pending in this record, each task of it, and how many tasks may run at once."""
    own, array = str(record["job_id"]), int(number(record.get("array_job_id")))
    listed = word(record.get("array_task_string"))
    if not array or word(record["job_state"]) != "PENDING":
        return own, [], None
    if not listed:
        task = record.get("array_task_id")
        name = f"{array}_{int(number(task))}" if task is not None else own
        return name, [name], None
    numbers, most = tasks(listed)
    return f"{array}_[{listed.partition('%')[0]}]", [f"{array}_{k}" for k in numbers], most


def asked_of(record: Mapping[str, Any]) -> Asked:
    """What a job asks in all, from what it asks for itself, a node and a task."""
    nodes, tasks_in_all = max(1, int(number(record.get("node_count")))), max(1, int(number(record.get("tasks"))))
    most_nodes = int(number(record.get("max_nodes")))
    cpus = max(1, int(number(record.get("cpus"))))
    a_job, a_node, a_task = (word(record.get(f"tres_per_{of}")) for of in ("job", "node", "task"))
    other = tuple(each for text in (a_job, a_node, a_task) for each in other_gres(text))
    memory = number(record.get("memory_per_node")) * nodes or number(record.get("memory_per_cpu")) * cpus
    exact: int | None = nodes if nodes > 1 or most_nodes == nodes else None
    per_node = None
    if by_job := gres(a_job):
        gpus = by_job
    elif by_node := gres(a_node):
        gpus, exact = {kind: count * nodes for kind, count in by_node.items()}, nodes
        per_node = sum(by_node.values())
    else:
        gpus = {kind: count * tasks_in_all for kind, count in gres(a_task).items()}
    gpus = {kind: count for kind, count in gpus.items() if count}
    return Asked(gpus, exact, per_node, other, cpus, memory)


def apart(record: Mapping[str, Any], asked: Asked) -> str:
    """Why nobody but Slurm may place this pending job, whatever nodes it names; "" where we may."""
    if "," in word(record.get("partition")):
        return "may run in several partitions"
    if number(record.get("het_job_id")):
        return "is part of a heterogeneous job"
    for name, what in (
        ("excluded_nodes", "excludes nodes"),
        ("features", "asks for features of nodes"),
        ("licenses", "asks for licences"),
        ("resv_name", "is in a reservation"),
        ("tres_per_socket", "asks for GPUs a socket"),
    ):
        if word(record.get(name)):
            return what
    if word(record.get("shared")) == "none" or word(record.get("exclusive")) not in ("", "false", "False"):
        return "asks for whole nodes"
    most = int(number(record.get("max_nodes")))
    if most and most != max(1, int(number(record.get("node_count")))):
        return "leaves the number of nodes open"
    if asked.nodes is None and word(record.get("tres_per_task")) and number(record.get("tasks")) > 1:
        return "asks for GPUs a task, on any number of nodes"
    return ""


def nodes_of(text: str, partition: str) -> list[Node]:
    """The nodes of a partition, from ``scontrol show node -d -o``, in its order."""
    found = []
    for line in text.splitlines():
        told = fields(line)
        if "NodeName" not in told or partition not in told.get("Partitions", "").split(","):
            continue
        found.append(
            Node(
                name=told["NodeName"],
                gpus=gres(_gpus(told.get("Gres", ""))),
                used=gres(_gpus(told.get("GresUsed", ""))),
                open=takes_jobs(told.get("State", "")),
                cpus_free=int(told.get("CPUEfctv") or told.get("CPUTot") or 0) - int(told.get("CPUAlloc") or 0),
                memory_free_mb=float(told.get("RealMemory") or 0) - float(told.get("AllocMem") or 0),
                state=told.get("State", ""),
            )
        )
    return found


def _gpus(text: str) -> str:
    return "" if text in NOTHING else text


def ends_s(job: Job, now_s: float) -> float:
    """When a running job is expected to end, by its limit or forecast; NaN without one that is of use."""
    end = job.start_s + job.run_s
    return max(end, now_s) if math.isfinite(end) else math.nan
