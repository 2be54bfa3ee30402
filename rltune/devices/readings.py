"""Processes and telemetry as NVML tells them: which calls to ask, what a refusal means.

Nothing here imports NVML: an `Ask` makes the calls by name, about one GPU or MIG device.
"""

from __future__ import annotations

from typing import Any, Protocol

from rltune.devices import status
from rltune.devices.driver import Process, Telemetry
from rltune.devices.status import DeviceError

NO_INSTANCE = 0xFFFFFFFF
"""NVML's instance of a process that runs in none."""
COMPUTE_PROCESSES = "nvmlDeviceGetComputeRunningProcesses"
OTHER_PROCESSES = "nvmlDeviceGetGraphicsRunningProcesses", "nvmlDeviceGetMPSComputeRunningProcesses"
WITHOUT = frozenset({status.NOT_SUPPORTED, status.FUNCTION_NOT_FOUND})
"""What NVML says of a list of processes that GPU or driver do not have."""
GPU_SENSOR = 0
"""NVML_TEMPERATURE_GPU."""


class Ask(Protocol):
    def __call__(self, *names: str, args: tuple[Any, ...] = ()) -> Any:
        """The answer to the first of these calls that the driver is not too old for; ``args`` follow the device."""
        ...


def read_processes(ask: Ask, ids: tuple[int, int] | None = None) -> list[Process]:
    """Of a GPU, or of the MIG device of these GPU and compute instances; a process may come more than once.

    Raises where compute processes cannot be told: that must not look like none.
    """
    outer, inner = ids or (None, None)
    found = list(ask(f"{COMPUTE_PROCESSES}_v3", f"{COMPUTE_PROCESSES}_v2"))
    for name in OTHER_PROCESSES:
        try:
            found += ask(f"{name}_v3", f"{name}_v2")
        except DeviceError as error:
            if error.code not in WITHOUT:
                raise
    return [
        Process(
            one.pid,
            one.usedGpuMemory,
            outer if one.gpuInstanceId == NO_INSTANCE else one.gpuInstanceId,
            inner if one.computeInstanceId == NO_INSTANCE else one.computeInstanceId,
        )
        for one in found
    ]


def read_telemetry(ask: Ask) -> Telemetry:
    """Each value on its own: what one call refuses, others may tell."""
    missing: dict[str, int] = {}

    def told(values: tuple[str, ...], *names: str, args: tuple[Any, ...] = ()) -> Any:
        try:
            return ask(*names, args=args)
        except DeviceError as error:
            missing.update(dict.fromkeys(values, error.code))
            return None

    memory = told(("memory_total_bytes", "memory_used_bytes"), "nvmlDeviceGetMemoryInfo")
    rates = told(("utilization_percent", "memory_utilization_percent"), "nvmlDeviceGetUtilizationRates")
    power_mw = told(("power_w",), "nvmlDeviceGetPowerUsage")
    sensors = "nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature"
    return Telemetry(
        getattr(memory, "total", None),
        getattr(memory, "used", None),
        getattr(rates, "gpu", None),
        getattr(rates, "memory", None),
        None if power_mw is None else power_mw / 1000,
        told(("temperature_c",), *sensors, args=(GPU_SENSOR,)),
        told(("energy_mj",), "nvmlDeviceGetTotalEnergyConsumption"),
        missing,
    )
