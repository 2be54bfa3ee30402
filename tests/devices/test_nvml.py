"""The NVML driver through NVIDIA's own binding, against a stand-in library that behaves like hardware: modes and calls."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pynvml
import pytest
from fake_nvml import COMPILER, fake
from nvml_cases import Fake, make, refused

from rltune.devices import status
from rltune.devices.adapter import Adapter
from rltune.devices.nvml import NvmlDriver
from rltune.devices.spec import spec_of
from rltune.devices.status import DeviceError

ROOT = Path(__file__).resolve().parents[2]
READ = "import json, sys; from rltune.devices.nvml import NvmlDriver; driver = NvmlDriver(); "

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


def test_calls_of_an_apply(fake_nvml: Fake, tmp_path: Path) -> None:
    """Cutting eight GPUs anew must not read them again and again: once to plan, check, record, change and verify each."""
    nvml, driver = fake_nvml(["A100-80GB"] * 8), NvmlDriver()
    adapter = Adapter(driver, tmp_path, tmp_path)

    def apply(instances: list[str]) -> None:
        adapter.apply(adapter.plan(spec_of({"version": 1, "gpus": [{"gpu": "all", "instances": instances}]})))

    apply(["1g.10gb"] * 7)
    nvml.clear()
    apply(["4g.40gb", "3g.40gb"])
    adapter.close()
    log = Counter(nvml.log())
    # Seven profiles in each of five readings, 8 GPUs; compute profiles are the same on all of them.
    assert log["nvmlDeviceGetGpuInstances"] == 8 * 5 * 7
    assert log["nvmlGpuInstanceGetComputeInstanceProfileInfo"] < 50
