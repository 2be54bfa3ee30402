"""Shockwave's 120 jobs, static, against what its own simulator gives, and exclusive run times against its recorded ones."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from rltune.nouns.errors import InputError
from rltune.rounds.gavel import Published, simulate_published
from rltune.rounds.jobs import RoundJobs, rates_of
from rltune.rounds.policies import MaxMin, MaxSum
from rltune.rounds.shockwave import OVERRUN, RESET_S, TERMS, WORKERS, exclusive_s, read_shockwave_jobs, scores
from rltune.traces.heterogeneity import load_throughput


@pytest.fixture(scope="module")
def jobs(real_traces: Path) -> RoundJobs:
    path = real_traces / "shockwave_120" / "jobs.csv"
    if not path.is_file():
        pytest.skip("shockwave_120/ is not among the traces")
    return read_shockwave_jobs(path, rates_of(load_throughput("shockwave", folder=real_traces), ("V100",)))


def test_exclusive_run_times_of_static_jobs_are_the_recorded_ones(jobs: RoundJobs, golden: Path) -> None:
    """Finish-time fairness would have another denominator than the published one."""
    path = golden / "gavel" / "golden_shockwave.json"
    if not path.is_file():
        pytest.skip("golden/gavel/golden_shockwave.json is not here")
    recorded = json.loads(path.read_text())["_jobs"]
    static = [int(job) for job, row in recorded.items() if row["mode"] == "static"]
    expected = [recorded[str(job)]["exclusive_adapted_s"] for job in static]
    assert len(static) == 4
    assert exclusive_s(jobs)[static] == pytest.approx(expected)


@pytest.mark.skipif(importlib.util.find_spec("ecos") is None, reason="needs ecos")
@pytest.mark.parametrize(
    ("policy", "jct", "makespan", "worst", "unfair"),
    [(MaxMin(WORKERS, "nothing", "ecos"), 11_723, 34_578, 2.58, 0.25), (MaxSum(WORKERS), 10_416, 34_051, 5.62, 0.267)],
    ids=["max_min_fairness", "max_sum_throughput_perf"],
)
def test_its_own_policies_have_its_own_scores(
    jobs: RoundJobs, policy: MaxMin | MaxSum, jct: int, makespan: int, worst: float, unfair: float
) -> None:
    """Our rows would be compared with those of another experiment (figures: its simulator with every mode set to static)."""
    alone = exclusive_s(jobs)
    how = Published(policy.allocate, each_gpu=False, reset_s=RESET_S)
    run = simulate_published(jobs, WORKERS, how, (0, len(jobs)), terms=TERMS, limit_s=np.floor(OVERRUN * alone))
    found = scores(jobs, run.jct_s, alone)
    assert round(found["mean_jct_s"]) == jct
    assert round(found["makespan_s"]) == makespan
    assert round(found["worst_ftf"], 2) == worst
    assert round(found["unfair_fraction"], 3) == unfair


def test_a_job_without_speed_is_refused(tmp_path: Path) -> None:
    """A model that is not in the table would be simulated with a wrong speed."""
    path = tmp_path / "jobs.csv"
    path.write_text("submit_s,model,num_gpus,total_steps\n0,GPT,1,10\n")
    with pytest.raises(InputError, match="no speed is known of"):
        read_shockwave_jobs(path, {})
