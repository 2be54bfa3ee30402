"""All that a training of RLlib's new API stack goes on from, as plain values: no pickle.

Beside what RLlib's own checkpoints hold (weights, optimiser, counters) these are the unfinished episodes, where each
environment stands, and the state of every random generator, so that a training that goes on from it is the same one.
Replay buffers (DQN, SAC) are left out: hundreds of megabytes, which fill again.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.env.utils.infinite_lookback_buffer import InfiniteLookbackBuffer

State = dict[str, Any]
SEQUENCES = ("observations", "actions", "rewards", "infos")
PLAIN = ("is_terminated", "is_truncated", "t_started", "t")
"""Parts of an episode: sequences with a look back, and plain values."""


class Chunk:
    """What metrics ask of the part of an episode that has been handed to the learner already."""

    def __init__(self, length: int, score: float, duration_s: float) -> None:
        self.length, self.score, self.duration_s = length, score, duration_s

    def __len__(self) -> int:
        return self.length

    def get_return(self) -> float:
        """Sum of its rewards."""
        return self.score

    def get_duration_s(self) -> float:
        """Seconds that it took."""
        return self.duration_s


def state_of(algorithm: Algorithm) -> State:
    """The state between two epochs. Not copied: `rltune.rl.state_file.pack` does."""
    learner = algorithm.learner_group.get_state()["learner"]
    group = algorithm.env_runner_group
    if group.num_remote_workers():
        found = group.foreach_env_runner(
            lambda runner: (runner.worker_index, worker_state(runner)), local_env_runner=False
        )
        runners = dict(found)
    else:
        runners = {0: runner_state(algorithm.env_runner)}
    return {
        "learner": {name: learner[name] for name in ("rl_module", "optimizer", "weights_seq_no", "metrics_logger")},
        "metrics": algorithm.metrics.get_state(),
        "iteration": algorithm.iteration,
        "runners": runners,
        "random": random_state(),
    }


def restore(algorithm: Algorithm, state: State) -> bool:
    """Go on from `state_of` an algorithm of the same options; whether episodes go on too.

    They begin anew where their number or rules are others now. Random generators go on last: nothing that draws may
    come between this and the next epoch. Raises ValueError for a state of another version.
    """
    group = algorithm.env_runner_group
    try:
        algorithm.learner_group.set_state({"learner": state["learner"]})
        group.sync_weights(from_worker_or_learner_group=algorithm.learner_group, inference_only=True)
        algorithm.metrics.set_state(state["metrics"])
        algorithm._iteration = state["iteration"]
        if group.num_remote_workers():
            mine = state["runners"]
            found = group.foreach_env_runner(lambda runner: restore_worker(runner, mine), local_env_runner=False)
            whole = all(found)
        else:
            whole = 0 in state["runners"] and restore_runner(algorithm.env_runner, state["runners"][0])
        restore_random(state["random"])
    except (KeyError, TypeError, AttributeError, AssertionError, RuntimeError) as error:
        raise ValueError(f"its state of training does not fit this version ({error!r:.120})") from None
    return whole


def runner_state(runner: SingleAgentEnvRunner) -> State:
    """Episodes, environment and counters of who samples."""
    ahead = runner._cached_to_module
    handed_on = runner._ongoing_episodes_for_metrics
    return {
        "steps": runner.num_env_steps_sampled_lifetime,
        "needs_reset": runner._needs_initial_reset,
        "weights_seq_no": runner._weights_seq_no,
        "metrics": runner.metrics.get_state(),
        "episodes": [None if episode is None else _episode_state(episode) for episode in runner._ongoing_episodes],
        "chunks": {
            name: [(len(chunk), float(chunk.get_return()), float(chunk.get_duration_s())) for chunk in chunks]
            for name, chunks in handed_on.items()
        },
        "ahead": None if ahead is None else dict(ahead),
        "shared": runner._shared_data,
        "env": runner.env.unwrapped.state(),
    }


def restore_runner(runner: SingleAgentEnvRunner, state: State) -> bool:
    """Go on with its episodes; False, and nothing but counters taken over, where the environment is another one."""
    runner.num_env_steps_sampled_lifetime = state["steps"]
    runner.metrics.set_state(state["metrics"])
    if state["needs_reset"] or len(state["episodes"]) != runner.num_envs:
        return False
    try:
        runner.env.unwrapped.restore(state["env"])
    except ValueError:
        return False
    runner._weights_seq_no = state["weights_seq_no"]
    runner._ongoing_episodes = [_episode(part, runner) for part in state["episodes"]]
    runner._ongoing_episodes_for_metrics.clear()
    for name, chunks in state["chunks"].items():
        runner._ongoing_episodes_for_metrics[name] = [Chunk(*chunk) for chunk in chunks]
    runner._cached_to_module = state["ahead"]
    runner._shared_data = state["shared"]
    runner._needs_initial_reset = False
    return True


def worker_state(runner: SingleAgentEnvRunner) -> State:
    """`runner_state` of one in a process of its own, with that process's random generators."""
    return runner_state(runner) | {"random": random_state()}


def restore_worker(runner: SingleAgentEnvRunner, states: dict[int, State]) -> bool:
    """`restore_runner` in a process of its own; False for one that the state does not know."""
    if runner.worker_index not in states:
        return False
    state = states[runner.worker_index]
    whole = restore_runner(runner, state)
    restore_random(state["random"])
    return whole


def random_state() -> State:
    """The process's random generators."""
    kind, key, *rest = np.random.get_state()  # noqa: NPY002  (RLlib shuffles with it)
    version, words, normal = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "numpy": (kind, key, *rest),
        "python": (version, np.array(words, np.uint32), normal),
    }


def restore_random(state: State) -> None:
    """The opposite of `random_state`."""
    version, words, normal = state["python"]
    torch.set_rng_state(state["torch"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    random.setstate((version, tuple(int(word) for word in words), normal))


def _episode_state(episode: SingleAgentEpisode) -> State:
    # Its own get_state spells the spaces out with every sequence; they are the environment's.
    state = {name: _sequence_state(getattr(episode, name)) for name in SEQUENCES}
    outputs = {name: _sequence_state(part) for name, part in episode.extra_model_outputs.items()}
    return state | {name: getattr(episode, name) for name in PLAIN} | {"id": episode.id_, "outputs": outputs}


def _sequence_state(sequence: InfiniteLookbackBuffer) -> State:
    return {"data": sequence.data, "lookback": sequence.lookback, "finalized": sequence.finalized}


def _episode(state: State | None, runner: SingleAgentEnvRunner) -> SingleAgentEpisode | None:
    if state is None:
        return None
    spaces = {
        "observation_space": runner.env.single_observation_space,
        "action_space": runner.env.single_action_space,
    }
    episode = SingleAgentEpisode(id_=state["id"], **spaces)
    for name in SEQUENCES:
        _fill(getattr(episode, name), state[name])
    for name, part in state["outputs"].items():
        episode.extra_model_outputs[name] = _fill(InfiniteLookbackBuffer(), part)
    for name in PLAIN:
        setattr(episode, name, state[name])
    episode.validate()
    return episode


def _fill(sequence: InfiniteLookbackBuffer, state: State) -> InfiniteLookbackBuffer:
    sequence.data, sequence.lookback, sequence.finalized = state["data"], state["lookback"], state["finalized"]
    return sequence
