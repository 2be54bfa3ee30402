"""A run leaves a directory: it gets its name only when complete, so nothing half-written looks finished."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import platform
import re
import resource
import secrets
import shutil
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any

from rltune.nouns.errors import InputError
from rltune.nouns.leftovers import is_left

SCHEMA_VERSION = 1
LONGEST_NAME = 200
"""Bytes of a run's name: file systems allow 255, and a suffix must fit."""
CHECKPOINT = "checkpoint"
"""In the directory of a training: what `resume=` goes on from."""
MARK_OF_SWEEP = "sweep.yaml"
"""In the folder of a sweep (`rltune.experiment.sweeping`), which tells of its cut-off members itself."""
HIDDEN = re.compile(r"\.(.+)\.\d+-[0-9a-f]{8}\.partial")
"""Name of a hidden directory: the run's, the process, a random part."""
ATTEMPTS = 10
"""To find a name that no other run takes at the same moment."""
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

    Files go to a hidden ``<runs>/.<name>.*.partial``, which becomes ``<runs>/<name>`` (``final``) on leaving
    without an error, or after `keep` with one, and is removed otherwise. Those that killed runs left are named on standard
    error. Raises InputError when the disk refuses, also where a library does the writing.

    ``adopt``: the hidden directory of a run that was cut off, to go on in: it stays beside its siblings, whatever ``runs``
    says, and is left as it is when this run is cut off too.
    """

    def __init__(self, runs: str | Path, name: str, adopt: Path | None = None) -> None:
        if not name or "/" in name or "\0" in name or name.startswith("."):
            raise InputError(f"name={name!r} is no directory name; use letters, digits, - and _")
        if len(os.fsencode(name)) > LONGEST_NAME:
            raise InputError(f"name={name[:20]!r}... is too long for a directory; use at most {LONGEST_NAME} bytes")
        self._kept = False
        self._held = self._adopted = adopt is not None
        self._plain = self.final = (Path(runs) if adopt is None else adopt.parent) / name
        with _disk(self.final):
            if self.final.exists():
                self.final = self._another()
        # Unlike any that a killed run left behind, also where process ids begin anew (containers).
        hidden = f".{self.final.name}.{os.getpid()}-{secrets.token_hex(4)}.partial"
        self.path = self.final.with_name(hidden) if adopt is None else adopt

    def __enter__(self) -> RunDirectory:
        for left in left_behind(self.path.parent):
            if left != self.path and not (left.parent / MARK_OF_SWEEP).is_file():
                print(f"note: {left} was left by a run that was {_what_to_do(left)}", file=sys.stderr)
        with _disk(self.path):
            if not self._adopted:
                self.path.mkdir(parents=True)
            # As long as it is locked, its run is alive.
            self._folder = os.open(self.path, os.O_RDONLY)
            try:
                # Of two that want to go on with one run, one gets it.
                fcntl.flock(self._folder, fcntl.LOCK_EX | fcntl.LOCK_NB if self._adopted else fcntl.LOCK_SH)
            except BlockingIOError:
                os.close(self._folder)
                raise InputError(f"{self.path}: this run is going on; wait for its end, or stop it first") from None
            except OSError:
                pass  # some network file systems cannot; then nothing is taken for left behind
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._folder)
        if kind is None or self._kept:
            with _disk(self.final):
                self._rename()
        elif not self._held:
            shutil.rmtree(self.path, ignore_errors=True)
        if isinstance(error, OSError):
            raise _refusal(error, self.final) from None

    def keep(self) -> None:
        """From now on the directory gets its name also if an error comes: what is in it cannot be had again."""
        self._kept = True

    def hold(self) -> None:
        """From now on an error leaves the hidden directory: another run can go on from what is in it."""
        self._held = True

    def _another(self) -> Path:
        """A name that no other run has."""
        return self._plain.with_name(f"{self._plain.name}-{datetime.now():%H%M%S%f}")

    def _rename(self) -> None:
        for attempt in range(ATTEMPTS):
            try:
                os.replace(self.path, self.final)
                return
            except OSError as error:
                # Another run of this name ended while this one ran.
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR) or attempt == ATTEMPTS - 1:
                    raise
                self.final = self._another()

    def write_text(self, name: str, text: str) -> None:
        """All of it, or nothing under this name."""
        partial = self.path / f".{name}.partial"
        with _disk(self.path / name):
            try:
                partial.write_text(text)
                os.replace(partial, self.path / name)
            except OSError:
                with contextlib.suppress(OSError):
                    partial.unlink()
                raise

    def write_json(self, name: str, value: Any) -> None:
        """Standard JSON; NaN is refused (`json` would write an invalid token)."""
        self.write_text(name, json.dumps(value, indent=1, allow_nan=False) + "\n")

    def file(self, name: str) -> Path:
        return self.path / name


def left_behind(runs: str | Path) -> list[Path]:
    """Hidden directories in ``runs`` whose runs are no longer there, the oldest first."""
    return [path for path in sorted(Path(runs).glob(".*.partial"), key=lambda path: path.name) if is_left(path)]


def name_of(hidden: Path) -> str | None:
    """The name that a run would have got whose hidden directory this is; None for one that is not hidden."""
    match = HIDDEN.fullmatch(hidden.name)
    return match[1] if match else None


def cut_off(final: Path) -> list[Path]:
    """Hidden directories of runs that were to become ``final``, those with the newest checkpoint last."""
    found = [path for path in final.parent.glob(".*.partial") if name_of(path) == final.name]
    return sorted(found, key=lambda path: max((file.name for file in (path / CHECKPOINT).glob("epoch-*")), default=""))


def _what_to_do(left: Path) -> str:
    if not any((left / CHECKPOINT).glob("epoch-*")):
        return "killed; look into it, then remove it, or let remove_partial=true do it"
    name = left.with_name(name_of(left) or left.name)
    return f"interrupted or killed; resume={name} goes on with it, remove_partial=true removes it"


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
    """``path`` is named where the error itself names no file."""
    why = " ".join(str(error.strerror or error).split())
    return InputError(
        f"{error.filename or path}: cannot be written ({why}); free some space or choose another folder (runs=...)"
    )


def manifest(trace: Any, seeds: Any, ranges: dict[str, Any]) -> dict[str, Any]:
    """Where a result comes from: code, packages, machine, trace, stretches."""
    return _code_and_machine() | {"seeds": seeds, "trace": describe_trace(trace), "ranges": ranges}


def manifest_of_file(path: Path, seeds: Any, data: bytes | None = None) -> dict[str, Any]:
    """The same of a result that comes from one file of the user's; ``data`` what was read of it (default: read it now)."""
    sha256 = sha256_of(path) if data is None else hashlib.sha256(data).hexdigest()
    return _code_and_machine() | {"seeds": seeds, "file": {"path": str(path), "sha256": sha256}}


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
    # An installed package may lie in a checkout of something else.
    if not (root / ".git").exists():
        return None
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


def remove_left_behind(runs: str | Path) -> None:
    """Remove what killed runs left in ``runs`` (`left_behind`), each named on standard error."""
    for left in left_behind(runs):
        shutil.rmtree(left, ignore_errors=True)
        print(f"note: {left}, left by a run that was killed, is removed", file=sys.stderr)


def remove_if_asked(cfg: Mapping[str, Any]) -> None:
    """What ``remove_partial=true`` asks for; InputError beside ``resume``, which may go on from just that."""
    if not cfg.get("remove_partial"):
        return
    if cfg.get("resume"):
        raise InputError(
            "remove_partial=true could remove what resume= goes on from; resume first, or remove first by another run"
        )
    remove_left_behind(cfg["runs"])
