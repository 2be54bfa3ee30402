"""What a machine has: every GPU with its MIG instances, room, processes and telemetry, and what could not be read.

A query that the driver refuses costs that value only; a GPU that is lost is listed, and the others are complete.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rltune.devices.driver import DeviceProfile, Driver, GpuInstance, Identity, MigMode, Process, Telemetry, Versions
from rltune.devices.models import model_of
from rltune.devices.status import GPU_IS_LOST, NOT_SUPPORTED, DeviceError, status
from rltune.devices.telemetry import VALUES, explained, gathered, untold
from rltune.nouns.errors import InputError

SCHEMA_VERSION = 1
"""Of `Inventory.as_json`: grows when a key changes its meaning or goes."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Room:
    """``more`` instances of ``profile`` would fit now, without touching what is there; each alone at ``free_starts``."""

    profile: DeviceProfile
    more: int
    free_starts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ComputeInstanceFound:
    """``compute`` slices; ``uuid`` is what a job gets in CUDA_VISIBLE_DEVICES, None where the driver did not tell it."""

    id: int
    compute: int
    uuid: str | None


@dataclass(frozen=True, slots=True)
class InstanceFound:
    """A GPU instance by the driver's number, at memory slice ``start``, ``size`` memory slices."""

    id: int
    profile: str
    start: int
    size: int
    compute_instances: tuple[ComputeInstanceFound, ...]


@dataclass(frozen=True, slots=True)
class ProcessFound:
    """A process on a GPU; ``name`` from /proc, None where that cannot be read (ended, or of another container)."""

    pid: int
    name: str | None
    memory_bytes: int | None
    gpu_instance: int | None
    compute_instance: int | None


@dataclass(frozen=True, slots=True)
class GpuFound:
    """One GPU.

    ``model`` its type in rltune's tables, None: not there; ``mig`` None: it has no MIG, or ``unread`` says why it is not
    known; ``rooms`` its profiles, empty while MIG is off; ``unread`` what could not be read -> NVML status.
    """

    identity: Identity
    model: str | None
    mig: MigMode | None
    rooms: tuple[Room, ...]
    instances: tuple[InstanceFound, ...]
    processes: tuple[ProcessFound, ...]
    telemetry: Telemetry
    unread: dict[str, int]


@dataclass(frozen=True, slots=True)
class Inventory:
    """``kind`` of driver, its ``versions``, the GPUs by number, and a sentence of ``notes`` for all that is missing."""

    kind: str
    versions: Versions
    gpus: tuple[GpuFound, ...]
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, object]:
        """Everything, with stable keys and units in their names."""
        versions = {"driver": self.versions.driver, "nvml": self.versions.nvml, "cuda": self.versions.cuda}
        return {
            "schema_version": SCHEMA_VERSION,
            "device": self.kind,
            "versions": versions,
            "gpus": [_gpu_json(gpu) for gpu in self.gpus],
            "notes": list(self.notes),
        }


def inventory(driver: Driver, only: Collection[int] | None = None) -> Inventory:
    """All GPUs of a driver, or those numbered in ``only``.

    InputError for a number that does not exist; DeviceError where the driver cannot even list its GPUs.
    """
    identities = driver.gpus()
    known = {identity.index for identity in identities}
    for number in only or ():
        if number not in known:
            numbers = ", ".join(map(str, sorted(known))) or "none"
            raise InputError(f"GPU {number} does not exist; the driver has {numbers}")
    reader = _Reader()
    versions = reader.read("versions", driver.versions, Versions(None, None, None))
    gpus = tuple(_gpu(driver, identity) for identity in identities if not only or identity.index in only)
    return Inventory(driver.kind, versions, gpus, (*_sentences(reader.unread), *_notes(gpus)))


class _Reader:
    """Queries of one GPU: what is refused is remembered; after "lost" nothing more is asked, since each may take long."""

    def __init__(self) -> None:
        self.unread: dict[str, int] = {}
        self.lost = False

    def read(self, what: str, call: Callable[[], T], otherwise: T, absent: int | None = None) -> T:
        """The answer, else ``otherwise``; status ``absent`` means that there is nothing to read, which is no failure."""
        if self.lost:
            self.unread[what] = GPU_IS_LOST
            return otherwise
        try:
            return call()
        except DeviceError as error:
            if error.code != absent:
                self.unread[what] = error.code
            self.lost = error.code == GPU_IS_LOST
            return otherwise


def _gpu(driver: Driver, identity: Identity) -> GpuFound:
    index, reader = identity.index, _Reader()
    mig = reader.read("MIG mode", lambda: driver.mig_mode(index), None, absent=NOT_SUPPORTED)
    profiles: tuple[DeviceProfile, ...] = ()
    instances: tuple[GpuInstance, ...] = ()
    uuids: dict[tuple[int, int], str] = {}
    none: tuple[Process, ...] = ()
    # Where the mode could not be read the rest may still answer; where MIG is off it has nothing to tell.
    if "MIG mode" in reader.unread or (mig is not None and mig.current):
        profiles = reader.read("profiles", lambda: driver.profiles(index), ())
        instances = reader.read("instances", lambda: driver.instances(index), ())
        if any(instance.compute_instances for instance in instances):
            uuids = reader.read("MIG UUIDs", lambda: driver.mig_uuids(index), {})
    processes = reader.read("processes", lambda: driver.processes(index), none)
    telemetry = reader.read("telemetry", lambda: driver.telemetry(index), None)
    if telemetry is None:
        telemetry = untold(reader.unread["telemetry"])
    else:
        reader.unread |= {VALUES.get(value, value): code for value, code in telemetry.missing.items()}
    # Without the instances nobody knows what is free.
    rooms = () if "instances" in reader.unread else tuple(_room(p, profiles, instances) for p in profiles)
    return GpuFound(
        identity,
        model_of(identity.name, telemetry.memory_total_bytes),
        mig,
        rooms,
        tuple(_instance(instance, uuids) for instance in instances),
        tuple(_process(process) for process in processes),
        telemetry,
        reader.unread,
    )


def _room(profile: DeviceProfile, profiles: tuple[DeviceProfile, ...], instances: tuple[GpuInstance, ...]) -> Room:
    """Greedy from the left is the most, since all instances of a profile are of one size."""
    taken = {at for instance in instances for at in range(instance.start, instance.start + instance.size)}
    free = [start for start in sorted(profile.starts) if taken.isdisjoint(range(start, start + profile.size))]
    left = profile.most - sum(instance.profile == profile.name for instance in instances)
    # A GPU has one set of media engines, whichever profile holds it.
    if "+me" in profile.name and any("+me" in instance.profile for instance in instances):
        left = 0
    fitting, end = 0, 0
    for start in free:
        if start >= end:
            fitting, end = fitting + 1, start + profile.size
    return Room(profile, max(0, min(fitting, left)), tuple(free) if left > 0 else ())


def _instance(found: GpuInstance, uuids: dict[tuple[int, int], str]) -> InstanceFound:
    inside = tuple(ComputeInstanceFound(c.id, c.compute, uuids.get((found.id, c.id))) for c in found.compute_instances)
    return InstanceFound(found.id, found.profile, found.start, found.size, inside)


def _process(found: Process) -> ProcessFound:
    try:
        name = Path(f"/proc/{found.pid}/comm").read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        name = None
    return ProcessFound(found.pid, name, found.memory_bytes, found.gpu_instance, found.compute_instance)


def _notes(gpus: tuple[GpuFound, ...]) -> list[str]:
    return gathered((gpu.identity.index, line) for gpu in gpus for line in [*_sentences(gpu.unread), *_untold(gpu)])


def _sentences(unread: dict[str, int]) -> list[str]:
    """What could not be read and why, a sentence a status."""
    by_code: dict[int, list[str]] = {}
    for what, code in unread.items():
        by_code.setdefault(code, []).append(what)
    return [f"{', '.join(whats)}: {explained(code)}" for code, whats in by_code.items()]


def _untold(gpu: GpuFound) -> list[str]:
    """What is missing without a status of the driver."""
    lines = []
    if nameless := sum(process.name is None for process in gpu.processes):
        lines.append(f"process names: {nameless} not in /proc (ended, or of another container)")
    if silent := sum(process.memory_bytes is None for process in gpu.processes):
        lines.append(f"process memory: not told by the driver for {silent} of {len(gpu.processes)}")
    if "MIG UUIDs" not in gpu.unread:
        unnamed = sum(inside.uuid is None for found in gpu.instances for inside in found.compute_instances)
        if unnamed:
            lines.append(f"MIG UUIDs: {unnamed} compute instances are not among the driver's MIG devices")
    return lines


def _gpu_json(gpu: GpuFound) -> dict[str, object]:
    identity, told = gpu.identity, gpu.telemetry
    mig = None if gpu.mig is None else {"current": gpu.mig.current, "pending": gpu.mig.pending}
    return {
        "index": identity.index,
        "uuid": identity.uuid,
        "name": identity.name,
        "model": gpu.model,
        "bus_id": identity.bus_id,
        "pci_device_id": identity.pci_device_id,
        "mig_mode": mig,
        "telemetry": {value: getattr(told, value) for value in VALUES},
        "instances": [_instance_json(found) for found in gpu.instances],
        "processes": [
            {
                "pid": process.pid,
                "name": process.name,
                "memory_bytes": process.memory_bytes,
                "gpu_instance": process.gpu_instance,
                "compute_instance": process.compute_instance,
            }
            for process in gpu.processes
        ],
        "profiles": [_room_json(room) for room in gpu.rooms],
        "unread": {what: {"status": code, "name": status(code).name} for what, code in gpu.unread.items()},
    }


def _instance_json(found: InstanceFound) -> dict[str, object]:
    return {
        "id": found.id,
        "profile": found.profile,
        "start_memory_slice": found.start,
        "memory_slices": found.size,
        "compute_instances": [
            {"id": inside.id, "compute_slices": inside.compute, "uuid": inside.uuid}
            for inside in found.compute_instances
        ],
    }


def _room_json(room: Room) -> dict[str, object]:
    profile = room.profile
    return {
        "name": profile.name,
        "id": profile.id,
        "compute_slices": profile.compute,
        "memory_slices": profile.size,
        "starts_memory_slice": list(profile.starts),
        "most": profile.most,
        "memory_mib": profile.memory_mb,
        "room": room.more,
        "free_starts_memory_slice": list(room.free_starts),
    }
