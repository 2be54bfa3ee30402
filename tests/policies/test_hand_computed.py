"""Whole schedules worked out by hand: one small scenario for every order, backfill and allocator.

A job is (submit, run time, GPUs). In most scenarios job a holds the whole machine until b, c, ... have all arrived, so
that their order alone decides the rest; ``why`` is the calculation. A new order, backfill or allocator without an
entry fails. Preemptive policies, whose jobs run several times, have a table of their own.
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
from rltune.core.resources.counts import RULES
from rltune.core.resources.scores import SHARING_RULES
from rltune.nouns.cluster import Cluster, Pool
from rltune.nouns.jobs import JobTable
from rltune.policies.orders import ALIASES, ORDERS
from rltune.policies.preemptive import PREEMPTIVE, PREEMPTIVE_ALIASES
from rltune.simulator.run import DETAILED
from rltune.simulator.run import PLAIN as SIMULATED


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
    backfill: str = "skip"
    allocator: str = "best_fit"
    best: str | None = None
    unlike: tuple[tuple[str, str], ...] = ()

    def table(self) -> JobTable:
        columns = ("submit_s", "duration_s", "num_gpus", "gpu_type")
        return JobTable.from_columns(dict(zip(columns, zip(*self.jobs, strict=True), strict=False)))

    def run(self, **options: Any) -> rltune.Result:
        own = {"policy": self.policy, "backfill": self.backfill, "allocator": self.allocator}
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
        places=(A, B, {0: 1}, {0: 2}), cluster=nodes(2, 4), policy="sjf", backfill="blocking",
        unlike=(("backfill", "strict"),),
    ),
    "strict": Case(
        QUEUE, (0, 10, 2, 20), "at 2 the shorter c comes first and fits, 2-7; at 3 b is first and blocks d; b 10-20, d",
        places=(A, B, {1: 1}, {0: 2}), cluster=nodes(2, 4), policy="sjf", backfill="strict",
        unlike=(("backfill", "blocking"),),
    ),
    "skip": Case(
        QUEUE, (0, 27, 2, 7), "c slips in at 2, d when c ends: 7-27 on node 1, and b waits for it",
        places=(A, B, {1: 1}, {1: 2}), cluster=nodes(2, 4), backfill="skip", unlike=(("backfill", "easy"),),
    ),
    "easy": Case(
        QUEUE, (0, 10, 2, 20), "b is reserved at 10: c would end at 7 and slips in, d would end at 23 or later and does not",
        places=(A, B, {1: 1}, {0: 2}), cluster=nodes(2, 4), backfill="easy", unlike=(("backfill", "skip"),),
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

# Only the detailed simulation knows it.
CONSERVATIVE = Case(
    ((0, 10, 2), (1, 10, 3), (2, 10, 4), (3, 30, 1)), (0, 10, 20, 30),
    "b is reserved 10-20, c 20-30; d fits beside a and b, but would hold a GPU until 33 that c needs: 30. EASY knows "
    "only b's reservation, starts d at 3, and c waits until 33",
    backfill="conservative", unlike=(("backfill", "easy"),),
)  # fmt: skip


@dataclass(frozen=True)
class Preempted:
    """``jobs``: (submit, run time, GPUs, whose, priority), named a, b, c, ...; ``runs``: by start (job, start, end).

    Runs that are the last of their job finish, the others are suspended. ``unlike`` as above.
    """

    jobs: tuple[tuple[Any, ...], ...]
    runs: tuple[tuple[str, float, float], ...]
    why: str
    gpus: int = 1
    options: tuple[tuple[str, Any], ...] = ()
    unlike: tuple[str, ...] = ()

    def run(self, policy: str) -> rltune.Result:
        rows = [(*job, "u", 0)[:5] if len(job) == 3 else (*job, 0)[:5] for job in self.jobs]
        submit, run, gpus, whose, priority = zip(*rows, strict=True)
        columns = {
            "submit_s": submit,
            "duration_s": run,
            "num_gpus": gpus,
            "user": whose,
            "vc": whose,
            "priority": priority,
        }
        names = [chr(ord("a") + k) for k in range(len(rows))]
        table = JobTable.from_columns({"job_id": names, **columns})
        return rltune.simulate(table, nodes(1, self.gpus), policy=policy, **dict(self.options))

    def expected(self) -> list[tuple[Any, ...]]:
        last = {job: end for job, _, end in self.runs}
        return [(*run, "finished" if last[run[0]] == run[2] else "suspended") for run in self.runs]


def runs_in(result: rltune.Result) -> list[tuple[Any, ...]]:
    return list(result.attempts[["job_id", "start_s", "end_s", "outcome"]].itertuples(index=False, name=None))


QUANTUM = ("quantum_s", 2.0)
ANY_GAP = ("displace_factor", 1.0)
ONE_IN_TEN_SHORT = JobTable.from_columns(
    {"submit_s": [0.0] * 2000, "duration_s": ([2.0] + [1024.0] * 9) * 200, "num_gpus": [1] * 1000 + [8] * 1000}
)
"""Of the past of gittins' case: a tenth of the jobs takes 2 s, the rest 1024 s, whatever their size."""
PREEMPTIVE_CASES = {
    "srtf": Preempted(
        ((0, 10, 1), (2, 4, 1), (3, 1, 1)), (("a", 0, 2), ("b", 2, 3), ("c", 3, 4), ("b", 4, 7), ("a", 7, 15)),
        "at 2 a has 8 left, b 4: b; at 3 b has 3, c 1: c; at 4 b 3, a 8: b, then a",
        options=(ANY_GAP,), unlike=("fifo", "las_levels", "round_robin"),
    ),
    "srsf": Preempted(
        ((0, 10, 1), (2, 5, 2), (4, 1, 2)), (("a", 0, 4), ("c", 4, 5), ("a", 5, 11), ("b", 11, 16)),
        "remaining time x GPUs at 2: a 8, b 10; at 4 a 6, c 2: c; at 5 a 6, b 10: a, beside which b does not fit; b at 11. "
        "By time alone (srtf) b would go at 2: 5 against 8",
        gpus=2, options=(ANY_GAP,), unlike=("srtf", "fifo"),
    ),
    "las": Preempted(
        ((0, 10, 1), (3, 8, 1)), (("a", 0, 3), ("b", 3, 10), ("a", 10, 17), ("b", 17, 18)),
        "at 3 a has 3 GPU-seconds, b none: b; factor 2: a comes back when b has more than 6, at the quantum's end at 10 (7); b "
        "would when a has more than 14, but a is done with 10",
        options=(QUANTUM,), unlike=("fifo", "round_robin", "srtf", "las_levels"),
    ),
    "gittins": Preempted(
        ((10_000, 1024, 1), (10_500, 2, 8), (10_970, 2, 8)),
        (("a", 10_000, 10_500), ("b", 10_500, 10_502), ("a", 10_502, 11_026), ("c", 11_026, 11_028)),
        "new jobs: 2 s (2.2, a bin) for one end in ten, 22 s a completion, x 8 GPUs = 174. At 10,500 a needs 1024 - 470 (lower end of its "
        "bin) = 554 for sure, more than twice 174: b; at 10,970 a has 968 s behind it and needs 1024 - 939 = 85: a",
        gpus=8, options=(("past_jobs", ONE_IN_TEN_SHORT),), unlike=("fifo", "las"),
    ),
    "las_levels": Preempted(
        ((0, 10, 1), (3, 2, 1), (9, 1, 1)), (("a", 0, 4), ("b", 4, 6), ("a", 6, 9), ("c", 9, 10), ("a", 10, 13)),
        "one threshold, 4 GPU-seconds. At 3 both are in the first queue, a goes on; at 4 a quantum ends, a has 4 and falls: "
        "b; at 9 c comes and is above a at once",
        options=(QUANTUM, ("las_levels_gpu_s", [4.0])), unlike=("fifo", "round_robin", "srtf"),
    ),
    "priority": Preempted(
        ((0, 10, 1, "u", 0), (2, 3, 1, "u", 1), (3, 2, 1, "u", 0), (4, 1, 1, "u", 2)),
        (("a", 0, 2), ("b", 2, 4), ("d", 4, 5), ("b", 5, 6), ("a", 6, 14), ("c", 14, 16)),
        "b suspends a, d suspends b; then b's last second, a's last 8; c is no more urgent than a and came later",
        unlike=("fifo", "srtf"),
    ),
    "round_robin": Preempted(
        ((0, 5, 1), (0, 3, 1), (1, 2, 1)),
        (("a", 0, 2), ("b", 2, 4), ("c", 4, 6), ("a", 6, 8), ("b", 8, 9), ("a", 9, 10)),
        "two seconds each: a, b, c (done), a, b (its last second), a (its last)",
        options=(QUANTUM,), unlike=("fifo", "lottery"),
    ),
    "lottery": Preempted(
        ((0, 5, 1), (1, 3, 1), (1, 3, 1)), (("a", 0, 2), ("b", 2, 5), ("c", 5, 8), ("a", 8, 11)),
        "tickets 1, 10^24, 10^12: from the first drawing with b in it, at 2, b wins all but one in 10^12, then c, then a",
        options=(QUANTUM, ("weights", [1.0, 1e24, 1e12])), unlike=("fifo", "round_robin"),
    ),
    "wfq": Preempted(
        ((0, 4, 1), (0, 8, 1)), (("a", 0, 2), ("b", 2, 8), ("a", 8, 10), ("b", 10, 12)),
        "weights 1 and 2; served / weight at 2: a 2, b 0: b; at 4: b 1; at 6: b 2, no more than a, goes on; at 8: b 3: a",
        options=(QUANTUM, ("weights", [1.0, 2.0])), unlike=("fifo", "round_robin"),
    ),
    "fair_user": Preempted(
        ((0, 10, 1, "u"), (1, 2, 1, "u"), (2, 5, 1, "v"), (3, 4, 1, "v")), (("a", 0, 10), ("c", 10, 15), ("d", 15, 19), ("b", 19, 21)),
        "GPU-seconds of u and v at 10: 10 and 0: c; at 15: 10 and 5: d; nobody is suspended", unlike=("fifo", "srtf"),
    ),
    "fair_vc": Preempted(
        ((0, 6, 1, "x"), (1, 3, 1, "y"), (2, 4, 1, "x"), (3, 4, 1, "y")),
        (("a", 0, 6), ("b", 6, 9), ("c", 9, 13), ("d", 13, 17)),
        "half-life 2 s. At 9: x used 6 s until 6, decayed (1 - 2^-3) x 2 / ln 2 = 2.52, then 2.52 x 2^-1.5 = 0.89; y used 3 s: "
        "(1 - 2^-1.5) x 2 / ln 2 = 1.87: c. Without decay y would have 3 against 6, and d would go",
        options=(("half_life_s", 2.0), ANY_GAP), unlike=("srtf",),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Shared:
    """``jobs``: (GPUs, thousandths of each, CPU cores), one a second, of 10 s each, on two nodes of 4 GPUs and 8 cores."""

    jobs: tuple[tuple[int, int, float], ...]
    nodes: tuple[int, ...]
    why: str
    starts: tuple[float, ...] = (0, 1, 2)
    unlike: str = "best_fit"

    def run(self, allocator: str) -> rltune.Result:
        gpus, milli, cpus = zip(*self.jobs, strict=True)
        table = JobTable.from_columns(
            {
                "submit_s": range(len(gpus)),
                "duration_s": [10] * len(gpus),
                "num_gpus": gpus,
                "gpu_milli": milli,
                "cpus": cpus,
            }
        )
        return rltune.simulate(table, Cluster("c", (Pool("pool", 2, 4, cpus=8.0),)), allocator=allocator)


def splitmix(*words: int) -> int:
    """The draw of `rltune.core.rng.chance`, with Python's integers."""
    word, mask = 0, 2**64 - 1
    for part in words:
        word = (word + part + 0x9E3779B97F4A7C15) & mask
        word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & mask
        word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & mask
        word ^= word >> 31
    return word


PAIR = ((2, 1000, 0), (3, 1000, 0), (1, 1000, 0), (2, 1000, 0))
SHARED_CASES = {
    "first_fit": Shared(
        PAIR, (0, 1, 0, 0), "a on node 0, b where 3 are free, c on node 0, and one GPU is left on each: d waits for a",
        starts=(0, 1, 2, 10),
    ),
    "best_fit": Shared(
        PAIR, (0, 1, 1, 0), "c on node 1, where one GPU is left, so that d fits beside a", starts=(0, 1, 2, 3), unlike="first_fit"
    ),
    "least_loaded": Shared(((1, 1000, 0), (1, 1000, 0), (2, 1000, 0)), (0, 1, 0), "b on the node without a; c: 3 free on each"),
    "random": Shared(
        ((1, 1000, 0),) * 4, tuple(splitmix(0, 4, job, 0) % 2 for job in range(4)),
        "seed 0, purpose 4 (placement), the job's first run: the draw modulo the two nodes with room",
    ),
    "dot_prod": Shared(
        ((1, 1000, 7), (3, 1000, 2), (1, 1000, 0)), (0, 1, 1),
        "b finds too few cores beside a. Free: 3/4 of the GPUs and 1/8 of the cores, 1/4 and 6/8. c asks for 1/4 of the GPUs: "
        "3/16 and 1/16: node 1. Best fit adds up what is free: 7/8 and 1: node 0",
    ),
    "gpu_clustering": Shared(
        ((1, 1000, 4), (3, 1000, 6), (1, 1000, 0)), (0, 1, 0),
        "b finds too few cores beside a; c joins a, which asks for one GPU as well, though node 1 is fuller",
    ),
    "gpu_packing": Shared(
        ((1, 500, 6), (3, 1000, 4), (1, 500, 0)), (0, 1, 0),
        "b finds too few cores beside a; c gets the other half of a's GPU, though node 1 is fuller",
    ),
    "fgd": Shared(
        ((2, 1000, 0), (1, 1000, 0), (2, 1000, 0)), (0, 1, 0),
        "b on node 0 would leave one GPU, of no use to pairs; c on node 1 too", unlike="best_fit",
    ),
    "stranding": Shared(
        ((1, 1000, 3), (1, 0, 2), (1, 1000, 1.5)), (0, 1, 0),
        "3 GPUs and 5 cores beside a, 4 and 8 on node 1. Without b's 2 cores both still host every job, but c's 1.5 cores a "
        "GPU would starve a GPU of node 0; those of a starve as many on either. c then starves none on either",
        unlike="fgd",
    ),
}  # fmt: skip


def test_everything_has_an_entry() -> None:
    """A new order, backfill or allocator would come without one schedule that a person has worked out."""
    assert set(ORDER_CASES) == set(ORDERS)
    assert set(DISCIPLINE_CASES) == set(SIMULATED)
    assert set(DETAILED) - set(DISCIPLINE_CASES) == {"conservative"}
    assert set(ALLOCATOR_CASES) == {*RULES, "milp"}
    assert set(PREEMPTIVE_CASES) == set(PREEMPTIVE)
    assert set(SHARED_CASES) == set(SHARING_RULES)


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
    """`backfill` would let the wrong jobs pass, or an allocator put them elsewhere than its rule says."""
    case.check(case.run())
    for option, value in case.unlike:
        assert case.run(**{option: value}).start_s.tolist() != list(case.starts)


@pytest.mark.parametrize("name", DETAILED)
def test_disciplines_of_the_detailed_simulation(name: str) -> None:
    """The same backfill would mean something else as soon as failures or shares are simulated."""
    case = CONSERVATIVE if name == "conservative" else DISCIPLINE_CASES[name]
    case.check(case.run(max_retries=0))
    for option, value in case.unlike:
        if value in DETAILED:
            assert case.run(**{option: value}, max_retries=0).start_s.tolist() != list(case.starts)


@pytest.mark.parametrize("name", [*PREEMPTIVE, *PREEMPTIVE_ALIASES])
def test_preemptive_policies(name: str) -> None:
    """A policy would suspend, or let run, other jobs than its definition says."""
    case = PREEMPTIVE_CASES[PREEMPTIVE_ALIASES.get(name, name)]
    assert runs_in(case.run(name)) == case.expected()
    for other in case.unlike:
        assert runs_in(case.run(other)) != case.expected()


@pytest.mark.parametrize("name", SHARED_CASES)
def test_sharing_allocators(name: str) -> None:
    """An allocator would put jobs elsewhere than its rule says."""
    case = SHARED_CASES[name]
    result, other = case.run(name), case.run(case.unlike)
    assert result.start_s.tolist()[: len(case.starts)] == list(case.starts)
    assert [node for (node,) in result.schedule.nodes] == list(case.nodes)
    assert [node for (node,) in other.schedule.nodes] != list(case.nodes)
