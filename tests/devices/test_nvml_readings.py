"""The NVML driver on processes, telemetry and the inventory, also of drivers that lack half of the calls."""

from __future__ import annotations

import itertools

import pynvml
import pytest
from nvml_cases import Fake, make, refused

from rltune.devices import status
from rltune.devices.driver import Process
from rltune.devices.nvml import NvmlDriver

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
