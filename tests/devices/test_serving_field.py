"""The fleet on GPUs that change places or are lost: leases stay with their cards, and one lost GPU stops no other."""

from __future__ import annotations

import json
import re

import pytest
from test_serving import House

from rltune.devices.nvml import NvmlDriver
from rltune.devices.serving import TENANT
from rltune.mig.online import Growth
from rltune.mig.online.audit import audit
from rltune.nouns.errors import InputError

TWO = (Growth("a100-80gb"),)


def house_of(nvml, folder, **options):
    return House(NvmlDriver(), folder, growth=TWO, **options)


def again(house):
    """The service ends, and begins with a driver that has read nothing."""
    house.end()
    house.driver.close()
    house.driver = NvmlDriver()
    house.begin()


def test_leases_stay_with_their_cards(fake_nvml, tmp_path):
    """Cards that were swapped would move a tenant's lease to the other's instance, and destroy that."""
    nvml = fake_nvml(["A100-80GB"] * 2)
    house = house_of(nvml, tmp_path)
    first = house.say("acquire a 7g").split()
    second = house.say("acquire b 4g").split()
    third = house.say("acquire c 3g").split()
    assert [one[0] for one in (first, second, third)] == ["0", "1", "1"]
    there = nvml.made()
    house.end()
    house.driver.close()
    nvml.swap(0, 1)
    house.driver = NvmlDriver()
    house.begin()
    assert nvml.made() == there and house.service.notes == []
    assert house.say("release b") == "released 1"
    assert {one[0] for one in nvml.made().values()} == {"7g.80gb", "3g.40gb"}
    assert house.say("acquire d 4g").split()[::2] == second[::2]
    house.end()
    assert audit(house.journal).faults == []
    house.driver.close()


def test_one_lost_gpu_stops_no_other(fake_nvml, tmp_path):
    """One GPU in doubt would block every request, and the service would not start again."""
    nvml = fake_nvml(["A100-80GB"] * 3)
    house = house_of(nvml, tmp_path)
    for line in ("acquire a 7g", "acquire b 4g"):
        assert not house.say(line).startswith("error")
    nvml.lose(1)
    assert "cannot be reached" in house.say("acquire c 1g")
    assert house.say("acquire c 1g").split()[0] == "2", house.told
    assert any("set aside" in line for line in house.told)
    assert house.say("release b") == "released 1", "a tenant of a lost GPU could not leave"
    again(house)
    assert any("set aside" in note for note in house.service.notes), house.service.notes
    assert house.say("acquire d 1g").split()[0] == "2"
    nvml.lose(1, False)
    again(house)
    assert house.service.notes == ["GPU 1: 4g.40gb@0 was being given back, and is gone now"]
    assert nvml.instances(1) == set() and house.fleet.ledger.left == {}
    assert house.say("acquire e 7g").split()[0] == "1"
    house.end()
    assert audit(house.journal).faults == []
    house.driver.close()


def test_a_gpu_that_comes_back_is_used_again(fake_nvml, tmp_path):
    """A GPU that was away for a moment would stay unused until somebody restarts the service."""
    nvml = fake_nvml(["A100-80GB"] * 2)
    house = house_of(nvml, tmp_path)
    house.say("acquire a 4g")
    nvml.lose(0)
    assert house.say("acquire b 3g").startswith("error")
    nvml.lose(0, False)
    assert house.say("acquire b 3g").split()[0] == "0"
    assert any("is used again" in line for line in house.told)
    house.end()
    house.driver.close()


def test_what_an_administrator_made_in_its_place_is_not_the_fleets(fake_nvml, tmp_path):
    """Killed while it gave an instance back, a service would destroy another's in that place when it starts again."""
    nvml = fake_nvml(["A100-80GB"] * 2)
    house = house_of(nvml, tmp_path)
    house.say("acquire a 3g")
    house.say("release a")
    number = house.driver.create_gpu_instance(0, "3g.40gb", 4)
    house.driver.create_compute_instance(0, number, 3)
    there = nvml.made()
    house.end()
    with pytest.raises(InputError, match=r"3g\.40gb@4 is not the fleet's; destroy it"):
        house.begin()
    assert nvml.made() == there
    house.driver.close()


def test_an_old_journal_is_bound_once(fake_nvml, tmp_path):
    """Journals of the version before have no UUIDs: their order holds, once, and is written down."""
    nvml = fake_nvml(["A100-80GB"] * 2)
    house = house_of(nvml, tmp_path)
    house.say("acquire a 7g")
    house.end()
    old = [json.loads(line) for line in house.journal.read_text().splitlines()]
    for record in old:
        for name in ("check", "version", "device"):
            record.pop(name, None)
    house.journal.write_text("".join(json.dumps(record, separators=(",", ":")) + "\n" for record in old))
    house.begin()
    assert any("taken to stand in the order of then" in note for note in house.service.notes)
    assert any("no checksums" in note for note in house.fleet.notes)
    house.end()
    assert re.search(r'"event":"bind".*"check":"[0-9a-f]{16}"', house.journal.read_text())
    house.begin()
    assert house.service.notes == []
    assert [one.tenant for one in house.service.adapter.tenants()] == [TENANT]
    house.end()
    house.driver.close()
