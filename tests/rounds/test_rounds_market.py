"""Our policy in rounds: types go where they are comparatively good, the index decides among equals."""

from __future__ import annotations

import numpy as np
import pytest

from rltune.nouns.errors import InputError
from rltune.rounds.clock import Terms
from rltune.rounds.gavel import simulate_published
from rltune.rounds.jobs import GAVEL_MODELS, RoundJobs, draw_gavel_jobs
from rltune.rounds.linear import gpu_prices
from rltune.rounds.market import Market, simulate_market
from rltune.rounds.policies import published

ONE_EACH = np.array([1, 1])


def pair(steps: tuple[float, ...], rate: list[list[float]]) -> RoundJobs:
    n = len(steps)
    return RoundJobs(np.zeros(n), np.ones(n, int), np.array(steps), np.array(rate), ("m",) * n, ("A", "B"))


def test_each_job_gets_the_type_it_is_comparatively_good_on() -> None:
    """Both jobs are faster on A; the one that loses little on B must stand there."""
    jobs = pair((3600.0, 3600.0), [[1.0, 0.9], [1.0, 0.1]])
    run = simulate_market(jobs, ONE_EACH, Market(), (0, 2))
    # 360 x .9 = 324 steps a round on B until A is free.
    assert run.jct_s[1] == pytest.approx(3600.0)
    assert run.jct_s[0] == pytest.approx(3600.0 + (3600 - 3240) / 1.0)


def test_little_attained_work_goes_first_and_staying_can_be_worth_more() -> None:
    """Without hysteresis two equal jobs would take turns for ever, with it the first is done before the second."""
    jobs = RoundJobs(np.zeros(2), np.ones(2, int), np.full(2, 3600.0), np.ones((2, 1)), ("m", "m"), ("A",))
    how = {stay: Market("las", 1.0, 0.0, stay) for stay in (1.0, 1000.0)}
    turns, one = (simulate_market(jobs, np.array([1]), how[stay], (0, 2)) for stay in (1.0, 1000.0))
    assert turns.jct_s.tolist() == [6840.0, 7200.0]
    assert one.jct_s.tolist() == [3600.0, 7200.0]
    assert turns.starts > one.starts


def test_prices_are_the_duals_of_spreading_the_work() -> None:
    """Half the work is as fast on B, half ten times slower: an hour of B is worth less than one of A, in a proportion known by hand."""
    price = gpu_prices(np.array([[1.0, 0.5], [1.0, 0.1]]), np.array([1, 1]), np.array([1.0, 1.0]), np.array([1, 1]))
    # Class 1 alone fills A; class 0 is on both, so that its cost is equal there: price A / 1 = price B / .5.
    assert price == pytest.approx([2 / 3, 1 / 3])


def test_ours_needs_less_than_las_on_a_small_cluster() -> None:
    """The policy would be worse than what it is compared with (a drawn list of equal models, no trace needed)."""
    rng = np.random.default_rng(3)
    rates = {(model, 1): np.array([1.0, rng.uniform(0.3, 1.2), rng.uniform(0.1, 0.6)]) for model in GAVEL_MODELS}
    jobs, workers, window = draw_gavel_jobs(1500, 0.62, 100, rates), np.array([4, 4, 4]), (200, 700)
    las = simulate_published(jobs, workers, published("max_min_fairness_perf", workers), window)
    ours = simulate_market(jobs, workers, Market(), window)
    assert ours.mean_jct_s(window) < 0.95 * las.mean_jct_s(window)


def test_nothing_of_the_run_time_is_used() -> None:
    """A job's own length must not change what is done before it ends."""
    rate = [[1.0, 0.5]] * 6
    finishes = []
    for last in (4000.0, 40_000.0):
        jobs = pair((300.0, 400.0, 500.0, 600.0, 700.0, last), rate)
        finishes.append(simulate_market(jobs, ONE_EACH, Market(), (0, 6), Terms(move_s=60.0)).jct_s[:5])
    assert finishes[0].tolist() == finishes[1].tolist()


def test_bad_constants_are_refused() -> None:
    """A misspelt index or a negative weight would be taken for a result."""
    with pytest.raises(InputError, match="known are gittins"):
        Market(index="sjf")
    with pytest.raises(InputError, match="stay 1 or more"):
        Market(stay=0.5)
    with pytest.raises(InputError, match="larger than every type"):
        jobs = RoundJobs(np.zeros(1), np.array([3]), np.ones(1), np.ones((1, 2)), ("m",), ("A", "B"))
        simulate_market(jobs, ONE_EACH, Market(), (0, 1))
