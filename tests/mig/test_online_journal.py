"""The journal of a fleet: what was answered is on disk, what was altered is refused, and a restart does not take longer every day."""

from __future__ import annotations

import io
import json
import os
import threading

import pytest

from rltune.mig.online import Fleet, FleetOptions, Growth
from rltune.mig.online import fleet as fleet_module
from rltune.mig.online.audit import audit
from rltune.mig.online.events import generate
from rltune.mig.online.lines import Arriving, answer, serve
from rltune.nouns.errors import InputError

A100 = (Growth("a100-80gb"),)


def play(fleet: Fleet, seed: int, length: int, live: float = 20.0) -> None:
    for number, event in enumerate(generate(seed, length, live=live)):
        try:
            if event.acquire:
                fleet.acquire(event.tenant, event.profile, at=fleet.ledger.clock + number % 3)
            else:
                fleet.release(event.tenant)
        except InputError:
            pass


def state(fleet: Fleet) -> str:
    return json.dumps(fleet.ledger.state())


def test_it_is_on_disk_before_it_is_answered(tmp_path, monkeypatch):
    """After a power cut a tenant would hold what nobody knows of."""
    synced = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (synced.append(os.fstat(file).st_size), real(file))[1])
    path = tmp_path / "j.jsonl"
    fleet = Fleet(FleetOptions(A100), path)
    for n in range(3):
        fleet.acquire(f"t{n}", "1g")
        assert synced[-1] == path.stat().st_size
    fleet.close()


def test_lines_that_come_together_are_brought_to_disk_together(tmp_path, monkeypatch):
    """A synchronisation a request would make a service wait for its disk, however many requests are there."""
    fleet = Fleet(FleetOptions(A100), tmp_path / "j.jsonl")
    calls, out, real = [], io.StringIO(), os.fsync

    def counted(file):
        assert not out.getvalue(), "answered before it was on disk"
        calls.append(file)
        return real(file)

    lines = Arriving(io.StringIO("".join(f"acquire t{n} 1g\n" for n in range(100))))
    ready = threading.Event()
    read = lines._read
    monkeypatch.setattr(lines, "_read", lambda: (read(), ready.set()))
    first = lines._came.get
    monkeypatch.setattr(lines._came, "get", lambda **more: (ready.wait(), first(**more))[1])
    monkeypatch.setattr(os, "fsync", counted)
    serve(fleet, lines, out)
    assert len(calls) == 1 and len(out.getvalue().splitlines()) == 100
    fleet.close()


def test_what_cannot_be_brought_to_disk_is_not_answered(tmp_path, monkeypatch):
    """A tenant would be told of an instance that is forgotten with the next power cut."""
    fleet, out = Fleet(FleetOptions(A100), tmp_path / "j.jsonl"), io.StringIO()

    def broken(file):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    serve(fleet, ["acquire a 1g\n", "acquire b 1g\n"], out)
    first, second = out.getvalue().splitlines()
    assert "cannot be brought to disk (Input/output error)" in first and "the journal is closed" in second


def test_a_full_disk_is_told_as_a_full_disk(tmp_path):
    """ "No space" as a traceback, or as something else, would be looked for in the wrong place."""
    fleet = Fleet(FleetOptions(A100), tmp_path / "j.jsonl")
    before = state(fleet)

    class Full(io.FileIO):
        def write(self, data):
            raise OSError(28, "No space left on device")

    fleet._journal._file.close()
    fleet._journal._file = Full(tmp_path / "j.jsonl", "a")
    with pytest.raises(InputError, match=r"the disk is full\); nothing changed"):
        fleet.acquire("a", "1g")
    assert state(fleet) == before
    fleet.close()


def test_a_last_record_without_its_newline_is_kept(tmp_path):
    """An event that was answered would be forgotten because one byte of its line is missing."""
    path = tmp_path / "j.jsonl"
    fleet = Fleet(FleetOptions(A100), path)
    fleet.acquire("a", "3g")
    fleet.acquire("b", "1g")
    due = state(fleet)
    fleet.close()
    path.write_bytes(path.read_bytes()[:-1])
    again = Fleet.restore(path)
    assert state(again) == due and again.notes == []
    again.acquire("c", "1g")
    again.close()
    assert len(Fleet.restore(path).ledger.held) == 3


@pytest.mark.parametrize("edit", ["altered", "lost", "exchanged"])
def test_a_middle_line_that_is_not_as_written_is_refused(tmp_path, edit):
    """A line that still makes sense by itself would be taken for what was decided."""
    path = tmp_path / "j.jsonl"
    fleet = Fleet(FleetOptions(A100), path)
    for n in range(6):
        fleet.acquire(f"t{n}", "1g", at=float(n))
    fleet.close()
    lines = path.read_text().splitlines(keepends=True)
    if edit == "altered":
        lines[3] = lines[3].replace('"t2"', '"t9"')
    elif edit == "lost":
        del lines[3]
    else:
        lines[2] = lines[2].replace('"at":1.0', '"at":0.5')
    path.write_text("".join(lines))
    with pytest.raises(InputError, match=r"line [34]: .*(checksum|does not follow)"):
        Fleet.restore(path)


@pytest.mark.parametrize("policy", ["lookahead", "learned", "random"])
@pytest.mark.thorough
def test_a_shortened_journal_is_the_same_fleet(tmp_path, monkeypatch, policy):
    """A service would take longer to start every day; or decide otherwise than without the restart."""
    options = FleetOptions(A100, policy=policy, learn=policy == "learned", lazy=True, migrate=0.1)
    path = tmp_path / "j.jsonl"
    fleet, twin = Fleet(options, path), Fleet(options)
    for one in (fleet, twin):
        play(one, 1, 400)
    fleet.close()
    monkeypatch.setattr(fleet_module, "SHORTEN_AFTER", 50)
    fleet = Fleet.restore(path)
    assert len(path.read_text().splitlines()) == 1 and state(fleet) == state(twin)
    for one in (fleet, twin):
        play(one, 2, 300)
    assert state(fleet) == state(twin)
    fleet.close()
    assert len(path.read_text().splitlines()) < 60 and audit(path).faults == []
    assert state(Fleet.restore(path)) == state(twin)
    assert not list(tmp_path.glob(".*partial"))


def test_a_journal_that_cannot_be_shortened_goes_on(tmp_path, monkeypatch):
    """A full disk during the shortening would lose the old journal, or end the service."""
    path = tmp_path / "j.jsonl"
    fleet = Fleet(FleetOptions(A100), path)
    play(fleet, 1, 100)
    due = state(fleet)
    fleet.close()
    monkeypatch.setattr(fleet_module, "SHORTEN_AFTER", 10)

    def refused(*names):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refused)
        again = Fleet.restore(path)
    assert "cannot be shortened (the disk is full)" in again.notes[0] and state(again) == due
    again.acquire("late", "1g")
    again.close()
    assert not list(tmp_path.glob(".*partial")) and "late" in Fleet.restore(path).ledger.tenants


def test_names_of_a_megabyte(tmp_path):
    """A name of a megabyte would be written a thousand times, and shown as a line of a megabyte."""
    fleet = Fleet(FleetOptions(A100), tmp_path / "j.jsonl")
    long = "x" * (1 << 20)
    for line in (f"acquire {long} 1g", f"acquire a {long}", f"acquire a 1g {long}", f"release {long}", long):
        assert len(answer(fleet, line)) < 400 and answer(fleet, line).startswith("error: ")
    for call in (
        lambda: fleet.acquire(long, "1g"),
        lambda: fleet.acquire("a", "1g", long),
        lambda: fleet.release(long),
    ):
        with pytest.raises(InputError) as told:
            call()
        assert len(str(told.value)) < 400
    out = io.StringIO()
    serve(fleet, Arriving(io.StringIO(f"{'y' * (5 << 20)}\nacquire a 1g\n")), out)
    first, second = out.getvalue().splitlines()
    assert "more than 4,096 characters" in first and not second.startswith("error")
    fleet.close()
