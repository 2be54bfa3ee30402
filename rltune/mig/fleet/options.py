"""What a fleet is told when it is set up: GPU types and their limits, policy, quotas, migration, spare GPUs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rltune.errors import InputError
from rltune.mig.fleet.policies import BestFit, FirstFit, FragmentationAware, Policy, Random
from rltune.mig.fleet.states import VALUED
from rltune.mig.fleet.value import Learned, LookAhead, Weights
from rltune.mig.geometry import geometry

POLICIES = ("first_fit", "random", "best_fit", "fragmentation", "lookahead", "learned")
ANYONE = "*"
"""Key of the quota of tenants that have none of their own."""


@dataclass(frozen=True, slots=True)
class Growth:
    """A GPU type that may be provisioned, up to ``limit`` GPUs at a time (None: without end)."""

    model: str
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Quota:
    """Most ``instances`` and compute ``slices`` that a tenant may hold at a time; None: without end."""

    instances: int | None = None
    slices: int | None = None


@dataclass(frozen=True)
class FleetOptions:
    """Everything that decides what a fleet does; InputError names what is wrong and what would be accepted.

    ``growth`` GPU types in the order in which they are provisioned; ``initial`` GPUs of a type at the start;
    ``policy`` one of ``POLICIES``; ``learn`` whether `learned` goes on learning; ``weights`` a file for `learned` (None:
    the one that comes with the package); ``quotas`` by tenant, ``*`` for everyone else;
    ``lazy`` keep instances that nobody holds until their room is wanted, to hand them out again at no cost;
    ``media`` offer profiles with the media engines too; ``half_life`` of the demand estimate in requests;
    ``migrate`` most migrations, as a share of requests so far, of which ``migrate_credit`` may be spent before they are
    earned, and only where a GPU more would leave more than ``slack`` GPUs above the lower bound of demand so far (an
    early migration only puts a GPU off; the fewer GPUs, the more requests need another); ``chain`` most for one request;
    ``spares`` empty GPUs to keep (None: never give one back by itself), of those empty for ``idle_s`` seconds or longer;
    ``seed`` of the random policy.
    """

    growth: tuple[Growth, ...]
    initial: Mapping[str, int] = field(default_factory=dict)
    policy: str = "lookahead"
    learn: bool = False
    weights: str | None = None
    quotas: Mapping[str, Quota] = field(default_factory=dict)
    lazy: bool = False
    media: bool = False
    half_life: float = 500.0
    migrate: float = 0.0
    migrate_credit: int = 0
    slack: int = 1
    chain: int = 3
    spares: int | None = None
    idle_s: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        names = [geometry(g.model).model for g in self.growth]
        if not names or len(set(names)) < len(names):
            raise InputError(f"gpu={','.join(names)}: name at least one GPU type, each once")
        for model, count in self.initial.items():
            self._check_initial(names, model, count)
        self._check("policy", self.policy in POLICIES, f"one of {', '.join(POLICIES)}")
        for name in ("learn", "lazy", "media"):
            self._check(name, isinstance(getattr(self, name), bool), "true or false")
        self._check("learn", not self.learn or self.policy == "learned", "true with policy=learned only")
        self._check("weights", self.weights is None or isinstance(self.weights, str), "the name of a file, or null")
        self._check("half_life", _number(self.half_life) and self.half_life > 0, "requests above 0, such as 500")
        right = _number(self.migrate) and self.migrate <= 1
        self._check("migrate", right, "a share of the requests from 0 to 1, such as 0.01")
        self._check("migrate_credit", _number(self.migrate_credit), "a number of migrations, 0 or more")
        self._check("slack", _number(self.slack), "a number of GPUs, 0 or more")
        self._check("chain", _whole(self.chain) and 1 <= self.chain <= 3, "1, 2 or 3 migrations")
        self._check("spares", self.spares is None or _whole(self.spares), "a whole number of GPUs, or null")
        self._check("idle_s", _number(self.idle_s), "seconds, 0 or more")
        self._check("seed", _whole(self.seed), "a whole number, 0 or more")

    def _check_initial(self, names: list[str], model: str, count: Any) -> None:
        if geometry(model).model not in names:
            raise InputError(f"initial.{model}: the fleet has no such GPU type; it has {', '.join(names)}")
        if not _whole(count):
            raise InputError(f"initial.{model}={count!r}: accepted is a whole number of GPUs, 0 or more")
        limit = self.growth[names.index(geometry(model).model)].limit
        same = sum(n for m, n in self.initial.items() if geometry(m).model == geometry(model).model)
        if limit is not None and same > limit:
            raise InputError(f"initial.{model}={count}: accepted are at most {limit} GPUs, the limit of this type")

    def _check(self, name: str, right: bool, accepted: str) -> None:
        if not right:
            raise InputError(f"{name}={getattr(self, name)!r}: accepted is {accepted}")

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of profile that the fleet offers."""
        return (*VALUED, "1g+me", "2g+me") if self.media else VALUED

    def as_json(self) -> dict[str, Any]:
        """Plain values, for the head of a journal."""
        return asdict(self)

    @staticmethod
    def from_json(found: Mapping[str, Any]) -> FleetOptions:
        """What `as_json` gave."""
        plain = dict(found)
        plain["growth"] = tuple(Growth(**g) for g in plain["growth"])
        plain["quotas"] = {tenant: Quota(**quota) for tenant, quota in plain["quotas"].items()}
        return FleetOptions(**plain)


def _number(found: Any) -> bool:
    """Whether this is a finite number, 0 or more."""
    return isinstance(found, int | float) and not isinstance(found, bool) and math.isfinite(found) and found >= 0


def _whole(found: Any) -> bool:
    """Whether this is a whole number, 0 or more."""
    return isinstance(found, int) and _number(found)


def make_policy(options: FleetOptions, weights: Weights | None = None) -> Policy:
    """The policy that the options name; ``weights`` instead of the file's."""
    if options.policy == "learned":
        return Learned(weights or (Weights.load(options.weights) if options.weights else Weights.load()), options.learn)
    made: dict[str, type[FirstFit | Random | BestFit | FragmentationAware | LookAhead]] = {
        "first_fit": FirstFit,
        "random": Random,
        "best_fit": BestFit,
        "fragmentation": FragmentationAware,
        "lookahead": LookAhead,
    }
    return made[options.policy]()
