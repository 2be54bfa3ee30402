"""The journal's file and the locks: several processes, other users, damaged files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from execution_cases import PATIENCE_S

from rltune.devices.journal import Journal
from rltune.devices.lock import locked
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
