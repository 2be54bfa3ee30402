"""A lower bound on the GPUs that a set of live requests needs, however they are placed.

Give each kind a weight such that no partition of any of the fleet's GPU types weighs more than 1: then the weight of the
live requests is a lower bound. Such weights are the feasible points of the dual of the linear program that packs the
requests into partitions; its vertices are found by solving it for many demands. Compute slices / 7, memory slices / 8
and "4g and 7g need a GPU each" are among them. Any feasible weights are sound, so a vertex not found only loosens it.
Every policy that never migrates, and every one that does, needs at least the maximum over time.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import numpy as np
from scipy.optimize import linprog

from rltune.mig.geometry import Geometry
from rltune.mig.online.states import VALUED, Floats

DEMANDS = 200
"""Random demands whose duals are collected; the five plain kinds have four vertices, found within a few dozen."""
ROUNDING = 1e-6
"""Slack before a bound is rounded up: weights are known to 1e-9, live requests are fewer than a thousand times that."""


@cache
def dual_weights(tables: tuple[Geometry, ...]) -> Floats:
    """(n_weights, len(VALUED)) weights under which no partition of these GPU types weighs more than 1."""
    partitions = np.unique(np.concatenate([_contents(table) for table in tables]), axis=0)
    known = partitions.any(axis=0)
    draws = np.random.default_rng(0).dirichlet(np.full(len(VALUED), 0.5), DEMANDS) * known
    found = {_dual(partitions, demand) for demand in draws}
    weights = np.array(sorted(found))
    # Rounding may have lifted a partition above 1.
    return np.asarray(weights / np.maximum((partitions @ weights.T).max(axis=0), 1.0)[:, None])


def _contents(table: Geometry) -> Floats:
    """(n_partitions, len(VALUED)) instances of each kind in the maximal partitions without media engines."""
    states = table.maximal(VALUED)
    return np.array([[sum(table.profiles[p.profile].kind == k for p in s) for k in VALUED] for s in states], float)


def _dual(partitions: Floats, demand: Floats) -> tuple[float, ...]:
    # A small price on every weight makes the vertex with weights of no effect at 0 the only optimum.
    solved = linprog(-(demand - 1e-7), A_ub=partitions, b_ub=np.ones(len(partitions)), bounds=(0, 1), method="highs-ds")
    return tuple(np.round(solved.x, 9) + 0.0)


def lower_bound(tables: tuple[Geometry, ...], live: Floats) -> int:
    """GPUs that live requests need at least; ``live`` (..., len(VALUED)) counts, of which the most demanding row counts."""
    return int(np.ceil(np.max(live @ dual_weights(tables).T, initial=0.0) - ROUNDING))


def live_counts(events: Iterable[tuple[bool, str, str]], kind_of: dict[str, str]) -> Floats:
    """(n_events, len(VALUED)) live requests of each kind after each event (acquire?, request, profile).

    ``kind_of`` a profile's kind; one with the media engines takes the room of its plain kind.
    """
    live: dict[str, int] = {}
    rows, now = [], np.zeros(len(VALUED))
    for acquire, request, profile in events:
        if acquire:
            live[request] = VALUED.index(kind_of[profile].removesuffix("+me"))
            now[live[request]] += 1
        else:
            now[live.pop(request)] -= 1
        rows.append(now.copy())
    return np.array(rows).reshape(-1, len(VALUED))
