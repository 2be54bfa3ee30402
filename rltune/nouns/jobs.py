"""The job table: a checked struct of arrays, one row a job, sorted by submit time."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from rltune.nouns.errors import InputError
from rltune.nouns.ways import parse_ways

NONE = -1
"""Code of an absent category (no VC, no user, any GPU type)."""
WHOLE = 1000
"""Thousandths of a whole GPU."""
LARGEST_EXACT = 2.0**53
"""Floats below stand for one integer each."""
LATEST_S = 1e11
"""Seconds beyond this (3,169 years) are none: milliseconds since 1970 are 1e12."""
ID = np.dtypes.StringDType()
"""Type of job ids: 16 bytes a name, where an object takes 60."""
CLOCK = ("datetime64", "datetime", "date", "timedelta64", "timedelta", "time")
"""Kinds of column that pandas would turn into nanoseconds since 1970."""


@dataclass(frozen=True, slots=True)
class Category:
    """A text column as integer codes: ``codes`` (n_jobs,) int32 into ``names``, read-only; -1 = absent."""

    codes: npt.NDArray[np.int32]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "codes", _frozen(self.codes))

    @classmethod
    def absent(cls, n: int) -> Category:
        return cls(_constant(NONE, n, np.int32), ())

    @classmethod
    def of(cls, values: Any, n: int) -> Category:
        """Codes for ``values`` (n,); None, NaN, "" and -1 count as absent; names are sorted, 3.0 is "3"."""
        if values is None:
            return cls.absent(n)
        text = _whole_numbers(pd.Series(values, dtype=object))
        gone = text.isna() | text.astype(str).isin(["", "-1"])
        codes, names = pd.factorize(text.astype(str).where(~gone, None), sort=True)
        return cls(codes.astype(np.int32), tuple(str(name) for name in names))

    def take(self, rows: Any) -> Category:
        return Category(_taken(self.codes, rows), self.names)

    def values(self) -> npt.NDArray[np.object_]:
        """(n_jobs,) names, None where absent."""
        lookup = np.array([*self.names, None], dtype=object)
        return lookup[self.codes]


@dataclass(frozen=True, slots=True, repr=False)
class JobTable:
    """Jobs sorted by ``submit_s``, then by id; every array has shape (n_jobs,) and is read-only.

    Ids sort as people count (job-2 before job-10), so that the order of rows in a file never matters;
    jobs without ids keep that order. A column without values takes no memory.

    Attributes:
        job_id: unique names (StringDType).
        submit_s: submission, seconds since the trace's own origin.
        duration_s: run time on the recorded hardware, seconds, >= 0.
        num_gpus: GPUs of the gang, >= 1 (of which each gives ``gpu_milli`` thousandths).
        vc, user, gpu_type, name, status: categories, absent = -1 (for ``gpu_type``: any; several
            accepted types are written "V100|P100").
        mig: name of the MIG profile asked for (such as "3g.20gb"), absent = whole or shared GPUs.
        priority: larger is more urgent; 0 where absent.
        cpus, memory_gb: further resources; 0 where absent.
        wait_s: recorded queueing delay of the original system, seconds; NaN where absent.
        requested_s: run time that the user asked for (time limit), seconds; NaN where absent.
        gpu_milli: share of its GPU in thousandths: 1000 = whole GPUs; less only with ``num_gpus`` = 1;
            0 = needs no GPU, but ``cpus`` and ``memory_gb`` of one node.
        ways: ways to run (`rltune.nouns.ways`), one of which is chosen at every start; absent = only what the other
            columns ask for. They stand in the place of num_gpus, gpu_milli, gpu_type and mig, which orders and metrics
            go on reading.
    """

    job_id: npt.NDArray[Any]
    submit_s: npt.NDArray[np.float64]
    duration_s: npt.NDArray[np.float64]
    num_gpus: npt.NDArray[np.int32]
    vc: Category
    user: Category
    gpu_type: Category
    name: Category
    status: Category
    mig: Category
    priority: npt.NDArray[np.float64]
    cpus: npt.NDArray[np.float64]
    memory_gb: npt.NDArray[np.float64]
    wait_s: npt.NDArray[np.float64]
    requested_s: npt.NDArray[np.float64]
    gpu_milli: npt.NDArray[np.int32]
    ways: Category

    def __len__(self) -> int:
        return len(self.submit_s)

    def __repr__(self) -> str:
        """One line: a notebook would print every array."""
        return f"JobTable({len(self):,} jobs; .to_frame() shows them)"

    @classmethod
    def from_columns(
        cls,
        columns: Mapping[str, Any],
        *,
        source: str = "jobs",
        rows: Sequence[int] | npt.NDArray[Any] | None = None,
    ) -> JobTable:
        """Check and sort columns named as the attributes; only submit_s, duration_s, num_gpus are needed.

        ``rows`` are the row numbers of the source (for messages; default 1, 2, ...).
        Raises InputError naming ``source``, the row, the column and the remedy.
        """
        missing = [c for c in ("submit_s", "duration_s", "num_gpus") if columns.get(c) is None]
        if missing:
            raise InputError(
                f"{source}: column {', '.join(missing)} is missing; needed are job_id, submit_s, duration_s, num_gpus"
            )
        n = _rows(columns["submit_s"], "submit_s", source)
        if n == 0:
            raise InputError(f"{source}: the trace is empty; at least one job is needed")
        for column in cls.__dataclass_fields__:
            if columns.get(column) is not None and (given := _rows(columns[column], column, source)) != n:
                raise InputError(f"{source}: column {column} has {given} rows, submit_s has {n}; give one value a job")
        place = np.arange(1, n + 1) if rows is None else np.asarray(rows)
        number = {
            c: _number(columns.get(c), c, n, source, place, default)
            for c, default in (
                ("submit_s", None),
                ("duration_s", None),
                ("num_gpus", None),
                ("priority", 0.0),
                ("cpus", 0.0),
                ("memory_gb", 0.0),
                ("wait_s", np.nan),
                ("requested_s", np.nan),
                ("gpu_milli", float(WHOLE)),
            )
        }
        ids = _ids(columns.get("job_id"), n, source, place)
        _refuse(number["submit_s"] < 0, "submit_s", "is negative", "use seconds >= 0", source, place, ids)
        _refuse(number["duration_s"] < 0, "duration_s", "is negative", "use seconds >= 0", source, place, ids)
        for column in ("cpus", "memory_gb"):
            _refuse(number[column] < 0, column, "is negative", "use 0 where none is asked for", source, place, ids)
        for column in ("submit_s", "duration_s"):
            what = f"is above {LATEST_S:g} (milliseconds?)"
            _refuse(number[column] > LATEST_S, column, what, "use seconds", source, place, ids)
        remedy = "leave it empty where it is not known"
        _refuse(number["wait_s"] < 0, "wait_s", "is negative", remedy, source, place, ids)
        _refuse(number["requested_s"] < 0, "requested_s", "is negative", "use seconds >= 0", source, place, ids)
        gpus = number["num_gpus"]
        bad = (gpus < 1) | (gpus != np.floor(gpus)) | (gpus > 1_000_000)
        _refuse(
            bad,
            "num_gpus",
            "is not a whole number from 1 to 1,000,000",
            "correct or remove the row",
            source,
            place,
            ids,
        )
        share = number["gpu_milli"]
        bad = (share < 0) | (share > WHOLE) | (share != np.floor(share)) | ((share < WHOLE) & (gpus > 1))
        remedy = "give 0 to 1000, and less than 1000 only with num_gpus 1"
        _refuse(bad, "gpu_milli", "is no share of its GPUs in thousandths", remedy, source, place, ids)
        order = _order(number["submit_s"], None if columns.get("job_id") is None else ids)
        texts = ("vc", "user", "gpu_type", "name", "status", "mig", "ways")
        category: dict[str, Any] = {c: Category.of(columns.get(c), n) for c in texts}
        _check_ways(category["ways"], source, place, ids)
        category = {c: column.take(order) for c, column in category.items()}
        whole = {"num_gpus": gpus.astype(np.int32), "gpu_milli": share.astype(np.int32)}
        numbers: dict[str, Any] = {c: _taken(column, order) for c, column in (number | whole).items()}
        return cls(job_id=_taken(ids, order), **numbers, **category)

    def take(self, rows: Any) -> JobTable:
        """The rows of a slice, mask or index array, in submit order."""
        if not isinstance(rows, slice):
            rows = np.sort(np.flatnonzero(rows)) if np.asarray(rows).dtype == bool else np.sort(np.asarray(rows))
        columns: dict[str, Any] = {}
        for field in self.__dataclass_fields__:
            column = getattr(self, field)
            columns[field] = column.take(rows) if isinstance(column, Category) else _taken(column, rows)
        return JobTable(**columns)

    def to_frame(self) -> pd.DataFrame:
        """One row a job, columns named as the attributes; absent categories are None."""
        return pd.DataFrame(
            {
                field: getattr(self, field).values()
                if isinstance(getattr(self, field), Category)
                else getattr(self, field)
                for field in self.__dataclass_fields__
            }
        )


def on_whole_gpus(jobs: JobTable) -> tuple[JobTable, tuple[str, ...]]:
    """The jobs as a simulation of whole GPUs takes them, and what was changed.

    A share of a GPU and a MIG slice become a whole GPU, of several ways to run only the request remains; jobs without a
    GPU are left out. InputError if none is left.
    """
    none = jobs.gpu_milli == 0
    if none.all():
        raise InputError("no job of the table asks for a GPU; at least one is needed")
    kept = jobs.take(~none)
    shares, slices = kept.gpu_milli < WHOLE, kept.mig.codes >= 0
    notes = tuple(
        f"{int(count)} jobs {what}"
        for count, what in (
            (shares.sum(), "that ask for a share of a GPU are given a whole one"),
            (slices.sum(), "that ask for a MIG slice are given a whole GPU"),
            ((kept.ways.codes >= 0).sum(), "that list several ways to run are given what their other columns ask for"),
            (none.sum(), "without a GPU left out"),
        )
        if count
    )
    n = len(kept)
    whole = _constant(WHOLE, n, np.int32)
    return replace(kept, gpu_milli=whole, mig=Category.absent(n), ways=Category.absent(n)), notes


def _constant(value: float, n: int, kind: Any) -> npt.NDArray[Any]:
    """(n,) times the same value, held once."""
    return np.broadcast_to(np.array(value, kind), n)


def _taken(column: npt.NDArray[Any], rows: Any) -> npt.NDArray[Any]:
    """The rows of a column, read-only; a constant stays one value."""
    if column.strides == (0,) and len(column):
        n = len(range(*rows.indices(len(column)))) if isinstance(rows, slice) else len(rows)
        return _constant(column[0], n, column.dtype)
    return _frozen(column[rows])


def _order(submit_s: npt.NDArray[np.float64], ids: npt.NDArray[Any] | None) -> Any:
    """Rows by submission, equal ones by id as people count; without ids in the order of the rows."""
    if ids is None and (np.diff(submit_s) >= 0).all():
        return slice(None)
    order = np.argsort(submit_s, kind="stable")
    if ids is None:
        return order
    ordered = submit_s[order]
    same = np.diff(ordered) == 0
    tied = np.flatnonzero(np.concatenate([[False], same]) | np.concatenate([same, [False]]))
    natural = [(_DIGITS.sub(lambda m: m.group().zfill(20), name), name) for name in ids[order[tied]]]
    rank = np.empty(len(tied), np.int64)
    rank[sorted(range(len(tied)), key=natural.__getitem__)] = np.arange(len(tied))
    order[tied] = order[tied][np.lexsort((rank, ordered[tied]))]
    return order


_DIGITS = re.compile(r"\d+")


def _frozen(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if array.strides == (0,):
        return array
    out = np.ascontiguousarray(array)
    if out is array or out.base is not None:
        out = out.copy()
    out.setflags(write=False)
    return out


def _rows(values: Any, column: str, source: str) -> int:
    if isinstance(values, str) or not hasattr(values, "__len__") or getattr(values, "ndim", 1) != 1:
        raise InputError(f"{source}: column {column} is no list of values; give one value a job")
    return len(values)


def _whole_numbers(column: pd.Series[Any]) -> pd.Series[Any]:
    """Whole floats as integers: a gap turns a column of integers into floats, and 0.0 is not the name "0"."""
    if pd.api.types.infer_dtype(column, skipna=True) not in ("floating", "mixed-integer-float"):
        return column
    number = pd.to_numeric(column)
    present = number.dropna()
    if not ((present % 1 == 0) & (present.abs() < LARGEST_EXACT)).all():
        return column
    return number.astype("Int64").astype(object)


def _number(
    values: Any, column: str, n: int, source: str, place: npt.NDArray[Any], default: float | None
) -> npt.NDArray[np.float64]:
    if values is None:
        assert default is not None
        return _constant(default, n, np.float64)
    series = pd.Series(np.asarray(values))
    if pd.api.types.infer_dtype(series, skipna=True) in CLOCK:
        raise InputError(
            f"{source}: column {column} holds dates or time spans; give seconds, e.g. (t - t.min()).dt.total_seconds()"
        )
    out = pd.to_numeric(series, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    empty = series.isna().to_numpy() if default is not None else np.zeros(n, bool)
    bad = ~np.isfinite(out) & ~empty
    if bad.any():
        row = int(np.argmax(bad))
        value = series.iloc[row]
        plain = value.item() if isinstance(value, np.generic) else value
        raise InputError(
            f"{source}: row {place[row]}: {column} is {plain!r}, which is not a finite number"
            f"{_more(bad)}; correct or remove the row"
        )
    return np.where(np.isfinite(out), out, np.nan if default is None else default)


def _ids(values: Any, n: int, source: str, place: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if values is None:
        return np.arange(n).astype(ID)
    ids = np.array([str(v) for v in values], dtype=ID)
    twice = pd.Series(ids.astype(object)).duplicated().to_numpy()
    if twice.any():
        row = int(np.argmax(twice))
        first = int(np.argmax(ids == ids[row]))
        raise InputError(
            f"{source}: row {place[row]}: job_id {ids[row]!r} stands already in row {place[first]}"
            f"{_more(twice)}; ids must be unique"
        )
    return ids


def _check_ways(ways: Category, source: str, place: npt.NDArray[Any], ids: npt.NDArray[Any]) -> None:
    """Refuse a text that lists no ways to run, by the first row that has it."""
    for code, text in enumerate(ways.names):
        try:
            parse_ways(text)
        except InputError as error:
            row = int(np.argmax(ways.codes == code))
            raise InputError(f"{source}: row {place[row]} (job {ids[row]}): ways: {error}") from None


def _refuse(
    bad: npt.NDArray[np.bool_],
    column: str,
    what: str,
    remedy: str,
    source: str,
    place: npt.NDArray[Any],
    ids: npt.NDArray[Any],
) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        raise InputError(f"{source}: row {place[row]} (job {ids[row]}): {column} {what}{_more(bad)}; {remedy}")


def _more(bad: npt.NDArray[np.bool_]) -> str:
    count = int(bad.sum()) - 1
    return f" (and {count} more rows)" if count else ""
