"""The fragmentation protocol: on a cluster filled by hand, and against the published figures for Alibaba openb."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rltune.nouns.cluster import Cluster
from rltune.nouns.errors import InputError
from rltune.nouns.jobs import JobTable
from rltune.packing.online import fill_cluster, shuffled_requests
from rltune.traces.openb import read_openb_nodes, read_openb_requests

FOUR = Cluster.from_spec({"pools": [{"nodes": 4, "gpus_per_node": 1, "cpus": 2}]})


def table(**columns: list[float]) -> JobTable:
    n = len(next(iter(columns.values())))
    return JobTable.from_columns({"submit_s": range(n), "duration_s": [0] * n, "num_gpus": [1] * n, **columns})


def test_requests_go_on_until_the_target() -> None:
    """Fewer requests than the protocol's would flatter every rule."""
    amount = np.array([1000, 0, 500])
    order = shuffled_requests(amount, 10_000, np.random.default_rng(0))
    assert sorted(order[:3]) == [0, 1, 2]
    assert amount[order].sum() >= 10_000 > amount[order[:-1]].sum()


def test_filling_by_hand() -> None:
    """Rejected jobs would count as allocated, or points be taken at other places."""
    found = fill_cluster(table(cpus=[2]), FOUR, "best_fit", 0, (0.5, 1.0, 1.5), measure_fragments=True)
    assert found.requested.tolist() == [0.5, 1.0, 1.5]
    assert found.allocated.tolist() == [0.5, 1.0, 1.0] and found.fragmented.tolist() == [0, 0, 0]
    # 600 thousandths fit once on a GPU; what they leave is of no use to the next.
    found = fill_cluster(table(gpu_milli=[600]), FOUR, "random", 0, (0.6, 1.2), measure_fragments=True)
    assert found.allocated == pytest.approx([0.6, 0.6]) and found.fragmented == pytest.approx([0.4, 0.4])


def test_bad_fillings_are_refused() -> None:
    """A misspelt rule would run as another one, and jobs without GPUs for ever."""
    with pytest.raises(InputError, match="rule 'worst' is unknown; known are first_fit"):
        fill_cluster(table(cpus=[1]), FOUR, "worst", 0)
    with pytest.raises(InputError, match="ascending"):
        fill_cluster(table(cpus=[1]), FOUR, "random", 0, (1.0, 0.5))
    with pytest.raises(InputError, match="no job asks for a GPU"):
        fill_cluster(table(gpu_milli=[0]), FOUR, "random", 0)


@pytest.mark.parametrize(
    ("rule", "allocated", "fragmented"),
    [("best_fit", 93.08, (10.0, 8.3, 7.4, 7.1)), ("random", 87.47, (15.5, 15.9, 14.5, 13.5))],
)
def test_openb_agrees_with_the_published_figures(
    real_traces: Path, rule: str, allocated: float, fragmented: tuple[float, ...]
) -> None:
    """Whatever we say of fragmentation would rest on another experiment than the published one (means of 10 seeds)."""
    folder = real_traces / "alibaba_openb_2023"
    if not folder.is_dir():
        pytest.skip("Alibaba openb is not among the real traces")
    cluster = read_openb_nodes(folder / "openb_node_list_gpu_node.csv")
    jobs = read_openb_requests(folder / "openb_pod_list_default.csv.gz")
    assert (cluster.nodes, cluster.gpus, len(jobs)) == (1213, 6212, 8152)
    points = (0.6, 0.8, 0.9, 1.0, 1.3)
    runs = [fill_cluster(jobs, cluster, rule, seed, points, measure_fragments=True) for seed in range(2)]
    assert 100 * np.mean([run.allocated[-1] for run in runs]) == pytest.approx(allocated, abs=1)
    shares = 100 * np.mean([run.fragmented[:-1] for run in runs], axis=0)
    assert shares.tolist() == pytest.approx(list(fragmented), abs=1)
