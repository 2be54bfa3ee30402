"""The training loop: epochs of PPO, validation by greedy play on batches of their own, the best policy kept."""

from __future__ import annotations

import copy
import csv
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ray.rllib.algorithms.algorithm import Algorithm

from rltune.rl.averaging import blend
from rltune.rl.mig.env import Episode, Setup, VectorBatchEnv
from rltune.rl.mig.network import BatchNetwork
from rltune.rl.mig.rllib import network_of
from rltune.rl.mig.rollout import play

START = "start"
"""What training keeps when no epoch was better: the network it began with, the prior or a given checkpoint."""


class Validator:
    """Greedy play of fixed batches: mean makespan / area bound."""

    def __init__(self, setup: Setup, episodes: Sequence[Episode]) -> None:
        self.env = VectorBatchEnv(setup, len(episodes))
        self.episodes = episodes

    def ratio(self, network: BatchNetwork) -> float:
        return float(play(self.env, network, self.episodes).mean())


@dataclass
class Outcome:
    """What training leaves: the network kept, what it is (an epoch or the start), its mean ratio, and the curve."""

    network: BatchNetwork
    kept: str
    ratio: float
    start_ratio: float
    rows: list[dict[str, Any]] = field(default_factory=list)

    def write_curve(self, path: Path) -> None:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(self.rows[0]))
            writer.writeheader()
            writer.writerows(self.rows)


def train_epochs(
    algorithm: Algorithm,
    validator: Validator,
    epochs: int,
    validate_every: int,
    on_epoch: Callable[[Outcome], None],
) -> Outcome:
    """Train and keep the average of the weights that validates best; what it began with where none is better.

    ``on_epoch`` is told, after each, how things stand.
    """
    average = copy.deepcopy(network_of(algorithm))
    start = validator.ratio(average)
    outcome = Outcome(copy.deepcopy(average), START, start, start)
    begun = time.perf_counter()
    for epoch in range(1, epochs + 1):
        result = algorithm.train()
        blend(average, network_of(algorithm))
        returned = result["env_runners"].get("episode_return_mean")
        row: dict[str, Any] = {
            "epoch": epoch,
            "steps": int(result["num_env_steps_sampled_lifetime"]),
            "train_ratio": 1.0 - float(returned) if returned is not None and np.isfinite(returned) else None,
            "entropy": float(result["learners"]["default_policy"]["entropy"]),
            "validation_ratio": None,
            "wall_s": round(time.perf_counter() - begun, 2),
        }
        if epoch % validate_every == 0 or epoch == epochs:
            row["validation_ratio"] = validator.ratio(average)
            if row["validation_ratio"] < outcome.ratio:
                outcome.network, outcome.kept = copy.deepcopy(average), f"epoch {epoch}"
                outcome.ratio = row["validation_ratio"]
        outcome.rows.append(row)
        on_epoch(outcome)
    return outcome
