"""Weights as a safetensors file (no code runs on loading), everything else as its JSON header. No Ray here."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from rltune.models.catalogue import file_of, models
from rltune.nouns.errors import InputError
from rltune.rl.state_file import write_durably

FILE = "policy.safetensors"
"""What a run directory calls it."""
Weights = dict[str, torch.Tensor]
Built = TypeVar("Built")


def write_weights(path: Path, network: nn.Module, header: Mapping[str, str]) -> None:
    """Write atomically, the same bytes for the same content. Raises InputError when the disk refuses."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    write_durably(path, _sorted_header(save(weights, dict(header))))


def read_weights(
    path: str | Path, what: str, kind: str, form: str, build: Callable[[dict[str, str], Weights], Built]
) -> Built:
    """What ``build`` makes of the header and weights of a file, of that of a run directory, or of a shipped model by name.

    ``what`` the user calls it in messages, ``kind`` what it should be, ``form`` the ``format`` its header must name.
    ``build`` raises an error of any kind, without the file's name, for what does not fit.
    InputError for a missing, foreign, corrupt or incompatible file.
    """
    path = file_of(path) or Path(path)
    if path.is_dir():
        path = path / FILE
    if not path.is_file():
        raise InputError(
            f"{what} {path} does not exist; give a {FILE}, the run directory that holds one, or a shipped model: "
            f"{', '.join(models())}"
        )
    try:
        with safe_open(str(path), framework="pt") as opened:
            header = opened.metadata() or {}
            weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  (not a mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(
            f"{what} {path} is corrupt or no safetensors file ({_line(error)}); train or copy it again"
        ) from None
    if header.get("format") != form:
        raise InputError(f"{what} {path} is no {kind} (format {header.get('format')!r}, expected {form!r})")
    try:
        return build(header, weights)
    except (KeyError, TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        raise InputError(f"{what} {path} does not fit this version ({_line(error)}); train it again") from None


def fill(network: nn.Module, weights: Weights) -> None:
    """Put weights into a network; ValueError for those that are not finite."""
    network.load_state_dict(weights)
    if not all(bool(torch.isfinite(tensor).all()) for tensor in weights.values()):
        raise ValueError("it holds weights that are not finite")


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
