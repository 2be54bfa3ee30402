"""The screen: progress and remarks on standard error, tables on standard output."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

ERR = Console(stderr=True, highlight=False)


def say(line: str) -> None:
    """A remark on standard error."""
    ERR.print(line, markup=False, soft_wrap=True)


@contextmanager
def progress_bar(what: str, total: int, shown: bool = True) -> Iterator[Callable[..., None]]:
    """A bar on standard error; the context gives ``update(n, text="")``, to be called with n more done."""
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
