"""A real GPU, read only: what the driver tells is what tables and interface expect."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rltune.devices.nvml import NvmlDriver
from rltune.devices.status import NOT_SUPPORTED, DeviceError

pytestmark = pytest.mark.gpu


@pytest.fixture
def driver() -> Iterator[NvmlDriver]:
    try:
        real = NvmlDriver()
    except DeviceError as error:
        pytest.skip(f"no NVIDIA GPU: {error}")
    yield real
    real.close()


def test_inventory(driver: NvmlDriver) -> None:
    """Every GPU has a UUID, a name and PCI numbers of NVIDIA, and the versions are known."""
    gpus = driver.gpus()
    assert [gpu.index for gpu in gpus] == list(range(len(gpus))) and gpus
    assert all(gpu.uuid.startswith("GPU-") and gpu.name for gpu in gpus)
    assert all(gpu.pci_device_id is None or gpu.pci_device_id & 0xFFFF == 0x10DE for gpu in gpus)
    assert all(getattr(driver.versions(), name) for name in ("driver", "nvml", "cuda"))


def test_telemetry(driver: NvmlDriver) -> None:
    """Values are in the units that their names say; what is missing has a reason."""
    for gpu in driver.gpus():
        told = driver.telemetry(gpu.index)
        assert told.memory_total_bytes is None or told.memory_total_bytes > 2**30
        assert told.power_w is None or 1 < told.power_w < 3000
        assert told.temperature_c is None or 0 < told.temperature_c < 120
        assert told.utilization_percent is None or 0 <= told.utilization_percent <= 100
        assert told.energy_mj is None or told.energy_mj > 0
        names = [name for name in told.__slots__ if name != "missing"]
        assert {name for name in names if getattr(told, name) is None} == set(told.missing)


def test_mig(driver: NvmlDriver) -> None:
    """Mode, profiles, instances, MIG devices and processes can be read, or are refused as not supported."""
    for gpu in driver.gpus():
        try:
            on = driver.mig_mode(gpu.index).current
        except DeviceError as error:
            assert error.code == NOT_SUPPORTED
            on = False
        driver.processes(gpu.index)
        if not on:
            assert driver.mig_uuids(gpu.index) == {}
            try:  # drivers may list profiles before MIG is on
                assert all(profile.starts for profile in driver.profiles(gpu.index))
            except DeviceError as error:
                assert error.code == NOT_SUPPORTED
            continue
        profiles = {profile.name: profile for profile in driver.profiles(gpu.index)}
        for one in driver.instances(gpu.index):
            assert one.start in profiles[one.profile].starts and one.size == profiles[one.profile].size
