"""The Gymnasium environment: one compiled call steps all episodes, each a batch on a GPU of its own. No Ray here.

Observation (Dict): ``tasks`` (V, 21), ``places`` (P, 17) and ``gpu`` (9,) in [0, 1], see `rltune.rl.mig.kernels`;
``action_mask`` (V * P + P + 1,). Actions: assign, create, wait, as numbered there; an illegal one is an error. The
rewards of an episode sum to 1 - makespan / area bound.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from rltune.mig.batch.plan import Instance, Plan, Run
from rltune.mig.geometry import Placement, geometry
from rltune.rl.mig.kernels import (
    ASSIGNED,
    CLOCKS,
    GPU_FEATURES,
    INSTANCES,
    MARKS,
    OVER,
    PLACE_FEATURES,
    TASK_FEATURES,
    TASKS,
    WINDOW,
    Rows,
    Seen,
    begin,
    first_look,
    step_rows,
)
from rltune.rl.mig.layout import SLOTS, Layout, make_layout

METHOD = "ppo"
INSTANCES_APART = 8
"""Instances that can be created between two assignments: no two of them overlap, and a GPU has eight memory slices."""


@dataclass(frozen=True)
class Episode:
    """A batch: ``seconds`` (n_tasks, n_profiles) as in `rltune.mig.batch.tasks.Tasks`, of which ``window`` are visible at
    a time; further ones become visible, in order, as earlier ones are assigned."""

    seconds: npt.NDArray[np.float64]
    window: int


Source = Callable[[np.random.Generator], Episode]
"""Draws the batch of the next episode."""


@dataclass(frozen=True)
class Setup:
    """``model`` GPU type; ``profiles`` indices of those used, None: all; ``visible`` positions; ``most_tasks`` a batch."""

    model: str
    profiles: tuple[int, ...] | None = None
    visible: int = 20
    most_tasks: int = 20


def spaces(visible: int, places: int) -> tuple[gym.spaces.Dict, gym.spaces.Discrete]:
    """Observation and action space of one episode."""
    actions = (visible + 1) * places + 1
    return (
        gym.spaces.Dict(
            {
                "action_mask": gym.spaces.Box(0, 1, (actions,), np.int8),
                "gpu": gym.spaces.Box(0, 1, (len(GPU_FEATURES),), np.float32),
                "places": gym.spaces.Box(0, 1, (places, len(PLACE_FEATURES)), np.float32),
                "tasks": gym.spaces.Box(0, 1, (visible, len(TASK_FEATURES)), np.float32),
            }
        ),
        gym.spaces.Discrete(actions),
    )


class VectorBatchEnv(VectorEnv):
    """``num_envs`` episodes in step; a finished one begins anew at the following step (Gymnasium's NEXT_STEP)."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012  (Gymnasium's own pattern)

    def __init__(self, setup: Setup, num_envs: int, source: Source | None = None) -> None:
        """Without a ``source``, batches come with ``reset`` and a finished episode stays as it is until the next one."""
        self.setup, self.num_envs, self.source = setup, num_envs, source
        if source is None:
            self.metadata = self.metadata | {"autoreset_mode": AutoresetMode.DISABLED}
        self.layout = make_layout(setup.model, setup.profiles)
        places = len(self.layout.profile)
        self.single_observation_space, self.single_action_space = spaces(setup.visible, places)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.rows = make_rows(num_envs, setup, self.layout)
        self.seen = Seen(
            mask=np.zeros((num_envs, (setup.visible + 1) * places + 1), np.int8),
            tasks=np.zeros((num_envs, setup.visible, len(TASK_FEATURES)), np.float32),
            places=np.zeros((num_envs, places, len(PLACE_FEATURES)), np.float32),
            gpu=np.zeros((num_envs, len(GPU_FEATURES)), np.float32),
        )
        self._rewards = np.zeros(num_envs)
        self._over = np.zeros(num_envs, bool)
        self._rng = np.random.default_rng()

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin all episodes; ``options={"episodes": [...]}`` gives their batches."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        given: Sequence[Episode | None] = [None] * self.num_envs if options is None else options["episodes"]
        for i, episode in enumerate(given):
            self._begin(i, episode)
        return self._observation(), {}

    def _begin(self, i: int, episode: Episode | None) -> None:
        if episode is None:
            if self.source is None:
                raise ValueError('an environment without a source needs reset(options={"episodes": [...]})')
            episode = self.source(self._rng)
        n = len(episode.seconds)
        self.rows.seconds[i, :n] = episode.seconds
        self.rows.marks[i, TASKS], self.rows.marks[i, WINDOW] = n, episode.window
        begin(self.rows, i, self.layout)
        first_look(self.rows, i, self.layout, self.seen)
        self._over[i] = False

    def step(self, actions: npt.ArrayLike) -> tuple[Any, Any, Any, Any, Any]:
        acts = np.asarray(actions, np.int64)
        active = ~self._over
        if not (self.seen.mask[np.arange(self.num_envs), acts] | self._over).all():
            raise ValueError(f"illegal actions {acts[active]}; choose where action_mask is 1")
        self._rewards[:] = 0.0
        step_rows(self.rows, self.layout, acts, active, self.seen, self._rewards)
        if self.source is not None:
            for i in np.flatnonzero(self._over):
                self._begin(int(i), None)
        ended = (self.rows.marks[:, OVER] == 1) & active
        self._over = self._over | ended
        return self._observation(), self._rewards.copy(), ended, np.zeros(self.num_envs, bool), {}

    def state(self) -> dict[str, Any]:
        """Where all episodes stand, and the generator of batches: plain values for `restore`, not copied."""
        return {
            "rows": self.rows._asdict(),
            "seen": self.seen._asdict(),
            "over": self._over,
            "rng": self._rng.bit_generator.state,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state` of as many episodes of the same kind; ValueError for one that does not fit."""
        pairs = [(self._over, state["over"])]
        for parts, found in ((self.rows._asdict(), state["rows"]), (self.seen._asdict(), state["seen"])):
            pairs += [(part, found[name]) for name, part in parts.items()]
        if any(mine.shape != saved.shape for mine, saved in pairs):
            raise ValueError("it is of other episodes")
        for mine, saved in pairs:
            mine[...] = saved
        self._rng.bit_generator.state = state["rng"]

    def _observation(self) -> dict[str, Any]:
        seen = self.seen
        return {
            "action_mask": seen.mask.copy(),
            "gpu": seen.gpu.copy(),
            "places": seen.places.copy(),
            "tasks": seen.tasks.copy(),
        }

    def plan(self, i: int) -> Plan:
        """The schedule of row i, whose episode is over."""
        rows, layout = self.rows, self.layout
        profiles = geometry(self.setup.model).profiles
        instances = []
        for record in range(int(rows.marks[i, INSTANCES])):
            at = rows.placement[i, record]
            placement = Placement(int(layout.profile[at]), int(layout.start[at]))
            created, gone = float(rows.created[i, record]), float(rows.destroyed[i, record])
            costs = profiles[placement.profile]
            ends = (None, None) if np.isnan(gone) else (gone, gone + costs.destroy_s)
            instances.append(Instance(0, placement, created, created + costs.create_s, *ends))
        runs = []
        for task in range(int(rows.marks[i, ASSIGNED])):
            record, start = int(rows.ran_in[i, task]), float(rows.begun[i, task])
            takes = float(rows.seconds[i, task, instances[record].placement.profile])
            runs.append(Run(task, record, start, start + takes))
        return Plan((geometry(self.setup.model).model,), tuple(instances), tuple(runs), METHOD)


def make_rows(n_envs: int, setup: Setup, layout: Layout) -> Rows:
    """Arrays of ``n_envs`` episodes."""
    n, places, profiles = setup.most_tasks, len(layout.profile), len(layout.used)
    most = (n + 1) * INSTANCES_APART

    def floats(*shape: int) -> npt.NDArray[np.float64]:
        return np.zeros((n_envs, *shape))

    def flags(*shape: int) -> npt.NDArray[np.bool_]:
        return np.zeros((n_envs, *shape), bool)

    def ints(*shape: int) -> npt.NDArray[np.int64]:
        return np.zeros((n_envs, *shape), np.int64)

    return Rows(
        seconds=floats(n, profiles),
        slot_s=floats(n, len(SLOTS)),
        least=floats(n),
        fastest=floats(n),
        shown=ints(setup.visible),
        useful=flags(profiles),
        there=flags(places),
        fresh=flags(places),
        free_at=floats(places),
        run_from=floats(places),
        record=ints(places),
        placement=ints(most),
        created=floats(most),
        destroyed=floats(most),
        ran_in=ints(n),
        begun=floats(n),
        clock=floats(CLOCKS),
        marks=ints(MARKS),
    )
