"""How long tasks take on each profile of a GPU: one instance after the other, each task alone in it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from rltune.devices.driver import Driver
from rltune.devices.execution.outcome import FAILED, OK, TaskRow
from rltune.devices.execution.schedule import Schedule, Slot, Step, Target
from rltune.devices.execution.tasks_file import WHOLE, TaskSpec
from rltune.devices.state import GpuState, Instance, whole
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
    tasks: Sequence[TaskSpec], target: Target, kinds: Sequence[str], repeats: int, driver: Driver, state: GpuState,
    used: Collection[Instance] = (),
) -> Trials:  # fmt: skip
    """Each task ``repeats`` times on each kind, beside the instances that are there.

    Where they leave no room, those that nobody has ``used`` go first (the executor brings them back at its end). InputError
    where an instance has no room beside the used ones.
    """
    if repeats < 1:
        raise InputError(f"--repeats {repeats}; measure at least once")
    table = geometry(target.model) if target.mig and target.model else None
    trials: list[Trial] = []
    pools: list[tuple[int, ...]] = []
    slots: list[Slot] = []
    steps: list[Step] = []
    ruled_out = []
    beside: Collection[Instance] = state.instances
    if table and any(_start(target, table, kind, driver, beside) is None for kind in kinds):
        beside = [one for one in state.instances if one in used]
        cleared = [one for one in state.instances if one not in used]
        slots += [_cleared(number, target, table, one) for number, one in enumerate(cleared)]
        steps += [Step(action, number) for number in range(len(cleared)) for action in ("adopt", "destroy")]
        pools += [()] * len(cleared)
    for number, kind in enumerate(kinds, start=len(slots)):
        begin = len(trials)
        profile = WHOLE if table is None else table.profiles[table.profile(kind)].name
        slots.append(_slot(number, target, table, kind, driver, beside))
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


def _slot(
    number: int, target: Target, table: Geometry | None, kind: str, driver: Driver, beside: Collection[Instance]
) -> Slot:
    if table is None:
        return Slot(0, None, target.slices, target.compute, number)
    profile = table.profiles[table.profile(kind)]
    start = _start(target, table, kind, driver, beside)
    if start is None:
        raise InputError(
            f"GPU {target.index}: no room for {profile.name} beside {', '.join(map(str, beside))}, which is in use; wait for it, or "
            "choose other --kinds"
        )
    return Slot(0, whole(profile.name, start), profile.size, profile.compute, number)


def _start(target: Target, table: Geometry, kind: str, driver: Driver, beside: Collection[Instance]) -> int | None:
    """The first memory slice at which a profile has room; None where it has none. InputError where the driver lacks it."""
    name = table.profiles[table.profile(kind)].name
    listed = {profile.name: profile for profile in driver.profiles(target.index)}
    if name not in listed:
        raise InputError(f"GPU {target.index}: its driver does not offer {name}; leave {kind} out of --kinds")
    taken = {at for one in beside for at in range(one.start, one.start + listed[one.profile].size)}
    sizes = listed[name].size
    return next((s for s in sorted(listed[name].starts) if taken.isdisjoint(range(s, s + sizes))), None)


def _cleared(number: int, target: Target, table: Geometry, one: Instance) -> Slot:
    """An idle instance that has to go; no task runs in it."""
    if not one.whole:
        raise InputError(
            f"GPU {target.index}: {one} is cut into compute instances; `python -m rltune.devices clear` first"
        )
    profile = table.profiles[table.profile(one.profile)]
    return Slot(0, one, profile.size, profile.compute, number)


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
