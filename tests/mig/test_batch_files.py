"""Batches from files, plans to files, commands: what users type and what they get back."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from batch_cases import batches
from hypothesis import given, settings
from hypothesis import strategies as st

from rltune.mig.batch.files import plans_as_json, read_plans
from rltune.mig.batch.plan import Instance, Left, Plan, Run, check_plan
from rltune.mig.batch.search import search
from rltune.mig.batch.tasks import Tasks, read_tasks, tasks_of
from rltune.mig.geometry import Placement, geometry
from rltune.mig.profiles import measure_tasks, read_profiles, tasks_from, write_tasks
from rltune.mig_commands.main import main, positional
from rltune.nouns.errors import InputError

GOOD = "task,1g,2g,4g\na,10,6,4\nb,,20,12\n"


def written(folder, text):
    path = folder / "tasks.csv"
    path.write_text(text)
    return path


def test_a_good_file(tmp_path):
    """Empty cells are profiles the task cannot use; all others are seconds."""
    (batch,) = read_tasks(written(tmp_path, GOOD), ["a30"])
    table = geometry("a30")
    assert batch.names == ("a", "b")
    assert batch.seconds["A30"][0, table.profile("1g")] == 10
    assert np.isinf(batch.seconds["A30"][1, table.profile("1g")])


def test_memory_rules_profiles_out(tmp_path):
    """A task of 15 GB runs on 1g double of an A100-80GB as fast as on 1g, not on 1g itself, nor on anything smaller."""
    path = written(tmp_path, "task,1g,2g,7g,memory_gb\na,10,6,2,15\n")
    (batch,) = read_tasks(path, ["a100-80gb"])
    kinds = [
        p.kind for p, s in zip(geometry("a100-80gb").profiles, batch.seconds["A100-80GB"][0], strict=True) if s < np.inf
    ]
    assert kinds == ["7g", "2g", "1g double"]


def test_batches_in_order_of_arrival(tmp_path):
    """Rows of several batches are told apart by their label and planned in order of arrival."""
    found = read_tasks(written(tmp_path, "task,1g,batch,arrival_s\na,1,late,50\nb,1,early,0\nc,1,late,50\n"), ["a30"])
    assert [(b.label, b.names, b.arrival_s) for b in found] == [("early", ("b",), 0.0), ("late", ("a", "c"), 50.0)]


BAD = [
    ("", "line 1: no column 'task'"),
    ("name,1g\na,1\n", "line 1: no column 'task'"),
    ("task,1g\n", "no tasks"),
    ("task,1g\n,1\n", "line 2: the task has no name"),
    ("task,1g\na,fast\n", "line 2: 1g='fast' is no positive number"),
    ("task,1g\na,-3\n", "line 2: 1g='-3' is no positive number"),
    ("task,1g\na,nan\n", "is no positive number"),
    ("task,1g\na,\n", "line 2: task 'a' fits no slice of A30"),
    ("task,1g,memory_gb\na,1,7\n", "line 2: task 'a' fits no slice of A30"),
    ("task,1g\na,1\na,2\n", "line 3: task 'a' stands twice"),
    ("task,1g,1g\na,1,2\n", "a column stands twice"),
    ("task,1g,1g.6gb\na,1,2\n", "names a profile that another column names too"),
    ("task,1g,2g\na,1\n", "line 2: as many cells"),
    ("task,1g\na,1,2\n", "line 2: as many cells"),
    ("task,3g\na,1\n", "profile '3g' does not exist on A30"),
    ("task,1g,model\na,1,h100-80gb\n", "line 2: model H100-80GB is not among"),
    ("task,1g,model\na,1,v100\n", "has no MIG table"),
    ("task,1g,arrival_s\na,1,0\nb,1,5\n", "different arrival_s"),
    ("task,1g,arrival_s\na,1,-1\n", "line 2: arrival_s='-1' is no time"),
    ("task,1g\na,1e300\n", "is no positive number from"),
    ("task,1g,batch\na,1,x\nb,1,\n", "label all of them"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_bad_files(tmp_path, text, message):
    """Each mistake is told with its line and a remedy; no batch comes of it."""
    with pytest.raises(InputError) as refused:
        read_tasks(written(tmp_path, text), ["a30"])
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_files_that_are_none(tmp_path):
    """A missing file, a folder and bytes that are no text are told apart from empty ones."""
    with pytest.raises(InputError, match="no such file"):
        read_tasks(tmp_path / "none.csv", ["a30"])
    with pytest.raises(InputError, match="cannot be read"):
        read_tasks(tmp_path, ["a30"])
    (tmp_path / "b.csv").write_bytes(b"task,1g\n\xff\xfe,1\n")
    with pytest.raises(InputError, match="byte 8 is no UTF-8"):
        read_tasks(tmp_path / "b.csv", ["a30"])


@settings(deadline=None, max_examples=20)
@given(batches(), st.text(max_size=200))
def test_any_text_is_a_batch_or_one_line(tmp_path_factory, tasks, text):
    """Whatever a file holds, the reader answers with batches or one clear line; what we write comes back."""
    folder = tmp_path_factory.mktemp("files")
    for content in (text, "task,1g\n" + text):
        (folder / "any.csv").write_text(content, newline="")
        try:
            read_tasks(folder / "any.csv", ["a30"])
        except InputError as error:
            assert "any.csv" in str(error)
    write_tasks(folder / "ours.csv", tasks)
    (again,) = read_tasks(folder / "ours.csv", list(tasks.seconds))
    assert again.names == tasks.names
    for model, seconds in tasks.seconds.items():
        np.testing.assert_array_equal(again.seconds[model], seconds)


@settings(deadline=None, max_examples=20)
@given(batches())
def test_plans_survive_their_file(tmp_path_factory, tasks):
    """A plan read back from plan.json is the plan that was written: an executor follows the same one."""
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    plan = search(tasks, tuple(tasks.seconds), steps=500).plan
    path.write_text(json.dumps(plans_as_json([tasks], [plan])))
    assert read_plans(path) == [plan]


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '{"schema_version": 1, "gpus": ["A30"], "batches": [{}]}', '{"schema_version": 9}']
)
def test_no_plan(tmp_path, text):
    """A file that is no plan is refused in one line."""
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(InputError, match="plan anew"):
        read_plans(tmp_path / "plan.json")


def test_a_profile_the_model_lacks(tmp_path):
    """A time in a column that the row's own model cannot use is refused, not dropped."""
    path = written(tmp_path, "task,model,1g,7g\na,a30,5,3\n")
    with pytest.raises(InputError, match="line 2: A30 has no profile '7g'"):
        read_tasks(path, ["a30", "a100-80gb"])


def test_a_task_for_a_gpu_that_is_not_there():
    """A task that fits only a model that was left out is named, instead of a plan that never ends."""
    tasks = tasks_of("a30", {"1g": [1.0]})
    both = Tasks(tasks.names, dict(tasks.seconds) | {"A100-80GB": np.full((1, 7), np.inf)})
    with pytest.raises(InputError, match="fits no slice of A100-80GB"):
        search(both, ("A100-80GB",), steps=10)


def plan_with(instances, runs, left=()):
    return Plan(("A30",), tuple(instances), tuple(runs), "by hand", left)


TASKS = tasks_of("a30", {"1g": [10.0, 5.0], "2g": [6.0, 4.0]})
ONE = geometry("a30").profile("1g")
TWO = geometry("a30").profile("2g")
FIRST = Instance(0, Placement(ONE, 0), 0.0, 0.11)
SECOND = Instance(0, Placement(ONE, 1), 0.11, 0.22)
FINE = plan_with([FIRST, SECOND], [Run(0, 0, 0.11, 10.11), Run(1, 1, 0.22, 5.22)])


def test_the_checker_accepts_a_plan_by_hand():
    """A plan worked out by hand is legal."""
    check_plan(TASKS, FINE)


WRONG = {
    "every one of 2": plan_with([FIRST], [Run(0, 0, 0.11, 10.11)]),
    "takes 10.0 s there": plan_with([FIRST, SECOND], [Run(0, 0, 0.11, 9.0), Run(1, 1, 0.22, 5.22)]),
    "its instance is free from": plan_with([FIRST, SECOND], [Run(0, 0, 0.0, 10.0), Run(1, 1, 0.22, 5.22)]),
    "runs in instance 0 until": plan_with([FIRST], [Run(0, 0, 0.11, 10.11), Run(1, 0, 9.0, 14.0)]),
    "creating 1g.6gb until": plan_with(
        [FIRST, Instance(0, Placement(ONE, 1), 0.05, 0.16)], [Run(0, 0, 0.11, 10.11), Run(1, 1, 0.16, 5.16)]
    ),
    "creating 1g.6gb takes": plan_with(
        [FIRST, Instance(0, Placement(ONE, 1), 0.11, 0.12)], [Run(0, 0, 0.11, 10.11), Run(1, 1, 0.12, 5.12)]
    ),
    "overlaps another": plan_with(
        [FIRST, Instance(0, Placement(TWO, 0), 0.11, 0.23)], [Run(0, 0, 0.11, 10.11), Run(1, 1, 0.23, 4.23)]
    ),
    "cannot begin at": plan_with(
        [FIRST, Instance(0, Placement(TWO, 1), 0.11, 0.23)], [Run(0, 0, 0.11, 10.11), Run(1, 1, 0.23, 4.23)]
    ),
    "neither there nor created": plan_with(
        [Instance(0, Placement(ONE, 0), None, None), SECOND], [Run(0, 0, 0.0, 10.0), Run(1, 1, 0.22, 5.22)]
    ),
    "its instance goes at": plan_with(
        [Instance(0, Placement(ONE, 0), 0.0, 0.11, 3.0, 3.1), SECOND], [Run(0, 0, 0.11, 10.11), Run(1, 1, 0.22, 5.22)]
    ),
    "is destroyed while it is in use": plan_with(
        [FIRST, SECOND, Instance(0, Placement(ONE, 3), None, None, 1.0, 1.1, busy_until_s=2.0)],
        [Run(0, 0, 0.11, 10.11), Run(1, 1, 0.22, 5.22)],
        (Left((Instance(0, Placement(ONE, 3), None, None, busy_until_s=2.0),)),),
    ),
    "missing, doubled or cut short": plan_with(
        [FIRST, SECOND],
        [Run(0, 0, 0.11, 10.11), Run(1, 1, 0.22, 5.22)],
        (Left((Instance(0, Placement(ONE, 3), None, None, busy_until_s=2.0),)),),
    ),
    "without an end": plan_with(
        [Instance(0, Placement(ONE, 0), 0.0, 0.11, None, 12.0), SECOND], [Run(0, 0, 0.11, 10.11), Run(1, 1, 0.22, 5.22)]
    ),
    "runs in instance -1": plan_with([FIRST, SECOND], [Run(0, 0, 0.11, 10.11), Run(1, -1, 0.22, 5.22)]),
    "is on GPU 1": plan_with([FIRST, Instance(1, Placement(ONE, 1), 0.11, 0.22)], [Run(0, 0, 0.11, 10.11)]),
    "a time that is no number": plan_with([FIRST, SECOND], [Run(0, 0, 0.11, 10.11), Run(1, 1, np.nan, np.nan)]),
    "reconfiguring for an earlier batch": plan_with(
        [FIRST, SECOND], [Run(0, 0, 0.11, 10.11), Run(1, 1, 0.22, 5.22)], (Left((), 1.0),)
    ),
}


def test_a_plan_for_other_gpus_is_no_beginning():
    """A plan made for another GPU, or one that cannot be followed, is refused instead of left out or given back."""
    with pytest.raises(InputError, match="is for other GPUs"):
        search(TASKS, ("A30", "A30"), steps=10, plans=(FINE,))
    with pytest.raises(InputError, match="every one of 2"):
        search(TASKS, ("A30",), steps=10, plans=(plan_with([FIRST], [Run(0, 0, 0.11, 10.11)]),))
    assert search(TASKS, ("A30",), steps=10, plans=(FINE,)).seeds["by hand"] == pytest.approx(10.11)


@pytest.mark.parametrize("message", WRONG)
def test_the_checker_refuses(message):
    """Each kind of plan that a GPU could not follow is refused, and the reason told."""
    with pytest.raises(InputError, match=message):
        check_plan(TASKS, WRONG[message])


def command(*words, **options):
    return subprocess.run(
        [sys.executable, "-m", "rltune.mig", *words], capture_output=True, text=True, check=False, **options
    )


@pytest.fixture
def here(tmp_path, monkeypatch, capfd):
    """The same in this process, in an empty directory: (exit status, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["rltune.mig", *words])
        capfd.readouterr()
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0), capfd.readouterr().err
        return 0, capfd.readouterr().err

    return run


def test_batch_from_the_command_line(tmp_path):
    """The command leaves plan, instances, figure and summary, and prints the directory last."""
    path = tmp_path / "my tasks, (new).csv"
    path.write_text(GOOD)
    done = command("batch", str(path), "gpu=a30", "steps=2000", f"runs={tmp_path}/runs", "name=r")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "r"
    assert done.stdout.splitlines()[-1] == str(run)
    assert (run / "gantt.png").stat().st_size > 5000
    assert set(pd.read_parquet(run / "plan.parquet").task) == {"a", "b"}
    row = json.loads((run / "summary.json").read_text())["batches"][0]
    assert row["gap"] == pytest.approx(0.0, abs=1e-6)
    assert read_plans(run / "plan.json")[0].makespan_s == row["makespan_s"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["batch"], "name a CSV"),
        (["batch", "none.csv"], "no such file"),
        (["batch", "x.csv", "gpu=v100"], "known are A30"),
        (["batch", "x.csv", "seconds=0"], "at least 0.001"),
        (["batch", "x.csv", "gpus=0"], "at least 1"),
        (["batch", "x.csv", "second=1"], "unknown"),
        (["plan"], "known are batch"),
        (["states", "gpu=t4"], "known are A30"),
        (["states", "what=1"], "accepted are"),
        (["profiles", "tasks=many"], "a whole number"),
    ],
)
def test_careless_commands(words, message, here, tmp_path):
    """A wrong command or option is one line and exit status 2, and leaves nothing behind."""
    status, err = here(*words)
    assert status == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["plain.csv", "it's, a (file).csv", "a=b.csv", "$_{$.csv", "${seed}.csv", "b\\s.csv", "ü ñ.csv"]
)
def test_any_file_name(name, here, tmp_path):
    """A file name may hold what Hydra or the figure would take apart: the file of that name is planned."""
    (tmp_path / name).write_text(GOOD.replace("\na,", "\n$x^{,"))
    status, err = here("batch", name, "gpu=a30", "steps=500", "prove_s=0", "runs=r", "name=n")
    assert status == 0, err
    assert json.loads((tmp_path / "r" / "n" / "manifest.json").read_text())["file"]["path"] == name


def test_two_files_are_refused():
    """Of two files none is dropped in silence."""
    with pytest.raises(InputError, match="one file at a time"):
        positional(["a.csv", "b.csv"], "tasks")


def test_measured_profiles(real_traces, tmp_path):
    """Published speeds become tasks: slower on smaller slices, and only where they were measured."""
    rows = read_profiles(real_traces / "mig_profiles" / "mig_relative_throughput.csv")
    rows = rows[(rows.gpu == "A100-80GB") & (rows.model == "vgg19")]
    tasks = tasks_from(rows, "a100-80gb", [50.0] * len(rows))
    table = geometry("a100-80gb")
    seconds = tasks.seconds["A100-80GB"]
    assert (seconds[:, table.profile("7g")] == 50).all()
    assert (seconds[:, table.profile("1g")] > seconds[:, table.profile("3g")]).mean() > 0.9
    assert np.isinf(seconds[:, table.profile("1g double")]).all()
    with pytest.raises(InputError, match="say nothing of H100"):
        tasks_from(rows, "h100-80gb", [50.0] * len(rows))


def test_profiler_hook():
    """The hook takes medians of repeats, and a task that does not fit is not tried again there."""
    calls = []

    def measure(task, profile):
        calls.append((task, profile))
        return None if profile == "1g.6gb" and task == "big" else 10.0 + len(calls) % 3

    tasks = measure_tasks(["big", "small"], "a30", measure, kinds=("1g", "4g"))
    table = geometry("a30")
    assert np.isinf(tasks.seconds["A30"][0, table.profile("1g")])
    assert tasks.seconds["A30"][1, table.profile("4g")] == 11.0
    assert calls.count(("big", "1g.6gb")) == 1
    assert calls.count(("small", "1g.6gb")) == 3
    with pytest.raises(InputError, match="a positive time, or None"):
        measure_tasks(["x"], "a30", lambda task, profile: 0.0)
