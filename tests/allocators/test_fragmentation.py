"""Fragmentation costs against numbers computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from joint_cases import make_cluster

from rltune.allocators.fragmentation import demand_cost, demand_of, fragmentation, partly_used_cost


def test_free_gpus_count_for_the_jobs_that_cannot_use_them() -> None:
    """Half the jobs need 1 GPU, a quarter 2, a quarter 16 (an empty node each), on nodes of 4 and of 2."""
    cost = demand_cost(make_cluster([(3, 4), (3, 2)]), (1, 2, 16), (0.5, 0.25, 0.25))
    assert cost[0].tolist() == pytest.approx([0, 1 * 0.5, 2 * 0.25, 3 * 0.25, 0])
    assert cost[1].tolist() == pytest.approx([0, 1 * 0.5, 0, 0, 0])


def test_a_partly_used_node_costs_one() -> None:
    """RLTune's measure counts nodes that are neither idle nor full."""
    cost = partly_used_cost(make_cluster([(3, 4), (3, 1)]))
    assert cost.tolist() == [[0, 1, 1, 1, 0], [0, 0, 0, 0, 0]]


def test_demand_counts_every_gang_wider_than_a_node_as_one_size() -> None:
    """Shares come from the job table, and sum to one."""
    demand = demand_of(np.array([1, 1, 2, 8, 16, 64, 1, 1]), make_cluster([(2, 8), (2, 4)]))
    assert demand.sizes == (1, 2, 8)
    assert demand.shares == pytest.approx((4 / 8, 1 / 8, 3 / 8))


def test_the_metric_is_the_unusable_share_of_the_free_gpus() -> None:
    """Nodes with 1, 3 and 4 of 4 GPUs free lose 0.5 and 0.75 of 8; a full cluster has no fragmentation."""
    cost = demand_cost(make_cluster([(3, 4)]), (1, 2, 16), (0.5, 0.25, 0.25))
    assert fragmentation(np.array([[0, 1, 0, 1, 1]]), cost) == pytest.approx(1.25 / 8)
    assert fragmentation(np.array([[3, 0, 0, 0, 0]]), cost) == 0.0
