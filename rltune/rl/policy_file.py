"""A trained policy as a file (`rltune.rl.weights_file`)."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rltune.config.learning import SteeringConfig
from rltune.core.state import Detail, Sim
from rltune.nouns.plan import Keys, Queue, Snapshot
from rltune.nouns.renamed import translated
from rltune.rl.asking import Answer, answer
from rltune.rl.guarded import Guarded, Guarding
from rltune.rl.network import JobNetwork, NetworkConfig
from rltune.rl.observe import CLUSTER_FEATURES, JOB_FEATURES
from rltune.rl.picking import Picking, bind
from rltune.rl.rules import Rules
from rltune.rl.steering.deciding import Steering
from rltune.rl.steering.kernels import set_levers
from rltune.rl.steering.levers import LEVERS
from rltune.rl.steering.network import SteeringNetwork
from rltune.rl.steering.observe import FEATURES
from rltune.rl.weights_file import Weights, fill, read_weights, write_weights
from rltune.simulator.decisions import Decision
from rltune.simulator.guard import Guard

FORMAT = "rltune-policy-1"
BASELINE, PARENT = "baseline order", "parent"
"""What training may keep (``origin["kept"]``) beside ``epoch N``: the untrained network, or the one it began with."""


@dataclass(frozen=True)
class LearnedPolicy:
    """The pick form: a network, the rules it was trained under, and how it came about (``origin``, JSON values)."""

    network: JobNetwork
    rules: Rules
    origin: dict[str, Any]
    guard: Guard | None = None

    @property
    def baseline(self) -> str:
        """The policy that the network corrects."""
        return self.rules.baseline

    def answer(self, snapshot: Snapshot) -> Answer:
        """Who starts now, and who goes on waiting, on a live cluster of whole GPUs."""
        return answer(self.network, self.rules, snapshot)

    def __call__(self, queue: Queue, snapshot: Snapshot) -> Keys:
        """Keys as any other policy gives them, for `rltune.scheduler.decide`: (n_queued,), smallest first."""
        start, wait = self.answer(snapshot)
        keys = np.empty(len(queue))
        keys[np.concatenate([start, wait])] = np.arange(len(queue))
        return keys

    def decision(self, sim: Sim, joint: Any = None) -> Picking | Guarded:
        """The network as who decides in a simulation: a `rltune.simulator.decisions.Picker`.

        ``joint``: a `rltune.allocators.milp.MilpAllocator` (lean build), a `rltune.simulator.joint.Joint` (full), or None.
        In shadows of a guard jobs are placed where they are picked, whatever places them in the simulation.
        """
        if joint is not None:
            # The solver takes a while to import.
            from rltune.rl.joint import JointPlacement, JointStarts

            joint = JointStarts(joint) if isinstance(sim.detail, Detail) else JointPlacement(joint)
        inner = bind(self.network, sim, joint)
        if self.guard is None:
            return inner
        plain = JobNetwork(self.network.config)
        guarding = Guarding(plain, self.baseline, self.rules.score, lambda made: bind(self.network, made))
        return Guarded(inner, guarding, self.guard, sim)

    def guarded(self, guard: Guard | None = None) -> LearnedPolicy:
        """The same, deciding only while it does no worse than rules in shadow simulation; ``guard``: None, the usual one."""
        return replace(self, guard=guard or Guard())

    def untrained(self) -> LearnedPolicy:
        """What it began as: the baseline."""
        return replace(self, network=JobNetwork(self.network.config), guard=None)

    def described(self) -> dict[str, str]:
        """What the header says of its kind."""
        return {"features": json.dumps([JOB_FEATURES, CLUSTER_FEATURES])}


@dataclass(frozen=True)
class SteeringPolicy:
    """The index form: a network that sets levers of the baseline and of the market, and the same beside it."""

    network: SteeringNetwork
    rules: Rules
    origin: dict[str, Any]
    guard: Guard | None = None

    @property
    def baseline(self) -> str:
        """The policy whose levers are set."""
        return self.rules.baseline

    def steering(self, sim: Sim, joint: Decision | None = None) -> Steering | Guarded:
        """The network as who sets the levers in a simulation: a `rltune.simulator.decisions.Steerer`."""
        inner = Steering.of(self.network, sim, joint)
        if self.guard is None:
            return inner
        usual = inner.usual
        guarding = Guarding(
            SteeringNetwork(self.network.config), self.baseline, self.rules.score,
            lambda made: Steering(self.network, usual), lambda state: set_levers(state, usual),
        )  # fmt: skip
        return Guarded(inner, guarding, self.guard, sim)

    def guarded(self, guard: Guard | None = None) -> SteeringPolicy:
        """The same, setting levers only while it does no worse than rules in shadow simulation; ``guard``: None, the usual one."""
        return replace(self, guard=guard or Guard())

    def untrained(self) -> SteeringPolicy:
        """What it began as: the baseline."""
        return replace(self, network=SteeringNetwork(self.network.config), guard=None)

    def described(self) -> dict[str, str]:
        """What the header says of its kind."""
        return {"agent": "index", "features": json.dumps([FEATURES, LEVERS])}


AnyPolicy = LearnedPolicy | SteeringPolicy


def policy_of(network: JobNetwork | SteeringNetwork, rules: Rules, origin: dict[str, Any]) -> AnyPolicy:
    """A network of either form as a policy."""
    if isinstance(network, SteeringNetwork):
        return SteeringPolicy(network, rules, origin)
    return LearnedPolicy(network, rules, origin)


def save_policy(path: Path, policy: AnyPolicy) -> None:
    """Write atomically. Raises InputError when the disk refuses."""
    header = {
        "format": FORMAT,
        "network": json.dumps(policy.network.config.as_dict()),
        "rules": json.dumps(asdict(policy.rules)),
        "origin": json.dumps(policy.origin),
    }
    write_weights(path, policy.network, header | policy.described())


def load_policy(path: str | Path) -> AnyPolicy:
    """Read a policy file, the ``policy.safetensors`` of a run directory, or a shipped one by name (`rltune.models`).

    Raises InputError for a missing, foreign, corrupt or incompatible file.
    """
    return read_weights(path, "checkpoint", "rltune policy", FORMAT, _policy)


def _policy(header: dict[str, str], weights: Weights) -> AnyPolicy:
    """Raises an error of any kind, without the file's name, for what does not fit."""
    agent = header.get("agent", "pick")
    if agent not in ("pick", "index"):
        raise ValueError(f"it is an agent in {agent!r} form")
    sees = [FEATURES, LEVERS] if agent == "index" else [JOB_FEATURES, CLUSTER_FEATURES]
    if json.loads(header["features"]) != [list(names) for names in sees]:
        raise ValueError("it was trained on other observation features")
    parts = {part: json.loads(header[part]) for part in ("network", "rules", "origin")}
    no_mapping = [part for part, value in parts.items() if not isinstance(value, dict)]
    if no_mapping:
        raise ValueError(f"its {', '.join(no_mapping)} is no mapping")
    architecture = parts["network"]
    if not all(math.isfinite(value) for value in architecture.values()):
        raise ValueError("its architecture holds numbers that are not finite")
    rules = Rules(**translated(parts["rules"]))
    if agent == "index":
        steers = SteeringNetwork(SteeringConfig(**architecture))
        fill(steers, weights)
        return SteeringPolicy(steers.eval(), rules, parts["origin"])
    picks = JobNetwork(NetworkConfig(**architecture))
    fill(picks, weights)
    return LearnedPolicy(picks.eval(), rules, parts["origin"])
