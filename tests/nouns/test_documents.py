"""Files that people write: what could hang or kill the reader is refused in one line, and soon."""

from __future__ import annotations

import time
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rltune.config import load_cluster
from rltune.devices.execution.tasks_file import read_task_list
from rltune.devices.spec import read_spec
from rltune.nouns.documents import DEEPEST, MOST_BYTES, parse_yaml, read_json, read_yaml
from rltune.nouns.errors import InputError


def bomb(kind: str, levels: int) -> str:
    """Each line holds the one before several times: ten to the number of lines once written out."""
    first = "a0: &a0 {x: 1}\n" if kind == "<<" else "a0: &a0 [x]\n"
    lines = [
        f"a{k}: &a{k} {{<<: [{', '.join([f'*a{k - 1}'] * 10)}]}}\n"
        if kind == "<<"
        else f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]\n"
        for k in range(1, levels)
    ]
    return first + "".join(lines) + f"version: *a{levels - 1}\n"


HOSTILE = {
    "aliases": (bomb("[]", 12), "aliases written out"),
    "merge keys": (bomb("<<", 12), "aliases written out"),
    "itself": ("version: &a [*a]", r"\*a stands within what it names"),
    "merged itself": ("version: &a {<<: *a}", r"\*a stands within what it names"),
    "flow": ("version: " + "[" * 200_000, f"line 1: .*nested more than {DEEPEST} deep"),
    "mappings": ("{a: " * 200_000, "nested more than"),
    "block": ("- " * 200_000, "nested more than"),
    "keys": ("? " * 200_000, "nested more than"),
    "digits": ("version: " + "9" * 1_000_000, "line 1: .*a value of 1000000 characters"),
    "hexadecimal": ("version: 0x" + "f" * 100_000, "a value of 100002 characters"),
    "underscores": ("version: 1" + "_0" * 100_000, "a value of 200001 characters"),
    "sexagesimal": ("version: 1" + ":59" * 10_000, "a value of 30001 characters"),
    "large": ("#" * (MOST_BYTES + 1), "larger than 16 MiB; split it"),
    "many": ("version: 1\ntasks:\n" + "- 1\n" * 1_000_000, r"tasks\[0\]|is unknown"),
    "wide aliases": ("x: &x [" + "1," * 100_000 + "1]\nversion: [" + "*x," * 100_000 + "1]", "aliases written out"),
    "an alias of nothing": ("version: *a", "line 1: .*names nothing; write &a before"),
    "an anchor twice": ("version: &a 1\ngpus: &a 2", "line 2: .*the anchor &a stands twice"),
    "a list as a key": ("? [1]\n: 2", "line 1: .*a list or mapping as a key"),
    "merged text": ("version: {<<: x}", "<< takes a mapping"),
    "object": ("version: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
    "zero byte": ("version: 1\0", "control characters"),
    "two documents": ("version: 1\n---\nversion: 1", "line 2: .*another document"),
    "twice": ("version: 1\ngpus: []\nversion: 1", "line 3: .*the key 'version' stands twice in one mapping: keep one"),
    "twice in a key": ("? {a: 1, a: 2}\n: 3", "stands twice"),
    "twice beside a merge": ("x: &x {a: 1}\ny:\n  <<: *x\n  b: 1\n  b: 2", "line 5: .*the key 'b' stands twice"),
}


@pytest.mark.parametrize("reader", [read_spec, read_task_list, load_cluster], ids=lambda reader: reader.__name__)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_soon_and_in_one_line(name: str, reader, tmp_path: Path) -> None:
    """A file of a few hundred bytes would eat all memory, overflow the stack of the parser, or fill the screen."""
    text, told = HOSTILE[name]
    path = tmp_path / "hostile.yaml"
    path.write_text(text)
    begun = time.process_time()
    with pytest.raises(InputError, match=told) as refused:
        reader(str(path))
    assert time.process_time() - begun < 20  # seconds of its own; most take milliseconds
    message = str(refused.value)
    assert message.startswith(str(path)) and "\n" not in message and len(message) < len(str(path)) + 250


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab01:-[]{}&*?!|>'\"%#,<.\n ~", max_size=60))
def test_any_text_is_a_document_or_one_line(text: str) -> None:
    """Some slip would end in a stack trace of the parser."""
    try:
        parse_yaml("f.yaml", text.encode())
    except InputError as error:
        assert str(error).startswith("f.yaml: ") and "\n" not in str(error)


def test_a_long_list_of_tasks_is_read_soon(tmp_path: Path) -> None:
    """50,000 tasks, with what they share written once and merged, were refused for their number of values."""
    path = tmp_path / "tasks.yaml"
    tasks = [f"  - {{<<: *t, name: t{k}, seconds: {{1g: {300 + k}, 7g: {60 + k}}}}}\n" for k in range(50_000)]
    path.write_text("version: 1\ntasks:\n  - &t {name: x, command: 'true', env: {A: b}}\n" + "".join(tasks))
    begun = time.process_time()
    found = read_task_list(path)
    assert time.process_time() - begun < 30  # seconds of its own; it takes two
    assert (len(found), found[-1].name, found[-1].env, found[-1].seconds[""]["7g"]) == (
        50_001,
        "t49999",
        {"A": "b"},
        50_059,
    )


def test_usual_files_lose_nothing(tmp_path: Path) -> None:
    """The limits would refuse, or change, what people really write."""
    path = tmp_path / "good.yaml"
    path.write_bytes(
        "\ufeffbase: &base {x: 1, y: [1.5, yes, null]}\nmore:\n  <<: *base\n  x: 0x10\n\nlast: *base\n"
        "several: {<<: [{x: 3}, *base], z: '5'}\n? 5\n: 2020-01-02\nblock: |\n  1\n".encode()
    )
    document = read_yaml(path, "a file")
    base = {"x": 1, "y": [1.5, True, None]}
    assert document.value == {"base": base, "more": base | {"x": 16}, "last": base,
                              "several": {"x": 3, "y": base["y"], "z": "5"}, 5: date(2020, 1, 2), "block": "1\n"}  # fmt: skip
    assert list(document.lines[id(document.value)].items())[:3] == [("base", 1), ("more", 2), ("last", 6)]
    assert document.lines[id(document.value["more"])]["x"] == 4


@pytest.mark.parametrize(
    ("text", "told"),
    [("[" * 100_000, "cannot be read as JSON"), ("9" * 5000, "cannot be read as JSON"), ("", "cannot be read as JSON"),
     ('{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' stands twice in one mapping")],
    ids=["deep", "digits", "empty", "twice"],
)  # fmt: skip
def test_json_of_ours_is_read_as_carefully(text: str, told: str, tmp_path: Path) -> None:
    """A damaged plan would end in a stack trace, or the last of two keys win."""
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(InputError, match=told) as refused:
        read_json(tmp_path / "plan.json", "a plan")
    assert "\n" not in str(refused.value) and "give a plan" in str(refused.value)
