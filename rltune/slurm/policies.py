"""Policies by name beside Slurm: orders, learned ones, and what those of the simulation that suspend come to where nothing is suspended."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rltune import api
from rltune.nouns.errors import InputError
from rltune.nouns.plan import FloatArray, Queue, Snapshot
from rltune.policies.orders import ORDERS, order
from rltune.simulator.decisions import Picker, Steerer
from rltune.simulator.full import preemptive_policy
from rltune.slurm.reading import Job

SAME = {"srtf": "sjf", "srsf": "saf"}
"""Remaining work of a job that waits is all of it."""
FLOWS = {"fair_user": "user", "fair_vc": "account"}
"""Whose usage is charged, by field of `Job`: Slurm's accounts are the virtual clusters here."""


class Named(NamedTuple):
    """A policy, and whose usage it goes by ("user", "account"; "": nobody's)."""

    policy: Any
    flow: str = ""

    @property
    def picks(self) -> bool:
        """Whether it is a learned one that picks the jobs that start."""
        return isinstance(self.policy, Picker)

    def keys(self, jobs: Sequence[Job], usage: Mapping[str, float]) -> Callable[[Queue, Snapshot], Any]:
        """The policy for these jobs, row by row of the queue; ``usage``: decayed GPU-seconds by user or account."""
        if not self.flow:
            return self.policy  # type: ignore[no-any-return]
        used: FloatArray = np.array([usage.get(getattr(job, self.flow), 0.0) for job in jobs], np.float64)
        return lambda queue, snapshot: used


def policy_of(name: str) -> Named:
    """The policy of that name. InputError for one that is nothing without suspension, and for agents in index form."""
    special = preemptive_policy(name)
    if special is None:
        found: Any = api.load_policy(name) if api.is_learned(name) else order(name)
        if isinstance(found, Steerer):
            raise InputError(
                f"policy={name}: an agent in index form sets parameters of {found.baseline} in a simulation; use an order, or a policy of "
                "agent=pick"
            )
        return Named(found)
    if special.name in SAME:
        return Named(order(SAME[special.name]))
    if special.name in FLOWS:
        return Named(None, FLOWS[special.name])
    if special.name == "priority":
        return Named(lambda queue, snapshot: -queue.priority)
    raise InputError(
        f"policy={name}: {special.name} goes by service that suspended jobs have had; beside Slurm nothing is suspended: use "
        f"{', '.join([*ORDERS, *SAME, *FLOWS, 'priority'])}, or a learned policy"
    )
