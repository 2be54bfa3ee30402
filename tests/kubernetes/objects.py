"""Objects in the form that Kubernetes and Kueue (v1beta1) write them (of their documentation's examples, shortened)."""

from __future__ import annotations

from typing import Any

from tests.kubernetes.fake_api import FakeApi

Object = dict[str, Any]
NOW = 1_750_000_000.0
CREATED = "2025-06-15T15:00:00Z"
PRODUCT = "NVIDIA-A100-SXM4-40GB"
KUEUE = "/apis/kueue.x-k8s.io/v1beta1"
GATE = "rltune.io/decides"


def node(api: FakeApi, name: str, gpus: int = 8, slices: dict[str, int] | None = None, **spec: Any) -> Object:
    amounts = {"cpu": "95500m", "memory": "1000Gi", "nvidia.com/gpu": str(gpus)}
    amounts |= {f"nvidia.com/mig-{profile}": str(count) for profile, count in (slices or {}).items()}
    labels = {"kubernetes.io/hostname": name, "nvidia.com/gpu.product": PRODUCT, "zone": "a"}
    status = {
        "allocatable": amounts, "capacity": amounts,
        "conditions": [{"type": "MemoryPressure", "status": "False"}, {"type": "Ready", "status": "True"}],
    }  # fmt: skip
    found = {"kind": "Node", "metadata": {"name": name, "labels": labels}, "spec": spec, "status": status}
    return api.put(f"/api/v1/nodes/{name}", found)


def pod_spec(gpus: int = 1, resource: str = "nvidia.com/gpu", **more: Any) -> Object:
    limits = {resource: str(gpus)} if gpus else {}
    requests = {"cpu": "4", "memory": "16Gi", **limits}
    container = {"name": "main", "image": "train", "resources": {"limits": limits, "requests": requests}}
    return {"containers": [container], **more}


def pod(
    api: FakeApi, name: str, gpus: int = 1, *, gated: bool = True, labels: Object | None = None,
    annotations: Object | None = None, on: str | None = None, created: str = CREATED, resource: str = "nvidia.com/gpu", owner: bool = False,
) -> Object:  # fmt: skip
    spec = pod_spec(gpus, resource)
    if gated:
        spec["schedulingGates"] = [{"name": GATE}]
    if on is not None:
        spec["nodeName"] = on
    about: Object = {"name": name, "namespace": "team", "creationTimestamp": created}
    about |= {"labels": labels or {}, "annotations": annotations or {}}
    if owner:
        about["ownerReferences"] = [{"kind": "Job", "name": "sweep", "uid": "1"}]
    status = {"phase": "Running", "startTime": created} if on else {"phase": "Pending"}
    found = {"kind": "Pod", "metadata": about, "spec": spec, "status": status}
    return api.put(f"/api/v1/namespaces/team/pods/{name}", found)


def check(api: FakeApi, name: str = "rltune", controller: str = "rltune.io/order") -> Object:
    found = {"kind": "AdmissionCheck", "metadata": {"name": name}, "spec": {"controllerName": controller}}
    return api.put(f"{KUEUE}/admissionchecks/{name}", found)


def flavor(api: FakeApi, name: str = "a100", **labels: str) -> Object:
    found = {"kind": "ResourceFlavor", "metadata": {"name": name}, "spec": {"nodeLabels": labels}}
    return api.put(f"{KUEUE}/resourceflavors/{name}", found)


def workload(
    api: FakeApi, name: str, gpus: int, pods: int = 1, *, created: str = CREATED, since: str = CREATED, check: str = "rltune",
    estimate_s: float | None = None, selector: Object | None = None,
) -> Object:  # fmt: skip
    """It has its quota, and waits for its checks; another controller's check stands before ours."""
    about: Object = {"name": name, "namespace": "team", "creationTimestamp": created}
    if estimate_s is not None:
        about["annotations"] = {"rltune.io/estimate-s": str(estimate_s)}
    template = {"metadata": {}, "spec": pod_spec(gpus, nodeSelector=selector or {})}
    admission = {
        "clusterQueue": "gpus",
        "podSetAssignments": [
            {
                "name": "main",
                "count": pods,
                "flavors": {"nvidia.com/gpu": "a100", "cpu": "a100"},
                "resourceUsage": {"nvidia.com/gpu": str(gpus * pods)},
            }
        ],
    }
    checks = [
        {"name": "other", "state": "Ready", "message": "", "lastTransitionTime": since},
        {"name": check, "state": "Pending", "message": "", "lastTransitionTime": since},
    ]
    status = {
        "admission": admission,
        "conditions": [
            {
                "type": "QuotaReserved",
                "status": "True",
                "reason": "QuotaReserved",
                "lastTransitionTime": since,
                "message": "",
            }
        ],
        "admissionChecks": checks,
    }
    spec = {
        "queueName": "team-queue",
        "priority": 0,
        "active": True,
        "podSets": [{"name": "main", "count": pods, "template": template}],
    }
    found = {"kind": "Workload", "metadata": about, "spec": spec, "status": status}
    return api.put(f"{KUEUE}/namespaces/team/workloads/{name}", found)


def state(api: FakeApi, name: str) -> Object:
    """Of our check on a workload."""
    found = api.objects[f"{KUEUE}/namespaces/team/workloads/{name}"]
    return next(one for one in found["status"]["admissionChecks"] if one["name"] == "rltune")
