"""The NVML driver on instances: created, listed, refused, named by UUID, whatever other tools do meanwhile."""

from __future__ import annotations

from random import Random

import pynvml
import pytest
from nvml_cases import Fake, make, refused

from rltune.devices import status
from rltune.devices.driver import ComputeInstance, GpuInstance
from rltune.devices.nvml import NvmlDriver
from rltune.devices.status import DeviceError


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
