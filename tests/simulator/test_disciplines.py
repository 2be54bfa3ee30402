"""Schedules worked out by hand, and by a second simulator of thirty lines that knows no kernels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rltune
from rltune.nouns.cluster import Cluster, Pool
from rltune.nouns.jobs import JobTable
from rltune.simulator.run import check_backfill

FOUR = Cluster("four", (Pool("a", 1, 4),))


def table(*jobs: tuple[float, float, int]) -> JobTable:
    """Jobs as (submit, duration, GPUs)."""
    submit, duration, gpus = zip(*jobs, strict=True)
    return JobTable.from_columns({"submit_s": submit, "duration_s": duration, "num_gpus": gpus})


@pytest.mark.parametrize(
    ("backfill", "starts"),
    [
        ("blocking", [0, 10, 20, 20]),  # the second blocks both small ones
        ("strict", [0, 10, 20, 20]),  # the same: the later jobs have no higher priority
        ("skip", [0, 27, 2, 7]),  # both slip by, and the second waits for the last of them
        ("easy", [0, 10, 2, 20]),  # only the one that ends before the reservation slips by
    ],
)
def test_four_jobs_by_hand(backfill: str, starts: list[float]) -> None:
    """`backfill` would not do what its name and the papers say."""
    jobs = table((0, 10, 3), (1, 10, 4), (2, 5, 1), (3, 20, 1))
    result = rltune.simulate(jobs, FOUR, policy="fifo", backfill=backfill)
    assert result.start_s.tolist() == starts
    assert result.end_s.tolist() == [s + d for s, d in zip(starts, jobs.duration_s, strict=True)]


def test_a_long_job_may_use_what_the_reservation_spares() -> None:
    """EASY would be as strict as blocking: GPUs that the head does not need would stay idle."""
    result = rltune.simulate(table((0, 10, 3), (1, 10, 2), (2, 99, 1), (3, 99, 1)), FOUR, backfill="easy")
    assert result.start_s.tolist() == [0, 10, 2, 10]


def test_what_is_spared_is_spent_once() -> None:
    """Two long jobs would be backfilled into the same spare GPU, and the head would start late."""
    jobs = table((0, 10, 2), (0, 5, 1), (1, 10, 3), (2, 99, 1), (3, 99, 1))
    result = rltune.simulate(jobs, FOUR, backfill="easy")
    assert result.start_s.tolist() == [0, 0, 10, 2, 20]


def test_an_overdue_job_is_expected_to_end_now() -> None:
    """A run that outlives its prediction would leave the reservation in the past, and everything could be backfilled."""
    jobs = table((0, 10, 3), (1, 10, 4), (6, 3, 1))
    result = rltune.simulate(jobs, FOUR, backfill="easy", runtimes=np.array([5.0, 10.0, 3.0]))
    assert result.start_s.tolist() == [0, 10, 20]


def test_a_too_long_prediction_lets_the_head_start_early_all_the_same() -> None:
    """The head would wait for its predicted reservation although its GPUs are free."""
    jobs = table((0, 10, 3), (1, 10, 4), (2, 30, 1))
    result = rltune.simulate(jobs, FOUR, backfill="easy", runtimes=np.array([1000.0, 10.0, 30.0]))
    assert result.start_s.tolist() == [0, 32, 2]


def test_blocking_takes_arrivals_in_only_while_it_waits() -> None:
    """RLTune's semantics: of jobs submitted together only the first is queued while the cluster has room."""
    result = rltune.simulate(table((0, 9, 1), (0, 1, 1), (0, 5, 4), (0, 2, 1)), FOUR, policy="sjf", backfill="blocking")
    assert result.start_s.tolist() == [0, 0, 9, 14]


def test_strict_asks_anew_who_is_first() -> None:
    """The published SJF of Helios would not be ours: a short late job goes before the wide one that waits."""
    jobs = table((0, 10, 3), (1, 9, 4), (2, 5, 1))
    starts = {d: rltune.simulate(jobs, FOUR, policy="sjf", backfill=d).start_s.tolist() for d in ("blocking", "strict")}
    assert starts == {"blocking": [0, 10, 19], "strict": [0, 10, 2]}


def test_nothing_is_trained_or_judged_under_strict() -> None:
    """An agent would be trained under a `backfill` that its environment does not know."""
    with pytest.raises(rltune.InputError, match="'strict' is unknown; known are blocking, skip, easy"):
        check_backfill("strict")


def test_blocking_blocks_other_virtual_clusters_and_skip_does_not() -> None:
    """The reference protocol's head-of-line blocking would be softened, or skipping would not reach other pools."""
    cluster = Cluster("vcs", (Pool("x", 1, 4, vc="x"), Pool("y", 1, 4, vc="y")))
    jobs = JobTable.from_columns(
        {"submit_s": [0, 1, 2], "duration_s": [10, 10, 10], "num_gpus": [4, 4, 4], "vc": ["x", "x", "y"]}
    )
    starts = {d: rltune.simulate(jobs, cluster, backfill=d).start_s.tolist() for d in ("blocking", "skip", "easy")}
    assert starts == {"blocking": [0, 10, 10], "skip": [0, 10, 2], "easy": [0, 10, 2]}


@pytest.mark.parametrize("backfill", ["blocking", "strict", "skip", "easy"])
def test_jobs_of_zero_seconds(backfill: str) -> None:
    """A job without duration would keep its GPUs, or run for ever."""
    result = rltune.simulate(table((5, 0, 4), (5, 0, 4), (5, 7, 4), (5, 0, 4)), FOUR, backfill=backfill)
    assert result.start_s.tolist() == [5, 5, 5, 12]
    assert result.end_s.tolist() == [5, 5, 12, 12]
    assert result.scores()["bsld"].tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("backfill", ["blocking", "strict", "skip", "easy"])
def test_only_zero_seconds(backfill: str) -> None:
    """A window in which nothing takes time would divide by zero."""
    result = rltune.simulate(table((5, 0, 4), (5, 0, 4)), FOUR, backfill=backfill)
    assert (result.makespan_s(), result.utilization(), result.fragmentation()) == (0, 0, 0)


# --- a second simulator ---------------------------------------------------------------

Keys = Callable[[float, float, int], tuple[float, ...]]
KEYS: dict[str, Keys] = {
    "fifo": lambda s, r, g: (s,),
    "lifo": lambda s, r, g: (-s,),
    "sjf": lambda s, r, g: (r, g),
    "largest": lambda s, r, g: (-g,),
}


def oracle(jobs: list[tuple[float, float, int]], cap: int, key: Keys, backfill: str) -> list[float]:
    """Starts on one node of ``cap`` GPUs, from the protocol page and the EASY paper."""
    start: dict[int, float] = {}
    ends: list[tuple[float, int]] = []
    queue: list[int] = []
    arrived, free = 0, cap

    def begin(job: int, now: float) -> None:
        nonlocal free
        start[job], free = now, free - jobs[job][2]
        queue.remove(job)
        ends.append((now + jobs[job][1], job))
        ends.sort()

    def order(k: int) -> tuple[float, ...]:
        return (*key(*jobs[k]), k)

    if backfill == "blocking":
        now = jobs[0][0]
        while len(start) < len(jobs):
            picked = min(queue, key=order) if queue else None
            while picked is None or jobs[picked][2] > free:
                if arrived < len(jobs) and (not ends or max(now, jobs[arrived][0]) <= ends[0][0]):
                    now = max(now, jobs[arrived][0])
                    queue.append(arrived)
                    arrived += 1
                else:
                    end, job = ends.pop(0)
                    now, free = max(now, end), free + jobs[job][2]
                picked = min(queue, key=order) if picked is None and queue else picked
            begin(picked, now)
        return [start[k] for k in range(len(jobs))]

    while arrived < len(jobs) or ends:
        now = min([e for e, _ in ends[:1]] + [jobs[k][0] for k in range(arrived, len(jobs))][:1])
        while ends and ends[0][0] <= now:
            free += jobs[ends.pop(0)[1]][2]
        while arrived < len(jobs) and jobs[arrived][0] <= now:
            queue.append(arrived)
            arrived += 1
        shadow, spare = None, 0
        for job in sorted(queue, key=order):
            _, run, gpus = jobs[job]
            if shadow is None:
                if gpus <= free:
                    begin(job, now)
                elif backfill == "strict":
                    break
                elif backfill == "easy":
                    there = free
                    for at, (end, running) in enumerate(ends):
                        there += jobs[running][2]
                        if there >= gpus and (at + 1 == len(ends) or ends[at + 1][0] > end):
                            shadow, spare = end, there - gpus
                            break
            elif gpus <= free and now + run <= shadow:
                begin(job, now)
            elif gpus <= min(free, spare):
                spare -= gpus
                begin(job, now)
    return [start[k] for k in range(len(jobs))]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 40), st.sampled_from([0, 1, 4, 9, 25, 60]), st.integers(1, 6)), min_size=1, max_size=25
    ),
    st.sampled_from(sorted(KEYS)),
    st.sampled_from(["blocking", "strict", "skip", "easy"]),
)
def test_schedules_are_those_of_a_second_simulator(
    jobs: list[tuple[float, float, int]], policy: str, backfill: str
) -> None:
    """Compiled and readable path share their kernels: a defect of the kernels would show in neither comparison."""
    jobs = sorted(jobs, key=lambda job: job[0])
    result = rltune.simulate(table(*jobs), Cluster("one", (Pool("a", 1, 6),)), policy=policy, backfill=backfill)
    assert result.start_s.tolist() == oracle(jobs, 6, KEYS[policy], backfill)
