"""What clients send: jobs and leases as strict models, and what the core makes of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from rltune.nouns.checked import Checked, Says
from rltune.nouns.cluster import Cluster
from rltune.nouns.errors import InputError
from rltune.nouns.gpus import GPU_TYPES
from rltune.nouns.jobs import WHOLE
from rltune.nouns.mig_profiles import NAMES
from rltune.nouns.ways import parse_ways
from rltune.simulator.requests import Request

NAME = r"^[A-Za-z0-9][A-Za-z0-9._:@/-]{0,99}$"
MOST_ARGUMENTS, MOST_TEXT, MOST_VARIABLES, MOST_ARRAY = 1000, 32_000, 1000, 10_000
LONGEST_S = 10 * 366 * 86_400.0
MOST_GPUS = 100_000
Text = Annotated[
    str, Field(max_length=MOST_TEXT, pattern=r"^[^\x00]*$"), Says("a text of up to 32,000 characters without NUL")
]
Name = Annotated[str, Field(pattern=NAME), Says("1 to 100 letters, digits or ._:@/-, the first a letter or digit")]
Seconds = Annotated[int | float, Field(gt=0, le=LONGEST_S), Says("seconds above 0, at most ten years")]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,200}$"), Says("a name such as EPOCHS")]


class Asked(Checked):
    """What jobs and leases ask for alike."""

    gpu_types: Annotated[
        list[str] | None,
        Field(min_length=1, max_length=20),
        Says(f"a list of GPU types, such as [{', '.join(list(GPU_TYPES)[:2])}]"),
    ] = None
    """GPU types that will do; null: any."""
    profile: Annotated[str | None, Says("a MIG profile such as 3g.20gb, or 3g for any size of it")] = None
    """A MIG slice in the place of GPUs."""
    slice_memory_gb: Annotated[int | float | None, Field(gt=0, le=1000), Says("GB above 0")] = None
    """The smallest MIG slice with at least this memory."""
    ways: Annotated[
        list[Annotated[str, Field(max_length=200)]] | None,
        Field(min_length=1, max_length=100),
        Says('a list of ways to run such as ["1xA100-40GB", "3g.20gb@0.8", "2xV100@0.6"]'),
    ] = None
    """Ways to run, of which the scheduler takes one at each start: GPUs, shares or slices, each with its relative speed."""
    priority: Annotated[
        int, Field(ge=-1000, le=1000), Says("a whole number from -1000 to 1000; larger is more urgent")
    ] = 0
    name: Annotated[Name | None, Says("1 to 100 letters, digits or ._:@/-")] = None

    def profiles(self, cluster: Cluster) -> list[tuple[str, str]]:
        """(GPU type, MIG profile) that will do on the cluster; empty where no slice is asked for. InputError: none does."""
        if self.profile is None and self.slice_memory_gb is None:
            return []
        types = sorted({pool.gpu_type for pool in cluster.pools if pool.mig and self._accepts(pool.gpu_type)})
        found = [(kind, name) for kind in types if (name := self._slice_of(kind)) is not None]
        if not found:
            there = sorted({name for pool in cluster.pools if pool.mig for name in NAMES[pool.gpu_type].values()})
            what = (
                f"profile={self.profile}" if self.profile is not None else f"slice_memory_gb={self.slice_memory_gb:g}"
            )
            raise InputError(f"{what} is cut from no GPU here; there are {', '.join(there) or 'no GPUs with MIG'}")
        return found

    def check_ways(self) -> None:
        """Refuse ways beside what they stand in the place of, and those that are none."""
        if self.ways is not None:
            if self.profile is not None or self.slice_memory_gb is not None or self.gpu_types is not None:
                raise InputError("ways are given; leave profile, slice_memory_gb and gpu_types out: ways name them")
            parse_ways(" | ".join(self.ways))

    def _accepts(self, kind: str) -> bool:
        return self.gpu_types is None or kind in self.gpu_types

    def _slice_of(self, kind: str) -> str | None:
        names = list(NAMES[kind].values())
        if self.profile is not None:
            if self.profile in names:
                return self.profile
            return next((name for name in names if name.split(".")[0] == self.profile), None)
        assert self.slice_memory_gb is not None
        wide = [(memory_of(name), name) for name in names if memory_of(name) >= self.slice_memory_gb]
        return min(wide)[1] if wide else None


def memory_of(profile: str) -> float:
    """GB of a MIG profile, by its name."""
    return float(profile.split(".")[1].removesuffix("gb"))


class JobSpec(Asked):
    """A job as clients submit it."""

    accepted = 'a job is an object such as {"command": ["python", "train.py"], "gpus": 1}'
    command: Annotated[
        list[Text],
        Field(min_length=1, max_length=MOST_ARGUMENTS),
        Says('a list of program and arguments, such as ["python", "train.py"]; no shell reads it'),
    ]
    environment: Annotated[
        dict[Variable, Text], Field(max_length=MOST_VARIABLES), Says("an object of names and texts")
    ] = Field(default_factory=dict)
    directory: Annotated[Text | None, Field(pattern=r"^/"), Says("an absolute path")] = None
    gpus: Annotated[int, Field(ge=0, le=MOST_GPUS), Says("a whole number from 0")] = 1
    """GPUs of the gang; 0: none, but CPUs or memory."""
    share: Annotated[float | None, Field(gt=0, lt=1), Says("a share of one GPU between 0 and 1")] = None
    cpus: Annotated[int | float, Field(ge=0, le=1e6), Says("CPU cores, at least 0")] = 0
    memory_gb: Annotated[int | float, Field(ge=0, le=1e9), Says("GB, at least 0")] = 0
    estimate_s: Seconds | None = None
    """What the run is expected to take; null: it is forecast."""
    limit_s: Seconds | None = None
    """After so long running, over all its runs, the job is stopped."""
    array: Annotated[int | None, Field(ge=1, le=MOST_ARRAY), Says(f"a whole number from 1 to {MOST_ARRAY:,}")] = None
    """So many jobs alike; each finds its number, from 0, in RLTUNE_ARRAY_INDEX."""
    suspend: Annotated[Literal["checkpoint", "stop", "never"], Says("checkpoint, stop or never")] = "checkpoint"
    """How it is suspended: SIGTERM (it saves and ends, and is begun again with RLTUNE_RESUME=1), SIGSTOP, or not at all."""
    grace_s: Annotated[int | float, Field(ge=0, le=3600), Says("seconds from 0 to 3600")] = 10
    """Between SIGTERM and SIGKILL."""
    retries: Annotated[int, Field(ge=0, le=100), Says("a whole number from 0 to 100")] = 0
    """How often a job that ends with a status other than 0 is begun anew."""
    user: Annotated[str | None, Field(pattern=r"^[a-z_][a-z0-9_-]{0,31}$"), Says("the name of a Unix user")] = None

    @model_validator(mode="after")
    def _agree(self) -> JobSpec:
        cut = self.profile is not None or self.slice_memory_gb is not None
        self.check_ways()
        if self.profile is not None and self.slice_memory_gb is not None:
            raise InputError("profile and slice_memory_gb are both given; give one of them")
        if cut and (self.gpus != 1 or self.share is not None):
            raise InputError("a MIG slice goes with gpus=1 and without share")
        if self.share is not None and self.gpus != 1:
            raise InputError(f"share={self.share:g} with gpus={self.gpus}; a share is of one GPU")
        if self.gpus == 0 and self.cpus == 0 and self.memory_gb == 0:
            raise InputError("gpus=0 without cpus or memory_gb asks for nothing; give one of them")
        return self


class LeaseSpec(Asked):
    """A MIG slice or whole GPUs held without a job."""

    accepted = 'a lease is an object such as {"profile": "3g"}'
    gpus: Annotated[int, Field(ge=1, le=MOST_GPUS), Says("a whole number from 1")] = 1
    ttl_s: Seconds | None = None
    """After so long it ends unless it is renewed; null: it does not end by itself."""
    wait_s: Annotated[int | float, Field(ge=0, le=86_400), Says("seconds from 0 to 86400")] = 0
    """How long the answer may take; 0: now or not at all."""

    @model_validator(mode="after")
    def _agree(self) -> LeaseSpec:
        self.check_ways()
        if self.profile is not None and self.slice_memory_gb is not None:
            raise InputError("profile and slice_memory_gb are both given; give one of them")
        if (self.profile is not None or self.slice_memory_gb is not None) and self.gpus != 1:
            raise InputError("a MIG slice goes with gpus=1")
        return self


def request_of(spec: JobSpec | LeaseSpec, tenant: str, cluster: Cluster) -> Request:
    """What the core is asked for. InputError: GPU types or slices that the cluster has not."""
    check_types(spec, cluster)
    slices = spec.profiles(cluster)
    common: dict[str, Any] = {"vc": tenant, "user": tenant, "name": spec.name, "priority": float(spec.priority)}
    if isinstance(spec, LeaseSpec):
        common |= {"firm": True}
    else:
        common |= {"cpus": float(spec.cpus), "memory_gb": float(spec.memory_gb), "firm": spec.suspend == "never"}
        common["estimate_s"] = float("nan") if spec.estimate_s is None else float(spec.estimate_s)
    if spec.ways is not None:
        return Request(gpus=max(1, spec.gpus), ways=" | ".join(spec.ways), **common)
    if slices:
        profiles = sorted({name for _, name in slices})
        kinds = "|".join(kind for kind, _ in slices)
        if len(profiles) == 1:
            return Request(mig=profiles[0], gpu_type=kinds, **common)
        ways = " | ".join(f"{name}:{kind}" for kind, name in slices)
        return Request(mig=profiles[0], ways=ways, **common)
    accepted = None if spec.gpu_types is None else "|".join(spec.gpu_types)
    share = getattr(spec, "share", None)
    milli = WHOLE if share is None else max(1, round(WHOLE * share))
    if spec.gpus == 0:
        return Request(gpus=1, gpu_milli=0, gpu_type=accepted, **common)
    return Request(gpus=spec.gpus, gpu_milli=milli, gpu_type=accepted, **common)


def check_types(spec: Asked, cluster: Cluster) -> None:
    """Refuse GPU types that the cluster has not."""
    there = sorted({pool.gpu_type for pool in cluster.pools if pool.gpus_per_node})
    unknown = [kind for kind in spec.gpu_types or () if kind not in there]
    if unknown and "any" not in there:
        raise InputError(f"gpu_types={unknown[0]} is none of this cluster; there are {', '.join(there)}")
