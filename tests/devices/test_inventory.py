"""What `show` finds, also on machines in trouble."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from stub_driver import PROFILES, StubDriver, one_gpu_instance

from rltune.device_commands import show
from rltune.devices.driver import Identity, MigMode, Process
from rltune.devices.inventory import inventory
from rltune.devices.simulated import SimulatedDriver
from rltune.devices.status import DeviceError
from rltune.mig.geometry import Placement, geometry
from rltune.nouns.errors import InputError


def shown(driver: object, *words: str) -> int:
    """Exit status of the command with these options."""
    parser = argparse.ArgumentParser()
    show.add_arguments(parser)
    args = parser.parse_args(words)
    args.driver = driver
    return show.run(args)


def rooms(driver: object) -> dict[str, int]:
    return {room.profile.name: room.more for room in inventory(driver).gpus[0].rooms}


@pytest.mark.parametrize("model", ["a100-80gb", "a30"])
def test_as_many_more_fit_as_can_be_created(model: str) -> None:
    """Who is told that two more fit must be able to create two more, in whatever state the GPU is."""
    table = geometry(model)
    for state in list(table.states([p.kind for p in table.profiles]))[::23]:
        driver = SimulatedDriver([model], pace=0, scan=False)
        for placement in state:
            driver.create_gpu_instance(0, table.profiles[placement.profile].name, placement.start)
        for index, profile in enumerate(table.profiles):
            assert rooms(driver)[profile.name] == most_more(table, state, index), (table.describe(state), profile.name)


def most_more(table, state: tuple[Placement, ...], profile: int) -> int:
    """By trying every way."""
    ways = table.can_create(state, [profile])
    return max((1 + most_more(table, (*state, way), profile) for way in ways), default=0)


def test_full_gpu_has_no_room_and_says_which_uuid_is_whose() -> None:
    """A job is sent to an instance by its UUID: a mix-up would run it in its neighbour's."""
    driver = StubDriver(instances_of={0: (one_gpu_instance(7, "4g.40gb", 0), one_gpu_instance(3, "3g.40gb", 4))})
    (gpu,) = inventory(driver).gpus
    assert [(i.id, i.start, i.compute_instances[0].uuid) for i in gpu.instances] == [
        (7, 0, "MIG-0-7-0"),
        (3, 4, "MIG-0-3-0"),
    ]
    assert set(rooms(driver).values()) == {0}


def test_refused_query_costs_its_value_only() -> None:
    """One unsupported query must not hide what the driver does tell."""
    driver = StubDriver(refused={("processes", 0): 4, ("versions", -1): 999})
    driver.without(0, 3, "utilization_percent")
    driver.instances_of[0] = (one_gpu_instance(1, "1g.10gb", 0),)
    found = inventory(driver)
    (gpu,) = found.gpus
    assert gpu.telemetry.power_w == 250.0 and gpu.telemetry.utilization_percent is None
    assert len(gpu.instances) == 1 and gpu.rooms
    notes = "\n".join(found.notes)
    assert "GPU 0: utilisation: " in notes and "(NOT_SUPPORTED 3)" in notes
    assert "GPU 0: processes: the user may not do that (NO_PERMISSION 4)" in notes
    assert "versions: an internal error of the driver (UNKNOWN 999)" in notes
    assert len(found.notes) == 3


def test_lost_gpu_is_listed_and_the_others_are_complete() -> None:
    """A machine with one dead GPU is still useful, and who looks after it must see which one died."""
    driver = StubDriver(3, instances_of={i: (one_gpu_instance(1, "7g.80gb", 0),) for i in range(3)})
    driver.lose(1)
    found = inventory(driver)
    assert [len(gpu.instances) for gpu in found.gpus] == [1, 0, 1]
    assert [gpu.telemetry.power_w for gpu in found.gpus] == [250.0, None, 250.0]
    (note,) = found.notes
    assert note.startswith("GPU 1: MIG mode, ") and "fell off the bus" in note and "GPU_IS_LOST 15" in note
    # A lost GPU may take seconds to refuse each query.
    assert driver.calls["mig_mode"] == 3 and driver.calls["telemetry"] == 2
    assert shown(driver) == 0


def test_gpu_without_mig_is_no_failure() -> None:
    """On a machine of plain GPUs a note about each of them would bury the real ones."""
    driver = StubDriver(2, refused={("mig_mode", 0): 3, ("mig_mode", 1): 3})
    found = inventory(driver)
    assert found.notes == () and found.gpus[0].mig is None and show.mig_text(found.gpus[0]) == "none"
    assert driver.calls["profiles"] == driver.calls["instances"] == 0


def test_unknown_instances_leave_no_room_to_promise() -> None:
    """An occupied GPU whose instances cannot be listed must not be taken for an empty one."""
    found = inventory(StubDriver(refused={("instances", 0): 999}))
    assert found.gpus[0].rooms == () and "instances" in found.notes[0]


def test_mode_that_waits_for_a_reset_is_said() -> None:
    """Who turned MIG on and sees "off" must learn that a reset is missing."""
    assert show.mig_text(inventory(StubDriver(mig=MigMode(False, True))).gpus[0]) == "off, on after reset"


def test_alike_gpus_share_a_note() -> None:
    """Eight GPUs that cannot tell their utilisation make one line, not eight."""
    driver = StubDriver(8)
    for gpu in range(8):
        driver.without(gpu, 3, "utilization_percent", "memory_utilization_percent")
    (note,) = inventory(driver).notes
    assert note.startswith("GPU 0, 1, 2, 3, 4, 5, 6, 7: utilisation, memory utilisation: ")


def test_processes_have_names_where_they_can_be_read() -> None:
    """Who must end a process that holds a GPU wants its name, and an ended one must not break the listing."""
    listed = (Process(os.getpid(), 3 << 20, 1, 0), Process(2**22 + 1, None, None, None))
    found = inventory(StubDriver(processes_of={0: listed}))
    names = [process.name for process in found.gpus[0].processes]
    assert names[0] and names[1] is None
    assert any("process names: 1 not in /proc" in note for note in found.notes)


def test_unlisted_gpus_and_numbers_that_do_not_exist() -> None:
    """A slip in --gpu must not be answered by an empty table, and a GPU not asked for must not be asked."""
    driver = StubDriver(2)
    with pytest.raises(InputError, match=r"GPU 5 does not exist; the driver has 0, 1"):
        inventory(driver, [5])
    assert [gpu.identity.index for gpu in inventory(driver, [1]).gpus] == [1]
    assert driver.calls["telemetry"] == 1
    with pytest.raises(DeviceError):
        inventory(StubDriver(refused={("gpus", -1): 9}))


def test_json_has_everything_in_stable_keys(capsys: pytest.CaptureFixture[str]) -> None:
    """Scripts read it: a key that is renamed or missing breaks them."""
    driver = StubDriver(2, instances_of={0: (one_gpu_instance(1, "3g.40gb", 4),)})
    driver.without(1, 3, "power_w")
    assert shown(driver, "--json") == 0
    value = json.loads(capsys.readouterr().out)
    assert value["schema_version"] == 1 and set(value) == {"schema_version", "device", "versions", "gpus", "notes"}
    first, second = value["gpus"]
    assert first["model"] == "A100-80GB" and first["mig_mode"] == {"current": True, "pending": True}
    inside = {"id": 0, "compute_slices": 3, "uuid": "MIG-0-1-0"}
    assert first["instances"] == [
        {"id": 1, "profile": "3g.40gb", "start_memory_slice": 4, "memory_slices": 4, "compute_instances": [inside]}
    ]
    assert {p["name"]: p["room"] for p in first["profiles"]}["1g.10gb"] == 4
    assert first["telemetry"]["power_w"] == 250.0 and second["telemetry"]["power_w"] is None
    assert second["unread"] == {"power": {"status": 3, "name": "NOT_SUPPORTED"}}


def test_table_tells_where_jobs_can_run(capsys: pytest.CaptureFixture[str]) -> None:
    """The UUID is copied from the screen: broken over two lines it is of no use."""
    driver = SimulatedDriver(["a100-80gb"], pace=0, scan=False)
    for start in (0, 4):
        driver.create_compute_instance(0, driver.create_gpu_instance(0, "3g.40gb", start), 3)
    driver.attach(0, os.getpid(), 1, 0)
    assert shown(driver, "--profiles") == 0
    out = capsys.readouterr().out
    for name in (*driver.mig_uuids(0).values(), driver.gpus()[0].uuid, "3g.40gb@4", str(os.getpid())):
        assert name in out
    assert max(map(len, out.partition("note:")[0].splitlines())) <= show.WIDTH


def test_uuids_of_real_drivers_fit(capsys: pytest.CaptureFixture[str]) -> None:
    """Real bus ids and long names take room that must not be taken from the UUID, nor from the long ones of old drivers."""
    uuid = "GPU-fa4e0003-1111-4222-8333-000000000003"
    old = f"MIG-{uuid}/11/0"
    driver = StubDriver(name="NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition")
    driver.instances_of[0] = (one_gpu_instance(11, "1g.10gb+me", 0),)
    driver.gpus = lambda: (Identity(0, uuid, driver.name, "00000000:1F:00.0", 0x20B210DE),)  # type: ignore[method-assign]
    driver.mig_uuids = lambda gpu: {(11, 0): old}  # type: ignore[method-assign]
    assert shown(driver, "--profiles") == 0
    out = capsys.readouterr().out
    assert f" {uuid} " in out and f" {old} " in out and "00000000:1F:00.0" in out
    assert max(map(len, out.splitlines())) <= show.WIDTH


def test_names_of_processes_cannot_draw_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Anyone may name a process: its name must neither be taken for markup nor reach the terminal as a command."""
    driver = StubDriver(processes_of={0: (Process(os.getpid(), 0, None, None),)})
    found = inventory(driver)
    gpu = replace(found.gpus[0], processes=(replace(found.gpus[0].processes[0], name="[red]\x1b[2J"),))
    show._print(replace(found, gpus=(gpu,)), profiles=False)
    out = capsys.readouterr().out
    assert "[red]?[2J" in out and "\x1b" not in out


def test_check_finds_a_table_that_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    """Plans are made with the table: a driver that places otherwise must be noticed before they fail."""
    assert shown(StubDriver(), "--check") == 0
    assert "the driver's profiles are those of the table of A100-80GB" in capsys.readouterr().out
    other = tuple(replace(p, starts=(0,)) if p.name == "3g.40gb" else p for p in PROFILES)
    assert shown(StubDriver(listed=other), "--check") == 1
    assert "3g.40gb has starts (0,) by the driver, (0, 4) by the table" in capsys.readouterr().out
    assert shown(StubDriver(name="NVIDIA H100 NVL"), "--check", "--json") == 0
    (check,) = json.loads(capsys.readouterr().out)["table_checks"]
    assert check["agrees"] is None and "not in the table" in check["why"]


def test_starts_without_what_it_does_not_need() -> None:
    """Scripts call `show --json` in loops: libraries of planning and drawing would cost them a second each time."""
    code = "import sys, rltune.device_commands.show; print([m for m in ('numpy', 'pandas', 'rich', 'pyarrow', 'torch') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
