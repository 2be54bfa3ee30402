"""Tables of an evaluation, from its summary: the short one for the screen, the whole one as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

RUNTIMES = ("exact", "predicted", "unknown")
BEST_SHOWN = 4
COLUMNS = (
    "policy",
    "run times",
    "mean wait s [95 %]",
    "median window",
    "p99",
    "max",
    "widest 5 %",
    "JCT s",
    "bsld",
    "util.",
    "less wait by {} [95 %]",
)


def comparison_table(block: dict[str, Any], metric: str, title: str) -> None:
    """Print learned rows, both plain FIFOs and the best others by what is known of run times, best first, to standard output."""
    table = Table(title=title, title_justify="left", header_style="bold")
    reference = reference_of(block)
    for k, column in enumerate(columns(reference)):
        table.add_column(column, justify="left" if k < 2 else "right", no_wrap=k == 0)
    chosen = short_list(block, metric)
    for name in chosen:
        table.add_row(*cells(block, name, reference), style="bold" if block["policies"][name]["learned"] else None)
    console = Console()
    # A pipe or a narrow terminal would break numbers apart.
    console.width = max(console.width, 168)
    console.print(table)
    for note in block["notes"]:
        console.print(note, highlight=False, markup=False)
    hidden = len(block["policies"]) - len(chosen)
    if hidden:
        console.print(f"{hidden} more rows stand in table.md and summary.json.", highlight=False)


def short_list(block: dict[str, Any], metric: str) -> list[str]:
    rows = ranking(block, metric)
    keep = {name for name in rows if block["policies"][name]["learned"]} | {"fifo-blocking", "fifo-skip"}
    for runtimes in RUNTIMES:
        keep |= set([name for name in rows if block["policies"][name]["runtimes"] == runtimes][:BEST_SHOWN])
    return [name for name in rows if name in keep]


def ranking(block: dict[str, Any], metric: str) -> list[str]:
    """Row names, best mean first."""
    sign = -1 if metric == "utilization" else 1

    def mean(name: str) -> float:
        value = block["policies"][name][metric]["mean"]
        return float("inf") if value is None else sign * value

    return sorted(block["policies"], key=mean)


def reference_of(block: dict[str, Any]) -> str | None:
    """The learned policy of the last column: the mean over seeds where there are several, else the first row."""
    named = [c["policy"] for c in block["comparisons"]]
    means = [s["policy"] for s in block["seeds"]]
    return means[0] if means else named[0] if named else None


def columns(reference: str | None) -> list[str]:
    """Headings; without a learned policy the last column is left out."""
    return [c.format(reference) for c in COLUMNS if reference is not None or "{}" not in c]


def cells(block: dict[str, Any], name: str, reference: str | None) -> list[str]:
    """One row of the table, as text."""
    row = block["policies"][name]
    wait = row["wait_s"]
    against = [
        c
        for c in block["comparisons"]
        if (c["policy"], c["against"], c["metric"]) == (reference, name, "wait_s") and c["reduction"] is not None
    ]
    gain = f"{against[0]['reduction']:+.1%} {interval(against[0]['ci95'], '+.1%')}" if against else ""
    shown = [
        name,
        row["runtimes"],
        f"{number(wait['mean'])} {interval(wait['ci95'])}",
        number(wait.get("window_median")),
        number(wait["p99"]),
        number(wait["max"]),
        number(row["wait_s_widest5pct"]["mean"]),
        number(row["jct_s"]["mean"]),
        number(row["bsld"]["mean"]),
        f"{row['utilization']['mean']:.3f}",
    ]
    return shown if reference is None else [*shown, gain]


def number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def interval(pair: list[float | None], form: str = ",.0f") -> str:
    low, high = pair
    return "" if low is None or high is None else f"[{low:{form}}, {high:{form}}]"


def markdown_table(block: dict[str, Any], metric: str, title: str) -> str:
    """Every row, best first."""
    reference = reference_of(block)
    heads = columns(reference)
    lines = [f"# {title}", "", f"Sorted by mean {metric}. Source of every figure: summary.json beside this file.", ""]
    lines += [f"{note}.\n" for note in block["notes"]]
    lines += ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(cells(block, name, reference)) + " |" for name in ranking(block, metric)]
    return "\n".join(lines) + "\n"


def guard_text(found: dict[str, Any]) -> str:
    """Who decided how often under a guard, in words."""
    decisions = found["decisions"]
    return (
        f"what was learned decided {decisions['learned']:,} times, the baseline {decisions['baseline']:,} times "
        f"({found['checks_for_learned']:,} of {found['checks']:,} checks for it, {found['switches']:,} switches; "
        f"beside {', '.join(found['rules'])}, {found['ahead_s'] / 3600:g} h ahead; {1000 * found['s_a_check']:,.0f} ms a check)"
    )


def forecast_text(forecast: dict[str, Any]) -> str:
    """How far believed run times are from the true ones, in words."""
    if not forecast["jobs"]:
        return "none"
    q = forecast["q_error"]
    return (
        f"off by a factor of {number(q['p50'])} at the median, {number(q['p90'])} at the 90th percentile; "
        f"{forecast['within_2x']:.0%} within 2x; {forecast['underestimated']:.0%} of jobs outlive them"
    )


def gain(row: Mapping[str, Any]) -> str:
    """By what share a learned row is ahead, with its interval; positive is better; empty where nothing was compared."""
    if row["gain"] is None:
        return ""
    low, high = row["ci95"]
    return f"{row['gain']:+.1%}" + ("" if low is None else f" [{low:+.1%}, {high:+.1%}]")
