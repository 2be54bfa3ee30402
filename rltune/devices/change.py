"""One GPU on its way to a state, from wherever it is: the only code that creates and destroys instances.

The same way leads forward, back after an error, and back after a crash: read what is there, destroy what is ours and not
wanted, create what is wanted and not there. Nothing here trusts what a call said it did.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from rltune.devices.driver import Driver, GpuInstance
from rltune.devices.reading import instance_of, read_state
from rltune.devices.state import GpuState, Instance
from rltune.devices.status import (
    FUNCTION_NOT_FOUND,
    INSUFFICIENT_RESOURCES,
    NOT_FOUND,
    RESET_REQUIRED,
    SUCCESS,
    DeviceError,
)

Key = tuple[str, int]
"""Profile and start: on one GPU no two instances share it, and it outlives numbers and handles."""
T = TypeVar("T")
SET_MODE = "nvmlDeviceSetMigMode"
SLICES = 8
"""Memory slices of the largest GPUs."""
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


def key_of(one: Instance) -> Key:
    return one.profile, one.start


def owned_by(before: GpuState, after: GpuState, blind: bool = False) -> frozenset[Key]:
    """What a change from one state to the other may touch on a GPU, and nothing else.

    ``blind``: the driver chose starts itself, so that what was created may be anywhere.
    """
    owned = {key_of(one) for one in set(before.instances) ^ set(after.instances)}
    if blind:
        there = {key_of(one) for one in before.instances}
        created = {one.profile for one in after.instances if one not in before.instances}
        owned |= {(profile, start) for profile in created for start in range(SLICES)} - there
    return frozenset(owned)


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
    """One GPU (by number) to be brought to ``target``, touching no instance but those ``owned``.

    ``thorough``: go on after a refusal with what else can be done, as a way back should; the errors are in ``errors``.
    ``on_blind``: called before instances are created whose starts the driver chooses.
    """

    driver: Driver
    gpu: int
    target: GpuState
    owned: frozenset[Key]
    patience: Patience
    thorough: bool = False
    on_blind: Callable[[], None] = lambda: None
    errors: list[DeviceError] = field(default_factory=list)

    def run(self) -> None:
        """Do it; the first refusal is raised, unless ``thorough``."""
        now = read_state(self.driver, self.gpu)
        mode, pending = bool(now.mig), bool(now.pending)
        wanted = bool(self.target.mig)
        waits = self.target.mig != self.target.pending
        if (wanted and not mode) or (wanted == mode and pending != wanted and not waits):
            with self._step():
                set_mode(self.driver, self.gpu, wanted, self.patience)
        if mode or wanted:
            self._instances()
        if mode and not wanted:
            with self._step():
                set_mode(self.driver, self.gpu, False, self.patience)

    @contextmanager
    def _step(self) -> Iterator[None]:
        try:
            yield
        except DeviceError as error:
            if not self.thorough:
                raise
            self.errors.append(error)

    def _instances(self) -> None:
        wanted = {key_of(one): one for one in self.target.instances if key_of(one) in self.owned}
        there: set[Key] = set()
        for held in self.driver.instances(self.gpu):
            one = instance_of(held)
            if key_of(one) not in self.owned:
                continue
            target = wanted.get(key_of(one))
            with self._step():
                if target is not None and Counter(one.compute) <= Counter(target.compute):
                    there.add(key_of(one))
                    self._complete(held.id, one, target)
                else:
                    self._destroy(held)
        # The largest first, as they have the fewest places.
        missing = sorted(
            (one for key, one in wanted.items() if key not in there), key=lambda i: (-sum(i.compute), i.start)
        )
        with self._step():
            self._create_all(missing)

    def _create_all(self, missing: Sequence[Instance]) -> None:
        for at, one in enumerate(missing):
            with self._step():
                number = self._create(one)
                if number is None:
                    self.on_blind()
                    self._create_blindly(missing[at:])
                    return
                self._complete(number, Instance(one.profile, one.start, ()), one)

    def _create(self, one: Instance) -> int | None:
        """Number of the new GPU instance; None where the driver is too old to be told a start."""

        def once(again: bool) -> int:
            # A call that failed may yet have done it.
            there = self._number(one) if again else None
            return self.driver.create_gpu_instance(self.gpu, one.profile, one.start) if there is None else there

        try:
            return self.patience.attempt(once)
        except DeviceError as error:
            if error.code != FUNCTION_NOT_FOUND:
                raise
            return self._number(one)

    def _number(self, one: Instance) -> int | None:
        same = (held for held in self.driver.instances(self.gpu) if (held.profile, held.start) == key_of(one))
        return next((held.id for held in same), None)

    def _complete(self, number: int, one: Instance, target: Instance) -> None:
        """Create the compute instances that are missing, the largest first."""
        have = Counter(one.compute)
        for slices in sorted((Counter(target.compute) - have).elements(), reverse=True):
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
        self._gone(lambda: self.driver.destroy_gpu_instance(self.gpu, held.id))

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
                f"GPU {self.gpu}: this driver chooses starts itself, and no order of creation gives "
                f"{' '.join(map(str, missing))}",
            )  # fmt: skip

    def _ordered(self, missing: list[Instance]) -> bool:
        if not missing:
            return True
        for profile in dict.fromkeys(one.profile for one in missing):
            found = self._land(profile, missing)
            if found is None:
                continue
            number, landed = found
            if self._ordered([one for one in missing if one is not landed]):
                self._complete(number, Instance(landed.profile, landed.start, ()), landed)
                return True
            self._remove(number)
        return False

    def _land(self, profile: str, missing: Sequence[Instance]) -> tuple[int, Instance] | None:
        """Create instances until one lands where one is missing; the others only kept it from landing there again."""
        stopgaps: list[int] = []
        found = None
        while found is None:
            number = self._chosen(profile)
            if number is None:
                break
            held = next(one for one in self.driver.instances(self.gpu) if one.id == number)
            landed = next((one for one in missing if key_of(one) == (held.profile, held.start)), None)
            if landed is None:
                stopgaps.append(number)
            else:
                found = number, landed
        for number in stopgaps:
            self._remove(number)
        return found

    def _remove(self, number: int) -> None:
        """Destroy a GPU instance without compute instances."""
        self._gone(lambda: self.driver.destroy_gpu_instance(self.gpu, number))

    def _chosen(self, profile: str) -> int | None:
        """Number of an instance where the driver put it; None where it found no room."""
        there = {held.id for held in self.driver.instances(self.gpu)}

        def once(again: bool) -> int:
            # A call that failed may yet have done it.
            new = [held.id for held in self.driver.instances(self.gpu) if held.id not in there] if again else []
            return new[0] if new else self.driver.create_gpu_instance(self.gpu, profile, None)

        try:
            return self.patience.attempt(once)
        except DeviceError as error:
            if error.code != INSUFFICIENT_RESOURCES:
                raise
            return None
