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
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rltune.devices.driver import Identity
from rltune.devices.state import INSIDE, PROFILE, GpuState, Instance, States, compute_slices
from rltune.errors import InputError

VERSION = 1
PARTED_VERSION = "v1"
MOST_DEVICES = 64
"""Of one profile on a GPU, far beyond what any has: a count above is a slip."""
LONGEST = 1000
"""Characters of one value in a file; no name or number of a spec comes near."""


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


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML and JSON in which no key stands twice in one mapping: the last would silently win."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._checked: set[yaml.MappingNode] = set()

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Check before merge keys (``<<``) bring in what this mapping overrides; a mapping merged elsewhere comes twice."""
        if node not in self._checked:
            self._checked.add(node)
            self._check(node)
        super().flatten_mapping(node)

    def _check(self, node: yaml.MappingNode) -> None:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode) and key_node.tag != "tag:yaml.org,2002:merge":
                key = self.construct_object(key_node)
                if isinstance(key, Hashable):
                    if key in seen:
                        raise _fault(f"the key {key!r} stands twice in one mapping: keep one", key_node)
                    seen.add(key)

    def construct_scalar(self, node: yaml.ScalarNode) -> Any:
        """Numbers of thousands of digits cannot even be named in a message."""
        if isinstance(node, yaml.ScalarNode) and len(node.value) > LONGEST:
            raise _fault(f"a value of {len(node.value)} characters; at most {LONGEST} can be meant", node)
        return super().construct_scalar(node)


def _fault(problem: str, node: yaml.Node) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def read_spec(path: str | Path, config: str | None = None) -> Spec:
    """A spec of either format; ``config`` names one of mig-parted's configurations. InputError names place and remedy."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise InputError(f"{path}: cannot be read ({why}); give a spec in YAML or JSON") from None
    try:
        value = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError, ValueError, KeyError, OverflowError) as error:
        # Not only YAMLError: a date or a tagged value that is none (2024-13-45, !!int abc) raises what Python raises.
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        why = getattr(error, "problem", None) or str(error)
        raise InputError(f"{path}{line}: cannot be read as YAML or JSON ({' '.join(why.split())[:120]})") from None
    if not isinstance(value, Mapping):
        raise InputError(f"{path}: a spec begins with version: {VERSION} and has a list gpus")
    if "mig-configs" in value:
        return _parted(str(path), value, config)
    if config is not None:
        raise InputError(f"{path}: --config {config} is for mig-parted's format; this file has one state only")
    return spec_of(value, str(path))


def spec_of(value: Mapping[str, Any], path: str = "spec") -> Spec:
    """A spec from plain values; InputError names place and remedy."""
    version = value.get("version")
    if version != VERSION or isinstance(version, bool):
        raise InputError(f"{path}: version {version!r} is unknown; this release reads version: {VERSION}")
    _only(path, value, ("version", "gpus"))
    listed = value.get("gpus")
    if not isinstance(listed, list) or not listed:
        raise InputError(f"{path}: gpus must be a list of entries such as {{gpu: 0, instances: [3g.40gb@0]}}")
    return Spec(path, tuple(_entry(f"{path}: gpus[{at}]", one) for at, one in enumerate(listed)))


def _only(where: str, value: Mapping[str, Any], known: Sequence[str]) -> None:
    unknown = [str(key) for key in value if key not in known]
    if unknown:
        raise InputError(f"{where}: {unknown[0]!r} is unknown; known are {', '.join(known)}")


def _entry(where: str, value: Any) -> Entry:
    if not isinstance(value, Mapping):
        raise InputError(f"{where}: {value!r} is no entry; write {{gpu: 0, instances: [3g.40gb@0]}}")
    _only(where, value, ("gpu", "mig", "instances"))
    mig = value.get("mig")
    if not (mig is None or isinstance(mig, bool)):
        raise InputError(f"{where}: mig: {mig!r}; write true or false, or leave it out")
    listed = value.get("instances", [])
    if not isinstance(listed, list):
        raise InputError(f"{where}: instances: {listed!r}; write a list such as [3g.40gb@4, 1g.10gb]")
    if "instances" not in value and mig is not False:
        raise InputError(f"{where}: has no instances; write instances: [] for an empty GPU")
    if mig is False and listed:
        raise InputError(f"{where}: mig: false leaves no room for instances; remove one of the two")
    return Entry(_gpus(where, value.get("gpu")), mig, tuple(_wanted(where, one) for one in listed), where)


def _gpus(where: str, value: Any) -> tuple[int | str, ...]:
    names = value if isinstance(value, list) else [value]
    for name in names:
        number = isinstance(name, int) and not isinstance(name, bool) and name >= 0
        if not number and not (isinstance(name, str) and name.strip()):
            raise InputError(f"{where}: gpu: {name!r}; write a number, a list of numbers, a UUID, or all")
    if not names:
        raise InputError(f"{where}: gpu: []; name at least one, or all")
    return tuple(names)


SPELLED = re.compile(rf"(?:(\d{{1,4}})c\.)?({PROFILE})(?:@(\d{{1,4}}))?{INSIDE}", re.ASCII | re.IGNORECASE)


def _wanted(where: str, text: Any) -> Wanted:
    """``3g.40gb@4``, ``3g.40gb``, ``3g.40gb@0[1+2]``; InputError otherwise."""
    found = SPELLED.fullmatch(text.strip()) if isinstance(text, str) else None
    if not found or (found[1] and found[4] is not None):
        raise InputError(f"{where}: {text!r} is no instance; write profile or profile@start, such as 3g.40gb@4")
    part, profile, start, inside = found.groups()
    profile = profile.lower()
    total = compute_slices(profile)
    given = inside if inside is not None else part
    compute = (total,) if given is None else tuple(sorted(int(n) for n in given.split("+") if n))
    if sum(compute) > total or 0 in compute:
        raise InputError(f"{where}: {text!r} asks for {sum(compute)} compute slices of {total}")
    return Wanted(profile, None if start is None else int(start), compute)


def _parted(path: str, value: Mapping[str, Any], config: str | None) -> Spec:
    """mig-parted's ``mig-configs``."""
    if value.get("version") != PARTED_VERSION:
        raise InputError(
            f"{path}: version {value.get('version')!r} of mig-parted is unknown; known is {PARTED_VERSION}"
        )
    _only(path, value, ("version", "mig-configs"))
    given = value["mig-configs"]
    if not isinstance(given, Mapping) or not given:
        raise InputError(f"{path}: mig-configs holds no configurations")
    # YAML takes a name such as 1 for a number; on the command line it is text.
    configs = {str(name): listed for name, listed in given.items()}
    if len(configs) < len(given):
        raise InputError(f"{path}: mig-configs: two configurations have one name ({', '.join(map(str, given))})")
    if config is None and len(configs) == 1:
        config = next(iter(configs))
    if config is None or config not in configs:
        known = ", ".join(configs)
        asked = "name one with --config" if config is None else f"there is no configuration {config!r}"
        raise InputError(f"{path}: {asked}; it has {known}")
    listed = configs[config]
    if not isinstance(listed, list):
        raise InputError(f"{path}: mig-configs.{config} must be a list of entries with devices")
    entries = [_parted_entry(f"{path}: {config}[{at}]", one) for at, one in enumerate(listed)]
    return Spec(path, tuple(entries))


def _parted_entry(where: str, value: Any) -> Entry:
    if not isinstance(value, Mapping):
        raise InputError(f"{where}: {value!r} is no entry; write devices, mig-enabled and mig-devices")
    _only(where, value, ("device-filter", "devices", "mig-enabled", "mig-devices"))
    enabled, devices = value.get("mig-enabled"), value.get("mig-devices") or {}
    if not isinstance(enabled, bool):
        raise InputError(f"{where}: mig-enabled: {enabled!r}; write true or false")
    if not isinstance(devices, Mapping):
        raise InputError(f'{where}: mig-devices: {devices!r}; write a mapping such as {{"1g.10gb": 7}}')
    if devices and not enabled:
        raise InputError(f"{where}: mig-enabled: false leaves no room for mig-devices; remove one of the two")
    wanted: list[Wanted] = []
    for name, count in devices.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise InputError(f"{where}: {name}: {count!r} is no count")
        if count > MOST_DEVICES:
            raise InputError(f"{where}: {name}: {count} devices; no GPU has more than {MOST_DEVICES}")
        wanted += _packed(where, str(name), count)
    filters = value.get("device-filter") or []
    models = tuple(_pci(where, one) for one in (filters if isinstance(filters, list) else [filters]))
    return Entry(_gpus(where, value.get("devices")), enabled, tuple(wanted), where, models)


def _packed(where: str, name: str, count: int) -> list[Wanted]:
    """``count`` devices of a name; compute instances (``1c.3g.20gb``) share as few GPU instances as hold them."""
    one = _wanted(where, name)
    if one.start is not None:
        raise InputError(f"{where}: {name!r}: mig-parted's format knows no starts; write the profile only")
    if "[" in name:
        raise InputError(
            f"{where}: {name!r}: mig-parted's format knows no brackets; write 1c.3g.40gb for one slice of it"
        )
    if one.compute == (compute_slices(one.profile),):
        return [one] * count
    together = compute_slices(one.profile) // one.compute[0]
    full, rest = divmod(count, together)
    sizes = [together] * full + ([rest] if rest else [])
    return [Wanted(one.profile, None, one.compute * size) for size in sizes]


def _pci(where: str, text: Any) -> int:
    try:
        return text if isinstance(text, int) and not isinstance(text, bool) else int(str(text), 16)
    except ValueError:
        raise InputError(f"{where}: device-filter: {text!r} is no PCI device id such as 0x20B010DE") from None


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
