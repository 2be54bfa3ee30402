"""A run leaves a directory: it gets its name only when complete, so nothing half-written looks finished."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import resource
import secrets
import shutil
import subprocess
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any

from rltune.errors import InputError

SCHEMA_VERSION = 1
LONGEST_NAME = 200
"""Bytes of a run's name: file systems allow 255, and a suffix must fit."""
PACKAGES = (
    "rltune",
    "ray",
    "torch",
    "gymnasium",
    "pyomo",
    "highspy",
    "numba",
    "numpy",
    "pandas",
    "pyarrow",
    "hydra-core",
)


class RunDirectory:
    """``with RunDirectory(runs, name) as run: run.write_json("summary.json", ...)``.

    Files go to a hidden ``<runs>/.<name>.*.partial``, which becomes ``<runs>/<name>`` on leaving
    without an error and is removed otherwise. Raises InputError when the disk refuses, whoever writes.
    """

    def __init__(self, runs: str | Path, name: str) -> None:
        if not name or "/" in name or "\0" in name or name.startswith("."):
            raise InputError(f"name={name!r} is no directory name; use letters, digits, - and _")
        if len(os.fsencode(name)) > LONGEST_NAME:
            raise InputError(f"name={name[:20]!r}... is too long for a directory; use at most {LONGEST_NAME} bytes")
        self.final = Path(runs) / name
        with _disk(self.final):
            if self.final.exists():
                self.final = Path(runs) / f"{name}-{datetime.now():%H%M%S%f}"
        # Unlike any that a killed run left behind, also where process ids begin anew (containers).
        self.path = self.final.with_name(f".{self.final.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")

    def __enter__(self) -> RunDirectory:
        with _disk(self.path):
            self.path.mkdir(parents=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            with _disk(self.final):
                os.replace(self.path, self.final)
            return
        shutil.rmtree(self.path, ignore_errors=True)
        if isinstance(error, OSError):
            raise _refusal(error, self.final) from None

    def write_text(self, name: str, text: str) -> None:
        with _disk(self.path / name):
            (self.path / name).write_text(text)

    def write_json(self, name: str, value: Any) -> None:
        """Standard JSON; NaN is refused (`json` would write an invalid token)."""
        self.write_text(name, json.dumps(value, indent=1, allow_nan=False) + "\n")

    def file(self, name: str) -> Path:
        return self.path / name


class _disk:
    """Turns an OSError into one line that names the file and the remedy."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, OSError):
            raise _refusal(error, self.path) from None


def _refusal(error: OSError, path: Path) -> InputError:
    """``path`` is told where the error itself names no file."""
    why = " ".join(str(error.strerror or error).split())
    return InputError(
        f"{error.filename or path}: cannot be written ({why}); free some space or choose another folder (runs=...)"
    )


def manifest(trace: Any, seeds: Any, ranges: dict[str, Any]) -> dict[str, Any]:
    """Where a result comes from: code, packages, machine, trace, stretches."""
    return _code_and_machine() | {"seeds": seeds, "trace": describe_trace(trace), "ranges": ranges}


def manifest_of_file(path: Path, seeds: Any) -> dict[str, Any]:
    """The same of a result that comes from one file of the user's."""
    return _code_and_machine() | {"seeds": seeds, "file": {"path": str(path), "sha256": sha256_of(path)}}


def _code_and_machine() -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now().isoformat(timespec="seconds"),
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "packages": {name: _version(name) for name in PACKAGES},
        "machine": {"python": platform.python_version(), "system": platform.system(), "cores": os.cpu_count()},
    }


def describe_trace(trace: Any) -> dict[str, Any]:
    return {
        "name": trace.name,
        "label": trace.label,
        "source": trace.source,
        "jobs": len(trace.jobs),
        "sha256": trace.sha256,
        "files": list(trace.files),
        "notes": list(trace.notes),
    }


def peak_rss_mb() -> float:
    """Largest resident memory of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _git(*words: str) -> str | None:
    """What git says of this checkout; None outside one or without git."""
    root = Path(__file__).resolve().parent.parent
    try:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
