"""Greedy play of a network over chosen windows; the only way policies are validated and evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from rltune.nouns.errors import InputError
from rltune.rl.env import VectorSchedulingEnv
from rltune.rl.network import JobNetwork
from rltune.rl.rules import Setup
from rltune.simulator.result import Result

LARGEST_BATCH = 64


@dataclass(frozen=True)
class Played:
    """Finished episodes: their schedules, returns and decisions (n_episodes,); ``allocator``: the MILP's counters."""

    results: list[Result]
    returns: npt.NDArray[np.float64]
    decisions: npt.NDArray[np.int64]
    allocator: dict[str, Any]


def play(
    setup: Setup,
    network: JobNetwork,
    first_jobs: Sequence[int] | npt.NDArray[Any],
    joint: Any = None,
) -> Played:
    """Play the episodes that begin at ``first_jobs`` with the network's best legal action."""
    if network.config.visible != setup.rules.visible:
        raise InputError(
            f"the policy sees {network.config.visible} jobs, visible={setup.rules.visible} was asked; use its own"
        )
    parts = [
        _play_batch(setup, network, np.asarray(first_jobs[k : k + LARGEST_BATCH]), joint)
        for k in range(0, len(first_jobs), LARGEST_BATCH)
    ]
    return Played(
        results=[result for part in parts for result in part.results],
        returns=np.concatenate([part.returns for part in parts]),
        decisions=np.concatenate([part.decisions for part in parts]),
        allocator=joint.stats if joint is not None else {},
    )


def _play_batch(setup: Setup, network: JobNetwork, first_jobs: npt.NDArray[Any], joint: Any) -> Played:
    n = len(first_jobs)
    env = VectorSchedulingEnv(setup, n, joint=joint, autoreset=False)
    observation, _ = env.reset(options={"first_job": first_jobs})
    playing = np.ones(n, bool)
    returns, decisions = np.zeros(n), np.zeros(n, np.int64)
    actions = np.full(n, setup.rules.visible)
    while playing.any():
        with torch.inference_mode():
            logits, _ = network({name: torch.from_numpy(value[playing]) for name, value in observation.items()})
        actions[playing] = logits.argmax(1).numpy()
        observation, rewards, over, _, _ = env.step(actions)
        returns += rewards
        decisions += playing
        playing &= ~over
    return Played([env.result(i) for i in range(n)], returns, decisions, {})
