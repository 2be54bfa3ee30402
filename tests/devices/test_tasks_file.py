"""Lists of tasks: what users write, and every mistake told with its place before anything starts."""

import os
import shlex
import shutil
import sys
from collections import Counter

import numpy as np
import pytest
import yaml

from rltune.devices.execution import tasks_file
from rltune.devices.execution.tasks_file import check_programs, read_task_list, to_batch, whole_gpu_s
from rltune.mig.geometry import Geometry, geometry
from rltune.nouns.errors import InputError

GOOD = """\
version: 1
tasks:
  - name: a
    command: "{python} -c 'print(1)' {other}"
    env: {N: 3}
    cwd: sub
    timeout_s: 60
    memory_gb: 15
    seconds: {1g: 30, 2g: 16, 7g: null}
  - name: b
    command: [sleep, 1]
    seconds: {a30: {1g: 5}, a100-80gb: {3g.40gb: 2, whole: 1}}
"""


def written(folder, text, name="tasks.yaml"):
    path = folder / name
    path.write_text(text)
    return path


def test_a_good_file(tmp_path):
    """Words, environment, folder and limits arrive as written; {python} is this interpreter, other braces stay."""
    a, b = read_task_list(written(tmp_path, GOOD))
    assert a.command == (sys.executable, "-c", "print(1)", "{other}")
    assert (a.env, a.cwd, a.timeout_s, a.memory_gb) == ({"N": "3"}, tmp_path / "sub", 60.0, 15.0)
    assert (b.command, b.cwd, b.timeout_s) == (("sleep", "1"), None, None)


def test_seconds_reach_the_planner(tmp_path):
    """Times go to the profiles of each model; memory rules small ones out, and 1g double stands in for 1g."""
    path = written(tmp_path, GOOD.replace("3g.40gb: 2,", "3g.40gb: 2, 1g: 9,"))
    batch = to_batch(read_task_list(path), ["a100-80gb"])
    kinds = [profile.kind for profile in geometry("a100-80gb").profiles]
    rows = [dict(zip(kinds, row, strict=True)) for row in batch.seconds["A100-80GB"]]
    assert {k: s for k, s in rows[0].items() if np.isfinite(s)} == {"1g double": 30, "2g": 16}
    assert {k: s for k, s in rows[1].items() if np.isfinite(s)} == {"3g": 2, "1g": 9}


def test_whole_gpus_have_their_own_seconds(tmp_path):
    """Without MIG the time is that of `whole`, else of the largest profile, else unknown."""
    a, b = read_task_list(written(tmp_path, GOOD.replace("7g: null", "7g: 4")))
    assert [whole_gpu_s(a, "A100-80GB"), whole_gpu_s(b, "A100-80GB")] == [4, 1]
    assert [whole_gpu_s(a, None), whole_gpu_s(b, "A30")] == [None, None]


def test_tasks_without_seconds_are_sent_to_profile(tmp_path):
    """Who has not measured is told how, instead of getting a plan of invented times."""
    tasks = read_task_list(written(tmp_path, "version: 1\ntasks:\n - {name: a, command: ls}\n"))
    with pytest.raises(InputError, match="task 'a' has no seconds on A30; run `profile`"):
        to_batch(tasks, ["a30"])


def test_a_task_that_fits_nowhere(tmp_path):
    """A task with more memory than the GPU has is named."""
    tasks = read_task_list(
        written(tmp_path, "version: 1\ntasks:\n - {name: a, command: ls, memory_gb: 30, seconds: {1g: 1}}\n")
    )
    with pytest.raises(InputError, match="fits no slice of A30"):
        to_batch(tasks, ["a30"])


def one(text):
    return f"version: 1\ntasks:\n  - {{{text}}}\n"


BAD = [
    ("[" * 5000, "line 1: nested more than 32 deep"),
    ("", "a list of tasks begins with version: 1"),
    ("tasks: []\n", "version None is unknown"),
    ("version: 2\ntasks: []\n", "version 2 is unknown"),
    ("version: true\ntasks: []\n", "version True is unknown"),
    ("version: 1\ntasks: []\n", "no tasks"),
    ("version: 1\n", "tasks is missing; a list is needed"),
    ("version: 1\ntask: []\ntasks: []\n", "line 2: 'task' is unknown; known are version, tasks; did you mean tasks?"),
    ("version: 1\ntasks: [x]\n", "line 2: tasks[0]='x'; write name: and command:"),
    ("version: 1\ntasks: [\n", "cannot be read as YAML"),
    ("version: 1\nversion: 1\ntasks: []\n", "line 2: the key 'version' stands twice"),
    (one("name: a, command: ls, name: b"), "line 3: the key 'name' stands twice"),
    (one("name: a, command: ls, colour: red"), "line 3: task a: 'colour' is unknown; known are name, command"),
    (one("name: ../a, command: ls"), "name='../a'; it also names its log: use up to 100 of A-Z"),
    (one("command: ls"), "line 3: tasks[0]: name is missing; it also names its log"),
    (one("name: a"), "command is missing; a text, or a list of words"),
    (one("name: a, command: ''"), "the command is empty"),
    (one("name: a, command: 'echo \"x'"), "open quote"),
    (one("name: a, command: [ls, {b: 1}]"), "a text, or a list of words, is needed"),
    (one("name: a, command: ls, timeout_s: -1"), "line 3: task a: timeout_s=-1; a positive number"),
    (one("name: a, command: ls, timeout_s: .nan"), "timeout_s=nan; a positive number"),
    (one("name: a, command: ls, timeout_s: '8'"), "timeout_s='8'; a positive number"),
    (one("name: a, command: ls, timeout_s: true"), "timeout_s=True; a positive number"),
    (one("name: a, command: ls, cwd: 7"), "cwd=7; a folder is needed"),
    (one("name: a, command: ls, comand: ls"), "did you mean command?"),
    (one("name: a, command: ls, memory_gb: much"), "memory_gb='much'; a positive number"),
    (one("name: a, command: ls, env: {CUDA_VISIBLE_DEVICES: 0}"), "which the executor sets"),
    (one("name: a, command: ls, env: {A: [1]}"), "env: A=[1]; a text is needed; put it in quotes"),
    (one("name: a, command: ls, env: 5"), "env=5; a mapping {NAME: value} is needed"),
    (one("name: a, command: ls, seconds: {5g: 1}"), "no GPU model has profile '5g'"),
    (one("name: a, command: ls, seconds: {a30: {3g: 1}}"), "A30 has no profile '3g'"),
    (one("name: a, command: ls, seconds: {v100: {1g: 1}}"), "has no MIG table"),
    (one("name: a, command: ls, seconds: {1g: 1, 1g.10gb: 1}"), "names a profile that another key names too"),
    (one("name: a, command: ls, seconds: {1g: 1, a30: {1g: 1}}"), "mixes profiles and GPU models"),
    (one("name: a, command: ls, seconds: {1g: fast}"), "seconds: 1g='fast'; a positive number"),
    ("version: 1\ntasks:\n - {name: a, command: ls}\n - {name: A, command: ls}\n", "task 'A' stands twice"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_bad_files(tmp_path, text, message):
    """Each mistake is one line with its place; no list comes of it."""
    with pytest.raises(InputError) as refused:
        read_task_list(written(tmp_path, text))
    assert message in str(refused.value)
    assert str(refused.value).startswith(str(tmp_path)) and "\n" not in str(refused.value)


def test_a_csv(tmp_path):
    """The same list as a table, as the planner's own files are."""
    text = "task,command,timeout_s,memory_gb,1g,2g\na,sleep 1,5,,10,6\nb,\"echo 'x y'\",,,,3\n"
    a, b = read_task_list(written(tmp_path, text, "tasks.csv"))
    assert (a.command, a.timeout_s, a.seconds) == (("sleep", "1"), 5.0, {"": {"1g": 10.0, "2g": 6.0}})
    assert (b.command, b.seconds) == (("echo", "x y"), {"": {"1g": None, "2g": 3.0}})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task,1g\na,1\n", "line 1: no column 'command'"),
        ("task,command,9g\na,ls,1\n", "line 1: seconds: no GPU model has profile '9g'"),
        ("task,command,1g\na,ls,fast\n", "line 2: seconds: 1g='fast'; a positive number"),
        ("task,command,1g\na,ls\n", "line 2: as many cells"),
        ("task,command,1g,1g\na,ls,1,1\n", "a column stands twice"),
        ("task,command\n", "no tasks"),
    ],
)
def test_bad_csv(tmp_path, text, message):
    """Mistakes in a table are told by line."""
    with pytest.raises(InputError) as refused:
        read_task_list(written(tmp_path, text, "tasks.csv"))
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a, command: no-such-program-anywhere", "program 'no-such-program-anywhere' is not there"),
        ("name: a, command: ls, cwd: nowhere", "is no folder"),
        ("name: a, command: ls, env: {PATH: /nowhere}", "program 'ls' is not there"),
        ("name: a, command: ./run.sh", "program './run.sh' is not there"),
    ],
)
def test_programs_that_are_not_there(tmp_path, text, message):
    """A typing mistake in the last task is told before the first one has run for hours."""
    tasks = read_task_list(written(tmp_path, one(text)))
    with pytest.raises(InputError) as refused:
        check_programs(tasks, os.environ)
    assert message in str(refused.value)


def test_programs_relative_to_the_task_s_folder(tmp_path):
    """./run.sh is looked for where the task will run."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "run.sh").write_text("#!/bin/sh\n")
    (tmp_path / "sub" / "run.sh").chmod(0o755)
    check_programs(read_task_list(written(tmp_path, one("name: a, command: ./run.sh, cwd: sub"))), os.environ)


def test_many_tasks_look_each_thing_up_once(tmp_path, monkeypatch):
    """A list of 50,000 tasks would take minutes to read: every task looked for its program and its profiles anew."""
    lines = ["task,command,1g,2g,3g,7g", *(f"t{n},sleep {n},{n + 4},{n + 3},{n + 2},{n + 1}" for n in range(500))]
    (tmp_path / "many.csv").write_text("\n".join(lines) + "\n")
    asked: Counter[str] = Counter()

    def counted(of, name):
        real = getattr(of, name)
        monkeypatch.setattr(of, name, lambda *args, **more: (asked.update([name]), real(*args, **more))[1])

    tasks_file._index.cache_clear()
    tasks_file._check_profiles.cache_clear()
    counted(shutil, "which")
    counted(shlex, "split")
    counted(Geometry, "profile")
    tasks = read_task_list(tmp_path / "many.csv")
    check_programs(tasks, os.environ)
    to_batch(tasks, ["a100-80gb"])
    assert len(tasks) == 500 and tasks[7].command == ("sleep", "7")
    assert asked["which"] == 1 and asked["split"] == 0 and asked["profile"] < 100


@pytest.mark.parametrize(
    "text", ["a  b\tc", "a 'b c'", 'a "b c"', "a b\\ c", "a 'b", "é 'x y'", "a #b", "a\nb", "a\x0bb"]
)
def test_words_of_a_command_are_those_of_a_shell(tmp_path, text):
    """The short way to split a command would part what a shell leaves together."""
    entry = {"version": 1, "tasks": [{"name": "t", "command": text}]}
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(entry, allow_unicode=True))
    try:
        words = tuple(shlex.split(text))
    except ValueError:
        with pytest.raises(InputError, match="open quote"):
            read_task_list(tmp_path / "t.yaml")
    else:
        assert read_task_list(tmp_path / "t.yaml")[0].command == words
