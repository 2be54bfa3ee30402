"""Placement on nodes with CPU and memory, shared GPUs and MIG slices: against exhaustive search, and by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rltune
from rltune.core.resources import counts
from rltune.core.resources.fragments import MEASURES, fragments, task_types
from rltune.core.resources.places import (
    Demand,
    Place,
    Room,
    copy_room,
    demand_of,
    find,
    fits,
    idle_room,
    place_scratch,
    take,
)
from rltune.core.resources.room import Among
from rltune.core.resources.room import Held as Places
from rltune.core.resources.scores import BEST_FIT, RANDOM, SHARING_RULES
from rltune.nouns.cluster import Cluster, Eligibility, Pool, eligibility
from rltune.nouns.errors import InputError
from rltune.nouns.jobs import JobTable
from rltune.nouns.mig_profiles import NAMES, PROFILES, SIZE, STARTS, TYPES

Held = tuple[int, np.ndarray, np.ndarray]


class Site:
    """A cluster, its room and a job table, with the kernels' arguments filled in."""

    def __init__(self, pools: list[dict[str, Any]], jobs: list[dict[str, Any]], measure: str = "fgd") -> None:
        self.cluster = Cluster.from_spec({"pools": pools})
        self.arrays = self.cluster.arrays()
        columns = {key: [job.get(key, value) for job in jobs] for key, value in DEFAULTS.items()}
        self.jobs = JobTable.from_columns({"submit_s": range(len(jobs)), "duration_s": [1] * len(jobs), **columns})
        self.room: Room = idle_room(self.cluster)
        self.demand: Demand = demand_of(self.jobs, self.cluster)
        self.classes: Eligibility = eligibility(self.jobs, self.cluster)
        self.work: Place = place_scratch(self.cluster, task_types(self.jobs, self.cluster, measure))

    def allowed(self, job: int) -> tuple[Any, int, int]:
        c = self.classes.cls[job]
        return self.classes.pools, int(self.classes.ptr[c]), int(self.classes.ptr[c + 1])

    def find(self, job: int, rule: int = BEST_FIT, draw: int = 0) -> Held | None:
        m = find(self.arrays, self.room, self.demand, job, Among(*self.allowed(job)), rule, np.uint64(draw), self.work)
        return (job, self.work.node[:m].copy(), self.work.grant[:m].copy()) if m else None

    def fits(self, job: int) -> bool:
        return bool(fits(self.arrays, self.room, self.demand, job, Among(*self.allowed(job))))

    def book(self, held: Held, sign: int = -1) -> Held:
        take(self.arrays, self.room, self.demand, held[0], Places(held[1], held[2], 0, len(held[1])), sign)
        return held

    def start(self, job: int, rule: int = BEST_FIT, draw: int = 0) -> Held:
        held = self.find(job, rule, draw)
        assert held is not None
        return self.book(held)


DEFAULTS: dict[str, Any] = {
    "num_gpus": 1,
    "gpu_milli": 1000,
    "cpus": 0.0,
    "memory_gb": 0.0,
    "mig": None,
    "gpu_type": None,
}


def gpus_of(grant: int) -> list[int]:
    return [i for i in range(32) if int(grant) >> i & 1]


# --- against exhaustive search --------------------------------------------------------

pools = st.lists(
    st.fixed_dictionaries(
        {
            "nodes": st.integers(1, 3),
            "gpus_per_node": st.integers(0, 4),
            "gpu_type": st.sampled_from(["A100-80GB", "A30", "V100"]),
            "cpus": st.sampled_from([4, 6.5, 8]),
            "memory_gb": st.sampled_from([None, 8, 10]),
        },
        optional={"mig": st.just(True)},
    ).map(lambda pool: {k: v for k, v in pool.items() if k != "mig" or pool["gpu_type"] != "V100"}),
    min_size=1,
    max_size=2,
)
amounts = st.fixed_dictionaries(
    {"cpus": st.sampled_from([0, 0.1, 1, 2.3, 4, 7]), "memory_gb": st.sampled_from([0, 0.7, 3, 8])}
)
kinds = st.one_of(
    st.fixed_dictionaries({"num_gpus": st.integers(1, 9)}),
    st.fixed_dictionaries({"gpu_milli": st.sampled_from([0, 100, 300, 500, 700])}),
    st.fixed_dictionaries({"mig": st.sampled_from(["1g.10gb", "2g.20gb", "3g.40gb", "7g.80gb", "1g.6gb", "2g.12gb"])}),
)
requests = st.tuples(amounts, kinds).map(lambda pair: pair[0] | pair[1])


def part(amount: float, k: int, g: int) -> float:
    return amount if k == g else float(np.floor(amount * k / g * 2**20) / 2**20)


def ways_on_node(site: Site, job: int, node: int, k: int) -> Iterator[int]:
    """Every grant of k GPUs (or the share, slice, nothing) that the node could give, by the definition."""
    room, demand = site.room, site.demand
    p = site.arrays.node_pool[node]
    cap = int(site.arrays.pool_cap[p])
    g, milli, profile = int(demand.gpus[job]), int(demand.milli[job]), int(demand.profile[job])
    if room.closed[node] or part(demand.cpus[job], k, g) > room.cpus[node]:
        return
    if part(demand.memory[job], k, g) > room.memory[node]:
        return
    if profile >= 0:
        pool = site.cluster.pools[p]
        legal = pool.mig and PROFILES[profile] in NAMES[pool.gpu_type].values()
        for i in range(cap if legal else 0):
            uncut = room.slices[node, i] == 0 and room.milli[node, i] == 1000
            for start in range(8):
                mask = ((1 << SIZE[profile, TYPES.index(pool.gpu_type)]) - 1) << start
                legal_start = STARTS[profile, TYPES.index(pool.gpu_type)] >> start & 1
                if legal_start and (uncut or (room.slices[node, i] != 0 and not room.slices[node, i] & mask)):
                    yield 1 << i | start << 32
    elif milli == 0:
        yield 0
    elif milli < 1000:
        for i in range(cap):
            if room.milli[node, i] >= milli:
                yield 1 << i
    elif sum(room.milli[node, i] == 1000 for i in range(cap)) >= k:
        yield sum(1 << i for i in [i for i in range(cap) if room.milli[node, i] == 1000][:k])


def possible(site: Site, job: int) -> bool:
    """Whether some pool has exactly ceil(g / cap) nodes whose parts hold the job."""
    flat, lo, hi = site.allowed(job)
    g = int(site.demand.gpus[job]) if site.demand.milli[job] == 1000 else 1
    for p in flat[lo:hi]:
        nodes = range(int(site.arrays.pool_lo[p]), int(site.arrays.pool_hi[p]))
        cap = max(1, int(site.arrays.pool_cap[p]))
        reach = {(0, 0)}
        for node in nodes:
            can = [k for k in range(1, min(cap, g) + 1) if any(True for _ in ways_on_node(site, job, node, k))]
            reach |= {(m + 1, got + k) for m, got in reach for k in can}
        if (-(-g // cap), g) in reach:
            return True
    return False


@settings(max_examples=150, deadline=None)
@given(pools, st.lists(requests, min_size=1, max_size=14), st.sampled_from(sorted(SHARING_RULES)), st.randoms())
def test_a_job_starts_exactly_if_it_can(given_pools: Any, jobs: Any, rule: str, random: Any) -> None:
    """A job would wait beside room for it, or hold what another job holds; giving all back would leave a rest."""
    site = Site(given_pools, jobs, rule if rule in MEASURES else "fgd")
    idle = idle_room(site.cluster)
    running: list[Held] = []
    for job in range(len(jobs)):
        if running and random.random() < 0.3:
            site.book(running.pop(random.randrange(len(running))), +1)
        site.room.closed[:] = [random.random() < 0.1 for _ in site.room.closed]
        can = possible(site, job)
        assert site.fits(job) == can
        held = site.find(job, SHARING_RULES[rule], random.getrandbits(63))
        assert (held is not None) == can
        if held is None:
            continue
        _, nodes, grants = held
        assert list(nodes) == sorted(set(nodes))
        assert set(site.arrays.node_pool[nodes]) <= set(site.allowed(job)[0][slice(*site.allowed(job)[1:])])
        for node, grant in zip(nodes, grants, strict=True):
            k = len(gpus_of(grant)) if site.demand.milli[job] == 1000 else 1
            assert int(grant) in set(ways_on_node(site, job, node, k))
        if site.demand.milli[job] == 1000 and site.demand.profile[job] < 0:
            assert sum(len(gpus_of(grant)) for grant in grants) == site.demand.gpus[job]
        running.append(site.book(held))
        assert_consistent(site)
    while running:
        site.book(running.pop(random.randrange(len(running))), +1)
    site.room.closed[:] = 0
    for name in Room._fields:
        assert np.array_equal(getattr(site.room, name), getattr(idle, name)), name


def assert_consistent(site: Site) -> None:
    room = site.room
    cap = site.arrays.pool_cap[site.arrays.node_pool]
    inside = np.arange(room.milli.shape[1]) < cap[:, None]
    assert (room.milli >= 0).all() and (room.milli <= 1000).all() and (room.milli[~inside] == 0).all()
    assert (room.milli[room.slices != 0] == 0).all()
    assert np.array_equal(room.whole, (room.milli == 1000).sum(1))
    assert np.array_equal(room.loose, room.milli.sum(1)) and np.array_equal(room.largest, room.milli.max(1))
    assert (room.cpus >= 0).all() and (room.memory >= 0).all() and (room.pods >= 0).all()


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 8), st.lists(st.integers(0, 8), min_size=2, max_size=7), st.integers(1, 40), st.booleans())
def test_whole_gpus_go_where_best_fit_puts_them(cap: int, free: list[int], gpus: int, two_pools: bool) -> None:
    """With CPU and memory undeclared the two simulators would schedule the same jobs differently."""
    sizes = [len(free) // 2, len(free) - len(free) // 2] if two_pools else [len(free)]
    site = Site([{"nodes": n, "gpus_per_node": cap} for n in sizes], [{}, {"num_gpus": gpus}])
    for node, left in enumerate(free):
        for k in range(cap - min(left, cap)):
            site.book((0, np.array([node]), np.array([1 << k])))
    work = counts.scratch(site.arrays)
    space = counts.space_of(site.arrays, np.minimum(free, cap), None)
    m = counts.find(site.arrays, space, gpus, *site.allowed(1), counts.BEST_FIT, work)
    held = site.find(1)
    if m == 0:
        assert held is None
        return
    assert held is not None
    assert held[1].tolist() == work.node[:m].tolist()
    assert [len(gpus_of(grant)) for grant in held[2]] == work.gpus[:m].tolist()


# --- MIG ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpu", "kinds_of_it", "placements", "multisets", "states"),
    [("A100-80GB", 5, 19, 14, 298), ("H100-80GB", 6, 78, 38, 723), ("A100-40GB", 6, 78, 38, 723), ("A30", 3, 5, 4, 26)],
)
def test_mig_table_has_the_published_number_of_states(
    gpu: str, kinds_of_it: int, placements: int, multisets: int, states: int
) -> None:
    """A start position too many or too few would cut GPUs as no driver does (counts: published enumerations)."""
    kind = TYPES.index(gpu)
    names = [name for what, name in NAMES[gpu].items() if kinds_of_it != 5 or what != "1g double"]
    assert len(names) == kinds_of_it
    seen: dict[tuple[tuple[int, int], ...], bool] = {}
    stack: list[tuple[tuple[tuple[int, int], ...], int]] = [((), 0)]
    while stack:
        state, taken = stack.pop()
        if state in seen:
            continue
        grown = []
        for profile in map(PROFILES.index, names):
            for start in range(8):
                mask = ((1 << SIZE[profile, kind]) - 1) << start
                if STARTS[profile, kind] >> start & 1 and not taken & mask:
                    grown.append((tuple(sorted((*state, (profile, start)))), taken | mask))
        seen[state] = not grown
        stack += grown
    maximal = [state for state, full in seen.items() if full]
    assert (len(maximal), len({tuple(sorted(p for p, _ in s)) for s in maximal}), len(seen)) == (
        placements, multisets, states,
    )  # fmt: skip


def test_slices_fill_cut_gpus_first_and_make_them_whole_again() -> None:
    """Slices would be scattered over GPUs that whole jobs wait for, or a GPU stay cut for ever."""
    pool = {"nodes": 1, "gpus_per_node": 2, "gpu_type": "A100-80GB", "mig": True}
    site = Site(
        [pool], [{"mig": "3g.40gb"}, {"mig": "4g.40gb"}, {"gpu_milli": 500}, {"num_gpus": 2}, {"mig": "1g.10gb"}]
    )
    first, second = site.start(0), site.start(1)
    assert [int(held[2][0]) >> 32 for held in (first, second)] == [4, 0]  # 3g leaves 0 to 3 to 4g
    assert gpus_of(first[2][0]) == gpus_of(second[2][0])
    shared = site.start(2)
    assert gpus_of(shared[2][0]) != gpus_of(first[2][0])
    assert not site.fits(4)  # one GPU is full of slices, the other is shared
    for held in (shared, first):
        site.book(held, +1)
    assert site.room.whole.tolist() == [1] and not site.fits(3)
    site.book(second, +1)
    assert site.fits(3)


def test_mig_needs_a_pool_that_allows_it() -> None:
    """A slice would be cut from a GPU whose operator has not switched MIG on."""
    site = Site([{"nodes": 1, "gpus_per_node": 1, "gpu_type": "A100-80GB"}], [{"mig": "1g.10gb"}])
    assert site.allowed(0)[1] == site.allowed(0)[2] and not site.fits(0)
    with pytest.raises(InputError, match=r"pool a: mig=true, but GPU type V100 has no MIG profiles"):
        Pool("a", 1, 1, "V100", mig=True)


@pytest.mark.parametrize(
    ("job", "said"),
    [
        ({"mig": "9g.90gb"}, r"MIG profile 9g\.90gb, which is unknown; known are 1g\.10gb"),
        ({"mig": "1g.10gb", "num_gpus": 2}, r"2 MIG slices 1g\.10gb, a simulated job takes one"),
    ],
)
def test_bad_mig_requests_are_refused(job: dict[str, Any], said: str) -> None:
    """A misspelt profile would wait for ever."""
    site = Site([{"nodes": 1, "gpus_per_node": 8, "gpu_type": "A100-80GB", "mig": True}], [job])
    with pytest.raises(InputError, match=said):
        rltune.simulate(site.jobs, site.cluster)


# --- by hand ----------------------------------------------------------------------------


def test_cpu_and_memory_bind() -> None:
    """A node with free GPUs would take jobs for which it has no CPU or memory."""
    site = Site(
        [{"nodes": 2, "gpus_per_node": 4, "cpus": 8, "memory_gb": 16}],
        [{"cpus": 5}, {"cpus": 2, "memory_gb": 15}, {"memory_gb": 2}, {"cpus": 9}, {"num_gpus": 8, "cpus": 16}, {"num_gpus": 5, "cpus": 10}],
    )  # fmt: skip
    assert site.start(0)[1].tolist() == [0] and site.start(1)[1].tolist() == [0]
    assert site.start(2)[1].tolist() == [1]  # no memory left on node 0
    assert site.allowed(3)[1] == site.allowed(3)[2]  # 9 cores: no node, ever
    assert site.allowed(4)[1] < site.allowed(4)[2] and not site.fits(4)
    # Node 0 has one core left, too little for the two that go with a GPU of job 5.
    assert not site.fits(5)


def test_a_gang_takes_its_cpu_in_proportion() -> None:
    """A gang's CPU would be booked on one of its nodes, or twice."""
    site = Site(
        [{"nodes": 2, "gpus_per_node": 4, "cpus": 10, "memory_gb": 100}], [{"num_gpus": 6, "cpus": 12, "memory_gb": 60}]
    )
    held = site.start(0)
    assert [len(gpus_of(grant)) for grant in held[2]] == [4, 2]
    assert site.room.cpus.tolist() == [2, 6] and site.room.memory.tolist() == [60, 80]


def test_tenths_of_a_core_fill_a_node_exactly() -> None:
    """Rounding would leave the last of 80 pods of 0.1 cores outside a node of 8, or not give all back."""
    site = Site([{"nodes": 1, "gpus_per_node": 0, "cpus": 8}], [{"cpus": 0.1, "gpu_milli": 0}] * 80)
    held = [site.start(job) for job in range(80)]
    assert 0 <= site.room.cpus[0] < 1e-4
    for one in held[::-1]:
        site.book(one, +1)
    assert site.room.cpus[0] == 8


def test_closed_nodes_take_nothing_new() -> None:
    """A failed node would get jobs; one that drains could not give back what it holds."""
    site = Site([{"nodes": 2, "gpus_per_node": 2}], [{}, {"num_gpus": 4}])
    held = site.start(0)
    site.room.closed[0] = 1
    assert site.find(0)[1].tolist() == [1] and not site.fits(1)  # type: ignore[index]
    site.book(held, +1)
    site.room.closed[0] = 0
    assert site.fits(1)


def test_rules_choose_the_nodes_they_say() -> None:
    """A rule's row in a table would be another rule's."""
    pool = {"nodes": 4, "gpus_per_node": 4, "cpus": 16}
    site = Site(
        [pool], [{"num_gpus": 2, "cpus": 1}, {"gpu_milli": 400, "cpus": 1}, {"gpu_milli": 500, "cpus": 1}, {"cpus": 1}]
    )
    site.book((0, np.array([1]), np.array([0b0011])))
    site.book((1, np.array([2]), np.array([0b0001])))
    chosen = {
        rule: [int(site.find(job, code)[1][0]) for job in (2, 3)]  # type: ignore[index]
        for rule, code in SHARING_RULES.items()
        if code != RANDOM
    }
    assert chosen == {
        "first_fit": [0, 0],
        "best_fit": [1, 1],  # half the GPUs of node 1 are held
        "least_loaded": [0, 0],
        "dot_prod": [1, 1],
        "gpu_clustering": [2, 1],  # a share is there already; nobody else has one GPU
        "gpu_packing": [2, 1],  # on the GPU shared already; a free GPU of a node in use
        "fgd": [2, 0],  # the rest of the GPU shared already becomes smaller; no pair of free GPUs is broken
        "stranding": [2, 0],
    }
    drawn = {int(site.find(3, RANDOM, draw)[1][0]) for draw in range(50)}  # type: ignore[index]
    assert drawn == {0, 1, 2, 3}
    site.room.turn[:] = [3, 2, 1, 0]
    assert site.find(3, SHARING_RULES["first_fit"])[1].tolist() == [3]  # type: ignore[index]


def test_a_share_goes_to_the_fullest_gpu() -> None:
    """Shares would open one GPU after the other."""
    site = Site([{"nodes": 1, "gpus_per_node": 3}], [{"gpu_milli": 300}, {"gpu_milli": 600}, {"gpu_milli": 400}])
    site.book((0, np.array([0]), np.array([0b010])))
    site.book((1, np.array([0]), np.array([0b100])))
    assert gpus_of(site.start(2)[2][0]) == [2]
    assert site.room.milli[0].tolist() == [1000, 700, 0]


def test_jobs_without_a_gpu_leave_nodes_with_free_gpus_alone() -> None:
    """A pod of the front end would take the CPU that free GPUs need."""
    site = Site(
        [{"nodes": 1, "gpus_per_node": 4, "cpus": 8}, {"nodes": 1, "gpus_per_node": 0, "cpus": 8}],
        [{"gpu_milli": 0, "cpus": 8}] * 2,
    )
    assert site.start(0, SHARING_RULES["first_fit"])[1].tolist() == [1]
    assert site.start(1, SHARING_RULES["least_loaded"])[1].tolist() == [0]


def test_fragments_of_a_node_by_hand() -> None:
    """The measure would call GPUs useless that a job can use, or the reverse (FGD, section 3)."""
    jobs = [
        {"gpu_milli": 500, "cpus": 1},
        {"num_gpus": 2, "cpus": 3},
        {"gpu_milli": 0, "cpus": 1},
        {"gpu_type": "T4", "cpus": 1},
    ]
    site = Site([{"nodes": 1, "gpus_per_node": 3, "gpu_type": "V100", "cpus": 4}], jobs)
    # T4 is not there: all 3 GPUs useless to that job; the job without a GPU cannot use them either.
    types = task_types(site.jobs, site.cluster)
    assert types.share.tolist() == [0.25] * 4
    assert fragments(site.arrays, site.room, types) == pytest.approx(0.25 * (0 + 0 + 3000 + 3000))
    site.start(0)
    # 500 + 1000 + 1000 free, 3 cores: the share fits everywhere; the pair leaves the half GPU.
    assert fragments(site.arrays, site.room, types) == pytest.approx(0.25 * (0 + 500 + 2500 + 2500))
    site.room.cpus[0] = 2
    assert fragments(site.arrays, site.room, types) == pytest.approx(0.25 * (0 + 2500 + 2500 + 2500))


def test_copies_of_a_room_are_apart() -> None:
    """A reservation tried out on a copy would book the real nodes."""
    site = Site([{"nodes": 2, "gpus_per_node": 2}], [{}])
    site.start(0)
    copy = idle_room(site.cluster)
    copy_room(site.room, copy)
    for name in Room._fields:
        assert np.array_equal(getattr(site.room, name), getattr(copy, name)), name
        assert not np.shares_memory(getattr(site.room, name), getattr(copy, name))


def test_least_loaded_spreads_shares_over_gpus() -> None:
    """Small inference jobs would crowd one GPU while the next one idles."""
    columns = {"submit_s": [0, 1, 2, 3], "duration_s": [50] * 4, "num_gpus": [1] * 4, "gpu_milli": [600, 300, 300, 300]}
    cluster = Cluster.from_spec({"pools": [{"nodes": 2, "gpus_per_node": 1}]})
    nodes = {
        rule: [n for (n,) in rltune.simulate(JobTable.from_columns(columns), cluster, allocator=rule).schedule.nodes]
        for rule in ("least_loaded", "best_fit")
    }
    # Free thousandths before each job: (1000, 1000), (400, 1000), (400, 700), (400, 400).
    assert nodes == {"least_loaded": [0, 1, 1, 0], "best_fit": [0, 0, 1, 1]}
