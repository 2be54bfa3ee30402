"""What MIG instances a GPU has or should have: nouns, and their one-line spelling."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator

from rltune.nouns.checked import Checked, checked, shown
from rltune.nouns.documents import Document
from rltune.nouns.errors import InputError


class Instance(NamedTuple):
    """A GPU instance by where it is: driver's ``profile`` name, ``start`` memory slice, slices of each compute instance.

    ``compute`` is ascending; one entry with all slices is the usual case, ``()`` a GPU instance that no job can use.
    """

    profile: str
    start: int
    compute: tuple[int, ...]

    @property
    def whole(self) -> bool:
        """Whether it has one compute instance that takes all of it."""
        return self.compute == (compute_slices(self.profile),)

    def __str__(self) -> str:
        """``3g.40gb@4``; with several or partial compute instances ``3g.40gb@4[1+2]``, without any ``3g.40gb@4[]``."""
        inside = "" if self.whole else f"[{'+'.join(map(str, self.compute))}]"
        return f"{self.profile}@{self.start}{inside}"


def whole(profile: str, start: int) -> Instance:
    """The instance with one compute instance that takes all of it."""
    return Instance(profile, start, (compute_slices(profile),))


def compute_slices(profile: str) -> int:
    """Compute slices by the driver's name: ``3g.40gb`` has 3."""
    return int(profile.partition("g")[0])


def compute_sizes(total: int) -> tuple[int, ...]:
    """Slices that a compute instance can have in a GPU instance of so many, as ``nvidia-smi mig -lcip`` lists them."""
    return tuple(n for n in (1, 2, 3, 4, 7) if n <= total and (n, total) != (3, 4))


PROFILE = r"\d{1,4}g\.\d{1,4}gb[+\w.-]*"
INSIDE = r"(?:\[((?:\d{1,4}(?:\+\d{1,4})*)?)\])?"
"""Slices of compute instances in brackets. Numbers are bounded: Python refuses to read those of thousands of digits."""
SPELLED = re.compile(rf"({PROFILE})@(\d{{1,4}}){INSIDE}", re.ASCII)


def parse_instance(text: str) -> Instance:
    """What `Instance.__str__` wrote; InputError otherwise."""
    found = SPELLED.fullmatch(text.strip()) if isinstance(text, str) else None
    if not found:
        raise InputError(f"{shown(text)} is no instance; write profile@start, such as 3g.40gb@4")
    profile, start, inside = found.groups()
    if inside is None:
        return whole(profile, int(start))
    return Instance(profile, int(start), tuple(sorted(int(n) for n in inside.split("+") if n)))


@dataclass(frozen=True, slots=True)
class GpuState:
    """MIG mode (None: the GPU has no MIG), the mode after the next reset, and instances by start."""

    mig: bool | None
    pending: bool | None
    instances: tuple[Instance, ...]

    def __str__(self) -> str:
        if not self.mig:
            text = "no MIG" if self.mig is None else "MIG off"
        else:
            text = "MIG on: " + (" ".join(map(str, self.instances)) or "no instances")
        return text if self.mig == self.pending else f"{text} (after the next reset: {'on' if self.pending else 'off'})"

    def as_json(self) -> dict[str, object]:
        return {"mig": self.mig, "pending": self.pending, "instances": [str(i) for i in self.instances]}

    @staticmethod
    def from_json(value: Any) -> GpuState:
        """What `as_json` made; InputError otherwise."""
        return checked(StateEntry, Document("state of a GPU", value)).state


def state(mig: bool | None, instances: Iterable[Instance] = (), pending: bool | None = None) -> GpuState:
    """The state with its instances in order; ``pending`` None: as ``mig``."""
    ordered = tuple(sorted(instances, key=lambda i: (i.start, i.profile)))
    return GpuState(mig, mig if pending is None else pending, ordered)


class StateEntry(Checked):
    """The state of a GPU in a file or journal, as `GpuState.as_json` writes it."""

    mig: bool | None
    pending: bool | None
    instances: list[Annotated[Instance, BeforeValidator(parse_instance, json_schema_input_type=str)]]

    @property
    def state(self) -> GpuState:
        return state(self.mig, self.instances, self.pending)


States = dict[str, GpuState]
"""UUID of a GPU -> its state."""
