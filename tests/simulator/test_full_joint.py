"""The joint MILP and quotas in the detailed simulation."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pytest
from full_cases import POLICIES, Seen, check, clusters, option_sets, suspends, tables
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rltune
from rltune.allocators.milp import MilpAllocator
from rltune.nouns.cluster import Cluster, Pool
from rltune.nouns.jobs import JobTable
from rltune.simulator import joint as full_joint

FEW = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
MANY = settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
CALM = tuple(name for name in POLICIES if not suspends(name, {}))


def mixed(n: int, seed: int) -> tuple[JobTable, Cluster]:
    """Shares, gangs, jobs of CPU alone and MIG slices on two pools of unlike speed, busy enough to queue."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(["whole", "gang", "share", "cpu", "mig"], n, p=[0.35, 0.15, 0.3, 0.1, 0.1])
    jobs = JobTable.from_columns(
        {
            "submit_s": np.sort(rng.integers(0, 6 * n, n)).tolist(),
            "duration_s": rng.integers(10, 200, n).tolist(),
            "num_gpus": [int(rng.choice([2, 4, 8, 12])) if k == "gang" else 1 for k in kind],
            "gpu_milli": [{"share": int(rng.choice([250, 300, 700])), "cpu": 0}.get(k, 1000) for k in kind],
            "mig": ["3g.20gb" if k == "mig" else None for k in kind],
            "cpus": rng.choice([0, 1, 2, 4], n).tolist(),
            "memory_gb": rng.choice([0, 8, 16], n).tolist(),
            "vc": rng.choice(["x", "y", "z"], n).tolist(),
        }
    )
    pools = (
        Pool("a", 3, 4, "A100-40GB", cpus=16, memory_gb=64, mig=True),
        Pool("b", 4, 4, "V100", cpus=12, memory_gb=48),
        Pool("c", 1, 2),
    )
    return jobs, Cluster("mixed", pools)


def speeds(jobs: JobTable) -> np.ndarray:
    return np.where(np.arange(len(jobs))[:, None] % 2, [2.0, 1.0, 0.5], [1.0, 1.0, 1.0])


# --- the joint decision ---------------------------------------------------------------------


@pytest.mark.parametrize("backfill", ["skip", "strict", "easy"])
def test_where_no_node_is_better_the_schedule_is_the_greedy_one(backfill: str) -> None:
    """The MILP would change who starts when, where the policy alone is to decide that."""
    rng = np.random.default_rng(1)
    columns = {
        "submit_s": np.sort(rng.integers(0, 300, 80)).tolist(),
        "duration_s": rng.integers(1, 60, 80).tolist(),
        "num_gpus": rng.choice([1, 1, 2, 3, 5], 80).tolist(),
    }
    jobs, cluster = JobTable.from_columns(columns), Cluster("ones", (Pool("a", 6, 1),))
    joint, greedy = (
        rltune.simulate(jobs, cluster, policy="sjf", backfill=backfill, allocator=allocator, max_retries=3)
        for allocator in (MilpAllocator(time_limit_s=600), "best_fit")
    )
    assert np.array_equal(joint.start_s, greedy.start_s)
    assert joint.summary()["allocator"]["calls"] > 0


@pytest.mark.parametrize("backfill", ["skip", "strict", "easy"])
@pytest.mark.parametrize("measure", ["quadratic", "demand"])
def test_all_kinds_of_jobs_end_and_hold_what_they_asked_for(backfill: str, measure: str) -> None:
    """A job would be lost, or hold GPUs, cores or slices that another has."""
    jobs, cluster = mixed(150, 3)
    demand = rltune.allocators.fragmentation.demand_of(jobs.num_gpus, cluster.arrays()) if measure == "demand" else None
    seen = Seen(
        jobs, cluster, policy="fifo", backfill=backfill, speed=speeds(jobs),
        allocator=MilpAllocator(measure=measure, demand=demand, head=8, time_limit_s=60.0),
    )  # fmt: skip
    check(seen, "fifo")
    assert seen.result.finished.all()
    stats = seen.result.summary()["allocator"]
    assert stats["solves"] > stats["improved"] > 0
    assert stats["fallbacks"].keys() <= {"restricted"}


def check_any(policy: str, data: st.DataObject) -> None:
    jobs, cluster = data.draw(tables()), data.draw(clusters())
    options = data.draw(option_sets(policy, jobs, cluster)) | {"preemptive": None}
    options["backfill"] = data.draw(st.sampled_from(["skip", "strict", "easy"]))
    options.pop("reservations", None)
    options["allocator"] = MilpAllocator(head=data.draw(st.sampled_from([1, 2, 5, 16])), time_limit_s=600)
    if data.draw(st.booleans()):
        widest = {vc: float(jobs.num_gpus[jobs.vc.values() == vc].max(initial=4)) for vc in jobs.vc.names}
        options["quotas"] = {vc: most + data.draw(st.sampled_from([0.0, 0.3, 4.0])) for vc, most in widest.items()}
    seen = Seen(jobs, cluster, policy=policy, **options)
    # With quotas a job may wait beside free GPUs.
    with mock.patch.dict(seen.options, {"backfill": "strict"}) if "quotas" in options else mock.patch.dict({}):
        check(seen, policy)
    check_quotas(seen, options.get("quotas") or {})


@FEW
@given(st.sampled_from(CALM), st.data())
def test_nothing_is_lost_and_nothing_held_twice(policy: str, data: st.DataObject) -> None:
    """With failures, unlike speeds, quotas and any calm policy, a job would vanish or run where another does."""
    check_any(policy, data)


@pytest.mark.slow
@MANY
@given(st.sampled_from(CALM), st.data())
def test_nothing_is_lost_and_nothing_held_twice_thoroughly(policy: str, data: st.DataObject) -> None:
    """As above, in rarer combinations."""
    check_any(policy, data)


def promises(jobs: JobTable, cluster: Cluster, **options: Any) -> tuple[rltune.Result, list[tuple[int, float]]]:
    """A simulation under EASY, and (job, when it was to start at the latest) of every reservation."""
    made: list[tuple[int, float]] = []
    inner = full_joint.prepare

    def prepare(state: Any, work: Any) -> None:
        inner(state, work)
        draft = work.value
        if draft.counts[full_joint.HELD] >= 0:
            made.append((int(draft.counts[full_joint.HELD]), float(draft.shadow[0])))

    with mock.patch.object(full_joint, "prepare", prepare):
        return rltune.simulate(jobs, cluster, backfill="easy", **options), made


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("quotas", [None, {"x": 14.0, "y": 12.5}])
@pytest.mark.parametrize("head", [2, 16])
def test_a_reserved_job_starts_when_it_was_promised(seed: int, quotas: dict[str, float] | None, head: int) -> None:
    """A wide job would starve behind jobs backfilled by the model."""
    jobs, cluster = mixed(150, seed)
    result, made = promises(
        jobs,
        cluster,
        speed=speeds(jobs),
        quotas=quotas,
        allocator=MilpAllocator(head=head, time_limit_s=600),
        max_retries=3,
    )
    assert len(made) > 10 and result.finished.all()
    late = [(job, shadow) for job, shadow in made if result.start_s[job] > shadow + 1e-6]
    assert not late


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("quotas", [None, {"x": 14.0, "y": 12.5}])
@pytest.mark.parametrize("way_rule", ["fastest", "efficient"])
def test_a_promise_holds_whatever_way_other_jobs_take(
    seed: int, quotas: dict[str, float] | None, way_rule: str
) -> None:
    """A job would take a slower or a wider way into the reservation, or more of the reserved job's quota than was counted on."""
    jobs, cluster = mixed(150, seed)
    frame = jobs.to_frame()
    single = (frame.num_gpus == 1) & (frame.gpu_milli == 1000) & frame.mig.isna()
    ways = np.where(single, "request | 3g.20gb@0.6 | 0.5xV100@0.4 | 2xV100@1.7", None)
    jobs = JobTable.from_columns(frame.assign(ways=[x or None for x in ways.tolist()]).to_dict("list"))
    result, made = promises(
        jobs,
        cluster,
        quotas=quotas,
        allocator=MilpAllocator(head=8, time_limit_s=600),
        max_retries=3,
        way_rule=way_rule,
    )
    assert len(made) > 10 and result.finished.all() and result.summary()["allocator"]["improved"] > 0
    assert not [(job, shadow) for job, shadow in made if result.start_s[job] > shadow + 1e-6]
    if quotas:
        check_quotas(mock.Mock(jobs=jobs, result=result), quotas)


# --- quotas -----------------------------------------------------------------------------------


def check_quotas(seen: Seen, quotas: dict[str, float]) -> None:
    """At no instant more than its quota in the hands of a virtual cluster."""
    vc, runs = seen.jobs.vc.values(), seen.result.runs
    for name, most in quotas.items():
        mine = np.flatnonzero((vc[runs.job] == name) & (runs.end_s > runs.start_s))
        held = np.array([runs.milli[runs.ptr[r] : runs.ptr[r + 1]].sum() for r in mine])
        for instant in runs.start_s[mine]:
            assert held[(runs.start_s[mine] <= instant) & (runs.end_s[mine] > instant)].sum() <= 1000 * most + 1e-6


@pytest.mark.parametrize("allocator", ["best_fit", "milp"])
@pytest.mark.parametrize("backfill", ["skip", "strict", "easy", "conservative"])
def test_quotas_are_never_exceeded(allocator: str, backfill: str) -> None:
    """A virtual cluster would take what others were promised."""
    if allocator == "milp" and backfill == "conservative":
        pytest.skip("the MILP has no such backfill")
    jobs, cluster = mixed(150, 5)
    quotas = {"x": 12.0, "y": 12.5}
    free = rltune.simulate(jobs, cluster, backfill=backfill, allocator="best_fit")
    with pytest.raises(AssertionError):
        check_quotas(mock.Mock(jobs=jobs, result=free), {"x": 8.0, "y": 8.0})
    made = MilpAllocator(time_limit_s=600) if allocator == "milp" else allocator
    seen = Seen(jobs, cluster, policy="fifo", backfill=backfill, allocator=made, quotas=quotas)
    check_quotas(seen, quotas)
    assert seen.result.finished.all() and (seen.final.space.left == [12_000, 12_500]).all()


@pytest.mark.parametrize("policy", ["srtf", "las"])
def test_who_is_suspended_gives_back_its_part_of_the_quota(policy: str) -> None:
    """Under a preemptive policy a quota would be exceeded, or leak away."""
    jobs, cluster = mixed(150, 6)
    quotas = {"x": 12.0, "y": 12.5}
    seen = Seen(
        jobs,
        cluster,
        policy=policy,
        backfill="skip",
        allocator="best_fit",
        quotas=quotas,
        quantum_s=30.0,
        las_levels_gpu_s=(),
    )
    check_quotas(seen, quotas)
    assert seen.result.summary()["runs"]["suspended"] > 0
    assert seen.result.finished.all() and (seen.final.space.left == [12_000, 12_500]).all()


@pytest.mark.parametrize("backfill", ["skip", "strict", "easy"])
def test_a_quota_means_the_same_to_the_model_and_to_the_rules(backfill: str) -> None:
    """The MILP would hold a virtual cluster to another quota than greedy placement."""
    rng = np.random.default_rng(2)
    columns = {
        "submit_s": np.sort(rng.integers(0, 300, 80)).tolist(),
        "duration_s": rng.integers(1, 60, 80).tolist(),
        "num_gpus": [1] * 80,
        "gpu_milli": rng.choice([1000, 500], 80).tolist(),
        "vc": rng.choice(["x", "y"], 80).tolist(),
    }
    jobs, cluster = JobTable.from_columns(columns), Cluster("wide", (Pool("a", 40, 1),))
    joint, greedy, free = (
        rltune.simulate(jobs, cluster, backfill=backfill, allocator=allocator, quotas=quotas)
        for allocator, quotas in (
            (MilpAllocator(time_limit_s=600), {"x": 2.5}),
            ("best_fit", {"x": 2.5}),
            ("best_fit", None),
        )
    )
    assert np.array_equal(joint.start_s, greedy.start_s)
    assert not np.array_equal(free.start_s, greedy.start_s)


def test_a_job_over_its_quota_waits_for_its_own_and_others_pass_by_hand() -> None:
    """A quota would hold up jobs of other virtual clusters, or none."""
    columns = {"submit_s": [0, 1, 2, 3], "duration_s": [10] * 4, "num_gpus": [2, 2, 1, 1], "vc": ["x", "x", "y", "x"]}
    jobs, cluster = JobTable.from_columns(columns), Cluster("c", (Pool("a", 2, 4),))
    for allocator in ("best_fit", MilpAllocator(time_limit_s=600)):
        result = rltune.simulate(jobs, cluster, quotas={"x": 3}, allocator=allocator)
        assert result.start_s.tolist() == [0, 10, 2, 3]
        result = rltune.simulate(jobs, cluster, quotas={"x": 3}, allocator=allocator, backfill="strict")
        assert result.start_s.tolist() == [0, 10, 10, 10]
        # The last one runs till 13, when the second was to start at 10: it may not take the third GPU.
        result = rltune.simulate(jobs, cluster, quotas={"x": 3}, allocator=allocator, backfill="easy")
        assert result.start_s.tolist() == [0, 10, 2, 3]
        result = rltune.simulate(jobs, cluster, quotas={"x": 2}, allocator=allocator, backfill="easy")
        assert result.start_s.tolist() == [0, 10, 2, 20]


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": "srtf", "backfill": "easy"}, "policy srtf suspends jobs, backfill=easy holds GPUs back"),
        ({"backfill": "conservative"}, "backfill=conservative .* use backfill=easy"),
        ({"backfill": "blocking", "max_retries": 3}, "backfill=blocking"),
        ({"quotas": {"nobody": 5}}, "quotas: virtual cluster 'nobody' is unknown; known are x, y"),
        ({"quotas": {"x": -1}}, "quotas: virtual cluster x: -1; give a number"),
        ({"quotas": {"x": float("nan")}}, "quotas: virtual cluster x: nan; give a number"),
        ({"quotas": {"x": "many"}}, "quotas: virtual cluster x: 'many'; give a number"),
        ({"quotas": [1]}, r"quotas=\[1\]; give GPUs by virtual cluster"),
        ({"quotas": [("x", 5), ("x", 6)]}, "quotas: virtual cluster x is there twice"),
        ({"quotas": {"x": 2}}, "quotas: job 2 .* wants 3 GPUs, virtual cluster x may hold 2: .* larger quota"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(options: dict[str, Any], message: str) -> None:
    """A traceback, or a simulation of something else, would be the answer to a typo."""
    columns = {"submit_s": [0, 1, 2, 3], "duration_s": [5] * 4, "num_gpus": [1, 2, 3, 1], "vc": ["x", "x", "x", "y"]}
    jobs, cluster = JobTable.from_columns(columns), Cluster("c", (Pool("a", 2, 4),))
    with pytest.raises(rltune.InputError, match=message) as refused:
        rltune.simulate(jobs, cluster, **{"allocator": "milp", **options})
    assert "\n" not in str(refused.value)
