"""Greedy play of an agent in index form over chosen stretches, many side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from rltune.rl.rollout import Played
from rltune.rl.rules import Setup
from rltune.rl.steering.env import VectorSteeringEnv
from rltune.rl.steering.network import SteeringNetwork

LARGEST_BATCH = 8
"""Rows are whole simulations: each takes megabytes for a stretch of a month."""


def play_rounds(setup: Setup, network: SteeringNetwork, first_jobs: Sequence[int] | npt.NDArray[Any]) -> Played:
    """Play the episodes that begin at ``first_jobs`` with the network's greedy levers."""
    parts = [
        _play_batch(setup, network, np.asarray(first_jobs[k : k + LARGEST_BATCH]))
        for k in range(0, len(first_jobs), LARGEST_BATCH)
    ]
    return Played(
        results=[result for part in parts for result in part.results],
        returns=np.concatenate([part.returns for part in parts]),
        decisions=np.concatenate([part.decisions for part in parts]),
        allocator={},
    )


def _play_batch(setup: Setup, network: SteeringNetwork, first_jobs: npt.NDArray[Any]) -> Played:
    n = len(first_jobs)
    env = VectorSteeringEnv(setup, n, round_s=network.config.round_s, autoreset=False)
    observation, _ = env.reset(options={"first_job": first_jobs})
    returns, rounds, playing = np.zeros(n), np.zeros(n, np.int64), np.ones(n, bool)
    while playing.any():
        with torch.inference_mode():
            actions = network.means({"world": torch.from_numpy(observation["world"])}).numpy()
        observation, rewards, over, _, _ = env.step(actions)
        returns += rewards
        rounds += playing
        playing &= ~over
    return Played([env.result(i) for i in range(n)], returns, rounds, {})
