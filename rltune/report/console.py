"""The screen: progress and remarks on standard error, tables on standard output."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

ERR = Console(stderr=True, highlight=False)
FIRST_S, BETWEEN_S = 10.0, 30.0
"""Where there is no terminal: when the first line on work that goes on is due, and the next ones."""


def say(line: str) -> None:
    """A remark on standard error."""
    ERR.print(line, markup=False, soft_wrap=True)


@contextmanager
def progress_bar(what: str, total: int, shown: bool = True) -> Iterator[Callable[..., None]]:
    """Progress on standard error; the context gives ``update(n, text="")``, to be called with n more done.

    On a terminal one line that is written over; elsewhere (a log file) `Lines`.
    """
    if not ERR.is_terminal:
        yield Lines(what, total).update if shown else _nothing
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(), TextColumn("{task.fields[text]}"),
    )  # fmt: skip
    with Progress(*columns, console=ERR, disable=not shown) as progress:
        task = progress.add_task(what, total=total, text="")

        def update(n: int = 1, text: str | None = None) -> None:
            if text is not None:
                progress.update(task, text=text)
            progress.advance(task, n)

        yield update


def _nothing(n: int = 1, text: str | None = None) -> None:
    """Progress that nobody wants to see."""


@dataclass
class Lines:
    """Progress in a log file: a line after ten seconds, then one every thirty; nothing of what is done sooner."""

    what: str
    total: int
    write: Callable[[str], None] = say
    clock: Callable[[], float] = time.monotonic
    done: int = field(default=0, init=False)
    text: str = field(default="", init=False)

    def __post_init__(self) -> None:
        self.begun_s = self.clock()
        self.due_s = self.begun_s + FIRST_S

    def update(self, n: int = 1, text: str | None = None) -> None:
        """``n`` more are done; a line if it is time for one."""
        self.done += n
        self.text = self.text if text is None else text
        now = self.clock()
        if now >= self.due_s:
            self.due_s = now + BETWEEN_S
            self.write(self.line(now - self.begun_s))

    def line(self, spent_s: float) -> str:
        """How far it has come after so many seconds."""
        left = f"about {_clock_time(spent_s / self.done * (self.total - self.done))} left" if self.done else ""
        parts = [f"{self.done:,} of {self.total:,}", f"{_clock_time(spent_s)} gone", left, self.text]
        return f"{self.what}: {', '.join(part for part in parts if part)}"


def _clock_time(seconds: float) -> str:
    """h:mm:ss"""
    return str(timedelta(seconds=round(seconds)))


@contextmanager
def training_progress(epochs: int, score: str, shown: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Progress of training: takes the rows of the learning curve."""
    with progress_bar("training", epochs, shown) as update:
        last = ""

        def on_epoch(row: dict[str, Any]) -> None:
            nonlocal last
            if row["validation_score"] is not None:
                gain = row["validation_score"] - row["baseline_score"]
                relative = gain / abs(row["baseline_score"]) if row["baseline_score"] else 0.0
                gain_text = f"{relative:+.1%} on its baseline order"
                last = f"{score} on validation {abs(row['validation_score']):,.4g} ({gain_text})"
            update(1, last)

        yield on_epoch
