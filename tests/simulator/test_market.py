"""Ways by price: who takes which GPU type, who refuses, who moves."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rltune
from rltune.allocators.milp import MilpAllocator
from rltune.nouns.cluster import Cluster, Pool
from rltune.nouns.errors import InputError
from rltune.nouns.jobs import JobTable

TWO = Cluster("two", (Pool("fast", 1, 1, "V100"), Pool("slow", 1, 1, "K80")))


def table(submit: list[float], run: list[float], **columns: Any) -> JobTable:
    given = {"submit_s": submit, "duration_s": run, "num_gpus": [1] * len(submit)}
    return JobTable.from_columns({"job_id": [f"{k:05d}" for k in range(len(submit))]} | given | columns)


def simulate(jobs: JobTable, cluster: Cluster, speed: Any, **options: Any) -> rltune.Result:
    given = {"policy": "fifo", "backfill": "skip", "allocator": "best_fit", "way_rule": "market"} | options
    return rltune.simulate(jobs, cluster, speed=np.array(speed, float), **given)


def pools(result: rltune.Result) -> list[int]:
    """Pool of every run, by start."""
    return result.runs.pool.tolist()


def test_a_job_waits_for_its_fast_gpu_rather_than_take_a_much_slower_one() -> None:
    """It would run eight times as long, and hold its GPU that long, though the fast one is free in ten seconds."""
    jobs, speed = table([0, 1], [10, 100]), [[1, 0.125], [1, 0.125]]
    waits = simulate(jobs, TWO, speed)
    assert (waits.start_s.tolist(), pools(waits)) == ([0, 10], [0, 0])
    takes = simulate(jobs, TWO, speed, market_refusal=100.0)
    assert (takes.start_s.tolist(), pools(takes)) == ([0, 1], [0, 1])


def test_a_little_dearer_gpu_is_taken_at_once() -> None:
    """Jobs would queue for the fast type beside idle ones nearly as fast."""
    result = simulate(table([0, 1], [10, 100]), TWO, [[1, 0.9], [1, 0.9]])
    assert (result.start_s.tolist(), pools(result)) == ([0, 1], [0, 1])


def test_what_is_refused_shrinks_with_waiting() -> None:
    """A job whose cheapest type stays busy for days would wait for days beside an idle GPU."""
    # Prices change every ten minutes while jobs come and go: other jobs keep the clock going.
    ticks = [600.0 * k for k in range(1, 40)]
    jobs = table([0, 1, *ticks], [1e6, 100, *[1.0] * 39])
    speed = [[1, 1e-6], [1, 0.5], *[[1e-6, 1]] * 39]
    free = {"market_floor": 0.0, "market_crowd": 0.0}
    patient = simulate(jobs, TWO, speed, market_patience=0.0, **free)
    assert patient.start_s[1] >= 1e6
    # Twice as dear, .3 accepted: another .7, at .5 an hour, takes 1.4 hours.
    tired = simulate(jobs, TWO, speed, market_patience=0.5, **free)
    assert 1.4 * 3600 <= tired.start_s[1] <= 1.4 * 3600 + 1200


def test_prices_part_jobs_by_what_they_gain() -> None:
    """Jobs that gain little from the fast GPUs would hold them while those that gain much run on the slow ones."""
    n = 400
    rng = np.random.default_rng(0)
    submit, run = np.sort(rng.uniform(0, 40_000, n)).tolist(), rng.exponential(1500, n).tolist()
    cluster = Cluster("c", (Pool("fast", 1, 8, "V100"), Pool("slow", 1, 8, "K80")))
    speed = [[1, 0.2] if k % 2 else [1, 0.8] for k in range(n)]
    jobs = table(submit, run)
    market, fastest = simulate(jobs, cluster, speed), simulate(jobs, cluster, speed, way_rule="fastest")
    on_fast = [np.mean([market.runs.pool[r] == 0 for r in range(n) if market.runs.job[r] % 2 == k]) for k in (0, 1)]
    assert on_fast[1] > 0.8 > 0.5 > on_fast[0]
    assert market.scores()["jct_s"].mean() < 0.7 * fastest.scores()["jct_s"].mean()
    prices = market.extra["market"]
    assert prices["fast"]["mean_price"] > prices["slow"]["mean_price"] > 0


def test_a_running_job_moves_to_its_cheap_gpu_when_nobody_wants_that() -> None:
    """It would stay for days on a GPU half as fast, beside an idle one."""
    jobs, speed = table([0, 0, 4000], [3000, 40_000, 10]), [[1, 0.5], [1, 0.5], [1, 1]]
    options = {"policy": "las", "market_refusal": 10.0, "runtimes": "unknown", "resume_s": 60.0}
    result = simulate(jobs, TWO, speed, **options)
    mine = [r for r in range(len(result.runs)) if result.runs.job[r] == 1]
    assert [int(result.runs.pool[r]) for r in mine] == [1, 0]
    # What it has done on the slow GPU is kept, and resuming costs its minute.
    assert result.runs.useful_s[mine].sum() == pytest.approx(40_000)
    moved = float(result.runs.start_s[mine[1]])
    assert result.end_s[1] == pytest.approx(moved + 60 + 40_000 - 0.5 * moved)
    assert result.extra["market"]["moves"] == 1


def test_running_jobs_stay_where_the_order_suspends_nobody() -> None:
    """A policy without suspension would interrupt jobs after all."""
    jobs, speed = table([0, 0, 4000], [3000, 40_000, 10]), [[1, 0.5], [1, 0.5], [1, 1]]
    result = simulate(jobs, TWO, speed, market_refusal=10.0)
    assert len(result.runs) == 3


def test_a_pool_that_is_closed_is_nobodys_cheapest() -> None:
    """Jobs would wait for a GPU type that is out of service, beside idle ones."""
    jobs = table([0, 700, 1400], [10, 10, 10])
    result = simulate(jobs, TWO, [[1, 0.1]] * 3, capacity=[(1, "fast", 0)])
    assert pools(result) == [0, 1, 1]
    assert (result.wait_s <= 700).all()


def test_the_milp_takes_no_way_that_a_job_refuses() -> None:
    """The joint decision would start jobs on GPUs that the market is there to keep them from."""
    jobs, speed = table([0, 1, 2], [10, 100, 100]), [[1, 0.125]] * 3
    result = simulate(jobs, TWO, speed, allocator=MilpAllocator(head=4))
    assert pools(result) == [0, 0, 0]


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_with_one_pool_there_is_no_market(data: st.DataObject) -> None:
    """A price alone, with nothing to choose, would change who starts when."""
    n = data.draw(st.integers(2, 12))
    times = st.integers(0, 50).map(float)
    jobs = table(
        sorted(data.draw(st.lists(times, min_size=n, max_size=n))),
        data.draw(st.lists(st.integers(1, 60).map(float), min_size=n, max_size=n)),
        num_gpus=data.draw(st.lists(st.integers(1, 6), min_size=n, max_size=n)),
    )
    cluster = Cluster("one", (Pool("p", 2, 4, "V100"),))
    options = {
        "policy": data.draw(st.sampled_from(["fifo", "las", "srsf"])),
        "allocator": data.draw(st.sampled_from(["best_fit", "fgd"])),
        "backfill": "skip",
    }
    if options["policy"] == "fifo":
        options["backfill"] = data.draw(st.sampled_from(["strict", "skip", "easy", "conservative"]))
    by_price = rltune.simulate(jobs, cluster, way_rule="market", **options)
    plain = rltune.simulate(jobs, cluster, way_rule="fastest", **options)
    assert np.array_equal(by_price.end_s, plain.end_s)
    assert np.array_equal(by_price.runs.node, plain.runs.node)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_every_job_ends_with_its_work_done(data: st.DataObject) -> None:
    """A job that refuses would be forgotten, or a GPU given to two."""
    n = data.draw(st.integers(2, 25))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    jobs = table(
        np.sort(rng.uniform(0, 3000, n)).tolist(),
        rng.exponential(800, n).tolist(),
        num_gpus=rng.integers(1, 5, n).tolist(),
    )
    cluster = Cluster("three", (Pool("a", 2, 2, "V100"), Pool("b", 1, 4, "P100"), Pool("c", 3, 2, "K80")))
    result = simulate(
        jobs, cluster, rng.uniform(0.1, 1.0, (n, 3)), policy=data.draw(st.sampled_from(["fifo", "las", "gittins"])),
        runtimes="unknown", resume_s=data.draw(st.sampled_from([0.0, 60.0])),
        market_refusal=data.draw(st.sampled_from([0.0, 0.3, 5.0])),
        **({"allocator": MilpAllocator(head=4)} if data.draw(st.booleans()) else {}),
    )  # fmt: skip
    assert result.finished.all()
    done = np.bincount(result.runs.job, weights=result.runs.useful_s, minlength=n)
    assert np.allclose(done, jobs.duration_s)
    held: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for r in range(len(result.runs)):
        for i in range(result.runs.ptr[r], result.runs.ptr[r + 1]):
            for gpu in range(8):
                if int(result.runs.mask[i]) >> gpu & 1:
                    held.setdefault((int(result.runs.node[i]), gpu), []).append(
                        (result.runs.start_s[r], result.runs.end_s[r])
                    )
    for uses in held.values():
        uses.sort()
        assert all(a[1] <= b[0] for a, b in pairwise(uses))


@pytest.mark.parametrize("name", ["market_crowd", "market_floor", "market_refusal", "market_patience"])
@pytest.mark.parametrize("value", [-1, float("nan"), "much"])
def test_nonsense_is_refused(name: str, value: Any) -> None:
    """A negative price would draw all jobs to the scarcest GPUs."""
    with pytest.raises(InputError, match=name):
        simulate(table([0], [1]), TWO, [[1, 1]], **{name: value})


def test_wrong_speeds_change_decisions_and_not_how_fast_jobs_run() -> None:
    """A cluster on which wrong beliefs come true would show no harm of them."""
    jobs, speed = table([0, 1], [100, 100]), [[1.0, 0.8], [1.0, 0.8]]
    right = simulate(jobs, TWO, speed)
    assert (pools(right), right.end_s.tolist()) == ([0, 1], [100.0, 126.0])
    # With this seed the slow type is believed to be so slow that it is refused.
    wrong = [simulate(jobs, TWO, speed, speed_error=0.9, seed=seed) for seed in range(12)]
    assert len({tuple(pools(result)) for result in wrong}) > 1
    for result in wrong:
        ran = result.runs.end_s - result.runs.start_s
        assert ran == pytest.approx([100.0 if pool == 0 else 125.0 for pool in result.runs.pool])


def test_unknown_kinds_count_as_the_mean_until_they_have_run() -> None:
    """Half the job classes of a new cluster are measured: the others would be refused everywhere, or never learned."""
    # Three kinds run badly on the second type, one well; what is known of the fourth is the mean of the others.
    kinds = [[1.0, 0.1], [1.0, 0.12], [1.0, 0.14], [0.1, 1.0]]
    n = 60
    jobs = table([2000.0 * k for k in range(n)], [100.0] * n)
    speed = [kinds[k % 4] for k in range(n)]
    options: dict[str, Any] = {"speed_unknown": 0.25, "runtimes": "unknown", "policy": "las", "quantum_s": 300.0}
    options |= {"market_refusal": 0.1, "market_patience": 0.0}

    def of_the_fourth(**more: Any) -> list[int]:
        result = simulate(jobs, TWO, speed, **options, **more)
        return [int(p) for p, job in zip(result.runs.pool, result.runs.job, strict=True) if job % 4 == 3]

    # The seed draws which kind is unknown.
    seed = next(s for s in range(40) if set(of_the_fourth(seed=s)) == {0})
    learning = of_the_fourth(seed=seed, speed_learned=True)
    assert learning[0] == 0
    assert set(learning[-8:]) == {1}


@pytest.mark.parametrize("wrong", [{"speed_error": 1.0}, {"speed_unknown": -0.1}, {"speed_learned": "yes"}])
def test_nonsense_about_what_is_known_is_refused(wrong: dict[str, Any]) -> None:
    """A typo would be taken for full knowledge."""
    with pytest.raises(InputError, match=next(iter(wrong))):
        simulate(table([0], [1]), TWO, [[1, 1]], **wrong)
