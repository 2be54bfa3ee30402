"""The joint model against exhaustive search, for every kind of demand and every MIG model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from search_cases import Case, best_by_search, fragmentation, random_case, replayed

from rltune.allocators.fragmentation import quadratic_cost
from rltune.allocators.joint import JointSolver
from rltune.allocators.measure import Measure
from rltune.allocators.plan_terms import score
from rltune.allocators.sharing_fragments import no_types, task_types
from rltune.jobs import JobTable
from rltune.mig_profiles import NAMES, TYPES

KINDS = ("whole", "shares", *(f"mig:{gpu}" for gpu in TYPES))
COSTS = {"fragmentation": 1.0, "slowdown": 0.7, "locality": 0.3, "reconfiguration": 0.4}
MODES: dict[str, tuple[dict[str, float], ...]] = {
    "starts_first": ({"value": 1.0}, COSTS),
    "weighted": ({"value": 1.0, **COSTS},),
    "lexicographic": ({"value": 1.0}, *({name: weight} for name, weight in COSTS.items())),
}


def measure_of(rng: np.random.Generator, case: Case, kind: str) -> Measure:
    """FGD's measure of a random workload, or the table of half used nodes."""
    arrays = case.instance.cluster
    if rng.random() < 0.5:
        return Measure(quadratic_cost(arrays), no_types())
    mig = kind.split(":")[1] if kind.startswith("mig") else None
    n = 5
    columns: dict[str, Any] = {
        "submit_s": np.arange(n), "duration_s": np.ones(n), "num_gpus": rng.integers(1, 4, n),
        "cpus": rng.integers(0, 4, n).astype(float),
    }  # fmt: skip
    if mig:
        columns["num_gpus"] = np.ones(n, np.int64)
        columns["mig"] = rng.choice([*NAMES[mig].values()], n)
    elif kind == "shares":
        columns["gpu_milli"] = np.where(columns["num_gpus"] == 1, rng.choice([250, 500, 1000], n), 1000)
    return Measure(np.zeros((0, 0)), task_types(JobTable.from_columns(columns), case.cluster))


def compare(seed: int, kind: str, cases: int) -> JointSolver | None:
    """The solver's value equals the best of all plans, and its plan is one of them."""
    rng = np.random.default_rng(seed)
    last = None
    for _ in range(cases):
        case = random_case(rng, kind)
        mode = str(rng.choice([*MODES]))
        measure = measure_of(rng, case, kind)
        solver = JointSolver(MODES[mode], time_limit_s=60, spread=case.spread)
        nothing = [None] * len(case.instance.jobs)
        decision = solver.decide(case.instance, measure, {"nothing": nothing})
        best = best_by_search(case, measure, MODES[mode])
        nodes, terms = replayed(case, decision.places)
        terms["fragmentation"] = fragmentation(case, nodes, measure) - fragmentation(
            case, replayed(case, nothing)[0], measure
        )
        context = f"{kind} {mode}: {case}\n{decision}\nbest {best}, terms {terms}"
        assert score(terms, MODES[mode]) == pytest.approx(best, abs=2e-6), context
        assert decision.report["objective"] == pytest.approx(best, abs=2e-6), context
        assert decision.report["status"] == "optimal", context
        assert decision.report["gap"] == pytest.approx(0, abs=1e-5), context
        last = solver
    return last


@pytest.mark.parametrize("kind", KINDS)
def test_decisions_equal_exhaustive_search(kind: str) -> None:
    """Who starts, where, on which GPUs and slices, after which reconfigurations: nothing better exists."""
    compare(1, kind, 150)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_decisions_equal_exhaustive_search_on_many_cases(kind: str) -> None:
    """The same on seven thousand other cases in all."""
    compare(2, kind, 1000)
