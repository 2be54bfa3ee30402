"""The Gymnasium environment of the index form: a step is a round of simulated time. No Ray here, no PyTorch.

Observation (Dict): ``world`` (61,) in [0, 1], see `rltune.rl.steering.observe`. Action (6,) in [-1, 1], clipped:
`rltune.rl.steering.levers`. A round begins at the first instant at which jobs wait once the last one is ``round_s`` old: where
nobody waits there is nothing to set. An episode is a stretch of jobs on a cluster that the baseline has warmed up; its
rewards add up to the score of those that had not started by then (``reward="relative"``: to the gain on the baseline, in
units of its cost).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from rltune.core.state import ARRIVED, NOW
from rltune.rl.env import OneEpisode
from rltune.rl.rows import Training
from rltune.rl.rules import Setup
from rltune.rl.steering.kernels import (
    FULL,
    OVER,
    advance_row,
    begin_row,
    delay_of,
    total_of,
)
from rltune.rl.steering.levers import LEVERS, usual_of, values_of
from rltune.rl.steering.observe import FEATURES, observe_row
from rltune.simulator.full import result_of
from rltune.simulator.result import Result

ROUND_S = 3600.0
"""Default length of a round, simulated seconds."""
WIND_DOWN_S = 7 * 86_400.0
"""After the last arrival the levers are set no more than so long: an episode ends whatever an agent does."""
STARTS_APART = 4
"""Episodes begin at multiples of this share of a window, so that the baseline need not be run anew for each."""
POINTS_A_ROUND = 4
"""Times at which the baseline's delay is looked at; between them it is drawn as a line."""
FLOOR_WINDOWS = 12
OWN = ("_world", "_over", "_first_job", "_totals", "_scale", "_idle")
"""Arrays of the environment itself that outlast a step."""


class Followed(NamedTuple):
    """The baseline in one episode: its delay by time, (n_points,) each, and the mean cost of a job."""

    times: npt.NDArray[np.float64]
    delays: npt.NDArray[np.float64]
    cost: float


def steering_spaces() -> tuple[gym.spaces.Dict, gym.spaces.Box]:
    """Observation and action space of one episode."""
    world = gym.spaces.Box(0, 1, (len(FEATURES),), np.float32)
    return gym.spaces.Dict({"world": world}), gym.spaces.Box(-1, 1, (len(LEVERS),), np.float32)


class VectorSteeringEnv(VectorEnv):
    """``num_envs`` episodes in step; a finished one begins anew at the following step (Gymnasium's NEXT_STEP)."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012  (Gymnasium's own pattern)

    def __init__(
        self, setup: Setup, num_envs: int = 8, seed: int | None = None, round_s: float = ROUND_S, autoreset: bool = True
    ) -> None:
        """``autoreset=False``: a finished episode stays as it is until the next ``reset`` (its actions are ignored).

        Raises InputError where there is nothing to set.
        """
        self.setup, self.num_envs, self.round_s, self.autoreset = setup, num_envs, float(round_s), autoreset
        if not autoreset:
            self.metadata = self.metadata | {"autoreset_mode": AutoresetMode.DISABLED}
        self.usual = usual_of(setup.table)
        self.single_observation_space, self.single_action_space = steering_spaces()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.training = Training(setup.table, num_envs, setup.length, 1)
        self._world = np.zeros((num_envs, len(FEATURES)), np.float32)
        self._over = np.zeros(num_envs, bool)
        self._first_job = np.zeros(num_envs, np.int64)
        self._totals = np.zeros(num_envs)
        self._scale = np.ones(num_envs)
        self._rng = np.random.default_rng(seed)
        self._idle = np.zeros(num_envs, bool)
        self._baselines: dict[int, Followed] = {}
        self._paired = setup.rules.reward == "relative"
        self._step_of_starts = max(1, setup.rules.window // STARTS_APART)
        self._floor: float | None = None

    def _mean_cost(self) -> float:
        """Mean cost of the baseline over evenly spaced windows: keeps windows without any wait from dominating."""
        possible = self._starts()
        some = possible[np.unique(np.linspace(0, len(possible) - 1, FLOOR_WINDOWS).astype(np.int64))]
        return float(np.mean([self._followed(int(first_job), 0).cost for first_job in some])) + 1e-3

    def _starts(self) -> npt.NDArray[np.int64]:
        """First jobs of the episodes that are drawn from."""
        return np.arange(self.setup.low, self.setup.high, self._step_of_starts)

    def _followed(self, first_job: int, i: int) -> Followed:
        """The baseline in the episode that begins there; where it is not known yet, row i, which is to begin anew, finds out."""
        if first_job not in self._baselines:
            self._load(i, first_job)
            sim, code, found, opens = self.training.row(i).sim, self.setup.rules.score_code, [], False
            while True:
                found.append((float(sim.clock[NOW]), float(delay_of(self.training.batch, i, code))))
                until = sim.clock[NOW] + self.round_s / POINTS_A_ROUND
                if self._run_on(i, until, self.usual if opens else None) == OVER:
                    break
                sim, opens = self.training.row(i).sim, True
            found.append((float(sim.clock[NOW]), float(delay_of(self.training.batch, i, code))))
            cost = abs(float(total_of(self.training.batch, i, code)))
            times, delays = np.array(found).T
            self._baselines[first_job] = Followed(times, delays, cost)
        return self._baselines[first_job]

    def _load(self, i: int, first_job: int) -> None:
        while not begin_row(self.training.batch, i, first_job, self.setup.rules.warmup, self.usual):
            self.training.grow()

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin all episodes; ``options={"first_job": (n_envs,)}`` chooses their windows."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        chosen = None if options is None else options.get("first_job")
        for i in range(self.num_envs):
            self._begin(i, None if chosen is None else int(chosen[i]))
        return self._observation(), {}

    def _begin(self, i: int, first_job: int | None) -> None:
        if first_job is None:
            first_job = int(self._rng.choice(self._starts()))
        elif not 0 <= first_job <= len(self.setup.table.jobs.submit) - self.setup.length:
            raise ValueError(
                f"first_job={first_job}: 0 to {len(self.setup.table.jobs.submit) - self.setup.length} are possible"
            )
        self._first_job[i], self._over[i], self._totals[i], self._scale[i] = first_job, False, 0.0, 1.0
        if self._paired:
            if self._floor is None:
                self._floor = self._mean_cost()
            self._scale[i] = 1.0 / (self._followed(first_job, i).cost + self._floor)
        self._load(i, first_job)
        # Where nobody ever waits the first step is the last.
        self._idle[i] = self._run_on(i, -np.inf) == OVER
        observe_row(self.training.batch, i, self._world)

    def step(self, actions: npt.ArrayLike) -> tuple[Any, Any, Any, Any, Any]:
        values = values_of(np.asarray(actions).reshape(self.num_envs, len(LEVERS)), self.usual)
        active, rewards = ~self._over, np.zeros(self.num_envs)
        resetting = self._over & self.autoreset
        for i in np.flatnonzero(active):
            rewards[i] = self._round(int(i), values[i])
        ended = self._over & active
        for i in np.flatnonzero(resetting):
            self._begin(int(i), None)
        return self._observation(), rewards, ended, np.zeros(self.num_envs, bool), {}

    def _round(self, i: int, values: npt.NDArray[np.float64]) -> float:
        """One round of row i; its reward."""
        sim = self.training.row(i).sim
        until = sim.clock[NOW] + self.round_s
        if sim.counts[ARRIVED] == len(sim.jobs.submit) and sim.clock[NOW] > sim.jobs.submit[-1] + WIND_DOWN_S:
            values, until = self.usual, np.inf
        self._over[i] = self._idle[i] or self._run_on(i, until, values) == OVER
        observe_row(self.training.batch, i, self._world)
        before, self._totals[i] = self._totals[i], self._total(i)
        return float((self._totals[i] - before) * self._scale[i])

    def _run_on(self, i: int, until: float, values: npt.NDArray[np.float64] | None = None) -> int:
        """To the next round of row i, or its end; ``values``: first open this one with these levers."""
        opens, given = values is not None, self.usual if values is None else values
        while (code := advance_row(self.training.batch, i, opens, given, until)) == FULL:
            opens = False
            self.training.grow()
        return int(code)

    def _total(self, i: int) -> float:
        """What the rewards of row i have come to, but for its scale."""
        code = self.setup.rules.score_code
        if not self._paired:
            return float(total_of(self.training.batch, i, code))
        times, delays, _ = self._baselines[int(self._first_job[i])]
        now = self.training.row(i).sim.clock[NOW]
        theirs = delays[-1] if self._over[i] else np.interp(now, times, delays)
        return float(delay_of(self.training.batch, i, code) - theirs)

    def _observation(self) -> dict[str, Any]:
        return {"world": self._world.copy()}

    def state(self) -> dict[str, Any]:
        """Where all episodes stand, and the generator of windows: plain values for `restore`, not copied."""
        mine = {name: getattr(self, name) for name in OWN}
        return {"rows": self.training.state(), "rng": self._rng.bit_generator.state, "own": mine}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state` of as many episodes under the same rules; ValueError for one that does not fit."""
        if any(getattr(self, name).shape != part.shape for name, part in state["own"].items()):
            raise ValueError("it is of another number of episodes")
        for name, part in state["own"].items():
            getattr(self, name)[...] = part
        if self._paired:
            # Rows are used for that, so it comes before they are what they were.
            self._floor = self._mean_cost()
            for first_job in self._first_job:
                self._followed(int(first_job), 0)
        self.training.restore(state["rows"])
        self._rng.bit_generator.state = state["rng"]

    def result(self, i: int) -> Result:
        """The schedule of row i so far, warm-up included."""
        begin_at = int(self._first_job[i])
        jobs = self.setup.trace.jobs.take(slice(begin_at, begin_at + self.setup.length))
        return result_of(jobs, self.setup.cluster, self.training.copy(i), self.setup.notes)


class SteeringEnv(OneEpisode):
    """One episode in which levers are set."""

    def __init__(self, setup: Setup, round_s: float = ROUND_S) -> None:
        super().__init__(VectorSteeringEnv(setup, 1, round_s=round_s))
