"""Traces of several tables: Alibaba PAI's job, task, instance, tag and machine tables, Google's jobs and tasks."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rltune.nouns.errors import InputError
from rltune.traces import load_trace, pai_cluster, read_pai_machines
from rltune.traces.alibaba_tables import Machine

PAI = {
    "pai_task_table.csv": """job1,worker,2.0,Terminated,1000.0,1600.0,600.0,29.296875,50.0,MISC
job1,ps,1.0,Terminated,1000.0,1600.0,400.0,10.0,,
job2,tensorflow,1.0,Terminated,2000.0,2100.0,600.0,29.296875,25.0,T4
job3,tensorflow,1.0,Failed,,,600.0,29.296875,100.0,V100M32
job4,tensorflow,1.0,Terminated,3000.0,3060.0,100.0,2.0,800.0,V100
job5,worker,1.0,Terminated,4000.0,4060.0,100.0,2.0,100.0,P100
job5,evaluator,1.0,Terminated,4000.0,4100.0,100.0,2.0,100.0,P100
job6,worker,1.0,Terminated,5000.0,,100.0,2.0,100.0,P100
job7,worker,1.0,Running,5000.0,,100.0,2.0,100.0,P100
""",
    "pai_job_table.csv": """job1,inst1,ann,Terminated,900.0,1600.0
job2,inst2,bob,Terminated,1990.0,2100.0
job3,inst3,bob,Failed,2400.0,2600.0
job4,inst4,eve,Terminated,3010.0,3060.0
job5,inst5,eve,Terminated,3999.0,4100.0
job2,inst2,bob,Terminated,1.0,2100.0
""",
    "pai_instance_table.csv": """job3,tensorflow,a,w1,inst3,Failed,2500.0,2510.0,m1
job3,tensorflow,b,w2,inst3,Failed,2490.0,2600.0,m1
job3,tensorflow,c,w3,inst3,Failed,,2400.0,m2
job1,worker,d,w4,inst1,Terminated,1.0,2.0,m2
""",
    "pai_group_tag_table.csv": """inst1,ann,,groupA,ctr
inst2,bob,T4,groupB,
inst3,bob,V100M32,groupB,nmt
""",
}
"""Made-up rows in the published columns; none has a header line."""
MACHINES = "m0,CPU,96,512,0\nm1,T4,96,512,2\nm2,V100M32,96,384,8\nm3,T4,96,512,2\n"


def lay(folder: Path, files: dict[str, str]) -> Path:
    """The folder with these files."""
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("given", ["folder", "task table"])
def test_pai_tables_are_joined(tmp_path: Path, given: str) -> None:
    """Users, submissions, waits and tags of the published tables would be lost, or be those of other jobs."""
    lay(tmp_path, PAI)
    trace = load_trace(tmp_path if given == "folder" else tmp_path / "pai_task_table.csv")
    jobs = trace.jobs
    assert [job.rsplit("/", 1)[0] for job in jobs.job_id] == [
        "job1/worker", "job2/tensorflow", "job3/tensorflow", "job4/tensorflow", "job5/evaluator", "job5/worker",
    ]  # fmt: skip
    assert list(jobs.submit_s) == [0, 1090, 1500, 2100, 3099, 3099]
    assert list(jobs.duration_s) == [600, 100, 110, 60, 100, 60]
    assert list(jobs.wait_s[:3]) == [100, 10, 90] and np.isnan(jobs.wait_s[3]) and jobs.wait_s[4] == 1
    assert list(jobs.user.values()) == ["ann", "bob", "bob", "eve", "eve", "eve"]
    assert list(jobs.num_gpus) == [2, 1, 1, 8, 1, 1]
    assert list(jobs.gpu_milli) == [1000, 250, 1000, 1000, 1000, 1000]
    assert list(jobs.gpu_type.values()) == ["MISC", "T4", "V100-32GB", "V100", "P100", "P100"]
    assert list(jobs.name.values()) == ["groupA", "groupB", "groupB", None, None, None]
    assert (jobs.cpus[0], jobs.memory_gb[0], jobs.status.values()[2]) == (12, 58.59375, "Failed")
    assert sorted(trace.files[1:]) == sorted(set(PAI) - {"pai_task_table.csv"})
    for told in (
        "1 tasks that did not end, 1 without GPUs, 1 without start or end and 0 that end before they start left out",
        "1 tasks without start or end have those of their instances",
        "submission and user are those of the task's job; 0 tasks without one and 1 that start before it "
        "are submitted at their START",
        "2 tasks share their job with others and are jobs of their own here",
        "1 further rows of the same job in pai_job_table.csv passed over",
        "3 tasks without a group tag have no name",
        "1 gangs of instances that each ask for a share get a whole GPU for each, 1 GPUs more than asked for",
    ):
        assert told in trace.notes, trace.notes
    assert not any("no submission time" in note for note in trace.notes)


def test_pai_folder_of_packed_tables_is_alibaba(no_traces: Path) -> None:
    """The tables as fetched would have to be unpacked and renamed by hand."""
    (no_traces / "alibaba").mkdir()
    for name, text in PAI.items():
        (no_traces / "alibaba" / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    trace = load_trace("alibaba")
    assert (trace.source, trace.jobs.user.values()[0]) == ("real", "ann")


def test_job_without_a_row_starts_when_it_starts(tmp_path: Path) -> None:
    """A task whose job is missing would get another one's submission, or vanish."""
    lay(tmp_path, PAI | {"pai_job_table.csv": PAI["pai_job_table.csv"].replace("job1,", "other,")})
    trace = load_trace(tmp_path)
    assert trace.jobs.user.values()[0] is None and np.isnan(trace.jobs.wait_s[0])
    assert any("1 tasks without one" in note for note in trace.notes)


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("pai_task_table.csv", "job2,tensorflow,1.0,Terminated,2000.0", "job2,tensorflow,1.0,Terminated,soon", "row 3: start_time is 'soon'"),
        ("pai_task_table.csv", ",25.0,T4", ",a quarter,T4", "row 3: plan_gpu is 'a quarter'"),
        ("pai_task_table.csv", "job2,tensorflow,1.0", "job2,tensorflow,1.5", "row 3 .*: num_gpus"),
        ("pai_job_table.csv", "Terminated,1990.0", "Terminated,early", "pai_job_table.csv: row 2: start_time is 'early'"),
        ("pai_instance_table.csv", "2490.0,2600.0", "2490.0,late", "pai_instance_table.csv: row 2: end_time is 'late'"),
        ("pai_instance_table.csv", "2490.0,2600.0", "2490.0,2600.0,9,9,9", "pai_instance_table.csv: not a regular CSV"),
    ],
)  # fmt: skip
def test_damaged_tables_are_refused_by_table_and_row(tmp_path: Path, file: str, old: str, new: str, said: str) -> None:
    """A damaged row among seven million could not be found."""
    lay(tmp_path, PAI | {file: PAI[file].replace(old, new)})
    with pytest.raises(InputError, match=said):
        load_trace(tmp_path)


@pytest.mark.parametrize("header", ["", "machine,gpu_type,cap_cpu,cap_mem,cap_gpu\n"])
def test_pai_machines_become_pools(tmp_path: Path, header: str) -> None:
    """PAI's cluster would have other nodes than its machines."""
    (tmp_path / "pai_machine_spec.csv").write_text(header + MACHINES)
    machines = read_pai_machines(tmp_path / "pai_machine_spec.csv")
    assert machines == {
        Machine("CPU", 0, 96, 512): 1,
        Machine("T4", 2, 96, 512): 2,
        Machine("V100-32GB", 8, 96, 384): 1,
    }
    cluster = pai_cluster(machines)
    assert [(p.gpu_type, p.nodes, p.gpus_per_node, p.first_node_id) for p in cluster.pools] == [
        ("T4", 2, 2, 0), ("V100-32GB", 1, 8, 2),
    ]  # fmt: skip
    assert [(p.cpus, p.memory_gb) for p in cluster.pools] == [(96, 512), (96, 384)]
    assert (pai_cluster().nodes, pai_cluster().gpus) == (1814, 6742)
    for text, said in (("m0,T4,96,512\n", "4 columns"), (MACHINES + "m4,T4,many,512,2\n", "row ")):
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(InputError, match=said):
            read_pai_machines(tmp_path / "bad.csv")
    with pytest.raises(InputError, match="no machine with GPUs"):
        pai_cluster({Machine("CPU", 0, 96, 512): 1})


def test_published_pai_machines(real: Path) -> None:
    """The default cluster would not be the published one."""
    path = real / "alibaba_pai_2020" / "pai_machine_spec.csv.gz"
    if not path.is_file():
        pytest.skip("the machine table is not here")
    assert pai_cluster(read_pai_machines(path)) == pai_cluster()


GOOGLE_2011 = {
    "job_events/part-00000-of-00500.csv": "600000000,,11,0,userA,2,name,logical\n600000000,,12,0,userB,2,name,logical\n",
    "job_events/part-00001-of-00500.csv": "700000000,,11,1,userA,2,name,logical\n700000000,,12,1,userB,2,name,logical\n"
    "800000000,,11,4,userA,2,name,logical\n900000000,,12,5,userB,2,name,logical\n",
    "task_events/part-00000-of-00500.csv": "600000000,,11,0,,0,userA,2,9,0.125,0.0625,0.0004,0\n"
    "600000000,,11,1,,0,userA,2,9,0.125,0.0625,0.0004,0\n700000000,,11,0,5,1,userA,2,9,0.125,0.0625,0.0004,0\n",
    "task_events/part-00001-of-00500.csv": "710000000,,11,0,5,0,userA,2,9,0.5,0.5,0.0004,0\n"
    "720000000,,99,0,5,0,userA,2,9,0.5,0.5,0.0004,0\n730000000,,11,2,,0,userA,2,9,,,,0\n",
}
GOOGLE_2019 = {
    "collection_events.csv": "time,type,collection_id,priority,user\n600000000,0,7,103,a\n610000000,3,7,103,a\n620000000,6,7,103,a\n",
    "instance_events.csv": "time,type,collection_id,instance_index,resource_request.cpus,resource_request.memory\n"
    "600000000,0,7,0,0.25,0.125\n600000000,0,7,1,0.25,0.125\n610000000,3,7,0,0.25,0.125\n",
}


def test_google_2011_requests_are_summed_over_tasks(tmp_path: Path) -> None:
    """A task that is submitted again would be counted twice, or requests go to other jobs."""
    trace = load_trace(lay(tmp_path, GOOGLE_2011))
    jobs = trace.jobs
    assert jobs.job_id.tolist() == ["11", "12"]
    assert jobs.cpus.tolist() == [0.25, 0] and jobs.memory_gb.tolist() == [0.125, 0]
    assert jobs.priority.tolist() == [9, 0] and jobs.num_gpus.tolist() == [1, 1]
    assert trace.label.endswith("(GPUs invented)")
    for told in (
        "CPU jobs: the GPUs are invented, one a job",
        "requests of 3 tasks; 1 jobs without a submitted task ask for nothing",
        "1 tasks without a request count as 0",
        "tasks of 1 jobs that are left out or not in job_events passed over",
    ):
        assert told in trace.notes, trace.notes


def test_google_2019_requests(tmp_path: Path) -> None:
    """The second trace names its columns otherwise; its priority is the collection's."""
    trace = load_trace(lay(tmp_path, GOOGLE_2019))
    assert (trace.jobs.cpus[0], trace.jobs.memory_gb[0], trace.jobs.priority[0]) == (0.5, 0.25, 103)
    assert trace.files == (tmp_path.name, "collection_events.csv", "instance_events.csv")


def test_google_jobs_alone_are_read_and_say_so(tmp_path: Path) -> None:
    """Who has the job table alone would be asked for 500 more files."""
    trace = load_trace(lay(tmp_path, {k: v for k, v in GOOGLE_2011.items() if k.startswith("job")}))
    assert any("no task_events beside them" in note for note in trace.notes)
    assert (trace.jobs.cpus == 0).all()


@pytest.mark.parametrize(
    ("files", "file", "old", "new", "said"),
    [
        (GOOGLE_2011, "task_events/part-00000-of-00500.csv", "0.125", "some", "part-00000-of-00500.csv: row 1: cpus is 'some'"),
        (GOOGLE_2011, "task_events/part-00001-of-00500.csv", ",99,", ",,", "row 2: event type, job or task is empty"),
        (GOOGLE_2011, "job_events/part-00001-of-00500.csv", "800000000", "never", "rows counted through.*row 5: time"),
        (GOOGLE_2019, "instance_events.csv", "resource_request.cpus", "x", "no column cpus"),
        (GOOGLE_2019, "collection_events.csv", "collection_id", "x", "columns time, type, collection_id"),
    ],
)  # fmt: skip
def test_damaged_google_tables_are_refused(
    tmp_path: Path, files: dict[str, str], file: str, old: str, new: str, said: str
) -> None:
    """A damaged part among a thousand could not be found."""
    lay(tmp_path, files | {file: files[file].replace(old, new, 1)})
    with pytest.raises(InputError, match=said):
        load_trace(tmp_path)


DAMAGE = st.tuples(
    st.integers(0, 10_000), st.sampled_from(["", "x", "-1", "|", ",", "\n", "1e999", "nan", "é", " ", '"'])
)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(
        [(name, file) for name, kind in (("pai", PAI), ("2011", GOOGLE_2011), ("2019", GOOGLE_2019)) for file in kind]
    ),
    st.lists(DAMAGE, min_size=1, max_size=4),
)
@pytest.mark.thorough
def test_damaged_tables_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, which: tuple[str, str], damage: list[Any]
) -> None:
    """A flipped byte in a table would be a stack trace, or a task that vanishes without being counted."""
    name, file = which
    files = {"pai": PAI, "2011": GOOGLE_2011, "2019": GOOGLE_2019}[name]
    text = files[file]
    for place, what in damage:
        at = place % len(text)
        text = text[:at] + what + text[at + 1 :]
    folder = lay(tmp_path_factory.mktemp("fuzz"), files | {file: text})
    try:
        trace = load_trace(folder)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert len(trace) >= 1


ODD = st.sampled_from(["", "0", "-5.0", "1e9", "Terminated", "Failed", "Running", "half", "12.5"])
USUAL = st.tuples(
    st.sampled_from(["job1", "job2", "job9"]), st.sampled_from(["worker", "ps"]), st.sampled_from(["1.0", "3.0"]),
    st.sampled_from(["Terminated", "Failed", "Running", "Waiting"]), st.sampled_from(["", "0.0", "1000.0"]),
    st.sampled_from(["", "900.0", "1500.0"]), st.just("600.0"), st.just("29.3"),
    st.sampled_from(["", "0.0", "25.0", "100.0", "150.0", "800.0"]), st.sampled_from(["", "T4", "MISC", "V100M32"]),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    st.lists(USUAL, min_size=1, max_size=12), st.booleans(), st.lists(st.tuples(st.integers(0, 99), ODD), max_size=2)
)
def test_no_task_vanishes_uncounted(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, ...]], joined: bool, odd: list[tuple[int, str]]
) -> None:
    """Load would be lost between the table and the trace: every row is a job, counted as left out, or refused."""
    fields = [list(row) for row in rows]
    for place, value in odd:
        # The status is looked at to recognise the table; the job's name makes the row one.
        fields[place % len(fields)][(4, 5, 6, 7, 8, 9, 2)[place % 7]] = value
    text = "\n".join(",".join(row) for row in fields) + "\n"
    folder = lay(tmp_path_factory.mktemp("rows"), (PAI if joined else {}) | {"pai_task_table.csv": text})
    try:
        trace = load_trace(folder)
    except InputError as error:
        assert "\n" not in str(error)
        return
    left_out = next(note for note in trace.notes if note.endswith("left out"))
    assert len(trace) + sum(int(word) for word in left_out.replace(",", "").split() if word.isdigit()) == len(rows)
    assert ((trace.jobs.gpu_milli < 1000) <= (trace.jobs.num_gpus == 1)).all()
    assert (np.nan_to_num(trace.jobs.wait_s) >= 0).all()
