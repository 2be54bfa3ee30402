"""What the service tells a node to do, and what the node reports: the only words between them.

A node carries orders out one after the other and never blocks the service. Each order may be given twice (after a crash of
the service it is): one that is already carried out is reported again and changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Cut:
    """GPU number ``gpu`` of the node shall have exactly these MIG instances, each (profile, first memory slice).

    ``mig``: whether MIG mode is on; without it there are none. Instances that are there and wanted stay as they are.
    """

    gpu: int
    mig: bool
    instances: tuple[tuple[str, int], ...] = ()

    def leaves(self, held: Held) -> bool:
        """Whether a run that holds this keeps it."""
        if held.gpu != self.gpu:
            return True
        return held.instance in self.instances if held.instance is not None else not self.mig


@dataclass(frozen=True, slots=True)
class Held:
    """A GPU of the node, or one MIG instance of it: ``instance`` (profile, first memory slice), None for the GPU or a share of it."""

    gpu: int
    instance: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Command:
    """What a job runs, and how it is suspended.

    ``argv``: program and arguments, run without a shell; empty for a lease, which holds its slice and runs nothing.
    ``environment`` is added to a small clean one. ``user``: Unix user to run as; None: the service's own.
    ``suspend``: ``stop`` (SIGSTOP, memory stays) or ``checkpoint`` (SIGTERM; the program saves and ends, and is begun again with
    RLTUNE_RESUME=1). ``grace_s``: seconds between SIGTERM and SIGKILL.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    directory: str | None = None
    user: str | None = None
    suspend: str = "checkpoint"
    grace_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Begin:
    """Run ``run`` (a name used once) of job ``job`` begins on what it holds here, once ``cuts`` are made on the node.

    A gang begins on several nodes: each gets its own order with the run's ``rank`` of ``world`` nodes, and ``peers`` (names of
    the nodes, first the one with rank 0). ``resumes``: an earlier run of the job on this node that was stopped, to go on with it.
    """

    run: str
    job: str
    command: Command
    held: tuple[Held, ...]
    cuts: tuple[Cut, ...] = ()
    rank: int = 0
    world: int = 1
    peers: tuple[str, ...] = ()
    resumes: str | None = None


@dataclass(frozen=True, slots=True)
class Suspend:
    """The run gives its GPUs up as its command says, and can be resumed."""

    run: str


@dataclass(frozen=True, slots=True)
class Stop:
    """The run ends: SIGTERM, after its grace SIGKILL, all of its processes. A suspended one too."""

    run: str


Order = Cut | Begin | Suspend | Stop


@dataclass(frozen=True, slots=True)
class Report:
    """What happened on a node at ``at_s`` (its wall clock, seconds since 1970).

    ``what``: began, ended (``code``: exit status, negative the signal), suspended, refused (the device or system did not do
    what the run needs; ``message`` says why, the run never began; with a ``code`` it is the job's own doing: its program, directory
    or user is not there), cut (``gpu`` has what an order wanted), not_cut
    (``message``), lost (a run that should be there is not).
    """

    what: str
    at_s: float
    run: str = ""
    gpu: int = -1
    code: int = 0
    message: str = ""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU as the node has it: ``kind`` a GPU type of ours (``A100-80GB``), ``instances`` as in `Cut`, by (profile, start).

    ``foreign``: instances that the service did not make, which it leaves alone. ``doubtful``: why it cannot be used; "" if it can.
    """

    uuid: str
    kind: str
    mig: bool
    instances: tuple[tuple[str, int], ...] = ()
    foreign: tuple[tuple[str, int], ...] = ()
    doubtful: str = ""


@dataclass(frozen=True, slots=True)
class Inventory:
    """What a node has, and what runs there: ``runs`` name -> began, suspended, ended (its exit status in ``codes``), lost.

    Runs that wait for their GPUs are not among them, nor those that went on under another name (``resumes``).
    """

    node: str
    gpus: tuple[Gpu, ...]
    runs: Mapping[str, str]
    codes: Mapping[str, int]


class Node(Protocol):
    """One machine, in this process or behind a Ray actor."""

    @property
    def name(self) -> str: ...

    def inventory(self) -> Inventory:
        """What there is now; raises OSError where the node does not answer."""
        ...

    def carry_out(self, orders: Sequence[Order]) -> None:
        """Take orders in, to be carried out in their order; returns at once."""
        ...

    def reports(self) -> list[Report]:
        """What has happened since the last call; never blocks."""
        ...

    def log_path(self, run: str) -> str:
        """The file that a run writes its output to (standard output and error)."""
        ...

    def read_log(self, run: str, offset: int, most: int) -> bytes:
        """Up to ``most`` bytes of a run's output from ``offset`` on; empty where there is none yet, or it was cut (`log_span`)."""
        ...

    def log_span(self, run: str) -> tuple[int, int]:
        """Offsets of the first byte that is kept of a run's output (older ones were cut from a long log), and of its end."""
        ...

    def forget(self, runs: Sequence[str]) -> None:
        """Ended runs whose reports are kept elsewhere: their records may go (not their output)."""
        ...

    def close(self) -> None:
        """Let go of the device; runs go on."""
        ...


@runtime_checkable
class Remote(Protocol):
    """A node that may fall silent."""

    @property
    def present(self) -> bool:
        """Whether it answers."""
        ...
