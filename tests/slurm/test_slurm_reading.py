"""One look at a queue, from outputs that were recorded, and as later versions of Slurm write them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from slurm_cases import DATA, recorded, recorded_look, recorded_nodes

from rltune.slurm.commands import NoJson, SlurmError
from rltune.slurm.moment import moment_of
from rltune.slurm.reading import LONGEST_S, jobs_of, queue_of, seen_of


def test_recorded_queue() -> None:
    """Jobs, array tasks, GPUs, limits and holds of a real Slurm would be misread."""
    seen = recorded_look()
    jobs = {job.id: job for job in seen.jobs}
    assert jobs["1"].held == ({"a100": 8},) and jobs["1"].nodes == ("n1",) and jobs["1"].limit_s == 600
    assert jobs["6"].asked.gpus == {"a100": 16} and jobs["6"].asked.nodes == 2 and jobs["6"].asked.per_node == 8
    assert jobs["8"].asked.gpus == {"a100_1g.10gb": 7}
    assert [name for name in jobs if name.startswith("9_")] == ["9_1", "9_2", "9_3", "9_4"]
    assert jobs["9_2"].whole == "9_[1-4]" and jobs["9_2"].array_most == 2 and jobs["9_2"].nice == 7
    assert jobs["10"].reason == "JobHeldUser" and jobs["10"].priority == 0
    assert jobs["15"].limit_s == LONGEST_S
    assert jobs["14"].asked.gpus == {"a100": 2} and jobs["14"].asked.cpus == 8
    assert "5" not in jobs, "a job of another partition"
    assert "5" in {job.id for job in seen.everywhere}


def test_recorded_nodes() -> None:
    """Types, counts, use and states of nodes would be misread."""
    nodes = {node.name: node for node in recorded_nodes()}
    assert nodes["n4"].gpus == {"a100": 6, "a100_3g.40gb": 2, "a100_1g.10gb": 7}
    assert nodes["n4"].used["a100_1g.10gb"] == 2
    assert not nodes["n3"].open and nodes["n1"].open
    assert nodes["n1"].cpus_free == 63
    assert [node.name for node in recorded_nodes("other")] == ["n1"]


def as_later(value: Any) -> Any:
    """A record as data parsers from v0.0.40 on write it: numbers as mappings, states as lists."""
    later = dict(value)
    for name in ("time_limit", "submit_time", "eligible_time", "start_time", "priority", "array_job_id", "node_count",
                 "tasks", "cpus", "max_nodes", "nice", "memory_per_node", "memory_per_cpu"):  # fmt: skip
        if name in later:
            later[name] = {"set": later[name] is not None, "infinite": False, "number": later[name] or 0}
    later["job_state"] = [later["job_state"]]
    for name in ("tres_per_node", "tres_per_job", "tres_per_task"):
        later[name] = later[name].replace("gres:", "gres/")
    return later


def test_later_parsers() -> None:
    """After an upgrade of Slurm the queue would be read as empty, or as something else."""
    for record in recorded()["jobs"]:
        assert jobs_of(as_later(record)) == jobs_of(record)


def test_a_record_that_cannot_be_read() -> None:
    """One odd job would stop the service, or vanish without a word."""
    queue = recorded()
    del queue["jobs"][0]["job_state"]
    seen = seen_of(queue, recorded_nodes(), "main", 0.0)
    assert "left alone" in seen.notes[0] and "job_state" in seen.notes[0]
    assert len(seen.everywhere) == len(recorded_look().everywhere) - 1


def test_no_list_of_jobs() -> None:
    """An answer of another shape would end in a traceback."""
    with pytest.raises(SlurmError, match="has no list"):
        seen_of({"jobs": None}, recorded_nodes(), "main", 0.0)


class Told:
    """A Slurm that answers from the recorded files; ``json``: None where it writes none."""

    def __init__(self, queue: Any) -> None:
        self.queue, self.asked = queue, 0

    def json(self, *words: str) -> Any:
        if self.queue is None:
            raise NoJson("squeue --json: unrecognized option '--json'")
        return self.queue

    def run(self, *words: str) -> str:
        assert words[:3] == ("scontrol", "show", "job")
        self.asked += 1
        return (DATA / "jobs-22.05.txt").read_text()


@pytest.fixture
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """scontrol writes local times; the files were recorded in UTC."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_without_json_the_same_is_read(utc: None) -> None:
    """A Slurm without JSON would be unusable, or its queue would be another one."""
    text = queue_of(Told(None))
    by_json = {job.id: job for record in recorded()["jobs"] for job in jobs_of(record)}
    by_text = {job.id: job for record in text["jobs"] for job in jobs_of(record)}
    assert by_text == by_json


def test_what_running_jobs_hold_is_looked_up(utc: None) -> None:
    """Where the JSON does not say what a job holds, its GPUs would never be expected back."""
    queue = recorded()
    for record in queue["jobs"]:
        record["gres_detail"] = []
    slurm = Told(queue)
    found = queue_of(slurm)
    assert [job.held for record in found["jobs"] for job in jobs_of(record)] == [
        job.held for record in recorded()["jobs"] for job in jobs_of(record)
    ]
    slurm = Told(recorded())
    queue_of(slurm)
    assert slurm.asked == 0, "one command less where it is told"


def test_exclusive_jobs_and_memory() -> None:
    """A job that wants a whole node would be sent to one that others use."""
    moment = moment_of(recorded_look())
    assert {each.id: why for each, why in moment.apart}["18"] == "asks for whole nodes"
    assert {job.id: job for job in recorded_look().jobs}["19"].asked.memory_mb == 500
