"""DQN and discrete SAC: legal actions only, reproducible, learning; their networks ship like PPO's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rltune
from rltune.config.choices import node
from rltune.rl.env import VectorSchedulingEnv
from rltune.rl.network import JobNetwork, NetworkConfig
from rltune.rl.rllib import start_ray
from rltune.rl.rollout import play
from rltune.rl.rules import Rules, Setup, make_setup
from rltune.rl.training import load_weights
from rltune.rl.value_algorithms import build_dqn, build_sac
from rltune.rl.value_modules import action_values, masked_policy, soft_action_values
from tests.some import some

BUILDERS = {"dqn": build_dqn, "sac": build_sac}
VISIBLE = 8
SMALL = {"envs": 4, "minibatch": 32, "replays": 2, "learning_starts": 32, "buffer": 400, "epsilon_steps": 100}


class WatchedEnv(VectorSchedulingEnv):
    """Counts the illegal actions of its whole life."""

    def __init__(self, setup: Setup, num_envs: int) -> None:
        super().__init__(setup, num_envs, seed=1)
        self.illegal = 0
        self.steps = 0

    def step(self, actions: Any) -> Any:
        rows = np.arange(self.num_envs)
        self.illegal += int(((self._mask[rows, actions] == 0) & ~self._over).sum())
        self.steps += 1
        return super().step(actions)


def crowded(visible: int = VISIBLE, window: int = 32, nodes: int = 4, reward: str = "relative") -> Setup:
    """A small synthetic trace with queues; first come, first served is the baseline."""
    rules = Rules(visible=visible, window=window, backfill="skip", baseline="fifo", reward=reward)
    return make_setup(rltune.load_trace("synthetic", jobs=600), rltune.load_cluster("uniform", nodes=nodes), rules)


def options(name: str) -> dict[str, Any]:
    """The shipped options of an algorithm."""
    return node("algo", name)


def observation(setup: Setup, n: int = 16) -> dict[str, torch.Tensor]:
    """Observations of ``n`` episodes some decisions in, with several legal actions."""
    env = VectorSchedulingEnv(setup, n, seed=3)
    seen, _ = env.reset()
    for _ in range(12):
        seen, *_ = env.step(seen["action_mask"].argmax(1))
    return {name: torch.from_numpy(value) for name, value in seen.items()}


def shaken(seed: int = 0) -> JobNetwork:
    """A network with an opinion: the zero heads of a new one are drawn at random."""
    torch.manual_seed(seed)
    network = JobNetwork(NetworkConfig(visible=VISIBLE, hidden=16))
    for last in (network.score, network.wait, network.value[-1]):
        torch.nn.init.normal_(last.weight)
    return network


def train(name: str, iterations: int, **changes: Any) -> Any:
    """An algorithm after some tiny iterations."""
    start_ray(1)
    setup = crowded()
    torch.manual_seed(7)
    algorithm = BUILDERS[name](
        lambda context: WatchedEnv(setup, int(context.get("num_envs", 1))),
        NetworkConfig(visible=VISIBLE, hidden=16),
        options(name) | SMALL | changes,
        batch=64,
        seed=7,
    )
    for _ in range(iterations):
        algorithm.train()
    return algorithm


def weights(algorithm: Any) -> dict[str, np.ndarray]:
    return {name: tensor.detach().numpy().copy() for name, tensor in algorithm.get_module().net.state_dict().items()}


def test_greedy_action_is_the_networks_own() -> None:
    """Q of a DQN orders the actions of a state as the shipped logits do, and its maximum is the value head."""
    obs, network = observation(crowded()), shaken()
    logits, value = network(obs)
    q = action_values(network, obs, unit=0.01)
    assert torch.equal(q.argmax(1), logits.argmax(1))
    torch.testing.assert_close(q.amax(1), value)


def test_illegal_actions_lie_far_below_in_dqn() -> None:
    """Q of an illegal action is finite and never a maximum."""
    obs = observation(crowded())
    q = action_values(shaken(), obs, unit=0.01)
    legal = obs["action_mask"] == 1
    assert torch.isfinite(q).all()
    assert q[~legal].max() < q[legal].min() - 1e5


def test_soft_values_bootstrap_from_the_value_head() -> None:
    """The soft value of SAC's Q under its own soft policy is the value head: E[Q - unit * log p] = v."""
    obs, network, unit = observation(crowded()), shaken(), 0.02
    probs, log_probs = masked_policy(network, obs)
    q = soft_action_values(network, obs, unit)
    torch.testing.assert_close((probs * (q - unit * log_probs)).sum(1), network(obs)[1])


def test_illegal_actions_have_no_probability() -> None:
    """Illegal actions have probability exactly 0, and their logarithms leave no infinity in the entropy."""
    obs = observation(crowded())
    probs, log_probs = masked_policy(shaken(), obs)
    assert (probs[obs["action_mask"] == 0] == 0).all()
    torch.testing.assert_close(probs.sum(1), torch.ones(len(probs)))
    assert torch.isfinite(log_probs).all()


@pytest.mark.ray
@pytest.mark.parametrize("prioritised", some([False, True], True))
@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_trains_on_legal_actions_only(name: str, prioritised: bool) -> None:
    """Eight iterations, past the buffer's capacity, change the weights; no explored action is illegal."""
    algorithm = train(name, 0, prioritised=prioritised)
    before = weights(algorithm)
    for _ in range(8):
        result = algorithm.train()
    after, module, env = weights(algorithm), algorithm.get_module(), algorithm.env_runner.env.unwrapped
    algorithm.stop()
    assert result["num_env_steps_sampled_lifetime"] >= 8 * 64
    assert env.steps >= 8 * 64 // 4
    assert env.illegal == 0
    assert any(not np.array_equal(before[key], after[key]) for key in before)
    assert all(np.isfinite(value).all() for value in after.values())
    obs = observation(crowded())
    greedy = module.net(obs)[0].argmax(1, keepdim=True)
    assert (obs["action_mask"].gather(1, greedy) == 1).all()


@pytest.mark.ray
@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_untrained_policy_is_the_baseline_order(name: str) -> None:
    """Before the first update the greedy policy is that of the order prior alone."""
    algorithm = train(name, 0)
    obs = observation(crowded())
    greedy = algorithm.get_module().net(obs)[0].argmax(1)
    algorithm.stop()
    assert torch.equal(greedy, obs["action_mask"].float().argmax(1))


@pytest.mark.ray
@pytest.mark.parametrize(("name", "prioritised"), [("dqn", True), ("sac", False)])
@pytest.mark.thorough
def test_same_seed_same_weights(name: str, prioritised: bool) -> None:
    """Two runs with one seed end with equal weights, replay included."""
    ends = []
    for _ in range(2):
        algorithm = train(name, 2, prioritised=prioritised)
        ends.append(weights(algorithm))
        algorithm.stop()
    for key, value in ends[0].items():
        np.testing.assert_array_equal(value, ends[1][key])


@pytest.mark.ray
@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_targets_follow_the_online_networks(name: str) -> None:
    """With tau=1 the target networks equal the online ones after every update, and are not trained themselves."""
    algorithm = train(name, 2, tau=1.0)
    pairs = algorithm.learner_group._learner.module["default_policy"].get_target_network_pairs()
    algorithm.stop()
    for online, target in pairs:
        for ours, theirs in zip(online.parameters(), target.parameters(), strict=True):
            assert torch.equal(ours, theirs)
            assert not theirs.requires_grad


@pytest.mark.ray
@pytest.mark.thorough
def test_checkpoint_keeps_the_temperature(tmp_path: Path) -> None:
    """A restored SAC has the networks and the learnt temperature of the saved one."""
    algorithm, restored = train("sac", 2, alpha_lr=0.1), train("sac", 0)
    algorithm.save_to_path(str(tmp_path))
    restored.restore_from_path(str(tmp_path))
    ours, theirs = (one.learner_group._learner for one in (algorithm, restored))
    for name, tensor in ours.module["default_policy"].state_dict().items():
        assert torch.equal(tensor, theirs.module["default_policy"].state_dict()[name])
    assert ours.curr_log_alpha["default_policy"].item() == theirs.curr_log_alpha["default_policy"].item()
    assert ours.curr_log_alpha["default_policy"].item() != pytest.approx(np.log(options("sac")["initial_alpha"]))
    algorithm.stop()
    restored.stop()


@pytest.mark.ray
@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_fine_tuning_starts_from_given_weights(name: str) -> None:
    """Given weights reach the sampling network and survive the first iteration's synchronisation before any update."""
    algorithm, given = train(name, 0, learning_starts=1000), shaken()
    load_weights(algorithm, given)
    algorithm.train()
    for key, value in weights(algorithm).items():
        np.testing.assert_array_equal(value, given.state_dict()[key].numpy())
    learner = algorithm.learner_group._learner.module["default_policy"].net
    assert torch.equal(learner.score.weight, given.score.weight)
    algorithm.stop()


def random_legal_wait(setup: Setup, starts: np.ndarray) -> float:
    """Mean wait (s) over the windows at ``starts`` when every legal action is as likely."""
    env, rng = VectorSchedulingEnv(setup, len(starts)), np.random.default_rng(0)
    seen, _ = env.reset(options={"first_job": starts})
    done, returns = np.zeros(len(starts), bool), np.zeros(len(starts))
    while not done.all():
        seen, rewards, over, *_ = env.step([rng.choice(np.flatnonzero(row)) for row in seen["action_mask"]])
        returns += np.where(done, 0.0, rewards)
        done |= over
    return -float(returns.mean())


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_learns_more_than_chance(name: str) -> None:
    """Without the order prior, 10,000 steps cut the mean wait of random legal play by a quarter."""
    start_ray(1)
    setup, judged = (crowded(16, 64, 2, reward) for reward in ("relative", "score"))
    network = NetworkConfig(visible=16, hidden=32, prior=0.0, wait_prior=-3.0)
    torch.manual_seed(0)
    algorithm = BUILDERS[name](
        lambda context: VectorSchedulingEnv(setup, int(context.get("num_envs", 1)), seed=1),
        network,
        options(name) | {"epsilon_steps": 10_000},
        batch=1024,
        seed=0,
    )
    starts = np.linspace(0, judged.high - 1, 64).astype(int)
    chance = random_legal_wait(judged, starts)
    waits = []
    for _ in range(10):
        algorithm.train()
        waits.append(-float(play(judged, algorithm.get_module().net, starts).returns.mean()))
    algorithm.stop()
    assert min(waits[5:]) < 0.75 * chance
