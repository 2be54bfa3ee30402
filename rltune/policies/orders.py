"""Queue orders: plain functions from the queue to keys, smallest first, ties in order of arrival.

F1-F4: Carastan-Santos and de Camargo, "Obtaining dynamic scheduling policies
with simulation and machine learning", SC 2017. multifactor: Slurm's priority
with the weights of RLTune (arXiv 2512.10271), where the age column is constant,
which leaves smallest-job-first. WFP3, UNICEF, sexp, lexp: `rltune.policies.dynamic`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rltune.models.catalogue import models
from rltune.nouns.errors import InputError
from rltune.nouns.jobs import JobTable
from rltune.nouns.plan import Keys, Queue, Snapshot
from rltune.policies.dynamic import CODES, STATIC, dynamic_keys
from rltune.policies.preemptive import PREEMPTIVE


@dataclass(frozen=True, slots=True)
class Order:
    """A named order. ``keys(queue)`` as a `Policy`; ``code``: STATIC, or its compiled time-dependent key."""

    name: str
    keys: Callable[[Queue], Keys]
    needs_run_time: bool
    code: int = STATIC

    def __call__(self, queue: Queue, snapshot: Snapshot) -> Keys:
        return self.keys(queue)


def _log10(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """log10 with values <= 0 taken as 0.1, as the reference implementation does."""
    return np.log10(np.where(x > 0, x, 0.1))


def _run(queue: Queue) -> npt.NDArray[np.float64]:
    return np.maximum(queue.run_s, 0.0)


def _dynamic(name: str) -> Order:
    code = CODES[name]
    return Order(name, lambda q: dynamic_keys(code, q.wait_s, q.run_s, q.num_gpus), True, code)


ORDERS: dict[str, Order] = {
    order.name: order
    for order in (
        Order("fifo", lambda q: q.submit_s, False),
        Order("lifo", lambda q: -q.submit_s, False),
        Order("smallest", lambda q: q.num_gpus, False),
        Order("largest", lambda q: -q.num_gpus, False),
        Order("multifactor", lambda q: -1000.0 * (1 - q.num_gpus / 160), False),
        Order("sjf", lambda q: (q.run_s, q.num_gpus), True),
        Order("ljf", lambda q: -q.run_s, True),
        Order("saf", lambda q: q.run_s * q.num_gpus, True),
        Order("laf", lambda q: -q.run_s * q.num_gpus, True),
        Order("srf", lambda q: q.run_s / q.num_gpus, True),
        Order("lrf", lambda q: -q.run_s / q.num_gpus, True),
        Order("f1", lambda q: _log10(q.run_s) * q.num_gpus + 870 * _log10(q.submit_s), True),
        Order("f2", lambda q: np.sqrt(_run(q)) * q.num_gpus + 25_600 * _log10(q.submit_s), True),
        Order("f3", lambda q: q.run_s * q.num_gpus + 6_860_000 * _log10(q.submit_s), True),
        Order("f4", lambda q: q.run_s * np.sqrt(q.num_gpus) + 530_000 * _log10(q.submit_s), True),
        _dynamic("wfp3"),
        _dynamic("unicef"),
        _dynamic("sexp"),
        _dynamic("lexp"),
    )
}
ALIASES = {"fcfs": "fifo", "lcfs": "lifo", "lpf": "ljf", "wfp": "wfp3"}


def order(name: str) -> Order:
    """The order of that name (RLTune's names fcfs, lcfs, lpf, wfp are understood)."""
    try:
        return ORDERS[ALIASES.get(name, name)]
    except KeyError:
        raise InputError(
            f"policy {name!r} is unknown; known are {', '.join([*ORDERS, *ALIASES])}; in rltune.simulate also "
            f"{', '.join(PREEMPTIVE)}; shipped models: {', '.join(models('scheduler'))}"
        ) from None


def sequence(keys: Keys, n: int) -> npt.NDArray[np.int64]:
    """Positions 0..n-1 sorted by the keys, ties in order of arrival.

    Raises InputError if a key has not n entries or is NaN (which has no place in an order).
    """
    return np.lexsort(columns_of(keys, n)[::-1]).astype(np.int64)


def ranks(keys: Keys, n: int) -> npt.NDArray[np.int64]:
    """(n,) rank of each position by the keys, from 0 on; equal keys have equal ranks. InputError as `sequence`."""
    columns = columns_of(keys, n)
    order = np.lexsort(columns[::-1])
    differs = np.zeros(n, bool)
    for column in columns:
        differs[1:] |= column[order][1:] != column[order][:-1]
    out = np.empty(n, np.int64)
    out[order] = np.cumsum(differs)
    return out


def columns_of(keys: Keys, n: int) -> list[npt.NDArray[Any]]:
    """The keys as arrays of n entries, the most significant first. InputError as `sequence`."""
    several = isinstance(keys, tuple | list) and len(keys) > 0 and all(np.ndim(key) > 0 for key in keys)
    columns = [np.asarray(key) for key in keys] if several else [np.asarray(keys)]  # type: ignore[union-attr]
    for column in columns:
        if column.shape != (n,):
            raise InputError(
                f"the policy gave keys of shape {column.shape} for {n} queued jobs; one key a job is needed"
            )
        if column.dtype.kind == "f" and np.isnan(column).any():
            raise InputError("the policy gave a NaN key; give a number for every queued job")
    return columns


def static_keys(chosen: Order, jobs: JobTable, known_s: npt.NDArray[np.float64]) -> Keys:
    """Keys of all jobs in a static order, each (n_jobs,). InputError where it needs run times that are unknown."""
    n = len(jobs)
    if chosen.needs_run_time and np.isnan(known_s).any():
        raise InputError(f"policy {chosen.name} needs run times; use runtimes=exact, predicted or requested")
    zeros = np.zeros(n, np.int64)
    table = Queue(
        job=np.arange(n),
        submit_s=jobs.submit_s,
        run_s=known_s,
        num_gpus=jobs.num_gpus.astype(np.int64),
        wait_s=np.zeros(n),
        priority=jobs.priority,
        pool_lo=zeros,
        pool_hi=zeros,
        pools=zeros,
    )
    return chosen.keys(table)


def static_rank(chosen: Order, jobs: JobTable, known_s: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """(n_jobs,) rank of each job in a static order."""
    n = len(jobs)
    rank = np.empty(n, np.int64)
    rank[sequence(static_keys(chosen, jobs, known_s), n)] = np.arange(n)
    return rank
