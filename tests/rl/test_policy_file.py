"""A policy file is read as it was written, or refused in one line."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, safe_open, save_file

import rltune
from rltune.nouns.errors import InputError
from rltune.rl.network import JobNetwork, NetworkConfig
from rltune.rl.policy_file import LearnedPolicy, load_policy, save_policy
from rltune.rl.rules import Rules

SHIPPED = Path(rltune.__file__).parent.parent / "experiments" / "policies"
RULES = Rules(score="bsld", backfill="skip", baseline="saf", visible=9, window=33)
ORIGIN = {"seed": 4, "trace": "synthetic", "train": [0.0, 0.6], "parent": None}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A good file."""
    torch.manual_seed(0)
    network = JobNetwork(NetworkConfig(visible=9, hidden=8, attention=True, heads=2))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter))
    save_policy(tmp_path / "policy.safetensors", LearnedPolicy(network, RULES, ORIGIN))
    return tmp_path / "policy.safetensors"


def test_round_trip(path: Path) -> None:
    """A policy would decide otherwise after loading, or forget under which rules it was trained."""
    policy = load_policy(path)
    assert (policy.rules, policy.origin) == (RULES, ORIGIN)
    assert policy.network.config == NetworkConfig(visible=9, hidden=8, attention=True, heads=2)
    weights = load_file(path)
    for name, tensor in policy.network.state_dict().items():
        assert torch.equal(tensor, weights[name])
    assert not policy.network.training
    assert os.listdir(path.parent) == ["policy.safetensors"]


def test_rules_in_the_words_of_before_are_understood(path: Path) -> None:
    """The shipped policies, and all that users have trained, would have to be trained again for a change of names."""
    changed(path, rules=json.dumps({"backfill": "skip", "order": "fifo", "knowledge": "none", "visible": 9}))
    assert load_policy(path).rules == Rules(backfill="skip", baseline="fifo", runtimes="unknown", visible=9)


@pytest.mark.parametrize("shipped", sorted(SHIPPED.glob("[!m]*.safetensors")), ids=lambda p: p.stem)
def test_shipped_policies_load(shipped: Path) -> None:
    """`make eval` would stop at its first line."""
    rules = load_policy(shipped).rules
    assert (rules.backfill, rules.runtimes) == ("easy", "exact")


def test_a_run_directory_stands_for_its_policy(path: Path) -> None:
    """checkpoint=runs/... would have to name the file inside."""
    assert load_policy(path.parent).origin == ORIGIN


def changed(path: Path, weights: Callable[[Any], Any] = lambda w: w, **header: str) -> None:
    """Write the file anew with other weights or header entries."""
    with safe_open(str(path), framework="pt") as opened:
        before = dict(opened.metadata())
    save_file(weights(load_file(path)), path, before | header)


def renamed(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"x.{name}": tensor for name, tensor in weights.items()}


def poisoned(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    weights["score.bias"][0] = float("nan")
    return weights


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "empty": lambda p: p.write_bytes(b""),
    "truncated": lambda p: p.write_bytes(p.read_bytes()[:-40]),
    "header cut": lambda p: p.write_bytes(p.read_bytes()[:100]),
    "one length byte": lambda p: p.write_bytes(b"\xff" * 8 + p.read_bytes()[8:]),
    "text": lambda p: p.write_text("these are not weights"),
    "pickle": lambda p: p.write_bytes(pickle.dumps({"weights": np.zeros(3)})),
    "torch pickle": lambda p: torch.save({"a": torch.zeros(2)}, p),
    "foreign safetensors": lambda p: save_file({"a": torch.zeros(2)}, p),
    "foreign format": lambda p: changed(p, format="rltune-policy-99"),
    "other features": lambda p: changed(p, features=json.dumps([["wait"], ["free"]])),
    "other names": lambda p: changed(p, renamed),
    "other widths": lambda p: changed(p, network=json.dumps({"visible": 9, "hidden": 16})),
    "unknown architecture": lambda p: changed(p, network=json.dumps({"layers": 3})),
    "impossible architecture": lambda p: changed(p, network=json.dumps({"hidden": 0})),
    "unknown rules": lambda p: changed(p, rules=json.dumps({"speed": 3})),
    "wrong rules": lambda p: changed(p, rules=json.dumps({"order": "sfj"})),
    "wrong kind of rules": lambda p: changed(p, rules=json.dumps({"visible": "many"})),
    "header is no JSON": lambda p: changed(p, rules="{"),
    "origin is no mapping": lambda p: changed(p, origin="[]"),
    "NaN in the weights": lambda p: changed(p, poisoned),
    "NaN in the architecture": lambda p: changed(
        p, network='{"visible": 9, "hidden": 8, "attention": true, "heads": 2, "prior": NaN}'
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_other_files_are_refused_in_one_line_that_names_them(path: Path, damage: str) -> None:
    """A broken or foreign checkpoint would be a stack trace, run code, or play at random."""
    DAMAGES[damage](path)
    with pytest.raises(InputError) as refused:
        load_policy(path)
    assert "\n" not in str(refused.value)
    assert "policy.safetensors" in str(refused.value)


def test_a_pickle_is_never_executed(path: Path) -> None:
    """Loading a stranger's checkpoint would run the stranger's code."""

    class Trap:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(path.parent / "trapped"),)

    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(InputError):
        load_policy(path)
    assert not (path.parent / "trapped").exists()


@pytest.mark.parametrize("name", ["nowhere.safetensors", "empty"])
def test_a_missing_file_is_told(tmp_path: Path, name: str) -> None:
    """The user would not learn what checkpoint= takes."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"does not exist; give a policy\.safetensors, the run directory"):
        load_policy(tmp_path / name)


def test_a_full_disk_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed save would destroy the policy that was there."""
    policy, before = load_policy(path), path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"No space left on device.*free some space"):
        save_policy(path, policy)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["policy.safetensors"]
