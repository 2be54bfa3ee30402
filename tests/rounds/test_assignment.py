"""The assignment of jobs to GPU types: exact for single GPUs, near the integer program for gangs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import Bounds, LinearConstraint, linear_sum_assignment, milp

from rltune.rounds.assignment import assign


def drawn(seed: int, gangs: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 60))
    value = rng.uniform(0.1, 1.0, (n, 3)) * rng.lognormal(0, 1, (n, 1))
    value[rng.random((n, 3)) < 0.1] = 0.0
    gpus = rng.choice([1, 2, 4, 8], n, p=[0.6, 0.15, 0.15, 0.1]) if gangs else np.ones(n, int)
    return value * gpus[:, None], gpus, rng.integers(1, 17, 3)


def total(value: np.ndarray, where: np.ndarray) -> float:
    return float(sum(value[j, kind] for j, kind in enumerate(where) if kind >= 0))


def legal(value: np.ndarray, gpus: np.ndarray, workers: np.ndarray, where: np.ndarray) -> bool:
    used = np.bincount(where[where >= 0], gpus[where >= 0], len(workers))
    return bool((used <= workers).all()) and all(value[j, kind] > 0 for j, kind in enumerate(where) if kind >= 0)


@pytest.mark.parametrize("seed", range(40))
def test_single_gpus_are_assigned_for_the_most_value(seed: int) -> None:
    """Jobs would stand on types where others gain more."""
    value, gpus, workers = drawn(seed, gangs=False)
    where = np.empty(len(gpus), np.int64)
    assign(value, gpus, workers, where)
    slots = np.repeat(value, workers, axis=1)
    rows, columns = linear_sum_assignment(-slots)
    assert legal(value, gpus, workers, where)
    assert total(value, where) == pytest.approx(slots[rows, columns].sum(), rel=1e-9)


def test_gangs_come_near_the_integer_program() -> None:
    """Gangs would wait beside room, or small jobs give way to them at a loss."""
    ratios = []
    for seed in range(40):
        value, gpus, workers = drawn(seed, gangs=True)
        n, types = value.shape
        where = np.empty(n, np.int64)
        assign(value, gpus, workers, where)
        assert legal(value, gpus, workers, where)
        rows = np.zeros((n + types, n * types))
        for job in range(n):
            rows[job, job * types : (job + 1) * types] = 1
            rows[n + np.arange(types), job * types + np.arange(types)] = gpus[job]
        within = LinearConstraint(rows, -np.inf, np.concatenate([np.ones(n), workers]))
        best = milp(
            -value.ravel(), constraints=within, integrality=np.ones(n * types), bounds=Bounds(0, value.ravel() > 0)
        )
        ratios.append(total(value, where) / -best.fun if best.fun < 0 else 1.0)
    assert np.mean(ratios) > 0.98
    assert min(ratios) > 0.85
