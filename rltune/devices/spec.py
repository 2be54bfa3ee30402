"""What GPUs should be cut into: our own versioned file, and mig-parted's.

Ours, YAML or JSON; GPUs that no entry names are left alone::

    version: 1
    gpus:
      - gpu: 0                        # a number, a list of numbers, a UUID, or all
        mig: true                     # optional; without it the mode stays
        instances: [3g.40gb@4, 2g.20gb, 1g.10gb, 1g.10gb]      # with or without a start

An instance without a start goes where the fewest running neighbours have to make way. Several compute instances:
``3g.40gb@0[1+2]``, or mig-parted's ``1c.3g.40gb``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, ConfigDict, FailFast, Field, TypeAdapter, model_validator

from rltune.devices.driver import Identity
from rltune.devices.state import INSIDE, PROFILE, GpuState, Instance, States, compute_slices
from rltune.nouns.checked import Checked, Says, checked, shown
from rltune.nouns.documents import Document, parse_yaml, read_yaml
from rltune.nouns.errors import InputError

VERSION = 1
PARTED_VERSION = "v1"
MOST_DEVICES = 64
"""Of one profile on a GPU, far beyond what any has: a count above is a slip."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """An instance that should be there; ``start`` None: anywhere; ``compute`` slices of its compute instances, ascending."""

    profile: str
    start: int | None
    compute: tuple[int, ...]

    def __str__(self) -> str:
        at = "" if self.start is None else f"@{self.start}"
        whole = self.compute == (compute_slices(self.profile),)
        return self.profile + at + ("" if whole else f"[{'+'.join(map(str, self.compute))}]")


@dataclass(frozen=True, slots=True)
class Entry:
    """What some GPUs should be.

    ``gpus``: numbers, UUIDs, or ``("all",)``; ``models`` PCI device ids to which it is limited, empty: none; ``mig`` the mode,
    None: as it is; ``where`` it stands in its file.
    """

    gpus: tuple[int | str, ...]
    mig: bool | None
    instances: tuple[Wanted, ...]
    where: str
    models: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Spec:
    """Entries in the order of the file; ``path`` for messages."""

    path: str
    entries: tuple[Entry, ...]

    def by_gpu(self, gpus: Sequence[Identity]) -> dict[str, Entry]:
        """UUID -> the entry of each GPU that some entry names; InputError for unknown GPUs, or two entries for one."""
        found: dict[str, Entry] = {}
        for entry in self.entries:
            for gpu in _named(entry, gpus):
                if not gpu.uuid:
                    raise InputError(f"{entry.where}: GPU {gpu.index} cannot be reached; `show` says why: leave it out")
                if gpu.uuid in found:
                    raise InputError(
                        f"{entry.where}: GPU {gpu.index} stands in {found[gpu.uuid].where} too; name it once"
                    )
                found[gpu.uuid] = entry
        return found


def _named(entry: Entry, gpus: Sequence[Identity]) -> list[Identity]:
    chosen: list[Identity] = []
    for name in entry.gpus:
        same = [gpu for gpu in gpus if name in ("all", gpu.index, gpu.uuid)]
        if not same and name != "all":
            known = ", ".join(f"{gpu.index} ({gpu.uuid})" for gpu in gpus) or "none"
            raise InputError(f"{entry.where}: there is no GPU {name}; this machine has {known}")
        chosen += [gpu for gpu in same if gpu not in chosen]
    if not entry.models:
        return chosen
    unknown = [gpu.index for gpu in chosen if gpu.pci_device_id is None]
    if unknown:
        raise InputError(f"{entry.where}: device-filter: the driver does not tell the model of GPU {unknown[0]}")
    return [gpu for gpu in chosen if gpu.pci_device_id in entry.models]


SPELLED = re.compile(rf"(?:(\d{{1,4}})c\.)?({PROFILE})(?:@(\d{{1,4}}))?{INSIDE}", re.ASCII | re.IGNORECASE)


def _wanted(text: Any) -> Wanted:
    """``3g.40gb@4``, ``3g.40gb``, ``3g.40gb@0[1+2]``; InputError otherwise."""
    found = SPELLED.fullmatch(text.strip()) if isinstance(text, str) else None
    if not found or (found[1] and found[4] is not None):
        raise InputError(f"{shown(text)} is no instance; write profile or profile@start, such as 3g.40gb@4")
    part, profile, start, inside = found.groups()
    profile = profile.lower()
    total = compute_slices(profile)
    given = inside if inside is not None else part
    compute = (total,) if given is None else tuple(sorted(int(n) for n in given.split("+") if n))
    if sum(compute) > total or 0 in compute:
        raise InputError(f"{text!r} asks for {sum(compute)} compute slices of {total}")
    return Wanted(profile, None if start is None else int(start), compute)


def _devices(value: Any) -> list[Wanted]:
    return [one for name, count in COUNTS.validate_python(value or {}).items() for one in _packed(name, count)]


def _packed(name: str, count: int) -> list[Wanted]:
    """``count`` devices of a name; compute instances (``1c.3g.20gb``) share as few GPU instances as hold them."""
    one = _wanted(name)
    if one.start is not None:
        raise InputError(f"{name!r}: mig-parted's format knows no starts; write the profile only")
    if "[" in name:
        raise InputError(f"{name!r}: mig-parted's format knows no brackets; write 1c.3g.40gb for one slice of it")
    if one.compute == (compute_slices(one.profile),):
        return [one] * count
    together = compute_slices(one.profile) // one.compute[0]
    full, rest = divmod(count, together)
    sizes = [together] * full + ([rest] if rest else [])
    return [Wanted(one.profile, None, one.compute * size) for size in sizes]


def _pci(value: Any) -> list[int]:
    try:
        return [one if type(one) is int else int(one, 16) for one in (value if isinstance(value, list) else [value])]
    except (ValueError, TypeError):
        raise InputError(f"{shown(value)} is no PCI device id such as 0x20B010DE") from None


Flag = Annotated[bool, Says("write true or false")]
Name = Annotated[int, Field(ge=0)] | Annotated[str, Field(pattern=r"\S")]
Gpus = Annotated[
    Name | Annotated[list[Name], Field(min_length=1)], Says("write a number, a list of numbers, a UUID, or all")
]
Count = Annotated[int, Field(ge=0, le=MOST_DEVICES), Says(f"a count from 0 to {MOST_DEVICES} is needed")]
COUNTS = TypeAdapter(dict[str, Count], config=ConfigDict(strict=True))


class GpuEntry(Checked):
    """What some GPUs should be."""

    accepted = "write {gpu: 0, instances: [3g.40gb@0]}"
    gpu: Gpus
    """Number as the driver counts, a list of numbers, a UUID, or all."""
    mig: Annotated[bool | None, Says("write true or false, or leave it out")] = None
    """The MIG mode; left out: it stays."""
    instances: Annotated[
        list[Annotated[Wanted, BeforeValidator(_wanted, json_schema_input_type=str)]] | None,
        Says("write a list such as [3g.40gb@4, 1g.10gb]"),
    ] = None
    """``profile`` or ``profile@start`` (a memory slice); ``3g.40gb@0[1+2]`` with compute instances of 1 and 2 slices."""

    @model_validator(mode="after")
    def _agree(self) -> GpuEntry:
        if self.instances is None and self.mig is not False:
            raise InputError("has no instances; write instances: [] for an empty GPU")
        if self.mig is False and self.instances:
            raise InputError("mig: false leaves no room for instances; remove one of the two")
        return self


class SpecFile(Checked):
    """Our own format; GPUs that no entry names are left alone."""

    accepted = f"a spec begins with version: {VERSION} and has a list gpus"
    version: Literal[1]
    gpus: Annotated[
        list[GpuEntry], FailFast(), Field(min_length=1), Says(f"a list of entries is needed; {GpuEntry.accepted}")
    ]


class PartedEntry(Checked):
    """What some GPUs should be, as mig-parted has it."""

    accepted = "write devices, mig-enabled and mig-devices"
    devices: Gpus
    """Numbers, or all."""
    mig_enabled: Flag = Field(alias="mig-enabled")
    mig_devices: Annotated[list[Wanted], BeforeValidator(_devices, json_schema_input_type=dict[str, Count] | None)] = (
        Field([], alias="mig-devices")
    )
    """How many instances of each profile, such as {"1g.10gb": 7}."""
    device_filter: Annotated[list[int], BeforeValidator(_pci, json_schema_input_type=int | str | list[int | str])] = (
        Field([], alias="device-filter")
    )
    """PCI device ids of the models to which it is limited."""

    @model_validator(mode="after")
    def _agree(self) -> PartedEntry:
        if self.mig_devices and not self.mig_enabled:
            raise InputError("mig-enabled: false leaves no room for mig-devices; remove one of the two")
        return self


class PartedFile(Checked):
    """mig-parted's format: configurations by name, of which one is chosen; only that one is read."""

    version: Literal["v1"]
    configs: Annotated[dict[str | int, Any], Field(min_length=1), Says("a mapping of configurations is needed")] = (
        Field(alias="mig-configs")
    )


def read_spec(path: str | Path, config: str | None = None) -> Spec:
    """A spec of either format; ``config`` names one of mig-parted's configurations. InputError names place and remedy."""
    document = read_yaml(path, "a spec in YAML or JSON")
    document = _out_of_configmap(document)
    if isinstance(document.value, dict) and "mig-configs" in document.value:
        return _parted(document, config)
    if config is not None:
        raise InputError(f"{path}: --config {config} is for mig-parted's format; this file has one state only")
    return _spec(document)


def _out_of_configmap(document: Document) -> Document:
    """The file that a ConfigMap of the GPU operator holds; any other document as it is."""
    value = document.value
    if not isinstance(value, dict) or value.get("kind") != "ConfigMap":
        return document
    files = value.get("data")
    if not isinstance(files, dict) or len(files) != 1 or not isinstance(next(iter(files.values())), str):
        held = ", ".join(map(str, files)) if isinstance(files, dict) and files else "none"
        raise InputError(
            f"{document.place}: a ConfigMap with the files {held}; give the one meant, e.g. what is in data.config.yaml"
        )
    name, text = next(iter(files.items()))
    # Lines within it count from its own first.
    return parse_yaml(f"{document.place} (data.{name})", text.encode())


def spec_of(value: Mapping[str, Any], path: str = "spec") -> Spec:
    """A spec from plain values; InputError names place and remedy."""
    return _spec(Document(path, value))


def _spec(document: Document) -> Spec:
    entries = [
        Entry(_several(one.gpu), one.mig, tuple(one.instances or ()), f"{document.place}: gpus[{at}]")
        for at, one in enumerate(checked(SpecFile, document).gpus)
    ]
    return Spec(document.place, tuple(entries))


def _several(gpus: int | str | list[int | str]) -> tuple[int | str, ...]:
    return tuple(gpus) if isinstance(gpus, list) else (gpus,)


def _parted(document: Document, config: str | None) -> Spec:
    path, given = document.place, checked(PartedFile, document).configs
    # YAML takes a name such as 1 for a number; on the command line it is text.
    configs = {str(name): listed for name, listed in given.items()}
    if len(configs) < len(given):
        raise InputError(f"{path}: mig-configs: two configurations have one name ({', '.join(map(str, given))})")
    if config is None and len(configs) == 1:
        config = next(iter(configs))
    if config is None or config not in configs:
        asked = "name one with --config" if config is None else f"there is no configuration {config!r}"
        raise InputError(f"{path}: {asked}; it has {', '.join(configs)}")
    chosen = Document(path, {config: configs[config]}, document.lines)
    entries = [
        Entry(
            _several(one.devices),
            one.mig_enabled,
            tuple(one.mig_devices),
            f"{path}: {config}[{at}]",
            tuple(one.device_filter),
        )
        for at, one in enumerate(checked(dict[str, list[PartedEntry]], chosen)[config])
    ]
    return Spec(path, tuple(entries))


def export_spec(states: States, gpus: Sequence[Identity]) -> str:
    """Our YAML for the states that GPUs have: `read_spec` reads it back to the same placements.

    Left out, here and in `export_parted`, are GPUs that cannot be reached or have no MIG, and GPU instances without compute
    instances, which no spec can ask for: `export` tells all three.
    """
    entries = [
        {"gpu": gpu.index, "mig": one.mig, "instances": [str(i) for i in one.instances if i.compute]}
        for gpu, one in _with_mig(states, gpus)
    ]
    for entry in entries:
        if not entry["mig"]:
            del entry["instances"]
    lines = [f"version: {VERSION}", "gpus:"] + [f"  - {json.dumps(entry)}" for entry in entries]
    return "\n".join(lines) + "\n"


def export_parted(states: States, gpus: Sequence[Identity], name: str = "current") -> str:
    """mig-parted's YAML for the same; it knows neither starts nor which compute instances share a GPU instance: both are lost."""
    groups: dict[tuple[bool, tuple[tuple[str, int], ...]], list[int]] = {}
    for gpu, one in _with_mig(states, gpus):
        groups.setdefault((bool(one.mig), tuple(_counted(one.instances).items())), []).append(gpu.index)
    listed = [
        {"devices": numbers, "mig-enabled": mig, "mig-devices": dict(counted)}
        for (mig, counted), numbers in groups.items()
    ]
    return yaml.safe_dump({"version": PARTED_VERSION, "mig-configs": {name: listed}}, sort_keys=False)


def _with_mig(states: States, gpus: Iterable[Identity]) -> list[tuple[Identity, GpuState]]:
    """GPUs that can be reached and have MIG, with their states."""
    return [(gpu, states[gpu.uuid]) for gpu in gpus if gpu.uuid and states[gpu.uuid].mig is not None]


def _counted(instances: Iterable[Instance]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for one in instances:
        for slices in one.compute:
            name = one.profile if slices == compute_slices(one.profile) else f"{slices}c.{one.profile}"
            counts[name] = counts.get(name, 0) + 1
    return counts
