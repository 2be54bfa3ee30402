"""The NVML driver through NVIDIA's own binding, against a stand-in library that behaves like hardware."""

from __future__ import annotations

import ctypes
import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import pynvml
import pytest
from fake_nvml import COMPILER, FakeNvml, fake

from rltune.devices import status
from rltune.devices.driver import ComputeInstance, GpuInstance, Process
from rltune.devices.nvml import NvmlDriver
from rltune.devices.profile_names import profile_name
from rltune.devices.status import DeviceError
from rltune.mig.geometry import Listed, differences, from_driver, geometry
from rltune.nouns.mig_profiles import TYPES

Fake = Callable[..., FakeNvml]
ROOT = Path(__file__).resolve().parents[2]
READ = "import json, sys; from rltune.devices.nvml import NvmlDriver; driver = NvmlDriver(); "


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


# What a GPU can be cut into


@pytest.mark.parametrize("model", TYPES)
def test_geometry(fake_nvml: Fake, model: str) -> None:
    """Plans made on our tables would be refused by a driver that lists other profiles, starts, sizes or maxima."""
    fake_nvml([model])
    listed = NvmlDriver().profiles(0)
    assert differences(from_driver(model, (Listed(p.name, p.starts, p.size, p.most) for p in listed))) == []
    assert {(p.name, p.compute) for p in listed} == {(p.name, p.compute) for p in geometry(model).profiles}


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


# Instances


def test_instances(fake_nvml: Fake) -> None:
    """What is read must be what is there, by number, profile, start and compute slices, on each GPU alone."""
    nvml, driver = fake_nvml(["A30", "H100-80GB"]), NvmlDriver()
    small = make(driver, "1g.10gb+me", 6, 1, gpu=1)
    large = make(driver, "3g.40gb", 0, 1, 2, gpu=1)
    empty = make(driver, "2g.20gb", 4, gpu=1)
    assert driver.instances(1) == (
        GpuInstance(large, "3g.40gb", 0, 4, (ComputeInstance(0, 1), ComputeInstance(1, 2))),
        GpuInstance(empty, "2g.20gb", 4, 2, ()),
        GpuInstance(small, "1g.10gb+me", 6, 1, (ComputeInstance(0, 1),)),
    )
    assert driver.instances(0) == ()
    assert nvml.instances(1) == {
        ("3g.40gb", 0, (1, 2), large),
        ("2g.20gb", 4, (), empty),
        ("1g.10gb+me", 6, (1,), small),
    }
    driver.destroy_compute_instance(1, large, 0)
    assert driver.instances(1)[0].compute_instances == (ComputeInstance(1, 2),)
    driver.destroy_gpu_instance(1, empty)
    assert {one.id for one in driver.instances(1)} == {large, small}


def test_compute_instances_listed_twice(fake_nvml: Fake) -> None:
    """Where profiles with and without media engines list the same compute instance, it is there once."""
    fake_nvml(["A30"])
    driver = NvmlDriver()
    made = make(driver, "2g.12gb+me", 2, 1)
    assert driver.instances(0)[0].compute_instances == (ComputeInstance(0, 1),)
    driver.create_compute_instance(0, made, 1)
    assert driver.instances(0)[0].compute_instances == (ComputeInstance(0, 1), ComputeInstance(1, 1))


def test_random_histories(fake_nvml: Fake) -> None:
    """After any order of creations and removals, refused ones among them, the reading equals the hardware's state."""
    nvml, random = fake_nvml(["A100-80GB"]), Random(7)
    driver, most = NvmlDriver(), 0
    names = [p.name for p in driver.profiles(0)]
    for _ in range(400):
        there = driver.instances(0)
        try:
            if random.random() < 0.5:
                driver.create_gpu_instance(0, random.choice(names), random.choice([None, *range(7)]))
            elif there:
                one = random.choice(there)
                if random.random() < 0.5:
                    driver.create_compute_instance(0, one.id, random.choice((1, 2, 3, 4, 7)))
                elif one.compute_instances:
                    driver.destroy_compute_instance(0, one.id, random.choice(one.compute_instances).id)
                else:
                    driver.destroy_gpu_instance(0, one.id)
        except DeviceError as error:
            assert error.code in (status.INSUFFICIENT_RESOURCES, status.INVALID_ARGUMENT, status.NOT_SUPPORTED)
        read = {
            (g.profile, g.start, tuple(sorted(c.compute for c in g.compute_instances)), g.id)
            for g in driver.instances(0)
        }
        assert read == nvml.instances(0)
        assert set(driver.mig_uuids(0)) == {(g.id, c.id) for g in driver.instances(0) for c in g.compute_instances}
        most = max(most, len(read))
    assert most >= 4, "the histories fill the GPU"


def test_driver_chooses_the_start(fake_nvml: Fake) -> None:
    """Without a start the driver's own choice is read back, and what it leaves free depends on the order."""
    nvml, driver = fake_nvml(["A100-80GB"]), NvmlDriver()
    driver.create_gpu_instance(0, "1g.10gb", None)
    assert {(profile, start) for profile, start, _, _ in nvml.instances(0)} == {("1g.10gb", 6)}
    assert refused(driver.create_gpu_instance, 0, "3g.40gb", 4) == status.INSUFFICIENT_RESOURCES


@pytest.mark.parametrize(
    ("profile", "start", "code"),
    [
        ("3g.40gb", 2, status.INVALID_ARGUMENT),
        ("1g.10gb", 7, status.INVALID_ARGUMENT),
        ("1g.10gb", -1, status.INVALID_ARGUMENT),
        ("2g.20gb", 0, status.INSUFFICIENT_RESOURCES),
        ("7g.80gb", None, status.INSUFFICIENT_RESOURCES),
        ("3g.20gb", 4, status.NOT_SUPPORTED),
    ],
)
def test_refused_creation(fake_nvml: Fake, profile: str, start: int | None, code: int) -> None:
    """A caller tells a full GPU, an illegal start and an unknown profile apart, and nothing is created."""
    nvml, driver = fake_nvml(["A100-80GB"]), NvmlDriver()
    make(driver, "3g.40gb", 0, 3)
    before = nvml.instances(0)
    assert refused(driver.create_gpu_instance, 0, profile, start) == code
    assert nvml.instances(0) == before


def test_refused_compute_instances(fake_nvml: Fake) -> None:
    """More slices than there are, a size that the instance lacks, and one that is gone are told apart."""
    fake_nvml(["A100-80GB"])
    driver = NvmlDriver()
    made = make(driver, "4g.40gb", 0, 2, 1)
    assert refused(driver.create_compute_instance, 0, made, 2) == status.INSUFFICIENT_RESOURCES
    assert refused(driver.create_compute_instance, 0, made, 3) == status.NOT_SUPPORTED
    assert refused(driver.create_compute_instance, 0, 99, 1) == status.NOT_FOUND
    assert refused(driver.destroy_compute_instance, 0, made, 99) == status.NOT_FOUND


def test_in_use(fake_nvml: Fake) -> None:
    """Neither a running process nor a GPU instance with live compute instances is swept away."""
    nvml, driver = fake_nvml(["A100-80GB"]), NvmlDriver()
    made = make(driver, "3g.40gb", 0, 3)
    nvml.add_process(0, 41, made, 0)
    assert refused(driver.destroy_compute_instance, 0, made, 0) == status.IN_USE
    assert refused(driver.destroy_gpu_instance, 0, made) == status.IN_USE
    nvml.remove_process(0, 41)
    driver.destroy_compute_instance(0, made, 0)
    driver.destroy_gpu_instance(0, made)
    assert nvml.instances(0) == set()


def test_numbers_not_handles(fake_nvml: Fake) -> None:
    """An instance that another tool destroyed and made anew is reached by number; the old handle is refused."""
    fake_nvml(["A100-80GB"])
    driver, other = NvmlDriver(), NvmlDriver()
    made = make(driver, "3g.40gb", 0, 3)
    stale = pynvml.nvmlDeviceGetGpuInstanceById(pynvml.nvmlDeviceGetHandleByIndex(0), made)
    inner = pynvml.nvmlGpuInstanceGetComputeInstanceById(stale, 0)
    other.destroy_compute_instance(0, made, 0)
    other.destroy_gpu_instance(0, made)
    assert make(other, "3g.40gb", 4, 3) == made
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        pynvml.nvmlGpuInstanceGetInfo(stale)
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        pynvml.nvmlComputeInstanceDestroy(inner)
    driver.destroy_compute_instance(0, made, 0)
    driver.destroy_gpu_instance(0, made)
    assert refused(driver.destroy_gpu_instance, 0, made) == status.NOT_FOUND


def test_instance_vanishes_while_listed(fake_nvml: Fake) -> None:
    """Another tool at work makes a listing start again; only one that never settles is an error."""
    nvml, driver = fake_nvml(["A100-80GB"]), NvmlDriver()
    make(driver, "3g.40gb", 0, 3)
    there = driver.instances(0)
    for _ in range(2):
        nvml.set_fault("error", code=status.INVALID_ARGUMENT, call="nvmlGpuInstanceGetInfo")
    assert driver.instances(0) == there
    nvml.set_fault("from_on", code=status.NOT_FOUND, call="nvmlComputeInstanceGetInfo_v2")
    assert refused(driver.instances, 0) == status.NOT_FOUND


def test_half_read_profiles_are_not_remembered(fake_nvml: Fake) -> None:
    """An instance that goes while its compute profiles are read must not hide compute instances ever after."""
    nvml, driver = fake_nvml(["A100-80GB"]), NvmlDriver()
    made = driver.create_gpu_instance(0, "3g.40gb", 0)
    for nth in (2, 3):  # 2 and 3 slices look absent, and then the instance is gone
        nvml.set_fault("error", nth, code=2, call="nvmlGpuInstanceGetComputeInstanceProfileInfoV")
    nvml.set_fault("error", 2, code=2, call="nvmlGpuInstanceGetInfo")
    driver.instances(0)
    driver.create_compute_instance(0, made, 3)
    assert driver.instances(0)[0].compute_instances == (ComputeInstance(0, 3),)


def test_old_driver_without_placements(fake_nvml: Fake) -> None:
    """A driver too old to take a start says so, so that the caller can let it choose."""
    nvml, driver = fake_nvml(["A100-80GB"], missing=["nvmlDeviceCreateGpuInstanceWithPlacement"]), NvmlDriver()
    assert refused(driver.create_gpu_instance, 0, "3g.40gb", 0) == status.FUNCTION_NOT_FOUND
    assert nvml.instances(0) == set()
    driver.create_gpu_instance(0, "3g.40gb", None)
    assert len(nvml.instances(0)) == 1


# UUIDs


def test_sparse_mig_devices(fake_nvml: Fake) -> None:
    """A job must get its own MIG device though earlier ones left gaps in NVML's numbers."""
    fake_nvml(["A100-80GB"])
    driver = NvmlDriver()
    made = [make(driver, "1g.10gb", start, 1) for start in range(3)]
    before = driver.mig_uuids(0)
    for one in made[:2]:
        driver.destroy_compute_instance(0, one, 0)
        driver.destroy_gpu_instance(0, one)
    assert driver.mig_uuids(0) == {(made[2], 0): before[made[2], 0]}
    assert len(set(before.values())) == 3 and all(uuid.startswith("MIG-") for uuid in before.values())


def test_old_uuids(fake_nvml: Fake) -> None:
    """Drivers before R470 spell MIG UUIDs by numbers, which CUDA_VISIBLE_DEVICES needs as they are."""
    fake_nvml(["A100-80GB"], old_uuid=True)
    driver = NvmlDriver()
    made = make(driver, "3g.40gb", 4, 1, 2)
    gpu = driver.gpus()[0].uuid
    assert driver.mig_uuids(0) == {(made, ci): f"MIG-{gpu}/{made}/{ci}" for ci in (0, 1)}


@pytest.mark.parametrize("model", ["A100-80GB", "V100"])
def test_no_mig_devices_while_mig_is_off(fake_nvml: Fake, model: str) -> None:
    """A GPU without MIG, or with MIG off, has no MIG devices, which is no error."""
    fake_nvml([model], mig=False)
    assert NvmlDriver().mig_uuids(0) == {}


# MIG mode


def test_mig_mode(fake_nvml: Fake) -> None:
    """Modes are read and set; with MIG off instances and profiles are refused rather than shown as none."""
    nvml, driver = fake_nvml(["A100-80GB", "V100"], mig=False), NvmlDriver()
    assert refused(driver.mig_mode, 1) == status.NOT_SUPPORTED
    assert refused(driver.profiles, 0) == refused(driver.instances, 0) == status.NOT_SUPPORTED
    assert driver.set_mig_mode(0, True) == status.SUCCESS
    assert driver.mig_mode(0).current and nvml.mode(0) == (True, True)
    make(driver, "3g.40gb", 0, 3)
    assert driver.set_mig_mode(0, False) == status.SUCCESS
    assert nvml.instances(0) == set()
    assert refused(driver.profiles, 0) == status.NOT_SUPPORTED


@pytest.mark.parametrize("activation", ["in_use", "reset_required"])
def test_mig_mode_waits(fake_nvml: Fake, activation: str) -> None:
    """A mode that waits for a reset is reported by status and as pending, not as an error and not as done."""
    nvml, driver = fake_nvml(["A100-80GB"], mig=False, activation=activation), NvmlDriver()
    assert driver.set_mig_mode(0, True) == getattr(status, activation.upper())
    mode = driver.mig_mode(0)
    assert (mode.current, mode.pending) == (False, True)
    nvml.reset_gpu(0)
    assert driver.mig_mode(0).current


def test_mig_mode_in_use(fake_nvml: Fake) -> None:
    """A running process keeps MIG mode as it is."""
    nvml, driver = fake_nvml(["A100-80GB"]), NvmlDriver()
    made = make(driver, "3g.40gb", 0, 3)
    nvml.add_process(0, 5, made, 0)
    assert driver.set_mig_mode(0, False) == status.IN_USE
    assert driver.mig_mode(0).current and len(driver.instances(0)) == 1


def test_no_permission(fake_nvml: Fake) -> None:
    """A user who is not root reads everything, and every change is refused as such without effect."""
    nvml = fake_nvml(["A100-80GB"])
    root = NvmlDriver()
    made = make(root, "3g.40gb", 0, 3)
    before = root.instances(0)
    with nvml.state() as state:
        state.root = 0
    driver = NvmlDriver()
    changes = [
        (driver.set_mig_mode, 0, False),
        (driver.create_gpu_instance, 0, "3g.40gb", 4),
        (driver.create_gpu_instance, 0, "3g.40gb", None),
        (driver.create_compute_instance, 0, made, 1),
        (driver.destroy_compute_instance, 0, made, 0),
        (driver.destroy_gpu_instance, 0, made),
    ]
    assert [refused(*change) for change in changes] == [status.NO_PERMISSION] * len(changes)
    assert driver.instances(0) == before and len(driver.mig_uuids(0)) == 1


# Processes


def test_processes_once(fake_nvml: Fake) -> None:
    """A process in several of NVML's lists is one process; one in two instances is in both."""
    nvml, driver = fake_nvml(["A100-80GB"]), NvmlDriver()
    one, two = make(driver, "3g.40gb", 0, 3), make(driver, "3g.40gb", 4, 3)
    nvml.add_process(0, 41, one, 0, memory=1 << 30, lists=("compute", "graphics", "mps"))
    nvml.add_process(0, 41, two, 0, memory=None)
    nvml.add_process(0, 42, two, 0, lists=("graphics",))
    assert driver.processes(0) == (
        Process(41, 1 << 30, one, 0),
        Process(41, None, two, 0),
        Process(42, 256 << 20, two, 0),
    )


def test_processes_without_mig(fake_nvml: Fake) -> None:
    """Without MIG a process is in no instance, not in number 4294967295."""
    nvml, driver = fake_nvml(["A100-80GB"], mig=False), NvmlDriver()
    assert driver.processes(0) == ()
    nvml.add_process(0, 41)
    assert driver.processes(0) == (Process(41, 256 << 20, None, None),)


def test_processes_of_an_unprivileged_user(fake_nvml: Fake) -> None:
    """Where the GPU's list is root's only, those of its MIG devices still show who runs."""
    nvml, driver = fake_nvml(["A100-80GB"]), NvmlDriver()
    one, two = make(driver, "3g.40gb", 0, 3), make(driver, "2g.20gb", 4, 1, 1)
    nvml.add_process(0, 41, one, 0)
    nvml.add_process(0, 42, two, 1)
    told = driver.processes(0)
    with nvml.state() as state:
        state.root = 0
    assert driver.processes(0) == told
    assert {(p.pid, p.gpu_instance, p.compute_instance) for p in told} == {(41, one, 0), (42, two, 1)}


@pytest.mark.parametrize("kind", ["Graphics", "MPSCompute"])
def test_lists_that_a_gpu_lacks(fake_nvml: Fake, kind: str) -> None:
    """A GPU without graphics or MPS still shows its compute processes."""
    nvml = fake_nvml(["A100-80GB"], mig=False, refuse={f"nvmlDeviceGet{kind}RunningProcesses_v3": status.NOT_SUPPORTED})
    nvml.add_process(0, 41)
    assert [p.pid for p in NvmlDriver().processes(0)] == [41]


@pytest.mark.parametrize("code", [status.NOT_SUPPORTED, status.NO_PERMISSION, status.UNKNOWN])
def test_untold_processes_are_not_none(fake_nvml: Fake, code: int) -> None:
    """Where compute processes cannot be told, nobody may believe that the GPU is idle."""
    fake_nvml(["A100-80GB"], refuse={"nvmlDeviceGetComputeRunningProcesses_v3": code})
    assert refused(NvmlDriver().processes, 0) == code


def test_old_process_lists(fake_nvml: Fake) -> None:
    """A driver with the second version of the lists only still shows its processes."""
    new = [f"nvmlDeviceGet{kind}RunningProcesses_v3" for kind in ("Compute", "Graphics", "MPSCompute")]
    nvml = fake_nvml(["A100-80GB"], mig=False, missing=new)
    nvml.add_process(0, 41)
    assert [p.pid for p in NvmlDriver().processes(0)] == [41]


# Telemetry and inventory


def test_inventory(fake_nvml: Fake) -> None:
    """GPUs are known by UUID, name and PCI numbers, as NVIDIA's own tools print them."""
    fake_nvml(["A100-40GB", "H100-80GB"])
    driver = NvmlDriver()
    first, second = driver.gpus()
    assert (first.index, first.name, first.bus_id, first.pci_device_id) == (
        0, "NVIDIA A100-SXM4-40GB", "00000000:07:00.0", 0x20B010DE,
    )  # fmt: skip
    assert second.name == "NVIDIA H100 80GB HBM3" and second.uuid != first.uuid
    assert driver.versions().cuda == "12.4" and driver.versions().driver == "550.54.15"


def test_inventory_without_pci_and_versions(fake_nvml: Fake) -> None:
    """A virtual GPU that hides its PCI numbers, or a driver that hides its version, is still shown."""
    fake_nvml(["A30"], refuse={"nvmlDeviceGetPciInfo_v3": 3, "nvmlSystemGetCudaDriverVersion_v2": 3})
    driver = NvmlDriver()
    assert (driver.gpus()[0].bus_id, driver.gpus()[0].pci_device_id) == (None, None)
    assert driver.versions().cuda is None and driver.versions().nvml


def test_telemetry(fake_nvml: Fake) -> None:
    """Values come in the units that their names say, and what MIG mode hides is None with the reason."""
    fake_nvml(["A100-80GB", "A100-80GB"], mig=[False, True])
    driver = NvmlDriver()
    whole, cut = driver.telemetry(0), driver.telemetry(1)
    assert (whole.memory_total_bytes, whole.power_w, whole.energy_mj) == (80 << 30, 61.5, 123456789012)
    assert (whole.utilization_percent, whole.memory_utilization_percent, whole.temperature_c) == (37, 21, 34)
    assert not whole.missing
    assert cut.utilization_percent is None and cut.power_w == 61.5
    assert cut.missing == dict.fromkeys(("utilization_percent", "memory_utilization_percent"), status.NOT_SUPPORTED)


CALLS = {
    "nvmlDeviceGetMemoryInfo": {"memory_total_bytes", "memory_used_bytes"},
    "nvmlDeviceGetUtilizationRates": {"utilization_percent", "memory_utilization_percent"},
    "nvmlDeviceGetPowerUsage": {"power_w"},
    "nvmlDeviceGetTemperatureV": {"temperature_c"},
    "nvmlDeviceGetTotalEnergyConsumption": {"energy_mj"},
}


@pytest.mark.parametrize("call", CALLS)
def test_degraded_telemetry(fake_nvml: Fake, call: str) -> None:
    """One value that the driver refuses costs that value, not the others."""
    fake_nvml(["A100-80GB"], mig=False, refuse={call: status.NO_PERMISSION})
    told = NvmlDriver().telemetry(0)
    assert told.missing == dict.fromkeys(CALLS[call], status.NO_PERMISSION)
    assert {name for names in CALLS.values() for name in names if getattr(told, name) is None} == CALLS[call]


def test_old_temperature(fake_nvml: Fake) -> None:
    """A driver without the newer temperature call still tells the temperature."""
    fake_nvml(["A100-80GB"], missing=["nvmlDeviceGetTemperatureV"])
    assert NvmlDriver().telemetry(0).temperature_c == 33


def test_lost_gpu(fake_nvml: Fake) -> None:
    """A GPU that fell off the bus is told as lost, by telemetry without an error, and its neighbours go on."""
    nvml, driver = fake_nvml(["A100-80GB", "A100-80GB"]), NvmlDriver()
    driver.gpus()
    nvml.lose(0)
    told = driver.telemetry(0)
    assert told.power_w is None and set(told.missing.values()) == {status.GPU_IS_LOST}
    assert refused(driver.instances, 0) == status.GPU_IS_LOST
    assert driver.instances(1) == ()


@pytest.mark.parametrize("call", ["nvmlDeviceGetHandleByIndex", "nvmlDeviceGetUUID"])
@pytest.mark.parametrize("code", [4, 8, 11, 15, 77, 999])
def test_a_gpu_that_cannot_be_reached_is_listed(
    fake_nvml: Fake, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    """One GPU without its power cable, or not ours to see, would hide all others of the machine."""
    fake_nvml(["A30", "A100-80GB", "A30"])
    driver, answer, asked = NvmlDriver(), getattr(pynvml, call), itertools.count()

    def second_fails(argument: object) -> object:
        if next(asked) == 1:
            raise pynvml.NVMLError(code)
        return answer(argument)

    monkeypatch.setattr(pynvml, call, second_fails)
    assert [(one.index, bool(one.uuid)) for one in driver.gpus()] == [(0, True), (1, False), (2, True)]
    monkeypatch.undo()
    assert all(one.uuid for one in driver.gpus())


# Calls


def test_error_says_where(fake_nvml: Fake) -> None:
    """The message names GPU, instance and call, so that a person finds the right one of eight."""
    nvml, driver = fake_nvml(["A30", "A30"]), NvmlDriver()
    made = make(driver, "2g.12gb", 2, 2, gpu=1)
    nvml.add_process(1, 41, made, 0)
    with pytest.raises(DeviceError) as caught:
        driver.destroy_compute_instance(1, made, 0)
    assert str(caught.value).startswith(
        f"GPU 1 (NVIDIA A30), GPU instance {made}, compute instance 0: nvmlComputeInstanceDestroy: IN_USE (19)"
    )


def test_calling(fake_nvml: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever watches for calls that hang sees which one is under way, and none afterwards."""
    fake_nvml(["A30"])
    driver, seen = NvmlDriver(), []
    assert driver.calling == {}
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMigMode", lambda handle: seen.extend(driver.calling.values()) or [1, 1])
    driver.mig_mode(0)
    assert seen[0][0] == "nvmlDeviceGetMigMode" and driver.calling == {}
    assert refused(driver.create_gpu_instance, 0, "2g.12gb", 1) and driver.calling == {}


def test_older_binding(fake_nvml: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """A binding older than a call is like a driver older than it."""
    fake_nvml(["A30"])
    monkeypatch.delattr(pynvml, "nvmlDeviceGetTemperatureV")
    monkeypatch.delattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption")
    told = NvmlDriver().telemetry(0)
    assert told.temperature_c == 33 and told.missing["energy_mj"] == status.FUNCTION_NOT_FOUND


def test_close(fake_nvml: Fake) -> None:
    """A driver closed twice is closed once, and afterwards refuses instead of crashing."""
    nvml, driver = fake_nvml(["A30"]), NvmlDriver()
    driver.close()
    driver.close()
    assert nvml.log().count("nvmlShutdown") == 1
    assert refused(driver.mig_mode, 0) == status.UNINITIALIZED


def python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter, as a command of the user's would be."""
    plain = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    return subprocess.run(
        [sys.executable, "-c", code], env=plain | {"PYTHONPATH": str(ROOT)} | env, capture_output=True, text=True
    )


def test_no_driver() -> None:
    """On a machine without a driver the command says so in one line."""
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        pass
    else:
        pytest.skip("this machine has an NVIDIA driver")
    done = python("from rltune.devices.nvml import NvmlDriver; NvmlDriver()")
    assert done.stderr.splitlines()[-1].startswith(
        "rltune.devices.status.DeviceError: nvmlInit: LIBRARY_NOT_FOUND (12)"
    )


def test_driver_not_loaded(fake_nvml: Fake, tmp_path: Path) -> None:
    """A library without the kernel module is told apart from no library."""
    env = fake_nvml(["A30"]).env | {"FAKE_NVML_STATE": str(tmp_path / "none")}
    done = python("from rltune.devices.nvml import NvmlDriver; NvmlDriver()", **env)
    assert "DRIVER_NOT_LOADED (9)" in done.stderr


def test_another_process(fake_nvml: Fake) -> None:
    """Other processes find the library by name and see, and change, the same GPUs."""
    nvml, driver = fake_nvml(["A100-80GB"]), NvmlDriver()
    make(driver, "3g.40gb", 0, 3)
    done = python(READ + "driver.create_gpu_instance(0, '3g.40gb', 4); print(len(driver.instances(0)))", **nvml.env)
    assert done.stdout == "2\n", done.stderr
    assert {(one.profile, one.start) for one in driver.instances(0)} == {("3g.40gb", 0), ("3g.40gb", 4)}


@pytest.mark.parametrize(("kind", "left"), [("kill_before", 0), ("kill_after", 1)])
def test_killed(fake_nvml: Fake, kind: str, left: int) -> None:
    """A process that dies within a call leaves the hardware as the call left it, and nobody else locked out."""
    nvml, driver = fake_nvml(["A100-80GB"]), NvmlDriver()
    nvml.set_fault(kind, call="nvmlDeviceCreateGpuInstanceWithPlacement")
    done = python(READ + "driver.create_gpu_instance(0, '3g.40gb', 4)", **nvml.env)
    assert done.returncode == -9
    assert len(driver.instances(0)) == len(nvml.instances(0)) == left


def test_faults(fake_nvml: Fake) -> None:
    """Tests of recovery rely on faults that hit the named call, with or without its effect, once or for good."""
    nvml, driver = fake_nvml(["A100-80GB"]), NvmlDriver()
    driver.profiles(0)
    create = "nvmlDeviceCreateGpuInstanceWithPlacement"
    nvml.set_fault("error", code=status.UNKNOWN, call=create)
    assert refused(driver.create_gpu_instance, 0, "3g.40gb", 0) == status.UNKNOWN and not nvml.instances(0)
    nvml.set_fault("error_after", code=status.TIMEOUT, call=create)
    assert refused(driver.create_gpu_instance, 0, "3g.40gb", 0) == status.TIMEOUT and len(nvml.instances(0)) == 1
    nvml.set_fault("delay", delay_ms=1)
    nvml.set_fault("from_on", 2, code=status.GPU_IS_LOST)
    assert driver.mig_mode(0).current
    assert [refused(driver.mig_mode, 0) for _ in range(3)] == [status.GPU_IS_LOST] * 3
    nvml.clear()
    assert driver.mig_mode(0).current and nvml.calls() == 1 and nvml.log() == ["nvmlDeviceGetMigMode"]


@pytest.mark.skipif(COMPILER is None, reason="no C compiler (cc)")
def test_binding_is_restored() -> None:
    """Tests on a real GPU in the same process must not meet GPUs that do not exist."""
    before = pynvml.nvmlLib
    with fake(["A30"]):
        assert NvmlDriver().gpus()[0].name == "NVIDIA A30" and pynvml.nvmlLib is not before
    assert pynvml.nvmlLib is before and "nvmlDeviceGetName" not in pynvml._nvmlGetFunctionPointer_cache


def test_calls_of_a_full_reading(fake_nvml: Fake) -> None:
    """Reading eight GPUs must stay a matter of milliseconds: few calls, and none again for what cannot change."""
    nvml, driver = fake_nvml(["A100-80GB"] * 8), NvmlDriver()
    for gpu in range(8):
        for start in (0, 4):
            make(driver, "3g.40gb", start, 3, gpu=gpu)
        driver.instances(gpu)
    nvml.clear()
    for gpu in range(8):
        assert len(driver.instances(gpu)) == 2
    assert nvml.calls() == 8 * (7 + 2 * 3), (
        "a list a profile; of an instance its place, its compute instance, that one's number"
    )
