"""A guarded policy decides only while it does no worse than its baseline."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import rltune
from rltune.config.learning import SteeringConfig
from rltune.nouns.cluster import Cluster, Pool
from rltune.nouns.errors import InputError
from rltune.rl.network import JobNetwork, NetworkConfig
from rltune.rl.observe import JOB_FEATURES
from rltune.rl.policy_file import LearnedPolicy, SteeringPolicy
from rltune.rl.rules import Rules
from rltune.rl.steering.network import SteeringNetwork
from rltune.simulator.guard import Guard

CLUSTER = Cluster("c", (Pool("a", 3, 8), Pool("b", 4, 4)))
OFTEN = Guard(ahead_s=3600.0, every_s=300.0)


def trace(jobs: int = 250) -> rltune.Trace:
    """Busy enough that jobs queue."""
    return rltune.load_trace("synthetic", jobs=jobs, arrivals_per_h=260.0, seed=3)


class ByFeature(JobNetwork):
    """Picks the job with the largest (sign +1) or smallest value of a feature."""

    def __init__(self, config: NetworkConfig, feature: str, sign: float) -> None:
        super().__init__(config)
        self.at, self.sign = JOB_FEATURES.index(feature), sign

    def forward(self, obs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        jobs = 100.0 * self.sign * obs["jobs"][..., self.at]
        logits = torch.cat([jobs, torch.full_like(jobs[:, :1], -1000.0)], 1)
        return logits.masked_fill(obs["action_mask"] == 0, -1e9), torch.zeros(len(jobs))


def policy(rules: Rules, feature: str, sign: float) -> LearnedPolicy:
    return LearnedPolicy(ByFeature(NetworkConfig(visible=rules.visible), feature, sign).eval(), rules, {})


def wait(policy: Any, **options: Any) -> rltune.Result:
    return rltune.simulate(trace(), CLUSTER, policy=policy, **options)


@pytest.mark.parametrize("options", [{}, {"max_retries": 3}], ids=["lean", "full"])
def test_a_harmful_policy_comes_out_near_its_baseline(options: dict[str, Any]) -> None:
    """What was trained on another cluster, or is broken, would make every job wait for longer."""
    harmful = policy(Rules(baseline="sjf", backfill="skip", visible=32), "run_time", 1.0)
    free, guarded, plain = (wait(each, backfill="skip", **options) for each in (harmful, harmful.guarded(OFTEN), "sjf"))
    means = [float(result.wait_s.mean()) for result in (free, guarded, plain)]
    assert means[0] > 1.6 * means[2]
    assert means[1] < 1.15 * means[2]
    told = guarded.extra["guard"]
    assert told["decisions"]["baseline"] > told["decisions"]["learned"]
    assert told["rules"] == ["sjf", "f1"]
    assert guarded.summary()["guard"]["checks"] == told["checks"]


def test_a_good_policy_goes_on_deciding() -> None:
    """What was learned would be given away for the rule that it has left behind."""
    good = policy(Rules(baseline="fifo", backfill="skip", visible=64), "run_time", -1.0)
    free, guarded, plain = (wait(each, backfill="skip") for each in (good, good.guarded(OFTEN), "fifo"))
    told = guarded.extra["guard"]
    assert told["decisions"]["learned"] > 2 * told["decisions"]["baseline"]
    assert guarded.wait_s.mean() < 1.1 * free.wait_s.mean() < 0.7 * plain.wait_s.mean()
    assert told["mean_cost"]["learned"] < told["mean_cost"]["fifo"]


@pytest.mark.parametrize("backfill", ["skip", "easy"])
def test_an_untrained_policy_is_its_baseline_under_guard_too(backfill: str) -> None:
    """The guard would interfere where there is nothing to guard against."""
    untrained = LearnedPolicy(JobNetwork(NetworkConfig(visible=32)).eval(), Rules(baseline="saf", visible=32), {})
    guarded, plain = (
        wait(each, backfill=backfill) for each in (untrained.guarded(Guard(1800.0, 600.0, "fifo")), "saf")
    )
    assert np.array_equal(guarded.start_s, plain.start_s)
    told = guarded.extra["guard"]
    assert told["checks"] > 3
    assert told["mean_cost"]["learned"] == pytest.approx(told["mean_cost"]["saf"])
    assert (told["checks_for_learned"], told["switches"]) == (0, 0)


def test_levers_go_back_to_the_usual_ones() -> None:
    """A network in index form that sets prices out of reach would keep them set while the baseline decides."""
    rules = Rules(score="jct", baseline="las", backfill="skip", runtimes="unknown")
    network = SteeringNetwork(SteeringConfig(round_s=600.0))
    with torch.no_grad():
        for each in network.parameters():
            each.normal_(0.0, 3.0, generator=torch.Generator().manual_seed(5))
    steering = SteeringPolicy(network.eval(), rules, {})
    options: dict[str, Any] = {"backfill": "skip", "runtimes": "unknown", "resume_s": 60.0}
    free, guarded, plain = (wait(each, **options) for each in (steering, steering.guarded(OFTEN), "las"))
    jct = [float((r.end_s - r.jobs.submit_s).mean()) for r in (free, guarded, plain)]
    told = guarded.extra["guard"]
    assert told["rules"] == ["las"]
    assert told["switches"] >= 1
    assert jct[1] <= max(jct[0], jct[2]) * 1.05
    still = SteeringPolicy(SteeringNetwork(SteeringConfig()).eval(), rules, {})
    assert np.array_equal(wait(still.guarded(OFTEN), **options).end_s, plain.end_s)


def test_blocking_cannot_be_guarded() -> None:
    """It would stop in the middle, since it waits for the job it has picked."""
    one = LearnedPolicy(JobNetwork(NetworkConfig(visible=8)).eval(), Rules(backfill="blocking", visible=8), {})
    with pytest.raises(InputError, match="blocking"):
        wait(one.guarded(), backfill="blocking")
