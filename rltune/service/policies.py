"""Which policy decides: by name, with backfill and allocator; tried out on a copy before it does, kept over restarts, rolled back."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from rltune import api
from rltune.core.resources.scores import SHARING_RULES
from rltune.models.catalogue import models
from rltune.nouns.errors import InputError
from rltune.policies.orders import ORDERS
from rltune.policies.preemptive import PREEMPTIVE
from rltune.service.engine import Engine
from rltune.service.errors import Refused
from rltune.simulator.decisions import Picker
from rltune.simulator.live import LiveCluster
from rltune.simulator.options import Options
from rltune.simulator.requests import Rules
from rltune.simulator.run import DETAILED, TRAINED, check_backfill

log = logging.getLogger("rltune.service")
MILP = "milp"


@dataclass(frozen=True, slots=True)
class Choice:
    """A policy (an order, one that suspends, a learned one: as `rltune.simulate` takes them by name) and what goes with it.

    ``milp``: options of allocator milp. ``guard``: whether a learned policy decides only while shadow simulation of the present
    says that it does no worse than rules (`rltune.simulator.guard`); a rule needs none.
    """

    policy: str = "fifo"
    backfill: str = "skip"
    allocator: str = "best_fit"
    milp: Mapping[str, Any] = field(default_factory=dict)
    guard: bool = True

    @property
    def name(self) -> str:
        """In one word."""
        return f"{self.policy}-{self.backfill}-{self.allocator}"

    def told(self) -> dict[str, Any]:
        """For clients."""
        return {"policy": self.policy, "backfill": self.backfill, "allocator": self.allocator, "guard": self.guard}


def rules_of(choice: Choice, options: Options) -> Rules:
    """What the core decides by. It may take seconds (PyTorch, the solver). InputError for names that there are not."""
    policy: Any = choice.policy
    if api.is_learned(choice.policy):
        policy = api.load_policy(choice.policy)
        policy = policy.guarded() if choice.guard else policy
    check_backfill(choice.backfill, TRAINED if isinstance(policy, Picker) else DETAILED)
    allocator: Any = choice.allocator
    if allocator not in (*SHARING_RULES, MILP):
        raise InputError(
            f"allocator={allocator!r} does not place jobs GPU by GPU; known are {', '.join((*SHARING_RULES, MILP))}"
        )
    if choice.allocator == MILP:
        from rltune.allocators.milp import MilpAllocator

        allocator = MilpAllocator(**choice.milp)
    return Rules(policy, choice.backfill, allocator, options)


def known() -> dict[str, list[str]]:
    """What there is to choose from."""
    return {
        "policies": [*ORDERS, *PREEMPTIVE],
        "models": models("scheduler"),
        "backfills": list(DETAILED),
        "allocators": [*SHARING_RULES, MILP],
    }


class Policies:
    """The policy of an engine, the one before it, and how they are changed. ``milp``: options of the solver."""

    def __init__(self, engine: Engine, choice: Choice, options: Options, milp: Mapping[str, Any] | None = None) -> None:
        self.engine, self.options, self.milp = engine, options, dict(milp or {})
        self.current, self.before = choice, _kept(engine, "choice_before")

    def with_changes(self, changes: Mapping[str, Any]) -> Choice:
        """The present choice with some of it changed."""
        return replace(self.current, **changes, milp=self.milp)

    def prepare(self, choice: Choice, copy: LiveCluster) -> Rules:
        """Rules of a choice, once they have decided on a copy of the cluster: what cannot be is refused here, and kernels are
        compiled while the present policy goes on deciding."""
        rules = rules_of(choice, self.options)
        copy.use(rules)
        copy.advance(copy.now_s)
        return rules

    def use(self, choice: Choice, rules: Rules) -> None:
        """On the engine's thread: they decide from now on, also after a restart."""
        self.engine.use(rules, choice.name)
        self.before, self.current = self.current, choice
        self.engine.ledger.meta("choice", asdict(choice))
        self.engine.ledger.meta("choice_before", asdict(self.before))

    def earlier(self) -> Choice:
        """The choice before the present one; `Refused` (409) where there is none."""
        if self.before is None:
            raise Refused(409, "there is no policy before this one to roll back to")
        return self.before


def _kept(engine: Engine, name: str) -> Choice | None:
    found = engine.store.meta(name)
    return None if found is None else Choice(**found)


def choice_at_start(engine_meta: Any, given: Choice) -> Choice:
    """The policy of a service that starts: the one that was chosen while it ran, unless the command line has changed since.

    ``engine_meta``: `rltune.service.store.Store.meta`.
    """
    if engine_meta("choice_given") == asdict(given) and (kept := engine_meta("choice")) is not None:
        return Choice(**kept)
    return given
