"""Beside a real Slurm: one munged, slurmctld and four slurmd on this machine, with GPUs and slices that are made up."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rltune.slurm.commands import Slurm, SlurmError
from rltune.slurm.deciding import Decider
from rltune.slurm.moment import moment_of
from rltune.slurm.reading import counts_memory, default_partition, look
from rltune.slurm.rehearsal import Wanted, not_here, rehearsed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("slurm"),
    pytest.mark.skipif(bool(not_here()), reason=f"no real Slurm: {not_here()}"),
]
NODES = {
    "n1": {"a100": 8},
    "n2": {"a100": 8},
    "n3": {"a100": 8},
    "n4": {"a100": 6, "a100_3g.40gb": 2, "a100_1g.10gb": 7},
}
ROOT = Path(__file__).parents[2]
SOON_S = 300.0
"""Patience on a loaded machine; nothing takes as long."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Slurm]:
    with rehearsed(Wanted(NODES, {"main": None, "other": ["n1"]})) as slurm:
        yield slurm


@pytest.fixture
def slurm(cluster: Slurm) -> Iterator[Slurm]:
    """An empty queue, before and after."""
    yield cluster
    while listed := cluster.run("squeue", "-h", "-a", "-o", "%A").split():
        cluster.run("scancel", "--quiet", *listed)
        time.sleep(0.2)


def submit(slurm: Slurm, *words: str, seconds: int = 300) -> str:
    done = slurm.run("sbatch", "-o", "/dev/null", "-t", "10", *words, "--wrap", f"exec sleep {seconds}")
    return done.split()[-1]


def busy(slurm: Slurm) -> str:
    """A job on six GPUs of each node, which runs."""
    name = submit(slurm, "-N4", "--gres=gpu:a100:6", seconds=600)
    soon(lambda: state(slurm, name)[0] == "RUNNING", "the nodes are busy")
    return name


def job(slurm: Slurm, name: str) -> dict[str, Any]:
    told = {str(each["job_id"]): each for each in slurm.json("squeue", "--json")["jobs"]}
    return dict(told[name])


def state(slurm: Slurm, name: str) -> tuple[str, str, int, str]:
    found = job(slurm, name)
    return found["job_state"], found["state_reason"], found["nice"] or 0, found["required_nodes"]


def soon(true: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + SOON_S
    while not (found := true()):
        assert time.monotonic() < end, what
        time.sleep(0.2)
    return found


class Run:
    """``python -m rltune.slurm`` beside this Slurm."""

    def __init__(self, slurm: Slurm, folder: Path, *options: str) -> None:
        self.state = folder / "state.json"
        words = [sys.executable, "-m", "rltune.slurm", f"state={self.state}", "poll_s=0.2", "every_s=3600", *options]
        self.process = subprocess.Popen(
            words,
            env={**os.environ, "SLURM_CONF": str(slurm.conf)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def log(self) -> list[dict[str, Any]]:
        path = self.state.with_suffix(".jsonl")
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=SOON_S)
        return self.process.returncode, out, err


def test_what_is_read(slurm: Slurm) -> None:
    """Free GPUs and slices would be counted wrongly beside this version of Slurm."""
    submit(slurm, "--gres=gpu:a100:3")
    submit(slurm, "--gres=gpu:a100_1g.10gb:2")
    other = submit(slurm, "-p", "other", "-H", "--gres=gpu:a100:1")
    assert default_partition(slurm, None) == "main" and counts_memory(slurm) is False
    soon(lambda: len([1 for each in look(slurm, "main").jobs if not each.pending]) == 2, "two jobs run")
    seen = soon(
        lambda: (s := look(slurm, "main")) and sum(n.used.get("a100", 0) for n in s.nodes) == 3 and s, "nodes count"
    )
    free = dict.fromkeys(["a100", "a100_3g.40gb", "a100_1g.10gb"], 0)
    moment = moment_of(seen)
    for place, count in zip(moment.places, moment.snapshot.free, strict=True):
        free[place.kind] += int(count)
    assert free == {"a100": 27, "a100_3g.40gb": 2, "a100_1g.10gb": 5}
    assert other not in {each.id for each in seen.jobs}


def test_advice_changes_nothing(slurm: Slurm, tmp_path: Path) -> None:
    """Somebody who wants to look first would have his queue changed."""
    busy(slurm)
    wide = submit(slurm, "--gres=gpu:a100:8")
    before = soon(lambda: state(slurm, wide)[1] == "Resources" and state(slurm, wide), "Slurm has looked at it")
    run = Run(slurm, tmp_path, "once=true", "policy=sjf", "allocator=milp")
    out, err = run.process.communicate(timeout=SOON_S)
    assert run.process.returncode == 0, err
    assert wide in out and "wants 8 a100" in out
    assert state(slurm, wide) == before


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_priority(slurm: Slurm, tmp_path: Path, end: int) -> None:
    """Slurm would not follow the policy's order, or would keep our priorities after the end, a kill included."""
    blocker = busy(slurm)
    long = submit(slurm, "-t", "60", "--gres=gpu:a100:8", "--nice=4")
    short = submit(slurm, "-t", "5", "--gres=gpu:a100:8", "--nice=2")
    other = submit(slurm, "-p", "other", "--gres=gpu:a100:8")
    held = submit(slurm, "-H", "--gres=gpu:a100:8")
    before = {name: job(slurm, name)["priority"] for name in (long, short, other, held)}
    run = Run(slurm, tmp_path, "depth=priority", "policy=sjf")
    soon(lambda: job(slurm, short)["priority"] > job(slurm, long)["priority"] > before[long], "priorities are set")
    assert job(slurm, other)["priority"] == before[other] and state(slurm, held)[1] == "JobHeldUser"
    late = submit(slurm, "-t", "2", "--gres=gpu:a100:8")
    soon(lambda: job(slurm, late)["priority"] > job(slurm, short)["priority"], "a job that comes later wakes it")
    if end == signal.SIGTERM:
        slurm.run("scancel", blocker)
        soon(lambda: state(slurm, late)[0] == "RUNNING", "the shortest starts")
    status, _, err = run.end(end)
    if end == signal.SIGTERM:
        assert status == 143 and "control was given back" in err
    else:
        again = Run(slurm, tmp_path, "release")
        again.process.communicate(timeout=SOON_S)
    assert soon(
        lambda: job(slurm, long)["priority"] == before[long] or job(slurm, long)["job_state"] == "RUNNING", "given back"
    )
    for name, nice in ((long, 4), (short, 2)):
        if job(slurm, name)["job_state"] == "PENDING":
            assert job(slurm, name)["nice"] == nice and job(slurm, name)["priority"] == before[name]


def test_place(slurm: Slurm, tmp_path: Path) -> None:
    """Jobs would start elsewhere than decided; or those that are not ours would be held."""
    blocker = busy(slurm)
    other = submit(slurm, "-p", "other", "--gres=gpu:a100:8")
    gang = submit(slurm, "-N2", "-t", "30", "--gres=gpu:a100:8", seconds=300)
    slices = submit(slurm, "--gres=gpu:a100_1g.10gb:3")
    array = submit(slurm, "-t", "20", "--array=1-3", "--gres=gpu:a100:6")
    run = Run(slurm, tmp_path, "depth=place", "policy=sjf", "allocator=milp", "patience_s=60")
    soon(lambda: state(slurm, gang)[1] == "JobHeldAdmin", "the gang is held")
    soon(lambda: state(slurm, slices)[0] == "RUNNING", "a slice job starts beside them")
    assert (
        job(slurm, slices)["nodes"] == "n4"
        and state(slurm, other)[0] == "PENDING"
        and state(slurm, other)[1] != "JobHeldAdmin"
    )
    slurm.run("scancel", other, blocker)
    decided = soon(
        lambda: [each for line in run.log() for each in line.get("starts", []) if each["job"].startswith(f"{array}_")][
            :3
        ],
        "tasks are placed",
    )
    running = soon(lambda: _running(slurm, array) or None, "a task of the array runs")
    where = {each["job"]: each["nodes"] for each in decided}
    for name, nodes in running.items():
        if name in where:
            assert nodes == where[name]
    status, _, err = run.end()
    assert status == 143, err
    for each in slurm.json("squeue", "--json")["jobs"]:
        if each["job_state"] == "PENDING":
            assert each["state_reason"] != "JobHeldAdmin" and each["required_nodes"] == ""


def _running(slurm: Slurm, array: str) -> dict[str, list[str]]:
    return {
        f"{array}_{each['array_task_id']}": [each["nodes"]]
        for each in slurm.json("squeue", "--json")["jobs"]
        if str(each["array_job_id"]) == array and each["job_state"] == "RUNNING"
    }


def test_a_kill_while_jobs_are_held(slurm: Slurm, tmp_path: Path) -> None:
    """After a power cut the queue would stand still until somebody finds out why."""
    busy(slurm)
    waits = [submit(slurm, "--gres=gpu:a100:8") for _ in range(4)]
    run = Run(slurm, tmp_path, "depth=place", "policy=sjf")
    soon(lambda: all(state(slurm, name)[1] == "JobHeldAdmin" for name in waits), "all are held")
    run.end(signal.SIGKILL)
    again = Run(slurm, tmp_path, "depth=advise", "once=true")
    _, err = again.process.communicate(timeout=SOON_S)
    assert again.process.returncode == 0, err
    assert "4 jobs given back to Slurm" in err
    assert all(state(slurm, name)[1] != "JobHeldAdmin" for name in waits)


def test_slurm_itself_takes_what_we_say(slurm: Slurm) -> None:
    """A version of Slurm that answers otherwise than the one in memory of the other tests would go unnoticed."""
    busy(slurm)
    name = submit(slurm, "--gres=gpu:a100:8", "--nice=3")
    own = job(slurm, name)["priority"]
    slurm.update(name, "Priority=1000000")
    assert (job(slurm, name)["priority"], job(slurm, name)["nice"] or 0) == (1_000_000, 0), "a priority takes nice away"
    slurm.hold(name)
    assert state(slurm, name)[1] == "JobHeldAdmin"
    slurm.update(name, "ReqNodeList=n3")
    slurm.release(name)
    assert (job(slurm, name)["priority"], state(slurm, name)[3]) == (own, "n3"), (
        "a release gives Slurm's own priority back"
    )
    slurm.update(name, "ReqNodeList=")
    slurm.update(name, "Nice=3")
    assert state(slurm, name)[2:] == (3, "")
    with pytest.raises(SlurmError, match="Invalid job id"):
        slurm.update("99999", "Priority=1")


def test_every_policy_and_allocator_decides(slurm: Slurm) -> None:
    """A name of the command line would fail beside a real queue only."""
    busy(slurm)
    # Two GPUs of some nodes are free, and none of these fits there.
    names = {submit(slurm, f"--gres=gpu:a100:{gpus}") for gpus in (8, 4, 6)}
    soon(lambda: all(state(slurm, name)[0] == "PENDING" for name in names), "they wait")
    for policy in ("fifo", "f1", "wfp3", "helios_window"):
        for allocator in ("best_fit", "milp"):
            seen = look(slurm, "main")
            found = Decider(policy, {"name": allocator}, "easy").decide(seen, moment_of(seen))
            assert {row.job.id for row in found.rows} == names and not found.starts, f"{policy}, {allocator}: {found}"


SPEC = """version: 1
gpus:
  - gpu: 0
    instances: [3g.40gb, 3g.40gb]
"""


def test_epilog_and_prolog_of_slurmd() -> None:
    """What slurmd tells its scripts may differ from what they ask for: nodes would be drained, or never be cut."""
    spec = Path(tempfile.mkdtemp(prefix="rltune-mig-"))
    try:
        (spec / "mig.yaml").write_text(SPEC)
        for name in ("prolog", "epilog"):
            script = spec / name
            environment = {"RLTUNE_STATE": f"{spec}/$SLURMD_NODENAME", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
                           "PATH": os.environ["PATH"]}  # fmt: skip
            exports = " ".join(f'{key}="{value}"' for key, value in environment.items())
            more = " resume=true mig_mode=true" if name == "epilog" else ""
            script.write_text(
                f"#!/bin/sh\nexport {exports}\nexec {sys.executable} -m rltune.slurm {name} spec={spec}/mig.yaml "
                f"device=simulated:a100-80gb pace=0{more} 2>>{spec}/{name}.log\n"
            )
            script.chmod(0o755)
        nodes = {"n1": {"a100_3g.40gb": 2}}
        with rehearsed(Wanted(nodes, settings={"Epilog": f"{spec}/epilog"})) as slurm:
            submit(slurm, "--gres=gpu:a100_3g.40gb:1", seconds=1)
            soon(lambda: not slurm.run("squeue", "-h", "-o", "%A").strip(), "a job ends on a node in service")
            assert not (spec / "n1" / "devices.sqlite").exists() or "are as" not in (spec / "epilog.log").read_text()
            last = submit(slurm, "--gres=gpu:a100_3g.40gb:1", seconds=3)
            soon(lambda: state(slurm, last)[0] == "RUNNING", "a job runs")
            slurm.run("scontrol", "update", "NodeName=n1", "State=DRAIN", "Reason=mig")
            soon(
                lambda: "goes back to service" in (spec / "epilog.log").read_text(),
                "the epilog of the last job cuts the drained node",
            )
            soon(lambda: "idle" in slurm.run("sinfo", "-h", "-N", "-o", "%T"), "the node is back")
        with rehearsed(Wanted(nodes, settings={"Prolog": f"{spec}/prolog", "PrologFlags": "Alloc"})) as slurm:
            good = submit(slurm, "--gres=gpu:a100_3g.40gb:1", seconds=1)
            soon(lambda: job(slurm, good)["job_state"] == "COMPLETED", "a job runs on the instances of the spec")
            (spec / "mig.yaml").write_text(SPEC.replace("[3g.40gb, 3g.40gb]", "[7g.80gb]"))
            submit(slurm, "--gres=gpu:a100_3g.40gb:1", seconds=1)
            soon(
                lambda: "drain" in slurm.run("sinfo", "-h", "-N", "-o", "%T"), "other instances: Slurm drains the node"
            )
            assert "MIG instances are not as" in (spec / "prolog.log").read_text()
    finally:
        shutil.rmtree(spec)
