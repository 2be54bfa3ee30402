"""Random streams: no tenant loses its instance, nothing overlaps, restarts change nothing, as an independent audit sees it."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rltune.mig.online import Fleet, FleetOptions, Growth, Quota
from rltune.mig.online.audit import audit
from rltune.mig.online.lines import answer
from rltune.mig.online.options import POLICIES
from rltune.nouns.errors import InputError

TENANTS = st.sampled_from(["a", "b", "c", "d", "e", "f", "g", "h"])
REQUESTS = st.sampled_from(["", "", "x", "y"])
PROFILES = st.sampled_from(["1g", "2g", "3g", "4g", "7g", "1g double", "1g+me", "3g.40gb", "5g"])
BAD = st.sampled_from(["acquire", "release nobody", "acquire a 9g", "give a 1g", "acquire a 1g x y"])
STEPS = st.one_of(
    st.tuples(st.just("acquire"), TENANTS, PROFILES, REQUESTS),
    st.tuples(st.just("acquire"), TENANTS, PROFILES, REQUESTS),
    st.tuples(st.just("release"), TENANTS, REQUESTS | st.none()),
    st.tuples(st.just("migrate"), TENANTS, REQUESTS),
    st.tuples(st.just("deprovision"), st.integers(0, 2)),
    st.tuples(st.just("restart"), st.booleans()),
    st.tuples(st.just("bad"), BAD),
)
OPTIONS = st.builds(
    FleetOptions,
    growth=st.sampled_from(
        [
            (Growth("a100-80gb"),),
            (Growth("a30", 2), Growth("h100-80gb", 3)),
            (Growth("a100-40gb", 1), Growth("a100-80gb"), Growth("a30")),
        ]
    ),
    policy=st.sampled_from(POLICIES),
    lazy=st.booleans(),
    media=st.booleans(),
    migrate=st.sampled_from([0.0, 1.0]),
    migrate_credit=st.just(5),
    slack=st.just(0),
    spares=st.sampled_from([None, 0, 1]),
    quotas=st.sampled_from([{}, {"*": Quota(instances=3, slices=9)}]),
)


def play(fleet: Fleet, step) -> Fleet:
    """One step; a refusal must leave the state as it was."""
    before = json.dumps(fleet.ledger.state())
    try:
        if step[0] == "bad":
            raise InputError(answer(fleet, step[1]).removeprefix("error: "))
        if step[0] != "restart":
            getattr(fleet, step[0])(*step[1:])
    except InputError:
        assert json.dumps(fleet.ledger.state()) == before
    return fleet


def restarted(fleet: Fleet, journal, torn: bool) -> Fleet:
    """The fleet from its journal, whose last line may be half-written."""
    state = json.dumps(fleet.ledger.state())
    fleet.close()
    if torn:
        with open(journal, "a") as file:
            file.write('{"event":"acq')
    again = Fleet.restore(journal)
    assert bool(again.notes) == torn
    assert json.dumps(again.ledger.state()) == state
    return again


@settings(max_examples=150, deadline=None)
@given(OPTIONS, st.booleans(), st.lists(STEPS, max_size=60))
@pytest.mark.thorough
def test_random_streams(tmp_path_factory, options, learn, steps):
    """Acquires, releases, migrations, given-back GPUs, restarts and bad lines in any order break no tenant's lease."""
    if learn and options.policy == "learned":
        options = FleetOptions.from_json({**options.as_json(), "learn": True})
    journal = tmp_path_factory.mktemp("fleet") / "journal.jsonl"
    fleet = Fleet(options, journal)
    for step in steps:
        fleet = restarted(fleet, journal, step[1]) if step[0] == "restart" else play(fleet, step)
        mine = {key: (held.gpu, *held.placement) for key, held in fleet.ledger.held.items()}
        for pool in fleet.ledger.pools.values():
            for gpu in pool.gpus.values():
                # Idle instances and tenants' together must be legal, and the state must be the tenants'.
                pool.table.geometry.check([*gpu.held, *gpu.idle])
                assert pool.table.states[gpu.state] == pool.table.geometry.check(gpu.held)
    seen = audit(journal)
    assert seen.faults == []
    assert seen.holds == mine if steps else not seen.holds
    fleet.close()


def test_audit_sees_an_overlap(tmp_path):
    """The independent checker must object to a journal with two tenants on one slice, or to a GPU taken away."""
    journal = tmp_path / "journal.jsonl"
    fleet = Fleet(FleetOptions((Growth("a100-80gb"),)), journal)
    fleet.acquire("a", "4g")
    fleet.acquire("b", "1g")
    fleet.close()
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    lines[2].update(gpu=0, placement=[*lines[2]["placement"][:1], 2], provisioned=False)
    lines.append({"event": "deprovision", "at": 0, "gone": [0]})
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    faults = audit(journal).faults
    assert any("overlaps" in fault for fault in faults)
    assert any("given back while a tenant" in fault for fault in faults)


def test_broken_journals(tmp_path):
    """A damaged line in the middle, or a file that is no journal, is refused by name and line, not guessed at."""
    journal = tmp_path / "journal.jsonl"
    fleet = Fleet(FleetOptions((Growth("a30"),)), journal)
    fleet.acquire("a", "1g")
    fleet.close()
    with pytest.raises(InputError, match="there is a journal already"):
        Fleet(FleetOptions((Growth("a30"),)), journal)
    head, line = journal.read_text().splitlines()
    place, moves, at = json.dumps(json.loads(line)["placement"], separators=(",", ":")), "[]", "0.0,"
    for content, told in [
        (f"{head}\n{{oops\n{line}\n", "line 2: not a JSON"),
        (f"{line}\n", "first line"),
        (f"{head}\n{line}\n{line}\n", "line 3: does not follow"),
        (head.replace('"half_life"', '"halved"') + "\n", "line 1: no fleet's options"),
        (f"{head}\n{line.replace('acquire', 'lend')}\n", "line 2: .*unknown event 'lend'"),
        (f"{head}\n{line.replace(place, '[99,0]')}\n", "line 2: does not follow"),
        (f"{head}\n{line.replace(moves, '[3]')}\n", "line 2: does not follow"),
        (f"{head}\n{line.replace(at, 'NaN,')}\n", "line 2: .*at=nan"),
        (f"{head}\n{line.replace(at, '-1,')}\n", "line 2: .*at=-1"),
        (f'{head}\n{line}\n{{"event":"deprovision","at":0.0,"gone":[0]}}\n', "line 3: .*while a tenant holds"),
        ("once upon a time", "not a fleet's journal"),
        (head[:30], "no whole line"),
    ]:
        journal.write_text(content)
        with pytest.raises(InputError, match=told):
            Fleet.restore(journal)


def test_one_journal_one_service(tmp_path):
    """Two services on one journal would hand out one slice twice: the second is refused until the first has closed."""
    journal, options = tmp_path / "journal.jsonl", FleetOptions((Growth("a30"),))
    first = Fleet(options, journal)
    for begin in (lambda: Fleet.restore(journal), lambda: Fleet(options, journal)):
        with pytest.raises(InputError, match="another process uses"):
            begin()
    first.acquire("a", "1g")
    first.close()
    assert Fleet.restore(journal).leases("a")


def test_torn_head(tmp_path):
    """A service killed in its first write has accepted nothing: the file is begun anew, with a note."""
    journal = tmp_path / "journal.jsonl"
    journal.write_text('{"event":"fl')
    fleet = Fleet(FleetOptions((Growth("a30"),)), journal)
    assert "first line was half-written" in fleet.notes[0]
    fleet.close()
    assert Fleet.restore(journal).notes == []


@pytest.mark.parametrize("at", [math.nan, math.inf, "noon", True])
def test_clock_is_a_number(at):
    """NaN as time would stop the clock for good: it is refused, and the state stays."""
    fleet = Fleet(FleetOptions((Growth("a30"),)))
    before = json.dumps(fleet.ledger.state())
    with pytest.raises(InputError, match="at="):
        fleet.acquire("a", "1g", at=at)
    assert json.dumps(fleet.ledger.state()) == before
