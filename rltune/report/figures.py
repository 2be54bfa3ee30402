"""Figures, one function each: from a file of a run directory to a PNG."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

COLOURS = {"learned": "#c2410c", "other": "#64748b"}
LOWER_IS_BETTER = ("wait", "jct", "bsld", "slowdown")


def learning_curve(csv: Path, png: Path, label: str, score: str) -> None:
    """Validation score by environment steps, with the baseline order as a line; from curve.csv."""
    curve = pd.read_csv(csv)
    sign = -1.0 if score in LOWER_IS_BETTER else 1.0
    unit = " (s)" if score in ("wait", "jct") else ""
    judged = curve.dropna(subset=["validation_score"])
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    axes.plot(
        judged.steps, sign * judged.validation_score, "o-", ms=3, color=COLOURS["learned"], label="policy, greedy"
    )
    axes.axhline(sign * curve.baseline_score.iloc[0], color=COLOURS["other"], ls="--", label="baseline order")
    axes.set_xlabel("environment steps")
    axes.set_ylabel(f"mean {score}{unit} on validation windows")
    axes.set_title(f"Learning curve, {label}", fontsize=10)
    axes.legend(frameon=False)
    axes.grid(alpha=0.2)
    figure.savefig(png, dpi=130)
    plt.close(figure)


def _colours(rows: list[str]) -> list[str]:
    return [COLOURS["learned"] if row.startswith("learned") else COLOURS["other"] for row in rows]


def box_plot(values: pd.DataFrame, png: Path, title: str, unit: str) -> None:
    """One metric by window: ``values`` has a column a policy, a row a window; the best median stands on top."""
    rows = list(values.median().sort_values(ascending=False, kind="stable").index)
    figure, axes = plt.subplots(figsize=(8, 0.28 * len(rows) + 1.4), layout="constrained")
    boxes = axes.boxplot(
        [values[row] for row in rows], orientation="horizontal", tick_labels=rows, showmeans=True, patch_artist=True,
        widths=0.6, flierprops={"ms": 2, "alpha": 0.4},
        meanprops={"marker": "D", "ms": 4, "mfc": "white", "mec": "black"},
        medianprops={"color": "black"},
    )  # fmt: skip
    for box, colour in zip(boxes["boxes"], _colours(rows), strict=True):
        box.set(facecolor=colour, alpha=0.55)
    axes.set_xscale("symlog", linthresh=10)
    axes.set_xlabel(f"{unit}; box: quartiles, line: median, diamond: mean")
    axes.set_title(title, fontsize=10)
    axes.tick_params(axis="y", labelsize=7)
    axes.grid(axis="x", alpha=0.2)
    figure.savefig(png, dpi=130)
    plt.close(figure)


def cdf(values: dict[str, np.ndarray], png: Path, title: str, unit: str) -> None:
    """Share of jobs at or below a value, one line a policy; ``values``: name -> (n_jobs,)."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    styles = ["-", "--", "-.", ":"]
    for k, (name, jobs) in enumerate(values.items()):
        learned = name.startswith("learned")
        x = np.sort(jobs)
        axes.plot(
            x, np.arange(1, len(x) + 1) / len(x), styles[k % 4], label=name, lw=2.2 if learned else 1.1,
            color=COLOURS["learned"] if learned else plt.get_cmap("viridis")(k / len(values)), zorder=5 if learned else 2,
        )  # fmt: skip
    axes.set_xscale("symlog", linthresh=10)
    axes.set_xlim(left=0)
    axes.set_xlabel(unit)
    axes.set_ylabel("share of jobs")
    axes.set_title(title, fontsize=10)
    axes.legend(frameon=False, fontsize=7, loc="lower right")
    axes.grid(alpha=0.2)
    figure.savefig(png, dpi=130)
    plt.close(figure)


def timeline_figure(parquet: Path, png: Path, title: str) -> None:
    """Queue length, and busy GPUs below all GPUs, over time; from timeline.parquet (means by step)."""
    line = pd.read_parquet(parquet)
    begin = (line.time_s - line.time_s.iloc[0]).to_numpy() / 86_400
    days = np.append(begin, begin[-1] + (begin[1] if len(begin) > 1 else 1e-9))
    capacity = float((line.busy_gpus + line.free_gpus).iloc[0])
    figure, (queue, gpus) = plt.subplots(2, 1, figsize=(9, 5), sharex=True, layout="constrained")
    queue.stairs(line.queued_jobs, days, fill=True, color=COLOURS["learned"], alpha=0.7)
    queue.set_ylabel("waiting jobs")
    queue.set_title(title, fontsize=10)
    gpus.stairs(line.busy_gpus, days, fill=True, color=COLOURS["other"], alpha=0.7)
    gpus.axhline(capacity, color="black", lw=0.8, ls="--", label=f"{capacity:,.0f} GPUs")
    gpus.set_ylabel("busy GPUs")
    gpus.set_ylim(0, capacity * 1.15)
    gpus.set_xlabel("days since the first submission")
    gpus.legend(frameon=False, fontsize=8, loc="upper right")
    for axes in (queue, gpus):
        axes.grid(alpha=0.2)
        axes.set_xlim(0, days[-1])
        axes.set_ylim(bottom=0)
    figure.savefig(png, dpi=130)
    plt.close(figure)


def what_if_figure(table: pd.DataFrame, png: Path, title: str) -> None:
    """Mean wait, mean JCT and utilisation of runs side by side; ``table`` (n_runs rows) has run, wait_s, jct_s, utilization."""
    panels = (("wait_s", "mean wait (s)"), ("jct_s", "mean JCT (s)"), ("utilization", "utilisation"))
    figure, sides = plt.subplots(
        1, len(panels), figsize=(11, 0.32 * len(table) + 1.5), sharey=True, layout="constrained", squeeze=False
    )
    place = np.arange(len(table))
    for axes, (metric, label) in zip(sides[0], panels, strict=True):
        values = table[metric].astype(float).to_numpy()
        colours = [COLOURS["learned"]] + [COLOURS["other"]] * (len(table) - 1)
        bars = axes.barh(place, np.nan_to_num(values), color=colours, alpha=0.75)
        axes.bar_label(bars, [f"{v:,.3g}" if abs(v) < 100 else f"{v:,.0f}" for v in values], fontsize=7, padding=2)
        axes.set_xlabel(label)
        axes.margins(x=0.22)
        axes.grid(axis="x", alpha=0.2)
    sides[0][0].set_yticks(place, list(table.run), fontsize=8)
    sides[0][0].invert_yaxis()
    figure.suptitle(title, fontsize=10)
    figure.savefig(png, dpi=130)
    plt.close(figure)
