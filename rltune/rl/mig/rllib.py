"""RLlib (new API stack) around the network and the environment of MIG batches: the one place here that imports Ray."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis.value_function_api import ValueFunctionAPI
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule

from rltune.rl.mig.network import BatchNetwork, NetworkConfig
from rltune.rl.rllib import common


class BatchModule(TorchRLModule, ValueFunctionAPI):
    """`BatchNetwork` as an actor-critic module; ``net`` is the network whose weights are shipped."""

    def setup(self) -> None:
        # RLlib adds settings of its own default networks to ours.
        ours = {name: self.model_config[name] for name in NetworkConfig.__dataclass_fields__}
        self.net = BatchNetwork(NetworkConfig(**ours))

    def _forward(self, batch: dict[str, Any], **_: Any) -> dict[str, Any]:
        logits, value = self.net(batch[Columns.OBS])
        return {Columns.ACTION_DIST_INPUTS: logits, Columns.EMBEDDINGS: value}

    def compute_values(self, batch: dict[str, Any], embeddings: torch.Tensor | None = None) -> torch.Tensor:
        """(batch,) values; ``embeddings`` are the values of a forward pass just made."""
        return self.net(batch[Columns.OBS])[1] if embeddings is None else embeddings


def build_ppo(
    vector_env: Any, network: NetworkConfig, options: Mapping[str, Any], batch: int, epochs: int, seed: int
) -> Algorithm:
    """PPO (Schulman et al., 2017). ``options``: ``algo`` of conf/mig_train.yaml; ``batch``: environment steps each of ``epochs``."""
    torch.manual_seed(seed)
    # `common` only asks an architecture for its fields.
    config = common(PPOConfig(), vector_env, cast(Any, network), BatchModule, options, seed)
    config = config.training(
        gamma=1.0,
        lambda_=float(options["lambda"]),
        lr=[[0, float(options["lr"])], [batch * epochs, float(options["lr_end"])]],
        clip_param=float(options["clip"]),
        entropy_coeff=float(options["entropy"]),
        vf_loss_coeff=float(options["value_loss"]),
        vf_clip_param=float("inf"),
        use_kl_loss=False,
        grad_clip=float(options["grad_clip"]),
        num_epochs=int(options["passes"]),
        minibatch_size=min(int(options["minibatch"]), batch),
        train_batch_size_per_learner=batch,
    )
    return config.build_algo()


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
