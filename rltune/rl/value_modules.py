"""`JobNetwork` as the RLModules of DQN and discrete SAC; illegal actions are never explored or averaged over.

Both read action values from the masked logits L of a network and its value head v,
dueling (Wang et al., 2016): Q(s, a) = v(s) + unit * (L(s, a) - max of L(s, .) over legal actions).
``unit`` is what one logit is worth in units of the return. Q and L order the
actions of a state alike, so the greedy policy of a DQN is that of its network as
shipped, and the untrained one is the baseline order (`rltune.rl.network`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from ray.rllib.algorithms.dqn.default_dqn_rl_module import QF_NEXT_PREDS, QF_PREDS, QF_TARGET_NEXT_PREDS
from ray.rllib.algorithms.sac.sac_learner import (
    ACTION_LOG_PROBS,
    ACTION_LOG_PROBS_NEXT,
    ACTION_PROBS,
    ACTION_PROBS_NEXT,
    QF_TARGET_NEXT,
    QF_TWIN_PREDS,
)
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.utils import make_target_network
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI, QNetAPI, TargetNetworkAPI
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from ray.rllib.utils.schedules.scheduler import Scheduler
from torch import nn

from rltune.rl.network import JobNetwork, NetworkConfig


def make_network(model_config: Mapping[str, Any]) -> JobNetwork:
    """The network of RLlib's ``model_config``, which holds settings of the algorithm besides ours."""
    return JobNetwork(NetworkConfig(**{name: model_config[name] for name in NetworkConfig.__dataclass_fields__}))


def action_values(network: JobNetwork, obs: dict[str, torch.Tensor], unit: float) -> torch.Tensor:
    """Q (batch, V + 1) in units of the return, its maximum the state's value; illegal actions below -1e6."""
    logits, value = network(obs)
    return value.unsqueeze(1) + unit * (logits - logits.amax(1, keepdim=True))


def soft_action_values(network: JobNetwork, obs: dict[str, torch.Tensor], unit: float) -> torch.Tensor:
    """Q (batch, V + 1) in units of the return, unit * logsumexp(Q / unit) the state's value; 0 at illegal actions.

    The policy gives those no probability; a finite number only has to keep sums finite and averages readable.
    """
    logits, value = network(obs)
    values = value.unsqueeze(1) + unit * torch.log_softmax(logits, 1)
    return values.masked_fill(obs["action_mask"] == 0, 0.0)


def masked_policy(network: JobNetwork, obs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """(probabilities, their logarithms), each (batch, V + 1); both exactly 0 at illegal actions."""
    log_probs = torch.log_softmax(network(obs)[0], 1)
    return log_probs.exp(), log_probs.masked_fill(obs["action_mask"] == 0, 0.0)


class DQNModule(TorchRLModule, InferenceOnlyAPI, TargetNetworkAPI, QNetAPI):
    """Dueling double DQN (van Hasselt et al., 2016); ``net`` is the network whose weights are shipped."""

    def setup(self) -> None:
        self.net = make_network(self.model_config)
        self.unit = float(self.model_config["unit"])
        self.epsilon = Scheduler(fixed_value_or_schedule=self.model_config["epsilon"], framework="torch")

    def get_non_inference_attributes(self) -> list[str]:
        return ["target"]

    def make_target_networks(self) -> None:
        self.target = make_target_network(self.net)

    def get_target_network_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        return [(self.net, self.target)]

    def compute_q_values(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        return {QF_PREDS: action_values(self.net, batch[Columns.OBS], self.unit)}

    def forward_target(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        return {QF_PREDS: action_values(self.target, batch[Columns.OBS], self.unit)}

    def _forward_inference(self, batch: dict[str, Any], **_: Any) -> dict[str, torch.Tensor]:
        return {Columns.ACTIONS: self.net(batch[Columns.OBS])[0].argmax(1)}

    def _forward_exploration(self, batch: dict[str, Any], t: int = 0, **_: Any) -> dict[str, torch.Tensor]:
        """Epsilon-greedy; random actions are uniform over the legal ones. ``t``: environment steps so far."""
        greedy = self._forward_inference(batch)[Columns.ACTIONS]
        anything = torch.multinomial(batch[Columns.OBS]["action_mask"].float(), 1).squeeze(1)
        self.epsilon.update(t)
        explore = torch.rand(greedy.shape, device=greedy.device) < self.epsilon.get_current_value()
        return {Columns.ACTIONS: torch.where(explore, anything, greedy)}

    def _forward_train(self, batch: dict[str, Any], **_: Any) -> dict[str, torch.Tensor]:
        following = {Columns.OBS: batch[Columns.NEXT_OBS]}
        # The learner takes only the argmax and the target of the next states: neither needs a gradient.
        with torch.no_grad():
            best = self.compute_q_values(following)[QF_PREDS]
            target = self.forward_target(following)[QF_PREDS]
        return self.compute_q_values(batch) | {QF_NEXT_PREDS: best, QF_TARGET_NEXT_PREDS: target}


class SACModule(TorchRLModule, InferenceOnlyAPI, TargetNetworkAPI, QNetAPI):
    """Discrete SAC (Christodoulou, 2019): actor ``net``, whose weights are shipped, and two critics with targets.

    The critics' ``unit`` is the initial temperature: the untrained actor, softmax(L), is then the soft policy of the
    untrained critics, softmax(Q / temperature), and learning starts from the baseline order without unlearning it.
    """

    # The learner optimises encoder and head together; a JobNetwork is both.
    pi_encoder = qf_encoder = qf_twin_encoder = nn.Identity()

    def setup(self) -> None:
        self.net = make_network(self.model_config)
        self.unit = float(self.model_config["unit"])
        if not self.inference_only:
            self.qf = make_network(self.model_config)
            self.qf_twin = make_network(self.model_config)

    @property
    def pi(self) -> JobNetwork:
        """The actor by the name that RLlib's learner looks for."""
        return self.net

    def get_non_inference_attributes(self) -> list[str]:
        return ["qf", "qf_twin", "target_qf", "target_qf_twin"]

    def make_target_networks(self) -> None:
        self.target_qf = make_target_network(self.qf)
        self.target_qf_twin = make_target_network(self.qf_twin)

    def get_target_network_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        return [(self.qf, self.target_qf), (self.qf_twin, self.target_qf_twin)]

    def compute_q_values(self, batch: dict[str, Any]) -> torch.Tensor:
        """(batch, V + 1): the lesser of the critics' values."""
        return torch.min(
            *(soft_action_values(critic, batch[Columns.OBS], self.unit) for critic in (self.qf, self.qf_twin))
        )

    def forward_target(self, batch: dict[str, Any]) -> torch.Tensor:
        """(batch, V + 1): the lesser of the target critics' values."""
        targets = (self.target_qf, self.target_qf_twin)
        return torch.min(*(soft_action_values(critic, batch[Columns.OBS], self.unit) for critic in targets))

    def _forward(self, batch: dict[str, Any], **_: Any) -> dict[str, torch.Tensor]:
        return {Columns.ACTION_DIST_INPUTS: self.net(batch[Columns.OBS])[0]}

    def _forward_train(self, batch: dict[str, Any], **_: Any) -> dict[str, torch.Tensor]:
        obs, following = batch[Columns.OBS], batch[Columns.NEXT_OBS]
        with torch.no_grad():
            next_probs, next_log_probs = masked_policy(self.net, following)
            next_q = self.forward_target({Columns.OBS: following})
        probs, log_probs = masked_policy(self.net, obs)
        return {
            QF_PREDS: soft_action_values(self.qf, obs, self.unit),
            QF_TWIN_PREDS: soft_action_values(self.qf_twin, obs, self.unit),
            QF_TARGET_NEXT: next_q,
            ACTION_PROBS: probs,
            ACTION_LOG_PROBS: log_probs,
            ACTION_PROBS_NEXT: next_probs,
            ACTION_LOG_PROBS_NEXT: next_log_probs,
        }
