"""Shepherds from the node's side: begun, signalled, noticed when they end, also those that an earlier node began."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from rltune.devices.execution.keeper import children_of, environment_of, process_start, session_of, state_of
from rltune.service.nodes import shepherd
from rltune.service.nodes.records import Begun, Folder

LOOK_S = 0.1
"""Between looks at processes on kernels without pidfd (before 5.3)."""
ROUNDS = 50
"""Looks for what forks while it is being killed."""
Identity = tuple[int, str]
"""Number of a process and when it began: a number comes again, both together never."""


@dataclass(frozen=True, slots=True)
class Started:
    """The shepherd of ``run`` has begun its command, or could not (``problem``)."""

    run: str
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Gone:
    """The shepherd of ``run`` is no more: its folder says what became of the run."""

    run: str


@dataclass(slots=True)
class _Launch:
    run: str
    process: subprocess.Popen[bytes]
    said: bytes = b""


class Shepherds:
    """`start` or `adopt`, then `wait` for what happens; for one thread, but for `wake`, which ends a wait from any."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._ears, self._woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(self._ears, selectors.EVENT_READ)
        self._unwatched: dict[str, Identity] = {}
        self._turn, self._open = threading.Lock(), True

    def close(self) -> None:
        """Let go of all; they go on."""
        for key in list(self._selector.get_map().values()):
            if isinstance(key.data, _Launch):
                key.data.process.stdout.close()  # type: ignore[union-attr]
            elif isinstance(key.data, str):
                os.close(key.fd)
        self._selector.close()
        with self._turn:
            self._open = False
            os.close(self._ears)
            os.close(self._woken)

    def wake(self) -> None:
        """End the present or next wait; nothing after `close`."""
        with self._turn:
            # Full: the wait ends anyhow.
            if self._open:
                with contextlib.suppress(BlockingIOError):
                    os.write(self._woken, b"\0")

    def rename(self, old: str, new: str) -> None:
        """What is watched as one run is another from now on."""
        for key in list(self._selector.get_map().values()):
            if key.data == old:
                self._selector.modify(key.fileobj, key.events, new)
        if old in self._unwatched:
            self._unwatched[new] = self._unwatched.pop(old)

    def start(self, run: str, folder: Folder) -> None:
        """Begin a shepherd on a folder with an order; OSError where the system has no room for it."""
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", shepherd.__file__, str(folder.path)],
            env={}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        assert process.stdout is not None
        self._selector.register(process.stdout, selectors.EVENT_READ, _Launch(run, process))

    def adopt(self, run: str, who: Identity) -> bool:
        """Watch a shepherd; False where that process is no more."""
        try:
            file = os.pidfd_open(who[0])
        except ProcessLookupError:
            return False
        except OSError:
            file = -1
        # Looked at after the descriptor is held: from here on the number can be nobody else's.
        if process_start(who[0]) != who[1]:
            if file >= 0:
                os.close(file)
            return False
        if file >= 0:
            self._selector.register(file, selectors.EVENT_READ, run)
        else:
            self._unwatched[run] = who
        return True

    def wait(self, timeout_s: float | None) -> list[Started | Gone]:
        """What has happened, at once if anything has; empty when woken, or after the timeout."""
        if self._unwatched:
            timeout_s = min(LOOK_S, LOOK_S if timeout_s is None else timeout_s)
        found: list[Started | Gone] = []
        for key, _ in self._selector.select(timeout_s):
            if key.fd == self._ears:
                with contextlib.suppress(BlockingIOError):
                    while os.read(self._ears, 4096):
                        pass
            elif isinstance(key.data, _Launch):
                found += self._heard(key.data)
            else:
                self._selector.unregister(key.fd)
                os.close(key.fd)
                found.append(Gone(key.data))
        for run, who in list(self._unwatched.items()):
            if process_start(who[0]) != who[1]:
                del self._unwatched[run]
                found.append(Gone(run))
        return found

    def _heard(self, launch: _Launch) -> list[Started | Gone]:
        pipe = launch.process.stdout
        assert pipe is not None
        data = os.read(pipe.fileno(), 1 << 16)
        launch.said += data
        if data:
            return []
        self._selector.unregister(pipe)
        pipe.close()
        launch.process.wait()
        try:
            problem = json.loads(launch.said)["error"]
        except (ValueError, KeyError, TypeError):
            problem = "its shepherd was ended before it could begin"
        return [Started(launch.run, problem)]


def send(who: Identity, number: int) -> bool:
    """A signal to this very process; False where it is no more."""
    try:
        file = os.pidfd_open(who[0])
    except ProcessLookupError:
        return False
    except OSError:
        if process_start(who[0]) == who[1]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(who[0], number)
                return True
        return False
    try:
        if process_start(who[0]) != who[1]:
            return False
        signal.pidfd_send_signal(file, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(file)


def alive(who: Identity | None) -> bool:
    return who is not None and process_start(who[0]) == who[1]


def all_stopped(who: Identity) -> bool:
    """Whether there is something below a shepherd, and all of it is stopped."""
    todo, stopped = children_of(who[0]), 0
    while todo:
        pid = todo.pop()
        state = state_of(pid)
        if state not in ("T", "t", "Z", "X", None):
            return False
        stopped += state in ("T", "t")
        todo += children_of(pid)
    return stopped > 0


def end_rest(begun: Begun, mark: str, pause: Callable[[float], None] = time.sleep) -> int:
    """Kill what is left of a run whose shepherd was killed: its session, and what bears its mark; how many there were."""
    seen: set[int] = set()
    for _ in range(ROUNDS):
        session = begun.leader[0] if begun.leader and alive(begun.leader) else None
        left = [
            pid
            for pid in (int(entry) for entry in os.listdir("/proc") if entry.isdecimal())
            if state_of(pid) not in ("Z", "X", None)
            and ((session is not None and session_of(pid) == session) or environment_of(pid) == mark)
        ]
        if not left:
            break
        seen.update(left)
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        pause(0.02)
    return len(seen)
