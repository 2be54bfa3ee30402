"""Fairness and levels over time against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rltune.nouns.fairness import finish_time_fairness, jain, mean_contention
from rltune.nouns.metrics import area, starvation, steps


def test_jain_by_hand() -> None:
    """The index would not be 1 for equals and 1/n where one has everything."""
    assert jain(np.full(5, 3.0)) == 1
    assert jain(np.array([7.0, 0, 0, 0])) == pytest.approx(1 / 4)
    assert jain(np.array([1.0, 2.0, 3.0])) == pytest.approx(36 / (3 * 14))
    assert jain(np.zeros(3)) == 1


@given(st.lists(st.floats(0, 1e200), min_size=1, max_size=20), st.floats(1e-3, 1e3))
def test_jain_lies_between_one_nth_and_one_and_knows_no_unit(values: list[float], unit: float) -> None:
    """An unfair cluster would look fair in hours and unfair in seconds, or large values would overflow."""
    found = jain(np.array(values))
    assert 1 / len(values) - 1e-9 <= found <= 1
    assert jain(np.array(values) * unit) == pytest.approx(found, rel=1e-6)


def test_finish_time_fairness_by_hand() -> None:
    """The wait that sharing costs would be counted against another share than 1/N, or without the tenant's own queue."""
    # Tenant 0 has two jobs, tenant 1 one; each takes all 4 GPUs for 100 s; they run in the order 0, 1, 0.
    submit, end, run = np.zeros(3), np.array([100.0, 200, 300]), np.full(3, 100.0)
    tenant = np.array([0, 1, 0])
    # Both are in the system until 200, then tenant 0 alone.
    assert mean_contention(submit, end, tenant).tolist() == pytest.approx([2, 2, 5 / 3])
    rho = finish_time_fairness(submit, end, run, run * 4, tenant, 4.0)
    # Alone on half (3/5 for the last): 200 s, 200 s, and 200 + 100 x 5/3 s behind the tenant's own first.
    assert rho.tolist() == pytest.approx([100 / 200, 200 / 200, 300 / (200 + 500 / 3)])


def test_a_narrow_job_cannot_be_faster_than_itself() -> None:
    """A share of many GPUs would make a job of one GPU run in a fraction of its run time, and any schedule unfair."""
    one = np.array([50.0])
    assert finish_time_fairness(np.zeros(1), one, one, one, np.zeros(1, int), 100.0).tolist() == [1]


def test_short_jobs_and_jobs_of_no_time_have_a_ratio() -> None:
    """Jobs of zero seconds would divide by zero, jobs of one second outweigh all others."""
    zero = np.zeros(2)
    assert finish_time_fairness(zero, zero, zero, zero, np.array([0, 1]), 8.0).tolist() == [1, 1]
    assert finish_time_fairness(zero, zero + 40, zero + 1, zero, np.array([0, 1]), 8.0).tolist() == [4, 4]


def test_a_tenant_that_left_and_came_back_does_not_count_meanwhile() -> None:
    """A user who submits once a month would take a share of the cluster all month."""
    submit, end = np.array([0.0, 0, 90]), np.array([10.0, 100, 100])
    assert mean_contention(submit, end, np.array([0, 1, 0])).tolist() == pytest.approx([2, 1.2, 2])


def test_levels_and_areas_by_hand() -> None:
    """Queue lengths would count what came and went at one instant, or be averaged by event instead of by time."""
    at, level = steps(np.array([5.0, 1, 5, 9, 3, 3]), np.array([2, 1, -3, 0, 1, -1]))
    assert (at.tolist(), level.tolist()) == ([1, 3, 5, 9], [1, 1, 0, 0])
    assert area(at, level, np.array([0.0, 1, 2, 5, 7])).tolist() == [0, 0, 1, 4, 4]
    assert area(np.array([]), np.array([]), np.array([3.0])).tolist() == [0]


def test_starvation_counts_waits_above_a_day() -> None:
    """A job that waited exactly a day, or none at all, would count as starved."""
    assert starvation(np.array([0.0, 86_400, 86_401])) == {"max_wait_s": 86_401, "waiting_over_24h": 1}
    assert starvation(np.array([])) == {"max_wait_s": None, "waiting_over_24h": 0}
