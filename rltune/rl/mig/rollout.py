"""Play of a network: the best legal action, or drawn ones. No Ray here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from rltune.rl.mig.env import Episode, VectorBatchEnv
from rltune.rl.mig.network import BatchNetwork


def play(
    env: VectorBatchEnv,
    network: BatchNetwork,
    episodes: Sequence[Episode],
    rng: np.random.Generator | None = None,
    greedy: Sequence[int] | None = None,
) -> npt.NDArray[np.float64]:
    """(n_envs,) makespan / area bound of the episodes, one in every row of ``env``, which has no source of its own.

    Without ``rng`` every action is the best legal one; with it, actions are drawn, except in the rows ``greedy``.
    """
    observation, _ = env.reset(options={"episodes": episodes})
    playing = np.ones(len(episodes), bool)
    actions = np.zeros(len(episodes), np.int64)
    drawn = np.zeros(len(episodes), bool)
    if rng is not None:
        drawn[:] = True
        drawn[list(greedy or ())] = False
    total = np.zeros(len(episodes))
    while playing.any():
        with torch.inference_mode():
            logits, _ = network({name: torch.from_numpy(value[playing]) for name, value in observation.items()})
        scores = logits.numpy()
        if rng is not None:
            # The largest of scores with Gumbel noise is a draw from their softmax.
            scores = scores + rng.gumbel(size=scores.shape) * drawn[playing, None]
        actions[playing] = scores.argmax(1)
        observation, rewards, over, _, _ = env.step(actions)
        total += rewards
        playing &= ~over
    return 1.0 - total
