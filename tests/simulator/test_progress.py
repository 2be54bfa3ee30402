"""What a long simulation says of itself while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import rltune
from rltune.allocators.greedy import GreedyAllocator
from rltune.core.state import Sim
from rltune.experiment.progress import Told
from rltune.policies.orders import ORDERS
from rltune.report.console import Lines
from rltune.simulator import progress
from rltune.simulator.progress import Pace, Seen, watched

TRACE = rltune.load_trace("synthetic", jobs=60, arrivals_per_h=900.0)


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def at_every_instant(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop returns after each instant and is looked at then."""
    monkeypatch.setattr(progress, "EVERY_S", 0.0)
    monkeypatch.setattr(progress, "FIRST_STEPS", 1)


@pytest.mark.usefixtures("at_every_instant")
@pytest.mark.parametrize(
    "options",
    [
        {"backfill": "easy"},
        {"backfill": "blocking"},
        {"policy": "las", "resume_s": 5.0},
        {"policy": ORDERS["sjf"]},
        {"policy": ORDERS["sjf"], "backfill": "blocking", "allocator": GreedyAllocator("best_fit")},
    ],
    ids=["lean", "blocking", "full", "own_policy", "own_blocking"],
)
def test_a_watched_simulation_is_the_same_and_told_from_first_to_last(options: dict[str, Any]) -> None:
    """Watching would change the schedule, or the bar would stand still, jump back, or end before the simulation."""
    seen: list[Seen] = []
    with watched(seen.append):
        result = rltune.simulate(TRACE, "uniform", **options)
    assert result.schedule.equals(rltune.simulate(TRACE, "uniform", **options).schedule)
    assert len(seen) > 20
    assert [s.now_s for s in seen] == sorted(s.now_s for s in seen)
    assert (seen[0].over, seen[-1].over, seen[-1].jobs) == (0, 60, 60)


def test_nobody_watching_costs_nothing() -> None:
    """Every simulation would stop and go a thousand times."""
    assert Pace(None).steps == progress.MOST_STEPS


def test_the_loop_returns_about_ten_times_a_second() -> None:
    """A loop of long queues would be silent for minutes, one of short ones slowed by looking."""
    clock, told = Clock(), list[Seen]()
    sim: Any = _Empty()
    pace = Pace(told.append, clock)
    for _ in range(20):
        # A million instants a second.
        clock.now += pace.steps / 1e6
        pace.look(sim, whole=True)
    assert 50_000 <= pace.steps <= 200_000
    before = len(told)
    for _ in range(40):
        # Then ten a second.
        clock.now += pace.steps / 10
        pace.look(sim, whole=True)
    assert pace.steps == 1
    assert len(told) > before + 20


class _Empty(Sim):
    """Stands for a state: `seen_of` alone reads it."""

    def __new__(cls) -> _Empty:
        import numpy as np

        parts = dict.fromkeys(Sim._fields)
        jobs = type("Jobs", (), {"submit": np.zeros(1)})
        parts |= {"counts": np.zeros(20, np.int64), "clock": np.zeros(4), "jobs": jobs}
        return super().__new__(cls, **parts)


def lines(clock: Clock, total: int) -> tuple[Lines, list[str]]:
    written: list[str] = []
    return Lines("simulating, jobs", total, written.append, clock), written


def test_a_log_file_gets_a_line_after_ten_seconds_and_then_every_thirty() -> None:
    """A day's simulation in a batch job would say nothing, or fill the log."""
    clock = Clock()
    bar, written = lines(clock, 1000)
    for _ in range(100):
        clock.now += 1.0
        bar.update(5)
    assert written == [
        "simulating, jobs: 50 of 1,000, 0:00:10 gone, about 0:03:10 left",
        "simulating, jobs: 200 of 1,000, 0:00:40 gone, about 0:02:40 left",
        "simulating, jobs: 350 of 1,000, 0:01:10 gone, about 0:02:10 left",
        "simulating, jobs: 500 of 1,000, 0:01:40 gone, about 0:01:40 left",
    ]


def test_work_that_is_soon_done_says_nothing() -> None:
    """Every short command in a script would leave lines in its log."""
    clock = Clock()
    bar, written = lines(clock, 10)
    for _ in range(9):
        clock.now += 1.0
        bar.update()
    assert written == []


def looks() -> Iterator[tuple[float, Seen]]:
    """(seconds of the clock, what is seen): two days of submissions, and a third until all is over."""
    day = 86_400.0
    yield 0.0, Seen(7 * day, 7 * day, 9 * day, 0, 1000)
    yield 2.0, Seen(8 * day, 7 * day, 9 * day, 400, 1000)
    yield 4.0, Seen(10 * day, 7 * day, 9 * day, 1000, 1000)


def test_jobs_days_and_rate_are_told() -> None:
    """The user could not tell whether to wait for it or to come back tomorrow."""
    clock, told = Clock(), list[tuple[int, str]]()
    tell = Told(lambda n, text: told.append((n, text)), clock)
    for second, seen in looks():
        clock.now = 100.0 + second
        tell(seen)
    assert told == [
        (0, "day 0.0 of 2.0"),
        (400, "day 1.0 of 2.0, 200 jobs/s"),
        (600, "day 3.0, all submitted by day 2.0, 250 jobs/s"),
    ]
    # Another simulation begins: its jobs are counted anew.
    tell(Seen(0.0, 0.0, 86_400.0, 10, 1000))
    assert told[-1] == (10, "day 0.0 of 1.0")
