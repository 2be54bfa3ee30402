"""A living cluster decides as a simulation does, and loses nobody when its state is made anew."""

from __future__ import annotations

import numpy as np
import pytest

import rltune
from rltune.nouns.cluster import Cluster
from rltune.nouns.errors import InputError
from rltune.nouns.jobs import JobTable
from rltune.simulator.live import LiveCluster
from rltune.simulator.options import make_options
from rltune.simulator.requests import Request, Rules
from tests.simulator.pushed import Pushed

CLUSTER = Cluster.from_spec(
    {
        "pools": [
            {"name": "a", "nodes": 3, "gpus_per_node": 8, "gpu_type": "A100-80GB", "mig": True},
            {"name": "b", "nodes": 2, "gpus_per_node": 4, "gpu_type": "V100", "first_node_id": 10},
        ]
    }
)
BACK = {"suspend_s": 30.0, "resume_s": 30.0}


def workload(seed: int, slices: bool, n: int = 150) -> JobTable:
    """Random jobs with more work than the cluster clears at once."""
    rng = np.random.default_rng(seed)
    cut = rng.random(n) < (0.4 if slices else 0.0)
    return JobTable.from_columns(
        {
            "submit_s": np.sort(rng.uniform(0, 15_000, n)).round(rng.integers(0, 3)),
            "duration_s": np.exp(rng.normal(6, 1.5, n)),
            "num_gpus": np.where(cut, 1, rng.choice([1, 1, 1, 2, 4, 8, 16], n)),
            "mig": [str(rng.choice(["1g.10gb", "2g.20gb", "3g.40gb"])) if c else None for c in cut],
            "user": rng.choice(list("abc"), n),
            "vc": rng.choice(["x", "y"], n),
            "priority": rng.integers(0, 3, n).astype(float),
        }
    )


CASES = [
    ("fifo", "skip", {"preemptive": False}, True, False),
    ("sjf", "easy", {"preemptive": False}, True, False),
    ("wfp3", "easy", {"preemptive": False}, True, True),
    ("f1", "strict", {"preemptive": False}, True, False),
    ("fifo", "conservative", {}, True, False),
    ("las", "skip", BACK, False, False),
    ("gittins", "skip", BACK, False, True),
    ("srsf", "skip", BACK, True, True),
    ("fair_user", "skip", {}, False, False),
    ("round_robin", "skip", {"quantum_s": 300.0}, False, False),
    ("wfq", "skip", {"quantum_s": 300.0}, False, False),
    ("las", "skip", {"way_rule": "market", **BACK}, False, True),
    ("las_levels", "skip", {"quotas": {"x": 16, "y": 20}, **BACK}, False, True),
]


@pytest.mark.parametrize(("policy", "backfill", "options", "known", "slices"), CASES)
@pytest.mark.parametrize("seed", [0, 1])
def test_events_that_are_pushed_give_the_schedule_of_a_simulation(policy, backfill, options, known, slices, seed):
    """What was measured in a simulation would not be what the live scheduler does, run for run, also after a rebuild."""
    jobs = workload(seed, slices)
    runtimes = "exact" if known else "unknown"
    result = rltune.simulate(jobs, CLUSTER, policy=policy, backfill=backfill, runtimes=runtimes, **options)
    rules = Rules(policy, backfill, "best_fit", make_options(options), exact=known)
    pushed = Pushed(jobs, CLUSTER, rules, known, remade=(20, 75, 76)).play()
    simulated = sorted(
        (int(x.job_id), float(x.start_s), tuple(map(int, x.nodes))) for x in result.attempts.itertuples()
    )
    lived = sorted(pushed.runs)
    assert [x[0] for x in lived] == [x[0] for x in simulated]
    np.testing.assert_allclose([x[1] for x in lived], [x[1] for x in simulated], atol=1e-6)
    assert [x[2] for x in lived] == [x[2] for x in simulated]


def names(changes):
    return [one.job for change in changes for one in change.started]


def test_a_job_that_goes_makes_room_at_once():
    """A cancelled job would keep its GPUs, or those behind it would wait for another event."""
    live = LiveCluster(CLUSTER, Rules("fifo", "strict"))
    for k in range(5):
        live.submit(f"j{k}", Request(gpus=8), 1.0 + k)
    assert names(live.advance(6.0)) == ["j0", "j1", "j2", "j3"]
    stopped = live.cancel("j1")[-1].stopped
    assert [(one.job, one.outcome) for one in stopped] == [("j1", "given up")]
    assert names(live.advance(7.0)) == ["j4"]
    live.cancel("j4")
    assert live.advance(8.0)[0].started == ()


def test_a_cancelled_job_that_waits_is_never_started():
    """A user's cancelled job would run after all."""
    live = LiveCluster(CLUSTER, Rules("las", "skip", options=make_options(BACK)))
    for k in range(6):
        live.submit(f"j{k}", Request(gpus=8), 1.0)
    live.advance(1.0)
    live.cancel("j5")
    live.cancel("j4")
    for k in range(4):
        live.end(f"j{k}", 10.0)
    assert names(live.advance(10.0)) == []
    assert live.wake_s == np.inf


def test_a_failed_node_loses_its_runs_and_takes_none_until_it_is_repaired():
    """Jobs of a dead node would count as running for ever, or be started on it again."""
    live = LiveCluster(CLUSTER, Rules())
    for k in range(3):
        live.submit(f"j{k}", Request(gpus=8, gpu_type="A100-80GB"), 1.0)
    live.advance(1.0)
    live.change_node(1, "fail", 2.0)
    (change,) = live.advance(2.0)
    assert [(one.job, one.outcome) for one in change.stopped] == [("j1", "node failure")] and not change.started
    live.rebuild()
    assert live.advance(3.0) == []
    live.change_node(1, "repair", 4.0)
    assert names(live.advance(4.0)) == ["j1"]


def test_what_is_firm_is_not_suspended():
    """A lease, which somebody works with, would be taken away for a job of the queue."""
    live = LiveCluster(CLUSTER, Rules("priority", "skip"))
    for k in range(4):
        live.submit(f"j{k}", Request(gpus=8, firm=k < 3), 1.0)
    live.advance(1.0)
    live.submit("now", Request(gpus=8, priority=9.0), 100.0)
    changes = live.advance(100.0)
    assert [one.job for change in changes for one in change.stopped] == ["j3"]
    assert names(changes) == ["now"]
    live.submit("later", Request(gpus=8, priority=9.0), 101.0)
    assert names(live.advance(101.0)) == []


def test_rules_change_while_jobs_wait_and_run():
    """Another policy would start running jobs anew, or forget who waits."""
    live = LiveCluster(CLUSTER, Rules("fifo", "strict"))
    for k in range(4):
        live.submit(f"j{k}", Request(gpus=8), 1.0, known_s=100.0)
    live.submit("long", Request(gpus=8), 1.0, known_s=1000.0)
    live.submit("short", Request(gpus=8), 2.0, known_s=10.0)
    assert names(live.advance(2.0)) == ["j0", "j1", "j2", "j3"]
    live.use(Rules("sjf", "strict"))
    live.end("j0", 5.0)
    assert names(live.advance(5.0)) == ["short"]
    with pytest.raises(InputError, match="known are"):
        live.use(Rules("sjff"))
    live.end("j1", 6.0)
    assert names(live.advance(6.0)) == ["long"]


def test_many_jobs_come_and_go_through_few_rows():
    """Rows would run out, or a job take over what an earlier one in its row had."""
    live = LiveCluster(CLUSTER, Rules("fifo", "skip"))
    begun: list[str] = []
    for k in range(4000):
        live.submit(f"j{k}", Request(gpus=1 + k % 4), float(k))
        begun += names(live.advance(float(k)))
        if k >= 8:
            assert live.end(f"j{k - 8}", float(k))
            live.forget([f"j{k - 8}"])
    assert begun == [f"j{k}" for k in range(4000)]
    assert len(live.sim.jobs.submit) < 3000


def test_slices_are_cut_before_they_are_used():
    """A node would not be told which instances a job needs."""
    live = LiveCluster(CLUSTER, Rules())
    live.submit("s", Request(mig="3g.40gb"), 1.0)
    (change,) = live.advance(1.0)
    (run,), (cut,) = change.started, change.cuts
    (place,) = run.places
    assert (
        cut.mig and (place.profile, place.start) in cut.instances and (cut.node, (cut.gpu,)) == (place.node, place.gpus)
    )
    assert not live.possible(Request(gpus=25)) and live.possible(Request(gpus=24))


def test_keys_between_neighbours_run_out_and_are_numbered_anew():
    """After many jobs of rising urgency two would share a place in the order, and stand in the wrong one."""
    live = LiveCluster(CLUSTER, Rules("sjf", "strict"))
    live.submit("full", Request(gpus=8), 0.0, known_s=1.0)
    for k in range(3):
        live.submit(f"f{k}", Request(gpus=8), 0.0, known_s=1.0)
    live.advance(0.0)
    low, high = 100.0, 101.0
    for k in range(120):
        middle = (low + high) / 2 if k < 40 else high - (high - low) / (k + 2)
        live.submit(f"j{k}", Request(gpus=8), 1.0, known_s=middle)
        low, high = (low, middle) if k % 2 else (middle, high)
    live.advance(1.0)
    order = live.sim.queue[: live.sim.counts[0]]
    known = live.sim.jobs.known[order]
    assert len(order) == 120 and (np.diff(known) >= 0).all()
