"""A service on a Ray cluster of two nodes, as a program: ``ray_trial.py FOLDER PHASE``. It prints what it has come to, and asserts.

Ray reads its token once a process, so that each phase is a process of its own, as services are.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import ray
from node_cases import SMALL, Heard, begin, output, python, wait_until

from rltune.devices.execution.keeper import process_start
from rltune.service.nodes.ray_nodes import RayNodes, connect, on_machines
from rltune.service.nodes.remote import RemoteNode
from rltune.service.orders import Cut, Held, Stop

LOST_AFTER_S = 8.0
TALKS = python("import os, time\nprint('pid', os.getpid(), flush=True)\ntime.sleep(6000)")


def where(nodes: RayNodes, name: str) -> tuple[int, str]:
    """Process and Ray node of an actor."""
    call = nodes._links[name].actor.__ray_call__
    return ray.get(call.remote(lambda self: (os.getpid(), ray.get_runtime_context().get_node_id())))


def say(*words: object) -> None:
    print(*words, flush=True)


def pid_of(node: RemoteNode, run: str) -> int:
    wait_until(lambda: "pid" in output(node, run))
    return int(output(node, run).split()[1])


def connected(folder: Path) -> RayNodes:
    nodes = connect(None, on_machines("simulated:2xa100-80gb", f"{folder}/{{node}}", 0.0), LOST_AFTER_S)
    wait_until(lambda: set(nodes.nodes) == {"n0", "n1"} and nodes.wait(0.1), "both nodes")
    return nodes


def first(folder: Path) -> None:
    """Runs on both nodes; an actor is killed, and Ray begins it anew."""
    nodes = connected(folder)
    heard = {name: Heard(node) for name, node in nodes.nodes.items()}
    for name, node in nodes.nodes.items():
        node.carry_out(
            [begin(f"run-{name}", TALKS), begin(f"lease-{name}", (), (Held(1, SMALL),), (Cut(1, True, (SMALL,)),))]
        )
    for name, node in nodes.nodes.items():
        assert heard[name].wait("began", f"run-{name}").message.startswith("MIG-")
        heard[name].wait("began", f"lease-{name}")
        assert node.inventory().gpus[0].kind == "A100-80GB"
    process, ray_node = where(nodes, "n1")
    assert ray_node != where(nodes, "n0")[1]
    pid = pid_of(nodes.nodes["n1"], "run-n1")
    os.kill(process, signal.SIGKILL)
    heard["n1"].wait("began", "run-n1", 2)
    assert where(nodes, "n1")[0] != process and pid_of(nodes.nodes["n1"], "run-n1") == pid and process_start(pid)
    assert not heard["n1"].of("lost")
    nodes.nodes["n1"].carry_out([begin("short", ("sh", "-c", "exit 4"), (), ())])
    assert heard["n1"].wait("ended", "short").code == 4
    say("pids", where(nodes, "n0")[0], where(nodes, "n1")[0], pid)
    nodes.close()


def second(folder: Path) -> None:
    """Another service finds the same actors; a Ray node dies, is lost, and comes back."""
    nodes = connected(folder)
    say("pids", where(nodes, "n0")[0], where(nodes, "n1")[0], pid := pid_of(nodes.nodes["n1"], "run-n1"))
    n0, n1 = nodes.nodes["n0"], nodes.nodes["n1"]
    found = n1.inventory()
    assert found.runs == {"run-n1": "began", "lease-n1": "began", "short": "ended"} and found.codes == {"short": 4}
    heard0, heard1 = Heard(n0), Heard(n1)
    say("kill")
    sys.stdin.readline()
    heard1.wait("lost", "run-n1")
    heard1.wait("lost", "lease-n1")
    assert not n1.present and n0.present
    # Without its Ray node the machine's jobs go on.
    assert process_start(pid)
    n0.carry_out([Stop("run-n0"), begin("other", ("true",), cuts=())])
    assert heard0.wait("ended", "other").code == 0
    n1.carry_out([begin("refused")])
    heard1.wait("refused", "refused")
    say("start")
    sys.stdin.readline()
    wait_until(lambda: n1.present, f"n1; {nodes.notes}")
    wait_until(lambda: not process_start(pid), "the end of what was given up")
    n1.carry_out([begin("again", ("true",))])
    assert heard1.wait("ended", "again").code == 0
    assert set(n1.inventory().runs) == {"again", "short"}
    assert [one.run for one in heard1.of("ended")].count("run-n1") == 0
    say("done")
    nodes.close()


if __name__ == "__main__":
    {"first": first, "second": second}[sys.argv[2]](Path(sys.argv[1]))
