"""Pools over time, from runs."""

from __future__ import annotations

import numpy as np
import pytest

import rltune
from rltune.nouns.cluster import Cluster


def test_pools_over_time_by_hand() -> None:
    """Utilisation, queue or fragmentation of a pool would be another's, or not add up to those of the whole."""
    cluster = Cluster.from_spec(
        {
            "pools": [
                {"name": "a", "nodes": 1, "gpus_per_node": 4, "vc": "a"},
                {"name": "b", "nodes": 2, "gpus_per_node": 2, "vc": "b"},
            ]
        }
    )
    jobs = rltune.JobTable.from_columns(
        {
            "submit_s": [0, 0, 0, 50],
            "duration_s": [100, 100, 100, 50],
            "num_gpus": [4, 2, 1, 1],
            "vc": ["a", "a", "b", "b"],
        }
    )
    result = rltune.simulate(jobs, cluster)
    found = result.pool_timeline(100.0)
    a, b = (found[found.pool == name] for name in ("a", "b"))
    assert a.busy_gpus.tolist() == [4, 2] and a.queued_jobs.tolist() == [1, 0] and a.partly_free_gpus.tolist() == [0, 2]
    # b: a GPU for 100 s, and another one of the same node from 50 to 100 s.
    assert (
        b.busy_gpus.tolist() == [1.5, 0]
        and b.queued_jobs.tolist() == [0, 0]
        and b.partly_free_gpus.tolist() == [0.5, 0]
    )
    assert set(found.gpus) == {4} and (found.instances == 0).all()


def test_pools_over_time_add_up_to_the_whole() -> None:
    """The page would show other fragmentation and use than the summary tells."""
    trace = rltune.load_trace("synthetic", jobs=400, arrivals_per_h=400.0)
    result = rltune.simulate(trace, "mixed", backfill="skip")
    found, whole = result.pool_timeline(600.0), result.timeline(600.0)
    assert np.allclose(found.groupby("time_s").busy_gpus.sum(), whole.busy_gpus)
    # Until the last submission, as the summary has it: one step.
    step = float(trace.jobs.submit_s[-1] - trace.jobs.submit_s[0])
    first = result.pool_timeline(step).groupby("time_s")[["gpus", "busy_gpus", "partly_free_gpus"]].sum().iloc[0]
    assert first.partly_free_gpus / (first.gpus - first.busy_gpus) == pytest.approx(result.fragmentation())
