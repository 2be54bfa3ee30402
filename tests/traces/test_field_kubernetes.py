"""What people meet in lists of pods: slices and shares, init phases, restarts, gangs, reasons, near misses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rltune.nouns.errors import InputError
from rltune.traces import Trace, load_trace

DAY = "2025-05-01T"


def container(**limits: Any) -> dict[str, Any]:
    return {"resources": {"limits": {name.replace("__", "/"): value for name, value in limits.items()}}}


def ended(start: str = "10:00:10", end: str = "10:30:10", **more: Any) -> dict[str, Any]:
    """The status of a container that ended."""
    return {"state": {"terminated": {"startedAt": f"{DAY}{start}Z", "finishedAt": f"{DAY}{end}Z"}}} | more


def pod(name: str, gpus: int = 1, **more: Any) -> dict[str, Any]:
    """A pod created at 10:00:00 and started at 10:00:05, whose container ran from 10:00:10 to 10:30:10."""
    limits = {"resources": {"limits": more.get("limits", {"nvidia.com/gpu": str(gpus)})}}
    status = {"phase": "Succeeded", "startTime": f"{DAY}10:00:05Z", "containerStatuses": [ended()]}
    return {
        "kind": "Pod",
        "metadata": {
            "name": name, "namespace": "a", "creationTimestamp": f"{DAY}{more.get('created', '10:00:00')}Z",
            "labels": more.get("labels"), "annotations": more.get("annotations"),
        },
        "spec": {"containers": [limits]} | more.get("spec", {}),
        "status": more.get("status", status),
    }  # fmt: skip


def read(folder: Path, *pods: dict[str, Any]) -> Trace:
    path = folder / "pods.json"
    path.write_text(json.dumps({"kind": "List", "items": list(pods)}))
    return load_trace(path)


PLAIN = pod("plain")


@pytest.mark.parametrize(
    ("limits", "more", "seen"),
    [
        ({"nvidia.com/mig-1g.5gb": "1"}, {}, (1, 1000, "1g.5gb", None)),
        ({"nvidia.com/mig-1g.10gb.me": "2"}, {}, (2, 1000, "1g.10gb+me", None)),
        (
            {"nvidia.com/mig-3g.20gb": "1"}, {"nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-40GB"}},
            (1, 1000, "3g.20gb", "A100-40GB"),
        ),
        (
            {"nvidia.com/gpu": "1"}, {"nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb"}},
            (1, 1000, "1g.5gb", "A100-40GB"),
        ),
        (
            {"nvidia.com/gpu": "1"}, {"nodeSelector": {"cloud.google.com/gke-gpu-partition-size": "1g.5gb"}},
            (1, 1000, "1g.5gb", None),
        ),
        (
            {"nvidia.com/gpu": "1"}, {"nodeSelector": {"cloud.google.com/gke-max-shared-clients-per-gpu": "4"}},
            (1, 250, None, None),
        ),
        ({"nvidia.com/gpu": 1, "nvidia.com/gpucores": 30, "nvidia.com/gpumem-percentage": 50}, {}, (1, 500, None, None)),
        (
            {"nvidia.com/gpu": 1, "nvidia.com/gpumem": 20480},
            {"nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB"}},
            (1, 250, None, "NVIDIA-A100-SXM4-80GB"),
        ),
        ({"volcano.sh/vgpu-number": 1, "volcano.sh/vgpu-cores": 20}, {}, (1, 200, None, None)),
        ({"volcano.sh/vgpu-number": 2}, {}, (2, 1000, None, None)),
        ({"tencent.com/vcuda-core": 200}, {}, (2, 1000, None, None)),
        ({"koordinator.sh/gpu-core": 50, "koordinator.sh/gpu-memory-ratio": 60}, {}, (1, 600, None, None)),
        ({"amd.com/gpu": "4"}, {}, (4, 1000, None, None)),
        ({"amd.com/gpu": "500m"}, {}, (1, 500, None, None)),
    ],
)  # fmt: skip
def test_slices_and_shares_are_no_whole_gpus(
    tmp_path: Path, limits: dict[str, Any], more: dict[str, Any], seen: tuple[Any, ...]
) -> None:
    """A slice would be a whole GPU, or its pod one without a GPU."""
    jobs = read(tmp_path, pod("p", limits=limits, spec=more)).jobs
    found = (jobs.num_gpus[0], jobs.gpu_milli[0], jobs.mig.values()[0], jobs.gpu_type.values()[0])
    assert found == seen


def test_a_fraction_in_an_annotation(tmp_path: Path) -> None:
    """Pods of KAI and Run:ai name no resource, and would be pods without a GPU."""
    jobs = read(tmp_path, pod("p", limits={}, annotations={"gpu-fraction": "0.25"})).jobs
    assert (jobs.num_gpus[0], jobs.gpu_milli[0]) == (1, 250)
    with pytest.raises(InputError, match=r"record 1 \(pod a/p\): 'half' is no share of a GPU"):
        read(tmp_path, pod("p", limits={}, annotations={"gpu-fraction": "half"}))


@pytest.mark.parametrize(
    ("limits", "spec", "told"),
    [
        ({"nvidia.com/gpu.shared": 1}, {}, "pods on time-shared GPUs"),
        ({"nvidia.com/gpu": 2, "nvidia.com/gpucores": 30}, {}, "pods with a share of each of several GPUs"),
        ({"nvidia.com/gpu": 1, "nvidia.com/gpumem": 3000}, {}, "pods with a share of GPU memory"),
        ({"aliyun.com/gpu-mem": 8}, {}, "pods with a share of GPU memory"),
        ({"nvidia.com/gpu": 1, "nvidia.com/mig-1g.5gb": 1}, {}, "pods with whole GPUs and MIG slices together"),
        ({"nvidia.com/mig-2g.10gb": 1, "nvidia.com/mig-1g.5gb": 1}, {}, "pods with MIG slices of several profiles"),
        ({}, {"resourceClaims": [{"name": "gpu"}]}, "pods with resource claims (DRA"),
        ({"huawei.com/Ascend910": 8}, {}, "pods that ask for huawei.com/Ascend910, which is not read"),
        ({"google.com/tpu": 4}, {}, "pods that ask for google.com/tpu, which is not read"),
        ({"cpu": 4}, {}, "pods without a GPU"),
    ],
)
def test_what_the_table_cannot_hold_is_left_out_by_its_name(
    tmp_path: Path, limits: dict[str, Any], spec: dict[str, Any], told: str
) -> None:
    """Shares and claims would be whole GPUs or "without a GPU"."""
    trace = read(tmp_path, PLAIN, pod("p", limits=limits, spec=spec))
    assert trace.jobs.job_id.tolist() == ["a/plain"]
    assert any(note.startswith(f"1 {told}") and "left out" in note for note in trace.notes), trace.notes


def test_a_pod_asks_for_the_larger_of_init_phase_and_containers(tmp_path: Path) -> None:
    """A pod that pulls its model with four GPUs, or has a sidecar on one, would be scheduled where it does not fit."""
    gpus = "nvidia.com__gpu"
    sidecar = container(**{gpus: 1}) | {"restartPolicy": "Always"}
    trace = read(
        tmp_path,
        pod("bigger", 1, spec={"initContainers": [container(**{gpus: 4}), container(**{gpus: 2})]}),
        pod("only", limits={"cpu": 1}, spec={"initContainers": [container(**{gpus: 2})]}),
        pod("sidecar", 1, spec={"initContainers": [sidecar]}),
        pod("both", 1, spec={"initContainers": [sidecar, container(**{gpus: 3})]}),
        pod("before", 1, spec={"initContainers": [container(**{gpus: 2}), sidecar]}),
    )
    assert dict(zip(trace.jobs.job_id.tolist(), trace.jobs.num_gpus.tolist(), strict=True)) == {
        "a/bigger": 4, "a/only": 2, "a/sidecar": 2, "a/both": 4, "a/before": 2,
    }  # fmt: skip


def test_restarts_count_from_the_first_start(tmp_path: Path) -> None:
    """Three hours on eight GPUs before the last restart would be a wait."""
    before = {"terminated": {"startedAt": f"{DAY}11:00:00Z", "finishedAt": f"{DAY}12:59:30Z"}}
    last = ended("13:00:00", "13:10:00", lastState=before)
    status = {"phase": "Succeeded", "startTime": f"{DAY}10:00:05Z"}
    trace = read(
        tmp_path,
        pod("often", 8, status=status | {"containerStatuses": [last | {"restartCount": 3}]}),
        pod("once", 8, status=status | {"containerStatuses": [last | {"restartCount": 1}]}),
    )
    jobs = trace.jobs
    assert (jobs.job_id.tolist(), jobs.wait_s.tolist()) == (["a/often", "a/once"], [5, 3600])
    assert jobs.duration_s.tolist() == [11_395, 7_800]


GANGS = (
    "training.kubeflow.org/job-name", "volcano.sh/job-name", "jobset.sigs.k8s.io/jobset-name", "ray.io/cluster",
    "leaderworkerset.sigs.k8s.io/name", "kueue.x-k8s.io/pod-group-name", "scheduling.x-k8s.io/pod-group",
    "batch.kubernetes.io/job-name", "job-name",
)  # fmt: skip


@pytest.mark.parametrize("label", GANGS)
def test_pods_that_belong_together_are_one_gang(tmp_path: Path, label: str) -> None:
    """Workers of one training would be scheduled one by one."""
    jobs = read(tmp_path, *(pod(f"w{k}", 8, labels={label: "big"}) for k in range(2))).jobs
    assert (jobs.job_id.tolist(), jobs.num_gpus.tolist()) == (["a/big"], [16])


def test_groups_of_a_leaderworkerset_are_gangs_each(tmp_path: Path) -> None:
    """Two replicas of a server, which need not run together, would be one gang of twice the size."""
    name, key = "leaderworkerset.sigs.k8s.io/name", "leaderworkerset.sigs.k8s.io/group-key"
    jobs = read(tmp_path, *(pod(f"w{k}", 4, labels={name: "s", key: f"s{k // 2}"}) for k in range(4))).jobs
    assert (jobs.job_id.tolist(), jobs.num_gpus.tolist()) == (["a/s0", "a/s1"], [8, 8])


def test_pods_that_never_ran_together_are_attempts(tmp_path: Path) -> None:
    """A gang of two that was tried twice would ask for the GPUs of four pods."""
    gang = {"labels": {"batch.kubernetes.io/job-name": "j"}}

    def worker(name: str, created: str, start: str, end: str) -> dict[str, Any]:
        status = {"phase": "Failed", "startTime": f"{DAY}{start}Z", "containerStatuses": [ended(start, end)]}
        return pod(name, 8, **gang, created=created, status=status)

    trace = read(
        tmp_path,
        worker("a0", "10:00:00", "10:01:00", "11:00:00"), worker("a1", "10:00:00", "10:02:00", "11:00:00"),
        worker("b0", "11:00:10", "11:05:00", "12:00:00"), worker("b1", "11:00:10", "11:06:00", "11:30:00"),
        worker("b1-again", "11:30:10", "11:31:00", "12:10:00"),
    )  # fmt: skip
    jobs = trace.jobs
    assert (jobs.job_id.tolist(), jobs.num_gpus.tolist()) == (["a/j", "a/j#2"], [16, 16])
    assert jobs.wait_s.tolist() == [120, 350]
    assert jobs.duration_s.tolist() == [3480, 3840]  # from both pods' start to the last end
    assert any("1 attempts whose pods ran after" in note for note in trace.notes)
    assert any("1 gangs had pods that came and went" in note for note in trace.notes)


def test_affinity_counts_like_a_selector(tmp_path: Path) -> None:
    """A pod that must run on an A100 would run anywhere."""

    def must(*terms: list[str]) -> dict[str, Any]:
        rules = [
            {"matchExpressions": [{"key": "nvidia.com/gpu.product", "operator": "In", "values": v}] if v else []}
            for v in terms
        ]
        return {
            "affinity": {
                "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": rules}}
            }
        }

    jobs = read(tmp_path, pod("p", spec=must(["A100", "H100"], ["T4"])), pod("q", spec=must(["A100"], []))).jobs
    assert jobs.gpu_type.values().tolist() == ["A100|H100|T4", None]


@pytest.mark.parametrize(
    ("status", "told"),
    [
        ({"phase": "Failed", "reason": "UnexpectedAdmissionError"}, "GPU pods rejected by their node (UnexpectedAdmissionError)"),
        ({"phase": "Failed", "reason": "Evicted"}, "GPU pods evicted"),
        ({"phase": "Failed", "containerStatuses": []}, "GPU pods that failed (evicted or rejected"),
        ({"phase": "Failed", "reason": "NodeShutdown"}, "GPU pods ended by the cluster (NodeShutdown)"),
        (
            {"phase": "Running", "containerStatuses": [{"state": {"waiting": {"reason": "CrashLoopBackOff"}}}]},
            "GPU pods that have not ended (CrashLoopBackOff)",
        ),
        (
            {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]},
            "GPU pods that never started (Unschedulable)",
        ),
        ({"phase": "Unknown"}, "GPU pods whose node was lost"),
    ],
)  # fmt: skip
def test_reasons_are_told_by_their_names(tmp_path: Path, status: dict[str, Any], told: str) -> None:
    """An evicted pod would be one that has not ended."""
    trace = read(tmp_path, PLAIN, pod("p", status={"startTime": f"{DAY}10:00:05Z"} | status))
    assert trace.jobs.job_id.tolist() == ["a/plain"]
    assert any(note.startswith(f"1 {told}") and note.endswith(" left out") for note in trace.notes), trace.notes


def test_an_eviction_of_known_time_is_an_end(tmp_path: Path) -> None:
    """Hours that an evicted pod held its GPUs would vanish."""
    status = {
        "phase": "Failed", "reason": "Evicted", "startTime": f"{DAY}10:00:05Z",
        "conditions": [{"type": "DisruptionTarget", "status": "True", "lastTransitionTime": f"{DAY}12:00:10Z"}],
        "containerStatuses": [{"state": {"running": {"startedAt": f"{DAY}10:00:10Z"}}}],
    }  # fmt: skip
    jobs = read(tmp_path, pod("p", status=status)).jobs
    assert (jobs.duration_s.tolist(), jobs.status.values().tolist()) == ([7200], ["Evicted"])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (json.dumps(PLAIN), "a single Kubernetes object (Pod)"),
        (json.dumps(PLAIN) + "\n" + json.dumps(pod("q")) + "\n", "one after the other"),
        ("apiVersion: v1\nkind: List\nitems: []\n", "Kubernetes objects as YAML"),
        ("NAMESPACE   NAME   READY   STATUS\na   p   1/1   Running\n", "a table of kubectl"),
    ],
)
def test_near_misses_get_a_remedy(tmp_path: Path, text: str, told: str) -> None:
    """kubectl get pod NAME, jq's lines and YAML would be called damaged logs of something else."""
    path = tmp_path / "pods.json"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_trace(path)
    assert told in str(caught.value) and "--output=json" in str(caught.value)


def test_other_objects_and_odd_quantities(tmp_path: Path) -> None:
    """A claim in the list would refuse the file, a quantity such as 1e999 or 1.2.3 be a stack trace."""
    trace = read(tmp_path, PLAIN, {"kind": "ResourceClaim", "metadata": {"name": "c"}})
    assert any(note.startswith("1 objects of kind ResourceClaim") for note in trace.notes)
    assert read(tmp_path, pod("p", limits={"nvidia.com/gpu": "2e0"})).jobs.num_gpus.tolist() == [2]
    for odd in ("1e999", "1.2.3", "9" * 5000, "-1", "\u00b2"):
        with pytest.raises(InputError, match="no Kubernetes quantity"):
            read(tmp_path, pod("p", limits={"nvidia.com/gpu": odd}))
