"""One GPU on its way to a state, from wherever it is: the only code that creates and destroys instances.

The same way leads forward, back after an error, and back after a crash: read what is there, destroy what is our own and not
wanted, create what is wanted and not there. What is not our own is never touched, whatever its profile and place. Nothing
here trusts what a call said it did.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeVar

from rltune.devices.driver import Driver, GpuInstance
from rltune.devices.ownership import ANYWHERE, COMING, GOING, MADE, Key, Own, Part, Uuids, key_of
from rltune.devices.reading import instance_of
from rltune.devices.state import GpuState, Instance
from rltune.devices.status import (
    FUNCTION_NOT_FOUND,
    IN_USE,
    INSUFFICIENT_RESOURCES,
    NOT_FOUND,
    NOT_SUPPORTED,
    RESET_REQUIRED,
    SUCCESS,
    DeviceError,
)

T = TypeVar("T")
SET_MODE = "nvmlDeviceSetMigMode"
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0
"""Between attempts; doubled each time."""


@dataclass
class Patience:
    """How long to wait in all for what may pass by itself (IN_USE, TIMEOUT, ...): ``left_s`` seconds of pauses; counts ``retries``."""

    left_s: float
    sleep: Callable[[float], None] = time.sleep
    retries: int = 0

    def attempt(self, action: Callable[[bool], T]) -> T:
        """Call ``action(again)`` until it succeeds, its refusal is final, or no time is left; then its error."""
        pause = FIRST_PAUSE_S
        again = False
        while True:
            try:
                return action(again)
            except DeviceError as error:
                if not error.retry or pause > self.left_s:
                    raise
            self.sleep(pause)
            self.left_s -= pause
            self.retries += 1
            pause, again = min(2 * pause, LONGEST_PAUSE_S), True


def reached(now: GpuState, target: GpuState, owned: frozenset[Key]) -> bool:
    """Whether a GPU's mode, and of its instances those that are ours, are as they should be."""

    def ours(state: GpuState) -> set[Instance]:
        return {one for one in state.instances if key_of(one) in owned}

    # A mode that waits for a reset cannot be told to wait again: asking for it might change it at once.
    waits = target.mig != target.pending
    return now.mig == target.mig and (waits or now.pending == target.pending) and ours(now) == ours(target)


def set_mode(driver: Driver, gpu: int, enabled: bool, patience: Patience) -> None:
    """Turn MIG on or off; DeviceError with the activation's status (IN_USE, RESET_REQUIRED) where it is not active at once."""

    def once(again: bool) -> None:
        status = driver.set_mig_mode(gpu, enabled)
        if status == SUCCESS and driver.mig_mode(gpu).current != enabled:
            status = RESET_REQUIRED
        if status != SUCCESS:
            raise DeviceError(status, SET_MODE, f"GPU {gpu}")

    patience.attempt(once)


@dataclass
class Change:
    """One GPU (by number) to be brought to ``target``, touching no instance but its own.

    ``thorough``: a way back. It goes on after a refusal with what else can be done, and the errors are in ``errors``; what
    stands where something should be, and is not its own, is left: ``blocked`` has a line for each. ``left``: places where it
    found what is not its own. ``on_blind``: called before instances are created whose starts the driver chooses.
    """

    driver: Driver
    gpu: int
    target: GpuState
    own: Own
    patience: Patience
    thorough: bool = False
    on_blind: Callable[[], None] = lambda: None
    errors: list[DeviceError] = field(default_factory=list)
    blocked: dict[Key, str] = field(default_factory=dict)
    left: set[Key] = field(default_factory=set)
    mode_blocked: str = ""

    def run(self) -> None:
        """Do it; the first refusal is raised, unless ``thorough``."""
        mode, pending = self._mode()
        wanted = bool(self.target.mig)
        waits = self.target.mig != self.target.pending
        if (wanted and not mode) or (wanted == mode and pending != wanted and not waits):
            with self._step():
                set_mode(self.driver, self.gpu, wanted, self.patience)
        if mode or wanted:
            self._instances()
        if mode and not wanted:
            with self._step():
                self._disable()

    def _mode(self) -> tuple[bool, bool]:
        """MIG mode now and after the next reset; off where the GPU has none."""
        try:
            mode = self.driver.mig_mode(self.gpu)
        except DeviceError as error:
            if error.code != NOT_SUPPORTED:
                raise
            return False, False
        return mode.current, mode.pending

    def _disable(self) -> None:
        """Turn MIG off, unless that would take what somebody else made meanwhile."""
        others = [instance_of(one) for one in self.driver.instances(self.gpu)]
        if not others:
            set_mode(self.driver, self.gpu, False, self.patience)
        elif self.thorough and not self.errors:
            self.mode_blocked = f"MIG stays on, as {_listed(others)} is not of its making"
        else:
            raise DeviceError(IN_USE, SET_MODE, f"GPU {self.gpu}, {_listed(others)}")

    @contextmanager
    def _step(self, one: Instance | None = None) -> Iterator[None]:
        try:
            yield
        except DeviceError as error:
            if not self.thorough:
                raise
            strangers: list[Instance] = []
            if one is not None and error.code == INSUFFICIENT_RESOURCES:
                with suppress(DeviceError):
                    strangers = self._strangers()
            if one is not None and strangers:
                self.blocked[key_of(one)] = f"{one} finds no room beside {_listed(strangers)}, not of its making"
            else:
                self.errors.append(error)

    def _strangers(self) -> list[Instance]:
        """Instances that are neither our own nor wanted."""
        held = self.driver.instances(self.gpu)
        mine = self.own.of(held, self._uuids())
        return [
            one for one in map(instance_of, (h for h in held if h.id not in mine)) if one not in self.target.instances
        ]

    def _uuids(self) -> Uuids:
        """Names of the MIG devices; none on the way forward, where what is our own was looked at just now."""
        found: Uuids = {}
        if self.thorough:
            with suppress(DeviceError):  # without them the numbers decide
                found = self.driver.mig_uuids(self.gpu)
        return found

    def _instances(self) -> None:
        wanted = {key_of(one): one for one in self.target.instances if key_of(one) in self.own.places}
        held = self.driver.instances(self.gpu)
        mine = self.own.of(held, self._uuids())
        there: set[Key] = set()
        for one in held:
            key = (one.profile, one.start)
            if key not in self.own.places:
                continue
            target = wanted.get(key)
            if one.id not in mine:
                self._left(key, instance_of(one), target, there)
                continue
            with self._step():
                if target is not None and Counter(instance_of(one).compute) <= Counter(target.compute):
                    there.add(key)
                    self._complete(one.id, instance_of(one), target)
                else:
                    self._destroy(one)
        # The largest first, as they have the fewest places.
        missing = sorted(
            (one for key, one in wanted.items() if key not in there), key=lambda i: (-sum(i.compute), i.start)
        )
        with self._step():
            self._create_all(missing)
        self._record_devices()

    def _left(self, key: Key, one: Instance, target: Instance | None, there: set[Key]) -> None:
        """What is not our own stays; on the way back one that is as it should be is as good as ours."""
        self.left.add(key)
        if self.thorough and target is not None:
            there.add(key)
            if one != target:
                self.blocked[key] = f"{one}, not of its making, is where {target} was"

    def _record_devices(self) -> None:
        """Write down what the MIG devices that were made are called."""
        made = {key: part for key, part in self.own.parts.items() if part.status == MADE and not part.devices}
        if not made:
            return
        with suppress(DeviceError):  # without them the numbers decide
            uuids = self.driver.mig_uuids(self.gpu)
            names = {
                key: tuple(uuid for (instance, _), uuid in uuids.items() if instance == part.number)
                for key, part in made.items()
            }
            self.own.note_all({key: Part(MADE, part.number, names[key]) for key, part in made.items()})

    def _create_all(self, missing: Sequence[Instance]) -> None:
        for at, one in enumerate(missing):
            with self._step(one):
                number = self._create(one)
                if number is None:
                    self.on_blind()
                    self._create_blindly(missing[at:])
                    return
                self.own.note(key_of(one), MADE, number)
                self._complete(number, Instance(one.profile, one.start, ()), one)

    def _create(self, one: Instance) -> int | None:
        """Number of the new GPU instance; None where the driver is too old to be told a start."""

        def once(again: bool) -> int:
            # A call that failed may yet have done it.
            there = self._half_made(one) if again else None
            return self.driver.create_gpu_instance(self.gpu, one.profile, one.start) if there is None else there

        self.own.note(key_of(one), COMING)
        try:
            return self.patience.attempt(once)
        except DeviceError as error:
            if error.code != FUNCTION_NOT_FOUND:
                raise
            return self._half_made(one)

    def _half_made(self, one: Instance) -> int | None:
        """Number of an instance there that has no compute instance yet: any other is not what we were about to make."""
        same = (
            held.id
            for held in self.driver.instances(self.gpu)
            if (held.profile, held.start) == key_of(one) and not held.compute_instances
        )
        return next(same, None)

    def _complete(self, number: int, one: Instance, target: Instance) -> None:
        """Create the compute instances that are missing, the largest first."""
        have = Counter(one.compute)
        missing = sorted((Counter(target.compute) - have).elements(), reverse=True)
        part = self.own.parts.get(key_of(target))
        if missing and part is not None and part.status in (COMING, GOING):
            # With compute instances it would not look like our own any more.
            self.own.note(key_of(target), MADE, number)
        for slices in missing:
            have[slices] += 1
            self._create_compute(number, slices, have[slices])

    def _create_compute(self, number: int, slices: int, count: int) -> None:
        """One more, so that there are ``count`` of these slices."""

        def once(again: bool) -> None:
            if not (again and self._count(number, slices) >= count):
                self.driver.create_compute_instance(self.gpu, number, slices)

        self.patience.attempt(once)

    def _count(self, number: int, slices: int) -> int:
        held = next((one for one in self.driver.instances(self.gpu) if one.id == number), None)
        return 0 if held is None else sum(ci.compute == slices for ci in held.compute_instances)

    def _destroy(self, held: GpuInstance) -> None:
        for ci in held.compute_instances:
            self._gone(lambda ci=ci: self.driver.destroy_compute_instance(self.gpu, held.id, ci.id))  # type: ignore[misc]
        key = (held.profile, held.start)
        self.own.note(key, GOING, held.id)
        self._gone(lambda: self.driver.destroy_gpu_instance(self.gpu, held.id))
        self.own.strike(key)

    def _gone(self, action: Callable[[], None]) -> None:
        def once(again: bool) -> None:
            try:
                action()
            except DeviceError as error:
                # A call that failed may yet have done it.
                if not (again and error.code == NOT_FOUND):
                    raise

        self.patience.attempt(once)

    def _create_blindly(self, missing: Sequence[Instance]) -> None:
        """On a driver too old to be told a start: try orders of creation until every instance lands where it should.

        INSUFFICIENT_RESOURCES where no order does; nothing of the attempts is left.
        """
        if not self._ordered(list(missing)):
            raise DeviceError(
                INSUFFICIENT_RESOURCES, "nvmlDeviceCreateGpuInstance",
                f"GPU {self.gpu}: this driver chooses starts itself, and no order of creation gives {_listed(missing)}",
            )  # fmt: skip

    def _ordered(self, missing: list[Instance]) -> bool:
        if not missing:
            return True
        for profile in dict.fromkeys(one.profile for one in missing):
            found = self._land(profile, missing)
            if found is None:
                continue
            held, landed = found
            if self._ordered([one for one in missing if one is not landed]):
                self._complete(held.id, Instance(landed.profile, landed.start, ()), landed)
                return True
            self._destroy(held)
        return False

    def _land(self, profile: str, missing: Sequence[Instance]) -> tuple[GpuInstance, Instance] | None:
        """Create instances until one lands where one is missing; the others only kept it from landing there again."""
        stopgaps: list[GpuInstance] = []
        found = None
        while found is None:
            held = self._chosen(profile)
            if held is None:
                break
            landed = next((one for one in missing if key_of(one) == (held.profile, held.start)), None)
            if landed is None:
                stopgaps.append(held)
            else:
                found = held, landed
        for held in stopgaps:
            self._destroy(held)
        return found

    def _chosen(self, profile: str) -> GpuInstance | None:
        """A new instance where the driver put it; None where it found no room."""
        there = {held.id for held in self.driver.instances(self.gpu)}

        def once(again: bool) -> int:
            # A call that failed may yet have done it.
            new = self._new(there) if again else []
            return new[0] if new else self.driver.create_gpu_instance(self.gpu, profile, None)

        self.own.note((profile, ANYWHERE), COMING)
        try:
            number = self.patience.attempt(once)
        except DeviceError as error:
            if error.code != INSUFFICIENT_RESOURCES:
                raise
            return None
        held = next(one for one in self.driver.instances(self.gpu) if one.id == number)
        self.own.note((held.profile, held.start), MADE, number)
        self.own.strike((profile, ANYWHERE))
        return held

    def _new(self, there: set[int]) -> list[int]:
        """Numbers of instances that were not there, and have no compute instance yet."""
        held = self.driver.instances(self.gpu)
        return [one.id for one in held if one.id not in there and not one.compute_instances]


def _listed(instances: Sequence[Instance]) -> str:
    return " ".join(map(str, instances))
