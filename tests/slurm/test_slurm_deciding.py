"""Decisions on a moment, and the words for them."""

from __future__ import annotations

import pytest
from slurm_cases import FOUR, job, look_of, node, running

from rltune.nouns.errors import InputError
from rltune.slurm.deciding import Decider
from rltune.slurm.moment import moment_of
from rltune.slurm.reading import Asked


def decided(jobs, nodes=FOUR, policy="sjf", allocator="best_fit", backfill="easy", **more):
    seen = look_of(jobs, nodes, **more)
    return Decider(policy, {"name": allocator}, backfill).decide(seen, moment_of(seen))


def test_order_places_and_reasons() -> None:
    """Whoever asks why a job waits would get no answer, or a wrong one."""
    nodes = (node("n1", {"a100": 8}, {"a100": 6}), node("n2", {"a100": 8}, {"a100": 8}))
    jobs = [
        running("r1", "n1", 6, minutes=30), running("r2", "n2", 8, minutes=5),
        job("long", 2, minutes=60), job("wide", 8, minutes=20), job("small", 2, minutes=4),
    ]  # fmt: skip
    rows = {row.job.id: row for row in decided(jobs, nodes).rows}
    assert rows["small"].nodes == ("n1",) and rows["small"].why == "number 1 of 3 by sjf"
    assert not rows["wide"].starts and "wants 8 a100; 0 are free" in rows["wide"].why
    assert rows["wide"].expected_s is not None
    assert rows["long"].why.startswith("1 ahead")


def test_backfilling_is_told() -> None:
    """A job that overtakes another would look like unfairness."""
    nodes = (node("n1", {"a100": 8}, {"a100": 6}),)
    jobs = [running("r1", "n1", 6, minutes=30), job("wide", 8, submit_s=1), job("small", 2, minutes=20, submit_s=2)]
    (row,) = decided(jobs, nodes, policy="fifo").starts
    assert row.job.id == "small" and "1 that wait stand before it and are not delayed" in row.why


@pytest.mark.parametrize("allocator", ["best_fit", "lexicographic", "least_fragmentation", "milp"])
def test_slices_and_gangs(allocator: str) -> None:
    """Typed GPUs, MIG slices or gangs would be placed on nodes that lack them."""
    jobs = [
        job("slices", 2, "a100_1g.10gb"), job("slice", 1, "a100_3g.40gb"), job("gang", asked=Asked({"a100": 16}, 2, 8)),
        job("two", 2), job("untyped", asked=Asked({"": 4}, None, None)),
    ]  # fmt: skip
    rows = {row.job.id: row for row in decided(jobs, policy="fifo", allocator=allocator).rows}
    assert all(row.starts for row in rows.values())
    assert rows["slices"].nodes == ("n4",) and rows["slice"].nodes == ("n4",)
    assert len(rows["gang"].nodes) == 2 and all(place.gpus == 8 for place in rows["gang"].places)
    assert {place.kind for place in rows["untyped"].places} == {"a100"}


def test_cpus_and_memory_are_minded() -> None:
    """Jobs would be sent where GPUs are free but CPUs or memory are not, and wait there."""
    asked = Asked({"a100": 2}, 1, 2, cpus=16, memory_mb=1000.0)
    nodes = (node("n1", {"a100": 8}, cpus=20), node("n2", {"a100": 8}, cpus=64))
    jobs = [job("a", asked=asked), job("b", asked=asked, submit_s=1), job("c", 1, submit_s=2)]
    decision = decided(jobs, nodes, policy="fifo")
    why = {row.job.id: row.why for row in decision.rows}
    assert "but of 16 CPUs 4" in why["b"] and {row.job.id for row in decision.starts} == {"a", "c"}
    nodes = (node("n1", {"a100": 8}, memory=1500.0),)
    assert [row.job.id for row in decided(jobs[:2], nodes, policy="fifo", counts_memory=True).starts] == ["a"]
    assert len(decided(jobs[:2], nodes, policy="fifo").starts) == 2, "a Slurm that does not count memory"


def test_a_learned_policy() -> None:
    """Shipped models could not be used beside Slurm."""
    decision = decided([job(str(k), 1 + k % 8, minutes=1 + k) for k in range(12)], policy="helios_window")
    assert decision.starts and len(decision.rows) == 12


def test_ranked_keeps_those_apart_in_their_turn() -> None:
    """A job that only Slurm places would starve behind all that we number."""
    jobs = [job("old", submit_s=1, apart="excludes nodes"), *(job(str(k), 8, submit_s=2 + k) for k in range(6))]
    ranked = [each.id for each in decided(jobs, policy="fifo").ranked()]
    assert ranked == ["0", "1", "2", "old", "3", "4", "5"]


@pytest.mark.parametrize(
    ("policy", "allocator", "message"),
    [("las", "best_fit", "nothing is suspended"), ("nosuch", "best_fit", "unknown"), ("fifo", "fgd", "use lexicographic, best_fit")],
)  # fmt: skip
def test_refusals(policy: str, allocator: str, message: str) -> None:
    """What decides in a simulation only would end in a traceback after jobs are held."""
    with pytest.raises(InputError, match=message):
        Decider(policy, {"name": allocator}, "easy")


@pytest.mark.parametrize(
    ("policy", "first"), [("priority", "c"), ("srtf", "b"), ("srsf", "b"), ("fair_user", "b"), ("fair_vc", "a")]
)
def test_policies_that_suspend_in_a_simulation(policy: str, first: str) -> None:
    """Slurm's own priorities, remaining work and fair shares could not order a live queue."""
    jobs = [
        job("a", 8, minutes=9, user="ann", account="x", priority=5, submit_s=1),
        job("b", 8, minutes=2, user="bob", account="y", priority=5, submit_s=2),
        job("c", 8, minutes=5, user="cid", account="y", priority=9, submit_s=3),
    ]
    seen = look_of(jobs, FOUR[:1])
    decider = Decider(policy, {"name": "best_fit"}, "easy")
    usage = {"ann": 50.0, "bob": 1.0, "cid": 70.0, "x": 1.0, "y": 2.0}
    assert [row.job.id for row in decider.decide(seen, moment_of(seen), usage).starts] == [first]


def test_only_the_first_are_decided_on() -> None:
    """A queue of a hundred thousand jobs would take minutes a decision, and later ones would overtake."""
    seen = look_of([job(str(k), 8, submit_s=k) for k in range(6)], FOUR)
    decision = Decider("fifo", {"name": "best_fit"}, "easy").decide(seen, moment_of(seen, most=2))
    assert [row.job.id for row in decision.starts] == ["0", "1"]
    assert [each.id for each in decision.ranked()] == ["0", "1", "2", "3", "4", "5"]
    assert "behind the first 2" in decision.rows[-1].why
