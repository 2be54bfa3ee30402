"""Subprocesses that misbehave: whatever they do, they end in time and leave nothing behind."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from execution_cases import PATIENCE_S

from rltune.devices.execution.keeper import children_of
from rltune.devices.execution.processes import Processes, Signals

DAEMON = "import os, time\nif os.fork() == 0:\n os.setsid()\n if os.fork() == 0:\n  open('pid', 'w').write(str(os.getpid()))\n  time.sleep(6000)\n os._exit(0)\nos.wait()\nwhile not os.path.exists('pid') or not open('pid').read():\n time.sleep(0.01)\n"


@pytest.fixture
def processes():
    with Signals() as signals, Processes(signals, grace_s=0.2) as found:
        yield found


def start(processes, folder, command, key=0, timeout_s=None, env=None):
    return processes.start(
        key, command, {**os.environ, **(env or {})}, folder, folder / f"{key}.log", folder / f"{key}.err", timeout_s
    )


def ended(processes, wait_s=PATIENCE_S):
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        if found := processes.wait(deadline):
            return found[0]
    raise AssertionError("nothing ended")


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_for(condition, wait_s=PATIENCE_S):
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return False


def test_output_and_exit_code(processes, tmp_path):
    """Standard output and error land in their own files, and the exit code is the task's."""
    start(processes, tmp_path, ["sh", "-c", "echo out; echo err >&2; exit 7"])
    one = ended(processes)
    assert (one.exit_code, one.signal, one.timed_out, one.left_behind) == (7, None, False, 0)
    assert ((tmp_path / "0.log").read_text(), (tmp_path / "0.err").read_text()) == ("out\n", "err\n")


def test_a_signal_is_no_exit_code(processes, tmp_path):
    """A task that a signal killed is told apart from one that exits with a number."""
    start(processes, tmp_path, ["sh", "-c", "kill -SEGV $$"])
    one = ended(processes)
    assert (one.exit_code, one.signal) == (None, signal.SIGSEGV)


def test_cpu_seconds_are_those_of_the_task(processes, tmp_path):
    """A task that computes is charged its CPU time, one that sleeps is not."""
    start(processes, tmp_path, ["sleep", "0.2"])
    assert ended(processes).cpu_s < 0.1
    start(
        processes,
        tmp_path,
        [sys.executable, "-S", "-c", "import time\nwhile time.process_time() < .2: pass"],
        key=1,
    )
    assert ended(processes).cpu_s >= 0.2


def test_a_timeout_ends_even_what_ignores_sigterm(processes, tmp_path):
    """A hung task that ignores SIGTERM is killed after the grace, its children with it."""
    start(
        processes, tmp_path, ["sh", "-c", "trap '' TERM; sleep 6000 & echo $! > pid; wait; sleep 6000"], timeout_s=6000
    )
    # Its time is up once it ignores the signal, however long that took.
    assert wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    processes._tasks[0].deadline = time.monotonic() + 0.2
    one = ended(processes)
    assert one.timed_out and one.signal == signal.SIGKILL
    assert one.end - one.start >= 0.4
    assert not alive(int((tmp_path / "pid").read_text()))


def test_a_daemon_does_not_outlive_its_task(processes, tmp_path):
    """What forks twice into a session of its own would hold the GPU; it is found, ended, and counted."""
    start(processes, tmp_path, [sys.executable, "-S", "-c", DAEMON])
    one = ended(processes)
    assert (one.exit_code, one.left_behind) == (0, 1)
    assert not os.path.exists(f"/proc/{(tmp_path / 'pid').read_text()}"), "a zombie was left"


def test_the_daemon_of_one_task_survives_the_end_of_another(processes, tmp_path):
    """Cleaning up after a task must not touch what belongs to its neighbour."""
    start(processes, tmp_path, [sys.executable, "-S", "-c", DAEMON + "time.sleep(6000)"], key=0)
    assert wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    start(processes, tmp_path, ["true"], key=1)
    assert ended(processes).key == 1
    daemon = int((tmp_path / "pid").read_text())
    assert alive(daemon)
    processes.stop(0)
    assert ended(processes).key == 0
    assert not alive(daemon)


def test_leaving_kills_what_runs(tmp_path):
    """An error in the middle of a run leaves no process, daemons without our mark included."""
    before = set(children_of(os.getpid()))
    with Signals() as signals, Processes(signals, grace_s=0.2) as processes:
        start(processes, tmp_path, ["sleep", "6000"])
        hidden = "import os, sys\nos.execve(sys.executable, [sys.executable, '-S', '-c', sys.argv[1]], {})"
        start(processes, tmp_path, [sys.executable, "-S", "-c", hidden, DAEMON], key=1)
        assert wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    assert not alive(int((tmp_path / "pid").read_text()))
    assert set(children_of(os.getpid())) == before


def test_children_of_others_are_left_alone(tmp_path):
    """A notebook's own subprocesses are neither killed nor reaped by a run."""
    mine = subprocess.Popen(["sh", "-c", "sleep 0.3; exit 5"])
    with Signals() as signals, Processes(signals, grace_s=0.2) as processes:
        start(processes, tmp_path, ["sleep", "0.5"])
        ended(processes)
    assert mine.wait() == 5


def test_signals_are_noted_and_wake(processes, tmp_path):
    """Ctrl-C ends the wait at once and can be forwarded; Python's own handler comes back afterwards."""
    start(processes, tmp_path, ["sleep", "6000"])
    os.kill(os.getpid(), signal.SIGINT)
    assert processes.wait(time.monotonic() + PATIENCE_S) == []
    assert processes.signals.got == [signal.SIGINT]
    processes.stop_all(signal.SIGINT)
    one = ended(processes)
    assert one.stopped and one.signal == signal.SIGINT


def test_handlers_come_back():
    """After a run Ctrl-C raises KeyboardInterrupt again."""
    before = signal.getsignal(signal.SIGINT)
    with Signals():
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) == before


def test_a_killed_executor_takes_its_tasks_along(tmp_path):
    """SIGKILL of the executor ends tasks, grandchildren and daemons: no GPU is held by a run that nobody watches."""
    program = textwrap.dedent(f"""
        import os, sys, time
        from pathlib import Path
        from rltune.devices.execution.keeper import children_of
from rltune.devices.execution.processes import Processes, Signals
        with Signals() as signals, Processes(signals) as processes:
            folder = Path({str(tmp_path)!r})
            for key, command in enumerate((["sh", "-c", "sleep 6000 & echo $! > child; wait"], [sys.executable, "-S", "-c", {DAEMON + "time.sleep(6000)"!r}])):
                pid = processes.start(key, command, os.environ, folder, folder / "log", folder / "err")
                (folder / f"leader{{key}}").write_text(str(pid))
            processes.wait()
    """)
    executor = subprocess.Popen([sys.executable, "-c", program])
    files = [tmp_path / name for name in ("leader0", "leader1", "child", "pid")]
    assert wait_for(lambda: all(file.exists() and file.read_text().strip() for file in files))
    executor.kill()
    executor.wait()
    assert wait_for(lambda: not any(alive(int(file.read_text())) for file in files))


def test_a_task_of_another_user(processes, tmp_path, monkeypatch):
    """A task that became another user's (sudo) would end the executor, and with it all others."""
    start(processes, tmp_path, ["sleep", "0.2"])

    def refused(group, number):
        raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr(os, "killpg", refused)
        processes.stop(0)
    assert ended(processes).stopped


def test_sigquit_counts_as_sigterm():
    """Ctrl-\\ would end the executor without its tasks, or have each of them write its core."""
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGQUIT)
        assert signals.got == [signal.SIGTERM]
