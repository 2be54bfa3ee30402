"""The environments of trainings by name: ``gymnasium.make("rltune/Pick-v0", trace="helios", nodes=25)``.

``rltune/Pick-v0`` picks the jobs that start, ``rltune/Index-v0`` sets parameters of the order, a round at a time
(docs/concepts/architecture.md). Both take the options of `rltune.train` by name; ``{"options.resume_s": 60}`` and
``options={"resume_s": 60}`` are alike. ``gymnasium.make_vec(..., num_envs=8, vectorization_mode="vector_entry_point")``
makes the ones that trainings use.
``import rltune.environments`` first, or ``gymnasium.make("rltune.environments:rltune/Pick-v0")``: Gymnasium 1.x does not look for
what packages bring along.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from gymnasium.envs.registration import register, registry

if TYPE_CHECKING:
    from rltune.rl.env import SchedulingEnv, VectorSchedulingEnv
    from rltune.rl.rules import Setup
    from rltune.rl.steering.env import SteeringEnv, VectorSteeringEnv

PICK: Mapping[str, Any] = {"trace": "synthetic", "allocator": "best_fit", "baseline": "sjf"}
INDEX: Mapping[str, Any] = {
    "trace": "synthetic", "agent": "index", "allocator": "best_fit", "baseline": "las", "backfill": "skip", "runtimes": "unknown",
    "options": {"resume_s": 60},
}  # fmt: skip
"""What differs from the defaults of `rltune.train`, unless it is given: no file, no solver, no search for the best order."""


def register_all() -> None:
    """Tell Gymnasium the names; what they stand for is loaded when it is made."""
    for name in ("pick", "index"):
        number = f"rltune/{name.capitalize()}-v0"
        if number not in registry:
            here = f"{__name__}:{name}"
            register(number, entry_point=here, vector_entry_point=f"{here}_many")


def pick(**options: Any) -> SchedulingEnv:
    """One episode at a time in which jobs are picked; ``stretch`` of the trace, ``reward`` (``relative`` as in training, ``score``).

    Raises InputError as the command line does.
    """
    from rltune.rl.env import SchedulingEnv

    return SchedulingEnv(setup_of({**PICK, **options}))


def pick_many(num_envs: int, **options: Any) -> VectorSchedulingEnv:
    """Several of them in one process."""
    from rltune.rl.env import VectorSchedulingEnv

    return VectorSchedulingEnv(setup_of({**PICK, **options}), num_envs)


def index(round_s: float = 3600.0, **options: Any) -> SteeringEnv:
    """One episode at a time in which parameters are set, every ``round_s`` simulated seconds; else as `pick`."""
    from rltune.rl.steering.env import SteeringEnv

    return SteeringEnv(setup_of({**INDEX, **options}), round_s)


def index_many(num_envs: int, round_s: float = 3600.0, **options: Any) -> VectorSteeringEnv:
    """Several of them in one process."""
    from rltune.rl.steering.env import VectorSteeringEnv

    return VectorSteeringEnv(setup_of({**INDEX, **options}), num_envs, round_s=round_s)


def setup_of(given: Mapping[str, Any]) -> Setup:
    """Jobs, cluster and rules that the options name, of the first of the protocol's cluster sizes."""
    from rltune.config.commands import Train
    from rltune.entry import composed
    from rltune.experiment.setup import make_experiment, resolve_rules

    options = dict(given)
    stretch, reward = options.pop("stretch", "train"), options.pop("reward", "relative")
    cfg = composed(Train, dict(flat(options)))
    experiment = make_experiment(cfg)
    rules = resolve_rules(experiment, cfg, visible=cfg["visible"], reward=reward)
    return experiment.setup(stretch, rules, experiment.sized(experiment.node_counts[0]))


def flat(options: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """(``options.resume_s``, 60) of ``{"options": {"resume_s": 60}}``."""
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


register_all()
