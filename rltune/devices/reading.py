"""The state of GPUs, and who uses their instances, as the driver tells it now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from rltune.devices.driver import Driver, GpuInstance, Identity
from rltune.devices.state import GpuState, Instance, States, state
from rltune.devices.status import NOT_SUPPORTED, DeviceError


class Reading(NamedTuple):
    """One GPU at one moment: its state, and the driver's numbers of its instances (none where MIG is off)."""

    state: GpuState
    held: tuple[GpuInstance, ...]


@dataclass(frozen=True, slots=True)
class Users:
    """Who keeps instances from being destroyed.

    ``of``: instance -> a few words (``pid 4242``, ``tenant alice``); ``elsewhere``: processes on the GPU that are in no instance.
    """

    of: Mapping[Instance, str]
    elsewhere: tuple[int, ...] = ()


def describe_elsewhere(users: Users) -> str:
    """Why nothing on the GPU can be taken for idle."""
    pids = ", ".join(map(str, users.elsewhere))
    return f"pid {pids} runs on it, and the driver does not tell in which instance; end that first"


def read_gpu(driver: Driver, gpu: int) -> Reading:
    """MIG mode and instances of one GPU, by number."""
    try:
        mode = driver.mig_mode(gpu)
    except DeviceError as error:
        if error.code != NOT_SUPPORTED:
            raise
        return Reading(state(None), ())
    held = driver.instances(gpu) if mode.current else ()
    return Reading(state(mode.current, map(instance_of, held), mode.pending), held)


def read_state(driver: Driver, gpu: int) -> GpuState:
    """MIG mode and instances of one GPU, without the driver's numbers."""
    return read_gpu(driver, gpu).state


def read_states(driver: Driver, gpus: tuple[Identity, ...] | None = None) -> States:
    """The state of every GPU (or of these), by UUID; GPUs that cannot be reached have none."""
    return {gpu.uuid: read_state(driver, gpu.index) for gpu in (driver.gpus() if gpus is None else gpus) if gpu.uuid}


def instance_of(one: GpuInstance) -> Instance:
    """A driver's instance without its numbers."""
    return Instance(one.profile, one.start, tuple(sorted(ci.compute for ci in one.compute_instances)))


def read_users(
    driver: Driver, gpu: int, tenants: Mapping[tuple[str, int], str], listed: tuple[GpuInstance, ...] | None = None
) -> Users:
    """Processes and tenants of one GPU; ``tenants``: (profile, start) -> name; ``listed``: its instances, if read just now.

    Raises DeviceError where the driver does not tell processes: nobody may then take an instance for idle. They are asked for last,
    so that one in an instance made meanwhile counts as ``elsewhere``.
    """
    held = {one.id: instance_of(one) for one in (driver.instances(gpu) if listed is None else listed)}
    found: dict[Instance, list[str]] = {}
    elsewhere: list[int] = []
    for process in driver.processes(gpu):
        one = None if process.gpu_instance is None else held.get(process.gpu_instance)
        if one is None:
            elsewhere.append(process.pid)
        else:
            found.setdefault(one, []).append(f"pid {process.pid}")
    for one in held.values():
        if (one.profile, one.start) in tenants:
            found.setdefault(one, []).append(f"tenant {tenants[one.profile, one.start]}")
    return Users({one: ", ".join(names) for one, names in found.items()}, tuple(sorted(set(elsewhere))))
