"""Every format is recognised by its content and read right; the rows are made up."""

import gzip
import json
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rltune.nouns.errors import InputError
from rltune.nouns.jobs import JobTable
from rltune.traces import Trace, load_trace, philly_cluster, plain, read_philly_machines
from rltune.traces.rltune_csv import COLUMNS as RLTUNE_COLUMNS

HELIOS_LOG = """job_id,user,vc,gpu_num,cpu_num,node_num,state,submit_time,start_time,end_time,duration,queue
11,uA,vcX,8,64,1,COMPLETED,2020-04-01 00:00:30,2020-04-01 00:01:00,2020-04-01 00:02:00,60,30
12,uA,vcX,0,4,1,COMPLETED,2020-04-01 00:00:00,2020-04-01 00:00:00,2020-04-01 00:00:09,9,0
13,uB,vcY,1,8,1,FAILED,2020-04-01 00:00:10,2020-04-01 00:00:10,2020-04-01 00:00:15,5,0
"""
RLTUNE_ROW = "job-{0},{0},{1},25,8,-1,-1,4,-1,29.3,2,7,1,-1,0,-1,-1,{2},{3}"


def philly_attempt(start: str, end: str, gpus: int) -> dict[str, object]:
    """One attempt on one machine."""
    detail = [{"ip": "m1", "gpus": [f"gpu{k}" for k in range(gpus)]}] if gpus else []
    return {"start_time": start, "end_time": end, "detail": detail}


def philly_job(jobid: str, submitted: str, *attempts: dict[str, object]) -> dict[str, object]:
    """One record of the Philly log."""
    return {
        "status": "Pass", "vc": "v1", "jobid": jobid, "attempts": list(attempts),
        "submitted_time": submitted, "user": "u1",
    }  # fmt: skip


def write(path: Path, text: str) -> str:
    """The path of a new file with that text."""
    path.write_text(text)
    return str(path)


def test_plain_csv_keeps_every_column(tmp_path: Path) -> None:
    """A user's own file would lose its VCs, users or priorities."""
    text = (
        "Job_ID,submit_s,duration_s,num_gpus,gpu_type,vc,user,priority,cpus,memory_gb,status,name\n"
        "007,10,5.5,2,V100,research,ann,3,8,64,COMPLETED,resnet\n\n"
        "b,20,0,1,,,,,,,,\n"
    )
    trace = load_trace(write(tmp_path / "jobs.csv", text))
    jobs = trace.jobs
    assert (trace.name, trace.source, trace.files) == ("jobs.csv", "user", ("jobs.csv",))
    assert list(jobs.job_id) == ["007", "b"]
    assert list(jobs.gpu_type.values()) == ["V100", None]
    assert (jobs.priority[0], jobs.cpus[0], jobs.memory_gb[0], jobs.duration_s[0]) == (3, 8, 64, 5.5)
    assert (jobs.vc.names, jobs.user.names, jobs.status.names) == (("research",), ("ann",), ("COMPLETED",))


def test_unsorted_file_is_sorted_and_says_so(tmp_path: Path) -> None:
    """The order of rows would decide who came first."""
    path = write(tmp_path / "jobs.csv", "job_id,submit_s,duration_s,num_gpus\nb,20,1,1\na,10,1,1\n")
    trace = load_trace(path)
    assert list(trace.jobs.job_id) == ["a", "b"]
    assert any("sorted" in note for note in trace.notes)


def test_helios_log_counts_cpu_jobs_and_keeps_the_wait(tmp_path: Path) -> None:
    """CPU jobs would queue for GPUs, or vanish without a word."""
    trace = load_trace(write(tmp_path / "cluster_log.csv", HELIOS_LOG))
    assert list(trace.jobs.job_id) == ["13", "11"]
    assert list(trace.jobs.submit_s) == [0, 20]
    assert list(trace.jobs.wait_s) == [0, 30]
    assert list(trace.jobs.vc.values()) == ["vcY", "vcX"]
    assert trace.origin == datetime(2020, 4, 1, 0, 0, 10)
    assert "1 jobs without a GPU left out" in trace.notes


def test_original_helios_log_in_the_folder_is_helios(no_traces: Path) -> None:
    """A user who has the real log would be given generated jobs."""
    (no_traces / "Venus").mkdir()
    write(no_traces / "Venus" / "cluster_log.csv", HELIOS_LOG)
    trace = load_trace("helios")
    assert (trace.source, trace.label, len(trace)) == ("real", "helios", 2)


def test_philly_log_sums_attempts_and_counts_what_is_left_out(tmp_path: Path) -> None:
    """Retries would be lost, and jobs that never ran would run."""
    log = [
        philly_job(
            "a",
            "2017-10-01 00:00:00",
            philly_attempt("2017-10-01 00:00:10", "2017-10-01 00:01:10", 2),
            philly_attempt("2017-10-01 00:02:00", "2017-10-01 00:02:30", 4),
            philly_attempt("2017-10-01 00:03:00", "None", 4),
        ),
        philly_job("b", "2017-10-01 00:00:05"),
        philly_job("c", "2017-10-01 00:00:06", philly_attempt("2017-10-01 00:00:07", "None", 1)),
        philly_job("d", "2017-10-01 00:00:08", philly_attempt("2017-10-01 00:00:09", "2017-10-01 00:00:19", 0)),
    ]
    trace = load_trace(write(tmp_path / "cluster_job_log.json", json.dumps(log)))
    assert list(trace.jobs.job_id) == ["a"]
    assert (trace.jobs.num_gpus[0], trace.jobs.duration_s[0], trace.jobs.wait_s[0]) == (2, 90, 10)
    for count in (
        "1 jobs without an attempt",
        "1 jobs without a finished attempt",
        "1 jobs without a recorded GPU",
        "1 jobs with an attempt of unknown start or end",
    ):
        assert any(note.startswith(count) for note in trace.notes), count


def test_philly_seconds_run_through_the_clock_change(tmp_path: Path) -> None:
    """A job across the night of 2017-11-05 would run an hour too short."""
    attempt = philly_attempt("2017-11-05 00:30:00", "2017-11-05 02:30:00", 1)
    path = write(tmp_path / "log.json", json.dumps([philly_job("a", "2017-11-05 00:00:00", attempt)]))
    assert load_trace(path).jobs.duration_s[0] == 3 * 3600


def test_sia_rows_are_named_in_stable_order_of_time(tmp_path: Path) -> None:
    """The golden schedules name jobs so; another tie-break would compare other jobs."""
    text = (
        "timestamp,duration,num_gpus,gpu_time,cluster\n2017-10-09 07:00:05,66.0,1,66.0,x\n"
        "2017-10-09 07:00:00,5.0,2,10.0,y\n2017-10-09 07:00:05,7.0,4,28.0,x\n"
    )
    jobs = load_trace(write(tmp_path / "philly.csv", text)).jobs
    assert list(jobs.job_id) == ["philly-00000", "philly-00001", "philly-00002"]
    assert list(jobs.submit_s) == [0, 5, 5]
    assert list(jobs.duration_s) == [5, 66, 7]


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("extra", ["", ",9"])
def test_rltune_csv_with_and_without_header(tmp_path: Path, header: bool, extra: str) -> None:
    """RLTune's own files come in all four shapes; -1 would become a VC or a wait of -1 s."""
    head = ",".join(RLTUNE_COLUMNS) + (",more" if extra else "") + "\n" if header else ""
    rows = RLTUNE_ROW.format(5, -1, -1, 4) + extra + "\n" + RLTUNE_ROW.format(9, 30, 2, -1) + extra + "\n"
    jobs = load_trace(write(tmp_path / "rltune.csv", head + rows)).jobs
    assert list(jobs.job_id) == ["job-5", "job-9"]
    assert list(jobs.submit_s) == [5, 9]
    assert list(jobs.gpu_type.values()) == ["V100-32GB", None]
    assert list(jobs.vc.values()) == [None, "2"]
    assert np.isnan(jobs.wait_s[0])
    assert jobs.wait_s[1] == 30


def test_alibaba_task_table_keeps_shares_and_makes_whole_gpu_gangs(tmp_path: Path) -> None:
    """Half a GPU would be refused or doubled, or tasks that use no GPU would run."""
    rows = [
        "j1,worker,3,Terminated,100.0,160.0,600,29.3,50,V100M32",
        "j2,ps,1,Failed,100.0,160.0,600,29.3,50,T4",
        "j3,tf,1,Terminated,90.0,95.0,600,29.3,,T4",
        "j4,tf,1,Terminated,90.0,95.0,600,29.3,200,T4",
        "j5,tf,1,Terminated,,95.0,600,29.3,200,T4",
        "j6,tf,1,Running,100.0,,600,29.3,200,T4",
        "j7,tf,1,Terminated,100.0,95.0,600,29.3,200,T4",
        "j8,tf,2,Terminated,101.0,102.0,600,,150,",
    ]
    trace = load_trace(write(tmp_path / "pai_task_table.csv", "\n".join(rows)))
    jobs = trace.jobs
    assert [job.split("/")[0] for job in jobs.job_id] == ["j4", "j1", "j2", "j8"]
    assert list(jobs.num_gpus) == [2, 3, 1, 4]
    assert list(jobs.gpu_milli) == [1000, 1000, 500, 1000]
    assert list(jobs.submit_s) == [0, 10, 10, 11]
    assert list(jobs.gpu_type.values()) == ["T4", "V100-32GB", "T4", None]
    assert list(jobs.cpus) == [6, 18, 6, 12]
    assert jobs.memory_gb[1] == pytest.approx(87.9) and jobs.memory_gb[3] == 0
    assert list(jobs.status.values()) == ["Terminated", "Terminated", "Failed", "Terminated"]
    assert list(jobs.name.values()) == ["tf", "worker", "ps", "tf"]
    for told in (
        "1 tasks that did not end, 1 without GPUs, 1 without start or end and 1 that end before they start left out",
        "1 tasks ask for a share of one GPU",
        "1 gangs of instances that each ask for a share get a whole GPU for each, 2 GPUs more than asked for",
        "1 tasks whose instances ask for a broken number of GPUs get the next whole one",
        "arrival is the task's START time: the log has no submission time",
    ):
        assert told in trace.notes, trace.notes


def test_helios_slice_counts_microseconds_and_skips_its_comments(tmp_path: Path) -> None:
    """Its jobs would come a million times too late, and errors would name other lines."""
    header = (
        "# made up\n# two lines\n"
        "job_id,user,tenant,class,submit_time,num_chips,chip_type,num_nodes,duration_s,walltime_limit_s,final_status\n"
    )
    row = "7,uA,vcX,train,{},8,,1,{},60.0,COMPLETED\n"
    jobs = load_trace(write(tmp_path / "slice.csv", header + row.format(5_000_000, 60.0))).jobs
    assert jobs.submit_s[0] == 5
    with pytest.raises(InputError, match="row 4 "):
        load_trace(write(tmp_path / "bad.csv", header + row.format(5_000_000, -1)))


def test_gzip_is_recognised_by_content(tmp_path: Path) -> None:
    """A packed file without .gz in its name would be refused."""
    path = tmp_path / "jobs.csv"
    path.write_bytes(gzip.compress(b"job_id,submit_s,duration_s,num_gpus\na,0,1,1\n"))
    assert len(load_trace(path)) == 1


def test_philly_machine_list_becomes_pools(tmp_path: Path) -> None:
    """Philly's cluster would have other nodes than its machines."""
    text = "machineId, number of GPUs, single GPU mem\nm0,2, 12GB\nm1,8, 24GB\nm2,2, 12GB\nm3,0, 24GB\n"
    machines = read_philly_machines(write(tmp_path / "cluster_machine_list", text))
    assert machines == {("12GB", 2): 2, ("24GB", 8): 1}
    cluster = philly_cluster(machines)
    assert [(p.gpu_type, p.nodes, p.gpus_per_node, p.first_node_id) for p in cluster.pools] == [
        ("12GB", 2, 2, 0),
        ("24GB", 1, 8, 2),
    ]
    assert (philly_cluster().nodes, philly_cluster().gpus) == (552, 2490)


NAMES = st.text("abcXYZ019_,\" '", min_size=1, max_size=6).filter(lambda text: text.strip() == text)


@given(
    st.lists(
        st.tuples(
            st.floats(0, 1e9, allow_nan=False),
            st.floats(0, 1e7, allow_nan=False),
            st.integers(1, 1024),
            st.one_of(st.none(), NAMES),
            st.floats(-5, 5, allow_nan=False),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_plain_csv_round_trip_keeps_the_content(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[float, float, int, str | None, float]]
) -> None:
    """A trace exported and read again would be another trace."""
    submit, duration, gpus, vc, priority = zip(*rows, strict=True)
    columns = {"submit_s": submit, "duration_s": duration, "num_gpus": gpus, "vc": vc, "priority": priority}
    trace = Trace.of(JobTable.from_columns(columns), name="t", source="user")
    path = plain.write(trace, tmp_path_factory.mktemp("round") / "jobs.csv")
    assert load_trace(path).sha256 == trace.sha256
