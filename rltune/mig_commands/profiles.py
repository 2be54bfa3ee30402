"""``python -m rltune.mig profiles``: measured speeds of slices, and batches made of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from rltune.mig.geometry import geometry
from rltune.mig.profiles import FILE, KEYS, read_profiles, tasks_from, write_tasks
from rltune.nouns.errors import InputError
from rltune.report.console import say
from rltune.traces.folder import traces_folder

OPTIONS = {"gpu": "a100-80gb", "task": "", "model": "", "folder": "", "out": "", "tasks": "14", "seed": "0"}
"""Options and their defaults; ``task``: train or infer; ``out``: a CSV of this number of ``tasks`` for ``batch``."""
WHOLE_GPU_S = (10.0, 100.0)
"""Seconds on the whole GPU of the tasks of ``out``, drawn uniformly: the measurements say how they scale, not how long they run."""


def print_profiles(words: list[str]) -> None:
    """Medians by task, or the workloads of one model; with ``out=tasks.csv`` a batch of workloads drawn at random."""
    given = options(words)
    path = traces_folder(given["folder"] or None) / FILE
    if not path.is_file():
        raise InputError(f"{path}: no such file; set RLTUNE_TRACES (or folder=...) to the folder of real traces")
    gpu = geometry(given["gpu"]).model
    rows = read_profiles(path)
    rows = rows[rows.gpu == gpu]
    for column in ("task", "model"):
        if given[column]:
            if given[column] not in set(rows[column]):
                known = ", ".join(sorted(set(rows[column]))) or "none"
                raise InputError(f"{column}={given[column]!r} was not measured on {gpu}; measured are {known}")
            rows = rows[rows[column] == given[column]]
    if rows.empty:
        raise InputError(f"gpu={gpu}: nothing was measured there; A100-40GB and A100-80GB were")
    names = [p.name for p in reversed(geometry(gpu).profiles) if p.name in rows and rows[p.name].notna().any()]
    print_table(rows, names, by_model=bool(given["model"]))
    if given["out"]:
        write_batch(rows, gpu, given)


def options(words: list[str]) -> dict[str, str]:
    """Options over their defaults; a word without ``=`` is the model."""
    given = {(name if equals else "model"): (value if equals else name) for name, equals, value in map(_parted, words)}
    unknown = sorted(set(given) - set(OPTIONS))
    if unknown:
        raise InputError(f"option {unknown[0]!r} is unknown; known are {', '.join(OPTIONS)}")
    for name in ("tasks", "seed"):
        if not given.get(name, "1").isdecimal():
            raise InputError(f"{name}={given[name]!r}; a whole number is needed")
    return OPTIONS | given


def _parted(word: str) -> tuple[str, str, str]:
    return word.partition("=")


def print_table(rows: pd.DataFrame, names: list[str], by_model: bool) -> None:
    """Throughput of each slice over the whole GPU's: of each workload, or medians over the workloads of a task."""
    table = Table(title="throughput over that of the whole GPU (7g)", title_justify="left", header_style="bold")
    heads = KEYS[1:] if by_model else ["task", "workloads"]
    for head in heads:
        table.add_column(head)
    for name in names:
        table.add_column(name, justify="right")
    if by_model:
        for row in rows.to_dict("records"):
            table.add_row(*(_text(row[head]) for head in heads), *(_number(row[name]) for name in names))
    else:
        for task, group in rows.groupby("task"):
            table.add_row(str(task), str(len(group)), *(_number(group[name].median()) for name in names))
    console = Console()
    # A pipe or a narrow terminal would break numbers apart.
    console.width = max(console.width, 140)
    console.print(table)


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.2f}"


def write_batch(rows: pd.DataFrame, gpu: str, given: Mapping[str, str]) -> None:
    """A CSV of workloads drawn with replacement, with run times drawn uniformly, and says so."""
    rng = np.random.default_rng(int(given["seed"]))
    count = int(given["tasks"])
    drawn = rows.iloc[rng.integers(len(rows), size=count)]
    path = Path(given["out"])
    try:
        write_tasks(path, tasks_from(drawn, gpu, rng.uniform(*WHOLE_GPU_S, count).tolist()))
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another file") from None
    say(f"wrote {path}: {count} measured workloads; how long each runs on the whole GPU is drawn, not measured")
    print(path)
