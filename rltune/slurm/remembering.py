"""What was changed in Slurm, on disk before it is changed: so that it can be given back, also after a kill."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rltune.nouns.errors import InputError, RunError
from rltune.nouns.leftovers import sync_folder, whole_file
from rltune.slurm.moment import Place

VERSION = 1


class DiskRefuses(RunError):
    """The state file cannot be written."""


@dataclass(slots=True)
class Mark:
    """What we did to a job (of an array, to all its pending tasks, or to one).

    ``user``: whose it is; an id that came round again is another's. ``nice``, ``own``: its nice value and Slurm's
    priority before we changed it; setting a priority takes nice away.
    ``priority``: that we gave it; ``next_priority``: that we were about to give. ``held``: we hold it, or were about to;
    ``sure``: Slurm has answered that it is held. ``sent``: the
    places that we named as its nodes, ``sent_s`` when. ``ran``: it has run since. ``let_go``: somebody else took it from us.
    """

    user: str
    nice: int = 0
    own: int = 0
    priority: int | None = None
    next_priority: int | None = None
    held: bool = False
    sure: bool = False
    sent: tuple[Place, ...] = ()
    sent_s: float = 0.0
    ran: bool = False
    let_go: bool = False

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(place.node for place in self.sent))

    @property
    def priorities(self) -> tuple[int, ...]:
        """Any of which is ours."""
        return tuple(each for each in (self.priority, self.next_priority) if each is not None)


@dataclass(slots=True)
class Memory:
    """The state file of one partition. ``origin_s``: second since 1970 from which submissions count; ``floor``: least priority that
    we give (None: none was given yet); ``depth``: of the run that wrote it."""

    path: Path
    partition: str
    marks: dict[str, Mark] = field(default_factory=dict)
    origin_s: float | None = None
    floor: int | None = None
    depth: str = ""
    _saved: str = field(default="", repr=False)

    def save(self) -> None:
        """On disk, whole or not at all; nothing is written where nothing changed. `DiskRefuses` where it is."""
        text = json.dumps(
            {
                "version": VERSION,
                "partition": self.partition,
                "origin_s": self.origin_s,
                "floor": self.floor,
                "depth": self.depth,
                "jobs": {job: asdict(mark) for job, mark in self.marks.items()},
            },
            indent=1,
        )
        if text == self._saved:
            return
        try:
            with whole_file(self.path) as partial, open(partial, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            sync_folder(self.path.parent)
        except OSError as error:
            raise DiskRefuses(
                f"{self.path} cannot be written ({error.strerror}): nothing may be changed in Slurm that is not written down first"
            ) from None
        self._saved = text


def read_memory(path: Path, partition: str) -> Memory:
    """The memory of that file; an empty one where there is none. InputError for a file of another kind or partition."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return Memory(path, partition)
    except OSError as error:
        raise InputError(f"state={path} cannot be read ({error.strerror})") from None
    try:
        value: dict[str, Any] = json.loads(text)
        version, named = value["version"], value["partition"]
        marks = {job: _mark(mark) for job, mark in value["jobs"].items()}
        memory = Memory(path, partition, marks, value["origin_s"], value["floor"], value["depth"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"state={path} is no state file of rltune.slurm; give another path, or look in it for jobs that are held and release them"
        ) from None
    if version != VERSION:
        raise InputError(f"state={path} has version {version}, this program reads {VERSION}")
    if named != partition:
        raise InputError(f"state={path} is of partition {named}, not {partition}; give another path")
    memory._saved = text
    return memory


def _mark(value: dict[str, Any]) -> Mark:
    return Mark(**{**value, "sent": tuple(Place(*each) for each in value["sent"])})


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Within the block no other process works with this state file. InputError where one does."""
    lock = path.with_name(f"{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(lock, "a")  # noqa: SIM115 - open as long as the lock is held
    except OSError as error:
        raise InputError(f"state={path}: {lock} cannot be opened ({error.strerror}); give another path") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(
                f"state={path}: another rltune.slurm works with it; end that one, or give another path"
            ) from None
        yield
