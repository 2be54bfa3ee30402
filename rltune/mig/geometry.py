"""Geometry of a MIG GPU: what may be created where, which partitions exist, what still fits, what may move.

The unit is the memory slice. A *placement* is a profile and the memory slice it begins at; a *state* is a set of
placements that do not overlap; a state is *maximal* when nothing more can be created in it. Tables are those of
`rltune.nouns.mig_profiles`; on hardware the driver's own listing overrides them (`from_driver`), and `differences` says
where the two disagree.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

from rltune.nouns.checked import shown
from rltune.nouns.errors import InputError
from rltune.nouns.mig_profiles import (
    COMPUTE,
    CREATE_S,
    DESTROY_S,
    FOUR_SLICE_TYPES,
    FOUR_SLICES,
    KINDS,
    NAMES,
    SEVEN_SLICES,
    TYPES,
)

PLAIN = ("7g", "4g", "3g", "2g", "1g")
"""Kinds without a media engine and without double memory, largest first."""
MEDIA = {"A30": ("1g", "2g"), "RTX-PRO-6000": ()}
"""Kinds that also come with the media engines; every other type has ``1g`` so (NVML profile 0x7)."""
MOST = {"1g": 7, "1g double": 4, "2g": 3, "3g": 2, "4g": 1, "7g": 1}
MOST_OF_FOUR = {"1g": 4, "2g": 2, "4g": 1}
"""Instances of a kind that a GPU can have, as the driver lists them."""


@dataclass(frozen=True, slots=True)
class Profile:
    """A MIG profile of one GPU type.

    ``name`` the driver's (``3g.40gb``); ``kind`` the same without memory (``3g``, ``1g double``, ``1g+me``);
    ``compute`` slices; ``size`` in memory slices; legal ``starts``; ``most`` instances a GPU can have; ``memory_gb``
    (GB) as named; ``media`` whether it holds the media engines, of which one instance may;
    ``create_s``, ``destroy_s`` seconds.
    """

    name: str
    kind: str
    compute: int
    size: int
    starts: tuple[int, ...]
    most: int
    memory_gb: float
    media: bool = False
    create_s: float = 0.0
    destroy_s: float = 0.0


class Placement(NamedTuple):
    """``profile`` an index into ``Geometry.profiles``; ``start`` a memory slice."""

    profile: int
    start: int


State = tuple[Placement, ...]
"""Placements by start, none overlapping another."""


@dataclass(frozen=True)
class Geometry:
    """What a GPU type can be cut into.

    ``model`` name of the type (`rltune.nouns.mig_profiles.TYPES`); ``slices`` memory slices; ``compute`` slices;
    ``profiles``, largest first.
    """

    model: str
    slices: int
    compute: int
    profiles: tuple[Profile, ...]
    _by_name: Mapping[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        names: dict[str, int] = {}
        for index, profile in enumerate(self.profiles):
            names.setdefault(profile.name.lower(), index)
            names.setdefault(profile.kind.lower(), index)
        object.__setattr__(self, "_by_name", names)

    def profile(self, name: str) -> int:
        """Index of a profile by the driver's name or by kind; InputError lists what this type has."""
        index = self._by_name.get(" ".join(name.lower().split()))
        if index is None:
            known = ", ".join(f"{p.kind} ({p.name})" for p in self.profiles)
            raise InputError(f"profile {shown(name)} does not exist on {self.model}; it has {known}")
        return index

    def mask(self, placement: Placement) -> int:
        """Memory slices of a placement, a bit each."""
        return ((1 << self.profiles[placement.profile].size) - 1) << placement.start

    def occupied(self, state: Iterable[Placement]) -> int:
        """Memory slices that a state takes, a bit each."""
        taken = 0
        for placement in state:
            taken |= self.mask(placement)
        return taken

    def placements(self, profiles: Iterable[int] | None = None) -> tuple[Placement, ...]:
        """Every legal placement of the profiles (default: all), in the order of ``profiles`` and of starts."""
        chosen = range(len(self.profiles)) if profiles is None else profiles
        return tuple(Placement(p, s) for p in chosen for s in self.profiles[p].starts)

    def check(self, state: Iterable[Placement]) -> State:
        """The state in order of starts; InputError for an illegal start, an overlap, or too many of a profile."""
        ordered = tuple(sorted(state, key=lambda placement: placement.start))
        taken = 0
        for at, placement in enumerate(ordered):
            profile = self.profiles[placement.profile]
            if placement.start not in profile.starts:
                raise InputError(
                    f"{self.model}: {profile.name} cannot begin at memory slice {placement.start}; "
                    f"legal are {', '.join(map(str, profile.starts))}"
                )
            if taken & self.mask(placement):
                raise InputError(f"{self.model}: {profile.name} at {placement.start} overlaps another instance")
            if not self._room_beside(ordered[:at], placement):
                raise InputError(f"{self.model}: the GPU has no further {profile.name}")
            taken |= self.mask(placement)
        return ordered

    def _room_beside(self, state: Iterable[Placement], placement: Placement) -> bool:
        """Whether limits other than memory slices leave room: instances of the profile, the one set of media engines."""
        profile = self.profiles[placement.profile]
        alike = sum(p.profile == placement.profile for p in state)
        return alike < profile.most and not (profile.media and any(self.profiles[p.profile].media for p in state))

    def can_create(self, state: State, profiles: Iterable[int] | None = None) -> tuple[Placement, ...]:
        """Placements that can be created in a state without touching what is there."""
        taken = self.occupied(state)
        return tuple(p for p in self.placements(profiles) if not taken & self.mask(p) and self._room_beside(state, p))

    def states(self, kinds: Iterable[str] = PLAIN) -> Iterator[State]:
        """Every state of these kinds, the empty one among them, depth first: from slice 0 upwards, largest first."""
        profiles = [i for i, p in enumerate(self.profiles) if p.kind in set(kinds)]
        yield from self._from(0, (), profiles)

    def _from(self, at: int, begun: State, profiles: list[int]) -> Iterator[State]:
        if at == self.slices:
            yield begun
            return
        for index in profiles:
            placement = Placement(index, at)
            if at in self.profiles[index].starts and self._room_beside(begun, placement):
                yield from self._from(at + self.profiles[index].size, (*begun, placement), profiles)
        yield from self._from(at + 1, begun, profiles)

    def is_maximal(self, state: State, kinds: Iterable[str] = PLAIN) -> bool:
        """Whether nothing of these kinds can be created any more."""
        return not self.can_create(state, [i for i, p in enumerate(self.profiles) if p.kind in set(kinds)])

    def maximal(self, kinds: Iterable[str] = PLAIN) -> tuple[State, ...]:
        """Every maximal state of these kinds: the partitions that fixed-partition schedulers choose from."""
        return _maximal(self, tuple(kinds))

    def multiset(self, state: State) -> tuple[str, ...]:
        """Kinds of a state, largest first: what two states that differ in places only have in common."""
        return tuple(self.profiles[i].kind for i in sorted(p.profile for p in state))

    def moves(self, state: State) -> dict[Placement, tuple[Placement, ...]]:
        """Where each instance may move while it and all others run: free starts of its own profile.

        A move creates the new instance before the old one goes, so that its tenant is never without.
        """
        free = self.can_create(state)
        return {old: tuple(new for new in free if new.profile == old.profile) for old in state}

    def describe(self, state: State) -> str:
        """``4g@0 2g@4 1g@6``; ``-`` for the empty state."""
        return " ".join(f"{self.profiles[p.profile].kind}@{p.start}" for p in state) or "-"

    def parse(self, text: str) -> State:
        """The state that `describe` wrote; InputError otherwise."""
        placements = []
        for word in text.replace(" double@", "_double@").split():
            kind, _, start = word.replace("_", " ").partition("@")
            if word == "-":
                continue
            if not start.isdecimal():
                raise InputError(f"{word!r} is no placement; write kind@start, such as 3g@4")
            placements.append(Placement(self.profile(kind), int(start)))
        return self.check(placements)


@cache
def _maximal(table: Geometry, kinds: tuple[str, ...]) -> tuple[State, ...]:
    return tuple(state for state in table.states(kinds) if table.is_maximal(state, kinds))


@cache
def geometry(model: str) -> Geometry:
    """The table of a GPU type, by name in any spelling (``a100-80gb``); InputError lists the known ones."""
    wanted = "".join(c for c in model.lower() if c.isalnum())
    for name in TYPES:
        if "".join(c for c in name.lower() if c.isalnum()) == wanted:
            return Geometry(name, *((4, 4) if name in FOUR_SLICE_TYPES else (8, 7)), _profiles(name))
    raise InputError(f"GPU type {model!r} has no MIG table here; known are {', '.join(TYPES)}")


def _profiles(model: str) -> tuple[Profile, ...]:
    four = model in FOUR_SLICE_TYPES
    table, most = (FOUR_SLICES, MOST_OF_FOUR) if four else (SEVEN_SLICES, MOST)
    found = []
    for kind in ("7g", "4g", "3g", "2g", "1g double", "1g"):
        if kind not in table:
            continue
        size, starts = table[kind]
        name = NAMES[model][kind]
        costs = {
            "create_s": float(CREATE_S[KINDS.index(kind), TYPES.index(model)]),
            "destroy_s": float(DESTROY_S[KINDS.index(kind), TYPES.index(model)]),
        }
        memory = float(name.split(".")[1].removesuffix("gb"))
        found.append(Profile(name, kind, COMPUTE[kind], size, starts, most[kind], memory, False, **costs))
        if kind in MEDIA.get(model, ("1g",)):
            found.append(Profile(f"{name}+me", f"{kind}+me", COMPUTE[kind], size, starts, 1, memory, True, **costs))
    return tuple(found)


class Listed(NamedTuple):
    """One profile as a driver lists it: ``name``, legal ``starts`` and ``size`` in memory slices, ``most`` instances."""

    name: str
    starts: tuple[int, ...]
    size: int
    most: int


def from_driver(model: str, listed: Iterable[Listed]) -> Geometry:
    """The geometry that a driver reports, which wins over the table of ``model``.

    Costs come from the table's profile of the same name, else of the same compute slices. Profiles that the table
    has and the driver does not are absent; unknown ones are taken in. InputError for a name that is no profile's or
    a start outside the GPU.
    """
    table, listed = geometry(model), tuple(listed)
    known = {profile.name: profile for profile in table.profiles}
    slices = max(table.slices, max((max(row.starts, default=0) + row.size for row in listed), default=0))
    profiles = [_driver_profile(table, known, row) for row in listed]
    # The largest first, and plain ones before those with extras, as in the tables.
    profiles.sort(key=lambda p: (-p.compute, -p.size, p.media))
    return Geometry(table.model, slices, max([table.compute, *(p.compute for p in profiles)]), tuple(profiles))


def _driver_profile(table: Geometry, known: Mapping[str, Profile], row: Listed) -> Profile:
    compute_text, _, rest = row.name.partition("g.")
    memory_text = rest.partition("gb")[0]
    if not (compute_text.isdecimal() and memory_text.isdecimal()):
        raise InputError(f"{table.model}: the driver's profile {row.name!r} is not named like 3g.40gb; report it")
    if row.size < 1 or row.most < 0 or min(row.starts, default=0) < 0:
        raise InputError(f"{table.model}: the driver's placements of {row.name} make no sense: {row}; report it")
    compute, extras = int(compute_text), rest.partition("gb")[2]
    same = known.get(row.name)
    like = same or next((p for p in table.profiles if p.compute == compute), table.profiles[0])
    plain_kind = like.kind.removesuffix("+me") if like.size == row.size else f"{compute}g x{row.size}"
    return Profile(
        row.name,
        same.kind if same else plain_kind + extras,
        compute,
        row.size,
        tuple(sorted(row.starts)),
        row.most,
        float(memory_text),
        "+me" in extras,
        like.create_s,
        like.destroy_s,
    )


def differences(driver: Geometry, table: Geometry | None = None) -> list[str]:
    """Where a driver's geometry differs from the table of its type, one line each; empty when they agree."""
    table = geometry(driver.model) if table is None else table
    ours = {p.name: p for p in table.profiles}
    theirs = {p.name: p for p in driver.profiles}
    lines = [f"{driver.model}: the driver has no {name}, the table has" for name in ours if name not in theirs]
    for name, profile in theirs.items():
        if name not in ours:
            lines.append(f"{driver.model}: the driver has {name}, the table has not")
            continue
        for what in ("size", "starts", "most"):
            said, listed = getattr(profile, what), getattr(ours[name], what)
            if said != listed:
                lines.append(f"{driver.model}: {name} has {what} {said} by the driver, {listed} by the table")
    return lines
