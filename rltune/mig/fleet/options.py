"""What a fleet is told when it is set up: GPU types and their limits, policy, quotas, migration, spare GPUs."""

from __future__ import annotations

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
        for model in self.initial:
            if geometry(model).model not in names:
                raise InputError(f"initial.{model}: the fleet has no such GPU type; it has {', '.join(names)}")
        self._check("policy", self.policy in POLICIES, f"one of {', '.join(POLICIES)}")
        self._check("learn", not self.learn or self.policy == "learned", "true with policy=learned only")
        self._check("half_life", self.half_life > 0, "requests above 0")
        self._check("migrate", 0 <= self.migrate <= 1, "a share of the requests from 0 to 1, such as 0.01")
        self._check("migrate_credit", self.migrate_credit >= 0, "a number of migrations, 0 or more")
        self._check("slack", self.slack >= 0, "a number of GPUs, 0 or more")
        self._check("chain", 1 <= self.chain <= 3, "1, 2 or 3 migrations")
        self._check("spares", self.spares is None or self.spares >= 0, "a number of GPUs, or null")
        self._check("idle_s", self.idle_s >= 0, "seconds, 0 or more")

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
