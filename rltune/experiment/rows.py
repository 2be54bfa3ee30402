"""The rows of an evaluation: who decided, and what their schedules come to, each and against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from rltune.core.choices import FASTEST
from rltune.nouns.metrics import ci95, distribution, iqm, reduction, widest
from rltune.policies.knowledge import RUNTIMES
from rltune.report.tables import guard_text
from rltune.rl.policy_file import BASELINE, PARENT
from rltune.simulator.result import DAY_S, Result
from rltune.simulator.usage import POOL_STEPS, step_of

METRICS = ("wait_s", "jct_s", "bsld", "slowdown")
COMPARED = ("wait_s", "jct_s", "bsld")
CURVES = 7
"""Lines in the CDF figure beside the learned ones."""
LEARNED, SEARCHED = "learned", "cma"
"""What the tables call the policy of a checkpoint: one that learned to go by what it sees; constants that a search has found."""


@dataclass(frozen=True)
class Row:
    """One line of the table: who decided, knowing what, and the schedules of all windows.

    ``baseline``: the order that a learned policy corrects, None for heuristics; ``kept``: what training kept for a
    learned row (an epoch, the baseline order, a parent); ``model``: name of a shipped one; ``ways``: rule of ways; ``recipe``: equal for
    policies that differ in their ``seed`` alone; ``allocator_stats``: the MILP's counters.
    """

    name: str
    policy: str
    backfill: str
    runtimes: str
    allocator: str
    results: list[Result]
    baseline: str | None = None
    kept: str | None = None
    model: str | None = None
    recipe: str = ""
    seed: int | None = None
    ways: str = FASTEST
    allocator_stats: dict[str, Any] = field(default_factory=dict)

    @property
    def learned(self) -> bool:
        return self.baseline is not None

    def values(self, metric: str) -> list[npt.NDArray[np.float64]]:
        """Per-job values by window."""
        return [result.scores()[metric] for result in self.results]


def blocks_of(row: Row) -> npt.NDArray[np.int64]:
    """The resampling unit of every job: its window, or its day of submission where there is one window."""
    if len(row.results) > 1:
        return np.repeat(np.arange(len(row.results)), [int(r.finished.sum()) for r in row.results])
    result = row.results[0]
    return np.floor(result.jobs.submit_s[result.finished] / DAY_S).astype(np.int64)


def summarise(row: Row) -> dict[str, Any]:
    """Metrics of one row as in summary.json. Intervals resample windows (days for a month)."""
    blocks = blocks_of(row)
    out: dict[str, Any] = {
        "policy": row.policy,
        "backfill": row.backfill,
        "runtimes": row.runtimes,
        "allocator": row.allocator,
        "learned": row.learned,
        "baseline": row.baseline,
        "kept": row.kept,
        "model": row.model,
        "allocator_stats": row.allocator_stats,
    }
    for metric in METRICS:
        by_window = row.values(metric)
        out[metric] = distribution(np.concatenate(by_window), blocks)
        if len(by_window) > 1:
            means = np.array([v.mean() for v in by_window if len(v)])
            out[metric] |= {
                "window_median": float(np.median(means)),
                "window_median_ci95": ci95(means, statistic="median"),
                "window_iqm": float(iqm(means)),
                "window_iqm_ci95": ci95(means, statistic="iqm"),
            }
    gpus = np.concatenate([r.jobs.num_gpus[r.finished] for r in row.results])
    wide = widest(gpus)
    out["wait_s_widest5pct"] = distribution(np.concatenate(row.values("wait_s"))[wide], blocks[wide])
    for name in ("utilization", "fragmentation", "makespan_s"):
        values = np.array([getattr(result, name)() for result in row.results])
        out[name] = {"mean": float(values.mean()), "ci95": ci95(values)}
    out["energy_kwh"] = energy_over([result.energy_kwh() for result in row.results])
    out["bounds"] = bounds_over(row.results)
    out["unfinished"] = int(sum((~result.finished).sum() for result in row.results))
    if "guard" in row.results[0].extra:
        out["guard"] = guard_over([result.extra["guard"] for result in row.results])
    return out


def energy_over(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Energy of several simulations together, as `rltune.simulator.usage.energy_kwh` tells that of one."""
    if found[0]["mean"] is None:
        return found[0]
    total = {
        name: {kind: sum(each["by_type"][name][kind] for each in found) for kind in part}
        for name, part in found[0]["by_type"].items()
    }
    return {"mean": sum(each["mean"] for each in found), "by_type": total}


def bounds_over(results: Sequence[Result]) -> dict[str, Any]:
    """Lower bounds of mean JCT and wait over the jobs of several simulations, as `Result.bounds` tells those of one."""
    found, weights = [result.bounds() for result in results], [int(result.finished.sum()) for result in results]
    reasons = [each["reason"] for each in found if "reason" in each]
    if reasons:
        return {"reason": reasons[0]}
    # Bounds that allow for interruptions hold without them too; the others do not hold with them.
    if len({each["preemptive"] for each in found}) > 1:
        return {"reason": "jobs were interrupted in some windows only, and the bounds are of two kinds"}
    out: dict[str, Any] = {"preemptive": found[0]["preemptive"]}
    for name in ("jct_s", "wait_s"):
        least, reached = (
            float(np.average([each[name][key] for each in found], weights=weights)) for key in ("bound", "reached")
        )
        out[name] = {"bound": least, "reached": reached, "above": reached / least - 1 if least > 0 else None}
    return out


def guard_over(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What a guard found in several simulations, as in one; see `rltune.rl.guarded.Guarded.summary`."""
    checks = [each["checks"] for each in found]
    out = {name: sum(each[name] for each in found) for name in ("checks", "checks_for_learned", "switches")}

    def over_checks(values: Sequence[float]) -> float:
        return float(np.dot(values, checks) / max(1, sum(checks)))

    return {
        **{name: found[0][name] for name in ("rules", "ahead_s", "every_s")}, **out,
        "decisions": {who: sum(each["decisions"][who] for each in found) for who in found[0]["decisions"]},
        "mean_cost": {
            name: over_checks([each["mean_cost"].get(name, 0.0) for each in found]) for name in ("learned", *found[0]["rules"])
        },
        "s_a_check": over_checks([each["s_a_check"] for each in found]),
    }  # fmt: skip


def comparisons(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Each learned row, and the mean of several seeds, against every row that knows no more.

    Paired by window (by day for a month). Rows that ran other jobs cannot be compared:
    their reduction is None, with the reason.
    """
    out = []
    groups = [[row] for row in rows if row.learned] + seed_groups(rows)
    for group in groups:
        first = group[0]
        name = first.name if len(group) == 1 else mean_name(group)
        for theirs in rows:
            if any(theirs is row for row in group) or RUNTIMES.index(theirs.runtimes) < RUNTIMES.index(first.runtimes):
                continue
            for metric in COMPARED:
                found = {"reduction": None, "ci95": [None, None], "reason": "they did not run the same jobs"}
                if all(same_jobs(row, theirs) for row in group):
                    ours = np.mean([np.concatenate(row.values(metric)) for row in group], axis=0)
                    found = reduction(ours, np.concatenate(theirs.values(metric)), pairs=blocks_of(first))
                out.append({"policy": name, "against": theirs.name, "metric": metric, **found})
    return out


def against_best(rows: Sequence[Row], metric: str) -> list[dict[str, Any]]:
    """Each row against the best rule (by ``metric``) that knows no more than it does, paired as `comparisons`.

    "against" is None for that rule itself.
    """
    out = []
    for row in rows:
        known = RUNTIMES.index(row.runtimes)
        rules = [each for each in rows if not each.learned and RUNTIMES.index(each.runtimes) >= known]
        best = min(rules, key=lambda each: _mean(each, metric), default=row)
        for each in COMPARED:
            found: dict[str, Any] = {"reduction": None, "ci95": [None, None]}
            if best is not row and same_jobs(row, best):
                ours, theirs = (np.concatenate(one.values(each)) for one in (row, best))
                found = reduction(ours, theirs, pairs=blocks_of(row))
            elif best is not row:
                found["reason"] = "they did not run the same jobs"
            out.append({"policy": row.name, "against": None if best is row else best.name, "metric": each, **found})
    return out


def same_jobs(one: Row, other: Row) -> bool:
    """Whether both rows ran the same jobs of every window."""
    return all(np.array_equal(a.finished, b.finished) for a, b in zip(one.results, other.results, strict=True))


def seed_groups(rows: Sequence[Row]) -> list[list[Row]]:
    """Learned rows that differ in their seed alone; groups of at least two seeds, each once."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row.learned:
            key = (row.recipe, row.baseline, row.backfill, row.runtimes, row.allocator)
            groups.setdefault(key, []).append(row)
    return [group for group in groups.values() if len({row.seed for row in group}) == len(group) > 1]


def mean_name(group: Sequence[Row]) -> str:
    first = group[0]
    placed = "+milp" if first.allocator == "milp" else ""
    return f"{first.name.partition('-')[0]}-{first.backfill}-{first.runtimes}{placed}, mean of {len(group)}"


def over_seeds(group: Sequence[Row], metric: str) -> dict[str, Any]:
    """Mean, smallest and largest value of a metric over seeds."""
    sign = 1 if metric in METRICS else -1
    values = [sign * _mean(row, metric) for row in group]
    facts = {"metric": metric, "mean": float(np.mean(values)), "min": min(values), "max": max(values)}
    return {"policy": mean_name(group), "rows": [row.name for row in group], **facts}


def notes(rows: Sequence[Row], seeds: Sequence[dict[str, Any]], metric: str) -> list[str]:
    """What the reader of a table must know beside its figures."""
    out = [f"{s['policy']}: {metric} {s['mean']:,.5g} ({s['min']:,.5g} to {s['max']:,.5g})" for s in seeds]
    out += [f"{row.name}: training kept its baseline order {row.baseline}" for row in rows if row.kept == BASELINE]
    out += [f"{row.name}: training kept the policy that it began with" for row in rows if row.kept == PARENT]
    out += [
        f"{row.name}: {guard_text(guard_over([r.extra['guard'] for r in row.results]))}"
        for row in rows if "guard" in row.results[0].extra
    ]  # fmt: skip
    return out


def per_window(rows: Sequence[Row], metric: str) -> pd.DataFrame:
    """Mean by window (by day of submission for a month): columns policy, window, value."""
    if metric not in METRICS:
        return pd.DataFrame(
            [(row.name, k, getattr(r, metric)()) for row in rows for k, r in enumerate(row.results)],
            columns=["policy", "window", "value"],
        )
    frames = []
    for row in rows:
        values, blocks = np.concatenate(row.values(metric)), blocks_of(row)
        mean = pd.Series(values).groupby(blocks).mean()
        frames.append(pd.DataFrame({"policy": row.name, "window": mean.index, "value": mean.to_numpy()}))
    return pd.concat(frames, ignore_index=True)


def curve_rows(rows: Sequence[Row], metric: str) -> list[Row]:
    """The learned rows, blocking FIFO, and the best others by what is known of run times: what figures can show."""
    learned = [row for row in rows if row.learned]
    others = sorted((row for row in rows if not row.learned), key=lambda row: _mean(row, metric))
    best: list[Row] = [row for row in others if row.name == "fifo-blocking"]
    for runtimes in RUNTIMES:
        best += [row for row in others if row.runtimes == runtimes and row.name != "fifo-blocking"][:2]
    best += [row for row in others if row.policy == "fifo" and all(row is not one for one in best)]
    for row in others:
        # Where little is known of run times these are few: the best of further policies, each once.
        if len(best) < CURVES and all(row.policy != one.policy for one in best):
            best.append(row)
    return learned + best[:CURVES]


def _mean(row: Row, metric: str) -> float:
    if metric in METRICS:
        return float(np.concatenate(row.values(metric)).mean())
    return -float(np.mean([getattr(result, metric)() for result in row.results]))


def per_job(rows: Sequence[Row], starts: Sequence[int]) -> pd.DataFrame:
    """One line a job and row: policy, window (first job), what was asked, when it ran and its scores, as `rltune.simulate` has them."""
    frames = []
    for row in rows:
        for start, result in zip(starts, row.results, strict=True):
            ran, jobs = result.finished, result.jobs
            asked = {
                "job_id": jobs.job_id[ran],
                "submit_s": jobs.submit_s[ran],
                "start_s": result.start_s[ran],
                "end_s": result.end_s[ran],
                "duration_s": jobs.duration_s[ran],
                "num_gpus": jobs.num_gpus[ran],
                "vc": jobs.vc.values()[ran],
                "priority": jobs.priority[ran],
            }
            frames.append(pd.DataFrame({"policy": row.name, "window": start, **asked, **result.scores()}))
    return pd.concat(frames, ignore_index=True)


def per_pool(rows: Sequence[Row]) -> pd.DataFrame:
    """Pools over time (`Result.pool_timeline`), a column policy first; of rows with one window, all in the same steps."""
    results = {row.name: row.results[0] for row in rows}
    step_s = step_of(max(result.makespan_s() for result in results.values()), POOL_STEPS)
    frames = [result.pool_timeline(step_s).assign(policy=name) for name, result in results.items()]
    return pd.concat(frames, ignore_index=True)
