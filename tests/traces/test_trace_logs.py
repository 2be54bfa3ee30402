"""Logs of schedulers and of Google and Alibaba's other clusters: read right, refused by row, nothing lost unsaid."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rltune.nouns.errors import InputError
from rltune.traces import load_trace
from rltune.traces.formats import read_trace
from rltune.traces.openb import read_openb_nodes, read_openb_requests
from rltune.traces.slurm_tres import gpus_of

SWF = """; Version: 2.2
; Computer: a cluster
; UnixStartTime: 820454400
  1 10 5 100 4 -1 -1 8 3600 -1 1 3 1 7 2 -1 -1 -1
  2 20 -1 -1 -1 -1 -1 2 60 -1 5 3 1 7 2 -1 -1 -1
  3 30 0 50 2 -1 -1 -1 -1 -1 0 -1 1 -1 0 -1 -1 -1
  4 40 0 50 2 -1 -1 2 100 -1 2 3 1 7 0 -1 -1 -1
"""


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_standard_workload_format(tmp_path: Path) -> None:
    """Logs of the Parallel Workloads Archive would need a converter, or lose their time limits."""
    trace = load_trace(write(tmp_path / "log.swf", SWF))
    jobs = trace.jobs
    assert trace.origin == datetime(1996, 1, 1)
    assert jobs.job_id.tolist() == ["1", "3"]
    assert jobs.num_gpus.tolist() == [8, 2]  # requested, else allocated
    assert jobs.requested_s[0] == 3600 and np.isnan(jobs.requested_s[1])
    assert (jobs.submit_s[0], jobs.wait_s[0], jobs.duration_s[0]) == (10, 5, 100)
    assert jobs.status.values().tolist() == ["COMPLETED", "FAILED"]
    assert jobs.user.values().tolist() == ["3", None]
    for told in ("1 jobs that never ran", "1 parts of checkpointed jobs", "stands for one GPU"):
        assert any(told in note for note in trace.notes), trace.notes


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("; a comment\n1 2 3\n", "row 2"),
        (SWF + "5 x 0 50 2 -1 -1 2 100 -1 1 3 1 7 0 -1 -1 -1\n", "row 8"),
        ("; nothing\n", "no job in this SWF file"),
        ("\n".join(SWF.splitlines()[:3]) + "\n2 20 -1 -1 -1 -1 -1 2 60 -1 5 3 1 7 2 -1 -1 -1\n", "no job that ran"),
    ],
)
def test_bad_workload_logs_are_refused_by_row(tmp_path: Path, text: str, said: str) -> None:
    """A damaged line would vanish, or be a stack trace."""
    with pytest.raises(InputError, match=said):
        load_trace(write(tmp_path / "log.swf", text))


SACCT = """JobID|JobName|User|Partition|Submit|Start|End|Elapsed|Timelimit|State|ReqTRES|AllocTRES
100|train|ann|gpu|2024-05-01T10:00:00|2024-05-01T10:00:30|2024-05-01T11:00:30|01:00:00|1-00:00:00|COMPLETED|cpu=8,mem=64G|billing=8,cpu=8,gres/gpu:a100=4,gres/gpu=4,mem=64G,node=1
100.batch|batch||||2024-05-01T10:00:30|2024-05-01T11:00:30|01:00:00||COMPLETED||cpu=8,gres/gpu:a100=4,gres/gpu=4
101|cpu|bob|cpu|2024-05-01T10:01:00|2024-05-01T10:01:00|2024-05-01T10:02:00|00:01:00|01:00:00|COMPLETED|cpu=8|cpu=8
102|gone|bob|gpu|2024-05-01T10:02:00|None|2024-05-01T10:03:00|00:00:00|UNLIMITED|CANCELLED by 7|gres/gpu=2|
103_1|array|bob|gpu|2024-05-01T10:03:00|2024-05-01T10:04:00|Unknown|00:30:00|UNLIMITED|RUNNING|gres/gpu=2|gres/gpu=2
104|short|bob|gpu|2024-05-01T10:04:00|2024-05-01T10:05:00|2024-05-01T10:05:07|00:07.250|UNLIMITED|FAILED|gres/gpu=2|
"""


def test_slurm_accounting(tmp_path: Path) -> None:
    """An operator's own cluster could not be simulated without writing a converter first."""
    trace = load_trace(write(tmp_path / "sacct.txt", SACCT))
    jobs = trace.jobs
    assert trace.origin == datetime(2024, 5, 1, 10)
    assert jobs.job_id.tolist() == ["100", "104"]
    assert jobs.num_gpus.tolist() == [4, 2]
    assert jobs.gpu_type.values().tolist() == ["a100", None]
    assert jobs.duration_s.tolist() == [3600, 7]
    assert jobs.requested_s[0] == 86_400 and np.isnan(jobs.requested_s[1])
    assert jobs.wait_s.tolist() == [30, 60]
    assert (jobs.cpus[0], jobs.memory_gb[0]) == (8, 64)
    assert jobs.vc.values().tolist() == ["gpu", "gpu"]
    assert trace.notes[:4] == (
        "1 jobs without a GPU left out", "1 jobs cancelled while pending left out", "1 jobs that have not ended left out",
        "1 lines of job steps belong to their jobs",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("tres", "expected"),
    [
        ("", (0, None)),
        ("cpu=8,gres/gpu=2", (2, None)),
        ("gres/gpu:a100=2,gres/gpu:v100=1", (3, "a100")),
        ("gres/gpu=3,gres/gpu:a100=2,gres/gpu:v100=1", (3, "a100")),
        ("gres/gpumem=80G,gres/gpuutil=100", (0, None)),
    ],
)
def test_gpus_of_a_tres_string(tres: str, expected: tuple[int, str | None]) -> None:
    """Typed and untyped entries count the same GPUs; adding them would double every job."""
    assert gpus_of(tres) == expected


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("ReqTRES|AllocTRES", "A|B", "without AllocTRES or ReqTRES; use sacct --parsable2"),
        ("|Elapsed|", "|Ellapsed|", "without elapsed"),
        ("|train|", "|tr|ain|", "row 2: 13 values for 12 columns"),
        ("01:00:00|1-00", "an hour|1-00", "row 2 .job 100.: Elapsed is 'an hour'"),
        ("2024-05-01T10:00:00", "yesterday", "row 2 .job 100.: Submit is 'yesterday'"),
    ],
)
def test_bad_accounting_is_refused_by_row(tmp_path: Path, old: str, new: str, said: str) -> None:
    """A job name with a bar in it would shift every column."""
    with pytest.raises(InputError, match=said):
        load_trace(write(tmp_path / "sacct.txt", SACCT.replace(old, new, 1)))


def pod(name: str, gpus: int, **more: Any) -> dict[str, Any]:
    """A pod that ran from 10:00:30 to 10:10:30."""
    times = {"startedAt": "2024-05-01T10:00:30Z", "finishedAt": "2024-05-01T10:10:30Z"} | more.get("times", {})
    limits = {"nvidia.com/gpu": str(gpus)} if gpus else {}
    return {
        "metadata": {
            "name": name, "namespace": "team", "creationTimestamp": "2024-05-01T10:00:00Z", "labels": more.get("labels"),
        },
        "spec": {
            "containers": [{"resources": {"limits": limits, "requests": {"cpu": "500m", "memory": "2Gi"}}}],
            "nodeSelector": {"nvidia.com/gpu.product": "A100"},
        },
        "status": {
            "phase": "Succeeded", "startTime": "2024-05-01T10:00:20Z",
            "containerStatuses": [{"state": more.get("state", {"terminated": times})}],
        },
    }  # fmt: skip


def test_kubernetes_pods(tmp_path: Path) -> None:
    """Pods of one training would be scheduled one by one, or a running pod counted as ended."""
    gang = {"labels": {"training.kubeflow.org/job-name": "big"}}
    running = {"state": {"running": {"startedAt": "2024-05-01T10:00:30Z"}}}
    late = {"startedAt": "2024-05-01T10:01:00Z", "finishedAt": "2024-05-01T10:11:00Z"}
    items = [
        pod("one", 2), pod("cpu", 0), pod("still", 1, **running), pod("w0", 8, **gang), pod("w1", 8, **gang, times=late),
    ]  # fmt: skip
    trace = load_trace(write(tmp_path / "pods.json", json.dumps({"kind": "List", "items": items})))
    jobs = trace.jobs
    assert jobs.job_id.tolist() == ["team/big", "team/one"]
    assert jobs.num_gpus.tolist() == [16, 2]
    assert jobs.duration_s.tolist() == [600, 600]  # a gang computes from its last start to its last end
    assert jobs.wait_s.tolist() == [60, 30]
    assert jobs.cpus.tolist() == [1.0, 0.5] and jobs.memory_gb.tolist() == [4.0, 2.0]
    assert jobs.gpu_type.values().tolist() == ["A100", "A100"]
    assert "1 pods without a GPU left out" in trace.notes
    assert "1 GPU pods that have not ended left out" in trace.notes


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: p.pop("spec"), "record 1 is no pod"),
        (
            lambda p: p["metadata"].update(creationTimestamp="noon"),
            "record 1 .pod team/one.: creationTimestamp is 'noon', which is no time",
        ),
        (
            lambda p: p["spec"]["containers"][0]["resources"]["limits"].update({"nvidia.com/gpu": "two"}),
            "no Kubernetes",
        ),
    ],
)
def test_bad_pods_are_refused_by_record(tmp_path: Path, change: Any, said: str) -> None:
    """A pod of another version would be a stack trace."""
    item = pod("one", 2)
    change(item)
    with pytest.raises(InputError, match=said):
        load_trace(write(tmp_path / "pods.json", json.dumps({"kind": "PodList", "items": [item]})))


OPENB_PODS = (
    "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,pod_phase,creation_time,deletion_time,scheduled_time\n"
    "p0,12000,16384,1,1000,V100M16,LS,Running,10,110,20\n"
    "p1,6500,12288,1,460,V100M16|V100M32,LS,Running,20,50,20\n"
    "p2,6000,12288,0,0,,LS,Running,20,50,20\n"
    "p3,6000,12288,2,1000,G2,LS,Pending,20,50,\n"
)


def test_openb_pods(tmp_path: Path) -> None:
    """Shares of GPUs would be read as whole ones, and pods on CPU as pods on GPUs."""
    trace = load_trace(write(tmp_path / "pods.csv", OPENB_PODS))
    jobs = trace.jobs
    assert jobs.job_id.tolist() == ["p0", "p1", "p2"]
    assert jobs.duration_s.tolist() == [90, 30, 30]
    assert jobs.wait_s.tolist() == [10, 0, 0]
    assert jobs.gpu_type.values().tolist() == ["V100", "V100|V100-32GB", None]
    assert (jobs.num_gpus.tolist(), jobs.gpu_milli.tolist()) == ([1, 1, 1], [1000, 460, 0])
    assert (jobs.cpus.tolist(), jobs.memory_gb.tolist()) == ([12, 6.5, 6], [16, 12, 12])
    assert trace.describe()["mean_gpus"] == 0.487  # 1, 0.46 and none
    assert trace.notes[:2] == (
        "1 pods ask for a share of a GPU and 1 for none", "1 pods never scheduled left out",
    )  # fmt: skip


def test_openb_requests_take_every_pod(tmp_path: Path) -> None:
    """The fragmentation protocol would leave out pods that were never scheduled, or lists without times."""
    jobs = read_openb_requests(write(tmp_path / "pods.csv", OPENB_PODS))
    assert jobs.job_id.tolist() == ["p0", "p1", "p2", "p3"]
    assert (jobs.num_gpus.tolist(), jobs.gpu_milli.tolist()) == ([1, 1, 1, 2], [1000, 460, 0, 1000])
    bare = read_openb_requests(
        write(tmp_path / "bare.csv", "name,cpu_milli,memory_mib,num_gpu,gpu_milli\nq,1,1,8,1000\n")
    )
    assert bare.num_gpus.tolist() == [8] and bare.gpu_type.values().tolist() == [None]
    with pytest.raises(InputError, match=r"bad.csv: row 2 \(job q\): num_gpus is no|bad.csv: row 2: num_gpus is 'x'"):
        read_openb_requests(write(tmp_path / "bad.csv", "name,cpu_milli,memory_mib,num_gpu,gpu_milli\nq,1,1,x,1000\n"))
    with pytest.raises(InputError, match=r"nodes.csv: columns sn, gpu; a list of openb pods has name"):
        read_openb_requests(write(tmp_path / "nodes.csv", "sn,gpu\na,1\n"))


def test_openb_nodes(tmp_path: Path) -> None:
    """Nodes would lose CPU, memory or model, or pods be spread over several."""
    text = "sn,cpu_milli,memory_mib,gpu,model\na,96000,393216,8,G2\nb,32500,262144,0,\nc,96000,393216,8,G2\nd,64000,262144,2,V100M32\n"
    cluster = read_openb_nodes(write(tmp_path / "nodes.csv", text))
    seen = [(p.nodes, p.gpus_per_node, p.gpu_type, p.cpus, p.memory_gb, p.first_node_id) for p in cluster.pools]
    assert seen == [(2, 8, "G2", 96, 384, 0), (1, 0, "any", 32.5, 256, 2), (1, 2, "V100-32GB", 64, 256, 3)]
    assert cluster.eligible_pools(None, None, 9) == () and cluster.eligible_pools(None, None, 0, 33) == (0, 2)
    with pytest.raises(InputError, match=r"bad.csv: row 2: gpu is no whole number"):
        read_openb_nodes(write(tmp_path / "bad.csv", "sn,cpu_milli,memory_mib,gpu,model\na,1,1,many,\n"))


GOOGLE_2011 = """600000000,,11,0,userA,2,name,logical
600000000,,12,0,userB,2,name,logical
700000000,,11,1,userA,2,name,logical
800000000,,11,4,userA,2,name,logical
0,,13,0,userA,2,name,logical
"""


def test_google_2011_job_events(tmp_path: Path) -> None:
    """A CPU workload would be taken for one of GPUs."""
    trace = load_trace(write(tmp_path / "part-00000.csv", GOOGLE_2011))
    jobs = trace.jobs
    assert (jobs.job_id.tolist(), jobs.submit_s.tolist(), jobs.duration_s.tolist()) == (["11"], [600.0], [100.0])
    assert (jobs.wait_s[0], jobs.status.values()[0], jobs.num_gpus[0]) == (100.0, "FINISH", 1)
    assert trace.notes[0] == "CPU jobs: the GPUs are invented, one a job"
    assert trace.notes[1].startswith("2 jobs not submitted, started and ended within the trace")


def test_google_2019_collection_events(tmp_path: Path) -> None:
    """The second trace counts its events otherwise: a job that was evicted would be one that ended."""
    text = (
        "time,type,collection_id,priority,user\n"
        "600000000,0,7,103,a\n610000000,3,7,103,a\n620000000,6,7,103,a\n630000000,0,8,200,b\n640000000,3,8,200,b\n"
    )
    trace = load_trace(write(tmp_path / "collections.csv", text))
    assert (trace.jobs.job_id.tolist(), trace.jobs.duration_s.tolist()) == (["7"], [10.0])
    assert (trace.jobs.priority[0], trace.jobs.status.values()[0]) == (103, "FINISH")


def test_google_2011_parquet(tmp_path: Path) -> None:
    """One row a job, as published copies hold it, would be refused as foreign Parquet."""
    frame = pd.DataFrame(
        {
            "job_id": [1, 2, 3],
            "submit_us": pd.array([0, 600_000_000, 700_000_000], "Int64"),
            "schedule_us": pd.array([0, 610_000_000, 705_000_000], "Int64"),
            "end_us": pd.array([5, 650_000_000, None], "Int64"),
            "end_event": pd.array([4, 5, None], "Int8"),
            "scheduling_class": [1, 2, 3],
            "user": [4, 5, 6],
            "logical_job": [7, 8, 9],
        }
    )
    frame.to_parquet(tmp_path / "jobs.parquet")
    jobs = load_trace(str(tmp_path / "jobs.parquet")).jobs
    assert (jobs.job_id.tolist(), jobs.duration_s.tolist(), jobs.status.values().tolist()) == (["2"], [40.0], ["KILL"])


DAMAGE = st.tuples(st.integers(0, 10_000), st.sampled_from(["", "x", "-1", "|", ",", "\n", "1e999", "nan", "é", " "]))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["swf", "sacct", "google"]), st.lists(DAMAGE, min_size=1, max_size=4))
def test_damaged_logs_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, kind: str, damage: list[Any]
) -> None:
    """A flipped byte in a million lines would be a stack trace, or a job that vanishes without being counted."""
    text = {"swf": SWF, "sacct": SACCT, "google": GOOGLE_2011}[kind]
    for place, what in damage:
        at = place % len(text)
        text = text[:at] + what + text[at + 1 :]
    path = tmp_path_factory.mktemp("fuzz") / "log.txt"
    path.write_text(text)
    try:
        trace = read_trace(path, name="log", source="user")
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert len(trace) >= 1
