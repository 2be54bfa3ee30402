"""The engine: nothing is accepted that is not on disk, nothing runs twice, everybody is answered."""

from __future__ import annotations

import sqlite3
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rltune.nouns.errors import InputError
from rltune.service.engine import Settings
from rltune.service.errors import Refused
from rltune.service.exporting import faults
from rltune.service.orders import Begin, Report, Stop, Suspend
from rltune.service.specs import JobSpec, LeaseSpec
from rltune.service.store import COLUMNS, VERSION, Store, StoreError
from rltune.simulator.requests import Rules
from tests.service.fakes import FakeMachine, Hand, suspending


def job(**asked):
    return JobSpec.model_validate({"command": ["true"], **asked})


def lease(**asked):
    return LeaseSpec.model_validate(asked)


def begun(hand):
    return [order.run for machine in hand.machines for order in machine.orders if isinstance(order, Begin)]


@pytest.fixture
def hand(tmp_path):
    made = Hand(tmp_path)
    yield made
    made.close()


def test_a_job_waits_runs_and_ends(hand):
    """A submitted job would never run, or never be seen to end."""
    (name,) = hand.ask(lambda e: e.submit([job(gpus=2)], "ann"))
    assert begun(hand) == [f"{name}.1"]
    hand.turn(1.0)
    assert hand.state(name) == "running"
    hand.machines[0].end(f"{name}.1")
    hand.turn(5.0)
    record = hand.engine.ledger.records[name]
    assert (record.state, record.code, record.started_s, record.ended_s) == ("done", 0, 0.0, 5.0)
    (row,) = hand.store.read("SELECT * FROM runs")
    assert (row["start_s"], row["end_s"], row["outcome"]) == (0.0, 5.0, "finished")


def test_what_does_not_fit_waits_and_starts_when_room_comes_free(hand):
    """A queue would stand still after a job has ended."""
    names = hand.ask(lambda e: e.submit([job(gpus=2) for _ in range(3)], "ann"))
    hand.turn(1.0)
    assert [hand.state(n) for n in names] == ["running", "running", "waiting"]
    hand.machines[0].end(f"{names[0]}.1", 3)
    hand.turn(2.0)
    hand.turn(2.1)
    assert [hand.state(n) for n in names] == ["failed", "running", "running"]
    assert hand.engine.ledger.records[names[0]].reason == "ended with status 3"


def test_a_gang_ends_when_all_of_it_has_and_fails_as_one(hand):
    """Half a gang would hold its GPUs after the other half has failed."""
    ok, bad = hand.ask(lambda e: e.submit([job(gpus=4), job(gpus=4)], "ann"))
    hand.turn(1.0)
    first = [order for machine in hand.machines for order in machine.orders if isinstance(order, Begin)]
    assert [(order.rank, order.world, order.peers) for order in first] == [(0, 2, ("m0", "m1")), (1, 2, ("m0", "m1"))]
    hand.machines[0].end(f"{ok}.1")
    hand.turn(2.0)
    assert hand.state(ok) == "running"
    hand.machines[1].end(f"{ok}.1")
    hand.turn(3.0)
    assert hand.state(ok) == "done"
    hand.turn(3.1)
    hand.machines[1].end(f"{bad}.1", 1)
    hand.turn(4.0)
    assert hand.state(bad) == "failed" and Stop(f"{bad}.1") in hand.machines[0].orders


def test_a_job_that_fails_is_tried_again_as_often_as_it_says(hand):
    """Retries would be lost, or go on for ever."""
    (name,) = hand.ask(lambda e: e.submit([job(retries=1)], "ann"))
    hand.turn(1.0)
    hand.machines[0].end(f"{name}.1", 7)
    hand.turn(2.0)
    hand.turn(2.1)
    assert hand.state(name) == "running" and begun(hand) == [f"{name}.1", f"{name}.2"]
    hand.machines[0].end(f"{name}.2", 7)
    hand.turn(3.0)
    assert hand.state(name) == "failed"


def test_arrays_are_jobs_with_numbers(hand):
    """An array would be one job, or its members would not know which they are."""
    names = hand.ask(lambda e: e.submit([job(array=3)], "ann"))
    assert names == ["job-1[0]", "job-1[1]", "job-1[2]"]
    orders = [o for m in hand.machines for o in m.orders if isinstance(o, Begin)]
    assert sorted(o.command.environment["RLTUNE_ARRAY_INDEX"] for o in orders) == ["0", "1", "2"]


def test_many_jobs_of_one_instant_all_get_their_turn(hand):
    """Jobs that came when the core's arrays were full would be written over each other, and wait for ever."""
    from rltune.simulator.live import ROOM

    names = hand.ask(lambda e: e.submit([job(gpus=4, array=ROOM + 100)], "ann"))
    assert len({hand.engine.live.jobs[name].row for name in names}) == len(names)
    for k, name in enumerate(names):
        hand.turn(float(k + 1))
        assert hand.state(name) in ("starting", "running")
        for machine in hand.machines:
            machine.end(f"{name}.1")
    hand.turn(1e6)
    assert {hand.state(name) for name in names} == {"done"}


def test_an_urgent_job_suspends_one_that_may_be_and_it_comes_back(tmp_path):
    """Suspended jobs would be lost, or a job that may not be suspended would be."""
    hand = Hand(tmp_path, rules=suspending())
    firm, soft = hand.ask(lambda e: e.submit([job(gpus=2, suspend="never"), job(gpus=2)], "ann"))
    hand.turn(10.0)
    (urgent,) = hand.ask(lambda e: e.submit([job(gpus=2, priority=5)], "bob"))
    hand.turn(11.0)
    assert [hand.state(n) for n in (firm, soft, urgent)] == ["running", "suspended", "running"]
    assert Suspend(f"{soft}.1") in hand.machines[1].orders
    hand.machines[1].end(f"{urgent}.1")
    hand.turn(20.0)
    hand.turn(20.1)
    assert hand.state(soft) == "running" and f"{soft}.2" in begun(hand)


def test_cancelled_jobs_free_their_places_whatever_they_do(hand):
    """A cancelled job would go on holding GPUs, or run after all."""
    running, waiting = hand.ask(lambda e: e.submit([job(gpus=4), job(gpus=4)], "ann"))
    hand.turn(1.0)
    assert hand.ask(lambda e: e.cancel(waiting)) == "cancelled"
    assert hand.ask(lambda e: e.cancel(running)) == "cancelled"
    assert Stop(f"{running}.1") in hand.machines[0].orders
    (again,) = hand.ask(lambda e: e.submit([job(gpus=4)], "ann"))
    hand.turn(2.0)
    assert hand.state(again) == "running" and hand.ask(lambda e: e.cancel(running)) == "cancelled"
    both = hand.ask(lambda e: [e.cancel(e.submit([job(gpus=1)], "ann")[0])])
    assert both == ["cancelled"]


def test_a_job_that_is_cancelled_as_it_starts_is_over_and_stopped(hand):
    """It would run on without anybody knowing of it."""
    name = hand.ask(lambda e: [e.submit([job()], "ann")[0], e.cancel("job-1")][0])
    hand.turn(1.0)
    assert hand.state(name) == "cancelled" and Stop(f"{name}.1") in hand.machines[0].orders + hand.machines[1].orders
    assert hand.engine.live.sim.counts[1] == 0


def test_a_run_that_is_cancelled_ends_when_it_was(hand):
    """The journal would say that it ended with the event before, and how long it ran would be lost."""
    (name,) = hand.ask(lambda e: e.submit([job()], "ann"))
    hand.turn(1.0)
    hand.clock.set(50.0)
    hand.ask(lambda e: e.cancel(name))
    (row,) = hand.store.read("SELECT r.end_s, j.ran_s FROM runs r JOIN jobs j ON j.id = r.job")
    assert (row["end_s"], row["ran_s"]) == (50.0, 50.0)


def test_a_time_limit_ends_a_job(hand):
    """A job would run for ever."""
    (name,) = hand.ask(lambda e: e.submit([job(limit_s=10)], "ann"))
    hand.turn(9.9)
    assert hand.state(name) == "running"
    hand.turn(10.1)
    assert hand.state(name) == "cancelled" and "time limit" in hand.engine.ledger.records[name].reason


def test_leases_are_had_at_once_or_later_or_not(hand):
    """Whoever asks for a slice would hang, or hold one without knowing it."""
    one = hand.later(lambda e, f: e.acquire(lease(profile="7g"), "ann", f))
    hand.turn(0.1)
    assert one.result(timeout=0).devices == {"m0": "m0-device"}
    rest = [hand.later(lambda e, f: e.acquire(lease(profile="7g"), "ann", f)) for _ in range(3)]
    hand.turn(0.2)
    assert all(f.done() for f in rest)
    now = hand.later(lambda e, f: e.acquire(lease(profile="1g"), "bob", f))
    with pytest.raises(Refused, match="nothing that fits is free now"):
        now.result(timeout=0)
    later = hand.later(lambda e, f: e.acquire(lease(profile="1g", wait_s=100), "bob", f))
    assert not later.done()
    hand.ask(lambda e: e.cancel(one.result().id, "released"))
    hand.turn(1.0)
    hand.turn(1.1)
    assert later.result(timeout=0).state == "running"
    late = hand.later(lambda e, f: e.acquire(lease(profile="7g", wait_s=5), "bob", f))
    hand.turn(7.0)
    with pytest.raises(Refused, match="came free in 5 s"):
        late.result(timeout=0)


def test_a_lease_ends_unless_it_is_renewed(hand):
    """Slices of clients that are gone would stay taken."""
    one = hand.later(lambda e, f: e.acquire(lease(profile="1g", ttl_s=10), "ann", f))
    hand.turn(1.0)
    name = one.result(timeout=0).id
    hand.turn(8.0)
    hand.ask(lambda e: e.renew(name, 10.0))
    hand.turn(12.0)
    assert hand.state(name) == "running"
    hand.turn(18.5)
    assert hand.state(name) == "done" and hand.engine.ledger.records[name].reason == "expired"


def test_a_device_that_refuses_is_taken_out_and_the_job_goes_elsewhere(hand):
    """A job would be sent to a broken GPU again and again."""
    hand.machines[0].lazy = True
    (name,) = hand.ask(lambda e: e.submit([job(gpus=2)], "ann"))
    hand.machines[0].say(Report("refused", 0.0, f"{name}.1", gpu=0, message="NVML_ERROR_GPU_IS_LOST"))
    hand.turn(1.0)
    hand.turn(1.1)
    assert hand.engine.node_state[0] == ("drained", "GPU 0: NVML_ERROR_GPU_IS_LOST")
    assert hand.state(name) == "running" and hand.machines[1].runs == {f"{name}.2": "began"}
    hand.ask(lambda e: e.undrain(0))
    assert hand.engine.node_state[0] == ("open", "")


@pytest.mark.parametrize("what", ["refused", "lost"])
def test_a_job_that_is_placed_again_runs_until_it_ends(hand, what):
    """After a device error the second run would count as over while it runs, and its GPUs be given to others."""
    name, other = hand.ask(lambda e: e.submit([job(gpus=2), job(gpus=2)], "ann"))
    hand.machines[0].say(Report(what, 0.0, f"{name}.1"))
    hand.turn(5.0)
    hand.machines[1].end(f"{other}.1")
    hand.turn(10.0)
    assert hand.engine.ledger.records[name].run == f"{name}.2"
    (late,) = hand.ask(lambda e: e.submit([job(gpus=4)], "bob"))
    for second in (11.0, 15.0, 1000.0):
        hand.turn(second)
        assert (hand.state(name), hand.state(late)) == ("running", "waiting")
    next(machine for machine in hand.machines if f"{name}.2" in machine.runs).end(f"{name}.2")
    hand.turn(1001.0)
    assert hand.state(name) == "done"


def test_more_tries_than_the_service_allows_are_refused(hand):
    """A job would be given up earlier than it was promised."""
    with pytest.raises(Refused, match=r"retries=50: this service gives a job up after 10 failures"):
        hand.ask(lambda e: e.submit([job(retries=50)], "ann"))


def test_a_job_whose_program_is_not_there_fails_and_its_machine_stays(hand):
    """One slip in a command would take every machine out of service, one after the other."""
    hand.machines[0].lazy = True
    (name,) = hand.ask(lambda e: e.submit([job(gpus=2)], "ann"))
    hand.machines[0].say(Report("refused", 0.0, f"{name}.1", code=127, message="true: [Errno 2] No such file"))
    hand.turn(1.0)
    record = hand.engine.ledger.records[name]
    assert (record.state, record.code) == ("failed", 127)
    assert record.reason == "cannot begin on m0: true: [Errno 2] No such file"
    assert hand.engine.node_state[0] == ("open", "") and hand.engine.counters["refused_by_device"] == 0


def test_limits_are_said_and_nothing_of_the_request_is_kept(tmp_path):
    """One tenant could fill the memory, or half of a refused request would run."""
    hand = Hand(tmp_path, settings=Settings(most_of_tenant=3))
    with pytest.raises(Refused, match="tenant ann has 0 jobs, at most 3"):
        hand.ask(lambda e: e.submit([job(), job(array=3)], "ann"))
    with pytest.raises(Refused, match="fits on no idle node"):
        hand.ask(lambda e: e.submit([job(), job(gpus=5)], "ann"))
    assert not hand.engine.ledger.records and not begun(hand)


def test_old_events_and_answers_go_and_jobs_stay(tmp_path):
    """The disk of a service that runs for years would fill up, or its accounts would be gone."""
    hand = Hand(tmp_path, settings=Settings(keep_s=100.0))
    (name,) = hand.ask(lambda e: e.submit([job()], "ann"))
    hand.engine.ledger.answer("ann", "key", "body", name, hand.engine.now)
    hand.turn(1.0)
    hand.ask(lambda e: e.cancel(name))
    hand.turn(90.0)
    assert hand.engine.ledger.answered("ann", "key") == ("body", name)
    assert hand.store.read("SELECT MIN(seq) FROM events")[0][0] == 1
    hand.turn(150.0)
    (fresh,) = hand.ask(lambda e: e.submit([job()], "ann"))
    hand.turn(200.0)
    kept = hand.store.read("SELECT seq, job FROM events ORDER BY seq")
    assert {row["job"] for row in kept} == {fresh} and kept[-1]["seq"] == hand.engine.ledger.last_event
    assert hand.engine.ledger.answered("ann", "key") is None
    assert [row[0] for row in hand.store.read("SELECT job FROM runs ORDER BY job")] == [name, fresh]
    # With nothing new the newest one stays: numbers go on from it.
    hand.turn(10_000.0)
    assert hand.store.read("SELECT COUNT(*), MAX(seq) FROM events")[0][0] == 1 and not faults(hand.store)
    hand.close()


def test_a_database_of_the_version_before_goes_on(tmp_path):
    """An upgrade would refuse the state directory, or lose the jobs in it."""
    hand = Hand(tmp_path)
    (name,) = hand.ask(lambda e: e.submit([job()], "ann"))
    hand.close()
    link = sqlite3.connect(tmp_path / "state.sqlite")
    link.executescript(
        "DROP INDEX requests_by_age; PRAGMA user_version=1;"
        + "".join(f"ALTER TABLE {t} DROP COLUMN crc;" for t in COLUMNS)
    )
    link.close()
    again = Hand(tmp_path, hand.machines)
    assert again.state(name) == "running" and again.store.read("PRAGMA user_version")[0][0] == VERSION
    assert again.store.read("SELECT 1 FROM sqlite_master WHERE name = 'requests_by_age'")
    again.close()


@settings(max_examples=30)
@given(st.floats(allow_nan=False), st.integers(-(2**62), 2**62), st.text(st.characters(exclude_categories=["Cs"])))
@example(-0.0, 0, "")
def test_rows_that_are_read_as_they_were_written_are_whole(number, whole, text):
    """A start would refuse a sound database for a value that SQLite keeps in another form."""
    with tempfile.TemporaryDirectory() as name:
        store = Store(Path(name) / "state.sqlite")
        with store.transaction():
            store.write("runs", [("run", text, whole, text, number, whole, number, None, text, None)])
        assert store.altered() == []
        with store.transaction():
            store.end_runs([{"run": "run", "end_s": number, "outcome": text, "code": whole}])
        assert store.altered() == []
        store.close()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE jobs SET tenant = 'bob'",
        "UPDATE runs SET start_s = start_s + 1",
        "UPDATE jobs SET spec = replace(spec, 'true', 'halt')",
    ],
)
def test_a_row_that_is_not_as_it_was_written_is_refused(tmp_path, change):
    """A disk that alters a byte would give a job to another tenant, or run another program."""
    hand = Hand(tmp_path)
    hand.ask(lambda e: e.submit([job(estimate_s=7), job(gpus=4)], "ann"))
    hand.machines[0].end("job-1.1")
    hand.turn(1.0)
    assert not faults(hand.store)
    hand.close()
    link = sqlite3.connect(tmp_path / "state.sqlite")
    link.executescript(change)
    link.close()
    with pytest.raises(InputError, match=r"(jobs|runs): row .* is not as it was written.*restore a backup"):
        Hand(tmp_path, hand.machines)


# --- restarts -------------------------------------------------------------------------------------


def test_a_restart_goes_on_where_it_was(tmp_path):
    """After a power cut jobs would be lost, begun twice, or two would hold the same GPUs."""
    hand = Hand(tmp_path, rules=suspending())
    names = hand.ask(lambda e: e.submit([job(gpus=2), job(profile="3g"), job(gpus=4)], "ann"))
    held = hand.later(lambda e, f: e.acquire(lease(profile="3g"), "bob", f))
    hand.turn(10.0)
    assert [hand.state(n) for n in names] == ["running", "running", "waiting"]
    hand.machines[1].end(f"{names[1]}.1")
    hand.close()
    again = Hand(tmp_path, hand.machines, suspending(), now=20.0)
    assert again.counts == {"kept": 2, "ended": 1, "begun": 0, "lost": 0, "foreign": 0}
    again.turn(20.0)
    assert [again.state(n) for n in names] == ["running", "done", "waiting"]
    assert again.state(held.result().id) == "running"
    before = {r.id: r.places for r in hand.engine.ledger.alive()}
    assert {r.id: r.places for r in again.engine.ledger.alive()} == {k: v for k, v in before.items() if k != names[1]}
    again.machines[0].end(f"{names[0]}.1")
    again.ask(lambda e: e.cancel(held.result().id, "released"))
    again.turn(21.0)
    again.turn(21.1)
    assert again.state(names[2]) == "running"
    (fresh,) = again.ask(lambda e: e.submit([job()], "ann"))
    assert fresh not in names


def test_orders_that_were_lost_are_given_again_and_what_is_gone_waits_again(tmp_path):
    """A crash between the disk and the machine would leave a job that is said to run and does not."""
    hand = Hand(tmp_path)
    for machine in hand.machines:
        machine.lazy = True
    never, gone = hand.ask(lambda e: e.submit([job(gpus=2), job(gpus=2)], "ann"))
    hand.machines[1].begin(f"{gone}.1")
    hand.turn(1.0)
    assert [hand.state(n) for n in (never, gone)] == ["starting", "running"]
    hand.machines[1].runs.clear()
    hand.machines[0].runs["job-99.1"] = "began"
    hand.close()
    for machine in hand.machines:
        machine.lazy = False
    again = Hand(tmp_path, hand.machines, now=2.0)
    assert again.counts == {"kept": 0, "ended": 0, "begun": 1, "lost": 1, "foreign": 1}
    again.turn(2.0)
    again.turn(2.1)
    assert [again.state(n) for n in (never, gone)] == ["running", "running"]
    assert again.machines[0].runs == {f"{never}.1": "began"} and Stop("job-99.1") in again.machines[0].orders
    assert again.machines[1].runs == {f"{gone}.2": "began"}


def test_a_full_disk_refuses_what_is_new_and_keeps_what_happened(hand, monkeypatch):
    """A job would be accepted that a power cut forgets; or one that has ended meanwhile would run for ever."""
    (old,) = hand.ask(lambda e: e.submit([job(gpus=4)], "ann"))
    hand.turn(1.0)

    def full(*_):
        raise StoreError("state.sqlite: database or disk is full; make room on the disk")

    monkeypatch.setattr(hand.store, "write", full)
    with pytest.raises(Refused) as refused:
        hand.ask(lambda e: e.submit([job()], "ann"))
    assert refused.value.status == 503 and "make room" in refused.value.message
    for machine in hand.machines:
        machine.end(f"{old}.1")
    hand.turn(2.0)
    with pytest.raises(Refused):
        hand.ask(lambda e: e.submit([job()], "ann"))
    monkeypatch.undo()
    hand.turn(3.0)
    (new,) = hand.ask(lambda e: e.submit([job()], "ann"))
    hand.turn(4.0)
    rows = {row["id"]: row["state"] for row in hand.store.read("SELECT id, state FROM jobs")}
    assert rows == {old: "done", new: "running"} and f"{new}.1" in begun(hand)
    numbers = [row[0] for row in hand.store.read("SELECT seq FROM events ORDER BY seq")]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_transaction_is_whole_or_not_there(hand):
    """Half a turn on disk would be a state that never was."""
    with pytest.raises(StoreError), hand.store.transaction() as link:
        link.execute("INSERT INTO nodes VALUES ('m9', 'open', '', NULL)")
        link.execute("INSERT INTO nodes VALUES ('m9', 'open', '', NULL)")
    assert not hand.store.read("SELECT * FROM nodes")


def test_an_event_is_never_written_over_another(hand):
    """A number that was given twice would take what happened before out of the journal, unnoticed."""
    hand.ask(lambda e: e.submit([job()], "ann"))
    (first,) = hand.store.read("SELECT * FROM events WHERE seq = 1")
    with pytest.raises(StoreError), hand.store.transaction():
        hand.store.write("events", [(1, 0.0, "other", None, None, "{}")], fresh=True)
    assert tuple(hand.store.read("SELECT * FROM events WHERE seq = 1")[0]) == tuple(first)


# --- other policies ---------------------------------------------------------------------------------


def test_a_shadow_policy_is_compared_and_changes_nothing(hand):
    """A policy on trial would move real jobs, or its differences would go unseen."""
    hand.ask(lambda e: e.submit([job(gpus=4, estimate_s=100)], "ann"))
    hand.ask(lambda e: e.use_shadow(Rules("sjf", "strict"), "sjf"))
    long, short = hand.ask(lambda e: e.submit([job(gpus=4, estimate_s=900), job(gpus=4, estimate_s=1)], "ann"))
    for machine in hand.machines:
        machine.end("job-1.1")
    settled(hand.engine.shadow)
    hand.turn(5.0)
    hand.turn(5.1)
    assert [hand.state(n) for n in (long, short)] == ["running", "waiting"]
    settled(hand.engine.shadow)
    hand.engine.turn(hand.engine._all_asked())
    told = [event.data for event in hand.engine.ledger.events if event.what == "shadow differs"]
    assert told and told[-1]["only_active"] == [long] and told[-1]["only_shadow"] == [short]
    assert hand.engine.shadow.tally.compared > hand.engine.shadow.tally.agreed
    hand.ask(lambda e: e.use_shadow(None))


def settled(shadow):
    """Wait until its thread has nothing to do."""
    deadline = time.monotonic() + 120
    while shadow._busy.is_set() and time.monotonic() < deadline:
        time.sleep(0.01)


class Distant(FakeMachine):
    """A machine that may fall silent."""

    present = True


def test_a_machine_that_falls_silent_loses_its_jobs_to_others_and_comes_back(tmp_path):
    """Jobs of a dead machine would count as running for ever, or new ones be sent to it."""
    machines = [Distant("m0"), Distant("m1")]
    hand = Hand(tmp_path, machines)
    (name,) = hand.ask(lambda e: e.submit([job(gpus=2)], "ann"))
    hand.turn(1.0)
    assert hand.engine.nodes_of(hand.engine.ledger.records[name]) == ["m0"]
    machines[0].present = False
    hand.turn(2.0)
    hand.turn(2.1)
    assert hand.engine.node_state[0] == ("lost", "it does not answer")
    assert (hand.state(name), hand.engine.nodes_of(hand.engine.ledger.records[name])) == ("running", ["m1"])
    with pytest.raises(Refused, match="comes back by itself"):
        hand.ask(lambda e: e.undrain(0))
    machines[0].present = True
    (other,) = hand.ask(lambda e: e.submit([job(gpus=2)], "ann"))
    hand.turn(3.0)
    hand.turn(3.1)
    assert hand.engine.node_state[0] == ("open", "") and hand.state(other) == "running"
