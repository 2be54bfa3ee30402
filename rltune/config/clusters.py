"""Clusters of conf/cluster by name, and what a command line changes about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rltune.config.files import CONF, named
from rltune.nouns.cluster import Cluster
from rltune.nouns.documents import read_yaml
from rltune.nouns.errors import InputError


def load_cluster(name_or_spec: str | Mapping[str, Any], nodes: int | None = None) -> Cluster:
    """A cluster by its name in conf/cluster, from a YAML file, or from ``{"pools": [...]}``.

    ``nodes``: scale the pools in proportion to this number of nodes in all.
    Raises InputError naming the known clusters or the faulty field.
    """
    cluster = Cluster.from_spec(name_or_spec) if isinstance(name_or_spec, Mapping) else _named(str(name_or_spec))
    return cluster if nodes is None else cluster.with_nodes(nodes)


CHANGES = ("pools", "nodes", "name")
"""What may be changed about a cluster: ``cluster.pools.0.nodes=40``, ``cluster.nodes=100``, ``cluster.name=larger``."""


def changed_cluster(cluster: Cluster, changes: Mapping[str, Any]) -> Cluster:
    """The cluster with ``changes``: its ``pools`` first, then scaled to ``nodes``.

    ``pools``: a list replaces them all. A mapping changes some, by number (0 is the first) or name: fields of the
    pool to other values, or None to take the pool away; the number after the last adds one.
    """
    if unknown := [str(key) for key in changes if key not in CHANGES]:
        raise InputError(f"option cluster.{unknown[0]} is unknown; known are {', '.join(CHANGES)}")
    name = str(changes.get("name") or cluster.name)
    pools = changes.get("pools")
    if isinstance(pools, Mapping):
        cluster = Cluster.from_spec({"name": name, "pools": _changed_pools(cluster, pools)})
    elif pools is not None or name != cluster.name:
        cluster = Cluster.from_spec(
            {"name": name, "pools": [asdict(p) for p in cluster.pools] if pools is None else pools}
        )
    return cluster if changes.get("nodes") is None else cluster.with_nodes(changes["nodes"])


def _changed_pools(cluster: Cluster, changes: Mapping[Any, Any]) -> list[Any]:
    pools: list[Any] = [asdict(pool) for pool in cluster.pools]
    place = {pool.name: k for k, pool in enumerate(cluster.pools)} | {str(k): k for k in range(len(pools) + 1)}
    gone = set()
    for key, fields in changes.items():
        k = place.get(str(key))
        if k is None:
            known = ", ".join(f"{n} ({pool.name})" for n, pool in enumerate(cluster.pools))
            raise InputError(f"cluster.pools.{key}: cluster {cluster.name} has no such pool; known are {known}")
        if k == len(pools):
            pools.append({})
        if fields is None:
            gone.add(k)
        elif not isinstance(fields, Mapping):
            raise InputError(
                f"cluster.pools.{key}={fields!r}; fields of a pool are needed, e.g. cluster.pools.{key}.nodes=8"
            )
        else:
            pools[k] = pools[k] | dict(fields)
    return [pool for k, pool in enumerate(pools) if k not in gone]


def _named(name: str) -> Cluster:
    path = Path(name) if name.endswith((".yaml", ".yml")) else CONF / "cluster" / f"{name}.yaml"
    if not path.is_file():
        raise InputError(
            f"cluster {name!r} is unknown; known are {', '.join(named('cluster'))}, or give a YAML file or a mapping"
        )
    document = read_yaml(path, "a YAML file with 'pools'")
    loaded = document.value
    # Files of conf/cluster hold what Hydra calls, and with what.
    spec = loaded["spec"] if isinstance(loaded, dict) and "spec" in loaded else loaded
    return Cluster.from_document(document._replace(value=spec), path.stem)
