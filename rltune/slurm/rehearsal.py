"""A real Slurm on this machine, with nodes and GPUs that are made up: for tests, experiments, and to try before it is meant.

One munged, one slurmctld and a slurmd a node, in a folder of their own on free ports; jobs run as ordinary processes. As root, with
Debian's packages slurmctld, slurmd, slurm-client and munge (not slurm-wlm-emulator, which takes over the daemons' names).
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from rltune.nouns.errors import RunError
from rltune.slurm.commands import Slurm, SlurmError

PROGRAMS = ("munged", "slurmctld", "slurmd", "squeue", "scontrol", "sbatch", "sinfo")
UP_S, STOP_S = 180.0, 30.0
"""Patience until all nodes are idle, and until a daemon has ended."""
SETTINGS = {
    # No systemd, no cgroups, no accounting; nodes may have more CPUs than the machine.
    "AuthType": "auth/munge", "ProctrackType": "proctrack/linuxproc", "TaskPlugin": "task/none", "MpiDefault": "none",
    "JobAcctGatherType": "jobacct_gather/none", "SlurmdParameters": "config_overrides", "GresTypes": "gpu",
    "ReturnToService": "2", "SlurmUser": "root", "MailProg": "/bin/true", "InactiveLimit": "0", "KillWait": "2",
    "SelectType": "select/cons_tres", "SelectTypeParameters": "CR_Core",
    "SchedulerType": "sched/backfill", "SchedulerParameters": "bf_interval=2,bf_resolution=1",
    "PriorityType": "priority/multifactor",
}  # fmt: skip


def not_here() -> str:
    """Why no Slurm can be rehearsed on this machine; "" where it can."""
    sbin = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    if missing := [name for name in PROGRAMS if shutil.which(name, path=sbin) is None]:
        return f"{', '.join(missing)} not installed (Debian, Ubuntu: apt install slurmctld slurmd slurm-client munge)"
    if os.geteuid() != 0:
        return "a Slurm is rehearsed as root only: its daemons start jobs of other users"
    return ""


@dataclass(frozen=True)
class Wanted:
    """``nodes``: name -> GPUs by type; ``partitions``: name -> nodes (None: all; the first is the default one); ``settings``: further
    lines of slurm.conf. ``cpus``, ``memory_mb``: of each node."""

    nodes: Mapping[str, Mapping[str, int]]
    partitions: Mapping[str, Sequence[str] | None] = field(default_factory=lambda: {"main": None})
    settings: Mapping[str, str] = field(default_factory=dict)
    cpus: int = 64
    memory_mb: int = 64_000


@contextmanager
def rehearsed(wanted: Wanted) -> Iterator[Slurm]:
    """Commands of a Slurm that runs within the block. RunError where it cannot be started; see `not_here`."""
    if reason := not_here():
        raise RunError(f"no Slurm here: {reason}")
    folder = Path(tempfile.mkdtemp(prefix="rltune-slurm-"))
    folder.chmod(0o755)
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        _write(folder, wanted)
        socket_of = folder / "munge" / "munge.sock"
        munge = [f"--{name}={folder / 'munge' / file}" for name, file in MUNGE.items()]
        daemons.append(_start(["munged", "--foreground", "--force", *munge], folder))
        _until(socket_of.exists, "munged", folder)
        slurm = conf_of(folder)
        conf = str(slurm.conf)
        daemons.append(_start(["slurmctld", "-D", "-i", "-f", conf], folder))
        daemons.extend(_start(["slurmd", "-D", "-N", name, "-f", conf], folder, name) for name in wanted.nodes)
        _until(lambda: _idle(slurm) == len(wanted.nodes), "the nodes", folder)
        yield slurm
    finally:
        _cancel(conf_of(folder))
        _stop(daemons)
        shutil.rmtree(folder, ignore_errors=True)


MUNGE = {
    "key-file": "munge.key",
    "socket": "munge.sock",
    "pid-file": "munged.pid",
    "log-file": "munged.log",
    "seed-file": "munge.seed",
}


def _write(folder: Path, wanted: Wanted) -> None:
    """Folders, key, made-up GPUs, slurm.conf and gres.conf."""
    for name in ("munge", "state", "spool", "gpus", "log"):
        (folder / name).mkdir()
    key = folder / "munge" / "munge.key"
    key.touch(mode=0o400)
    key.write_bytes(os.urandom(1024))
    host, ports = socket.gethostname().partition(".")[0], _free_ports(len(wanted.nodes) + 1)
    lines = [
        "ClusterName=rehearsal",
        f"SlurmctldHost={host}(127.0.0.1)",
        f"SlurmctldPort={ports[0]}",
        f"AuthInfo=socket={folder}/munge/munge.sock",
        f"StateSaveLocation={folder}/state",
        f"SlurmdSpoolDir={folder}/spool/%n",
        f"SlurmctldPidFile={folder}/slurmctld.pid",
        f"SlurmdPidFile={folder}/%n.pid",
        f"SlurmctldLogFile={folder}/log/slurmctld.log",
        f"SlurmdLogFile={folder}/log/%n.log",
        *(f"{name}={value}" for name, value in (SETTINGS | dict(wanted.settings)).items()),
    ]
    gres = ["AutoDetect=off"]
    for port, (node, gpus) in zip(ports[1:], wanted.nodes.items(), strict=True):
        (folder / "spool" / node).mkdir()
        listed = ",".join(f"gpu:{kind}:{count}" for kind, count in gpus.items())
        lines.append(
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={wanted.cpus} "
            f"RealMemory={wanted.memory_mb}" + (f" Gres={listed}" if listed else "")
        )
        number = 0
        for kind, count in gpus.items():
            for k in range(number, number + count):
                # Slurm wants a device a GPU or slice; these are as /dev/null.
                os.mknod(folder / "gpus" / f"{node}-{k}", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
            files = f"{folder}/gpus/{node}-[{number}-{number + count - 1}]"
            gres.append(f"NodeName={node} Name=gpu Type={kind} File={files}")
            number += count
    for k, (name, nodes) in enumerate(wanted.partitions.items()):
        listed = "ALL" if nodes is None else ",".join(nodes)
        lines.append(f"PartitionName={name} Nodes={listed} Default={'YES' if k == 0 else 'NO'} MaxTime=2-0 State=UP")
    (folder / "slurm.conf").write_text("\n".join(lines) + "\n")
    (folder / "gres.conf").write_text("\n".join(gres) + "\n")


def _free_ports(n: int) -> list[int]:
    """n ports that nothing listens on; held together, so that they are unlike."""
    sockets = [socket.socket() for _ in range(n)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _start(words: Sequence[str], folder: Path, name: str = "") -> subprocess.Popen[bytes]:
    """A daemon in the foreground, with a low claim to the machine's CPUs and a session of its own."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    with open(folder / "log" / f"{words[0]}{name}.out", "wb") as out:
        return subprocess.Popen(
            ["nice", "-n", "5", *words], stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True,
            env={**os.environ, "PATH": path},
        )  # fmt: skip


def _idle(slurm: Slurm) -> int:
    """Nodes that are idle."""
    try:
        told = {line for line in slurm.run("sinfo", "-h", "-N", "-o", "%N %T").splitlines() if line.endswith(" idle")}
        return len(told)
    except SlurmError:
        return -1


def _until(ready: Callable[[], object], what: str, folder: Path) -> None:
    end = time.monotonic() + UP_S
    while not ready():
        if time.monotonic() > end:
            last = [
                line
                for path in sorted((folder / "log").iterdir())
                for line in path.read_text(errors="replace").splitlines()[-3:]
            ]
            raise RunError(f"{what} did not come up within {UP_S:g} s: {' | '.join(last)}")
        time.sleep(0.1)


def conf_of(folder: Path) -> Slurm:
    return Slurm(conf=str(folder / "slurm.conf"))


def _cancel(slurm: Slurm) -> None:
    """End all jobs: their processes would outlive the daemons."""
    with suppress(SlurmError):
        end = time.monotonic() + STOP_S
        while (jobs := slurm.run("squeue", "-h", "-a", "-o", "%A").split()) and time.monotonic() < end:
            slurm.run("scancel", "--quiet", *jobs)
            time.sleep(0.3)


def _stop(daemons: Sequence[subprocess.Popen[bytes]]) -> None:
    """End what was started, the nodes first; what does not end in time is killed."""
    for each in reversed(daemons):
        with suppress(ProcessLookupError):
            each.terminate()
    for each in reversed(daemons):
        try:
            each.wait(STOP_S)
        except subprocess.TimeoutExpired:
            each.kill()
            each.wait()
