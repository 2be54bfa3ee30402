"""The simulated device: what it refuses is what NVML refuses, and what it remembers survives its process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from execution_cases import PATIENCE_S

from rltune.devices.nvml import NvmlDriver
from rltune.devices.open import open_device, store_path
from rltune.devices.simulated import SimulatedDriver
from rltune.devices.status import IN_USE, DeviceError
from rltune.nouns.errors import InputError
from rltune.nouns.mig_profiles import TYPES


def outcome(action):
    """What a call gives, or the status it is refused with."""
    try:
        return action()
    except DeviceError as error:
        return f"refused {error.code}"


class Both:
    """The same operations on the stand-in for NVML and on the simulated device; instances are named by place."""

    def __init__(self, nvml, model):
        self.nvml = nvml
        self.real, self.simulated = NvmlDriver(), SimulatedDriver([model], pace=0, scan=False)

    def numbers(self, driver):
        return {(one.profile, one.start): one for one in driver.instances(0)}

    def states(self):
        return [
            {key: sorted(ci.compute for ci in one.compute_instances) for key, one in self.numbers(driver).items()}
            for driver in (self.real, self.simulated)
        ]

    def create(self, profile, start):
        return [outcome(lambda d=d: d.create_gpu_instance(0, profile, start) >= 0) for d in (self.real, self.simulated)]

    def on(self, key, action):
        return [outcome(lambda d=d: action(d, self.numbers(d)[key])) for d in (self.real, self.simulated)]

    def occupy(self, key, pid):
        for driver, attach in ((self.real, self.nvml.add_process), (self.simulated, self.simulated.attach)):
            one = self.numbers(driver)[key]
            if one.compute_instances:
                attach(0, pid, one.id, one.compute_instances[0].id)

    def leave(self, pid):
        self.nvml.remove_process(0, pid)
        self.simulated.detach(0, pid)


def step(both, rng, pid):
    """One random operation; what each answered."""
    profiles = both.real.profiles(0)
    held = list(both.numbers(both.real))
    kind = rng.integers(6)
    if kind <= 1 or not held:
        profile = profiles[int(rng.integers(len(profiles)))]
        return both.create(profile.name, None if rng.random() < 0.2 else int(rng.integers(9)))
    key = held[int(rng.integers(len(held)))]
    if kind == 2:
        slices = int(rng.integers(1, 8))
        return both.on(key, lambda d, one: d.create_compute_instance(0, one.id, slices) >= 0)
    if kind == 3:
        return both.on(
            key, lambda d, one: [d.destroy_compute_instance(0, one.id, ci.id) for ci in one.compute_instances[:1]]
        )
    if kind == 4:
        both.occupy(key, pid) if rng.random() < 0.5 else both.leave(pid - 3)
        return [None, None]
    return both.on(key, lambda d, one: d.destroy_gpu_instance(0, one.id))


@pytest.mark.parametrize("model", TYPES)
def test_it_refuses_what_nvml_refuses(fake_nvml, model):
    """A rehearsal would succeed where the hardware refuses, or the other way round."""
    both, rng, seen = Both(fake_nvml([model]), model), np.random.default_rng(0), set()
    for pid in range(1000, 1400):
        real, simulated = step(both, rng, pid)
        assert real == simulated
        assert both.states()[0] == both.states()[1]
        seen.add(real if isinstance(real, str) else type(real))
    assert {"refused 2", "refused 19", "refused 23"} <= seen
    both.real.close()


def test_it_lists_the_profiles_that_nvml_lists(fake_nvml):
    """A spec that was rehearsed would name profiles that the hardware has not."""
    fake_nvml(list(TYPES))
    real, simulated = NvmlDriver(), SimulatedDriver(list(TYPES), pace=0)
    for gpu in range(len(TYPES)):
        wanted = {(p.name, p.id, p.compute, p.size, p.starts, p.most) for p in real.profiles(gpu)}
        listed = {(p.name, p.id, p.compute, p.size, p.starts, p.most) for p in simulated.profiles(gpu)}
        assert listed == wanted
    real.close()


def test_a_process_is_found_by_its_environment():
    """A running job's instance would be taken for idle, and destroyed under it."""
    driver = SimulatedDriver(["a30"], pace=0)
    number = driver.create_gpu_instance(0, "1g.6gb", 0)
    inner = driver.create_compute_instance(0, number, 1)
    name = driver.mig_uuids(0)[number, inner]
    with subprocess.Popen(["sleep", "6000"], env=os.environ | {"CUDA_VISIBLE_DEVICES": name}) as job:
        deadline = time.monotonic() + PATIENCE_S
        while not driver.processes(0) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert [one.pid for one in driver.processes(0)] == [job.pid]
        with pytest.raises(DeviceError) as refused:
            driver.destroy_compute_instance(0, number, inner)
        assert refused.value.code == IN_USE
        job.kill()
    driver.destroy_compute_instance(0, number, inner)


def test_the_next_process_finds_what_this_one_left(tmp_path):
    """A rehearsal over several commands would begin anew with each."""
    first = open_device("simulated:a30", tmp_path, pace=0)
    first.create_gpu_instance(0, "2g.12gb", 2)
    code = f"from rltune.devices.open import *; d = open_device('simulated:a30', Path({str(tmp_path)!r})); print(d.instances(0)[0].start)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "2\n"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("simulated", "is no model"),
        ("simulated:0xa30", "is no model or count"),
        ("simulated:9999999xa30", "is no model or count"),
        ("simulated:k80", "known are A30"),
        ("cuda", "known are nvml and simulated"),
        ("nvml:0", "known are nvml and simulated"),
    ],
)
def test_a_device_that_does_not_exist_is_told(tmp_path, name, says):
    """A slip in a name would give a traceback, or another device."""
    with pytest.raises(InputError, match=says):
        open_device(name, tmp_path)


@pytest.mark.parametrize("pace", [-1.0, float("nan"), float("inf")])
def test_a_pace_that_nobody_can_wait_is_told(tmp_path, pace):
    """The first creation would fail in the middle of an apply, or never end."""
    for begin in (lambda: open_device("simulated:a30", tmp_path, pace), lambda: SimulatedDriver(["a30"], pace)):
        with pytest.raises(InputError, match="--pace"):
            begin()
    with pytest.raises(InputError, match="--pace"):
        open_device("nvml", pace=pace)
    assert not list(tmp_path.iterdir())


def test_a_large_machine_has_a_file_of_its_own(tmp_path):
    """A machine of many models could not be simulated, as its file's name would be too long; or two would share one."""
    for last in ("a30", "a100-80gb"):
        name = "simulated:" + "a30," * 100 + last
        open_device(name, tmp_path, pace=0).create_gpu_instance(0, "1g.6gb", 0)
        assert len(open_device(name, tmp_path).gpus()) == 101 and len(open_device(name, tmp_path).instances(0)) == 1
    assert len(list(tmp_path.glob("*.json"))) == 2


def test_a_count_of_thousands_of_digits_is_told(tmp_path):
    """A slip would end in a traceback of Python's limit on digits."""
    with pytest.raises(InputError, match="is no model or count"):
        open_device("simulated:" + "9" * 5000 + "xa30", tmp_path)


def test_a_file_that_cannot_be_looked_at_is_told(tmp_path, monkeypatch):
    """A folder of another user, or a name that is too long, would end in a traceback."""
    with pytest.raises(InputError, match="cannot be kept there"):
        SimulatedDriver(["a30"], file=tmp_path / ("x" * 300))

    def forbidden(path, **_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "exists", forbidden)
    with pytest.raises(InputError, match=r"cannot be kept there \(Permission denied"):
        SimulatedDriver(["a30"], file=tmp_path / "state.json")


def test_a_user_without_a_home_is_told(monkeypatch):
    """In a bare container the first command would end in a traceback."""

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("RLTUNE_STATE", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(InputError, match="set RLTUNE_STATE"):
        store_path()


def test_a_damaged_state_is_told(tmp_path):
    """Half a file would be taken for an empty machine."""
    open_device("simulated:a30", tmp_path)
    (tmp_path / "simulated-a30.json").write_text('{"schema_version": 1, "gpus": [')
    with pytest.raises(InputError, match="remove the file"):
        open_device("simulated:a30", tmp_path).gpus()
