"""What people meet in their own CSV and in other logs: cells as written, clocks, bombs, two published logs more."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rltune.nouns.documents import FREE, cell, uncell
from rltune.nouns.errors import InputError
from rltune.nouns.jobs import JobTable
from rltune.traces import Trace, load_trace, parquet, plain
from rltune.traces.alibaba_tables import read_pai_machines
from rltune.traces.load import MOST_JOBS
from rltune.traces.table import parse_csv

HEADER = "job_id,submit_s,duration_s,num_gpus,user\n"


def read(folder: Path, text: str, name: str = "jobs.csv") -> Trace:
    path = folder / name
    path.write_text(text, newline="")
    return load_trace(path)


def refused(folder: Path, content: str | bytes, name: str = "jobs.csv") -> str:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InputError) as caught:
        load_trace(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000
    return str(caught.value)


@pytest.mark.parametrize(
    "header", ["job_id,submit_s,duration_s,num_gpus,user,user", "job_id,submit_s,duration_s,num_gpus,user, User "]
)
def test_a_column_that_stands_twice_is_refused(tmp_path: Path, header: str) -> None:
    """One of two columns of users would win unsaid."""
    assert "row 1: column 'user' stands twice" in refused(tmp_path, header + "\na,0,1,1,ann,bob\n")


def test_comments_between_rows_are_no_jobs(tmp_path: Path) -> None:
    """A row that someone has commented out would be simulated as a job named "#b"."""
    trace = read(tmp_path, "# made by hand\n" + HEADER + 'a,0,1,1,ann\n#b,1,1,8,ann\n"#c",2,1,1,"x\n# no comment"\n')
    assert trace.jobs.job_id.tolist() == ["a", "#c"]
    assert trace.jobs.user.values().tolist() == ["ann", "x\n# no comment"]
    assert "1 comment lines (#) between the rows passed over" in trace.notes


@pytest.mark.parametrize("name", ["NA", "null", "nan", "None", "N/A", "NULL", "<NA>", "n/a"])
def test_names_that_look_like_nothing_are_names(tmp_path: Path, name: str) -> None:
    """All jobs of a user called Null would be jobs of nobody."""
    trace = read(tmp_path, HEADER + f"{name},0,1,1,{name}\nb,1,1,1,\n")
    assert trace.jobs.job_id.tolist() == [name, "b"]
    assert trace.jobs.user.values().tolist() == [name, None]


def test_blanks_around_cells_make_no_second_user(tmp_path: Path) -> None:
    """ "ann " and "ann" would share nothing in fair share and quotas."""
    trace = read(
        tmp_path,
        "job_id, submit_s ,duration_s,num_gpus,user\r\na,0,1,1,ann\r\nb,1,1,1,ann \r\nc, 2 ,1,1,\u00a0ann\r\nd,3,1,1, \r\n",
    )
    assert trace.jobs.user.values().tolist() == ["ann", "ann", "ann", None]


def test_rows_are_counted_as_an_editor_counts_lines(tmp_path: Path) -> None:
    """After a quoted line break or a comment the message would name another row."""
    text = HEADER + 'a,0,1,1,"x\ny"\n# note\n\nb,oops,1,1,z\n'
    assert "row 6: submit_s is 'oops'" in refused(tmp_path, text)
    assert "line 6" in refused(tmp_path, text.replace("b,oops", "b,1,1"))


@pytest.mark.parametrize("quoting", ['a,0,1,1,"ann\n', 'a,0,1,1,"ann"x"\nb,0,1,1,"\n'])
def test_unpaired_quotes_are_read_or_refused(tmp_path: Path, quoting: str) -> None:
    """An open quote would swallow the rest of the file unsaid."""
    try:
        trace = read(tmp_path, HEADER + quoting)
    except InputError:
        return
    assert len(trace) == 1


def test_waits_below_zero_are_counted_or_refused(tmp_path: Path) -> None:
    """A job that starts before it is submitted would lower the mean wait and end before it could."""
    trace = read(tmp_path, "job_id,submit_s,duration_s,num_gpus,wait_s\na,0,1,1,-2700\nb,1,1,1,5\n")
    assert np.isnan(trace.jobs.wait_s[0]) and trace.jobs.wait_s[1] == 5
    assert any(note.startswith("1 jobs start before they were submitted") for note in trace.notes)
    columns = {"submit_s": [0], "duration_s": [1], "num_gpus": [1], "wait_s": [-1]}
    with pytest.raises(InputError, match="wait_s is negative"):
        JobTable.from_columns(columns)


def test_milliseconds_are_refused(tmp_path: Path) -> None:
    """Milliseconds since 1970 would be fifty thousand years of seconds."""
    message = refused(tmp_path, HEADER + "a,1729990200000,1,1,ann\n")
    assert "row 2 (job a): submit_s is above 1e+11 (milliseconds?); use seconds" in message


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=8))
def test_a_guarded_cell_gives_its_text_back(text: str) -> None:
    """A name would change on its way through a file."""
    assert uncell(cell(text)) == text
    assert not cell(text).startswith(("=", "+", "-", "@", "\t", "\r"))


def test_exported_names_are_no_formulas(tmp_path: Path) -> None:
    """A job named =cmd|... would be run by the spreadsheet that opens the export."""
    names = ['=cmd|"/c calc"!A1', "@x", "+1", "-2+3", "'=1", "#4", "plain", "NA"]
    columns = {"job_id": names, "submit_s": range(8), "duration_s": [1] * 8, "num_gpus": [1] * 8, "user": names}
    trace = Trace.of(JobTable.from_columns(columns), name="t", source="user")
    path = plain.write(trace, tmp_path / "out.csv")
    cells = pd.read_csv(path, dtype=str, keep_default_na=False)
    assert not cells["job_id"].str.startswith(("=", "+", "-", "@")).any()
    assert load_trace(path).sha256 == trace.sha256


def test_a_gzip_bomb_is_refused_soon(tmp_path: Path) -> None:
    """A file of a few hundred kilobytes would take all memory."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1, mtime=0) as file:
        file.write(HEADER.encode())
        for _ in range(FREE // 2**20 + 2):
            file.write(b"\n" * 2**20)
    assert "unpacks to more than" in refused(tmp_path, packed.getvalue(), "bomb.csv.gz")


def test_ordinary_gzips_are_no_bombs(tmp_path: Path) -> None:
    """A log that packs well would be refused."""
    text = HEADER + "".join(f"job-{k},{k},60,8,ann\n" for k in range(50_000))
    path = tmp_path / "jobs.csv.gz"
    path.write_bytes(gzip.compress(text.encode()))
    assert len(load_trace(path)) == 50_000


def test_parquet_of_absurd_length_or_origin_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kilobyte could claim a billion rows; a damaged origin would be a stack trace."""
    about = {b"rltune.trace": b'{"schema_version": 1, "name": 3}'}
    table = pa.table({"submit_s": [0.0], "duration_s": [1.0], "num_gpus": [1]})
    pq.write_table(table.replace_schema_metadata(about), tmp_path / "x.parquet")
    with pytest.raises(InputError, match="what it says of its origin is damaged"):
        load_trace(tmp_path / "x.parquet")
    monkeypatch.setattr(parquet, "MOST_ROWS", 0)
    with pytest.raises(InputError, match="1 rows; at most 0 can be read"):
        load_trace(tmp_path / "x.parquet")


@pytest.mark.parametrize("depth", [900, 100_000])
def test_deeply_nested_json_is_refused(tmp_path: Path, depth: int) -> None:
    """A file of brackets would overflow the stack, or fill the screen."""
    value = "[" * depth + "]" * depth
    job = f'[{{"jobid": "a", "status": "Pass", "vc": "v", "user": "u", "submitted_time": {value}, "attempts": []}}]'
    assert refused(
        tmp_path,
        job.replace('"attempts": []', f'"attempts": [{{"start_time": {value}, "end_time": "", "detail": []}}]'),
    )


def test_generators_refuse_absurd_numbers_of_jobs() -> None:
    """A slip of the finger would eat all memory instead of a line of text."""
    with pytest.raises(InputError, match="at most 50,000,000 can be drawn"):
        load_trace("synthetic", jobs=MOST_JOBS + 1)


ACME = """job_id,user,node_num,gpu_num,cpu_num,mem_per_pod_GB,shared_mem_per_pod,type,state,submit_time,start_time,end_time,fail_time,stop_time,duration,queue,gpu_time
dlc1,uf794,8,64,960,1000,100.0,Other,FAILED,2023-05-17 11:00:58+00:00,2023-05-17 11:01:08+00:00,2023-05-17 11:01:16+00:00,,,18,10.0,1152.0
dlc2,uf795,1,8,120,1000,100.0,Pretrain,COMPLETED,2023-05-17 19:01:58+08:00,2023-05-17 19:02:08+08:00,2023-05-17 20:02:08+08:00,,,3610,10.0,1.0
dlc3,uf795,1,0,120,1000,100.0,Other,COMPLETED,2023-05-17 11:00:58+00:00,2023-05-17 11:01:08+00:00,2023-05-17 11:01:16+00:00,,,18,10.0,0
dlc4,uf795,1,8,120,1000,100.0,Other,CANCELLED,2023-05-17 11:00:58+00:00,,2023-05-17 11:01:16+00:00,,,18,10.0,0
"""


def test_acme_traces_are_read(tmp_path: Path) -> None:
    """The published log of an LLM cluster would be of no known format."""
    trace = read(tmp_path, ACME, "trace_kalos.csv")
    jobs = trace.jobs
    assert (jobs.job_id.tolist(), jobs.num_gpus.tolist()) == (["dlc1", "dlc2"], [64, 8])
    assert (jobs.submit_s.tolist(), jobs.wait_s.tolist(), jobs.duration_s.tolist()) == ([0, 60], [10, 10], [8, 3600])
    assert (jobs.user.values()[0], jobs.name.values()[1], jobs.memory_gb[0]) == ("uf794", "Pretrain", 8000)
    assert trace.notes[:2] == ("1 jobs without a GPU left out", "1 jobs that never ran left out")
    assert "row 3: start_time is" in refused(tmp_path, ACME.replace("19:02:08+08:00", "19:02:08"))


SPOT = """job_name,organization,gpu_model,cpu_request,gpu_request,worker_num,submit_time,duration,job_type
239255,13,A10,20,1,1,0,2764799,HP
437260,57,A100-SXM4-80GB,15,1,16,9589663,41060,Spot
437261,57,A10,15,0.5,1,9589663,60,Spot
437262,57,A10,15,0,1,9589663,60,Spot
"""


def test_alibabas_spot_trace_is_read(tmp_path: Path) -> None:
    """Job, GPU model, priority and organisation of a published log would be of no known format."""
    trace = read(tmp_path, SPOT, "job_info_df.csv")
    jobs = trace.jobs
    assert (jobs.job_id.tolist(), jobs.num_gpus.tolist()) == (["239255", "437260", "437261"], [1, 16, 1])
    assert (jobs.gpu_milli.tolist(), jobs.cpus.tolist()) == ([1000, 1000, 500], [20, 240, 15])
    assert (jobs.priority.tolist(), jobs.vc.values().tolist()) == ([1, 0, 0], ["13", "57", "57"])
    assert jobs.gpu_type.values().tolist() == ["A10", "A100-80GB", "A10"]
    assert "1 jobs without a GPU left out" in trace.notes
    assert "row 3: job_type is 'Cold'" in refused(tmp_path, SPOT.replace("Spot", "Cold", 1))


def test_cancelled_jobs_of_the_workload_format_are_none_of_0_s(tmp_path: Path) -> None:
    """A job cancelled while pending would be one that ran no time."""
    ran, never = "1 10 5 100 4 -1 -1 8 3600 -1 1 3 1 7 2 -1 -1 -1", "2 20 9 0 -1 -1 -1 2 60 -1 5 3 1 7 2 -1 -1 -1"
    trace = read(tmp_path, f"; Version: 2.2\n{ran}\n{never}\n", "log.swf")
    assert trace.jobs.job_id.tolist() == ["1"] and "1 jobs cancelled before they ran left out" in trace.notes


def test_phillys_night_of_the_clock_change(tmp_path: Path) -> None:
    """An attempt from 1:50 to 1:10, an hour later, would run minus forty minutes."""
    attempt = {"start_time": "2017-11-05 01:50:00", "end_time": "2017-11-05 01:10:00", "detail": [{"gpus": ["g"]}]}
    job = {
        "status": "Pass",
        "vc": "v",
        "jobid": "a",
        "attempts": [attempt],
        "user": "u",
        "submitted_time": "2017-11-05 01:40:00",
    }
    jobs = read(tmp_path, json.dumps([job]), "cluster_job_log").jobs
    assert (jobs.wait_s[0], jobs.duration_s[0]) == (600, 1200)


def test_blanks_cost_little_in_tables_of_numbers() -> None:
    """Reading would turn numbers to gaps where only blanks stand."""
    table = parse_csv("a,b\n1, \n ,2\n", "t.csv")
    assert table.frame.isna().to_numpy().tolist() == [[False, True], [True, False]]


def test_machine_lists_go_the_same_way(tmp_path: Path) -> None:
    """A comment in a list of machines would be a machine."""
    path = tmp_path / "pai_machine_spec.csv"
    path.write_text("m1,T4,96,512,2\n# m2,T4,96,512,2\n")
    assert list(read_pai_machines(path).values()) == [1]


OWN = HEADER + 'a,0,1,1,"x\ny"\n# note\nb,1,2,3,ann\n'
PODS = json.dumps({"kind": "List", "items": [{
    "metadata": {"name": "p", "creationTimestamp": "2025-05-01T10:00:00Z", "labels": {"job-name": "j"}},
    "spec": {"containers": [{"resources": {"limits": {"nvidia.com/gpu": "1", "nvidia.com/gpucores": 30}}}]},
    "status": {"phase": "Succeeded", "containerStatuses": [{"restartCount": 1, "state": {
        "terminated": {"startedAt": "2025-05-01T10:00:10Z", "finishedAt": "2025-05-01T10:30:10Z"}}}]},
}]})  # fmt: skip
DAMAGE = st.tuples(
    st.integers(0, 10_000), st.integers(0, 3),
    st.sampled_from(["", "x", "-1", ",", "\n", "1e999", "nan", "\u00e9", " ", '"', "#", "=", "9" * 30, "\u00b2", "\x00", "\t", "[]", "{}", "null"]),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([OWN, ACME, SPOT, PODS]), st.lists(DAMAGE, min_size=1, max_size=4))
def test_damaged_files_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, text: str, damage: list[tuple[int, int, str]]
) -> None:
    """A flipped byte would be a stack trace."""
    for place, length, what in damage:
        at = place % len(text)
        text = text[:at] + what + text[at + length :]
    path = tmp_path_factory.mktemp("fuzz") / "log.txt"
    path.write_text(text, newline="")
    try:
        trace = load_trace(path)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert len(trace) >= 1
