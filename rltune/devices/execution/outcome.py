"""What an execution leaves: a row a task, a row an instance, and what went wrong with the GPUs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

OK, FAILED, TIMED_OUT, NOT_RUN, INTERRUPTED = "ok", "failed", "timed out", "not run", "interrupted"
"""Outcomes of a task. Interrupted: it had begun, and we ended it."""


@dataclass
class TaskRow:
    """One task; times in seconds since the beginning of the execution, None for what did not happen.

    ``gpu`` NVML's number; ``slices`` of memory from ``start_slice``; ``exit_code`` None where ``signal`` ended it; ``reason``
    why it did not run, or what else is to be said; ``cpu_s`` of it and of children it waited for; ``energy_j`` an estimate
    (`rltune.devices.execution.energy.energy_of`); ``utilization_percent`` of the whole GPU meanwhile; ``left_behind`` processes that
    it left and that were ended; ``log`` its standard output, beside it ``.err``.
    """

    task: str
    outcome: str = NOT_RUN
    reason: str = ""
    gpu: int | None = None
    gpu_uuid: str | None = None
    model: str | None = None
    gpu_slices: int | None = None
    profile: str | None = None
    start_slice: int | None = None
    slices: int | None = None
    mig_uuid: str | None = None
    planned_start_s: float | None = None
    planned_end_s: float | None = None
    start_s: float | None = None
    end_s: float | None = None
    seconds: float | None = None
    exit_code: int | None = None
    signal: int | None = None
    cpu_s: float | None = None
    energy_j: float | None = None
    utilization_percent: float | None = None
    left_behind: int = 0
    log: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class InstanceRow:
    """One instance: when its creation and destruction began and ended, in seconds; ``problem`` why it could not be.

    Instances that are destroyed after the last task go together, and have the same times.
    """

    gpu: int
    model: str | None
    gpu_slices: int
    profile: str
    start_slice: int
    slices: int
    create_s: float | None = None
    ready_s: float | None = None
    destroy_s: float | None = None
    gone_s: float | None = None
    problem: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Execution:
    """``status``: ``ok``, ``failed`` (a task), ``device trouble``, ``interrupted``; ``problems`` of the device, a line each.

    ``hangs``: a thread of ours still waits for the driver, which may never answer.
    """

    tasks: list[TaskRow]
    instances: list[InstanceRow]
    planned_makespan_s: float | None
    status: str = "ok"
    signal: int | None = None
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    hangs: bool = False

    @property
    def makespan_s(self) -> float | None:
        """End of the last task that ran."""
        return max((row.end_s for row in self.tasks if row.end_s is not None), default=None)

    @property
    def exit_status(self) -> int:
        """Of the command: 0, 1 a task failed, 3 trouble with the device, 130 (143 by SIGTERM, 129 by SIGHUP) interrupted."""
        if self.status == "interrupted":
            return 128 + (self.signal or 2)
        return {"ok": 0, "failed": 1}.get(self.status, 3)

    def settle(self) -> None:
        """The status, from everything else."""
        if self.signal is not None:
            self.status = "interrupted"
        elif self.problems:
            self.status = "device trouble"
        elif any(row.outcome != OK for row in self.tasks):
            self.status = "failed"
