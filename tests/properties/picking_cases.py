"""Pickers as learned policies are, without a network: they choose among the jobs that may be picked."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from rltune.core.state import Detail, Sim
from rltune.rl.joint import JointPlacement, JointStarts
from rltune.rl.picking import OneRow, Picking


@dataclass(frozen=True)
class Picks:
    """The first job that may be picked, or, with a ``seed``, any of them; never waits while there is one."""

    baseline: str
    seed: int | None = None
    visible: int = 6

    def decision(self, sim: Sim, joint: Any = None) -> Picking:
        if joint is not None:
            joint = JointStarts(joint) if isinstance(sim.detail, Detail) else JointPlacement(joint)
        picking = Chooser(SimpleNamespace(config=self), OneRow(sim, self.visible), joint)  # type: ignore[arg-type]
        picking.rng = None if self.seed is None else np.random.default_rng(self.seed)
        return picking


class Chooser(Picking):
    rng: Any = None

    def choose(self) -> int:
        legal = np.flatnonzero(self._mask[0, :-1])
        return int(legal[0] if self.rng is None else self.rng.choice(legal))
