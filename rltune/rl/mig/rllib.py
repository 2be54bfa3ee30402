"""RLlib (new API stack) around the network and the environment of MIG batches: the one place here that imports Ray."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from ray.rllib.algorithms.algorithm import Algorithm

from rltune.rl.mig.network import BatchNetwork, NetworkConfig
from rltune.rl.rllib import ActorCritic, build_ppo


class BatchModule(ActorCritic):
    """`BatchNetwork` as an actor-critic module."""

    network, architecture = BatchNetwork, NetworkConfig


def build_batch_ppo(
    vector_env: Any, network: NetworkConfig, options: Mapping[str, Any], batch: int, epochs: int, seed: int
) -> Algorithm:
    """PPO for batches. ``options``: of `rltune.config.learning.BatchPpo`; ``batch``: environment steps each of ``epochs``."""
    torch.manual_seed(seed)
    # An episode is one batch and its score the makespan: nothing is discounted, and the rate falls to the end.
    whole = {"gamma": 1.0, "lr_steps": batch * epochs}
    return build_ppo(vector_env, network, whole | dict(options), batch, seed, BatchModule)


def network_of(algorithm: Algorithm) -> BatchNetwork:
    """The network that an algorithm trains."""
    net = algorithm.get_module().net
    assert isinstance(net, BatchNetwork)
    return net


def load_weights(algorithm: Algorithm, network: BatchNetwork) -> None:
    """Start an algorithm from given weights of the same architecture."""
    module = algorithm.get_module()
    module.net.load_state_dict(network.state_dict())
    algorithm.learner_group.set_state({"learner": {"rl_module": {"default_policy": module.get_state()}}})
    algorithm.env_runner_group.sync_weights(from_worker_or_learner_group=algorithm.learner_group)
