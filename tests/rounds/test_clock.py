"""Rounds computed by hand: two types of one GPU each, rounds of 360 s."""

from __future__ import annotations

import numpy as np

from rltune.rounds.clock import NOW, Clock, Terms, clock_of, step
from rltune.rounds.jobs import RoundJobs


def two_jobs(steps: tuple[float, float] = (1000.0, 500.0), arrivals: tuple[float, float] = (0.0, 100.0)) -> Clock:
    rate = np.array([[1.01, 0.5], [1.0, 1.0]])
    return clock_of(RoundJobs(np.array(arrivals), np.ones(2, int), np.array(steps), rate, ("a", "b"), ("fast", "slow")))


def test_a_round_holds_whole_steps_and_ends_with_them() -> None:
    """Finish times would be off by parts of a step, and no recorded run could be reproduced."""
    clock = two_jobs()
    step(clock, Terms(), np.array([0, -1]))
    # 360 x 1.01 = 363.6: 363 steps.
    assert clock.done[0] == 363
    assert clock.time[NOW] == 363 / 1.01
    assert clock.active[:2].tolist() == [0, 1]


def test_a_job_ends_inside_its_round_and_the_next_begins_with_the_latest_end() -> None:
    """JCTs would include the idle rest of a round."""
    clock = two_jobs(steps=(1000.0, 50.0))
    step(clock, Terms(), np.array([0, -1]))
    begun = clock.time[NOW]
    step(clock, Terms(), np.array([0, 1]))
    assert clock.finish[1] == begun + 50.0
    assert clock.time[NOW] == begun + 363 / 1.01


def test_an_idle_cluster_jumps_to_the_next_arrival() -> None:
    """An empty system would count rounds for ever."""
    clock = two_jobs(arrivals=(0.0, 5000.0))
    step(clock, Terms(), np.array([-1, -1]))
    assert clock.time[NOW] == 5000.0


def test_moving_and_resuming_cost_their_seconds_staying_and_starting_none() -> None:
    """Schedules with and without moves would be compared as if moving were free."""
    clock, terms = two_jobs(steps=(9e3, 9e3), arrivals=(0.0, 0.0)), Terms(move_s=60.0)
    step(clock, terms, np.array([-1, 1]))
    assert clock.done[1] == 360
    step(clock, terms, np.array([-1, 1]))
    assert clock.done[1] == 720
    step(clock, terms, np.array([-1, 0]))
    assert clock.done[1] == 720 + 300
    step(clock, terms, np.array([-1, -1]))
    assert clock.time[NOW] == np.inf


def test_restarts_of_shockwave_cost_steps_but_no_time() -> None:
    """Shockwave's rows could not be reproduced: the first round is free, short last micro-tasks too."""
    terms = Terms(round_s=120.0, restart_s=20.0, restart_from_s=115.0, failing=True, whole=True)
    clock = two_jobs(steps=(9e3, 130.0), arrivals=(0.0, 0.0))
    step(clock, terms, np.array([0, -1]))
    assert clock.done[0] == 121
    step(clock, terms, np.array([0, 1]))
    assert clock.done.tolist() == [242, 100]
    step(clock, terms, np.array([0, -1]))
    step(clock, terms, np.array([0, 1]))
    assert clock.finish[1] - clock.time[NOW] < 0 and clock.done[1] == 130
