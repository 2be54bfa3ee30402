"""Decisions as states of Kueue's admission checks: Ready in our order, Pending while it waits, Retry where it holds quota in vain.

Kueue gives a workload its quota first, and then waits for its checks. Ours is Ready once the workload's GPUs are free and it is its
turn; where all its pods go to one node, they get that node's name as a selector. One that waits for longer than ``patience_s`` is told
Retry: Kueue takes its quota back and gives it to others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rltune.kubernetes.http import Object, Resource, key_of
from rltune.kubernetes.reading import CONTROLLER, HOSTNAME, PLACES, WORKLOAD, condition, read_places, second_of, written
from rltune.slurm.moment import Place

GROUP = "/apis/kueue.x-k8s.io"
READY, PENDING, RETRY = "Ready", "Pending", "Retry"
MOST_MESSAGE = 1000


def resources(version: str) -> dict[str, Resource]:
    """Of Kueue: workloads, checks, flavors."""
    base = f"{GROUP}/{version}"
    return {
        "workloads": Resource(f"{base}/workloads", base + "/namespaces/{namespace}/workloads/{name}"),
        "checks": Resource(f"{base}/admissionchecks", base + "/admissionchecks/{name}"),
        "flavors": Resource(f"{base}/resourceflavors", base + "/resourceflavors/{name}"),
    }


def ours(checks: Sequence[Object]) -> list[Object]:
    """Admission checks whose controller we are."""
    return [one for one in checks if (one.get("spec") or {}).get("controllerName") == CONTROLLER]


def state_of(workload: Object, names: set[str]) -> Object | None:
    """Our check's state on a workload; None where it has none."""
    states = (workload.get("status") or {}).get("admissionChecks") or ()
    return next((one for one in states if one["name"] in names), None)


def waits(workload: Object, names: set[str]) -> bool:
    """Whether it has its quota and waits for us."""
    state = state_of(workload, names)
    over = condition(workload, "Finished") or condition(workload, "Evicted") or workload["spec"].get("active") is False
    return state is not None and state["state"] == PENDING and condition(workload, "QuotaReserved") and not over


def sent(workload: Object, names: set[str]) -> tuple[Place, ...]:
    """Where it was sent by us, as long as it has not ended."""
    state = state_of(workload, names)
    if (
        state is None
        or state["state"] != READY
        or condition(workload, "Finished")
        or not condition(workload, "QuotaReserved")
    ):
        return ()
    updates = state.get("podSetUpdates") or [{}]
    return read_places((updates[0].get("annotations") or {}).get(PLACES, ""))


def made_active(check: Object, now_s: float) -> Object | None:
    """What says that its controller is there; None where it is said."""
    if condition(check, "Active"):
        return None
    others = [one for one in (check.get("status") or {}).get("conditions") or () if one["type"] != "Active"]
    active = {
        "type": "Active", "status": "True", "reason": "Active", "message": "rltune decides",
        "lastTransitionTime": time_of(now_s),
    }  # fmt: skip
    return {"status": {"conditions": [*others, active]}}


def with_state(
    workload: Object, names: set[str], state: str, message: str, places: Sequence[Place], now_s: float
) -> Object | None:
    """The workload's status with our check as decided; None where it says so, or no longer waits for us."""
    if not waits(workload, names):
        return None
    states = list(workload["status"]["admissionChecks"])
    at = next(k for k, one in enumerate(states) if one["name"] in names)
    before = states[at]
    message = message[:MOST_MESSAGE]
    if before["state"] == state and before.get("message") == message:
        return None
    when = before.get("lastTransitionTime") if before["state"] == state else time_of(now_s)
    new: dict[str, Any] = {"name": before["name"], "state": state, "message": message, "lastTransitionTime": when}
    if state == READY and places:
        new["podSetUpdates"] = [update(one["name"], workload, places) for one in workload["spec"]["podSets"]]
    states[at] = new
    return {"status": {"admissionChecks": states}}


def update(pod_set: str, workload: Object, places: Sequence[Place]) -> Object:
    """What its pods get: where they go, and whose they are."""
    nodes = {one.node for one in places}
    out: Object = {"name": pod_set, "annotations": {PLACES: written(places), WORKLOAD: "/".join(key_of(workload))}}
    return out | {"nodeSelector": {HOSTNAME: next(iter(nodes))}} if len(nodes) == 1 else out


def waited_s(workload: Object, now_s: float) -> float:
    """Since it has its quota."""
    for one in (workload.get("status") or {}).get("conditions") or ():
        if one["type"] == "QuotaReserved":
            return now_s - second_of(one["lastTransitionTime"])
    return 0.0


def time_of(now_s: float) -> str:
    return datetime.fromtimestamp(now_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def flavors_by_name(flavors: Sequence[Object]) -> Mapping[str, Object]:
    return {one["metadata"]["name"]: one for one in flavors}
