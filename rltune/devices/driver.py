"""What a driver of MIG GPUs can do: the one interface that `nvml` and `simulated` implement.

GPUs are numbered as NVML numbers them. Instances are named by the driver's own numbers, never by handles: handles go
stale. Sizes and starts are memory slices, ``compute`` compute slices. Whatever is refused raises
`rltune.devices.status.DeviceError` with the NVML status.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Versions:
    """Of the kernel driver, of NVML, and of CUDA (``12.4``); None where the driver does not say."""

    driver: str | None
    nvml: str | None
    cuda: str | None


@dataclass(frozen=True, slots=True)
class Identity:
    """``index`` NVML's number; ``uuid`` and ``name`` empty where the GPU cannot be reached; ``pci_device_id`` device and vendor in one
    number, as NVML gives it (0x20B010DE)."""

    index: int
    uuid: str
    name: str
    bus_id: str | None
    pci_device_id: int | None


@dataclass(frozen=True, slots=True)
class MigMode:
    """MIG mode now, and after the next reset."""

    current: bool
    pending: bool


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """A GPU-instance profile as the driver lists it.

    ``name`` ``3g.40gb``; ``id`` what calls take; ``compute`` slices; legal ``starts`` and ``size`` in memory slices; ``most``
    instances; ``memory_mb`` MiB.
    """

    name: str
    id: int
    compute: int
    size: int
    starts: tuple[int, ...]
    most: int
    memory_mb: int


@dataclass(frozen=True, slots=True)
class ComputeInstance:
    """``compute`` slices of its GPU instance."""

    id: int
    compute: int


@dataclass(frozen=True, slots=True)
class GpuInstance:
    """A GPU instance and the compute instances in it, by number."""

    id: int
    profile: str
    start: int
    size: int
    compute_instances: tuple[ComputeInstance, ...]


@dataclass(frozen=True, slots=True)
class Process:
    """A process on a GPU; ``memory_bytes`` None where the driver does not say, instances None without MIG."""

    pid: int
    memory_bytes: int | None
    gpu_instance: int | None
    compute_instance: int | None


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Bytes, percent, watts, degrees Celsius, and millijoules since the driver was loaded.

    A value is None where the driver did not tell it; ``missing`` says why: name of the value -> NVML status.
    """

    memory_total_bytes: int | None
    memory_used_bytes: int | None
    utilization_percent: int | None
    memory_utilization_percent: int | None
    power_w: float | None
    temperature_c: int | None
    energy_mj: int | None
    missing: dict[str, int]


class Driver(Protocol):
    """The GPUs of a machine."""

    kind: str
    """``nvml`` or ``simulated``: of whom results speak."""
    calling: dict[int, tuple[str, float]]
    """Thread -> the call that is under way and when it began (`time.monotonic`), for whoever watches that it ends."""

    def close(self) -> None:
        """Let go of the driver."""
        ...

    def versions(self) -> Versions: ...

    def gpus(self) -> tuple[Identity, ...]:
        """All GPUs, by number."""
        ...

    def mig_mode(self, gpu: int) -> MigMode:
        """NOT_SUPPORTED where the GPU has no MIG."""
        ...

    def set_mig_mode(self, gpu: int, enabled: bool) -> int:
        """Set the pending mode; returns the NVML status of its activation (IN_USE, RESET_REQUIRED), 0 where it is active."""
        ...

    def profiles(self, gpu: int) -> tuple[DeviceProfile, ...]:
        """Profiles that the GPU has, in the driver's order; NOT_SUPPORTED while MIG is off."""
        ...

    def instances(self, gpu: int) -> tuple[GpuInstance, ...]:
        """GPU instances by start."""
        ...

    def create_gpu_instance(self, gpu: int, profile: str, start: int | None) -> int:
        """Number of a new GPU instance, as yet without compute instances; ``start`` None: the driver chooses.

        INSUFFICIENT_RESOURCES where there is no room, INVALID_ARGUMENT for an illegal start, FUNCTION_NOT_FOUND where the
        driver is too old to take a start.
        """
        ...

    def create_compute_instance(self, gpu: int, gpu_instance: int, compute: int) -> int:
        """Number of a new compute instance with so many slices."""
        ...

    def destroy_compute_instance(self, gpu: int, gpu_instance: int, compute_instance: int) -> None:
        """IN_USE while a process runs in it."""
        ...

    def destroy_gpu_instance(self, gpu: int, gpu_instance: int) -> None:
        """IN_USE while it has compute instances."""
        ...

    def mig_uuids(self, gpu: int) -> dict[tuple[int, int], str]:
        """(GPU instance, compute instance) -> what a job gets in CUDA_VISIBLE_DEVICES."""
        ...

    def processes(self, gpu: int) -> tuple[Process, ...]:
        """Compute, graphics and MPS processes, each once."""
        ...

    def telemetry(self, gpu: int) -> Telemetry:
        """What the driver tells; never raises for what it does not."""
        ...
