"""A driver whose every query can be made to fail, for what a machine in trouble shows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
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
from rltune.devices.status import DeviceError

PROFILES = (
    DeviceProfile("1g.10gb", 19, 1, 1, (0, 1, 2, 3, 4, 5, 6), 7, 9728),
    DeviceProfile("1g.10gb+me", 20, 1, 1, (0, 1, 2, 3, 4, 5, 6), 1, 9728),
    DeviceProfile("1g.20gb", 15, 1, 2, (0, 2, 4, 6), 4, 19968),
    DeviceProfile("2g.20gb", 14, 2, 2, (0, 2, 4), 3, 19968),
    DeviceProfile("3g.40gb", 9, 3, 4, (0, 4), 2, 40192),
    DeviceProfile("4g.40gb", 5, 4, 4, (0,), 1, 40192),
    DeviceProfile("7g.80gb", 0, 7, 8, (0,), 1, 81152),
)
"""As an A100-80GB's driver lists them."""
TOLD = Telemetry(81920 << 20, 1 << 30, 40, 10, 250.0, 55, 1_000_000, {})


def one_gpu_instance(number: int, profile: str, start: int, inside: bool = True) -> GpuInstance:
    """With one compute instance that takes all of it, or none."""
    row = next(p for p in PROFILES if p.name == profile)
    return GpuInstance(number, profile, start, row.size, (ComputeInstance(0, row.compute),) if inside else ())


@dataclass
class StubDriver:
    """``count`` A100-80GB with MIG on; ``refused``: (call, GPU) -> NVML status; ``calls`` counts what was asked."""

    count: int = 1
    refused: dict[tuple[str, int], int] = field(default_factory=dict)
    instances_of: dict[int, tuple[GpuInstance, ...]] = field(default_factory=dict)
    processes_of: dict[int, tuple[Process, ...]] = field(default_factory=dict)
    told: dict[int, Telemetry] = field(default_factory=dict)
    mig: MigMode = field(default_factory=lambda: MigMode(True, True))
    name: str = "NVIDIA A100-SXM4-80GB"
    listed: tuple[DeviceProfile, ...] = PROFILES
    calls: Counter[str] = field(default_factory=Counter)
    kind: str = "nvml"
    calling: dict[int, tuple[str, float]] = field(default_factory=dict)

    def _answer(self, call: str, gpu: int, value: Any) -> Any:
        self.calls[call] += 1
        if (call, gpu) in self.refused:
            raise DeviceError(self.refused[call, gpu], call, f"GPU {gpu}")
        return value

    def close(self) -> None: ...

    def versions(self) -> Versions:
        return self._answer("versions", -1, Versions("570.1", "12.570", "12.8"))

    def gpus(self) -> tuple[Identity, ...]:
        every = range(self.count)
        listed = tuple(Identity(i, f"GPU-{i}", self.name, f"0000:0{i}:00.0", 0x20B210DE) for i in every)
        return self._answer("gpus", -1, listed)

    def mig_mode(self, gpu: int) -> MigMode:
        return self._answer("mig_mode", gpu, self.mig)

    def profiles(self, gpu: int) -> tuple[DeviceProfile, ...]:
        return self._answer("profiles", gpu, self.listed)

    def instances(self, gpu: int) -> tuple[GpuInstance, ...]:
        return self._answer("instances", gpu, self.instances_of.get(gpu, ()))

    def mig_uuids(self, gpu: int) -> dict[tuple[int, int], str]:
        found = self.instances_of.get(gpu, ())
        uuids = {(i.id, c.id): f"MIG-{gpu}-{i.id}-{c.id}" for i in found for c in i.compute_instances}
        return self._answer("mig_uuids", gpu, uuids)

    def processes(self, gpu: int) -> tuple[Process, ...]:
        return self._answer("processes", gpu, self.processes_of.get(gpu, ()))

    def telemetry(self, gpu: int) -> Telemetry:
        return self._answer("telemetry", gpu, self.told.get(gpu, TOLD))

    def lose(self, gpu: int) -> None:
        """From now on every query of this GPU says that it fell off the bus."""
        for call in ("mig_mode", "profiles", "instances", "mig_uuids", "processes", "telemetry"):
            self.refused[call, gpu] = 15

    def without(self, gpu: int, code: int, *values: str) -> None:
        """These values of its telemetry are not told, with this status."""
        self.told[gpu] = replace(TOLD, missing=dict.fromkeys(values, code), **dict.fromkeys(values))
