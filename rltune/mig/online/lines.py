"""The line protocol of RMS: ``acquire user-1 3g`` -> ``0 5`` (GPU number, configuration number), ``release user-1``.

A fleet on a machine's GPUs (`rltune.devices.serving`) answers with a third word, the MIG device for CUDA_VISIBLE_DEVICES.
Beyond it: ``acquire user-1 3g req-2`` names a second request, ``release user-1 req-2`` gives back that one alone
(``release user-1`` all), which is answered with ``released`` and the number of instances. Any line that cannot be done is
answered with one line that begins with ``error:`` and changes nothing.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol, TextIO

from rltune.mig.online.fleet import Lease, encodable
from rltune.nouns.checked import shown
from rltune.nouns.errors import InputError

LONGEST_LINE = 4096
"""Characters of a request."""
MOST_TOGETHER = 256
"""Lines that are answered together at most: the first of them waits for the last."""
ACCEPTED = "accepted are: acquire TENANT PROFILE [REQUEST], release TENANT [REQUEST]"


class Service(Protocol):
    """What answers requests: a `Fleet`, or one on a machine's GPUs."""

    def acquire(self, tenant: str, profile: str, request: str = "", at: float | None = None) -> Lease: ...

    def release(self, tenant: str, request: str | None = None, at: float | None = None) -> tuple[str, ...]: ...

    def group(self) -> AbstractContextManager[None]: ...


def answer(fleet: Service, line: str, at: float | None = None) -> str:
    """The answer to one line; ``at`` as in `Fleet.acquire`."""
    if len(line) > LONGEST_LINE:
        return f"error: a line of more than {LONGEST_LINE:,} characters; {ACCEPTED}"
    if not encodable(line):
        return f"error: {shown(line.strip())} is no UTF-8 text; {ACCEPTED}"
    words = line.split()
    try:
        if words[:1] == ["acquire"] and len(words) in (3, 4):
            lease = fleet.acquire(words[1], words[2], words[3] if words[3:] else "", at)
            return f"{lease.gpu} {lease.configuration} {lease.device}".rstrip()
        if words[:1] == ["release"] and len(words) in (2, 3):
            return f"released {len(fleet.release(words[1], words[2] if words[2:] else None, at))}"
    except InputError as error:
        return f"error: {' '.join(str(error).split())}"
    return f"error: {shown(line.strip())} is no request; {ACCEPTED}"


def serve(fleet: Service, lines: Iterable[str], out: TextIO, clock: Callable[[], float] = time.time) -> None:
    """Answer every line at once until the lines end; empty ones are passed over. ``clock`` tells seconds.

    Lines that came together (`Arriving`) are brought to disk together, and answered after that. A clock that is put back
    stands still for the fleet until it is past the last event again.
    """
    for batch in lines.batches() if isinstance(lines, Arriving) else ([line] for line in lines):
        answers: list[str] = []
        try:
            with fleet.group():
                answers += (answer(fleet, line, clock()) for line in batch if line.strip())
        except InputError as error:
            # None of it is known to be on disk.
            answers = [f"error: {' '.join(str(error).split())}"] * len(answers)
        finally:
            # Also of a batch that an interrupt cut short: what was done is told.
            out.writelines(f"{text}\n" for text in answers)
            out.flush()


class Arriving:
    """Lines of a stream as they come: what is there already is taken together.

    A thread reads ahead, since a stream does not say whether more of it is there. Lines are cut at one character more than
    `LONGEST_LINE`, so that no line can fill the memory.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._came: queue.Queue[str | BaseException | None] = queue.Queue(MOST_TOGETHER)

    def __iter__(self) -> Iterator[str]:
        for batch in self.batches():
            yield from batch

    def batches(self) -> Iterator[list[str]]:
        """At least one line each; an error of the stream is raised after those before it."""
        threading.Thread(target=self._read, daemon=True).start()
        while True:
            came = [self._came.get()]
            while isinstance(came[-1], str) and len(came) < MOST_TOGETHER:
                try:
                    came.append(self._came.get_nowait())
                except queue.Empty:
                    break
            lines = [line for line in came if isinstance(line, str)]
            if lines:
                yield lines
            if isinstance(came[-1], BaseException):
                raise came[-1]
            if came[-1] is None:
                return

    def _read(self) -> None:
        try:
            while line := self._stream.readline(LONGEST_LINE + 1):
                rest = line
                while rest and not rest.endswith("\n") and len(rest) > LONGEST_LINE:
                    rest = self._stream.readline(LONGEST_LINE + 1)
                self._came.put(line)
        except BaseException as error:
            self._came.put(error)
        else:
            self._came.put(None)
