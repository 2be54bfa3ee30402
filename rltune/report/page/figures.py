"""Figures of the page, one function each: values in, a drawn matplotlib figure out; None where there is nothing to draw."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from rltune.report.page.scene import SHOWN, Curve, Scene

TEXT, LINE, GRID = "#010101", "#020202", "#c9c9c7"
"""Of words, axes and grids; the page gives them, and the colours below, others in a dark room."""
COLOURS = ("#0072b2", "#c44e00", "#00795a", "#a34780", "#8a6100", "#2f7fb0", "#5b4fa8", "#5c5c5c")
"""After Okabe and Ito, darker, so that thin lines show on white; dashes tell them apart too."""
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (7, 2)), (0, (1, 1)), (0, (3, 1)))
STYLE: Any = {
    "font.size": 10, "font.family": "DejaVu Sans", "svg.fonttype": "none", "svg.hashsalt": "rltune", "axes.titlesize": 11,
    "axes.grid": True, "grid.color": GRID, "grid.linewidth": 0.6, "axes.axisbelow": True, "text.color": TEXT, "axes.labelcolor": TEXT,
    "xtick.labelcolor": TEXT, "ytick.labelcolor": TEXT, "axes.edgecolor": LINE, "xtick.color": LINE, "ytick.color": LINE,
    "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "legend.fontsize": 9, "figure.dpi": 100,
}  # fmt: skip
POINTS = 300
"""Of a line at most: more of them do not show."""
POOLS_SHOWN = 6
LEAST_RATIO = 1e-3
DAY_S = 86_400.0
NAMES = {
    "wait_s": "wait",
    "jct_s": "time from submission to end (JCT)",
    "bsld": "bounded slowdown",
    "slowdown": "slowdown",
}
SIZES = ((1, "1"), (2, "2"), (4, "3-4"), (8, "5-8"), (16, "9-16"), (32, "17-32"), (np.inf, ">32"))
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Drawing:
    """A figure of a scene: of its files the ``name``; ``title``; ``says``: how it is to be read, for those who do not see it too."""

    name: str
    title: str
    says: str
    draw: Callable[[], Figure]


@contextmanager
def canvas(rows: int = 1, height: float = 3.6, width: float = 7.6) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure of ``rows`` panels one above the other."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(rows, 1, figsize=(width, height), layout="constrained", squeeze=False, sharex=True)
        yield figure, list(axes[:, 0])


def looks(scene: Scene) -> dict[str, dict[str, Any]]:
    """Row -> how its line looks, the same in every figure of the scene."""
    out = {}
    for k, row in enumerate(scene.shown):
        learned = scene.is_learned(row)
        out[row] = {
            "color": COLOURS[k % SHOWN],
            "ls": "-" if learned else DASHES[k % SHOWN],
            "lw": 2.2 if learned else 1.5,
        }
    return out


TOLD = {
    "ratios": ("Mean wait relative to the best rule of equal knowledge, with 95 % intervals",
               "Left of 1 is better. Each row against the best rule that knows no more of run times than it does (paired "
               "bootstrap); that rule itself stands at 1."),
    "ccdf_wait": ("Share of jobs that wait longer",
                  "Log axes: a line that falls sooner is better, and ends at the longest. Jobs below 1 s are left of the figure."),
    "ccdf_jct": ("Share of jobs that take longer from submission to end", "Log axes, read as the one of waits."),
    "box_slowdown": ("Slowdown of jobs", "Box: quartiles; whiskers: 1st, 99th percentile; diamond: mean. 1: no wait; less: faster GPUs."),
    "sizes": ("Mean wait by GPUs of the job", "A point a class of sizes; a class without jobs has none."),
    "utilisation_pool": ("Utilisation by pool over time", "Means of equal stretches of time, of {few}."),
    "utilisation_gpu_type": ("Utilisation by GPU type over time", "Means of equal stretches of time, of {few}."),
    "queue_pool": ("Waiting jobs by pool over time", "Means of equal stretches, of {few}. A job counts in each pool that it may use."),
    "queue_gpu_type": ("Waiting jobs by GPU type over time", "Likewise."),
    "fragmentation": ("Free GPUs on partly used nodes over time", "Means of equal stretches of time, of {few}."),
    "mig": ("MIG slices in use over time", "Of the pools whose GPUs may be cut, of {few}."),
    "energy": ("Energy of the GPUs", "While held by jobs, and while idle, over the makespan."),
}  # fmt: skip
"""Name of a figure -> its title, and how it is read."""


def drawings(scene: Scene) -> list[Drawing]:
    """All figures that the scene has data for."""
    draw: dict[str, Callable[[], Figure]] = {}
    if scene.shown:
        if scene.rows.gain_wait_s.notna().any():
            draw["ratios"] = lambda: ratio_figure(scene)
        draw["ccdf_wait"] = lambda: ccdf_figure(scene, "wait_s")
        draw["ccdf_jct"] = lambda: ccdf_figure(scene, "jct_s")
        draw["box_slowdown"] = lambda: box_figure(scene)
        draw["sizes"] = lambda: size_figure(scene)
        if scene.pools is not None:
            draw |= _over_time(scene, scene.pools)
        if len(scene.energy):
            draw["energy"] = lambda: energy_figure(scene)
    few = ", ".join(map(scene.label, scene.few))
    return [Drawing(name, TOLD[name][0], TOLD[name][1].format(few=few), each) for name, each in draw.items()]


def _over_time(scene: Scene, pools: pd.DataFrame) -> dict[str, Callable[[], Figure]]:
    draw: dict[str, Callable[[], Figure]] = {
        "utilisation_pool": lambda: time_figure(scene, "pool", "busy"),
        "queue_pool": lambda: time_figure(scene, "pool", "queue"),
    }
    # Where each pool has a type of its own, both figures would be one.
    if pools.groupby("gpu_type").pool.nunique().max() > 1 and pools.gpu_type.nunique() > 1:
        draw["utilisation_gpu_type"] = lambda: time_figure(scene, "gpu_type", "busy")
        draw["queue_gpu_type"] = lambda: time_figure(scene, "gpu_type", "queue")
    draw["fragmentation"] = lambda: time_figure(scene, "", "partly")
    if (pools.instances > 0).any():
        draw["mig"] = lambda: mig_figure(scene)
    return draw


def ratio_figure(scene: Scene) -> Figure:
    """Mean waits of the shown rows over that of the best rule of equal knowledge, log axis."""
    rows = scene.rows[scene.rows["row"].isin(scene.shown)]
    with canvas(height=0.36 * len(rows) + 1.3) as (figure, (axes,)):
        styles = looks(scene)
        # Gains of 100 % would lie at 0, which a log axis has not.
        ratio, low, high = (
            np.maximum(1 - rows[f"gain_wait_s{end}"].fillna(0.0).to_numpy(), LEAST_RATIO)
            for end in ("", "_high", "_low")
        )
        for k, row in enumerate(rows["row"]):
            colour = styles[row]["color"]
            axes.plot([low[k], high[k]], [k, k], color=colour, lw=2)
            axes.plot(ratio[k], k, "D" if rows.learned.iloc[k] else "o", color=colour, ms=6)
        axes.axvline(1, color=LINE, lw=1)
        axes.set_xscale("log")
        if max(high) / min(low) < 30:
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_yticks(range(len(rows)), list(rows.label))
        axes.invert_yaxis()
        axes.set_xlabel("mean wait / mean wait under the best rule of equal knowledge")
    return figure


def ccdf_figure(scene: Scene, metric: str) -> Figure:
    """Share of jobs above a value, log-log, one line a row."""
    with canvas(height=4.2) as (figure, (axes,)):
        least, styles = 1.0, looks(scene)
        for row in scene.shown:
            x, share = ccdf(scene.jobs[metric][scene.jobs["row"] == row].to_numpy(), least)
            axes.plot(x, share, label=scene.label(row), drawstyle="steps-post", **styles[row])
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.set_xlabel(f"{NAMES[metric]} (s)")
        axes.set_ylabel("share of jobs above")
        axes.legend(loc="lower left")
    return figure


def ccdf(values: Floats, least: float) -> tuple[Floats, Floats]:
    """Value and share of ``values`` (n,) above it, from ``least`` on, at most `POINTS` of them; the last share is that of the largest."""
    ordered = np.sort(values)
    x = np.unique(ordered[ordered >= least])
    if len(x) > POINTS:
        # Evenly on both log axes: the tail is what the figure is for.
        wanted = np.concatenate(
            [
                np.geomspace(x[0], x[-1], POINTS // 2),
                np.quantile(ordered, 1 - np.geomspace(1 / len(ordered), 1, POINTS // 2)),
            ]
        )
        x = np.unique(x[np.clip(np.searchsorted(x, wanted), 0, len(x) - 1)])
    x = np.concatenate([[least], x])
    above = 1 - np.searchsorted(ordered, x, side="right") / len(ordered)
    keep = above > 0
    return np.append(x[keep], x[-1]), np.append(above[keep], 1 / len(ordered))


def box_figure(scene: Scene) -> Figure:
    """Slowdown of the jobs of each shown row, log axis."""
    stats = []
    for row in scene.shown:
        values = scene.jobs.slowdown[scene.jobs["row"] == row].to_numpy()
        low, q1, median, q3, high = np.quantile(values, [0.01, 0.25, 0.5, 0.75, 0.99])
        stats.append(
            {
                "label": scene.label(row),
                "whislo": low,
                "q1": q1,
                "med": median,
                "q3": q3,
                "whishi": high,
                "mean": values.mean(),
                "fliers": [],
            }
        )
    with canvas(height=0.4 * len(stats) + 1.3) as (figure, (axes,)):
        styles = looks(scene)
        boxes = axes.bxp(
            stats, orientation="horizontal", showmeans=True, showfliers=False, patch_artist=True, widths=0.6,
            meanprops={"marker": "D", "ms": 5, "mfc": TEXT, "mec": TEXT}, medianprops={"color": TEXT, "lw": 1.6},
            whiskerprops={"color": LINE}, capprops={"color": LINE},
        )  # fmt: skip
        for box, row in zip(boxes["boxes"], scene.shown, strict=True):
            box.set(facecolor=styles[row]["color"], alpha=0.55, edgecolor=LINE)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        axes.invert_yaxis()
        axes.set_xlabel("slowdown: (wait + run) / run, run at least 1 s")
    return figure


def size_class(num_gpus: Any) -> npt.NDArray[np.int64]:
    """(n,) index into `SIZES`."""
    return np.searchsorted([most for most, _ in SIZES], num_gpus)


def size_figure(scene: Scene) -> Figure:
    """Mean wait by class of sizes."""
    with canvas(height=3.8) as (figure, (axes,)):
        styles = looks(scene)
        classes = pd.Series(size_class(scene.jobs.num_gpus), index=scene.jobs.index)
        for row in scene.shown:
            here = scene.jobs["row"] == row
            mean = scene.jobs.wait_s[here].groupby(classes[here]).mean()
            axes.plot(mean.index, mean.to_numpy(), marker="o", ms=4, label=scene.label(row), **styles[row])
        present = sorted(classes.unique())
        axes.set_xticks(present, [SIZES[k][1] for k in present])
        axes.set_yscale("symlog", linthresh=10)
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.set_ylim(bottom=0)
        axes.set_xlabel("GPUs of the job")
        axes.set_ylabel("mean wait (s)")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


WHAT = {"busy": "GPUs in use (%)", "queue": "waiting jobs", "partly": "free GPUs"}


def time_figure(scene: Scene, by: str, what: str) -> Figure:
    """A panel a pool or GPU type (the largest ones), a line a row; ``by``: pool, gpu_type, or "" for the whole cluster."""
    frame = few_rows(scene).assign(all="cluster")
    key = by or "all"
    sizes = frame.drop_duplicates(["pool"]).groupby(key).gpus.sum().sort_values(ascending=False, kind="stable")
    panels = list(sizes.index[:POOLS_SHOWN])
    with canvas(len(panels), height=1.5 * len(panels) + 1.5) as (figure, axes):
        for axis, panel in zip(axes, panels, strict=True):
            for row, lines in frame[frame[key] == panel].groupby("row", sort=False):
                days, values = level(lines, what)
                axis.plot(days, values, label=scene.label(str(row)), **looks(scene)[str(row)])
            if by:
                kinds = " or ".join(frame.gpu_type[frame[key] == panel].unique())
                kind = "" if kinds in (panel, "any") else f" ({kinds})"
                axis.set_title(f"{panel}{kind}: {int(sizes[panel]):,} GPUs", loc="left")
            axis.set_ylim(bottom=0)
            if what == "busy":
                axis.set_ylim(0, 105)
            if what == "queue":
                axis.set_yscale("symlog", linthresh=10)
                axis.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        finish(figure, axes, WHAT[what])
    return figure


def few_rows(scene: Scene) -> pd.DataFrame:
    """Pools over time of the rows that figures over time show, up to 1.2 times the end of arrivals; the best rows first."""
    assert scene.pools is not None
    frame = scene.pools[scene.pools["row"].isin(scene.few)]
    frame = frame.assign(day=(frame.time_s - frame.time_s.min()) / DAY_S)
    arrivals = (scene.jobs.submit_s.max() - scene.jobs.submit_s.min()) / DAY_S if len(scene.jobs) else np.inf
    kept = frame[frame.day <= 1.2 * arrivals]
    return kept if len(kept) else frame


def level(lines: pd.DataFrame, what: str) -> tuple[Floats, Floats]:
    """Days and values (n_points,) of pools together, at most `POINTS` points: means of steps that are put together."""
    total = lines.groupby("day")[
        ["busy_gpus", "gpus", "queued_jobs", "partly_free_gpus", "sliced_gpus", "instances"]
    ].sum()
    values = {
        "busy": lambda: 100 * total.busy_gpus / total.gpus,
        "queue": lambda: total.queued_jobs,
        "partly": lambda: total.partly_free_gpus,
        "sliced": lambda: 100 * total.sliced_gpus / total.gpus,
        "instances": lambda: total.instances,
    }[what]()
    days, of = total.index.to_numpy(np.float64), values.to_numpy(np.float64)
    together = -(-len(days) // POINTS)
    if together > 1:
        cut = np.arange(len(days)) // together
        days, of = (np.bincount(cut, each) / np.bincount(cut) for each in (days, of))
    return days, of


def finish(figure: Figure, axes: Sequence[Axes], label: str) -> None:
    """One label for all panels, one legend below them."""
    figure.supylabel(label, fontsize=10)
    axes[-1].set_xlabel("days since the first submission")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)


def mig_figure(scene: Scene) -> Figure:
    """Share of the GPUs that may be cut which is in slices, and slices held."""
    frame = few_rows(scene)
    frame = frame[frame.mig]
    with canvas(2, height=4.6) as (figure, (share, count)):
        for row, lines in frame.groupby("row", sort=False):
            look = looks(scene)[str(row)]
            share.plot(*level(lines, "sliced"), label=scene.label(str(row)), **look)
            count.plot(*level(lines, "instances"), **look)
        share.set_ylabel("in slices\n(% of MIG GPUs)")
        count.set_ylabel("slices held")
        for axis in (share, count):
            axis.set_ylim(bottom=0)
        finish(figure, (share, count), "")
    return figure


def energy_figure(scene: Scene) -> Figure:
    """Busy and idle energy of the shown rows."""
    rows = scene.shown
    total = scene.energy.groupby("row")[["busy", "idle"]].sum().loc[rows] / 1000
    with canvas(height=0.36 * len(rows) + 1.6) as (figure, (axes,)):
        place = np.arange(len(rows))
        axes.barh(place, total.busy, color=COLOURS[0], label="held by jobs", height=0.6)
        axes.barh(
            place, total.idle, left=total.busy, color=COLOURS[4], label="idle", height=0.6, hatch="//", edgecolor=GRID
        )
        axes.set_yticks(place, [scene.label(row) for row in rows])
        axes.invert_yaxis()
        axes.set_xlabel("MWh over the makespan")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def curve_figure(curve: Curve) -> Figure:
    """A line a seed, a band between the least and the greatest of several, the baseline, and what was kept."""
    with canvas(height=3.8) as (figure, (axes,)):
        if len(curve.seeds) > 1:
            axes.fill_between(
                *band(curve.seeds), color=COLOURS[0], alpha=0.15, lw=0, label="least to greatest of the seeds"
            )
        for k, (name, frame) in enumerate(curve.seeds.items()):
            axes.plot(frame.steps, frame.value, ls=DASHES[k % SHOWN], color=COLOURS[k % SHOWN], lw=1.6, label=name)
            kept = frame[frame.epoch == curve.kept[name]]
            if len(kept):
                axes.plot(
                    kept.steps,
                    kept.value,
                    "*",
                    ms=14,
                    color=COLOURS[k % SHOWN],
                    label=f"{name}: kept, epoch {curve.kept[name]}",
                )
        if curve.baseline is not None:
            axes.axhline(
                curve.baseline,
                color=LINE,
                ls=":",
                lw=1.4,
                label="baseline order" + (" (kept)" if all(each is None for each in curve.kept.values()) else ""),
            )
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.set_xlabel("environment steps")
        axes.set_ylabel(curve.unit)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def band(seeds: Mapping[str, pd.DataFrame]) -> tuple[Floats, Floats, Floats]:
    """Steps, least and greatest value (n_epochs,) by epoch over the seeds that judged it."""
    together = pd.concat(seeds.values()).groupby("epoch")
    return together.steps.mean().to_numpy(), together.value.min().to_numpy(), together.value.max().to_numpy()
