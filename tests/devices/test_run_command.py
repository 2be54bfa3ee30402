"""`run` and `profile` as users call them: what they leave, how they end, and what an interrupt does."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import yaml
from execution_cases import PATIENCE_S, instance

from rltune.device_commands.executing import draw
from rltune.devices.adapter import Adapter
from rltune.devices.execution.outcome import FAILED, Execution, TaskRow
from rltune.devices.execution.tasks_file import read_task_list, to_batch
from rltune.devices.open import open_device
from rltune.devices.spec import spec_of
from rltune.devices.state import whole
from rltune.mig.batch.files import plans_as_json, read_plans
from rltune.mig.batch.plan import Plan, Run
from rltune.mig.batch.tasks import read_tasks
from rltune.nouns.errors import InputError
from rltune.rundir import RunDirectory
from tests.some import some

LIST = """\
version: 1
tasks:
  - {name: a, command: [sh, -c, "sleep 0.1"], seconds: {1g: 0.1, 2g: 0.1, 4g: 0.1}}
  - {name: b, command: [sh, -c, "echo said; sleep 0.1"], seconds: {1g: 0.1, 2g: 0.1}}
"""
SLOW = """\
version: 1
tasks:
  - {name: stubborn, command: [sh, -c, "trap '' INT TERM; echo $$ > pid; sleep 6000; sleep 6000"], seconds: {1g: 60}}
  - name: daemon
    command: ["{python}", -S, -c, "import os, time\\nif os.fork() == 0:\\n os.setsid()\\n open('daemon.pid', 'w').write(str(os.getpid()))\\n time.sleep(6000)\\nos.wait()"]
    seconds: {1g: 60}
  - {name: never, command: [sh, -c, "true"], seconds: {4g: 1}}
"""


@pytest.fixture
def call(tmp_path):
    """Starts a command on a simulated A30 that lives in the test's folder; ``patch``: code that runs before."""
    (tmp_path / "tasks.yaml").write_text(LIST)
    variables = {**os.environ, "RLTUNE_STATE": str(tmp_path / "state"), "RLTUNE_DEVICE": "simulated:a30"}

    def start(*words, patch="", **more):
        program = f"{patch}\nfrom rltune.device_commands.main import main\nmain()"
        begin = ["-c", program] if patch else ["-m", "rltune.devices"]
        command = [sys.executable, *begin, *words, "--pace", "0.02", "--runs", str(tmp_path / "runs")]
        more = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more
        return subprocess.Popen(command, cwd=tmp_path, env=variables, text=True, **more)

    return start


def finished(process):
    out, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out.strip().splitlines(), err


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


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
    assert a.seconds["A30"]["1g"] > 0.09 and big.seconds["A30"]["1g"] is None
    assert big.memory_gb == 3
    (batch,) = read_tasks(folder / "tasks.csv", ["a30"])
    assert batch.names == ("a", "big")
    assert len(pd.read_parquet(folder / "profile.parquet")) == 8


@pytest.mark.thorough
def test_profile_and_run_take_the_partition_that_they_find_and_bring_it_back(call, tmp_path, monkeypatch):
    """The commands of the README fail in the order in which they stand there: apply, profile, run."""
    monkeypatch.setenv("RLTUNE_STATE", str(tmp_path / "state"))
    found = (whole("1g.6gb", 0), whole("2g.12gb", 2))
    with closing(Adapter(open_device("simulated:a30", pace=0))) as adapter:
        adapter.apply(
            adapter.plan(spec_of({"version": 1, "gpus": [{"gpu": 0, "instances": ["1g.6gb@0", "2g.12gb@2"]}]}))
        )
        (gpu,) = adapter.states()
        for words in (
            ("profile", "tasks.yaml", "--kinds", "1g,4g", "--name", "p"),
            ("run", "tasks.yaml", "--name", "r", "--seconds", "0.05"),
        ):
            status, _, err = finished(call(*words))
            assert status == 0, err
            assert adapter.states()[gpu].instances == found
        # What a tenant holds stays, and leaves no room for 4g.
        adapter.claim(gpu, found[1], "alice")
        status, _, err = finished(call("profile", "tasks.yaml", "--kinds", "1g,4g", "--name", "q"))
        assert status == 2 and "no room for 4g.24gb beside 2g.12gb@2, which is in use" in err
        status, _, err = finished(call("profile", "tasks.yaml", "--kinds", "2g", "--name", "s"))
        assert status == 0 and adapter.states()[gpu].instances == found, err


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
    deadline = time.monotonic() + PATIENCE_S
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


@pytest.mark.slow
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
    deadline = time.monotonic() + PATIENCE_S
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(alive(pid) for pid in pids)
    status, _, err = finished(call("run", "tasks.yaml", "--name", "y", "--seconds", "0.05"))
    assert status == 0, err
    (left,) = (tmp_path / "runs").glob(".x.*.partial")
    assert f"{left} was left by a run that was killed" in err and (left / "logs").is_dir()
    status, _, err = finished(call("run", "tasks.yaml", "--name", "z", "--seconds", "0.05", "--remove-partial"))
    assert status == 0 and f"{left}, left by a run that was killed, is removed" in err
    assert not list((tmp_path / "runs").glob(".*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "none.yaml"], "no such file"),
        (["run", "tasks.yaml", "--gpus", "7"], "GPU 7 does not exist"),
        (["run", "tasks.yaml", "--timeout", "-1"], "--timeout -1.0: a number of seconds"),
        (["run", "tasks.yaml", "--plan", "tasks.yaml"], "cannot be read as JSON"),
        (["profile", "tasks.yaml", "--kinds", "3g"], "profile '3g' does not exist on A30"),
    ],
)
def test_bad_input(call, tmp_path, words, message):
    """Bad input is one line and status 2, and leaves nothing."""
    status, out, err = finished(call(*words))
    assert (status, out) == (2, [])
    assert message in err.splitlines()[-1] and err.splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


@pytest.mark.parametrize("kind", some(["pipe", "terminal"], "pipe"))
def test_whoever_watches_may_leave(call, tmp_path, kind):
    """A closed terminal, or a reader of standard error that is gone, would take hours of results along."""
    reads, writes = os.pipe() if kind == "pipe" else os.openpty()
    process = call("run", "tasks.yaml", "--name", "x", "--seconds", "0.05", stderr=writes)
    os.close(writes)
    if kind == "terminal":
        os.read(reads, 1)
    os.close(reads)
    status, out, _ = finished(process)
    assert (status, out[-1]) == (0, str(tmp_path / "runs" / "x"))
    summary = summary_of(tmp_path / "runs" / "x")
    assert (summary["exit_status"], summary["tasks"]["ok"]) == (0, 2)


def test_an_error_of_ours_leaves_what_ran(call, tmp_path):
    """A mistake in the executor would remove the logs of everything that had run."""
    patch = """
from rltune.devices.execution.executor import Executor
def bad(self, ended):
    raise SystemError("ours")
Executor._task_ended = bad
"""
    status, _, err = finished(call("run", "tasks.yaml", "--name", "x", "--seconds", "0.05", patch=patch))
    summary = summary_of(tmp_path / "runs" / "x")
    assert (status, summary["exit_status"], summary["status"]) == (1, 1, "error"), err
    assert (tmp_path / "runs" / "x" / "logs").is_dir()


HANGS = """
import threading, time
from rltune.devices.execution import energy
from rltune.devices.simulated import SimulatedDriver
real = SimulatedDriver.telemetry
def hang(self, gpu):
    if threading.current_thread() is threading.main_thread():
        return real(self, gpu)
    self.calling[threading.get_ident()] = ("telemetry", time.monotonic())
    time.sleep(600)
SimulatedDriver.telemetry = hang
SimulatedDriver.close = lambda self: time.sleep(600)
energy.JOIN_S = 0.1
"""


@pytest.mark.slow
def test_a_driver_that_hangs_in_telemetry_ends_no_run(call, tmp_path):
    """One question that the driver never answers would kill tasks that run well, or keep the command from ending."""
    (tmp_path / "tasks.yaml").write_text(LIST.replace("sleep 0.1", "sleep 2").replace("0.1", "2"))
    words = ("--name", "x", "--seconds", "0.05", "--call-timeout", "1")
    status, out, err = finished(call("run", "tasks.yaml", *words, patch=HANGS))
    assert (status, out[-1]) == (0, str(tmp_path / "runs" / "x")), err
    summary = summary_of(tmp_path / "runs" / "x")
    assert summary["status"] == "ok" and "did not answer" in summary["notes"][0]


def test_a_list_that_is_edited_meanwhile(call, tmp_path):
    """Whoever edits the list while it is profiled would lose all that was measured, or get times of other tasks."""
    text = (
        "version: 1\ntasks:\n"
        "  - {name: a, command: [sh, -c, 'echo broken > new.yaml; sleep 0.1'], seconds: {1g: 9, 2g: 5, 3g: 4}}\n"
    )
    (tmp_path / "new.yaml").write_text(text)
    status, _, err = finished(call("profile", "new.yaml", "--kinds", "1g", "--name", "p"))
    assert status == 0, err
    folder = tmp_path / "runs" / "p"
    (a,) = read_task_list(folder / "tasks.yaml")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["file"]["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    # What was given for every model holds for the others, and for this one's other profiles.
    assert a.seconds["A30"]["2g"] == 5 and a.seconds["A30"]["1g"] != 9
    assert a.seconds["A100-80GB"] == {"1g": 9, "2g": 5, "3g": 4}


FULL = """
import pandas as pd
def full(self, path, **more):
    open(path, "wb").write(b"PAR1")
    raise OSError(28, "No space left on device")
pd.DataFrame.to_parquet = full
"""


def test_a_full_disk_after_the_tasks(call, tmp_path):
    """A full disk would be a stack trace, a torn table that looks whole, or a summary that says ok."""
    status, _, err = finished(call("run", "tasks.yaml", "--name", "x", "--seconds", "0.05", patch=FULL))
    folder = tmp_path / "runs" / "x"
    assert status == 3 and "Traceback" not in err
    assert err.splitlines()[-1].startswith("error: ") and "No space left" in err.splitlines()[-1]
    summary = summary_of(folder)
    assert (summary["status"], summary["exit_status"], summary["tasks"]["ok"]) == ("error", 3, 2)
    assert not list(folder.glob("*.parquet")) and not list(folder.glob(".*"))
    assert (folder / "logs" / "b.log").read_text() == "said\n"


def test_a_full_disk_leaves_no_half_a_summary(tmp_path, monkeypatch):
    """Half a summary.json would stop every tool that reads a folder of runs."""
    real = type(tmp_path).write_text

    def full(path, text):
        real(path, text[:5])
        raise OSError(28, "No space left on device")

    with RunDirectory(tmp_path, "x") as run:
        run.keep()
        monkeypatch.setattr(type(tmp_path), "write_text", full)
        with pytest.raises(InputError, match="No space left"):
            run.write_json("summary.json", {"status": "ok"})
    assert list((tmp_path / "x").iterdir()) == []


def test_two_runs_of_one_name_at_once(tmp_path):
    """The run that ends second would lose its directory, or be told to be where the other one is."""
    with RunDirectory(tmp_path, "x") as one, RunDirectory(tmp_path, "x") as two:
        one.write_text("who", "one")
        two.write_text("who", "two")
    assert one.final != two.final
    assert [(run.final / "who").read_text() for run in (one, two)] == ["one", "two"]


def a_plan(tmp_path):
    """Two tasks one after the other on an A30, and its JSON."""
    (tmp_path / "list.yaml").write_text(LIST)
    tasks = to_batch(read_task_list(tmp_path / "list.yaml"), ["a30"])
    runs = (Run(0, 0, 0.2, 0.3), Run(1, 1, 0.7, 0.8))
    plan = Plan(("A30",), (instance("2g", 0, 0.0, 0.3), instance("1g", 0, 0.5)), runs, "by hand")
    return plans_as_json([tasks], [plan])


def edited(value, where, new):
    """The plan's JSON with one value, or one key (new is None: removed), changed."""
    *path, last = where
    at = value["batches"][0]
    for key in path:
        at = at[key]
    at[last] = new
    return value


@pytest.mark.parametrize(
    ("where", "new", "message"),
    [
        (("runs", 0, "start_s"), "soon", "start_s='soon'; input should be a valid number"),
        (("runs", 0, "start_s"), None, "runs[0]: start_s=None; input should be a valid number"),
        (("runs", 0, "end_s"), 1e400, "end_s=inf; input should be a finite number"),
        (("runs", 0, "instance"), True, "instance=True; input should be a valid integer"),
        (("runs", 0, "instance"), 7, "runs in instance 7; there are 2"),
        (("runs", 0, "end_s"), 0.1, "before it starts"),
        (("runs", 0, "end_s"), 9.0, "its instance goes at 0.3 s"),
        (("instances", 0, "gpu"), 3, "an instance is on GPU 3; there are 1"),
        (("instances", 0, "gpu"), -1, "an instance is on GPU -1"),
        (("instances", 0, "start"), 1, "cannot begin at memory slice 1"),
        (("instances", 0, "start"), "0", "start='0'; input should be a valid integer"),
        (("instances", 0, "profile"), 5, "profile=5; input should be a valid string"),
        (("instances", 0, "ready_s"), None, "a beginning without an end"),
        (("instances", 0, "colour"), 1, "is no plan.json"),
        (("instances", 1, "create_s"), 0.01, "creating"),
        (("instances", 0), [], "is no plan.json"),
        (
            ("left",),
            [{"instances": [], "reconfiguring_until_s": "x"}],
            "left[0]: reconfiguring_until_s='x'; input should be a valid number",
        ),
    ],
)
def test_a_plan_edited_by_hand(tmp_path, where, new, message):
    """A mistake in plan.json would end in a stack trace, or in tasks that wait for ever for an instance."""
    value = a_plan(tmp_path)
    (tmp_path / "plan.json").write_text(json.dumps(value))
    assert len(read_plans(tmp_path / "plan.json")) == 1
    (tmp_path / "plan.json").write_text(json.dumps(edited(value, where, new)))
    with pytest.raises(InputError) as refused:
        read_plans(tmp_path / "plan.json")
    assert message in str(refused.value) and str(refused.value).startswith(str(tmp_path))


def test_a_plan_with_other_times(call, tmp_path):
    """A plan that promises a makespan that the list's own seconds exclude is refused before anything starts."""
    value = edited(a_plan(tmp_path), ("runs", 0, "end_s"), 0.25)
    (tmp_path / "plan.json").write_text(json.dumps(value))
    status, _, err = finished(call("run", "tasks.yaml", "--plan", "plan.json"))
    assert status == 2 and "task 'a' takes 0.1 s there" in err.splitlines()[-1]
    assert not (tmp_path / "runs").exists()


def test_the_figure_of_whole_gpus(tmp_path, monkeypatch):
    """A whole GPU without MIG would be called 7g, and a task that failed would look like one that went well."""
    rows = [
        TaskRow(name, outcome, gpu=0, gpu_slices=1, profile="whole", start_slice=0, slices=1, start_s=k, end_s=k + 1.0)
        for k, (name, outcome) in enumerate([("a", "ok"), ("b", FAILED)])
    ]
    monkeypatch.setattr(plt, "close", lambda figure: None)
    with RunDirectory(tmp_path, "x") as run:
        draw(run, Execution(rows, [], None), "title")
    axes = plt.gcf().axes[0]
    monkeypatch.undo()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["whole", "did not end well"]
    assert [bool(box.get_hatch()) for box in axes.patches] == [False, True]
    plt.close("all")
