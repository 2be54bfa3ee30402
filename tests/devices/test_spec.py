"""Specs: both formats, what they mean, and what is wrong with them, in one line."""

from __future__ import annotations

import json
from argparse import Namespace

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rltune.device_commands.schema import FILES
from rltune.device_commands.schema import run as schema
from rltune.devices.adapter import Adapter
from rltune.devices.driver import Identity
from rltune.devices.reading import read_states
from rltune.devices.simulated import SimulatedDriver
from rltune.devices.spec import export_parted, export_spec, read_spec, spec_of
from rltune.devices.state import GpuState, Instance, parse_instance, state, whole
from rltune.nouns.errors import InputError

GPUS = (Identity(0, "GPU-a", "NVIDIA A100", None, 0x20B210DE), Identity(1, "GPU-b", "NVIDIA A30", None, 0x20B710DE))
PARTED = """
version: v1
mig-configs:
  all-1g:
    - devices: all
      mig-enabled: true
      mig-devices: {"1g.10gb": 7}
  mixed:
    - device-filter: ["0x20B210DE", "0x233010DE"]
      devices: all
      mig-enabled: true
      mig-devices: {"3g.40gb": 1, "1c.3g.40gb": 2, "1g.10gb": 0}
    - device-filter: 0x20B710DE
      devices: [1]
      mig-enabled: false
"""


def written(tmp_path, text):
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    return path


def wanted(spec, gpu):
    return [str(one) for one in spec.by_gpu(GPUS)[gpu].instances]


def test_mig_parted_files_mean_the_same_here(tmp_path):
    """Who comes from mig-parted would get other partitions, or have to write everything anew."""
    path = written(tmp_path, PARTED)
    assert wanted(read_spec(path, "all-1g"), "GPU-b") == ["1g.10gb"] * 7
    mixed = read_spec(path, "mixed")
    assert wanted(mixed, "GPU-a") == ["3g.40gb", "3g.40gb[1+1]"]
    assert mixed.by_gpu(GPUS)["GPU-b"].mig is False


def test_json_is_read_as_well(tmp_path):
    """Programs write JSON."""
    value = {"version": 1, "gpus": [{"gpu": "GPU-a", "instances": ["3g.40gb@4"]}]}
    assert wanted(read_spec(written(tmp_path, json.dumps(value))), "GPU-a") == ["3g.40gb@4"]


BAD = {
    "gpus: []": "version None is unknown",
    "version: 2\ngpus: []": "version 2 is unknown; this release reads version: 1",
    "version: true\ngpus: []": "version True is unknown",
    "version: 1\ngpus: []": r"gpus=\[\]; a list of entries is needed",
    "version: 1\ngpus: [7]": r"gpus\[0\]=7; write {gpu: 0, instances",
    "version: 1\ngpu: []": "'gpu' is unknown; known are version, gpus; did you mean gpus",
    "version: 1\ngpus: [{gpu: 0, instance: []}]": "'instance' is unknown; known are gpu, mig, instances",
    "version: 1\ngpus: [{gpu: 0}]": r"has no instances; write instances: \[\]",
    "version: 1\ngpus: [{gpu: 0, instances: 3g.40gb}]": "write a list",
    "version: 1\ngpus: [{gpu: 0, instances: [3g]}]": "'3g' is no instance",
    "version: 1\ngpus: [{gpu: 0, instances: [3]}]": "3 is no instance",
    "version: 1\ngpus: [{gpu: 0, instances: ['3g.40gb@x']}]": "is no instance",
    "version: 1\ngpus: [{gpu: 0, instances: ['1c.3g.40gb@0[1]']}]": "is no instance",
    "version: 1\ngpus: [{gpu: 0, instances: ['3g.40gb@0[2+2]']}]": "asks for 4 compute slices of 3",
    "version: 1\ngpus: [{gpu: 0, instances: ['3g.40gb@0[0]']}]": "compute slices",
    "version: 1\ngpus: [{gpu: 0, mig: maybe, instances: []}]": "mig='maybe'; write true or false",
    "version: 1\ngpus: [{gpu: 0, mig: false, instances: [3g.40gb]}]": "leaves no room",
    "version: 1\ngpus: [{gpu: -1, instances: []}]": "gpu=-1; write a number",
    "version: 1\ngpus: [{gpu: [], instances: []}]": r"gpu=\[\]; write a number",
    "version: 1\ngpus: [{instances: []}]": "gpu is missing; write a number",
    "version: 1\ngpus: [": "line",
    "- 1": "a spec begins with version: 1",
    "": "a spec begins with version: 1",
    "version: v2\nmig-configs: {}": "version 'v2' is unknown; this release reads version: v1",
    "version: v1\nmig-configs: {}": "mig-configs={}; a mapping of configurations is needed",
    "version: v1\nmig-configs: {a: [], b: []}": "name one with --config; it has a, b",
    "version: v1\nmig-configs: {a: [{devices: all, mig-enabled: yes please}]}": "mig-enabled='yes please'; write true or false",
    "version: v1\nmig-configs: {a: [{devices: all, mig-enabled: true, mig-devices: {1g.10gb: many}}]}": "1g.10gb='many'; a count from 0 to 64",
    "version: v1\nmig-configs: {a: [{devices: all, mig-enabled: true, mig-devices: {all: 1}}]}": "'all' is no instance",
    "version: v1\nmig-configs: {a: [{devices: all, mig-enabled: true, device-filter: GTX}]}": "is no PCI device id",
    "version: v1\nmig-configs: {a: [{devices: all, mig-enabled: true, extra: 1}]}": "'extra' is unknown",
    "gpu: 2024-13-45": "cannot be read as YAML or JSON .month must be",
    "gpu: !!int abc": "cannot be read as YAML or JSON .invalid literal",
    "gpu: !!bool foo": "cannot be read as YAML or JSON",
    "version: 1\ngpus:\n- {gpu: 0, gpu: 1, instances: []}": "line 3: .*the key 'gpu' stands twice",
    '{"version": 1,\n"gpus": [],\n"gpus": []}': "line 3: .*the key 'gpus' stands twice",
    "version: 1\ngpus: [{gpu: 0, instances: ['3g.40gb@10000']}]": "is no instance",
    "version: 1\ngpus: [{gpu: 0, instances: ['3g.40gb@٤']}]": "is no instance",
    "version: 1\ngpus: [{gpu: 0, instances: ['99999c.3g.40gb']}]": "is no instance",
    "version: 1\ngpus: [{gpu: 0, instances: ['3g.40gb@0[1+]']}]": "is no instance",
    "version: v1\nmig-configs: {a: [{devices: all, mig-enabled: true, mig-devices: {3g.40gb: 1,\n3g.40gb: 2}}]}": "line 3: .*stands twice",
    "version: v1\nmig-configs: {a: [{devices: all, mig-enabled: true, mig-devices: {'3g.40gb[]': 1}}]}": "knows no brackets",
    "version: v1\nmig-configs: {a: [{devices: all, mig-enabled: true, mig-devices: {1g.10gb: 9000000000}}]}": "1g.10gb=9000000000; a count from 0 to 64 is needed",
    "version: v1\nmig-configs: {1: [], '1': []}": "two configurations have one name",
}


@pytest.mark.parametrize("text", BAD)
def test_a_bad_spec_is_told_in_one_line(tmp_path, text):
    """A slip would be ignored, and the GPUs cut into something else; or a traceback would say nothing of the place."""
    path = written(tmp_path, text)
    with pytest.raises(InputError, match=BAD[text]) as error:
        read_spec(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_numbers_of_thousands_of_digits_are_told(tmp_path):
    """A damaged file would end in a traceback of Python's limit on digits, be it while reading or in the message."""
    for digits in ("9" * 5000, "0x" + "f" * 5000):
        with pytest.raises(InputError, match=f"line 2: .*a value of {len(digits)} characters"):
            read_spec(written(tmp_path, f"gpus: []\nversion: {digits}"))


def test_anchors_and_merge_keys_still_work(tmp_path):
    """Who keeps a large file short with anchors would be told that what they override stands twice."""
    text = """
version: 1
gpus:
  - &first {gpu: 0, mig: true, instances: [1g.10gb@6]}
  - &second {<<: *first, gpu: 1}
  - {<<: *second, gpu: 2, instances: [7g.80gb]}
"""
    entries = read_spec(written(tmp_path, text)).entries
    assert [(one.gpus, [str(i) for i in one.instances]) for one in entries] == [
        ((0,), ["1g.10gb@6"]), ((1,), ["1g.10gb@6"]), ((2,), ["7g.80gb"]),
    ]  # fmt: skip


def test_a_configuration_may_be_named_by_a_number(tmp_path):
    """A configuration called 1 could not be chosen, and the message would name the very same one."""
    text = "version: v1\nmig-configs: {1: [{devices: all, mig-enabled: false}], b: []}"
    assert read_spec(written(tmp_path, text), "1").by_gpu(GPUS)["GPU-a"].mig is False
    with pytest.raises(InputError, match="there is no configuration '2'; it has 1, b"):
        read_spec(written(tmp_path, text), "2")


def test_a_kept_state_with_absurd_numbers_is_told():
    """A damaged journal or plan would end in a traceback of Python's limit on digits."""
    for text in ("3g.40gb@" + "9" * 5000, "3g.40gb@4[" + "1" * 5000 + "]", "3g.40gb@٤"):
        with pytest.raises(InputError, match="is no instance"):
            parse_instance(text)


def test_files_that_cannot_be_read_are_told(tmp_path):
    """A wrong path or a binary file would end in a traceback."""
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "none", tmp_path, tmp_path / "binary"):
        with pytest.raises(InputError, match="cannot be read"):
            read_spec(path)
    with pytest.raises(InputError, match="--config x is for mig-parted's"):
        read_spec(written(tmp_path, "version: 1\ngpus: [{gpu: 0, instances: []}]"), "x")


def test_gpus_that_are_not_there_or_named_twice_are_told():
    """An entry would silently do nothing, or the last of two would win."""
    for gpu, says in ((7, "there is no GPU 7; this machine has 0"), ("GPU-x", "there is no GPU GPU-x")):
        with pytest.raises(InputError, match=says):
            spec_of({"version": 1, "gpus": [{"gpu": gpu, "instances": []}]}).by_gpu(GPUS)
    twice = [{"gpu": "all", "instances": []}, {"gpu": 1, "instances": []}]
    with pytest.raises(InputError, match=r"GPU 1 stands in spec: gpus\[0\] too"):
        spec_of({"version": 1, "gpus": twice}).by_gpu(GPUS)
    lost = (Identity(0, "", "", None, None),)
    with pytest.raises(InputError, match="GPU 0 cannot be reached"):
        spec_of({"version": 1, "gpus": [{"gpu": 0, "instances": []}]}).by_gpu(lost)


IMPOSSIBLE = {
    ("8g.80gb",): "has no profile 8g.80gb; it has 7g.80gb",
    ("3g.40gb@2",): "cannot begin at memory slice 2; legal are 0, 4",
    ("1g.10gb",) * 8: "8 x 1g.10gb; the GPU can have 7",
    ("4g.40gb", "4g.40gb"): "2 x 4g.40gb; the GPU can have 1",
    ("7g.80gb", "1g.10gb"): "do not fit together",
    ("3g.40gb@0", "3g.40gb@0"): "do not fit together",
    ("4g.40gb[3]",): "compute instances have 1, 2, 4 slices there",
    ("3g.40gb[]",): "without compute instances is of no use",
    ("1g.10gb+me", "1g.10gb+me"): "the GPU can have 1",
}


@pytest.mark.parametrize("names", IMPOSSIBLE)
def test_what_no_gpu_can_have_is_told_before_anything_is_done(tmp_path, names):
    """The driver would refuse in the middle, with a number for an explanation."""
    adapter = Adapter(SimulatedDriver(["a100-80gb"], pace=0, scan=False), tmp_path)
    with pytest.raises(InputError, match=r"gpus\[0\]: GPU 0.*") as error:
        adapter.plan(spec_of({"version": 1, "gpus": [{"gpu": 0, "instances": list(names)}]}))
    assert IMPOSSIBLE[names] in str(error.value)


def test_an_exported_state_is_read_back(tmp_path):
    """A machine could not be put back to what it was yesterday."""
    driver = SimulatedDriver(["a100-80gb", "a30"], pace=0, scan=False)
    adapter = Adapter(driver, tmp_path)
    names = ["3g.40gb@4[1+2]", "2g.20gb@0", "1g.10gb+me@2"]
    adapter.apply(adapter.plan(spec_of({"version": 1, "gpus": [{"gpu": 0, "instances": names}]})))
    text = export_spec(read_states(driver), driver.gpus())
    empty = spec_of({"version": 1, "gpus": [{"gpu": "all", "instances": []}]})
    before = adapter.states()
    adapter.apply(adapter.plan(empty))
    adapter.apply(adapter.plan(read_spec(written(tmp_path, text))))
    assert adapter.states() == before
    parted = read_spec(written(tmp_path, export_parted(before, driver.gpus())))
    assert sorted(str(one) for one in parted.by_gpu(driver.gpus())[driver.gpus()[0].uuid].instances) == [
        "1g.10gb+me", "2g.20gb", "3g.40gb[1]", "3g.40gb[2]",
    ]  # fmt: skip
    assert yaml.safe_load(export_parted(before, driver.gpus(), "mine"))["mig-configs"]["mine"][1]["devices"] == [1]


def test_an_export_holds_only_what_a_spec_can_ask_for(tmp_path):
    """One lost GPU, or one useless GPU instance, would make a whole machine's export fail, or unreadable."""
    lost = Identity(2, "", "", None, None)
    found = {"GPU-a": state(True, [whole("3g.40gb", 4), Instance("3g.40gb", 0, ())]), "GPU-b": state(None)}
    spec = read_spec(written(tmp_path, export_spec(found, (*GPUS, lost))))
    assert {gpu: list(map(str, one.instances)) for gpu, one in spec.by_gpu(GPUS).items()} == {"GPU-a": ["3g.40gb@4"]}
    parted = read_spec(written(tmp_path, export_parted(found, (*GPUS, lost))))
    assert {gpu: list(map(str, one.instances)) for gpu, one in parted.by_gpu(GPUS).items()} == {"GPU-a": ["3g.40gb"]}


@pytest.mark.parametrize("kind", FILES)
def test_every_kind_of_file_has_a_schema(kind, capsys):
    """An editor would be given a schema that says less than the reader asks for."""
    assert schema(Namespace(file=kind)) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["additionalProperties"] is False and found["required"]
    assert all(one["additionalProperties"] is False and one["description"] for one in found["$defs"].values())


instances = st.builds(
    Instance,
    st.sampled_from(["1g.10gb", "1g.10gb+me", "3g.40gb", "7g.141gb"]),
    st.integers(0, 7),
    st.lists(st.integers(1, 3), max_size=3).map(lambda found: tuple(sorted(found))),
)
states = st.builds(
    state, st.sampled_from([True, False, None]), st.lists(instances, max_size=4), st.sampled_from([None, True])
)


@settings(max_examples=200, deadline=None)
@given(states)
def test_states_survive_their_spelling(found):
    """The journal and kept plans would come back as other states than were written."""
    assert GpuState.from_json(json.loads(json.dumps(found.as_json()))) == found
    assert all(parse_instance(str(one)) == one for one in found.instances)


def test_the_usual_instance_is_spelled_short():
    """Every line would carry brackets that nobody needs."""
    assert str(whole("3g.40gb", 4)) == "3g.40gb@4"
    assert str(Instance("3g.40gb", 4, (1, 2))) == "3g.40gb@4[1+2]"
