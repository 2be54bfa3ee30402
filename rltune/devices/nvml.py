"""Real GPUs: `rltune.devices.driver.Driver` on NVIDIA's own binding, the only place that imports it.

Handles of GPU and compute instances are fetched anew by number for every call and never kept: they go stale. What cannot
change while MIG mode stays as it is (profiles, placements) is asked once per GPU.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from ctypes import byref, c_uint
from typing import Any, NamedTuple, TypeVar

import pynvml

from rltune.devices import status
from rltune.devices.driver import (
    ComputeInstance,
    DeviceProfile,
    GpuInstance,
    Identity,
    MigMode,
    Process,
    Telemetry,
    Versions,
)
from rltune.devices.status import DeviceError

Handle = Any
"""A pointer of the binding, to nothing that Python may look into."""
Told = TypeVar("Told")

TOO_OLD = frozenset({status.FUNCTION_NOT_FOUND, status.ARGUMENT_VERSION_MISMATCH})
"""The driver is older than the call: an older form of it may do."""
VANISHED = frozenset({status.NOT_FOUND, status.INVALID_ARGUMENT})
"""What NVML says of an instance that went away between two calls."""
NO_SUCH_PROFILE = frozenset({status.NOT_SUPPORTED, status.INVALID_ARGUMENT})
"""What NVML says of a profile that the GPU has not, or that is newer than the driver."""
READS = 3
"""Attempts to list instances while others change them."""
NO_INSTANCE = 0xFFFFFFFF
"""NVML's instance of a process that runs in none."""
ENGINES = pynvml.NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED
PROCESS_LISTS = (
    "nvmlDeviceGetComputeRunningProcesses",
    "nvmlDeviceGetGraphicsRunningProcesses",
    "nvmlDeviceGetMPSComputeRunningProcesses",
)
SUFFIXES = {
    pynvml.NVML_GPU_INSTANCE_PROFILE_1_SLICE_REV1: "+me",
    pynvml.NVML_GPU_INSTANCE_PROFILE_2_SLICE_REV1: "+me",
    0xA: "+gfx",
    0xB: "+gfx",
    0xC: "+gfx",
    0xD: "-me",
    0xE: "-me",
    0xF: "+me.all",
    0x10: "+me.all",
    0x11: "+gfx",
}
"""NVML's number of a GPU-instance profile (``NVML_GPU_INSTANCE_PROFILE_*``) -> what its name ends in."""


class Slices(NamedTuple):
    """A compute-instance profile: ``id`` what calls take, its ``compute`` slices, ``most`` of them in its GPU instance."""

    id: int
    compute: int
    most: int


class NvmlDriver:
    """The GPUs of this machine; DeviceError LIBRARY_NOT_FOUND or DRIVER_NOT_LOADED where there is no driver."""

    kind = "nvml"

    def __init__(self) -> None:
        self.calling: tuple[str, float] | None = None
        self._handles: dict[int, Handle] = {}
        self._names: dict[int, str] = {}
        self._profiles: dict[int, tuple[DeviceProfile, ...]] = {}
        self._slices: dict[tuple[int, int], tuple[Slices, ...]] = {}
        """(GPU, id of a GPU-instance profile) -> compute-instance profiles, largest first, plain ones before others."""
        self._too_old: set[str] = set()
        """Calls that this driver turned out not to have."""
        self._call((), "nvmlInit")
        self._open = True

    def close(self) -> None:
        if self._open:
            self._open = False
            self._call((), "nvmlShutdown")

    # What the machine has

    def versions(self) -> Versions:
        cuda = self._told("nvmlSystemGetCudaDriverVersion_v2")
        return Versions(
            self._told("nvmlSystemGetDriverVersion"),
            self._told("nvmlSystemGetNVMLVersion"),
            None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
        )

    def gpus(self) -> tuple[Identity, ...]:
        return tuple(self._identity(gpu) for gpu in range(self._call((), "nvmlDeviceGetCount")))

    def _identity(self, gpu: int) -> Identity:
        handle = self._handle(gpu)
        uuid = self._call((gpu,), "nvmlDeviceGetUUID", handle)
        try:
            pci = self._call((gpu,), "nvmlDeviceGetPciInfo", handle)
        except DeviceError:
            return Identity(gpu, uuid, self._names[gpu], None, None)
        return Identity(gpu, uuid, self._names[gpu], text(pci.busId), pci.pciDeviceId)

    def mig_mode(self, gpu: int) -> MigMode:
        current, pending = self._call((gpu,), "nvmlDeviceGetMigMode", self._handle(gpu))
        return MigMode(bool(current), bool(pending))

    def set_mig_mode(self, gpu: int, enabled: bool) -> int:
        try:
            return int(self._call((gpu,), "nvmlDeviceSetMigMode", self._handle(gpu), int(enabled)))
        finally:  # also after an error: the mode may have changed all the same
            self._handles.pop(gpu, None)
            self._profiles.pop(gpu, None)
            self._slices = {key: value for key, value in self._slices.items() if key[0] != gpu}

    # What a GPU can be cut into

    def profiles(self, gpu: int) -> tuple[DeviceProfile, ...]:
        if gpu not in self._profiles:
            infos = dict(self._profile_infos(gpu))
            if not infos:
                raise DeviceError(status.NOT_SUPPORTED, "nvmlDeviceGetGpuInstanceProfileInfo", self._where((gpu,)))
            placed = {number: self._placements(gpu, info.id) for number, info in infos.items()}
            names = {number: text(info.name).removeprefix("MIG ") for number, info in infos.items()
                     if hasattr(info, "name")} or self._names_by_size(gpu, infos)  # fmt: skip
            self._profiles[gpu] = tuple(
                DeviceProfile(names[number], info.id, info.sliceCount, placed[number][1], placed[number][0],
                              info.instanceCount, info.memorySizeMB)
                for number, info in infos.items()
            )  # fmt: skip
        return self._profiles[gpu]

    def _profile_infos(self, gpu: int) -> Iterator[tuple[int, Any]]:
        handle = self._handle(gpu)
        for number in range(pynvml.NVML_GPU_INSTANCE_PROFILE_COUNT):
            try:
                yield number, self._newest((gpu,), "nvmlDeviceGetGpuInstanceProfileInfo", handle, number)
            except DeviceError as error:
                if error.code not in NO_SUCH_PROFILE:
                    raise

    def _placements(self, gpu: int, profile_id: int) -> tuple[tuple[int, ...], int]:
        """Legal starts of a profile, ascending, and its size, in memory slices."""
        handle, count = self._handle(gpu), c_uint()
        name = "nvmlDeviceGetGpuInstancePossiblePlacements"
        self._call((gpu,), name, handle, profile_id, None, byref(count))
        array = (pynvml.c_nvmlGpuInstancePlacement_t * count.value)()
        self._call((gpu,), name, handle, profile_id, array, byref(count))
        found = array[: count.value]
        return tuple(sorted(place.start for place in found)), max((place.size for place in found), default=0)

    def _names_by_size(self, gpu: int, infos: dict[int, Any]) -> dict[int, str]:
        """Names for a driver that is too old to tell them."""
        total = self._call((gpu,), "nvmlDeviceGetMemoryInfo", self._handle(gpu)).total
        slices = 4 if max(info.sliceCount for info in infos.values()) <= 4 else 8
        return {
            number: profile_name(number, info.sliceCount, info.memorySizeMB, total, slices)
            for number, info in infos.items()
        }

    # Instances

    def instances(self, gpu: int) -> tuple[GpuInstance, ...]:
        for left in reversed(range(READS)):
            try:
                return tuple(sorted(self._instances(gpu), key=lambda found: (found.start, found.profile)))
            except DeviceError as error:
                # One that went away while we were reading: what we have is of no single moment, read again.
                if error.code not in VANISHED or not left:
                    raise
        raise AssertionError("the last reading returns or raises")

    def _instances(self, gpu: int) -> Iterator[GpuInstance]:
        for profile in self.profiles(gpu):
            array, count = (pynvml.c_nvmlGpuInstance_t * max(profile.most, 1))(), c_uint(profile.most)
            self._call((gpu,), "nvmlDeviceGetGpuInstances", self._handle(gpu), profile.id, array, byref(count))
            for handle in array[: count.value]:
                info = self._call((gpu,), "nvmlGpuInstanceGetInfo", handle)
                place = info.placement
                inside = self._compute_instances(gpu, profile, info.id, handle)
                yield GpuInstance(info.id, profile.name, place.start, place.size, inside)

    def _compute_instances(
        self, gpu: int, profile: DeviceProfile, gpu_instance: int, handle: Handle
    ) -> tuple[ComputeInstance, ...]:
        where, found, free = (gpu, gpu_instance), dict[int, int](), profile.compute
        for slices in self._compute_profiles(gpu, profile.id, gpu_instance, handle):
            if free <= 0:  # the usual case: the first call finds one that takes all
                break
            array, count = (pynvml.c_nvmlComputeInstance_t * max(slices.most, 1))(), c_uint(slices.most)
            self._call(where, "nvmlGpuInstanceGetComputeInstances", handle, slices.id, array, byref(count))
            for inner in array[: count.value]:
                number = self._call(where, "nvmlComputeInstanceGetInfo", inner).id
                if number not in found:  # profiles with and without media engines may list the same
                    found[number] = slices.compute
                    free -= slices.compute
        return tuple(ComputeInstance(number, found[number]) for number in sorted(found))

    def _compute_profiles(self, gpu: int, profile_id: int, gpu_instance: int, handle: Handle) -> tuple[Slices, ...]:
        key = gpu, profile_id
        if key not in self._slices:
            found: dict[int, Slices] = {}
            for number in range(pynvml.NVML_COMPUTE_INSTANCE_PROFILE_COUNT):
                try:
                    name = "nvmlGpuInstanceGetComputeInstanceProfileInfo"
                    info = self._newest((gpu, gpu_instance), name, handle, number, ENGINES)
                except DeviceError as error:
                    # INVALID_ARGUMENT of a stale handle shows in the next call, of a known profile.
                    if error.code not in NO_SUCH_PROFILE:
                        raise
                else:
                    found.setdefault(info.id, Slices(info.id, info.sliceCount, info.instanceCount))
            if not found:
                raise DeviceError(status.NOT_FOUND, name, self._where((gpu, gpu_instance)))
            # Stable: NVML counts plain profiles before those with extras (REV1, NVL).
            self._slices[key] = tuple(sorted(found.values(), key=lambda slices: -slices.compute))
        return self._slices[key]

    def create_gpu_instance(self, gpu: int, profile: str, start: int | None) -> int:
        """See the interface. Where the last call (its number) fails, the instance is there all the same: read again."""
        name = "nvmlDeviceCreateGpuInstance" if start is None else "nvmlDeviceCreateGpuInstanceWithPlacement"
        row = next((row for row in self.profiles(gpu) if row.name == profile), None)
        if row is None:
            raise DeviceError(status.NOT_SUPPORTED, name, f"{self._where((gpu,))}, profile {profile}")
        where: list[Any] = []
        if start is not None:
            where.append(byref(pynvml.c_nvmlGpuInstancePlacement_t(start & 0xFFFFFFFF, row.size)))
        made = self._call((gpu,), name, self._handle(gpu), row.id, *where)
        return int(self._call((gpu,), "nvmlGpuInstanceGetInfo", made).id)

    def create_compute_instance(self, gpu: int, gpu_instance: int, compute: int) -> int:
        where, handle = (gpu, gpu_instance), self._gpu_instance(gpu, gpu_instance)
        profile_id = self._call(where, "nvmlGpuInstanceGetInfo", handle).profileId
        profiles = self._compute_profiles(gpu, profile_id, gpu_instance, handle)
        name = "nvmlGpuInstanceCreateComputeInstance"
        row = next((row for row in profiles if row.compute == compute), None)
        if row is None:
            raise DeviceError(status.NOT_SUPPORTED, name, f"{self._where(where)}, {compute} compute slices")
        made = self._call(where, name, handle, row.id)
        return int(self._call(where, "nvmlComputeInstanceGetInfo", made).id)

    def destroy_compute_instance(self, gpu: int, gpu_instance: int, compute_instance: int) -> None:
        where, outer = (gpu, gpu_instance, compute_instance), self._gpu_instance(gpu, gpu_instance)
        handle = self._call(where, "nvmlGpuInstanceGetComputeInstanceById", outer, compute_instance)
        self._call(where, "nvmlComputeInstanceDestroy", handle)

    def destroy_gpu_instance(self, gpu: int, gpu_instance: int) -> None:
        self._call((gpu, gpu_instance), "nvmlGpuInstanceDestroy", self._gpu_instance(gpu, gpu_instance))

    def mig_uuids(self, gpu: int) -> dict[tuple[int, int], str]:
        return {ids: self._call((gpu, *ids), "nvmlDeviceGetUUID", handle) for ids, handle in self._mig_devices(gpu)}

    def _mig_devices(self, gpu: int) -> Iterator[tuple[tuple[int, int], Handle]]:
        """(GPU instance, compute instance), and the handle of the MIG device; none where MIG is off."""
        try:
            if not self.mig_mode(gpu).current:
                return
        except DeviceError as error:
            if error.code != status.NOT_SUPPORTED:
                raise
            return
        where, parent = (gpu,), self._handle(gpu)
        for index in range(self._call(where, "nvmlDeviceGetMaxMigDeviceCount", parent)):
            try:  # numbers have gaps: a MIG device keeps its own while others go
                handle = self._call(where, "nvmlDeviceGetMigDeviceHandleByIndex", parent, index)
                outer = self._call(where, "nvmlDeviceGetGpuInstanceId", handle)
                inner = self._call(where, "nvmlDeviceGetComputeInstanceId", handle)
            except DeviceError as error:
                if error.code not in VANISHED:
                    raise
            else:
                yield (outer, inner), handle

    # What runs, and how it fares

    def processes(self, gpu: int) -> tuple[Process, ...]:
        try:
            found = self._processes(gpu, self._handle(gpu), None)
        except DeviceError as error:
            # Of all instances together only root is told; of each, whoever may use it.
            devices = list(self._mig_devices(gpu)) if error.code == status.NO_PERMISSION else []
            if not devices:
                raise
            found = [process for ids, handle in devices for process in self._processes(gpu, handle, ids)]
        return tuple({(one.pid, one.gpu_instance, one.compute_instance): one for one in reversed(found)}.values())[::-1]

    def _processes(self, gpu: int, handle: Handle, ids: tuple[int, int] | None) -> list[Process]:
        """Of a GPU, or of the MIG device with these numbers; a process may come more than once."""
        outer, inner = ids or (None, None)
        return [
            Process(
                one.pid,
                one.usedGpuMemory,
                outer if one.gpuInstanceId == NO_INSTANCE else one.gpuInstanceId,
                inner if one.computeInstanceId == NO_INSTANCE else one.computeInstanceId,
            )
            for name in PROCESS_LISTS
            for one in self._process_list(gpu, name, handle)
        ]

    def _process_list(self, gpu: int, name: str, handle: Handle) -> list[Any]:
        """Raises where compute processes cannot be told: that must not look like none."""
        optional = {status.NOT_SUPPORTED, status.FUNCTION_NOT_FOUND} if name != PROCESS_LISTS[0] else set()
        try:
            return self._first_of((gpu,), (f"{name}_v3", (handle,)), (f"{name}_v2", (handle,)))
        except DeviceError as error:
            if error.code not in optional:
                raise
            return []

    def telemetry(self, gpu: int) -> Telemetry:
        missing: dict[str, int] = {}

        def told(names: tuple[str, ...], read: Callable[[Handle], Told]) -> Told | None:
            try:
                return read(self._handle(gpu))
            except DeviceError as error:
                missing.update(dict.fromkeys(names, error.code))
                return None

        memory = told(("memory_total_bytes", "memory_used_bytes"), self._reading(gpu, "nvmlDeviceGetMemoryInfo"))
        rates = told(
            ("utilization_percent", "memory_utilization_percent"), self._reading(gpu, "nvmlDeviceGetUtilizationRates")
        )
        power_mw = told(("power_w",), self._reading(gpu, "nvmlDeviceGetPowerUsage"))
        sensor = pynvml.NVML_TEMPERATURE_GPU
        return Telemetry(
            memory.total if memory else None,
            memory.used if memory else None,
            rates.gpu if rates else None,
            rates.memory if rates else None,
            None if power_mw is None else power_mw / 1000,
            told(
                ("temperature_c",),
                lambda handle: int(
                    self._first_of(
                        (gpu,),
                        ("nvmlDeviceGetTemperatureV", (handle, sensor)),
                        ("nvmlDeviceGetTemperature", (handle, sensor)),
                    )
                ),
            ),
            told(("energy_mj",), self._reading(gpu, "nvmlDeviceGetTotalEnergyConsumption")),
            missing,
        )

    def _reading(self, gpu: int, name: str) -> Callable[[Handle], Any]:
        return lambda handle: self._call((gpu,), name, handle)

    # Calls

    def _handle(self, gpu: int) -> Handle:
        if gpu not in self._handles:
            handle = self._call((gpu,), "nvmlDeviceGetHandleByIndex", gpu)
            self._names[gpu] = self._call((gpu,), "nvmlDeviceGetName", handle)
            self._handles[gpu] = handle
        return self._handles[gpu]

    def _gpu_instance(self, gpu: int, gpu_instance: int) -> Handle:
        return self._call((gpu, gpu_instance), "nvmlDeviceGetGpuInstanceById", self._handle(gpu), gpu_instance)

    def _told(self, name: str) -> Any:
        """What the driver says of itself, or None."""
        try:
            return self._call((), name)
        except DeviceError:
            return None

    def _newest(self, place: tuple[int, ...], name: str, *args: Any) -> Any:
        """A structure in its second version, which has a name; from a driver that is too old, in its first."""
        return self._first_of(place, (name, (*args, 2)), (name, (*args, 1)))

    def _first_of(self, place: tuple[int, ...], newer: tuple[str, tuple], older: tuple[str, tuple]) -> Any:
        """The newer call; once the driver turns out too old for it, always the older one."""
        if newer[0] not in self._too_old:
            try:
                return self._call(place, newer[0], *newer[1])
            except DeviceError as error:
                if error.code not in TOO_OLD:
                    raise
                self._too_old.add(newer[0])
        return self._call(place, older[0], *older[1])

    def _call(self, place: tuple[int, ...], name: str, *args: Any) -> Any:
        """The binding's function of that name; whatever is refused raises DeviceError that says where.

        ``place`` numbers of the GPU, its GPU instance, its compute instance, as far as the call is about them.
        """
        function = getattr(pynvml, name, None)
        self.calling = (name, time.monotonic())
        try:
            if function is None:  # a binding older than the call
                raise DeviceError(status.FUNCTION_NOT_FOUND, name, self._where(place))
            return function(*args)
        except pynvml.NVMLError as error:
            raise DeviceError(error.value, name, self._where(place)) from None
        except pynvml.NVMLLibraryMismatchError:
            raise DeviceError(status.FUNCTION_NOT_FOUND, name, self._where(place)) from None
        finally:
            self.calling = None

    def _where(self, place: tuple[int, ...]) -> str:
        words = [
            f"{what} {number}" for what, number in zip(("GPU", "GPU instance", "compute instance"), place, strict=False)
        ]
        if place and self._names.get(place[0]):
            words[0] += f" ({self._names[place[0]]})"
        return ", ".join(words)


def profile_name(number: int, compute: int, memory_mb: int, total_bytes: int, slices: int) -> str:
    """The name that newer drivers give a profile, such as ``3g.40gb`` or ``1g.10gb+me``.

    ``number`` NVML's of the profile, ``compute`` slices, ``memory_mb`` MiB, ``total_bytes`` of the GPU with ``slices``
    memory slices. The GB in a name are those slices as a part of the GPU's memory in whole GB, rounded half up, as
    NVIDIA's tools (mig-parted) derive them.
    """
    taken = math.ceil(memory_mb * 2**20 / total_bytes * slices)
    memory_gb = math.floor(taken / slices * math.ceil(total_bytes / 2**30) + 0.5)
    return f"{compute}g.{memory_gb}gb{SUFFIXES.get(number, '')}"


def text(value: str | bytes) -> str:
    """Text of a structure: newer bindings decode it, older ones do not."""
    return value.decode() if isinstance(value, bytes) else value
