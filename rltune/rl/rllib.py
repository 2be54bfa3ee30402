"""RLlib (new API stack) around the network and the environment: one of the few places that import Ray."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, Protocol

import gymnasium as gym
import ray
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis.value_function_api import ValueFunctionAPI
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from ray.tune.registry import register_env

from rltune.config.learning import SteeringConfig
from rltune.nouns.errors import InputError, RunError
from rltune.rl.network import JobNetwork, NetworkConfig
from rltune.rl.steering.network import SteeringNetwork

ENVIRONMENT = "rltune"
PATIENCE_S, AGAIN_S = 180.0, 1.0
"""How long workers that sample may be away (Ray starts one in seconds, and tries again), and seconds between tries."""
SEEDS_APART = 1000
"""RLlib numbers its workers upwards from the seed: further apart, runs of neighbouring seeds share none."""


class Architecture(Protocol):
    """A frozen dataclass that describes a network."""

    def as_dict(self) -> dict[str, Any]: ...


class ActorCritic(TorchRLModule, ValueFunctionAPI):
    """A network of (masked logits, value) as an actor-critic module; ``net`` is the network whose weights are shipped.

    Subclasses say which ``network`` and which ``architecture`` it is made from.
    """

    network: Any
    architecture: Any

    def setup(self) -> None:
        # RLlib adds settings of its own default networks to ours.
        ours = {field.name: self.model_config[field.name] for field in fields(self.architecture)}
        self.net = self.network(self.architecture(**ours))

    def _forward(self, batch: dict[str, Any], **_: Any) -> dict[str, Any]:
        logits, value = self.net(batch[Columns.OBS])
        return {Columns.ACTION_DIST_INPUTS: logits, Columns.EMBEDDINGS: value}

    def compute_values(self, batch: dict[str, Any], embeddings: torch.Tensor | None = None) -> torch.Tensor:
        """(batch,) values; ``embeddings`` are the values of a forward pass just made."""
        return self.net(batch[Columns.OBS])[1] if embeddings is None else embeddings


class PolicyModule(ActorCritic):
    """`JobNetwork` as an actor-critic module."""

    network, architecture = JobNetwork, NetworkConfig


class SteeringModule(ActorCritic):
    """`SteeringNetwork` as an actor-critic module: RLlib takes what it says as a normal distribution."""

    network, architecture = SteeringNetwork, SteeringConfig


STARTS = 3
"""Tries to start a local Ray."""


def start_ray(cpus: int | None = None) -> None:
    """Start a local Ray unless a launcher or the user has started one (RAY_ADDRESS joins a cluster). No dashboard."""
    # RLlib announces on every start that its new API stack is new.
    logging.getLogger("ray.rllib").setLevel(logging.ERROR)
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = os.environ.get("RAY_ADDRESS")
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address is None:
        start_local(num_cpus=cpus, include_dashboard=False, **quiet)
        return
    try:
        ray.init(address=address, **quiet)
    except Exception as error:
        # Ray has a dozen ways to say that a cluster is not there or the token is wrong.
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"RAY_ADDRESS={address}: cannot join this Ray cluster ({reason}); check the address, or unset it for a local Ray"
        ) from error


def start_local(**options: Any) -> None:
    """Start Ray on this machine; it gives itself 30 s, which a very busy machine can miss. InputError after `STARTS`."""
    for attempt in range(STARTS):
        try:
            ray.init(**options)
            return
        except Exception as error:
            ray.shutdown()
            if attempt == STARTS - 1:
                reason = str(error).strip().split("\n")[0]
                raise InputError(
                    f"Ray did not start on this machine in {STARTS} tries ({reason}); if the machine is busy, try again later, or name "
                    "a running Ray in RAY_ADDRESS"
                ) from error


class FromStore:
    """What makes the environment of a worker, kept in Ray's object store for as long as this process lives.

    Ray starts a dead worker again with the arguments it had; large ones it has thrown away by then, and the worker stays
    dead. This one is small.
    """

    def __init__(self, vector_env: Callable[[Any], gym.vector.VectorEnv]) -> None:
        self.reference = ray.put(vector_env)

    def __call__(self, context: Any) -> gym.vector.VectorEnv:
        """``context``: RLlib's, with ``num_envs``."""
        made: gym.vector.VectorEnv = ray.get(self.reference)(context)
        return made


def common(
    config: AlgorithmConfig, vector_env: Any, network: Architecture, module: Any, options: Mapping[str, Any], seed: int
) -> Any:
    """What all algorithms share: environment, sampling, module, seeds."""
    register_env(ENVIRONMENT, FromStore(vector_env) if int(options.get("env_runners", 0)) else vector_env)
    sample: gym.vector.VectorEnv = vector_env({"num_envs": 1})
    return (
        config.environment(
            ENVIRONMENT,
            observation_space=sample.single_observation_space,
            action_space=sample.single_action_space,
            disable_env_checking=True,
            # Numbers are clipped by the environment, and 0 must stay what it is.
            normalize_actions=False,
            clip_actions=False,
        )
        .env_runners(
            num_env_runners=int(options.get("env_runners", 0)),
            num_envs_per_env_runner=int(options.get("envs", 32)),
            gym_env_vectorize_mode=gym.VectorizeMode.VECTOR_ENTRY_POINT,
        )
        .rl_module(rl_module_spec=RLModuleSpec(module_class=module, model_config=network.as_dict()))
        .debugging(seed=SEEDS_APART * seed, log_level="ERROR")
        .reporting(min_time_s_per_iteration=0)
        # A worker that dies is started again; `sampled_epoch` waits for it.
        .fault_tolerance(restart_failed_env_runners=True)
    )


def sampled_epoch(algorithm: Algorithm, had: int, patience_s: float = PATIENCE_S) -> tuple[dict[str, Any], int]:
    """One epoch that did sample, and the environment steps sampled in all, which were ``had`` before.

    RLlib's own epoch ends at once, empty, while the workers that sample are away. Raises RunError where none comes back
    within ``patience_s`` seconds.
    """
    begun = time.monotonic()
    while True:
        result = algorithm.train()
        steps = result.get("num_env_steps_sampled_lifetime")
        if steps is not None and int(steps) > had:
            return result, int(steps)
        if time.monotonic() - begun > patience_s:
            raise RunError(
                f"no environment steps have been sampled for {patience_s:g} s: the workers died (killed, out of memory?) and "
                "did not come back; give fewer algo.env_runners or algo.envs, or 0 to sample in this process"
            )
        time.sleep(AGAIN_S)


def build_ppo(
    vector_env: Any,
    network: Architecture,
    options: Mapping[str, Any],
    batch: int,
    seed: int,
    module: type[ActorCritic] = PolicyModule,
) -> Algorithm:
    """PPO (Schulman et al., 2017). ``options``: of `rltune.config.learning.Ppo`; ``batch``: environment steps an epoch."""
    config = common(PPOConfig(), vector_env, network, module, options, seed)
    config = config.training(
        gamma=float(options["gamma"]),
        lambda_=float(options["lambda"]),
        lr=[[0, float(options["lr"])], [int(options["lr_steps"]), float(options["lr_end"])]],
        clip_param=float(options["clip"]),
        entropy_coeff=float(options["entropy"]),
        vf_loss_coeff=float(options["value_loss"]),
        vf_clip_param=float("inf"),
        use_kl_loss=False,
        grad_clip=float(options["grad_clip"]),
        num_epochs=int(options["passes"]),
        minibatch_size=min(int(options["minibatch"]), batch),
        train_batch_size_per_learner=batch,
    )
    return config.build_algo()
