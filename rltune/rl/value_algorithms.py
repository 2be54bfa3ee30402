"""DQN and discrete SAC in RLlib, behind the options of PPO: one function each builds the algorithm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.algorithms.sac import SACConfig
from ray.rllib.algorithms.sac.torch.sac_torch_learner import SACTorchLearner
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from rltune.rl.network import NetworkConfig
from rltune.rl.rllib import common
from rltune.rl.value_modules import DQNModule, SACModule

LOG_ALPHA = "log_alpha"
PRIORITIES = {"alpha": 0.6, "beta": 0.4}
"""Exponents of the TD error and of its correction (Schaul et al., 2016, proportional variant)."""


class MaskedSACLearner(SACTorchLearner):
    """The config's ``target_entropy`` is a share of the largest possible entropy, log(legal actions) of each state.

    RLlib's single number would be out of reach where few actions are legal. The loss
    of the temperature is linear in it, so the batch mean serves every state. Checkpoints
    keep the temperature, which RLlib's own leave out.
    """

    def compute_loss_for_module(self, *, module_id: str, config: Any, batch: Any, fwd_out: Any) -> torch.Tensor:
        legal = batch[Columns.OBS]["action_mask"].float().sum(-1)
        self.target_entropy[module_id] = config.target_entropy * legal.log().mean()
        return super().compute_loss_for_module(module_id=module_id, config=config, batch=batch, fwd_out=fwd_out)

    def get_state(self, *args: Any, **options: Any) -> dict[str, Any]:
        temperatures = {module_id: log_alpha.item() for module_id, log_alpha in self.curr_log_alpha.items()}
        return super().get_state(*args, **options) | {LOG_ALPHA: temperatures}

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        for module_id, log_alpha in state.get(LOG_ALPHA, {}).items():
            self.curr_log_alpha[module_id].data.fill_(log_alpha)


def build_dqn(vector_env: Any, network: NetworkConfig, options: Mapping[str, Any], batch: int, seed: int) -> Algorithm:
    """Dueling double DQN. ``options``: of `rltune.config.learning.Dqn`; ``batch``: environment steps an epoch."""
    config = _off_policy(DQNConfig(), DQNModule, float(options["unit"]), vector_env, network, options, batch, seed)
    config.training(
        lr=float(options["lr"]),
        grad_clip=float(options["grad_clip"]),
        epsilon=[(0, float(options["epsilon"])), (int(options["epsilon_steps"]), float(options["epsilon_end"]))],
    )
    return _build(config, seed)


def build_sac(vector_env: Any, network: NetworkConfig, options: Mapping[str, Any], batch: int, seed: int) -> Algorithm:
    """Discrete SAC. ``options``: of `rltune.config.learning.Sac`; ``batch``: environment steps an epoch."""
    alpha = float(options["initial_alpha"])
    config = _off_policy(SACConfig(), SACModule, alpha, vector_env, network, options, batch, seed)
    config.learners(learner_class=MaskedSACLearner)
    config.training(
        actor_lr=float(options["lr"]),
        critic_lr=float(options["critic_lr"]),
        alpha_lr=float(options["alpha_lr"]),
        initial_alpha=alpha,
        target_entropy=float(options["target_entropy"]),
    )
    return _build(config, seed)


def _off_policy(
    config: Any,
    module: Any,
    unit: float,
    vector_env: Any,
    network: NetworkConfig,
    options: Mapping[str, Any],
    batch: int,
    seed: int,
) -> Any:
    """What DQN and SAC share: environment, module, replay, target networks, length of an iteration."""
    prioritised, runners = bool(options["prioritised"]), int(options["env_runners"])
    config = common(config, vector_env, network, module, options, seed)
    spec = RLModuleSpec(module_class=module, model_config=network.as_dict() | {"unit": unit})
    return (
        config.rl_module(rl_module_spec=spec)
        .env_runners(rollout_fragment_length=max(int(options["fragment"]), int(options["n_step"])))
        .reporting(min_time_s_per_iteration=0, min_sample_timesteps_per_iteration=batch)
        .training(
            gamma=float(options["gamma"]),
            n_step=int(options["n_step"]),
            train_batch_size_per_learner=int(options["minibatch"]),
            # RLlib counts the local worker as one that samples, which it does only without remote ones.
            training_intensity=float(options["replays"]) * max(runners, 1) / (runners + 1),
            num_steps_sampled_before_learning_starts=int(options["learning_starts"]),
            target_network_update_freq=int(options["target_every"]),
            tau=float(options["tau"]),
            replay_buffer_config={
                "type": "PrioritizedEpisodeReplayBuffer" if prioritised else "EpisodeReplayBuffer",
                "capacity": int(options["buffer"]),
            }
            | (PRIORITIES if prioritised else {}),
        )
    )


def _build(config: Any, seed: int) -> Algorithm:
    algorithm: Algorithm = config.build_algo()
    # RLlib seeds everything but its replay buffers.
    algorithm.local_replay_buffer.rng = np.random.default_rng(seed)
    return algorithm
