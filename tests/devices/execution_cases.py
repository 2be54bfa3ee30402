"""Machines and lists of tasks for the tests of the executor."""

from __future__ import annotations

from pathlib import Path

from rltune.devices.adapter import Adapter
from rltune.devices.execution.executor import Executor, Options
from rltune.devices.execution.outcome import Execution
from rltune.devices.execution.processes import Signals
from rltune.devices.execution.schedule import schedule_of, targets_of, whole_gpus
from rltune.devices.execution.tasks_file import TaskSpec
from rltune.devices.simulated import SimulatedDriver
from rltune.mig.batch.plan import Instance, Plan, Run
from rltune.mig.geometry import Placement, geometry

PATIENCE_S = 600.0
"""Whatever waits in a test waits so long: only a hang reaches it, never a loaded machine."""
A30 = geometry("a30")
EARLY = Options(sample_s=0.05, grace_s=0.2)


def machine(folder: Path, models: list[str] | None = None, pace: float = 0.05, mig: bool = True) -> Adapter:
    """A simulated machine with a journal of its own."""
    driver = SimulatedDriver(models or ["a30"], pace, mig=mig)
    return Adapter(driver, folder / "store", folder / "locks", patience_s=0.2)


def sh(name: str, script: str, timeout_s: float | None = None) -> TaskSpec:
    return TaskSpec(name=name, command=("sh", "-c", script), timeout_s=timeout_s)


def instance(kind: str, start: int, create_s: float | None, destroy_s: float | None = None, gpu: int = 0) -> Instance:
    """Of an A30, with its documented costs."""
    profile = A30.profile(kind)
    one = A30.profiles[profile]
    ready = None if create_s is None else create_s + one.create_s
    gone = None if destroy_s is None else destroy_s + one.destroy_s
    return Instance(gpu, Placement(profile, start), create_s, ready, destroy_s, gone)


def two_halves_then_whole() -> Plan:
    """Tasks 0 and 1 on two halves of an A30, then 2 and 3 on all of it."""
    halves = [instance("2g", 0, 0.0, 2.0), instance("2g", 2, 0.12, 2.1)]
    whole = instance("4g", 0, 2.2)
    runs = [Run(0, 0, 0.12, 1.0), Run(1, 1, 0.24, 1.0), Run(2, 2, 2.33, 3.0), Run(3, 2, 3.0, 4.0)]
    return Plan(("A30",), (*halves, whole), tuple(runs), "by hand")


def execute(
    tasks: list[TaskSpec], plan: Plan | None, adapter: Adapter, folder: Path, options: Options = EARLY, **more: object
) -> Execution:
    """Follow a plan, or run on whole GPUs without one."""
    targets = targets_of(adapter.driver)
    schedule = whole_gpus(tasks, targets) if plan is None else schedule_of(plan, targets, adapter.driver)
    with Signals() as signals:
        return Executor(tasks, schedule, adapter, folder / "logs", signals, options, **more).run()  # type: ignore[arg-type]
