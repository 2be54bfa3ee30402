"""Whole schedules worked out by hand: one small scenario for every order, discipline and allocator.

A job is (submit, run time, GPUs). In most scenarios job a holds the whole machine until b, c, ... have all arrived, so
that their order alone decides the rest; ``why`` is the calculation. A new order, discipline or allocator without an
entry fails. Preemptive policies, whose jobs run several times, belong into a table of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import pytest

import rltune
from rltune.allocators.greedy import GreedyAllocator
from rltune.allocators.placement import RULES
from rltune.cluster import Cluster, Pool
from rltune.jobs import JobTable
from rltune.policies.orders import ALIASES, ORDERS
from rltune.simulator.disciplines import SIMULATED


def nodes(count: int, gpus: int) -> Cluster:
    return Cluster(f"{count}x{gpus}", (Pool("pool", count, gpus),))


ONE_NODE = nodes(1, 4)


@dataclass(frozen=True)
class Case:
    """``starts`` in seconds; ``places``: node -> GPUs a job (None: all on node 0).

    ``best``: the objective for which no other order of the same jobs does better. ``unlike``: the options with
    which the same jobs must end up otherwise.
    """

    jobs: tuple[tuple[Any, ...], ...]
    starts: tuple[float, ...]
    why: str
    places: tuple[dict[int, int], ...] | None = None
    cluster: Cluster = ONE_NODE
    policy: str = "fifo"
    discipline: str = "skip"
    allocator: str = "best_fit"
    best: str | None = None
    unlike: tuple[tuple[str, str], ...] = ()

    def table(self) -> JobTable:
        columns = ("submit_s", "duration_s", "num_gpus", "gpu_type")
        return JobTable.from_columns(dict(zip(columns, zip(*self.jobs, strict=True), strict=False)))

    def run(self, **options: Any) -> rltune.Result:
        own = {"policy": self.policy, "discipline": self.discipline, "allocator": self.allocator}
        return rltune.simulate(self.table(), self.cluster, **(own | options))

    def check(self, result: rltune.Result) -> None:
        schedule, expected = result.schedule, self.places or tuple({0: job[2]} for job in self.jobs)
        assert result.start_s.tolist() == list(self.starts)
        assert result.end_s.tolist() == [start + job[1] for start, job in zip(self.starts, self.jobs, strict=True)]
        found = [dict(zip(n, g, strict=True)) for n, g in zip(schedule.nodes, schedule.gpus, strict=True)]
        assert found == list(expected)


OBJECTIVES: dict[str, Callable[[rltune.Result], float]] = {
    "mean wait": lambda result: float(result.wait_s.mean()),
    "longest JCT": lambda result: float((result.end_s - result.jobs.submit_s).max()),
    "makespan": lambda result: result.makespan_s(),
}

FIRST, LATE = (0, 10, 4), (0, 200, 2)
ONE_AT_A_TIME = (FIRST, (1, 6, 4), (2, 2, 4), (3, 4, 4))

ORDER_CASES = {
    "fifo": Case(
        ONE_AT_A_TIME, (0, 10, 16, 18), "b 10-16, c 16-18, d 18-22; of one machine, FIFO keeps the longest JCT least",
        best="longest JCT",
    ),
    "lifo": Case(ONE_AT_A_TIME, (0, 16, 14, 10), "d 10-14, c 14-16, b 16-22"),
    "sjf": Case(
        ONE_AT_A_TIME, (0, 16, 10, 12), "run times 6, 2, 4: c 10-12, d 12-16, b 16-22; of one machine, the least mean wait",
        best="mean wait",
    ),
    "ljf": Case(
        ((0, 10, 2), (1, 2, 1), (2, 2, 1), (3, 4, 1)), (0, 10, 12, 10),
        "run times 2, 2, 4 on two nodes of one GPU: d and b at 10, c after b: all ends at 14, where FIFO needs 16",
        places=({0: 1, 1: 1}, {1: 1}, {1: 1}, {0: 1}), cluster=nodes(2, 1), best="makespan",
    ),
    "smallest": Case(
        (FIRST, (1, 5, 4), (2, 5, 1), (3, 5, 2)), (0, 15, 10, 10),
        "GPUs 4, 1, 2: c and d side by side 10-15, then b; of equal run times the most at once wait least",
        best="mean wait",
    ),
    "largest": Case(
        (FIRST, (1, 5, 1), (2, 5, 2), (3, 5, 4)), (0, 15, 15, 10), "GPUs 1, 2, 4: d alone 10-15, then c and b side by side"
    ),
    "multifactor": Case(
        (FIRST, (1, 3, 3), (2, 8, 2), (3, 4, 1)), (0, 18, 10, 10),
        "constant age, so GPUs 3, 2, 1: d 10-14 and c 10-18; at 14 two GPUs are free, b needs three: 18",
    ),
    "saf": Case(
        ((0, 10, 2), (1, 5, 2), (2, 6, 1), (3, 8, 1)), (0, 18, 10, 10),
        "areas 10, 6, 8: c 10-16 and d 10-18, then b: waits 17 + 8 + 7; SJF and FIFO take b first: 9 + 13 + 12",
        cluster=nodes(1, 2), best="mean wait",
    ),
    "laf": Case(
        ((0, 10, 2), (1, 6, 1), (2, 5, 2), (3, 6, 1)), (0, 15, 10, 15),
        "areas 6, 10, 6: c 10-15, then b and d; by run time alone (LJF) b and d would go first",
        cluster=nodes(1, 2), unlike=(("policy", "ljf"),),
    ),
    "srf": Case(
        ((0, 10, 2), (1, 4, 1), (2, 6, 2), (3, 5, 1)), (0, 16, 10, 16),
        "run time per GPU 4, 3, 5: c 10-16, then b and d; SJF and SAF take b first",
        cluster=nodes(1, 2), unlike=(("policy", "sjf"),),
    ),
    "lrf": Case(
        ((0, 10, 2), (1, 6, 2), (2, 4, 1), (3, 5, 1)), (0, 15, 10, 10),
        "run time per GPU 3, 4, 5: d 10-15 and c 10-14, then b; LJF and LAF take b first",
        cluster=nodes(1, 2), unlike=(("policy", "laf"),),
    ),
    # Of submissions 100, 101, 102 the logarithms are 2, 2.0043214 and 2.0086002. Keys below are without the common part.
    "f1": Case(
        (LATE, (100, 1000, 2), (101, 10, 2), (102, 10, 1)), (0, 210, 200, 1210),
        "log10(run) x GPUs + 870 log10(submit): b 3 x 2 = 6; c 1 x 2 + 3.76 = 5.76; d 1 + 7.48 = 8.48. "
        "c 200-210, b 210-1210, d",
        cluster=nodes(1, 2),
    ),
    "f2": Case(
        (LATE, (100, 10_000, 2), (101, 100, 2), (102, 100, 1)), (0, 300, 200, 10_300),
        "sqrt(run) x GPUs + 25,600 log10(submit): b 200; c 20 + 110.6 = 130.6; d 10 + 220.2 = 230.2. c 200-300, b, d",
        cluster=nodes(1, 2),
    ),
    "f3": Case(
        (LATE, (100, 20_000, 2), (101, 1000, 2), (102, 1000, 1)), (0, 1200, 200, 21_200),
        "run x GPUs + 6,860,000 log10(submit): b 40,000; c 2,000 + 29,645 = 31,645; d 1,000 + 58,997 = 59,997. c, b, d",
        cluster=nodes(1, 2),
    ),
    "f4": Case(
        ((0, 200, 4), (100, 4000, 4), (101, 2000, 4), (102, 2500, 1)), (0, 4700, 200, 2200),
        "run x sqrt(GPUs) + 530,000 log10(submit): b 8,000; c 4,000 + 2,290 = 6,290; d 2,500 + 4,558 = 7,058. "
        "c 200-2200, d 2200-4700 beside which b does not fit, b",
    ),
    "wfp3": Case(
        (FIRST, (1, 9, 4), (2, 4, 4), (4, 2, 1)), (0, 16, 10, 14),
        "(wait / run)^3 x GPUs at 10: b 1 x 4 = 4, c 8 x 4 = 32, d 27: c 10-14. At 14: b (13/9)^3 x 4 = 12, d 5^3 = 125: "
        "d 14-16, then b",
    ),
    "unicef": Case(
        (FIRST, (1, 9, 4), (2, 4, 2), (3, 2, 4)), (0, 16, 10, 14),
        "wait / (log2(GPUs) x run) at 10: b 9/18 = 0.5, c 8/4 = 2, d 7/4 = 1.75: c 10-14, beside which nothing fits. "
        "At 14: b 13/18, d 11/4: d 14-16, then b",
    ),
    "sexp": Case(
        (FIRST, (1, 9, 2), (2, 3, 1), (3, 5, 4)), (0, 15, 15, 10),
        "(wait + run) / GPUs at 10: b 18/2 = 9, c 11, d 12/4 = 3: d 10-15, then b and c side by side",
    ),
    "lexp": Case(
        (FIRST, (1, 9, 4), (2, 3, 1), (3, 5, 2)), (0, 15, 10, 10),
        "(wait + run) / GPUs at 10, largest first: b 18/4 = 4.5, c 11, d 12/2 = 6: c 10-13 and d 10-15, then b",
    ),
}  # fmt: skip

# Two nodes of four GPUs. a takes four GPUs of node 0 and two of node 1; b needs both nodes whole; c is short, d long.
QUEUE = ((0, 10, 6), (1, 10, 8), (2, 5, 1), (3, 20, 2))
A, B = {0: 4, 1: 2}, {0: 4, 1: 4}
DISCIPLINE_CASES = {
    "blocking": Case(
        QUEUE, (0, 10, 20, 20), "b is picked at 1 and stays picked although c is shorter; 10-20, then c and d",
        places=(A, B, {0: 1}, {0: 2}), cluster=nodes(2, 4), policy="sjf", discipline="blocking",
        unlike=(("discipline", "strict"),),
    ),
    "strict": Case(
        QUEUE, (0, 10, 2, 20), "at 2 the shorter c comes first and fits, 2-7; at 3 b is first and blocks d; b 10-20, d",
        places=(A, B, {1: 1}, {0: 2}), cluster=nodes(2, 4), policy="sjf", discipline="strict",
        unlike=(("discipline", "blocking"),),
    ),
    "skip": Case(
        QUEUE, (0, 27, 2, 7), "c slips in at 2, d when c ends: 7-27 on node 1, and b waits for it",
        places=(A, B, {1: 1}, {1: 2}), cluster=nodes(2, 4), discipline="skip", unlike=(("discipline", "easy"),),
    ),
    "easy": Case(
        QUEUE, (0, 10, 2, 20), "b is reserved at 10: c would end at 7 and slips in, d would end at 23 or later and does not",
        places=(A, B, {1: 1}, {0: 2}), cluster=nodes(2, 4), discipline="easy", unlike=(("discipline", "skip"),),
    ),
}  # fmt: skip

TYPES = Cluster("types", (Pool("x", 1, 4, gpu_type="V100"), Pool("y", 1, 4, gpu_type="P100", first_node_id=1)))
ALLOCATOR_CASES = {
    "lexicographic": Case(
        ((0, 10, 6), (1, 10, 2)), (0, 10),
        "a on nodes 0 and 1: (0, 3), (1, 3) is the smallest list, since (0, 4), (1, 2) has more on node 0; one GPU "
        "is left on each, too few for b until 10",
        places=({0: 3, 1: 3}, {0: 2}), cluster=nodes(2, 4), allocator="lexicographic", unlike=(("allocator", "best_fit"),),
    ),
    "best_fit": Case(
        ((0, 10, 2), (1, 10, 3), (2, 10, 1), (3, 10, 2)), (0, 1, 2, 3),
        "a on node 0, b on node 1, c where one GPU is left (node 1), so that d fits beside a; the lowest node would "
        "have taken c and left d waiting",
        places=({0: 2}, {1: 3}, {1: 1}, {0: 2}), cluster=nodes(2, 4), unlike=(("allocator", "lexicographic"),),
    ),
    "least_fragmentation": Case(
        ((0, 10, 2), (1, 10, 1), (2, 10, 3), (3, 10, 2)), (0, 1, 2, 3),
        "sizes 1, 2, 2, 3: a node with 1, 2, 3 free GPUs costs 1 x 3/4, 2 x 1/4, 0. a on node 0. b there: 0.75 - 0.5 more; "
        "on node 1: 0 more. c fills node 1, d node 0; best fit puts b on node 0, and d waits for a",
        places=({0: 2}, {1: 1}, {1: 3}, {0: 2}), cluster=nodes(2, 4), allocator="least_fragmentation",
        unlike=(("allocator", "best_fit"),),
    ),
    "milp": Case(
        ((0, 10, 2, "V100"), (1, 10, 2, None), (1, 10, 2, "V100")), (0, 1, 1),
        "b may go anywhere, c only to node 0, where two GPUs are left: one after the other, b takes them (the tightest "
        "fit) and c waits until 10; together, b goes to node 1",
        places=({0: 2}, {1: 2}, {0: 2}), cluster=TYPES, allocator="milp", unlike=(("allocator", "best_fit"),),
    ),
}  # fmt: skip


def test_everything_has_an_entry() -> None:
    """A new order, discipline or allocator would come without one schedule that a person has worked out."""
    assert set(ORDER_CASES) == set(ORDERS)
    assert set(DISCIPLINE_CASES) == set(SIMULATED)
    assert set(ALLOCATOR_CASES) == {*RULES, "milp"}


@pytest.mark.parametrize("name", [*ORDERS, *ALIASES])
def test_orders(name: str) -> None:
    """A heuristic would start jobs in another order than its formula says, by name, by alias or as an object."""
    case = ORDER_CASES[ALIASES.get(name, name)]
    case.check(case.run(policy=name))
    case.check(case.run(policy=ORDERS[ALIASES.get(name, name)], allocator=GreedyAllocator("best_fit")))


@pytest.mark.parametrize("name", [name for name in ORDERS if name != "fifo"])
def test_orders_are_told_apart(name: str) -> None:
    """The scenario of an order would be passed by FIFO, or by a near relation, as well."""
    case = ORDER_CASES[name]
    for option, value in (("policy", "fifo"), *case.unlike):
        assert case.run(**{"policy": name, option: value}).start_s.tolist() != list(case.starts)


@pytest.mark.parametrize("name", [name for name, case in ORDER_CASES.items() if case.best])
def test_no_order_of_the_jobs_does_better(name: str) -> None:
    """A policy that is known to be optimal here would not be, so its schedule or the objective would be wrong."""
    case = ORDER_CASES[name]
    objective = OBJECTIVES[str(case.best)]
    others = []
    for order in permutations(range(len(case.jobs))):
        rank = np.argsort(order)
        others.append(objective(case.run(policy=lambda queue, snapshot, rank=rank: rank[queue.job])))
    assert objective(case.run(policy=name)) == min(others) < max(others)


@pytest.mark.parametrize("case", [*DISCIPLINE_CASES.values(), *ALLOCATOR_CASES.values()],
                         ids=[*DISCIPLINE_CASES, *ALLOCATOR_CASES])  # fmt: skip
def test_disciplines_and_allocators(case: Case) -> None:
    """A discipline would let the wrong jobs pass, or an allocator put them elsewhere than its rule says."""
    case.check(case.run())
    for option, value in case.unlike:
        assert case.run(**{option: value}).start_s.tolist() != list(case.starts)
