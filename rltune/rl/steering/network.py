"""The network of the index form: from the world to a normal distribution of each lever, and a value. No Ray here.

Its last layer begins at zero: the mean of every lever is 0, and the greedy policy *is* the baseline, schedule for schedule.
Actor and critic share nothing, so that the scale of rewards, hundredths, matters to neither.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from rltune.config.learning import SteeringConfig
from rltune.rl.steering.levers import LEVERS
from rltune.rl.steering.observe import FEATURES


class SteeringNetwork(nn.Module):
    """Means and logarithms of deviations of the levers (batch, 12), and values (batch,)."""

    def __init__(self, config: SteeringConfig) -> None:
        super().__init__()
        self.config = config
        self.actor = _layers(config.hidden, len(LEVERS))
        self.critic = _layers(config.hidden, 1)
        self.log_spread = nn.Parameter(torch.full((len(LEVERS),), math.log(config.spread)))

    def forward(self, obs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """(means and log deviations (batch, 12), value (batch,))."""
        # Features are in [0, 1]: around 0 they train better.
        world = 2.0 * obs["world"].float() - 1.0
        mean = self.actor(world)
        return torch.cat([mean, self.log_spread.expand_as(mean)], -1), self.critic(world).squeeze(-1)

    def means(self, obs: dict[str, torch.Tensor]) -> torch.Tensor:
        """(batch, 6) the greedy actions."""
        return self(obs)[0][:, : len(LEVERS)]  # type: ignore[no-any-return]

    def set_constant(self, levers: torch.Tensor) -> None:
        """Make the greedy action ``levers`` (6,), whatever is seen."""
        last = self.actor[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.weight.zero_()
            last.bias.copy_(levers)


def _layers(hidden: int, out: int) -> nn.Sequential:
    last = nn.Linear(hidden, out)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(len(FEATURES), hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), last)
