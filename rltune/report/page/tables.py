"""Tables of the page: each a frame of numbers (CSV, Parquet) and of texts (HTML, LaTeX)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from rltune.nouns.documents import cell
from rltune.report.page.figures import SIZES, size_class
from rltune.report.page.scene import Scene
from rltune.report.tables import number

BEST = "\u2605"
"""Marks the best of a column."""
MOST_GROUPS = 12
NONE = "\u2013"
LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
         "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", BEST: r"$\star$", NONE: "--", "\u00a0": "~", "\u2212": "$-$",
         "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''"}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """``numbers``: every column, for files; ``texts``: what is read, the best marked; ``short``: the first rows of the page, the others
    folded away (0: all); ``bold``: which rows are of learned policies; ``words``: columns of text, the others stand to the right."""

    name: str
    title: str
    says: str
    numbers: pd.DataFrame
    texts: pd.DataFrame
    short: list[int] = field(default_factory=list)
    bold: list[int] = field(default_factory=list)
    words: int = 1

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Number and cells of each row."""
        yield from enumerate(self.texts.astype(str).to_numpy().tolist())


def tables(scene: Scene) -> list[Table]:
    """All tables that the scene has data for."""
    found = [main_table(scene), bound_table(scene), energy_table(scene)]
    found += [group_table(scene, *each) for each in GROUPS]
    found.append(mig_table(scene))
    return [table for table in found if table is not None]


def figure(value: float | None) -> str:
    return NONE if value is None or not np.isfinite(value) else number(float(value)).replace("-", "\u2212")


def percent(value: float, low: float, high: float) -> str:
    """A gain with its interval."""
    if not np.isfinite(value):
        return NONE
    ends = f" [{100 * low:+,.1f}, {100 * high:+,.1f}]" if np.isfinite(low) else ""
    return f"{100 * value:+,.1f} %{ends}".replace("-", "\u2212")


def spread(row: pd.Series, metric: str) -> str:
    """A mean with its interval."""
    low, high = row[f"{metric}_low"], row[f"{metric}_high"]
    return figure(row[metric]) + (f" [{figure(low)}, {figure(high)}]" if np.isfinite(low) else "")


def marked(texts: pd.Series, values: pd.Series, best: Callable[[pd.Series], float] = min) -> pd.Series:
    """``texts`` with a star at the best of ``values``, none where all are alike."""
    known = values.dropna()
    if known.nunique() < 2:
        return texts
    return texts.where(values != best(known), texts + f" {BEST}")


HEADS = (
    ("wait_s", "mean wait, s [95\u00a0%]", "less wait than that [95\u00a0%]"),
    ("jct_s", "mean JCT, s [95\u00a0%]", "less JCT than that [95\u00a0%]"),
    ("bsld", "bounded slowdown [95\u00a0%]", ""),
)
"""Metric, heading of its mean, heading of the gain ("": in the files alone)."""


def main_table(scene: Scene) -> Table:
    """Every rule and model: means with intervals, tails, and the gain on the best rule that knows no more."""
    rows = scene.rows
    labels = dict(zip(rows["row"], rows.label, strict=True))
    texts = pd.DataFrame(
        {
            "policy": rows.label,
            "run times": rows.runtimes,
            "best rule of equal knowledge": [labels.get(row, NONE) for row in rows.against],
        }
    )
    for metric, title, less in HEADS:
        told = rows.apply(lambda row, metric=metric: spread(row, metric), axis=1)
        texts[title] = _best_of_equals(rows, told, metric)
        if less:
            ends = [f"gain_{metric}{end}" for end in ("", "_low", "_high")]
            texts[less] = [percent(*values) for values in rows[ends].to_numpy(np.float64)]
    texts["p99 wait, s"] = _best_of_equals(rows, rows.wait_s_p99.map(figure), "wait_s_p99")
    texts["longest wait, s"] = rows.wait_s_max.map(figure)
    texts["utilisation"] = rows.utilization.map(lambda value: NONE if not np.isfinite(value) else f"{value:.3f}")
    texts["unfinished"] = rows.unfinished.map(lambda value: f"{int(value):,}")
    short = [k for k, row in enumerate(rows["row"]) if row in set(scene.shown) or k < 8 or rows.learned[k]]
    says = (f"{BEST} the best of its column among rows that know equally much of run times. “Less than that” is beside the best rule that "
            "knows no more than the row does, over the same jobs; positive is better. Bold: learned.")  # fmt: skip
    return Table(
        "policies", "All rules and models", says, rows, texts, short, [int(k) for k in np.flatnonzero(rows.learned)], 3
    )


def _best_of_equals(rows: pd.DataFrame, texts: pd.Series, metric: str) -> pd.Series:
    """Stars within each class of what is known of run times."""
    parts = [
        marked(texts[rows.runtimes == known], rows[metric][rows.runtimes == known]) for known in rows.runtimes.unique()
    ]
    return pd.concat(parts).loc[texts.index]


def bound_table(scene: Scene) -> Table | None:
    """How far above the lower bound."""
    rows = scene.rows[scene.rows["row"].isin(scene.shown)].dropna(subset=["bound_jct_s"])
    if rows.empty:
        return None
    names = ["label", "jct_s", "bound_jct_s", "above_jct_s", "wait_s", "bound_wait_s", "above_wait_s"]
    texts = pd.DataFrame(
        {"policy": rows.label, "mean JCT, s": rows.jct_s.map(figure), "no schedule below, s": rows.bound_jct_s.map(figure),
         "at most above the optimum": marked(rows.above_jct_s.map(_share), rows.above_jct_s), "mean wait, s": rows.wait_s.map(figure),
         "no wait below, s": rows.bound_wait_s.map(figure)}
    )  # fmt: skip
    says = ("Lower bounds of any schedule of these jobs on these machines; the optimum itself lies somewhere between, so a row is at most "
            "this far above it. Rows that suspend jobs have bounds that allow for it.")  # fmt: skip
    return Table("bound", "Distance to the lower bound", says, rows[names], texts)


def _share(value: float) -> str:
    return NONE if not np.isfinite(value) else f"{100 * value:,.2f} %"


def energy_table(scene: Scene) -> Table | None:
    """Energy by type of GPU, busy and idle."""
    if scene.energy.empty:
        return None
    chosen = scene.energy[scene.energy["row"].isin(scene.shown)]
    kwh = chosen.groupby("row", sort=False)[["busy", "idle"]].sum().loc[scene.shown]
    by_type = (
        chosen.assign(all=chosen.busy + chosen.idle)
        .pivot(index="row", columns="gpu_type", values="all")
        .loc[scene.shown]
    )
    total = kwh.sum(axis=1)
    texts = pd.DataFrame({"policy": [scene.label(row) for row in scene.shown]}, index=kwh.index)
    texts["energy, kWh"] = marked(total.map(figure), total.round(6))
    texts["held by jobs, kWh"], texts["idle, kWh"] = kwh.busy.map(figure), kwh.idle.map(figure)
    for kind in by_type if by_type.shape[1] > 1 else ():
        texts[f"{kind}, kWh"] = by_type[kind].map(figure)
    says = (
        "GPUs alone, over the makespan. A held GPU draws the average power of its type in training, a free one its idle power: measured "
        "by Zeus (You et al., NSDI 2023) on V100 and P100, for other types shares of the board's limit, an assumption."
    )
    return Table("energy", "Energy", says, chosen, texts.reset_index(drop=True))


GROUPS = (
    ("size", "By GPUs of the job", "GPUs"),
    ("vc", "By virtual cluster", "virtual cluster"),
    ("priority", "By priority", "priority"),
)


def group_table(scene: Scene, column: str, title: str, head: str) -> Table | None:
    """Mean wait of the shown rows by a property of jobs; None where all jobs share it."""
    if scene.jobs.empty:
        return None
    jobs = scene.jobs.assign(size=size_class(scene.jobs.num_gpus))
    if jobs[column].nunique() < 2:
        return None
    grouped = jobs.assign(group=jobs[column]).groupby(["group", "row"])
    numbers = grouped[["wait_s", "jct_s", "bsld"]].mean().join(grouped.wait_s.quantile(0.99).rename("wait_s_p99"))
    numbers = numbers.join(grouped.size().rename("jobs")).reset_index()
    wide = numbers.pivot(index="group", columns="row", values="wait_s")[scene.shown]
    count = jobs[jobs["row"] == scene.shown[0]].groupby(column).size().reindex(wide.index, fill_value=0)
    if column == "vc":
        # Many are small; the file has all of them.
        wide = wide.loc[count.sort_values(ascending=False, kind="stable").index[:MOST_GROUPS]]
    names = [SIZES[int(group)][1] if column == "size" else _name(group) for group in wide.index]
    texts = pd.DataFrame({head: names, "jobs": count.loc[wide.index].map("{:,}".format).to_numpy()})
    best = wide.min(axis=1)
    uneven = wide.nunique(axis=1) > 1
    for row in scene.shown:
        star = (wide[row] == best) & uneven
        texts[scene.label(row)] = (wide[row].map(figure) + np.where(star, f" {BEST}", "")).to_numpy()
    more = (
        f" The {MOST_GROUPS} with most jobs; the files have all." if column == "vc" and len(count) > MOST_GROUPS else ""
    )
    return Table(
        f"by_{column}", title, f"Mean wait, s; {BEST} the shortest of the line.{more}", numbers, texts, words=1
    )


def _name(group: object) -> str:
    return f"{group:g}" if isinstance(group, float) else str(group)


def mig_table(scene: Scene) -> Table | None:
    """Slices held, in the mean over the time in which jobs arrive."""
    if scene.pools is None or not (scene.pools.instances > 0).any():
        return None
    frame = scene.pools[scene.pools.mig & scene.pools["row"].isin(scene.shown)]
    last = scene.jobs.submit_s.max() if len(scene.jobs) else np.inf
    mean = (
        frame[frame.time_s <= last]
        .groupby(["row", "pool"], sort=False)[["gpus", "busy_gpus", "sliced_gpus", "instances"]]
        .mean()
        .reset_index()
    )
    share = {
        "in slices": mean.sliced_gpus / mean.gpus,
        "whole": (mean.busy_gpus - mean.sliced_gpus) / mean.gpus,
        "free": 1 - mean.busy_gpus / mean.gpus,
    }
    texts = pd.DataFrame({"policy": mean["row"].map(scene.label), "pool": mean.pool, "GPUs": mean.gpus.map(figure)})
    for name, values in share.items():
        texts[name] = (100 * values).map(_one)
    texts["slices held"] = mean.instances.map(figure)
    return Table("mig", "MIG occupancy", "Means while jobs arrive, of the GPUs that may be cut.", mean, texts, words=2)


def _one(value: float) -> str:
    return NONE if not np.isfinite(value) else f"{value:.1f} %"


def write_table(table: Table, folder: Path, stem: str, caption: str) -> list[str]:
    """CSV and Parquet of the numbers, LaTeX of the texts; names of the files."""
    flat = table.numbers.apply(
        lambda column: column.map(cell) if column.dtype.kind in "OU" or str(column.dtype) == "str" else column
    )
    flat.to_csv(folder / f"{stem}.csv", index=False)
    table.numbers.to_parquet(folder / f"{stem}.parquet", index=False)
    (folder / f"{stem}.tex").write_text(latex(table, caption))
    return [f"{stem}.{ending}" for ending in ("csv", "parquet", "tex")]


def latex(table: Table, caption: str) -> str:
    """A booktabs table of the rows that the page shows; needs \\usepackage{booktabs,graphicx}."""
    columns = "l" * table.words + "r" * (table.texts.shape[1] - table.words)
    shown = set(table.short)
    lines = ["% \\usepackage{booktabs,graphicx}", r"\begin{table}", r"\centering", rf"\caption{{{tex(caption)}}}",
             r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%", rf"\begin{{tabular}}{{{columns}}}", r"\toprule",
             " & ".join(tex(str(head)) for head in table.texts.columns) + r" \\", r"\midrule"]  # fmt: skip
    for k, cells in table.rows():
        if not shown or k in shown:
            lines.append(
                " & ".join(
                    rf"\textbf{{{tex(text)}}}" if k in table.bold and j == 0 else tex(text)
                    for j, text in enumerate(cells)
                )
                + r" \\"
            )
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}%", "}", r"\end{table}", ""])


def tex(text: str) -> str:
    """A text in which LaTeX sees no command."""
    plain = "".join(LATEX.get(letter, letter) for letter in re.sub(r"[^\S\u00a0]+", " ", text))
    # A row that begins with a bracket would be taken for the length of \\.
    return "{}" + plain if plain.startswith("[") else plain
