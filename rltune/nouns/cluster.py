"""Clusters: pools of equal nodes, by GPU type and virtual cluster, and which job may use which pool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Annotated, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, FailFast, Field

from rltune.nouns.checked import Checked, Says, check_fields, checked, model_of, shown
from rltune.nouns.documents import Document
from rltune.nouns.errors import InputError
from rltune.nouns.gpus import gpu_type, usual_types
from rltune.nouns.jobs import WHOLE, JobTable
from rltune.nouns.mig_profiles import PROFILES, STARTS, TYPES

MAX_GPUS_PER_NODE = 32
MOST_NODES = 1_000_000
"""Of a cluster: a hundred times the largest known; each takes some hundred bytes in a simulation."""
GRID = 2.0**20
"""CPU cores and GB are counted in units of 1 / GRID: sums of such numbers are exact, in any order."""


def _one_type(value: Any) -> Any:
    """A GPU type by its usual spelling; InputError where that may be several."""
    found = usual_types(value) if isinstance(value, str) else ()
    if len(found) > 1:
        raise InputError(f"={shown(value)} may be {' or '.join(found)}; write which")
    return found[0] if found else value


def _plain(value: Any) -> Any:
    """NumPy's numbers as Python's."""
    return value.item() if isinstance(value, np.generic) else value


def _tree(value: Any) -> Any:
    """Mappings and sequences of any kind (Hydra has its own) as Python's."""
    if isinstance(value, Mapping):
        return {key: _tree(inner) for key, inner in value.items()}
    return [_tree(inner) for inner in value] if isinstance(value, Sequence) and not isinstance(value, str) else value


def _text(value: Any) -> Any:
    # YAML reads an unquoted `vc: 0` as a number; jobs carry text.
    return str(value) if _is_whole(value) else value


Whole = Annotated[int, BeforeValidator(_plain)]
Name = Annotated[str, BeforeValidator(_text, json_schema_input_type=str | int), Says("give a text or a whole number")]
Amount = Annotated[
    int | float, BeforeValidator(_plain), Field(gt=0), Says("more than 0 is needed (or null: not declared)")
]


@dataclass(frozen=True, slots=True)
class Pool:
    """Equal nodes of one GPU type in one virtual cluster (None: open to every job).

    Node ids count from ``first_node_id``. ``max_gpus_per_job``: wider gangs may not use this pool.
    ``cpus``, ``memory_gb``: CPU cores and GB of main memory of each node (None: not declared, never binding); a
    pool of nodes without GPUs (``gpus_per_node=0``) must declare one of them. ``mig``: its GPUs may be cut by MIG.
    """

    name: Name
    nodes: Annotated[
        Whole, Field(ge=1, le=MOST_NODES), Says(f"at least 1 is needed, at most {MOST_NODES:,}, a whole number")
    ]
    gpus_per_node: Annotated[
        Whole, Field(ge=0, le=MAX_GPUS_PER_NODE), Says(f"1 to {MAX_GPUS_PER_NODE} are possible, a whole number")
    ]
    gpu_type: Annotated[str, BeforeValidator(_one_type)] = "any"
    vc: Name | None = None
    first_node_id: Annotated[
        Whole, Field(ge=0, le=10**15), Says("at least 0 is needed, at most 10^15, a whole number")
    ] = 0
    max_gpus_per_job: Annotated[Whole | None, Field(ge=1), Says("at least 1 is needed (or null: no limit)")] = None
    cpus: Amount | None = None
    memory_gb: Amount | None = None
    mig: Annotated[bool, BeforeValidator(_plain), Says("write true or false")] = False

    def __post_init__(self) -> None:
        place = f"pool {self.name}"
        check_fields(self, place)
        if self.gpus_per_node == 0 and self.cpus is None and self.memory_gb is None:
            raise InputError(
                f"{place}: gpus_per_node=0; 1 to {MAX_GPUS_PER_NODE} are possible without cpus or memory_gb"
            )
        gpu_type(self.gpu_type)
        if self.mig and self.gpu_type not in TYPES:
            raise InputError(
                f"{place}: mig=true, but GPU type {self.gpu_type} has no MIG profiles here; "
                f"known are those of {', '.join(TYPES)}"
            )

    @property
    def gpus(self) -> int:
        return self.nodes * self.gpus_per_node

    @property
    def widest_job(self) -> int:
        """GPUs of the widest gang this pool may take."""
        return self.gpus if self.max_gpus_per_job is None else min(self.gpus, self.max_gpus_per_job)


PoolEntry: Any = model_of(Pool, name=None)
"""A pool in a file: its name may be left out."""


class ClusterSpec(Checked):
    """A cluster in a file of conf/cluster, or given as a mapping."""

    accepted = "a cluster is a mapping with 'pools', a list such as [{nodes: 2, gpus_per_node: 8}]; see conf/cluster/"
    name: str | int | None = None
    pools: Annotated[list[PoolEntry], FailFast(), Says("give a list of pools such as [{nodes: 2, gpus_per_node: 8}]")]


class ClusterArrays(NamedTuple):
    """The cluster as kernels see it; nodes of a pool are contiguous.

    ``pool_lo, pool_hi, pool_cap`` (n_pools,): node range and GPUs per node;
    ``node_pool, node_id`` (n_nodes,): pool index and the id shown to people;
    ``pool_cpus, pool_memory`` (n_pools,): cores and GB of each node, infinity where not declared;
    ``pool_mig`` (n_pools,): index into `rltune.nouns.mig_profiles.TYPES`, -1 where GPUs may not be cut.
    """

    pool_lo: npt.NDArray[np.int64]
    pool_hi: npt.NDArray[np.int64]
    pool_cap: npt.NDArray[np.int64]
    node_pool: npt.NDArray[np.int64]
    node_id: npt.NDArray[np.int64]
    pool_cpus: npt.NDArray[np.float64]
    pool_memory: npt.NDArray[np.float64]
    pool_mig: npt.NDArray[np.int64]


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
        if self.nodes > MOST_NODES:
            raise InputError(f"cluster {self.name}: {self.nodes:,} nodes; at most {MOST_NODES:,} are possible")

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any], name: str = "custom") -> Cluster:
        """From ``{"name": ..., "pools": [{"name", "nodes", "gpus_per_node", ...}, ...]}``."""
        return cls.from_document(Document("" if name == "custom" else f"cluster {name}", _tree(spec)), name)

    @classmethod
    def from_document(cls, document: Document, name: str) -> Cluster:
        """From a file; ``name`` unless it has one. InputError names file, line and remedy."""
        spec = checked(ClusterSpec, document)
        name = str(spec.name or name)
        pools = [entry.model_dump(exclude_unset=True) for entry in spec.pools]
        try:
            return cls(name, tuple(Pool(**{"name": f"pool{index}", **fields}) for index, fields in enumerate(pools)))
        except InputError as error:
            raise InputError(f"{document.place}: {error}" if document.place else str(error)) from None

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
        if nodes > MOST_NODES:
            raise InputError(f"cluster {self.name}: nodes={nodes}; at most {MOST_NODES:,} are possible")
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
            pool_cpus=np.array([np.inf if p.cpus is None else float(p.cpus) for p in self.pools]),
            pool_memory=np.array([np.inf if p.memory_gb is None else float(p.memory_gb) for p in self.pools]),
            pool_mig=np.array([TYPES.index(p.gpu_type) if p.mig else -1 for p in self.pools], np.int64),
        )

    def eligible_pools(
        self,
        vc: str | None,
        gpu: str | None,
        num_gpus: int,
        cpus: float = 0.0,
        memory_gb: float = 0.0,
        mig: str | None = None,
    ) -> tuple[int, ...]:
        """Indices of the pools where such a job fits when they are empty; ``num_gpus`` = 0: it needs no GPU."""
        return tuple(
            index
            for index, pool in enumerate(self.pools)
            if (pool.vc is None or pool.vc == vc)
            and accepts(gpu, pool.gpu_type)
            and num_gpus <= pool.widest_job
            and _parts_fit(num_gpus, pool, cpus, memory_gb)
            and (
                mig is None
                or (
                    num_gpus <= 1
                    and pool.mig
                    and mig in PROFILES
                    and STARTS[PROFILES.index(mig), TYPES.index(pool.gpu_type)]
                )
            )
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
    """Group jobs into classes of equal demand and eligible pools; class with no pool = can never run.

    CPU and memory count where a pool declares them; a job that needs no GPU may use every pool of its VC and type.
    """
    gpus = np.where(jobs.gpu_milli == 0, 0, jobs.num_gpus)
    first, inverse = distinct_rows([jobs.vc.codes, jobs.gpu_type.codes, gpus, *demand_columns(jobs, cluster)])
    classes: dict[tuple[Any, ...], int] = {}
    of_row = np.empty(len(first), np.int32)
    for index, row in enumerate(first):
        demand = (int(gpus[row]), int(jobs.gpu_milli[row]), float(jobs.cpus[row]), float(jobs.memory_gb[row]))
        mig = _name(jobs.mig.names, jobs.mig.codes[row])
        vc, gpu = _name(jobs.vc.names, jobs.vc.codes[row]), _name(jobs.gpu_type.names, jobs.gpu_type.codes[row])
        pools = cluster.eligible_pools(vc, gpu, demand[0], demand[2], demand[3], mig)
        of_row[index] = classes.setdefault((*demand, mig, pools), len(classes))
    lengths = [len(key[-1]) for key in classes]
    return Eligibility(
        cls=of_row[inverse],
        ptr=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        pools=np.array([pool for key in classes for pool in key[-1]], np.int64),
    )


def demand_columns(jobs: JobTable, cluster: Cluster) -> list[npt.NDArray[Any]]:
    """Integer columns (n_jobs,) in which jobs' demands beside whole GPUs differ on this cluster; none where all are alike."""
    columns: list[npt.NDArray[Any]] = []
    if (jobs.gpu_milli != WHOLE).any() or (jobs.mig.codes >= 0).any():
        columns += [jobs.gpu_milli, jobs.mig.codes]
    # Where nothing is declared these would only make many equal classes.
    if any(pool.cpus is not None for pool in cluster.pools):
        columns.append(np.unique(jobs.cpus, return_inverse=True)[1])
    if any(pool.memory_gb is not None for pool in cluster.pools):
        columns.append(np.unique(jobs.memory_gb, return_inverse=True)[1])
    return columns


def distinct_rows(columns: Sequence[npt.NDArray[Any]]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First row of each kind among rows of integer columns (n,), kinds ascending; and each row's kind (n,).

    One column after the other: sorting integers is many times faster than sorting rows, and needs less memory.
    """
    code = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        values = column.astype(np.int64) - int(column.min())
        code = code * (int(values.max()) + 1) + values
        if int(code.max()) > _MANY:
            code = np.unique(code, return_inverse=True)[1].astype(np.int64)
    if int(code.max()) <= _MANY:
        present = np.zeros(int(code.max()) + 1, np.int64)
        present[code] = 1
        kind = (np.cumsum(present) - 1)[code]
    else:
        kind = np.unique(code, return_inverse=True)[1].astype(np.int64)
    first = np.empty(int(kind.max()) + 1, np.int64)
    first[kind[::-1]] = np.arange(len(code) - 1, -1, -1)
    return first, kind


_MANY = 1_000_000
"""Codes up to here are counted in an array instead of sorted."""


def further_resources(jobs: JobTable, cluster: Cluster) -> str | None:
    """What a simulation of whole GPUs alone would overlook in these jobs and this cluster; None: nothing."""
    for found, what in (
        (int((jobs.gpu_milli == 0).sum()), "jobs need no GPU"),
        (int(((jobs.gpu_milli > 0) & (jobs.gpu_milli < WHOLE)).sum()), "jobs ask for a share of a GPU"),
        (int((jobs.mig.codes >= 0).sum()), "jobs ask for a MIG profile"),
        (int((jobs.ways.codes >= 0).sum()), "jobs list several ways to run"),
        (
            sum(pool.cpus is not None or pool.memory_gb is not None for pool in cluster.pools),
            "pools limit CPU or memory",
        ),
    ):
        if found:
            return f"{found} {what}"
    return None


def grid(amount: Any) -> Any:
    """CPU or memory as kernels count it: rounded down to the grid on which sums are exact (`GRID`)."""
    return np.floor(np.asarray(amount, np.float64) * GRID) / GRID


def _parts_fit(num_gpus: int, pool: Pool, cpus: float, memory_gb: float) -> bool:
    """Whether idle nodes have the CPU and memory of a gang spread over as few of them as its GPUs need."""
    if num_gpus == 0 or num_gpus <= pool.gpus_per_node:
        return _part_fits(1, 1, cpus, pool.cpus) and _part_fits(1, 1, memory_gb, pool.memory_gb)
    nodes = -(-num_gpus // pool.gpus_per_node)
    most = max(
        (
            k
            for k in range(1, pool.gpus_per_node + 1)
            if _part_fits(k, num_gpus, cpus, pool.cpus) and _part_fits(k, num_gpus, memory_gb, pool.memory_gb)
        ),
        default=0,
    )
    return nodes * most >= num_gpus


def _part_fits(k: int, num_gpus: int, amount: float, limit: float | None) -> bool:
    """Whether what goes with k of a job's GPUs is within ``limit``, on the kernels' grid."""
    return limit is None or bool(grid(float(grid(amount)) * k / num_gpus) <= grid(limit))


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _name(names: tuple[str, ...], code: int) -> str | None:
    return names[code] if code >= 0 else None
