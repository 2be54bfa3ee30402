"""A trace: stretches of it, its description and its hash."""

from datetime import date

import numpy as np
import pytest

from rltune.nouns.errors import InputError
from rltune.nouns.jobs import JobTable
from rltune.traces import Trace, split


def test_window_keeps_order_and_times(by_hand: Trace) -> None:
    """A window of other jobs, or with shifted times, would not be the published comparison's."""
    window = by_hand.window(1, 2)
    assert list(window.jobs.job_id) == ["b", "c"]
    assert list(window.jobs.submit_s) == [43200, 86400]
    assert window.origin == by_hand.origin
    assert window.sha256 != by_hand.sha256


@pytest.mark.parametrize(
    ("start", "n", "valid"), [(3, 2, "0 to 2"), (-1, 2, "0 to 2"), (0, 5, "1 to 4"), (0, 0, "1 to 4")]
)
def test_window_out_of_range_names_the_valid_range(by_hand: Trace, start: int, n: int, valid: str) -> None:
    """A short or empty window would quietly average over fewer jobs."""
    with pytest.raises(InputError, match=valid):
        by_hand.window(start, n)


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        ("2020-04-01 12:00", "2020-04-02 12:00:00"),
        (date(2020, 4, 1), "2020-04-02 12:00"),
        (43200, 129600),
    ],
)
def test_between_is_half_open(by_hand: Trace, begin: object, end: object) -> None:
    """A closed end would put a job into the training and the test stretch."""
    first = 0 if begin == date(2020, 4, 1) else 1
    assert list(by_hand.between(begin, end).jobs.job_id) == ["a", "b", "c"][first:]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("begin", "end", "told"),
    [
        ("2021-01-01", "2021-02-01", "2020-04-01 00:00:00 to 2020-04-02 12:00:00"),
        ("2020-04-02", "2020-04-01", "spans"),
        ("spring", "summer", "'spring' is no date"),
        ("2020-04-01T00:00+02:00", "2020-05-01", "time zone"),
    ],
)
def test_between_refuses_what_selects_nothing(by_hand: Trace, begin: str, end: str, told: str) -> None:
    """An empty test stretch would give averages over nothing."""
    with pytest.raises(InputError, match=told):
        by_hand.between(begin, end)


def test_dates_need_a_wall_clock() -> None:
    """Dates on a trace without a clock would cut anywhere."""
    trace = Trace.of(
        JobTable.from_columns({"submit_s": [0], "duration_s": [1], "num_gpus": [1]}), name="t", source="user"
    )
    with pytest.raises(InputError, match="no wall clock"):
        trace.between("2020-01-01", "2020-02-01")


@pytest.mark.parametrize(
    ("bounds", "ids"),
    [
        (["2020-04-01", "2020-04-02"], "ab"),
        ([1, 3], "bc"),
        ([0.5, 1.0], "cd"),
        ([0, 0.5], "ab"),
        ((0.25, 1), "bcd"),
    ],
)
def test_split_takes_dates_indices_and_fractions(by_hand: Trace, bounds: list[object], ids: str) -> None:
    """The stretches of conf/trace would be other jobs than the file says."""
    assert "".join(split(by_hand, bounds).jobs.job_id) == ids


@pytest.mark.parametrize(
    "bounds",
    [[0, 5], [2, 2], [-1, 2], [0.6, 0.2], [0.5, 1.5], [1], "ab", ["2020-04-01", 3], [None, 1], [True, 2]],
)
def test_split_refuses_bad_bounds(by_hand: Trace, bounds: object) -> None:
    """A bound past the end would silently shorten a stretch."""
    with pytest.raises(InputError, match="trace hand: "):
        split(by_hand, bounds)  # type: ignore[arg-type]


def test_adjacent_fractions_share_no_job(by_hand: Trace) -> None:
    """A job in two stretches would leak from training into the test."""
    parts = [split(by_hand, bounds).jobs.job_id for bounds in ([0.0, 0.6], [0.6, 0.75], [0.75, 1.0])]
    assert list(np.concatenate(parts)) == ["a", "b", "c", "d"]


def test_describe_matches_figures_by_hand(by_hand: Trace) -> None:
    """The load shown to a user would be wrong."""
    facts = by_hand.describe()
    assert facts["jobs"] == 4
    assert facts["span_days"] == 1.5
    assert facts["arrivals_per_h"] == pytest.approx(4 / 36, abs=1e-3)
    assert facts["size_share_pct"] == {
        "1": 25.0, "2": 25.0, "3-4": 0.0, "5-8": 25.0, "9-16": 0.0, "17-32": 0.0, "33-64": 0.0, ">64": 25.0,
    }  # fmt: skip
    assert facts["mean_gpus"] == 34.75
    assert facts["implied_busy_gpus"] == round((3600 + 60.5 * 8 + 7200 * 2) / 129600, 1)
    assert (facts["users"], facts["vcs"]) == (2, 2)
    assert facts["duration_s"]["max"] == 7200


def test_describe_of_one_job_has_no_rate(by_hand: Trace) -> None:
    """A span of zero would divide by zero."""
    assert by_hand.window(0, 1).describe()["arrivals_per_h"] is None


def test_hash_depends_on_the_jobs_alone(by_hand: Trace) -> None:
    """Manifests could not tell two traces apart, or would tell equal ones apart."""
    frame = by_hand.jobs.to_frame()
    same = Trace.of(JobTable.from_columns(dict(frame)), name="other", source="synthetic")
    assert same.sha256 == by_hand.sha256
    for column, value in (("submit_s", 1), ("duration_s", 1), ("num_gpus", 3), ("job_id", "z"), ("vc", "y")):
        changed = frame.copy()
        changed.loc[0, column] = value
        assert Trace.of(JobTable.from_columns(dict(changed)), name="hand", source="user").sha256 != by_hand.sha256


def test_unknown_source_is_refused(by_hand: Trace) -> None:
    """Reports could not say whether jobs are real."""
    with pytest.raises(InputError, match="calibrated"):
        Trace.of(by_hand.jobs, name="t", source="measured")
