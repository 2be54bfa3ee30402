"""Speed of what learns: steps of the environment, and of PPO beside an environment that does nothing."""

from __future__ import annotations

import time
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

import rltune
from rltune.allocators.milp import MilpAllocator
from rltune.bench.rows import row
from rltune.config.choices import node
from rltune.config.commands import Train
from rltune.config.declare import defaults
from rltune.nouns.cluster import Cluster, Pool
from rltune.report.console import say
from rltune.rl.env import VectorSchedulingEnv, spaces
from rltune.rl.joint import JointPlacement
from rltune.rl.network import NetworkConfig
from rltune.rl.rules import Rules, Setup, make_setup
from rltune.traces import Trace

ENVS = 64
RLTUNE_VISIBLE = 128
"""Jobs the published agent sees; the environment is measured with as many."""


def random_steps(env: VectorSchedulingEnv, steps: int, seed: int = 0) -> float:
    """Steps per second with uniformly random legal actions, drawing them included."""
    rng = np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    begun = time.perf_counter()
    for _ in range(steps):
        mask = observation["action_mask"]
        observation, *_ = env.step((rng.random(mask.shape) * mask).argmax(1))
    return steps * env.num_envs / (time.perf_counter() - begun)


ENVIRONMENTS = (
    ("skip", "env_steps_per_s_helios_x1", 5e4),
    ("easy", "env_easy_steps_per_s_helios_x1", None),
    ("blocking", "env_blocking_steps_per_s_helios_x1", None),
)
WITH_MILP = ("env_milp_steps_per_s_helios_x1", 1500)


def bench_environment(trace: Trace) -> list[dict[str, Any]]:
    """Environment steps with random legal actions on the published protocol's windows, observation included."""
    cluster = rltune.load_cluster("rltune_helios")
    rows = []
    for backfill, name, aim in ENVIRONMENTS:
        setup = make_setup(trace, cluster, Rules(backfill=backfill, baseline="fifo", visible=RLTUNE_VISIBLE))
        env = VectorSchedulingEnv(setup, ENVS)
        random_steps(env, 20)
        rate = float(np.median([random_steps(env, 300, seed) for seed in range(5)]))
        rows.append(row(name, rate, "steps/s", aim, trace.label, f"{ENVS} episodes, {RLTUNE_VISIBLE} visible jobs"))
    rules = Rules(backfill="skip", baseline="fifo", visible=RLTUNE_VISIBLE, allocator="milp")
    name, aim = WITH_MILP
    rows.append(milp_row(name, aim, trace.label, make_setup(trace, cluster, rules)))
    return rows + bench_full_environment(trace)


def milp_row(name: str, aim: float, trace: str, setup: Setup) -> dict[str, Any]:
    """Environment steps where the MILP places what is started, each time from an empty cache."""
    random_steps(VectorSchedulingEnv(setup, ENVS, joint=JointPlacement(MilpAllocator())), 5)
    rates = []
    for seed in range(3):
        joint = JointPlacement(MilpAllocator())
        rates.append(random_steps(VectorSchedulingEnv(setup, ENVS, joint=joint), 600, seed))
    stats = joint.stats
    note = (
        f"median of 3 from an empty cache; the last: {stats['calls']} joint decisions, {stats['solves']} solved, "
        f"{stats['cache_hits']} cached, fallbacks {stats['fallbacks'] or 0}"
    )
    return row(name, float(np.median(rates)), "steps/s", aim, trace, note)


def not_measured(why: str) -> list[dict[str, Any]]:
    """The rows of ``bench_environment`` without values, where its trace is missing."""
    aims = [(name, aim) for _, name, aim in ENVIRONMENTS] + [WITH_MILP, FULL_ENVIRONMENT, SUSPENDING, FULL_WITH_MILP]
    return [row(name, None, "steps/s", aim, "rltune_helios", f"not measured: {why}") for name, aim in aims]


FULL_ENVIRONMENT = ("env_full_steps_per_s", 5e4)
FULL_WITH_MILP = ("env_full_milp_steps_per_s", 5e3)
SUSPENDING = ("env_full_suspending_steps_per_s", None)
UNLIKE = Cluster("helios_unlike", (Pool("v100", 9, 8, "V100"), Pool("p100", 8, 8, "P100")))
"""As many GPUs as RLTune's Helios cluster, of two types, open to all: jobs may choose."""
FULL_OPTIONS: dict[str, Any] = {
    "speed": {"name": "published"}, "node_mtbf_s": 2e6, "gpu_mtbf_s": 2e7, "checkpoint_s": 3600.0, "resume_s": 60.0,
}  # fmt: skip


def bench_full_environment(trace: Trace) -> list[dict[str, Any]]:
    """The environment on the full build: the same windows on unlike GPU types, with failures, checkpoints and overheads."""

    def setup_of(baseline: str, allocator: str = "best_fit") -> Setup:
        rules = Rules("wait", "skip", baseline, allocator, visible=RLTUNE_VISIBLE, options=FULL_OPTIONS)
        return make_setup(trace, UNLIKE, rules)

    rows = []
    for baseline, (name, aim) in (("fifo", FULL_ENVIRONMENT), ("las", SUSPENDING)):
        env = VectorSchedulingEnv(setup_of(baseline), ENVS)
        random_steps(env, 20)
        rate = float(np.median([random_steps(env, 300, seed) for seed in range(5)]))
        told = f"{ENVS} episodes, {RLTUNE_VISIBLE} visible jobs, baseline {baseline}, {UNLIKE.name}; {', '.join(FULL_OPTIONS)}"
        rows.append(row(name, rate, "steps/s", aim, trace.label, told))
    return [*rows, milp_row(*FULL_WITH_MILP, trace.label, setup_of("fifo", "milp"))]


class NullEnv(VectorEnv):
    """The same spaces and episode length as the real environment, and no work at all."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012  (Gymnasium's own pattern)

    def __init__(self, num_envs: int, visible: int, length: int) -> None:
        self.num_envs, self.length, self.t = num_envs, length, 0
        self.single_observation_space, self.single_action_space = spaces(visible)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        rng = np.random.default_rng(0)
        self.fixed: dict[str, Any] = {
            "action_mask": np.ones((num_envs, visible + 1), np.int8),
            "cluster": rng.random((num_envs, *self.single_observation_space["cluster"].shape), np.float32),
            "jobs": rng.random((num_envs, *self.single_observation_space["jobs"].shape), np.float32),
        }

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.t = 0
        return {k: v.copy() for k, v in self.fixed.items()}, {}

    def step(self, actions: Any) -> tuple[Any, ...]:
        self.t += 1
        over = np.full(self.num_envs, self.t % (self.length + 1) == self.length)
        return {k: v.copy() for k, v in self.fixed.items()}, np.zeros(self.num_envs), over, np.zeros_like(over), {}


def bench_ppo(trace: Trace, iterations: int) -> list[dict[str, Any]]:
    """PPO training steps per second against the same RLlib set-up on a null environment, alternating.

    Set up as `python -m rltune.train +trace=helios` is by default, the MILP included.
    """
    from rltune.rl.rllib import start_ray
    from rltune.rl.training import build

    options, training = node("algo", "ppo"), defaults(Train)
    cluster = rltune.load_cluster("helios_window")
    rules = Rules(baseline="f3", reward="relative", allocator="milp", visible=training["visible"])
    joint = JointPlacement(MilpAllocator())
    setup = make_setup(trace.between("2020-04-01", "2020-08-01"), cluster, rules)
    start_ray()
    batch = training["windows_per_epoch"] * rules.window

    def real(context: dict[str, Any]) -> gym.vector.VectorEnv:
        return VectorSchedulingEnv(setup, int(context.get("num_envs", 1)), seed=0, joint=joint)

    def null(context: dict[str, Any]) -> gym.vector.VectorEnv:
        return NullEnv(int(context.get("num_envs", 1)), rules.visible, rules.window)

    network = NetworkConfig(visible=rules.visible, **training["network"])
    sides = {name: build(options, env, network, batch, 0) for name, env in (("real", real), ("null", null))}
    times: dict[str, list[float]] = {"real": [], "null": []}
    for _ in range(iterations + 1):
        for name, algorithm in sides.items():
            begun = time.perf_counter()
            algorithm.train()
            times[name].append(time.perf_counter() - begun)
    rate = {name: batch / float(np.median(values[1:])) for name, values in times.items()}
    for algorithm in sides.values():
        algorithm.stop()
    note = f"{iterations} epochs each, alternating"
    return [
        row("ppo_steps_ratio_to_null", rate["real"] / rate["null"], "ratio", 0.8, trace.label, note),
        row("ppo_steps_per_s", rate["real"], "steps/s", None, trace.label, "sampling and learning, one core"),
        row("ppo_null_steps_per_s", rate["null"], "steps/s", None, "none", "RLlib's own ceiling with this network"),
    ]


def environment_rows() -> list[dict[str, Any]]:
    """The environment on the windows of the published protocol, where that trace is at hand."""
    try:
        return bench_environment(rltune.load_trace("rltune_helios"))
    except rltune.InputError as error:
        say(f"skipped: environment on helios_x1 windows ({error})")
        return not_measured(str(error))
