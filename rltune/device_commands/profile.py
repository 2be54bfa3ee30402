"""``python -m rltune.devices profile tasks.yaml``: how long each task takes on each slice size, for `run` and the planner."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from os import environ
from pathlib import Path
from typing import Any

import yaml

from rltune.device_commands.executing import Kept, add_shared, options_of, settled_adapter, tell, write_rows
from rltune.devices.execution.measuring import Measured, Trials, kinds_of, trials_of
from rltune.devices.execution.outcome import Execution
from rltune.devices.execution.schedule import Target, targets_of, users_of
from rltune.devices.execution.tasks_file import (
    ANY,
    VERSION,
    WHOLE,
    TaskSpec,
    check_programs,
    load_task_list,
    parse_task_list,
)
from rltune.mig.geometry import geometry
from rltune.nouns.documents import parse_yaml
from rltune.nouns.errors import InputError
from rltune.nouns.mig_profiles import TYPES
from rltune.rundir import RunDirectory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add_shared(parser)
    parser.add_argument("--kinds", metavar="1g,2g,7g", help="profiles to measure (default: every plain one)")
    parser.add_argument("--repeats", type=int, default=1, metavar="N", help="runs of each, of which the median counts")
    parser.add_argument("--gpu", type=int, default=0, metavar="N", help="the GPU, by NVML's number (default 0)")


@dataclass(frozen=True)
class Campaign:
    """What is measured: ``tasks`` of the file that was read as ``listed``, on ``kinds`` of one GPU, as ``args`` say."""

    args: argparse.Namespace
    listed: bytes
    tasks: Sequence[TaskSpec]
    target: Target
    kinds: Sequence[str]
    trials: Trials


def run(args: argparse.Namespace) -> int:
    """Measure and write; 0, 1 where a task could be measured nowhere or did not end, 3 device trouble, 130 interrupted."""
    options = options_of(args)
    listed = load_task_list(args.tasks)
    tasks = parse_task_list(args.tasks, listed)
    check_programs(tasks, environ)
    with settled_adapter(args) as adapter:
        (target,) = targets_of(args.driver, [args.gpu])
        kinds = kinds_of(target, args.kinds.split(",") if args.kinds else None)
        state = adapter.states()[target.uuid]
        used = users_of(adapter, target) if state.instances else ()
        trials = trials_of(tasks, target, kinds, args.repeats, args.driver, state, used)
        tell(
            f"{len(tasks)} tasks on {', '.join(kinds)} of GPU {target.index} ({target.name}), each alone, {args.repeats} x"
        )
        kept = Kept(
            args, f"profile-{Path(args.tasks).stem}-{datetime.now():%m%d-%H%M%S}", adapter, trials.schedule, listed
        )
        campaign, found = Campaign(args, listed, tasks, target, kinds, trials), list[Measured]()

        def results(directory: RunDirectory, done: Execution) -> dict[str, Any]:
            measured = Measured(tasks, trials, done.tasks)
            found.append(measured)
            return _write(directory, campaign, measured, done)

        done = kept.execute(trials.specs, options, lambda directory: None, results)
        (measured,) = found
        return kept.leave(done, _ended(tasks, measured, done)[1], lambda: _report(campaign, measured))


def _ended(tasks: Sequence[TaskSpec], measured: Measured, done: Execution) -> tuple[str, int]:
    """Status, and exit status: a task that does not fit some profile is no failure, one without any time is."""
    if done.status in ("ok", "failed"):
        known = not measured.unknown and all(measured.measured(task.name) for task in tasks)
        return ("ok", 0) if known else ("failed", 1)
    return done.status, done.exit_status


def _write(directory: RunDirectory, campaign: Campaign, measured: Measured, done: Execution) -> dict[str, Any]:
    """Files of the run directory, and what the summary says more."""
    tasks = campaign.tasks
    more = [{"of_task": tasks[t.task].name, "kind": t.kind, "repeat": t.repeat + 1} for t in campaign.trials.trials]
    write_rows(directory.file("profile.parquet"), done.tasks, more)
    seconds = _seconds(campaign, measured, directory)
    text = yaml.safe_dump({"version": VERSION, "tasks": _filled(campaign, seconds)}, sort_keys=False)
    directory.write_text("tasks.yaml", text)
    status, exit_status = _ended(tasks, measured, done)
    return {
        "status": status,
        "exit_status": exit_status,
        "kinds": list(campaign.kinds),
        "repeats": campaign.args.repeats,
        "seconds": seconds,
        "does_not_fit": [[name, kind] for name, kind, _ in measured.unfit],
        "not_measured": [[name, kind, row.reason or row.outcome] for name, kind, row in measured.unknown],
    }


def _seconds(campaign: Campaign, measured: Measured, directory: RunDirectory) -> dict[str, dict[str, float | None]]:
    """Task -> kind -> seconds, None where it cannot run; with MIG also written as the planner's tasks.csv."""
    # numpy's and pandas' tables are needed at the end only.
    from rltune.mig.profiles import measure_tasks, write_tasks

    target, kinds = campaign.target, campaign.kinds
    names = [task.name for task in campaign.tasks if measured.measured(task.name)]
    if not names:
        return {}
    if kinds == [WHOLE]:
        import statistics

        return {name: {WHOLE: statistics.median(measured.seconds[name, WHOLE])} for name in names}
    assert target.model is not None
    table = geometry(target.model)
    batch = measure_tasks(names, target.model, measured.measure(target.model), campaign.args.repeats, kinds)
    write_tasks(directory.file("tasks.csv"), batch)
    columns = {kind: table.profile(kind) for kind in kinds}
    rows = dict(zip(names, batch.seconds[table.model], strict=True))
    unknown = {(name, kind) for name, kind, _ in measured.unknown}
    return {
        name: {
            kind: float(row[k]) if math.isfinite(row[k]) else None
            for kind, k in columns.items()
            if (name, kind) not in unknown
        }
        for name, row in rows.items()
    }


def _filled(campaign: Campaign, seconds: dict[str, dict[str, float | None]]) -> list[dict[str, Any]]:
    """Entries of the list as they were, folders absolute, with the seconds of this GPU's model beside those of others."""
    file = campaign.args.tasks
    if Path(file).suffix.lower() == ".csv":
        entries: list[dict[str, Any]] = [_entry(task) for task in campaign.tasks]
    else:
        entries = parse_yaml(file, campaign.listed).value["tasks"]
    for entry, task in zip(entries, campaign.tasks, strict=True):
        if task.cwd is not None:
            entry["cwd"] = str(task.cwd)
        if task.name in seconds:
            entry["seconds"] = _merged(task, campaign.target.model, seconds[task.name])
    return entries


def _entry(task: TaskSpec) -> dict[str, Any]:
    given = {"timeout_s": task.timeout_s, "memory_gb": task.memory_gb}
    return {"name": task.name, "command": list(task.command)} | {k: v for k, v in given.items() if v is not None}


def _merged(task: TaskSpec, model: str | None, fresh: dict[str, float | None]) -> dict[str, Any]:
    """Measured seconds over those that were given; what held for every model still holds for the others."""
    if model is None:
        # Of no table: they cannot stand beside others under its name, and those of others are not its.
        if any(set(columns) - {WHOLE} for columns in task.seconds.values()) or set(task.seconds) - {ANY}:
            tell(f"{task.name}: the seconds of the list stay as they are; those measured here are in the summary")
            return _as_given(task)
        return fresh
    table = geometry(model)
    others = {name: dict(columns) for name, columns in task.seconds.items() if name not in (ANY, model)}
    for other in TYPES if ANY in task.seconds else ():
        known = {k: s for k, s in task.seconds[ANY].items() if k == WHOLE or _index(other, k) is not None}
        if other != model and known:
            others[other] = known
    measured = {table.profile(kind) for kind in fresh if kind != WHOLE}
    old = {
        name: value
        for name, value in task.seconds.get(model, task.seconds.get(ANY, {})).items()
        if name not in fresh and (name == WHOLE or _index(model, name) not in {*measured, None})
    }
    return others | {model: old | fresh}


def _as_given(task: TaskSpec) -> dict[str, Any]:
    if set(task.seconds) == {ANY}:
        return dict(task.seconds[ANY])
    return {name: dict(columns) for name, columns in task.seconds.items()}


def _index(model: str, name: str) -> int | None:
    try:
        return geometry(model).profile(name)
    except InputError:
        return None


def _report(campaign: Campaign, measured: Measured) -> None:
    """Seconds by task and profile, and every reason for a gap."""
    from statistics import median

    from rich.console import Console
    from rich.table import Table

    tasks, kinds = campaign.tasks, campaign.kinds
    table = Table("task", *kinds, title="seconds, median", title_justify="left")
    for task in tasks:
        cells = [measured.seconds.get((task.name, kind)) for kind in kinds]
        table.add_row(task.name, *("-" if cell is None else f"{median(cell):,.2f}" for cell in cells))
    Console().print(table)
    for name, kind, row in measured.unfit:
        how = f"signal {row.signal}" if row.exit_code is None else f"exit code {row.exit_code}"
        tell(f"{name} does not fit {kind}: {how}; see {row.log} and .err")
    for name, kind, row in measured.unknown:
        tell(f"{name} on {kind} is not known: {row.outcome}{f' ({row.reason})' if row.reason else ''}")
    for k, kind in campaign.trials.ruled_out:
        tell(f"{tasks[k].name} was not tried on {kind}: memory_gb {tasks[k].memory_gb:g} rules it out")
