"""Subprocesses that leave nothing behind: sessions of their own, deadlines, signals, and descendants that slip away.

Each task leads a session; what it starts is found by that session or by a mark in its environment, also after a double
fork. This process becomes the reaper of orphans (``PR_SET_CHILD_SUBREAPER``), so that no zombie stays. Should this process be
killed, a *keeper* that waits at the end of a pipe kills what still runs: unlike ``PR_SET_PDEATHSIG`` it reaches
grandchildren, and needs no code between fork and exec, which threads make unsafe.

Linux only; without pidfd (kernels before 5.3) ends are looked for `LOOK_S` apart.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import secrets
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from rltune.devices.execution import keeper
from rltune.devices.execution.keeper import MARK, children_of, environment_of, session_of

PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER = 36, 37
"""Of ``linux/prctl.h``."""
GRACE_S = 5.0
"""Between SIGTERM and SIGKILL."""
LOST_S = 30.0
"""After SIGKILL: what is not gone by then hangs in the kernel, and nobody waits for it any longer."""
LOOK_S = 0.02
"""Between two looks at what is being ended, which the kernel does not always announce."""
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
AS: dict[int, int] = {signal.SIGQUIT: signal.SIGTERM}
"""Noted as another: SIGQUIT would have every task write its core."""


@dataclass(frozen=True, slots=True)
class Ended:
    """One process that ended, times by `time.monotonic`.

    ``exit_code`` None where ``signal`` ended it; ``timed_out`` and ``stopped``: we ended it, at its timeout or on demand;
    ``cpu_s`` of it and of descendants it waited for; ``left_behind`` descendants that had to be ended after it.
    """

    key: int
    exit_code: int | None
    signal: int | None
    timed_out: bool
    stopped: bool
    start: float
    end: float
    cpu_s: float
    left_behind: int


@dataclass
class _Task:
    key: int
    process: subprocess.Popen[bytes]
    mark: str
    start: float
    deadline: float | None
    pidfd: int | None
    end: float | None = None
    status: int = 0
    cpu_s: float = 0.0
    timed_out: bool = False
    stopped: bool = False
    kill_at: float | None = None
    lost_at: float = math.inf
    left_behind: set[int] = field(default_factory=set)
    known: set[int] = field(default_factory=set)


class Signals:
    """While entered, SIGINT, SIGTERM, SIGHUP and SIGQUIT (as SIGTERM) are noted (``got``, in order) instead of ending this process.

    Works in the main thread; elsewhere nothing is noted, since Python delivers signals there only.
    """

    def __init__(self) -> None:
        self.got: list[int] = []
        self._before: dict[int, Any] = {}
        self._fd_before: int | None = None
        self._open = True
        self._reads, self._writes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            self._fd_before = signal.set_wakeup_fd(self._writes, warn_on_full_buffer=False)
            # One that is ignored (nohup) stays ignored.
            for number in FORWARDED:
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._fd_before is not None:
            signal.set_wakeup_fd(self._fd_before)
        self._open = False
        os.close(self._reads)
        os.close(self._writes)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.got.append(AS.get(number, number))

    def wake(self) -> None:
        """End the present or next wait; from any thread."""
        # Full: the wait ends anyhow.
        with contextlib.suppress(BlockingIOError):
            if self._open:
                os.write(self._writes, b"\0")

    def fileno(self) -> int:
        return self._reads

    def drain(self) -> None:
        """Forget what woke us."""
        try:
            while os.read(self._reads, 4096):
                pass
        except BlockingIOError:
            pass


class Processes:
    """``with Signals() as signals, Processes(signals) as processes: processes.start(...); processes.wait(until)``.

    Start, wait and stop are for one thread. Leaving kills whatever still runs. ``grace_s``: between SIGTERM and SIGKILL.
    """

    def __init__(self, signals: Signals, grace_s: float = GRACE_S) -> None:
        self.signals, self.grace_s = signals, grace_s
        self.token = secrets.token_hex(8)
        self._tasks: dict[int, _Task] = {}
        self._ours: dict[int, _Task] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(signals, selectors.EVENT_READ)

    def __enter__(self) -> Processes:
        self._reaper_before = _subreaper(True)
        # Children of others in this process (a notebook's) are theirs to reap.
        self._foreign = set(children_of(os.getpid()))
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", "-S", keeper.__file__, self.token],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.kill_all()
            self._end_orphans()
        finally:
            self._selector.close()
            assert self._keeper.stdin is not None
            try:
                self._keeper.stdin.write(b"done\n")
                self._keeper.stdin.close()
            except OSError:
                pass  # somebody ended the keeper
            self._keeper.wait()
            _subreaper(self._reaper_before)

    def start(
        self,
        key: int,
        command: Sequence[str],
        environment: Mapping[str, str],
        cwd: Path | None,
        stdout: Path,
        stderr: Path,
        timeout_s: float | None = None,
    ) -> int:
        """Start a process; its pid. Raises OSError where the system refuses."""
        mark = f"{self.token}:{key}"
        # Append: what an earlier attempt said is kept.
        with open(stdout, "ab") as out, open(stderr, "ab") as err:
            process = subprocess.Popen(
                command, env={**environment, MARK: mark}, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                start_new_session=True,
            )  # fmt: skip
        now = time.monotonic()
        try:
            pidfd = os.pidfd_open(process.pid)
            self._selector.register(pidfd, selectors.EVENT_READ)
        except OSError:
            pidfd = None
        task = _Task(key, process, mark, now, None if timeout_s is None else now + timeout_s, pidfd)
        self._tasks[key] = self._ours[process.pid] = task
        self._tell_keeper("+", process.pid)
        return process.pid

    def _tell_keeper(self, sign: str, pid: int) -> None:
        try:
            assert self._keeper.stdin is not None
            self._keeper.stdin.write(f"{sign}{pid}\n".encode())
            self._keeper.stdin.flush()
        except OSError:
            pass  # somebody ended the keeper; the tasks run as well without

    def wait(self, until: float | None = None) -> list[Ended]:
        """Sleep until a process has ended with all its descendants, a signal or `Signals.wake` came, or ``until``."""
        while True:
            ended = self._look()
            if ended:
                return ended
            times = [t for task in self._tasks.values() if (t := self._next_look(task)) is not None]
            times += [until] if until is not None else []
            timeout = max(0.0, min(times) - time.monotonic()) if times else None
            woken = {event.fileobj for event, _ in self._selector.select(timeout)}
            if self.signals in woken:
                self.signals.drain()
                return self._look()
            if until is not None and time.monotonic() >= until:
                return self._look()

    def stop(self, key: int, number: int = signal.SIGTERM, timed_out: bool = False) -> None:
        """Send a signal to a process and its descendants; SIGKILL follows after the grace."""
        task = self._tasks.get(key)
        if task is None:
            return
        if task.end is None:
            task.timed_out |= timed_out
            task.stopped |= not timed_out
        wanted = time.monotonic() + (0.0 if number == signal.SIGKILL else self.grace_s)
        task.kill_at = wanted if task.kill_at is None else min(task.kill_at, wanted)
        task.lost_at = min(task.lost_at, wanted + LOST_S)
        self._signal(task, number)

    def stop_all(self, number: int = signal.SIGTERM) -> None:
        for key in list(self._tasks):
            self.stop(key, number)

    def kill_all(self) -> list[Ended]:
        """SIGKILL to all, and wait until they are gone."""
        ended: list[Ended] = []
        self.stop_all(signal.SIGKILL)
        while self._tasks:
            ended += self._look()
            if self._tasks:
                time.sleep(LOOK_S / 4)
        return ended

    def _next_look(self, task: _Task) -> float | None:
        """When to look at a task again though nothing is announced."""
        if task.end is not None or task.pidfd is None:
            return time.monotonic() + LOOK_S
        times = [t for t in (task.deadline, task.kill_at) if t is not None]
        return min(times) if times else None

    def _look(self) -> list[Ended]:
        """Reap leaders, enforce deadlines, end what they left behind."""
        ended, now = [], time.monotonic()
        for task in list(self._tasks.values()):
            if task.end is None:
                self._reap(task)
            if task.end is None:
                if task.deadline is not None and now >= task.deadline:
                    task.deadline = None
                    self.stop(task.key, timed_out=True)
                if task.kill_at is not None and now >= task.kill_at:
                    task.kill_at = now + LOOK_S
                    self._signal(task, signal.SIGKILL)
                if task.kill_at is not None and now >= task.lost_at:
                    self._let_go(task, -signal.SIGKILL, 0.0)
            if task.end is not None and (self._gone(task, now) or now >= task.lost_at):
                del self._tasks[task.key], self._ours[task.process.pid]
                self._tell_keeper("-", task.process.pid)
                ended.append(_ended(task))
        return ended

    def _reap(self, task: _Task) -> None:
        pid, status, usage = os.wait4(task.process.pid, os.WNOHANG)
        if pid:
            self._let_go(task, os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime)

    def _let_go(self, task: _Task, status: int, cpu_s: float) -> None:
        """The leader is gone, or counts as such."""
        task.end, task.status, task.cpu_s = time.monotonic(), status, cpu_s
        task.process.returncode = status  # reaped here: Popen must not try again
        if task.pidfd is not None:
            self._selector.unregister(task.pidfd)
            os.close(task.pidfd)

    def _gone(self, task: _Task, now: float) -> bool:
        """Whether no descendant of an ended task lives; otherwise it is being ended."""
        alive = self._descendants(task)
        if not alive:
            return True
        fresh = alive - task.left_behind
        task.left_behind |= alive
        if task.kill_at is None:
            task.kill_at = now + self.grace_s
            task.lost_at = task.kill_at + LOST_S
        _send(alive if now >= task.kill_at else fresh, signal.SIGKILL if now >= task.kill_at else signal.SIGTERM)
        return False

    def _signal(self, task: _Task, number: int) -> None:
        if task.end is None:
            # A task may have become another user's (sudo): its leader is then ended by nobody, and let go of.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(task.process.pid, number)
        _send(self._descendants(task) - {task.process.pid}, number)

    def _descendants(self, task: _Task) -> set[int]:
        """Living processes of the task other than its leader; reaps those that are dead and ours."""
        found = set()
        for pid in self._below():
            # What is dying has no environment any more, but is not gone yet: it is known from before.
            if pid not in self._ours and (pid in task.known or self._owner(pid) == task.mark):
                found.add(pid)
        task.known = found
        return found

    def _owner(self, pid: int) -> str | None:
        leader = self._ours.get(session_of(pid) or 0)
        return leader.mark if leader else environment_of(pid)

    def _below(self) -> Iterator[int]:
        """All living processes below this one, as far as they are not somebody else's; dead orphans are reaped."""
        todo = [pid for pid in children_of(os.getpid()) if pid not in self._foreign and pid != self._keeper.pid]
        while todo:
            pid = todo.pop()
            if pid not in self._ours and _reaped(pid):
                continue
            yield pid
            todo += children_of(pid)

    def _end_orphans(self) -> None:
        """Kill and reap what is left below us, also what hid session and mark."""
        deadline = time.monotonic() + self.grace_s
        while time.monotonic() < deadline:
            alive = {pid for pid in self._below() if self._is_task(pid)}
            if not alive:
                return
            _send(alive, signal.SIGKILL)
            time.sleep(LOOK_S / 4)

    def _is_task(self, pid: int) -> bool:
        """Not what another thread of this process started meanwhile: that has our session."""
        return session_of(pid) != os.getsid(0)


def _reaped(pid: int) -> bool:
    """Whether a process was a dead child of ours, and is now reaped."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return False


def _send(pids: set[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _ended(task: _Task) -> Ended:
    assert task.end is not None
    code, number = (task.status, None) if task.status >= 0 else (None, -task.status)
    return Ended(
        task.key, code, number, task.timed_out, task.stopped, task.start, task.end, task.cpu_s, len(task.left_behind)
    )


def _subreaper(on: bool) -> bool:
    """Whether this process was the reaper of its orphans before; where prctl is refused, orphans go to init."""
    libc, before = ctypes.CDLL(None), ctypes.c_int()
    libc.prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0)
    libc.prctl(PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(on), 0, 0, 0)
    return bool(before.value)
