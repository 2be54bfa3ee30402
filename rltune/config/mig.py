"""The options of `rltune.mig batch`, `serve-trace`, `serve` and `train`, each declared once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rltune.config.declare import default_of, option, part
from rltune.config.learning import BatchNetworkConfig, BatchPpo
from rltune.mig.batch.families import FAMILIES
from rltune.mig.online.options import POLICIES, FleetOptions

RANGE = "the least and the most tasks of a batch are needed, such as [6, 20]"
SECONDS = "a number of seconds of at least {} is needed"


def of_fleet(name: str) -> Any:
    return default_of(FleetOptions, name)


@dataclass
class MigCommon:
    """What these commands have."""

    seed: int = option(0, least=0)
    name: Any = option(None, "of the run directory; null: made of the options")
    runs: str = option("runs", "where run directories go")
    remove_partial: bool = option(False, "first remove the hidden directories that killed runs left there")


@dataclass
class MigBatch(MigCommon):
    """python -m rltune.mig batch tasks.csv gpu=a100-80gb seconds=1"""

    tasks: str | None = option(
        None,
        "CSV: task, a column a profile (1g, 2g, ...) with seconds; optionally memory_gb, model, batch, arrival_s",
    )
    gpu: str | Sequence[str] = option(
        "a100-80gb", "GPU model, or a list of models, one a GPU: [a100-80gb, a100-80gb, a30]"
    )
    gpus: int = option(1, "number of GPUs of each model", least=1)
    seconds: float = option(1.0, "of search, a batch", least=1e-3, needs=SECONDS.format("0.001"))
    steps: int | None = option(
        None, "search for this number of steps instead of `seconds`: the same seed then gives the same plan", least=1
    )
    prove_s: float = option(
        10.0,
        "seconds at most to prove a lower bound, a batch (up to 8 tasks are solved exactly, too); 0: only the quick bounds",
        least=0,
        needs=SECONDS.format("0"),
    )
    agent: str | None = option(
        None, "trained policy whose plan the search also begins from (one GPU): a .safetensors file"
    )


@dataclass
class MigServe(MigCommon):
    """python -m rltune.mig serve-trace events.csv gpu=a100-80gb policy=lookahead ... (or: serve journal=FILE ...)"""

    events: Any = option(
        None, "serve-trace: .csv (event,tenant,profile; time_s and request if wanted) or .json, plain or .gz"
    )
    workload: Any = option(None, "of a JSON file with several")
    sequence: int = option(0, "which one of the workload", least=0)
    gpu: str | Sequence[str] = option(
        "a100-80gb", "GPU types in the order in which they are provisioned; a limit after a colon: [a30:4, h100-80gb]"
    )
    initial: Any = option(None, "GPUs at the start, by type: {a30: 2}")
    policy: str = option(of_fleet("policy"), "what chooses the slot of an instance", choices=POLICIES)
    weights: str | None = option(of_fleet("weights"), "of policy=learned: a file; null: those that come with rltune")
    learn: bool = option(of_fleet("learn"), "policy=learned goes on learning from what it serves")
    quotas: Any = option(None, 'most a tenant may hold, "*" for everyone else: {"*": {instances: 4, slices: 14}}')
    lazy: bool = option(
        of_fleet("lazy"), "keep released instances until their slices are needed, and assign them again at no cost"
    )  # fmt: skip
    media: bool = option(of_fleet("media"), "offer profiles with the media engines too")
    half_life: float = option(of_fleet("half_life"), "requests after which the demand estimate has forgotten half")
    migrate: float = option(of_fleet("migrate"), "most migrations as a share of requests: 0.01")
    migrate_credit: float = option(of_fleet("migrate_credit"), "migrations that may be spent before they are earned")
    slack: float = option(
        of_fleet("slack"),
        "migrate only where one more GPU would exceed the lower bound by more than this number of GPUs",
    )
    chain: int = option(of_fleet("chain"), "most migrations for one request")
    spares: int | None = option(of_fleet("spares"), "empty GPUs to keep; null: a GPU is never given back")
    idle_s: float = option(of_fleet("idle_s"), "seconds a GPU must be empty before it is given back")
    journal: Any = option(None, "serve: file of accepted events; an existing one is continued")
    device: Any = option(
        None,
        "serve: on these GPUs: nvml, or simulated:4xa100-80gb; needs a journal; null: no GPUs behind it",
    )


@dataclass
class MigTrain(MigCommon):
    """python -m rltune.mig train family=all epochs=360 ..."""

    gpu: str = option("a100-80gb", "type of seven slices; the policy serves every type")
    family: str = option("all", "of batches", choices=("all", *FAMILIES))
    tasks: Sequence[int] = option([6, 20], "in a batch, at least and at most", least=1, needs=RANGE)
    online: float = option(0.2, "share of batches of which only `window` tasks are visible at a time", least=0, most=1)
    online_tasks: Sequence[int] = option([15, 50], "tasks of such a batch, at least and at most", least=1, needs=RANGE)
    window: int = option(5, least=1)
    needy: float = option(
        0.1, "share of batches in which some tasks need more memory than small profiles have", least=0, most=1
    )
    epochs: int = option(360, least=1)
    steps_per_epoch: int = option(8192, "environment steps", least=1)
    validate_every: int = option(5, "epochs", least=1)
    validation_batches: int = option(20, "of each family, with `validation_tasks`", least=1)
    validation_tasks: int = option(14, least=1)
    network: Any = part(BatchNetworkConfig)
    algo: Any = part(BatchPpo, "proximal policy optimisation (Schulman et al., 2017) in RLlib")
    checkpoint_every: int = option(5, "epochs; a run that is killed loses at most the epochs since", least=1)
    resume: str | None = option(
        None, "run to go on with: a finished one for `epochs` more, one that was cut off until it has its `epochs`"
    )
    checkpoint: str | None = option(None, "agent to go on from: a policy.safetensors or a run directory")
    progress: bool = option(True)
