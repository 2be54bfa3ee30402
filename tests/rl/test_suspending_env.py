"""Training on policies that suspend: the agent corrects their order, and its picks displace running jobs as theirs do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from picking_cases import Picks
from test_full_env import CLUSTER, FAULTS, mixed

import rltune
from rltune.allocators.milp import MilpAllocator
from rltune.nouns.cluster import Cluster, Pool
from rltune.nouns.errors import InputError
from rltune.nouns.metrics import SCORE_METRIC
from rltune.rl.env import SchedulingEnv, VectorSchedulingEnv
from rltune.rl.joint import JointPlacement
from rltune.rl.rules import Rules, make_setup

COSTS = {"resume_s": 5.0, "suspend_s": 1.0, "migrate_s": 2.0, "quantum_s": 30.0}
BASELINES = ("las", "las_levels", "gittins", "srtf", "srsf", "priority", "round_robin", "lottery", "wfq", "fair_user")


def busy(n: int = 300) -> rltune.Trace:
    """`mixed` with priorities, and jobs of unlike length."""
    trace = mixed(n)
    rng = np.random.default_rng(5)
    frame = trace.jobs.to_frame()
    frame["priority"] = rng.integers(0, 4, n)
    frame["user"] = [f"u{k}" for k in rng.integers(0, 3, n)]
    frame["duration_s"] = np.round(rng.lognormal(4.0, 1.3, n) + 1)
    jobs = rltune.JobTable.from_columns({name: column.tolist() for name, column in frame.items()})
    return replace(trace, jobs=jobs)


def env_of(baseline: str, n: int = 2, **more: Any) -> VectorSchedulingEnv:
    options = COSTS | more.pop("options", {})
    rules = Rules(**({"backfill": "skip", "score": "jct", "visible": 8, "window": 60} | more), baseline=baseline, options=options)  # fmt: skip
    joint = JointPlacement(MilpAllocator(time_limit_s=600)) if rules.allocator == "milp" else None
    return VectorSchedulingEnv(make_setup(busy(), CLUSTER, rules), n, joint=joint, autoreset=False)


def play(env: VectorSchedulingEnv, choose: Any) -> Any:
    """Returns of an episode in each row, from jobs 0, 57, ...; ``choose``: masks -> actions."""
    observation, _ = env.reset(options={"first_job": 57 * np.arange(env.num_envs)})
    total, over = np.zeros(env.num_envs), np.zeros(env.num_envs, bool)
    while not over.all():
        assert all(env.observation_space[name].contains(value) for name, value in observation.items())
        observation, rewards, ended, _, _ = env.step(choose(observation["action_mask"]))
        total += rewards
        over |= ended
    return total


def randomly(seed: int) -> Any:
    """Any legal action; waiting, which there always is, not oftener than every second job."""
    rng = np.random.default_rng(seed)
    return lambda mask: (rng.random(mask.shape) * mask).argmax(1)


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("score", ["wait", "bsld", "jct", "utilization"])
def test_the_return_is_the_score(baseline: str, score: str) -> None:
    """A learner would be paid for something else than what is reported."""
    env = env_of(baseline, score=score)
    total = play(env, randomly(3))
    for i in range(2):
        result = env.result(i)
        assert result.finished.all()
        named = -result.scores()[SCORE_METRIC[score]].mean() if score != "utilization" else result.utilization()
        assert total[i] == pytest.approx(named, rel=1e-9)


@pytest.mark.parametrize("baseline", [*BASELINES, "sjf", "wfp3"])
def test_the_first_legal_job_is_the_baselines(baseline: str) -> None:
    """Training would not begin where the baseline is, and could never be said to better it."""
    env = env_of(baseline, options={"preemptive": True} if baseline == "sjf" else {})
    play(env, lambda mask: mask.argmax(1))
    for i in range(2):
        jobs = busy().jobs.take(slice(57 * i, 57 * i + 60))
        options = dict(env.setup.rules.options)
        plain = rltune.simulate(jobs, CLUSTER, policy=baseline, backfill="skip", **options)
        assert env.result(i).attempts.equals(plain.attempts)


def test_jobs_are_displaced_and_resumed() -> None:
    """The agent could only fill what is free, and never learn whom to interrupt."""
    env = env_of("las", options={"displace_factor": 1.0})
    play(env, randomly(1))
    runs = env.result(0).runs
    assert (runs.outcome == 1).sum() > 10
    assert np.bincount(runs.job).max() > 1


def test_a_log_of_many_runs_grows() -> None:
    """Long jobs in short quanta would end training with a fault, or lose runs."""
    env = env_of("round_robin", 3, options={"quantum_s": 11.0, "max_retries": 0})
    before = env.training.value.sim.detail.log.job.shape[1]
    total = play(env, lambda mask: mask.argmax(1))
    assert env.training.value.sim.detail.log.job.shape[1] > before
    for i in range(3):
        jobs = busy().jobs.take(slice(57 * i, 57 * i + 60))
        plain = rltune.simulate(jobs, CLUSTER, policy="round_robin", backfill="skip", **env.setup.rules.options)
        assert env.result(i).attempts.equals(plain.attempts)
        assert total[i] == pytest.approx(-plain.scores()["jct_s"].mean())


def test_a_warm_cluster_and_relative_rewards() -> None:
    """The month protocol could not be trained where jobs are suspended."""
    env = env_of("las", warmup=40, window=40, reward="relative", options={"quantum_s": 11.0, "max_retries": 0})
    total = play(env, lambda mask: mask.argmax(1))
    assert np.isfinite(total).all() and (total < 0).all()


@pytest.mark.parametrize("allocator", ["best_fit", "fgd", "milp"])
def test_gymnasium_accepts_it(allocator: str) -> None:
    """Other learners than ours could not use it."""
    rules = Rules(allocator=allocator, backfill="skip", baseline="srsf", visible=8, window=40, options=COSTS | FAULTS)
    joint = JointPlacement(MilpAllocator(time_limit_s=600)) if allocator == "milp" else None
    check_env(SchedulingEnv(make_setup(busy(), CLUSTER, rules), joint), skip_render_check=True)


@pytest.mark.parametrize("baseline", ["las", "srsf"])
def test_started_jobs_are_placed_by_the_milp(baseline: str) -> None:
    """With suspension, the MILP would place jobs where others run, or be paid for what did not happen."""
    env = env_of(baseline, allocator="milp", options=FAULTS)
    total = play(env, randomly(2))
    for i in range(2):
        assert total[i] == pytest.approx(-env.result(i).scores()["jct_s"].mean(), rel=1e-9)


def test_what_does_not_go_together_is_refused() -> None:
    """A user would get a trace of ours, or a policy that holds GPUs back for a job it could make room for."""
    with pytest.raises(InputError, match="use backfill=skip"):
        make_setup(busy(), CLUSTER, Rules(baseline="las", backfill="easy", window=40))
    with pytest.raises(InputError, match="baseline=srtf needs"):
        Rules(baseline="srtf", backfill="skip", runtimes="unknown")
    with pytest.raises(InputError, match="unknown"):
        Rules(baseline="lass", backfill="skip")
    with pytest.raises(InputError, match="known are blocking, skip, easy"):
        rltune.simulate(busy(), CLUSTER, policy=Picks("fifo"), backfill="strict")


@pytest.mark.parametrize("baseline", ["las", "gittins", "sjf"])
def test_jobs_take_ways_by_price_as_in_a_simulation(baseline: str) -> None:
    """A policy would be trained in another market than the one it is used in."""
    unlike = Cluster("unlike", (Pool("v", 2, 8, "V100"), Pool("p", 4, 4, "P100")))
    options = COSTS | {"way_rule": "market", "speed": {"name": "published"}, "mig_reconfiguration": False}
    frame = busy().jobs.to_frame()
    frame["num_gpus"] = np.minimum(frame["num_gpus"], 8)
    columns = ("job_id", "submit_s", "duration_s", "num_gpus", "user")
    trace = replace(busy(), jobs=rltune.JobTable.from_columns({name: frame[name].tolist() for name in columns}))
    rules = Rules(backfill="skip", score="jct", visible=8, window=60, baseline=baseline, options=options)
    env = VectorSchedulingEnv(make_setup(trace, unlike, rules), 2, autoreset=False)
    total = play(env, lambda mask: mask.argmax(1))
    for i in range(2):
        jobs = trace.jobs.take(slice(57 * i, 57 * i + 60))
        plain = rltune.simulate(jobs, unlike, policy=baseline, backfill="skip", **options)
        assert len(set(plain.runs.pool.tolist())) == 2
        assert env.result(i).attempts.equals(plain.attempts)
        assert total[i] == pytest.approx(-plain.scores()["jct_s"].mean())
