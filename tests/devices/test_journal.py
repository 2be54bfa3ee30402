"""The journal's file and the locks: several processes, other users, damaged files."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from execution_cases import PATIENCE_S

from rltune.devices.journal import SCHEMA, Journal, Tenant
from rltune.devices.lock import locked
from rltune.devices.ownership import FOUND, Part
from rltune.devices.state import state, whole
from rltune.nouns.errors import InputError


@pytest.mark.parametrize("content", [b"no database at all, but long enough to look at" * 40, b""])
def test_a_file_that_is_no_journal_is_told(tmp_path, content):
    """A damaged journal would be taken for an empty one, and the transaction in it forgotten."""
    (tmp_path / "devices.sqlite").write_bytes(content)
    if not content:
        assert Journal(tmp_path / "devices.sqlite", "nvml").recent() == []
        return
    with pytest.raises(InputError, match="journal cannot be used"):
        Journal(tmp_path / "devices.sqlite", "nvml")


def test_a_journal_of_another_version_is_told(tmp_path):
    """An older release would misread what a newer one wrote."""
    journal = Journal(tmp_path / "devices.sqlite", "nvml")
    journal._db.execute("PRAGMA user_version=99")
    journal.close()
    with pytest.raises(InputError, match="version 99"):
        Journal(tmp_path / "devices.sqlite", "nvml")


FIRST = """
import sys
from pathlib import Path
from rltune.devices.journal import Journal
sys.stdin.readline()
Journal(Path(sys.argv[1]), "nvml").recent()
"""


def test_the_first_of_several_begins_the_journal(tmp_path):
    """On a fresh machine all but one of the services that start at boot would fail."""
    for turn in range(3):
        path = str(tmp_path / f"{turn}.sqlite")
        command = [sys.executable, "-c", FIRST, path]
        several = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)
        ]
        for one in several:
            one.stdin.write("go\n")
            one.stdin.flush()
        for one in several:
            assert one.communicate(timeout=PATIENCE_S)[1] == ""


def test_a_lock_is_for_every_user_and_follows_its_name(tmp_path):
    """Another user could never change GPUs after root did; a removed lock would let two in."""
    path = tmp_path / "lock"
    old = os.umask(0o077)
    try:
        with locked(path):
            assert path.stat().st_mode & 0o777 == 0o666
    finally:
        os.umask(old)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError, match="is no file"), locked(path):
        pass


HOLD = """
import sys, time
from pathlib import Path
from rltune.devices.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(6000)
"""


def test_the_lock_goes_with_its_process(tmp_path):
    """A killed adapter would lock everybody out until somebody removes a file."""
    path = tmp_path / "lock"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=f"pid {holder.pid}"), locked(path):
            pass
        holder.kill()
    with locked(path):
        assert Path(path).read_text() == f"{os.getpid()}\n"


def _begun(path):
    """A journal with an open transaction, its records and a claim."""
    journal = Journal(path, "nvml")
    held = state(True, [whole("3g.40gb", 4)])
    number = journal.begin({"GPU-a": held}, {"GPU-a": state(True)}, [("GPU-a", "destroy 3g.40gb@4")], True)
    journal.note(number, "GPU-a", {("3g.40gb", 4): Part(FOUND, 1, ("MIG-x",))})
    journal.claim(Tenant("GPU-a", "3g.40gb", 4, "alice"))
    return journal


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE transactions SET before = '{'",
        "UPDATE transactions SET before = replace(before, '3g', '2g')",
        "UPDATE transactions SET after = '[[[[]]]]'",
        "UPDATE transactions SET begun = 'noon'",
        "UPDATE transactions SET pid = x'00ff'",
        "UPDATE transactions SET claims = '7'",
        "UPDATE transactions SET boot = 12",
        "UPDATE parts SET number = 2",
        "UPDATE parts SET status = 'made'",
        "UPDATE parts SET devices = '{'",
        "UPDATE parts SET start = 'four'",
        "UPDATE tenants SET start = 'four'",
        "UPDATE tenants SET since = 'noon'",
        "DELETE FROM about",
    ],
)
def test_a_damaged_row_is_told(tmp_path, edit):
    """A recovery would destroy what an altered row names, or end in a traceback."""
    journal = _begun(tmp_path / "j.sqlite")
    assert journal.open_ones() and journal.parts(1) and journal.tenants()
    journal._db.execute(edit)
    journal.close()

    def read():
        again = Journal(tmp_path / "j.sqlite", "nvml")
        try:
            again.open_ones(), again.parts(1), again.tenants()
        finally:
            again.close()

    with pytest.raises(InputError, match=r"(is damaged|was altered).*move the journal away"):
        read()


def test_damaged_bytes_are_told(tmp_path):
    """A bad block on the disk would end in a traceback, or change what a recovery does."""
    journal = _begun(tmp_path / "j.sqlite")
    journal._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    due = journal.open_ones(), journal.parts(1), [(t.gpu, t.profile, t.start, t.tenant) for t in journal.tenants()]
    journal.close()
    content, draws, refused = (tmp_path / "j.sqlite").read_bytes(), random.Random(3), 0
    used = [at for at, byte in enumerate(content) if byte]
    for _ in range(300):
        damaged = bytearray(content)
        damaged[draws.choice(used)] ^= 1 << draws.randrange(8)
        path = tmp_path / "damaged.sqlite"
        for name in tmp_path.glob("damaged.sqlite*"):
            name.unlink()
        path.write_bytes(damaged)
        try:
            again = Journal(path, "nvml")
            found = again.open_ones(), again.parts(1), [(t.gpu, t.profile, t.start, t.tenant) for t in again.tenants()]
            again.close()
        except InputError as error:
            assert "\n" not in str(error)
            refused += 1
            continue
        if found[0] and found[1]:
            assert (found[0][0].before, found[0][0].after, found[1]) == (due[0][0].before, due[0][0].after, due[1])
    assert refused > 30


def test_a_journal_of_version_1_goes_on(tmp_path):
    """After an update an open transaction, or a claim, would be forgotten."""
    path = tmp_path / "j.sqlite"
    with sqlite3.connect(path) as old:
        for statement in SCHEMA.split(";"):
            old.execute(statement)
        old.execute("PRAGMA user_version=1")
        row = (1.0, 7, "boot", "nvml", '{"GPU-a": {"mig": true, "pending": true, "instances": []}}', "open")
        old.execute(
            "INSERT INTO transactions (begun, pid, boot, device, before, after, outcome) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (*row[:5], row[4], row[5]),
        )
        old.execute("INSERT INTO tenants VALUES ('GPU-a', '3g.40gb', 4, 'alice', NULL, NULL, 2.0)")
    old.close()
    journal = Journal(path, "nvml")
    (one,) = journal.open_ones()
    assert (
        one.before == {"GPU-a": state(True)} and not one.recorded and [t.tenant for t in journal.tenants()] == ["alice"]
    )
    journal.close()


@pytest.mark.skipif(shutil.which("unshare") is None or os.geteuid() != 0, reason="needs a file system of its own")
def test_a_full_disk_is_told_as_a_full_disk(tmp_path):
    """SQLite calls it a disk I/O error, and somebody would replace the disk."""
    program = textwrap.dedent("""
        import sys
        from pathlib import Path
        from rltune.devices.adapter import Adapter
        from rltune.devices.simulated import SimulatedDriver
        from rltune.devices.spec import spec_of
        from rltune.nouns.errors import InputError
        folder = Path(sys.argv[1])
        adapter = Adapter(SimulatedDriver(["a30"], pace=0, scan=False), folder, Path(sys.argv[2]))
        plan = adapter.plan(spec_of({"version": 1, "gpus": [{"gpu": 0, "instances": ["4g.24gb"]}]}))
        rest = b"x" * (64 << 20)
        with (folder / "rest").open("wb", buffering=0) as file:
            try:
                while file.write(rest):
                    pass
            except OSError:
                pass
        try:
            adapter.apply(plan)
        except InputError as error:
            print(error)
    """)
    (tmp_path / "full").mkdir()
    script = f'mount -t tmpfs -o size=256k tmpfs "{tmp_path}/full" && exec "{sys.executable}" -c "$1" "{tmp_path}/full" "{tmp_path}"'
    done = subprocess.run(["unshare", "-m", "sh", "-c", script, "sh", program], capture_output=True, text=True)
    if "mount" in done.stderr:
        pytest.skip("no file system may be mounted here")
    assert "the journal cannot be used (the disk is full" in done.stdout, done
