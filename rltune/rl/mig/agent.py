"""A trained agent as a file, and as a planner: ``load("mig.safetensors").plan(tasks, "a100-80gb")``. No Ray here."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rltune.mig.batch.plan import Plan
from rltune.mig.batch.tasks import Tasks
from rltune.mig.geometry import geometry
from rltune.nouns.errors import InputError
from rltune.rl.mig.env import Episode, Setup, VectorBatchEnv
from rltune.rl.mig.kernels import GPU_FEATURES, PLACE_FEATURES, TASK_FEATURES
from rltune.rl.mig.layout import profiles_for
from rltune.rl.mig.network import BatchNetwork, NetworkConfig
from rltune.rl.mig.rollout import play
from rltune.rl.weights_file import Weights, fill, read_weights, write_weights

FORMAT = "rltune-mig-policy-1"
FEATURES = [list(TASK_FEATURES), list(PLACE_FEATURES), list(GPU_FEATURES)]
VISIBLE = 32
"""Tasks that the agent looks at together, at most."""


@dataclass(frozen=True)
class Agent:
    """A network and how it came about (``origin``, JSON values)."""

    network: BatchNetwork
    origin: dict[str, Any]

    def plan(
        self,
        tasks: Tasks,
        model: str,
        samples: int = 0,
        rng: np.random.Generator | None = None,
        window: int | None = None,
    ) -> Plan:
        """A plan of the batch on one empty GPU of type ``model``: greedy, or the best of that and ``samples`` drawn ones.

        Without ``window`` the largest 32 tasks are looked at together, further ones in order of size as these are
        assigned; with it (online) so many, in the batch's own order. ``rng``: default, seed 0.
        Raises InputError for a model without times or a task that cannot run on it.
        """
        seconds = _seconds(tasks, geometry(model).model)
        if samples < 0 or (window is not None and window < 1):
            raise InputError(f"samples={samples}, window={window}; at least 0 and 1 are needed")
        order = np.arange(len(tasks)) if window is not None else _largest_first(seconds, model)
        visible = min(len(tasks), VISIBLE if window is None else window)
        profiles = profiles_for(tasks, model, online=window is not None)
        setup = Setup(geometry(model).model, profiles, visible, len(tasks))
        env = VectorBatchEnv(setup, samples + 1)
        drawn = None if samples == 0 else rng if rng is not None else np.random.default_rng(0)
        ratios = play(env, self.network, [Episode(seconds[order], visible)] * (samples + 1), drawn, greedy=[0])
        plan = env.plan(int(ratios.argmin()))
        return replace(plan, runs=tuple(replace(run, task=int(order[run.task])) for run in plan.runs))


def _seconds(tasks: Tasks, model: str) -> np.ndarray:
    """(n_tasks, n_profiles) on this model."""
    if model not in tasks.seconds:
        raise InputError(f"the batch has no times on {model}; it has some on {', '.join(tasks.seconds)}")
    seconds = tasks.seconds[model]
    unfit = ~np.isfinite(seconds).any(1)
    if unfit.any():
        raise InputError(
            f"task {tasks.names[int(unfit.argmax())]!r} fits no slice of {model}; give it another GPU model"
        )
    return seconds


def _largest_first(seconds: np.ndarray, model: str) -> np.ndarray:
    compute = np.array([profile.compute for profile in geometry(model).profiles])
    return np.argsort(-(seconds * compute).min(1), kind="stable")


def untrained(config: NetworkConfig | None = None) -> Agent:
    """The greedy rule that training starts from."""
    return Agent(BatchNetwork(config or NetworkConfig()).eval(), {"kept": "prior"})


def save_agent(path: Path, agent: Agent) -> None:
    """Write atomically. Raises InputError when the disk refuses."""
    header = {
        "format": FORMAT,
        "network": json.dumps(agent.network.config.as_dict()),
        "features": json.dumps(FEATURES),
        "origin": json.dumps(agent.origin),
    }
    write_weights(path, agent.network, header)


def load(path: str | Path) -> Agent:
    """Read an agent's file, or the ``policy.safetensors`` of a run directory.

    Raises InputError for a missing, foreign, corrupt or incompatible file.
    """
    return read_weights(path, "agent", "rltune MIG agent", FORMAT, _agent)


def _agent(header: dict[str, str], weights: Weights) -> Agent:
    """Raises an error of any kind, without the file's name, for what does not fit."""
    if json.loads(header["features"]) != FEATURES:
        raise ValueError("it was trained on other observation features")
    architecture, origin = json.loads(header["network"]), json.loads(header["origin"])
    if not isinstance(architecture, dict) or not isinstance(origin, dict):
        raise ValueError("its network or origin is no mapping")
    if not all(math.isfinite(value) for value in architecture.values()):
        raise ValueError("its architecture holds numbers that are not finite")
    network = BatchNetwork(NetworkConfig(**architecture))
    fill(network, weights)
    return Agent(network.eval(), origin)
