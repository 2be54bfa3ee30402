"""Minds one run: starts its command, keeps its output, passes signals on, waits for all of its processes, writes its record.

Runs as a program, ``python -I -S shepherd.py FOLDER``, with nothing but the standard library, so that it starts in a twentieth
of a second; it is no child of the node, and outlives it. The folder of the run has ``order.json`` (what to do), and gets
``begun.json`` before the command's first instruction, ``ended.json`` when the last process is gone, and ``log``.

All processes of the run are below this one, which is the reaper of orphans (prctl(2), PR_SET_CHILD_SUBREAPER). Signals say what
to do: SIGTERM, SIGINT and SIGHUP go to all processes, SIGKILL follows after the grace; SIGUSR1 stops all, SIGUSR2 lets them go on.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import re
import select
import signal
import sys
import time
from types import FrameType
from typing import Any

if __name__ == "__main__":
    # At the end: nothing there may stand before the standard library.
    sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), *[os.pardir] * 2, "devices", "execution"))
    import keeper
else:
    from rltune.devices.execution import keeper

ORDER, BEGUN, ENDED, LOG = "order.json", "begun.json", "ended.json", "log"
STOP_ALL, GO_ON = signal.SIGUSR1, signal.SIGUSR2
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
"""Of ``linux/prctl.h``."""
LOOK_S = 0.02
"""Between two looks at what is being ended or stopped, which the kernel does not always announce."""
LOST_S = 30.0
"""After SIGKILL: what is not gone by then hangs in the kernel, and is not waited for."""
RETRY_S = 1.0
"""Between two attempts to write the record of the end on a full disk."""
RESERVED = 4096
"""Bytes set aside for the record of the end, which must be written on a full disk too."""
CUT = re.compile(rb"\[rltune: (\d+) bytes of older output were cut here\]\n")
"""First line of a log that was shortened: where in all of the output the next byte is."""


def main() -> None:
    os.chdir(sys.argv[1])
    # Some end their children when they end (Ray's workers do): we are not one of theirs.
    if os.fork():
        os._exit(0)
    os.setsid()
    try:
        with open(ORDER) as file:
            shepherd = Shepherd(json.load(file))
        shepherd.begin()
    except (OSError, ValueError) as error:
        _answer({"error": " ".join(str(error).split())})
        return
    _answer({"error": ""})
    shepherd.mind()


def _answer(value: dict[str, Any]) -> None:
    """Tell the node, and let go of its pipe."""
    with contextlib.suppress(OSError):
        os.write(1, json.dumps(value).encode())
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.close(null)


class Log:
    """The file of a run's output: its newest ``most`` bytes at least are kept, three times as many at most.

    The log itself says what was cut, and what a full disk did not take.
    """

    def __init__(self, most: int) -> None:
        self.most, self.cut, self.lost = most, 0, 0
        """``cut``: bytes that stood before those of the file; ``lost``: those that could not be written, not yet told."""
        self._open()

    def _open(self) -> None:
        self.file = os.open(LOG, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self.size = os.fstat(self.file).st_size

    def write(self, data: bytes) -> None:
        note = b"[rltune: %d bytes of output could not be written here]\n" % self.lost if self.lost else b""
        left = self._written(note)
        if not left:
            self.lost = 0 if note else self.lost
            left = self._written(data)
            self.lost += left
        else:
            self.lost += len(data)
        if self.size > 2 * self.most:
            # On a full disk it stays long for now.
            with contextlib.suppress(OSError):
                self._shorten()

    def _written(self, data: bytes) -> int:
        """How many bytes the disk did not take."""
        while data:
            try:
                done = os.write(self.file, data)
            except OSError:
                return len(data)
            self.size += done
            data = data[done:]
        return 0

    def _shorten(self) -> None:
        head = CUT.match(os.pread(self.file, 100, 0))
        begins = int(head[1]) - head.end() if head else 0
        kept = os.pread(self.file, self.most, self.size - self.most)
        # From the beginning of a line, if one is near.
        line = kept.find(b"\n", 0, 4096) + 1
        note = b"[rltune: %d bytes of older output were cut here]\n" % (begins + self.size - self.most + line)
        new = os.open(LOG + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            _write_all(new, note + kept[line:])
        finally:
            os.close(new)
        os.replace(LOG + ".new", LOG)
        os.close(self.file)
        self._open()

    def close(self) -> None:
        if self.lost:
            self.write(b"")
        with contextlib.suppress(OSError):
            os.fsync(self.file)
        os.close(self.file)


class Shepherd:
    """``Shepherd(order)``: `begin`, then `mind` to the end. ``order`` as `rltune.service.nodes.records.Order` writes it."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.order = order
        self.leader = 0
        self.status: int | None = None
        self.told_to_end, self.stopping = False, False
        self.kill_at: float | None = None
        self.got: list[int] = []
        self.ears, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        for number in (*ENDING, STOP_ALL, GO_ON, signal.SIGCHLD):
            signal.signal(number, self._note)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        self.libc = ctypes.CDLL(None)
        self.libc.prctl(PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.got.append(number)

    # The beginning.

    def begin(self) -> None:
        """Start the command; OSError or ValueError where the system refuses, and nothing of it is left."""
        self.record = os.open(ENDED + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        os.posix_fallocate(self.record, 0, RESERVED)
        self.log = Log(self.order["log_bytes"])
        self.output, writes = os.pipe()
        if self.order["user"]:
            # So that the user's programs may open /dev/stdout.
            os.fchown(writes, *self.order["user"][1:])
        gate, opened = os.pipe()
        failed, fails = os.pipe()
        self.began_s, self.clock = time.time(), time.monotonic()
        self.leader = os.fork()
        if not self.leader:
            # The child must hold no end of the gate that keeps it open.
            os.close(opened)
            self._become(writes, gate, fails)
        for end in (writes, gate, fails):
            os.close(end)
        try:
            self._write_begun()
        except OSError:
            os.close(opened)
            os.waitpid(self.leader, 0)
            raise
        # It may have failed already.
        with contextlib.suppress(BrokenPipeError):
            os.write(opened, b"\0")
        os.close(opened)
        with open(failed, "rb") as file:
            problem = file.read()
        if problem:
            os.waitpid(self.leader, 0)
            os.unlink(BEGUN)
            raise OSError(problem.decode(errors="replace"))
        os.set_blocking(self.output, False)
        with contextlib.suppress(OSError):
            fcntl.fcntl(self.output, fcntl.F_SETPIPE_SZ, 1 << 20)

    def _write_begun(self) -> None:
        """On disk before the command's first instruction. FileExistsError where a node counts this run as never begun."""
        value = {"began_s": self.began_s, "boot": self.order["boot"]}
        for who, pid in (("shepherd", os.getpid()), ("leader", self.leader)):
            value[who] = [pid, keeper.process_start(pid)]
        file = os.open(BEGUN + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            _write_all(file, json.dumps(value).encode())
            os.fsync(file)
        finally:
            os.close(file)
        try:
            os.link(BEGUN + ".new", BEGUN)
        finally:
            os.unlink(BEGUN + ".new")
        _sync_folder()

    def _become(self, output: int, gate: int, fails: int) -> None:
        """In the child: become the command, as its user, once the gate opens."""
        order = self.order
        try:
            os.setsid()
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(output, 1)
            os.dup2(output, 2)
            signal.set_wakeup_fd(-1)
            for number in range(1, signal.NSIG):
                # Also what the node ignores; some cannot be set.
                with contextlib.suppress(OSError, ValueError):
                    signal.signal(number, signal.SIG_DFL)
            os.umask(0o022)
            if order["user"]:
                name, user, group = order["user"]
                os.initgroups(name, group)
                os.setgid(group)
                os.setuid(user)
            os.chdir(order["directory"])
            # Should the shepherd be killed, the node ends the rest when it finds out.
            self.libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
            if os.read(gate, 1):
                os.execvpe(order["argv"][0], order["argv"], order["environment"])
        except BaseException as error:
            with contextlib.suppress(OSError):
                os.write(fails, " ".join(str(error).split()).encode(errors="replace")[:1000] or b"no reason given")
        finally:
            os._exit(127)

    # The middle.

    def mind(self) -> None:
        """Until the last process is gone, and that is written down."""
        poll = select.poll()
        poll.register(self.ears, select.POLLIN)
        poll.register(self.output, select.POLLIN)
        while not self._over():
            ready = dict(poll.poll(self._patience_ms()))
            if self.ears in ready:
                with contextlib.suppress(BlockingIOError):
                    while os.read(self.ears, 4096):
                        pass
            if self.output in ready and not self._take_output():
                poll.unregister(self.output)
            self._obey()
            self._reap()
            self._press()
        while self._take_output(1):
            pass
        self.log.close()
        self._write_ended()

    def _patience_ms(self) -> float | None:
        """How long nothing has to be looked at."""
        if self.status is not None or self.stopping:
            return 1e3 * LOOK_S
        if self.kill_at is None:
            return None
        return 1e3 * max(LOOK_S, self.kill_at - time.monotonic())

    def _take_output(self, most: int = 64) -> bool:
        """Some output to the log; whether there may be more, later or now."""
        for _ in range(most):
            try:
                data = os.read(self.output, 1 << 16)
            except BlockingIOError:
                return most > 1
            if not data:
                return False
            self.log.write(data)
        return True

    def _obey(self) -> None:
        got, self.got = self.got, []
        for number in got:
            if number in ENDING:
                self._end(number)
            elif number == STOP_ALL:
                self.stopping = not self.told_to_end
            elif number == GO_ON:
                self.stopping = False
                self._send(signal.SIGCONT)

    def _end(self, number: int) -> None:
        """The signal to all, also to those that are stopped; SIGKILL after the grace."""
        self.stopping = False
        self.told_to_end |= self.status is None
        if self.kill_at is None:
            self.kill_at = time.monotonic() + self.order["grace_s"]
        self._send(number)
        self._send(signal.SIGCONT)

    def _press(self) -> None:
        """What is to be stopped or killed may start further processes meanwhile."""
        if self.stopping:
            going = [pid for pid in self._below() if keeper.state_of(pid) not in ("T", "t")]
            for pid in going:
                _kill(pid, signal.SIGSTOP)
            self.stopping = bool(going)
        if self.kill_at is not None and time.monotonic() >= self.kill_at:
            self._send(signal.SIGKILL)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid == self.leader:
                self.status = os.waitstatus_to_exitcode(status)

    def _over(self) -> bool:
        """Whether nothing is left of the run. What the command leaves behind is ended like itself."""
        late = self.kill_at is not None and time.monotonic() >= self.kill_at + LOST_S
        if self.status is None:
            return late
        if not late and self._below():
            if self.kill_at is None:
                self._end(signal.SIGTERM)
            return False
        return True

    def _below(self) -> list[int]:
        """All living processes of the run."""
        found, todo = [], keeper.children_of(os.getpid())
        while todo:
            pid = todo.pop()
            if keeper.state_of(pid) not in ("Z", "X", None):
                found.append(pid)
            todo += keeper.children_of(pid)
        return found

    def _send(self, number: int) -> None:
        for pid in self._below():
            _kill(pid, number)

    # The end.

    def _write_ended(self) -> None:
        """Tried until it is written, on a full or read-only disk; unless the folder is gone."""
        used = os.times()
        value = {
            "ended_s": self.began_s + time.monotonic() - self.clock,
            "code": -signal.SIGKILL if self.status is None else self.status,
            "told_to_end": self.told_to_end,
            "cpu_s": used.children_user + used.children_system,
            "left": self._below(),
        }
        while os.stat(os.curdir).st_nlink:
            try:
                data = json.dumps(value).encode()
                os.pwrite(self.record, data, 0)
                os.ftruncate(self.record, len(data))
                os.fsync(self.record)
                os.replace(ENDED + ".new", ENDED)
                _sync_folder()
                return
            except OSError:
                time.sleep(RETRY_S)


def _kill(pid: int, number: int) -> None:
    # What became another user's (sudo) is beyond our rights, unless we are root.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


def _sync_folder() -> None:
    folder = os.open(os.curdir, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


if __name__ == "__main__":
    main()
