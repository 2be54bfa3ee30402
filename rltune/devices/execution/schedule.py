"""What to run where, on the GPUs that are there: from a plan of MIG instances, or on whole GPUs."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from rltune.devices.adapter import Adapter
from rltune.devices.driver import Driver
from rltune.devices.execution.tasks_file import TaskSpec, whole_gpu_s
from rltune.devices.lock import locked
from rltune.devices.models import model_of
from rltune.devices.reading import read_users
from rltune.devices.state import GpuState, Instance, whole
from rltune.devices.status import NOT_SUPPORTED, DeviceError
from rltune.mig.batch.plan import Instance as PlannedInstance
from rltune.mig.batch.plan import Left, Plan
from rltune.mig.geometry import Placement, geometry
from rltune.nouns.errors import InputError

GB = 1e9


@dataclass(frozen=True, slots=True)
class Target:
    """A GPU of this machine: NVML ``index``, ``model`` in rltune's tables (None: not there), ``mig`` whether it is on.

    ``memory_bytes`` None where the driver does not tell.
    """

    index: int
    uuid: str
    name: str
    model: str | None
    mig: bool
    memory_bytes: int | None = None

    @property
    def compute(self) -> int:
        """Compute slices; 1 where MIG cannot cut it."""
        return geometry(self.model).compute if self.model else 1

    @property
    def slices(self) -> int:
        """Memory slices; 1 where MIG cannot cut it."""
        return geometry(self.model).slices if self.model else 1


@dataclass(frozen=True, slots=True)
class Slot:
    """Where tasks run one after the other: an instance of ``target``, or all of it (``instance`` None).

    ``size`` memory slices, ``compute`` slices; ``pool`` the list of tasks it takes from; ``refuses`` tasks too large for it.
    """

    target: int
    instance: Instance | None
    size: int
    compute: int
    pool: int
    refuses: frozenset[int] = frozenset()

    def __str__(self) -> str:
        return "whole GPU" if self.instance is None else str(self.instance)


@dataclass(frozen=True, slots=True)
class Step:
    """``action``: ``adopt`` (it is there), ``create`` or ``destroy`` a slot's instance."""

    action: str
    slot: int


@dataclass(frozen=True)
class Schedule:
    """``steps`` of each target, in their order; ``pools`` lists of tasks, in theirs; ``planned``: task -> start, end (s).

    ``expected``: UUID -> instances that must be there at the beginning; ``after``: task -> one that must have succeeded
    first, else it is not run.
    """

    targets: tuple[Target, ...]
    slots: tuple[Slot, ...]
    steps: tuple[tuple[Step, ...], ...]
    pools: tuple[tuple[int, ...], ...]
    planned: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    expected: Mapping[str, tuple[Instance, ...]] = field(default_factory=dict)
    after: Mapping[int, int] = field(default_factory=dict)

    @property
    def planned_makespan_s(self) -> float | None:
        return max((end for _, end in self.planned.values()), default=None)


def targets_of(driver: Driver, only: Collection[int] | None = None) -> list[Target]:
    """GPUs of the machine, or those numbered in ``only``; InputError for a number that does not exist."""
    found = []
    known = driver.gpus()
    for number in only or ():
        if number not in {gpu.index for gpu in known}:
            raise InputError(
                f"GPU {number} does not exist; the driver has {', '.join(str(g.index) for g in known) or 'none'}"
            )
    for gpu in known:
        if only and gpu.index not in only:
            continue
        try:
            mig = driver.mig_mode(gpu.index).current
        except DeviceError as error:
            if error.code != NOT_SUPPORTED:
                raise
            mig = False
        memory = driver.telemetry(gpu.index).memory_total_bytes
        found.append(Target(gpu.index, gpu.uuid, gpu.name, model_of(gpu.name, memory), mig, memory))
    return found


def left_on(targets: Sequence[Target], states: Mapping[str, GpuState]) -> tuple[Left, ...]:
    """What a search has to know of instances that are there and that nobody uses; InputError for what no plan can hold."""
    found = []
    for number, target in enumerate(targets):
        table = geometry(target.model or "")
        held = []
        for one in states[target.uuid].instances:
            if not one.whole:
                raise InputError(f"GPU {target.index}: {one} is cut into compute instances; `clear` it first")
            placement = Placement(table.profile(one.profile), one.start)
            held.append(PlannedInstance(number, placement, None, None))
        found.append(Left(tuple(held)))
    return tuple(found)


def schedule_of(plan: Plan, targets: Sequence[Target], driver: Driver) -> Schedule:
    """A plan on GPUs of this machine with MIG on, each of the model that the plan has in its place.

    InputError where there are too few, or where the driver lacks a placement.
    """
    chosen = _matched(plan.gpus, targets)
    slots, expected = [], {}
    for number, one in enumerate(plan.instances):
        profile = geometry(plan.gpus[one.gpu]).profiles[one.placement.profile]
        slots.append(Slot(one.gpu, whole(profile.name, one.placement.start), profile.size, profile.compute, number))
    for gpu, target in enumerate(chosen):
        _check_placements(target, [s.instance for s in slots if s.target == gpu and s.instance], driver)
        held = plan.left[gpu].instances if plan.left else ()
        table = geometry(plan.gpus[gpu])
        expected[target.uuid] = tuple(whole(table.profiles[i.placement.profile].name, i.placement.start) for i in held)
    runs = sorted(plan.runs, key=lambda run: run.start_s)
    return Schedule(
        tuple(chosen),
        tuple(slots),
        tuple(_steps(plan, gpu) for gpu in range(len(chosen))),
        tuple(tuple(run.task for run in runs if run.instance == number) for number in range(len(slots))),
        {run.task: (run.start_s, run.end_s) for run in runs},
        expected,
    )


def _matched(models: Sequence[str], targets: Sequence[Target]) -> list[Target]:
    free = [target for target in targets if target.mig]
    chosen = []
    for model in models:
        found = next((target for target in free if target.model == model), None)
        if found is None:
            here = ", ".join(f"GPU {t.index} {t.name}{'' if t.mig else ' (MIG off)'}" for t in targets) or "no GPU"
            raise InputError(
                f"the plan needs {models.count(model)} x {model} with MIG on; here are {here}; turn MIG on (apply --mig-mode), "
                "or plan for these"
            )
        free.remove(found)
        chosen.append(found)
    return chosen


def _check_placements(target: Target, instances: Sequence[Instance], driver: Driver) -> None:
    starts = {profile.name: profile.starts for profile in driver.profiles(target.index)}
    for one in instances:
        if one.start not in starts.get(one.profile, ()):
            raise InputError(
                f"GPU {target.index}: its driver does not offer {one.profile} at memory slice {one.start}; plan anew "
                "(show lists what it offers)"
            )


def _steps(plan: Plan, gpu: int) -> tuple[Step, ...]:
    """Of one GPU, in the planned order; at the same time destruction before creation."""
    timed: list[tuple[float, int, Step]] = []
    for number, one in enumerate(plan.instances):
        if one.gpu != gpu:
            continue
        timed.append(
            (-1.0, 0, Step("adopt", number)) if one.create_s is None else (one.create_s, 2, Step("create", number))
        )
        if one.destroy_s is not None:
            timed.append((one.destroy_s, 1, Step("destroy", number)))
    return tuple(step for _, _, step in sorted(timed, key=lambda row: row[:2]))


def whole_gpus(tasks: Sequence[TaskSpec], targets: Sequence[Target]) -> Schedule:
    """Without MIG: every GPU takes the next task when it is free, the longest first where seconds are known.

    Tasks of unknown length come first, in their order: they may be the longest. InputError for a task that needs more
    memory than any GPU has.
    """
    if not targets:
        raise InputError("there is no GPU to run on; see show")
    seconds = [
        max((s for t in targets if (s := whole_gpu_s(task, t.model)) is not None), default=None) for task in tasks
    ]
    order = sorted(range(len(tasks)), key=lambda k: (seconds[k] is not None, -(seconds[k] or 0.0)))
    slots = []
    for number, target in enumerate(targets):
        large = frozenset(k for k, task in enumerate(tasks) if _too_large(task, target))
        slots.append(Slot(number, None, target.slices, target.compute, 0, large))
    for k, task in enumerate(tasks):
        if all(k in slot.refuses for slot in slots):
            raise InputError(f"task {task.name!r} needs {task.memory_gb:g} GB, which no GPU here has; leave it out")
    return Schedule(tuple(targets), tuple(slots), tuple(() for _ in targets), (tuple(order),))


def _too_large(task: TaskSpec, target: Target) -> bool:
    if task.memory_gb is None or target.memory_bytes is None:
        return False
    return task.memory_gb * GB > target.memory_bytes


def check_expected(schedule: Schedule, adapter: Adapter) -> dict[str, GpuState]:
    """States of the GPUs now; InputError where other instances are there than the plan begins from."""
    states = adapter.states()
    for target in schedule.targets:
        wanted = set(schedule.expected.get(target.uuid, ()))
        held = set(states[target.uuid].instances)
        if target.uuid in schedule.expected and held != wanted:
            raise InputError(
                f"GPU {target.index} holds {' '.join(map(str, states[target.uuid].instances)) or 'no instances'}, the plan begins "
                f"from {' '.join(sorted(map(str, wanted))) or 'none'}; `python -m rltune.devices clear`, or plan anew on what is there"
            )
        _check_idle(schedule, target, adapter)
    return states


def _check_idle(schedule: Schedule, target: Target, adapter: Adapter) -> None:
    """InputError where somebody uses an instance that the schedule takes over."""
    taken = {s.instance for s in schedule.slots if schedule.targets[s.target] is target}
    taken &= set(schedule.expected.get(target.uuid, ()))
    if not taken:
        return
    for one, who in users_of(adapter, target).items():
        if one in taken:
            raise InputError(f"GPU {target.index}: {one} is in use ({who}); wait for it, or use other GPUs (--gpus)")


def users_of(adapter: Adapter, target: Target, but: str | None = None) -> Mapping[Instance, str]:
    """Instances of a GPU that somebody uses or holds (a tenant other than ``but``) -> who."""
    held = [t for t in adapter.tenants() if t.gpu == target.uuid and t.tenant != but]
    tenants = {(t.profile, t.start): t.tenant for t in held}
    return read_users(adapter.driver, target.index, tenants).of


@contextmanager
def whole_held(schedule: Schedule, adapter: Adapter) -> Iterator[None]:
    """Hold the whole GPUs of a schedule against other runs (instances have tenants); InputError where another run has one."""
    with ExitStack() as stack:
        for target in sorted(_whole(schedule), key=lambda one: one.uuid):
            try:
                stack.enter_context(locked(adapter.lock_of(f"whole-{target.uuid}")))
            except InputError as error:
                raise InputError(
                    f"GPU {target.index}: another run has all of it, or its lock cannot be had; wait for it, or use other GPUs ({error})"
                ) from None
        yield


def check_whole(schedule: Schedule, adapter: Adapter) -> list[str]:
    """Notes on whole GPUs of which nobody can tell who uses them; InputError where somebody does."""
    notes = []
    for target in _whole(schedule):
        try:
            users = sorted({process.pid for process in adapter.driver.processes(target.index)} - {os.getpid()})
        except DeviceError as error:
            notes.append(f"GPU {target.index}: whether somebody else uses it is not known ({error})")
            continue
        if users:
            raise InputError(
                f"GPU {target.index} is in use by process {', '.join(map(str, users))}; wait for its end, or use other GPUs "
                "(--gpus)"
            )
    return notes


def _whole(schedule: Schedule) -> list[Target]:
    return [schedule.targets[slot.target] for slot in schedule.slots if slot.instance is None]
