"""Tasks of a batch: how long each takes on each profile of each GPU model; and the CSV they come in."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rltune.mig.geometry import Geometry, geometry
from rltune.nouns.documents import parse_csv, read_bytes, text_of, uncell
from rltune.nouns.errors import InputError

OWN_COLUMNS = ("task", "model", "memory_gb", "batch", "arrival_s")
"""Columns of the CSV that are no profile."""

RANGE = (1e-6, 1e9)
"""Seconds (and GB) that a file may give: beyond them lies a mistaken unit."""


@dataclass(frozen=True)
class Tasks:
    """One batch.

    ``names`` (n_tasks,); ``seconds``: GPU model -> (n_tasks, n_profiles) run times in the order of
    ``geometry(model).profiles``, infinite where a task cannot run; ``arrival_s`` when the batch becomes known.
    """

    names: tuple[str, ...]
    seconds: Mapping[str, npt.NDArray[np.float64]]
    arrival_s: float = 0.0
    label: str = ""

    def __post_init__(self) -> None:
        if not self.names:
            raise InputError("the batch has no tasks; give at least one")
        for model, table in self.seconds.items():
            if table.shape != (len(self.names), len(geometry(model).profiles)):
                raise InputError(f"times on {model} have shape {table.shape}; give a row a task and a column a profile")
            if np.isnan(table).any() or (table <= 0).any():
                raise InputError(f"times on {model} must be positive seconds, or infinite where a task cannot run")
            table.setflags(write=False)
        runs = np.any([np.isfinite(table).any(1) for table in self.seconds.values()], axis=0)
        if not runs.all():
            raise InputError(
                f"task {self.names[int(np.argmin(runs))]!r} fits no slice of {', '.join(self.seconds)}; give it a time "
                "on a larger profile, a GPU model with more memory, or leave it out"
            )

    def __len__(self) -> int:
        return len(self.names)


def tasks_of(model: str, columns: Mapping[str, npt.ArrayLike], names: Sequence[str] | None = None) -> Tasks:
    """A batch from columns of seconds: ``tasks_of("a100-80gb", {"1g": [...], "7g": [...]})``.

    A profile without a column cannot be used; nor may a task whose time is infinite, NaN or None use it.
    """
    table = geometry(model)
    # None becomes NaN.
    given = {name: np.asarray(values, np.float64) for name, values in columns.items()}
    length = len(next(iter(given.values()), ()))
    seconds = np.full((length, len(table.profiles)), np.inf)
    for name, column in given.items():
        if column.shape != (length,):
            raise InputError(f"column {name!r} has shape {column.shape}, the first ({length},); give one time a task")
        seconds[:, table.profile(name)] = np.where(np.isnan(column), np.inf, column)
    return Tasks(tuple(names or (f"task-{i}" for i in range(length))), {table.model: seconds})


def read_tasks(path: str | Path, models: Iterable[str]) -> list[Tasks]:
    """Batches of a CSV, in order of arrival.

    Columns: ``task``; a column a profile (``1g``, ``1g double``, ``3g.40gb``, ...) with seconds, empty where the task cannot
    run; optionally ``memory_gb``, by which profiles with less are ruled out (and ``1g double``, without a column of its
    own, takes as long as 1g); ``model``, a row a task and GPU model; ``batch``, a label; ``arrival_s``.

    Raises InputError naming file, line and remedy.
    """
    path = Path(path)
    tables = {table.model: table for table in map(geometry, models)}
    rows = _rows(path, tables)
    batches: dict[str, dict[str, list[_Row]]] = {}
    for row in rows:
        batches.setdefault(row.batch, {}).setdefault(row.task, []).append(row)
    if "" in batches and len(batches) > 1:
        raise InputError(f"{path}: some rows have no batch, others have; label all of them")
    if not batches:
        raise InputError(f"{path}: no tasks; give a row a task below the header")
    found = [_batch(path, label, members, tables) for label, members in batches.items()]
    return sorted(found, key=lambda batch: batch.arrival_s)


@dataclass(frozen=True, slots=True)
class _Row:
    where: str
    task: str
    batch: str
    model: str
    arrival_s: float
    seconds: npt.NDArray[np.float64]


def _rows(path: Path, tables: Mapping[str, Geometry]) -> list[_Row]:
    what = "a CSV with columns task,1g,2g,3g,4g,7g (seconds)"
    columns, rows = parse_csv(path, text_of(path, read_bytes(path, what)), {"task": "task,1g,2g,3g,4g,7g"})
    used = _profile_columns(path, columns, tables)
    return [_row(f"{path}: line {line}", cells, used, tables) for line, cells in rows]


def _profile_columns(path: Path, columns: list[str], tables: Mapping[str, Geometry]) -> dict[str, dict[str, int]]:
    """GPU model -> column -> profile. A column that is no profile of any model is an error."""
    if len(tables) > 1 and "model" not in columns:
        raise InputError(f"{path}: several GPU models need a column 'model'; a row a task and model")
    used: dict[str, dict[str, int]] = {model: {} for model in tables}
    refusal = ""
    for column in columns:
        if column in OWN_COLUMNS:
            continue
        known = False
        for model, table in tables.items():
            try:
                index = table.profile(column)
            except InputError as error:
                refusal = str(error)
                continue
            if index in used[model].values():
                raise InputError(f"{path}: line 1: {column!r} names a profile that another column names too; keep one")
            used[model][column] = index
            known = True
        if not known:
            raise InputError(f"{path}: line 1: column {column!r}: {refusal}; or {', '.join(OWN_COLUMNS)}")
    return used


def _row(
    where: str,
    cells: Mapping[str, str],
    used: Mapping[str, Mapping[str, int]],
    tables: Mapping[str, Geometry],
) -> _Row:
    task = uncell(cells["task"])
    if not task:
        raise InputError(f"{where}: the task has no name; give one")
    try:
        model = geometry(cells["model"]).model if cells.get("model") else next(iter(tables))
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    if model not in tables:
        raise InputError(f"{where}: model {model} is not among the GPUs asked for ({', '.join(tables)})")
    table = tables[model]
    seconds = np.full(len(table.profiles), np.inf)
    for column, profile in used[model].items():
        seconds[profile] = _number(where, column, cells[column], np.inf)
    lost = [c for c in cells if c not in OWN_COLUMNS and c not in used[model] and cells[c]]
    if lost:
        raise InputError(f"{where}: {model} has no profile {lost[0]!r}; leave that cell of the row empty")
    memory = _number(where, "memory_gb", cells.get("memory_gb", ""), 0.0)
    by_kind = {profile.kind: index for index, profile in enumerate(table.profiles)}
    double = by_kind.get("1g double")
    if memory and double is not None and double not in used[model].values():
        seconds[double] = seconds[by_kind["1g"]]
    seconds[[profile.memory_gb < memory for profile in table.profiles]] = np.inf
    arrival = _number(where, "arrival_s", cells.get("arrival_s", ""), 0.0, least=0.0)
    return _Row(where, task, cells.get("batch", ""), model, arrival, seconds)


def _number(where: str, column: str, text: str, empty: float, least: float | None = None) -> float:
    if not text:
        return empty
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if least is not None and not least <= value <= RANGE[1]:
        raise InputError(f"{where}: {column}={text!r} is no time; give seconds from 0, or leave it empty")
    if least is None and not RANGE[0] <= value <= RANGE[1]:
        raise InputError(
            f"{where}: {column}={text!r} is no positive number from {RANGE[0]:g} to {RANGE[1]:g}; "
            "give seconds (or GB), or leave it empty"
        )
    return value


def _batch(path: Path, label: str, members: Mapping[str, list[_Row]], tables: Mapping[str, Geometry]) -> Tasks:
    names = tuple(members)
    seconds = {model: np.full((len(names), len(table.profiles)), np.inf) for model, table in tables.items()}
    arrivals = set()
    for index, rows in enumerate(members.values()):
        for at, row in enumerate(rows):
            if any(row.model == other.model for other in rows[:at]):
                raise InputError(f"{row.where}: task {row.task!r} stands twice; give every task its own name")
            seconds[row.model][index] = row.seconds
            arrivals.add(row.arrival_s)
        if not any(np.isfinite(table[index]).any() for table in seconds.values()):
            raise InputError(
                f"{rows[0].where}: task {rows[0].task!r} fits no slice of {', '.join(tables)}; "
                "check memory_gb, give a time on a larger profile, or another GPU model"
            )
    if len(arrivals) > 1:
        raise InputError(f"{path}: batch {label!r}: its tasks have different arrival_s; a batch arrives at once")
    return Tasks(names, seconds, arrivals.pop(), label)
