"""What the page shows: scenes (the same jobs on the same machines, by several policies), and learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

METRICS = ("wait_s", "jct_s", "bsld", "slowdown")
"""Of a job; the smaller the better."""
COMPARED = ("wait_s", "jct_s", "bsld")
"""Those with an interval against the best rule."""
STAMPS = {"calibrated": "Calibrated synthetic", "synthetic": "Synthetic"}
"""Source of a trace -> what is stamped on whatever rests on it."""
SHOWN = 8
"""Lines of a figure at most."""
LEARNED_SHOWN = 3
FEW = 4


@dataclass(frozen=True)
class Scene:
    """One set of jobs on one cluster.

    Attributes:
        name: of its files; title, says: what it is and why it is here.
        source: of its trace: real, calibrated, synthetic, user.
        facts: (what, value) pairs: trace, jobs, cluster, load, protocol, command, ...
        metric: by which rows are ranked.
        rows: one a policy, the best first: row, label, policy, learned, model, runtimes, unfinished; of each metric X of `METRICS`
            X, X_low, X_high, X_p50, X_p95, X_p99, X_max; of `COMPARED`
            gain_X, gain_X_low, gain_X_high (less than under ``against``); utilization,
            fragmentation, makespan_s, energy_kwh, bound_X, above_X. NaN where there is none.
        energy: row, gpu_type, busy, idle in kWh; no rows where ``no_energy`` says why.
        jobs: one a finished job and shown policy: row, submit_s, num_gpus, vc, priority, metrics.
        pools: `rltune.simulator.pools.pool_timeline` of the shown policies, with row; None where ``no_pools`` says why.
        remarks: sentences a reader must know.
    """

    name: str
    title: str
    says: str
    source: str
    facts: Sequence[tuple[str, str]]
    metric: str
    rows: pd.DataFrame
    energy: pd.DataFrame
    jobs: pd.DataFrame
    pools: pd.DataFrame | None
    no_energy: str = ""
    no_pools: str = ""
    no_bound: str = ""
    remarks: Sequence[str] = field(default_factory=tuple)

    @property
    def stamp(self) -> str:
        """What must stand on whatever is made of the scene; empty for real jobs."""
        return STAMPS.get(self.source, "")

    @cached_property
    def shown(self) -> list[str]:
        """Rows of the figures, at most `SHOWN`: one a model, plain FIFO, the best rule of each knowledge, further rules. All have jobs."""
        rows = self.rows[self.rows["row"].isin(set(self.jobs["row"]))]
        learned = rows[rows.learned].drop_duplicates("model" if rows.model.any() else "row").head(LEARNED_SHOWN)
        rules = rows[~rows.learned & ~rows["row"].str.contains("+", regex=False)]
        chosen = [
            *rules[rules["row"].str.startswith("fifo-")].head(2)["row"],
            *rules.drop_duplicates("runtimes")["row"],
            *rules.drop_duplicates("policy")["row"],
            *rules["row"],
        ]
        room = set(list(dict.fromkeys(chosen))[: SHOWN - len(learned)])
        return [*learned["row"], *(row for row in rules["row"] if row in room)]

    @cached_property
    def _labels(self) -> dict[str, str]:
        return dict(zip(self.rows["row"], self.rows.label, strict=True))

    def label(self, row: str) -> str:
        """What a row is called."""
        return self._labels[row]

    @cached_property
    def few(self) -> list[str]:
        """Rows of figures over time, at most `FEW`: the best learned one, the best rules of different names, and FIFO."""
        rows = self.rows[self.rows["row"].isin(self.shown)]
        rules = rows[~rows.learned].drop_duplicates("policy")["row"]
        fifo = [row for row in rules if row.startswith("fifo-")][:1]
        best = [row for row in rules if row not in fifo]
        learned = list(rows[rows.learned].head(1)["row"])
        return [*learned, *best[: FEW - len(learned) - len(fifo)], *fifo]

    def is_learned(self, row: str) -> bool:
        """Whether a row is of a learned policy."""
        return row in set(self.rows["row"][self.rows.learned])


@dataclass(frozen=True)
class Curve:
    """Learning curves of one training, a seed each.

    Attributes:
        title: of the training; unit: of the values, e.g. "mean wait on validation windows (s)".
        seeds: name -> frame with steps, value, epoch of the judged epochs.
        baseline: value of the policy that it began with, None where there is none.
        kept: name -> epoch that was kept, None where none was.
        says: what was kept, in words.
    """

    name: str
    title: str
    unit: str
    seeds: dict[str, pd.DataFrame]
    baseline: float | None
    kept: dict[str, int | None]
    says: str


@dataclass(frozen=True)
class Page:
    """All of it. ``made``: (what, value) pairs of how; ``no_curves``: why there are no learning curves."""

    title: str
    scenes: Sequence[Scene]
    curves: Sequence[Curve]
    made: Sequence[tuple[str, str]]
    remarks: Sequence[str] = field(default_factory=tuple)
    no_curves: str = ""


def ranked(rows: list[dict[str, Any]], metric: str) -> pd.DataFrame:
    """Rows of a scene, the best first."""
    frame = pd.DataFrame(rows)
    return frame.sort_values(
        metric, ascending=metric != "utilization", kind="stable", na_position="last", ignore_index=True
    )
