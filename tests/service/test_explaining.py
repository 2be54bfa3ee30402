"""Whoever asks why a job waits, and until when, gets a true answer."""

from __future__ import annotations

import numpy as np
import pytest

from rltune.allocators.milp import MilpAllocator
from rltune.nouns.cluster import Cluster
from rltune.nouns.errors import InputError
from rltune.service.explaining import Picture, picture, plan, queue, what_if, when, why
from rltune.service.specs import JobSpec
from rltune.simulator.ahead import Past, starts, with_nodes
from rltune.simulator.live import LiveCluster
from rltune.simulator.options import make_options
from rltune.simulator.requests import Request, Rules
from tests.service.fakes import Hand, suspending


def job(**asked):
    return JobSpec.model_validate({"command": ["true"], **asked})


@pytest.fixture
def hand(tmp_path):
    made = Hand(tmp_path, rules=Rules("fifo", "easy"))
    yield made
    made.close()


def told(hand, name):
    return hand.ask(lambda e: why(e, e.found(name)))


def test_why_names_what_is_missing_and_who_is_ahead(hand):
    """A user would be told "waiting", and have to ask an administrator."""
    hand.ask(lambda e: e.submit([job(gpus=1, estimate_s=1000), job(gpus=2, estimate_s=100)], "ann"))
    head, behind = hand.ask(lambda e: e.submit([job(gpus=2, estimate_s=50), job(gpus=1, estimate_s=5000)], "bob"))
    small = hand.ask(lambda e: e.submit([job(gpus=1, estimate_s=10)], "bob"))[0]
    hand.turn(1.0)
    assert hand.state(behind) == "running"
    first = told(hand, head)
    assert first["position"] == 1 and first["ahead"] == 0
    assert first["reasons"] == ["A100-40GB: needs 2 GPUs on one node; 0 are free, but at most 0 on one"] or first[
        "reasons"
    ] == ["A100-40GB: needs 2 GPUs, 0 of 4 are free"]
    assert 90 < first["fits_by_s"] <= 100
    second = told(hand, small)
    assert second["first_ahead"] == [head] and second["ahead_gpus"] == 2.0
    done = hand.ask(lambda e: e.submit([job(gpus=4)], "ann"))[0]
    hand.ask(lambda e: e.cancel(done))
    assert told(hand, done)["reasons"] == ["it is cancelled: cancelled"]


def test_why_tells_fragments_drained_nodes_and_reservations(hand):
    """The reason given would be a lack of GPUs where there is another."""
    hand.ask(lambda e: e.submit([job(gpus=1, estimate_s=1000), job(profile="1g", estimate_s=1000)], "ann"))
    hand.ask(lambda e: e.submit([job(gpus=1, estimate_s=1000, gpu_types=["A100-40GB"])], "ann"))
    hand.turn(0.1)
    (wide,) = hand.ask(lambda e: e.submit([job(gpus=4, estimate_s=10)], "ann"))
    (long,) = hand.ask(lambda e: e.submit([job(gpus=1, estimate_s=9000)], "ann"))
    hand.turn(0.2)
    assert "it would delay the first job" in told(hand, long)["reasons"][0]
    assert "needs 4 GPUs, 1 of 4 are free" in told(hand, wide)["reasons"][0]
    hand.ask(lambda e: e.drain(1, "maintenance"))
    hand.turn(0.3)
    assert "(1 of 2 nodes are drained or lost)" in told(hand, wide)["reasons"][0]


def test_a_plan_tells_what_the_integer_program_weighed(tmp_path):
    """Nobody could see why jobs went where they are, nor what else was thought of."""
    hand = Hand(tmp_path, rules=Rules("fifo", "skip", MilpAllocator()))
    try:
        hand.ask(lambda e: e.submit([job(gpus=1, estimate_s=1000), job(profile="1g", estimate_s=1000)], "ann"))
        hand.turn(0.1)
        last = hand.ask(plan)["milp"]["last_decision"]
        assert last["status"] == "optimal" and last["terms"]["value"] > 0
        assert last["runner_up"]["plan"] != last["winner"]
        assert last["runner_up"]["objective"] >= last["objective"]
    finally:
        hand.close()


def test_when_is_what_then_happens_where_run_times_are_as_believed(hand):
    """The promised time would be one that nobody keeps."""
    first = hand.ask(lambda e: e.submit([job(gpus=4, estimate_s=100)], "ann"))[0]
    names = hand.ask(lambda e: e.submit([job(gpus=4, estimate_s=50), job(gpus=4, estimate_s=10)], "ann"))
    hand.turn(20.0)
    seen = hand.ask(picture)
    assert when(seen, names[0])["p50_s"] == pytest.approx(80.0) and when(seen, names[1])["p50_s"] == pytest.approx(
        130.0
    )
    assert "taken as they are" in when(seen, names[0])["assumes"]
    with pytest.raises(InputError, match="does not wait"):
        when(seen, "job-99")
    before = hand.state(first)
    assert (hand.state(names[0]), before) == ("waiting", "running")


def test_when_spreads_as_beliefs_have_been_wrong(hand):
    """One number would be given where the truth is a range."""
    hand.ask(lambda e: e.submit([job(gpus=4, estimate_s=100)], "ann"))
    (name,) = hand.ask(lambda e: e.submit([job(gpus=4, estimate_s=50)], "ann"))
    hand.turn(1.0)
    seen = hand.ask(picture)
    past = Past(np.full(40, 100.0), np.full(40, 4), np.linspace(0.5, 2.0, 40))
    spread = when(Picture(seen.live, past, seen.now_s, seen.policy), name)
    assert spread["p10_s"] < spread["p50_s"] < spread["p90_s"] <= 200 and spread["samples"] > 10


def test_what_if_answers_without_doing_it(hand):
    """A question would change the queue, or its answer another world than the one that comes."""
    hand.ask(lambda e: e.submit([job(gpus=4, estimate_s=100)], "ann"))
    long, short = hand.ask(lambda e: e.submit([job(gpus=4, estimate_s=200), job(gpus=4, estimate_s=10)], "ann"))
    hand.turn(1.0)
    seen = hand.ask(picture)
    other = what_if(seen, {"policy": "sjf"}, Rules("sjf", "easy"))
    assert (other["later"], other["sooner"]) == (1, 1) and other["after"]["mean_wait_s"] < other["before"][
        "mean_wait_s"
    ]
    more = what_if(seen, {"nodes": {"pool": "a", "add": 2}})
    assert more["sooner"] == 2 and more["after"]["mean_wait_s"] < 1 + more["before"]["mean_wait_s"] / 2
    one = what_if(seen, {"job": {"command": ["true"], "gpus": 2, "estimate_s": 5}}, tenant="bob")
    assert one["later"] == 0 and one["job"]["p50_s"] == pytest.approx(309.0)
    with pytest.raises(InputError, match="fits on no idle node"):
        what_if(seen, {"job": {"command": ["true"], "gpus": 99}}, tenant="bob")
    with pytest.raises(InputError, match="pool 'b' is unknown"):
        what_if(seen, {"nodes": {"pool": "b", "add": 2}})
    assert [hand.state(n) for n in (long, short)] == ["waiting", "waiting"] and len(hand.engine.ledger.records) == 3
    assert hand.ask(queue)["first"][0]["id"] == long and hand.ask(plan)["reserved"]["job"] == long


def test_suspended_jobs_have_a_time_too(tmp_path):
    """A suspended job would be forecast by its first start, which is past."""
    hand = Hand(tmp_path, rules=suspending())
    (soft,) = hand.ask(lambda e: e.submit([job(gpus=4, estimate_s=500)], "ann"))
    hand.turn(10.0)
    hand.ask(lambda e: e.submit([job(gpus=4, priority=5, estimate_s=100)], "bob"))
    hand.turn(11.0)
    assert hand.state(soft) == "suspended"
    assert 90 < when(hand.ask(picture), soft)["p50_s"] < 110


def test_fewer_nodes_only_where_nothing_runs():
    """Running jobs would vanish from the answer."""
    cluster = Cluster.from_spec(
        {"pools": [{"name": "a", "nodes": 3, "gpus_per_node": 2}, {"name": "b", "nodes": 1, "gpus_per_node": 2}]}
    )
    live = LiveCluster(cluster, Rules("las", options=make_options({"suspend_s": 5.0})))
    for k in range(4):
        live.submit(f"j{k}", Request(gpus=2), 1.0)
    live.submit("next", Request(gpus=2), 1.0, known_s=10.0)
    live.advance(1.0)
    live.end("j3", 2.0)
    live.advance(2.0)
    with pytest.raises(InputError, match="runs on a node that would go"):
        with_nodes(live, "a", -1)
    more = with_nodes(live, "a", 1)
    assert {
        name: more.places_of(one.row)[0].node for name, one in more.jobs.items() if more.sim.detail.status[one.row] == 2
    }
    assert more.cluster.nodes == 5 and live.cluster.nodes == 4


@pytest.mark.parametrize("policy", ["fifo", "las", "gittins"])
def test_a_look_ahead_is_the_future_when_nobody_comes(policy):
    """What is looked ahead at would follow other rules than those that decide."""
    rng = np.random.default_rng(3)
    cluster = Cluster.from_spec({"pools": [{"name": "a", "nodes": 2, "gpus_per_node": 4}]})
    options = make_options({} if policy == "fifo" else {"suspend_s": 5.0, "resume_s": 5.0})
    live = LiveCluster(cluster, Rules(policy, "skip", options=options))
    run = {}
    for k in range(40):
        run[f"j{k}"] = 60.0 + float(np.exp(rng.normal(5, 1)))
        live.submit(f"j{k}", Request(gpus=int(rng.choice([1, 2, 4]))), float(k), run[f"j{k}"])
        live.advance(float(k))
    found = starts(live.picture(), Past())
    begun: dict[str, float] = {}
    ends: dict[str, float] = {}
    done = dict.fromkeys(run, 0.0)
    since: dict[str, tuple[float, float]] = {}
    sim = live.sim
    for one in live.jobs.values():
        done[one.id] = float(sim.detail.done[one.row])
        if sim.detail.status[one.row] == 2:
            since[one.id] = (float(sim.detail.ready[one.row]), 1.0)
            ends[one.id] = float(sim.detail.ready[one.row]) + run[one.id] - done[one.id]
    while ends or np.isfinite(live.wake_s):
        now = min(min(ends.values(), default=np.inf), live.wake_s)
        for name in [name for name, at in ends.items() if at <= now]:
            live.end(name, ends.pop(name), run_s=run[name])
            since.pop(name)
        for change in live.advance(now):
            for one in change.stopped:
                if one.outcome == "suspended":
                    ready, speed = since.pop(one.job)
                    done[one.job] += max(0.0, one.at_s - ready) * speed
                    ends.pop(one.job)
            for one in change.started:
                begun.setdefault(one.job, one.at_s)
                since[one.job] = (one.ready_s, one.speed)
                ends[one.job] = one.ready_s + run[one.job] - done[one.job]
    assert len(found.jobs) > 10
    for k, name in enumerate(found.jobs):
        assert found.start_s[0, k] + 39.0 == pytest.approx(begun[name], abs=1e-6), name
