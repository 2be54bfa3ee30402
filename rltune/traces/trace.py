"""A trace: a checked job table and where it comes from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np

from rltune.nouns.errors import InputError
from rltune.nouns.jobs import WHOLE, Category, JobTable

SOURCES = ("real", "calibrated", "synthetic", "user")
SIZE_CLASSES = {"1": 1, "2": 2, "3-4": 4, "5-8": 8, "9-16": 16, "17-32": 32, "33-64": 64, ">64": np.inf}
"""Name -> largest gang (GPUs) of the classes in which sizes are described."""
QUANTILES = {"p5": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p90": 0.9, "p99": 0.99, "max": 1.0}


@dataclass(frozen=True, slots=True, repr=False)
class Trace:
    """Jobs and their provenance.

    Attributes:
        name: what ``load_trace`` was asked for.
        source: "real", "calibrated", "synthetic" or "user" (a file given by its path).
        jobs: the job table, ``submit_s`` counted from ``origin``.
        origin: wall clock of second 0, naive local time; None where the source has none.
        sha256: of the job columns, see ``content_sha256``.
        files: base names of the files that were read.
        label: what screens and reports print.
        notes: what was left out, changed or assumed, one sentence each.
    """

    name: str
    source: str
    jobs: JobTable
    origin: datetime | None
    sha256: str
    files: tuple[str, ...]
    label: str
    notes: tuple[str, ...]

    @classmethod
    def of(
        cls,
        jobs: JobTable,
        *,
        name: str,
        source: str,
        origin: datetime | None = None,
        files: tuple[str, ...] = (),
        label: str | None = None,
        notes: tuple[str, ...] = (),
    ) -> Trace:
        """A trace with its hash worked out; ``label`` is ``name`` unless given."""
        if source not in SOURCES:
            raise InputError(f"trace {name}: source {source!r} is unknown; known are {', '.join(SOURCES)}")
        return cls(name, source, jobs, origin, content_sha256(jobs), files, label or name, notes)

    def __len__(self) -> int:
        return len(self.jobs)

    def __repr__(self) -> str:
        """One line: a notebook would print every array."""
        return f"Trace({self.label}, {self.source}: {len(self):,} jobs, {self._span()})"

    def take(self, rows: slice) -> Trace:
        """The consecutive jobs of ``rows``; times stay relative to the same origin."""
        jobs = self.jobs.take(rows)
        return replace(self, jobs=jobs, sha256=content_sha256(jobs))

    def window(self, start: int, n: int = 256) -> Trace:
        """``n`` consecutive jobs from index ``start``."""
        total = len(self)
        if n < 1 or start < 0 or start + n > total:
            valid = f"start from 0 to {total - n}" if 1 <= n <= total else f"n from 1 to {total}"
            raise InputError(f"trace {self.name}: no window of {n} at {start} in {total} jobs; use {valid}")
        return self.take(slice(start, start + n))

    def between(self, begin: str | float | date, end: str | float | date) -> Trace:
        """Jobs submitted in [begin, end): ISO dates or times of the wall clock, or seconds."""
        low, high = self._second(begin), self._second(end)
        first, last = np.searchsorted(self.jobs.submit_s, [low, high])
        if first >= last:
            raise InputError(f"trace {self.name}: no job between {begin} and {end}; it spans {self._span()}")
        return self.take(slice(int(first), int(last)))

    def describe(self) -> dict[str, Any]:
        """Counts, rates, shares and quantiles, ready for JSON; seconds, hours and days as named."""
        jobs = self.jobs
        span_s = float(jobs.submit_s[-1] - jobs.submit_s[0])
        gpus = jobs.num_gpus * (jobs.gpu_milli / WHOLE)
        gpu_seconds = jobs.duration_s * gpus
        return {
            "name": self.name,
            "label": self.label,
            "source": self.source,
            "files": list(self.files),
            "sha256": self.sha256,
            "origin": None if self.origin is None else self.origin.isoformat(sep=" "),
            "jobs": len(jobs),
            "span_days": round(span_s / 86400, 3),
            "arrivals_per_h": round(len(jobs) / span_s * 3600, 3) if span_s else None,
            "mean_gpus": round(float(gpus.mean()), 3),
            "size_share_pct": _size_shares(jobs),
            "duration_s": {k: float(np.quantile(jobs.duration_s, q)) for k, q in QUANTILES.items()},
            "mean_duration_s": round(float(jobs.duration_s.mean()), 1),
            "implied_busy_gpus": round(float(gpu_seconds.sum()) / span_s, 1) if span_s else None,
            "gpu_types": _shares_of(jobs.gpu_type, "any"),
            "slices": _shares_of(jobs.mig, "whole"),
            "shares_of_a_gpu": int(((jobs.gpu_milli < WHOLE) & (jobs.gpu_milli > 0)).sum()),
            "users": _distinct(jobs.user),
            "vcs": _distinct(jobs.vc),
            "notes": list(self.notes),
        }

    def _second(self, when: str | float | date) -> float:
        if isinstance(when, int | float) and not isinstance(when, bool):
            return float(when)
        try:
            clock = datetime.fromisoformat(str(when))
        except ValueError:
            raise InputError(
                f"trace {self.name}: {when!r} is no date; use seconds, YYYY-MM-DD or YYYY-MM-DD HH:MM:SS"
            ) from None
        if self.origin is None:
            raise InputError(f"trace {self.name} has no wall clock; use seconds instead of {when!r}")
        if clock.tzinfo is not None:
            raise InputError(f"trace {self.name}: {when!r} has a time zone; use local time without one")
        return (clock - self.origin).total_seconds()

    def _span(self) -> str:
        first, last = float(self.jobs.submit_s[0]), float(self.jobs.submit_s[-1])
        if self.origin is None:
            return f"{first:.0f} s to {last:.0f} s"
        return f"{self.origin + timedelta(seconds=first)} to {self.origin + timedelta(seconds=last)}"


def content_sha256(jobs: JobTable) -> str:
    """Hash of submit, duration, GPUs and ids, then of every optional column that holds a value.

    The same jobs give the same hash whatever file, name or machine they come from.
    """
    digest = hashlib.sha256()
    for array, kind in ((jobs.submit_s, "<f8"), (jobs.duration_s, "<f8"), (jobs.num_gpus, "<i4")):
        digest.update(np.ascontiguousarray(array, dtype=kind).tobytes())
    digest.update("\0".join(jobs.job_id).encode())
    for column in ("vc", "user", "gpu_type", "name", "status", "mig", "ways"):
        category: Category = getattr(jobs, column)
        if (category.codes >= 0).any():
            digest.update(f"\n{column}\n".encode())
            digest.update("\0".join(value or "" for value in category.values()).encode())
    for column, absent in (
        ("priority", 0.0),
        ("cpus", 0.0),
        ("memory_gb", 0.0),
        ("wait_s", -1.0),
        ("requested_s", -1.0),
        ("gpu_milli", float(WHOLE)),
    ):
        values = np.nan_to_num(np.asarray(getattr(jobs, column), np.float64), nan=absent)
        if (values != absent).any():
            digest.update(f"\n{column}\n".encode())
            digest.update(values.astype("<f8").tobytes())
    return digest.hexdigest()


def _size_shares(jobs: JobTable) -> dict[str, float]:
    place = np.searchsorted(list(SIZE_CLASSES.values()), jobs.num_gpus)
    share = np.bincount(place, minlength=len(SIZE_CLASSES)) / len(jobs) * 100
    return {name: round(float(pct), 2) for name, pct in zip(SIZE_CLASSES, share, strict=True)}


def _shares_of(category: Category, absent: str) -> dict[str, float]:
    """Per cent of the jobs by name, most first; ``absent`` for those without."""
    counts = np.bincount(category.codes + 1, minlength=len(category.names) + 1)
    pairs = zip((absent, *category.names), counts / len(category.codes) * 100, strict=True)
    return {name: round(float(share), 2) for name, share in sorted(pairs, key=lambda one: -one[1]) if share}


def _distinct(category: Category) -> int:
    return len(np.unique(category.codes[category.codes >= 0]))
