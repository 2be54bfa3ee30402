"""The word on standard error that kernels are being compiled, where that takes longer than two seconds in all."""

from __future__ import annotations

import sys
import time
from typing import Any

from numba.core import event

PATIENCE_S = 2.0
BETWEEN_S = {True: 0.5, False: 15.0}
"""Seconds between two lines, by whether they are written over each other on a terminal."""

not_kept: set[str] = set()
"""Kernels of this process that the next one has to compile again."""


class Compiling(event.Listener):  # type: ignore[misc]
    """Counts compiled functions and the seconds they take; Numba calls it at the begin and end of each, nested ones too."""

    def __init__(self) -> None:
        self.quiet = False
        self.functions = 0
        self.spent_s = 0.0
        self._depth = 0
        self._begun = 0.0
        self._said_at = -1e9
        self._said = False  # in this stretch of compiling
        self._shown = False  # a line that is to be written over

    def on_start(self, event: Any) -> None:
        if self._depth == 0:
            self._begun, self._said = time.monotonic(), False
        self._depth += 1
        self._say()

    def on_end(self, event: Any) -> None:
        self._depth -= 1
        self.functions += 1
        self._say()
        if self._depth == 0:
            self._finish(time.monotonic() - self._begun)

    def _say(self) -> None:
        """A line, if it is time for one."""
        now, over = time.monotonic(), _on_terminal()
        spent = self.spent_s + now - self._begun
        if self.quiet or spent < PATIENCE_S or now - self._said_at < BETWEEN_S[over]:
            return
        self._said, self._said_at = True, now
        self._write(
            f"compiling kernels (once; later runs start at once): {self.functions} functions, {spent:.0f} s", over
        )

    def _finish(self, seconds: float) -> None:
        self.spent_s += seconds
        if self._said and seconds > PATIENCE_S:
            lost = f"; {len(not_kept)} are not kept for the next run" if not_kept else ""
            self._write(f"compiled {self.functions} functions in {self.spent_s:.0f} s{lost}", False)
        elif self._shown:
            self._write("", True)

    def _write(self, line: str, over: bool) -> None:
        erased = "\r\x1b[2K" if self._shown else ""
        self._shown = over and bool(line)
        print(f"{erased}{line}", end="" if over else "\n", file=sys.stderr, flush=True)


def _on_terminal() -> bool:
    """Whether a line may be written over: not in a file, nor while a progress bar has taken standard error."""
    return sys.stderr is sys.__stderr__ and sys.stderr is not None and sys.stderr.isatty()


compiling = Compiling()
event.register("numba:compile", compiling)
