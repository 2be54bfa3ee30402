"""CMA-ES (Hansen, 2016) over constant levers: what can be had without seeing anything. No Ray here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cma
import numpy as np
import numpy.typing as npt
import torch

from rltune.config.learning import SteeringConfig
from rltune.rl.rules import Setup
from rltune.rl.steering.env import VectorSteeringEnv
from rltune.rl.steering.levers import LEVERS
from rltune.rl.steering.network import SteeringNetwork

LEAST_ROUND_S = 86_400.0
"""Constants may be set once a day as well as once an hour: the same schedule in fewer steps."""


class ConstantSearch:
    """A learner for `rltune.rl.training.train_epochs`: an epoch is a generation, tried on the same stretches every time."""

    share = 1.0
    """Of the newest in what is validated: the mean of the search is an average already."""

    def __init__(self, setups: Sequence[Setup], config: SteeringConfig, options: Mapping[str, Any], seed: int) -> None:
        """``options``: of `rltune.config.learning.Cma`; each trial is the mean over all setups and windows."""
        self._windows = [windows_of(setup, int(options["windows"])) for setup in setups]
        self._envs = [
            VectorSteeringEnv(setup, min(int(options["envs"]), len(some)), round_s=LEAST_ROUND_S, autoreset=False)
            for setup, some in zip(setups, self._windows, strict=True)
        ]
        self._acting = ~np.isnan(np.array([env.usual for env in self._envs])).all(axis=0)
        self.network = SteeringNetwork(config)
        # A search in one dimension is none that this algorithm knows: a second is carried along without effect.
        settings = {"seed": seed + 1, "popsize": int(options["population"]), "bounds": [-1, 1], "verbose": -9}
        self._search = cma.CMAEvolutionStrategy(np.zeros(max(2, self._acting.sum())), float(options["sigma"]), settings)

    def epoch(self, steps: int) -> tuple[float, int, Mapping[str, float]]:
        """One generation: the mean return of its constants, rounds simulated in all, which were ``steps`` before, and the
        width of the search."""
        tried = self._search.ask()
        found = [self._trial(self._levers(x)) for x in tried]
        self._search.tell(tried, [-score for score, _ in found])
        self.network.set_constant(torch.from_numpy(self._levers(self._search.result.xfavorite)))
        told = {"learner/sigma": float(self._search.sigma)}
        return float(np.mean([score for score, _ in found])), steps + sum(rounds for _, rounds in found), told

    def _levers(self, x: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """(6,) all levers, those that have no effect at 0."""
        levers = np.zeros(len(LEVERS))
        levers[self._acting] = np.asarray(x)[: self._acting.sum()]
        return levers

    def _trial(self, levers: npt.NDArray[np.float64]) -> tuple[float, int]:
        """Mean return of constant levers over all windows, and rounds."""
        returns, rounds = [], 0
        for env, windows in zip(self._envs, self._windows, strict=True):
            for k in range(0, len(windows), env.num_envs):
                # The last lot is filled up from the front, and what is filled up is not counted.
                lot = np.resize(windows[k : k + env.num_envs], env.num_envs)
                total, steps = play_constant(env, levers, lot)
                returns += total[: len(windows[k : k + env.num_envs])].tolist()
                rounds += steps
        return float(np.mean(returns)), rounds


def windows_of(setup: Setup, n: int) -> npt.NDArray[np.int64]:
    """First jobs of ``n`` evenly spaced windows (fewer where there are fewer)."""
    return np.unique(np.linspace(setup.low, setup.high - 1, n).astype(np.int64))


def play_constant(
    env: VectorSteeringEnv, levers: npt.NDArray[np.float64], first_jobs: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], int]:
    """(n_envs,) returns of episodes with constant levers, and rounds of all."""
    env.reset(options={"first_job": first_jobs})
    actions = np.tile(levers, (env.num_envs, 1))
    total, playing, rounds = np.zeros(env.num_envs), np.ones(env.num_envs, bool), 0
    while playing.any():
        _, rewards, over, _, _ = env.step(actions)
        rounds += int(playing.sum())
        total += rewards
        playing &= ~over
    return total, rounds
