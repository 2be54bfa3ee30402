"""Trainings that are killed, interrupted, or left by their workers: gone on with, exactly, or told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import rltune
from rltune.config.choices import node
from rltune.nouns.errors import RunError
from rltune.rl import rllib
from rltune.rl.algorithm_state import restore, state_of
from rltune.rl.env import VectorSchedulingEnv
from rltune.rl.network import NetworkConfig
from rltune.rl.rllib import sampled_epoch, start_ray
from rltune.rl.rules import Rules, make_setup
from rltune.rl.state_file import pack, read_state, write_state
from rltune.rl.training import build

TRIALS = Path(__file__).with_name("training_trials.py")


def trials(kills: int) -> dict[str, Any]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(TRIALS), str(kills)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.ray
@pytest.mark.parametrize("kills", [4, pytest.param(40, marks=pytest.mark.slow)])
@pytest.mark.thorough
def test_killed_trainings_come_to_the_same_end(kills: int) -> None:
    """A training killed at any instant would lose more than an interval, or become another one when it is gone on with."""
    found = trials(kills)
    assert found["kills"] >= kills and found["trainings"] >= 1
    assert found["faults"] == []
    assert (found["not_resumed"], found["lost"], found["other_curve"]) == (0, 0, 0)


class Flaky:
    """An algorithm whose workers are away for so many epochs."""

    def __init__(self, empty: int) -> None:
        self.empty, self.calls = empty, 0

    def train(self) -> dict[str, Any]:
        self.calls += 1
        return {"num_env_steps_sampled_lifetime": 100 if self.calls <= self.empty else 228, "env_runners": {}}


def test_an_epoch_that_sampled_nothing_is_no_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """1,862 of 2,000 epochs could sample nothing, and the run end as a success that learned nothing."""
    monkeypatch.setattr(rllib, "AGAIN_S", 0.0)
    flaky: Any = Flaky(5)
    assert sampled_epoch(flaky, 100)[1] == 228
    assert flaky.calls == 6
    with pytest.raises(RunError, match="no environment steps have been sampled for 0 s") as told:
        sampled_epoch(Flaky(10**9), 100, patience_s=0.0)  # type: ignore[arg-type]
    assert told.value.status == 1


def algorithm(name: str, seed: int, **more: Any) -> Any:
    rules = Rules(visible=8, window=32, baseline="fifo", reward="relative")
    setup = make_setup(rltune.load_trace("synthetic", jobs=600), rltune.load_cluster("uniform", nodes=4), rules)
    options = node("algo", name) | {"envs": 4, "minibatch": 64} | more

    def env(context: dict[str, Any]) -> VectorSchedulingEnv:
        return VectorSchedulingEnv(setup, int(context.get("num_envs", 1)))

    return build(options, env, NetworkConfig(visible=8), 128, seed)


@pytest.mark.ray
@pytest.mark.slow
def test_a_dead_worker_comes_back() -> None:
    """A worker killed for memory would end the learning silently."""
    start_ray(2)
    trained = algorithm("ppo", 0, env_runners=1)
    _, steps = sampled_epoch(trained, 0)
    (process,) = trained.env_runner_group.foreach_env_runner(lambda runner: os.getpid(), local_env_runner=False)
    os.kill(process, signal.SIGKILL)
    for _ in range(3):
        had = steps
        _, steps = sampled_epoch(trained, had)
        assert steps > had
    (other,) = trained.env_runner_group.foreach_env_runner(lambda runner: os.getpid(), local_env_runner=False)
    trained.stop()
    assert other != process


def without(tree: Any, name: str) -> Any:
    return {key: part for key, part in tree.items() if key != name} if isinstance(tree, dict) else tree


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(("name", "more"), [("ppo", {"env_runners": 1}), ("dqn", {}), ("sac", {})], ids=str)
def test_what_other_learners_go_on_from(name: str, more: dict[str, Any], tmp_path: Path) -> None:
    """A resumed DQN, SAC or training with workers would begin with other weights, counters or episodes than it had."""
    start_ray(2)
    more = more if name == "ppo" else {"learning_starts": 32}
    first = algorithm(name, 0, **more)
    for _ in range(2):
        first.train()
    write_state(tmp_path / "x", pack(state_of(first)))
    first.stop()
    second = algorithm(name, 5, **more)
    # What is restored becomes the algorithm's own.
    assert restore(second, read_state(tmp_path / "x"))
    saved = read_state(tmp_path / "x")
    again = pack(state_of(second))
    write_state(tmp_path / "y", again)
    came = read_state(tmp_path / "y")
    result = second.train()
    second.stop()
    for part in ("learner", "runners", "random", "iteration"):
        # What a learner tells of its last epoch only goes to the screen, and is emptied when it is read.
        one, two = (pack(without(found[part], "metrics_logger")) for found in (came, saved))
        assert one.text == two.text
        assert all(one.arrays[key].tobytes() == two.arrays[key].tobytes() for key in one.arrays)
    assert result["num_env_steps_sampled_lifetime"] > 2 * 128
