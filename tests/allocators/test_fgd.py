"""Placement by the growth of a measure: against the definitions in plain Python, and what the measures must never do."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sharing import Site, gpus_of, part, pools, requests, ways_on_node

import rltune
from rltune.core.resources.fractional_value import share_worth
from rltune.core.resources.fragments import MEASURES, TaskTypes, fragments, task_types
from rltune.core.resources.scores import SHARING_RULES
from rltune.nouns.cluster import Cluster
from rltune.nouns.errors import InputError
from rltune.nouns.jobs import JobTable
from rltune.nouns.mig_profiles import SIZE, STARTS, TYPES
from rltune.packing import online
from rltune.packing.online import fill_cluster
from rltune.packing.upper_bound import most_allocated
from rltune.traces.openb import read_openb_nodes, read_openb_requests

measures = st.sampled_from(sorted(MEASURES))


# --- the definitions in plain Python ----------------------------------------------------


def free_amounts(site: Site, node: int) -> list[float]:
    """Thousandths free on each GPU of a node, free slices of cut ones included."""
    pool = site.cluster.pools[site.arrays.node_pool[node]]
    amounts = []
    for i in range(pool.gpus_per_node):
        taken = int(site.room.slices[node, i])
        slices = 4 if pool.gpu_type == "A30" else 8
        amounts.append(1000 * (slices - taken.bit_count()) / slices if taken else float(site.room.milli[node, i]))
    return amounts


def starts_free(site: Site, node: int, gpu: int, profile: int) -> bool:
    pool = site.cluster.pools[site.arrays.node_pool[node]]
    taken = int(site.room.slices[node, gpu])
    if not pool.mig or (not taken and site.room.milli[node, gpu] < 1000):
        return False
    kind = TYPES.index(pool.gpu_type)
    masks = [((1 << SIZE[profile, kind]) - 1) << s for s in range(8) if STARTS[profile, kind] >> s & 1]
    return any(not taken & mask for mask in masks)


def loss(site: Site, types: TaskTypes, node: int) -> float:
    """The fragments of a node, type by type."""
    p = int(site.arrays.node_pool[node])
    pool, room, amounts = site.cluster.pools[p], site.room, free_amounts(site, node)
    free, total = sum(amounts), 0.0
    for k, share in enumerate(types.share):
        g, milli, profile = (int(column[k]) for column in (types.demand.gpus, types.demand.milli, types.demand.profile))
        cpus, memory = float(types.demand.cpus[k]), float(types.demand.memory[k])
        widest = min(g, pool.gpus_per_node) if milli == 1000 else 1
        usable, enough = [], True
        if profile >= 0:
            usable = [a for i, a in enumerate(amounts) if starts_free(site, node, i, profile)]
        elif milli:
            usable = [a for i, a in enumerate(amounts) if room.milli[node, i] >= milli]
            enough = len(usable) >= (widest if milli == 1000 else 1)
        hosted = bool(milli and types.allowed[k, p] and usable and enough and not room.closed[node])
        if hosted and widest:
            hosted = part(cpus, widest, g) <= room.cpus[node] and part(memory, widest, g) <= room.memory[node]
        total += share * (free - sum(usable) if hosted else free)
        if types.measure == MEASURES["stranding"] and milli and types.allowed[k, p]:
            asked = float(g * milli)
            if profile >= 0:
                asked = 1000 * SIZE[profile, TYPES.index(pool.gpu_type)] / (4 if pool.gpu_type == "A30" else 8)
            fed = [have / want * asked for have, want in ((room.cpus[node], cpus), (room.memory[node], memory)) if want]
            total += 2 * share * (free - min([free, *fed]))
    if types.measure == MEASURES["stranding"]:
        total += 8 * sum(a * types.gap[1] if room.slices[node, i] else types.gap[int(a)] for i, a in enumerate(amounts))
    return total


def rises(site: Site, types: TaskTypes, job: int) -> Iterator[tuple[int, int, float]]:
    """(node, grant, rise) of every way to place the whole job on one node."""
    flat, lo, hi = site.allowed(job)
    g, milli = int(site.demand.gpus[job]), int(site.demand.milli[job])
    for p in flat[lo:hi]:
        if milli == 1000 and g > site.arrays.pool_cap[p]:
            continue
        for node in range(int(site.arrays.pool_lo[p]), int(site.arrays.pool_hi[p])):
            before = loss(site, types, node)
            for grant in list(ways_on_node(site, job, node, g)):
                held = site.book((job, np.array([node]), np.array([grant])))
                yield node, int(grant), loss(site, types, node) - before
                site.book(held, +1)


@settings(max_examples=150, deadline=None)
@given(pools, st.lists(requests, min_size=1, max_size=10), measures, st.randoms())
def test_the_rise_is_the_least_there_is(given_pools: Any, jobs: Any, measure: str, random: Any) -> None:
    """FGD would go to another node, GPU or MIG slice than its definition says, so its figures would be another rule's."""
    site = Site(given_pools, jobs, measure)
    turn = list(range(site.cluster.nodes))
    random.shuffle(turn)
    site.room.turn[:] = turn
    types = site.work.types
    for job in range(len(jobs)):
        if random.random() < 0.4:
            # A state that the rule itself would not have made.
            held = site.find(job, SHARING_RULES["random"], random.getrandbits(63))
        else:
            ways = list(rises(site, types, job))
            held = site.find(job, SHARING_RULES[measure])
            if ways:
                assert held is not None
                least = min(rise for _, _, rise in ways)
                best = [(node, grant) for node, grant, rise in ways if rise < least + 0.002]
                node = int(held[1][0])
                assert len(held[1]) == 1 and (node, int(held[2][0])) in equal_grants(site, job, best)
                exact = {n for n, _, rise in ways if rise < least + 1e-6}
                assert turn[node] <= min(turn[n] for n in exact) or node not in exact
        if held is not None:
            site.book(held)
        nodes = [loss(site, types, node) for node in range(site.cluster.nodes)]
        assert fragments(site.arrays, site.room, types) == pytest.approx(sum(nodes), abs=1e-6)


def equal_grants(site: Site, job: int, best: list[tuple[int, int]]) -> set[tuple[int, int]]:
    """The best ways, and those by another GPU in the same state."""
    found = set(best)
    for node, grant in best:
        if len(gpus_of(grant)) != 1:
            continue
        (gpu,) = gpus_of(grant)
        for other in range(site.room.milli.shape[1]):
            if (
                site.room.milli[node, other] == site.room.milli[node, gpu]
                and site.room.slices[node, other] == site.room.slices[node, gpu]
            ):
                found.add((node, grant >> 32 << 32 | 1 << other))
    return found


@settings(max_examples=100, deadline=None)
@given(pools, st.lists(requests, min_size=1, max_size=12), measures, st.randoms())
def test_fragments_are_never_negative_and_none_on_a_full_node(
    given_pools: Any, jobs: Any, measure: str, random: Any
) -> None:
    """A node with nothing left would still attract or repel jobs, and sums over nodes would hide losses."""
    site = Site(given_pools, jobs, measure)
    for job in range(len(jobs)):
        held = site.find(job, SHARING_RULES["random"], random.getrandbits(63))
        if held is not None:
            site.book(held)
        assert fragments(site.arrays, site.room, site.work.types) >= 0
    site.room.milli[:], site.room.whole[:], site.room.loose[:], site.room.largest[:] = 0, 0, 0, 0
    site.room.slices[site.room.slices != 0] = 0
    assert fragments(site.arrays, site.room, site.work.types) == 0


# --- by hand ----------------------------------------------------------------------------


def test_a_pod_without_gpu_spares_the_cpu_of_free_gpus() -> None:
    """Front-end pods would strand free GPUs beside nodes that have none."""
    site = Site(
        [{"nodes": 1, "gpus_per_node": 4, "cpus": 8}, {"nodes": 1, "gpus_per_node": 0, "cpus": 8}],
        [{"gpu_milli": 0, "cpus": 8}, {"cpus": 2}],
    )
    assert site.start(0, SHARING_RULES["fgd"])[1].tolist() == [1]


def test_a_share_goes_where_the_rest_is_of_use() -> None:
    """FGD would take the fullest GPU, and leave a rest that no job can use."""
    jobs = [{"gpu_milli": 400}, {"gpu_milli": 300}, {"gpu_milli": 300}, {"gpu_milli": 600}]
    site = Site([{"nodes": 1, "gpus_per_node": 2}], jobs)
    site.book((3, np.array([0]), np.array([0b01])))
    site.book((0, np.array([0]), np.array([0b10])))
    # Free: 400 and 600. 300 leaves 100 and 600 (lost to the four jobs: 100, 100, 100, 100) or 400 and 300 (300, 0, 0, 700).
    assert gpus_of(site.find(1, SHARING_RULES["fgd"])[2][0]) == [0]  # type: ignore[index]


def test_mig_slices_that_nobody_can_start_are_lost() -> None:
    """Free slices of a cut GPU would count as used, or as useful to jobs that cannot have them."""
    pool = {"nodes": 1, "gpus_per_node": 1, "gpu_type": "A100-80GB", "mig": True}
    site = Site([pool], [{"mig": "4g.40gb"}, {"mig": "3g.40gb"}, {"gpu_milli": 500}])
    assert fragments(site.arrays, site.room, site.work.types) == 0
    # 4g leaves half the GPU: 3g may begin at 4, 4g nowhere, and a share cannot use a cut GPU.
    site.start(0, SHARING_RULES["fgd"])
    assert fragments(site.arrays, site.room, site.work.types) == pytest.approx(500 * 2 / 3)


def test_worth_of_shares_by_hand() -> None:
    """A rest that pairs with nothing would be priced as if it did."""
    worth = share_worth([500], [1.0])
    assert worth[[0, 499, 500, 999, 1000]].tolist() == [0, 0, 0.5, 0.5, 1]
    # One of 810 and nothing beside it: a GPU each. Two of 480: half a GPU each.
    worth = share_worth([810, 480], [0.5, 0.5])
    assert worth[[190, 480, 810]] == pytest.approx([0, 0.5, 1])
    assert share_worth([], []).tolist() == [0.0] * 1000 + [1.0]


def test_an_unknown_measure_is_refused() -> None:
    """A misspelt measure would be another one."""
    table = JobTable.from_columns({"submit_s": [0], "duration_s": [1], "num_gpus": [1]})
    with pytest.raises(InputError, match="measure 'frag' is unknown; known are fgd, stranding"):
        task_types(table, Cluster.from_spec({"pools": [{"nodes": 1, "gpus_per_node": 1}]}), "frag")


# --- filling ----------------------------------------------------------------------------


def mixed(seed: int, n: int) -> JobTable:
    """Random requests of everything but MIG."""
    rng = np.random.default_rng(seed)
    milli = rng.choice([0, 200, 470, 650, 1000, 1000], n)
    columns = {
        "submit_s": range(n), "duration_s": [1] * n, "gpu_milli": milli, "cpus": rng.choice([0.5, 2, 5], n),
        "num_gpus": np.where(milli == 1000, rng.choice([1, 1, 2, 4, 6], n), 1), "memory_gb": rng.choice([1, 8], n),
        "gpu_type": rng.choice(["V100", "T4", "V100|T4"], n),
    }  # fmt: skip
    return JobTable.from_columns(columns)


MIXED = Cluster.from_spec(
    {
        "pools": [
            {"nodes": 3, "gpus_per_node": 4, "gpu_type": "V100", "cpus": 16, "memory_gb": 40},
            {"nodes": 4, "gpus_per_node": 2, "gpu_type": "T4", "cpus": 9, "memory_gb": 30},
        ]
    }
)


@pytest.mark.parametrize("rule", sorted(MEASURES))
@pytest.mark.parametrize("seed", range(5))
def test_remembered_rises_change_nothing(rule: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fast filling of large clusters would be another experiment than the slow one."""
    points = (0.4, 0.8, 1.3)
    fast = fill_cluster(mixed(seed, 60), MIXED, rule, seed, points, measure_fragments=True)
    monkeypatch.setattr(online, "MOST_KNOWN", 0)
    slow = fill_cluster(mixed(seed, 60), MIXED, rule, seed, points, measure_fragments=True)
    assert fast.allocated.tolist() == slow.allocated.tolist() and fast.fragmented.tolist() == slow.fragmented.tolist()


@pytest.mark.parametrize("rule", sorted(MEASURES))
def test_a_simulation_knows_its_workload(rule: str) -> None:
    """allocator=fgd would place as if it knew no job, so by the order of nodes."""
    columns = {"submit_s": [0, 1, 2], "duration_s": [50] * 3, "num_gpus": [2, 1, 2]}
    cluster = Cluster.from_spec({"pools": [{"nodes": 2, "gpus_per_node": 4}]})
    result = rltune.simulate(JobTable.from_columns(columns), cluster, allocator=rule)
    # The single job leaves the pair of GPUs on node 0 to the other pair.
    assert [nodes[0] for nodes in result.schedule.nodes] == [0, 1, 0]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_nothing_holds_more_than_the_bound(seed: int) -> None:
    """The bound beside the table would be below what can be reached, and rules would seem better than they are."""
    rng = np.random.default_rng(seed)
    jobs = mixed(seed, 4)
    cluster = Cluster.from_spec(
        {
            "pools": [
                {"nodes": 1, "gpus_per_node": int(rng.integers(1, 4)), "gpu_type": "V100", "cpus": 6, "memory_gb": 12},
                {"nodes": 1, "gpus_per_node": int(rng.integers(1, 3)), "gpu_type": "T4", "cpus": 4},
            ]
        }
    )
    specs = [dict(zip(COLUMNS, row, strict=True)) for row in rows_of(jobs)]
    site = Site([pool_spec(pool) for pool in cluster.pools], specs)
    assert most_allocated(jobs, cluster, np.arange(4)) * cluster.gpus * 1000 >= best_packing(site, 0) - 1e-6


COLUMNS = ("num_gpus", "gpu_milli", "cpus", "memory_gb", "gpu_type")


def rows_of(jobs: JobTable) -> Iterator[tuple[Any, ...]]:
    names = [jobs.gpu_type.names[code] for code in jobs.gpu_type.codes]
    return zip(jobs.num_gpus, jobs.gpu_milli, jobs.cpus, jobs.memory_gb, names, strict=True)


def pool_spec(pool: Any) -> dict[str, Any]:
    return {key: getattr(pool, key) for key in ("nodes", "gpus_per_node", "gpu_type", "cpus", "memory_gb")}


def best_packing(site: Site, job: int) -> float:
    """Most thousandths of GPUs that the jobs from ``job`` on can hold, by trying everything (gangs on one node)."""
    if job == len(site.jobs):
        return 0.0
    best = best_packing(site, job + 1)
    g, milli = int(site.demand.gpus[job]), int(site.demand.milli[job])
    flat, lo, hi = site.allowed(job)
    for p, node in product(flat[lo:hi], range(site.cluster.nodes)):
        if site.arrays.node_pool[node] == p and (milli < 1000 or g <= site.arrays.pool_cap[p]):
            for grant in list(ways_on_node(site, job, node, g)):
                held = site.book((job, np.array([node]), np.array([grant])))
                best = max(best, g * milli + best_packing(site, job + 1))
                site.book(held, +1)
    return best


def test_the_bound_by_hand() -> None:
    """The bound would say nothing: everything asked for, or all GPUs."""
    one = {"submit_s": [0], "duration_s": [1], "num_gpus": [1]}
    two = Cluster.from_spec({"pools": [{"nodes": 2, "gpus_per_node": 1, "cpus": 3}]})
    # No two of 600 on one GPU; with 2 cores each, 3 at most by CPU; one request is all there is.
    shares = JobTable.from_columns(one | {"gpu_milli": [600]})
    assert most_allocated(shares, two, [0] * 5) == pytest.approx(0.6)
    thirsty = JobTable.from_columns(one | {"gpu_milli": [200], "cpus": [2]})
    assert most_allocated(thirsty, two, [0] * 9) == pytest.approx(0.3)
    assert most_allocated(shares, two, [0]) == pytest.approx(0.3)
    with pytest.raises(InputError, match="not MIG profiles"):
        pool = {"nodes": 1, "gpus_per_node": 1, "gpu_type": "A30", "mig": True}
        most_allocated(JobTable.from_columns(one | {"mig": ["1g.6gb"]}), Cluster.from_spec({"pools": [pool]}), [0])


def test_stranding_beats_the_published_figures(real_traces: Path) -> None:
    """A change would cost GPUs on the published workloads without anybody noticing (FGD: mean of 10 seeds)."""
    folder = real_traces / "alibaba_openb_2023"
    if not folder.is_dir():
        pytest.skip("Alibaba openb is not among the real traces")
    cluster = read_openb_nodes(folder / "openb_node_list_gpu_node.csv")
    jobs = read_openb_requests(folder / "openb_pod_list_default.csv.gz")
    runs = [fill_cluster(jobs, cluster, "stranding", seed) for seed in range(2)]
    assert 100 * np.mean([run.allocated[-1] for run in runs]) > 95.39
