"""Windows of arrivals placed together on a filling cluster."""

from __future__ import annotations

import numpy as np
import pytest

from rltune.allocators.joint import JointSolver
from rltune.nouns.cluster import Cluster
from rltune.nouns.errors import InputError
from rltune.nouns.jobs import JobTable
from rltune.packing.batched import fill_by_window
from rltune.packing.online import fill_cluster

LEVELS = ({"value": 1.0}, {"fragmentation": 1.0})


def workload() -> tuple[JobTable, Cluster]:
    """Shares and whole GPUs with CPU on two kinds of nodes."""
    rng, n = np.random.default_rng(3), 60
    gpus = rng.choice([1, 1, 1, 2, 4], n)
    columns = {
        "submit_s": np.arange(n), "duration_s": np.ones(n), "num_gpus": gpus,
        "gpu_milli": np.where(gpus == 1, rng.choice([200, 450, 600, 1000], n), 1000), "cpus": rng.integers(1, 9, n).astype(float),
    }  # fmt: skip
    pools = [{"nodes": 4, "gpus_per_node": 2, "cpus": 16}, {"nodes": 3, "gpus_per_node": 4, "cpus": 24}]
    return JobTable.from_columns(columns), Cluster.from_spec({"name": "small", "pools": pools})


@pytest.mark.parametrize("seed", range(4))
def test_a_window_of_one_is_the_rule_itself(seed: int) -> None:
    """The rule is the joint model's optimum for a single request: the table's two rows would not compare like with like."""
    jobs, cluster = workload()
    alone = fill_cluster(jobs, cluster, "stranding", seed)
    window, stats = fill_by_window(jobs, cluster, JointSolver(LEVELS, cache_size=0), "stranding", seed, window=1)
    assert window.allocated[-1] == alone.allocated[-1]
    assert window.requested[-1] == alone.requested[-1]
    assert stats["fallbacks"] == {}


def test_windows_hold_no_more_than_there_is_and_more_than_one_by_one_on_average() -> None:
    """Placing eight requests together must not lose GPUs on the whole, nor find some that are not there."""
    jobs, cluster = workload()
    gains = []
    for seed in range(6):
        alone = fill_cluster(jobs, cluster, "stranding", seed).allocated[-1]
        together, _ = fill_by_window(jobs, cluster, JointSolver(LEVELS, cache_size=0), "stranding", seed, window=8)
        assert together.allocated[-1] <= 1.0
        gains.append(together.allocated[-1] - alone)
    assert np.mean(gains) >= 0


def test_an_empty_window_is_refused() -> None:
    """window=0 would loop for ever."""
    jobs, cluster = workload()
    with pytest.raises(InputError, match="window=0"):
        fill_by_window(jobs, cluster, JointSolver(LEVELS), "stranding", 0, window=0)


def test_a_rule_without_a_measure_is_refused() -> None:
    """best_fit knows no fragmentation: its plans would be weighed by nothing."""
    jobs, cluster = workload()
    with pytest.raises(InputError, match="best_fit"):
        fill_by_window(jobs, cluster, JointSolver(LEVELS), "best_fit", 0)
