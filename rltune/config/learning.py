"""Options of training: the network, the algorithms and the protocols. Light: the environment imports it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rltune.config.declare import option
from rltune.nouns.errors import InputError

VISIBLE = 64
"""Default number of jobs that the agent sees."""


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """Architecture of the network.

    Attributes:
        visible: jobs that the agent sees.
        hidden: units of the job MLP.
        attention: self-attention over the jobs instead of pooling alone.
        heads: of the attention.
        prior: logits by which each position of the baseline order falls behind the one before.
        wait_prior: logits of waiting, relative to the first job (the wait action starts out rare).
    """

    visible: int = VISIBLE
    hidden: int = 32
    attention: bool = False
    heads: int = 4
    prior: float = 0.2
    wait_prior: float = -3.0

    def __post_init__(self) -> None:
        if min(self.hidden, self.visible, self.heads) < 1 or (self.attention and self.hidden % self.heads):
            raise InputError(
                f"network: hidden={self.hidden}, heads={self.heads}, visible={self.visible}; all must be "
                "positive, and hidden a multiple of heads with attention"
            )

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class SteeringConfig:
    """The agent in index form: how long its rounds are, and its network.

    Attributes:
        round_s: simulated seconds between two settings of the levers; a round begins where jobs wait.
        hidden: units of each of two layers, of actor and critic apart.
        spread: deviation of what is tried at first, of the logarithmic range of a lever (`rltune.rl.steering.levers`).
    """

    round_s: float = 3600.0
    hidden: int = 64
    spread: float = 0.3

    def __post_init__(self) -> None:
        if self.hidden < 1 or not 1.0 <= self.round_s < math.inf or not 0.0 < self.spread <= 1.0:
            raise InputError(
                f"steering: round_s={self.round_s}, hidden={self.hidden}, spread={self.spread}; seconds of at least 1, units of "
                "at least 1, and a spread above 0 and at most 1 are needed"
            )

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class BatchNetworkConfig:
    """Architecture of the network that plans batches on MIG slices.

    Attributes:
        hidden: units of a task, a placement and the context.
        pair: units of a task in a slot.
    """

    hidden: int = 32
    pair: int = 16

    def __post_init__(self) -> None:
        if min(self.hidden, self.pair) < 1:
            raise InputError(f"network: hidden={self.hidden}, pair={self.pair}; both must be positive")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Sampling:
    """What every algorithm has."""

    envs: int = option(32, "episodes side by side in one compiled call", least=1)
    env_runners: int = option(0, "0: sample in this process; n: in n Ray workers", least=0)
    threads: int = option(1, "of tensor operations", least=1)


@dataclass
class Ppo(Sampling):
    """Proximal policy optimisation (Schulman et al., 2017) in RLlib."""

    # A second thread gains a tenth on so small a network.
    gamma: float = option(1.0, "an episode's return is its score: nothing is discounted")
    lambda_: float = option(0.95, "of generalised advantage estimation")
    lr: float = option(1.0e-3, "learning rate: falls linearly ...")
    lr_end: float = option(1.0e-4, "... to this")
    lr_steps: int = option(800_000, "... over this number of environment steps", least=1)
    clip: float = option(0.2)
    entropy: float = option(0.0)
    value_loss: float = option(0.5)
    grad_clip: float = option(0.5)
    passes: int = option(4, "passes over each epoch's steps", least=1)
    minibatch: int = option(512, least=1)


@dataclass
class BatchPpo(Sampling):
    """The same for the agent that plans batches on MIG slices."""

    envs: int = option(64, "episodes side by side in one compiled call", least=1)
    lambda_: float = option(0.95, "of generalised advantage estimation")
    lr: float = option(3.0e-3, "learning rate: falls linearly to ...")
    lr_end: float = option(1.0e-4, "... this at the last epoch")
    clip: float = option(0.2)
    entropy: float = option(0.0)
    value_loss: float = option(50.0, "rewards are hundredths")
    grad_clip: float = option(0.5)
    passes: int = option(6, "passes over each epoch's steps", least=1)
    minibatch: int = option(512, least=1)


@dataclass
class OffPolicy(Sampling):
    """What learners from a replay buffer share."""

    threads: int = option(2, "of tensor operations", least=1)
    gamma: float = option(0.99)
    n_step: int = option(3, "rewards before the bootstrap", least=1)
    lr: float = option(5.0e-4, "learning rate, with sac of the actor")
    buffer: int = option(50_000, "environment steps kept", least=1)
    prioritised: bool = option(False, "replay by TD error (Schaul et al., 2016) instead of evenly")
    learning_starts: int = option(1000, "environment steps before the first update", least=0)
    minibatch: int = option(256, least=1)
    replays: float = option(8, "times each step is replayed on average", above=0)
    target_every: int = option(
        0, "environment steps between updates of target networks; 0: after each gradient step", least=0
    )
    tau: float = option(0.01, "share of the online weights in such an update; 1: a copy", above=0, most=1)
    fragment: int = option(4, "steps each environment takes between updates", least=1)


@dataclass
class Dqn(OffPolicy):
    """Dueling double deep Q-learning (van Hasselt et al., 2016; Wang et al., 2016) in RLlib."""

    grad_clip: float = option(10.0)
    unit: float = option(
        0.01,
        "return units one logit is worth: the scale of differences between actions, and of the prior",
        above=0,
    )
    epsilon: float = option(0.5, "share of random legal actions: falls linearly ...", least=0, most=1)
    epsilon_end: float = option(0.05, "... to this", least=0, most=1)
    epsilon_steps: int = option(50_000, "... over this number of environment steps", least=1)


@dataclass
class Sac(OffPolicy):
    """Discrete soft actor-critic (Christodoulou, 2019) in RLlib."""

    critic_lr: float = option(1.0e-3)
    alpha_lr: float = option(1.0e-3)
    initial_alpha: float = option(
        0.01, "temperature, in return units; also what one logit of a critic is worth", above=0
    )
    target_entropy: float = option(0.5, "of log(legal actions), the entropy of picking evenly")


@dataclass
class Cma:
    """CMA-ES (Hansen, 2016) over constant levers, for agent=index: a search that sees nothing of the state, to hold agents against."""

    threads: int = option(1, "of tensor operations", least=1)
    envs: int = option(8, "episodes side by side in one compiled call", least=1)
    env_runners: int = option(0, "0: all in this process", least=0, most=0)
    population: int = option(9, "constants tried an epoch", least=2)
    windows: int = option(16, "episodes, evenly spaced over the training stretch, on which each is tried", least=1)
    sigma: float = option(0.3, "deviation of the first draws, of the logarithmic range of a lever", above=0, most=1)


ALGORITHMS = {"ppo": Ppo, "dqn": Dqn, "sac": Sac, "cma": Cma}
AGENTS = {"pick": ("ppo", "dqn", "sac"), "index": ("ppo", "cma")}
"""What an agent does, and what it may be trained by: it picks the jobs that start, or sets parameters of order and market."""


SIZES = "a whole number of at least 1, or a list of different ones, is needed"
SHARES = "a list of numbers above 0 and at most 1 is needed, e.g. [1.0]"


@dataclass
class Window:
    """RLTune's protocol: windows of consecutive jobs on an empty cluster."""

    window: int = option(256, "jobs of an episode", least=1)
    warmup: int = option(0, "jobs that run before it by the baseline order", least=0)
    nodes: int | Sequence[int] | None = option(
        None,
        "number of nodes to evaluate on, or a list of sizes; null: the cluster as it is",
        least=1,
        needs=SIZES,
    )
    train_scale: Sequence[float] = option(
        [1.0],
        "factors by which each of these sizes is multiplied for training",
        above=0,
        most=1,
        needs=SHARES,
    )


@dataclass
class Month(Window):
    """A continuous stretch: trained on windows that begin on a warm cluster, validated and evaluated on whole stretches."""

    warmup: int = option(1500, "jobs before it: two days of Helios arrivals, so that long jobs are running", least=0)
    nodes: int | Sequence[int] | None = option(
        [100, 85],
        "validated and evaluated at each of these sizes",
        least=1,
        needs=SIZES,
    )
    train_scale: Sequence[float] = option(
        [1.0, 0.88, 0.76],
        "factors by which each of these sizes is multiplied for training: fewer nodes, more contention",
        above=0,
        most=1,
        needs=SHARES,
    )


PROTOCOLS = {"window": Window, "month": Month}
