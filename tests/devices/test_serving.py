"""The fleet on GPUs that do not exist: after every answer the instances that are there are those that tenants hold."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rltune.devices.adapter import Adapter
from rltune.devices.nvml import NvmlDriver
from rltune.devices.serving import TENANT, FleetOnDevice, check_options, machine_gpus
from rltune.devices.simulated import SimulatedDriver
from rltune.devices.state import parse_instance, whole
from rltune.devices.status import IN_USE, INSUFFICIENT_RESOURCES, UNKNOWN, DeviceError
from rltune.mig.online import Fleet, FleetOptions, Growth
from rltune.mig.online.audit import audit
from rltune.mig.online.lines import answer
from rltune.mig_commands.serve import serve_lines
from rltune.nouns.errors import InputError

MACHINE = ["a100-80gb", "a30", "a100-80gb"]
BOTH = (Growth("a30"), Growth("a100-80gb"))
CONF = {"events": None, "gpu": "a100-80gb", "initial": None, "quotas": {}} | {
    "policy": "lookahead", "weights": None, "learn": False, "lazy": False, "media": False, "half_life": 500, "migrate": 0,
    "migrate_credit": 0, "slack": 1, "chain": 3, "spares": None, "idle_s": 0, "seed": 0,
}  # fmt: skip


class Refusing(SimulatedDriver):
    """Refuses each change with the probability ``chance``; ``after`` its effect instead of before it, every second time."""

    def __init__(self, models=MACHINE, chance=0.0, seed=0):
        super().__init__(models, pace=0.0, scan=False)
        self.chance, self.draws, self.refused = chance, np.random.default_rng(seed), 0

    def _perhaps(self, change):
        if self.draws.random() >= self.chance:
            return change()
        self.refused += 1
        if self.draws.random() < 0.5:
            change()
        raise DeviceError(int(self.draws.choice([INSUFFICIENT_RESOURCES, IN_USE, UNKNOWN])), "nvmlInjected")

    def create_gpu_instance(self, gpu, profile, start):
        return self._perhaps(lambda: super(Refusing, self).create_gpu_instance(gpu, profile, start))

    def create_compute_instance(self, gpu, gpu_instance, compute):
        return self._perhaps(lambda: super(Refusing, self).create_compute_instance(gpu, gpu_instance, compute))

    def destroy_compute_instance(self, gpu, gpu_instance, compute_instance):
        return self._perhaps(
            lambda: super(Refusing, self).destroy_compute_instance(gpu, gpu_instance, compute_instance)
        )

    def destroy_gpu_instance(self, gpu, gpu_instance):
        return self._perhaps(lambda: super(Refusing, self).destroy_gpu_instance(gpu, gpu_instance))


class House:
    """A fleet on a device, that can end and begin again."""

    def __init__(self, driver, folder, **options):
        self.driver, self.folder, self.journal = driver, Path(folder), Path(folder) / "fleet.jsonl"
        self.told = []
        self.folder.mkdir(exist_ok=True)
        self.options = FleetOptions(**{"growth": BOTH, "policy": "first_fit"} | options)
        self.begin()

    def begin(self):
        adapter = Adapter(self.driver, self.folder, self.folder / "lock", sleep=lambda s: None)
        self.fleet = Fleet.restore(self.journal) if self.journal.exists() else Fleet(self.options, self.journal)
        try:
            self.service = FleetOnDevice(self.fleet, adapter, self.journal, self.told.append)
        except BaseException:
            self.fleet.close()
            adapter.close()
            raise

    def end(self):
        self.service.adapter.close()
        self.service.close()

    def say(self, line):
        return answer(self.service, line)

    def hardware(self):
        """(number on the machine, instance) of all that is there."""
        found = {
            (gpu.index, one.profile, one.start, tuple(ci.compute for ci in one.compute_instances))
            for gpu in self.driver.gpus()
            for one in self.driver.instances(gpu.index)
        }
        return found

    def ledger(self):
        """The same by the ledger: the i-th GPU of a type in the fleet is the i-th of that type on the machine."""
        numbers = {model: [gpu.index for gpu in gpus] for model, gpus in machine_gpus(self.driver).items()}
        found = set()
        for model, pool in self.fleet.ledger.pools.items():
            for at, number in enumerate(sorted(pool.gpus)):
                for placement in [*pool.gpus[number].held, *pool.gpus[number].idle]:
                    profile = pool.table.geometry.profiles[placement.profile]
                    found.add((numbers[model][at], profile.name, placement.start, (profile.compute,)))
        return found


def wanders(house, draws, events, restart=0.0, tenants=12):
    """Random requests, possible or not, with restarts between; after each, hardware and ledger are the same. Counts."""
    counts = {"ok": 0, "error": 0, "restarts": 0}
    for _ in range(events):
        if draws.random() < restart:
            house.end()
            house.begin()
            counts["restarts"] += 1
        tenant, request = f"t{draws.integers(tenants)}", str(draws.choice(["", "x"]))
        kind = draws.choice(["1g", "1g", "2g", "3g", "4g", "7g", "1g double", "1g+me", "9g"])
        verb = "release" if draws.random() < 0.45 else "acquire"
        before = json.dumps(house.fleet.ledger.state())
        told = house.say(f"{verb} {tenant} {kind} {request}" if verb == "acquire" else f"{verb} {tenant} {request}")
        if told.startswith("error: "):
            assert json.dumps(house.fleet.ledger.state()) == before, told
        elif verb == "acquire":
            uuids = {uuid for gpu in house.driver.gpus() for uuid in house.driver.mig_uuids(gpu.index).values()}
            assert told.split()[2] in uuids
        counts["error" if told.startswith("error: ") else "ok"] += 1
        assert house.hardware() == house.ledger(), told
    return counts


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("policy", ["first_fit", "lookahead"])
def test_streams_on_simulated_gpus(tmp_path, policy, lazy):
    """A tenant would be told of an instance that is not there, or keep one that the fleet gives to the next."""
    house = House(Refusing(), tmp_path, policy=policy, lazy=lazy, media=True)
    counts = wanders(house, np.random.default_rng(1), 300, restart=0.05)
    assert counts["ok"] > 70 and counts["error"] > 50 and counts["restarts"] > 3
    house.end()
    assert audit(house.journal).faults == []


@pytest.mark.parametrize("model", ["A100-80GB", "H200-141GB"])
def test_streams_on_the_stand_in_for_nvml(fake_nvml, tmp_path, model):
    """The same through the real binding: what it refuses or numbers differently would part ledger and hardware."""
    fake_nvml([model, "A30", model])
    driver = NvmlDriver()
    house = House(driver, tmp_path, growth=(Growth(model), Growth("a30")))
    counts = wanders(house, np.random.default_rng(2), 300, restart=0.05)
    assert counts["ok"] > 80 and counts["error"] > 80
    house.end()
    driver.close()


def test_nvml_refuses_in_the_middle(fake_nvml, tmp_path):
    """Whatever call NVML refuses, with or without its effect, a request would leave half of what it was to do."""
    nvml, draws, failed = fake_nvml(["A100-80GB", "A30"]), np.random.default_rng(6), 0
    driver = NvmlDriver()
    house = House(driver, tmp_path)
    for n in range(250):
        state = json.dumps(house.fleet.ledger.state())
        kind, code = str(draws.choice(["error", "error_after"])), int(draws.choice([19, 23, 4, 999]))
        nvml.set_fault(kind, int(draws.integers(1, 120)), code=code)
        told = house.say(
            f"acquire t{n} {draws.choice(['1g', '2g', '3g'])}" if n % 2 else f"release t{draws.integers(n + 1)}"
        )
        nvml.clear()
        failed += "nvml" in told
        assert not told.startswith("error: ") or json.dumps(house.fleet.ledger.state()) == state
        assert house.hardware() == house.ledger(), told
    assert failed > 10
    house.end()
    driver.close()


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("chance", [0.1, 0.4])
def test_what_the_hardware_refuses_is_taken_back(tmp_path, chance, lazy):
    """A request that failed half-way would leave the ledger saying one thing and the GPU another."""
    driver = Refusing(seed=3)
    house = House(driver, tmp_path, lazy=lazy)
    draws, failed, unsettled = np.random.default_rng(4), 0, 0
    for _ in range(400):
        tenant, kind = f"t{draws.integers(12)}", draws.choice(["1g", "2g", "3g", "4g"])
        before, refused = json.dumps(house.fleet.ledger.state()), driver.refused
        driver.chance = chance
        told = house.say(f"acquire {tenant} {kind}" if draws.random() < 0.6 else f"release {tenant}")
        driver.chance = 0.0
        if told.startswith("error: "):
            assert json.dumps(house.fleet.ledger.state()) == before
            failed += driver.refused > refused
        if house.hardware() != house.ledger():
            # Neither forward nor back could be gone: the next request, whatever it is about, puts it right first.
            assert "could not be restored" in told or "nvmlInjected" in told
            unsettled += 1
            house.say(f"acquire nobody 1g {unsettled}")
        assert house.hardware() == house.ledger(), told
    assert failed > 5 and (unsettled > 0 or chance < 0.4)
    house.end()
    state = json.dumps(house.fleet.ledger.state())
    house.begin()
    assert json.dumps(house.fleet.ledger.state()) == state and house.service.notes == []
    house.end()


def test_a_tenant_is_told_of_a_new_name(tmp_path, monkeypatch):
    """A release that one GPU refused would leave the tenant with names of devices on another that are gone."""
    house = House(Refusing(["a100-80gb"] * 2), tmp_path, growth=(Growth("a100-80gb"),))
    for line in ("acquire a 1g", "acquire a 3g large", "acquire a 7g whole"):
        house.say(line)
    old, real = house.driver.mig_uuids(0), house.driver.destroy_gpu_instance

    def refuses(gpu, number):
        if gpu == 1:
            raise DeviceError(UNKNOWN, "nvmlGpuInstanceDestroy")
        real(gpu, number)

    monkeypatch.setattr(house.driver, "destroy_gpu_instance", refuses)
    # Both on GPU 0 have gone when GPU 1 refuses; the device numbers, and so names, in the order of creation.
    told = house.say("release a")
    assert house.hardware() == house.ledger() and house.driver.mig_uuids(0) == old
    assert f"created again: 1g.10gb@0 is {old[2, 0]}; 3g.40gb@4 is {old[1, 0]}" in told
    assert len(house.told) == 2
    monkeypatch.undo()
    assert house.say("release a") == "released 3"
    house.end()


def test_restart_after_the_hardware_was_reset(tmp_path):
    """After a reboot tenants would hold instances that are gone; they are told what the new ones are called."""
    house = House(Refusing(), tmp_path)
    for line in ("acquire a 3g", "acquire b 1g", "acquire b 1g second", "acquire c 4g"):
        assert not house.say(line).startswith("error")
    there = house.hardware()
    house.end()
    house.driver = Refusing()
    assert house.hardware() == set()
    house.begin()
    assert house.hardware() == there == house.ledger()
    told = "\n".join(house.service.notes)
    assert told.count("it was not there, and was created") == 4 and "of b second is MIG-" in told
    # One instance alone that somebody destroyed comes back too.
    house.end()
    one = house.driver.instances(1)[0]
    house.driver.destroy_compute_instance(1, one.id, one.compute_instances[0].id)
    house.driver.destroy_gpu_instance(1, one.id)
    house.begin()
    assert house.hardware() == there and len(house.service.notes) == 1


class Killed(BaseException):
    """The end of the process, as far as what it leaves is concerned."""


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("line", ["acquire d 2g", "release a", "release b"])
@pytest.mark.parametrize("done", [False, True])
def test_a_service_killed_between_journal_and_hardware(tmp_path, line, done, lazy):
    """Killed between the journal and the GPU, a service would find its own instances foreign, and not start again."""
    house = House(Refusing(["a100-80gb"] * 2), tmp_path, lazy=lazy, growth=(Growth("a100-80gb"),))
    for each in ("acquire a 4g", "acquire b 3g", "acquire c 2g", "acquire b 2g second", "release c", "acquire c 1g"):
        assert not house.say(each).startswith("error")
    real, file = house.fleet.carry_out, house.journal.read_bytes()

    def cut_short(record):
        if done:
            real(record)
        raise Killed

    house.fleet.carry_out = cut_short
    house.fleet._journal.take_back = lambda: None
    with pytest.raises(Killed):
        house.say(line)
    assert house.journal.read_bytes() != file
    house.end()
    house.begin()
    assert house.hardware() == house.ledger()
    held = set(house.fleet.ledger.held)
    assert (("d", "") in held) == (line == "acquire d 2g") and (("a", "") in held) == (line != "release a")
    house.end()


def test_more_than_the_machine_has(tmp_path):
    """A fleet that grows beyond the machine would promise GPUs that are not there."""
    house = House(Refusing(["a100-80gb"] * 2), tmp_path, growth=(Growth("a100-80gb", 5),))
    assert house.service.notes == ["the device has 2 A100-80GB: that is the limit, not 5"]
    assert [house.say(f"acquire t{n} 7g").split()[0] for n in range(2)] == ["0", "1"]
    refused = house.say("acquire late 1g")
    assert refused == "error: no room for 1g on 2 GPUs, and the fleet is at its limit (2 A100-80GB)"
    house.end()
    house.driver = Refusing(["a100-80gb"])
    with pytest.raises(InputError, match="the fleet has 2 A100-80GB, the device 1"):
        house.begin()


def test_what_is_not_the_fleets_is_named_and_left_alone(tmp_path):
    """Somebody else's instance or job would be destroyed, or the fleet would count on slices that are taken."""
    driver = SimulatedDriver(MACHINE, pace=0.0, scan=False)
    mine = driver.create_gpu_instance(2, "1g.10gb", 6)
    driver.create_compute_instance(2, mine, 1)
    driver.attach(2, 77, mine, 0)
    with pytest.raises(InputError, match=r"GPU 2: 1g.10gb@6 \(pid 77\) is not the fleet's; destroy it, or begin"):
        House(driver, tmp_path)
    assert len(driver.instances(2)) == 1
    house = House(driver, tmp_path / "less", growth=(Growth("a100-80gb", 1),))
    house.say("acquire a 1g")
    house.end()
    driver.attach(0, 78)
    with pytest.raises(InputError, match="GPU 0: pid 78 runs on it in no instance; end it"):
        house.begin()
    driver.detach(0, 78)
    driver.set_mig_mode(1, False)
    with pytest.raises(InputError, match="GPU 1: MIG is off; turn it on"):
        House(driver, tmp_path / "off", growth=(Growth("a30"),))


def test_an_instance_in_use_is_not_given_back(tmp_path):
    """The next tenant would find the last one's job in its instance, or a running job would lose its own."""
    for lazy in (False, True):
        driver = Refusing(["a100-80gb"] * 2)
        house = House(driver, tmp_path / str(lazy), lazy=lazy, growth=(Growth("a100-80gb"),))
        house.say("acquire a 7g")
        house.say("acquire a 7g second")
        uuids = set(driver.mig_uuids(0).values())
        driver.attach(1, 99, driver.instances(1)[0].id, 0)
        assert "GPU 1: 7g.80gb@0 is in use (pid 99); end that, then release it" in house.say("release a")
        assert house.hardware() == house.ledger() and len(house.ledger()) == 2
        assert set(driver.mig_uuids(0).values()) == uuids, "the other instance was not left alone"
        driver.detach(1, 99)
        assert house.say("release a") == "released 2"
        house.end()


def test_an_instance_that_somebody_destroyed(tmp_path):
    """A tenant would be given the name of an instance that is gone, or could never release what is gone."""
    house = House(Refusing(["a100-80gb"]), tmp_path, lazy=True, growth=(Growth("a100-80gb"),))
    house.say("acquire a 3g")
    house.say("release a")
    one = house.driver.instances(0)[0]
    house.driver.destroy_compute_instance(0, one.id, 0)
    house.driver.destroy_gpu_instance(0, one.id)
    assert f"GPU 0: 3g.40gb@{one.start} has gone" in house.say("acquire a 3g")
    assert house.hardware() == house.ledger()
    assert house.say("acquire a 3g").split()[2].startswith("MIG-")
    house.end()


def test_an_interrupt_in_the_middle(tmp_path):
    """Ctrl-C during a creation would be answered like a refusal, or leave an instance that nobody holds."""
    house = House(Refusing(), tmp_path)
    house.say("acquire a 1g")
    real, lines = house.driver.create_compute_instance, house.journal.read_text()

    def interrupted(*args):
        raise KeyboardInterrupt

    house.driver.create_compute_instance = interrupted
    with pytest.raises(KeyboardInterrupt):
        house.say("acquire b 3g")
    house.driver.create_compute_instance = real
    assert house.hardware() == house.ledger() and house.journal.read_text() == lines
    house.end()


def test_an_event_that_cannot_be_taken_back(tmp_path):
    """A journal that says what did not come about would be gone on with, and could not be restored."""
    house = House(Refusing(), tmp_path)
    house.say("acquire a 1g")

    class Stuck:
        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def truncate(self, size):
            raise OSError(5, "Input/output error")

    house.fleet._journal._file = Stuck(house.fleet._journal._file)
    house.driver.chance = 1.0
    assert "cannot be taken back (Input/output error); end this fleet and restore it" in house.say("acquire b 1g")
    house.driver.chance = 0.0
    assert "the journal is closed" in house.say("acquire c 1g")
    house.end()
    house.begin()
    assert house.hardware() == house.ledger() and set(house.fleet.ledger.tenants) == {"a", "b"}
    house.end()


def test_two_fleets_on_one_device(tmp_path):
    """Neither would know the other's instances."""
    house = House(Refusing(), tmp_path)
    house.journal = tmp_path / "other.jsonl"
    with pytest.raises(InputError, match="held by another fleet on this device"):
        house.begin()


def test_the_fleet_holds_its_instances_against_other_adapters(tmp_path):
    """An `apply` beside the service would destroy what a tenant was just given."""
    house = House(Refusing(), tmp_path)
    house.say("acquire a 3g")
    held = house.service.adapter.tenants()
    assert [(one.tenant, one.profile, one.pid) for one in held] == [(TENANT, "3g.40gb", None)]
    one = whole("3g.40gb", held[0].start)
    with pytest.raises(InputError, match="in use"):
        house.service.adapter.reconfigure(held[0].gpu, [one], [])
    house.end()
    house.begin()
    assert len(house.service.adapter.tenants()) == 1
    house.end()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"migrate": 0.01}, "migrate: on a device a tenant's job would lose its instance"),
        ({"migrate_credit": 3}, "use migrate=0 migrate_credit=0"),
        ({"spares": 1}, "spares=1: the GPUs of a machine cannot be given back"),
        ({"growth": (Growth("h100-80gb"),)}, "gpu=h100-80gb: the device has no H100-80GB; it has 2 A100-80GB, 1 A30"),
        ({"initial": {"a30": 2}}, "initial.a30=2: the device has 1"),
    ],
)
def test_options_that_no_device_can_do(options, told):
    """The fleet would promise what the hardware cannot do."""
    machine = machine_gpus(Refusing())
    with pytest.raises(InputError, match=told):
        check_options(FleetOptions(**{"growth": BOTH} | options), machine)


def test_python_callers_cannot_part_ledger_and_hardware(tmp_path):
    """Moves and GPUs given back, asked of the fleet itself, would happen in the ledger only."""
    house = House(Refusing(["a100-80gb"] * 2), tmp_path, growth=(Growth("a100-80gb"),), initial={"a100-80gb": 2})
    house.say("acquire a 3g")
    state, lines = json.dumps(house.fleet.ledger.state()), house.journal.read_text()
    for call in (lambda: house.fleet.migrate("a"), lambda: house.fleet.deprovision()):
        with pytest.raises(InputError, match="moves no instances and gives no GPUs back"):
            call()
    assert json.dumps(house.fleet.ledger.state()) == state and house.journal.read_text() == lines
    house.end()


@pytest.mark.thorough
def test_the_command(tmp_path):
    """The line protocol over a pipe would not name the device, or not go on where it ended."""
    state = os.environ | {"RLTUNE_STATE": str(tmp_path / "state")}
    words = ["serve", "gpu=a100-80gb", f"journal={tmp_path}/j.jsonl", "device=simulated:2xa100-80gb"]

    def asked(*lines, more=()):
        command = [sys.executable, "-m", "rltune.mig", *words, *more]
        done = subprocess.run(
            command,
            input="".join(f"{line}\n" for line in lines),
            capture_output=True,
            text=True,
            timeout=120,
            env=state,
        )
        return done.returncode, done.stdout.splitlines(), done.stderr

    code, told, noted = asked("acquire u 3g", "acquire v 7g", "acquire w 7g", "acquire x 9g")
    assert code == 0 and noted == ""
    assert told[0].startswith("0 ") and told[1].startswith("1 0 MIG-") and len(told[0].split()) == 3
    assert told[2].startswith("error: no room for 7g on 2 GPUs, and the fleet is at its limit (2 A100-80GB)")
    name = told[0].split()[2]
    # As CUDA would have it, a process is in the instance that its environment names.
    job = subprocess.Popen(["sleep", "60"], env=state | {"CUDA_VISIBLE_DEVICES": name})
    try:
        code, told, noted = asked("release u", "release v")
        assert code == 0 and "is in use" in told[0] and f"pid {job.pid}" in told[0] and told[1] == "released 1"
    finally:
        job.kill()
        job.wait()
    code, told, noted = asked("release u", "acquire u 1g")
    assert told[0] == "released 1" and told[1].split()[2].startswith("MIG-")
    code, _, noted = asked(more=["device=simulated:2xa30"])
    assert code == 2 and noted == "error: gpu=a100-80gb: the device has no A100-80GB; it has 2 A30\n"


def test_what_the_command_refuses(tmp_path, monkeypatch):
    """A service on a device without a journal could not say, after its end, who holds what."""
    monkeypatch.setenv("RLTUNE_STATE", str(tmp_path))
    for cfg, told in (
        ({"journal": None, "device": "simulated:a100-80gb"}, "device: set journal=FILE too"),
        ({"journal": str(tmp_path / "j"), "device": "gpu0"}, "device 'gpu0' is unknown"),
        ({"journal": str(tmp_path / "j"), "device": "simulated:a100-80gb", "spares": 0}, "spares=0"),
    ):
        with pytest.raises(InputError, match=told):
            serve_lines(CONF | cfg, [], io.StringIO())
    assert not (tmp_path / "j").exists()
    assert parse_instance("3g.40gb@4") == whole("3g.40gb", 4)
