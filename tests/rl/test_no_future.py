"""An agent must not see more than it is to know of run times."""

from __future__ import annotations

import numpy as np
import pytest

import rltune
from rltune.nouns.jobs import JobTable
from rltune.rl.env import SchedulingEnv
from rltune.rl.rules import Rules, make_setup
from rltune.traces import Trace


@pytest.mark.parametrize("runtimes", ["predicted", "unknown"])
def test_true_run_times_do_not_show_in_an_observation(runtimes: str) -> None:
    """A policy "without run times" would read the true end of running jobs, and its row of the table would be unfair."""
    seen = []
    for run_s in (500.0, 5_000.0):
        columns = {
            "submit_s": [0, 1, 2],
            "duration_s": [run_s, 30, 40],
            "num_gpus": [2, 4, 1],
            "job_id": ["a", "b", "c"],
        }
        trace = Trace.of(JobTable.from_columns(columns), name="t", source="user")
        cluster = rltune.load_cluster({"pools": [{"nodes": 1, "gpus_per_node": 4}]})
        rules = Rules(runtimes=runtimes, backfill="skip", baseline="fifo", window=3, visible=4)
        env = SchedulingEnv(make_setup(trace, cluster, rules))
        env.reset(seed=0)
        # Start the first job; the next decision comes while it runs, and long before either run time is over.
        observation, *_ = env.step(0)
        assert env.vector.training.value.sim.clock[0, 0] == 2.0
        seen.append(observation)
    for name, first in seen[0].items():
        assert np.array_equal(first, seen[1][name]), name
