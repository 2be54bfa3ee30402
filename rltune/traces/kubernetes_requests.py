"""What a pod asks for: the larger of its init phase and its containers, as whole GPUs, MIG slices or a share of a GPU."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from rltune.nouns.errors import InputError
from rltune.nouns.jobs import WHOLE
from rltune.traces.shares import Request, slice_of, types_with
from rltune.traces.table import one_line

WHOLE_GPUS = ("nvidia.com/gpu", "amd.com/gpu", "gpu.intel.com/i915", "gpu.intel.com/xe", "volcano.sh/vgpu-number")
"""Whole GPUs, unless one of the names below says which share of each."""
MIG = "nvidia.com/mig-"
PERCENT = {
    "nvidia.com/gpucores": 100, "nvidia.com/gpumem-percentage": 100,  # HAMi
    "volcano.sh/vgpu-cores": 100, "volcano.sh/vgpu-memory-percentage": 100,
    "koordinator.sh/gpu": 100, "koordinator.sh/gpu-core": 100, "koordinator.sh/gpu-memory-ratio": 100,
    "tencent.com/vcuda-core": 100, "elasticgpu.io/gpu-core": 100, "aliyun.com/gpu-core.percentage": 100,
    "alibabacloud.com/gpu-milli": 1000,
}  # fmt: skip
"""Resource -> how much of it is one GPU. HAMi and Volcano count for each virtual GPU, the others for the pod."""
EACH = (
    "nvidia.com/gpucores",
    "nvidia.com/gpumem-percentage",
    "volcano.sh/vgpu-cores",
    "volcano.sh/vgpu-memory-percentage",
)
MEMORY_GIB = {
    "nvidia.com/gpumem": 2.0**-10, "volcano.sh/vgpu-memory": 2.0**-10, "aliyun.com/gpu-mem": 1.0,
    "tencent.com/vcuda-memory": 0.25, "koordinator.sh/gpu-memory": 2.0**-30,
}  # fmt: skip
"""Resource of GPU memory -> its unit in GiB."""
MEMORY_NAMED = re.compile(r"^nvidia\.com/gpu-(\d+)gb$")
"""A share by its memory (nos): nvidia.com/gpu-10gb."""
TIME_SHARED = ("nvidia.com/gpu.shared", "koordinator.sh/gpu.shared", "amd.com/gpu.shared")
FRACTION, FRACTION_MEMORY = "gpu-fraction", "gpu-memory"
"""Annotations of KAI and Run:ai; such pods name no resource."""
GKE_SLICE = "cloud.google.com/gke-gpu-partition-size"
GKE_CLIENTS = "cloud.google.com/gke-max-shared-clients-per-gpu"
GKE_SHARING = "cloud.google.com/gke-gpu-sharing-strategy"
DEVICE = re.compile(
    r"/.*(gpu|mig|npu|tpu|dcu|mlu|gcu|cuda|ascend|neuron|gaudi|accelerator)|^(habana|huawei|cambricon|metax|mthreads)",
    re.IGNORECASE,
)
"""What resources of accelerators are called; those that are not read above are told by name."""
TYPE_LABELS = (
    "nvidia.com/gpu.product", "cloud.google.com/gke-accelerator", "gpu.nvidia.com/model", "gpu.nvidia.com/class",
    "karpenter.k8s.aws/instance-gpu-name", "eks.amazonaws.com/instance-gpu-name", "k8s.amazonaws.com/accelerator",
    "amd.com/gpu.product-name", "accelerator",
)  # fmt: skip
PRODUCT_SLICE = re.compile(r"^(.+)-MIG-(\d+g\.\d+gb.*)$")
"""GPU feature discovery names a node's product so where all its GPUs are cut alike; nvidia.com/gpu counts slices there."""
QUANTITY = re.compile(r"^\+?(\d+(?:\.\d*)?|\.\d+)(?:[eE]([+-]?\d{1,3})|(m|n|u|[kKMGTPE]i?))?$")
UNITS = {
    None: 1.0, "n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50, "Ei": 2.0**60,
}  # fmt: skip
MOST = 1e24
"""No pod asks for more of anything, bytes either."""


def totals(spec: Mapping[str, Any], place: str) -> dict[str, float]:
    """Resource -> amount that the scheduler keeps for the pod.

    The larger of the containers with the native sidecars, and of each init container with the sidecars started before it.
    """
    running: Counter[str] = Counter()
    most: Counter[str] = Counter()
    for init in spec.get("initContainers") or ():
        wants = Counter(_amounts(init, place))
        if init.get("restartPolicy") == "Always":
            running += wants
        most |= running if init.get("restartPolicy") == "Always" else running + wants
    for container in spec["containers"]:
        running += Counter(_amounts(container, place))
    # Resources of the whole pod take the place of its containers' sums.
    return dict(most | running) | _amounts(spec, place)


def asked(spec: Mapping[str, Any], notes: Mapping[str, Any], amounts: Mapping[str, float], place: str) -> Request:
    """What a pod with these ``amounts`` and annotations (``notes``) asks of GPUs; without one, ``gpus`` is 0."""
    selector = spec.get("nodeSelector") or {}
    kind = gpu_type_of(spec)
    whole = math.ceil(sum(amounts.get(name, 0.0) for name in WHOLE_GPUS))
    slices = {name.removeprefix(MIG): math.ceil(n) for name, n in amounts.items() if name.startswith(MIG) and n > 0}
    product = PRODUCT_SLICE.match(kind or "")
    named = selector.get(GKE_SLICE) or (product[2] if product else None)
    if named is not None and whole:
        slices[str(named)], whole = slices.get(str(named), 0) + whole, 0
    if slices:
        return _sliced(slices, whole, product[1] if product else kind or "")
    share = _share(notes, selector, amounts, kind, whole, place)
    if share is not None:
        return share
    if whole:
        count = sum(amounts.get(name, 0.0) for name in WHOLE_GPUS)
        return Request(whole, gpu_type=kind) if count == whole else _milli(count, kind)
    if spec.get("resourceClaims"):
        return Request(0, why_not="pods with resource claims (DRA: the claim, not the pod, names the devices)")
    other = next((name for name, n in amounts.items() if n > 0 and DEVICE.search(name)), None)
    return Request(
        0, why_not="pods without a GPU" if other is None else f"pods that ask for {one_line(other)}, which is not read"
    )


def gpu_type_of(spec: Mapping[str, Any]) -> str | None:
    """GPU types by the node selector or the required node affinity, as "A|B"; None: any."""
    selector = spec.get("nodeSelector") or {}
    found = next((str(selector[key]) for key in TYPE_LABELS if key in selector), None)
    if found is not None:
        return found
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    terms = (affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}).get("nodeSelectorTerms") or ()
    # One of the terms is enough: a term that names no type allows any.
    names: dict[str, None] = {}
    for term in terms:
        rules = {rule.get("key"): rule for rule in term.get("matchExpressions") or () if rule.get("operator") == "In"}
        rule = next((rules[key] for key in TYPE_LABELS if key in rules), None)
        if rule is None:
            return None
        names |= dict.fromkeys(str(value) for value in rule.get("values") or ())
    return "|".join(names) or None


def _sliced(slices: Mapping[str, int], whole: int, model: str) -> Request:
    if whole:
        return Request(whole, why_not="pods with whole GPUs and MIG slices together")
    if len(slices) > 1:
        return Request(0, why_not="pods with MIG slices of several profiles")
    name, count = next(iter(slices.items()))
    found = slice_of(name)
    if found is None:
        return Request(count, why_not=f"pods that ask for {one_line(MIG + name)}, which is no MIG profile")
    return Request(count, mig=found[0], gpu_type=types_with(found[0], model))


def _share(
    notes: Mapping[str, Any],
    selector: Mapping[str, Any],
    amounts: Mapping[str, float],
    kind: str | None,
    whole: int,
    place: str,
) -> Request | None:
    """A share of a GPU, told in one of the ways of the field; None: no share."""
    if any(amounts.get(name, 0) > 0 for name in TIME_SHARED) or (kind or "").endswith("-SHARED"):
        return Request(0, why_not="pods on time-shared GPUs (gpu.shared: how many share one, the list does not tell)")
    if whole and (GKE_SHARING in selector or GKE_CLIENTS in selector):
        clients = _number(selector[GKE_CLIENTS], place) if GKE_CLIENTS in selector else 0.0
        if clients < 1 or whole != 1:
            return Request(0, why_not="pods on time-shared GPUs (how many share one, the list does not tell)")
        return _milli(1 / clients, kind)
    if FRACTION in notes:
        return _milli(_number(notes[FRACTION], place), kind)
    parts = [(name, amounts[name] / whole_is) for name, whole_is in PERCENT.items() if amounts.get(name, 0) > 0]
    if parts:
        # HAMi's amounts are those of one virtual GPU; several of them are no share of one GPU.
        share = max(part for _, part in parts)
        if whole > 1 and parts[0][0] in EACH:
            return None if share >= 1 else Request(whole, why_not="pods with a share of each of several GPUs")
        return _milli(share, kind)
    gib = sum(amounts.get(name, 0.0) * unit for name, unit in MEMORY_GIB.items())
    gib += sum(float(found[1]) * n for name, n in amounts.items() if (found := MEMORY_NAMED.match(name)))
    gib += _number(notes[FRACTION_MEMORY], place) / 2**10 if FRACTION_MEMORY in notes else 0.0
    if gib == 0:
        return None
    size = re.search(r"(\d+)\s*GB", kind or "", re.IGNORECASE)
    if size is None or whole > 1:
        return Request(whole, why_not="pods with a share of GPU memory, of which the GPU's size is not told")
    return _milli(gib / float(size[1]), kind)


def _milli(share: float, kind: str | None) -> Request:
    """A share of one GPU, rounded up to thousandths; shares of several GPUs are whole ones or not to be told."""
    if share <= 1:
        return Request(
            1, gpu_milli=max(1, math.ceil(round(share * WHOLE, 6))), gpu_type=kind, also=("pods on a share of a GPU",)
        )
    if share == int(share):
        return Request(int(share), gpu_type=kind)
    return Request(1, why_not="pods with more than one GPU and a share of another")


def _number(value: Any, place: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < MOST:
        raise InputError(f"{place}: {one_line(repr(value))} is no share of a GPU; correct the annotation or label")
    return number


def _amounts(holder: Mapping[str, Any], place: str) -> dict[str, float]:
    """Resource -> the request, or the limit where only that is set."""
    resources = holder.get("resources") or {}
    told = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {str(name): _quantity(value, str(name), place) for name, value in told.items()}


def _quantity(value: Any, name: str, place: str) -> float:
    found = QUANTITY.match(str(value)) if len(str(value)) < 100 else None
    amount = math.inf
    if found is not None:
        amount = float(found[1]) * (float(f"1e{found[2]}") if found[2] else UNITS[found[3]])
    if found is None or amount > MOST:
        raise InputError(f"{place}: {one_line(name)} is {one_line(repr(value))}, which is no Kubernetes quantity")
    return amount
