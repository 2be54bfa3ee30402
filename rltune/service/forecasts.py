"""Run times learned while the service runs: the forecasts of `rltune.policies.learn`, for jobs that come one by one."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from rltune.policies.learn import FIRST_GUESS_S, RECENT

Group = tuple[str | None, ...]


def groups_of(user: str | None, vc: str | None, name: str | None, gpus: int) -> tuple[Group, ...]:
    """A job's groups, most specific first, as `rltune.policies.learn.group_table` has them."""
    size = str(gpus)
    return (("all", user, vc, name, size), ("user", user, size), ("vc", vc, size), ("gpus", size), ("any",))


@dataclass
class Forecasts:
    """``mean``: running mean of log(1 + run time in seconds) of each group with a history."""

    mean: dict[Group, float] = field(default_factory=dict)

    def learn(self, groups: tuple[Group, ...], run_s: float) -> None:
        """A job has ended after ``run_s`` seconds."""
        value = math.log1p(run_s)
        for group in groups:
            old = self.mean.get(group)
            self.mean[group] = value if old is None else old + RECENT * (value - old)

    def estimate(self, groups: tuple[Group, ...]) -> float:
        """Seconds that a job is expected to run, at least 1."""
        for group in groups:
            if group in self.mean:
                return max(1.0, math.expm1(self.mean[group]))
        return FIRST_GUESS_S
