"""The line protocol of RMS: ``acquire user-1 3g`` -> ``0 5`` (GPU number, configuration number), ``release user-1``.

A fleet on a machine's GPUs (`rltune.devices.serving`) answers with a third word, the MIG device for CUDA_VISIBLE_DEVICES.
Beyond it: ``acquire user-1 3g req-2`` names a second request, ``release user-1 req-2`` gives back that one alone
(``release user-1`` all), which is answered with ``released`` and the number of instances. Any line that cannot be done is
answered with one line that begins with ``error:`` and changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Protocol, TextIO

from rltune.mig.online.fleet import Lease, encodable
from rltune.nouns.errors import InputError

ACCEPTED = "accepted are: acquire TENANT PROFILE [REQUEST], release TENANT [REQUEST]"


class Service(Protocol):
    """What answers requests: a `Fleet`, or one on a machine's GPUs."""

    def acquire(self, tenant: str, profile: str, request: str = "", at: float | None = None) -> Lease: ...

    def release(self, tenant: str, request: str | None = None, at: float | None = None) -> tuple[str, ...]: ...


def answer(fleet: Service, line: str, at: float | None = None) -> str:
    """The answer to one line; ``at`` as in `Fleet.acquire`."""
    if not encodable(line):
        return f"error: {line.strip()!r} is no UTF-8 text; {ACCEPTED}"
    words = line.split()
    try:
        if words[:1] == ["acquire"] and len(words) in (3, 4):
            lease = fleet.acquire(words[1], words[2], words[3] if words[3:] else "", at)
            return f"{lease.gpu} {lease.configuration} {lease.device}".rstrip()
        if words[:1] == ["release"] and len(words) in (2, 3):
            return f"released {len(fleet.release(words[1], words[2] if words[2:] else None, at))}"
    except InputError as error:
        return f"error: {' '.join(str(error).split())}"
    return f"error: {line.strip()!r} is no request; {ACCEPTED}"


def serve(fleet: Service, lines: Iterable[str], out: TextIO, clock: Callable[[], float] = time.time) -> None:
    """Answer every line at once until the lines end; empty ones are passed over. ``clock`` tells seconds.

    A clock that is put back stands still for the fleet until it is past the last event again.
    """
    for line in lines:
        if line.strip():
            out.write(answer(fleet, line, clock()) + "\n")
            out.flush()
