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
