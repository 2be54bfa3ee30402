"""A node that is killed is followed by another, which finds every run again."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from node_cases import SMALL, Heard, begin, local_node, machine, output, python, wait_until

from rltune.devices.execution.keeper import process_start
from rltune.service.nodes import shepherd
from rltune.service.nodes.records import Folder
from rltune.service.orders import Cut, Held, Stop, Suspend

SAVING = (
    "import os, signal, sys, time\n"
    "signal.signal(15, lambda *_: sys.exit(3))\n"
    "print('ready', flush=True)\n"
    "n = 0\n"
    "while True:\n    time.sleep(0.02); n += 1; print(n, flush=True)"
)
PLACES = (SMALL, ("1g.10gb", 1), ("1g.10gb", 2), ("1g.10gb", 3))
CUT = Cut(0, True, PLACES)
OWNER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from node_cases import local_node, machine, begin, python, Heard, output, wait_until
from test_node_restarts import PLACES, CUT, SAVING
from rltune.service.orders import Held, Suspend, Stop
node = local_node(Path({folder!r}))
heard = Heard(node)
{work}
print("ready", flush=True)
import time
time.sleep(600)
"""
FOUR_RUNS = """
for at, (run, suspend) in enumerate({"running": "checkpoint", "paused": "stop", "saved": "checkpoint"}.items()):
    node.carry_out([begin(run, python(SAVING), (Held(0, PLACES[at]),), (CUT,), suspend=suspend)])
node.carry_out([begin("lease", (), (Held(0, PLACES[3]),), (CUT,)), begin("over", ("sh", "-c", "exit 5"), (), ())])
for run in ("running", "paused", "saved"):
    wait_until(lambda: "ready" in output(node, run))
node.carry_out([Suspend("paused"), Suspend("saved")])
heard.wait("suspended", "paused"), heard.wait("suspended", "saved"), heard.wait("ended", "over"), heard.wait("began", "lease")
"""


def owner(tmp_path, work, *words):
    """A process with a node that has done this work, or is at it, ready to be killed."""
    code = OWNER.format(tests=os.path.dirname(__file__), folder=str(tmp_path), work=work)
    process = subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    return process


def kill(process):
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.fixture
def killed(tmp_path):
    machine(tmp_path)
    kill(owner(tmp_path, FOUR_RUNS))
    return tmp_path


def test_every_run_is_found_again(killed):
    """After a crash of the service jobs would be lost, doubled, or run on unknown to it."""
    node = local_node(killed)
    heard = Heard(node)
    found = node.inventory()
    assert found.runs == {
        "running": "began",
        "paused": "suspended",
        "saved": "suspended",
        "lease": "began",
        "over": "ended",
    }
    assert found.codes == {"over": 5} and found.gpus[0].instances == PLACES
    assert heard.wait("ended").run == "over" and heard.wait("began", "lease").message.startswith("MIG-")
    grown = len(output(node, "running"))
    wait_until(lambda: len(output(node, "running")) > grown)
    node.carry_out([begin("running", python(SAVING), (Held(0, PLACES[0]),), (CUT,))])
    heard.wait("began", "running", 2)
    before = output(node, "paused")
    node.carry_out([begin("on", python(SAVING), (Held(0, PLACES[1]),), (), suspend="stop", resumes="paused")])
    wait_until(lambda: len(output(node, "on")) > len(before))
    node.carry_out([Stop(run) for run in ("running", "on", "saved", "lease")])
    assert [heard.wait("ended", run).code for run in ("running", "on", "saved", "lease")] == [3, 3, 3, 0]
    node.close()


def test_what_was_resumed_is_found_under_its_new_name(killed):
    """A second crash would bring a finished name back, or lose the one that runs."""
    work = 'node.carry_out([begin("on", python(SAVING), (Held(0, PLACES[1]),), (), suspend="stop", resumes="paused")])\nheard.wait("began", "on")'
    kill(owner(killed, work))
    node = local_node(killed)
    heard = Heard(node)
    runs = node.inventory().runs
    assert runs["on"] == "began" and "paused" not in runs
    node.carry_out([Suspend("on")])
    heard.wait("suspended", "on")
    node.close()
    node = local_node(killed)
    assert node.inventory().runs["on"] == "suspended"
    heard = Heard(node)
    node.carry_out([Stop(run) for run in ("on", "running", "saved", "lease")])
    heard.wait("ended", "on")
    node.forget(["on"])
    wait_until(lambda: "on" not in node.inventory().runs)
    assert "ready" in output(node, "on") and not (killed / "state/runs/paused/order.json").exists()
    heard.wait("ended", "running")
    node.close()


def test_a_stop_that_was_cut_short_is_finished(tmp_path):
    """A job that was to end would run for ever because the node died in between."""
    machine(tmp_path)
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"
    work = f"""
node.carry_out([begin("r1", python({deaf!r}), (), (), grace_s=1.0)])
wait_until(lambda: "ready" in output(node, "r1"))
node.carry_out([Stop("r1")])
wait_until(lambda: (Path({str(tmp_path)!r}) / "state/runs/r1/intent").exists())
"""
    kill(owner(tmp_path, work))
    node = local_node(tmp_path)
    assert Heard(node).wait("ended", "r1").code == -signal.SIGKILL
    node.close()


def test_after_a_reboot_runs_are_lost(killed, monkeypatch):
    """The service would wait for ever for what a reboot took."""
    node = local_node(killed)
    node.carry_out([Stop("running"), Stop("paused")])
    heard = Heard(node)
    heard.wait("ended", "running"), heard.wait("ended", "paused")
    node.carry_out([begin("other", held=(Held(0, PLACES[0]),), cuts=())])
    heard.wait("began", "other")
    node.close()
    monkeypatch.setattr("rltune.service.nodes.local.boot_id", lambda: "another boot")
    node = local_node(killed)
    heard = Heard(node)
    assert "rebooted" in heard.wait("lost", "other").message and "rebooted" in heard.wait("lost", "lease").message
    # What ended before it is known as before.
    assert node.inventory().runs == {
        "running": "ended", "paused": "ended", "saved": "suspended", "over": "ended", "lease": "lost", "other": "lost"
    }  # fmt: skip
    node.close()
    monkeypatch.undo()
    node = local_node(killed)
    node.carry_out([Stop("other"), Stop("lease")])
    Heard(node).wait("ended", "other")
    node.close()


def test_a_number_that_is_another_process_now_is_not_taken_for_ours(tmp_path):
    """A stranger's process would be counted as a job, and killed with it."""
    machine(tmp_path)
    process = owner(tmp_path, 'node.carry_out([begin("r1")])\nheard.wait("began", "r1")')
    path = tmp_path / "state/runs/r1/begun.json"
    begun = json.loads(path.read_text())
    kill(process)
    stranger = subprocess.Popen(["sleep", "600"], start_new_session=True)
    shepherd, leader = begun["shepherd"], begun["leader"]
    os.kill(shepherd[0], signal.SIGKILL)
    wait_until(lambda: not process_start(shepherd[0]) and not process_start(leader[0]))
    # As if both numbers had come again.
    begun["shepherd"][0] = begun["leader"][0] = stranger.pid
    path.write_text(json.dumps(begun))
    node = local_node(tmp_path)
    heard = Heard(node)
    heard.wait("lost", "r1")
    node.carry_out([Stop("r1")])
    heard.wait("lost", "r1", 2)
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()
    node.close()


def test_a_run_whose_shepherd_is_killed_is_lost_and_ended(tmp_path):
    """Processes that nobody minds any more would hold the GPU."""
    node = local_node(tmp_path)
    heard = Heard(node)
    code = "import os, time\nif os.fork() == 0: os.setsid()\nprint('pid', os.getpid(), flush=True); time.sleep(600)"
    node.carry_out([begin(argv=python(code))])
    wait_until(lambda: output(node, "r1").count("pid") == 2)
    pids = [int(line.split()[1]) for line in output(node, "r1").splitlines()]
    os.kill(json.loads((tmp_path / "state/runs/r1/begun.json").read_text())["shepherd"][0], signal.SIGKILL)
    assert "shepherd was killed" in heard.wait("lost", "r1").message
    wait_until(lambda: not any(process_start(pid) for pid in pids))
    assert node.inventory().runs == {"r1": "lost"}
    node.close()


def test_a_run_that_was_only_ordered_never_begins_behind_the_nodes_back(tmp_path):
    """A shepherd that starts late would run a job that was begun elsewhere meanwhile."""
    node = local_node(tmp_path)
    heard = Heard(node)
    node.carry_out([begin(argv=("touch", str(tmp_path / "ran")), held=(), cuts=())])
    heard.wait("ended", "r1")
    node.close()
    folder = tmp_path / "state/runs/r1"
    for name in ("begun.json", "ended.json", "log"):
        (folder / name).unlink()
    (tmp_path / "ran").unlink()
    held = os.open(folder, os.O_RDONLY)
    node = local_node(tmp_path)
    assert node.inventory().runs == {} and not folder.exists()
    late = subprocess.run(
        [sys.executable, "-I", "-S", shepherd.__file__, f"/proc/self/fd/{held}"],
        pass_fds=[held],
        capture_output=True,
        check=False,
    )
    assert json.loads(late.stdout)["error"] and not (tmp_path / "ran").exists()
    os.close(held)
    node.close()


MANY = 24
MANY_RUNS = f"""
orders = [
    begin(f"r{{n}}", ("sh", "-c", f"echo begun >> ran-{{n}}; sleep 0.0{{n % 10}}"), (), (), directory=sys.argv[1]) for n in range({MANY})
]
print("ready", flush=True)
node.carry_out(orders)
node.carry_out([begin(f"lease-{{n}}", (), (Held(0, PLACES[n]),), (CUT,)) for n in range(4)])
"""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_nodes_that_are_killed_all_the_time_run_everything_once(tmp_path, seed):
    """A job would run twice, or never, because the node was killed at the wrong moment."""
    machine(tmp_path)
    draws = random.Random(seed)
    for _ in range(8):
        process = owner(tmp_path, MANY_RUNS, str(tmp_path))
        time.sleep(draws.uniform(0.0, 0.6))
        kill(process)
    node = local_node(tmp_path)
    heard = Heard(node)
    node.carry_out(
        [begin(f"r{n}", ("sh", "-c", f"echo begun >> ran-{n}"), (), (), directory=str(tmp_path)) for n in range(MANY)]
    )
    node.carry_out([begin(f"lease-{n}", (), (Held(0, PLACES[n]),), (CUT,)) for n in range(4)])
    for n in range(MANY):
        assert heard.wait("ended", f"r{n}").code == 0
        assert (tmp_path / f"ran-{n}").read_text() == "begun\n"
    devices = [heard.wait("began", f"lease-{n}").message for n in range(4)]
    assert len(set(devices)) == 4 and node.inventory().gpus[0].instances == PLACES
    assert not [one for one in heard.all if one.what in ("lost", "refused", "not_cut")]
    node.close()


def test_a_lease_whose_instance_is_gone_is_lost(tmp_path):
    """A tenant would pay for a slice that an administrator destroyed."""
    driver = machine(tmp_path)
    node = local_node(tmp_path, driver)
    heard = Heard(node)
    node.carry_out([begin("lease", ())])
    heard.wait("began", "lease")
    (one,) = driver.instances(0)
    driver.destroy_compute_instance(0, one.id, 0)
    driver.destroy_gpu_instance(0, one.id)
    assert node.inventory().runs == {"lease": "lost"}
    assert "gone" in heard.wait("lost", "lease").message
    node.close()


def test_a_damaged_record_costs_that_run_only(killed):
    """One bad file would keep the whole machine from being used."""
    folder = killed / "state/runs"
    (folder / "over/order.json").write_text("{half")
    (folder / "saved/ended.json").write_text('{"code": 1}')
    node = local_node(killed)
    heard = Heard(node)
    assert "damaged" in heard.wait("lost", "over").message and "damaged" in heard.wait("lost", "saved").message
    assert node.inventory().runs["running"] == "began"
    node.carry_out([Stop("running"), Stop("paused")])
    heard.wait("ended", "running"), heard.wait("ended", "paused")
    node.close()


def test_a_lease_whose_end_was_cut_short_ends_at_the_next_start(tmp_path):
    """A node killed between writing "stop" and the end would hold the slice for ever, and whatever waits for it."""
    node = local_node(tmp_path, machine(tmp_path))
    heard = Heard(node)
    node.carry_out([begin("lease", (), (Held(0, PLACES[3]),), (CUT,))])
    heard.wait("began", "lease")
    node.close()
    Folder(tmp_path / "state" / "runs" / "lease").write_intent("stop")
    again = local_node(tmp_path, machine(tmp_path))
    heard = Heard(again)
    assert heard.wait("ended", "lease").code == 0
    again.carry_out([begin("next", (), (Held(0, PLACES[3]),), (CUT,))])
    heard.wait("began", "next")
    again.carry_out([Stop("next")])
    heard.wait("ended", "next")
    again.close()
