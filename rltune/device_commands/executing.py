"""What `run` and `profile` have in common: options, the screen, and a run directory in which nothing is lost."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from rltune.device_commands.adapting import adapter_of
from rltune.devices.adapter import Adapter
from rltune.devices.execution.executor import Event, Executor, Options
from rltune.devices.execution.outcome import (
    FAILED,
    INTERRUPTED,
    NOT_RUN,
    OK,
    TIMED_OUT,
    Execution,
    InstanceRow,
    TaskRow,
)
from rltune.devices.execution.processes import Signals
from rltune.devices.execution.schedule import Schedule
from rltune.devices.execution.tasks_file import TaskSpec
from rltune.errors import InputError
from rltune.report.console import ERR, say
from rltune.rundir import SCHEMA_VERSION, RunDirectory, manifest_of_file, peak_rss_mb

LOCK_S = 60.0
"""A run claims and reconfigures now and then, and waits at least so long for others who do."""
LONGEST_S = 1e9
SIMULATED = "simulated device: no GPU was used; times are those of processes on this machine"
OUTCOMES = (OK, FAILED, TIMED_OUT, INTERRUPTED, NOT_RUN)


def add_shared(parser: argparse.ArgumentParser) -> None:
    """Options of both commands."""
    parser.add_argument(
        "tasks", metavar="FILE", help="list of tasks: YAML (version: 1) or CSV (task,command,1g,2g,...)"
    )
    parser.add_argument("--timeout", type=float, metavar="S", help="for tasks without a timeout_s of their own")
    parser.add_argument("--grace", type=float, default=5.0, metavar="S", help="between SIGTERM and SIGKILL (default 5)")
    parser.add_argument(
        "--sample-s", type=float, default=1.0, metavar="S", help="between samples of the GPUs (default 1)"
    )
    parser.add_argument("--runs", default="runs", metavar="DIR", help="where run directories go (default runs)")
    parser.add_argument("--name", metavar="NAME", help="name of the run directory")


def check_positive(args: argparse.Namespace, *names: str) -> None:
    """InputError for options that are no positive number of seconds; None is none given."""
    for name in names:
        value = getattr(args, name.replace("-", "_"))
        if value is not None and not (math.isfinite(value) and 0 < value <= LONGEST_S):
            raise InputError(f"--{name} {value}: a number of seconds above 0 is needed")


def options_of(args: argparse.Namespace, keep: bool = False, fail_fast: bool = False) -> Options:
    check_positive(args, "timeout", "grace", "sample-s")
    return Options(keep, fail_fast, args.timeout, args.sample_s, args.grace)


@contextmanager
def settled_adapter(args: argparse.Namespace) -> Iterator[Adapter]:
    """An adapter that waits for others, with what was cut short before settled."""
    patient = argparse.Namespace(**vars(args) | {"wait": max(args.wait, LOCK_S)})
    with adapter_of(patient) as adapter:
        for line in adapter.recover():
            say(f"note: {line}")
        if args.driver.kind == "simulated":
            say(SIMULATED)
        yield adapter


class Kept:
    """A run directory around an execution: whatever happens, it is left with logs and a summary that says so."""

    def __init__(self, args: argparse.Namespace, name: str, adapter: Adapter, schedule: Schedule) -> None:
        self.args, self.adapter, self.schedule = args, adapter, schedule
        self.directory = RunDirectory(args.runs, args.name or name)
        self.begun = time.perf_counter()

    def execute(
        self,
        tasks: Sequence[TaskSpec],
        options: Options,
        files: Callable[[RunDirectory], None],
        results: Callable[[RunDirectory, Execution], dict[str, Any]],
        after: dict[int, int] | None = None,
    ) -> Execution:
        """Run the tasks; ``files`` writes what is known before, ``results`` what comes of it, and gives more of the summary.

        InputError where nothing was begun; then no directory is left. An error of ours leaves the directory and comes through.
        """
        failure: Exception | None = None
        # Outermost: a signal must neither cut short the writing of results nor lose the directory.
        with Signals() as signals, self.directory as directory:
            files(directory)
            directory.write_text("config.yaml", yaml.safe_dump(_config(self.args), sort_keys=False))
            directory.write_json(
                "manifest.json", manifest_of_file(Path(self.args.tasks), getattr(self.args, "seed", None))
            )
            with screen(len(tasks), self.schedule) as on_event:
                executor = Executor(
                    tasks, self.schedule, self.adapter, directory.file("logs"), signals, options, on_event, after
                )
                try:
                    done = executor.run()
                except InputError:
                    raise
                except Exception as error:
                    failure, done = error, executor.done
                    done.settle()
                    done.status = "error"
                    done.notes.append(f"ended by {type(error).__name__}: {' '.join(str(error).split())}")
            more: dict[str, Any] = {}
            try:
                more = results(directory, done)
            except Exception as error:
                # What ran for hours is not lost to a figure that cannot be drawn, or a full disk.
                done.notes.append(f"some results are missing: {type(error).__name__}: {' '.join(str(error).split())}")
                failure = failure or error
            try:
                directory.write_json("summary.json", self._summary(done) | more)
            except InputError as error:
                # A full disk must not take the logs along: they are in the directory that an error would remove.
                failure = failure or error
        if failure is not None:
            say(f"what ran is in {self.directory.final}")
            raise failure
        return done

    def _summary(self, done: Execution) -> dict[str, Any]:
        driver, targets = self.adapter.driver, self.schedule.targets
        joules = [row.energy_j for row in done.tasks if row.energy_j is not None]
        planned, measured = done.planned_makespan_s, done.makespan_s
        return {
            "schema_version": SCHEMA_VERSION,
            "command": f"devices {self.args.command}",
            "device": driver.kind,
            "device_note": SIMULATED if driver.kind == "simulated" else "",
            "status": done.status,
            "exit_status": done.exit_status,
            "gpus": [
                {"index": t.index, "uuid": t.uuid, "name": t.name, "model": t.model, "mig": t.mig} for t in targets
            ],
            "tasks": {"all": len(done.tasks)} | {o: sum(row.outcome == o for row in done.tasks) for o in OUTCOMES},
            "makespan_s": measured,
            "planned_makespan_s": planned,
            "measured_over_planned": measured / planned if measured and planned else None,
            "task_energy_j": sum(joules) if joules else None,
            "problems": done.problems,
            "notes": done.notes,
            "runtime": {"wall_s": round(time.perf_counter() - self.begun, 2), "peak_rss_mb": round(peak_rss_mb(), 1)},
        }


def _config(args: argparse.Namespace) -> dict[str, Any]:
    """Options as given, without the driver."""
    plain = {k: v for k, v in vars(args).items() if k != "driver"}
    return {k: v if isinstance(v, str | int | float | list | None) else str(v) for k, v in plain.items()}


def write_rows(path: Path, rows: Sequence[TaskRow | InstanceRow], extra: Sequence[dict[str, Any]] = ()) -> None:
    """Rows as Parquet, whole columns of missing values with their type."""
    # pandas takes a second to load, and is needed only here.
    import pandas as pd

    kind = type(rows[0]) if rows else InstanceRow
    frame = pd.DataFrame([row.as_dict() for row in rows], columns=list(kind.__dataclass_fields__))
    for column, field in kind.__dataclass_fields__.items():
        declared = str(field.type)
        frame[column] = frame[column].astype(
            "Int64" if declared.startswith("int") else "float64" if declared.startswith("float") else "string"
        )
    for column in extra[0] if extra else ():
        frame[column] = [more[column] for more in extra]
    frame.to_parquet(path, index=False)


def draw(directory: RunDirectory, done: Execution, title: str) -> None:
    """gantt.png of what really ran; nothing if nothing did."""
    ran = [replace(row, profile=_drawn(row), model=row.model or "GPU") for row in done.tasks if row.end_s is not None]
    if not ran:
        return
    changes = [replace(row, create_s=None if row.ready_s is None else row.create_s,
                       destroy_s=None if row.gone_s is None else row.destroy_s) for row in done.instances]  # fmt: skip
    # matplotlib is needed only here.
    from rltune.report.gantt import gantt

    runs, instances = directory.file(".runs.parquet"), directory.file(".instances.parquet")
    write_rows(runs, ran)
    write_rows(instances, changes)
    try:
        gantt(runs, instances, directory.file("gantt.png"), title)
    finally:
        runs.unlink()
        instances.unlink()


def _drawn(row: TaskRow) -> str:
    """A whole GPU in the colour of the largest profile."""
    return "7g" if row.profile == "whole" else str(row.profile)


@contextmanager
def screen(tasks: int, schedule: Schedule) -> Iterator[Callable[[Event], None]]:
    """On a terminal a table of what is where now; else a line an event."""
    if not ERR.is_terminal:
        yield lambda event: say(_line(event))
        return
    from rich.live import Live

    shown = _Screen(tasks, schedule)
    with Live(console=ERR, get_renderable=shown.table, refresh_per_second=4, transient=True):
        yield shown.take


def _line(event: Event) -> str:
    # An instance is its own place.
    where = event.where.removesuffix(f" {event.subject}")
    return f"{event.time_s:9.2f} s  {event.subject} {event.what}{where and f' ({where})'}{event.detail and f': {event.detail}'}"


class _Screen:
    """Instances and GPUs with what runs in them, and counts."""

    def __init__(self, tasks: int, schedule: Schedule) -> None:
        self.tasks, self.begun = tasks, time.monotonic()
        self.places: dict[str, tuple[str, float]] = {}
        self.counts: dict[str, int] = {}
        if all(slot.instance is None for slot in schedule.slots):
            for slot in schedule.slots:
                self.places[f"GPU {schedule.targets[slot.target].index} {slot}"] = ("idle", self.begun)

    def take(self, event: Event) -> None:
        if event.what in OUTCOMES:
            self.counts[event.what] = self.counts.get(event.what, 0) + 1
        if event.what == "gone":
            self.places.pop(event.where, None)
        elif event.where and event.what != NOT_RUN:
            free = event.what in (*OUTCOMES, "ready")
            text = "idle" if free else event.subject if event.what == "started" else event.what
            self.places[event.where] = (text, time.monotonic())
        if event.what not in (OK, "started", "ready", "gone", "creating", "destroying", "taking over"):
            say(_line(event))

    def table(self) -> Any:
        from rich.table import Table

        now = time.monotonic()
        # Copies: events come in another thread than the one that draws.
        places, counts = list(self.places.items()), list(self.counts.items())
        counted = ", ".join(f"{n} {what}" for what, n in counts) or "none ended"
        table = Table("where", "what", "s", title=f"{counted} of {self.tasks} tasks, {now - self.begun:,.0f} s")
        for where, (what, since) in sorted(places):
            table.add_row(where, what, f"{now - since:,.1f}")
        return table
