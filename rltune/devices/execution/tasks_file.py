"""The list of tasks that `run` and `profile` take: YAML or CSV, checked before anything starts.

```yaml
version: 1
tasks:
  - name: resnet                     # letters, digits, . _ -; also the name of its log
    command: "{python} train.py --epochs 3"   # or a list of words; no shell; {python} is the interpreter that runs rltune
    env: {DATA: /data}               # optional
    cwd: resnet                      # optional, relative to this file; default: where rltune is started
    timeout_s: 3600                  # optional
    memory_gb: 12                    # optional: profiles with less are ruled out
    seconds: {1g: 300, 2g: 160, 7g: 60}       # optional; or by GPU model: {a100-80gb: {1g: 300}, a30: {1g: 410}}
```

CSV: columns task, command, and optionally cwd, timeout_s, memory_gb, and profiles with seconds; an empty cell is a profile that
the task cannot use.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BeforeValidator, FailFast, Field

from rltune.mig.batch.tasks import RANGE, Tasks
from rltune.mig.geometry import Geometry, geometry
from rltune.nouns.checked import Checked, Says, checked, shown
from rltune.nouns.documents import Document, parse_csv, parse_yaml, read_bytes, text_of
from rltune.nouns.errors import InputError
from rltune.nouns.mig_profiles import TYPES

VERSION = 1
OWN_COLUMNS = ("task", "command", "cwd", "timeout_s", "memory_gb")
RESERVED = re.compile(r"CUDA_VISIBLE_DEVICES|RLTUNE_(PROFILE|COMPUTE_SLICES|GPU_COMPUTE_SLICES|MARK)")
"""Variables that the executor sets."""
PLAIN = re.compile(r"[ \t\r\n!#-&(-\[\]-~]*")
"""A command without quotes, backslashes, and characters beyond ASCII: its words are what blanks part."""
ANY = ""
"""Key of seconds that hold for every GPU model."""
WHOLE = "whole"
"""Column of seconds on a whole GPU without MIG."""


def _words(value: Any) -> Any:
    """Words, ``{python}`` replaced."""
    if isinstance(value, str):
        try:
            # Most commands need no parser, which takes a tenth of a millisecond each.
            value = value.split() if PLAIN.fullmatch(value) else shlex.split(value)
        except ValueError as error:
            raise InputError(f"{shown(value)} has an open quote ({error}); close it") from None
    elif not isinstance(value, list | tuple) or not all(type(word) in (str, int, float) for word in value):
        return value
    words = tuple(str(word) for word in value)
    if not words or not words[0] or any("\0" in word for word in words):
        raise InputError("the command is empty or holds a zero byte; give a program and its arguments")
    return tuple(word.replace("{python}", sys.executable) for word in words)


def _variable(name: str) -> str:
    if not name or "=" in name or "\0" in name:
        raise InputError(f"{name!r} is no name of a variable")
    if RESERVED.fullmatch(name):
        raise InputError("which the executor sets; leave it out")
    return name


def _text(value: Any) -> Any:
    return value if type(value) not in (int, float) else str(value)


def _folder(value: Any) -> Any:
    return Path(value).expanduser() if isinstance(value, str) and value and "\0" not in value else value or None


def _by_model(value: Any) -> Any:
    """Seconds by GPU model, as `geometry` names it, or `ANY`."""
    if not isinstance(value, dict) or not value:
        return {} if value is None else value
    nested = [isinstance(inner, dict) for inner in value.values()]
    if not any(nested):
        return {ANY: _columns(ANY, value)}
    if not all(nested):
        raise InputError("mixes profiles and GPU models; give either")
    found: dict[str, dict[str, Any]] = {}
    for model, columns in value.items():
        name = geometry(str(model)).model
        if name in found:
            raise InputError(f"those of {name} stand twice; keep one")
        found[name] = _columns(name, columns)
    return found


def _columns(model: str, columns: Mapping[Any, Any]) -> dict[str, Any]:
    """Seconds by profile; a profile that no GPU model (or not this one) has is refused, as is one named twice."""
    names = tuple(map(str, columns))
    _check_profiles(model, names)
    return dict(zip(names, columns.values(), strict=True))


@lru_cache(maxsize=1024)
def _check_profiles(model: str, names: tuple[str, ...]) -> None:
    """As `_columns` says; the tasks of a list name the same profiles, most of them."""
    tables = [geometry(model) for model in ([model] if model else TYPES)]
    taken: set[tuple[str, int]] = set()
    for name in names:
        indices = {(t.model, i) for t in tables if (i := _profile(t, name)) is not None}
        if not indices and name != WHOLE:
            raise InputError(f"{model or 'no GPU model'} has {'no ' * bool(model)}profile {name!r}")
        if taken & indices:
            raise InputError(f"{name!r} names a profile that another key names too; keep one")
        taken |= indices


Positive = Annotated[
    float, Field(ge=RANGE[0], le=RANGE[1]), Says(f"a positive number up to {RANGE[1]:g} is needed; or leave it out")
]
Columns = dict[str, Positive | None]


class TaskSpec(Checked):
    """One task."""

    accepted = "write name: and command:"
    name: Annotated[
        str,
        Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"),
        Says("it also names its log: use up to 100 of A-Z a-z 0-9 . _ -"),
    ]
    command: Annotated[
        tuple[str, ...],
        BeforeValidator(_words, json_schema_input_type=str | list[str | int | float]),
        Says("a text, or a list of words, is needed"),
    ]
    """Words, no shell; ``{python}`` is the interpreter that runs rltune."""
    env: Annotated[
        dict[
            Annotated[str, AfterValidator(_variable)],
            Annotated[
                str,
                Field(pattern=r"^[^\x00]*$"),
                BeforeValidator(_text, json_schema_input_type=str | int | float),
                Says("a text is needed; put it in quotes"),
            ],
        ],
        BeforeValidator(lambda value: {} if value is None else value),
        Says("a mapping {NAME: value} is needed"),
    ] = Field({})
    """Variables over the environment of this process."""
    cwd: Annotated[
        Path | None, BeforeValidator(_folder, json_schema_input_type=str | None), Says("a folder is needed")
    ] = None
    """Folder, relative to this file; left out: where rltune is started."""
    timeout_s: Positive | None = None
    """Seconds after which the task is ended."""
    memory_gb: Positive | None = None
    """GB of GPU memory; profiles with less are ruled out."""
    seconds: Annotated[
        dict[str, Columns],
        BeforeValidator(_by_model, json_schema_input_type=Columns | dict[str, Columns] | None),
        Says("a mapping {1g: 30, 2g: 16} is needed"),
    ] = Field({})
    """Run time in seconds by profile (``1g``, ``3g.40gb``, ``whole``; null: it cannot run there), or by GPU model and profile."""


class TaskFile(Checked):
    """Tasks for `run` and `profile`."""

    accepted = f"a list of tasks begins with version: {VERSION}, then tasks:"
    version: Literal[1]
    tasks: Annotated[list[TaskSpec], FailFast(), Says("a list is needed; write tasks: and below it - name: ...")]


def read_task_list(path: str | Path) -> list[TaskSpec]:
    """Tasks of a ``.csv``, or of a YAML file; InputError names file, line and remedy."""
    return parse_task_list(path, load_task_list(path))


def load_task_list(path: str | Path) -> bytes:
    """What stands in the file now: it may be edited while its tasks run."""
    return read_bytes(path, f"a list of tasks (YAML with version: {VERSION}, or CSV)")


def parse_task_list(path: str | Path, data: bytes) -> list[TaskSpec]:
    """Tasks in what `load_task_list` gave."""
    path = Path(path)
    if path.suffix.lower() == ".csv":  # noqa: SIM108  (one line of it is too long)
        tasks = _from_csv(path, text_of(path, data))
    else:
        tasks = checked(TaskFile, parse_yaml(path, data)).tasks
    if not tasks:
        raise InputError(f"{path}: no tasks; give at least one")
    seen: set[str] = set()
    for task in tasks:
        # Logs of both would be one file where the disk does not tell capitals.
        if task.name.lower() in seen:
            raise InputError(f"{path}: task {task.name!r} stands twice; give every task its own name")
        seen.add(task.name.lower())
    return [
        task if task.cwd is None else task.model_copy(update={"cwd": (path.parent / task.cwd).absolute()})
        for task in tasks
    ]


def _from_csv(path: Path, text: str) -> list[TaskSpec]:
    columns, rows = parse_csv(path, text, dict.fromkeys(("task", "command"), "task,command,1g,2g,3g,4g,7g"))
    profiles = [column for column in columns if column not in OWN_COLUMNS]
    try:
        _columns(ANY, dict.fromkeys(profiles))
    except InputError as error:
        raise InputError(f"{path}: line 1: seconds: {error}") from None
    tasks = []
    for line, row in rows:
        seconds = {name: _cell(row[name]) for name in profiles}
        entry = {
            "name": row["task"],
            "command": row["command"],
            "cwd": row.get("cwd"),
            "timeout_s": _cell(row.get("timeout_s", "")),
            "memory_gb": _cell(row.get("memory_gb", "")),
            "seconds": seconds if any(value is not None for value in seconds.values()) else None,
        }
        tasks.append(checked(TaskSpec, Document(f"{path}: line {line}", entry)))
    return tasks


def _cell(text: str) -> float | str | None:
    try:
        return float(text) if text else None
    except ValueError:
        return text


def check_programs(tasks: Sequence[TaskSpec], environment: Mapping[str, str]) -> None:
    """InputError for a folder or program that is not there, before anything starts; ``environment`` of this process."""
    there: set[tuple[Path | None, str, str | None]] = set()
    for task in tasks:
        path = task.env.get("PATH", environment.get("PATH"))
        if (task.cwd, task.command[0], path) not in there:
            _check_program(task, path)
            there.add((task.cwd, task.command[0], path))


def _check_program(task: TaskSpec, path: str | None) -> None:
    if task.cwd is not None and not task.cwd.is_dir():
        raise InputError(f"task {task.name!r}: cwd {task.cwd} is no folder; create it or correct cwd")
    program = task.command[0]
    # A program with a slash is relative to the task's folder.
    wanted = str((task.cwd or Path()) / program) if "/" in program else program
    if shutil.which(wanted, path=path) is None:
        raise InputError(
            f"task {task.name!r}: program {program!r} is not there or not executable; "
            "give its path, set PATH in env, or write {python} for the interpreter of rltune"
        )


def to_batch(tasks: Sequence[TaskSpec], models: Sequence[str]) -> Tasks:
    """The batch that the planner takes, with a table a GPU model.

    InputError where a task has no seconds on a model: `profile` measures them.
    """
    tables = [geometry(model) for model in dict.fromkeys(models)]
    return Tasks(
        tuple(task.name for task in tasks),
        {table.model: np.stack([_seconds(task, table) for task in tasks]) for table in tables},
    )


def whole_gpu_s(task: TaskSpec, model: str | None) -> float | None:
    """Seconds on a whole GPU without MIG; those of its largest profile where `WHOLE` is not given; None where unknown."""
    given = _given(task, model)
    if WHOLE in given:
        return given[WHOLE]
    if model is None:
        return None
    table = geometry(model)
    return next((s for name, s in given.items() if _profile(table, name) == 0), None)


def _given(task: TaskSpec, model: str | None) -> Mapping[str, float | None]:
    return task.seconds.get(model, task.seconds.get(ANY, {})) if model else task.seconds.get(ANY, {})


def _profile(table: Geometry, name: str) -> int | None:
    return _index(table.model, name)


@lru_cache(maxsize=4096)
def _index(model: str, name: str) -> int | None:
    try:
        return geometry(model).profile(name)
    except InputError:
        return None


def _seconds(task: TaskSpec, table: Geometry) -> Any:
    """(n_profiles,) seconds, infinite where the task cannot run."""
    seconds = np.full(len(table.profiles), np.inf)
    given = _given(task, table.model)
    columns = {index: value for name, value in given.items() if (index := _profile(table, name)) is not None}
    if not columns:
        raise InputError(
            f"task {task.name!r} has no seconds on {table.model}; run `profile` on the list first, or give `seconds`"
        )
    for index, value in columns.items():
        seconds[index] = np.inf if value is None else value
    if task.memory_gb is not None:
        kinds = {profile.kind: index for index, profile in enumerate(table.profiles)}
        double = kinds.get("1g double")
        # As in the batch's own CSV: the same compute with more memory.
        if double is not None and double not in columns:
            seconds[double] = seconds[kinds["1g"]]
        seconds[[profile.memory_gb < task.memory_gb for profile in table.profiles]] = np.inf
    if not np.isfinite(seconds).any():
        raise InputError(
            f"task {task.name!r} fits no slice of {table.model}; check memory_gb, or give seconds on a larger profile"
        )
    return seconds
