"""What the tests of the NVML driver share: calls that must be refused, and instances to begin with."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fake_nvml import FakeNvml

from rltune.devices.nvml import NvmlDriver
from rltune.devices.status import DeviceError

Fake = Callable[..., FakeNvml]


def refused(call: Callable[..., object], *args: object) -> int:
    """The status with which a call is refused."""
    with pytest.raises(DeviceError) as caught:
        call(*args)
    return caught.value.code


def make(driver: NvmlDriver, profile: str, start: int | None, *compute: int, gpu: int = 0) -> int:
    """A GPU instance with these compute instances."""
    made = driver.create_gpu_instance(gpu, profile, start)
    for slices in compute:
        driver.create_compute_instance(gpu, made, slices)
    return made
