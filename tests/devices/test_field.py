"""GPUs of other people: what the adapter did not make it does not touch, and it says only what is so."""

from __future__ import annotations

import itertools
import os
import re

import pytest
from fake_nvml import FakeNvml
from field_trials import GPUS, MODEL, damage_journals, kill_adapters
from trials import Machine, killed_in

from rltune.devices.adapter import Adapter, Unsettled
from rltune.devices.journal import COMMITTED, ROLLED_BACK, VOID, Tenant
from rltune.devices.nvml import NvmlDriver
from rltune.devices.open import open_device
from rltune.devices.spec import read_spec, spec_of
from rltune.devices.state import parse_instance
from rltune.mig.geometry import geometry
from rltune.nouns.errors import InputError


def spec(*gpus: list[str]):
    return spec_of({"version": 1, "gpus": [{"gpu": at, "instances": names} for at, names in enumerate(gpus)]})


@pytest.fixture
def machine(fake_nvml, tmp_path):
    made = Machine(fake_nvml([MODEL, MODEL]), tmp_path)
    yield made
    made.close()


def cut_short(
    machine: Machine, before: list[str], after: list[str], call: str, kind: str = "kill_after", nth: int = 1
) -> None:
    """A change of GPU 0 that was killed at the nth of these calls."""
    machine.make([before])
    plan = machine.adapter.plan(spec(after))
    machine.close()

    def change(child: Machine) -> None:
        machine.nvml.clear()
        machine.nvml.set_fault(kind, nth, call=call)
        child.adapter.apply(plan)

    assert killed_in(machine, change, kind, 100_000)
    machine.open()


def by_hand(driver: NvmlDriver, gpu: int, name: str) -> None:
    """As an administrator makes it: with its compute instance."""
    one = parse_instance(name)
    number = driver.create_gpu_instance(gpu, one.profile, one.start)
    for slices in one.compute:
        driver.create_compute_instance(gpu, number, slices)


CREATE = "nvmlDeviceCreateGpuInstanceWithPlacement"


@pytest.mark.parametrize("nth", [1, 2])
def test_recover_leaves_an_instance_made_in_the_place_of_its_own(machine, nth):
    """An administrator's instance, with a job in it, would be destroyed by a recovery, and the report say "exactly"."""
    cut_short(machine, ["2g.20gb@0"], ["2g.20gb@0", "3g.40gb@4", "1g.10gb@2"], CREATE, "kill_before", nth)
    by_hand(machine.driver, 0, "1g.10gb@2")
    foreign = {key: one for key, one in machine.nvml.made().items() if one[0] == "1g.10gb"}
    (line,) = machine.adapter.recover()
    assert foreign.items() <= machine.nvml.made().items()
    assert ("exactly" in line) == (nth == 2), "the state is that after it, by whoever made it"
    assert re.search(r"1g\.10gb@2 is (there, is )?not known to be of its making, and was left alone", line), line


def test_recover_names_what_somebody_made_elsewhere(machine):
    """The report would say "exactly the state before" of a GPU with an instance more."""
    cut_short(machine, [], ["3g.40gb@4", "2g.20gb@0"], CREATE, nth=2)
    by_hand(machine.driver, 0, "1g.10gb@2")
    (line,) = machine.adapter.recover()
    assert "the state is that before it, but for GPU 0: 1g.10gb@2 is there" in line
    assert machine.found()[0][0] == {("1g.10gb", 2, (1,))}


def test_what_another_journal_took_over_is_not_undone(machine, tmp_path):
    """An instance that another adapter, with a journal of its own, found and kept for its tenants would go with our crash."""
    cut_short(machine, [], ["3g.40gb@4", "2g.20gb@0"], CREATE, "kill_before", 2)
    other = Adapter(machine.driver, tmp_path / "other", machine.store / "locks")
    other.apply(other.plan(spec(["3g.40gb@4"])))
    there = machine.nvml.made()
    (line,) = machine.adapter.recover()
    assert machine.nvml.made() == there and "3g.40gb@4 is there, is not known to be of its making" in line
    other.close()


def test_after_a_reset_nothing_is_made_again(machine):
    """The report would say "exactly the state before" though an untouched neighbour is gone with the reset."""
    cut_short(machine, ["3g.40gb@4", "1g.10gb@0"], ["3g.40gb@4", "2g.20gb@0"], CREATE)
    gpu = machine.driver.gpus()[0].uuid
    machine.nvml.reset_gpu(0)
    (line,) = machine.adapter.recover()
    assert "GPU 0 was reset or emptied since" in line and "exactly" not in line
    assert machine.found()[0][0] == set() and machine.adapter.journal.recent(1)[0].outcome == VOID
    assert not machine.adapter.tenants(), gpu


def test_a_reset_that_somebody_filled_again_is_told_by_the_energy_counter(machine):
    """On today's hardware an instance made anew in the same place has the same number and UUID as ours had."""
    cut_short(machine, ["1g.10gb@6"], ["1g.10gb@6", "3g.40gb@0"], "nvmlGpuInstanceCreateComputeInstance")
    machine.nvml.reset_gpu(0)
    for name in ("3g.40gb@0", "1g.10gb@6"):
        by_hand(machine.driver, 0, name)
    there = machine.nvml.made()
    machine.adapter.recover()
    assert machine.nvml.made() == there


@pytest.mark.parametrize("opened", [False, True])
def test_a_claim_ends_with_its_instance(machine, opened):
    """After a reset a tenant's claim would keep somebody else's later instance, with and without an open transaction."""
    if opened:
        cut_short(machine, ["3g.40gb@4", "1g.10gb@0"], ["3g.40gb@4", "2g.20gb@0"], CREATE)
    else:
        machine.make([["3g.40gb@4", "1g.10gb@0"]])
    gpu = machine.driver.gpus()[0].uuid
    machine.adapter.journal.claim(Tenant(gpu, "3g.40gb", 4, "alice"))
    assert [one.tenant for one in machine.adapter.tenants()] == ["alice"]
    machine.nvml.reset_gpu(0)
    machine.adapter.recover()
    assert machine.adapter.tenants() == []
    by_hand(machine.driver, 0, "3g.40gb@4")
    assert machine.adapter.tenants() == [], "the claim came back with somebody else's instance"


def test_turning_mig_off_does_not_take_what_somebody_made(fake_nvml, tmp_path):
    """MIG mode off destroys every instance: also one that an administrator made a moment before."""
    machine = Machine(fake_nvml([MODEL]), tmp_path)
    machine.make([["1g.10gb@0"]])
    plan = machine.adapter.plan(spec_of({"version": 1, "gpus": [{"gpu": 0, "mig": False}]}))
    destroy = machine.driver.destroy_gpu_instance

    def meanwhile(gpu: int, number: int) -> None:
        destroy(gpu, number)
        by_hand(machine.driver, 0, "3g.40gb@4")

    machine.driver.destroy_gpu_instance = meanwhile  # type: ignore[method-assign]
    with pytest.raises(InputError, match=r"3g\.40gb@4"):
        machine.adapter.apply(plan, mig_mode=True)
    assert ("3g.40gb", 4, (3,)) in machine.found()[0][0]
    machine.close()


def test_one_that_cannot_be_settled_does_not_stop_the_others(fake_nvml, tmp_path):
    """A lost GPU with an open change would keep every later one from being settled."""
    machine = Machine(fake_nvml([MODEL, MODEL]), tmp_path)
    plans = [machine.adapter.plan(spec(*([[]] * at), ["3g.40gb@4"])).gpus[at] for at in range(2)]
    for one in plans:
        machine.adapter.journal.begin({one.uuid: one.before}, {one.uuid: one.after}, [])
        machine.driver.create_gpu_instance(one.index, "3g.40gb", 4)
    machine.nvml.lose(0)
    machine.begin_anew()
    with pytest.raises(Unsettled, match="settled: apply 2"):
        machine.adapter.recover()
    assert machine.nvml.instances(1) == set()
    machine.nvml.lose(0, False)
    machine.begin_anew()
    assert "exactly that before" in machine.adapter.recover()[0] and machine.nvml.instances(0) == set()
    machine.close()


def test_no_list_read_amid_errors_is_kept(fake_nvml):
    """One NOT_SUPPORTED at the wrong moment would hide a compute instance from then on, and a recovery destroy it."""
    nvml = fake_nvml([MODEL])
    for code, nth in itertools.product((2, 3, 6, 13, 25), range(1, 140)):
        driver = NvmlDriver()
        if nth == 1 and code == 2:
            by_hand(driver, 0, "3g.40gb@4")
            by_hand(driver, 0, "2g.20gb@0[1+1]")
            wanted = driver.instances(0), driver.profiles(0), driver.mig_uuids(0)
        nvml.clear()
        nvml.set_fault("error", nth, code=code)
        for _ in range(2):
            try:
                found = driver.instances(0)
            except InputError:
                continue
            assert found == wanted[0], (code, nth)
        nvml.clear()
        assert (driver.instances(0), driver.profiles(0), driver.mig_uuids(0)) == wanted, (code, nth)
        driver.close()


@pytest.mark.parametrize("name", ["nvmlGpuInstanceGetComputeInstanceProfileInfoV", "nvmlDeviceGetMigMode"])
def test_a_call_that_always_fails_is_no_empty_list(fake_nvml, name):
    """A GPU instance would look as if it had no compute instance, and be taken for half made."""
    nvml: FakeNvml = fake_nvml([MODEL])
    driver = NvmlDriver()
    by_hand(driver, 0, "3g.40gb@4")
    driver.close()
    nvml.refuse({name: 6})
    driver = NvmlDriver()
    with pytest.raises(InputError):
        driver.mig_mode(0)
        assert driver.instances(0)[0].compute_instances
    driver.close()


@pytest.mark.thorough
def test_random_kills_beside_foreign_instances(fake_nvml):
    """Whatever others do between a crash and its recovery, theirs stays and every word of the report is true."""
    found = kill_adapters(fake_nvml([MODEL] * GPUS), 1, 60)
    assert (found.foreign_touched, found.false_reports, found.left_over) == (0, 0, 0), found.faults
    assert found.kills == 60 and found.in_place and found.swapped and found.reset and found.other_journal


def test_damaged_fleet_journals_are_refused_or_exact():
    """A journal with a line altered or lost would be gone on with, in a state that no tenant was told of."""
    found = damage_journals(2, 150)
    assert (found.damaged, found.wrong) == (150, 0), found.faults
    assert found.refused > 50 and found.exact > 10


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_hundreds_of_kills_and_damaged_journals(fake_nvml, seed):
    """The same, rarer."""
    found = kill_adapters(fake_nvml([MODEL] * GPUS), 100 + seed, 400)
    assert (found.foreign_touched, found.false_reports, found.left_over) == (0, 0, 0), found.faults
    assert damage_journals(100 + seed, 400).wrong == 0


BALANCED = """\
version: v1
mig-configs:
  all-balanced:
    - device-filter: ["0x233010DE", "0x20B210DE", "0x20B510DE"]
      devices: all
      mig-enabled: true
      mig-devices: {"1g.10gb": 2, "2g.20gb": 1, "3g.40gb": 1}
    - device-filter: ["0x20B010DE", "0x20B110DE"]
      devices: all
      mig-enabled: true
      mig-devices: {"1g.5gb": 2, "2g.10gb": 1, "3g.20gb": 1}
    - device-filter: "0x20B710DE"
      devices: all
      mig-enabled: true
      mig-devices: {"1g.6gb": 2, "2g.12gb": 1}
    - device-filter: "0x2BB510DE"
      devices: all
      mig-enabled: true
      mig-devices: {"1g.24gb+me.all": 1, "1g.24gb-me": 3}
"""


def test_a_configuration_by_model_can_be_rehearsed(tmp_path):
    """NVIDIA's own default configuration picks GPUs by PCI id, which simulated ones did not have."""
    (tmp_path / "config.yaml").write_text(BALANCED)
    driver = open_device("simulated:a100-80gb,a100-40gb,a30,rtx-pro-6000", tmp_path, pace=0)
    adapter = Adapter(driver, tmp_path)
    adapter.apply(adapter.plan(read_spec(tmp_path / "config.yaml", "all-balanced")))
    found = [sorted(one.profile for one in driver.instances(gpu)) for gpu in range(4)]
    assert found == [
        ["1g.10gb", "1g.10gb", "2g.20gb", "3g.40gb"], ["1g.5gb", "1g.5gb", "2g.10gb", "3g.20gb"],
        ["1g.6gb", "1g.6gb", "2g.12gb"], ["1g.24gb+me.all", "1g.24gb-me", "1g.24gb-me", "1g.24gb-me"],
    ]  # fmt: skip
    names = {one.name for one in driver.profiles(3)}
    assert {p.name for p in geometry("rtx-pro-6000").profiles} < names and "4g.96gb+gfx" in names
    adapter.close()


def test_outcomes_are_written_as_told(machine):
    """`history` would say something else of a change than the recovery did."""
    cut_short(machine, [], ["3g.40gb@4"], CREATE)
    machine.adapter.recover()
    assert machine.adapter.journal.recent(1)[0].outcome == ROLLED_BACK
    cut_short(machine, [], ["3g.40gb@4"], "nvmlGpuInstanceCreateComputeInstance")
    machine.adapter.recover()
    assert machine.adapter.journal.recent(1)[0].outcome in (COMMITTED, ROLLED_BACK)


def test_own_instances_stay_ours_across_processes(machine):
    """A recovery in another process would not know any more what the killed one made, and leave it."""
    cut_short(machine, [], ["1g.10gb@0", "1g.10gb@1", "3g.40gb@4"], "nvmlGpuInstanceCreateComputeInstance", nth=3)
    pid = os.fork()
    if not pid:
        machine.open()
        machine.adapter.recover()
        os._exit(0)
    os.waitpid(pid, 0)
    assert machine.adapter.recover() == [] and machine.found()[0][0] in (
        set(),
        {("1g.10gb", 0, (1,)), ("1g.10gb", 1, (1,)), ("3g.40gb", 4, (3,))},
    )
