"""MIG instances take their time, stay when their job ends, and can be changed ahead of need by a plan."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rltune
from rltune.nouns.cluster import Cluster, Pool
from rltune.nouns.jobs import JobTable
from rltune.nouns.mig_layout import MODE, after_start, changed, standing
from rltune.nouns.mig_profiles import LONGEST_QUEUE_S, NAMES, TYPES
from rltune.nouns.plan import Plan, PlanError, Repartition, Reservation, Snapshot, Start
from rltune.nouns.plan_check import check_plan

A100 = TYPES.index("A100-40GB")


def gpus(nodes: int = 1, each: int = 1) -> Cluster:
    return Cluster("c", (Pool("p", nodes, each, "A100-40GB", mig=True),))


def table(*rows: tuple[float, float, str | None], **columns: list[Any]) -> JobTable:
    """Rows of submission, run time and MIG profile (None: the whole GPU)."""
    submit, run, mig = zip(*rows, strict=True)
    given = {"submit_s": list(submit), "duration_s": list(run), "num_gpus": [1] * len(rows), "mig": list(mig)}
    return JobTable.from_columns({"job_id": [f"j{k}" for k in range(len(rows))]} | given | columns)


def ends(jobs: JobTable, cluster: Cluster, **options: Any) -> list[float]:
    result = rltune.simulate(jobs, cluster, **options)
    return [round(float(end), 6) for end in result.end_s]


def test_an_instance_takes_its_measured_time_and_serves_the_next_job_of_its_profile_at_once() -> None:
    """Slices would appear in no time, or be made anew for every job."""
    jobs = table((0, 100, "1g.5gb"), (200, 100, "1g.5gb"))
    assert ends(jobs, gpus()) == [100.16, 300]
    assert ends(jobs, gpus(), mig_reconfiguration=False) == [100, 300]


def test_idle_instances_in_the_way_are_destroyed_first_and_others_left() -> None:
    """A job would wait for instances that are not in its way, or start on memory slices that an idle one still has."""
    whole = table((0, 100, "2g.10gb"), (200, 100, "7g.40gb"))
    assert ends(whole, gpus()) == [100.17, 300 + 0.20 + 0.24]
    beside = table((0, 100, "3g.20gb"), (200, 100, "4g.20gb"), (201, 10, "3g.20gb"))
    # The idle 3g stands at memory slice 4, beside the 4g.
    assert ends(beside, gpus()) == [100.2, 300.21, 211]


def test_a_gpu_changes_one_instance_at_a_time_and_two_gpus_change_at_once() -> None:
    """Jobs that begin together would all have their slices at once, or wait for other GPUs."""
    assert ends(table((0, 100, "1g.5gb"), (0, 100, "1g.5gb")), gpus()) == [100.16, 100.32]
    assert ends(table((0, 100, "7g.40gb"), (0, 100, "7g.40gb")), gpus(each=2)) == [100.24, 100.24]


def test_a_gpu_serves_whole_only_after_its_instances_are_gone_and_its_mode_is_off() -> None:
    """A job on the whole GPU would begin beside idle instances; changing MIG mode would cost nothing though it was asked for."""
    jobs = table((0, 100, "1g.5gb"), (200, 100, None), (400, 100, "1g.5gb"))
    assert ends(jobs, gpus()) == [100.16, 300.2, 500.16]
    assert ends(jobs, gpus(), mig_mode_s=5) == [105.16, 305.2, 505.16]


def test_whole_gpus_are_taken_where_nothing_idle_stands_and_slices_where_theirs_does() -> None:
    """Instances would be destroyed and made again though another GPU is as free."""
    jobs = table((0, 100, "1g.5gb"), (200, 100, None), (210, 50, "1g.5gb"))
    result = rltune.simulate(jobs, gpus(each=2))
    assert result.end_s.round(6).tolist() == [100.16, 300, 260]
    assert result.summary()["mig"] == {"reconfigurations": 1, "reconfiguring_s": pytest.approx(0.16)}


def test_a_node_that_failed_comes_back_without_instances() -> None:
    """A job would begin at once on an instance that did not survive the restart; MIG mode itself does."""
    jobs = table((0, 10, "1g.5gb"), (100, 10, "1g.5gb"))
    events = [(50, 0, "fail"), (60, 0, "repair")]
    assert ends(jobs, gpus(), node_events=events, mig_mode_s=5) == [15.16, 110.16]


def test_a_job_that_would_end_after_the_reservation_for_its_slice_alone_is_not_backfilled() -> None:
    """EASY would delay the job that has the reservation by the time that a slice takes to be made."""
    cluster = gpus(each=2)
    jobs = JobTable.from_columns(
        {"job_id": list("abc"), "submit_s": [0, 1, 2], "duration_s": [100, 100, 98], "num_gpus": [1, 2, 1],
         "mig": [None, None, "1g.5gb"]}
    )  # fmt: skip
    begin = rltune.simulate(jobs, cluster, backfill="easy").start_s.tolist()
    assert begin[1] == 100
    assert begin[2] >= 200
    # Without reconfiguration it ends just in time.
    assert rltune.simulate(jobs, cluster, backfill="easy", mig_reconfiguration=False).start_s.tolist() == [0, 100, 2]


@pytest.mark.parametrize(
    "options", [{"mig_reconfiguration": "no"}, {"mig_mode_s": -1}, {"mig_mode_s": 3, "mig_reconfiguration": False}]
)
def test_a_wrong_option_is_refused_by_its_name(options: dict[str, Any]) -> None:
    """A typing error would simulate something else than what was asked for."""
    with pytest.raises(rltune.InputError, match=next(iter(options))):
        rltune.simulate(table((0, 1, "1g.5gb")), gpus(), **options)


# --- plans -----------------------------------------------------------------------------------


class Ahead:
    """Repartitions at time zero, and starts on the first node what fits."""

    def __init__(self, *repartitions: Repartition) -> None:
        self.repartitions = repartitions
        self.plans: list[Plan] = []

    def allocate(self, snapshot: Snapshot, order: Any, backfill: str) -> Plan:
        starts: list[Start] = []
        for k in order:
            job = int(snapshot.queue.job[k])
            try:
                gpus = int(snapshot.queue.num_gpus[k])
                plan = check_plan(snapshot, Plan((*starts, Start(job, (0,), (gpus,)))))
            except PlanError:
                continue
            starts = list(plan.starts)
        ahead = self.repartitions if snapshot.now_s == 0 else ()
        self.plans.append(check_plan(snapshot, Plan(tuple(starts), repartitions=ahead)))
        return self.plans[-1]


def test_a_plan_may_repartition_ahead_of_need() -> None:
    """A policy of one's own could not prepare slices: each first job would wait for its own."""
    jobs = table((0, 10, None), (100, 100, "3g.20gb"), (100, 100, "3g.20gb"))
    ahead = Ahead(Repartition(0, 1, create=(("3g.20gb", 0), ("3g.20gb", 4))))
    result = rltune.simulate(jobs, gpus(each=2), allocator=ahead)
    assert ahead.plans[0].repartitions[0].seconds == pytest.approx(0.4)
    # The slices go where they stand.
    assert result.end_s.round(6).tolist() == [10, 200, 200]


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (Repartition(0, 0, create=(("3g.20gb", 1),)), "3g.20gb cannot begin at memory slice 1"),
        (Repartition(0, 0, create=(("3g.20gb", 0), ("2g.10gb", 2))), "2g.10gb at memory slice 2 would overlap 3g.20gb at 0"),
        (Repartition(0, 0, destroy=(("3g.20gb", 0),)), "no instance 3g.20gb stands at memory slice 0"),
        (Repartition(0, 0, create=(("9g.99gb", 0),)), "A100-40GB has no MIG profile '9g.99gb'"),
        (Repartition(0, 2, create=(("3g.20gb", 0),)), "there is no such GPU"),
        (Repartition(0, 0, create=(("3g.20gb", 0),), seconds=9.0), "9 s; measured are 0.2 s"),
    ],
)  # fmt: skip
def test_an_impossible_repartition_is_refused_with_its_reason(one: Repartition, words: str) -> None:
    """The driver would refuse it, or running jobs would lose their instance."""
    with pytest.raises(PlanError, match=words):
        rltune.simulate(table((0, 10, "1g.5gb")), gpus(each=2), allocator=Ahead(one))


def test_the_instance_of_a_running_job_cannot_be_destroyed_nor_its_gpu_cut() -> None:
    """A plan would take a GPU from under a job."""

    def late(one: Repartition) -> Any:
        class Late(Ahead):
            def allocate(self, snapshot: Snapshot, order: Any, backfill: str) -> Plan:
                plan = super().allocate(snapshot, order, backfill)
                return replace(plan, repartitions=(one,)) if snapshot.now_s == 5 else plan

        return Late()

    jobs = table((0, 100, "7g.40gb"), (5, 1, "7g.40gb"))
    with pytest.raises(PlanError, match=r"a job uses the instance 7g\.40gb at memory slice 0"):
        rltune.simulate(jobs, gpus(), allocator=late(Repartition(0, 0, destroy=(("7g.40gb", 0),))))
    held = table((0, 100, None), (5, 1, "7g.40gb"))
    with pytest.raises(PlanError, match="a job holds the GPU or a share of it"):
        rltune.simulate(held, gpus(), allocator=late(Repartition(0, 0, create=(("7g.40gb", 0),))))


@pytest.mark.parametrize(
    ("at_s", "gpus_at", "words"),
    [
        (100.0, 2, None), (99.0, 2, "over-allocated"), (0.0, 1, "before now"), (100.0, 1, "wants 2 GPUs"),
    ],
)  # fmt: skip
def test_a_reservation_must_be_free_at_its_time(at_s: float, gpus_at: int, words: str | None) -> None:
    """A plan would promise a job GPUs that another one holds by then."""

    class Keeps(Ahead):
        def allocate(self, snapshot: Snapshot, order: Any, backfill: str) -> Plan:
            waits = [
                int(job) for job in snapshot.queue.job if snapshot.queue.num_gpus[snapshot.queue.job == job][0] == 2
            ]
            if snapshot.now_s != 1 or not waits:
                return super().allocate(snapshot, order, backfill)
            return Plan((), reservations=(Reservation(waits[0], at_s, (0,), (gpus_at,)),))

    jobs = JobTable.from_columns(
        {"job_id": ["a", "b", "c"], "submit_s": [0, 1, 2], "duration_s": [100, 10, 5], "num_gpus": [1, 2, 1]}
    )
    run = lambda: rltune.simulate(jobs, gpus(each=2), allocator=Keeps(), resume_s=1)  # noqa: E731
    if words is None:
        assert run().end_s[0] == 100
    else:
        with pytest.raises(PlanError, match=words):
            run()


def test_two_reservations_of_one_place_are_refused_and_an_overdue_job_is_not_counted_as_gone() -> None:
    """A plan would promise the same GPUs twice, or those of a job that still runs."""
    cluster = gpus(each=2)
    jobs = JobTable.from_columns(
        {"job_id": ["a", "b", "c"], "submit_s": [0, 1, 1], "duration_s": [100, 10, 10], "num_gpus": [2, 2, 2]}
    )  # fmt: skip

    def with_reservations(*ones: Reservation, runtimes: Any = "exact") -> None:
        class Keeps(Ahead):
            def allocate(self, snapshot: Snapshot, order: Any, backfill: str) -> Plan:
                if snapshot.now_s == 1:
                    return Plan((), reservations=ones)
                return super().allocate(snapshot, order, backfill)

        rltune.simulate(jobs, cluster, allocator=Keeps(), resume_s=1, runtimes=runtimes)

    with_reservations(Reservation(1, 100.0, (0,), (2,)), Reservation(2, 110.0, (0,), (2,)))
    with pytest.raises(PlanError, match="reservation at 109 s: node 0 is over-allocated by job 2"):
        with_reservations(Reservation(1, 100.0, (0,), (2,)), Reservation(2, 109.0, (0,), (2,)))
    with pytest.raises(PlanError, match="job 1 is given two reservations"):
        with_reservations(Reservation(1, 100.0, (0,), (2,)), Reservation(1, 200.0, (0,), (2,)))
    with pytest.raises(PlanError, match="reservation at 1 s: node 0 is over-allocated by job 1"):
        with_reservations(Reservation(1, 1.0, (0,), (2,)), runtimes=np.array([0.5, 10.0, 10.0]))


def test_a_plan_cannot_exceed_a_quota() -> None:
    """A virtual cluster would hold more than it may as soon as an allocator of one's own places its jobs."""
    jobs = table((0, 10, None), (0, 10, None), vc=["v", "v"])
    planned = Ahead()
    result = rltune.simulate(jobs, gpus(each=2), allocator=planned, quotas={"v": 1})
    assert result.start_s.tolist() == [0, 10]

    class Greedy(Ahead):
        def allocate(self, snapshot: Snapshot, order: Any, backfill: str) -> Plan:
            return Plan(tuple(Start(int(snapshot.queue.job[k]), (0,), (1,)) for k in order))

    with pytest.raises(PlanError, match="job 1: the plan gives it 1 GPUs, its virtual cluster may hold 0 more"):
        rltune.simulate(jobs, gpus(each=2), allocator=Greedy(), quotas={"v": 1})


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (None, "answered with None"), (Plan((Start(0.0, (0,), (1,)),)), "Start: job: 0.0 is no whole number"),  # type: ignore[arg-type]
        (Plan((Start(False, (0,), (1,)),)), "Start: job: False is no whole number"),
        (Plan((Start(0, 0, (1,)),)), "nodes: 0 is no tuple"),  # type: ignore[arg-type]
        (Plan((), repartitions=(Repartition(0.5, 0),)), "Repartition: node: 0.5"),  # type: ignore[arg-type]
        (Plan((), repartitions=(Repartition(0, 0, create="3g"),)), "create: '3g' is no tuple"),  # type: ignore[arg-type]
        (Plan((), repartitions=(Repartition(0, 0, create=(("3g.20gb", 4.0),)),)), "give pairs of profile"),  # type: ignore[arg-type]
        (Plan((), repartitions=(Repartition(0, 0, seconds="1"),)), "seconds='1'"),  # type: ignore[arg-type]
        (Plan((), reservations=(Reservation(0, float("inf"), (0,), (1,)),)), "at_s=inf; give a time"),
        (Plan((), reservations=(Reservation(0, 10**400, (0,), (1,)),)), "give a time"),
        (Plan((Start(0, (0,), (1,), (), -1, (Repartition(0, 7, create=(("nonsense", 3),)),)),)), "needs repartitions"),
        (
            Plan((Start(0, (0,), (1,), (), -1, (Repartition(0, 0, create=(("1g.5gb", 6),)),) * 2),)), "needs repartitions"
        ),
        (Plan((), repartitions=(Repartition(-1, 0),)), "there is no such GPU"),
    ],
)  # fmt: skip
def test_what_is_no_plan_is_refused_in_one_line(plan: Any, words: str) -> None:
    """A slip in an allocator of one's own would end in a traceback of the compiler, or be carried out as something else."""

    class Odd:
        def allocate(self, snapshot: Snapshot, order: Any, backfill: str) -> Any:
            return plan

    with pytest.raises(PlanError, match=words):
        rltune.simulate(table((0, 10, "1g.5gb")), gpus(each=2), allocator=Odd())


def test_a_node_that_is_down_cannot_be_repartitioned() -> None:
    """Its instances would survive the restart."""

    class Late(Ahead):
        def allocate(self, snapshot: Snapshot, order: Any, backfill: str) -> Plan:
            plan = super().allocate(snapshot, order, backfill)
            return (
                replace(plan, repartitions=(Repartition(0, 0, create=(("7g.40gb", 0),)),))
                if snapshot.now_s == 50
                else plan
            )

    jobs = table((0, 10, "1g.5gb"), (50, 10, "7g.40gb"))
    with pytest.raises(PlanError, match="the node is down or draining"):
        rltune.simulate(jobs, gpus(), allocator=Late(), node_events=[(40, 0, "fail"), (60, 0, "repair")])


def test_a_restart_ends_the_changes_that_were_going_on() -> None:
    """A job would wait on a fresh node for a change that the failure cut off."""
    jobs = table((0, 10, "1g.5gb"), (30, 10, "1g.5gb"))
    events = [(10, 0, "fail"), (20, 0, "repair")]
    # MIG mode was still being turned on when the node failed: at 20 it begins anew.
    assert ends(jobs, gpus(), node_events=events, mig_mode_s=60) == [90.16, 90.32]
    assert ends(jobs, gpus(), node_events=events, mig_mode_s=5) == [30.16, 40.16]


def test_the_milp_promises_for_the_longest_change_and_keeps_it() -> None:
    """A reserved job would start later than the longest change of MIG instances can explain."""
    jobs = table((0, 1, "1g.5gb"), (200, 20, "1g.5gb"), (200, 5, None), (200, 20, "7g.40gb"), num_gpus=[1, 1, 2, 1])
    for mode_s in (0.0, 60.0):
        given = {"policy": "fifo", "backfill": "easy", "mig_mode_s": mode_s}
        greedy, joint = (rltune.simulate(jobs, gpus(each=2), allocator=each, **given) for each in ("first_fit", "milp"))
        assert greedy.start_s[2] == 220
        assert 220 <= joint.start_s[2] <= 220 + LONGEST_QUEUE_S + 2 * mode_s


# --- the two roads, and layouts ----------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 60), st.integers(1, 40), st.sampled_from(["1g.5gb", "2g.10gb", "3g.20gb", "7g.40gb", None])),
        min_size=1, max_size=12,
    )
)  # fmt: skip
def test_checked_plans_tell_just_the_repartitions_that_the_simulation_makes(
    rows: list[tuple[int, int, str | None]],
) -> None:
    """A plan would name other instances, or other seconds, than what is carried out."""
    jobs = table(*sorted(rows, key=lambda row: row[0]))
    planned = Ahead()
    result = rltune.simulate(jobs, gpus(each=2), allocator=planned)
    told = [one for plan in planned.plans for start in plan.starts for one in start.repartitions]
    made = result.summary().get("mig", {"reconfigurations": 0, "reconfiguring_s": 0.0})
    assert sum(one.seconds > 0 for one in told) == made["reconfigurations"]
    assert sum(one.seconds for one in told) == pytest.approx(made["reconfiguring_s"])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([*NAMES["A100-40GB"].values()]), st.integers(0, 7)), max_size=12))
def test_a_layout_never_holds_two_instances_on_one_memory_slice(wanted: list[tuple[str, int]]) -> None:
    """A job would be given memory that another instance has."""
    layout = 0
    for profile, start in wanted:
        try:
            layout, seconds = changed(layout, A100, 0, (), ((profile, start),), 0.0)
        except ValueError:
            continue
        assert seconds > 0
    there = standing(layout, A100, 0)
    slices = [at for one in there for at in range(one.start, one.start + one.size)]
    assert len(slices) == len(set(slices)) and (not slices or max(slices) < 8)
    after = after_start(layout, A100, -1, 0, 2.0)
    assert after.layout == 0 and len(after.destroy) == len(there)
    assert after.seconds == pytest.approx(len(there) and sum(_destroy(x.profile) for x in there) + 2.0)
    assert (layout & MODE != 0) == (len(there) > 0)


def _destroy(profile: str) -> float:
    return float(np.select([profile[0] == c for c in "1234"], [0.20, 0.20, 0.21, 0.21], 0.22))
