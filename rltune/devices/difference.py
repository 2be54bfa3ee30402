"""From what is wanted and what is there to a plan: which instances stay, go and come on every GPU.

The driver's own listing of profiles and placements decides what is legal. Instances in use never go; an instance that
is wanted anywhere is taken to be one that is there already, where that is possible.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, model_validator

from rltune.devices.driver import DeviceProfile, Identity
from rltune.devices.reading import Users, describe_elsewhere
from rltune.devices.spec import Entry, Wanted
from rltune.devices.state import GpuState, Instance, StateEntry, compute_sizes, state
from rltune.nouns.checked import Checked, Says, checked
from rltune.nouns.documents import Document
from rltune.nouns.errors import InputError

VERSION = 1
KIND = "rltune device plan"


class Step(NamedTuple):
    """``action``: enable, destroy, create or disable; ``instance`` None for the MIG mode."""

    action: str
    instance: Instance | None = None

    def __str__(self) -> str:
        return f"{self.action} {self.instance or 'MIG mode'}"


@dataclass(frozen=True, slots=True)
class GpuPlan:
    """What one GPU has and should have; ``used``: instances that stay because somebody uses them -> who."""

    index: int
    uuid: str
    name: str
    before: GpuState
    after: GpuState
    used: Mapping[str, str]

    @property
    def kept(self) -> tuple[Instance, ...]:
        return tuple(one for one in self.before.instances if one in self.after.instances)

    @property
    def mode_changes(self) -> bool:
        return (self.after.mig, self.after.pending) != (self.before.mig, self.before.pending)

    @property
    def steps(self) -> tuple[Step, ...]:
        """In the order in which they are done: destructions first, by start."""
        steps = [Step("enable")] if self.mode_changes and self.after.mig else []
        steps += [Step("destroy", one) for one in self.before.instances if one not in self.after.instances]
        # Large ones first: they have the fewest places, should the driver choose for itself.
        made = [one for one in self.after.instances if one not in self.before.instances]
        steps += [Step("create", one) for one in sorted(made, key=lambda one: (-sum(one.compute), one.start))]
        return tuple(steps + ([Step("disable")] if self.mode_changes and not self.after.mig else []))


@dataclass(frozen=True, slots=True)
class Plan:
    """GPUs that a spec names, changed or not; ``made_at`` in seconds of the epoch."""

    gpus: tuple[GpuPlan, ...]
    made_at: float

    @property
    def changes(self) -> tuple[GpuPlan, ...]:
        return tuple(gpu for gpu in self.gpus if gpu.steps)

    def as_json(self) -> dict[str, Any]:
        listed = [
            {"index": g.index, "uuid": g.uuid, "name": g.name, "before": g.before.as_json(), "after": g.after.as_json(),
             "used": dict(g.used), "steps": [str(step) for step in g.steps]}
            for g in self.gpus
        ]  # fmt: skip
        return {"kind": KIND, "version": VERSION, "made_at": self.made_at, "gpus": listed}


class GpuPlanEntry(Checked):
    """One GPU of a plan in a file."""

    index: Annotated[int, Field(ge=0), Says("a number of a GPU is needed")]
    uuid: str
    name: str
    before: StateEntry
    after: StateEntry
    used: dict[str, str]
    steps: list[str]

    @model_validator(mode="after")
    def _possible(self) -> GpuPlanEntry:
        _each_once("instance", [f"{one.profile}@{one.start}" for one in self.after.instances])
        for one in self.after.instances:
            if not one.compute:
                raise InputError(f"{one} after it would be of no use")
        return self


class PlanFile(Checked):
    """A plan in a file, as `Plan.as_json` writes it; what is done follows from ``before`` and ``after``."""

    kind: Literal["rltune device plan"]
    version: Literal[1]
    made_at: float
    """Seconds of the epoch."""
    gpus: list[GpuPlanEntry]

    @model_validator(mode="after")
    def _unlike(self) -> PlanFile:
        _each_once("GPU", [gpu.index for gpu in self.gpus])
        _each_once("GPU", [gpu.uuid for gpu in self.gpus])
        return self


def _each_once(what: str, names: Sequence[object]) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            raise InputError(f"{what} {name} stands in it twice")


def plan_from(value: Mapping[str, Any], path: str | Path) -> Plan:
    """The plan of `Plan.as_json`; InputError for what is none."""
    try:
        file = checked(PlanFile, Document("", value))
    except InputError as error:
        raise InputError(f"{path}: is no whole plan ({error}); plan anew") from None
    gpus = [GpuPlan(g.index, g.uuid, g.name, g.before.state, g.after.state, g.used) for g in file.gpus]
    return Plan(tuple(gpus), file.made_at)


def read_plan(path: str | Path) -> Plan | None:
    """The plan in a file; None where it is something else (a spec)."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a spec or a plan") from None
    except (ValueError, RecursionError):
        return None
    return plan_from(value, path) if isinstance(value, dict) and value.get("kind") == KIND else None


def plan_gpu(
    gpu: Identity, now: GpuState, users: Users, entry: Entry, profiles: Sequence[DeviceProfile]
) -> GpuPlan:  # fmt: skip
    """The plan of one GPU; InputError names what is impossible, and why."""
    where = f"{entry.where}: GPU {gpu.index}"
    if now.mig is None:
        if entry.mig or entry.instances:
            raise InputError(f"{where} ({gpu.name}) has no MIG; leave it out of the spec")
        return GpuPlan(gpu.index, gpu.uuid, gpu.name, now, now, {})
    mig = now.mig if entry.mig is None else entry.mig
    if entry.instances and not mig:
        raise InputError(f"{where}: MIG mode is off; write mig: true in the spec, and apply it with --mig-mode")
    # Without a word on the mode what waits for a reset goes on waiting.
    pending = now.pending if entry.mig is None else mig
    if (mig, pending) != (now.mig, now.pending) and (users.of or users.elsewhere):
        who = ", ".join([*users.of.values(), *(f"pid {pid}" for pid in users.elsewhere)])
        raise InputError(f"{where}: its MIG mode cannot change while it is in use ({who}); end that first")
    chosen = _choose(where, entry.instances, now.instances, users.of, profiles) if mig else ()
    after = state(mig, chosen, pending)
    if users.elsewhere and not set(now.instances) <= set(after.instances):
        raise InputError(f"{where}: {describe_elsewhere(users)}")
    lost = [one for one in users.of if one not in after.instances]
    if lost:
        raise InputError(
            f"{where}: {lost[0]} is in use ({users.of[lost[0]]}) and would have to go; wait for it, or keep it"
        )
    used = {str(one): who for one, who in users.of.items()}
    return GpuPlan(gpu.index, gpu.uuid, gpu.name, now, after, used)


def _choose(
    where: str,
    wanted: Sequence[Wanted],
    here: Sequence[Instance],
    used: Mapping[Instance, str],
    profiles: Sequence[DeviceProfile],
) -> tuple[Instance, ...]:
    """Where every wanted instance goes; InputError where they do not fit together."""
    listed = {profile.name: profile for profile in profiles}
    for one in wanted:
        _check(where, one, listed)
    _check_counts(where, wanted, listed)
    # Those with a start first, then the largest, which have the fewest places.
    ordered = sorted(wanted, key=lambda w: (w.start is None, -listed[w.profile].size, str(w)))
    found = _best(tuple(ordered), tuple(here), frozenset(used), tuple(profiles))
    if found is None:
        text = ", ".join(map(str, wanted))
        raise InputError(f"{where}: {text} do not fit together; `show --profiles` lists legal starts and sizes")
    return found


@lru_cache(maxsize=256)
def _best(
    wanted: tuple[Wanted, ...],
    here: tuple[Instance, ...],
    used: frozenset[Instance],
    profiles: tuple[DeviceProfile, ...],
) -> tuple[Instance, ...] | None:
    """Those in use stay; then as many of those that are there as possible; then as much room as possible is left.

    Many GPUs of a machine ask the same.
    """
    listed = {profile.name: profile for profile in profiles}
    places = [((1 << p.size) - 1 << start, p.size) for p in profiles for start in p.starts]
    best: tuple[tuple[int, int, int], tuple[Instance, ...]] | None = None
    for taken, found in _arrangements(wanted, listed):
        room = sum(size for mask, size in places if not mask & taken)
        value = sum(one in used for one in found), sum(one in here for one in found), room
        if best is None or value > best[0]:
            best = value, found
    return None if best is None else best[1]


def _check(where: str, one: Wanted, listed: Mapping[str, DeviceProfile]) -> None:
    if one.profile not in listed:
        raise InputError(f"{where}: has no profile {one.profile}; it has {', '.join(listed)}")
    profile = listed[one.profile]
    if one.start is not None and one.start not in profile.starts:
        legal = ", ".join(map(str, profile.starts))
        raise InputError(f"{where}: {one.profile} cannot begin at memory slice {one.start}; legal are {legal}")
    sizes = compute_sizes(profile.compute)
    if not set(one.compute) <= set(sizes) or sum(one.compute) > profile.compute:
        legal = ", ".join(map(str, sizes))
        raise InputError(f"{where}: {one}: compute instances have {legal} slices there, {profile.compute} in all")
    if not one.compute:
        raise InputError(f"{where}: {one}: a GPU instance without compute instances is of no use; leave it out")


def _check_counts(where: str, wanted: Sequence[Wanted], listed: Mapping[str, DeviceProfile]) -> None:
    for name, count in Counter(one.profile for one in wanted).items():
        if count > listed[name].most:
            raise InputError(f"{where}: {count} x {name}; the GPU can have {listed[name].most}")
    media = [profile for profile in listed.values() if "+me" in profile.name]
    # Where each such profile exists once, they share one set of engines (A30: 1g+me, 2g+me).
    if sum("+me" in one.profile for one in wanted) > 1 and all(profile.most == 1 for profile in media):
        raise InputError(f"{where}: only one instance can have the media engines (+me)")


def _arrangements(
    wanted: Sequence[Wanted],
    listed: Mapping[str, DeviceProfile],
    at: int = 0,
    taken: int = 0,
    begun: tuple[Instance, ...] = (),
) -> Iterator[tuple[int, tuple[Instance, ...]]]:
    """Every way to place the wanted ones, and the memory slices it takes as bits; equal ones in ascending starts."""
    if at == len(wanted):
        yield taken, begun
        return
    one = wanted[at]
    profile = listed[one.profile]
    after = begun[-1].start if at and wanted[at - 1] == one else -1
    for start in profile.starts if one.start is None else (one.start,):
        mask = ((1 << profile.size) - 1) << start
        if not taken & mask and (start > after or one.start is not None):
            placed = Instance(one.profile, start, one.compute)
            yield from _arrangements(wanted, listed, at + 1, taken | mask, (*begun, placed))


def states_differ(plan: Plan, now: Mapping[str, GpuState]) -> Iterator[str]:
    """What has changed since a plan was made, a line each."""
    for gpu in plan.gpus:
        if gpu.uuid not in now:
            yield f"GPU {gpu.index} ({gpu.uuid}) is no longer there, or cannot be reached"
        elif now[gpu.uuid] != gpu.before:
            yield f"GPU {gpu.index} was [{gpu.before}], and is now [{now[gpu.uuid]}]"
