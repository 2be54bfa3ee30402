"""Beside a made-up API server: who is let go, where, in whose order, and what happens when others change things meanwhile."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from rltune.config.kubernetes import BesideKubernetes
from rltune.entry import composed
from rltune.kubernetes.http import Api, ApiError
from rltune.kubernetes.service import Beside
from rltune.nouns.errors import InputError
from rltune.slurm.deciding import Decider
from tests.kubernetes.fake_api import FakeApi, serving
from tests.kubernetes.objects import KUEUE, NOW, PRODUCT, check, flavor, node, pod, state, workload

HOST = "kubernetes.io/hostname"


class Cluster:
    """Two nodes of 8 GPUs; ``step()``: a decision on what is there now."""

    def __init__(self, server: str, api: FakeApi) -> None:
        self.server, self.api = server, api
        self.made: list[Beside] = []

    def beside(self, **options) -> Beside:
        cfg = composed(BesideKubernetes, {"dry_run": False, "server": self.server, **options})
        made = Beside(Api(cfg["server"]), Decider(cfg["policy"], cfg["allocator"], cfg["backfill"]), cfg)
        self.made.append(made)
        made.begin()
        return made

    def step(self, now=NOW, **options):
        one = self.beside(**options)
        try:
            return one.step(now)
        finally:
            one.end()

    def pod(self, name):
        return self.api.objects[f"/api/v1/namespaces/team/pods/{name}"]


@pytest.fixture
def cluster():
    api = FakeApi()
    for name in ("n1", "n2"):
        node(api, name)
    check(api)
    flavor(api, **{"nvidia.com/gpu.product": PRODUCT})
    with serving(api) as server:
        made = Cluster(server, api)
        yield made
        for one in made.made:
            one.end()


def test_the_check_is_activated_and_others_are_left_alone(cluster):
    """Kueue would never use the check; or another controller's would be taken over."""
    check(cluster.api, "else", "example.com/else")
    cluster.step()
    active = cluster.api.objects[f"{KUEUE}/admissionchecks/rltune"]["status"]["conditions"]
    assert [(one["type"], one["status"]) for one in active] == [("Active", "True")]
    assert "status" not in cluster.api.objects[f"{KUEUE}/admissionchecks/else"]


def test_workloads_are_ready_in_our_order_as_far_as_gpus_are_free(cluster):
    """A workload would be admitted without GPUs, or in another order than the policy's."""
    pod(cluster.api, "busy", 8, gated=False, on="n1")
    workload(cluster.api, "long", 8, created="2025-06-15T15:00:00Z", estimate_s=9000)
    workload(cluster.api, "short", 8, created="2025-06-15T15:01:00Z", estimate_s=60)
    cluster.step(policy="sjf", patience_s=1e9)
    ready = state(cluster.api, "short")
    assert ready["state"] == "Ready"
    (update,) = ready["podSetUpdates"]
    assert update["nodeSelector"] == {HOST: "n2"} and update["name"] == "main"
    assert update["annotations"]["rltune.io/places"] == f"n2:{PRODUCT}:8"
    waiting = state(cluster.api, "long")
    assert waiting["state"] == "Pending" and "0 are free" in waiting["message"]
    others = cluster.api.objects[f"{KUEUE}/namespaces/team/workloads/short"]["status"]["admissionChecks"]
    assert others[0]["name"] == "other" and others[0]["state"] == "Ready"


def test_what_was_sent_holds_its_gpus_until_its_pods_do(cluster):
    """Two workloads would be sent to the same GPUs between the decision and the start of the first one's pods."""
    workload(cluster.api, "first", 8, 2)
    cluster.step(patience_s=1e9)
    assert state(cluster.api, "first")["state"] == "Ready"
    assert "nodeSelector" not in state(cluster.api, "first")["podSetUpdates"][0]
    workload(cluster.api, "second", 1)
    cluster.step(patience_s=1e9)
    assert state(cluster.api, "second")["state"] == "Pending"
    notes = state(cluster.api, "first")["podSetUpdates"][0]["annotations"]
    pod(cluster.api, "first-0", 8, gated=False, on="n1", annotations=notes)
    cluster.step(patience_s=1e9)
    assert state(cluster.api, "second")["state"] == "Ready", "its pods are counted, not its places too"


def test_quota_that_is_held_in_vain_is_given_back(cluster):
    """A workload that does not fit would keep its quota from all others for ever."""
    for name in ("n1", "n2"):
        pod(cluster.api, f"busy-{name}", 8, gated=False, on=name)
    workload(cluster.api, "late", 1, since="2025-06-15T15:00:00Z")
    cluster.step(now=NOW, patience_s=60)
    assert state(cluster.api, "late")["state"] == "Retry"


def test_a_workload_that_is_not_for_us_is_left_to_the_scheduler(cluster):
    """A workload that we cannot place would wait for ever for our word."""
    node(cluster.api, "n3", disk="ssd")
    workload(cluster.api, "picky", 1, selector={"disk": "ssd"})
    cluster.step()
    found = state(cluster.api, "picky")
    assert found["state"] == "Ready" and "left to the scheduler" in found["message"] and "podSetUpdates" not in found


def test_somebody_else_is_faster(cluster):
    """A change of others would be written over, or ours lost."""
    workload(cluster.api, "one", 1)
    path = f"{KUEUE}/namespaces/team/workloads/one"
    times = iter(range(2))

    def interfere(target):
        if target == path and next(times, None) is not None:
            found = cluster.api.objects[path]
            cluster.api.put(path, found | {"metadata": found["metadata"] | {"labels": {"theirs": "kept"}}})

    cluster.api.before_patch = interfere
    cluster.step()
    assert state(cluster.api, "one")["state"] == "Ready"
    assert cluster.api.objects[path]["metadata"]["labels"] == {"theirs": "kept"}


def test_a_workload_that_lost_its_quota_meanwhile_is_not_touched(cluster):
    """A workload that was evicted while we decided would be admitted."""
    workload(cluster.api, "one", 1)
    path = f"{KUEUE}/namespaces/team/workloads/one"

    def interfere(target):
        found = cluster.api.objects[target]
        if target == path and found["status"]["conditions"]:
            cluster.api.put(path, found | {"status": found["status"] | {"conditions": []}})

    cluster.api.before_patch = interfere
    cluster.step()
    assert state(cluster.api, "one")["state"] == "Pending"


def test_gated_pods_get_a_node_and_lose_the_gate(cluster):
    """Pods would wait for ever, or start where no GPU is free."""
    pod(cluster.api, "busy", 6, gated=False, on="n1")
    pod(cluster.api, "four", 4)
    cluster.step()
    spec = cluster.pod("four")["spec"]
    assert "schedulingGates" not in spec and spec["nodeSelector"] == {HOST: "n2"}
    pod(cluster.api, "six", 6)
    cluster.step()
    assert cluster.pod("six")["spec"]["schedulingGates"], "the 4 GPUs that were let go are held"


def test_a_gang_starts_whole_or_not_at_all(cluster):
    """Half a gang would hold GPUs and wait for the rest."""
    labels = {"pod-group-name": "gang"}
    pod(cluster.api, "busy", 1, gated=False, on="n1")
    for k in range(2):
        pod(cluster.api, f"rank-{k}", 8, labels=labels)
    cluster.step()
    assert all(cluster.pod(f"rank-{k}")["spec"].get("schedulingGates") for k in range(2))
    cluster.api.drop("/api/v1/namespaces/team/pods/busy")
    cluster.step()
    assert sorted(cluster.pod(f"rank-{k}")["spec"]["nodeSelector"][HOST] for k in range(2)) == ["n1", "n2"]


def test_a_gang_to_which_pods_still_come_is_not_decided_on(cluster):
    """Its first pods would be let go alone."""
    now = time.time()
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
    pod(cluster.api, "rank-0", 1, labels={"pod-group-name": "gang"}, created=created)
    cluster.step(now=now, settle_s=60)
    assert cluster.pod("rank-0")["spec"]["schedulingGates"]
    cluster.step(now=now + 61, settle_s=60)
    assert "schedulingGates" not in cluster.pod("rank-0")["spec"]


def test_slices_are_a_type_of_their_own(cluster):
    """Whole GPUs and slices would be mixed up."""
    node(cluster.api, "n3", 0, {"3g.20gb": 1, "1g.5gb": 4})
    pod(cluster.api, "held", 1, gated=False, on="n3", resource="nvidia.com/mig-3g.20gb")
    pod(cluster.api, "small", 1, resource="nvidia.com/mig-1g.5gb")
    pod(cluster.api, "large", 1, resource="nvidia.com/mig-3g.20gb")
    cluster.step()
    assert cluster.pod("small")["spec"]["nodeSelector"] == {HOST: "n3"}
    assert cluster.pod("large")["spec"]["schedulingGates"]


def test_a_pod_gets_the_smallest_slice_with_its_memory(cluster):
    """The resource name is chosen here: a pod would be made twice, on the wrong slice, or not at all."""
    node(cluster.api, "n3", 0, {"1g.5gb": 2, "2g.10gb": 1, "3g.20gb": 1})
    pod(cluster.api, "held", 1, gated=False, on="n3", resource="nvidia.com/mig-2g.10gb")
    pod(cluster.api, "job", 0, annotations={"rltune.io/slice-memory-gb": "8"})
    cluster.step()
    assert "/api/v1/namespaces/team/pods/job" not in cluster.api.objects
    spec = cluster.pod("job-mig")["spec"]
    assert spec["containers"][0]["resources"]["limits"] == {"nvidia.com/mig-3g.20gb": "1"}
    assert spec["nodeSelector"] == {HOST: "n3"} and "schedulingGates" not in spec
    pod(cluster.api, "owned", 0, annotations={"rltune.io/slice-memory-gb": "4"}, owner=True)
    assert any("without an owner" in line for line in cluster.step())


def test_drained_and_tainted_nodes_take_nothing(cluster):
    """Pods would be sent to a node that does not run them."""
    node(cluster.api, "n1", unschedulable=True)
    node(cluster.api, "n2", taints=[{"key": "maintenance", "effect": "NoSchedule"}])
    pod(cluster.api, "one", 1)
    cluster.step()
    assert cluster.pod("one")["spec"]["schedulingGates"]
    cluster.step(tolerated=["maintenance"])
    assert cluster.pod("one")["spec"]["nodeSelector"] == {HOST: "n2"}


def test_an_annotation_that_cannot_be_meant_concerns_its_pod_alone(cluster):
    """One slip would stop everybody's jobs."""
    pod(cluster.api, "bad", 1, annotations={"rltune.io/estimate-s": "soon"})
    pod(cluster.api, "good", 1)
    told = cluster.step()
    assert any("bad" in line and "estimate-s='soon'" in line for line in told)
    assert "schedulingGates" not in cluster.pod("good")["spec"]


def test_a_dry_run_changes_nothing(cluster):
    """Somebody who only looks would change their cluster."""
    workload(cluster.api, "one", 1)
    pod(cluster.api, "two", 1)
    told = cluster.step(dry_run=True)
    assert {method for method, _ in cluster.api.asked} == {"GET"}
    assert any(line.startswith("team/one starts on") for line in told)


def test_lists_come_page_by_page(cluster, monkeypatch):
    """Of large clusters only the first pods would be seen."""
    monkeypatch.setattr("rltune.kubernetes.http.PAGE", 3)
    for k in range(10):
        pod(cluster.api, f"p{k}", 1, gated=False, on="n1")
    assert len(Api(cluster.server).listed("/api/v1/pods")[0]) == 10


def until(true):
    while not true():
        time.sleep(0.01)


def test_a_watch_keeps_up_and_begins_anew_when_it_is_too_old(cluster):
    """Decisions would be taken on what was there an hour ago."""
    one = cluster.beside()
    pods = one._caches["pods"]
    pod(cluster.api, "late", 1)
    until(lambda: len(pods.objects) == 1)
    assert one.changed.is_set()
    cluster.api.forget_history()
    pod(cluster.api, "later", 1)
    until(lambda: len(pods.objects) == 2)
    cluster.api.drop("/api/v1/namespaces/team/pods/late")
    until(lambda: [found["metadata"]["name"] for found in pods.objects] == ["later"])


def test_without_kueue_the_message_says_what_to_do(cluster):
    """A cluster without Kueue would show a bare 404."""
    cluster.api.refused[f"{KUEUE}/workloads"] = 404
    with pytest.raises(InputError, match="mode=gates"):
        cluster.step()
    cluster.step(mode="gates")


def test_missing_rights_are_told_and_others_go_on(cluster):
    """One namespace without rights would stop all others."""
    pod(cluster.api, "mine", 1)
    pod(cluster.api, "theirs", 1)
    cluster.api.refused["/api/v1/namespaces/team/pods/theirs"] = 403
    told = cluster.step()
    assert any("theirs" in line and "made up by the test" in line for line in told)
    assert "schedulingGates" not in cluster.pod("mine")["spec"]


def test_outside_of_a_cluster_the_message_names_the_proxy(monkeypatch):
    """Whoever tries it at home would see a stack trace."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(InputError, match="kubectl proxy"):
        Api()
    with pytest.raises(ApiError, match="does not answer"):
        Api("http://127.0.0.1:9").listed("/api/v1/pods")


@pytest.mark.slow
def test_the_command_decides_once(cluster):
    """The command itself would not start."""
    pod(cluster.api, "one", 1)
    words = [sys.executable, "-m", "rltune.kubernetes", f"server={cluster.server}", "once=true", "dry_run=false"]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "team/one starts on n" in ended.stdout
    assert "schedulingGates" not in cluster.pod("one")["spec"]
