"""Where the configuration lies, and how its clusters and allocators become objects."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from rltune.cluster import Cluster
from rltune.errors import InputError

CONF = Path(__file__).resolve().parent.parent / "conf"
"""The Hydra configuration of the checkout (rltune is installed in place: ``pip install -e .``)."""


def names(group: str) -> list[str]:
    """Choices of a configuration group, e.g. ``cluster``."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def load_cluster(name_or_spec: str | Mapping[str, Any], nodes: int | None = None) -> Cluster:
    """A cluster by its name in conf/cluster, from a YAML file, or from ``{"pools": [...]}``.

    ``nodes``: scale the pools in proportion to so many nodes in all.
    Raises InputError naming the known clusters or the faulty field.
    """
    cluster = Cluster.from_spec(name_or_spec) if isinstance(name_or_spec, Mapping) else _named(str(name_or_spec))
    return cluster if nodes is None else cluster.with_nodes(nodes)


def _named(name: str) -> Cluster:
    path = Path(name) if name.endswith((".yaml", ".yml")) else CONF / "cluster" / f"{name}.yaml"
    if not path.is_file():
        raise InputError(
            f"cluster {name!r} is unknown; known are {', '.join(names('cluster'))}, or give a YAML file or a mapping"
        )
    try:
        loaded = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid YAML ({str(error).splitlines()[0]})") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from None
    if not isinstance(loaded, dict):
        raise InputError(f"{path}: a cluster is a mapping with 'pools'; see conf/cluster/")
    return Cluster.from_spec(loaded.get("spec", loaded), path.stem)
