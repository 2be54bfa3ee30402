"""The joint model against exhaustive search, for every kind of demand and every MIG model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from search_cases import (
    Case,
    amount_of,
    asked,
    best_by_search,
    fragmentation,
    nodes_of,
    placements,
    random_case,
    replayed,
    within_quota,
)

from rltune.allocators.formulation import Instance, Place
from rltune.allocators.fragmentation import quadratic_cost
from rltune.allocators.joint import JointSolver
from rltune.allocators.measure import Measure
from rltune.allocators.plan_terms import less, score
from rltune.allocators.problem import TERMS
from rltune.core.resources.fragments import no_types, task_types
from rltune.core.resources.places import Demand, idle_room
from rltune.nouns.cluster import Cluster
from rltune.nouns.jobs import JobTable
from rltune.nouns.mig_profiles import NAMES, TYPES
from tests.some import some

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
    rule = str(rng.choice(["fgd", "stranding"]))
    return Measure(np.zeros((0, 0)), task_types(JobTable.from_columns(columns), case.cluster, rule))


def random_plan(rng: np.random.Generator, case: Case) -> list[Any]:
    """A feasible plan that starts some jobs somewhere: what a poor scheduler might have come up with."""
    nodes, plan, left = nodes_of(case), [], None if case.instance.left is None else case.instance.left.copy()
    for k in range(len(case.instance.jobs)):
        ways = list(placements(case, nodes, k)) if rng.random() < 0.7 else []
        ways = within_quota(case.instance, k, ways, left)
        group = -1 if case.instance.group is None else int(case.instance.group[k])
        if not ways and case.instance.prefix:
            return plan + [None] * (len(case.instance.jobs) - k)
        after = ways[int(rng.integers(len(ways)))] if ways else None
        if after is not None and left is not None and group >= 0:
            left[group] -= amount_of(case.instance, asked(case.instance, k, after[3]))
        plan.append(None if after is None else after[1])
        nodes = nodes if after is None else after[0]
    return plan


def check_against_search(seed: int, kind: str, cases: int) -> None:
    """The solver's value equals the best of all plans, and its plan is one of them; whatever plans were known, and in turn."""
    rng = np.random.default_rng(seed)
    solvers: dict[Any, JointSolver] = {}
    for _ in range(cases):
        case = random_case(rng, kind)
        mode = str(rng.choice([*MODES]))
        measure = measure_of(rng, case, kind)
        solver = solvers.setdefault(
            (mode, case.spread), JointSolver(MODES[mode], time_limit_s=60, rows=1 << 15, spread=case.spread)
        )
        nothing = [None] * len(case.instance.jobs)
        best = best_by_search(case, measure, MODES[mode])
        found = solver.decide(case.instance, measure, {"nothing": nothing}).places
        # The same state again, from another known plan: at first the best there is, then a poor one.
        solver._answers.clear()
        solver.decide(case.instance, measure, {"best": found})
        decision = solver.decide(case.instance, measure, {"some": random_plan(rng, case), "nothing": nothing})
        nodes, terms = replayed(case, decision.places)
        terms["fragmentation"] = fragmentation(case, nodes, measure) - fragmentation(
            case, replayed(case, nothing)[0], measure
        )
        context = f"{kind} {mode}: {case}\n{decision}\nbest {best}, terms {terms}"
        assert score(terms, MODES[mode]) == pytest.approx(best, abs=2e-6), context
        assert decision.report["objective"] == pytest.approx(best, abs=2e-6), context
        assert decision.report["status"] == "optimal", context
        assert decision.report["gap"] == pytest.approx(0, abs=1e-5), context
        assert decision.report["terms"] == pytest.approx({name: terms[name] for name in TERMS}, abs=2e-6), context
        runner_up = decision.report["runner_up"]
        assert not less(runner_up["objective"], decision.report["objective"]), context
        assert score(runner_up["terms"], MODES[mode]) == pytest.approx(runner_up["objective"]), context


@pytest.mark.parametrize("kind", KINDS)
def test_decisions_equal_exhaustive_search(kind: str) -> None:
    """Who starts, where, on which GPUs and slices, after which reconfigurations: nothing better exists."""
    check_against_search(1, kind, 60)


@pytest.mark.parametrize("kind", some(("whole", "shares", "mig:A100-80GB"), "mig:A100-80GB"))
def test_with_too_few_rows_plans_are_feasible_and_bounds_hold(kind: str) -> None:
    """A search cut short may miss the best plan, but must not say that it is optimal, or give a bound that is passed."""
    rng, short = np.random.default_rng(7), 0
    for _ in range(60):
        case = random_case(rng, kind)
        measure = measure_of(rng, case, kind)
        solver = JointSolver(MODES["weighted"], time_limit_s=60, spread=case.spread, rows=16, near=1)
        known = random_plan(rng, case)
        decision = solver.decide(case.instance, measure, {"some": known})
        best = best_by_search(case, measure, MODES["weighted"])
        replayed(case, decision.places)
        short += decision.report["status"] != "optimal"
        assert decision.report["objective"] >= [best[0] - 2e-6]
        if decision.report["bound"] is not None:
            assert decision.report["bound"][0] <= best[0] + 2e-6, (case, decision, best)
        if decision.report["status"] == "optimal":
            assert decision.report["objective"] == pytest.approx(best, abs=2e-6), (case, decision, best)
    assert short > 0


def test_wide_nodes_whose_gpus_differ_lose_no_pattern() -> None:
    """An early job takes the GPUs that the reservation needs later, a late one those it leaves, on a node of sixteen."""
    cluster = Cluster.from_spec({"name": "wide", "pools": [{"nodes": 1, "gpus_per_node": 16}]})
    room, later = idle_room(cluster), idle_room(cluster)
    later.milli[0, 8:], later.whole[0], later.loose[0] = 0, 8, 8000
    demand = Demand(np.array([8, 8]), np.full(2, 1000), np.zeros(2), np.zeros(2), np.full(2, -1))
    instance = Instance(
        cluster.arrays(), room, demand, np.arange(2), np.ones(2), np.zeros(2, np.int64), np.array([0, 1]), np.array([1, 2]),
        late=np.array([0, 1]), spare=later,
    )  # fmt: skip
    solver = JointSolver(MODES["starts_first"])
    measure = Measure(quadratic_cost(cluster.arrays()), no_types())
    decision = solver.decide(instance, measure, {"nothing": [None, None]})
    assert decision.places == [Place((0,), (0xFF00,)), Place((0,), (0x00FF,))]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_decisions_equal_exhaustive_search_on_many_cases(kind: str) -> None:
    """The same on seven thousand other cases in all."""
    check_against_search(2, kind, 1000)
