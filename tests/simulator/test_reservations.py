"""Backfilling keeps its promises: conservative and EASY against plans made by a second, plain implementation."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import rltune
from rltune.nouns.cluster import Cluster, Pool
from rltune.nouns.jobs import JobTable

Bools = npt.NDArray[np.bool_]
OVERDUE_S = 1.0
"""As documented: a job that has outlived its estimate is expected to end a second from now."""


def place(free: Bools, g: int) -> Bools | None:
    """Where best fit puts g GPUs, given which GPU (nodes, GPUs a node) is free all the time; None: nowhere."""
    counts, cap = free.sum(axis=1), free.shape[1]
    if g <= cap:
        nodes = [n for n in range(len(counts)) if counts[n] >= g]
        if not nodes:
            return None
        take = {min(nodes, key=lambda n: (counts[n], n)): g}
    else:
        full, rest = divmod(g, cap)
        ordered = sorted(counts.tolist(), reverse=True)[: full + (rest > 0)]
        if sum(ordered) < g:
            return None
        tight = [level for level in sorted(counts.tolist()) if level >= rest]
        if rest > 0 and ordered[:full] == [cap] * full and (tight[0] < cap or ordered[full] == cap):
            ordered = [cap] * full + [tight[0]]
        take = {}
        for level in sorted(set(ordered)):
            same = [n for n in range(len(counts)) if counts[n] == level][: ordered.count(level)]
            take |= dict.fromkeys(same, level)
            if level == min(ordered):
                take[same[-1]] -= sum(ordered) - g
    out = np.zeros_like(free)
    for node, wanted in take.items():
        out[node, np.flatnonzero(free[node])[:wanted]] = True
    return out


@dataclass
class Plan:
    """Conservative backfill by the book: at every event, every waiting job in turn at the earliest point in time from which
    its GPUs are free as long as it needs them."""

    submit: list[float]
    run: list[float]
    believed: list[float]
    gpus: list[int]
    idle: Bools
    start: dict[int, float] = field(default_factory=dict)
    held: dict[int, Bools] = field(default_factory=dict)

    def simulate(self) -> None:
        while len(self.start) < len(self.submit):
            ends = [self.start[j] + self.run[j] for j in self.start]
            now = min(t for t in (*self.submit, *ends) if t > self.now)
            self.now = now
            self.decide(now)

    now: float = -1.0

    def decide(self, now: float) -> None:
        taken = []
        for j, begin in self.start.items():
            if begin + self.run[j] > now:
                end = begin + self.believed[j]
                taken.append((now, end if end > now else now + OVERDUE_S, self.held[j]))
        for j in range(len(self.submit)):
            if self.submit[j] > now or j in self.start:
                continue
            for begin in sorted({now, *(end for _, end, _ in taken)}):
                until = begin + self.believed[j]
                free = self.idle.copy()
                for a, b, gpus in taken:
                    if a < until and begin < b:
                        free &= ~gpus
                found = place(free, self.gpus[j])
                if found is not None:
                    taken.append((begin, until, found))
                    if begin == now:
                        self.start[j], self.held[j] = now, found
                    break


ROWS = st.lists(
    st.tuples(st.integers(0, 40), st.sampled_from([0.5, 1, 3, 7, 10, 25]), st.integers(1, 6), st.sampled_from([0.5, 1, 1, 3])),
    min_size=1,
    max_size=18,
)  # fmt: skip
SHAPES = st.sampled_from([(1, 4), (2, 3), (3, 2), (6, 1), (2, 4)])
QUIET = list(HealthCheck)


def table(rows: list[tuple[float, float, int, float]], shape: tuple[int, int]) -> tuple[JobTable, list[float], Cluster]:
    rows = sorted(rows, key=lambda row: row[0])
    gpus = [min(row[2], shape[0] * shape[1]) for row in rows]
    jobs = JobTable.from_columns(
        {"submit_s": [r[0] for r in rows], "duration_s": [r[1] for r in rows], "num_gpus": gpus}
    )
    return jobs, [r[1] * r[3] for r in rows], Cluster("c", (Pool("a", *shape),))


def planned(jobs: JobTable, believed: list[float], shape: tuple[int, int]) -> Plan:
    columns = (jobs.submit_s.tolist(), jobs.duration_s.tolist(), believed, jobs.num_gpus.tolist())
    plan = Plan(*columns, np.ones(shape, bool))
    plan.simulate()
    return plan


@settings(max_examples=150, deadline=None, suppress_health_check=QUIET)
@given(ROWS, SHAPES, st.booleans())
# One job outlives its estimate while another is about to end: the second end is the sooner one.
@example(
    [(0, 0.5, 1, 0.5), (0, 7, 4, 3), (0, 25, 1, 0.5), (1, 25, 3, 0.5), (0, 0.5, 5, 0.5), (13, 0.5, 1, 3)], (2, 4), False
)
def test_conservative_backfill_is_the_plain_plan(
    rows: list[tuple[float, float, int, float]], shape: tuple[int, int], exact: bool
) -> None:
    """Reservations would be laid out wrongly, and jobs start earlier or later than the plan says."""
    jobs, believed, cluster = table(rows, shape)
    believed = jobs.duration_s.tolist() if exact else believed
    result = rltune.simulate(jobs, cluster, backfill="conservative", runtimes=np.array(believed))
    plan = planned(jobs, believed, shape)
    assert result.start_s.tolist() == [plan.start[j] for j in range(len(jobs))]
    assert result.schedule.nodes.tolist() == [
        np.flatnonzero(plan.held[j].any(axis=1)).tolist() for j in range(len(jobs))
    ]


@settings(max_examples=40, deadline=None, suppress_health_check=QUIET)
@given(ROWS, SHAPES)
def test_every_promise_counts_when_all_are_kept(
    rows: list[tuple[float, float, int, float]], shape: tuple[int, int]
) -> None:
    """A limit of reservations that is never reached would change the schedule."""
    jobs, _, cluster = table(rows, shape)
    all_of_them, limited = (
        rltune.simulate(jobs, cluster, backfill="conservative", **more) for more in ({}, {"reservations": len(jobs)})
    )
    assert all_of_them.schedule.equals(limited.schedule)


@settings(max_examples=150, deadline=None, suppress_health_check=QUIET)
@given(ROWS, SHAPES)
def test_easy_starts_the_head_by_its_shadow_time(
    rows: list[tuple[float, float, int, float]], shape: tuple[int, int]
) -> None:
    """Backfilled jobs would push back the very job whose reservation they were to respect."""
    jobs, _, cluster = table(rows, shape)
    result = rltune.simulate(jobs, cluster, backfill="easy", max_retries=10)
    begin, end = result.start_s, result.end_s
    used = [dict(zip(*places, strict=True)) for places in zip(result.schedule.nodes, result.schedule.gpus, strict=True)]
    for job in range(len(jobs)):
        # From here on it is the head: all before it have started.
        head_at = max(jobs.submit_s[job], begin[:job].max(initial=0.0))
        if begin[job] == head_at:
            continue
        others = [k for k in range(len(jobs)) if begin[k] <= head_at < end[k] and not (begin[k] == head_at and k > job)]
        shadow = np.inf
        for instant in sorted(end[others].tolist()):
            free = np.full(shape[0], shape[1])
            for k in others:
                if end[k] > instant:
                    for node, gpus in used[k].items():
                        free[node] -= gpus
            fewest = -(-int(jobs.num_gpus[job]) // shape[1])
            if np.sort(free)[::-1][:fewest].sum() >= jobs.num_gpus[job]:
                shadow = instant
                break
        assert begin[job] <= shadow


def test_jobs_that_take_no_time_do_not_share_a_gpu() -> None:
    """Two jobs believed to take no time would both begin on the one GPU, and one of them run on it for real."""
    jobs = JobTable.from_columns({"submit_s": [0, 0, 0], "duration_s": [10, 10, 0], "num_gpus": [1, 1, 1]})
    cluster = Cluster("c", (Pool("a", 1, 1),))
    nothing = rltune.simulate(jobs, cluster, backfill="conservative", runtimes=np.zeros(3))
    assert nothing.start_s.tolist() == [0, 10, 20]
    exact = rltune.simulate(jobs, cluster, backfill="conservative")
    assert exact.start_s.tolist() == [0, 10, 20]


def test_a_job_that_takes_no_time_delays_nobody() -> None:
    """A short job could slip in between a job that ends at once and the wide one that waits for just that."""
    # At 0, zero takes a GPU of two and ends; wide has both from 0 on, short must wait for it.
    jobs = JobTable.from_columns(
        {"job_id": ["a", "b", "c"], "submit_s": [0, 0, 0], "duration_s": [0, 10, 0.5], "num_gpus": [1, 2, 1]}
    )
    result = rltune.simulate(jobs, Cluster("c", (Pool("a", 1, 2),)), backfill="conservative")
    assert result.start_s.tolist() == [0, 0, 10]


@pytest.mark.parametrize("backfill", ["easy", "conservative"])
def test_an_outlived_estimate_is_no_promise(backfill: str) -> None:
    """A job that runs longer than believed would be counted as gone, and its GPUs be given away."""
    # a is believed to end at 5 and ends at 20; b needs both GPUs; c (believed 2 s) may go beside a only while b waits anyway.
    jobs = JobTable.from_columns(
        {"job_id": ["a", "b", "c"], "submit_s": [0, 1, 6], "duration_s": [20, 5, 2], "num_gpus": [1, 2, 1]}
    )
    cluster = Cluster("c", (Pool("a", 1, 2),))
    result = rltune.simulate(jobs, cluster, backfill=backfill, runtimes=np.array([5.0, 5.0, 2.0]))
    # At 6 a is overdue: the head is expected now (EASY) or at 7 (conservative), before c could end.
    assert result.start_s.tolist() == [0, 20, 25]


def test_a_reservation_is_of_gpus_of_a_node_and_not_of_certain_ones() -> None:
    """A job would wait although the head has GPUs enough beside it, because the head was promised just the free one."""
    # Three GPUs, the first free again at 1. The head needs two at 10, one is spare then, whichever: long may have it now.
    jobs = JobTable.from_columns(
        {"submit_s": [0, 0, 0, 1, 1], "duration_s": [1, 10, 10, 5, 100], "num_gpus": [1, 1, 1, 2, 1]}
    )
    cluster = Cluster("c", (Pool("a", 1, 3),))
    for more in ({}, {"max_retries": 10}):
        assert rltune.simulate(jobs, cluster, backfill="easy", **more).start_s.tolist() == [0, 0, 0, 10, 1]
