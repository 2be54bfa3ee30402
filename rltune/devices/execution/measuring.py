"""How long tasks take on each profile of a GPU: one instance after the other, each task alone in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rltune.devices.driver import Driver
from rltune.devices.execution.outcome import FAILED, OK, TaskRow
from rltune.devices.execution.schedule import Schedule, Slot, Step, Target
from rltune.devices.execution.tasks_file import WHOLE, TaskSpec
from rltune.devices.state import GpuState, whole
from rltune.mig.geometry import PLAIN, Geometry, geometry
from rltune.nouns.errors import InputError


@dataclass(frozen=True, slots=True)
class Trial:
    """Task number ``task`` on a profile, by kind (``1g``, `WHOLE`) and the driver's name, for the ``repeat``-th time."""

    task: int
    kind: str
    profile: str
    repeat: int


@dataclass(frozen=True)
class Trials:
    """``specs``: what to run, named after task and profile; a repeat is only run if the one before it succeeded.

    ``ruled_out``: (task, kind) that are not tried, since ``memory_gb`` says that they do not fit.
    """

    trials: tuple[Trial, ...]
    specs: tuple[TaskSpec, ...]
    schedule: Schedule
    ruled_out: tuple[tuple[int, str], ...] = ()


def kinds_of(target: Target, wanted: Sequence[str] | None) -> list[str]:
    """Kinds to measure on a GPU: those that are asked for, default every plain one, smallest first; `WHOLE` without MIG."""
    if not target.mig:
        if wanted:
            raise InputError(
                f"GPU {target.index} has MIG off, so that --kinds cannot be measured; turn it on (apply --mig-mode)"
            )
        return [WHOLE]
    if target.model is None:
        raise InputError(f"GPU {target.index}: {target.name} is in no table of profiles here; measure another GPU")
    table = geometry(target.model)
    if wanted:
        kinds = [table.profiles[table.profile(kind)].kind for kind in wanted]
        if len(set(kinds)) < len(kinds):
            raise InputError(f"--kinds {','.join(wanted)}: a profile stands twice; name each once")
        return kinds
    have = {profile.kind for profile in table.profiles}
    return [kind for kind in reversed(PLAIN) if kind in have]


def trials_of(
    tasks: Sequence[TaskSpec], target: Target, kinds: Sequence[str], repeats: int, driver: Driver, state: GpuState
) -> Trials:
    """Each task ``repeats`` times on each kind; InputError where an instance has no room beside those that are there."""
    if repeats < 1:
        raise InputError(f"--repeats {repeats}; measure at least once")
    table = geometry(target.model) if target.mig and target.model else None
    trials: list[Trial] = []
    pools: list[tuple[int, ...]] = []
    slots: list[Slot] = []
    steps: list[Step] = []
    ruled_out = []
    for number, kind in enumerate(kinds):
        begin = len(trials)
        profile = WHOLE if table is None else table.profiles[table.profile(kind)].name
        slots.append(_slot(number, target, table, kind, driver))
        for k, task in enumerate(tasks):
            if table and task.memory_gb and table.profiles[table.profile(kind)].memory_gb < task.memory_gb:
                ruled_out.append((k, kind))
                continue
            trials += [Trial(k, kind, profile, repeat) for repeat in range(repeats)]
        pools.append(tuple(range(begin, len(trials))))
        if table:
            steps += [Step("create", number), Step("destroy", number)]
    specs = tuple(tasks[t.task].model_copy(update={"name": _name(tasks[t.task].name, t, repeats)}) for t in trials)
    after = {k: k - 1 for k, trial in enumerate(trials) if trial.repeat}
    expected = {target.uuid: state.instances} if table else {}
    schedule = Schedule((target,), tuple(slots), (tuple(steps),), tuple(pools), expected=expected, after=after)
    return Trials(tuple(trials), specs, schedule, tuple(ruled_out))


def _slot(number: int, target: Target, table: Geometry | None, kind: str, driver: Driver) -> Slot:
    if table is None:
        return Slot(0, None, target.slices, target.compute, number)
    profile = table.profiles[table.profile(kind)]
    listed = next((p for p in driver.profiles(target.index) if p.name == profile.name), None)
    if listed is None:
        raise InputError(f"GPU {target.index}: its driver does not offer {profile.name}; leave {kind} out of --kinds")
    there = driver.instances(target.index)
    taken = {at for one in there for at in range(one.start, one.start + one.size)}
    free = [s for s in sorted(listed.starts) if taken.isdisjoint(range(s, s + listed.size))]
    if not free:
        held = ", ".join(f"{one.profile}@{one.start}" for one in there)
        raise InputError(
            f"GPU {target.index}: no room for {profile.name} beside {held}; clear it (apply), or choose other --kinds"
        )
    return Slot(0, whole(profile.name, free[0]), listed.size, profile.compute, number)


def _name(task: str, trial: Trial, repeats: int) -> str:
    return f"{task}.{trial.profile}" + (f".{trial.repeat + 1}" if repeats > 1 else "")


class Measured:
    """What trials told: a `rltune.mig.profiles.Measure` that answers from them.

    Of a task on a kind: ``seconds`` where every repeat went well; ``unfit`` where one failed by itself, with its row; ``unknown``
    for all else (a timeout, no instance, an interrupt), with the first row that did not go well.
    """

    def __init__(self, tasks: Sequence[TaskSpec], trials: Trials, rows: Sequence[TaskRow]) -> None:
        self._names = [task.name for task in tasks]
        self.seconds: dict[tuple[str, str], list[float]] = {}
        self.unfit: list[tuple[str, str, TaskRow]] = []
        self.unknown: list[tuple[str, str, TaskRow]] = []
        found: dict[tuple[str, str], list[TaskRow]] = {}
        for trial, row in zip(trials.trials, rows, strict=True):
            found.setdefault((self._names[trial.task], trial.kind), []).append(row)
        for key, repeats in found.items():
            failed = next((row for row in repeats if row.outcome == FAILED and row.seconds is not None), None)
            other = next((row for row in repeats if row.outcome != OK), None)
            if failed is not None:
                self.unfit.append((*key, failed))
            elif other is not None:
                self.unknown.append((*key, other))
            else:
                self.seconds[key] = [row.seconds for row in repeats if row.seconds is not None]

    def measured(self, name: str) -> bool:
        """Whether the task ran anywhere."""
        return any(task == name for task, _ in self.seconds)

    def measure(self, model: str) -> _Answers:
        """Answers by the driver's name of a profile of ``model``."""
        kinds = {profile.name: profile.kind for profile in geometry(model).profiles}
        return _Answers({key: list(values) for key, values in self.seconds.items()}, kinds)


class _Answers:
    """Each call gives the next repeat; None where there is none."""

    def __init__(self, seconds: dict[tuple[str, str], list[float]], kinds: Mapping[str, str]) -> None:
        self._seconds, self._kinds = seconds, kinds

    def __call__(self, task: str, profile: str) -> float | None:
        left = self._seconds.get((task, self._kinds[profile]))
        return left.pop(0) if left else None
