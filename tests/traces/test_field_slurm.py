"""What people meet in Slurm's accounting: slices and shares, attempts, clocks, reasons, near misses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rltune.api import simulate
from rltune.nouns.cluster import Cluster
from rltune.nouns.errors import InputError
from rltune.policies.knowledge import predict
from rltune.traces import Trace, load_trace
from rltune.traces.slurm_tres import asked

HEADER = "JobID|User|JobName|Submit|Eligible|Start|End|Elapsed|State|ReqTRES|AllocTRES"
SLICE, TWO = "gres/gpu=1,gres/gpu:a100_3g.20gb=1", "gres/gpu=2,gres/gpu:1g.10gb=2"


def line(job: str = "1", **changed: str) -> str:
    """A job of one GPU that was submitted at 9:00, started at 9:01 and ran an hour."""
    row = {
        "job": job, "user": "ann", "name": "t", "submit": "2025-03-03T09:00:00", "eligible": "2025-03-03T09:00:00",
        "start": "2025-03-03T09:01:00", "end": "2025-03-03T10:01:00", "elapsed": "01:00:00", "state": "COMPLETED",
        "req": "gres/gpu=1", "alloc": "gres/gpu=1",
    }  # fmt: skip
    return "|".join((row | changed).values())


def read(folder: Path, *lines: str, header: str = HEADER) -> Trace:
    path = folder / "sacct.txt"
    path.write_text("\n".join((header, *lines)) + "\n")
    return load_trace(path)


def refused(folder: Path, text: str) -> str:
    path = folder / "sacct.txt"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_trace(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("tres", "gpus", "milli", "mig", "kind"),
    [
        (SLICE, 1, 1000, "3g.20gb", "A100-40GB"),
        (TWO, 2, 1000, "1g.10gb", None),
        ("gres/gpu:nvidia_a100_80gb_pcie_1g.10gb=1", 1, 1000, "1g.10gb", "A100-80GB"),
        ("gres/gpu:h100-2g.20gb=1,gres/gpu=1", 1, 1000, "2g.20gb", "H100-80GB"),
        ("gres/gpu:a100_1g.10gb.me=1", 1, 1000, "1g.10gb+me", None),
        ("gres/gpu:h100=4,gres/gpu=4", 4, 1000, None, "h100"),
        ("cpu=4,gres/mps=25", 1, 250, None, None),
        ("gres/mps:a100=100,gres/mps=100", 1, 1000, None, None),
    ],
)
def test_slices_and_shares_are_no_whole_gpus(
    tres: str, gpus: int, milli: int, mig: str | None, kind: str | None
) -> None:
    """A seventh of a GPU would be simulated as a whole one."""
    found = asked(tres)
    assert (found.gpus, found.gpu_milli, found.mig, found.gpu_type, found.why_not) == (gpus, milli, mig, kind, "")


@pytest.mark.parametrize(
    ("tres", "told"),
    [
        ("gres/shard=4", "jobs on shares of GPUs (gres/shard"),
        ("gres/mps=150", "jobs with gres/mps above 100"),
        ("gres/gpu=2,gres/gpu:a100=1,gres/gpu:a100_1g.5gb=1", "jobs with whole GPUs and MIG slices together"),
        ("gres/gpu=2,gres/gpu:1g.5gb=1,gres/gpu:2g.10gb=1", "jobs with MIG slices of several profiles"),
        ("gres/npu=8", "jobs without a GPU (gres/npu)"),
        ("cpu=1", "jobs without a GPU"),
    ],
)
def test_what_the_table_cannot_hold_is_left_out_by_its_name(tmp_path: Path, tres: str, told: str) -> None:
    """Jobs on shards would be counted as jobs without a GPU, or vanish."""
    trace = read(tmp_path, line("1"), line("2", req=tres, alloc=tres))
    assert trace.jobs.job_id.tolist() == ["1"]
    assert any(note.startswith(f"1 {told}") and note.endswith(" left out") for note in trace.notes), trace.notes


def test_jobs_of_several_slices_are_told_and_dropped_on_request(tmp_path: Path) -> None:
    """One job of two slices would stop the simulation of a whole log, without a way out."""
    trace = read(tmp_path, line("1", alloc=SLICE), line("2", alloc=TWO))
    assert any("1 jobs ask for several MIG slices" in note for note in trace.notes)
    pool = {"nodes": 1, "gpus_per_node": 1, "gpu_type": "A100-40GB", "mig": True}
    cluster = Cluster.from_spec({"pools": [pool]})
    with pytest.raises(
        InputError, match=r"job 2 .* wants 2 MIG slices 1g.10gb, a simulated job takes one; .*oversized=drop"
    ):
        simulate(trace.jobs, cluster, policy="fifo", oversized="refuse")
    assert simulate(trace.jobs, cluster, policy="fifo", oversized="drop").finished.tolist() == [True, False]


def test_every_attempt_is_a_run(tmp_path: Path) -> None:
    """GPU-hours before a requeue would vanish as a job that has not ended, or the file be refused."""
    trace = read(
        tmp_path,
        line("7", state="REQUEUED", elapsed="01:04:49"),
        line("7", submit="2025-03-03T10:05:49", eligible="2025-03-03T10:05:49", start="2025-03-03T10:07:00", state="PREEMPTED"),
        line("7", submit="2025-03-03T11:50:00", eligible="2025-03-03T11:50:00", start="2025-03-03T12:00:00"),
        line("8"), line("8"),
        line("9"), line("9", user="bob", name="other", submit="2025-03-03T11:00:00", start="2025-03-03T11:01:00", eligible=""),
        line("10", state="REQUEUED", elapsed="00:00:00", start="Unknown", end="Unknown", alloc=""),
    )  # fmt: skip
    jobs = {name: k for k, name in enumerate(trace.jobs.job_id.tolist())}
    assert set(jobs) == {"7", "7#2", "7#3", "8", "9", "9#2"}
    assert trace.jobs.duration_s[jobs["7"]] == 3889 and trace.jobs.wait_s[jobs["7#2"]] == 71
    for told in (
        "1 jobs that never ran (REQUEUED) left out", "1 lines that repeat another left out", "1 jobs with several attempts",
        "1 ids that Slurm gave to several jobs",
    ):  # fmt: skip
        assert any(told in note for note in trace.notes), trace.notes


def test_attempts_that_the_log_lacks_are_told(tmp_path: Path) -> None:
    """A reader would take the last attempt for the whole job."""
    trace = read(tmp_path, line("7") + "|2", header=HEADER + "|Restarts")
    assert any("1 jobs were requeued before; only sacct --duplicates" in note for note in trace.notes)


def test_a_job_arrives_when_it_is_eligible(tmp_path: Path) -> None:
    """A job held by a dependency would wait six hours for GPUs, and a forecast be taken before what it may know."""
    trace = read(
        tmp_path,
        line("1", elapsed="06:00:00", end="2025-03-03T15:01:00"),
        line("2", submit="2025-03-03T09:00:05", eligible="2025-03-03T15:01:00", start="2025-03-03T15:01:30"),
        line("3", eligible="Unknown"),
    )
    jobs = trace.jobs
    assert jobs.job_id.tolist() == ["1", "3", "2"]
    assert (jobs.submit_s[2], jobs.wait_s[2]) == (21_660, 30)
    # Job 1, of the same user, has ended by then, so a forecast may know it; when 2 was submitted none could.
    assert np.isfinite(predict(jobs)[2]) and predict(jobs)[2] != predict(jobs)[0]
    without = read(tmp_path, line("1"), header=HEADER.replace("Eligible", "Comment"))
    assert any("no column Eligible" in note for note in without.notes)


def test_utc_offsets_and_seconds_since_1970(tmp_path: Path) -> None:
    """In the night of a clock change a job would start before it was submitted."""
    header = "JobID|Submit|Start|Elapsed|State|AllocTRES"
    offset = read(
        tmp_path,
        "951|2024-10-27T02:50:00+0200|2024-10-27T02:05:00+0100|01:00:00|COMPLETED|gres/gpu=1",
        "952|2024-10-27T01:00:00+0200|2024-10-27T01:10:00+0200|01:00:00|COMPLETED|gres/gpu=1",
        header=header,
    )
    assert (offset.jobs.submit_s.tolist(), offset.jobs.wait_s.tolist()) == ([0, 6600], [600, 900])
    assert any("dates here are those of +0200" in note for note in offset.notes)
    epoch = read(tmp_path, "951|1729990200|1729991100|01:00:00|COMPLETED|gres/gpu=1", header=header)
    assert (epoch.jobs.wait_s.tolist(), str(epoch.origin)) == ([900], "2024-10-27 00:50:00")
    local = read(tmp_path, "951|2024-10-27T02:50:00|2024-10-27T02:05:00|01:00:00|COMPLETED|gres/gpu=1", header=header)
    assert np.isnan(local.jobs.wait_s[0]) and any("1 jobs start before they were submitted" in n for n in local.notes)


@pytest.mark.parametrize(
    ("submit", "start", "told"),
    [
        ("1729990200000", "1729991100000", "milliseconds"),
        ("2024-10-27T02:50:00+0200", "2024-10-27T02:55:00", "with no UTC offset"),
        ("2024-10-27T02:50:00", "1729991100", "with a UTC offset"),
    ],
)
def test_clocks_that_cannot_be_compared_are_refused(tmp_path: Path, submit: str, start: str, told: str) -> None:
    """Milliseconds would be years, and waits wrong by hours."""
    text = f"JobID|Submit|Start|Elapsed|State|AllocTRES\n1|{submit}|{start}|01:00:00|COMPLETED|gres/gpu=1\n"
    message = refused(tmp_path, text)
    assert told in message and "row 2 (job 1)" in message


def test_components_are_one_gang(tmp_path: Path) -> None:
    """A heterogeneous job of 8 + 4 GPUs would be two jobs that never meet."""
    trace = read(
        tmp_path,
        line("5+0", alloc="cpu=8,gres/gpu=8"), line("5+1", alloc="cpu=4,gres/gpu=4", elapsed="01:30:00"),
        line("6+0", req="cpu=2", alloc="cpu=2"), line("6+1"), line("7+0", req="cpu=2", alloc="cpu=2"),
        line("7+1", req="cpu=2", alloc="cpu=2"),
    )  # fmt: skip
    assert (trace.jobs.job_id.tolist(), trace.jobs.num_gpus.tolist()) == (["5", "6"], [12, 1])
    assert (trace.jobs.duration_s[0], trace.jobs.cpus.tolist()) == (5400, [12, 2])
    assert "1 jobs without a GPU left out" in trace.notes
    assert any("2 heterogeneous jobs are one gang" in note for note in trace.notes)


def test_reasons_are_told_by_their_names(tmp_path: Path) -> None:
    """A job that was cancelled while pending would be one of 0 s, and a pending one "not ended"."""
    never = {"start": "2025-03-03T09:12:00", "elapsed": "00:00:00", "alloc": ""}
    trace = read(
        tmp_path,
        line("1"),
        line("500_[9201-10000%500]", state="PENDING", start="Unknown", elapsed="00:00:00", alloc=""),
        line("501", state="CANCELLED by 1003", **never),
        line("502", state="CANCELLED by 1003", **{**never, "start": "None"}),
        line("503", state="NODE_FAIL", elapsed="00:00:03"),
        line("504", state="CANCELLED by 7", elapsed="00:00:00"),
        line("505", state="DEADLINE", **never),
        line("506", state="RUNNING"),
    )
    assert trace.jobs.job_id.tolist() == ["1", "503", "504"]
    for told in (
        "1 jobs that are pending (rests of arrays)", "2 jobs cancelled while pending", "1 jobs that never ran (DEADLINE)",
        "1 jobs that have not ended",
    ):  # fmt: skip
        assert f"{told} left out" in trace.notes


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (line() + "\n", "without its line of names; leave out --noheader"),
        (HEADER.replace("|", ",") + "\n" + line().replace("|", ",") + "\n", "between commas"),
        ("JobID    JobName  Partition  State\n-------- -------- ------ -----\n1 a b c\n", "columns of spaces"),
        (
            HEADER.replace("Submit", "Comment") + "\n" + line() + "\n",
            "sacct output without submit; use sacct --parsable2",
        ),
        (HEADER.replace("JobID", "Job") + "\n" + line() + "\n", "sacct output without jobid"),
        (HEADER.replace("JobName", "User") + "\n" + line() + "\n", "column user stands twice"),
        (HEADER + "\n" + line(req="cpu=1", alloc="cpu=1,mem=1G") + "\n", "AccountingStorageTRES=gres/gpu"),
    ],
)
def test_near_misses_get_a_remedy(tmp_path: Path, text: str, told: str) -> None:
    """An operator would read that no format is known, or that no job has a GPU."""
    assert told in refused(tmp_path, text)


def test_json_of_slurm_gets_a_remedy(tmp_path: Path) -> None:
    """sacct --json would be called a damaged log of Philly."""
    assert "use sacct --parsable2" in refused(tmp_path, '{"jobs": [{"job_id": 1}], "meta": {}, "errors": []}')


def test_other_ways_to_write_it_are_read(tmp_path: Path) -> None:
    """--parsable's bar at the end, raw columns and files put together would be refused."""
    trace = read(tmp_path, line("1") + "|", header=HEADER + "|")
    assert trace.jobs.duration_s.tolist() == [3600]
    header = HEADER.replace("|Elapsed|", "|ElapsedRaw|")
    twice = read(tmp_path, line("1", elapsed="90"), header, line("2", elapsed="3600"), header=header)
    assert (twice.jobs.job_id.tolist(), twice.jobs.duration_s.tolist()) == (["1", "2"], [90, 3600])
