"""Run times from jobs that ended while we looked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from slurm_cases import FOUR, NOW_S, job, look_of, running

from rltune.slurm.forecasting import Ended, Past
from rltune.slurm.moment import moment_of


def seen_at(now_s: float, *jobs):
    return replace(look_of(jobs, FOUR), now_s=now_s)


def learned(tmp_path: Path) -> Past:
    """Ann's jobs called quick ran 20 s, her others 500 s; all with a limit of an hour."""
    past = Past.read(tmp_path / "past.jsonl")
    for k in range(5):
        begun = NOW_S + 1_000 * k
        past.notice(
            seen_at(
                begun,
                *(running(f"{name}{k}", "n1", 1, name=name, start_s=begun, minutes=60) for name in ("quick", "slow")),
            )
        )
        past.notice(seen_at(begun + 20, running(f"slow{k}", "n1", 1, name="slow", start_s=begun, minutes=60)))
        past.notice(seen_at(begun + 500))
    return past


def test_forecasts_order_the_queue(tmp_path: Path) -> None:
    """Where everybody asks for the longest limit, short jobs would go on waiting behind long ones."""
    past = learned(tmp_path)
    seen = past.believed(seen_at(NOW_S + 9_000, job("1", name="slow", minutes=60), job("2", name="quick", minutes=60)))
    assert [round(each.run_s) for each in seen.jobs] == [500, 20]
    assert [round(each) for each in moment_of(seen).snapshot.queue.run_s] == [500, 20]


def test_limits_bound_them_and_outlived_ones_are_not_believed(tmp_path: Path) -> None:
    """A running job would be expected to end at every instant, and reservations would count on its GPUs."""
    past = learned(tmp_path)
    now = NOW_S + 9_000
    short = job("1", name="slow", minutes=1)
    long_since = running("2", "n1", 1, name="quick", start_s=now - 100, minutes=60)
    fresh = running("3", "n1", 1, name="quick", start_s=now - 5, minutes=60)
    assert [round(each.run_s) for each in past.believed(seen_at(now, short, long_since, fresh)).jobs] == [60, 3600, 20]


def test_they_outlive_the_process(tmp_path: Path) -> None:
    """After a restart, or a line cut off by a kill, everything would have to be learned anew."""
    past = learned(tmp_path)
    with open(past.path, "a") as file:
        file.write('["ann", "quick"')
    again = Past.read(past.path)
    assert again.ended == past.ended and len(again.ended) == 10


def test_a_job_put_back_has_not_ended(tmp_path: Path) -> None:
    """A node that failed would teach that jobs are short."""
    past = Past.read(tmp_path / "past.jsonl")
    past.notice(seen_at(NOW_S, running("1", "n1", 1)))
    assert past.notice(seen_at(NOW_S + 5, job("1"))) == 0 and past.ended == []


def test_nothing_is_known_at_first(tmp_path: Path) -> None:
    """The first day would be decided by a guess instead of by the limits."""
    past = Past.read(tmp_path / "past.jsonl")
    assert past.believed(seen_at(NOW_S, job("1", minutes=7))).jobs[0].run_s == 420


def test_usage_decays(tmp_path: Path) -> None:
    """Fair shares would go by what users held months ago as by what they hold now."""
    week = 7 * 86_400.0
    past = Past.read(tmp_path / "past.jsonl")
    past.ended = [Ended("ann", "x", "", 4, 0.0, 100.0), Ended("bob", "x", "", 4, week, week + 100.0)]
    used = past.usage(seen_at(week + 100.0, running("1", "n1", 2, user="cid", account="y", start_s=week)), "user")
    assert used["bob"] == pytest.approx(400.0, rel=1e-3) and used["ann"] == pytest.approx(200.0, rel=1e-3)
    assert used["cid"] == pytest.approx(200.0, rel=1e-3)
    assert past.usage(seen_at(week + 100.0), "account")["x"] == pytest.approx(600.0, rel=1e-3)
