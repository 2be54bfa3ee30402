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

import csv
import math
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rltune.errors import InputError
from rltune.mig.batch.tasks import RANGE, Tasks
from rltune.mig.geometry import Geometry, geometry
from rltune.mig_profiles import TYPES

VERSION = 1
KEYS = ("name", "command", "env", "cwd", "timeout_s", "memory_gb", "seconds")
OWN_COLUMNS = ("task", "command", "cwd", "timeout_s", "memory_gb")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
RESERVED = re.compile(r"CUDA_VISIBLE_DEVICES|RLTUNE_(PROFILE|COMPUTE_SLICES|GPU_COMPUTE_SLICES|MARK)")
"""Variables that the executor sets."""
ANY = ""
"""Key of seconds that hold for every GPU model."""
WHOLE = "whole"
"""Column of seconds on a whole GPU without MIG."""


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """One task.

    ``command`` words, no shell; ``env`` over the environment of this process; ``cwd`` None: that of this process.
    ``seconds``: GPU model, or `ANY` -> profile as written (``1g``, ``3g.40gb``, `WHOLE`) -> seconds, None where it cannot run.
    """

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    timeout_s: float | None = None
    memory_gb: float | None = None
    seconds: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)


def read_task_list(path: str | Path) -> list[TaskSpec]:
    """Tasks of a ``.csv``, or of a YAML file; InputError names file, line and remedy."""
    return parse_task_list(path, load_task_list(path))


def load_task_list(path: str | Path) -> bytes:
    """What stands in the file now: it may be edited while its tasks run."""
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; give a list of tasks (YAML with version: 1, or CSV)") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({' '.join(str(error).split())}); save it as UTF-8") from None


def parse_task_list(path: str | Path, data: bytes) -> list[TaskSpec]:
    """Tasks in what `load_task_list` gave."""
    path = Path(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: cannot be read ({' '.join(str(error).split())}); save it as UTF-8") from None
    tasks = _from_csv(path, text) if path.suffix.lower() == ".csv" else _from_yaml(path, text)
    if not tasks:
        raise InputError(f"{path}: no tasks; give at least one")
    seen: set[str] = set()
    for task in tasks:
        # Logs of both would be one file where the disk does not tell capitals.
        if task.name.lower() in seen:
            raise InputError(f"{path}: task {task.name!r} stands twice; give every task its own name")
        seen.add(task.name.lower())
    return tasks


def check_programs(tasks: Sequence[TaskSpec], environment: Mapping[str, str]) -> None:
    """InputError for a folder or program that is not there, before anything starts; ``environment`` of this process."""
    for task in tasks:
        if task.cwd is not None and not task.cwd.is_dir():
            raise InputError(f"task {task.name!r}: cwd {task.cwd} is no folder; create it or correct cwd")
        program = task.command[0]
        # A program with a slash is relative to the task's folder.
        wanted = str((task.cwd or Path()) / program) if "/" in program else program
        if shutil.which(wanted, path=task.env.get("PATH", environment.get("PATH"))) is None:
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
    try:
        return table.profile(name)
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


class _Lines(yaml.SafeLoader):
    """Refuses keys that stand twice, and remembers the line of every mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for at, key in enumerate(keys):
            if key in keys[:at]:
                line = node.value[at][0].start_mark.line + 1
                raise InputError(f"line {line}: {key!r} stands twice; keep one")
        found = super().construct_mapping(node, deep=True)
        return _Mapping(found, node.start_mark.line + 1)


class _Mapping(dict[Any, Any]):
    def __init__(self, value: Mapping[Any, Any], line: int) -> None:
        super().__init__(value)
        self.line = line


def _construct(loader: _Lines, node: yaml.MappingNode) -> dict[Any, Any]:
    return loader.construct_mapping(node, deep=True)


_Lines.add_constructor("tag:yaml.org,2002:map", _construct)


def _from_yaml(path: Path, text: str) -> list[TaskSpec]:
    try:
        value = yaml.load(text, _Lines)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except RecursionError:
        raise InputError(f"{path}: is nested too deeply; see the example in the documentation") from None
    except (yaml.YAMLError, ValueError, TypeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        why = getattr(error, "problem", None) or " ".join(str(error).split())
        raise InputError(f"{path}: {where}is no YAML ({why}); see the example in the documentation") from None
    if not isinstance(value, dict) or "version" not in value:
        raise InputError(f"{path}: no version; begin with `version: {VERSION}`, then `tasks:`")
    if value["version"] != VERSION or isinstance(value["version"], bool):
        raise InputError(f"{path}: version {value['version']!r} is unknown; this rltune reads version {VERSION}")
    for key in value:
        if key not in ("version", "tasks"):
            raise InputError(f"{path}: key {key!r} is unknown; known are version, tasks")
    if not isinstance(value.get("tasks"), list):
        raise InputError(f"{path}: tasks is no list; write `tasks:` and below it `- name: ...`")
    return [_task(path, number, entry) for number, entry in enumerate(value["tasks"], 1)]


def _task(path: Path, number: int, entry: Any) -> TaskSpec:
    if not isinstance(entry, _Mapping):
        raise InputError(f"{path}: task {number} is no mapping; write name: and command:")
    where = f"{path}: line {entry.line}: task {entry.get('name', number)!r}"
    for key in entry:
        if key not in KEYS:
            raise InputError(f"{where}: key {key!r} is unknown; known are {', '.join(KEYS)}")
    env = entry.get("env") or {}
    if not isinstance(env, dict):
        raise InputError(f"{where}: env is no mapping; write {{NAME: value}}")
    return TaskSpec(
        _name(where, entry.get("name")),
        _command(where, entry.get("command")),
        {_variable(where, name): _text(where, name, value) for name, value in env.items()},
        _folder(path, where, entry.get("cwd")),
        _number(where, "timeout_s", entry.get("timeout_s")),
        _number(where, "memory_gb", entry.get("memory_gb")),
        _by_model(where, entry.get("seconds")),
    )


def _name(where: str, value: Any) -> str:
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise InputError(f"{where}: name {value!r} is not usable as a file name; use up to 100 of A-Z a-z 0-9 . _ -")
    return value


def _command(where: str, value: Any) -> tuple[str, ...]:
    """Words, ``{python}`` replaced."""
    if isinstance(value, str):
        try:
            words = shlex.split(value)
        except ValueError as error:
            raise InputError(f"{where}: command {value!r} has an open quote ({error}); close it") from None
    elif isinstance(value, list) and all(isinstance(w, str | int | float) and not isinstance(w, bool) for w in value):
        words = [str(word) for word in value]
    else:
        raise InputError(f"{where}: command {value!r} is no text and no list of words; give one")
    if not words or not words[0] or any("\0" in word for word in words):
        raise InputError(f"{where}: the command is empty or holds a zero byte; give a program and its arguments")
    return tuple(word.replace("{python}", sys.executable) for word in words)


def _variable(where: str, name: Any) -> str:
    if not isinstance(name, str) or not name or "=" in name or "\0" in name:
        raise InputError(f"{where}: env: {name!r} is no name of a variable")
    if RESERVED.fullmatch(name):
        raise InputError(f"{where}: env sets {name}, which the executor sets; leave it out")
    return name


def _text(where: str, name: Any, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float) or "\0" in str(value):
        raise InputError(f"{where}: env: {name}={value!r} is no text; put it in quotes")
    return str(value)


def _folder(path: Path, where: str, value: Any) -> Path | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or "\0" in value:
        raise InputError(f"{where}: cwd {value!r} is no folder's name")
    return (path.parent / Path(value).expanduser()).absolute()


def _number(where: str, what: str, value: Any) -> float | None:
    if value is None:
        return None
    number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    if not RANGE[0] <= number <= RANGE[1]:
        raise InputError(
            f"{where}: {what}={value!r} is no positive number up to {RANGE[1]:g}; correct it, or leave it out"
        )
    return number


def _by_model(where: str, value: Any) -> dict[str, dict[str, float | None]]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"{where}: seconds is no mapping; write {{1g: 30, 2g: 16}}")
    nested = [isinstance(inner, dict) for inner in value.values()]
    if not any(nested):
        return {ANY: _columns(where, ANY, value)} if value else {}
    if not all(nested):
        raise InputError(f"{where}: seconds mixes profiles and GPU models; give either")
    found: dict[str, dict[str, float | None]] = {}
    for model, columns in value.items():
        try:
            name = geometry(str(model)).model
        except InputError as error:
            raise InputError(f"{where}: seconds: {error}") from None
        if name in found:
            raise InputError(f"{where}: seconds of {name} stand twice; keep one")
        found[name] = _columns(where, name, columns)
    return found


def _columns(where: str, model: str, columns: Mapping[Any, Any]) -> dict[str, float | None]:
    """Seconds by profile; a profile that no GPU model (or not this one) has is refused, as is one named twice."""
    tables = [geometry(model) for model in ([model] if model else TYPES)]
    taken: set[tuple[str, int]] = set()
    for name in columns:
        indices = {(t.model, i) for t in tables if (i := _profile(t, str(name))) is not None}
        if not indices and name != WHOLE:
            raise InputError(f"{where}: seconds: {model or 'no GPU model'} has {'no ' * bool(model)}profile {name!r}")
        if taken & indices:
            raise InputError(f"{where}: seconds: {name!r} names a profile that another key names too; keep one")
        taken |= indices
    return {str(name): _number(f"{where}: seconds", str(name), value) for name, value in columns.items()}


def _from_csv(path: Path, text: str) -> list[TaskSpec]:
    try:
        reader = csv.DictReader(text.splitlines(keepends=True), strict=True)
        columns = [name.strip() for name in reader.fieldnames or ()]
        reader.fieldnames = columns
        for needed in ("task", "command"):
            if needed not in columns:
                raise InputError(
                    f"{path}: line 1: no column {needed!r}; the header is task,command,1g,2g,3g,4g,7g or alike"
                )
        if len(set(columns)) < len(columns):
            raise InputError(f"{path}: line 1: a column stands twice; name each once")
        profiles = [column for column in columns if column not in OWN_COLUMNS]
        _columns(f"{path}: line 1", ANY, dict.fromkeys(profiles))
        return [_csv_row(path, reader.line_num, row, profiles) for row in reader]
    except csv.Error as error:
        raise InputError(f"{path}: cannot be read as CSV ({error}); save it as UTF-8 CSV") from None


def _csv_row(path: Path, line: int, cells: Mapping[str, Any], profiles: Sequence[str]) -> TaskSpec:
    where = f"{path}: line {line}"
    if None in cells or None in cells.values():
        raise InputError(f"{where}: as many cells as the header has columns are needed; check the commas")
    row = {name: cell.strip() for name, cell in cells.items()}
    seconds = {name: _cell(where, name, row[name]) for name in profiles}
    return TaskSpec(
        _name(where, row["task"]),
        _command(where, row["command"]),
        {},
        _folder(path, where, row.get("cwd")),
        _cell(where, "timeout_s", row.get("timeout_s", "")),
        _cell(where, "memory_gb", row.get("memory_gb", "")),
        {ANY: seconds} if any(value is not None for value in seconds.values()) else {},
    )


def _cell(where: str, what: str, text: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        raise InputError(f"{where}: {what}={text!r} is no number; give one, or leave it empty") from None
    return _number(where, what, value)
