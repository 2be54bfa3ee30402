"""The joint model where some of the jobs run: against exhaustive search over who stays, moves, is suspended and starts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from search_cases import best_by_search, fragmentation, nodes_of, replayed, running_case
from test_joint import COSTS, KINDS, measure_of

from rltune.allocators.formulation import Holders, Instance, Place
from rltune.allocators.fragmentation import quadratic_cost
from rltune.allocators.joint import JointSolver
from rltune.allocators.measure import Measure
from rltune.allocators.milp import MilpAllocator
from rltune.allocators.plan_terms import less, score
from rltune.core.resources.fragments import no_types
from rltune.core.resources.places import Demand, idle_room
from rltune.nouns.cluster import Cluster

CHARGED = COSTS | {"interruption": 0.35}
MODES: dict[str, tuple[dict[str, float], ...]] = {
    "starts_first": ({"value": 1.0}, CHARGED),
    "weighted": ({"value": 1.0, **CHARGED},),
    "lexicographic": ({"value": 1.0}, *({name: weight} for name, weight in CHARGED.items())),
}


def check_against_search(seed: int, kind: str, cases: int) -> None:
    """The best of all plans is found, and told right, whatever plan was known."""
    rng, kept = np.random.default_rng(seed), 0
    for _ in range(cases):
        case, mode = running_case(rng, kind), str(rng.choice([*MODES]))
        measure, solver, levels = (
            measure_of(rng, case, kind),
            JointSolver(MODES[mode], time_limit_s=60, rows=1 << 15),
            MODES[mode],
        )
        holders = case.instance.holders
        assert holders is not None
        nothing, stay = [None] * len(case.instance.jobs), list(holders.place)
        best = best_by_search(case, measure, levels)
        before = fragmentation(case, nodes_of(case), measure)
        for known in ({"nothing": nothing, "keep": stay}, {"nothing": nothing}):
            decision = solver.decide(case.instance, measure, known)
            nodes, terms = replayed(case, decision.places)
            terms["fragmentation"] = fragmentation(case, nodes, measure) - before
            context = f"{kind} {mode}: {case}\n{decision}\nbest {best}, terms {terms}"
            assert score(terms, levels) == pytest.approx(best, abs=2e-6), context
            assert decision.report["objective"] == pytest.approx(best, abs=2e-6), context
            assert decision.report["status"] == "optimal", context
            # Never worse than any of the known plans, such as to leave all where it is.
            assert not any(less(each, decision.report["objective"]) for each in decision.report["incumbents"].values())
            kept += sum(a is not None and a == b for a, b in zip(decision.places, stay, strict=True))
    assert kept > cases / 10


@pytest.mark.parametrize("kind", KINDS)
def test_who_stays_moves_or_is_suspended_equals_exhaustive_search(kind: str) -> None:
    """A running job would be suspended or moved where that is not best, or kept where another should have its place."""
    check_against_search(3, kind, 30)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_who_stays_moves_or_is_suspended_equals_exhaustive_search_on_many_cases(kind: str) -> None:
    """The same on some thousand other cases in all."""
    check_against_search(4, kind, 600)


def swap(waiting: int, running: list[Any], closed: int = -1, **charged: Any) -> Any:
    """One job of ``waiting`` GPUs before running ones (GPUs, node, GPUs held) on two nodes of four: the decision."""
    cluster = Cluster.from_spec({"name": "two", "pools": [{"nodes": 2, "gpus_per_node": 4}]})
    n, gpus = 1 + len(running), np.array([waiting, *(job[0] for job in running)])
    demand = Demand(gpus, np.full(n, 1000), np.zeros(n), np.zeros(n), np.full(n, -1))
    places = [None, *(Place((job[1],), (job[2],)) for job in running)]
    cost = np.array([0.0, *(60.0 * job[0] for job in running)])
    allocator, room = MilpAllocator(**charged), idle_room(cluster)
    room.closed[closed] = int(closed >= 0)
    instance = Instance(
        cluster.arrays(), room, demand, np.arange(n), allocator.values(gpus, np.arange(n) == 0),
        np.zeros(n, np.int64), np.arange(n), np.arange(n) + 1, holders=Holders(places, suspend=cost, move=cost),
    )  # fmt: skip
    measure = Measure(quadratic_cost(cluster.arrays()), no_types())
    return places, allocator.solver.decide(instance, measure, {"keep": places}).places


def test_a_running_job_moves_where_that_makes_room() -> None:
    """It would be suspended, and lose its turn, though it could go on elsewhere."""
    held, found = swap(4, [(2, 0, 0b0011), (1, 1, 0b0001)])
    assert found[0] is not None and None not in found
    # The smaller one moves: fewer GPUs stand still while it is restored.
    assert found[1] == held[1] and found[2] != held[2]


def test_the_fewest_jobs_are_suspended_then_the_fewest_gpu_seconds() -> None:
    """Jobs would be suspended for nothing, or wide ones where a narrow one would do."""
    held, found = swap(1, [(4, 0, 0b1111), (1, 1, 0b0001), (3, 1, 0b1110)])
    assert found[0] is not None and found[2] is None
    assert [found[1], found[3]] == [held[1], held[3]]
    held, found = swap(4, [(4, 0, 0b1111), (1, 1, 0b0001), (3, 1, 0b1110)])
    assert found[0] is not None and found[1] is None
    assert found[2:] == held[2:]


def test_on_a_closed_node_jobs_stay_and_none_comes() -> None:
    """A draining node would lose its jobs, or get new ones."""
    held, found = swap(2, [(2, 0, 0b0011), (1, 1, 0b0001), (3, 1, 0b1110)], closed=0)
    assert found[0] is not None and found[0].nodes == (1,)
    assert found[1] == held[1] and found[2:] == [held[2], None]
    # It may go: then its node stays empty.
    _, found = swap(4, [(2, 0, 0b0011), (4, 1, 0b1111)], closed=0)
    assert found[0] == Place((1,), (0b1111,)) and found[2] is None


def test_where_a_start_is_not_worth_its_cost_everybody_stays() -> None:
    """With mode=weighted a start would be bought at any price."""
    held, found = swap(4, [(4, 0, 0b1111), (4, 1, 0b1111)], mode="weighted", weights={"interruption": 1.0})
    assert found == held
    _, found = swap(4, [(4, 0, 0b1111), (4, 1, 0b1111)], mode="weighted", weights={"interruption": 0.001})
    assert found[0] is not None and found.count(None) == 1


def test_jobs_that_run_side_by_side_in_the_order_are_worth_alike() -> None:
    """One waiting job would be given up for many behind it, or a running one suspended for a job behind it."""
    waiting = np.array([True, False, False, True, True, False])
    value = MilpAllocator().values(np.ones(6), waiting)
    assert value.tolist() == [24.0, 8.0, 8.0, 4.0, 2.0, 1.0]
    assert all(value[k] > value[k + 1 :].sum() for k in np.flatnonzero(waiting))
    assert MilpAllocator(decay=1.0).values(np.ones(6), waiting).tolist() == [1.0] * 6
    assert np.array_equal(MilpAllocator().values(np.ones(6), np.ones(6, bool)), MilpAllocator().values(np.ones(6)))


@pytest.mark.parametrize("weight", [-1, 1e-9, "much"])
def test_a_weight_of_interruptions_that_makes_no_sense_is_refused(weight: Any) -> None:
    """Costs would drown in the solver's tolerances, or a suspension be a gain."""
    with pytest.raises(ValueError, match=r"weights.interruption=.*is needed"):
        MilpAllocator(weights={"interruption": weight})
