"""Clusters as users write them, and which job may use which pool."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rltune
from rltune.nouns.cluster import Cluster, Pool, eligibility, further_resources
from rltune.nouns.errors import InputError
from rltune.nouns.jobs import JobTable


def spec(**changed: Any) -> dict[str, Any]:
    return {"pools": [{"name": "a", "nodes": 2, "gpus_per_node": 4} | changed]}


@pytest.mark.parametrize(
    ("given_spec", "said"),
    [
        (spec(gpus=4), r"pool a: 'gpus' is unknown; known are name, nodes, gpus_per_node, gpu_type"),
        (spec(nodes=0), r"pool a: nodes=0; at least 1 is needed"),
        (spec(nodes=-3), r"nodes=-3"),
        (spec(gpus_per_node=0), r"gpus_per_node=0; 1 to 32"),
        (spec(gpus_per_node=33), r"gpus_per_node=33; 1 to 32"),
        (spec(gpu_type="B9000"), r"'B9000' is unknown; known are any"),
        ({"pools": [{"name": "a", "nodes": 2}]}, r"pool a: gpus_per_node is missing; 1 to 32 are possible"),
        ({"pools": []}, r"no pools; at least one is needed"),
        ({"nodes": 4}, r"'nodes' is unknown; known are name, pools"),
        ({"name": "a"}, r"pools is missing; give a list of pools"),
        ({"pools": spec()["pools"] * 2}, r"pool names are not unique: a, a"),
    ],
)
def test_bad_specifications_are_refused_in_one_line(given_spec: dict[str, Any], said: str) -> None:
    """A typing error in a cluster file would give another cluster, or a stack trace."""
    with pytest.raises(InputError, match=said) as refused:
        rltune.load_cluster(given_spec)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "given_spec",
    [
        {"pools": None},
        {"pools": {"a": {"nodes": 2, "gpus_per_node": 4}}},
        {"pools": ["a"]},
        {"pools": 3},
        spec(nodes="two"),
        spec(nodes=2.5),
        spec(gpus_per_node="8"),
        spec(gpus_per_node=2.5),
        spec(nodes=None),
        spec(max_gpus_per_job=0),
        spec(max_gpus_per_job="4"),
        spec(first_node_id="n1"),
    ],
    ids=str,
)
def test_values_of_the_wrong_kind_are_refused(given_spec: dict[str, Any]) -> None:
    """A cluster file with a text where a number belongs would end in a stack trace, now or in the middle of a run."""
    with pytest.raises(InputError):
        rltune.load_cluster(given_spec)


def test_virtual_clusters_may_be_numbers() -> None:
    """A YAML file with ``vc: 0`` would leave every job of virtual cluster 0 without a pool."""
    cluster = rltune.load_cluster({"pools": [{"nodes": 1, "gpus_per_node": 4, "vc": 0}]})
    jobs = JobTable.from_columns({"submit_s": [0], "duration_s": [1], "num_gpus": [1], "vc": [0]})
    assert rltune.simulate(jobs, cluster).started.all()


def test_cluster_names_and_files(tmp_path: Any) -> None:
    """A user could not name a cluster file, or would not learn which names exist."""
    with pytest.raises(InputError, match=r"'venus' is unknown; known are .*rltune_philly"):
        rltune.load_cluster("venus")
    path = tmp_path / "mine.yaml"
    path.write_text("pools:\n- {nodes: 3, gpus_per_node: 4}\n")
    assert (rltune.load_cluster(str(path)).name, rltune.load_cluster(str(path)).gpus) == ("mine", 12)
    path.write_text("pools: [\n")
    with pytest.raises(InputError, match=r"mine\.yaml: line 2: cannot be read as YAML"):
        rltune.load_cluster(str(path))
    path.write_text("pools:\n- nodes: 3\n  gpus_per_node: '8'\n")
    with pytest.raises(InputError, match=r"mine\.yaml: line 3: pools\[0\]: gpus_per_node='8'; 1 to 32 are possible"):
        rltune.load_cluster(str(path))
    path.write_text("pools: [{nodes: 3, gpus_per_node: 4, gpu_type: B9000}]")
    with pytest.raises(InputError, match=r"mine\.yaml: GPU type 'B9000' is unknown"):
        rltune.load_cluster(str(path))
    path.write_text("- 1\n- 2\n")
    with pytest.raises(InputError, match=r"mine\.yaml: \[1, 2\]; a cluster is a mapping with 'pools'"):
        rltune.load_cluster(str(path))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.integers(1, 400))
def test_scaling_keeps_proportions(sizes: list[int], nodes: int) -> None:
    """nodes=85 would give another number of nodes, or another mix of pools."""
    cluster = Cluster("c", tuple(Pool(f"p{k}", n, 4) for k, n in enumerate(sizes)))
    if nodes < len(sizes):
        with pytest.raises(InputError, match=f"nodes={nodes}"):
            cluster.with_nodes(nodes)
        return
    counts = [pool.nodes for pool in cluster.with_nodes(nodes).pools]
    exact = [n * nodes / sum(sizes) for n in sizes]
    assert sum(counts) == nodes
    assert min(counts) >= 1
    if min(exact) >= 1:  # no pool had to be kept alive at the others' cost
        assert all(abs(c - e) < 1 for c, e in zip(counts, exact, strict=True))


def test_scaling_to_the_same_size_changes_nothing() -> None:
    """nodes=17 on RLTune's Helios cluster would not be RLTune's cluster."""
    cluster = rltune.load_cluster("rltune_helios")
    assert cluster.with_nodes(17) == cluster
    assert [pool.nodes for pool in cluster.with_nodes(34).pools] == [12, 8, 6, 4, 4]


@pytest.mark.parametrize("nodes", ["100", 1.5, [3]], ids=str)
def test_a_node_count_that_is_no_count_is_refused(nodes: Any) -> None:
    """nodes=1.5 would be rounded in silence; nodes=abc would be a stack trace."""
    with pytest.raises(InputError, match="nodes="):
        rltune.load_cluster("uniform", nodes=nodes)


def test_who_may_use_which_pool() -> None:
    """A job would run in a foreign virtual cluster, on another GPU type, or in a pool too small for it."""
    cluster = Cluster(
        "c",
        (
            Pool("open", 2, 4, gpu_type="T4"),
            Pool("x", 1, 8, gpu_type="V100", vc="x"),
            Pool("untyped", 1, 2, vc="x", max_gpus_per_job=1),
        ),
    )
    jobs = JobTable.from_columns(
        {
            "submit_s": np.arange(8),
            "duration_s": np.ones(8),
            "num_gpus": [1, 1, 1, 1, 8, 9, 2, 1],
            "vc": ["x", None, "y", "x", None, "x", "x", "x"],
            "gpu_type": [None, None, None, "V100", None, None, None, "T4"],
        }
    )
    classes = eligibility(jobs, cluster)
    allowed = [classes.pools[classes.ptr[c] : classes.ptr[c + 1]].tolist() for c in classes.cls]
    assert allowed == [[0, 1, 2], [0], [0], [1, 2], [0], [], [0, 1], [0, 2]]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"cpus": 0}, "pool a: cpus=0; more than 0 is needed"),
        ({"memory_gb": "64"}, "pool a: memory_gb='64'; more than 0"),
        ({"cpus": float("inf")}, "pool a: cpus=inf"),
        ({"mig": 1}, "pool a: mig=1; write true or false"),
        ({"gpus_per_node": 0}, "pool a: gpus_per_node=0; 1 to 32 are possible"),
    ],
)
def test_bad_further_resources_are_refused(fields: dict[str, Any], said: str) -> None:
    """A misread limit would bind always, or never."""
    with pytest.raises(InputError, match=re.escape(said)):
        Pool(**({"name": "a", "nodes": 1, "gpus_per_node": 8} | fields))


def test_jobs_go_only_to_pools_with_cpu_and_memory_for_them() -> None:
    """A job that no node can ever hold would wait for ever, or one that fits be refused."""
    cluster = Cluster(
        "c",
        (
            Pool("small", 4, 4, cpus=8, memory_gb=32),
            Pool("large", 1, 8, "A100-80GB", cpus=64, mig=True),
            Pool("cpu", 1, 0, cpus=16),
        ),
    )
    jobs = JobTable.from_columns(
        {
            "submit_s": range(6),
            "duration_s": [1] * 6,
            "num_gpus": [1, 8, 8, 1, 1, 1],
            "gpu_milli": [1000, 1000, 1000, 0, 500, 1000],
            "cpus": [9, 16, 17, 12, 1, 1],
            "memory_gb": [0, 0, 0, 0, 33, 0],
            "mig": [None] * 5 + ["1g.10gb"],
        }
    )
    found = eligibility(jobs, cluster)
    assert [found.pools[found.ptr[c] : found.ptr[c + 1]].tolist() for c in found.cls] == [
        [1],  # 9 cores
        [0, 1],  # on small nodes 4 GPUs take 8 of the 16 cores
        [1],
        [1, 2],  # no GPU needed
        [1],
        [1],  # MIG
    ]
    assert further_resources(jobs, cluster) == "1 jobs need no GPU"
    assert further_resources(jobs.take(slice(0, 3)), Cluster("d", (Pool("a", 1, 8),))) is None


@pytest.mark.parametrize(
    ("pools", "told"),
    [
        ([{"nodes": 10**9, "gpus_per_node": 8}], "at most 1,000,000, a whole number"),
        ([{"nodes": 600_000, "gpus_per_node": 8}] * 2, "1,200,000 nodes; at most 1,000,000"),
        ([{"nodes": 1, "gpus_per_node": 8, "first_node_id": 10**30}], "at most 10.15, a whole number"),
    ],
)
def test_absurd_sizes_are_refused(pools: list[dict[str, int]], told: str) -> None:
    """A zero too many would take all memory instead of one line."""
    with pytest.raises(InputError, match=told):
        Cluster.from_spec({"pools": pools})
    with pytest.raises(InputError, match="at most 1,000,000"):
        Cluster.from_spec({"pools": [{"nodes": 1, "gpus_per_node": 8}]}).with_nodes(10**9)
