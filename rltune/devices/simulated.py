"""A simulated machine of MIG GPUs: the same interface, the same refusals, real processes.

What is legal comes from `rltune.mig.geometry`; what is refused, and with which status, follows NVML (a test holds it to the
C library that stands in for NVML in the tests). A process runs in an instance if its CUDA_VISIBLE_DEVICES names it, as
CUDA would have it, or if it was attached by hand. Memory in use is not known; power is that of `rltune.nouns.gpus`, by the
share of compute slices in which something runs.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

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
from rltune.devices.driver_tables import PCI_IDS, driver_geometry, engines_left, profiles_of
from rltune.devices.open import check_pace
from rltune.devices.state import compute_sizes
from rltune.devices.status import (
    IN_USE,
    INSUFFICIENT_RESOURCES,
    INVALID_ARGUMENT,
    NOT_FOUND,
    NOT_SUPPORTED,
    SUCCESS,
    DeviceError,
)
from rltune.mig.geometry import Geometry, Placement, geometry
from rltune.nouns.errors import InputError
from rltune.nouns.gpus import GPU_TYPES

SCHEMA_VERSION = 1
SPACE = uuid.UUID("7f1bb7b5-6e0a-4c0e-9f0e-7a1d5d6f2c11")
"""Namespace of simulated MIG UUIDs: the same instance has the same one again."""
GIB = 1024**3


@dataclass
class _Instance:
    profile: int
    start: int
    compute: dict[int, int] = field(default_factory=dict)


@dataclass
class _Gpu:
    model: str
    uuid: str
    mig: bool = True
    instances: dict[int, _Instance] = field(default_factory=dict)
    attached: dict[int, tuple[int | None, int | None]] = field(default_factory=dict)
    energy_mj: float = 0.0
    measured_at: float = 0.0


class SimulatedDriver:
    """``SimulatedDriver(["a100-80gb", "a30"])``: a GPU a model, MIG on, nothing in it.

    ``pace``: share of the documented seconds of creation and destruction that a call really takes. ``file``: where the state
    lives, shared by all processes that name it; None: in this object. ``scan``: look for processes in /proc.
    """

    kind = "simulated"

    def __init__(
        self, models: Sequence[str], pace: float = 1.0, file: Path | None = None, mig: bool = True, scan: bool = True
    ) -> None:
        check_pace(pace)
        self.calling: dict[int, tuple[str, float]] = {}
        self.pace, self.scan, self._file = pace, scan, file
        self._turn = threading.RLock()
        self._models = [geometry(model).model for model in models]
        if not self._models:
            raise InputError("a simulated device needs at least one GPU model, such as simulated:a100-80gb")
        now = time.time()
        self._gpus = [
            # Of no other machine: a job that runs on one of them must not be found on another.
            _Gpu(model, f"GPU-{uuid.uuid4()}", mig, measured_at=now)
            for model in self._models
        ]
        if file is not None:
            with self._state():
                pass

    def close(self) -> None:
        """Nothing to let go of: the state is where it was."""

    @contextmanager
    def _state(self, change: bool = False) -> Iterator[list[_Gpu]]:
        """The GPUs, read from the file under its lock and, for a change or where there is no file yet, written back."""
        if self._file is None:
            with self._turn:
                yield self._gpus
            return
        lock = self._file.with_name(self._file.name + ".lock")
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            with open(lock, "w") as held:
                fcntl.flock(held, fcntl.LOCK_EX)
                new = not self._file.exists()
                if not new:
                    self._gpus = _read(self._file, self._models)
                yield self._gpus
                if change or new:
                    _write(self._file, self._gpus)
        except OSError as error:
            raise InputError(f"{self._file}: the simulated device cannot be kept there ({error.strerror})") from None

    @contextmanager
    def _call(self, name: str, gpu: int | None = None, change: bool = False) -> Iterator[Any]:
        """One call, as NVML names it: the GPU's state, and a function that refuses."""
        where = "" if gpu is None else f"GPU {gpu}"
        self.calling[threading.get_ident()] = (name, time.monotonic())

        def refuse(code: int) -> DeviceError:
            return DeviceError(code, name, where)

        try:
            with self._state(change) as gpus:
                if gpu is None:
                    yield gpus, refuse
                elif 0 <= gpu < len(gpus):
                    yield gpus[gpu], refuse
                else:
                    raise DeviceError(INVALID_ARGUMENT, "nvmlDeviceGetHandleByIndex", where)
        finally:
            self.calling.pop(threading.get_ident(), None)

    def versions(self) -> Versions:
        return Versions("simulated", "simulated", None)

    def gpus(self) -> tuple[Identity, ...]:
        with self._call("nvmlDeviceGetHandleByIndex") as (gpus, _):
            return tuple(
                Identity(i, g.uuid, f"simulated {g.model}", f"00000000:{7 + 8 * i:02X}:00.0", PCI_IDS[g.model])
                for i, g in enumerate(gpus)
            )

    def mig_mode(self, gpu: int) -> MigMode:
        with self._call("nvmlDeviceGetMigMode", gpu) as (found, _):
            return MigMode(found.mig, found.mig)

    def set_mig_mode(self, gpu: int, enabled: bool) -> int:
        with self._call("nvmlDeviceSetMigMode", gpu, change=True) as (found, _):
            if enabled == found.mig:
                return SUCCESS
            if self._processes(found):
                return IN_USE
            found.mig = enabled
            found.instances.clear()
            return SUCCESS

    def profiles(self, gpu: int) -> tuple[DeviceProfile, ...]:
        with self._call("nvmlDeviceGetGpuInstancePossiblePlacements", gpu) as (found, refuse):
            if not found.mig:
                raise refuse(NOT_SUPPORTED)
            return profiles_of(found.model)

    def instances(self, gpu: int) -> tuple[GpuInstance, ...]:
        with self._call("nvmlDeviceGetGpuInstances", gpu) as (found, _):
            table = driver_geometry(found.model)
            listed = [
                GpuInstance(
                    number,
                    table.profiles[one.profile].name,
                    one.start,
                    table.profiles[one.profile].size,
                    tuple(ComputeInstance(ci, slices) for ci, slices in sorted(one.compute.items())),
                )
                for number, one in found.instances.items()
            ]
            return tuple(sorted(listed, key=lambda one: one.start))

    def create_gpu_instance(self, gpu: int, profile: str, start: int | None) -> int:
        name = "nvmlDeviceCreateGpuInstance" + ("" if start is None else "WithPlacement")
        with self._call(name, gpu, change=True) as (found, refuse):
            table = driver_geometry(found.model)
            names = [one.name for one in table.profiles]
            if not found.mig or profile not in names:
                raise refuse(NOT_SUPPORTED)
            index = names.index(profile)
            if start is not None and start not in table.profiles[index].starts:
                raise refuse(INVALID_ARGUMENT)
            here = tuple(Placement(one.profile, one.start) for one in found.instances.values())
            free = [p for p in table.can_create(here, [index]) if start in (None, p.start)]
            if not engines_left(table, [one.profile for one in found.instances.values()], index):
                free = []
            if not free:
                raise refuse(INSUFFICIENT_RESOURCES)
            number = next(n for n in range(1, table.slices + 2) if n not in found.instances)
            # Which of the free ones a driver chooses is its own affair; from the right, as large profiles begin left.
            found.instances[number] = _Instance(index, free[-1].start)
        self._take(table.profiles[index].create_s)
        return number

    def create_compute_instance(self, gpu: int, gpu_instance: int, compute: int) -> int:
        with self._call("nvmlGpuInstanceCreateComputeInstance", gpu, change=True) as (found, refuse):
            one = self._instance(found, gpu_instance, refuse)
            total = driver_geometry(found.model).profiles[one.profile].compute
            if compute not in compute_sizes(total):
                raise refuse(NOT_SUPPORTED)
            if sum(one.compute.values()) + compute > total:
                raise refuse(INSUFFICIENT_RESOURCES)
            number = next(n for n in range(total + 1) if n not in one.compute)
            one.compute[number] = compute
            return number

    def destroy_compute_instance(self, gpu: int, gpu_instance: int, compute_instance: int) -> None:
        with self._call("nvmlComputeInstanceDestroy", gpu, change=True) as (found, refuse):
            one = self._instance(found, gpu_instance, refuse)
            if compute_instance not in one.compute:
                raise refuse(NOT_FOUND)
            inside = (gpu_instance, compute_instance)
            if any((p.gpu_instance, p.compute_instance) == inside for p in self._processes(found)):
                raise refuse(IN_USE)
            del one.compute[compute_instance]

    def destroy_gpu_instance(self, gpu: int, gpu_instance: int) -> None:
        with self._call("nvmlGpuInstanceDestroy", gpu, change=True) as (found, refuse):
            one = self._instance(found, gpu_instance, refuse)
            if one.compute:
                raise refuse(IN_USE)
            del found.instances[gpu_instance]
            seconds = driver_geometry(found.model).profiles[one.profile].destroy_s
        self._take(seconds)

    def mig_uuids(self, gpu: int) -> dict[tuple[int, int], str]:
        with self._call("nvmlDeviceGetMigDeviceHandleByIndex", gpu) as (found, _):
            return _uuids(found)

    def processes(self, gpu: int) -> tuple[Process, ...]:
        with self._call("nvmlDeviceGetComputeRunningProcesses_v3", gpu) as (found, _):
            return self._processes(found)

    def telemetry(self, gpu: int) -> Telemetry:
        with self._call("nvmlDeviceGetUtilizationRates", gpu, change=True) as (found, _):
            table, power = driver_geometry(found.model), GPU_TYPES[found.model]
            share = _busy_share(found, self._processes(found), table)
            idle, busy = power.idle_w, power.busy_w
            watts = None if idle is None or busy is None else idle + share * (busy - idle)
            now = time.time()
            found.energy_mj += (watts or 0.0) * 1e3 * max(0.0, now - found.measured_at)
            found.measured_at = now
            missing = dict.fromkeys(("memory_used_bytes", "memory_utilization_percent", "temperature_c"), NOT_SUPPORTED)
            if watts is None:
                missing |= dict.fromkeys(("power_w", "energy_mj"), NOT_SUPPORTED)
            energy = None if watts is None else round(found.energy_mj)
            total = int((power.memory_gb or 0) * GIB)
            return Telemetry(total, None, round(100 * share), None, watts, None, energy, missing)

    def attach(self, gpu: int, pid: int, gpu_instance: int | None = None, compute_instance: int | None = None) -> None:
        """Let a process run there, for tests and simulations; without instances: on the whole GPU."""
        with self._call("attach", gpu, change=True) as (found, _):
            found.attached[pid] = (gpu_instance, compute_instance)

    def detach(self, gpu: int, pid: int) -> None:
        """Its end."""
        with self._call("detach", gpu, change=True) as (found, _):
            found.attached.pop(pid, None)

    def _processes(self, gpu: _Gpu) -> tuple[Process, ...]:
        listed = [Process(pid, None, *inside) for pid, inside in gpu.attached.items()]
        if self.scan:
            names = {name: inside for inside, name in _uuids(gpu).items()} | {gpu.uuid: (None, None)}
            listed += [Process(pid, None, *names[name]) for pid, name in _visible_devices() if name in names]
        return tuple(listed)

    def _instance(self, gpu: _Gpu, number: int, refuse: Any) -> _Instance:
        if number not in gpu.instances:
            raise refuse(NOT_FOUND)
        return gpu.instances[number]

    def _take(self, seconds: float) -> None:
        if self.pace:
            time.sleep(self.pace * seconds)


def _uuids(gpu: _Gpu) -> dict[tuple[int, int], str]:
    return {
        (number, ci): f"MIG-{uuid.uuid5(SPACE, f'{gpu.uuid} {number} {ci}')}"
        for number, one in gpu.instances.items()
        for ci in one.compute
    }


def _busy_share(gpu: _Gpu, processes: Sequence[Process], table: Geometry) -> float:
    """Compute slices in which something runs, over all of the GPU's."""
    inside = {(p.gpu_instance, p.compute_instance) for p in processes}
    if (None, None) in inside:
        return 1.0
    slices = [n for number, one in gpu.instances.items() for ci, n in one.compute.items() if (number, ci) in inside]
    return sum(slices) / table.compute


def _visible_devices() -> Iterator[tuple[int, str]]:
    """Processes of this machine and the devices that CUDA would let them see, as far as we may read it."""
    for entry in os.listdir("/proc"):
        if not entry.isdecimal():
            continue
        try:
            with open(f"/proc/{entry}/environ", "rb") as file:
                environment = file.read()
        except OSError:
            continue  # it ended, or is another user's
        for word in environment.split(b"\0"):
            if word.startswith(b"CUDA_VISIBLE_DEVICES="):
                for name in word.partition(b"=")[2].decode(errors="replace").split(","):
                    yield int(entry), name


def _read(path: Path, models: Sequence[str]) -> list[_Gpu]:
    try:
        value = json.loads(path.read_text())
        if value["schema_version"] != SCHEMA_VERSION:
            raise InputError(f"{path}: schema_version {value['schema_version']}, not {SCHEMA_VERSION}; remove the file")
        gpus = [_gpu(one) for one in value["gpus"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: is no state of a simulated device; remove the file to begin anew") from None
    if [gpu.model for gpu in gpus] != list(models):
        held = ", ".join(gpu.model for gpu in gpus)
        raise InputError(f"{path}: holds {held}, not {', '.join(models)}; name another file, or remove it")
    return gpus


def _gpu(value: dict[str, Any]) -> _Gpu:
    instances = {
        int(number): _Instance(one["profile"], one["start"], {int(ci): n for ci, n in one["compute"].items()})
        for number, one in value["instances"].items()
    }
    attached = {int(pid): (inside[0], inside[1]) for pid, inside in value["attached"].items()}
    return _Gpu(
        value["model"], value["uuid"], value["mig"], instances, attached, value["energy_mj"], value["measured_at"]
    )


def _write(path: Path, gpus: Sequence[_Gpu]) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps({"schema_version": SCHEMA_VERSION, "gpus": [asdict(gpu) for gpu in gpus]}, indent=1))
    os.replace(partial, path)
