"""Clusters: pools of equal nodes, by GPU type and virtual cluster, and which job may use which pool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rltune.errors import InputError
from rltune.gpus import gpu_type
from rltune.jobs import JobTable

MAX_GPUS_PER_NODE = 32


@dataclass(frozen=True, slots=True)
class Pool:
    """Equal nodes of one GPU type in one virtual cluster (None: open to every job).

    Node ids count from ``first_node_id``. ``max_gpus_per_job``: wider gangs may not use this pool.
    """

    name: str
    nodes: int
    gpus_per_node: int
    gpu_type: str = "any"
    vc: str | None = None
    first_node_id: int = 0
    max_gpus_per_job: int | None = None

    def __post_init__(self) -> None:
        # YAML reads an unquoted `vc: 0` as a number; jobs carry text.
        for field in ("name", "vc"):
            object.__setattr__(self, field, _text(getattr(self, field), field, self.name))
        self._check_whole("nodes", "at least 1 is needed", 1)
        self._check_whole("gpus_per_node", f"1 to {MAX_GPUS_PER_NODE} are possible", 1, MAX_GPUS_PER_NODE)
        self._check_whole("first_node_id", "at least 0 is needed", 0)
        if self.max_gpus_per_job is not None:
            self._check_whole("max_gpus_per_job", "at least 1 is needed (or null: no limit)", 1)
        gpu_type(str(self.gpu_type))

    def _check_whole(self, field: str, accepted: str, least: int, most: float = np.inf) -> None:
        value = getattr(self, field)
        if not _is_whole(value):
            raise InputError(f"pool {self.name}: {field}={value!r} is no whole number; {accepted}")
        if not least <= value <= most:
            raise InputError(f"pool {self.name}: {field}={value}; {accepted}")

    @property
    def gpus(self) -> int:
        return self.nodes * self.gpus_per_node

    @property
    def widest_job(self) -> int:
        """GPUs of the widest gang this pool may take."""
        return self.gpus if self.max_gpus_per_job is None else min(self.gpus, self.max_gpus_per_job)


class ClusterArrays(NamedTuple):
    """The cluster as kernels see it; nodes of a pool are contiguous.

    ``pool_lo, pool_hi, pool_cap`` (n_pools,): node range and GPUs per node;
    ``node_pool, node_id`` (n_nodes,): pool index and the id shown to people.
    """

    pool_lo: npt.NDArray[np.int64]
    pool_hi: npt.NDArray[np.int64]
    pool_cap: npt.NDArray[np.int64]
    node_pool: npt.NDArray[np.int64]
    node_id: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Cluster:
    """A named tuple of pools. Jobs go to pools whose VC and GPU type match theirs."""

    name: str
    pools: tuple[Pool, ...]

    def __post_init__(self) -> None:
        if not self.pools:
            raise InputError(f"cluster {self.name}: no pools; at least one is needed")
        names = [pool.name for pool in self.pools]
        if len(set(names)) < len(names):
            raise InputError(f"cluster {self.name}: pool names are not unique: {', '.join(names)}")

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any], name: str = "custom") -> Cluster:
        """From ``{"name": ..., "pools": [{"name", "nodes", "gpus_per_node", ...}, ...]}``."""
        if not isinstance(spec, Mapping) or "pools" not in spec:
            raise InputError(f"cluster {name}: no 'pools' in the specification; give a list of pools")
        name = str(spec.get("name", name))
        if isinstance(spec["pools"], str) or not isinstance(spec["pools"], Sequence):
            raise InputError(f"cluster {name}: pools={spec['pools']!r} is no list; give a list of pools")
        pools = []
        for index, entry in enumerate(spec["pools"]):
            if not isinstance(entry, Mapping):
                raise InputError(
                    f"cluster {name}: pool {index}: {entry!r} is no mapping; give nodes=..., gpus_per_node=..."
                )
            known = set(Pool.__dataclass_fields__)
            unknown = set(entry) - known
            if unknown:
                raise InputError(
                    f"cluster {name}: pool {index}: unknown {', '.join(sorted(map(str, unknown)))}; "
                    f"known are {', '.join(sorted(known))}"
                )
            missing = {"nodes", "gpus_per_node"} - set(entry)
            if missing:
                raise InputError(f"cluster {name}: pool {index}: {', '.join(sorted(missing))} is missing")
            pools.append(Pool(**{"name": f"pool{index}", **{str(k): v for k, v in entry.items()}}))
        return cls(name, tuple(pools))

    @property
    def nodes(self) -> int:
        return sum(pool.nodes for pool in self.pools)

    @property
    def gpus(self) -> int:
        return sum(pool.gpus for pool in self.pools)

    def with_nodes(self, nodes: int) -> Cluster:
        """The same pools scaled to ``nodes`` in all, in proportion (largest remainder, at least one a pool)."""
        if not _is_whole(nodes):
            raise InputError(f"cluster {self.name}: nodes={nodes!r} is no whole number; give one of at least 1")
        if nodes < len(self.pools):
            raise InputError(
                f"cluster {self.name}: nodes={nodes}, but it has {len(self.pools)} pools of at least one node"
            )
        exact = np.array([pool.nodes for pool in self.pools]) * nodes / self.nodes
        counts = np.maximum(1, np.floor(exact).astype(int))
        while counts.sum() < nodes:
            counts[int(np.argmax(exact - counts))] += 1
        while counts.sum() > nodes:
            counts[int(np.argmin(np.where(counts > 1, exact - counts, np.inf)))] -= 1
        return Cluster(self.name, tuple(replace(p, nodes=int(c)) for p, c in zip(self.pools, counts, strict=True)))

    def arrays(self) -> ClusterArrays:
        sizes = np.array([pool.nodes for pool in self.pools])
        hi = np.cumsum(sizes).astype(np.int64)
        return ClusterArrays(
            pool_lo=hi - sizes,
            pool_hi=hi,
            pool_cap=np.array([pool.gpus_per_node for pool in self.pools], np.int64),
            node_pool=np.repeat(np.arange(len(sizes)), sizes).astype(np.int64),
            node_id=np.concatenate([np.arange(p.nodes) + p.first_node_id for p in self.pools]).astype(np.int64),
        )

    def eligible_pools(self, vc: str | None, gpu: str | None, num_gpus: int) -> tuple[int, ...]:
        """Indices of the pools where such a job fits when they are empty."""
        return tuple(
            index
            for index, pool in enumerate(self.pools)
            if (pool.vc is None or pool.vc == vc) and accepts(gpu, pool.gpu_type) and num_gpus <= pool.widest_job
        )


def accepts(wanted: str | None, offered: str) -> bool:
    """Whether a job that wants GPU type ``wanted`` (None: any; "A|B": either) may use GPUs of type ``offered``."""
    return wanted is None or offered == "any" or offered in wanted.split("|")


class Eligibility(NamedTuple):
    """Which pools each job may use: job j's are ``pools[ptr[cls[j]]:ptr[cls[j] + 1]]``.

    Jobs of a class also want the same number of GPUs: where one does not fit, none does.
    """

    cls: npt.NDArray[np.int32]
    ptr: npt.NDArray[np.int64]
    pools: npt.NDArray[np.int64]


def eligibility(jobs: JobTable, cluster: Cluster) -> Eligibility:
    """Group jobs into classes with the same eligible pools and size; class with no pool = can never run."""
    wanted = [jobs.vc.codes, jobs.gpu_type.codes, jobs.num_gpus]
    unique, of_key = distinct_rows(wanted)
    classes: dict[tuple[Any, ...], int] = {}
    of_unique = np.empty(len(unique), np.int32)
    for index, (vc, gpu, num_gpus) in enumerate(unique.tolist()):
        pools = cluster.eligible_pools(_name(jobs.vc.names, vc), _name(jobs.gpu_type.names, gpu), num_gpus)
        of_unique[index] = classes.setdefault((num_gpus, pools), len(classes))
    lengths = [len(pools) for _, pools in classes]
    return Eligibility(
        cls=of_unique[of_key],
        ptr=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        pools=np.array([pool for _, pools in classes for pool in pools], np.int64),
    )


def distinct_rows(columns: Sequence[npt.NDArray[Any]]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Distinct rows of integer columns (n,), ascending, shape (n_distinct, n_columns), and each row's index in them.

    One column after the other: sorting integers is many times faster than sorting rows, and needs less memory.
    """
    code = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        values = column.astype(np.int64) - column.min()
        code = code * (int(values.max()) + 1) + values
        if int(code.max()) > _MANY:
            code = np.unique(code, return_inverse=True)[1].astype(np.int64)
    if int(code.max()) <= _MANY:
        present = np.zeros(int(code.max()) + 1, np.int64)
        present[code] = 1
        index = (np.cumsum(present) - 1)[code]
    else:
        index = np.unique(code, return_inverse=True)[1].astype(np.int64)
    first = np.empty(int(index.max()) + 1, np.int64)
    first[index[::-1]] = np.arange(len(code) - 1, -1, -1)
    return np.stack([column[first].astype(np.int64) for column in columns], axis=1), index


_MANY = 1_000_000
"""Codes up to here are counted in an array instead of sorted."""


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _text(value: Any, field: str, pool: Any) -> str | None:
    if isinstance(value, str) or (value is None and field == "vc"):
        return value
    if not _is_whole(value):
        raise InputError(f"pool {pool}: {field}={value!r} is no name; give a text or a whole number")
    return str(value)


def _name(names: tuple[str, ...], code: int) -> str | None:
    return names[code] if code >= 0 else None
