"""Runs tasks on the instances of a schedule: one loop for processes and signals, a thread a GPU for its reconfigurations.

All state belongs to the loop; a GPU's thread does one change at a time and reports back. A destruction waits until the
instance's tasks have ended, every change for those before it on its GPU, a task for its instance. A task finds in its environment
CUDA_VISIBLE_DEVICES (the UUID of its instance or GPU), RLTUNE_PROFILE (``2g.20gb``, or ``whole``), RLTUNE_COMPUTE_SLICES and
RLTUNE_GPU_COMPUTE_SLICES, so that programs that only rehearse can scale with their slices.
"""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rltune.devices.adapter import Adapter
from rltune.devices.execution.energy import Sampling, Span, energy_of, utilization_of
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
from rltune.devices.execution.processes import GRACE_S, Ended, Processes, Signals
from rltune.devices.execution.schedule import Schedule, Slot, Step, Target, check_expected, check_whole, whole_held
from rltune.devices.execution.tasks_file import TaskSpec
from rltune.devices.execution.worker import Worker
from rltune.devices.state import GpuState

CHANGE_S = 300.0
"""After which the loop no longer waits for a change: documented ones take less than a second, patience a few."""


@dataclass(frozen=True, slots=True)
class Options:
    """``keep`` the instances that are there at the end, else those from the beginning come back; ``fail_fast``: the first failure
    ends what runs and starts nothing more; ``timeout_s`` of tasks without their own; ``sample_s`` between samples; ``change_s``
    after which a change counts as hanging."""

    keep: bool = False
    fail_fast: bool = False
    timeout_s: float | None = None
    sample_s: float = 1.0
    grace_s: float = GRACE_S
    change_s: float = CHANGE_S


@dataclass(frozen=True, slots=True)
class Event:
    """For the screen: at ``time_s`` ``what`` happened to ``subject`` (a task or instance) on ``where``."""

    time_s: float
    what: str
    subject: str
    where: str
    detail: str = ""


class Executor:
    """``Executor(tasks, schedule, adapter, logs, signals).run()``.

    ``on_event`` is called from the loop's thread, ``on_begin`` when all is checked and the first thing is about to happen.
    """

    def __init__(
        self,
        tasks: Sequence[TaskSpec],
        schedule: Schedule,
        adapter: Adapter,
        logs: Path,
        signals: Signals,
        options: Options = Options(),
        on_event: Callable[[Event], None] = lambda event: None,
        on_begin: Callable[[], None] = lambda: None,
    ) -> None:
        self.tasks, self.schedule, self.adapter, self.logs = tasks, schedule, adapter, logs
        self.signals, self.options, self.on_event, self.on_begin = signals, options, on_event, on_begin
        self.tenant = f"rltune-run-{os.getpid()}"
        rows = [TaskRow(task.name) for task in tasks]
        for k, (start, end) in schedule.planned.items():
            rows[k].planned_start_s, rows[k].planned_end_s = start, end
        instances = [_instance_row(schedule.targets[s.target], s) for s in schedule.slots if s.instance is not None]
        self.done = Execution(rows, instances, schedule.planned_makespan_s)
        self._row_of = dict(
            zip([n for n, s in enumerate(schedule.slots) if s.instance is not None], instances, strict=True)
        )
        self._pools = [deque(pool) for pool in schedule.pools]
        self._ready: dict[int, str] = {
            n: schedule.targets[s.target].uuid for n, s in enumerate(schedule.slots) if s.instance is None
        }
        self._running: dict[int, int] = {}
        self._ended: dict[int, Ended] = {}
        self._slot_of: dict[int, int] = {}
        self._steps = [deque(steps) for steps in schedule.steps]
        self._stopping = ""
        self._signals_seen = 0

    def run(self) -> Execution:
        """Everything, to the end; InputError before anything is changed. Never raises for what tasks or changes do."""
        with whole_held(self.schedule, self.adapter):
            before = check_expected(self.schedule, self.adapter)
            self.done.notes += check_whole(self.schedule, self.adapter)
            if any(self.schedule.steps):
                # The journal is opened here: threads that do at the same moment would each have one of their own.
                self.adapter.tenants()
            # Instances of the plan must not be anybody's; the adapter sees to that, change by change.
            self.on_begin()
            return self._run(before)

    def _run(self, before: Mapping[str, GpuState]) -> Execution:
        targets = [target.index for target in self.schedule.targets]
        self.logs.mkdir(parents=True, exist_ok=True)
        self._workers = [
            Worker(self.adapter, target.uuid, self.tenant, self.signals) for target in self.schedule.targets
        ]
        sampling = Sampling(self.adapter.driver, targets, self.options.sample_s)
        try:
            with (
                sampling,
                Processes(self.signals, self.options.grace_s) as self._processes,
            ):
                self.began = time.monotonic()
                try:
                    self._loop()
                finally:
                    # After an error of ours the GPUs are brought back as well; nothing runs any more otherwise.
                    try:
                        self._processes.kill_all()
                    finally:
                        self._tidy_up(before)
        finally:
            for worker in self._workers:
                worker.end()
            self.done.hangs = any(worker.lost for worker in self._workers) or sampling.hangs
        self.done.notes += sampling.notes
        self._measure(sampling)
        self.done.settle()
        return self.done

    @property
    def now_s(self) -> float:
        return time.monotonic() - self.began

    def _loop(self) -> None:
        while True:
            self._mind_signals()
            self._advance()
            if not self._running and not any(worker.busy for worker in self._workers):
                break
            for ended in self._processes.wait(self._change_deadline()):
                self._task_ended(ended)
            self._take_reports()
            self._mind_workers()
        for pool in self._pools:
            while pool:
                self._not_run(pool.popleft(), self._stopping or "no instance was there for it")

    # What can begin now.

    def _advance(self) -> None:
        again = True
        while again and not self._stopping:
            again = False
            for gpu, worker in enumerate(self._workers):
                if not worker.busy:
                    again |= self._next_step(gpu, worker)
            for number in list(self._ready):
                while (
                    number in self._ready
                    and number not in self._running
                    and (task := self._next_task(number)) is not None
                ):
                    again = True
                    self._start(task, number)

    def _next_step(self, gpu: int, worker: Worker) -> bool:
        """Begin the GPU's next change if what it waits for has happened."""
        if not self._steps[gpu]:
            return False
        step = self._steps[gpu][0]
        slot, row = self.schedule.slots[step.slot], self._row_of[step.slot]
        assert slot.instance is not None
        if step.action == "destroy":
            if step.slot in self._running or self._pools[slot.pool]:
                return False
            if step.slot not in self._ready:  # it never came
                self._steps[gpu].popleft()
                return True
            del self._ready[step.slot]
            row.destroy_s = self.now_s
        elif step.action == "create":
            row.create_s = self.now_s
        self._steps[gpu].popleft()
        self._tell({"create": "creating", "destroy": "destroying"}.get(step.action, "taking over"), str(slot), slot)
        worker.do(step, slot.instance)
        return False

    def _next_task(self, number: int) -> int | None:
        """The first task of the slot's list that it can take."""
        slot = self.schedule.slots[number]
        pool = self._pools[slot.pool]
        for task in pool:
            if task not in slot.refuses:
                pool.remove(task)
                return task
        return None

    def _start(self, task: int, number: int) -> None:
        first = self.schedule.after.get(task)
        if first is not None and self.done.tasks[first].outcome != OK:
            self._not_run(task, f"{self.tasks[first].name} had to succeed first")
            return
        spec, row, slot = self.tasks[task], self.done.tasks[task], self.schedule.slots[number]
        target = self.schedule.targets[slot.target]
        _place(row, target, slot, self._ready[number])
        timeout_s = spec.timeout_s if spec.timeout_s is not None else self.options.timeout_s
        row.log = f"{self.logs.name}/{spec.name}.log"
        row.start_s = self.now_s
        try:
            self._processes.start(
                task, spec.command, self._environment(spec, target, slot, self._ready[number]), spec.cwd,
                self.logs / f"{spec.name}.log", self.logs / f"{spec.name}.err", timeout_s,
            )  # fmt: skip
        except (OSError, ValueError) as error:
            row.outcome, row.reason = FAILED, f"could not be started: {' '.join(str(error).split())}"
            row.start_s = None
            self._tell("failed", spec.name, slot, row.reason)
            self._after_failure(spec.name)
            return
        self._running[number] = task
        self._slot_of[task] = number
        self._tell("started", spec.name, slot)

    def _environment(self, spec: TaskSpec, target: Target, slot: Slot, uuid: str) -> dict[str, str]:
        own = {
            "CUDA_VISIBLE_DEVICES": uuid,
            "RLTUNE_PROFILE": slot.instance.profile if slot.instance else "whole",
            "RLTUNE_COMPUTE_SLICES": str(slot.compute),
            "RLTUNE_GPU_COMPUTE_SLICES": str(target.compute),
        }
        return {**os.environ, **spec.env, **own}

    # What has happened.

    def _task_ended(self, ended: Ended) -> None:
        task, row = ended.key, self.done.tasks[ended.key]
        slot = self.schedule.slots[self._slot_of[task]]
        del self._running[self._slot_of[task]]
        self._ended[task] = ended
        row.start_s, row.end_s = ended.start - self.began, ended.end - self.began
        row.seconds, row.cpu_s = ended.end - ended.start, ended.cpu_s
        row.exit_code, row.signal, row.left_behind = ended.exit_code, ended.signal, ended.left_behind
        if ended.timed_out:
            row.outcome = TIMED_OUT
        elif ended.stopped:
            row.outcome, row.reason = INTERRUPTED, self._stopping
        else:
            row.outcome = OK if ended.exit_code == 0 else FAILED
        self._tell(row.outcome, row.task, slot, _how(row))
        if row.outcome in (FAILED, TIMED_OUT):
            self._after_failure(row.task)

    def _after_failure(self, name: str) -> None:
        if self.options.fail_fast and not self._stopping:
            self._stopping = f"{name} failed (--fail-fast)"
            self._processes.stop_all(signal.SIGTERM)

    def _take_reports(self) -> None:
        for worker in self._workers:
            for step, uuid, error in worker.reports():
                slot, row = self.schedule.slots[step.slot], self._row_of[step.slot]
                if error is not None:
                    row.problem = error
                    self._device_problem(slot, step, error)
                elif step.action == "destroy":
                    row.gone_s = self.now_s
                    self._tell("gone", str(slot), slot)
                else:
                    if step.action == "create":
                        row.ready_s = self.now_s
                    self._ready[step.slot] = uuid
                    self._tell("ready", str(slot), slot)

    def _device_problem(self, slot: Slot, step: Step, error: str) -> None:
        self.done.problems.append(f"GPU {self.schedule.targets[slot.target].index}: {step.action} {slot}: {error}")
        self._tell("trouble", str(slot), slot, error)
        if step.action != "destroy":
            while self._pools[slot.pool]:
                self._not_run(self._pools[slot.pool].popleft(), f"{slot} could not be had: {error}", slot)

    def _not_run(self, task: int, reason: str, slot: Slot | None = None) -> None:
        self.done.tasks[task].outcome, self.done.tasks[task].reason = NOT_RUN, reason
        self._tell(NOT_RUN, self.tasks[task].name, slot, reason)

    def _mind_signals(self) -> None:
        """The first signal goes to all tasks, and nothing more begins; a second kills at once."""
        got = self.signals.got
        if len(got) > self._signals_seen:
            first = not self._signals_seen
            self.done.signal = self.done.signal or got[0]
            self._signals_seen = len(got)
            self._stopping = f"interrupted by {signal.Signals(got[0]).name}"
            self._processes.stop_all(got[0] if first and len(got) == 1 else signal.SIGKILL)

    def _change_deadline(self) -> float | None:
        return min((worker.begun + self.options.change_s for worker in self._workers if worker.busy), default=None)

    def _mind_workers(self) -> None:
        """A driver that hangs keeps its own GPU's tasks waiting, and nobody else."""
        for gpu, worker in enumerate(self._workers):
            if worker.busy and time.monotonic() >= worker.begun + self.options.change_s:
                worker.give_up()
                self._steps[gpu].clear()
                for number, slot in enumerate(self.schedule.slots):
                    if slot.target == gpu and slot.instance is not None and number not in self._ready:
                        while self._pools[slot.pool]:
                            self._not_run(
                                self._pools[slot.pool].popleft(), f"{slot} could not be had: {worker.problem}", slot
                            )

    # The end.

    def _tidy_up(self, before: Mapping[str, GpuState]) -> None:
        """Bring back the instances that were there, or keep what is there; let go of all."""
        for gpu, worker in enumerate(self._workers):
            held = [self.schedule.slots[step.slot].instance for step in self.schedule.steps[gpu]]
            if worker.lost:
                continue
            worker.restore(before[worker.gpu], [one for one in held if one is not None], self.options.keep)
        while any(worker.busy for worker in self._workers):
            self._processes.wait(self._change_deadline())
            for worker in self._workers:
                worker.reports()
            self._mind_workers()
        for worker, target in zip(self._workers, self.schedule.targets, strict=True):
            if worker.problem:
                self.done.problems.append(f"GPU {target.index}: bringing back its instances: {worker.problem}")
        for number, row in self._row_of.items():
            slot = self.schedule.slots[number]
            span = self._workers[slot.target].removed.get(slot.instance) if slot.instance else None
            if span is not None and row.ready_s is not None and row.gone_s is None:
                row.destroy_s, row.gone_s = (at - self.began for at in span)
        if self.signals.got:
            self.done.signal = self.done.signal or self.signals.got[0]

    def _measure(self, sampling: Sampling) -> None:
        """Energy and utilisation of what ran, GPU by GPU."""
        for gpu in range(len(self.schedule.targets)):
            mine = [task for task in self._ended if self.schedule.slots[self._slot_of[task]].target == gpu]
            spans = [
                Span(self._ended[t].start, self._ended[t].end, self.schedule.slots[self._slot_of[t]].compute)
                for t in mine
            ]
            samples = sampling.samples[gpu]
            for task, span, joules in zip(mine, spans, energy_of(samples, spans), strict=True):
                self.done.tasks[task].energy_j = joules
                self.done.tasks[task].utilization_percent = utilization_of(samples, span.start, span.end)

    def _tell(self, what: str, subject: str, slot: Slot | None, detail: str = "") -> None:
        where = f"GPU {self.schedule.targets[slot.target].index} {slot}" if slot else ""
        self.on_event(Event(self.now_s, what, subject, where, detail))


def _instance_row(target: Target, slot: Slot) -> InstanceRow:
    assert slot.instance is not None
    return InstanceRow(target.index, target.model, target.slices, slot.instance.profile, slot.instance.start, slot.size)


def _place(row: TaskRow, target: Target, slot: Slot, uuid: str) -> None:
    row.gpu, row.gpu_uuid, row.model, row.gpu_slices = target.index, target.uuid, target.model, target.slices
    row.slices = slot.size
    row.profile, row.start_slice = (
        ("whole", 0) if slot.instance is None else (slot.instance.profile, slot.instance.start)
    )
    row.mig_uuid = None if slot.instance is None else uuid


def _how(row: TaskRow) -> str:
    """How a task ended, for the screen."""
    how = f"{row.seconds:.2f} s"
    if row.outcome == FAILED:
        how += f", exit code {row.exit_code}" if row.signal is None else f", {_signal_name(row.signal)}"
    if row.left_behind:
        how += f", {row.left_behind} processes left behind were ended"
    return how


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
