"""Pods of a Kubernetes cluster: ``kubectl get pods --all-namespaces --output=json`` (core/v1 PodList).

A pod is a job, except that pods that belong together (`GANG_LABELS`) are one gang: it ends with its last pod and asks for
the GPUs of those that ran at the same time. Pods of a gang that never ran together, retries above all, are attempts: runs of
their own.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from rltune.nouns.errors import InputError
from rltune.nouns.jobs import WHOLE
from rltune.traces.attempts import named_apart
from rltune.traces.clock import WallClock, local
from rltune.traces.kubernetes_requests import asked, totals
from rltune.traces.shares import Request
from rltune.traces.table import Reading, one_line

GANG_LABELS = (
    "jobset.sigs.k8s.io/jobset-name",
    "leaderworkerset.sigs.k8s.io/group-key", "leaderworkerset.sigs.k8s.io/name",
    "training.kubeflow.org/job-name", "volcano.sh/job-name",
    "ray.io/originated-from-cr-name", "ray.io/cluster",
    "kueue.x-k8s.io/pod-group-name",
    "scheduling.x-k8s.io/pod-group", "pod-group.scheduling.sigs.k8s.io/name", "pod-group.scheduling.sigs.k8s.io",
    "scheduling.k8s.io/group-name", "gang.scheduling.koordinator.sh/name", "pod-group-name",
    "pytorch-job-name", "tf-job-name", "mpi-job-name", "spark-app-selector", "yunikorn.apache.org/app-id",
    "batch.kubernetes.io/job-name", "job-name",
)  # fmt: skip
"""Labels and annotations that name what a pod belongs to; the first that a pod has counts, outer ones before inner."""
REMEDY = "write the list with kubectl get pods --all-namespaces --output=json"
BY_CLUSTER = ("Preempted", "Preempting", "NodeShutdown", "NodeLost", "Terminated", "DeadlineExceeded")
"""Reasons of a pod's end that are no rejection."""


def matches(document: Any) -> bool:
    """A list of Kubernetes objects."""
    return isinstance(document, dict) and isinstance(document.get("items"), list) and "kind" in document


def near_miss(document: Any) -> str | None:
    """What is wrong with a JSON document of a scheduler that is no list of pods, and the remedy; None for others."""
    if not isinstance(document, dict):
        return None
    if document.get("kind") == "Pod" or {"metadata", "spec"} <= set(document):
        return f"a single Kubernetes object ({one_line(document.get('kind', 'Pod'))}), not a list of pods; {REMEDY}"
    if isinstance(document.get("jobs"), list) and {"meta", "errors", "warnings", "last_update"} & set(document):
        return "Slurm's --json is not read; use sacct --parsable2 --duplicates --format=... (traces/README.md has the columns)"
    return None


def near_miss_of_text(text: str) -> str | None:
    """The same for pods written as YAML or as a table."""
    first = text.lstrip().partition("\n")[0]
    if first.startswith(("apiVersion:", "kind:", "items:")):
        return f"Kubernetes objects as YAML; {REMEDY}"
    return (
        f"a table of kubectl, without what pods ask for; {REMEDY}"
        if re.match(r"(NAMESPACE\s+)?NAME\s+READY\b", first)
        else None
    )


def is_lines(text: str) -> bool:
    """One Kubernetes object after the other, as jq and --watch write them, not one document."""
    try:
        document, end = json.JSONDecoder().raw_decode(text.lstrip())
    except (ValueError, RecursionError):
        return False
    rest = text.lstrip()[end:].lstrip()
    return isinstance(document, dict) and "kind" in document and rest.startswith("{")


class _Pod(NamedTuple):
    """``gang``: label and value that name its gang, or the pod itself; ``end``: None while it runs."""

    record: int
    gang: tuple[str, str]
    name: str
    ask: Request
    submit: datetime
    start: datetime
    end: datetime | None
    namespace: str
    status: str | None
    priority: float
    cpus: float
    memory_gb: float


def read(document: Mapping[str, Any], file: str) -> Reading:
    """GPU pods that ended; whatever else is left out is counted."""
    counts: Counter[str] = Counter()
    clock = WallClock("Kubernetes writes YYYY-MM-DDTHH:MM:SSZ")
    gangs: dict[tuple[str, str], list[_Pod]] = {}
    for record, item in enumerate(document["items"], start=1):
        pod = _pod(item, f"{file}: record {record}", record, clock, counts)
        if pod is not None:
            gangs.setdefault(pod.gang, []).append(pod)
    for name in [name for name, pods in gangs.items() if any(pod.end is None for pod in pods)]:
        counts["GPU pods of gangs that have not ended"] += len(gangs.pop(name))
    if not gangs:
        told = ", ".join(f"{count} {what}" for what, count in counts.items()) or "no pod"
        raise InputError(f"{file}: no GPU pod that ended ({told}); at least one is needed")
    runs = [attempt for pods in gangs.values() for attempt in _attempts(pods)]
    runs.sort(key=lambda pods: min(pod.submit for pod in pods))
    origin = min(pod.submit for pods in runs for pod in pods)
    jobs = [_job(pods, origin) for pods in runs]
    columns = {key: [job[key] for job in jobs] for key in jobs[0]}
    columns["job_id"], _ = named_apart(columns["job_id"])
    notes = [f"{count} {what} left out" for what, count in counts.items()]
    notes += _of_gangs(gangs, runs)
    return Reading(
        columns,
        np.array([pods[0].record for pods in runs]),
        local(origin),
        (*notes, "users are unknown to pods"),
    )


def _of_gangs(gangs: Mapping[Any, Sequence[_Pod]], runs: Sequence[Sequence[_Pod]]) -> list[str]:
    """What must be told of gangs, their attempts and their shares."""
    notes = []
    if several := sum(len(pods) > 1 for pods in runs):
        notes.append(f"{several} gangs of several pods are one job each")
    if more := len(runs) - len(gangs):
        notes.append(
            f"{more} attempts whose pods ran after those of the first one are runs of their own, named ID#2, ..."
        )
    changing = sum(_peak(pods)[0] < sum(pod.ask.gpus for pod in pods) for pods in runs)
    if changing:
        notes.append(f"{changing} gangs had pods that came and went: they ask for the most GPUs that ran at once")
    unlike = sum(len({(pod.ask.gpu_type, pod.ask.mig, pod.ask.gpu_milli) for pod in pods}) > 1 for pods in runs)
    if unlike:
        notes.append(f"{unlike} gangs on unlike GPUs or parts of them are taken as their first pod's")
    shared = sum(len(pods) > 1 and pods[0].ask.gpu_milli < WHOLE for pods in runs)
    if shared:
        notes.append(f"{shared} gangs of pods on shares of GPUs are given a whole GPU for each")
    slices = sum(_peak(pods)[0] > 1 and pods[0].ask.mig is not None for pods in runs)
    if slices:
        notes.append(
            f"{slices} jobs ask for several MIG slices; a simulated job takes one (oversized=drop counts them)"
        )
    also = Counter(chain.from_iterable(pod.ask.also for pods in runs for pod in pods))
    return [*notes, *(f"{count} {told}" for told, count in also.items())]


def _attempts(pods: Sequence[_Pod]) -> list[list[_Pod]]:
    """Pods in groups that ran at the same time, directly or through others."""
    groups: list[list[_Pod]] = []
    last: datetime | None = None
    for pod in sorted(pods, key=lambda pod: (pod.start, pod.record)):
        assert pod.end is not None
        if last is None or (pod.start >= last and pod.start > groups[-1][-1].start):
            groups.append([])
        groups[-1].append(pod)
        last = pod.end if last is None or len(groups[-1]) == 1 else max(last, pod.end)
    return groups


def _peak(pods: Sequence[_Pod]) -> tuple[int, datetime]:
    """The most GPUs that ran at once, and from when on."""
    starts = sorted((pod.start, pod.ask.gpus) for pod in pods)
    # A pod of no time counts at its instant.
    ends = sorted((max(pod.end or pod.start, pod.start + timedelta(microseconds=1)), pod.ask.gpus) for pod in pods)
    best, when, held, gone = 0, starts[0][0], 0, 0
    for k, (start, gpus) in enumerate(starts):
        while ends[gone][0] <= start:
            held -= ends[gone][1]
            gone += 1
        held += gpus
        last_of_instant = k + 1 == len(starts) or starts[k + 1][0] > start
        if last_of_instant and held > best:
            best, when = held, start
    return best, when


def _job(pods: Sequence[_Pod], origin: datetime) -> dict[str, Any]:
    submit = min(pod.submit for pod in pods)
    # A gang computes from when the most of its pods run on.
    gpus, start = _peak(pods)
    end = max(pod.end or start for pod in pods)
    first, part = pods[0], gpus / max(1, sum(pod.ask.gpus for pod in pods))
    return {
        "job_id": first.name,
        "submit_s": (submit - origin).total_seconds(),
        "duration_s": max(0.0, (end - start).total_seconds()),
        "num_gpus": gpus,
        "gpu_milli": first.ask.gpu_milli if gpus == 1 else WHOLE,
        "mig": first.ask.mig,
        "wait_s": (start - submit).total_seconds(),
        "gpu_type": first.ask.gpu_type,
        "vc": first.namespace,
        "status": next((pod.status for pod in pods if pod.status != "Succeeded"), first.status),
        "priority": first.priority,
        "cpus": sum(pod.cpus for pod in pods) * part,
        "memory_gb": sum(pod.memory_gb for pod in pods) * part,
    }


def _pod(item: Any, place: str, record: int, clock: WallClock, counts: Counter[str]) -> _Pod | None:
    """What a pod tells, or None with the reason counted."""
    if isinstance(item, dict) and item.get("kind") not in (None, "Pod"):
        counts[f"objects of kind {one_line(item['kind'])}, which are no pods,"] += 1
        return None
    try:
        about, spec, status = item["metadata"], item["spec"], item.get("status") or {}
        namespace, name = str(about.get("namespace", "default")), one_line(about["name"])
        place = f"{place} (pod {namespace}/{name})"
        notes = (about.get("annotations") or {}) | (about.get("labels") or {})
        amounts = totals(spec, place)
        ask = asked(spec, notes, amounts, place)
        created, priority = about["creationTimestamp"], spec.get("priority") or 0
        label = next(((key, str(notes[key])) for key in GANG_LABELS if key in notes), None)
        if ask.why_not:
            counts[ask.why_not] += 1
            return None
        start, end, why_not = _lived(status, place, clock)
    except (AttributeError, KeyError, TypeError):
        raise InputError(
            f"{place} is no pod; needed are metadata with name and creationTimestamp, and spec with containers"
        ) from None
    if start is None or (why_not and (label is None or status.get("phase") == "Failed")):
        counts[why_not] += 1
        return None
    key, value = label or ("", name)
    return _Pod(
        record=record,
        gang=(key, f"{namespace}/{value}"),
        name=f"{namespace}/{value}",
        ask=ask,
        submit=clock.read(created, "creationTimestamp", place),
        start=start,
        end=end,
        namespace=namespace,
        status=status.get("reason") or status.get("phase"),
        priority=priority,
        cpus=amounts.get("cpu", 0.0),
        memory_gb=amounts.get("memory", 0.0) / 2**30,
    )


def _lived(status: Mapping[str, Any], place: str, clock: WallClock) -> tuple[datetime | None, datetime | None, str]:
    """When the pod held its GPUs, and why it is no run that ended; "" for one that is."""
    containers = status.get("containerStatuses") or []
    everyone = [*(status.get("initContainerStatuses") or []), *containers]
    runs = [state for each in everyone for state in _runs(each)]
    begun = [clock.read(run["startedAt"], "startedAt", place) for run in runs if run.get("startedAt")]
    start = min(begun, default=None)
    # Of a container's earlier runs only the last is kept: where there were more, the pod's own start is the first.
    forgotten = any((each.get("restartCount") or 0) >= max(1, len(_runs(each))) for each in everyone)
    if (start is None or forgotten) and status.get("startTime"):
        start = clock.read(status["startTime"], "startTime", place)
    over = [(each.get("state") or {}).get("terminated") for each in containers]
    if containers and all(over):
        ends = [run["finishedAt"] for run in runs if run.get("finishedAt")]
        if ends:
            return start, max(clock.read(end, "finishedAt", place) for end in ends), ""
    phase, reason = status.get("phase"), status.get("reason")
    if phase == "Failed":
        ended = _disrupted(status)
        if ended is not None and begun:
            return start, clock.read(ended, "lastTransitionTime", place), ""
        return start, None, _why_failed(status, bool(begun))
    if phase == "Pending" or start is None:
        return None, None, "GPU pods that never started" + _blamed(status)
    if phase == "Unknown":
        return start, None, "GPU pods whose node was lost (phase Unknown)"
    if phase == "Succeeded" and not any((each.get("state") or {}).get("running") for each in containers):
        return start, None, "GPU pods whose end the list does not tell" + (f" ({reason})" if reason else "")
    waiting = next((name for each in containers if (name := _waits_for(each)) == "CrashLoopBackOff"), None)
    return start, None, "GPU pods that have not ended" + (f" ({waiting})" if waiting else "")


def _runs(container: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A container's runs that its status keeps: the present and the one before."""
    states = (container.get("lastState") or {}, container.get("state") or {})
    return [state[kind] for state in states for kind in ("terminated", "running") if state.get(kind)]


def _why_failed(status: Mapping[str, Any], ran: bool) -> str:
    reason = one_line(status.get("reason") or "")
    if reason == "Evicted":
        return "GPU pods evicted, at a time that the list does not tell,"
    if reason in BY_CLUSTER or (reason and ran):
        return f"GPU pods ended by the cluster ({reason}), at a time that the list does not tell,"
    if reason:
        return f"GPU pods rejected by their node ({reason})"
    return "GPU pods that failed (evicted or rejected: the list gives no reason and no end)"


def _disrupted(status: Mapping[str, Any]) -> Any:
    """When the cluster ended the pod, where that is told."""
    conditions = {each.get("type"): each for each in status.get("conditions") or []}
    return (conditions.get("DisruptionTarget") or {}).get("lastTransitionTime")


def _blamed(status: Mapping[str, Any]) -> str:
    """Why a pod has not started, as far as its status tells."""
    conditions = {each.get("type"): each for each in status.get("conditions") or []}
    unscheduled = conditions.get("PodScheduled") or {}
    reason = unscheduled.get("reason") if unscheduled.get("status") == "False" else None
    waits = (_waits_for(each) for each in status.get("containerStatuses") or [])
    reason = reason or next((each for each in waits if each), None)
    return f" ({one_line(reason)})" if reason else ""


def _waits_for(container: Mapping[str, Any]) -> str | None:
    return ((container.get("state") or {}).get("waiting") or {}).get("reason")
