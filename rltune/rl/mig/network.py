"""The network: scores of assigning each task to each placement, of creating an instance at each, of waiting. No Ray here.

Exchanging two tasks, or two placements, exchanges their scores; any number of either will do, so one set of weights
serves all GPU types and batch sizes. Scores are corrections to a greedy rule, the *prior*, whose few coefficients are
weights too: an untrained network plays that rule, so learning starts from it instead of from noise.

The prior's worth of a task in a slot falls with the compute it wastes there against its best slot and with the time by
which it would end beyond the horizon (`rltune.rl.mig.kernels.horizon`), and rises with its duration, so that long
tasks start first. A new instance is worth what its best task is, less a fee; waiting has a fixed worth.
"""

from __future__ import annotations

import torch
from torch import nn

from rltune.config.learning import BatchNetworkConfig as NetworkConfig
from rltune.rl.mig.kernels import GPU_FEATURES, MOST_DURATION, MOST_WASTE, N_SLOTS, PLACE_FEATURES, TASK_FEATURES

ILLEGAL = -1e9
VISIBLE = TASK_FEATURES.index("visible")
IN_THE_WAY, MEMORY_SHARE = PLACE_FEATURES.index("in_the_way"), PLACE_FEATURES.index("memory_share")
PRIOR = {
    "waste": 7.3, "duration": 10.3, "overrun": 42.0, "create_fee": 1.95, "create_size": 1.65, "destroy_fee": 2.1, "wait": -4.9,
}  # fmt: skip
"""Coefficients of the prior, in logits: the best of some 700 tried on 80 generated batches, then halved.

Halving leaves the greedy rule as it is; of 16 drawn plans the best is best at about that temperature.
"""


class BatchNetwork(nn.Module):
    """Masked logits (batch, V * P + P + 1) of assignments, creations and waiting; and a state value (batch,)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        hidden, pair = config.hidden, config.pair
        self.prior = nn.ParameterDict({name: torch.tensor(value) for name, value in PRIOR.items()})
        self.task_in = nn.Linear(len(TASK_FEATURES), hidden)
        self.gpu_in = nn.Linear(len(GPU_FEATURES), hidden, bias=False)
        self.place_in = nn.Linear(len(PLACE_FEATURES), hidden)
        self.gpu_to_place = nn.Linear(len(GPU_FEATURES), hidden, bias=False)
        self.context = nn.Sequential(nn.Linear(2 * hidden + len(GPU_FEATURES), hidden), nn.ReLU())
        # A layer over [task, slot, context] is a sum of three, each computed as often as it differs.
        self.pair_task = nn.Linear(hidden, pair)
        self.pair_slot = nn.Linear(3, pair, bias=False)
        self.pair_context = nn.Linear(hidden, pair, bias=False)
        self.place_hidden = nn.Sequential(nn.Linear(2 * hidden + 2 * pair, hidden), nn.ReLU())
        self.assign = nn.Linear(hidden, pair)
        self.create = nn.Linear(hidden, 1)
        self.wait = nn.Linear(hidden, 1)
        value_out = nn.Linear(hidden, 1)
        self.value = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), value_out)
        for last in (self.assign, self.create, self.wait, value_out):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, obs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """(masked logits, value)."""
        tasks, places, gpu = (obs[name].float() for name in ("tasks", "places", "gpu"))
        batch = len(tasks)
        visible = tasks[..., VISIBLE : VISIBLE + 1]
        slot = places[..., :N_SLOTS].transpose(1, 2)
        by_slot = tasks[..., : 3 * N_SLOTS].unflatten(-1, (3, N_SLOTS)).transpose(2, 3)
        assign, create = self._prior(by_slot, places, slot)

        u = torch.relu(self.task_in(tasks) + self.gpu_in(gpu).unsqueeze(1)) * visible
        w = torch.relu(self.place_in(places) + self.gpu_to_place(gpu).unsqueeze(1))
        count = visible.sum(1).clamp(min=1.0)
        # Placements that no visible task can use count for nothing: profiles without times change no score.
        useful = (by_slot[..., 0].amax(1, keepdim=True) @ slot).transpose(1, 2)
        around = (w * useful).sum(1) / useful.sum(1).clamp(min=1.0)
        context = self.context(torch.cat([u.sum(1) / count, around, gpu], -1))

        # (batch, V, 6, pair): every task in every slot it fits; its scores are products with units of the placement.
        of_task = self.pair_task(u) + self.pair_context(context).unsqueeze(1)
        x = torch.relu(of_task.unsqueeze(2) + self.pair_slot(by_slot)) * by_slot[..., :1]
        pooled = torch.cat([x.sum(1) / count.unsqueeze(1), x.amax(1)], -1)
        y = self.place_hidden(torch.cat([w, context.unsqueeze(1).expand_as(w), slot.transpose(1, 2) @ pooled], -1))
        of_place = (places[..., :N_SLOTS, None] * self.assign(y).unsqueeze(2)).flatten(2)
        assign = assign + x.flatten(2) @ of_place.transpose(1, 2)
        create = create + self.create(y).squeeze(-1)

        logits = torch.cat([assign.reshape(batch, -1), create, self.wait(context) + self.prior["wait"]], -1)
        return logits.masked_fill(obs["action_mask"] == 0, ILLEGAL), self.value(context).squeeze(-1)

    def _prior(
        self, by_slot: torch.Tensor, places: torch.Tensor, slot: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (batch, V, P) of assignments and (batch, P) of creations by the greedy rule."""
        fits, duration, waste = by_slot.unbind(-1)
        duration = MOST_DURATION * duration
        worth = (
            self.prior["duration"] * duration
            - self.prior["waste"] * MOST_WASTE * waste
            - self.prior["overrun"] * (duration - 1.0).clamp(min=0.0)
        )
        best = worth.masked_fill(fits == 0, -20.0).amax(1)
        fee = (
            self.prior["create_fee"]
            + self.prior["create_size"] * places[..., MEMORY_SHARE]
            + self.prior["destroy_fee"] * places[..., IN_THE_WAY]
        )
        return worth @ slot, (best.unsqueeze(1) @ slot).squeeze(1) - fee
