"""What jobs ask for, seen from a cluster: slices by compute alone, load, and a cluster made to measure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rltune
from rltune.config.fitting import LOAD, fitted
from rltune.nouns.asked_slices import load_on, shares, with_profiles
from rltune.nouns.cluster import Cluster, eligibility
from rltune.nouns.errors import InputError
from rltune.nouns.jobs import JobTable


def table(**columns: Any) -> JobTable:
    n = len(next(iter(columns.values())))
    usual = {"submit_s": np.arange(n) * 600.0, "duration_s": np.full(n, 3600.0), "num_gpus": np.ones(n, int)}
    return JobTable.from_columns(usual | columns)


def cut(*types: str) -> Cluster:
    pools = [{"name": t, "nodes": 1, "gpus_per_node": 8, "gpu_type": t, "mig": True} for t in types]
    return Cluster.from_spec({"pools": pools})


def test_a_slice_by_compute_alone_is_what_the_cluster_cuts() -> None:
    """`1g` would be no profile anywhere, or one that the cluster's GPUs do not have."""
    jobs = table(mig=["1g", None, "3g"], gpu_type=["A100-40GB|A100-80GB", None, None])
    assert list(with_profiles(jobs, cut("A100-80GB")).mig.values()) == ["1g.10gb", None, "3g.40gb"]
    assert list(with_profiles(jobs, cut("H100-80GB")).mig.values()) == ["1g", None, "3g.40gb"]
    both = with_profiles(jobs, cut("A100-40GB", "A30"))
    assert list(both.mig.values()) == ["1g.5gb", None, "3g.20gb"] and not both.ways.names
    several = with_profiles(table(mig=["1g"]), cut("A100-40GB", "A30"))
    assert several.ways.values()[0] == "1g.5gb:A100-40GB | 1g.6gb:A30"
    assert with_profiles(table(mig=["1g.5gb"]), cut("A30")).mig.names == ("1g.5gb",)


def test_slices_without_a_pool_are_refused_with_the_remedy() -> None:
    """The message would list profiles, and not say that the cluster is not cut."""
    with pytest.raises(InputError, match=r"wants a MIG slice 1g, and no pool .* give a pool mig: true"):
        rltune.simulate(table(mig=["1g"]), Cluster.from_spec({"pools": [{"nodes": 1, "gpus_per_node": 8}]}))


def test_shares_and_load() -> None:
    """Slices and shares would count as whole GPUs."""
    jobs = table(mig=["1g.10gb", "3g", None, None], gpu_type=["A100-80GB"] * 4, gpu_milli=[1000, 1000, 500, 1000])
    assert np.allclose(shares(jobs), [1 / 8, 3 / 7, 0.5, 1])
    assert load_on(jobs, cut("A100-80GB")) == pytest.approx(3600 * (1 / 8 + 3 / 7 + 1.5) / (1800 * 8))
    assert load_on(jobs.take(slice(0, 1)), cut("A100-80GB")) is None


def test_a_fitted_cluster_holds_every_job_at_the_load_it_says() -> None:
    """A first own log would be refused for its GPU types, or meet a cluster on which nobody ever waits."""
    rng = np.random.default_rng(0)
    n = 2000
    kinds = rng.choice(["A100-40GB|A100-80GB", "A100-40GB", "V100", "RTX3090", None], n)
    mig = np.where((kinds == "A100-40GB|A100-80GB") & (rng.random(n) < 0.5), "1g", None)
    gpus = np.where(mig == "1g", 1, rng.choice([1, 2, 8, 24], n))
    jobs = table(gpu_type=kinds, mig=mig, num_gpus=gpus, duration_s=np.full(n, 36_000.0))
    cluster = fitted(jobs)
    assert {p.gpu_type: p.mig for p in cluster.pools} == {"A100-40GB": True, "V100": False, "any": False}
    placed = eligibility(with_profiles(jobs, cluster), cluster)
    assert (np.diff(placed.ptr) > 0).all()
    load = load_on(jobs, cluster)
    assert load is not None and 0.9 * LOAD < load < 1.02 * LOAD
    assert fitted(table(num_gpus=[100, 1], duration_s=[1.0, 1.0])).nodes == 13


def test_pools_take_usual_spellings() -> None:
    """A cluster file with the driver's own name of a GPU would be refused."""
    assert cut("A100-SXM4-40GB").pools[0].gpu_type == "A100-40GB"
    with pytest.raises(InputError, match="gpu_type='a100' may be A100-40GB or A100-80GB; write which"):
        cut("a100")
