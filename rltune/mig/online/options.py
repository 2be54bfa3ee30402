"""The settings of a fleet: GPU types and their limits, policy, quotas, migration, spare GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

from pydantic import Field

from rltune.mig.geometry import geometry
from rltune.mig.online.policies import BestFit, FirstFit, FragmentationAware, Policy, Random
from rltune.mig.online.states import VALUED
from rltune.mig.online.value import Learned, LookAhead, Weights
from rltune.nouns.checked import Says, check_fields
from rltune.nouns.errors import InputError

POLICIES = ("first_fit", "random", "best_fit", "fragmentation", "lookahead", "learned")
ANYONE = "*"
"""Key of the quota of tenants that have none of their own."""


def _from_0(what: str) -> Says:
    return Says(f"accepted is {what}, 0 or more")


Whole = Annotated[int, Field(ge=0)]
Most = Annotated[int | None, Field(ge=0), Says("accepted is a whole number, 0 or more, or null")]
Flag = Annotated[bool, Says("accepted is true or false")]


@dataclass(frozen=True, slots=True)
class Growth:
    """A GPU type that may be provisioned, up to ``limit`` GPUs at a time (None: without end)."""

    model: str
    limit: Most = None

    def __post_init__(self) -> None:
        check_fields(self, f"gpu={self.model}")


@dataclass(frozen=True, slots=True)
class Quota:
    """Most ``instances`` and compute ``slices`` that a tenant may hold at a time; None: without end."""

    instances: Most = None
    slices: Most = None

    def __post_init__(self) -> None:
        check_fields(self, "quotas")


@dataclass(frozen=True)
class FleetOptions:
    """Everything that decides what a fleet does; InputError names what is wrong and what would be accepted.

    ``growth`` GPU types in the order in which they are provisioned; ``initial`` GPUs of a type at the start;
    ``policy`` one of ``POLICIES``; ``learn`` whether `learned` goes on learning; ``weights`` a file for `learned` (None:
    the one that comes with the package); ``quotas`` by tenant, ``*`` for everyone else;
    ``lazy`` keep released instances until their slices are needed, to assign them again at no cost;
    ``media`` offer profiles with the media engines too; ``half_life`` of the demand estimate in requests;
    ``migrate`` most migrations, as a share of requests so far, of which ``migrate_credit`` may be spent before they are
    earned, and only where a GPU more would leave more than ``slack`` GPUs above the lower bound of demand so far (an
    early migration only puts a GPU off; the fewer GPUs, the more requests need another); ``chain`` most for one request;
    ``spares`` empty GPUs to keep (None: never give one back by itself), of those empty for ``idle_s`` seconds or longer;
    ``seed`` of the random policy.
    """

    growth: tuple[Growth, ...]
    initial: Mapping[str, Annotated[Whole, _from_0("a whole number of GPUs")]] = field(default_factory=dict)
    policy: str = "lookahead"
    learn: Flag = False
    weights: Annotated[str | None, Says("accepted is the name of a file, or null")] = None
    quotas: Mapping[str, Quota] = field(default_factory=dict)
    lazy: Flag = False
    media: Flag = False
    half_life: Annotated[float, Field(gt=0), Says("accepted are requests above 0, such as 500")] = 500.0
    migrate: Annotated[
        float, Field(ge=0, le=1), Says("accepted is a share of the requests from 0 to 1, such as 0.01")
    ] = 0.0
    migrate_credit: Annotated[Whole, _from_0("a whole number of migrations")] = 0
    slack: Annotated[Whole, _from_0("a whole number of GPUs")] = 1
    chain: Annotated[int, Field(ge=1, le=3), Says("accepted are 1, 2 or 3 migrations")] = 3
    spares: Most = None
    idle_s: Annotated[float, Field(ge=0), _from_0("a number of seconds")] = 0.0
    seed: Annotated[Whole, _from_0("a whole number")] = 0

    def __post_init__(self) -> None:
        check_fields(self)
        names = [geometry(g.model).model for g in self.growth]
        if not names or len(set(names)) < len(names):
            raise InputError(f"gpu={','.join(names)}: name at least one GPU type, each once")
        for model, count in self.initial.items():
            self._check_initial(names, model, count)
        if self.policy not in POLICIES:
            raise InputError(f"policy={self.policy!r}; accepted is one of {', '.join(POLICIES)}")
        if self.learn and self.policy != "learned":
            raise InputError("learn=True; accepted is true with policy=learned only")

    def _check_initial(self, names: list[str], model: str, count: int) -> None:
        if geometry(model).model not in names:
            raise InputError(f"initial.{model}: the fleet has no such GPU type; it has {', '.join(names)}")
        limit = self.growth[names.index(geometry(model).model)].limit
        same = sum(n for m, n in self.initial.items() if geometry(m).model == geometry(model).model)
        if limit is not None and same > limit:
            raise InputError(f"initial.{model}={count}: accepted are at most {limit} GPUs, the limit of this type")

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
