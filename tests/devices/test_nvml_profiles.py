"""The NVML driver on what a GPU can be cut into: names, starts and sizes of profiles, also of old drivers."""

from __future__ import annotations

import ctypes
import itertools

import pynvml
import pytest
from nvml_cases import Fake, refused

from rltune.devices import status
from rltune.devices.driver_tables import driver_geometry
from rltune.devices.nvml import NvmlDriver
from rltune.devices.profile_names import profile_name
from rltune.devices.status import DeviceError
from rltune.mig.geometry import Listed, differences, from_driver, geometry
from rltune.nouns.mig_profiles import TYPES


@pytest.mark.parametrize("model", TYPES)
def test_geometry(fake_nvml: Fake, model: str) -> None:
    """Plans made on our tables would be refused by a driver that lists other profiles, starts, sizes or maxima."""
    fake_nvml([model])
    listed = NvmlDriver().profiles(0)
    driver = from_driver(model, (Listed(p.name, p.starts, p.size, p.most) for p in listed))
    assert differences(driver, driver_geometry(model)) == []
    assert not [line for line in differences(driver) if "the driver has no" in line or "has size" in line]
    assert {(p.name, p.compute) for p in listed} == {(p.name, p.compute) for p in driver_geometry(model).profiles}


@pytest.mark.parametrize(("model", "count"), [("A100-80GB", 19), ("A30", 5)])
def test_every_partition_can_be_created_and_no_other(fake_nvml: Fake, model: str, count: int) -> None:
    """A partition in the planner's table that the driver refuses, or one that it lacks, wastes GPUs."""
    nvml, driver, table = fake_nvml([model]), NvmlDriver(), geometry(model)
    plain = {p.name for p in table.profiles if p.kind in ("7g", "4g", "3g", "2g", "1g")}
    profiles = [p for p in driver.profiles(0) if p.name in plain]
    found: set[frozenset[tuple[str, int]]] = set()

    def grow(held: frozenset[tuple[str, int]]) -> None:
        maximal = True
        for profile, start in itertools.product(profiles, range(8)):
            try:
                made = driver.create_gpu_instance(0, profile.name, start)
            except DeviceError:
                continue
            maximal, after = False, held | {(profile.name, start)}
            if after not in seen:
                seen.add(after)
                grow(after)
            driver.destroy_gpu_instance(0, made)
        if maximal:
            found.add(held)

    seen = {frozenset[tuple[str, int]]()}
    grow(frozenset())
    assert len(found) == count
    assert found == {frozenset((table.profiles[p].name, start) for p, start in state) for state in table.maximal()}
    assert nvml.instances(0) == set()


def test_media_engines_are_one_set(fake_nvml: Fake) -> None:
    """A second instance with media engines must be refused as no room, not tried again for ever."""
    fake_nvml(["A30"])
    driver = NvmlDriver()
    driver.create_gpu_instance(0, "1g.6gb+me", 0)
    assert refused(driver.create_gpu_instance, 0, "2g.12gb+me", 2) == status.INSUFFICIENT_RESOURCES
    assert refused(driver.create_gpu_instance, 0, "1g.6gb+me", 1) == status.INSUFFICIENT_RESOURCES


@pytest.mark.parametrize("model", TYPES)
def test_old_driver_names(fake_nvml: Fake, model: str) -> None:
    """On a driver that tells no names, profiles must be called the same, or plans and instances do not match."""
    nvml = fake_nvml([model])
    named = NvmlDriver().profiles(0)
    nvml.refuse({"nvmlDeviceGetGpuInstanceProfileInfoV": status.FUNCTION_NOT_FOUND})
    nvml.clear()
    assert NvmlDriver().profiles(0) == named
    assert nvml.log().count("nvmlDeviceGetGpuInstanceProfileInfoV") == 1, "the newer call is tried once only"


@pytest.mark.parametrize(
    ("number", "name"), [(0xB, "2g.24gb+gfx"), (0xE, "2g.24gb-me"), (0x10, "2g.24gb+me.all"), (0x9, "2g.24gb")]
)
def test_old_driver_names_of_extras(number: int, name: str) -> None:
    """A graphics profile taken for a plain one would be given to jobs that cannot use it."""
    assert profile_name(number, 2, 24000, 96 << 30) == name


def test_other_structure_version(fake_nvml: Fake) -> None:
    """A driver that knows only another version of the structure is asked for the oldest one."""
    nvml = fake_nvml(["A100-40GB"], refuse={"nvmlDeviceGetGpuInstanceProfileInfoV": status.ARGUMENT_VERSION_MISMATCH})
    assert "1g.5gb+me" in {p.name for p in NvmlDriver().profiles(0)}
    nvml.refuse({"nvmlDeviceGetGpuInstanceProfileInfoV": 0})
    info = pynvml.c_nvmlGpuInstanceProfileInfo_v2_t()
    info.version += 1
    device, call = pynvml.nvmlDeviceGetHandleByIndex(0), pynvml.nvmlLib.nvmlDeviceGetGpuInstanceProfileInfoV
    assert call(device, 0, ctypes.byref(info)) == status.ARGUMENT_VERSION_MISMATCH


def test_a_real_refusal_is_no_missing_profile(fake_nvml: Fake) -> None:
    """A profile that could not be asked about must not vanish silently from what the GPU has."""
    nvml, driver = fake_nvml(["A100-80GB"]), NvmlDriver()
    nvml.set_fault("error", 3, code=status.UNKNOWN, call="nvmlDeviceGetGpuInstanceProfileInfoV")
    assert refused(driver.profiles, 0) == status.UNKNOWN
    assert len(driver.profiles(0)) == 7
