"""`run` and `profile` as users call them: what they leave, how they end, and what an interrupt does."""

import json
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import yaml
from execution_cases import instance

from rltune.devices.execution.tasks_file import read_task_list, to_batch
from rltune.mig.batch.files import plans_as_json
from rltune.mig.batch.plan import Plan, Run
from rltune.mig.batch.tasks import read_tasks

LIST = """\
version: 1
tasks:
  - {name: a, command: [sh, -c, "sleep 0.1"], seconds: {1g: 0.1, 2g: 0.1, 4g: 0.1}}
  - {name: b, command: [sh, -c, "echo said; sleep 0.1"], seconds: {1g: 0.1, 2g: 0.1}}
"""
SLOW = """\
version: 1
tasks:
  - {name: stubborn, command: [sh, -c, "trap '' INT TERM; echo $$ > pid; sleep 60; sleep 60"], seconds: {1g: 60}}
  - name: daemon
    command: ["{python}", -S, -c, "import os, time\\nif os.fork() == 0:\\n os.setsid()\\n open('daemon.pid', 'w').write(str(os.getpid()))\\n time.sleep(60)\\nos.wait()"]
    seconds: {1g: 60}
  - {name: never, command: [sh, -c, "true"], seconds: {4g: 1}}
"""


@pytest.fixture
def call(tmp_path):
    """Starts a command on a simulated A30 that lives in the test's folder."""
    (tmp_path / "tasks.yaml").write_text(LIST)
    variables = {**os.environ, "RLTUNE_STATE": str(tmp_path / "state"), "RLTUNE_DEVICE": "simulated:a30"}

    def start(*words, **more):
        command = [sys.executable, "-m", "rltune.devices", *words, "--pace", "0.02", "--runs", str(tmp_path / "runs")]
        return subprocess.Popen(
            command, cwd=tmp_path, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more
        )

    return start


def finished(process):
    out, err = process.communicate(timeout=60)
    return process.returncode, out.strip().splitlines(), err


def test_run_leaves_its_directory(call, tmp_path):
    """The last line of output names a directory with the table, the logs, the figure, and a summary that says simulated."""
    status, out, err = finished(call("run", "tasks.yaml", "--name", "x", "--seconds", "0.05"))
    assert status == 0, err
    folder = tmp_path / "runs" / "x"
    assert out[-1] == str(folder)
    files = {
        "tasks.parquet",
        "instances.parquet",
        "summary.json",
        "plan.json",
        "config.yaml",
        "manifest.json",
        "gantt.png",
    }
    assert files <= {path.name for path in folder.iterdir()}
    assert (folder / "logs" / "b.log").read_text() == "said\n"
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["device"], summary["status"], summary["tasks"]["ok"]) == ("simulated", "ok", 2)
    assert "no GPU was used" in summary["device_note"] and "simulated" in err
    assert list(pd.read_parquet(folder / "tasks.parquet").outcome) == ["ok", "ok"]
    # The plan that was written can be followed again; a failure gives status 1.
    (tmp_path / "again.yaml").write_text(LIST.replace("echo said", "exit 9"))
    status, out, err = finished(call("run", "again.yaml", "--plan", str(folder / "plan.json"), "--name", "y"))
    assert status == 1, err
    rows = pd.read_parquet(tmp_path / "runs" / "y" / "tasks.parquet").set_index("task")
    assert (rows.outcome["b"], rows.exit_code["b"], rows.outcome["a"]) == ("failed", 9, "ok")


def test_profile_makes_what_run_and_the_planner_read(call, tmp_path):
    """Measured seconds come back as a list for `run` and a CSV for the planner; what does not fit is empty in both."""
    (tmp_path / "new.yaml").write_text(
        "version: 1\ntasks:\n"
        "  - {name: a, command: [sh, -c, 'sleep 0.1']}\n"
        "  - {name: big, command: [sh, -c, '[ $RLTUNE_COMPUTE_SLICES -gt 1 ]'], memory_gb: 3}\n"
    )
    status, _, err = finished(call("profile", "new.yaml", "--kinds", "1g,2g", "--repeats", "2", "--name", "p"))
    assert status == 0, err
    folder = tmp_path / "runs" / "p"
    assert "big does not fit 1g: exit code 1" in err
    a, big = read_task_list(folder / "tasks.yaml")
    assert 0.09 < a.seconds["A30"]["1g"] < 5 and big.seconds["A30"]["1g"] is None
    assert big.memory_gb == 3
    (batch,) = read_tasks(folder / "tasks.csv", ["a30"])
    assert batch.names == ("a", "big")
    assert len(pd.read_parquet(folder / "profile.parquet")) == 8


def test_profile_of_a_task_that_runs_nowhere(call, tmp_path):
    """A task that fails everywhere is told, the others' times are kept, and the status is 1."""
    (tmp_path / "new.yaml").write_text(
        "version: 1\ntasks:\n  - {name: a, command: 'true'}\n  - {name: bad, command: 'false'}\n"
    )
    status, _, err = finished(call("profile", "new.yaml", "--kinds", "4g", "--name", "p"))
    assert status == 1, err
    tasks = yaml.safe_load((tmp_path / "runs" / "p" / "tasks.yaml").read_text())["tasks"]
    assert ["seconds" in task for task in tasks] == [True, False]


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def started(path):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if path.exists() and path.read_text().strip():
            return int(path.read_text())
        time.sleep(0.02)
    raise AssertionError(f"{path} never came")


def test_ctrl_c_leaves_no_process_and_loses_nothing(call, tmp_path):
    """An interrupt ends every descendant, also stubborn ones and daemons, and the directory says interrupted."""
    (tmp_path / "slow.yaml").write_text(SLOW)
    # By hand, so that the short task comes last.
    instances = (instance("1g", 0, 0.0, 61.0), instance("1g", 1, 0.11, 61.2), instance("4g", 0, 61.4))
    runs = (Run(0, 0, 0.2, 60.2), Run(1, 1, 0.3, 60.3), Run(2, 2, 62.0, 63.0))
    tasks = to_batch(read_task_list(tmp_path / "slow.yaml"), ["a30"])
    value = plans_as_json([tasks], [Plan(("A30",), instances, runs, "by hand")])
    (tmp_path / "plan.json").write_text(json.dumps(value))
    process = call("run", "slow.yaml", "--plan", "plan.json", "--name", "x", "--grace", "0.3")
    pids = [started(tmp_path / "pid"), started(tmp_path / "daemon.pid")]
    process.send_signal(signal.SIGINT)
    status, out, err = finished(process)
    assert status == 130, err
    assert not any(alive(pid) for pid in pids)
    folder = tmp_path / "runs" / "x"
    assert out[-1] == str(folder)
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["status"], summary["tasks"]["interrupted"]) == ("interrupted", 2)
    rows = pd.read_parquet(folder / "tasks.parquet").set_index("task")
    assert rows.outcome["never"] == "not run" and "SIGINT" in rows.reason["never"]
    state = json.loads(next((tmp_path / "state").glob("simulated-*.json")).read_text())
    assert not state["gpus"][0]["instances"], "the partition was not brought back"


def test_a_second_ctrl_c_does_not_wait(call, tmp_path):
    """Whoever presses Ctrl-C twice is not made to wait for the grace of a minute; the directory is there all the same."""
    (tmp_path / "slow.yaml").write_text(SLOW)
    process = call("run", "slow.yaml", "--name", "x", "--grace", "600", "--seconds", "0.05")
    pid = started(tmp_path / "pid")
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    status, _, err = finished(process)
    assert status == 130, err
    assert not alive(pid)
    assert (tmp_path / "runs" / "x" / "summary.json").exists()


def test_a_killed_run_takes_its_tasks_along(call, tmp_path):
    """SIGKILL of the command ends its tasks; the next run finds the machine usable."""
    (tmp_path / "slow.yaml").write_text(SLOW)
    process = call("run", "slow.yaml", "--name", "x", "--seconds", "0.05")
    pids = [started(tmp_path / "pid"), started(tmp_path / "daemon.pid")]
    process.kill()
    process.wait()
    process.communicate()
    deadline = time.monotonic() + 5
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(alive(pid) for pid in pids)
    status, _, err = finished(call("run", "tasks.yaml", "--take-over", "--name", "y", "--seconds", "0.05"))
    assert status == 0, err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "none.yaml"], "no such file"),
        (["run", "tasks.yaml", "--gpus", "7"], "GPU 7 does not exist"),
        (["run", "tasks.yaml", "--timeout", "-1"], "--timeout -1.0: a number of seconds"),
        (["run", "tasks.yaml", "--plan", "tasks.yaml"], "is no plan.json"),
        (["profile", "tasks.yaml", "--kinds", "3g"], "profile '3g' does not exist on A30"),
    ],
)
def test_bad_input(call, tmp_path, words, message):
    """Bad input is one line and status 2, and leaves nothing."""
    status, out, err = finished(call(*words))
    assert (status, out) == (2, [])
    assert message in err.splitlines()[-1] and err.splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())
