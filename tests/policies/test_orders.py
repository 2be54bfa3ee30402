"""Every order's key against its paper's formula, worked out with plain Python."""

from __future__ import annotations

from collections.abc import Callable
from math import log2, log10, sqrt
from typing import Any

import numpy as np
import pytest

import rltune
from rltune.nouns.cluster import Cluster, Pool
from rltune.nouns.errors import InputError
from rltune.nouns.jobs import JobTable
from rltune.nouns.plan import Queue, Running, Snapshot
from rltune.policies.orders import ALIASES, ORDERS, order, sequence, static_rank

# (submit s, run r, GPUs n, wait w) of four queued jobs; the second submitted at second 0.
JOBS = [(400.0, 100.0, 4, 60.0), (0.0, 900.0, 1, 460.0), (250.0, 30.0, 16, 210.0), (459.0, 5000.0, 2, 1.0)]


def log(x: float) -> float:
    return log10(x) if x > 0 else -1.0


FORMULAS: dict[str, Callable[[float, float, int, float], Any]] = {
    "fifo": lambda s, r, n, w: s,
    "lifo": lambda s, r, n, w: -s,
    "smallest": lambda s, r, n, w: n,
    "largest": lambda s, r, n, w: -n,
    "multifactor": lambda s, r, n, w: -(1000 * -1 / 43200 + 1000 * (1 - n / 160)),
    "sjf": lambda s, r, n, w: (r, n),
    "ljf": lambda s, r, n, w: -r,
    "saf": lambda s, r, n, w: r * n,
    "laf": lambda s, r, n, w: -r * n,
    "srf": lambda s, r, n, w: r / n,
    "lrf": lambda s, r, n, w: -r / n,
    "f1": lambda s, r, n, w: log(r) * n + 870 * log(s),
    "f2": lambda s, r, n, w: sqrt(r) * n + 25600 * log(s),
    "f3": lambda s, r, n, w: r * n + 6860000 * log(s),
    "f4": lambda s, r, n, w: r * sqrt(n) + 530000 * log(s),
    "wfp3": lambda s, r, n, w: -((w / r) ** 3) * n,
    "unicef": lambda s, r, n, w: -w / (log2(max(n, 2)) * r),
    "sexp": lambda s, r, n, w: (w + r) / n,
    "lexp": lambda s, r, n, w: -(w + r) / n,
}


def queue_of(jobs: list[tuple[float, float, int, float]]) -> Queue:
    s, r, n, w = (np.array(column) for column in zip(*jobs, strict=True))
    zeros = np.zeros(len(jobs), np.int64)
    return Queue(
        zeros, s.astype(float), r.astype(float), n.astype(np.int64), w.astype(float), zeros * 0.0, zeros, zeros, zeros
    )


def keys_of(name: str, queue: Queue) -> list[tuple[float, ...]]:
    keys = order(name).keys(queue)
    columns = keys if isinstance(keys, tuple) else (keys,)
    return [tuple(float(c[i]) for c in columns) for i in range(len(queue))]


def test_every_order_has_its_formula_here() -> None:
    """A new order would go untested."""
    assert set(FORMULAS) == set(ORDERS)


@pytest.mark.parametrize("name", sorted(FORMULAS))
def test_keys_are_the_formula(name: str) -> None:
    """A heuristic of the table would not be the one its paper describes."""
    expected = [FORMULAS[name](*job) for job in JOBS]
    tuples = [e if isinstance(e, tuple) else (e,) for e in expected]
    found = keys_of(name, queue_of(JOBS))
    if name == "multifactor":  # equal but for the constant age term
        tuples = [(e[0] + 1000 * -1 / 43200,) for e in tuples]
    for got, wanted in zip(found, tuples, strict=True):
        assert got == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("name", sorted(FORMULAS))
def test_the_sequence_follows_the_formula(name: str) -> None:
    """The jobs of the queue would start in another order than the keys say."""
    expected = sorted(range(len(JOBS)), key=lambda i: FORMULAS[name](*JOBS[i]))
    assert sequence(order(name).keys(queue_of(JOBS)), len(JOBS)).tolist() == expected


@pytest.mark.parametrize("name", sorted(FORMULAS))
def test_ties_go_by_arrival(name: str) -> None:
    """Equal jobs would overtake each other, and two machines could give two schedules."""
    assert sequence(order(name).keys(queue_of([JOBS[2]] * 40)), 40).tolist() == list(range(40))


@pytest.mark.parametrize("name", sorted(FORMULAS))
def test_zero_run_times_have_a_place(name: str) -> None:
    """A job of zero seconds would divide by zero and stop the simulation (it does in the published code)."""
    with np.errstate(all="raise"):
        keys = keys_of(name, queue_of([(0.0, 0.0, 1, 0.0), (5.0, 0.0, 2, 100.0), *JOBS]))
    assert np.isfinite(keys).all()


def test_first_job_and_zero_run_time_use_the_reference_value() -> None:
    """F1 of the trace's first job (submit 0) would differ from the published simulator, which takes log10(0.1)."""
    assert keys_of("f1", queue_of([(0.0, 0.0, 3, 0.0)])) == [(-1.0 * 3 + 870 * -1.0,)]


@pytest.mark.parametrize(("alias", "name"), [("fcfs", "fifo"), ("lcfs", "lifo"), ("lpf", "ljf"), ("wfp", "wfp3")])
def test_published_names_are_understood(alias: str, name: str) -> None:
    """A user who types RLTune's name would be refused or get another order."""
    assert order(alias) is ORDERS[name]
    assert set(ALIASES) == {"fcfs", "lcfs", "lpf", "wfp"}


def test_unknown_policies_are_refused_with_the_known_ones() -> None:
    """A typing error would be a KeyError."""
    with pytest.raises(InputError, match=r"'sfj' is unknown; known are fifo, .*sjf.*fcfs"):
        order("sfj")


def test_sjf_breaks_equal_run_times_by_size() -> None:
    """RLTune's SJF (run, GPUs) would not be reproduced."""
    assert sequence(order("sjf").keys(queue_of([(0, 10, 8, 1), (1, 10, 2, 1), (2, 9, 64, 1)])), 3).tolist() == [2, 1, 0]


def test_time_dependent_orders_change_while_jobs_wait() -> None:
    """WFP3 would be fixed at submission: the long waiting wide job would never overtake."""
    young, old = [(0.0, 100.0, 1, 90.0), (80.0, 100.0, 8, 10.0)], [(0.0, 100.0, 1, 290.0), (80.0, 100.0, 8, 210.0)]
    assert sequence(order("wfp3").keys(queue_of(young)), 2).tolist() == [0, 1]
    assert sequence(order("wfp3").keys(queue_of(old)), 2).tolist() == [1, 0]


BLIND = [(o.name, as_object) for o in ORDERS.values() if o.needs_run_time for as_object in (False, True)]


@pytest.mark.parametrize(
    ("name", "as_object"),
    BLIND,
    ids=[f"{name} {'as a function' if as_object else 'by name'}" for name, as_object in BLIND],
)
def test_orders_that_need_run_times_refuse_none(name: str, as_object: bool) -> None:
    """Under runtimes=unknown a heuristic would sort by run times that nobody knows, or by NaN at random."""
    jobs = JobTable.from_columns({"submit_s": [0, 1, 2], "duration_s": [5, 4, 3], "num_gpus": [2, 2, 2]})
    cluster = Cluster("c", (Pool("a", 1, 2),))
    policy: Any = ORDERS[name] if as_object else name
    with pytest.raises(InputError):
        rltune.simulate(jobs, cluster, policy=policy, runtimes="unknown")


@pytest.mark.parametrize("name", [o.name for o in ORDERS.values() if not o.needs_run_time])
def test_other_orders_do_not_look_at_run_times(name: str) -> None:
    """A row "without run times" of the table would know run times."""
    jobs = JobTable.from_columns({"submit_s": [0, 1, 2, 2], "duration_s": [5, 4, 3, 9], "num_gpus": [2, 2, 1, 1]})
    cluster = Cluster("c", (Pool("a", 1, 2),))
    blind, seeing = (rltune.simulate(jobs, cluster, policy=name, runtimes=k) for k in ("unknown", "exact"))
    assert blind.start_s.tolist() == seeing.start_s.tolist()


def test_static_rank_is_the_position() -> None:
    """The compiled queue would be sorted by something else than the order."""
    jobs = JobTable.from_columns({"submit_s": [0, 1, 2, 3], "duration_s": [9, 3, 3, 1], "num_gpus": [1, 4, 2, 1]})
    assert static_rank(order("sjf"), jobs, jobs.duration_s).tolist() == [3, 2, 1, 0]
    assert static_rank(order("saf"), jobs, jobs.duration_s).tolist() == [2, 3, 1, 0]


def test_keys_are_called_with_the_snapshot_too() -> None:
    """An order could not stand where a policy of one's own stands."""
    queue, empty = queue_of(JOBS), np.zeros(0, np.int64)
    seen = Snapshot(
        0.0,
        Cluster("c", (Pool("a", 1, 2),)).arrays(),
        np.array([2]),
        queue,
        Running(empty, np.zeros(0), empty, empty, empty),
    )
    assert np.array_equal(ORDERS["saf"](queue, seen), queue.run_s * queue.num_gpus)
