"""What cannot be scheduled, or weighed, is told in one line."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rltune
from rltune.allocators.milp import MilpAllocator
from rltune.nouns.errors import InputError
from rltune.nouns.jobs import JobTable

A30 = {"pools": [{"nodes": 1, "gpus_per_node": 2, "gpu_type": "A30", "mig": True}]}


def simulate(columns: dict[str, Any], spec: Any = A30, **options: Any) -> Any:
    jobs = JobTable.from_columns({"submit_s": [0, 1], "duration_s": [5, 5], "num_gpus": [1, 1]} | columns)
    return rltune.simulate(jobs, rltune.load_cluster(spec), allocator="milp", **options)


@pytest.mark.parametrize(
    ("columns", "spec", "options", "told"),
    [
        ({"mig": ["1g.6gb", "3g.20gb"]}, A30, {}, "MIG 3g.20gb"),
        ({"mig": ["1g.6gb", "9g.99gb"]}, A30, {}, "9g.99gb"),
        ({"mig": ["1g.6gb", "1g.6gb"], "gpu_type": ["A30", "V100"]}, A30, {}, "GPU type V100"),
        ({"gpu_type": ["V100", "A30"]}, A30, {}, "GPU type V100"),
        ({}, {"pools": [{"nodes": 0, "gpus_per_node": 2}]}, {}, "at least 1"),
        ({}, {"pools": [{"nodes": 1, "gpus_per_node": 0}]}, {}, "gpus_per_node=0"),
        ({"vc": ["a", "b"]}, A30, {"quotas": {"a": 0.5}}, "quota"),
        ({"vc": ["a", "b"]}, A30, {"quotas": {"a": float("nan")}}, "quota"),
        ({"vc": ["a", "b"]}, A30, {"quotas": {"c": 2}}, "c"),
    ],
)
def test_impossible_work_is_refused_in_one_line(
    columns: dict[str, Any], spec: Any, options: dict[str, Any], told: str
) -> None:
    """A profile the GPU does not have, types that contradict, no capacity, a quota that a job exceeds by itself."""
    with pytest.raises(InputError, match=told) as error:
        simulate(columns, spec, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "options",
    [
        {"weights": {"fragmentation": float("nan")}}, {"weights": {"fragmentation": -1.0}}, {"weights": {"speed": 1.0}},
        {"weights": 3.0}, {"weights": {"locality": "much"}}, {"mode": "best"}, {"worth": "money"}, {"interface": "glpk"},
        {"rows": 0}, {"near": 1.5}, {"time_limit_s": float("nan")}, {"decay": float("nan")}, {"head": True},
    ],
)  # fmt: skip
def test_options_that_weigh_nothing_or_too_much_are_refused(options: dict[str, Any]) -> None:
    """A NaN weight would make every plan as good as every other, silently."""
    name = next(iter(options))
    with pytest.raises(InputError, match=name) as error:
        MilpAllocator(**options)
    assert "\n" not in str(error.value)


def test_capacity_that_fails_entirely_leaves_jobs_waiting_and_counted() -> None:
    """Every node down: nothing starts, nothing is lost from the count."""
    result = simulate({}, node_events=[[0, 0, "fail"]])
    assert not np.isfinite(result.start_s).any()
    assert result.summary()["unfinished"] == 2
