"""Tables of a comparison of simulations, from compare.json: on the screen, and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from rltune.report.tables import number

FIGURES = {
    "wait_s": "mean wait s (finished)",
    "jct_s": "mean JCT s (finished)",
    "bsld": "bsld",
    "wait_s_p99": "p99 wait s",
    "utilization": "util.",
    "energy_kwh": "GPU kWh",
    "cost_gpu_h": "cost GPU-h",
    "unfinished": "unfinished",
}
CHANGES = {"wait_s": "wait to the first [95 %]", "jct_s": "JCT to the first [95 %]"}
WIDTH, MORE = 190, 25
"""Characters of a table, and of each further option that differs."""
NOTE = (
    "Differences to the first run are over the jobs that finished in both; intervals pair jobs by id and resample "
    "days of submission. Cost is all GPUs of the cluster over the makespan, held or not."
)


def headings(found: Mapping[str, Any]) -> list[str]:
    apart = [name.removeprefix("cluster.").removeprefix("spec.") for name in found["differing"]]
    return [*(apart or ["run"]), *FIGURES.values(), *CHANGES.values()]


def cells(found: Mapping[str, Any], row: Mapping[str, Any]) -> list[str]:
    """One run as text, what sets it apart first."""
    apart = [str(value) for value in row["options"].values()] or [Path(row["run"]).name]
    texts = [f"{row[key]:.3f}" if key == "utilization" else number(row[key]) for key in FIGURES]
    pairs = {c["metric"]: c for c in found["comparisons"] if c["run"] == row["run"]}
    return [*apart, *texts, *(change(pairs.get(metric)) for metric in CHANGES)]


def change(pair: Mapping[str, Any] | None) -> str:
    """The relative change of a mean, the reverse of its reduction; empty for the first run."""
    if pair is None:
        return ""
    if pair["reduction"] is None:
        return "-"
    low, high = pair["ci95"]
    # A reduction of 0 is a change of 0, not of -0.
    limits = "" if low is None else f" [{0 - high:+.1%}, {0 - low:+.1%}]"
    return f"{0 - pair['reduction']:+.1%}{limits}"


def comparison_lines(found: Mapping[str, Any], title: str, source: str = "compare.json") -> list[str]:
    """Lines of compare.md; ``source``: the file they are made from."""
    heads = headings(found)
    lines = [f"# {title}", "", f"{NOTE} Source of every figure: {source} beside this file.", ""]
    lines += [f"{remark}.\n" for remark in found["remarks"]]
    lines += ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(cells(found, row)) + " |" for row in found["rows"]]
    return [*lines, "", "Runs, in this order:", "", *(f"- {row['run']}" for row in found["rows"])]


def print_comparison(found: Mapping[str, Any], title: str) -> None:
    """Print the table to standard output."""
    table = Table(title=title, title_justify="left", header_style="bold")
    apart = max(1, len(found["differing"]))
    for k, heading in enumerate(headings(found)):
        table.add_column(heading, justify="left" if k < apart else "right", no_wrap=True)
    for row in found["rows"]:
        table.add_row(*cells(found, row))
    console = Console()
    # A pipe or a narrow terminal would break numbers apart.
    console.width = max(console.width, WIDTH + MORE * (apart - 1))
    console.print(table)
    for line in [NOTE, *found["remarks"]]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
