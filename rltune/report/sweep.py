"""Tables and figure of a sweep over trainings or evaluations, from sweep.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from rltune.report.figures import COLOURS
from rltune.report.tables import gain, number

HEADS = (
    "kept", "steps", "gain on validation", "test metric", "test: learned", "test: best heuristic of equal knowledge", "gain on it [95 %]",
)  # fmt: skip
NOTE = (
    "Gain on validation: of the policy kept on its baseline order. Test: mean of the score on the test stretch (the first cluster "
    "size); positive is better than the heuristic. A best member chosen here was chosen on what it is shown by."
)
SHOWN = {
    "kept": "kept",
    "gain on validation": "validation",
    "test: learned": "test",
    HEADS[-2]: "best heuristic",
    HEADS[-1]: "gain [95 %]",
}
"""Columns on the screen, and what they are called there."""
NARROW = 80
"""Columns that every terminal and log file has."""


def cells(found: Mapping[str, Any], row: Mapping[str, Any]) -> list[str]:
    """One member as text, what sets it apart first."""
    apart = [str(row["options"].get(name, "")) for name in found["differing"]] or [row["run"]]
    validation = "" if row["validation_gain"] is None else f"{row['validation_gain']:+.1%}"
    best = "" if row["heuristic"] is None else f"{row['heuristic']} {number(row['best'])}"
    learned = "" if row["learned"] is None else number(row["learned"])
    steps = "" if row["steps"] is None else f"{row['steps']:,.0f}"
    return [*apart, row["kept"] or "", steps, validation, row["metric"], learned, best, gain(row)]


def headings(found: Mapping[str, Any]) -> list[str]:
    return [*(found["differing"] or ["run"]), *HEADS]


def sweep_lines(found: Mapping[str, Any], title: str) -> list[str]:
    """Lines of sweep.md."""
    heads = headings(found)
    lines = [f"# {title}", "", f"{NOTE} Source of every figure: sweep.json beside this file.", ""]
    lines += ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(cells(found, row)) + " |" for row in found["rows"]]
    return [*lines, "", "Runs, in this order:", "", *(f"- {row['run']}" for row in found["rows"])]


def print_sweep(found: Mapping[str, Any], title: str) -> None:
    """Print the table to standard output."""
    table = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    heads, apart = headings(found), max(1, len(found["differing"]))
    shown = [*range(apart), *(heads.index(name) for name in SHOWN)]
    for k in shown:
        table.add_column(SHOWN.get(heads[k], heads[k]), overflow="fold", no_wrap=k == len(heads) - 1)
    for row in found["rows"]:
        texts = cells(found, row)
        table.add_row(*(texts[k] for k in shown))
    console = Console()
    console.width = max(console.width, NARROW)
    console.print(table)
    console.print(f"{NOTE} sweep.md has every column.", highlight=False, markup=False)


def gain_figure(rows: Sequence[Mapping[str, Any]], png: Path, title: str) -> None:
    """Gain of each member on its baseline order (validation) and on the best heuristic (test, with interval), in per cent."""
    figure, axes = plt.subplots(figsize=(8, 0.4 * len(rows) + 1.6), layout="constrained")
    place = np.arange(len(rows))
    axes.plot(
        percent(rows, "validation_gain"),
        place - 0.12,
        "o",
        color=COLOURS["other"],
        label="validation, on its baseline order",
    )
    test = percent(rows, "gain")
    ends = np.array([[np.nan if end is None else 100 * end for end in row["ci95"]] for row in rows]).T
    spread = np.nan_to_num(np.abs(ends - test))
    axes.errorbar(
        test, place + 0.12, xerr=spread, fmt="D", color=COLOURS["learned"], label="test, on the best heuristic [95 %]"
    )
    axes.axvline(0, color="black", lw=0.8)
    axes.set_yticks(place, [row["run"] for row in rows], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("gain (%)")
    axes.set_title(title, fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    axes.grid(axis="x", alpha=0.2)
    figure.savefig(png, dpi=130)
    plt.close(figure)


def percent(rows: Sequence[Mapping[str, Any]], name: str) -> Any:
    """(n_rows,) values in per cent, NaN for none."""
    return np.array([np.nan if row[name] is None else 100 * row[name] for row in rows])
