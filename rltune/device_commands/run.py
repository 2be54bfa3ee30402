"""``python -m rltune.devices run tasks.yaml``: run tasks on the instances of a plan, or on whole GPUs where MIG is off."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from os import environ
from pathlib import Path
from typing import Any

from rltune.device_commands.executing import (
    Kept,
    add_shared,
    check_positive,
    draw,
    options_of,
    settled_adapter,
    tell,
    write_rows,
)
from rltune.devices.adapter import Adapter
from rltune.devices.execution.outcome import Execution
from rltune.devices.execution.schedule import (
    Schedule,
    Target,
    check_expected,
    left_on,
    schedule_of,
    targets_of,
    whole_gpus,
)
from rltune.devices.execution.tasks_file import TaskSpec, check_programs, load_task_list, parse_task_list, to_batch
from rltune.mig.batch.plan import Plan, check_plan
from rltune.nouns.errors import InputError
from rltune.rundir import RunDirectory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add_shared(parser)
    parser.add_argument("--plan", metavar="FILE", help="plan.json of `python -m rltune.mig batch`; default: plan now")
    parser.add_argument("--seconds", type=float, default=1.0, metavar="S", help="to search for a plan (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="of the search")
    parser.add_argument("--gpus", metavar="0,1", help="use these GPUs only (NVML's numbers)")
    parser.add_argument("--keep", action="store_true", help="leave the plan's last instances; default: as it was found")
    parser.add_argument("--fail-fast", action="store_true", help="end everything at the first task that fails")


def run(args: argparse.Namespace) -> int:
    """Plan, run, write; 0 all tasks ok, 1 some failed, 3 trouble with the device, 130 interrupted.

    Raises InputError before anything is changed.
    """
    options = options_of(args, args.keep, args.fail_fast)
    check_positive(args, "seconds")
    listed = load_task_list(args.tasks)
    tasks = parse_task_list(args.tasks, listed)
    check_programs(tasks, environ)
    with settled_adapter(args) as adapter:
        targets = targets_of(args.driver, gpu_numbers(args.gpus))
        schedule, plan_json = _planned(args, tasks, targets, adapter)
        check_expected(schedule, adapter)
        _say_plan(schedule, tasks)
        kept = Kept(args, f"run-{Path(args.tasks).stem}-{datetime.now():%m%d-%H%M%S}", adapter, schedule, listed)

        def files(directory: RunDirectory) -> None:
            if plan_json is not None:
                directory.write_json("plan.json", plan_json)

        def results(directory: RunDirectory, done: Execution) -> dict[str, Any]:
            write_rows(directory.file("tasks.parquet"), done.tasks)
            write_rows(directory.file("instances.parquet"), done.instances)
            draw(directory, done, _title(args, done))
            return {}

        done = kept.execute(tasks, options, files, results)
        return kept.leave(done, done.exit_status, lambda: _report(done, args))


def gpu_numbers(text: str | None) -> list[int] | None:
    """``0,1`` as numbers; InputError otherwise."""
    if text is None:
        return None
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words):
        raise InputError(f"--gpus {text}: give numbers of GPUs, such as 0,1 (show lists them)")
    return [int(word) for word in words]


def _planned(
    args: argparse.Namespace, tasks: Sequence[TaskSpec], targets: Sequence[Target], adapter: Adapter
) -> tuple[Schedule, dict[str, Any] | None]:
    """The schedule, and the plan it follows as JSON; None on whole GPUs."""
    if args.plan is not None:
        plan, value = _given_plan(Path(args.plan), tasks)
        return schedule_of(plan, targets, args.driver), value
    cut = [target for target in targets if target.mig]
    if not cut:
        return whole_gpus(tasks, targets), None
    if len(cut) < len(targets):
        off = ", ".join(str(t.index) for t in targets if not t.mig)
        tell(f"GPU {off} without MIG: not used; run them on their own (--gpus {off.replace(' ', '')})")
    for target in cut:
        if target.model is None:
            raise InputError(
                f"GPU {target.index}: {target.name} is in no table of profiles here; leave it out (--gpus)"
            )
    left = left_on(cut, adapter.states())
    batch = to_batch(tasks, [str(target.model) for target in cut])
    # The search compiles its kernels, which whole GPUs and given plans do without; files need pandas.
    from rltune.mig.batch.files import plans_as_json
    from rltune.mig.batch.search import search

    plan = search(batch, [str(target.model) for target in cut], args.seconds, args.seed, left=left).plan
    return schedule_of(plan, cut, args.driver), plans_as_json([batch], [plan])


def _given_plan(path: Path, tasks: Sequence[TaskSpec]) -> tuple[Plan, dict[str, Any]]:
    """A plan from its file, its tasks by the numbers that they have in our list."""
    from rltune.mig.batch.files import read_plans

    plans = read_plans(path)
    if len(plans) != 1:
        raise InputError(f"{path}: holds {len(plans)} batches; run takes one: plan and run them one by one")
    value = json.loads(path.read_text())
    names = value["batches"][0].get("tasks")
    numbers = {task.name: k for k, task in enumerate(tasks)}
    if not isinstance(names, list) or sorted(map(str, names)) != sorted(numbers):
        listed = {str(name) for name in names or ()}
        odd = sorted(listed ^ set(numbers))
        where = "the plan" if odd and odd[0] in listed else "the list of tasks"
        raise InputError(f"{path}: task {odd[0] if odd else '?'!r} is in {where} only; plan anew for this list")
    plan = plans[0]
    if sorted(run.task for run in plan.runs) != list(range(len(names))):
        raise InputError(f"{path}: the plan does not run every task once; plan anew")
    plan = replace(plan, runs=tuple(replace(run, task=numbers[str(names[run.task])]) for run in plan.runs))
    _check_times(path, plan, tasks)
    return plan, value


def _check_times(path: Path, plan: Plan, tasks: Sequence[TaskSpec]) -> None:
    """InputError where the list says how long tasks take on the plan's GPUs, and the plan says otherwise."""
    try:
        batch = to_batch(tasks, plan.gpus)
    except InputError:
        # A list without seconds can follow a plan all the same.
        return
    try:
        check_plan(batch, plan)
    except InputError as error:
        raise InputError(f"{path}: {error}; plan anew for this list") from None


def _say_plan(schedule: Schedule, tasks: Sequence[TaskSpec]) -> None:
    gpus = ", ".join(f"GPU {t.index} {t.model or t.name}" for t in schedule.targets)
    planned = schedule.planned_makespan_s
    if planned is None:
        tell(f"{len(tasks)} tasks, one at a time on {gpus}")
    else:
        tell(f"{len(tasks)} tasks in {len(schedule.slots)} instances on {gpus}; planned to end after {planned:,.2f} s")


def _title(args: argparse.Namespace, done: Execution) -> str:
    ended = f"last task ended at {done.makespan_s:,.2f} s" if done.makespan_s is not None else "no task ran"
    planned = f" (planned {done.planned_makespan_s:,.2f} s)" if done.planned_makespan_s else ""
    device = ", simulated device" if args.driver.kind == "simulated" else ""
    return f"{Path(args.tasks).name}: {ended}{planned}{device}"


def _report(done: Execution, args: argparse.Namespace) -> None:
    """Counts and trouble on the screen."""
    counts: dict[str, int] = {}
    for row in done.tasks:
        counts[row.outcome] = counts.get(row.outcome, 0) + 1
    print(f"{_title(args, done)}; tasks: {', '.join(f'{n} {what}' for what, n in counts.items())}")
    for problem in done.problems:
        tell(f"trouble: {problem}")
    if done.status == "interrupted":
        tell("interrupted: what had begun was ended, and the GPUs were brought back")
