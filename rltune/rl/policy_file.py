"""A trained policy as a file: weights in safetensors (no code runs on loading), everything else as its JSON header."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from rltune.errors import InputError
from rltune.rl.network import JobNetwork, NetworkConfig
from rltune.rl.observe import CLUSTER_FEATURES, JOB_FEATURES
from rltune.rl.rules import Rules

FORMAT = "rltune-policy-1"
BASELINE, PARENT = "baseline order", "parent"
"""What training may keep (``origin["kept"]``) beside ``epoch N``: the untrained network, or the one it began with."""


@dataclass(frozen=True)
class LearnedPolicy:
    """A network, the rules it was trained under, and how it came about (``origin``, JSON values)."""

    network: JobNetwork
    rules: Rules
    origin: dict[str, Any]


def save_policy(path: Path, policy: LearnedPolicy) -> None:
    """Write atomically. Raises InputError when the disk refuses."""
    header = {
        "format": FORMAT,
        "network": json.dumps(policy.network.config.as_dict()),
        "rules": json.dumps(asdict(policy.rules)),
        "features": json.dumps([JOB_FEATURES, CLUSTER_FEATURES]),
        "origin": json.dumps(policy.origin),
    }
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in policy.network.state_dict().items()}
    partial = path.with_suffix(".partial")
    try:
        partial.write_bytes(_sorted_header(save(weights, header)))
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); free some space or choose another folder"
        ) from None


def load_policy(path: str | Path) -> LearnedPolicy:
    """Read a policy file, or the ``policy.safetensors`` of a run directory.

    Raises InputError for a missing, foreign, corrupt or incompatible file.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "policy.safetensors"
    if not path.is_file():
        raise InputError(
            f"checkpoint {path} does not exist; give a policy.safetensors or the run directory that holds one"
        )
    try:
        with safe_open(str(path), framework="pt") as opened:
            header = opened.metadata() or {}
            weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  (not a mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(
            f"checkpoint {path} is corrupt or no safetensors file ({_line(error)}); train or copy it again"
        ) from None
    if header.get("format") != FORMAT:
        raise InputError(
            f"checkpoint {path} is no rltune policy (format {header.get('format')!r}, expected {FORMAT!r})"
        )
    try:
        return _policy(header, weights)
    except (KeyError, TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        raise InputError(f"checkpoint {path} does not fit this version ({_line(error)}); train it again") from None


def _policy(header: dict[str, str], weights: dict[str, torch.Tensor]) -> LearnedPolicy:
    """Raises an error of any kind, without the file's name, for what does not fit."""
    if json.loads(header["features"]) != [list(JOB_FEATURES), list(CLUSTER_FEATURES)]:
        raise ValueError("it was trained on other observation features")
    parts = {part: json.loads(header[part]) for part in ("network", "rules", "origin")}
    no_mapping = [part for part, value in parts.items() if not isinstance(value, dict)]
    if no_mapping:
        raise ValueError(f"its {', '.join(no_mapping)} is no mapping")
    architecture = parts["network"]
    if not all(math.isfinite(value) for value in architecture.values()):
        raise ValueError("its architecture holds numbers that are not finite")
    network = JobNetwork(NetworkConfig(**architecture))
    network.load_state_dict(weights)
    if not all(bool(torch.isfinite(tensor).all()) for tensor in weights.values()):
        raise ValueError("it holds weights that are not finite")
    return LearnedPolicy(network.eval(), Rules(**parts["rules"]), parts["origin"])


def _sorted_header(file: bytes) -> bytes:
    """The same file with its header's keys sorted, so that the same policy gives the same bytes.

    safetensors: eight bytes of header length, the header as JSON (spaces pad it to a multiple of 8), the weights;
    the library writes metadata in random order.
    """
    end = 8 + int.from_bytes(file[:8], "little")
    header = json.dumps(json.loads(file[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + file[end:]


def _line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:160]
