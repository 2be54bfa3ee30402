"""Gavel's way from an allocation to a schedule: shares of time per job and type, priorities, greedy choice each round.

A policy gives X (share of time of each job on each type). It is run anew when something changed and the last time is long
enough ago; until then, every round, the job furthest behind its share comes first on each type (`rltune.rounds.books`).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rltune.rounds.books import OVER, RUN_OUT, Rules, books_of, play, reset
from rltune.rounds.clock import ACTIVE, DROPPED, ROUNDS, Clock, Terms, clock_of
from rltune.rounds.jobs import Floats, Ints, RoundJobs
from rltune.rounds.run import Run, check_workers, need_later_jobs

RESET_S = 1920.0
"""Least time between two allocations."""
BLOCK = 4096
"""Rounds whose type orders are drawn at a time."""

Policy = Callable[[Clock, Ints], Floats]
"""(clock, (m,) jobs present by id) -> (m, n_types) share of time on each type."""


@dataclass(frozen=True, slots=True)
class Published:
    """How a policy is run. ``fifo``: jobs without priority never fill free GPUs; ``blind``: the types are filled in an order
    shuffled each round (else in the order of the jobs' types); ``each_gpu``: gangs are booked once a GPU, as in May 2020.
    """

    policy: Policy
    fifo: bool = False
    blind: bool = False
    each_gpu: bool = True
    reset_s: float = RESET_S


def simulate_published(
    jobs: RoundJobs, workers: Ints, how: Published, window: tuple[int, int], seed: int = 0, terms: Terms | None = None,
    limit_s: Floats | None = None,
) -> Run:  # fmt: skip
    """Run until all jobs of ``window`` (first, last excluded) have ended; arrivals go on meanwhile.

    ``workers`` (n_types,) GPUs of each type. ``seed``: of the shuffled type order. InputError if the list is too short, which
    would leave out the competition of later jobs.
    """
    check_workers(jobs, workers)
    terms, clock = terms or Terms(), clock_of(jobs, limit_s)
    rules = Rules(how.fifo, how.each_gpu, how.reset_s, terms.round_s / 2)
    books = books_of(jobs, workers, rules.half_s)
    shuffler, allocations = random.Random(seed + 5), 0
    orders = _orders(shuffler, len(workers), how.blind)
    at = np.array([0, window[0]])
    while True:
        state = play(clock, books, terms, rules, orders, at, window)
        if state == OVER:
            break
        if state == RUN_OUT:
            orders, at[0] = _orders(shuffler, len(workers), how.blind), 0
            continue
        reset(clock, books, rules.half_s)
        present = clock.active[: clock.counts[ACTIVE]].copy()
        books.share[present] = how.policy(clock, present)
        books.has[present] = True
        allocations += 1
    need_later_jobs(clock, window)
    return Run(clock.finish - clock.arrival, int(clock.counts[ROUNDS]), allocations, int(clock.counts[DROPPED]))


def _orders(shuffler: random.Random, types: int, blind: bool) -> Ints:
    """(rounds, types) the order in which types are filled; a fresh list is shuffled each round, as Gavel does."""
    orders = np.tile(np.arange(types), (BLOCK, 1))
    if blind:
        for k in range(BLOCK):
            order = list(range(types))
            shuffler.shuffle(order)
            orders[k] = order
    return orders
