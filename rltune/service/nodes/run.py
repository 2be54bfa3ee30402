"""A run as its node keeps it, and which runs stand in each other's way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rltune.service.nodes.lanes import Change
from rltune.service.nodes.records import Begun, Folder
from rltune.service.nodes.running import Identity
from rltune.service.orders import Begin, Gpu, Held

COMING, STARTING, BEGAN, SUSPENDED, ENDED, LOST = "coming", "starting", "began", "suspended", "ended", "lost"
"""States of a run: waits for its GPUs; its shepherd begins; runs, or is held; gave its GPUs up; over; should be there and is not."""
PROCESS, LEASE, NOTHING = "process", "lease", "nothing"
"""What is there of a run now."""


@dataclass
class Run:
    """``parts``: GPUs that are still to be prepared; ``devices`` by place in ``held``; ``intent`` what is being done to it:
    empty, ``suspend``, ``stop``; ``folder`` of its own, ``home`` that of its processes; ``order`` only before it began."""

    name: str
    held: tuple[Held, ...]
    suspend: str
    folder: Folder
    home: Folder
    state: str = COMING
    what: str = NOTHING
    intent: str = ""
    code: int = 0
    message: str = ""
    chain: tuple[str, ...] = ()
    begun: Begun | None = None
    ended_s: float | None = None
    order: Begin | None = None
    parts: set[int] = field(default_factory=set)
    devices: dict[int, str] = field(default_factory=dict)

    @property
    def shepherd(self) -> Identity:
        assert self.begun is not None and self.begun.shepherd is not None
        return self.begun.shepherd

    @property
    def ending(self) -> bool:
        """Whether it is giving its GPUs up just now."""
        return bool(self.intent) and self.state in (STARTING, BEGAN)

    @property
    def there(self) -> bool:
        """Whether it holds its instances: none of them may go."""
        return self.what != NOTHING or self.state == STARTING


def missing(held: Held, gpus: Sequence[Gpu]) -> bool:
    """Whether an instance is not there; of a GPU that does not answer it is not known."""
    if held.instance is None or (held.gpu < len(gpus) and gpus[held.gpu].doubtful):
        return False
    return held.gpu >= len(gpus) or held.instance not in gpus[held.gpu].instances


def same(one: Held, other: Held) -> bool:
    """Whether two may not both be had: the same instance, or one of them the whole GPU."""
    if one.gpu != other.gpu:
        return False
    return one.instance is None or other.instance is None or one.instance == other.instance


def stands_in_the_way(run: Run, change: Change, asking: Run | None) -> bool:
    """Whether a change has to wait until a run is gone."""
    if change.cut is not None and not all(map(change.cut.leaves, run.held)):
        return True
    return any(same(one, its) for its in (asking.held if asking else ()) if its.gpu == change.gpu for one in run.held)


def prepared(run: Run, gpu: int) -> bool:
    """Whether a run that waits for other GPUs has this one ready."""
    return run.state == COMING and gpu not in run.parts and any(one.gpu == gpu for one in run.held)
