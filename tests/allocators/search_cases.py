"""Small random decisions of every kind, and exhaustive search over them that knows nothing of the model.

Nodes are named, GPUs are named, every job is tried in every way on every node; only the fragmentation of a finished state
is asked of the library (and has tests of its own).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Any

import numpy as np

from rltune.allocators.formulation import Holders, Instance, Place
from rltune.allocators.measure import Measure, nodes_cost
from rltune.core.resources.places import Demand, Room, idle_room, take
from rltune.core.resources.room import Held
from rltune.nouns.cluster import Cluster
from rltune.nouns.mig_layout import with_instance
from rltune.nouns.mig_profiles import CREATE_S, DESTROY_S, KIND, PROFILES, SIZE, SIZE_OF_KIND, STARTS, TYPES

Weights = dict[str, float]


@dataclass(frozen=True)
class Case:
    """One decision with its cluster; ``spread``: extra nodes of a gang."""

    cluster: Cluster
    instance: Instance
    spread: int = 0


@dataclass(frozen=True)
class Gpu:
    """Free thousandths and memory slices taken, now and beside the reservation; idle instances as ((start, kind), ...)."""

    milli: int
    slices: int
    later_milli: int
    later_slices: int
    idle: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Node:
    pool: int
    gpus: tuple[Gpu, ...]
    cpus: float
    memory: float
    later_cpus: float
    later_memory: float


def nodes_of(case: Case) -> tuple[Node, ...]:
    """The instance's nodes."""
    i = case.instance
    spare = i.room if i.spare is None else i.spare
    found = []
    for n, p in enumerate(i.cluster.node_pool.tolist()):
        gpus = []
        for g in range(int(i.cluster.pool_cap[p])):
            code = 0 if i.idle is None else int(i.idle[n, g])
            idle = tuple((s, (code >> 4 * s & 15) - 1) for s in range(8) if code >> 4 * s & 15)
            gpus.append(
                Gpu(
                    int(i.room.milli[n, g]),
                    int(i.room.slices[n, g]),
                    int(spare.milli[n, g]),
                    int(spare.slices[n, g]),
                    idle,
                )
            )
        found.append(Node(p, tuple(gpus), i.room.cpus[n], i.room.memory[n], spare.cpus[n], spare.memory[n]))
    return tuple(found)


def on_node(case: Case, node: Node, job: int, size: int, late: bool) -> Iterator[tuple[Node, int, float]]:
    """(node after, grant, seconds of reconfiguration) for each way to put ``size`` GPUs (a share, a slice) of a demand there."""
    i = case.instance
    total, milli, profile = int(i.demand.gpus[job]), int(i.demand.milli[job]), int(i.demand.profile[job])
    grid = 2.0**20
    cpus = i.demand.cpus[job] if size == total else np.floor(i.demand.cpus[job] * size / total * grid) / grid
    memory = i.demand.memory[job] if size == total else np.floor(i.demand.memory[job] * size / total * grid) / grid
    if node.cpus < cpus or node.memory < memory or (late and (node.later_cpus < cpus or node.later_memory < memory)):
        return
    after = replace(
        node, cpus=node.cpus - cpus, memory=node.memory - memory,
        later_cpus=node.later_cpus - (cpus if late else 0), later_memory=node.later_memory - (memory if late else 0),
    )  # fmt: skip
    kind = int(i.cluster.pool_mig[node.pool])

    def with_gpus(changed: dict[int, Gpu]) -> Node:
        return replace(after, gpus=tuple(changed.get(g, gpu) for g, gpu in enumerate(after.gpus)))

    def cleared(gpu: Gpu) -> float:
        return sum(float(DESTROY_S[k2, kind]) for _, k2 in gpu.idle)

    if profile >= 0:
        if kind < 0 or not STARTS[profile, kind]:
            return
        for g, gpu in enumerate(node.gpus):
            if (gpu.slices == 0 and gpu.milli < 1000) or (late and gpu.later_slices == 0 and gpu.later_milli < 1000):
                continue
            for start in range(8):
                mask = ((1 << int(SIZE[profile, kind])) - 1) << start
                if not STARTS[profile, kind] >> start & 1 or gpu.slices & mask or (late and gpu.later_slices & mask):
                    continue
                mine = int(KIND[profile, kind])
                if (start, mine) in gpu.idle:
                    gone, seconds = [(start, mine)], 0.0
                else:
                    gone = [(s, k2) for s, k2 in gpu.idle if ((1 << int(SIZE_OF_KIND[k2, kind])) - 1) << s & mask]
                    seconds = float(CREATE_S[mine, kind]) + sum(float(DESTROY_S[k2, kind]) for _, k2 in gone)
                left = tuple(x for x in gpu.idle if x not in gone)
                later = (0, gpu.later_slices | mask) if late else (gpu.later_milli, gpu.later_slices)
                yield with_gpus({g: Gpu(0, gpu.slices | mask, *later, left)}), 1 << g | start << 32, seconds
    elif milli == 0:
        yield after, 0, 0.0
    elif milli < 1000:
        for g, gpu in enumerate(node.gpus):
            if gpu.milli >= milli and not (late and gpu.later_milli < milli):
                later = gpu.later_milli - (milli if late else 0)
                yield with_gpus({g: Gpu(gpu.milli - milli, 0, later, gpu.later_slices, ())}), 1 << g, cleared(gpu)
    else:
        free = [g for g, gpu in enumerate(node.gpus) if gpu.milli == 1000 and not (late and gpu.later_milli < 1000)]
        for chosen in combinations(free, size):
            taken = {
                g: Gpu(0, 0, 0 if late else node.gpus[g].later_milli, node.gpus[g].later_slices, ()) for g in chosen
            }
            yield with_gpus(taken), sum(1 << g for g in chosen), sum(cleared(node.gpus[g]) for g in chosen)


def asked(i: Instance, k: int, at: int) -> int:
    """Row of the demand of job k by its choice number ``at``."""
    return int(i.jobs[k] if i.asks is None else i.asks[at])


def placements(case: Case, nodes: tuple[Node, ...], k: int) -> Iterator[tuple[tuple[Node, ...], Place, float, int]]:
    """(nodes after, place, seconds, number of the choice) for every way to start job k."""
    i = case.instance
    for at in range(int(i.lo[k]), int(i.hi[k])):
        job = asked(i, k, at)
        gpus, alone = int(i.demand.gpus[job]), i.demand.milli[job] < 1000 or i.demand.profile[job] >= 0
        p, late = int(i.pools[at]), i.late is not None and bool(i.late[at])
        here = [n for n, node in enumerate(nodes) if node.pool == p]
        fewest = 1 if alone else -(-gpus // int(i.cluster.pool_cap[p])) if i.cluster.pool_cap[p] else 99
        for m in range(fewest, fewest + (0 if alone else case.spread) + 1):
            for used in combinations(here, m):
                for sizes in product(range(1, gpus + 1), repeat=m) if not alone else [(gpus,)]:
                    if sum(sizes) != gpus:
                        continue
                    ways = [list(on_node(case, nodes[n], job, size, late)) for n, size in zip(used, sizes, strict=True)]
                    for way in product(*ways):
                        after = list(nodes)
                        for n, (node, _, _) in zip(used, way, strict=True):
                            after[n] = node
                        spot = Place(used, tuple(w[1] for w in way), -1 if i.asks is None else job)
                        yield tuple(after), spot, sum(w[2] for w in way), at


def fragmentation(case: Case, nodes: tuple[Node, ...], measure: Measure) -> float:
    """Of a finished state, by the library's measure."""
    room = idle_room(case.cluster)
    for n, node in enumerate(nodes):
        for g, gpu in enumerate(node.gpus):
            room.milli[n, g], room.slices[n, g] = gpu.milli, gpu.slices
        room.cpus[n], room.memory[n] = node.cpus, node.memory
        room.whole[n], room.loose[n] = (room.milli[n] == 1000).sum(), room.milli[n].sum()
        room.largest[n] = room.milli[n].max()
    return float(nodes_cost(case.instance.cluster, room, measure, np.arange(len(nodes))))


def best_by_search(case: Case, measure: Measure, levels: tuple[Weights, ...]) -> tuple[float, ...]:
    """The least value of each level over all plans, the most important first."""
    i = case.instance
    start = nodes_of(case)
    before = fragmentation(case, start, measure)
    memo: dict[Any, float] = {}

    def final(nodes: tuple[Node, ...], terms: dict[str, float]) -> tuple[float, ...]:
        key = tuple(sorted((n.pool, tuple(sorted(map(str, n.gpus))), n.cpus, n.memory) for n in nodes))
        if key not in memo:
            memo[key] = fragmentation(case, nodes, measure)
        terms = terms | {"fragmentation": memo[key] - before}
        return tuple(sum(w * (-terms[t] if t == "value" else terms[t]) for t, w in level.items()) for level in levels)

    best = [None]
    seen: set[Any] = set()

    def go(k: int, nodes: tuple[Node, ...], terms: dict[str, float], left: tuple[float, ...]) -> None:
        # Where jobs run, which of two equal nodes is taken matters: one of them may be theirs.
        states = tuple(map(str, nodes)) if i.holders is not None else tuple(sorted(map(str, nodes)))
        key = (k, states, tuple(round(v, 9) for v in terms.values()), left)
        if key in seen:
            return
        seen.add(key)
        if k == len(i.jobs):
            value = tuple(round(v, 7) for v in final(nodes, terms))
            if best[0] is None or value < best[0]:
                best[0] = value
            return
        if not i.prefix:
            go(k + 1, nodes, terms, left)
        else:
            go(len(i.jobs), nodes, terms, left)
        g = -1 if i.group is None else int(i.group[k])
        for after, spot, seconds, at in placements(case, nodes, k):
            amount = amount_of(i, asked(i, k, at))
            if g >= 0 and amount > left[g] + 1e-9:
                continue
            slow = 0.0 if i.slow is None else float(i.slow[at])
            more = {
                "value": terms["value"] + float(i.value[k]), "slowdown": terms["slowdown"] + slow,
                "locality": terms["locality"] + len(spot.nodes) - 1,
                "reconfiguration": terms["reconfiguration"] + seconds,
                "interruption": terms["interruption"] + interruption(i, k, spot),
            }  # fmt: skip
            rest = left if g < 0 else (*left[:g], left[g] - amount, *left[g + 1 :])
            go(k + 1, after, more, rest)

    zero = {"value": 0.0, "slowdown": 0.0, "locality": 0.0, "reconfiguration": 0.0, "interruption": 0.0}
    go(0, start, zero, () if i.left is None else tuple(i.left.tolist()))
    assert best[0] is not None
    return best[0]


def interruption(i: Instance, k: int, spot: Place) -> float:
    """GPU-seconds that job k, at these places, loses beyond its suspension."""
    if i.holders is None or i.holders.place[k] is None:
        return 0.0
    return float(i.holders.move[k] * (spot != i.holders.place[k]) - i.holders.suspend[k])


def amount_of(i: Instance, job: int) -> float:
    """GPUs that a demand counts for in a quota."""
    if i.demand.profile[job] >= 0:
        shares = [SIZE[i.demand.profile[job], t] / SIZE[:, t].max() for t in range(len(TYPES))]
        return float(max(shares))
    return float(i.demand.gpus[job] * i.demand.milli[job]) / 1000


def replayed(case: Case, places: Any) -> tuple[tuple[Node, ...], dict[str, float]]:
    """State and terms after a plan, checked step by step: AssertionError where a job gets what is not free."""
    i = case.instance
    nodes = nodes_of(case)
    terms = {"value": 0.0, "slowdown": 0.0, "locality": 0.0, "reconfiguration": 0.0, "interruption": 0.0}
    left = None if i.left is None else i.left.copy()
    stopped = False
    for k, place in enumerate(places):
        if place is None:
            stopped = True
            continue
        assert not (i.prefix and stopped), "a job started behind one that did not"
        found = [x for x in placements(case, nodes, k) if x[1] == place]
        assert found, f"job {k} cannot be placed at {place}"
        nodes, _, seconds, at = found[0]
        terms["value"] += float(i.value[k])
        terms["slowdown"] += 0.0 if i.slow is None else float(i.slow[at])
        terms["locality"] += len(place.nodes) - 1
        terms["reconfiguration"] += seconds
        terms["interruption"] += interruption(i, k, place)
        if i.group is not None and i.group[k] >= 0:
            assert left is not None
            left[i.group[k]] -= amount_of(i, asked(i, k, at))
            assert left[i.group[k]] > -1e-9
    return nodes, terms


# --- random cases -----------------------------------------------------------------------


def random_case(rng: np.random.Generator, kind: str) -> Case:
    """One of the kinds whole, shares, mig:TYPE, mixed; loads, quotas, speeds and a reservation drawn with it."""
    mig = kind.split(":")[1] if kind.startswith("mig") else None
    pools = []
    for p in range(int(rng.integers(1, 3))):
        gpus = int(rng.choice([1, 2])) if mig else int(rng.choice([1, 2, 3, 4]))
        pool: dict[str, Any] = {"name": f"p{p}", "nodes": int(rng.integers(1, 3 if mig else 4)), "gpus_per_node": gpus}
        if mig:
            pool |= {"gpu_type": mig, "mig": True}
        if rng.random() < 0.5 and kind != "whole":
            pool |= {"cpus": float(rng.integers(2, 9)), "memory_gb": float(rng.integers(4, 17))}
        pools.append(pool)
    cluster = Cluster.from_spec({"name": "case", "pools": pools})
    arrays, room = cluster.arrays(), idle_room(cluster)
    late_room = idle_room(cluster)
    names = [PROFILES.index(n) for n in PROFILES if mig and STARTS[PROFILES.index(n), TYPES.index(mig)]]
    n = int(rng.integers(1, 4 if mig else 5))
    demand = _demand(rng, n, kind, names, int(arrays.pool_cap.max()))
    _load(rng, cluster, room, late_room, kind, names)
    idle = np.zeros(room.milli.shape, np.int64)
    if mig and rng.random() < 0.7:
        _leave_idle(rng, cluster, room, idle, names)
    lists = [[p for p in range(len(pools)) if rng.random() < 0.8] or [0] for _ in range(n)]
    ends = np.cumsum([len(x) for x in lists]).astype(np.int64)
    flat = np.array([p for x in lists for p in x], np.int64)
    speeds, reserved, quota = rng.random() < 0.4, rng.random() < 0.4, rng.random() < 0.3
    value = np.round(rng.uniform(0.5, 3, n), 2) if rng.random() < 0.5 else 0.5 ** np.arange(n)
    instance = Instance(
        cluster=arrays, room=room, demand=demand, jobs=np.arange(n), value=value, pools=flat,
        lo=ends - [len(x) for x in lists], hi=ends,
        slow=np.round(rng.choice([0, 0.25, 0.5, 1.0], len(flat)), 2) if speeds else None,
        late=rng.integers(0, 2, len(flat)) if reserved else None, spare=late_room if reserved else None,
        idle=idle if mig else None, group=rng.integers(-1, 2, n) if quota else None,
        left=np.array([1.0, 2.5]) if quota else None, prefix=bool(rng.random() < 0.15),
    )  # fmt: skip
    if rng.random() < 0.4:
        instance = with_choices(rng, instance, _demand(rng, 3, kind, names, int(arrays.pool_cap.max())))
    return Case(cluster, instance, int(rng.random() < 0.2))


def with_choices(rng: np.random.Generator, i: Instance, more: Demand) -> Instance:
    """The same jobs, which may ask for other things of ``more`` instead, in any pool; the first choice need not be their own."""
    n, pools = len(i.jobs), len(i.cluster.pool_cap)
    own = [[(int(p), k) for p in i.pools[i.lo[k] : i.hi[k]]] for k in range(n)]
    other = [(p, n + row) for p in range(pools) for row in range(len(more.gpus))]
    lists = [one + [other[x] for x in rng.permutation(len(other))[: rng.integers(0, 3)]] for one in own]
    lists = [[one[x] for x in rng.permutation(len(one))] for one in lists]
    ends = np.cumsum([len(one) for one in lists]).astype(np.int64)
    flat = [choice for one in lists for choice in one]
    return replace(
        i, demand=Demand(*(np.concatenate(pair) for pair in zip(i.demand, more, strict=True))),
        pools=np.array([p for p, _ in flat]), asks=np.array([row for _, row in flat]), lo=ends - [len(one) for one in lists], hi=ends,
        slow=np.round(rng.choice([0, 0.25, 0.5, 1.0], len(flat)), 2) if rng.random() < 0.7 else None,
        late=None if i.late is None else rng.integers(0, 2, len(flat)),
    )  # fmt: skip


def running_case(rng: np.random.Generator, kind: str) -> Case:
    """A random case in which some of the jobs run; nothing is reserved, and any job may start without those before it."""
    case = random_case(rng, kind)
    i = replace(case.instance, late=None, spare=None, prefix=False)
    case = replace(case, instance=i, spread=0)
    n, nodes, places = len(i.jobs), nodes_of(case), [None] * len(i.jobs)
    left = None if i.left is None else i.left.copy()
    for k in rng.permutation(n).tolist():
        group = -1 if i.group is None else int(i.group[k])
        ways = [] if rng.random() < 0.4 else within_quota(i, k, list(placements(case, nodes, k)), left)
        if ways:
            nodes, places[k], _, at = ways[int(rng.integers(len(ways)))]
            if left is not None and group >= 0:
                left[group] -= amount_of(i, asked(i, k, at))
    runs = np.array([place is not None for place in places])
    suspend = runs * np.round(rng.uniform(0.0, 4.0, n), 1)
    holders = Holders(places, suspend=suspend, move=runs * np.round(suspend + rng.choice([0.0, 0.5, 2.0], n), 1))
    return replace(case, instance=replace(i, holders=holders, idle=left_behind(case, nodes, places)))


def within_quota(i: Instance, k: int, ways: list[Any], left: Any) -> list[Any]:
    """Those of the ways to start job k that leave its quota at 0 or above."""
    group = -1 if i.group is None else int(i.group[k])
    return [way for way in ways if left is None or group < 0 or amount_of(i, asked(i, k, way[3])) <= left[group]]


def left_behind(case: Case, nodes: tuple[Node, ...], places: list[Any]) -> Any:
    """Idle instances once all that run have let go: those that stood idle beside them, and their own."""
    i = case.instance
    if i.idle is None:
        return None
    idle = np.zeros_like(i.idle)
    for n, node in enumerate(nodes):
        for g, gpu in enumerate(node.gpus):
            for start, kind in gpu.idle:
                idle[n, g] |= (1 + kind) << 4 * start
    for k, place in enumerate(places):
        profile = -1 if place is None else int(i.demand.profile[i.jobs[k] if place.ask < 0 else place.ask])
        if profile >= 0:
            (node,), (grant,), _ = place
            gpu, mig = (grant & 0xFFFFFFFF).bit_length() - 1, int(i.cluster.pool_mig[i.cluster.node_pool[node]])
            idle[node, gpu] = with_instance(int(idle[node, gpu]), profile, mig, grant >> 32)
    return idle


def _demand(rng: np.random.Generator, n: int, kind: str, names: list[int], widest: int) -> Demand:
    gpus, milli, profile = np.ones(n, np.int64), np.full(n, 1000), np.full(n, -1)
    for k in range(n):
        if names and rng.random() < 0.8:
            profile[k] = rng.choice(names)
        elif kind == "shares" and rng.random() < 0.7:
            milli[k] = rng.choice([0, 250, 300, 500, 700])
        else:
            gpus[k] = rng.integers(1, widest + 3)
    asks = kind != "whole"
    cpus = rng.integers(0, 4, n).astype(float) if asks else np.zeros(n)
    memory = rng.integers(0, 6, n).astype(float) if asks else np.zeros(n)
    return Demand(gpus, milli.astype(np.int64), cpus, memory, profile.astype(np.int64))


def _load(rng: np.random.Generator, cluster: Cluster, room: Room, later: Room, kind: str, names: list[int]) -> None:
    """Running jobs: in ``room`` all of them, in ``later`` those that still run then and the reserved one."""
    arrays = cluster.arrays()
    one = Demand(np.ones(1, np.int64), np.zeros(1, np.int64), np.zeros(1), np.zeros(1), np.full(1, -1))
    for n, p in enumerate(arrays.node_pool.tolist()):
        for g in range(int(arrays.pool_cap[p])):
            one.cpus[0] = float(rng.integers(0, 2)) if np.isfinite(room.cpus[n]) else 0.0
            draw = rng.random()
            one.milli[0], one.profile[0], grant = 1000, -1, 1 << g
            if draw < (0.65 if kind == "whole" else 0.35):
                continue
            if names and draw < 0.8:
                one.profile[0] = rng.choice(names)
                starts = STARTS[one.profile[0], arrays.pool_mig[p]]
                grant |= int(rng.choice([s for s in range(8) if starts >> s & 1])) << 32
            elif kind == "shares" and draw < 0.8:
                one.milli[0] = rng.choice([200, 500, 600])
            where = np.array([n]), np.array([grant])
            for target in (room, later):
                if (
                    (target is room or rng.random() < 0.5)
                    and room.cpus[n] >= one.cpus[0]
                    and later.cpus[n] >= one.cpus[0]
                ):
                    take(arrays, target, one, 0, Held(*where, 0, 1), -1)


def _leave_idle(rng: np.random.Generator, cluster: Cluster, room: Room, idle: Any, names: list[int]) -> None:
    """Idle instances on slices that nobody holds, on GPUs that are cut or wholly free."""
    arrays = cluster.arrays()
    for n, p in enumerate(arrays.node_pool.tolist()):
        kind = int(arrays.pool_mig[p])
        for g in range(int(arrays.pool_cap[p])):
            taken = int(room.slices[n, g])
            if taken == 0 and room.milli[n, g] < 1000:
                continue
            for profile in rng.permutation(names)[:2]:
                starts = [s for s in range(8) if STARTS[profile, kind] >> s & 1]
                start = int(rng.choice(starts))
                mask = ((1 << int(SIZE[profile, kind])) - 1) << start
                if not taken & mask and rng.random() < 0.7:
                    taken |= mask
                    idle[n, g] = with_instance(int(idle[n, g]), int(profile), kind, start)
