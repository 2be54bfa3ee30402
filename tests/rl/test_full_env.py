"""The training environment where scheduling is hard: shares, slices, CPU, unlike speeds, failures, quotas."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import rltune
from rltune.nouns.cluster import Cluster, Pool
from rltune.nouns.errors import InputError
from rltune.nouns.jobs import JobTable
from rltune.rl.env import SchedulingEnv, VectorSchedulingEnv
from rltune.rl.rules import Rules, Setup, make_setup

CLUSTER = Cluster(
    "mixed",
    (
        Pool("a", 3, 4, "A100-40GB", cpus=16, memory_gb=64, mig=True),
        Pool("b", 4, 4, "V100", cpus=12, memory_gb=48),
    ),
)
FAULTS = {"node_mtbf_s": 3000.0, "node_repair_s": 60.0, "gpu_mtbf_s": 20_000.0, "checkpoint_s": 20.0, "resume_s": 2.0}


def mixed(n: int = 300, seed: int = 0) -> rltune.Trace:
    """Shares, gangs, jobs of CPU alone and MIG slices, busy enough to queue."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(["whole", "gang", "share", "cpu", "mig"], n, p=[0.35, 0.15, 0.3, 0.1, 0.1])
    jobs = JobTable.from_columns(
        {
            "submit_s": np.sort(rng.integers(0, 6 * n, n)).tolist(),
            "duration_s": rng.integers(10, 200, n).tolist(),
            "num_gpus": [int(rng.choice([2, 4, 8])) if k == "gang" else 1 for k in kind],
            "gpu_milli": [{"share": int(rng.choice([250, 300, 700])), "cpu": 0}.get(k, 1000) for k in kind],
            "mig": ["3g.20gb" if k == "mig" else None for k in kind],
            "cpus": rng.choice([0, 1, 2, 4], n).tolist(),
            "memory_gb": rng.choice([0, 8, 16], n).tolist(),
        }
    )
    return replace(rltune.load_trace("synthetic", jobs=10), jobs=jobs)


def setup_of(backfill: str = "easy", score: str = "wait", **more: Any) -> Setup:
    runtimes = more.pop("runtimes", "exact")
    rules = Rules(
        backfill=backfill, baseline="fifo", score=score, allocator=more.pop("allocator", "best_fit"), visible=8, window=40,
        runtimes=runtimes, reward=more.pop("reward", "score"), options=more,
    )  # fmt: skip
    return make_setup(mixed(), CLUSTER, rules)


def test_gymnasium_accepts_it() -> None:
    """Other learners than ours could not use it."""
    check_env(SchedulingEnv(setup_of(**FAULTS)), skip_render_check=True)


@pytest.mark.parametrize("backfill", ["skip", "easy"])
@pytest.mark.parametrize("score", ["wait", "jct", "bsld"])
@pytest.mark.parametrize("options", [{}, FAULTS, {"allocator": "fgd", "quotas": {}}], ids=["calm", "faults", "fgd"])
def test_the_return_is_the_score(backfill: str, score: str, options: dict[str, Any]) -> None:
    """A learner would be paid for something else than what is reported."""
    env = VectorSchedulingEnv(setup_of(backfill, score, **options), 2, autoreset=False)
    rng = np.random.default_rng(1)
    observation, _ = env.reset(options={"first_job": [0, 57]})
    total, over = np.zeros(2), np.zeros(2, bool)
    while not over.all():
        mask = observation["action_mask"]
        assert all(env.observation_space[name].contains(value) for name, value in observation.items())
        observation, rewards, ended, _, _ = env.step((rng.random(mask.shape) * mask).argmax(1))
        total += rewards
        over |= ended
    for i in range(2):
        result = env.result(i)
        assert result.finished.all()
        name = {"wait": "wait_s", "jct": "jct_s", "bsld": "bsld"}[score]
        assert total[i] == pytest.approx(-result.scores()[name].mean(), rel=1e-9)


def test_a_restored_environment_goes_on_alike() -> None:
    """A training that was cut off would go on with other failures, or without the runs that had ended."""
    setup = setup_of("skip", **FAULTS)
    first, second = (VectorSchedulingEnv(setup, 3, seed=k) for k in (1, 2))
    second.reset()
    seen, _ = first.reset(seed=3)
    for _ in range(50):
        seen, *_ = first.step(seen["action_mask"].argmax(1))
    state = copy.deepcopy(first.state())
    # Another process may have room for fewer ended runs.
    logged = state["rows"]["sim.detail.log.job"].shape[1]
    assert 0 < logged < first.training.value.sim.detail.log.job.shape[1]
    second.restore(state)
    for _ in range(100):
        actions = seen["action_mask"].argmax(1)
        one, two = first.step(actions), second.step(actions)
        seen = one[0]
        assert all(np.array_equal(seen[name], two[0][name]) for name in seen)
        assert np.array_equal(one[1], two[1]) and np.array_equal(one[2], two[2])
    for k in range(3):
        assert np.array_equal(first.result(k).start_s, second.result(k).start_s, equal_nan=True)


def test_unknown_run_times_stay_unknown() -> None:
    """The agent would see what the scheduler cannot know."""
    env = VectorSchedulingEnv(setup_of("skip", runtimes="unknown"), 1)
    observation, _ = env.reset(seed=0)
    for _ in range(30):
        assert not observation["jobs"][:, :, [1, 2, 4, 10]].any()
        observation, *_ = env.step(observation["action_mask"].argmax(1))


def test_what_training_does_not_have_is_told() -> None:
    """An option would be ignored, or fail with a trace of ours."""
    with pytest.raises(InputError, match="allocator=lexicographic knows whole GPUs only"):
        make_setup(mixed(), CLUSTER, Rules(allocator="lexicographic", backfill="skip", baseline="fifo", window=40))
    with pytest.raises(InputError, match="unknown"):
        Rules(options={"node_mtbf": 3})
