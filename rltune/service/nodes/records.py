"""The folder of a run: what was ordered, what became of it, its output; written whole and on disk before anybody is told.

``order.json`` and ``intent`` are the node's, ``begun.json``, ``ended.json`` and ``log`` the shepherd's. A folder with a log only is
of a run that was forgotten.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rltune.nouns.leftovers import sync_folder
from rltune.service.nodes.shepherd import BEGUN, CUT, ENDED, LOG, ORDER

VERSION = 1
INTENT = "intent"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\[\]-]{0,127}", re.ASCII)
"""Of a run, since it names a folder; brackets: of jobs of an array."""


@dataclass(frozen=True, slots=True)
class Order:
    """What the shepherd and a later node must know of a run; ``user`` name, uid and gid; ``boot`` of the machine.

    ``held``: (GPU, profile and start or None); ``devices`` what CUDA_VISIBLE_DEVICES names. ``chain``: earlier runs whose
    processes this one goes on with, the first of them in whose folder they are.
    """

    job: str
    held: list[tuple[int, tuple[str, int] | None]]
    devices: list[str]
    suspend: str
    boot: str
    argv: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    directory: str = "/"
    user: tuple[str, int, int] | None = None
    grace_s: float = 10.0
    log_bytes: int = 1 << 24
    mark: str = ""
    chain: list[str] = field(default_factory=list)
    version: int = VERSION


@dataclass(frozen=True, slots=True)
class Begun:
    """``shepherd`` and ``leader``: number of the process and when it began, by `rltune.devices.execution.keeper.process_start`;
    None for a lease. ``void``: a node found it not begun, and it never may."""

    began_s: float
    boot: str
    shepherd: tuple[int, str] | None = None
    leader: tuple[int, str] | None = None
    void: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """``code`` exit status, or minus the signal; ``told_to_end``: it was sent a signal before it ended; ``cpu_s`` of all its
    processes that were waited for; ``left``: processes that hang in the kernel."""

    ended_s: float
    code: int
    told_to_end: bool = False
    cpu_s: float = 0.0
    left: list[int] = field(default_factory=list)


class Folder:
    """``Folder(path)``; reading gives None for a record that is not there, ValueError for one that is damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self, order: Order) -> None:
        """Raises OSError where the disk refuses; then nothing is left."""
        new = Folder(self.path.with_name(f".{self.path.name}.new"))
        new.path.mkdir(mode=0o700)
        try:
            new._write(ORDER, asdict(order))
            # Whole or not at all: a folder of this name without an order is of a run that was forgotten.
            os.rename(new.path, self.path)
            sync_folder(self.path.parent)
        except OSError:
            new.remove()
            raise

    def order(self) -> Order | None:
        value = self._read(ORDER)
        if value is None:
            return None
        with _damaged(self.path / ORDER):
            if value["version"] != VERSION:
                raise ValueError(f"version {value['version']}, not {VERSION}")
            held = [(gpu, None if one is None else (one[0], one[1])) for gpu, one in value.pop("held")]
            user = value.pop("user")
            return Order(held=held, user=None if user is None else tuple(user), **value)

    def begun(self) -> Begun | None:
        value = self._read(BEGUN)
        if value is None:
            return None
        with _damaged(self.path / BEGUN):
            pairs = {who: tuple(value[who]) for who in ("shepherd", "leader") if value.get(who)}
            return Begun(value["began_s"], value["boot"], **pairs, void=value.get("void", False))

    def ended(self) -> Ended | None:
        value = self._read(ENDED)
        if value is None:
            return None
        with _damaged(self.path / ENDED):
            return Ended(**value)

    def write_begun(self, begun: Begun) -> bool:
        """Whether it was not there yet: of two who write it at once one is told so."""
        return self._write(BEGUN, asdict(begun), once=True)

    def write_ended(self, ended: Ended) -> None:
        self._write(ENDED, asdict(ended))

    def intent(self) -> str:
        """What the node was to do with the run: ``stop``, ``suspend``; empty: let it run."""
        try:
            return (self.path / INTENT).read_text()
        except FileNotFoundError:
            return ""

    def write_intent(self, intent: str) -> None:
        if intent:
            self._write(INTENT, intent)
        else:
            with suppress(FileNotFoundError):
                os.unlink(self.path / INTENT)

    def forget(self) -> None:
        """Its records go, its output stays."""
        for name in (ORDER, BEGUN, ENDED, INTENT, ENDED + ".new"):
            with suppress(FileNotFoundError):
                os.unlink(self.path / name)

    def remove(self) -> None:
        """All of it: the run never began."""
        with suppress(FileNotFoundError):
            old = self.path
            if not old.name.startswith("."):
                old = self.path.with_name(f".{self.path.name}.old")
                os.rename(self.path, old)
            for entry in os.scandir(old):
                os.unlink(entry.path)
            os.rmdir(old)

    def _write(self, name: str, value: Any, once: bool = False) -> bool:
        path, new = self.path / name, self.path / f"{name}.node"
        text = value if isinstance(value, str) else json.dumps(value)
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        try:
            if once:
                os.link(new, path)
                os.unlink(new)
            else:
                os.replace(new, path)
        except FileExistsError:
            os.unlink(new)
            return False
        sync_folder(self.path)
        return True

    def _read(self, name: str) -> Any:
        path = self.path / name
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return None
        with _damaged(path):
            value = json.loads(text)
            if not isinstance(value, dict):
                raise ValueError("no mapping")
            return value


class _damaged:
    """Whatever is wrong with a record becomes a ValueError that names it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, (ValueError, KeyError, TypeError, IndexError)):
            why = " ".join(str(error).split())[:100]
            raise ValueError(
                f"{self.path}: damaged ({type(error).__name__}: {why}); remove the folder of the run"
            ) from None


def folders(path: Path) -> Iterator[Folder]:
    """Those of runs that were not forgotten; what a node that was killed left half made or half removed goes."""
    for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            Folder(Path(entry.path)).remove()
        elif os.path.exists(os.path.join(entry.path, ORDER)):
            yield Folder(Path(entry.path))


def log_span(path: Path) -> tuple[int, int]:
    """Offsets, in all of a run's output, of the first byte that its log still has and of the end; (0, 0) where there is none."""
    try:
        with open(path, "rb") as file:
            begins = _begins(file.fileno())
            return begins, begins + os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return 0, 0


def read_log(path: Path, offset: int, most: int) -> bytes:
    """Up to ``most`` bytes from ``offset`` in all of the output on; empty where they are not there yet, or were cut."""
    try:
        with open(path, "rb") as file:
            at = offset - _begins(file.fileno())
            return os.pread(file.fileno(), most, at) if at >= 0 and most > 0 else b""
    except FileNotFoundError:
        return b""


def _begins(file: int) -> int:
    """Where in all of the output a log's first byte is: the line on what was cut is taken for the last of it."""
    head = CUT.match(os.pread(file, 100, 0))
    return max(0, int(head[1]) - head.end()) if head else 0


def log_of(folder: Path) -> Path:
    return folder / LOG
