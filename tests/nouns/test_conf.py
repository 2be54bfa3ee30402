"""House rule: every YAML of conf/ becomes an object."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.utils import get_method, get_object, instantiate

import rltune
from rltune.allocators.fragmentation import demand_of
from rltune.cluster import Cluster
from rltune.config import CONF, load_cluster, names
from rltune.errors import InputError
from rltune.jobs import JobTable
from rltune.traces.heterogeneity import FILES

TINY = JobTable.from_columns({"submit_s": [0, 0, 1], "duration_s": [5, 5, 5], "num_gpus": [1, 3, 2]})


def node(group: str, name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((CONF / group / f"{name}.yaml").read_text()))


@pytest.mark.parametrize("name", [n for n in names("cluster") if n != "auto"])
def test_every_cluster_instantiates(name: str) -> None:
    """cluster=NAME would fail, or mean another cluster to Hydra than to load_cluster."""
    made = instantiate(node("cluster", name))
    assert isinstance(made, Cluster)
    assert made == load_cluster(name)
    assert made.name == name


@pytest.mark.parametrize("name", names("allocator"))
def test_every_allocator_instantiates_and_places(name: str) -> None:
    """allocator=NAME would fail at its first decision."""
    cluster = Cluster.from_spec({"pools": [{"nodes": 2, "gpus_per_node": 4}]})
    extra = {"demand": demand_of(TINY.num_gpus, cluster.arrays())} if name == "milp" else {}
    allocator = instantiate(node("allocator", name), **extra)
    result = rltune.simulate(TINY, cluster, allocator=allocator, backfill="skip")
    assert result.start_s.tolist() == [0, 0, 1]


@pytest.mark.parametrize("name", names("throughput"))
def test_every_throughput_is_one(name: str, tmp_path: Path) -> None:
    """throughput=NAME would fail, or read another table than it names."""
    config = node("throughput", name)
    if "name" not in config:
        assert instantiate(config).name == name
        return
    assert config["name"] == name
    # Without the file it asks for, it says which.
    with pytest.raises(InputError, match=FILES[name]):
        get_method(config.pop("_target_"))(**config, folder=str(tmp_path))


@pytest.mark.parametrize("name", names("protocol"))
def test_every_protocol_is_complete(name: str) -> None:
    """protocol=NAME would miss an option that the entry points read."""
    protocol = node("protocol", name)
    assert protocol.keys() == {"name", "window", "warmup", "nodes", "train_scale"}
    assert protocol["name"] == name


@pytest.mark.parametrize("name", names("algo"))
def test_every_algorithm_names_itself(name: str) -> None:
    """algo=NAME would train with another algorithm."""
    assert node("algo", name)["name"] == name
    assert "threads" in node("algo", name)


@pytest.mark.parametrize("name", names("trace"))
def test_every_trace_names_clusters_that_exist(name: str) -> None:
    """+trace=NAME without cluster=... would name a cluster that is not there, for one of the protocols."""
    trace = node("trace", name)
    assert get_method(trace["_target_"]) is rltune.load_trace
    assert set(trace["clusters"]) == set(names("protocol"))
    for cluster in trace["clusters"].values():
        assert load_cluster(cluster).nodes > 0


TARGETS = {
    f"{path.parent.name}/{path.stem}": target
    for path in sorted(CONF.rglob("*.yaml"))
    if (target := yaml.safe_load(path.read_text()).get("_target_"))
}


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_can_be_imported(name: str) -> None:
    """A configuration would point to code that was renamed."""
    assert callable(get_object(TARGETS[name]))
