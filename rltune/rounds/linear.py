"""The linear programs of rounds: max-min fair shares, and the prices of GPU time. HiGHS; ECOS where it is installed."""

from __future__ import annotations

import importlib
from typing import Any

import highspy
import numpy as np
import scipy.sparse as sp

from rltune.nouns.errors import InputError
from rltune.rounds.jobs import Floats, Ints

SOLVERS = ("highs", "ecos")


def max_min_shares(gain: Floats, gpus: Floats, workers: Ints, solver: str = "highs") -> Floats:
    """(m, types) x >= 0 of greatest min over jobs of sum(gain x), each row's sum at most 1, sum(gpus x) within ``workers``.

    Optima are many. "highs" gives a vertex; "ecos" a point inside the optimal face, from the same problem, in the same order
    of rows and columns, as Gavel's cvxpy hands to ECOS. InputError where ECOS is asked for and not installed.
    """
    if solver not in SOLVERS:
        raise InputError(f"solver {solver!r} is unknown; known are {', '.join(SOLVERS)}")
    x = _by_ecos(gain, gpus, workers) if solver == "ecos" else _by_highs(gain, gpus, workers)
    return np.clip(x, 0.0, 1.0)


def _by_highs(gain: Floats, gpus: Floats, workers: Ints) -> Floats:
    """Columns: x by job and type, then the least gain z. Rows: gain x - z >= 0 and sum x <= 1 by job, then the types."""
    m, types = gain.shape
    n = m * types
    job, kind, column = np.repeat(np.arange(m), types), np.tile(np.arange(types), m), np.arange(n)
    rows = np.concatenate([job, m + job, 2 * m + kind, np.arange(m)])
    columns = np.concatenate([column, column, column, np.full(m, n)])
    values = np.concatenate([gain.ravel(), np.ones(n), np.repeat(gpus, types), -np.ones(m)])
    matrix = sp.csc_matrix((values, (rows, columns)), shape=(2 * m + types, n + 1))
    lower = np.concatenate([np.zeros(m), np.full(m + types, -np.inf)])
    upper = np.concatenate([np.full(m, np.inf), np.ones(m), workers])
    cost = np.zeros(n + 1)
    cost[n] = -1.0
    return np.asarray(_solve(cost, matrix, lower, upper).col_value)[:n].reshape(m, types)


def _by_ecos(gain: Floats, gpus: Floats, workers: Ints) -> Floats:
    """min t; -t - gain x <= 0, -x <= 0, sum gpus x <= workers by type, sum x <= 1 by job; x type by type, last type first."""
    m, types = gain.shape
    n = m * types
    x, job, kind = 1 + np.arange(n), np.tile(np.arange(m), types), np.repeat(np.arange(types), m)
    rows = np.concatenate([np.arange(m), job, m + np.arange(n), m + n + kind, m + n + types + job])
    columns = np.concatenate([np.zeros(m, np.int64), x, x, x, x])
    values = np.concatenate([-np.ones(m), -gain[:, ::-1].T.ravel(), -np.ones(n), np.tile(gpus, types), np.ones(n)])
    matrix = sp.csc_matrix((values, (rows, columns)), shape=(2 * m + n + types, n + 1))
    bound = np.concatenate([np.zeros(m + n), workers[::-1].astype(np.float64), np.ones(m)])
    cost = np.zeros(n + 1)
    cost[0] = 1.0
    found = _ecos(cost, matrix, bound)
    return np.asarray(found[1:].reshape(types, m).T[:, ::-1])


def _ecos(cost: Floats, matrix: Any, bound: Floats) -> Floats:
    """ECOS' solution of min cost x, matrix x <= bound."""
    try:
        ecos = importlib.import_module("ecos")
    except ImportError:
        raise InputError(
            "solver ecos is not installed: pip install 'rltune[published]', or take solver=highs"
        ) from None
    found = ecos.solve(cost, matrix, bound, {"l": len(bound), "q": [], "e": 0}, verbose=False)
    if found["info"]["exitFlag"] not in (0, 10):
        raise RuntimeError(f"linear program of {len(cost)} columns: ECOS ended with {found['info']['infostring']}")
    return np.asarray(found["x"])


def most_shares(gain: Floats, gpus: Floats, workers: int) -> Floats:
    """(m,) x in 0 to 1 of greatest sum(gain x) with sum(gpus x) within ``workers`` of one type, by ECOS."""
    m = len(gain)
    matrix = sp.csc_matrix(sp.vstack([-sp.identity(m), sp.csr_matrix(gpus[None]), sp.identity(m)]))
    bound = np.concatenate([np.zeros(m), [float(workers)], np.ones(m)])
    return np.clip(_ecos(-gain, matrix, bound), 0.0, 1.0)


def gpu_prices(speed: Floats, gpus: Ints, work: Floats, workers: Ints) -> Floats:
    """(types,) price of a GPU second: duals of spreading all work over the types so that the busiest is busy the least.

    ``speed`` (classes, types) work a second, 0 where a class cannot run; ``gpus`` (classes,) of one gang; ``work`` (classes,) to
    do. Prices are above or equal 0, and those of all ``workers`` together make 1.
    """
    classes, types = speed.shape
    able = np.argwhere(speed > 0)
    columns, n = np.arange(len(able)), len(able)
    rows = np.concatenate([able[:, 0], classes + able[:, 1], classes + np.arange(types)])
    values = np.concatenate([speed[able[:, 0], able[:, 1]], gpus[able[:, 0]], -workers])
    matrix = sp.csc_matrix(
        (values, (rows, np.concatenate([columns, columns, np.full(types, n)]))), shape=(classes + types, n + 1)
    )
    lower = np.concatenate([work, np.full(types, -np.inf)])
    cost = np.zeros(n + 1)
    cost[n] = 1.0
    duals = _solve(cost, matrix, lower, np.concatenate([work, np.zeros(types)])).row_dual
    return np.maximum(-np.asarray(duals)[classes:], 0.0)


def _solve(cost: Floats, matrix: Any, lower: Floats, upper: Floats) -> Any:
    """HiGHS' solution of min cost x, lower <= matrix x <= upper, x >= 0."""
    lp = highspy.HighsLp()
    lp.num_row_, lp.num_col_ = matrix.shape
    lp.col_cost_ = np.asarray(cost, np.float64)
    lp.col_lower_, lp.col_upper_ = np.zeros(len(cost)), np.full(len(cost), np.inf)
    lp.row_lower_, lp.row_upper_ = np.asarray(lower, np.float64), np.asarray(upper, np.float64)
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_ = matrix.indptr.astype(np.int32)
    lp.a_matrix_.index_, lp.a_matrix_.value_ = matrix.indices.astype(np.int32), matrix.data.astype(np.float64)
    highs = highspy.Highs()
    highs.setOptionValue("output_flag", False)
    highs.setOptionValue("threads", 1)
    highs.passModel(lp)
    highs.run()
    if highs.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        raise RuntimeError(f"linear program of {lp.num_col_} columns: HiGHS ended with {highs.getModelStatus()}")
    return highs.getSolution()
