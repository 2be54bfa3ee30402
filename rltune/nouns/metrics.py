"""Scores of a schedule, each defined once, with bootstrap intervals.

For a job with wait w and run time r (seconds):
    wait = w, JCT (turnaround) = w + r, slowdown = (w + r) / max(r, 1),
    bounded slowdown = max(1, (w + r) / max(r, 10))   (Feitelson, JSSPP 2001; bound 10 s)
A job that was interrupted, or ran on other hardware than recorded, has w = all its time without GPUs and
JCT = end - submission; r stays the recorded run time.
Makespan = last end - first submit. Utilisation = GPU-seconds held / (makespan x cluster GPUs).
Jobs without an end count as unfinished and enter no mean.
Over time: `steps` and `area`; a time-weighted mean is an area over its time. Fairness: `rltune.nouns.fairness`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rltune.nouns.errors import InputError

FloatArray = npt.NDArray[np.float64]

BOUND_S = 10.0
"""Run times below this count as this in the bounded slowdown."""
SCORES = ("bsld", "wait", "jct", "utilization", "slowdown")
"""What may be trained for; utilization is maximised, the others are minimised."""
SCORE_METRIC = {"bsld": "bsld", "wait": "wait_s", "jct": "jct_s", "utilization": "utilization", "slowdown": "slowdown"}
RESAMPLES = 2000
WIDEST_SHARE = 0.05
STARVED_S = 86_400.0
"""A job that waits longer counts as starved."""


def check_score(score: str) -> str:
    if score not in SCORES:
        raise InputError(f"score={score!r} is unknown; known are {', '.join(SCORES)}")
    return score


def job_scores(wait_s: FloatArray, run_s: FloatArray, jct_s: FloatArray | None = None) -> dict[str, FloatArray]:
    """Per-job scores, arrays of the shape of ``wait_s``; ``jct_s`` where it is not wait + run time."""
    jct = wait_s + run_s if jct_s is None else jct_s
    return {
        "wait_s": wait_s,
        "jct_s": jct,
        "bsld": np.maximum(1.0, jct / np.maximum(run_s, BOUND_S)),
        "slowdown": jct / np.maximum(run_s, 1.0),
    }


def widest(num_gpus: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """(n,) whether a job is among the widest 5 % (ties included), the first to starve."""
    return np.asarray(num_gpus >= np.quantile(num_gpus, 1 - WIDEST_SHARE))


def starvation(wait_s: FloatArray) -> dict[str, Any]:
    """Longest wait, and how many jobs of ``wait_s`` (n,) waited longer than `STARVED_S`; beside the widest 5 %."""
    over = int((wait_s > STARVED_S).sum())
    return {"max_wait_s": float(wait_s.max()) if len(wait_s) else None, "waiting_over_24h": over}


def steps(at_s: FloatArray, change: npt.NDArray[Any]) -> tuple[FloatArray, npt.NDArray[Any]]:
    """A level over time from its changes, both (n,) in any order: instants (k,) ascending, level (k,) from each on."""
    order = np.argsort(at_s, kind="stable")
    at, level = at_s[order], np.cumsum(change[order])
    last = np.append(np.diff(at) > 0, True)[: len(at)]
    return at[last], level[last]


def area(at_s: FloatArray, level: npt.NDArray[Any], until_s: FloatArray) -> FloatArray:
    """Integral of a level (`steps`), 0 before its first instant, up to each of ``until_s`` (m,): (m,)."""
    if not len(at_s):
        return np.zeros(len(until_s))
    before = np.concatenate([[0.0], np.cumsum(level[:-1] * np.diff(at_s))])
    k = np.searchsorted(at_s, until_s, side="right") - 1
    return np.where(k >= 0, before[k] + level[k] * (until_s - at_s[k]), 0.0)


def bootstrap_ci(
    values: FloatArray, groups: npt.NDArray[Any] | None = None, *, statistic: str = "mean", seed: int = 0
) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean (or "median", "iqm") of ``values`` (n,).

    Whole ``groups`` (n,) are resampled where given (jobs of one day or window are not
    independent); with a single group the interval is (nan, nan).
    """
    values = np.asarray(values, np.float64)
    rng = np.random.default_rng(seed)
    if groups is not None:
        if statistic != "mean":
            raise InputError(f"bootstrap of the {statistic} by groups is not defined; use statistic='mean'")
        _, inverse = np.unique(groups, return_inverse=True)
        sums = np.bincount(inverse, values)
        counts = np.bincount(inverse)
        if len(sums) < 2:
            return float("nan"), float("nan")
        draw = rng.integers(0, len(sums), (RESAMPLES, len(sums)))
        means = sums[draw].sum(1) / counts[draw].sum(1)
    else:
        if len(values) < 2:
            return float("nan"), float("nan")
        draw = rng.integers(0, len(values), (RESAMPLES, len(values)))
        means = STATISTICS[statistic](values[draw], axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def iqm(values: FloatArray, axis: int = -1) -> Any:
    """Interquartile mean: the mean of the middle half (Agarwal et al., NeurIPS 2021)."""
    ordered = np.sort(values, axis=axis)
    n = ordered.shape[axis]
    cut = n // 4
    return np.take(ordered, range(cut, n - cut), axis=axis).mean(axis=axis)


STATISTICS: dict[str, Any] = {"mean": np.mean, "median": np.median, "iqm": iqm}


def distribution(values: FloatArray, groups: npt.NDArray[Any] | None = None) -> dict[str, Any]:
    """mean, ci95, p50, p95, p99, max of ``values`` (n,); all None when empty (JSON has no NaN)."""
    if len(values) == 0:
        return {"mean": None, "ci95": [None, None], "p50": None, "p95": None, "p99": None, "max": None}
    p50, p95, p99 = np.percentile(values, [50, 95, 99])
    return {
        "mean": float(np.mean(values)),
        "ci95": ci95(values, groups),
        "p50": float(p50),
        "p95": float(p95),
        "p99": float(p99),
        "max": float(np.max(values)),
    }


def reduction(
    ours: FloatArray, theirs: FloatArray, *, seed: int = 0, pairs: npt.NDArray[Any] | None = None
) -> dict[str, Any]:
    """1 - mean(ours) / mean(theirs), with a 95 % interval that resamples pairs (or groups of pairs) together."""
    if pairs is not None:
        _, inverse = np.unique(pairs, return_inverse=True)
        ours, theirs = (np.bincount(inverse, side).astype(np.float64) for side in (ours, theirs))
    total = theirs.sum()
    if total == 0:
        return {"reduction": None, "ci95": [None, None]}
    value = float(1 - ours.sum() / total)
    if len(ours) < 2:
        return {"reduction": value, "ci95": [None, None]}
    draw = np.random.default_rng(seed).integers(0, len(ours), (RESAMPLES, len(ours)))
    below = theirs[draw].sum(1)
    ratios = 1 - ours[draw].sum(1)[below > 0] / below[below > 0]
    low, high = np.percentile(ratios, [2.5, 97.5])
    return {"reduction": value, "ci95": [float(low), float(high)]}


def ci95(values: FloatArray, groups: npt.NDArray[Any] | None = None, *, statistic: str = "mean") -> list[float | None]:
    """`bootstrap_ci` as JSON has it: None where there are too few values to tell."""
    return [float(x) if np.isfinite(x) else None for x in bootstrap_ci(values, groups, statistic=statistic)]
