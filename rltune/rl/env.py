"""The Gymnasium environment: one compiled call steps all episodes. No Ray here.

Observation (Dict): ``jobs`` (V, 12) and ``cluster`` (8,) in [0, 1], see
`rltune.rl.kernels`; ``action_mask`` (V + 1,). Action: a visible job or V = wait.
An illegal action counts in ``info["illegal_actions"]`` and acts as wait (as the
first legal job where waiting is impossible).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from rltune.core.choices import FASTEST
from rltune.core.state import Detail
from rltune.nouns.errors import InputError
from rltune.rl.kernels import (
    apply_rows,
    baseline_total,
    begin,
    close_rows,
    reset_row,
    step_rows,
)
from rltune.rl.observe import CLUSTER_FEATURES, JOB_FEATURES, Seen
from rltune.rl.rows import CLOSED, FRESH, FULL, OVER, Training
from rltune.rl.rules import Setup
from rltune.simulator.full import result_of
from rltune.simulator.result import Result

FLOOR_WINDOWS = 64
OWN = ("_jobs", "_cluster", "_mask", "_over", "_first_job", "_illegal")
"""Arrays of the environment itself that outlast a step."""


def spaces(visible: int) -> tuple[gym.spaces.Dict, gym.spaces.Discrete]:
    """Observation and action space of one episode."""
    return (
        gym.spaces.Dict(
            {
                "action_mask": gym.spaces.Box(0, 1, (visible + 1,), np.int8),
                "cluster": gym.spaces.Box(0, 1, (len(CLUSTER_FEATURES),), np.float32),
                "jobs": gym.spaces.Box(0, 1, (visible, len(JOB_FEATURES)), np.float32),
            }
        ),
        gym.spaces.Discrete(visible + 1),
    )


class VectorSchedulingEnv(VectorEnv):
    """``num_envs`` episodes in step; a finished one begins anew at the following step (Gymnasium's NEXT_STEP)."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012  (Gymnasium's own pattern)

    def __init__(
        self,
        setup: Setup,
        num_envs: int = 16,
        seed: int | None = None,
        joint: Any = None,
        autoreset: bool = True,
    ) -> None:
        """``joint``: places the jobs of one instant together (`rltune.rl.joint.JointPlacement`); required for allocator=milp.

        ``autoreset=False``: a finished episode stays as it is until the next ``reset`` (its actions are ignored).
        """
        rules = setup.rules
        if rules.allocator == "milp" and joint is None:
            raise InputError(
                "allocator=milp needs its joint placement (rltune.rl.joint.JointPlacement); pass joint=..."
            )
        self.setup, self.num_envs, self.autoreset = setup, num_envs, autoreset
        way_rule = str(rules.options.get("way_rule", FASTEST))
        self.joint = None if joint is None else joint.on(setup.trace.jobs, setup.cluster, setup.table, way_rule)
        if not autoreset:
            self.metadata = self.metadata | {"autoreset_mode": AutoresetMode.DISABLED}
        self.single_observation_space, self.single_action_space = spaces(rules.visible)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.training = Training(setup.table, num_envs, setup.length, rules.visible)
        self._jobs = np.zeros((num_envs, rules.visible, len(JOB_FEATURES)), np.float32)
        self._cluster = np.zeros((num_envs, len(CLUSTER_FEATURES)), np.float32)
        self._mask = np.zeros((num_envs, rules.visible + 1), np.int8)
        self._seen = Seen(self._mask, self._jobs, self._cluster)
        self._rewards = np.zeros(num_envs)
        self._over = np.zeros(num_envs, bool)
        self._first_job = np.zeros(num_envs, np.int64)
        self._illegal = np.zeros(num_envs, np.int64)
        self._rng = np.random.default_rng(seed)
        self._floor = self._mean_baseline() if rules.reward == "relative" else 1.0

    def _mean_baseline(self) -> float:
        """Mean baseline score over evenly spaced windows: keeps windows without any wait from dominating."""
        if self.setup.rules.score == "utilization":
            return 1.0
        starts = np.linspace(self.setup.low, self.setup.high - 1, FLOOR_WINDOWS).astype(np.int64)
        return float(np.mean([self._baseline_of(start) for start in starts])) + 1e-3

    def _baseline_of(self, first_job: int) -> float:
        """Mean cost of a job by the baseline in the window that begins there; row 0 is used for it."""
        training, rules = self.training, self.setup.rules
        while not begin(training.batch, 0, first_job, rules.warmup) or np.isnan(
            total := baseline_total(training.batch, 0, rules.score_code)
        ):
            training.grow()
        return float(total)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin all episodes; ``options={"first_job": (n_envs,)}`` chooses their windows."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        chosen = None if options is None else options.get("first_job")
        for i in range(self.num_envs):
            self._begin(i, None if chosen is None else int(chosen[i]))
        return self._observation(), self._info()

    def _begin(self, i: int, first_job: int | None) -> None:
        if first_job is None:
            first_job = int(self._rng.integers(self.setup.low, self.setup.high))
        elif not 0 <= first_job <= len(self.setup.table.jobs.submit) - self.setup.length:
            raise ValueError(
                f"first_job={first_job}: 0 to {len(self.setup.table.jobs.submit) - self.setup.length} are possible"
            )
        self._first_job[i] = first_job
        self._over[i] = False
        self._illegal[i] = 0
        rules = self.setup.rules
        episode = (first_job, rules.warmup, rules.score_code, rules.reward == "relative", self._floor)
        while not reset_row(self.training.batch, i, episode, rules.visible, self._seen):
            self.training.grow()

    def step(self, actions: npt.ArrayLike) -> tuple[Any, Any, Any, Any, Any]:
        acts = self._legalised(np.asarray(actions, np.int64))
        active = ~self._over
        resetting = self._over & self.autoreset
        self._rewards[:] = 0.0
        batch, mark = self.training.batch, self.training.value.episode.mark
        visible, score = self.setup.rules.visible, self.setup.rules.score_code
        seen = self._seen
        if self.joint is None:
            step_rows(batch, acts, active, score, visible, seen, self._rewards)
        else:
            apply_rows(batch, acts, active, score, visible, self._mask)
            together = active & (mark[:, CLOSED] == 1) & (mark[:, FRESH] >= self.joint.fewest)
            for i in np.flatnonzero(together):
                self.joint.place(self.training, int(i), bool(acts[i] == visible))
            close_rows(batch, active, score, visible, seen, self._rewards)
        while (unfinished := active & (mark[:, FULL] == 1)).any():
            self.training.grow()
            close_rows(self.training.batch, unfinished, score, visible, seen, self._rewards)
        for i in np.flatnonzero(resetting):
            self._begin(int(i), None)
        ended = (mark[:, OVER] == 1) & active
        self._over = ended if self.autoreset else self._over | ended
        return self._observation(), self._rewards.copy(), ended, np.zeros(self.num_envs, bool), self._info()

    def _legalised(self, actions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        rows = np.arange(self.num_envs)
        within = np.clip(actions, 0, self.setup.rules.visible)
        illegal = (self._mask[rows, within] == 0) | (within != actions)
        if not illegal.any():
            return actions
        self._illegal += illegal & ~self._over
        wait = self._mask[:, -1] == 1
        return np.where(illegal, np.where(wait, self.setup.rules.visible, self._mask.argmax(1)), actions)

    def _observation(self) -> dict[str, Any]:
        return {"action_mask": self._mask.copy(), "cluster": self._cluster.copy(), "jobs": self._jobs.copy()}

    def _info(self) -> dict[str, Any]:
        if not self._illegal.any():
            return {}
        return {"illegal_actions": self._illegal.copy()}

    def state(self) -> dict[str, Any]:
        """Where all episodes stand, and the generator of windows: plain values for `restore`, not copied."""
        mine = {name: getattr(self, name) for name in OWN}
        return {"rows": self.training.state(), "rng": self._rng.bit_generator.state, "own": mine}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state` of as many episodes under the same rules; ValueError for one that does not fit."""
        if any(getattr(self, name).shape != part.shape for name, part in state["own"].items()):
            raise ValueError("it is of another number of episodes")
        self.training.restore(state["rows"])
        self._rng.bit_generator.state = state["rng"]
        for name, part in state["own"].items():
            getattr(self, name)[...] = part

    def result(self, i: int) -> Result:
        """The schedule of row i so far, warm-up included."""
        setup = self.setup
        begin_at = int(self._first_job[i])
        jobs = setup.trace.jobs.take(slice(begin_at, begin_at + setup.length))
        sim = self.training.copy(i)
        if isinstance(sim.detail, Detail):
            return result_of(jobs, setup.cluster, sim, setup.notes)
        return Result.of(jobs, setup.cluster, sim)


class JoinedEnv(VectorEnv):
    """Several vectorised environments as one, e.g. of clusters of different sizes; rows of the first come first."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012  (Gymnasium's own pattern)

    def __init__(self, envs: Sequence[Any]) -> None:
        """All must be of one kind, and show as many jobs."""
        self.envs = list(envs)
        self.num_envs = sum(env.num_envs for env in envs)
        self._ends = np.cumsum([env.num_envs for env in envs])[:-1]
        self.single_observation_space = envs[0].single_observation_space
        self.single_action_space = envs[0].single_action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin all episodes anew; parts draw their windows independently, also of those of another seed."""
        chosen: list[dict[str, Any] | None] = [None] * len(self.envs)
        if options is not None and "first_job" in options:
            chosen = [{"first_job": part} for part in np.split(np.asarray(options["first_job"]), self._ends)]
        found = []
        for k, (env, one) in enumerate(zip(self.envs, chosen, strict=True)):
            child = None if seed is None else int(np.random.SeedSequence([seed, k]).generate_state(1)[0])
            found.append(env.reset(seed=child, options=one))
        return self._joined([observation for observation, _ in found]), self._info([info for _, info in found])

    def step(self, actions: npt.ArrayLike) -> tuple[Any, Any, Any, Any, Any]:
        parts = np.split(np.asarray(actions), self._ends)
        found = [env.step(part) for env, part in zip(self.envs, parts, strict=True)]
        rewards, over, cut = (np.concatenate([one[k] for one in found]) for k in (1, 2, 3))
        return self._joined([one[0] for one in found]), rewards, over, cut, self._info([one[4] for one in found])

    def state(self) -> dict[str, Any]:
        """As of `VectorSchedulingEnv.state`."""
        return {"parts": [env.state() for env in self.envs]}

    def restore(self, state: dict[str, Any]) -> None:
        """As of `VectorSchedulingEnv.restore`."""
        for env, part in zip(self.envs, state["parts"], strict=True):
            env.restore(part)

    def _info(self, infos: Sequence[dict[str, Any]]) -> dict[str, Any]:
        if not any(infos):
            return {}
        parts = [
            info.get("illegal_actions", np.zeros(env.num_envs, np.int64))
            for info, env in zip(infos, self.envs, strict=True)
        ]
        return {"illegal_actions": np.concatenate(parts)}

    @staticmethod
    def _joined(observations: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {key: np.concatenate([one[key] for one in observations]) for key in observations[0]}


class OneEpisode(gym.Env[dict[str, Any], Any]):
    """One episode of a vectorised environment of one row; the same code as that."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012  (Gymnasium's own pattern)

    def __init__(self, vector: Any) -> None:
        self.vector = vector
        self.observation_space = vector.single_observation_space
        self.action_space = vector.single_action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """``options={"first_job": k}`` chooses the window."""
        super().reset(seed=seed)
        if options is not None and "first_job" in options:
            options = {"first_job": [options["first_job"]]}
        observation, info = self.vector.reset(seed=seed, options=options)
        return _first(observation), _first(info)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, rewards, over, _, info = self.vector.step(np.asarray(action)[None])
        return _first(observation), float(rewards[0]), bool(over[0]), False, _first(info)


class SchedulingEnv(OneEpisode):
    """One episode in which jobs are picked."""

    def __init__(self, setup: Setup, joint: Any = None) -> None:
        super().__init__(VectorSchedulingEnv(setup, 1, joint=joint))


def _first(batched: dict[str, Any]) -> dict[str, Any]:
    return {key: value[0] for key, value in batched.items()}
