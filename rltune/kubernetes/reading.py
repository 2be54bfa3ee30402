"""Objects of the API server as what `rltune.slurm` decides on: a look at nodes and at jobs that wait or run.

A job is a Workload of Kueue, or a gang of pods with our gate. GPUs are counted as Kubernetes counts them: ``nvidia.com/gpu`` of a node's
product, ``nvidia.com/mig-3g.20gb`` as a type of its own. What pods ask for is read as in job logs (`rltune.traces.kubernetes`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from rltune.kubernetes.http import Object, key_of
from rltune.nouns.errors import InputError
from rltune.nouns.jobs import WHOLE
from rltune.slurm.moment import Place
from rltune.slurm.reading import LONGEST_S, Asked, Job, Node
from rltune.traces.kubernetes import GANG_LABELS
from rltune.traces.kubernetes_requests import MIG, TYPE_LABELS, WHOLE_GPUS, asked, totals
from rltune.traces.shares import Request, slice_of

DOMAIN = "rltune.io"
GATE = f"{DOMAIN}/decides"
"""Of pods that wait for our decision: spec.schedulingGates."""
CONTROLLER = f"{DOMAIN}/order"
"""spec.controllerName of AdmissionChecks that are ours."""
PLACES, WORKLOAD, ESTIMATE, SLICE = (
    f"{DOMAIN}/{name}" for name in ("places", "workload", "estimate-s", "slice-memory-gb")
)
"""Annotations: where a job was sent, whose pod it is, its believed run time, and the memory of the MIG slice that will do for a pod."""
HOSTNAME = "kubernetes.io/hostname"
OVER = ("Succeeded", "Failed")
NO_ZERO = 2**31
"""Added to priorities: Slurm's 0 means held, Kubernetes' is the usual one."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """What a job asks for: ``gpus`` of ``kind`` in all, ``each`` on each pod; ``why_not``: why it is left to the scheduler."""

    kind: str
    gpus: int
    each: int
    cpus: int
    memory_mb: float
    why_not: str = ""


# --- nodes ----------------------------------------------------------------------------------------


def nodes_of(nodes: Sequence[Object], pods: Sequence[Object], tolerated: Sequence[str]) -> tuple[Node, ...]:
    """Nodes with GPUs: what they have, and what pods that are bound to them use."""
    used: dict[str, Counter[str]] = {}
    for pod in pods:
        name = pod["spec"].get("nodeName")
        if name and (pod.get("status") or {}).get("phase") not in OVER:
            used.setdefault(name, Counter()).update(totals(pod["spec"], place_of(pod)))
    found = (_node(one, used.get(one["metadata"]["name"], Counter()), tolerated) for one in nodes)
    return tuple(node for node in found if node.gpus)


def _node(found: Object, used: Mapping[str, float], tolerated: Sequence[str]) -> Node:
    name, spec, status = found["metadata"]["name"], found.get("spec") or {}, found.get("status") or {}
    there = totals({"containers": [{"resources": {"requests": status.get("allocatable") or {}}}]}, f"node {name}")
    product = product_of(found)
    ready = any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions") or ())
    taints = [
        one["key"] for one in spec.get("taints") or () if one.get("effect") in ("NoSchedule", "NoExecute")
    ]  # fmt: skip
    return Node(
        name, gpus_of(there, product), gpus_of(used, product),
        ready and not spec.get("unschedulable") and set(taints) <= set(tolerated),
        math.floor(there.get("cpu", 0.0) - used.get("cpu", 0.0)),
        (there.get("memory", 0.0) - used.get("memory", 0.0)) / 2**20,
        ", ".join(taints),
    )  # fmt: skip


def product_of(node: Object) -> str:
    labels = node["metadata"].get("labels") or {}
    return next((str(labels[key]) for key in TYPE_LABELS if key in labels), "gpu")


def gpus_of(amounts: Mapping[str, float], product: str) -> dict[str, int]:
    """GPUs by type: whole ones by the node's product, slices by their profile."""
    whole = math.ceil(sum(amounts.get(name, 0.0) for name in WHOLE_GPUS))
    slices = {profile_of(name): math.ceil(n) for name, n in amounts.items() if name.startswith(MIG) and n > 0}
    return ({product: whole} if whole else {}) | slices


def profile_of(resource: str) -> str:
    """``nvidia.com/mig-1g.10gb.me`` as ``1g.10gb+me``."""
    name = resource.removeprefix(MIG)
    found = slice_of(name)
    return name if found is None else found[0]


def resource_of(profile: str) -> str:
    """Back again."""
    return MIG + profile.replace("+", ".")


def running_of(pods: Sequence[Object], nodes: Sequence[Object]) -> list[Job]:
    """Pods that hold GPUs, with when they will have ended by what is known: their deadline or estimate."""
    products = {one["metadata"]["name"]: product_of(one) for one in nodes}
    found = []
    for pod in pods:
        name, status = pod["spec"].get("nodeName"), pod.get("status") or {}
        if name not in products or status.get("phase") in OVER:
            continue
        held = gpus_of(totals(pod["spec"], place_of(pod)), products[name])
        if held:
            key, notes = key_of(pod), pod["metadata"].get("annotations") or {}
            limit = estimate_of(notes, place_of(pod)) or pod["spec"].get("activeDeadlineSeconds") or LONGEST_S
            begun = second_of(status.get("startTime") or pod["metadata"]["creationTimestamp"])
            job = Job(
                f"pod {'/'.join(key)}", begun, key[0], key[0], key[1], "RUNNING", "", 1, 0, float(limit), Asked(held),
                start_s=begun, nodes=(name,), held=(held,),
            )  # fmt: skip
            found.append(job)
    return found


# --- what pods ask for ----------------------------------------------------------------------------


def parcel_of(
    templates: Sequence[tuple[Object, Mapping[str, Any], int]], place: str, nodes: Sequence[Object]
) -> Parcel:
    """Of pods: (spec, labels and annotations, how many)."""
    kinds: dict[str, int] = {}
    each, cpus, memory, why = 0, 0.0, 0.0, ""
    for spec, notes, count in templates:
        amounts = totals(spec, place)
        request = asked(spec, notes, amounts, place)
        cpus += count * amounts.get("cpu", 0.0)
        memory += count * amounts.get("memory", 0.0) / 2**20
        if request.gpus == 0:
            # Launchers without a GPU go wherever the scheduler puts them.
            why = why or ("" if request.why_not == "pods without a GPU" else f"is one of the {request.why_not}")
            continue
        why = why or why_not(request, spec, nodes)
        kind = request.mig or request.gpu_type or ""
        kinds[kind] = kinds.get(kind, 0) + count * request.gpus
        each = max(each, request.gpus)
    if len(kinds) > 1:
        why = why or "asks for GPUs of several types"
    if not kinds:
        why = why or "asks for no GPU"
    kind, gpus = next(iter(kinds.items()), ("", 0))
    return Parcel(kind, gpus, each, math.ceil(cpus), memory, why)


def why_not(request: Request, spec: Object, nodes: Sequence[Object]) -> str:
    """Why a pod is not for us to place; "" where it is."""
    if request.why_not:
        return f"is one of the {request.why_not}"
    if request.gpu_milli < WHOLE:
        return "asks for a share of a GPU"
    if "|" in (request.gpu_type or "") and request.mig is None:
        return "may run on several GPU types"
    selector = {k: v for k, v in (spec.get("nodeSelector") or {}).items() if k not in TYPE_LABELS}
    mine = [one for one in nodes if request.mig or request.gpu_type in (None, product_of(one))]
    for key, value in selector.items():
        if any((one["metadata"].get("labels") or {}).get(key) != value for one in mine):
            return f"asks for nodes with {key}={value}, which not all nodes of its GPUs have"
    return ""


# --- workloads of Kueue ----------------------------------------------------------------------------


def condition(found: Object, name: str) -> bool:
    return any(
        one["type"] == name and one["status"] == "True" for one in (found.get("status") or {}).get("conditions") or ()
    )


def job_of_workload(found: Object, nodes: Sequence[Object], flavors: Mapping[str, Object]) -> tuple[Job, int]:
    """A workload that has its quota, and GPUs of its pods; its GPU types are those of the flavors that Kueue gave it."""
    place = f"workload {'/'.join(key_of(found))}"
    spec, about = found["spec"], found["metadata"]
    assigned = {
        one["name"]: one for one in ((found.get("status") or {}).get("admission") or {}).get("podSetAssignments") or ()
    }
    templates = []
    for one in spec["podSets"]:
        given = assigned.get(one["name"], {})
        template = one["template"]
        labels = _labels_of(given.get("flavors") or {}, flavors)
        inner = template["spec"] | {"nodeSelector": {**(template["spec"].get("nodeSelector") or {}), **labels}}
        meta = template.get("metadata") or {}
        notes = (meta.get("annotations") or {}) | (meta.get("labels") or {})
        templates.append((inner, notes, int(given.get("count", one.get("count", 1)))))
    parcel = parcel_of(templates, place, nodes)
    notes = about.get("annotations") or {}
    queue = str(spec.get("queueName", ""))
    job = job_of(key_of(found), about["creationTimestamp"], parcel, int(spec.get("priority") or 0), notes, queue)
    return job, max(1, parcel.each)


def _labels_of(given: Mapping[str, str], flavors: Mapping[str, Object]) -> dict[str, str]:
    out: dict[str, str] = {}
    for resource, name in given.items():
        if resource in WHOLE_GPUS or resource.startswith(MIG):
            out |= ((flavors.get(name) or {}).get("spec") or {}).get("nodeLabels") or {}
    return out


def job_of(
    key: tuple[str, str], created: str, parcel: Parcel, priority: int, notes: Mapping[str, Any], account: str
) -> Job:
    """As `rltune.slurm` decides on it; ``partition`` and ``user`` are the namespace."""
    estimate = estimate_of(notes, "/".join(key))
    gpus = {parcel.kind: parcel.gpus} if parcel.gpus else {}
    whole = Asked(gpus, None, None, (), parcel.cpus, parcel.memory_mb)
    return Job(
        "/".join(key), second_of(created), key[0], key[0], key[1], "PENDING", "", priority + NO_ZERO, 0,
        estimate or LONGEST_S, whole, apart=parcel.why_not, account=account,
    )  # fmt: skip


def estimate_of(notes: Mapping[str, Any], place: str) -> float | None:
    """Seconds that a job is believed to run, by its annotation."""
    return above_0(notes[ESTIMATE], ESTIMATE, place) if ESTIMATE in notes else None


def fits_form(parcel_each: int, places: Sequence[Place]) -> bool:
    """Whether pods of so many GPUs each fill what each place gives."""
    return all(place.gpus % max(1, parcel_each) == 0 for place in places)


def second_of(text: str) -> float:
    """Seconds since 1970 of a time of the API."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


# --- pods with our gate ----------------------------------------------------------------------------


def gated(pod: Object) -> bool:
    return any(one.get("name") == GATE for one in pod["spec"].get("schedulingGates") or ())


def only_ours(pod: Object) -> bool:
    """Whether nobody else's gate is on the pod."""
    return len(pod["spec"].get("schedulingGates") or ()) == 1


def gang_of(pod: Object) -> str:
    """What a pod is decided on with: namespace and name of its gang, or of itself."""
    about = pod["metadata"]
    notes = (about.get("annotations") or {}) | (about.get("labels") or {})
    namespace, name = key_of(pod)
    return next((f"{namespace}/{notes[key]}" for key in GANG_LABELS if key in notes), f"{namespace}/{name}")


def place_of(pod: Object) -> str:
    return f"pod {'/'.join(key_of(pod))}"


def job_of_pods(name: str, pods: Sequence[Object], nodes: Sequence[Object], profile: str | None) -> tuple[Job, int]:
    """A gang, and GPUs of its pods; ``profile``: the MIG slice that was chosen for a pod that asks for slice memory."""
    first = pods[0]
    about = first["metadata"]
    templates = []
    for pod in pods:
        meta = pod["metadata"]
        notes = (meta.get("annotations") or {}) | (meta.get("labels") or {})
        templates.append((pod["spec"] if profile is None else with_slice(pod["spec"], profile), notes, 1))
    parcel = parcel_of(templates, place_of(first), nodes)
    if len({request_of(pod) for pod in pods}) > 1:
        parcel = replace(parcel, why_not=parcel.why_not or "is a gang of pods that ask for unlike GPUs")
    namespace, _, gang = name.partition("/")
    created = min(pod["metadata"]["creationTimestamp"] for pod in pods)
    priority = max(int(pod["spec"].get("priority") or 0) for pod in pods)
    job = job_of((namespace, gang), created, parcel, priority, about.get("annotations") or {}, namespace)
    return job, max(1, parcel.each)


def request_of(pod: Object) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(gpus_of(totals(pod["spec"], place_of(pod)), "").items()))


def with_slice(spec: Object, profile: str) -> Object:
    """A pod's spec whose first container asks for a MIG slice."""
    first, *others = spec["containers"]
    resources = dict(first.get("resources") or {})
    for part in ("limits", "requests"):
        resources[part] = {**(resources.get(part) or {}), resource_of(profile): "1"}
    return spec | {"containers": [first | {"resources": resources}, *others]}


def memory_of(profile: str) -> float:
    """GB of a MIG profile, by its name."""
    return float(profile.partition(".")[2].partition("gb")[0])


def profile_for(pod: Object, nodes: Sequence[Node]) -> str | None:
    """The smallest slice that has the memory a pod asks for, one that is free if there is any; None: it asks for none.

    InputError: no open node has such a slice.
    """
    wanted = (pod["metadata"].get("annotations") or {}).get(SLICE)
    if wanted is None:
        return None
    least = above_0(wanted, SLICE, place_of(pod))
    free = Counter[str]()
    for node in nodes:
        if node.open:
            free.update({k: count - node.used.get(k, 0) for k, count in node.gpus.items() if slice_of(k) is not None})
    fitting = sorted((memory_of(k), k) for k in free if memory_of(k) >= least)
    if not fitting:
        raise InputError(f"{place_of(pod)}: {SLICE}={wanted}: no open node has such a MIG slice; ask for less")
    return next((k for _, k in fitting if free[k] > 0), fitting[0][1])


def above_0(value: Any, name: str, place: str) -> float:
    """A number of an annotation."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not 0 < found < math.inf:
        raise InputError(f"{place}: annotation {name}={value!r}; a number above 0 is needed")
    return found


# --- what was sent ---------------------------------------------------------------------------------


def written(places: Sequence[Place]) -> str:
    """Of the annotation: ``node:type:gpus,...``."""
    return ",".join(f"{one.node}:{one.kind}:{one.gpus}" for one in places)


def read_places(text: str) -> tuple[Place, ...]:
    """Back again; empty for what is none of ours."""
    parts = [one.split(":") for one in text.split(",") if one.count(":") == 2]
    return tuple(Place(node, kind, int(gpus)) for node, kind, gpus in parts if gpus.isdecimal())
