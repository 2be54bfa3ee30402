"""A learned policy is a policy: `rltune.simulate` plays it with any allocator, backfilling and option."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rltune
from rltune.nouns.cluster import Cluster, Pool
from rltune.nouns.errors import InputError
from rltune.rl.network import JobNetwork, NetworkConfig
from rltune.rl.policy_file import LearnedPolicy, save_policy
from rltune.rl.rollout import play
from rltune.rl.rules import Rules, make_setup

CLUSTER = Cluster("c", (Pool("a", 3, 8), Pool("b", 4, 4)))


def trace(jobs: int = 120) -> rltune.Trace:
    """Busy enough that jobs queue."""
    return rltune.load_trace("synthetic", jobs=jobs, arrivals_per_h=400.0, seed=3)


def learned(rules: Rules, seed: int | None = None) -> LearnedPolicy:
    """Untrained, or with random weights."""
    network = JobNetwork(NetworkConfig(visible=rules.visible))
    if seed is not None:
        torch.manual_seed(seed)
        with torch.no_grad():
            for weights in network.parameters():
                weights.normal_(0.0, 0.3)
    return LearnedPolicy(network.eval(), rules, {})


@pytest.mark.parametrize("backfill", ["skip", "easy", "blocking"])
@pytest.mark.parametrize("options", [{}, {"max_retries": 3}], ids=["lean", "full"])
def test_an_untrained_policy_is_its_baseline(backfill: str, options: dict[str, Any]) -> None:
    """A policy that has learned nothing would look better or worse than the order it stands for."""
    if options and backfill == "blocking":
        return
    policy = learned(Rules(backfill=backfill, baseline="sjf", visible=16, window=10))
    found, plain = (
        rltune.simulate(trace(), CLUSTER, policy=p, backfill=backfill, oversized="drop", **options)
        for p in (policy, "sjf")
    )
    assert np.array_equal(found.start_s, plain.start_s, equal_nan=True)
    assert found.schedule.equals(plain.schedule)


@pytest.mark.parametrize("backfill", ["skip", "easy", "blocking"])
@pytest.mark.parametrize("seed", [0, 1])
def test_it_does_in_a_simulation_what_it_did_in_training(backfill: str, seed: int) -> None:
    """What was validated would not be what is simulated."""
    rules = Rules(backfill=backfill, baseline="sjf", visible=8, window=100)
    policy, whole = learned(rules, seed), trace(100)
    jobs = whole.jobs.take(slice(0, 100))
    played = play(make_setup(whole, CLUSTER, rules), policy.network, [0]).results[0]
    found = rltune.simulate(jobs, CLUSTER, policy=policy, backfill=backfill, oversized="drop")
    assert np.array_equal(found.start_s, played.start_s, equal_nan=True)


def test_it_runs_where_scheduling_is_hard() -> None:
    """Shares, unlike speeds, failures and CPUs would be closed to the learned half of the scheduler."""
    frame = trace().jobs.to_frame()
    frame.loc[(frame.index % 3 == 0) & (frame.num_gpus == 1), "gpu_milli"] = 300
    jobs = rltune.JobTable.from_columns(
        frame[["job_id", "submit_s", "duration_s", "num_gpus", "gpu_milli", "user", "vc"]].to_dict("list")
    )
    speed = np.tile([1.0, 0.5], (len(jobs), 1))
    policy = learned(Rules(backfill="easy", baseline="sjf", visible=16, window=10), 0)
    for allocator in ("best_fit", "fgd", "milp"):
        result = rltune.simulate(
            jobs,
            CLUSTER,
            policy=policy,
            backfill="easy",
            allocator=allocator,
            speed=speed,
            node_mtbf_s=2e4,
            oversized="drop",
        )
        assert result.finished.mean() > 0.9
        assert result.decisions and sum(d["started"] for d in result.decisions) == len(result.runs)


def test_it_is_named_by_its_file(tmp_path: Path) -> None:
    """A trained policy could not be simulated from a notebook or the command line."""
    policy = learned(Rules(backfill="skip", baseline="fifo", visible=8, window=10))
    save_policy(tmp_path / "policy.safetensors", policy)
    by_file = rltune.simulate(trace(60), CLUSTER, policy=str(tmp_path), backfill="skip", oversized="drop")
    assert np.array_equal(by_file.start_s, rltune.simulate(trace(60), CLUSTER, policy="fifo", oversized="drop").start_s)
    with pytest.raises(InputError, match=r"nothing\.safetensors"):
        rltune.simulate(trace(60), CLUSTER, policy=str(tmp_path / "nothing.safetensors"))
