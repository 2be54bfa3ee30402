"""What a job may be given: pools, and on each what it asks for and how fast it runs there, the way to try first first.

A *way* is a pool with a demand (GPUs, share, MIG profile) and a speed. Most jobs have one demand, and then a way is a pool;
a job that lists several (`rltune.nouns.ways`) takes the first that has room when it starts. Jobs of a class have the
same ways.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rltune.core.resources.room import Demand, amounts, demand_of
from rltune.nouns.cluster import Cluster, Eligibility, distinct_rows, eligibility
from rltune.nouns.errors import InputError
from rltune.nouns.jobs import WHOLE, JobTable
from rltune.nouns.mig_profiles import PROFILES
from rltune.nouns.ways import parse_ways

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]

MOST_SLOTS = 2**31 - 1
"""Places of jobs on nodes are counted in 32 bits."""
FASTEST, EFFICIENT, MARKET = "fastest", "efficient", "market"
WAY_RULES = (FASTEST, EFFICIENT, MARKET)
"""Which way is tried first: that of greatest speed, of most work done per GPU held, or the cheapest (`rltune.core.market`)."""


class Choices(NamedTuple):
    """What the jobs of a class may be given: ``pool[ptr[c]:ptr[c + 1]]``, first to try first."""

    ptr: Ints  # (n_classes + 1,)
    pool: Ints  # (n_choices,)
    rate: Floats  # (n_choices,) speed there relative to the recorded hardware
    stop: Ints  # (n_choices,) end of the stretch of pools of one speed and demand, which compete
    way: Ints  # (n_choices,) row of the demands that is asked for there (lean: 0)
    guess: Floats  # (n_choices,) ``rate`` as the scheduler believes; may be learned while a simulation runs
    alike: (
        Ints  # (n_choices,) choices of equal number are of the same speed for the same reason: one measured, all known
    )


class Taking(NamedTuple):
    """How a way is chosen: ``rule`` of `WAY_RULES`; ways slower than ``least`` times a job's fastest are left out."""

    rule: str = FASTEST
    least: float = 0.0


class Knowing(NamedTuple):
    """What is known of speeds. Jobs of equal speeds and listed ways are of one kind.

    ``error``: believed speeds are drawn evenly from within this share of the true ones, for each kind and way; ``unknown``: share of
    kinds, drawn, of which nothing is known: they are believed to be as fast as the known kinds are on the mean in each way.
    """

    error: float = 0.0
    unknown: float = 0.0
    seed: int = 0


class Offered(NamedTuple):
    """``cls`` (n_jobs,) class of each job, its ``choices``, the ``demand`` (n_ways,) that ways refer to.

    ``slower``: jobs that lost ways by `Taking.least`.
    """

    cls: Int32s
    choices: Choices
    demand: Demand
    slower: int


Ask = tuple[int, int, float, float, int]
"""GPUs, thousandths, CPU cores, GB, MIG profile: a row of `Demand`."""
Entry = tuple[int, Ask, float, float, int]
"""A pool, what is asked for there, the speed, the speed as believed, and the number of those alike."""


def plain_choices(jobs: JobTable, cluster: Cluster) -> tuple[Int32s, Choices]:
    """Classes of jobs of whole GPUs, all pools equally fast: what the lean build needs."""
    base = eligibility(jobs, cluster)
    n = len(base.pools)
    stop = np.repeat(base.ptr[1:], np.diff(base.ptr))
    none = np.zeros(n, np.int64)
    return base.cls, Choices(base.ptr, base.pools, np.ones(n), stop, none, np.ones(n), none)


def offer(
    jobs: JobTable,
    cluster: Cluster,
    speed: Floats | None = None,
    group: Ints | None = None,
    taking: Taking | None = None,
    knowing: Knowing | None = None,
) -> Offered:
    """Classes of jobs of equal pools, demands, speeds and quotas, and the ways of each.

    Args:
        speed: (n_jobs, n_pools) relative to the recorded hardware; None: 1 everywhere.
        group: (n_jobs,) quota of each job, -1 = none.
    """
    base, asked, taking = eligibility(jobs, cluster), binding(demand_of(jobs, cluster), cluster), taking or Taking()
    columns: list[npt.NDArray[Any]] = [] if speed is None else [np.unique(x, return_inverse=True)[1] for x in speed.T]
    if group is not None and (group >= 0).any():
        columns.append(group)
    several = jobs.ways.codes >= 0
    if several.any():
        # Listed ways depend on the virtual cluster too, which the request's class does not tell.
        columns += [jobs.ways.codes, np.where(several, jobs.vc.codes, -1)]
    first, kind = distinct_rows([base.cls, *columns])
    many = np.bincount(kind, minlength=len(first))
    own = [_request(base, asked, row, speed) for row in first.tolist()]
    found = [
        mine if not several[row] else _listed(jobs, cluster, asked, row, speed, mine)
        for row, mine in zip(first.tolist(), own, strict=True)
    ]
    kinds = [(b"" if speed is None else speed[row].tobytes(), int(jobs.ways.codes[row])) for row in first.tolist()]
    found = believed(found, kinds, knowing or Knowing())
    rows: dict[Ask, int] = {}
    ptr, entries, stops, slower = [0], list[Entry](), list[int](), 0
    for mine, requested, jobs_of_class in zip(found, own, many.tolist(), strict=True):
        fastest = max((x[3] for x in mine), default=0.0)
        kept = _ordered([x for x in mine if x[3] >= taking.least * fastest], taking.rule)
        slower += jobs_of_class * (len(kept) < len(mine))
        stops.extend(_stops(kept, len(entries)))
        entries.extend(kept)
        ptr.append(len(entries))
        for each in kept or requested:
            rows.setdefault(each[1], len(rows))
    choices = Choices(
        np.array(ptr, np.int64), np.array([x[0] for x in entries], np.int64), np.array([x[2] for x in entries], np.float64),
        np.array(stops, np.int64), np.array([rows[x[1]] for x in entries], np.int64),
        np.array([x[3] for x in entries], np.float64), np.array([x[4] for x in entries], np.int64),
    )  # fmt: skip
    return Offered(kind.astype(np.int32), choices, _table(list(rows)), slower)


def believed(found: list[list[Entry]], kinds: Sequence[Any], knowing: Knowing) -> list[list[Entry]]:
    """The entries of each class with believed speeds and numbers of those alike; ``kinds``: of each class."""
    rng, numbers, factor = np.random.default_rng(knowing.seed), dict[Any, int](), dict[Any, float]()
    distinct = list(dict.fromkeys(kinds))
    hidden = set(rng.permutation(len(distinct))[: round(knowing.unknown * len(distinct))].tolist())
    number_of = {kind: k for k, kind in enumerate(distinct)}
    known: dict[Any, dict[int, float]] = {}
    for kind, mine in zip(kinds, found, strict=True):
        for p, ask, rate, _, _ in mine:
            where = (p, ask[1], ask[4])
            numbers.setdefault((kind, where), len(numbers))
            factor.setdefault((kind, where), 1.0 + knowing.error * float(rng.uniform(-1, 1)) if knowing.error else 1.0)
            if number_of[kind] not in hidden:
                known.setdefault(where, {})[number_of[kind]] = rate * factor[kind, where]
    out = []
    for kind, mine in zip(kinds, found, strict=True):
        row = []
        for p, ask, rate, _, _ in mine:
            where = (p, ask[1], ask[4])
            guess = rate * factor[kind, where]
            if number_of[kind] in hidden:
                guess = float(np.mean(list(known.get(where, {0: 1.0}).values())))
            row.append((p, ask, rate, guess, numbers[kind, where]))
        out.append(row)
    return out


def _request(base: Eligibility, asked: Demand, row: int, speed: Floats | None) -> list[Entry]:
    """What the job table itself asks for, by pool."""
    ask: Any = tuple(column[row].item() for column in asked)
    pools = base.pools[base.ptr[base.cls[row]] : base.ptr[base.cls[row] + 1]]
    return [_entry(int(p), ask, 1.0 if speed is None else float(speed[row, p])) for p in pools]


def _entry(pool: int, ask: Ask, rate: float) -> Entry:
    """One whose speed is known."""
    return pool, ask, rate, rate, 0


def _listed(
    jobs: JobTable, cluster: Cluster, asked: Demand, row: int, speed: Floats | None, own: list[Entry]
) -> list[Entry]:
    """The ways that a job lists, by pool; of two that ask for the same on one pool the faster."""
    found: dict[tuple[int, Ask], float] = {}
    vc = jobs.vc.names[jobs.vc.codes[row]] if jobs.vc.codes[row] >= 0 else None
    cpus, memory = float(asked.cpus[row]), float(asked.memory[row])
    for way in parse_ways(jobs.ways.names[jobs.ways.codes[row]]):
        if way.gpus == 0:
            offered = [(p, ask, rate) for p, ask, rate, _, _ in own]
        else:
            pools = cluster.eligible_pools(vc, way.gpu_type, way.gpus, cpus, memory, way.profile)
            ask = (way.gpus, way.milli, cpus, memory, -1 if way.profile is None else PROFILES.index(way.profile))
            offered = [(p, ask, 1.0 if speed is None else float(speed[row, p])) for p in pools]
        for p, ask, of_pool in offered:
            rate = of_pool if way.speed is None else way.speed
            found[p, ask] = max(rate, found.get((p, ask), 0.0))
    return [_entry(p, ask, rate) for (p, ask), rate in found.items()]


def _ordered(entries: list[Entry], rule: str) -> list[Entry]:
    """First to try first: fastest, of equally fast ways the one of fewest GPUs; or most work per GPU, then fastest."""
    if rule == EFFICIENT:
        # A way without GPUs costs none.
        return sorted(entries, key=lambda x: (-x[3] / max(_gpus(x[1]), 1e-9), -x[3]))
    return sorted(entries, key=lambda x: (-x[3], _gpus(x[1])))


def _gpus(ask: Ask) -> float:
    """GPUs that a demand counts for."""
    return float(amounts(_table([ask]), np.zeros(1, np.int64))[0]) if ask[4] >= 0 else ask[0] * ask[1] / WHOLE


def _stops(entries: Sequence[Entry], at: int) -> list[int]:
    """Of every entry the end of its stretch, where the first of them is number ``at``."""
    out: list[int] = []
    end = len(entries)
    for k in range(len(entries) - 1, -1, -1):
        if k + 1 < len(entries) and entries[k][1:4] != entries[k + 1][1:4]:
            end = k + 1
        out.append(at + end)
    return out[::-1]


def _table(asks: Sequence[Ask]) -> Demand:
    gpus, milli, cpus, memory, profile = zip(*asks, strict=True) if asks else [()] * 5
    return Demand(
        np.array(gpus, np.int64), np.array(milli, np.int64), np.array(cpus, np.float64), np.array(memory, np.float64),
        np.array(profile, np.int64),
    )  # fmt: skip


def binding(demand: Demand, cluster: Cluster) -> Demand:
    """The demand without CPU or memory that no pool declares, so that jobs of whole GPUs are known as such."""
    if all(pool.cpus is None for pool in cluster.pools):
        demand = demand._replace(cpus=np.zeros_like(demand.cpus))
    if all(pool.memory_gb is None for pool in cluster.pools):
        demand = demand._replace(memory=np.zeros_like(demand.memory))
    return demand


def may_run(jobs: JobTable, cluster: Cluster) -> npt.NDArray[np.bool_]:
    """(n_jobs,) whether some idle pool holds the job in one of its ways."""
    if (jobs.ways.codes >= 0).any():
        offered = offer(jobs, cluster)
        cls, ptr = offered.cls, offered.choices.ptr
    else:
        classes = eligibility(jobs, cluster)
        cls, ptr = classes.cls, classes.ptr
    possible: npt.NDArray[np.bool_] = (np.diff(ptr) > 0)[cls]
    return possible


def slots(jobs: JobTable, cluster: Cluster, cls: Int32s, choices: Choices, demand: Demand | None = None) -> Int32s:
    """(n_jobs + 1,) offsets: the most nodes each job can occupy, summed. InputError where they are too many.

    ``demand``: what ways refer to; None: all jobs are as the job table has them.
    """
    caps = np.maximum(np.array([pool.gpus_per_node for pool in cluster.pools], np.int64), 1)
    need = -(-jobs.num_gpus // caps.max().astype(np.int32))
    if len(choices.pool):
        gpus = None if demand is None else demand.gpus[choices.way]
        has = np.diff(choices.ptr) > 0
        begins = choices.ptr[:-1][has]
        if gpus is None:
            smallest = np.full(len(has), caps.max())
            smallest[has] = np.minimum.reduceat(caps[choices.pool], begins)
            need = -(-jobs.num_gpus // smallest.astype(np.int32)[cls])
        else:
            # Of several ways the one that may stand on most nodes.
            most = np.zeros(len(has), np.int32)
            most[has] = np.maximum.reduceat(-(-gpus // caps[choices.pool]), begins)
            need = np.where(has[cls], most[cls], need)
    total = int(need.sum(dtype=np.int64))
    if total > MOST_SLOTS:
        raise InputError(f"the jobs ask for {total:,} places on nodes together; {MOST_SLOTS:,} are possible: use fewer")
    part = np.zeros(len(jobs) + 1, np.int32)
    np.cumsum(need, out=part[1:])
    return part


def least_amount(choices: Choices, amount: Ints) -> Ints:
    """(n_classes,) thousandths of GPUs of the smallest way, 0 for a class without any; ``amount`` (n_ways,)."""
    least = np.zeros(len(choices.ptr) - 1, np.int64)
    has = np.diff(choices.ptr) > 0
    if has.any():
        least[has] = np.minimum.reduceat(amount[choices.way], choices.ptr[:-1][has])
    return least
