"""Tables of a comparison of simulations, from compare.json: on the screen, and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from rltune.report.tables import gain, number

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


FEW = {"wait_s": "wait s", "wait_s_p99": "p99 wait", "jct_s": "JCT s", "bsld": "bsld"}
"""Figures of the short table, all of them better when smaller."""
BEST = "*"
NARROW = 80
"""Columns that every terminal and log file has."""
SHORT_NOTE = f"{BEST} best of its column; means over finished jobs. All figures: compare.md, or compare --full."


def print_comparison(found: Mapping[str, Any], title: str, full: bool = False) -> None:
    """Print the table to standard output: a few figures that fit 80 columns, or all of them."""
    if full:
        _print_full(found, title)
        return
    apart = set_apart(found)
    pairs = {c["run"]: c for c in found["comparisons"] if c["metric"] == "wait_s"}
    best, unfinished = winners(found["rows"]), any(row["unfinished"] for row in found["rows"])
    table = short_table(title, list(apart[0]), ["wait to first [95 %]"], unfinished)
    for left, row in zip(apart, found["rows"], strict=True):
        more = [f"{row['unfinished']:,}"] * unfinished
        table.add_row(*left.values(), *few(row, best), *more, change(pairs.get(row["run"])))
    show(table, [SHORT_NOTE, *found["remarks"]])


MOST_APART = 3
"""Columns of what sets runs apart in the short table; more of it is one column of text."""


def set_apart(found: Mapping[str, Any]) -> list[dict[str, str]]:
    """Of each run what sets it apart: heading -> text; a cluster by its name and nodes, a run by its directory's where nothing does."""
    out = []
    for row in found["rows"]:
        cells = {}
        for name, value in row["options"].items():
            if name.startswith("cluster.") and name != "cluster.nodes":
                cells["cluster"] = f"{row['cluster']['name']}, {row['cluster']['nodes']} nodes"
            elif not name.endswith("_target_"):
                cells[name.rpartition(".")[2]] = str(value)
        out.append(cells or {"run": Path(row["run"]).name})
    if len(out[0]) > MOST_APART:
        return [{"options": ", ".join(f"{name}={value}" for name, value in cells.items())} for cells in out]
    return out


def print_judged(group: Mapping[str, Any]) -> None:
    """Print one group of trainings and evaluations: learned rows, and the best heuristic of equal knowledge."""
    best, several = winners(group["rows"]), len({row["run"] for row in group["rows"]}) > 1
    unfinished = any(row["unfinished"] for row in group["rows"])
    table = short_table(group["label"], [*["run"] * several, "policy"], ["gain [95 %]"], unfinished)
    for row in group["rows"]:
        left = [*[Path(row["run"]).name] * several, row["row"]]
        more = [f"{row['unfinished']:,}"] * unfinished
        table.add_row(*left, *few(row, best), *more, gain(row), style="bold" if row["learned"] else None)
    show(
        table,
        [f"{BEST} the best of its column. Learned rows are bold; gains are on the best heuristic that knows no more."],
    )


def judged_lines(group: Mapping[str, Any]) -> list[str]:
    """Lines of compare.md on one group."""
    heads = ["run", "policy", *FEW.values(), "unfinished", "on", "gain [95 %]"]
    lines = [f"# {group['label']}", "", "Source of every figure: compare.json beside this file.", ""]
    lines += ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    best = winners(group["rows"])
    for row in group["rows"]:
        cells = [row["run"], row["row"], *few(row, best), str(row["unfinished"]), row["against"] or "", gain(row)]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def winners(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The best of each short figure; none where all are alike, or one row stands alone."""
    best = {
        key: min(row[key] for row in rows if row[key] is not None)
        for key in FEW
        if any(row[key] is not None for row in rows)
    }
    return {key: value for key, value in best.items() if any(row[key] != value for row in rows)}


def few(row: Mapping[str, Any], best: Mapping[str, float]) -> list[str]:
    """The short figures as text, the best marked."""
    return [number(row[key]) + (BEST if key in best and row[key] == best[key] else "") for key in FEW]


def short_table(title: str, apart: Sequence[str], last: Sequence[str], unfinished: bool) -> Table:
    """Its head: what sets rows apart may be broken, figures never."""
    table = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in apart:
        table.add_column(name, overflow="fold")
    for name in [*FEW.values(), *["unfinished"] * unfinished]:
        table.add_column(name, justify="right", no_wrap=True)
    for name in last:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def show(table: Table, notes: Sequence[str]) -> None:
    """On standard output, at least 80 columns wide."""
    console = Console()
    console.width = max(console.width, NARROW)
    console.print(table)
    for line in notes:
        console.print(line, highlight=False, markup=False)


def _print_full(found: Mapping[str, Any], title: str) -> None:
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
