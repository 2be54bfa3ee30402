"""What ends a command in one line: bad input, a failure on the way, an interrupt."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input. The message names the place (file, row, option) and the remedy in one line.

    Entry points print it to standard error and exit with ``status``; a notebook
    sees an ordinary ``ValueError``.
    """

    status = 2


class RunError(InputError):
    """A command failed on the way although its input was good: a full disk, workers that died. Exit status 1."""

    status = 1


class Interrupted(KeyboardInterrupt):
    """A signal ended a command; ``told`` is its last line. Exit status 128 + ``signal``, as a shell gives it."""

    def __init__(self, signal: int, told: str = "interrupted; nothing of this run is kept") -> None:
        super().__init__(told)
        self.signal, self.told = signal, told

    @property
    def status(self) -> int:
        """As a shell gives it."""
        return 128 + self.signal
