"""Nodes on a real Ray cluster of two nodes; one dies and comes back."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from ray_cluster import RayNode, second_node, two_nodes

from rltune.nouns.errors import InputError
from rltune.service.nodes.ray_nodes import connect

PATIENCE_S = 400
TRIAL = Path(__file__).with_name("ray_trial.py")


@pytest.fixture
def cluster() -> Iterator[tuple[dict[str, str], list[RayNode]]]:
    with two_nodes(PATIENCE_S) as made:
        yield made


def trial(folder: Path, phase: str, environment: Mapping[str, str]) -> subprocess.Popen[str]:
    path = os.pathsep.join(filter(None, (os.getcwd(), os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        [sys.executable, str(TRIAL), str(folder), phase],
        env=os.environ | environment | {"PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def said(process: subprocess.Popen[str], word: str) -> str:
    """The rest of the next line that begins so: Ray has its own to say in between."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(word):
            return line[len(word) :].strip()
    raise AssertionError(f"it ended with {process.wait(PATIENCE_S)} before it said {word}")


@pytest.mark.slow
@pytest.mark.ray
def test_runs_outlive_actors_services_and_ray_nodes(
    cluster: tuple[dict[str, str], list[RayNode]], tmp_path: Path
) -> None:
    """A crash of an actor or of the service would cost the jobs, a dead node's jobs run on in secret when it comes back."""
    environment, nodes = cluster
    first = trial(tmp_path, "first", environment)
    pids = said(first, "pids")
    assert first.wait(PATIENCE_S) == 0
    second = trial(tmp_path, "second", environment)
    assert second.stdin is not None
    # The same actors, the same job.
    assert said(second, "pids") == pids
    said(second, "kill")
    nodes[1].end(PATIENCE_S)
    second.stdin.write("\n")
    second.stdin.flush()
    said(second, "start")
    nodes.append(second_node(environment))
    second.stdin.write("\n")
    second.stdin.flush()
    said(second, "done")
    assert second.wait(PATIENCE_S) == 0


def test_an_open_cluster_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reaches the cluster could run code on every machine of it."""
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(InputError, match="RAY_AUTH_MODE"):
        connect("127.0.0.1:1")
