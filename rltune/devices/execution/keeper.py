"""Outlives the executor by a moment: when its pipe ends without a word, kills the tasks that the executor left.

Runs as a program, with nothing but the standard library's `os`, so that it starts in a hundredth of a second. Reads sessions
on standard input, ``+pid`` begun and ``-pid`` ended; ``done`` means that all is well. Its argument is the mark of the run.
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
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            words = file.read().split(b"\0")
    except OSError:
        return None
    begin = MARK.encode() + b"="
    return next((word[len(begin) :].decode(errors="replace") for word in words if word.startswith(begin)), None)


def stat_of(pid: int) -> tuple[int | None, int | None]:
    """Parent and session of a living process; None for a dead one."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            # The name in parentheses may hold anything.
            words = file.read().rpartition(")")[2].split()
    except OSError:
        return None, None
    return (None, None) if words[0] in "ZX" else (int(words[1]), int(words[3]))


def session_of(pid: int) -> int | None:
    """Session of a living process."""
    return stat_of(pid)[1]


if __name__ == "__main__":
    main()
