"""What is told of decisions: a table on the screen, JSON lines in the log."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from rltune.nouns.errors import InputError
from rltune.slurm.acting import Act
from rltune.slurm.deciding import Decision, Row
from rltune.slurm.reading import Job

WIDTH = 120
"""Least width of the table: in a pipe, reasons would break apart."""
LOGGED = 100
"""Waiting jobs whose reasons stand in a line of the log; the others are counted."""


def table_of(decision: Decision, now_s: float, shown: int = 40) -> Table:
    """Who is next, where, and why; the first ``shown`` jobs."""
    table = Table(header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for name, justify in (
        ("", "right"),
        ("job", "left"),
        ("user", "left"),
        ("asks", "left"),
        ("waits", "right"),
        ("nodes", "left"),
    ):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_column("why", overflow="fold")
    for k, row in enumerate(decision.rows[:shown]):
        where = " ".join(row.nodes) if row.starts else "-"
        table.add_row(
            str(k + 1),
            row.job.id,
            row.job.user,
            asks(row.job),
            waited(row.job, now_s),
            where,
            row.why + expected(row, decision),
        )
    return table


def expected(row: Row, decision: Decision) -> str:
    """When the first of those that wait is expected to start, by the others' time limits."""
    return "" if row.expected_s is None else f"; at the latest in {_span(row.expected_s)}"


def asks(job: Job) -> str:
    """GPUs by type and the nodes that it wants."""
    gpus = ", ".join(f"{count} {kind}" if kind else str(count) for kind, count in job.asked.gpus.items())
    return f"{gpus} on {job.asked.nodes} nodes" if (job.asked.nodes or 1) > 1 else gpus


def waited(job: Job, now_s: float) -> str:
    return _span(max(0.0, now_s - job.submit_s))


def _span(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def print_decision(decision: Decision, now_s: float, shown: int = 40) -> None:
    """The table, and what is left to Slurm, on standard output."""
    console = Console(highlight=False)
    console.width = max(console.width, WIDTH)
    if decision.rows:
        console.print(table_of(decision, now_s, shown))
    else:
        console.print("no job waits for GPUs that is ours to decide on")
    for line in left_out(decision, shown):
        console.print(line, markup=False, soft_wrap=True)


def left_out(decision: Decision, shown: int) -> list[str]:
    """What the table does not show, counted."""
    lines = [f"and {len(decision.rows) - shown} more"] if len(decision.rows) > shown else []
    for what, jobs in (("left to Slurm", decision.apart), ("not touched", decision.others)):
        for why, count in Counter(why for _, why in jobs).most_common():
            ids = [job.id for job, reason in jobs if reason == why]
            more = f" and {count - 3} more" if count > 3 else ""
            lines.append(f"{what}: {', '.join(ids[:3])}{more}: {why}")
    return lines


class Log:
    """A file of JSON lines; InputError where it cannot be opened. Lines that repeat the one before are left out."""

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "a", buffering=1)  # noqa: SIM115 - open as long as this lives
        except OSError as error:
            raise InputError(f"log={path} cannot be opened ({error.strerror}); give another path") from None
        self._last: Any = None

    def write(self, event: str, **values: Any) -> None:
        """A line with the time of now."""
        self._file.write(json.dumps({"time": round(time.time(), 3), "event": event, **values}) + "\n")

    def decision(self, about: dict[str, Any], decision: Decision, acts: Sequence[Act], seconds: float) -> None:
        """A decision: who starts where, who waits, each with why; what was done; how long it took."""
        waits = [row for row in decision.rows if not row.starts]
        told = {
            **about,
            "starts": [_started(row) for row in decision.starts],
            "waits": [{"job": row.job.id, "why": row.why} for row in waits[:LOGGED]],
            "waiting": len(waits),
            "left_to_slurm": {job.id: why for job, why in decision.apart},
            "not_touched": len(decision.others),
            "acts": list(acts),
        }
        if told == self._last:
            return
        self._last = told
        self.write("decision", **told, allocator_report=plain(decision.report), seconds=round(seconds, 4))

    def close(self) -> None:
        self._file.close()


def _started(row: Row) -> dict[str, Any]:
    gpus = [{place.kind: place.gpus} for place in row.places]
    return {"job": row.job.id, "nodes": [place.node for place in row.places], "gpus": gpus, "why": row.why}


def plain(value: Any) -> Any:
    """Numbers of NumPy as Python's, in mappings and lists too; other things as text."""
    if hasattr(value, "items"):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    value = value.item() if hasattr(value, "item") else value
    return value if isinstance(value, bool | int | float | str | None) else str(value)
