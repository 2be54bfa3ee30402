"""Gantt chart of a MIG plan: memory slices of every GPU over time, from its tables of runs and instances."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

COLOURS = {"1g": "#8ecae6", "2g": "#52b788", "3g": "#f4a261", "4g": "#e76f51", "7g": "#9d8189", "whole": "#c9b79c"}
RECONFIGURING = "#222222"
FAILED = "#d00000"
"""Edge of a task that did not end well, which is hatched as well."""
GPUS_SHOWN = 16


def gantt(runs_parquet: Path, instances_parquet: Path, png: Path, title: str) -> None:
    """Tasks as boxes over the memory slices of their instance, creation and destruction as dark bars before and after.

    Where runs have an ``outcome``, tasks of any other than ``ok`` are hatched with a red edge.

    Of more than `GPUS_SHOWN` GPUs the first are shown, and the title says so.
    """
    runs, instances = pd.read_parquet(runs_parquet), pd.read_parquet(instances_parquet)
    gpus = sorted(runs.gpu.unique())
    shown = gpus[:GPUS_SHOWN]
    figure, sides = plt.subplots(
        len(shown), 1, figsize=(11, 1.2 + 2.1 * len(shown)), sharex=True, squeeze=False, layout="constrained"
    )
    end = float(runs.end_s.max())
    for gpu, axes in zip(shown, sides[:, 0], strict=True):
        _one_gpu(axes, runs[runs.gpu == gpu], instances[instances.gpu == gpu], end)
    sides[-1, 0].set_xlabel("seconds")
    used = [kind for kind in COLOURS if runs.profile.str.startswith(kind).any()]
    handles = [Patch(color=COLOURS[kind], label=kind) for kind in used]
    if "outcome" in runs and (runs.outcome != "ok").any():
        handles.append(Patch(facecolor="white", edgecolor=FAILED, hatch="///", label="did not end well"))
    if len(instances):
        handles.append(Patch(color=RECONFIGURING, label="create, destroy"))
    sides[0, 0].legend(
        handles=handles, ncols=len(handles), frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1, 1)
    )
    more = f" (the first {len(shown)} of {len(gpus)} GPUs)" if len(gpus) > len(shown) else ""
    figure.suptitle(title + more, fontsize=10, x=0.01, ha="left", parse_math=False)
    figure.savefig(png, dpi=130)
    plt.close(figure)


def _one_gpu(axes: Axes, runs: pd.DataFrame, instances: pd.DataFrame, end: float) -> None:
    model = runs.model.iloc[0]
    rows: list[dict[Any, Any]] = runs.to_dict("records")
    for run in rows:
        begin_s, width = run["start_s"], run["end_s"] - run["start_s"]
        low, high, name = run["start_slice"], run["slices"], str(run["task"])
        colour = COLOURS[run["profile"] if run["profile"] in COLOURS else run["profile"][:2]]
        bad = run.get("outcome", "ok") != "ok"
        edge, hatch = (FAILED, "///") if bad else ("white", None)
        axes.barh(low, width, high, begin_s, align="edge", color=colour, edgecolor=edge, hatch=hatch, lw=0.6)
        # A letter takes about 0.75 % of the width at this size.
        letters = int(width / end / 0.0075)
        if letters >= min(3, len(name)):
            shown = name if len(name) <= letters else name[: letters - 1] + "…"
            axes.text(
                begin_s + width / 2, low + high / 2, shown, ha="center", va="center", fontsize=7, parse_math=False
            )
    for begin, until in (("create_s", "ready_s"), ("destroy_s", "gone_s")):
        done = instances[instances[begin].notna()]
        width = done[until] - done[begin]
        axes.barh(done.start_slice, width, done.slices, done[begin], align="edge", color=RECONFIGURING, lw=0)
    slices = int(runs.gpu_slices.iloc[0])
    axes.set_ylim(0, slices)
    axes.set_yticks(np.arange(slices) + 0.5, [str(s) for s in range(slices)], fontsize=7)
    axes.set_xlim(0, end * 1.01)
    axes.set_ylabel(f"GPU {runs.gpu.iloc[0]}, {model}\nmemory slice", fontsize=8)
    axes.grid(axis="x", alpha=0.2)
