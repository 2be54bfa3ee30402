"""A disk that is full: nothing begins unrecorded, nothing that runs is lost, and what could not be written is told."""

from __future__ import annotations

import os
import subprocess

import pytest
from node_cases import Heard, begin, output, python, wait_until

from rltune.devices.adapter import Adapter
from rltune.devices.simulated import SimulatedDriver
from rltune.service.nodes.local import LocalNode
from rltune.service.nodes.shepherd import LOG, Log

SIZE = 1 << 20


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "rltune-test", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here (root only)")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def node_on(folder, tmp_path):
    adapter = Adapter(SimulatedDriver(["a100-80gb"], pace=0.0, file=tmp_path / "machine.json"), tmp_path / "store")
    return LocalNode("n1", adapter, folder)


def fill(folder):
    with open(folder / "full", "ab") as file:
        for size in (1 << 12, 1):
            try:
                while True:
                    os.write(file.fileno(), b"x" * size)
            except OSError:
                pass


def test_a_full_disk_refuses_new_runs_and_keeps_those_that_run(small_disk, tmp_path):
    """A job would begin that a restart cannot find, or a running one seem to run for ever."""
    node = node_on(small_disk, tmp_path)
    heard = Heard(node)
    code = "import sys\nprint('ready', flush=True)\nfor n in range(2000): print('x' * 99)\nsys.exit(6)"
    wait = f"import os, time\nwhile not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(0.01)\n"
    node.carry_out([begin("a", python("print('before', flush=True)\n" + wait + code), (), ())])
    wait_until(lambda: "before" in output(node, "a"))
    fill(small_disk)
    node.carry_out([begin("b", ("true",), (), ())])
    assert "No space left" in heard.wait("refused", "b").message
    (tmp_path / "go").touch()
    assert heard.wait("ended", "a").code == 6
    assert node.inventory().runs == {"a": "ended"}
    node.close()
    node = node_on(small_disk, tmp_path)
    assert node.inventory().codes == {"a": 6}
    os.unlink(small_disk / "full")
    node.carry_out([begin("b", ("true",), (), ())])
    assert Heard(node).wait("ended", "b").code == 0
    node.close()


def test_output_that_a_full_disk_did_not_take_is_told(tmp_path, monkeypatch):
    """A log with a hole would be read as if nothing were missing."""
    monkeypatch.chdir(tmp_path)
    log = Log(1000)
    log.write(b"before\n")
    kept, full = os.dup(log.file), os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, log.file)
    log.write(b"lost\n")
    log.write(b"lost too\n")
    os.dup2(kept, log.file)
    log.write(b"after\n")
    log.close()
    assert (tmp_path / LOG).read_text() == "before\n[rltune: 14 bytes of output could not be written here]\nafter\n"
    os.close(kept), os.close(full)
