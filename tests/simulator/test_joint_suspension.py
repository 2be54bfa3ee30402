"""The joint MILP with policies that suspend: who of the waiting and running jobs runs, and where."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import combinations
from typing import Any
from unittest import mock

import numpy as np
import pytest
from full_cases import POLICIES, Seen, attempts_of, check, clusters, option_sets, suspends, tables, widest_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_full_joint import check_quotas, mixed, speeds

import rltune
from rltune.allocators.formulation import Place
from rltune.allocators.joint import Decision, JointSolver
from rltune.allocators.milp import MilpAllocator
from rltune.allocators.plan_terms import less
from rltune.core.state import RUNNING, SUSPENDED, WAITING
from rltune.nouns.cluster import Cluster, Pool
from rltune.nouns.jobs import JobTable
from rltune.simulator import joint
from rltune.simulator.candidates import read_plan
from rltune.simulator.joint import Joint, held_places, pass_greedily
from rltune.simulator.suspending import CANDIDATES, MORE, try_out

FEW = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
MANY = settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
SUSPENDING = tuple(name for name in POLICIES if suspends(name, {}))


@contextmanager
def decisions() -> Iterator[list[tuple[Any, Decision]]]:
    """(instance, decision) of all that the solver is asked about running jobs."""
    made: list[tuple[Any, Decision]] = []
    inner = JointSolver.decide

    def decide(self: Any, instance: Any, *args: Any, **more: Any) -> Decision:
        decision = inner(self, instance, *args, **more)
        if instance.holders is not None:
            # The simulation goes on in the same arrays.
            room = type(instance.room)(*map(np.copy, instance.room))
            made.append((replace(instance, room=room, jobs=instance.jobs.copy()), decision))
        return decision

    with mock.patch.object(JointSolver, "decide", decide):
        yield made


def check_decisions(made: list[tuple[Any, Decision]]) -> None:
    """Never worse by its own objective than leaving all where it is, nor than the compiled pass."""
    for _, decision in made:
        assert decision.report["incumbents"].keys() == {"greedy", "keep"}
        assert not any(less(each, decision.report["objective"]) for each in decision.report["incumbents"].values())


# --- all that jobs may ask for ------------------------------------------------------------------


def check_any(policy: str, data: st.DataObject) -> None:
    jobs, cluster = data.draw(tables()), data.draw(clusters())
    options = data.draw(option_sets(policy, jobs, cluster)) | {"preemptive": None, "backfill": "skip"}
    if policy not in SUSPENDING:
        options["preemptive"] = True
    options.pop("reservations", None)
    options["allocator"] = MilpAllocator(head=data.draw(st.sampled_from([1, 2, 5, 16])), time_limit_s=600)
    if data.draw(st.booleans()):
        widest = {vc: widest_of(jobs, vc) for vc in jobs.vc.names}
        options["quotas"] = {vc: most + data.draw(st.sampled_from([0.0, 0.3, 4.0])) for vc, most in widest.items()}
    with decisions() as made:
        seen = Seen(jobs, cluster, policy=policy, **options)
    # With quotas a job may wait beside free GPUs.
    with mock.patch.dict(seen.options, {"backfill": "strict"}) if "quotas" in options else mock.patch.dict({}):
        check(seen, policy)
    check_quotas(seen, options.get("quotas") or {})
    check_decisions(made)


@FEW
@given(st.sampled_from((*SUSPENDING, "fifo", "sjf")), st.data())
def test_nothing_is_lost_and_nothing_held_twice(policy: str, data: st.DataObject) -> None:
    """With failures, unlike speeds, quotas and overheads, a job would vanish, run where another does, or resume for nothing."""
    check_any(policy, data)


@pytest.mark.slow
@MANY
@given(st.sampled_from((*SUSPENDING, "fifo", "sjf")), st.data())
def test_nothing_is_lost_and_nothing_held_twice_thoroughly(policy: str, data: st.DataObject) -> None:
    """As above, in rarer combinations."""
    check_any(policy, data)


@pytest.mark.parametrize(
    "policy", ["las", "srtf", "srsf", "priority", pytest.param("round_robin", marks=pytest.mark.slow)]
)
def test_all_kinds_of_jobs_are_suspended_and_moved_and_end(policy: str) -> None:
    """Gangs, shares, slices and jobs without a GPU would be left out of decisions, or lose what they hold."""
    jobs, cluster = mixed(150, 3)
    jobs = replace(jobs, priority=(np.arange(150) % 4).astype(jobs.priority.dtype))
    with decisions() as made:
        seen = Seen(
            jobs, cluster, policy=policy, backfill="skip", speed=speeds(jobs), quantum_s=40.0, las_levels_gpu_s=(20.0, 200.0),
            allocator=MilpAllocator(time_limit_s=600), resume_s=2.0, suspend_s=1.0, migrate_s=1.0, quotas={"x": 14.0}, displace_factor=1.0,
        )  # fmt: skip
    with mock.patch.dict(seen.options, {"backfill": "strict"}):
        check(seen, policy)
    check_quotas(seen, {"x": 14.0})
    check_decisions(made)
    stats = seen.result.summary()["allocator"]
    assert seen.result.finished.all() and stats["kept"] > 0
    assert stats["suspended"] > 0
    # Suspensions of the compiled pass, where a decision was too large, come on top.
    assert seen.result.summary()["runs"]["suspended"] >= stats["suspended"] + stats["moved"]
    cut = any((instance.demand.profile[instance.jobs] >= 0).any() for instance, _ in made)
    assert cut or policy == "priority"


# --- the known plans ----------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["las", "srtf", "srsf"])
@pytest.mark.parametrize(("seed", "factor"), [(0, 1.0), (1, 1.0), (0, 1.1), (1, 1.1)])
def test_the_pass_tried_out_is_the_pass(policy: str, seed: int, factor: float) -> None:
    """A decision would be held against another greedy rule than the one that is used without the MILP."""
    compared = []

    def swap(self: Joint, state: Any, work: Any) -> bool:
        greedy, trial = self._under(state, joint.GREEDY), work.value
        suspended = try_out(greedy, work)
        plan, held, more = (
            read_plan(state.value, trial.each, int(trial.counts[CANDIDATES])),
            held_places(state.value, trial),
            bool(trial.counts[MORE]),
        )
        jobs = trial.each.job[: trial.counts[CANDIDATES]].tolist()
        running = set(state.value.active[: state.value.counts[RUNNING]].tolist())
        pass_greedily(greedy)
        if suspended and not more:
            compared.append(len(jobs))
            check_same(state.value, jobs, plan, held, running, factor != 1.0)
        return True

    jobs, cluster = mixed(120, seed)
    options = {
        "quantum_s": 30.0,
        "speed": speeds(jobs),
        "resume_s": 3.0 if factor == 1.0 else 0.5,
        "displace_factor": factor,
        "mig_reconfiguration": False,
    }
    with mock.patch.object(Joint, "_swap", swap):
        tried = rltune.simulate(jobs, cluster, policy=policy, allocator=MilpAllocator(time_limit_s=600), **options)
    passed = rltune.simulate(jobs, cluster, policy=policy, allocator="best_fit", **options)
    assert len(compared) > (3 if factor == 1.0 else 0)
    assert np.array_equal(tried.end_s, passed.end_s)


def check_same(sim: Any, jobs: list[int], plan: list[Any], held: list[Any], running: set[int], fills: bool) -> None:
    """What the pass has done with the candidates is what the trial said, and it has touched nobody else.

    ``fills``: in the end it starts whoever fits, also whom it has suspended.
    """
    for job, place, here in zip(jobs, plan, held, strict=True):
        base = int(sim.jobs.part[job])
        now = slice(base, base + int(sim.alloc_len[job]))
        found = tuple(sim.alloc_node[now].tolist()), tuple(sim.alloc_grant[now].tolist())
        if place is None:
            assert here is not None and (sim.detail.status[job] == WAITING or fills)
        else:
            assert sim.detail.status[job] != WAITING and found == place[:2]
    touched = {job for job in running if sim.detail.status[job] == WAITING}
    assert touched <= set(jobs)


# --- by hand ------------------------------------------------------------------------------------


def by_hand(policy: str = "priority", **options: Any) -> dict[str, Seen]:
    """Two nodes of four GPUs; a job of three and one of four come before what runs."""
    columns = {
        "submit_s": [0, 0, 0, 10], "duration_s": [100, 100, 100, 50], "num_gpus": [2, 1, 3, 4], "priority": [3, 2, 1, 4],
    }  # fmt: skip
    jobs, cluster = JobTable.from_columns(columns), Cluster("two", (Pool("a", 2, 4),))
    return {
        name: Seen(jobs, cluster, policy=policy, backfill="skip", allocator=made, resume_s=5.0, **options)
        for name, made in (("greedy", "best_fit"), ("milp", MilpAllocator(time_limit_s=600)))
    }


def test_who_can_go_on_elsewhere_is_not_kept_waiting() -> None:
    """A job of four GPUs would suspend others for good where it is enough to move one."""
    seen = by_hand()
    waited = {name: float(each.result.wait_s.sum()) for name, each in seen.items()}
    assert waited["milp"] <= waited["greedy"]
    for each in seen.values():
        assert each.result.start_s[3] == 10
        check(each, "priority")


def test_an_interruption_is_paid_for() -> None:
    """Suspending and moving would look free, and jobs would be moved about for nothing."""
    seen = by_hand()["milp"]
    runs, mine = seen.result.runs, attempts_of(seen.result)
    again = [rows for rows in mine.values() if len(rows) > 1]
    assert again and seen.result.summary()["allocator"]["suspended"] + seen.result.summary()["allocator"]["moved"] > 0
    for rows in again:
        assert runs.outcome[rows[0]] == SUSPENDED
        spent = float((runs.end_s[rows] - runs.start_s[rows]).sum())
        assert spent == pytest.approx(float(seen.jobs.duration_s[runs.job[rows[0]]]) + 5.0 * (len(rows) - 1))


# --- policies of one's own, limits, input ---------------------------------------------------------


@pytest.mark.thorough
def test_a_policy_of_ones_own_may_suspend_with_the_joint_allocator() -> None:
    """A function as a policy would be refused, or could not suspend, where a named one can."""
    jobs, cluster = mixed(100, 4)

    def least_served(queue: Any, snapshot: Any) -> Any:
        return queue.attained_gpu_s

    allocator = MilpAllocator(time_limit_s=600)
    with decisions() as made:
        seen = Seen(
            jobs, cluster, policy=least_served, preemptive=True, backfill="skip", allocator=allocator, resume_s=2.0
        )
    check(seen, "fifo")
    check_decisions(made)
    assert seen.result.finished.all() and allocator.stats.suspended > 0
    assert {"now_s", "queued", "started"} <= seen.result.decisions[0].keys()


def test_more_than_a_decision_may_be_about_is_left_to_the_pass_and_told() -> None:
    """A gang over many nodes of small jobs would wait for ever, or be started without a word."""
    n = 40
    columns = {
        "submit_s": [0.0] * n + [10.0], "duration_s": [100.0] * (n + 1), "num_gpus": [1] * n + [n],
        "priority": [0] * n + [1],
    }  # fmt: skip
    jobs, cluster = JobTable.from_columns(columns), Cluster("c", (Pool("a", n // 4, 4),))
    result = rltune.simulate(jobs, cluster, policy="priority", allocator="milp")
    assert result.start_s[n] == 10
    assert result.summary()["allocator"]["fallbacks"]["too_many_candidates"] == 1


def test_without_time_for_the_solver_the_better_known_plan_is_taken() -> None:
    """A slow solver would stop the schedule, or suspend more than the compiled pass."""
    jobs, cluster = mixed(100, 5)
    seen = Seen(jobs, cluster, policy="las", backfill="skip", allocator=MilpAllocator(time_limit_s=0.0), quantum_s=30.0)
    check(seen, "las")
    stats = seen.result.summary()["allocator"]
    assert seen.result.finished.all() and stats["solves"] == 0 and stats["fallbacks"]["time_limit"] > 0


@pytest.mark.parametrize("backfill", ["easy", "strict"])
def test_holding_gpus_back_and_suspending_at_once_is_refused(backfill: str) -> None:
    """The reservation would be broken silently."""
    jobs, cluster = mixed(5, 0)
    with pytest.raises(rltune.InputError, match=r"suspends jobs, backfill=.* use backfill=skip"):
        rltune.simulate(jobs, cluster, policy="fifo", preemptive=True, backfill=backfill, allocator="milp")


# --- small decisions, by trying everything --------------------------------------------------------


def every_plan(instance: Any, free: np.ndarray, k: int) -> Iterator[list[Any]]:
    """All ways to give jobs k, k + 1, ... whole GPUs of nodes with ``free`` GPUs (bits), each on one node or none."""
    if k == len(instance.jobs):
        yield []
        return
    yield from ([None, *rest] for rest in every_plan(instance, free, k + 1))
    gpus = int(instance.demand.gpus[instance.jobs[k]])
    for node, bits in enumerate(free.tolist()):
        for chosen in combinations([gpu for gpu in range(4) if bits >> gpu & 1], gpus):
            grant = sum(1 << gpu for gpu in chosen)
            left = free.copy()
            left[node] -= grant
            # All jobs are of one choice.
            place = Place((node,), (grant,), int(instance.asks[instance.lo[k]]))
            yield from ([place, *rest] for rest in every_plan(instance, left, k + 1))


def worth(instance: Any, plan: Any) -> tuple[float, float]:
    """What a plan loses, to be small: value, then GPU-seconds of those that are suspended or moved."""
    value = lost = 0.0
    for k, (place, here) in enumerate(zip(plan, instance.holders.place, strict=True)):
        value += 0.0 if place is None else float(instance.value[k])
        if here is not None and place != here:
            lost += float((instance.holders.suspend if place is None else instance.holders.move)[k])
    return -value, lost


@pytest.mark.parametrize("seed", [0, 1, 3, 4, 5])
def test_in_a_small_cluster_no_other_set_of_suspensions_is_better(seed: int) -> None:
    """A waiting job would be left out, or jobs interrupted, though another set of suspensions and moves is better."""
    rng, n = np.random.default_rng(seed), 9
    columns = {
        "submit_s": np.sort(rng.integers(0, 40, n)).tolist(), "duration_s": rng.integers(20, 90, n).tolist(),
        "num_gpus": rng.choice([1, 1, 2, 3, 4], n).tolist(),
    }  # fmt: skip
    jobs, cluster = JobTable.from_columns(columns), Cluster("two", (Pool("a", 2, 4),))
    allocator = MilpAllocator(mode="lexicographic", time_limit_s=600)
    with decisions() as made:
        rltune.simulate(
            jobs, cluster, policy="srtf", allocator=allocator, resume_s=3.0, migrate_s=2.0, displace_factor=1.0
        )
    small = [each for each in made if len(each[0].jobs) <= 5]
    assert small
    for instance, decision in small:
        free = np.array([sum(1 << g for g in range(4) if instance.room.milli[node, g] == 1000) for node in range(2)])
        best = min(worth(instance, plan) for plan in every_plan(instance, free, 0))
        assert worth(instance, decision.places) == pytest.approx(best)
