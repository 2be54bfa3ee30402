"""The running average of a network's weights, which training validates and keeps. No Ray here."""

from __future__ import annotations

import torch
from torch import nn

AVERAGING = 0.1
"""Share of the newest weights in the running average that is validated and kept.

Single epochs of PPO differ by noise; the average over about the last ten does not (Polyak and Juditsky, 1992).
"""


def blend(average: nn.Module, newest: nn.Module, share: float = AVERAGING) -> None:
    """Move the running average of the weights towards the newest, in place, by ``share`` of the way."""
    with torch.no_grad():
        for mean, weights in zip(average.parameters(), newest.parameters(), strict=True):
            mean.lerp_(weights, share)
