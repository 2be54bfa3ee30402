"""What `run` and `profile` have in common: options, the screen, and a run directory in which nothing is lost."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from rltune.device_commands.adapting import adapter_of
from rltune.devices.adapter import Adapter, Unsettled
from rltune.devices.driver import Driver
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
from rltune.nouns.errors import InputError
from rltune.rundir import SCHEMA_VERSION, RunDirectory, manifest_of_file, peak_rss_mb, remove_left_behind

LOCK_S = 60.0
"""A run claims and reconfigures now and then, and waits at least so long for others who do."""
LONGEST_S = 1e9
SHIPPED = "workloads"
"""Name of the list in conf/, which an installed package has too."""
CALLS = 5
"""Calls of the driver that a change may take, each for as long as --call-timeout."""
SIMULATED = "simulated device: no GPU was used; times are those of processes on this machine"
OUTCOMES = (OK, FAILED, TIMED_OUT, INTERRUPTED, NOT_RUN)


class _Remarks(Console):
    def on_broken_pipe(self) -> None:
        # The library's own would end the process.
        raise BrokenPipeError


REMARKS = _Remarks(stderr=True, highlight=False)


def tell(line: str) -> None:
    """A remark on standard error, if anybody still reads it."""
    with unseen():
        REMARKS.print(line, markup=False, soft_wrap=True)


@contextmanager
def unseen() -> Iterator[None]:
    """What is shown never matters to what runs: if the terminal is gone, nothing is shown from then on."""
    try:
        yield
    except (Exception, SystemExit) as error:
        REMARKS.quiet = True
        if isinstance(error, OSError):
            # What could not be written would be tried once more at the very end, and spoil the exit status.
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def add_shared(parser: argparse.ArgumentParser) -> None:
    """Options of both commands."""
    parser.add_argument(
        "tasks",
        metavar="FILE",
        type=list_of_tasks,
        help="list of tasks: YAML (version: 1) or CSV (task,command,1g,2g,...); workloads: the small real tasks that rltune brings along",
    )
    parser.add_argument("--timeout", type=float, metavar="S", help="for tasks without a timeout_s of their own")
    parser.add_argument("--grace", type=float, default=5.0, metavar="S", help="between SIGTERM and SIGKILL (default 5)")
    parser.add_argument(
        "--sample-s", type=float, default=1.0, metavar="S", help="between samples of the GPUs (default 1)"
    )
    parser.add_argument("--runs", default="runs", metavar="DIR", help="where run directories go (default runs)")
    parser.add_argument("--name", metavar="NAME", help="name of the run directory")
    parser.add_argument(
        "--remove-partial",
        action="store_true",
        help="first remove the hidden directories that killed runs left in --runs",
    )


def list_of_tasks(text: str) -> str:
    """The path of a list; of the shipped one by its name, where no file bears that."""
    if text != SHIPPED or os.path.lexists(text):
        return text
    # Loads what names clusters, which files of one's own do without.
    from rltune.config.files import CONF

    return str(CONF / f"{SHIPPED}.yaml")


def check_positive(args: argparse.Namespace, *names: str) -> None:
    """InputError for options that are no positive number of seconds; None is none given."""
    for name in names:
        value = getattr(args, name.replace("-", "_"))
        if value is not None and not (math.isfinite(value) and 0 < value <= LONGEST_S):
            raise InputError(f"--{name} {value}: a number of seconds above 0 is needed")


def options_of(args: argparse.Namespace, keep: bool = False, fail_fast: bool = False) -> Options:
    check_positive(args, "timeout", "grace", "sample-s")
    return Options(keep, fail_fast, args.timeout, args.sample_s, args.grace, CALLS * args.call_timeout)


@contextmanager
def settled_adapter(args: argparse.Namespace) -> Iterator[Adapter]:
    """An adapter that waits for others, with what was cut short before settled."""
    patient = argparse.Namespace(**vars(args) | {"wait": max(args.wait, LOCK_S)})
    with adapter_of(patient) as adapter:
        try:
            for line in adapter.recover():
                tell(f"note: {line}")
        except Unsettled as error:
            # A GPU that cannot be settled refuses its own tasks; the others go on.
            tell(f"note: {error}")
        if args.driver.kind == "simulated":
            tell(SIMULATED)
        yield adapter


class Kept:
    """A run directory around an execution: whatever happens, it is left with logs and a summary that says so."""

    def __init__(
        self, args: argparse.Namespace, name: str, adapter: Adapter, schedule: Schedule, listed: bytes
    ) -> None:
        """``listed``: what was read of the list of tasks."""
        self.args, self.adapter, self.schedule, self.listed = args, adapter, schedule, listed
        if args.remove_partial:
            remove_left_behind(args.runs)
        self.directory = RunDirectory(args.runs, args.name or name)
        self.since, self.begun = time.perf_counter(), False

    def execute(
        self,
        tasks: Sequence[TaskSpec],
        options: Options,
        files: Callable[[RunDirectory], None],
        results: Callable[[RunDirectory, Execution], dict[str, Any]],
    ) -> Execution:
        """Run the tasks; ``files`` writes what is known before, ``results`` what comes of it, and gives more of the summary.

        InputError where nothing was begun; then no directory is left. Afterwards any error leaves the directory, with a
        summary as far as the disk allows, and comes through.
        """
        # Outermost: a signal must neither cut short the writing of results nor lose the directory.
        with Signals() as signals, self.directory as directory:
            files(directory)
            directory.write_text("config.yaml", yaml.safe_dump(_config(self.args), sort_keys=False))
            seed = getattr(self.args, "seed", None)
            directory.write_json("manifest.json", manifest_of_file(Path(self.args.tasks), seed, self.listed))
            with screen(len(tasks), self.schedule) as on_event:
                logs = directory.file("logs")
                executor = Executor(tasks, self.schedule, self.adapter, logs, signals, options, on_event, self._begin)
                failure: BaseException | None = None
                try:
                    executor.run()
                except BaseException as error:
                    if not self.begun:
                        raise
                    failure = _as_trouble(error)
            done = executor.done
            failure = self._write(directory, done, results, failure)
        if not done.hangs:
            self._watch(self.args.driver)
        if failure is not None:
            tell(f"what ran is in {self.directory.final}")
            if done.hangs:
                tell(f"error: {_told(failure)}")
                os._exit(_status_of(failure))
            raise failure
        return done

    def _begin(self) -> None:
        """From now on what is in the directory cannot be had again, and the executor itself minds a driver that hangs."""
        self.begun = True
        self.directory.keep()
        self._watch(None)

    def _watch(self, driver: Driver | None) -> None:
        if hasattr(self.args, "watch"):
            self.args.watch(driver)

    def _write(
        self,
        directory: RunDirectory,
        done: Execution,
        results: Callable[[RunDirectory, Execution], dict[str, Any]],
        failure: BaseException | None,
    ) -> BaseException | None:
        """Results and summary; the error with which the command ends, the first of all."""
        more: dict[str, Any] = {}
        if failure is not None:
            done.settle()
            done.notes.append(f"ended by {_told(failure)}")
        try:
            more = results(directory, done)
        except Exception as error:
            # What ran for hours is not lost to a figure that cannot be drawn, or a full disk.
            done.notes.append(f"some results are missing: {_told(error)}")
            failure = failure or _as_trouble(error)
        try:
            ended = {} if failure is None else {"status": "error", "exit_status": _status_of(failure)}
            directory.write_json("summary.json", self._summary(done) | more | ended)
        except InputError as error:
            failure = failure or _as_trouble(error)
        return failure

    def leave(self, done: Execution, status: int, report: Callable[[], None]) -> int:
        """Report, and say where everything is; ``status``, with which the process ends at once if the driver hangs."""
        try:
            report()
            print(self.directory.final, flush=True)
        finally:
            if done.hangs:
                # Closing the driver would hang as well, whatever else went wrong.
                with contextlib.suppress(OSError):
                    sys.stderr.flush()
                os._exit(status)
        return status

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
            "runtime": {"wall_s": round(time.perf_counter() - self.since, 2), "peak_rss_mb": round(peak_rss_mb(), 1)},
        }


class Trouble(InputError):
    """The system or the device refused something after tasks had run."""

    exit_status = 3


def _as_trouble(error: BaseException) -> BaseException:
    """A disk that refuses is no mistake of ours, and one line."""
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return Trouble(
            f"{where}refused by the system ({error.strerror or error}); free some space or choose another --runs"
        )
    return Trouble(str(error)) if isinstance(error, InputError) and not isinstance(error, Trouble) else error


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _status_of(error: BaseException) -> int:
    """With which the command ends: 1 is Python's for what nobody expected."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, KeyboardInterrupt):
        return 130
    return int(getattr(error, "exit_status", 2)) if isinstance(error, InputError) else 1


def _config(args: argparse.Namespace) -> dict[str, Any]:
    """Options as given, without the driver."""
    plain = {k: v for k, v in vars(args).items() if k not in ("driver", "watch")}
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
    with whole_file(path) as partial:
        frame.to_parquet(partial, index=False)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Another name to write to, which becomes ``path`` if all went well: no file is cut off by a full disk."""
    partial = path.with_name(f".partial-{path.name}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def draw(directory: RunDirectory, done: Execution, title: str) -> None:
    """gantt.png of what really ran; nothing if nothing did."""
    ran = [replace(row, model=row.model or "GPU") for row in done.tasks if row.end_s is not None]
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
        with whole_file(directory.file("gantt.png")) as partial:
            gantt(runs, instances, partial, title)
    finally:
        runs.unlink(missing_ok=True)
        instances.unlink(missing_ok=True)


@contextmanager
def screen(tasks: int, schedule: Schedule) -> Iterator[Callable[[Event], None]]:
    """On a terminal a table of what is where now; else a line an event."""
    if not REMARKS.is_terminal:
        yield lambda event: tell(_line(event))
        return
    from rich.live import Live

    shown = _Screen(tasks, schedule)
    live = Live(console=REMARKS, get_renderable=shown.table, refresh_per_second=4, transient=True)
    with unseen():
        live.start()

    def on_event(event: Event) -> None:
        with unseen():
            shown.take(event)

    try:
        yield on_event
    finally:
        with unseen():
            live.stop()


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
            tell(_line(event))

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
