"""Which instances on a GPU are a transaction's own: those that it found and is to destroy, and those that it made.

Profile and start do not tell: after a crash somebody else may make an instance at the very place. So every step is written
down, and an instance is our own by the record: by its number, and its MIG devices' UUIDs. On today's hardware both come again
when an instance is made anew in the same place, so that what we destroyed is struck out as well.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from rltune.devices.driver import GpuInstance
from rltune.devices.state import GpuState, Instance

Key = tuple[str, int]
"""Profile and start: on one GPU no two instances share it, and it outlives numbers and handles."""
Uuids = Mapping[tuple[int, int], str]
"""(GPU instance, compute instance) -> UUID of the MIG device, as `rltune.devices.driver.Driver.mig_uuids` has them."""
FOUND, COMING, MADE, GOING = "found", "coming", "made", "going"
"""There when the transaction began, and to be destroyed; about to be created; created; without its compute instances any more,
and about to be destroyed."""
METER: Key = ("", -1)
"""Where the GPU's energy counter stood at the beginning (in ``number``, mJ). It begins anew when the driver takes the GPU up
again: a lower one later tells of a reset, after which all instances are others', whatever their numbers and UUIDs."""
ANYWHERE = -1
"""Start of an instance that a driver too old to be told one is about to create."""
SLICES = 8
"""Memory slices of the largest GPUs."""


class Part(NamedTuple):
    """What a transaction wrote about an instance: ``status``, the GPU instance's ``number``, UUIDs of its MIG ``devices``."""

    status: str
    number: int | None = None
    devices: tuple[str, ...] = ()


def key_of(one: Instance) -> Key:
    return one.profile, one.start


def devices_of(held: GpuInstance, uuids: Uuids) -> tuple[str, ...]:
    """UUIDs of an instance's MIG devices."""
    return tuple(uuids[held.id, ci.id] for ci in held.compute_instances if (held.id, ci.id) in uuids)


def places(before: GpuState, after: GpuState, blind: bool = False) -> frozenset[Key]:
    """Where a change from one state to the other may create and destroy on a GPU, and nowhere else.

    ``blind``: the driver chose starts itself, so that what was created may be anywhere.
    """
    owned = {key_of(one) for one in set(before.instances) ^ set(after.instances)}
    if blind:
        there = {key_of(one) for one in before.instances}
        created = {one.profile for one in after.instances if one not in before.instances}
        owned |= {(profile, start) for profile in created for start in range(SLICES)} - there
    return frozenset(owned)


@dataclass
class Own:
    """The records of one transaction on one GPU: ``parts`` by place, ``write`` keeps them (None: struck out).

    ``recorded`` False: a transaction of an earlier version, which wrote none; then what was there ``before`` is its own, and
    so is what has no compute instance yet.
    """

    places: frozenset[Key]
    before: frozenset[Key]
    parts: dict[Key, Part] = field(default_factory=dict)
    write: Callable[[Mapping[Key, Part | None]], None] = lambda parts: None
    recorded: bool = True

    def note(self, key: Key, status: str, number: int | None = None, devices: tuple[str, ...] = ()) -> None:
        """Write down a step, before its call (COMING, GOING) or after it."""
        self.note_all({key: Part(status, number, devices)})

    def note_all(self, parts: Mapping[Key, Part]) -> None:
        """Several at once, in one commit."""
        new = {key: part for key, part in parts.items() if self.parts.get(key) != part}
        if new:
            self.write(new)
            self.parts |= new

    def strike(self, key: Key) -> None:
        """It is gone: what is there from now on is another's."""
        if key in self.parts:
            self.write({key: None})
            del self.parts[key]

    def of(self, held: Collection[GpuInstance], uuids: Uuids) -> dict[int, GpuInstance]:
        """Our own of these instances, by number."""
        mine = {one.id: one for one in held if self._mine(one, uuids)}
        # One without a record whose start the driver was to choose: ours if it can be no other.
        blind = [
            one
            for one in held
            if (one.profile, ANYWHERE) in self.parts
            and (one.profile, one.start) in self.places - self.parts.keys() - self.before
            and not one.compute_instances
        ]
        return mine | ({blind[0].id: blind[0]} if len(blind) == 1 else {})

    def _mine(self, one: GpuInstance, uuids: Uuids) -> bool:
        key = (one.profile, one.start)
        if key not in self.places:
            return False
        if not self.recorded:
            return key in self.before or not one.compute_instances
        part = self.parts.get(key)
        if part is None:
            return False
        if part.status in (COMING, GOING):
            # Its compute instances come after the record that it is made, and go before the one that it is going.
            return not one.compute_instances
        now = devices_of(one, uuids)
        return part.number == one.id and not (part.devices and now and not set(part.devices) & set(now))
