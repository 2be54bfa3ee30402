"""What was decided at a moment, and by what: the tables that a run with ``decisions=true`` leaves, as values for the page."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from rltune.nouns.errors import InputError
from rltune.simulator.recording import DECISIONS, LOG, LOG1P, METADATA_KEY, PLANS

MOST_TOLD = 50
"""Picks, or joint decisions, of one instant that are told."""
CLOCK_S = 1e-6
"""Rounding of a moment on its way through the page."""
MARKS = ("chosen", "runner-up", "")
"""Of a job in a decision; several are chosen where a rule starts several."""
LISTS = ("started", "job", "score", "legal")


@dataclass(frozen=True)
class Decisions:
    """The two tables of a run, as columns; lists have a row of ``ptr``. ``plans``: rows, None where no MILP decided."""

    about: dict[str, Any]
    columns: dict[str, npt.NDArray[Any]]
    ptr: dict[str, npt.NDArray[np.int64]]
    plans: list[dict[str, Any]] | None
    plans_about: dict[str, Any]
    plan_times_s: npt.NDArray[np.float64]

    def described(self) -> dict[str, Any]:
        """What the page needs to make its tables."""
        return self.about | {"milp": self.plans is not None, "solves": len(self.plans or ())}

    def at(self, at_s: float, names: Sequence[str]) -> dict[str, Any]:
        """The latest decisions up to a second: ``policy`` and ``milp``, None where there were none yet."""
        return {"policy": self._policy(at_s, names), "milp": self._milp(at_s)}

    def _policy(self, at_s: float, names: Sequence[str]) -> dict[str, Any] | None:
        rows = latest(self.columns["time_s"], at_s)
        if not len(rows):
            return None
        told = [self._row(int(k), names) for k in rows[:MOST_TOLD]]
        return {"time": float(self.columns["time_s"][rows[0]]), "count": len(rows), "steps": told}

    def _row(self, k: int, names: Sequence[str]) -> dict[str, Any]:
        """One decision: jobs as rows with their features, and what was chosen."""
        one = {
            name: self.columns[name][k]
            for name in ("waiting", "chosen", "runner_up", "chosen_p", "runner_up_p", "wait_score")
        }
        part = {name: self.columns[name][slice(*self.ptr[name][k : k + 2])] for name in self.ptr}
        started, chosen, second = set(part["started"].tolist()), int(one["chosen"]), int(one["runner_up"])
        features = [told(part[f"job_{x['name']}"], x) for x in self.about["features"]]
        jobs = [
            {"job": job, "name": names[job], "score": number(part["score"][i]), "legal": bool(part["legal"][i]),
             "mark": "chosen" if job == chosen or job in started else "runner-up" if job == second else "",
             "features": [column[i] for column in features]}
            for i, job in enumerate(part["job"].tolist())
        ]  # fmt: skip
        # Who starts on top; then as the policy has them, which is by score where it picks.
        if self.about["picks"]:
            jobs.sort(key=lambda row: math.inf if row["score"] is None else -row["score"])
        jobs.sort(key=lambda row: MARKS.index(row["mark"]))
        return {
            "waiting": int(one["waiting"]), "jobs": jobs, "started": len(started),
            "chosen": {"job": chosen, "name": names[chosen] if chosen >= 0 else None, "p": number(one["chosen_p"])},
            "runner_up": {"job": second, "name": names[second] if second >= 0 else None, "p": number(one["runner_up_p"])},
            "wait_score": number(one["wait_score"]),
            "seen": [told(self.columns[f"seen_{x['name']}"][k : k + 1], x)[0] for x in self.about["seen"]],
            "levers": [number(self.columns[f"lever_{x}"][k]) for x in self.about["levers"]],
        }  # fmt: skip

    def _milp(self, at_s: float) -> dict[str, Any] | None:
        rows = latest(self.plan_times_s, at_s)
        if self.plans is None or not len(rows):
            return None
        steps = [self._plan(self.plans[k]) for k in rows[:MOST_TOLD]]
        return {"time": float(self.plan_times_s[rows[0]]), "count": len(rows), "steps": steps}

    def _plan(self, row: dict[str, Any]) -> dict[str, Any]:
        """One joint decision: a line for each level of the objective and each of its terms."""
        other, lines = row["runner_up"] is not None, []
        for k, level in enumerate(self.plans_about["levels"]):
            for term, weight in level.items():
                # What is to be large counts negatively in an objective that is to be small.
                sign = -weight if term == "value" else weight
                lines.append({
                    "level": k + 1, "term": term, "weight": sign, "chosen": number(sign * row[f"winner_{term}"]),
                    "runner_up": number(sign * row[f"runner_up_{term}"]) if other else None, "bound": None,
                })  # fmt: skip
            lines.append({
                "level": k + 1, "term": "sum", "weight": None, "chosen": number(row["objective"][k]),
                "runner_up": number(row["runner_up_objective"][k]) if other else None,
                "bound": number(row["bound"][k]) if row["bound"] is not None else None,
            })  # fmt: skip
        plain = ("jobs", "starts", "status", "winner", "reason", "runner_up", "states")
        return (
            {name: row[name] for name in plain}
            | {name: number(row[name]) for name in ("gap", "solve_s")}
            | {"lines": lines}
        )


def latest(times_s: npt.NDArray[np.float64], at_s: float) -> npt.NDArray[np.int64]:
    """Rows of the last instant up to a second; ``times_s`` ascend."""
    end = int(np.searchsorted(times_s, at_s + CLOCK_S, "right"))
    return np.arange(np.searchsorted(times_s, times_s[end - 1]), end) if end else np.arange(0)


def told(seen: npt.NDArray[Any], feature: dict[str, Any]) -> list[Any]:
    """Values in the unit of a feature (`rltune.simulator.recording.Feature`); text where a logarithm was clipped."""
    kind, scale = feature["kind"], feature["scale"]
    if kind not in (LOG, LOG1P):
        return [number(x) for x in seen]
    value = np.expm1(seen.astype(np.float64) / scale) + (kind == LOG)
    return [number(x) for x in value]


def number(value: Any) -> float | None:
    """None for what is no number: JSON has none of these."""
    return float(value) if value is not None and math.isfinite(value) else None


def decisions_in(run: Path, jobs: int) -> Decisions | None:
    """What a run directory holds of its decisions; None: nothing. InputError for tables that cannot be read.

    ``jobs``: how many its table of jobs has.
    """
    if not (run / DECISIONS).is_file():
        return None
    table, about = read(run / DECISIONS)
    columns: dict[str, npt.NDArray[Any]] = {}
    ptr: dict[str, npt.NDArray[np.int64]] = {}
    try:
        for name in table.column_names:
            column = table[name].combine_chunks()
            if pa.types.is_list(column.type):
                ptr[name] = column.offsets.to_numpy().astype(np.int64)
                columns[name] = column.values.to_numpy(zero_copy_only=False)
            else:
                columns[name] = column.to_numpy(zero_copy_only=False)
        lacking = [
            name for name in ("time_s", *LISTS, *(f"job_{x['name']}" for x in about["features"])) if name not in columns
        ]
    except (KeyError, TypeError, ValueError, pa.ArrowException) as error:
        raise InputError(
            f"{run / DECISIONS}: cannot be read ({error}); make the run anew with decisions=true"
        ) from None
    if lacking:
        raise InputError(f"{run / DECISIONS}: column {lacking[0]} is missing; make the run anew with decisions=true")
    if columns["job"].max(initial=-1) >= jobs:
        raise InputError(f"{run / DECISIONS}: a job that jobs.parquet lacks; make the run anew with decisions=true")
    plans, plans_about = (None, {}) if not (run / PLANS).is_file() else read(run / PLANS)
    rows = None if plans is None else plans.to_pylist()
    return Decisions(
        about, columns, ptr, rows, plans_about, np.array([row["time_s"] for row in rows or []], np.float64)
    )


def read(path: Path) -> tuple[pa.Table, dict[str, Any]]:
    """A table and what its metadata say of it; InputError."""
    try:
        table = pq.read_table(path)
        about: dict[str, Any] = json.loads((table.schema.metadata or {})[METADATA_KEY])
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: cannot be read ({why}); make the run anew with decisions=true") from None
    return table, about
