"""Pods of a Kubernetes cluster: ``kubectl get pods --all-namespaces --output=json`` (core/v1 PodList).

A pod is a job, except that pods of one distributed training (Kubeflow, Volcano, JobSet)
are one gang: it ends with its last pod and asks for the sum of their GPUs.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from rltune.nouns.errors import InputError
from rltune.traces.table import Reading

GPU_RESOURCES = ("nvidia.com/gpu", "amd.com/gpu", "gpu.intel.com/i915")
GANG_LABELS = ("training.kubeflow.org/job-name", "volcano.sh/job-name", "jobset.sigs.k8s.io/jobset-name")
TYPE_LABELS = ("nvidia.com/gpu.product", "cloud.google.com/gke-accelerator", "accelerator")
QUANTITY = re.compile(r"^([\d.]+)(m|[kKMGTP]i?)?$")
UNITS = {
    None: 1.0, "m": 1e-3, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50,
}  # fmt: skip
WHEN = "%Y-%m-%dT%H:%M:%SZ"


def matches(document: Any) -> bool:
    """A list of Kubernetes objects."""
    return isinstance(document, dict) and isinstance(document.get("items"), list) and "kind" in document


def read(document: Mapping[str, Any], file: str) -> Reading:
    """GPU pods that ended; whatever else is left out is counted."""
    counts: Counter[str] = Counter()
    gangs: dict[str, list[dict[str, Any]]] = {}
    for record, item in enumerate(document["items"], start=1):
        pod = _pod(item, record, file, counts)
        if pod is not None:
            gangs.setdefault(pod["gang"], []).append(pod)
    for name in [name for name, pods in gangs.items() if any(pod["end"] is None for pod in pods)]:
        counts["GPU pods of gangs that have not ended"] += len(gangs.pop(name))
    if not gangs:
        told = ", ".join(f"{count} {what}" for what, count in counts.items()) or "no pod"
        raise InputError(f"{file}: no GPU pod that ended ({told}); at least one is needed")
    origin = min(pod["submit"] for pods in gangs.values() for pod in pods)
    jobs = [_job(name, pods, origin) for name, pods in gangs.items()]
    columns = {key: [job[key] for job in jobs] for key in jobs[0] if key != "record"}
    notes = [f"{count} {what} left out" for what, count in counts.items()]
    several = sum(len(pods) > 1 for pods in gangs.values())
    if several:
        notes.append(f"{several} gangs of several pods are one job each")
    return Reading(columns, np.array([job["record"] for job in jobs]), origin, (*notes, "users are unknown to pods"))


def _job(name: str, pods: Sequence[dict[str, Any]], origin: datetime) -> dict[str, Any]:
    submit = min(pod["submit"] for pod in pods)
    # A gang computes from the start of its last pod on.
    start, end = max(pod["start"] for pod in pods), max(pod["end"] for pod in pods)
    first = pods[0]
    return {
        "record": first["record"],
        "job_id": name,
        "submit_s": (submit - origin).total_seconds(),
        "duration_s": max(0.0, (end - start).total_seconds()),
        "num_gpus": sum(pod["gpus"] for pod in pods),
        "wait_s": (start - submit).total_seconds(),
        "gpu_type": first["gpu_type"],
        "vc": first["namespace"],
        "status": "Failed" if any(pod["phase"] == "Failed" for pod in pods) else first["phase"],
        "priority": first["priority"],
        "cpus": sum(pod["cpus"] for pod in pods),
        "memory_gb": sum(pod["memory_gb"] for pod in pods),
    }


def _pod(item: Any, record: int, file: str, counts: Counter[str]) -> dict[str, Any] | None:
    """What a pod tells, or None with the reason counted."""
    place = f"{file}: record {record}"
    try:
        about, spec, status = item["metadata"], item["spec"], item.get("status", {})
        name = f"{about.get('namespace', 'default')}/{about['name']}"
        labels = about.get("labels") or {}
        wanted = [container.get("resources") or {} for container in spec["containers"]]
        created = about["creationTimestamp"]
    except (AttributeError, KeyError, TypeError):
        raise InputError(
            f"{place} is no pod; needed are metadata with name and creationTimestamp, and spec with containers"
        ) from None
    place = f"{place} (pod {name})"
    gpus = sum(_amount(each, resource, place) for each in wanted for resource in GPU_RESOURCES)
    if gpus == 0:
        counts["pods without a GPU"] += 1
        return None
    start, end = _start(status, place), _end(status, place)
    label = next((labels[key] for key in GANG_LABELS if key in labels), None)
    if start is None or (end is None and label is None):
        counts["GPU pods that never started" if start is None else "GPU pods that have not ended"] += 1
        return None
    selector = spec.get("nodeSelector") or {}
    return {
        "record": record,
        "gang": name if label is None else f"{about.get('namespace', 'default')}/{label}",
        "gpus": math.ceil(gpus),
        "submit": _clock(created, place),
        "start": start,
        "end": end,
        "gpu_type": next((selector[key] for key in TYPE_LABELS if key in selector), None),
        "namespace": about.get("namespace", "default"),
        "phase": status.get("phase"),
        "priority": spec.get("priority") or 0,
        "cpus": sum(_amount(each, "cpu", place) for each in wanted),
        "memory_gb": sum(_amount(each, "memory", place) for each in wanted) / 2**30,
    }


def _amount(resources: Mapping[str, Any], name: str, place: str) -> float:
    """A resource quantity: the request, or the limit where only that is set."""
    for kind in ("requests", "limits"):
        value = (resources.get(kind) or {}).get(name)
        if value is not None:
            found = QUANTITY.match(str(value))
            if found is None:
                raise InputError(f"{place}: {name} is {value!r}, which is no Kubernetes quantity")
            return float(found[1]) * UNITS[found[2]]
    return 0.0


def _terminated(status: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    states = [each.get("state") or {} for each in status.get("containerStatuses") or []]
    return [state["terminated"] for state in states if state.get("terminated")]


def _start(status: Mapping[str, Any], place: str) -> datetime | None:
    """The containers' first start; the pod's where none is told."""
    begun = [each["startedAt"] for each in _terminated(status) if each.get("startedAt")]
    text = min(begun) if begun else status.get("startTime")
    return None if text is None else _clock(text, place)


def _end(status: Mapping[str, Any], place: str) -> datetime | None:
    """The containers' last end, once all have ended."""
    ended = [each["finishedAt"] for each in _terminated(status) if each.get("finishedAt")]
    if not ended or len(ended) < len(status.get("containerStatuses") or []):
        return None
    return _clock(max(ended), place)


def _clock(text: Any, place: str) -> datetime:
    try:
        return datetime.strptime(text, WHEN).replace(tzinfo=UTC).replace(tzinfo=None)
    except (TypeError, ValueError):
        raise InputError(f"{place}: {text!r} is no time; Kubernetes writes YYYY-MM-DDTHH:MM:SSZ") from None
