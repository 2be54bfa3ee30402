"""The table of planned batches, from their summary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

COLUMNS = (
    "batch",
    "tasks",
    "makespan s",
    "lower bound s",
    "gap",
    "/ area bound",
    "far s",
    "best fixed s",
    "reconfig.",
    "by",
)


def batch_table(rows: Sequence[dict[str, Any]]) -> None:
    """Print a row a batch to standard output."""
    table = Table(header_style="bold")
    for k, column in enumerate(COLUMNS):
        table.add_column(column, justify="left" if k in (0, len(COLUMNS) - 1) else "right", no_wrap=True)
    for number, row in enumerate(rows):
        table.add_row(*_cells(number, row))
    console = Console()
    # A pipe or a narrow terminal would break numbers apart.
    console.width = max(console.width, 120)
    console.print(table)
    console.print(
        "lower bound: of every schedule; 'optimal' where all schedules were searched. / area bound: makespan over least "
        "slices x seconds, costs left out.",
        highlight=False,
    )


def _cells(number: int, row: dict[str, Any]) -> list[str]:
    bounds, others = row["bounds_s"], row["others_s"]
    best = max(value for value in bounds.values() if value is not None)
    gap = "optimal" if row["shortest_s"] is not None and row["gap"] < 1e-6 else f"{100 * row['gap']:.2f} %"
    return [
        row["label"] or str(number),
        str(row["tasks"]),
        f"{row['makespan_s']:,.2f}",
        f"{row['shortest_s'] or best:,.2f}",
        gap,
        f"{row['ratio_to_area']:.4f}",
        *(f"{others[name]:,.2f}" if name in others else "-" for name in ("far", "best fixed partition")),
        str(row["reconfigurations"]),
        row["method"],
    ]
