"""The training loop: epochs of PPO, validation by greedy play on batches of their own, the best policy kept."""

from __future__ import annotations

import copy
import csv
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ray.rllib.algorithms.algorithm import Algorithm

from rltune.rl.averaging import blend
from rltune.rl.mig.env import Episode, Setup, VectorBatchEnv
from rltune.rl.mig.network import BatchNetwork, NetworkConfig
from rltune.rl.mig.rllib import network_of
from rltune.rl.mig.rollout import play
from rltune.rl.rllib import sampled_epoch
from rltune.rl.weights_file import fill

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
    """What training leaves: the network kept, what it is (an epoch or the start), its mean ratio, and the curve.

    ``average``: the running average of the weights, with which training goes on.
    """

    network: BatchNetwork
    kept: str
    ratio: float
    start_ratio: float
    average: BatchNetwork
    rows: list[dict[str, Any]] = field(default_factory=list)

    def tree(self) -> dict[str, Any]:
        """All of it as plain values and arrays; for `of_tree`."""
        plain = {name: getattr(self, name) for name in ("kept", "ratio", "start_ratio")}
        weights = {"network": self.network.state_dict(), "average": self.average.state_dict()}
        return plain | weights | {"curve": self.rows}

    @classmethod
    def of_tree(cls, tree: Mapping[str, Any], config: NetworkConfig) -> Outcome:
        """What `tree` was made of. Raises KeyError, TypeError, ValueError or RuntimeError for what does not fit."""
        kept, average = BatchNetwork(config), BatchNetwork(config)
        fill(kept, tree["network"])
        fill(average, tree["average"])
        return cls(
            kept, tree["kept"], tree["ratio"], tree["start_ratio"], average, [dict(row) for row in tree["curve"]]
        )

    def write_curve(self, path: Path) -> None:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(self.rows[0]))
            writer.writeheader()
            writer.writerows(self.rows)


def start_of(algorithm: Algorithm, validator: Validator) -> Outcome:
    """How things stand before training: the network that it begins with."""
    network = copy.deepcopy(network_of(algorithm))
    start = validator.ratio(network)
    return Outcome(network, START, start, start, copy.deepcopy(network))


def train_epochs(
    algorithm: Algorithm,
    validator: Validator,
    last: int,
    validate_every: int,
    on_epoch: Callable[[Outcome], None],
    outcome: Outcome,
) -> None:
    """Train on to epoch ``last`` and keep the average of the weights that validates best.

    ``on_epoch`` is told, after each, how things stand. Raises RunError where nothing can be sampled any more.
    """
    rows, average = outcome.rows, outcome.average
    steps = int(rows[-1]["steps"]) if rows else 0
    begun = time.perf_counter() - (float(rows[-1]["wall_s"]) if rows else 0.0)
    for epoch in range(len(rows) + 1, last + 1):
        result, steps = sampled_epoch(algorithm, steps)
        blend(average, network_of(algorithm))
        returned = result["env_runners"].get("episode_return_mean")
        row: dict[str, Any] = {
            "epoch": epoch,
            "steps": steps,
            "train_ratio": 1.0 - float(returned) if returned is not None and np.isfinite(returned) else None,
            "entropy": float(result["learners"]["default_policy"]["entropy"]),
            "validation_ratio": None,
            "wall_s": round(time.perf_counter() - begun, 2),
        }
        if epoch % validate_every == 0 or epoch == last:
            row["validation_ratio"] = validator.ratio(average)
            if row["validation_ratio"] < outcome.ratio:
                outcome.network, outcome.kept = copy.deepcopy(average), f"epoch {epoch}"
                outcome.ratio = row["validation_ratio"]
        rows.append(row)
        on_epoch(outcome)
