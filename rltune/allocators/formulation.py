"""From waiting jobs to the sets of the joint model: kinds of jobs, ways to place each, and the parts they consist of.

Jobs that ask for the same, may use the same pools at the same speeds, count towards the same quota and end on the same side of the
reservation are one *kind*. A *way* puts a job of a kind into one pool: as a single part on one node, or, a gang, as
parts on several nodes of that pool. A part is an *item*; items are what columns (`rltune.allocators.columns`) place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from rltune.allocators.rows import Items
from rltune.core.resources.places import Demand, Room
from rltune.core.resources.slices import INDICES
from rltune.nouns.cluster import GRID, ClusterArrays
from rltune.nouns.jobs import WHOLE

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
MOST_SPLITS = 64
"""Ways to split a gang over the nodes of one pool, those with fewest partly used nodes first; a node of 8 GPUs has at most 15."""


NEW = 1 << 40
"""In place of a running job's number, in items: parts that anybody may place; they come after all that are held."""


@dataclass(frozen=True, slots=True, eq=False)
class Holders:
    """Which jobs of a decision run now, (n,) each: ``place``: (nodes, grants) that it holds, None: it waits.

    ``suspend, move``: GPU-seconds lost if it is suspended, and if it starts anew elsewhere; 0 for those that wait.
    """

    place: Sequence[tuple[tuple[int, ...], tuple[int, ...]] | None]
    suspend: Floats
    move: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """One decision: what is free and who waits. Arrays are not changed.

    ``jobs`` (n,): rows of ``demand``, first to start first; ``value`` (n,): what starting each is worth. Job i may use
    ``pools[lo[i]:hi[i]]``. ``slow`` (len(pools),): extra run time there relative to the fastest pool of the job,
    0.5 = half as long again; ``late``
    (len(pools),): 1 where a job would still run when the reservation begins, and has to fit in ``spare``: what is free then
    beside the reserved job (None: no reservation). ``idle`` (n_nodes, widest): idle MIG instances
    (`rltune.nouns.mig_layout`), None: none. ``group`` (n,): quota that a job counts towards, -1 none; ``left``
    (n_groups,): GPUs left of each. ``prefix``: a job may start only if all before it do. ``all_start``: all are known
    to fit together and must start. ``near`` (n,): nodes that each job is tried on, None: all. ``holders``: which of the
    jobs run now; what they hold counts as free in ``room`` and ``left``, and is theirs at no cost. None: all wait.
    """

    cluster: ClusterArrays
    room: Room
    demand: Demand
    jobs: Ints
    value: Floats
    pools: Ints
    lo: Ints
    hi: Ints
    slow: Floats | None = None
    late: Ints | None = None
    spare: Room | None = None
    idle: Ints | None = None
    group: Ints | None = None
    left: Floats | None = None
    prefix: bool = False
    all_start: bool = False
    near: Sequence[Ints] | None = None
    holders: Holders | None = None

    def idle_instances(self) -> Ints:
        """``idle``, zeros where none was given."""
        return np.zeros(self.room.milli.shape, np.int64) if self.idle is None else self.idle

    def later_room(self) -> tuple[Room, bool]:
        """``spare`` and whether there is a reservation."""
        return (self.room, False) if self.spare is None else (self.spare, True)


@dataclass(frozen=True, slots=True)
class Way:
    """A job of ``kind`` in ``pool`` as ``parts`` ((item, how many), ...); ``slowdown``, ``locality``: see the objective.

    ``move``: GPU-seconds lost by a running job that goes this way.
    """

    kind: int
    pool: int
    parts: tuple[tuple[int, int], ...]
    slowdown: float
    locality: float
    move: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Formulation:
    """``kind`` (n_jobs,) of each job; ``ways``; ``items``; ``parts`` (n_pools,): parts that could be placed in each pool.

    ``kept``: (item, node, grant) of every part that a running job holds: the item is tried there, and nowhere else.
    ``signature``: equal for equal jobs, whatever their names; ``left_out``: splits of gangs beyond `MOST_SPLITS`.
    """

    kind: tuple[int, ...]
    ways: tuple[Way, ...]
    items: Items
    parts: Ints
    signature: tuple[Any, ...]
    left_out: int
    kept: tuple[tuple[int, int, int], ...] = ()


def formulate(instance: Instance, spread: int) -> Formulation:
    """Kinds, ways and items. ``spread``: nodes a gang may use beyond the fewest."""
    kinds: dict[tuple[Any, ...], int] = {}
    kind = tuple(kinds.setdefault(key, len(kinds)) for key in _keys(instance))
    many = np.bincount(kind, minlength=len(kinds)) if kind else np.zeros(0, np.int64)
    items: dict[tuple[Any, ...], int] = {}
    drafts: list[Any] = []
    left_out = 0
    caps = instance.cluster.pool_cap.tolist()
    for key, k in kinds.items():
        gpus, milli, cpus, memory, profile, pools, _, holder = key
        move = 0.0
        if holder >= 0:
            assert instance.holders is not None
            move = float(instance.holders.move[holder])
            drafts.append(_staying(instance, key, k, items))
        for p, slow, late in pools:
            splits = _splits(gpus, caps[p], spread) if milli == WHOLE and profile < 0 else ((((gpus, 1),),), 0)
            left_out += splits[1]
            for split in splits[0]:
                parts = []
                for size, times in split:
                    item = (p, NEW, size, milli, _part(cpus, size, gpus), _part(memory, size, gpus), profile, late)
                    parts.append((items.setdefault(item, len(items)), times))
                nodes = sum(times for _, times in split)
                drafts.append((k, p, parts, slow * gpus * milli / WHOLE, float(nodes - 1), move))
    order = sorted(range(len(items)), key=list(items).__getitem__)
    place = {old: new for new, old in enumerate(order)}
    ways = tuple(
        Way(k, p, tuple((place[i], times) for i, times in parts), slow, far, move)
        for k, p, parts, slow, far, move in drafts
    )
    listed = [list(items)[i] for i in order]
    kept = tuple((i, item[-2], item[-1]) for i, item in enumerate(listed) if item[1] != NEW)
    most, total = _most(ways, many, len(listed), len(caps))
    signature = (kind, tuple(kinds), instance.prefix, instance.all_start, spread)
    return Formulation(kind, ways, _items(listed, most, len(caps)), total, signature, left_out, kept)


def _staying(instance: Instance, key: tuple[Any, ...], kind: int, items: dict[tuple[Any, ...], int]) -> Any:
    """The way of a running job that keeps its places: a part of its own on each of its nodes."""
    gpus, milli, cpus, memory, profile, pools, _, holder = key
    assert instance.holders is not None
    place = instance.holders.place[holder]
    assert place is not None
    pool = int(instance.cluster.node_pool[place[0][0]])
    slow = next(slow for p, slow, _ in pools if p == pool)
    parts = []
    for node, grant in zip(*place, strict=True):
        size = (grant & INDICES).bit_count() if milli == WHOLE and profile < 0 else gpus
        # Before all new parts in the order of items, so that new ones are placed around what is kept.
        item = (pool, holder, size, milli, _part(cpus, size, gpus), _part(memory, size, gpus), profile, 0, node, grant)
        parts.append((items.setdefault(item, len(items)), 1))
    return kind, pool, parts, slow * gpus * milli / WHOLE, float(len(place[0]) - 1), 0.0


def _keys(instance: Instance) -> list[tuple[Any, ...]]:
    """What tells kinds of jobs apart: demand, (pool, extra time, late) of each pool, quota; a running job is alone (its row)."""
    rows = instance.jobs
    columns = [column[rows].tolist() for column in instance.demand]
    pools, n = instance.pools.tolist(), len(instance.pools)
    slow = [0.0] * n if instance.slow is None else instance.slow.tolist()
    late = [0] * n if instance.late is None else instance.late.tolist()
    group = [-1] * len(rows) if instance.group is None else instance.group.tolist()
    lo, hi = instance.lo.tolist(), instance.hi.tolist()
    places = [None] * len(rows) if instance.holders is None else instance.holders.place
    runs = [-1 if place is None else k for k, place in enumerate(places)]
    return [
        (*ask, tuple(zip(pools[a:b], slow[a:b], late[a:b], strict=True)), g, k)
        for *ask, a, b, g, k in zip(*columns, lo, hi, group, runs, strict=True)
    ]


def _part(amount: float, size: int, gpus: int) -> float:
    """CPU or memory that goes with ``size`` of a job's GPUs, as `rltune.core.resources.places.part_of`."""
    return amount if size == gpus else float(np.floor(amount * size / gpus * GRID) / GRID)


@lru_cache(maxsize=4096)
def _splits(gpus: int, cap: int, spread: int) -> tuple[tuple[tuple[tuple[int, int], ...], ...], int]:
    """Ways to write ``gpus`` as node parts of at most ``cap``, each ((size, how often), ...); and how many were left out."""
    if cap == 0:
        return (), 0
    fewest = -(-gpus // cap)
    found = []
    for nodes in range(fewest, fewest + spread + 1):
        # As many full nodes as possible settle most splits: what is split is how much less than cap each node gives.
        for less in _partitions(nodes * cap - gpus, cap - 1, nodes):
            sizes = [cap - x for x in less] + [cap] * (nodes - len(less))
            found.append(tuple(sorted({s: sizes.count(s) for s in sizes}.items(), reverse=True)))
    found.sort(key=lambda split: (sum(n for _, n in split), sum(n for s, n in split if s < cap), split))
    return tuple(found[:MOST_SPLITS]), max(0, len(found) - MOST_SPLITS)


def _partitions(total: int, largest: int, parts: int) -> list[tuple[int, ...]]:
    """``total`` as a sum of at most ``parts`` positive numbers up to ``largest``, largest first."""
    if total == 0:
        return [()]
    if parts == 0:
        return []
    found = []
    for first in range(min(largest, total), 0, -1):
        if first * parts < total:
            break
        found += [(first, *rest) for rest in _partitions(total - first, first, parts - 1)]
    return found


def _most(ways: Sequence[Way], many: Ints, n_items: int, n_pools: int) -> tuple[Ints, Ints]:
    """Parts that all jobs together could place: (n_items,) by item and (n_pools,) by pool."""
    item, pool = np.zeros((len(many), n_items), np.int64), np.zeros((len(many), n_pools), np.int64)
    for way in ways:
        for i, times in way.parts:
            item[way.kind, i] = max(item[way.kind, i], times)
        pool[way.kind, way.pool] = max(pool[way.kind, way.pool], sum(times for _, times in way.parts))
    return many @ item, many @ pool


def _items(listed: list[tuple[Any, ...]], most: Ints, n_pools: int) -> Items:
    columns = list(zip(*(item[:8] for item in listed), strict=True)) if listed else [()] * 8
    pool = np.array(columns[0], np.int64)
    return Items(
        demand=Demand(
            gpus=np.array(columns[2], np.int64), milli=np.array(columns[3], np.int64),
            cpus=np.array(columns[4], np.float64), memory=np.array(columns[5], np.float64),
            profile=np.array(columns[6], np.int64),
        ),
        lo=np.searchsorted(pool, np.arange(n_pools), "left").astype(np.int64),
        hi=np.searchsorted(pool, np.arange(n_pools), "right").astype(np.int64),
        late=np.array(columns[7], np.int64),
        most=most,
        code=np.random.default_rng(20231).integers(1, 2**62, len(listed)),
        grant=np.full(len(listed), -1, np.int64),
    )  # fmt: skip
