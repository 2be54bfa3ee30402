"""Outlives the executor by a moment: when its pipe ends without a word, kills the tasks that the executor left.

Runs as a program, with nothing but the standard library, so that it starts in a hundredth of a second; what ``/proc`` tells of
processes is read here, for all who look. Reads sessions on standard input, ``+pid`` begun and ``-pid`` ended; ``done`` means
that all is well. Its argument is the mark of the run.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time

MARK = "RLTUNE_MARK"
"""In the environment of every task and so of what it starts: mark of the run, and number of the task."""
SIGKILL = 9
ROUNDS = 50
"""Looks for what forks while it is being killed."""
BEGINS_S, BEGINS_LOOKS = 0.001, 20
"""Between two looks at a process without an environment, and how many: while it begins another program it has none."""


def main() -> None:
    token = sys.argv[1]
    sessions: set[int] = set()
    for line in sys.stdin:
        if line == "done\n":
            return
        (sessions.add if line[0] == "+" else sessions.discard)(int(line[1:]))
    for _ in range(ROUNDS):
        alive = [pid for pid in _processes() if session_of(pid) in sessions or _marked(pid, token)]
        if not alive:
            return
        for pid in alive:
            with contextlib.suppress(OSError):
                os.kill(pid, SIGKILL)
        time.sleep(0.02)


def _processes() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdecimal() and int(entry) != os.getpid()]


def _marked(pid: int, token: str) -> bool:
    return (environment_of(pid) or "").startswith(token + ":")


def environment_of(pid: int) -> str | None:
    """The mark in a process's environment; None without one, or where it may not be read."""
    begin = MARK.encode() + b"="
    words = _environment(pid).split(b"\0")
    return next((word[len(begin) :].decode(errors="replace") for word in words if word.startswith(begin)), None)


def _environment(pid: int) -> bytes:
    for _ in range(BEGINS_LOOKS):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                found = file.read()
        except OSError:
            return b""
        if found or session_of(pid) is None:
            return found
        time.sleep(BEGINS_S)
    return b""


def stat_of(pid: int) -> tuple[int | None, int | None]:
    """Parent and session of a living process; None for a dead one."""
    words = _stat(pid)
    return (None, None) if words is None or words[0] in "ZX" else (int(words[1]), int(words[3]))


def session_of(pid: int) -> int | None:
    """Session of a living process."""
    return stat_of(pid)[1]


def state_of(pid: int) -> str | None:
    """The kernel's letter for what a process does (``T``: stopped, ``Z``: dead, not reaped); None: it is not there."""
    words = _stat(pid)
    return None if words is None else words[0]


def process_start(pid: int) -> str | None:
    """When a process began, in the kernel's ticks: with its number it names the process for good. None: it is dead."""
    words = _stat(pid)
    return None if words is None or words[0] in "ZX" else words[19]


def _stat(pid: int) -> list[str] | None:
    """``/proc/PID/stat`` from the state on (proc_pid_stat(5), from field 3)."""
    try:
        with open(f"/proc/{pid}/stat", errors="replace") as file:
            # The name in parentheses may hold anything.
            return file.read().rpartition(")")[2].split()
    except OSError:
        return None


def children_of(pid: int) -> list[int]:
    """Children of all threads of a process; empty when it is gone."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                found += map(int, file.read().split())
    except FileNotFoundError:
        # The process or thread is gone, or the kernel was built without CONFIG_PROC_CHILDREN.
        if os.path.exists(f"/proc/{os.getpid()}/task/{os.getpid()}/children"):
            return found
        return [int(e) for e in os.listdir("/proc") if e.isdecimal() and stat_of(int(e))[0] == pid]
    except OSError:
        pass
    return found


if __name__ == "__main__":
    main()
