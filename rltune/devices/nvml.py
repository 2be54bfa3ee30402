"""Real GPUs: `rltune.devices.driver.Driver` on NVIDIA's own binding, the only place that imports it.

Handles of GPU and compute instances are fetched anew by number for every call and never kept: they go stale. What cannot
change while MIG mode stays as it is (profiles, placements) is asked once per GPU, and kept if it was told without an error.
Some refusals are ordinary answers (a profile that the GPU has not, a GPU without MIG): those are believed when they are
given twice in a row, since a driver in trouble gives them too, and an instance that is not listed would be taken for gone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from ctypes import byref, c_uint
from functools import partial
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
from rltune.devices.profile_names import profile_name
from rltune.devices.readings import Ask, read_processes, read_telemetry
from rltune.devices.status import DeviceError

T = TypeVar("T")
Handle = Any
"""A pointer of the binding, to nothing that Python may look into."""

TOO_OLD = frozenset({status.FUNCTION_NOT_FOUND, status.ARGUMENT_VERSION_MISMATCH})
"""The driver is older than the call: an older form of it may do."""
VANISHED = frozenset({status.NOT_FOUND, status.INVALID_ARGUMENT})
"""What NVML says of an instance that went away between two calls."""
NO_SUCH_PROFILE = frozenset({status.NOT_SUPPORTED, status.INVALID_ARGUMENT})
"""What NVML says of a profile that the GPU has not, or that is newer than the driver."""
NO_MIG = frozenset({status.NOT_SUPPORTED})
"""What NVML says of a GPU that cannot be cut."""
READS = 3
"""Attempts to list instances while others change them."""
ENGINES = pynvml.NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED


class Slices(NamedTuple):
    """A compute-instance profile: ``id`` what calls take, its ``compute`` slices, ``most`` of them in its GPU instance."""

    id: int
    compute: int
    most: int


class NvmlDriver:
    """The GPUs of this machine; DeviceError LIBRARY_NOT_FOUND or DRIVER_NOT_LOADED where there is no driver."""

    kind = "nvml"

    def __init__(self) -> None:
        self.calling: dict[int, tuple[str, float]] = {}
        self._handles: dict[int, Handle] = {}
        self._names: dict[int, str] = {}
        self._profiles: dict[int, tuple[DeviceProfile, ...]] = {}
        self._slices: dict[tuple[Hashable, int], tuple[Slices, ...]] = {}
        """(kind of GPU, id of a GPU-instance profile) -> compute-instance profiles, largest first, plain ones before others."""
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
        """See the interface. One that cannot be reached, whatever the reason, has no UUID."""
        return tuple(self._identity(gpu) for gpu in range(self._call((), "nvmlDeviceGetCount")))

    def _identity(self, gpu: int) -> Identity:
        try:
            handle = self._handle(gpu)
            uuid = self._call((gpu,), "nvmlDeviceGetUUID", handle)
        except DeviceError:
            # Lost, without power, not ours to see: the others go on, and every other question about this one gives the reason.
            return Identity(gpu, "", self._names.get(gpu, ""), None, None)
        try:
            pci = self._call((gpu,), "nvmlDeviceGetPciInfo", handle)
        except DeviceError:
            return Identity(gpu, uuid, self._names[gpu], None, None)
        return Identity(gpu, uuid, self._names[gpu], text(pci.busId), pci.pciDeviceId)

    def mig_mode(self, gpu: int) -> MigMode:
        handle = self._handle(gpu)
        current, pending = twice(NO_MIG, lambda: self._call((gpu,), "nvmlDeviceGetMigMode", handle))
        return MigMode(bool(current), bool(pending))

    def set_mig_mode(self, gpu: int, enabled: bool) -> int:
        try:
            return int(self._call((gpu,), "nvmlDeviceSetMigMode", self._handle(gpu), int(enabled)))
        finally:  # also after an error: the mode may have changed all the same
            self._handles.pop(gpu, None)
            self._profiles.pop(gpu, None)
            self._slices.clear()

    # What a GPU can be cut into

    def profiles(self, gpu: int) -> tuple[DeviceProfile, ...]:
        if gpu not in self._profiles:
            infos = dict(self._profile_infos(gpu))
            if not infos:
                raise DeviceError(status.NOT_SUPPORTED, "nvmlDeviceGetGpuInstanceProfileInfo", self._where((gpu,)))
            placed = {number: self._placements(gpu, info.id) for number, info in infos.items()}
            # The driver may turn out too old for names at any of them.
            nameless = {number: info for number, info in infos.items() if not hasattr(info, "name")}
            names = self._names_by_size(gpu, nameless) if nameless else {}
            names |= {n: text(info.name).removeprefix("MIG ") for n, info in infos.items() if n not in nameless}
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
                name = "nvmlDeviceGetGpuInstanceProfileInfo"
                yield number, twice(NO_SUCH_PROFILE, partial(self._info, (gpu,), name, handle, number))
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
        return {
            number: profile_name(number, info.sliceCount, info.memorySizeMB, total) for number, info in infos.items()
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
        where, found = (gpu, gpu_instance), dict[int, int]()
        for slices in self._compute_profiles(gpu, profile.id, gpu_instance, handle):
            if sum(found.values()) >= profile.compute:  # the usual case: the first call finds one that takes all
                break
            array, count = (pynvml.c_nvmlComputeInstance_t * max(slices.most, 1))(), c_uint(slices.most)
            self._call(where, "nvmlGpuInstanceGetComputeInstances", handle, slices.id, array, byref(count))
            for inner in array[: count.value]:
                # By number: profiles with and without media engines may list the same.
                found[self._call(where, "nvmlComputeInstanceGetInfo", inner).id] = slices.compute
        return tuple(ComputeInstance(number, found[number]) for number in sorted(found))

    def _compute_profiles(self, gpu: int, profile_id: int, gpu_instance: int, handle: Handle) -> tuple[Slices, ...]:
        # GPUs of one name that list the same profiles are cut alike.
        key = (self._names[gpu], self.profiles(gpu)), profile_id
        if key not in self._slices:
            where, found = (gpu, gpu_instance), dict[int, Slices]()
            for number in range(pynvml.NVML_COMPUTE_INSTANCE_PROFILE_COUNT):
                try:
                    name = "nvmlGpuInstanceGetComputeInstanceProfileInfo"
                    info = twice(NO_SUCH_PROFILE, partial(self._info, where, name, handle, number, ENGINES))
                except DeviceError as error:
                    if error.code not in NO_SUCH_PROFILE:
                        raise
                else:
                    found.setdefault(info.id, Slices(info.id, info.sliceCount, info.instanceCount))
            # A GPU instance that went away meanwhile looks like one without further profiles: do not remember that.
            self._call(where, "nvmlGpuInstanceGetInfo", handle)
            self._check_complete(where, profile_id, found.values())
            # Stable: NVML counts plain profiles before those with extras (REV1, NVL).
            self._slices[key] = tuple(sorted(found.values(), key=lambda slices: -slices.compute))
        return self._slices[key]

    def _check_complete(self, where: tuple[int, int], profile_id: int, found: Iterable[Slices]) -> None:
        """Every GPU instance can have a compute instance that takes all of it: a list without one is no list."""
        whole = next((row.compute for row in self.profiles(where[0]) if row.id == profile_id), None)
        if whole is not None and all(slices.compute != whole for slices in found):
            raise DeviceError(status.NOT_SUPPORTED, "nvmlGpuInstanceGetComputeInstanceProfileInfo", self._where(where))

    def create_gpu_instance(self, gpu: int, profile: str, start: int | None) -> int:
        """See the interface. Where the last call (its number) fails, the instance is there all the same: read again."""
        name = "nvmlDeviceCreateGpuInstance" if start is None else "nvmlDeviceCreateGpuInstanceWithPlacement"
        row = next((row for row in self.profiles(gpu) if row.name == profile), None)
        if row is None:
            raise DeviceError(status.NOT_SUPPORTED, name, f"{self._where((gpu,))}, profile {profile}")
        at = () if start is None else (byref(pynvml.c_nvmlGpuInstancePlacement_t(start, row.size)),)
        made = self._call((gpu,), name, self._handle(gpu), row.id, *at)
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
        return {ids: uuid for ids, uuid, _ in self._mig_devices(gpu)}

    def _mig_devices(self, gpu: int) -> Iterator[tuple[tuple[int, int], str, Handle]]:
        """(GPU instance, compute instance), UUID and handle of every MIG device; none where MIG is off."""
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
                uuid = self._call((gpu, outer, inner), "nvmlDeviceGetUUID", handle)
            except DeviceError as error:
                if error.code not in VANISHED:
                    raise
            else:
                yield (outer, inner), uuid, handle

    # What runs, and how it fares

    def processes(self, gpu: int) -> tuple[Process, ...]:
        try:
            found = read_processes(self._about(gpu))
        except DeviceError as error:
            # Only root may list all instances; a user may ask for each that he may use.
            devices = list(self._mig_devices(gpu)) if error.code == status.NO_PERMISSION else []
            if not devices:
                raise
            found = [one for ids, _, handle in devices for one in read_processes(self._about(gpu, handle), ids)]
        first: dict[tuple[int, int | None, int | None], Process] = {}
        for one in found:
            first.setdefault((one.pid, one.gpu_instance, one.compute_instance), one)
        return tuple(first.values())

    def telemetry(self, gpu: int) -> Telemetry:
        return read_telemetry(self._about(gpu))

    def _about(self, gpu: int, mig_device: Handle = None) -> Ask:
        """Questions about a GPU, or about its MIG device of that handle."""

        def ask(*names: str, args: tuple[Any, ...] = ()) -> Any:
            handle = self._handle(gpu) if mig_device is None else mig_device
            return self._newest((gpu,), *((name, (handle, *args)) for name in names))

        return ask

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

    def _newest(self, place: tuple[int, ...], *calls: tuple[str, tuple[Any, ...]]) -> Any:
        """The first of these calls that the driver is not too old for; one that it is too old for is tried only once."""
        for name, args in calls[:-1]:
            if name not in self._too_old:
                try:
                    return self._call(place, name, *args)
                except DeviceError as error:
                    if error.code not in TOO_OLD:
                        raise
                    self._too_old.add(name)
        return self._call(place, calls[-1][0], *calls[-1][1])

    def _info(self, place: tuple[int, ...], name: str, *args: Any) -> Any:
        """A structure in its second version, which has a name; from a driver that is too old, in its first."""
        return self._newest(place, (name, (*args, 2)), (name, (*args, 1)))

    def _call(self, place: tuple[int, ...], name: str, *args: Any) -> Any:
        """The binding's function of that name; whatever is refused raises DeviceError that says where.

        ``place`` numbers of the GPU, its GPU instance, its compute instance, as far as the call is about them.
        """
        function = getattr(pynvml, name, None)
        self.calling[threading.get_ident()] = (name, time.monotonic())
        try:
            if function is None:  # a binding older than the call
                raise DeviceError(status.FUNCTION_NOT_FOUND, name, self._where(place))
            return function(*args)
        except pynvml.NVMLError as error:
            raise DeviceError(error.value, name, self._where(place)) from None
        except pynvml.NVMLLibraryMismatchError:
            raise DeviceError(status.FUNCTION_NOT_FOUND, name, self._where(place)) from None
        finally:
            self.calling.pop(threading.get_ident(), None)

    def _where(self, place: tuple[int, ...]) -> str:
        words = [
            f"{what} {number}" for what, number in zip(("GPU", "GPU instance", "compute instance"), place, strict=False)
        ]
        if place and self._names.get(place[0]):
            words[0] += f" ({self._names[place[0]]})"
        return ", ".join(words)


def twice(ordinary: frozenset[int], ask: Callable[[], T]) -> T:
    """The answer; a refusal that is ordinary is believed when it is given twice in a row."""
    try:
        return ask()
    except DeviceError as error:
        if error.code not in ordinary:
            raise
    return ask()


def text(value: str | bytes) -> str:
    """Text of a structure: newer bindings decode it, older ones do not."""
    return value.decode() if isinstance(value, bytes) else value
