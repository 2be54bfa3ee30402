"""House rule: every YAML of conf/ becomes an object."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hydra.utils import get_method, get_object, instantiate

import rltune
from rltune.config import CONF, load_cluster, named
from rltune.config.choices import CHOICES, check_node, names, node
from rltune.config.commands import Evaluate, Simulate, Train
from rltune.config.declare import check, defaults, help_lines
from rltune.config.files import read_conf
from rltune.config.mig import MigBatch, MigServe, MigTrain
from rltune.nouns.cluster import Cluster
from rltune.nouns.errors import InputError
from rltune.nouns.jobs import JobTable
from rltune.traces.heterogeneity import FILES, throughput_of

TINY = JobTable.from_columns({"submit_s": [0, 0, 1], "duration_s": [5, 5, 5], "num_gpus": [1, 3, 2]})


@pytest.mark.parametrize("name", [n for n in named("cluster") if n not in ("auto", "file", "fitted")])
def test_every_cluster_instantiates(name: str) -> None:
    """cluster=NAME would fail, or mean another cluster to Hydra than to load_cluster."""
    made = instantiate(read_conf("cluster", name))
    assert isinstance(made, Cluster)
    assert made == load_cluster(name)
    assert made.name == name


@pytest.mark.parametrize("name", names("allocator"))
def test_every_allocator_places(name: str) -> None:
    """allocator=NAME would fail at its first decision."""
    cluster = Cluster.from_spec({"pools": [{"nodes": 2, "gpus_per_node": 4}]})
    result = rltune.simulate(TINY, cluster, allocator=name, backfill="skip")
    assert result.start_s.tolist() == [0, 0, 1]


@pytest.mark.parametrize("name", names("throughput"))
def test_every_throughput_is_one(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """throughput=NAME would fail, or read another table than it names."""
    monkeypatch.setenv("RLTUNE_TRACES", str(tmp_path))
    if name not in FILES:
        found = throughput_of(node("throughput", name))
        assert (found.name if found else "none") == ("made-up classes" if name == "classes" else name)
        return
    # Without the file it asks for, it says which.
    with pytest.raises(InputError, match=FILES[name]):
        throughput_of(node("throughput", name))


@pytest.mark.parametrize("group", CHOICES)
def test_every_choice_fits_its_own_declaration(group: str) -> None:
    """A default would be refused as soon as somebody names it."""
    for name in names(group):
        check_node(group, node(group, name))


@pytest.mark.parametrize("command", [Train, Evaluate, Simulate, MigBatch, MigServe, MigTrain])
def test_every_command_fits_its_own_declaration(command: type) -> None:
    """A command without any option would be refused; an option would stand in --help without what it means."""
    check(command, defaults(command))
    lines = list(help_lines(command))
    assert len(lines) >= len(defaults(command))


@pytest.mark.parametrize("name", named("trace"))
def test_every_trace_names_clusters_that_exist(name: str) -> None:
    """+trace=NAME without cluster=... would name a cluster that is not there, for one of the protocols."""
    trace = read_conf("trace", name)
    assert get_method(trace["_target_"]) is rltune.load_trace
    assert set(trace["clusters"]) == set(names("protocol"))
    for cluster in trace["clusters"].values():
        assert cluster == "fitted" or load_cluster(cluster).nodes > 0


TARGETS = {
    f"{path.parent.name}/{path.stem}": target
    for path in sorted(CONF.rglob("*.yaml"))
    if (target := yaml.safe_load(path.read_text()).get("_target_"))
}


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_can_be_imported(name: str) -> None:
    """A configuration would point to code that was renamed."""
    assert callable(get_object(TARGETS[name]))
