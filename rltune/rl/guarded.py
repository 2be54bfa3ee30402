"""A learned policy under guard: it decides only while shadow simulation says that it does no worse than rules (`rltune.simulator.guard`).

While it does not, its untrained network decides in its place, which is the baseline, schedule for schedule. The baseline begins;
what was learned takes over when it does better, and decides for as long as it does no worse.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rltune.core.reference import Ref
from rltune.core.state import BLOCKING, NOW, Sim
from rltune.nouns.errors import InputError
from rltune.simulator.decisions import Decision
from rltune.simulator.guard import Guard, Verdict, judge, rules_of


@dataclass(frozen=True)
class Guarding:
    """What a guard needs of a policy, beside `Guard`.

    ``plain``: its untrained network; ``shadow``: makes the learned policy decide in a shadow; ``prepare``: see `judge`.
    """

    plain: Any
    baseline: str
    score: str
    shadow: Callable[[Sim], Decision]
    prepare: Callable[[Ref], None] | None = None


@dataclass
class Tally:
    """How often each decided, and what it cost to find out."""

    checks: int = 0
    learned_checks: int = 0
    switches: int = 0
    decisions: dict[str, int] = field(default_factory=lambda: {"learned": 0, "baseline": 0})
    seconds: float = 0.0
    costs: dict[str, float] = field(default_factory=dict)

    def count(self, verdict: Verdict, learned: bool, switched: bool) -> None:
        """A verdict, and whether what was learned decides by it."""
        self.checks += 1
        self.learned_checks += learned
        self.switches += switched
        self.seconds += verdict.seconds
        for name, cost in verdict.costs.items():
            self.costs[name] = self.costs.get(name, 0.0) + cost


class Guarded:
    """A decision (`rltune.simulator.decisions.Decision`) whose network is exchanged for the untrained one and back.

    ``inner``: what decides with either, a `Picking` or a `Steering`.
    """

    def __init__(self, inner: Any, guarding: Guarding, guard: Guard, sim: Sim) -> None:
        if sim.params.backfill == BLOCKING:
            raise InputError(
                "guard=true: backfill=blocking waits for each job that was picked, and knows no instant to judge at; use easy or skip"
            )
        timed = not bool(np.isnan(sim.jobs.known).all())
        self.rules = rules_of(guard, guarding.baseline, timed or getattr(sim.params, "learns", False))
        self.inner, self.guarding, self.guard = inner, guarding, guard
        self.networks = {True: inner.network, False: guarding.plain}
        self.learned, self.tally, self._until = False, Tally(), -np.inf
        inner.exchange(guarding.plain)

    @property
    def records(self) -> list[dict[str, object]]:
        """A line a decision: those of ``inner``."""
        found: list[dict[str, object]] = self.inner.records
        return found

    @property
    def joint(self) -> Any:
        """What places the jobs of one instant together, as ``inner`` has it."""
        return self.inner.joint

    def take(self, state: Ref) -> None:
        """Judge where the last verdict no longer holds, then let the one that may decide."""
        sim: Sim = state.value
        now = float(sim.clock[NOW])
        if now >= self._until:
            self._until = now + self.guard.every_s
            rng = np.random.default_rng([sim.params.seed if hasattr(sim.params, "seed") else 0, self.tally.checks])
            mine = self.guarding
            verdict = judge(sim, mine.shadow, self.rules, mine.score, self.guard.ahead_s, rng, mine.prepare)
            learned = verdict.allows(self.learned, self.guard.tolerance)
            self.tally.count(verdict, learned, learned != self.learned)
            if learned != self.learned:
                self.learned = learned
                self.inner.exchange(self.networks[learned])
        self.tally.decisions["learned" if self.learned else "baseline"] += 1
        self.inner.take(state)

    def summary(self) -> dict[str, Any]:
        """As the result and summary.json tell it; costs are means over checks, ``s_a_check`` seconds of the wall clock."""
        tally, checks = self.tally, max(1, self.tally.checks)
        return {
            "rules": list(self.rules), "ahead_s": self.guard.ahead_s, "every_s": self.guard.every_s,
            "checks": tally.checks, "checks_for_learned": tally.learned_checks, "switches": tally.switches,
            "decisions": dict(tally.decisions), "mean_cost": {name: x / checks for name, x in tally.costs.items()},
            "s_a_check": tally.seconds / checks,
        }  # fmt: skip
