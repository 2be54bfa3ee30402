"""The job table refuses what cannot be scheduled, and says where it stands."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rltune.nouns.errors import InputError
from rltune.nouns.jobs import Category, JobTable, on_whole_gpus


def columns(**changed: Any) -> dict[str, Any]:
    """Three good jobs."""
    return {
        "job_id": ["a", "b", "c"],
        "submit_s": [0, 10, 20],
        "duration_s": [5.0, 0.0, 7.5],
        "num_gpus": [1, 8, 2],
    } | changed


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"submit_s": [0, np.nan, 20]}, r"row 2: submit_s is .*nan.*, which is not a finite number"),
        ({"duration_s": [1, 2, np.inf]}, r"row 3: duration_s is .*inf.*, which is not a finite number"),
        ({"duration_s": ["1", "soon", "2"]}, r"row 2: duration_s is 'soon'"),
        ({"duration_s": [1, None, 2]}, r"row 2: duration_s"),
        ({"submit_s": [0, -1, 20]}, r"row 2 \(job b\): submit_s is negative; use seconds >= 0"),
        ({"duration_s": [-1, -2, 3]}, r"row 1 \(job a\): duration_s is negative \(and 1 more rows\)"),
        ({"num_gpus": [1, 0, 2]}, r"row 2 \(job b\): num_gpus is not a whole number"),
        ({"num_gpus": [1, 0.5, 2]}, r"row 2 \(job b\): num_gpus is not a whole number"),
        ({"num_gpus": [1, 2_000_000, 2]}, r"row 2 \(job b\): num_gpus"),
        ({"job_id": ["a", "b", "a"]}, r"row 3: job_id 'a' stands already in row 1; ids must be unique"),
        ({"job_id": [1, 2, "1"]}, r"row 3: job_id '1' stands already in row 1"),
        ({"num_gpus": None}, r"column num_gpus is missing; needed are"),
        ({"submit_s": None, "duration_s": None}, r"column submit_s, duration_s is missing"),
        ({"num_gpus": [1, 2]}, r"column num_gpus has 2 rows, submit_s has 3"),
        ({"priority": [0, "high", 0]}, r"row 2: priority is 'high'"),
        ({"submit_s": [], "duration_s": [], "num_gpus": [], "job_id": []}, r"the trace is empty; at least one job"),
    ],
)
def test_bad_jobs_are_refused_in_one_line(changed: dict[str, Any], said: str) -> None:
    """A bad row would enter the simulation, or the message would not say which row it is."""
    with pytest.raises(InputError, match=said) as refused:
        JobTable.from_columns(columns(**changed), source="mine.csv")
    assert str(refused.value).startswith("mine.csv: ")
    assert "\n" not in str(refused.value)


def test_messages_number_the_rows_of_the_file() -> None:
    """The user would look at the wrong line of a file whose rows were filtered."""
    with pytest.raises(InputError, match="row 44"):
        JobTable.from_columns(columns(submit_s=[0, -1, 20]), rows=[12, 44, 45])


@pytest.mark.parametrize("column", ["job_id", "vc", "user"])
@pytest.mark.parametrize("n", [2, 4])
def test_a_text_column_of_the_wrong_length_is_refused(column: str, n: int) -> None:
    """Names would be given to the wrong jobs, or a notebook user would get an IndexError."""
    with pytest.raises(InputError, match=column):
        JobTable.from_columns(columns(**{column: [f"x{k}" for k in range(n)]}))


def test_dates_are_not_taken_for_seconds() -> None:
    """A frame with time stamps would be simulated in nanoseconds since 1970."""
    stamps = pd.to_datetime(["2020-01-01 00:00:00", "2020-01-01 00:00:10", "2020-01-01 00:00:20"])
    with pytest.raises(InputError, match="submit_s"):
        JobTable.from_columns(columns(submit_s=stamps))


def test_unsorted_jobs_are_sorted_with_all_their_columns() -> None:
    """A job would get another job's size or user, and equal submit times would change their order."""
    jobs = JobTable.from_columns(
        columns(submit_s=[20, 0, 0], user=["u", None, "w"], priority=[3, 1, 2], wait_s=[1, None, 2])
    )
    assert jobs.job_id.tolist() == ["b", "c", "a"]
    assert jobs.num_gpus.tolist() == [8, 2, 1]
    assert jobs.duration_s.tolist() == [0.0, 7.5, 5.0]
    assert jobs.user.values().tolist() == [None, "w", "u"]
    assert jobs.priority.tolist() == [1, 2, 3]
    assert np.isnan(jobs.wait_s[0]) and jobs.wait_s[1:].tolist() == [2, 1]


@pytest.mark.parametrize("field", JobTable.__dataclass_fields__)
def test_every_array_is_read_only(field: str) -> None:
    """One simulation could change the workload of the next."""
    given_columns = columns(vc=["x", "y", "x"], user=["u", "v", "w"], gpu_type=["T4", None, "T4"])
    value = getattr(JobTable.from_columns(given_columns), field)
    array = value.codes if isinstance(value, Category) else value
    assert not array.flags.writeable


def test_the_table_does_not_follow_the_callers_array() -> None:
    """Changing one's own array after loading would change the jobs behind the checks."""
    submit = np.array([0.0, 10.0, 20.0])
    jobs = JobTable.from_columns(columns(submit_s=submit))
    submit[1] = -5
    assert jobs.submit_s.tolist() == [0, 10, 20]


def test_absent_categories_are_none() -> None:
    """A job without a virtual cluster would be sent to one called "nan" or "-1"."""
    jobs = JobTable.from_columns(columns(vc=["x", np.nan, -1], user=["", None, "u"]))
    assert jobs.vc.values().tolist() == ["x", None, None]
    assert jobs.user.values().tolist() == [None, None, "u"]
    assert jobs.gpu_type.values().tolist() == [None, None, None]


@given(st.lists(st.integers(0, 11), min_size=1, max_size=12, unique=True))
def test_take_keeps_rows_whole_and_in_order(rows: list[int]) -> None:
    """A window or filter would mix the columns of different jobs, or lose the submit order."""
    n = 12
    jobs = JobTable.from_columns(
        {
            "submit_s": np.arange(n),
            "duration_s": np.arange(n) * 2,
            "num_gpus": np.arange(n) + 1,
            "user": [f"u{k}" for k in range(n)],
        }
    )
    mask = np.isin(np.arange(n), rows)
    for taken in (jobs.take(rows), jobs.take(mask)):
        assert taken.submit_s.tolist() == sorted(rows)
        assert taken.duration_s.tolist() == [2 * k for k in sorted(rows)]
        assert taken.num_gpus.tolist() == [k + 1 for k in sorted(rows)]
        assert taken.user.values().tolist() == [f"u{k}" for k in sorted(rows)]


def test_to_frame_and_back() -> None:
    """A user who filters jobs in pandas could not give them back."""
    jobs = JobTable.from_columns(columns(vc=["x", None, "y"], wait_s=[1, None, 2]))
    again = JobTable.from_columns(jobs.to_frame().to_dict("series"))
    pd.testing.assert_frame_equal(again.to_frame(), jobs.to_frame())


def test_rounding_up_to_whole_gpus_is_told() -> None:
    """A simulation of whole GPUs would change the workload without a word."""
    jobs = JobTable.from_columns(
        {
            "job_id": ["a", "b", "c", "d"],
            "submit_s": [0, 1, 2, 3],
            "duration_s": [1, 1, 1, 1],
            "num_gpus": [2, 1, 1, 1],
            "gpu_milli": [1000, 300, 0, 1000],
            "mig": [None, None, None, "1g.10gb"],
        }
    )
    whole, notes = on_whole_gpus(jobs)
    assert whole.job_id.tolist() == ["a", "b", "d"]
    assert whole.num_gpus.tolist() == [2, 1, 1] and whole.gpu_milli.tolist() == [1000] * 3
    assert whole.mig.values().tolist() == [None] * 3
    assert notes == (
        "1 jobs that ask for a share of a GPU are given a whole one",
        "1 jobs that ask for a MIG slice are given a whole GPU",
        "1 jobs without a GPU left out",
    )
    assert on_whole_gpus(whole)[1] == ()
    with pytest.raises(InputError, match="no job of the table asks for a GPU"):
        on_whole_gpus(jobs.take(slice(2, 3)))
