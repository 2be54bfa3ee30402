"""An agent in index form as who decides in a simulation: it sets the levers of a round, and the order and the market do the rest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from rltune.core.loop import start_here
from rltune.core.reference import Ref
from rltune.core.state import NOW, QUEUED, STARTED, Sim
from rltune.rl.steering.kernels import set_levers
from rltune.rl.steering.levers import LEVERS, Floats, usual_of, values_of
from rltune.rl.steering.network import SteeringNetwork
from rltune.rl.steering.observe import FEATURES, observe_world
from rltune.simulator.decisions import Decision
from rltune.simulator.recording import Feature, Recorder


@dataclass
class Steering:
    """A network bound to one simulation; a `rltune.simulator.decisions.Decision`.

    ``joint``: decides on the starts of an instant (the joint MILP); None: the kernels do. ``records`` has a line a round;
    ``recorder`` hears of rounds and of every instant.
    """

    network: SteeringNetwork
    usual: Floats
    joint: Decision | None = None
    records: list[dict[str, object]] = field(default_factory=list)
    recorder: Recorder | None = None
    _until: float = -np.inf

    @classmethod
    def of(cls, network: SteeringNetwork, sim: Sim, joint: Decision | None = None) -> Steering:
        """Raises InputError where the simulation has nothing to set."""
        return cls(network.eval(), usual_of(sim), joint)

    def take(self, state: Ref) -> None:
        """Begin a round where the last one is over, then let jobs start."""
        sim: Sim = state.value
        now, waiting, before = float(sim.clock[NOW]), int(sim.counts[QUEUED]), int(sim.counts[STARTED])
        begins = now >= self._until
        if begins:
            self._until = now + self.network.config.round_s
            values = values_of(self.choose(state), self.usual)
            set_levers(state, values)
            levers: dict[str, Any] = {name: float(x) for name, x in zip(LEVERS, values, strict=True) if not np.isnan(x)}
            if self.recorder is not None:
                self.recorder.levers = levers
        if self.recorder is not None:
            self.recorder.look(state)
        if self.joint is not None:
            self.joint.take(state)
        else:
            start_here(state)
        if begins:
            started = int(sim.counts[STARTED]) - before
            self.records.append({"now_s": now, "queued": waiting, "started": started} | levers)

    def tell(self, recorder: Recorder) -> None:
        """Let a recorder hear of rounds, and of the keys that jobs have under their levers, from now on."""
        self.recorder = recorder
        recorder.seen = [Feature(name) for name in FEATURES]

    def exchange(self, network: SteeringNetwork) -> None:
        """Another network decides from now on, and begins a round."""
        self.network, self._until = network.eval(), -np.inf

    def choose(self, state: Any) -> Floats:
        """(6,) the network's greedy action on what it sees."""
        world = np.zeros(len(FEATURES), np.float32)
        observe_world(state, world)
        if self.recorder is not None:
            self.recorder.world = world
        with torch.inference_mode():
            found: Floats = self.network.means({"world": torch.from_numpy(world[None])})[0].numpy()
        return found
