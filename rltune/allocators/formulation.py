"""From waiting jobs to the sets of the joint model: kinds of jobs, ways to place each, and the parts they consist of.

A job has *choices*: a pool, what it asks for there, how much longer it runs. Jobs of equal choices that count towards the same
quota and end on the same side of the reservation are one *kind*. A *way* is a choice with its places told apart by size: a single
part on one node, or, a gang, parts on several nodes of that pool. A part is an *item*; items are what columns
(`rltune.allocators.columns`) place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rltune.allocators.rows import Items
from rltune.allocators.states import Free
from rltune.core.resources.room import Demand, Room, amounts
from rltune.core.resources.slices import INDICES
from rltune.nouns.cluster import GRID, ClusterArrays
from rltune.nouns.jobs import WHOLE

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
MOST_SPLITS = 64
"""Ways to split a gang over the nodes of one pool, those with fewest partly used nodes first; a node of 8 GPUs has at most 15."""


NEW = 1 << 40
"""In place of a running job's number, in items: parts that anybody may place; they come after all that are held."""


class Place(NamedTuple):
    """Where a job stands, and as what: ``nodes`` ascending; a grant names the node's GPUs and a MIG start
    (`rltune.core.resources.places.Place`); ``ask``: row of the demand that it holds, -1 where its jobs ask for the same in
    all pools."""

    nodes: tuple[int, ...]
    grants: tuple[int, ...]
    ask: int = -1


Plan = Sequence[Place | None]
"""A place for each job of an instance, None = does not start."""


@dataclass(frozen=True, slots=True, eq=False)
class Holders:
    """Which jobs of a decision run now, (n,) each: ``place``: what it holds, None: it waits.

    ``suspend, move``: GPU-seconds lost if it is suspended, and if it starts anew elsewhere; 0 for those that wait.
    """

    place: Plan
    suspend: Floats
    move: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """One decision: what is free and who waits. Arrays are not changed.

    ``jobs`` (n,): rows of ``demand``, first to start first; ``value`` (n,): what starting each is worth. Job i has the choices
    ``lo[i]:hi[i]``: it may use ``pools`` of that number. ``asks`` (len(pools),): row of ``demand`` that it asks for there, None:
    ``jobs`` everywhere. ``slow`` (len(pools),): what is lost there against the job's best choice, such as extra run time, 0.5 = half
    as long again; ``late``
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
    asks: Ints | None = None
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

    def free(self) -> Free:
        """What kernels are told of the nodes."""
        reserved = self.spare is not None
        return Free(self.cluster, self.room, self.spare or self.room, self.idle_instances(), reserved)

    def choice(self, k: int, place: Place) -> int:
        """Number of the choice of job k that a place is for, among ``pools``."""
        pool = self.cluster.node_pool[place.nodes[0]]
        at = int(self.lo[k])
        while self.pools[at] != pool or (self.asks is not None and self.asks[at] != place.ask):
            at += 1
        return at

    def ask(self, k: int, choice: int) -> int:
        """Of a place for choice number ``choice`` of job k, counted from 0: `Place.ask`."""
        return -1 if self.asks is None else int(self.asks[self.lo[k] + choice])


class Way(NamedTuple):
    """A job of ``kind`` by its ``choice`` (from 0), as ``parts`` ((item, how many), ...); ``slowdown, locality``: see the objective.

    ``group, amount``: quota that it counts towards, and GPUs that it counts for; ``move``: GPU-seconds lost by a running job that
    goes this way.
    """

    kind: int
    choice: int
    pool: int
    parts: tuple[tuple[int, int], ...]
    slowdown: float
    locality: float
    group: int
    amount: float
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


class Choice(NamedTuple):
    """One choice of a kind: ``ask``: GPUs, thousandths, cores, GB and profile; ``late``: see `Instance`."""

    pool: int
    ask: tuple[int, int, float, float, int]
    slow: float
    late: int


class Kind(NamedTuple):
    """What jobs of a kind have in common; ``holder``: the job, if it runs, else -1."""

    choices: tuple[Choice, ...]
    group: int
    holder: int


def formulate(instance: Instance, spread: int) -> Formulation:
    """Kinds, ways and items. ``spread``: nodes a gang may use beyond the fewest."""
    kinds: dict[Kind, int] = {}
    kind = tuple(kinds.setdefault(each, len(kinds)) for each in _kinds(instance))
    many = np.bincount(kind, minlength=len(kinds)) if kind else np.zeros(0, np.int64)
    items: dict[tuple[Any, ...], int] = {}
    ways: list[Way] = []
    left_out = 0
    caps = instance.cluster.pool_cap.tolist()
    for each, k in kinds.items():
        move = 0.0
        if each.holder >= 0:
            assert instance.holders is not None
            move = float(instance.holders.move[each.holder])
            ways.append(_staying(instance, each, k, items))
        for c, (p, ask, slow, late) in enumerate(each.choices):
            gpus, milli, cpus, memory, profile = ask
            splits = _splits(gpus, caps[p], spread) if milli == WHOLE and profile < 0 else ((((gpus, 1),),), 0)
            left_out += splits[1]
            amount = _amount(gpus, milli, profile) if each.group >= 0 else 0.0
            for split in splits[0]:
                parts = []
                for size, times in split:
                    item = (p, NEW, size, milli, _part(cpus, size, gpus), _part(memory, size, gpus), profile, late)
                    parts.append((items.setdefault(item, len(items)), times))
                far = float(sum(times for _, times in split) - 1)
                ways.append(Way(k, c, p, tuple(parts), slow, far, each.group, amount, move))
    known = list(items)
    order = sorted(range(len(known)), key=known.__getitem__)
    place = {old: new for new, old in enumerate(order)}
    named = tuple(way._replace(parts=tuple((place[i], times) for i, times in way.parts)) for way in ways)
    listed = [known[i] for i in order]
    kept = tuple((i, item[-2], item[-1]) for i, item in enumerate(listed) if item[1] != NEW)
    most, total = _most(named, many, len(listed), len(caps))
    signature = (kind, tuple(kinds), instance.prefix, instance.all_start, spread)
    return Formulation(kind, named, _items(listed, most, total), total, signature, left_out, kept)


def _staying(instance: Instance, each: Kind, kind: int, items: dict[tuple[Any, ...], int]) -> Way:
    """The way of a running job that keeps its places: a part of its own on each of its nodes."""
    assert instance.holders is not None
    place = instance.holders.place[each.holder]
    assert place is not None
    c = instance.choice(each.holder, place) - int(instance.lo[each.holder])
    pool, (gpus, milli, cpus, memory, profile), slow, _ = each.choices[c]
    parts = []
    for node, grant in zip(place.nodes, place.grants, strict=True):
        size = (grant & INDICES).bit_count() if milli == WHOLE and profile < 0 else gpus
        # Before all new parts in the order of items, so that new ones are placed around what is kept.
        item = (
            pool,
            each.holder,
            size,
            milli,
            _part(cpus, size, gpus),
            _part(memory, size, gpus),
            profile,
            0,
            node,
            grant,
        )
        parts.append((items.setdefault(item, len(items)), 1))
    amount = _amount(gpus, milli, profile) if each.group >= 0 else 0.0
    return Way(kind, c, pool, tuple(parts), slow, float(len(place.nodes) - 1), each.group, amount)


def _kinds(instance: Instance) -> list[Kind]:
    """What tells jobs apart; a running one is alone."""
    n = len(instance.pools)
    own, named = _asks(instance.demand, instance.jobs), _asks(instance.demand, instance.asks)
    pools, lo, hi = instance.pools.tolist(), instance.lo.tolist(), instance.hi.tolist()
    slow = [0.0] * n if instance.slow is None else instance.slow.tolist()
    late = [0] * n if instance.late is None else instance.late.tolist()
    group = [-1] * len(own) if instance.group is None else instance.group.tolist()
    places: Plan = [None] * len(own) if instance.holders is None else instance.holders.place
    found = []
    for k, (ask, a, b, g, place) in enumerate(zip(own, lo, hi, group, places, strict=True)):
        asks = named[a:b] or [ask] * (b - a)
        choices = tuple(map(Choice, pools[a:b], asks, slow[a:b], late[a:b]))
        found.append(Kind(choices, g, -1 if place is None else k))
    return found


def _asks(demand: Demand, rows: Ints | None) -> list[Any]:
    """These rows of the demand, a tuple each."""
    return [] if rows is None else list(zip(*(column[rows].tolist() for column in demand), strict=True))


@lru_cache(maxsize=4096)
def _amount(gpus: int, milli: int, profile: int) -> float:
    """GPUs that a demand counts for in a quota."""
    one = Demand(np.array([gpus]), np.array([milli]), np.zeros(1), np.zeros(1), np.array([profile]))
    return float(amounts(one, np.zeros(1, np.int64))[0])


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


@lru_cache(maxsize=1024)
def _codes(n: int) -> Ints:
    """(n,) random numbers."""
    return np.random.default_rng(20231).integers(1, 2**62, n)


def _items(listed: list[tuple[Any, ...]], most: Ints, parts: Ints) -> Items:
    columns = list(zip(*(item[:8] for item in listed), strict=True)) if listed else [()] * 8
    pool = np.array(columns[0], np.int64)
    return Items(
        demand=Demand(
            gpus=np.array(columns[2], np.int64), milli=np.array(columns[3], np.int64),
            cpus=np.array(columns[4], np.float64), memory=np.array(columns[5], np.float64),
            profile=np.array(columns[6], np.int64),
        ),
        lo=np.searchsorted(pool, np.arange(len(parts)), "left").astype(np.int64),
        hi=np.searchsorted(pool, np.arange(len(parts)), "right").astype(np.int64),
        late=np.array(columns[7], np.int64),
        most=most,
        parts=parts,
        code=_codes(len(listed)),
        grant=np.full(len(listed), -1, np.int64),
    )  # fmt: skip
