"""MIG instances of a node before and after jobs, on simulated GPUs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rltune.nouns.errors import InputError, RunError
from rltune.slurm.partitions import at_device, epilog, prolog

SPEC = """version: 1
gpus:
  - gpu: 0
    instances: [3g.40gb, 3g.40gb]
  - gpu: 1
    instances: [1g.10gb, 1g.10gb, 1g.10gb, 1g.10gb, 1g.10gb, 1g.10gb, 1g.10gb]
"""


class Node:
    """A Slurm that knows one node and the jobs on it."""

    def __init__(self, state: str, jobs: str = "") -> None:
        self.state, self.jobs, self.done = state, jobs, []

    def run(self, *words: str) -> str:
        self.done.append(words)
        if words[0] == "squeue":
            return self.jobs
        return f"NodeName=n4 State={self.state}\n"


@pytest.fixture
def cfg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("RLTUNE_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    (tmp_path / "mig.yaml").write_text(SPEC)
    return {
        "spec": str(tmp_path / "mig.yaml"), "config": None, "device": "simulated:2xa100-80gb", "pace": 0.0, "mig_mode": True,
        "patience_s": 1.0, "locks": None, "node": "n4", "resume": False, "command_timeout_s": 5.0,
    }  # fmt: skip


def as_wanted(cfg: dict[str, Any]) -> bool:
    with at_device(cfg) as (adapter, spec):
        return not adapter.verify(spec)


def test_jobs_start_only_on_the_instances_of_the_spec(cfg: dict[str, Any]) -> None:
    """A job that was given a slice by Slurm would find another one, or none."""
    with pytest.raises(RunError, match="node n4: its MIG instances are not as"):
        prolog(cfg)
    assert epilog(cfg, Node("IDLE+DRAIN")) == "applied"
    prolog(cfg)


def test_only_a_drained_node_without_jobs_is_changed(cfg: dict[str, Any]) -> None:
    """Instances would change under running jobs, or under those that Slurm is about to start."""
    assert epilog(cfg, Node("MIXED")) == "in service" and not as_wanted(cfg)
    assert epilog(cfg, Node("MIXED+DRAIN", "7\n8\n")) == "busy" and not as_wanted(cfg)
    assert epilog(cfg, Node("MIXED+DRAIN", "7\n")) == "applied" and as_wanted(cfg), "job 7 is the one that ends"


def test_back_to_service(cfg: dict[str, Any]) -> None:
    """A node would stay drained though its instances are as wanted; or an epilog would ask Slurm after every job for nothing."""
    node = Node("IDLE+DRAIN")
    assert epilog(cfg | {"resume": True}, node) == "applied"
    assert node.done[-1] == ("scontrol", "update", "NodeName=n4", "State=RESUME")
    node = Node("MIXED")
    assert epilog(cfg, node) == "as it should be" and node.done == []
    assert epilog(cfg | {"resume": True}, node) == "in service"


def test_what_is_missing_is_said(cfg: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A slip in slurm.conf's Prolog line would drain the whole cluster with a traceback in each log."""
    with pytest.raises(InputError, match="spec=FILE"):
        prolog(cfg | {"spec": None})
    monkeypatch.delenv("SLURMD_NODENAME", raising=False)
    with pytest.raises(InputError, match="node=NAME"):
        prolog(cfg | {"node": None})
