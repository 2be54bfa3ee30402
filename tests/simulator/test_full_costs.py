"""What interruptions and failures cost, to the second; and that failures come as often as was asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rltune
from rltune.nouns.cluster import Cluster, Pool
from rltune.nouns.jobs import JobTable

COSTS = {"suspend_s": 1.0, "resume_s": 2.0, "migrate_s": 4.0}


def simulate(rows: list[tuple[float, ...]], nodes: int = 1, gpus: int = 1, **options: Any) -> rltune.Result:
    """Jobs a, b, ... of (submit, run, GPUs, priority)."""
    submit, run, wanted, priority = zip(*((*row, 0)[:4] for row in rows), strict=True)
    columns = {"submit_s": submit, "duration_s": run, "num_gpus": wanted, "priority": priority}
    table = JobTable.from_columns({"job_id": [chr(ord("a") + k) for k in range(len(rows))], **columns})
    return rltune.simulate(table, Cluster("c", (Pool("p", nodes, gpus),)), **options)


def runs(result: rltune.Result) -> list[tuple[Any, ...]]:
    """(job, start, end, useful seconds, outcome, nodes) by start."""
    columns = ["job_id", "start_s", "end_s", "useful_s", "outcome", "nodes"]
    return list(result.attempts[columns].itertuples(index=False, name=None))


def test_suspending_and_resuming_cost_their_seconds() -> None:
    """Preemption would look cheaper, or dearer, than it is."""
    # b takes over at 3; a comes back at 5 and needs 1 + 2 s before its last 7.
    result = simulate([(0, 10, 1), (3, 2, 1, 1)], policy="priority", **COSTS)
    assert runs(result) == [
        ("a", 0, 3, 3, "suspended", [0]),
        ("b", 3, 5, 2, "finished", [0]),
        ("a", 5, 15, 7, "finished", [0]),
    ]


def test_moving_to_another_node_costs_migration_on_top() -> None:
    """A policy that chases jobs from node to node would cost no more than one that brings them back."""
    # b (node 0) and a (node 1); c takes a's place at 3 for 30 s; b ends at 20: a goes on on node 0 after 1 + 2 + 4 s.
    result = simulate([(0, 10, 1), (0, 20, 1, 1), (3, 30, 1, 1)], nodes=2, policy="priority", **COSTS)
    assert runs(result)[1:] == [
        ("b", 0, 20, 20, "finished", [0]),
        ("c", 3, 33, 30, "finished", [1]),
        ("a", 20, 34, 7, "finished", [0]),
    ]
    assert runs(result)[0] == ("a", 0, 3, 3, "suspended", [1])


def test_a_job_stopped_while_it_is_restored_has_done_nothing() -> None:
    """Work would appear that no GPU has done."""
    # a comes back at 5 and would work from 8 on; c takes over at 6, for 1 s; a again at 7: ready at 10, done at 17.
    result = simulate([(0, 10, 1), (3, 2, 1, 1), (6, 1, 1, 1)], policy="priority", **COSTS)
    assert [r for r in runs(result) if r[0] == "a"] == [
        ("a", 0, 3, 3, "suspended", [0]),
        ("a", 5, 6, 0, "suspended", [0]),
        ("a", 7, 17, 7, "finished", [0]),
    ]


@pytest.mark.parametrize(
    ("checkpoint", "speed", "kept", "end"),
    # The node fails at 7 (speed 2: 4.2) and is back at 8; restoring takes 2 s.
    [(None, 1, 0, 20), (3, 1, 6, 14), (7, 1, 7, 13), (8, 1, 0, 20), (1.5, 1, 6, 14), (3, 2, 6, 12), (None, 2, 0, 15)],
)
def test_a_failure_costs_the_work_since_the_last_checkpoint(
    checkpoint: float | None, speed: int, kept: float, end: float
) -> None:
    """The price of rare checkpoints would be over- or understated. Checkpoints count seconds of the clock."""
    fails = 7.0 if speed == 1 else 4.2
    events = [(fails, 0, "fail"), (8, 0, "repair")]
    options = {"resume_s": 2.0, "checkpoint_s": checkpoint, "node_events": events, "speed": [[speed]]}
    result = simulate([(0, 10, 1)], **options)
    assert runs(result) == [
        ("a", 0, fails, kept, "node failure", [0]),
        ("a", 8, end, 10 - kept, "finished", [0]),
    ]


def test_what_was_suspended_is_saved_whatever_fails_later() -> None:
    """A failure would take back work that had been saved at a suspension."""
    events = [(7, 0, "fail"), (9, 0, "repair")]
    result = simulate([(0, 10, 1), (3, 2, 1, 1)], policy="priority", node_events=events)
    # a: 3 s kept at 3; 5-7 lost; 7 s are left at 9.
    assert [r[1:5] for r in runs(result) if r[0] == "a"] == [
        (0, 3, 3, "suspended"), (5, 7, 0, "node failure"), (9, 16, 7, "finished"),
    ]  # fmt: skip


def test_a_gang_is_lost_with_any_of_its_nodes_and_no_other_job() -> None:
    """A failure would hit jobs elsewhere, or leave half a gang running."""
    result = simulate([(0, 10, 4), (0, 10, 1)], nodes=3, gpus=2, node_events=[(4, 1, "fail")])
    # a on nodes 0 and 1, b on 2. a needs two nodes: 1 is gone, 2 is free from 10 on.
    assert runs(result) == [
        ("a", 0, 4, 0, "node failure", [0, 1]),
        ("b", 0, 10, 10, "finished", [2]),
        ("a", 10, 20, 10, "finished", [0, 2]),
    ]


def test_draining_and_capacity_let_jobs_run_on() -> None:
    """A maintenance window would kill jobs, or let new ones onto the node."""
    rows = [(0, 10, 1), (0, 4, 1), (1, 3, 1)]
    drained = simulate(rows, nodes=2, node_events=[(2, 1, "drain"), (30, 1, "reopen")])
    shrunk = simulate(rows, nodes=2, capacity=[(2, "p", 1), (30, "p", 2)])
    for result in (drained, shrunk):
        assert [r[:3] + r[4:] for r in runs(result)] == [
            ("a", 0, 10, "finished", [0]), ("b", 0, 4, "finished", [1]), ("c", 10, 13, "finished", [0]),
        ]  # fmt: skip


def test_a_node_is_open_only_when_every_reason_to_close_it_is_gone() -> None:
    """The repair of a node would end its maintenance."""
    events = [(0, 0, "fail"), (0, 0, "drain"), (5, 0, "repair"), (8, 0, "reopen")]
    assert simulate([(1, 1, 1)], node_events=events).start_s.tolist() == [8]
    assert simulate([(1, 1, 1)], node_events=events, capacity=[(0, "p", 0), (9, "p", 1)]).start_s.tolist() == [9]


@pytest.mark.parametrize("retries", [0, 2])
def test_a_job_is_given_up_after_its_retries(retries: int) -> None:
    """A job that cannot succeed would hold the cluster for ever, or be given up too early."""
    times = [(10.0 * k + 5, 0, kind) for k in range(4) for kind in ("fail", "repair")]
    result = simulate([(0, 12, 1)], node_events=times, max_retries=retries)
    assert result.attempts.outcome.tolist() == ["node failure"] * retries + ["given up"]
    assert np.isnan(result.end_s[0]) and result.summary()["unfinished"] == 1
    enough = simulate([(0, 12, 1)], node_events=times, max_retries=4)
    assert enough.end_s.tolist() == [47] and len(enough.attempts) == 5


def test_a_cluster_that_never_comes_back_leaves_its_jobs_unfinished() -> None:
    """The simulation would not end, or count jobs as done that still wait."""
    result = simulate([(0, 10, 1), (1, 10, 1)], node_events=[(5, 0, "fail")], node_mtbf_s=50.0)
    assert not result.finished.any() and len(result.attempts) == 1


# --- how often ------------------------------------------------------------------------


def within_poisson(count: int, expected: float) -> bool:
    """Five standard deviations: less than one false alarm in a million, and the seeds are fixed."""
    return abs(count - expected) <= 5 * np.sqrt(expected)


@pytest.mark.parametrize("gpus", [1, 4])
def test_jobs_fail_once_in_their_mean_time_for_every_gpu_they_hold(gpus: int) -> None:
    """Reliability studies would run with another failure rate than they state, above all for wide jobs."""
    rows = [(0.0, 1000.0, gpus)] * 2000
    result = simulate(rows, nodes=8, gpus=4, gpu_mtbf_s=2000.0, max_retries=10_000, seed=7)
    held = result.runs.end_s - result.runs.start_s
    failures = result.attempts.outcome.eq("job failure").sum()
    assert result.finished.all()
    assert failures > 1000 and within_poisson(failures, held.sum() * gpus / 2000.0)


def test_nodes_fail_once_in_their_mean_time_and_stay_away_for_the_mean_repair() -> None:
    """As above, for nodes."""
    rows = [(0.0, 500.0, 2)] * 2000
    result = simulate(rows, nodes=2, gpus=2, node_mtbf_s=1000.0, node_repair_s=100.0, max_retries=10_000, seed=3)
    frame = result.attempts
    failures = int(frame.outcome.eq("node failure").sum())
    assert failures > 500 and within_poisson(failures, float((frame.end_s - frame.start_s).sum()) / 1000.0)
    repairs = []
    for node in (0, 1):
        mine = frame[[n == [node] for n in frame.nodes]]
        after = mine.start_s.to_numpy()[1:] - mine.end_s.to_numpy()[:-1]
        repairs.append(after[mine.outcome.eq("node failure").to_numpy()[:-1]])
    away = np.concatenate(repairs)
    # Mean and deviation of an exponential are equal.
    assert abs(away.mean() - 100.0) < 5 * 100.0 / np.sqrt(len(away))
    assert abs((away > 100.0).mean() - np.exp(-1)) < 5 * 0.5 / np.sqrt(len(away))


# --- what policies promise --------------------------------------------------------------


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 20)), min_size=1, max_size=12))
def test_srtf_on_one_gpu_has_the_least_mean_jct(rows: list[tuple[int, int]]) -> None:
    """The policy that is optimal here would not be, so remaining times or the bound would be wrong."""
    result = simulate([(*row, 1) for row in rows], policy="srtf", displace_factor=1.0)
    bound = rltune.lower_bounds(result.jobs, result.cluster, preemptive=True)
    assert (result.end_s - result.jobs.submit_s).mean() == pytest.approx(bound.jct_s)


def served(result: rltune.Result, job: int, until: float) -> float:
    """GPU-seconds of a job by then."""
    mine = result.runs.job == job
    ends = np.minimum(result.runs.end_s[mine], until)
    return float(np.maximum(0.0, ends - result.runs.start_s[mine]).sum())


@pytest.mark.parametrize("weights", [(1, 2), (1, 3), (2, 5), (0.7, 1)])
def test_fair_queueing_stays_within_a_quantum_of_the_weights(weights: tuple[float, float]) -> None:
    """A tenant of weight 2 would fall behind its share for longer than a quantum."""
    result = simulate([(0, 3000, 1), (0, 3000, 1)], policy="wfq", quantum_s=10.0, weights=weights)
    for until in np.arange(10.0, result.end_s.min(), 10.0):
        ahead = served(result, 0, until) / weights[0] - served(result, 1, until) / weights[1]
        assert abs(ahead) <= 10.0 / min(weights) + 1e-9


def test_a_newcomer_to_fair_queueing_gets_no_arrears() -> None:
    """A job that arrives late would hold the GPU alone until it had caught up with those served before."""
    result = simulate([(0, 2000, 1), (1000, 500, 1)], policy="wfq", quantum_s=10.0)
    assert abs((served(result, 0, 1600) - 1000) - served(result, 1, 1600)) <= 20.0


def test_a_lottery_pays_in_proportion_to_tickets() -> None:
    """Twice the tickets would not be twice the GPU time."""
    tickets, quanta = np.array([1.0, 2.0, 5.0]), 4000
    result = simulate([(0, 10.0 * quanta, 1)] * 3, policy="lottery", quantum_s=10.0, weights=tickets, seed=5)
    won = np.array([served(result, job, 10.0 * quanta) / 10.0 for job in range(3)])
    share = tickets / tickets.sum()
    # The first quantum goes to the first drawing as well: all are alike.
    assert (np.abs(won - quanta * share) <= 5 * np.sqrt(quanta * share * (1 - share))).all()


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.integers(1, 6), min_size=2, max_size=6),
    st.sampled_from([10.0, 0.1, 1 / 3]),
    st.sampled_from([0.0, 0.7, 1e6]),
)
def test_in_a_round_nobody_waits_for_more_than_one_quantum_each(
    lengths: list[int], quantum: float, begin: float
) -> None:
    """A job would be passed over in its turn, or another get two."""
    rows = [(begin, quantum * length, 1) for length in lengths]
    result = simulate(rows, policy="round_robin", quantum_s=quantum)
    slack = 1e-6 * quantum
    for job in range(len(rows)):
        mine = result.runs.job == job
        starts, ends = result.runs.start_s[mine], result.runs.end_s[mine]
        gaps = np.concatenate([starts[:1] - begin, starts[1:] - ends[:-1]])
        assert (gaps <= (len(rows) - 1) * quantum + slack).all()


def test_tiresias_lets_a_short_job_pass_a_long_served_one() -> None:
    """The short jobs that least attained service is for would wait behind the long ones."""
    result = simulate([(0, 50_000, 4), (20_000, 100, 4)], gpus=4, policy="tiresias")
    assert result.start_s.tolist() == [0, 20_000] and result.end_s.tolist() == [50_100, 20_100]
    # Below the first threshold (3250 GPU-seconds) it does not: 4 GPUs x 812 s.
    early = simulate([(0, 50_000, 4), (700, 100, 4)], gpus=4, policy="tiresias")
    assert early.start_s[1] == 1200.0


@pytest.mark.parametrize("policy", ["fair_user", "fair_vc"])
@pytest.mark.parametrize(("second", "first_served"), [(4.9, "v"), (5.1, "u")])
def test_usage_is_charged_half_after_a_half_life(policy: str, second: float, first_served: str) -> None:
    """Yesterday's usage would weigh as much as today's, or be forgotten too soon."""
    # u runs 10 s around 5; v some 5 s around 10,005 - one half-life later. Then both want the GPU.
    names = ["u", "v", "u", "v"]
    jobs = JobTable.from_columns(
        {
            "submit_s": [0, 10_002.5, 10_003, 10_004],
            "duration_s": [10, second, 1, 1],
            "num_gpus": [1] * 4,
            "user": names,
            "vc": names,
        }
    )
    result = rltune.simulate(jobs, Cluster("c", (Pool("p", 1, 1),)), policy=policy, half_life_s=10_000.0)
    assert names[2 + int(np.argmin(result.start_s[2:]))] == first_served
