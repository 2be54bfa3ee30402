"""Where gangs go: against exhaustive enumeration of the protocol page's candidates, and by hand."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rltune.core.resources.counts import RULES, find, fits, scratch, space_of
from rltune.nouns.cluster import Cluster, Pool

Placement = list[tuple[int, int]]


def place(cluster: Cluster, free: list[int], gpus: int, rule: str, pools: list[int] | None = None) -> Placement | None:
    """(node index, GPUs) pairs, None if it does not fit."""
    arrays = cluster.arrays()
    allowed = np.array(pools if pools is not None else range(len(cluster.pools)), np.int64)
    work = scratch(arrays)
    space = space_of(arrays, np.array(free), None)
    m = find(arrays, space, gpus, allowed, 0, len(allowed), RULES[rule], work)
    assert (m > 0) == fits(arrays, space, gpus, allowed, 0, len(allowed))
    return list(zip(work.node[:m].tolist(), work.gpus[:m].tolist(), strict=True)) if m else None


def splits(amount: int, most: list[int]) -> Iterator[list[int]]:
    """Non-increasing parts >= 1, part i <= most[i]."""
    if not most:
        if amount == 0:
            yield []
        return
    for first in range(min(amount, most[0]), 0, -1):
        for rest in splits(amount - first, [min(first, m) for m in most[1:]]):
            yield [first, *rest]


def candidates(free: dict[int, int], cap: int, gpus: int) -> Iterator[Placement]:
    """All placements the protocol page admits in one pool; ``free`` by node id."""
    groups: dict[int, list[int]] = {}
    for node, count in sorted(free.items()):
        if count > 0:
            groups.setdefault(min(count, cap), []).append(node)

    def extend(left: int, nodes: int, unused: frozenset[int], chosen: Placement) -> Iterator[Placement]:
        if left == 0 and nodes == 0:
            yield sorted(chosen)
        if left == 0 or nodes == 0:
            return
        for level in unused:
            for k in range(1, min(nodes, len(groups[level])) + 1):
                amount = min(k * level, left)
                for parts in splits(amount, [level] * k):
                    taken = list(zip(groups[level][:k], parts, strict=True))
                    yield from extend(left - amount, nodes - k, unused - {level}, chosen + taken)

    yield from extend(gpus, -(-gpus // cap), frozenset(groups), [])


@st.composite
def states(draw: st.DrawFn) -> tuple[Cluster, list[int], int]:
    """One or two small pools, partly used, and a gang."""
    shapes = draw(st.lists(st.tuples(st.integers(1, 5), st.sampled_from([1, 2, 3, 4])), min_size=1, max_size=2))
    first, pools = 0, []
    for k, (nodes, cap) in enumerate(shapes):
        pools.append(Pool(f"p{k}", nodes, cap, first_node_id=first))
        first += nodes
    free = [draw(st.integers(0, pool.gpus_per_node)) for pool in pools for _ in range(pool.nodes)]
    return Cluster("c", tuple(pools)), free, draw(st.integers(1, 12))


@settings(max_examples=400, deadline=None)
@given(states())
def test_lexicographic_is_the_smallest_of_all_candidates(state: tuple[Cluster, list[int], int]) -> None:
    """Node for node the schedule would not be the published simulator's, on states the golden files do not visit."""
    cluster, free, gpus = state
    everything: list[Placement] = []
    at = 0
    for pool in cluster.pools:
        everything += candidates(dict(enumerate(free[at : at + pool.nodes], at)), pool.gpus_per_node, gpus)
        at += pool.nodes
    assert place(cluster, free, gpus, "lexicographic") == (min(everything) if everything else None)


@settings(max_examples=300, deadline=None)
@given(states(), st.sampled_from(sorted(RULES)))
def test_every_rule_places_whole_gangs_wherever_one_fits(state: tuple[Cluster, list[int], int], rule: str) -> None:
    """A gang would be refused although it fits, be split over pools or nodes beyond need, or over-allocate a node."""
    cluster, free, gpus = state
    found = place(cluster, free, gpus, rule)
    possible, at = False, 0
    ranges = []
    for pool in cluster.pools:
        m = -(-gpus // pool.gpus_per_node)
        possible |= m <= pool.nodes and sum(sorted(free[at : at + pool.nodes])[-m:]) >= gpus
        ranges.append((at, at + pool.nodes, m))
        at += pool.nodes
    assert (found is not None) == possible
    if found is not None:
        assert sum(g for _, g in found) == gpus
        assert all(1 <= g <= free[node] for node, g in found)
        assert [node for node, _ in found] == sorted({node for node, _ in found})
        assert any(lo <= found[0][0] and found[-1][0] < hi and len(found) == m for lo, hi, m in ranges)


@pytest.mark.parametrize(
    ("free", "gpus", "expected"),
    [
        ([4, 2, 3, 1], 1, [(3, 1)]),
        ([4, 2, 3, 1], 2, [(1, 2)]),
        ([4, 2, 3, 1], 3, [(2, 3)]),
        ([4, 2, 3, 1], 4, [(0, 4)]),
        ([2, 4, 2, 4], 2, [(0, 2)]),  # ties: the lowest id
        ([4, 2, 4, 3], 6, [(0, 4), (1, 2)]),  # a whole node, and the rest where it leaves nothing
        ([4, 2, 4, 3], 7, [(0, 4), (3, 3)]),
        ([4, 4, 4, 0], 5, [(0, 4), (1, 1)]),
        ([3, 3, 3, 1], 5, [(0, 3), (1, 2)]),  # no whole node: the freest ones
        ([3, 3, 3, 0], 8, None),  # exactly two nodes, not three
        ([4, 4, 4, 4], 16, [(0, 4), (1, 4), (2, 4), (3, 4)]),
        ([4, 4, 4, 4], 17, None),
    ],
)
def test_best_fit_by_hand(free: list[int], gpus: int, expected: Placement | None) -> None:
    """Best fit would break up whole nodes while a fuller node had room."""
    assert place(Cluster("c", (Pool("a", 4, 4),)), free, gpus, "best_fit") == expected


def test_best_fit_chooses_the_pool_that_is_left_with_least() -> None:
    """A small job would break up a large node although a small node fits exactly."""
    cluster = Cluster("c", (Pool("large", 2, 8), Pool("small", 2, 2)))
    assert place(cluster, [8, 8, 2, 2], 2, "best_fit") == [(2, 2)]
    assert place(cluster, [8, 8, 2, 2], 1, "best_fit") == [(2, 1)]
    assert place(cluster, [8, 2, 2, 2], 2, "best_fit") == [(1, 2)]
    assert place(cluster, [8, 8, 2, 2], 8, "best_fit") == [(0, 8)]


def test_only_allowed_pools_are_used() -> None:
    """A job would be placed in a pool that is not its own."""
    cluster = Cluster("c", (Pool("a", 1, 4), Pool("b", 1, 4), Pool("d", 1, 4)))
    for rule in RULES:
        assert place(cluster, [4, 4, 4], 3, rule, [1]) == [(1, 3)]
        assert place(cluster, [4, 0, 4], 3, rule, [1]) is None
        assert place(cluster, [4, 0, 4], 3, rule, [1, 2]) == [(2, 3)]


@pytest.mark.parametrize(
    ("free", "gpus", "expected"),
    [
        ([1, 3, 4, 4], 2, [(1, 2)]),  # one node: the lowest id with room
        ([2, 4, 4, 3], 6, [(0, 2), (1, 4)]),
        ([3, 3, 4, 4], 6, [(0, 2), (2, 4)]),  # a whole group first, the rest from another
        ([4, 4, 4, 4], 5, [(0, 3), (1, 2)]),  # of all splits of one group the most even is the smallest
    ],
)
def test_lexicographic_by_hand(free: list[int], gpus: int, expected: Placement) -> None:
    """The enumeration above could share the code's misunderstanding of the protocol page."""
    assert place(Cluster("c", (Pool("a", 4, 4),)), free, gpus, "lexicographic") == expected
