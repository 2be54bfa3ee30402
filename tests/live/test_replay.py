"""The replay from outside: jobs that save and go on, and a command that ends with what became of them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from rltune.live.stretch import TASK


def task(folder, seconds, **environment):
    known = {"RLTUNE_JOB": "job-1", "RLTUNE_COMPUTE_SLICES": "3", "PATH": os.environ["PATH"], **environment}
    words = [sys.executable, "-I", "-S", str(TASK), str(seconds), str(folder), "3=2.0"]
    return subprocess.Popen(words, env=known, stdout=subprocess.PIPE, text=True)


def test_a_job_that_is_told_to_end_saves_and_goes_on(tmp_path):
    """Suspended jobs would begin anew each time, and never end."""
    job = task(tmp_path, 3600)
    assert job.stdout.readline().startswith("on None, from 0.0")
    assert "%" in job.stdout.readline()
    job.send_signal(signal.SIGTERM)
    assert job.communicate()[0].endswith("saved\n") and job.returncode == 0
    saved = float((tmp_path / "job-1.0").read_text())
    assert 0 < saved < 3600
    rest = task(tmp_path, saved + 0.1, RLTUNE_RESUME="1")
    told = rest.communicate()[0]
    assert f"from {saved:.1f}" in told and told.endswith("100 %\n")


@pytest.mark.slow
def test_the_replay_ends_with_a_table(tmp_path):
    """`make live` would show nothing, lose jobs, or leave processes behind."""
    words = [sys.executable, "-m", "rltune.live", "minutes=0.3", "speed=100", f"state={tmp_path}", "every_s=1"]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert re.search(r"^page +http://127.0.0.1:\d+/ ", ended.stdout, re.M)
    assert re.search(r"^ +\d+ s  \d+ of \d+ jobs came", ended.stdout, re.M)
    for row in ("jobs submitted +[1-9]", "MIG slices created +\\d", "refused by the device +0", "lost +0"):
        assert re.search(f"^{row}", ended.stdout, re.M), row


@pytest.mark.slow
def test_it_ends_in_order_when_it_is_told_to(tmp_path):
    """A replay that was stopped would leave a service and its jobs behind."""
    process = subprocess.Popen(
        [sys.executable, "-m", "rltune.live", "minutes=60", f"state={tmp_path}", "every_s=1"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    for line in process.stdout:
        if "jobs came" in line:
            break
    time.sleep(2)
    process.send_signal(signal.SIGTERM)
    assert "jobs submitted" in process.communicate()[0]
    assert process.returncode == 0
