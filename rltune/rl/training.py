"""The training loop: epochs of an RLlib algorithm, validation by greedy play, the best policy kept."""

from __future__ import annotations

import copy
import csv
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from ray.rllib.algorithms.algorithm import Algorithm

from rltune.config.learning import SteeringConfig
from rltune.nouns.errors import InputError
from rltune.nouns.metrics import SCORE_METRIC, FloatArray, bootstrap_ci
from rltune.rl.averaging import AVERAGING, blend
from rltune.rl.network import JobNetwork, NetworkConfig
from rltune.rl.policy_file import BASELINE
from rltune.rl.rllib import PolicyModule, SteeringModule, build_ppo, sampled_epoch
from rltune.rl.rollout import play
from rltune.rl.rules import Setup
from rltune.rl.steering.network import SteeringNetwork
from rltune.rl.steering.rollout import play_rounds
from rltune.rl.value_algorithms import build_dqn, build_sac
from rltune.rl.weights_file import fill
from rltune.simulator.result import DAY_S

Network = JobNetwork | SteeringNetwork
Architecture = NetworkConfig | SteeringConfig
BUILDERS: dict[str, Callable[..., Algorithm]] = {"ppo": build_ppo, "dqn": build_dqn, "sac": build_sac}
CURVE_COLUMNS = ("epoch", "steps", "train_return", "validation_score", "baseline_score", "wall_s")


@dataclass
class Curve:
    """One row an epoch; ``validation_score`` only where validated."""

    rows: list[dict[str, Any]] = field(default_factory=list)

    def write(self, path: Path) -> None:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, CURVE_COLUMNS)
            writer.writeheader()
            writer.writerows(self.rows)

    @classmethod
    def read(cls, path: Path) -> Curve:
        with path.open(newline="") as file:
            return cls([{k: float(v) if v else None for k, v in row.items()} for row in csv.DictReader(file)])


@dataclass(frozen=True)
class Judged:
    """Episodes that a policy is validated on; ``by_day``: one long episode, judged day by day of submission."""

    setup: Setup
    first_jobs: Sequence[int]
    joint: Any = None
    by_day: bool = False

    def units(self, network: Network) -> FloatArray:
        """(n_units,) score of every window or day, larger is better; their mean is the score of all jobs."""
        if isinstance(network, SteeringNetwork):
            played = play_rounds(self.setup, network, self.first_jobs)
        else:
            played = play(self.setup, network, self.first_jobs, self.joint)
        if not self.by_day:
            return played.returns
        result = played.results[0]
        days, day = np.unique(result.jobs.submit_s // DAY_S, return_inverse=True)
        cost = result.scores()[SCORE_METRIC[self.setup.rules.score]]
        sums = np.bincount(day[result.finished], cost, minlength=len(days))
        return np.asarray(-sums * len(sums) / len(cost))


def untrained_network(config: Architecture) -> Network:
    """The baseline as a network of either form."""
    return SteeringNetwork(config) if isinstance(config, SteeringConfig) else JobNetwork(config)


class Validator:
    """Greedy scores before the test: on windows, or on the whole stretch, at every cluster size of the evaluation.

    Sizes count alike: each one's scores are scaled to the same mean for the baseline
    order. A unit is a window or a day, averaged over the sizes, which share its jobs.
    """

    def __init__(self, judged: Sequence[Judged], network: Architecture) -> None:
        self.judged = judged
        untrained = untrained_network(network)
        found = [each.units(untrained) for each in judged]
        if len(found[0]) < 2:
            raise InputError(
                f"{judged[0].setup.trace.label}: the validation stretch holds {len(found[0])} window or day, which cannot "
                "tell luck from skill; give a longer trace.validate, a smaller protocol.window or more validation_windows"
            )
        means = [abs(float(units.mean())) for units in found]
        self.scales = [float(np.mean(means)) / mean if mean > 0 else 1.0 for mean in means]
        self.baseline = self._averaged(found)
        """(n_units,) scores of the baseline order: an untrained network."""

    def scores(self, network: Network) -> FloatArray:
        """(n_units,) score of every window or day; larger is better."""
        return self._averaged([each.units(network) for each in self.judged])

    def _averaged(self, units: Sequence[FloatArray]) -> FloatArray:
        return np.asarray(np.mean([scale * each for scale, each in zip(self.scales, units, strict=True)], axis=0))


def worth_keeping(candidate: FloatArray, kept: FloatArray, baseline: FloatArray) -> bool:
    """Whether a policy's scores by unit (n_units,) replace the kept one's: a better mean, and clearly above the baseline.

    Clearly: the paired gain is above 0 with its whole 95 % interval. A rule against
    luck, not a test: a few windows carry most of the wait, and looking again every few
    epochs makes a false "clearly" likelier than 1 in 40. Only the test stretch, which
    nothing here sees, says how good a policy is.
    """
    low, _ = bootstrap_ci(candidate - baseline)
    return bool(candidate.mean() > kept.mean() and low > 0)


def build(algo: Mapping[str, Any], vector_env: Any, network: Architecture, batch: int, seed: int) -> Algorithm:
    """The RLlib algorithm that ``algo`` names; ``batch``: environment steps an epoch."""
    name = str(algo["name"])
    if name not in BUILDERS:
        raise InputError(f"algo={name} is unknown; known are {', '.join(BUILDERS)}")
    torch.manual_seed(seed)
    if name == "ppo":
        module = SteeringModule if isinstance(network, SteeringConfig) else PolicyModule
        return build_ppo(vector_env, network, algo, batch, seed, module)
    return BUILDERS[name](vector_env, network, algo, batch, seed)


def load_weights(algorithm: Algorithm, network: Network) -> None:
    """Start an algorithm from given weights (fine-tuning). Raises InputError where the architectures differ."""
    module = algorithm.get_module()
    try:
        module.net.load_state_dict(network.state_dict())
    except RuntimeError as error:
        raise InputError(
            f"checkpoint: its network does not fit ({str(error).splitlines()[0]}); use the network options it had"
        ) from None
    state = module.get_state()
    algorithm.learner_group.set_state({"learner": {"rl_module": {"default_policy": state}}})
    algorithm.env_runner_group.sync_weights(from_worker_or_learner_group=algorithm.learner_group)


@dataclass
class Outcome:
    """What training leaves: the network kept and what it is (an epoch, the baseline order, the given parent).

    ``kept_scores``: (n_units,) its scores on the validation stretch; ``average``: the running average of the weights, with
    which training goes on.
    """

    network: Network
    kept: str
    kept_scores: FloatArray
    baseline_score: float
    average: Network
    curve: Curve

    @property
    def score(self) -> float:
        """Of the network kept, on the validation stretch; larger is better."""
        return float(self.kept_scores.mean())

    def tree(self) -> dict[str, Any]:
        """All of it as plain values and arrays; for `of_tree`."""
        return {
            "network": self.network.state_dict(),
            "kept": self.kept,
            "kept_scores": self.kept_scores,
            "baseline_score": self.baseline_score,
            "average": self.average.state_dict(),
            "curve": self.curve.rows,
        }

    @classmethod
    def of_tree(cls, tree: Mapping[str, Any], config: Architecture) -> Outcome:
        """What `tree` was made of. Raises KeyError, TypeError, ValueError or RuntimeError for what does not fit."""
        kept, average = untrained_network(config), untrained_network(config)
        fill(kept, tree["network"])
        fill(average, tree["average"])
        curve = Curve([dict(row) for row in tree["curve"]])
        return cls(kept, tree["kept"], tree["kept_scores"], tree["baseline_score"], average, curve)


class Learner(Protocol):
    """What learns: its newest network, and an epoch of it."""

    @property
    def share(self) -> float:
        """Of the newest weights in the running average that is validated and kept."""
        ...

    @property
    def network(self) -> Network: ...

    def epoch(self, steps: int) -> tuple[float | None, int, Mapping[str, float]]:
        """One epoch: the mean return of its episodes (None: none came to its end), and environment steps in all, ``steps`` before;
        and what the learner tells of it (losses, as `learner_figures`)."""
        ...


@dataclass(frozen=True)
class Rllib:
    """An algorithm of RLlib as a learner."""

    algorithm: Algorithm
    share: float = AVERAGING

    @property
    def network(self) -> Network:
        found: Network = self.algorithm.get_module().net
        return found

    def epoch(self, steps: int) -> tuple[float | None, int, Mapping[str, float]]:
        """Raises RunError where nothing can be sampled any more."""
        result, steps = sampled_epoch(self.algorithm, steps)
        return _finite(result["env_runners"].get("episode_return_mean")), steps, learner_figures(result)


def start_of(network: Network, validator: Validator, parent: Network | None, what: str) -> Outcome:
    """The better of the baseline and the given policy, before training; ``network``: what training begins with."""
    baseline = float(validator.baseline.mean())
    untrained, average = untrained_network(network.config), copy.deepcopy(network)
    begun = Outcome(untrained, BASELINE, validator.baseline, baseline, average, Curve())
    if parent is None:
        return begun
    scores = validator.scores(parent)
    if scores.mean() > validator.baseline.mean():
        begun.network, begun.kept, begun.kept_scores = copy.deepcopy(parent), what, scores
    return begun


def train_epochs(
    learner: Learner,
    validator: Validator,
    last: int,
    validate_every: int,
    on_epoch: Callable[[Outcome, Mapping[str, float]], None],
    outcome: Outcome,
) -> None:
    """Train on to epoch ``last``; what ``outcome`` keeps stays until a network is worth keeping.

    ``on_epoch`` is told, after each, how things stand, and what the learner says of its losses.
    Raises RunError where nothing can be sampled any more.
    """
    rows, average = outcome.curve.rows, outcome.average
    steps = int(rows[-1]["steps"]) if rows else 0
    begun = time.perf_counter() - (float(rows[-1]["wall_s"]) if rows else 0.0)
    for epoch in range(len(rows) + 1, last + 1):
        returned, steps, told = learner.epoch(steps)
        blend(average, learner.network, learner.share)
        row: dict[str, Any] = {
            "epoch": epoch,
            "steps": steps,
            "train_return": returned,
            "validation_score": None,
            "baseline_score": outcome.baseline_score,
            "wall_s": round(time.perf_counter() - begun, 2),
        }
        if epoch % validate_every == 0 or epoch == last:
            scores = validator.scores(average)
            row["validation_score"] = float(scores.mean())
            if worth_keeping(scores, outcome.kept_scores, validator.baseline):
                outcome.network, outcome.kept, outcome.kept_scores = copy.deepcopy(average), f"epoch {epoch}", scores
        rows.append(row)
        on_epoch(outcome, told)


def learner_figures(result: Mapping[str, Any]) -> dict[str, float]:
    """What RLlib's learner tells of an epoch (losses, entropy, gradient norm, learning rate), single finite numbers alone."""
    told = result.get("learners", {}).get("default_policy", {})
    numbers = {name: _finite(value) for name, value in told.items() if isinstance(value, int | float | np.number)}
    return {f"learner/{name}": value for name, value in numbers.items() if value is not None}


def _finite(value: Any) -> float | None:
    return float(value) if value is not None and np.isfinite(value) else None
