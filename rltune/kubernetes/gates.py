"""Decisions on pods with our scheduling gate: the node's name as a selector, then the gate goes.

What a gated pod asks for cannot be changed, only its selectors. A pod that asks for slice memory by annotation is therefore made anew
with the resource name of the slice chosen (``nvidia.com/mig-3g.20gb``), and the first one goes; that is possible for pods of no owner only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rltune.kubernetes.http import Api, ApiError, Object, Resource, key_of
from rltune.kubernetes.reading import DOMAIN, GATE, HOSTNAME, PLACES, gated, with_slice, written
from rltune.slurm.moment import Place

PODS = Resource("/api/v1/pods", "/api/v1/namespaces/{namespace}/pods/{name}")
NODES = Resource("/api/v1/nodes", "/api/v1/nodes/{name}")
INSTEAD = f"{DOMAIN}/instead-of"
ENDING = "-mig"
LONGEST_NAME = 253
EXISTS = 409


def released(pod: Object, place: Place | None) -> Object | None:
    """A gated pod without the gate, on the node chosen; None where it has none any more. ``place`` None: anywhere."""
    if not gated(pod):
        return None
    spec: dict[str, Any] = {
        "schedulingGates": [one for one in pod["spec"]["schedulingGates"] if one["name"] != GATE] or None
    }
    if place is None:
        return {"spec": spec}
    spec["nodeSelector"] = {HOSTNAME: place.node}
    return {"metadata": {"annotations": {PLACES: written([place])}}, "spec": spec}


def spread(pods: Sequence[Object], places: Sequence[Place], each: int) -> list[Place]:
    """A place for each pod of a gang, in their order; each pod asks for ``each`` GPUs."""
    return [Place(one.node, one.kind, each) for one in places for _ in range(one.gpus // each)][: len(pods)]


def instead_of(pod: Object, profile: str, place: Place) -> Object:
    """The pod that takes the place of one without a resource name: the same, on a slice, on a node, without our gate."""
    about, spec = pod["metadata"], with_slice(pod["spec"], profile)
    namespace, name = key_of(pod)
    gates = [one for one in spec.get("schedulingGates") or () if one["name"] != GATE]
    kept = {key: value for key, value in spec.items() if key != "schedulingGates"}
    notes = {**(about.get("annotations") or {}), PLACES: written([place]), INSTEAD: about["uid"]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": namespace, "name": name[: LONGEST_NAME - len(ENDING)] + ENDING,
            "labels": about.get("labels") or {}, "annotations": notes,
        },
        "spec": kept
        | {"nodeSelector": {**(spec.get("nodeSelector") or {}), HOSTNAME: place.node}}
        | ({"schedulingGates": gates} if gates else {}),
    }  # fmt: skip


def replace_pod(api: Api, pod: Object, new: Object) -> None:
    """First the new one is there, then the old one goes; begun twice, it ends the same."""
    pods = PODS.one(new).rpartition("/")[0]
    try:
        api.ask("POST", pods, new)
    except ApiError as error:
        if error.status != EXISTS:
            raise
        there = api.ask("GET", PODS.one(new))
        if (there["metadata"].get("annotations") or {}).get(INSTEAD) != pod["metadata"]["uid"]:
            raise ApiError(
                f"a pod {new['metadata']['name']} is there that is not ours; rename one of them", EXISTS
            ) from None
    gone = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod["metadata"]["uid"]}}
    try:
        api.ask("DELETE", PODS.one(pod), gone)
    except ApiError as error:
        if error.status != 404:
            raise
