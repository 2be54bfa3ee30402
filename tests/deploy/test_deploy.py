"""Units, image and manifests: what is copied from them must start."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from rltune.config.kubernetes import BesideKubernetes
from rltune.config.serving import Serve
from rltune.config.slurm import BesideSlurm
from rltune.entry import composed
from rltune.kubernetes.reading import CONTROLLER

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNITS = sorted(DEPLOY.glob("*.service"))
MANIFESTS = sorted(DEPLOY.glob("*.yaml"))


def options_of(words: list[str]) -> dict[str, object]:
    return {name: yaml.safe_load(value) for name, _, value in (word.partition("=") for word in words)}


def check_options(declared: type, words: list[str]) -> None:
    given = options_of(words)
    if "users" in given:  # a mapping is Hydra's to read
        given.pop("users")
    made = composed(declared, given)
    for name, value in given.items():
        assert (made[name]["name"] if isinstance(made[name], dict) else made[name]) == value


def containers(document: dict[str, object]) -> list[dict[str, object]]:
    """Of all pods in a manifest, however deep."""
    found = []
    stack: list[object] = [document]
    while stack:
        one = stack.pop()
        if isinstance(one, dict):
            found += one.get("containers", [])
            stack += one.values()
        elif isinstance(one, list):
            stack += one
    return found


def documents(path: Path) -> list[dict[str, object]]:
    return list(yaml.safe_load_all(path.read_text()))


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_units_start_commands_that_there_are(path: Path) -> None:
    """A unit would fail at its first start, on a machine where nobody looks."""
    started = re.findall(r"^Exec\w+=(.*)$", path.read_text(), re.M)
    assert started
    for line in started:
        program, flag, module, *words = shlex.split(line)
        assert program == "/opt/rltune/.venv/bin/python" and flag == "-m"
        words = [word for word in words if word != "release"]
        check_options({"rltune.serve": Serve, "rltune.slurm": BesideSlurm}[module], words)


def test_jobs_outlive_the_unit() -> None:
    """A restart of the service would end every job."""
    assert "\nKillMode=process\n" in (DEPLOY / "rltune.service").read_text()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")
@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_systemd_knows_every_line(path: Path, tmp_path: Path) -> None:
    """A slip in a unit is ignored by systemd with a warning that nobody reads."""
    text = path.read_text().replace("/opt/rltune/.venv/bin/python", "/bin/true").replace("User=slurm", "User=root")
    (tmp_path / path.name).write_text(text)
    told = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / path.name)],
        capture_output=True,
        text=True,
        check=False,
    )
    mine = [line for line in told.stderr.splitlines() if path.name in line and "not found" not in line]
    assert not mine, mine


def test_the_image_copies_what_there_is() -> None:
    """The build would end at a COPY, after minutes."""
    text = (DEPLOY / "Dockerfile").read_text()
    assert len(re.findall(r"^FROM ", text, re.M)) == 2 and re.search(r"^USER 10001$", text, re.M)
    assert re.search(r"^HEALTHCHECK ", text, re.M)
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [word for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.M) for word in line.split()[:-1]]
    assert copied
    for word in copied:
        assert (ROOT / word).exists() and word in kept, word
    entry = json.loads(re.search(r"^ENTRYPOINT (.*)$", text, re.M)[1])
    assert entry == ["python", "-m", "rltune.serve"]
    check_options(Serve, json.loads(re.search(r"^CMD (.*)$", text, re.M)[1]))


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_are_objects_with_options_that_there_are(path: Path) -> None:
    """A manifest would be refused by the API server, or the service in it by its options."""
    for document in documents(path):
        assert {"apiVersion", "kind", "metadata"} <= set(document), document
    commands = [one for document in documents(path) for one in containers(document) if one.get("args")]
    assert commands
    for one in commands:
        words = [*one.get("command", ["python", "-m", "rltune.serve"]), *one["args"]]
        check_options({"rltune.serve": Serve, "rltune.kubernetes": BesideKubernetes}[words[2]], words[3:])
        assert "insecure=true" not in words


def test_the_decider_may_do_what_it_does() -> None:
    """It would be refused at its first patch; or could do more than it needs."""
    found = {document["kind"]: document for document in documents(DEPLOY / "kubernetes-decider.yaml")}
    rights = {
        (resource, verb)
        for rule in found["ClusterRole"]["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    looked_at = ("nodes", "pods", "workloads", "admissionchecks", "resourceflavors")
    needed = {(name, verb) for name in looked_at for verb in ("get", "list", "watch")}
    needed |= {("pods", verb) for verb in ("patch", "create", "delete")}
    needed |= {(f"{name}/status", "patch") for name in ("workloads", "admissionchecks")}
    assert rights == needed
    assert found["AdmissionCheck"]["spec"]["controllerName"] == CONTROLLER


def test_the_plain_manifest_hangs_together() -> None:
    """A Service without pods, or a claim that nobody made, is found out on the cluster only."""
    found = {document["kind"]: document for document in documents(DEPLOY / "kubernetes.yaml")}
    pod = found["Deployment"]["spec"]["template"]
    assert found["Service"]["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert found["Deployment"]["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    claims = [
        one["persistentVolumeClaim"]["claimName"] for one in pod["spec"]["volumes"] if "persistentVolumeClaim" in one
    ]
    assert claims == [found["PersistentVolumeClaim"]["metadata"]["name"]]
    for container in pod["spec"]["containers"]:
        mounted = {one["name"] for one in container["volumeMounts"]}
        assert mounted <= {one["name"] for one in pod["spec"]["volumes"]}


def test_every_ray_node_has_a_token_and_a_name() -> None:
    """An open Ray cluster runs anybody's code; machines without names cannot be told apart after a restart."""
    (cluster,) = documents(DEPLOY / "kuberay.yaml")
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    for group in groups:
        assert "node-name" in group["rayStartParams"]
        for container in group["template"]["spec"]["containers"]:
            assert {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"} <= {one["name"] for one in container["env"]}
