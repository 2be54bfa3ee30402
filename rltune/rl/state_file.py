"""Nested plain values and arrays as one safetensors file: nothing in it can run, and damage is told. No Ray here.

Arrays are tensors of the file; the nesting is JSON in its header, beside a checksum of both. A file appears under its
name only when all of it is on disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save

from rltune.nouns.errors import InputError
from rltune.nouns.leftovers import sync_folder

TREE, CHECKSUM = "tree", "sha256"
"""In the header: the nesting, and the checksum of it and of the arrays."""
Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Packed:
    """A tree as it was at one moment: its nesting as JSON, and copies of its arrays by number."""

    text: str
    arrays: Arrays


def pack(tree: Any) -> Packed:
    """Copy None, booleans, numbers, texts, arrays, tensors and lists, tuples and mappings of them.

    Raises TypeError, with the place, for anything else.
    """
    arrays: Arrays = {}
    return Packed(json.dumps(_plain(tree, arrays, "")), arrays)


def write_state(path: Path, packed: Packed) -> None:
    """Raises InputError where the disk refuses; what was there before stays then."""
    write_durably(path, save(packed.arrays, {TREE: packed.text, CHECKSUM: _checksum(packed.text, packed.arrays)}))


def write_durably(path: Path, data: bytes) -> None:
    """All of it on disk under this name, also after a power cut, or nothing. Raises InputError."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); free some space or choose another folder (runs=...)"
        ) from None


def read_state(path: Path) -> Any:
    """The tree. Raises ValueError for a damaged file, OSError for one that cannot be read."""
    data = path.read_bytes()
    try:
        arrays = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        if header[CHECKSUM] != _checksum(header[TREE], arrays):
            raise ValueError("its checksum is another")
        return _built(json.loads(header[TREE]), arrays)
    except (SafetensorError, KeyError, TypeError, RecursionError, ValueError) as error:
        raise ValueError(" ".join(str(error).split())[:160]) from None


def _plain(value: Any, arrays: Arrays, at: str) -> Any:
    """What JSON holds: atoms as they are, everything else as {kind: content}; arrays by their number."""
    if isinstance(value, np.ndarray | np.generic | torch.Tensor):
        return _counted(value, arrays, at)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, Mapping):
        pairs = value.items()
        return {"dict": [[_plain(k, arrays, at), _plain(part, arrays, f"{at}/{k}")] for k, part in pairs]}
    if isinstance(value, list | tuple):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_plain(part, arrays, f"{at}/{k}") for k, part in enumerate(value)]}
    raise TypeError(f"{at}: {type(value).__name__} is no plain value")


def _counted(value: Any, arrays: Arrays, at: str) -> Any:
    kind = "scalar" if isinstance(value, np.generic) else "tensor" if isinstance(value, torch.Tensor) else "array"
    copied = np.array(value.detach().cpu().numpy() if kind == "tensor" else value, order="C")
    if copied.dtype.kind not in "biuf":
        raise TypeError(f"{at}: an array of {copied.dtype} is no plain value")
    name = str(len(arrays))
    arrays[name] = copied
    return {kind: name}


def _built(node: Any, arrays: Arrays) -> Any:
    if not isinstance(node, dict):
        return node
    ((kind, content),) = node.items()
    if kind in ("array", "scalar", "tensor"):
        array = arrays[content]
        return array[()] if kind == "scalar" else torch.from_numpy(array.copy()) if kind == "tensor" else array
    if kind == "float":
        return float(content)
    if kind == "dict":
        return {_built(key, arrays): _built(part, arrays) for key, part in content}
    parts = (_built(part, arrays) for part in content)
    return {"list": list, "tuple": tuple}[kind](parts)


def _checksum(text: str, arrays: Arrays) -> str:
    found = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        array = arrays[name]
        found.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()
