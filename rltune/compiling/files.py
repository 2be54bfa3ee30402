"""Machine code on disk: one file a kernel, key and types of arguments, whole or not there at all.

There is no index. A file's name says what it was compiled from, and its content
says it again with a checksum, so processes that compile the same kernels at once
write the same files, and one that is killed leaves at most a temporary file.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import pickle
import re
import time
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from numba.core import config
from numba.core.caching import _Cache
from numba.core.compiler import CompileResult
from numba.core.dispatcher import Dispatcher
from numba.core.serialize import dumps

from rltune.compiling import notice
from rltune.compiling.keys import Undescribed, source_key, types_key

MAGIC = b"rltune kernel 1\n"
HEAD = len(MAGIC) + 2 * hashlib.sha256().digest_size
KEPT_KEYS = 4
"""Versions of a kernel that stay: a few branches, or machines with one home directory, do not push each other out."""
DAY_S = 86400.0
UNUSED_DAYS = 90
"""After so long the files of kernels that no longer exist go."""
TEMPORARY_S = 3600.0
"""After so long a temporary file has no writer left."""


class KernelCache(_Cache):  # type: ignore[misc]
    """The cache of one kernel, as Numba's dispatcher wants it."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.dispatcher = dispatcher
        self.enabled = True
        self.looked_for: dict[Any, str | None] = {}

    @property
    def cache_path(self) -> str | None:
        return next((str(folder) for folder in folders(self.dispatcher.py_func) if writable(folder)), None)

    def enable(self) -> None:
        self.enabled = True

    def disable(self) -> None:
        self.enabled = False

    def flush(self) -> None:
        for folder in folders(self.dispatcher.py_func):
            for path in folder.glob(f"{self._stem()}-*.nbc"):
                path.unlink(missing_ok=True)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled kernel for these types of arguments; None where there is none on disk."""
        target_context.refresh()
        name = self.looked_for[sig] = self._file_name(sig, target_context.codegen())
        if name is None:
            notice.not_kept.add(self._stem())
            return None
        for folder in folders(self.dispatcher.py_func):
            payload = read(folder / name)
            if payload is not None:
                return CompileResult._rebuild(target_context, *pickle.loads(payload))
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep what was compiled; where that cannot be done the program goes on without."""
        name, path = self._file_name(sig, data.codegen), self.cache_path
        # What changed during compilation may or may not be in the code; what has the address of an object of this
        # process in it is worth nothing to another.
        unsure = name != self.looked_for.pop(sig, None) or data.lifted or data.library.has_dynamic_globals
        if name is None or path is None or unsure:
            notice.not_kept.add(self._stem())
            return
        try:
            write(Path(path) / name, dumps(data._reduce()))
            drop_superseded(Path(path), self._stem())
        except OSError as error:
            warnings.warn(f"compiled kernels are not kept in {path}: {error}", stacklevel=2)

    def _stem(self) -> str:
        function = self.dispatcher.py_func
        return re.sub(r"[^\w.]", "", f"{function.__module__}.{function.__qualname__}")[-150:]

    def _file_name(self, sig: Any, codegen: Any) -> str | None:
        """Name of the file for these types; None where the kernel is not to be kept."""
        if not self.enabled:
            return None
        try:
            key = source_key(self.dispatcher, codegen.magic_tuple())
            return f"{self._stem()}-{key[:20]}-{types_key(sig)[:20]}.nbc"
        except Undescribed:
            return None


def folders(function: Any) -> Iterator[Path]:
    """Where a function's machine code may lie: beside its module, or in the user's folder where that is read-only."""
    file = Path(inspect.getfile(function)).absolute()
    if not file.exists():  # typed in at a prompt
        return
    place = f"{file.parent.name}_{hashlib.sha256(str(file.parent).encode()).hexdigest()[:20]}"
    chosen: str = getattr(config, "CACHE_DIR", "")  # NUMBA_CACHE_DIR
    if chosen:
        yield Path(chosen) / place
        return
    yield file.parent / "__pycache__" / "kernels"
    users = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if os.path.isabs(users):
        yield Path(users) / "rltune" / "kernels" / place


def writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def read(path: Path) -> bytes | None:
    """The content of a file that is whole and was written under this very name; else None."""
    try:
        content = path.read_bytes()
        payload = content[HEAD:]
        if content[:HEAD] != _head(path, payload):
            return None
        if time.time() - path.stat().st_mtime > DAY_S:
            os.utime(path)  # in use: not to be dropped
    except OSError:
        return None
    return payload


def write(path: Path, payload: bytes) -> None:
    """Under a name of its own first, then put in place in one step."""
    temporary = path.with_name(f"{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_bytes(_head(path, payload) + payload)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _head(path: Path, payload: bytes) -> bytes:
    name = hashlib.sha256(path.name.encode()).digest()
    return MAGIC + name + hashlib.sha256(payload).digest()


def drop_superseded(folder: Path, stem: str) -> None:
    """Remove all but the newest few versions of a kernel, what was not used for long, and what killed writers left."""
    newest: dict[str, float] = {}
    ours: list[tuple[str, Path]] = []
    now = time.time()
    for entry in os.scandir(folder):
        try:
            age = now - entry.stat().st_mtime
        except OSError:  # gone meanwhile
            continue
        limit = TEMPORARY_S if entry.name.endswith(".tmp") else UNUSED_DAYS * DAY_S
        if age > limit:
            Path(entry.path).unlink(missing_ok=True)
        elif entry.name.startswith(f"{stem}-") and entry.name.endswith(".nbc"):
            key = entry.name[len(stem) + 1 :].partition("-")[0]
            newest[key] = min(newest.get(key, age), age)
            ours.append((key, Path(entry.path)))
    kept = sorted(newest, key=lambda key: newest[key])[:KEPT_KEYS]
    for key, path in ours:
        if key not in kept:
            path.unlink(missing_ok=True)
