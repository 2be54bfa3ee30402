"""The network: one shared MLP scores every visible job, in the light of all jobs and of the cluster. No Ray here.

Exchanging two rows of ``jobs`` exchanges their scores (the features say where a
job stands in the baseline order; the network knows no positions of its own).
Scores are corrections to the baseline order: with all corrections zero the
greedy policy *is* the baseline order with backfilling, schedule for schedule and
however long the queue, so learning starts from the strongest static rule of its
run times instead of from noise.
"""

from __future__ import annotations

import torch
from torch import nn

from rltune.config.learning import NetworkConfig
from rltune.rl.observe import CLUSTER_FEATURES, JOB_FEATURES

ORDER_POSITION = JOB_FEATURES.index("order_position")
GPUS = JOB_FEATURES.index("gpus")
ILLEGAL = -1e9


class JobNetwork(nn.Module):
    """Scores (batch, V + 1), wait last, masked by legality; and a state value (batch,)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        hidden, cluster = config.hidden, len(CLUSTER_FEATURES)
        # A layer over [job, cluster] is a sum of two: the cluster's half is computed once, not once a job.
        self.job_in = nn.Linear(len(JOB_FEATURES), hidden)
        self.cluster_in = nn.Linear(cluster, hidden, bias=False)
        self.job_hidden = nn.Linear(hidden, hidden)
        if config.attention:
            self.mix = nn.MultiheadAttention(hidden, config.heads, batch_first=True)
            self.norm = nn.LayerNorm(hidden)
        self.context = nn.Sequential(nn.Linear(2 * hidden + cluster, hidden), nn.ReLU())
        self.job_score = nn.Linear(hidden, hidden)
        self.context_score = nn.Linear(hidden, hidden, bias=False)
        self.score = nn.Linear(hidden, 1)
        self.wait = nn.Linear(hidden, 1)
        value_out = nn.Linear(hidden, 1)
        self.value = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), value_out)
        for last in (self.score, self.wait, value_out):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, obs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """(masked logits (batch, V + 1), value (batch,))."""
        scores, context = self.scores(obs)
        logits = scores + self.prior(obs)
        return logits.masked_fill(obs["action_mask"] == 0, ILLEGAL), self.value(context).squeeze(-1)

    def scores(self, obs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """(corrections (batch, V + 1) without mask and prior, context (batch, hidden))."""
        jobs, cluster = obs["jobs"].float(), obs["cluster"].float()
        present = jobs[..., GPUS] > 0
        x = torch.relu(self.job_in(jobs) + self.cluster_in(cluster).unsqueeze(1))
        x = torch.relu(self.job_hidden(x))
        if self.config.attention:
            # Padding rows are keys nobody attends to; with no job at all the first row stands in (NaN otherwise).
            hide = ~present
            hide = torch.cat([hide[:, :1] & present.any(1, keepdim=True), hide[:, 1:]], 1)
            x = self.norm(x + self.mix(x, x, x, key_padding_mask=hide, need_weights=False)[0])
        weight = present.unsqueeze(-1).float()
        mean = (x * weight).sum(1) / weight.sum(1).clamp(min=1.0)
        most = x.masked_fill(~present.unsqueeze(-1), -1e4).amax(1).clamp(min=0.0)
        context = self.context(torch.cat([mean, most, cluster], -1))
        job_scores = self.score(torch.relu(self.job_score(x) + self.context_score(context).unsqueeze(1)))
        return torch.cat([job_scores.squeeze(-1), self.wait(context)], -1), context

    def prior(self, obs: dict[str, torch.Tensor]) -> torch.Tensor:
        """(batch, V + 1) logits of the baseline order: each legal job ``prior`` behind the legal one before."""
        mask = obs["action_mask"].float()
        order = torch.cumsum(mask[:, :-1], 1) - 1.0
        jobs = -self.config.prior * order.clamp(min=0.0)
        return torch.cat([jobs, torch.full_like(mask[:, -1:], self.config.wait_prior)], 1)
