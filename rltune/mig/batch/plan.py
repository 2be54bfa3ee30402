"""A plan of a batch, and the independent check that a GPU could follow it as written.

Nothing here knows how a plan was found: the checker looks at instances, their creation and destruction, and runs only.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rltune.mig.batch.tasks import Tasks
from rltune.mig.geometry import Placement, geometry
from rltune.nouns.errors import InputError

EPS = 1e-6
"""Seconds by which sums of floating-point times may differ; as much of a time, where that is more than a second."""


@dataclass(frozen=True, slots=True)
class Instance:
    """A GPU instance in a plan; all times in seconds from the arrival of the batch.

    It is created from ``create_s`` to ``ready_s`` (both None: it was there before) and destroyed from ``destroy_s``
    to ``gone_s`` (None: it stays). ``busy_until_s``: an earlier batch runs in it until then.
    """

    gpu: int
    placement: Placement
    create_s: float | None
    ready_s: float | None
    destroy_s: float | None = None
    gone_s: float | None = None
    busy_until_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Run:
    """Task index ``task`` runs in ``Plan.instances[instance]`` from ``start_s`` to ``end_s``."""

    task: int
    instance: int
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Left:
    """What a GPU holds when a batch arrives: instances that were there, and until when its reconfiguration is taken."""

    instances: tuple[Instance, ...] = ()
    reconfiguring_until_s: float = 0.0


@dataclass(frozen=True)
class Plan:
    """``gpus`` their models; instances and runs on them; ``method`` who planned it."""

    gpus: tuple[str, ...]
    instances: tuple[Instance, ...]
    runs: tuple[Run, ...]
    method: str
    left: tuple[Left, ...] = field(default=())

    @property
    def makespan_s(self) -> float:
        """End of the last task, seconds from the arrival of the batch."""
        return max(run.end_s for run in self.runs)

    @property
    def reconfigurations(self) -> int:
        """Instances created and destroyed."""
        return sum((i.create_s is not None) + (i.destroy_s is not None) for i in self.instances)

    def leaves(self, later_s: float) -> tuple[Left, ...]:
        """What each GPU holds for a batch that arrives ``later_s`` seconds after this one."""
        ends = [i.busy_until_s for i in self.instances]
        for run in self.runs:
            ends[run.instance] = max(ends[run.instance], run.end_s)
        found = []
        for gpu in range(len(self.gpus)):
            mine = [index for index, i in enumerate(self.instances) if i.gpu == gpu]
            stay = [index for index in mine if self.instances[index].destroy_s is None]
            busy = [self.left[gpu].reconfiguring_until_s if self.left else 0.0]
            for index in mine:
                busy += [t for t in (self.instances[index].ready_s, self.instances[index].gone_s) if t is not None]
            kept = tuple(
                Instance(gpu, self.instances[i].placement, None, None, busy_until_s=max(0.0, ends[i] - later_s))
                for i in stay
            )
            found.append(Left(kept, max(0.0, max(busy) - later_s)))
        return tuple(found)


def check_plan(tasks: Tasks, plan: Plan) -> None:
    """Raise InputError unless a GPU could follow the plan: every task once and whole, no overlap, costs charged.

    Reconfigurations of a GPU are serial and never touch an instance in which something runs.
    """
    check_form(plan)
    ran = sorted(run.task for run in plan.runs)
    if ran != list(range(len(tasks))):
        raise InputError(f"the plan runs tasks {ran}; every one of {len(tasks)} must run once")
    for run in plan.runs:
        _check_run(tasks, plan, run)
    check_runs(plan)
    check_reconfigurations(plan)


def _eps(*times: float) -> float:
    """Seconds by which these times may be off."""
    return EPS * max(1.0, *(abs(time) for time in times))


def check_form(plan: Plan) -> None:
    """Indices name something, times are numbers, and a creation or destruction has both its ends."""
    if plan.left and len(plan.left) != len(plan.gpus):
        raise InputError(f"the plan says what is left on {len(plan.left)} GPUs, but has {len(plan.gpus)}")
    for instance in (*plan.instances, *(i for left in plan.left for i in left.instances)):
        if not 0 <= instance.gpu < len(plan.gpus):
            raise InputError(f"an instance is on GPU {instance.gpu}; there are {len(plan.gpus)}")
        if not 0 <= instance.placement.profile < len(geometry(plan.gpus[instance.gpu]).profiles):
            raise InputError(f"an instance has profile number {instance.placement.profile}, which its GPU has not")
        pairs = ((instance.create_s, instance.ready_s), (instance.destroy_s, instance.gone_s))
        if any((begin is None) != (end is None) for begin, end in pairs):
            raise InputError("a creation or destruction has a beginning without an end, or an end without a beginning")
        if not all(math.isfinite(t) for pair in pairs for t in pair if t is not None):
            raise InputError("an instance is created or destroyed at a time that is no number")
        if not 0 <= instance.busy_until_s < math.inf:
            raise InputError("an instance is busy until a time that is no number from 0")
    if not all(0 <= left.reconfiguring_until_s < math.inf for left in plan.left):
        raise InputError("a GPU is reconfiguring until a time that is no number from 0")
    for run in plan.runs:
        if not 0 <= run.instance < len(plan.instances):
            raise InputError(f"task {run.task} runs in instance {run.instance}; there are {len(plan.instances)}")
        if not (math.isfinite(run.start_s) and math.isfinite(run.end_s)):
            raise InputError(f"task {run.task} starts or ends at a time that is no number")


def _check_run(tasks: Tasks, plan: Plan, run: Run) -> None:
    instance = plan.instances[run.instance]
    takes = tasks.seconds[plan.gpus[instance.gpu]][run.task, instance.placement.profile]
    if not math.isfinite(takes) or abs(run.end_s - run.start_s - takes) > _eps(run.end_s):
        raise InputError(f"task {tasks.names[run.task]!r} takes {takes} s there, not {run.end_s - run.start_s} s")
    _check_inside(f"task {tasks.names[run.task]!r}", instance, run)


def _check_inside(task: str, instance: Instance, run: Run) -> None:
    if run.end_s < run.start_s:
        raise InputError(f"{task} ends at {run.end_s} s, before it starts at {run.start_s} s")
    from_s = max(instance.ready_s or 0.0, instance.busy_until_s)
    if run.start_s < from_s - _eps(from_s):
        raise InputError(f"{task} starts at {run.start_s} s, its instance is free from {from_s} s")
    if instance.destroy_s is not None and run.end_s > instance.destroy_s + _eps(run.end_s):
        raise InputError(f"{task} runs to {run.end_s} s, its instance goes at {instance.destroy_s} s")


def _check_apart(spans: Iterable[tuple[str, float, float]]) -> None:
    ordered = sorted(spans, key=lambda span: span[1:])
    for (what, _, end), (other, begin, _) in itertools.pairwise(ordered):
        if begin < end - (_eps(end) if math.isfinite(end) else 0.0):
            raise InputError(f"{what} until {end} s, but {other} from {begin} s")


def check_reconfigurations(plan: Plan) -> None:
    """Raise InputError unless every GPU could create and destroy the plan's instances; of a plan whose form is right."""
    for gpu, model in enumerate(plan.gpus):
        mine = [i for i in plan.instances if i.gpu == gpu]
        _check_reconfigurations(model, mine, plan.left[gpu] if plan.left else Left())
        _check_states(model, mine)


def check_runs(plan: Plan) -> None:
    """Raise InputError unless each run fits in the life of its instance, one after the other; however long tasks take."""
    for run in plan.runs:
        _check_inside(f"task {run.task}", plan.instances[run.instance], run)
    for index in range(len(plan.instances)):
        _check_apart((f"runs in instance {index}", r.start_s, r.end_s) for r in plan.runs if r.instance == index)


def _check_reconfigurations(model: str, instances: Sequence[Instance], left: Left) -> None:
    table = geometry(model)
    spans = [("reconfiguring for an earlier batch", -math.inf, left.reconfiguring_until_s)]
    for instance in instances:
        profile = table.profiles[instance.placement.profile]
        if instance.create_s is None:
            there = any(i.placement == instance.placement for i in left.instances)
            if not there or instance.ready_s is not None:
                raise InputError(f"{profile.name} at {instance.placement.start} was neither there nor created")
        elif instance.ready_s is None or abs(instance.ready_s - instance.create_s - profile.create_s) > _eps(
            instance.ready_s
        ):
            raise InputError(f"creating {profile.name} takes {profile.create_s} s")
        else:
            spans.append((f"creating {profile.name}", instance.create_s, instance.ready_s))
        if instance.destroy_s is None:
            continue
        if instance.gone_s is None or abs(instance.gone_s - instance.destroy_s - profile.destroy_s) > _eps(
            instance.gone_s
        ):
            raise InputError(f"destroying {profile.name} takes {profile.destroy_s} s")
        if instance.destroy_s < max(instance.busy_until_s, instance.ready_s or 0.0) - _eps(instance.destroy_s):
            raise InputError(f"{profile.name} at {instance.placement.start} is destroyed while it is in use")
        spans.append((f"destroying {profile.name}", instance.destroy_s, instance.gone_s))
    for old in left.instances:
        kept = [i for i in instances if i.create_s is None and i.placement == old.placement]
        if len(kept) != 1 or kept[0].busy_until_s != old.busy_until_s:
            raise InputError(f"an instance that was there ({old.placement}) is missing, doubled or cut short")
    _check_apart(spans)


def _check_states(model: str, instances: Sequence[Instance]) -> None:
    """At the beginning of every creation, what is there and the new instance form a legal state."""
    table = geometry(model)
    for new in instances:
        if new.create_s is None:
            continue
        beside = [
            other.placement
            for other in instances
            if other is not new
            and (other.create_s is None or other.create_s < new.create_s)
            and (other.gone_s is None or other.gone_s > new.create_s + _eps(new.create_s))
        ]
        table.check((*beside, new.placement))
    table.check(i.placement for i in instances if i.create_s is None)
