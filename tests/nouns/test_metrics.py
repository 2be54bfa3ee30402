"""Scores against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rltune.nouns.errors import InputError
from rltune.nouns.metrics import (
    SCORE_METRIC,
    SCORES,
    bootstrap_ci,
    check_score,
    distribution,
    iqm,
    job_scores,
    reduction,
)


def test_scores_of_single_jobs() -> None:
    """The bounded slowdown would count short jobs without its bound of 10 s, or fall below 1."""
    wait = np.array([0.0, 30.0, 9.0, 90.0, 5.0, 0.0])
    run = np.array([100.0, 10.0, 1.0, 30.0, 0.0, 0.0])
    scores = job_scores(wait, run)
    assert scores["wait_s"].tolist() == wait.tolist()
    assert scores["jct_s"].tolist() == [100, 40, 10, 120, 5, 0]
    assert scores["bsld"].tolist() == [1, 4, 1, 4, 1, 1]
    assert scores["slowdown"].tolist() == [1, 4, 10, 4, 5, 0]


def test_interquartile_mean_by_hand() -> None:
    """The robust mean in the table would let the extreme quarter in."""
    assert iqm(np.array([1.0, 100.0, 3.0, 5.0])) == 4
    assert iqm(np.array([0, 1, 2, 3, 4, 5, 6, 1000.0])) == 3.5
    assert iqm(np.array([7.0])) == 7
    assert iqm(np.array([[1.0, 100, 3, 5], [4, 4, 4, 4]]), axis=1).tolist() == [4, 4]


def test_bootstrap_interval_covers_the_mean_as_often_as_it_says() -> None:
    """The 95 % intervals of the tables would be too narrow (or so wide that they say nothing)."""
    rng = np.random.default_rng(7)
    covered, widths = 0, []
    for _ in range(150):
        values = rng.exponential(10.0, 60)
        low, high = bootstrap_ci(values)
        covered += low <= 10.0 <= high
        widths.append(high - low)
    assert 0.85 <= covered / 150 <= 1.0
    assert np.mean(widths) == pytest.approx(2 * 1.96 * 10 / math.sqrt(60), rel=0.2)


def test_bootstrap_of_groups_is_wider_than_of_single_jobs() -> None:
    """Jobs of one day, which move together, would be counted as independent evidence."""
    rng = np.random.default_rng(3)
    days = np.repeat(np.arange(12), 50)
    values = rng.normal(0, 10, 12)[days] + rng.normal(0, 1, 600)
    low, high = bootstrap_ci(values, days)
    alone = bootstrap_ci(values)
    assert high - low > 3 * (alone[1] - alone[0])
    assert low <= values.mean() <= high


def test_bootstrap_of_equal_values_is_a_point() -> None:
    """An interval would be invented where nothing varies."""
    assert bootstrap_ci(np.full(9, 4.0)) == (4.0, 4.0)
    assert bootstrap_ci(np.full(9, 4.0), statistic="iqm") == (4.0, 4.0)


def test_one_value_or_one_group_has_no_interval() -> None:
    """A single window would pretend to an interval."""
    assert all(math.isnan(x) for x in bootstrap_ci(np.array([3.0])))
    assert all(math.isnan(x) for x in bootstrap_ci(np.arange(9.0), np.zeros(9)))
    with pytest.raises(InputError, match="by groups is not defined"):
        bootstrap_ci(np.arange(9.0), np.arange(9), statistic="median")


def test_distribution_by_hand() -> None:
    """The summary would name other quantiles than it says, or hold NaN that JSON cannot."""
    found = distribution(np.arange(101.0))
    assert (found["mean"], found["p50"], found["p95"], found["p99"], found["max"]) == (50, 50, 95, 99, 100)
    assert found["ci95"][0] < 50 < found["ci95"][1]
    assert distribution(np.array([])) == {
        "mean": None,
        "ci95": [None, None],
        "p50": None,
        "p95": None,
        "p99": None,
        "max": None,
    }
    assert distribution(np.array([2.0]))["ci95"] == [None, None]


def test_reduction_is_the_ratio_of_means_and_its_interval_is_paired() -> None:
    """ "81 % less wait" would be a mean of ratios, or the windows would be resampled apart."""
    theirs = np.array([1.0, 10, 100, 1000, 10_000])
    found = reduction(theirs * 0.2, theirs)
    assert found["reduction"] == pytest.approx(0.8)
    assert found["ci95"] == pytest.approx([0.8, 0.8])  # unpaired it would be nearly as wide as the windows differ
    assert reduction(np.array([10.0, 0.0]), np.array([0.0, 40.0]))["reduction"] == 0.75
    assert reduction(np.array([50.0]), np.array([40.0])) == {"reduction": -0.25, "ci95": [None, None]}


def test_reduction_by_groups_resamples_whole_groups() -> None:
    """Jobs of one window would be counted as independent pairs."""
    rng = np.random.default_rng(1)
    windows = np.repeat(np.arange(8), 40)
    theirs = rng.exponential(10, 320)
    ours = theirs * np.array([0.2, 1.4] * 4)[windows]
    found, alone = reduction(ours, theirs, pairs=windows), reduction(ours, theirs)
    assert found["reduction"] == pytest.approx(1 - ours.sum() / theirs.sum())
    assert found["ci95"][1] - found["ci95"][0] > 1.5 * (alone["ci95"][1] - alone["ci95"][0])


def test_reduction_of_nothing_is_none() -> None:
    """Windows without any wait would divide by zero."""
    assert reduction(np.zeros(4), np.zeros(4)) == {"reduction": None, "ci95": [None, None]}


def test_scores_have_metrics_and_unknown_ones_are_refused() -> None:
    """score=... would be accepted and then not found in the summary."""
    assert set(SCORE_METRIC) == set(SCORES) == {"bsld", "wait", "jct", "utilization", "slowdown"}
    with pytest.raises(InputError, match=r"score='speed' is unknown; known are bsld, wait"):
        check_score("speed")
