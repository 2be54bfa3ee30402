"""The index form: it sets parameters of order and market, a round at a time, and begins as its baseline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from test_full_env import CLUSTER
from test_suspending_env import COSTS, busy

import rltune
from rltune.allocators.milp import MilpAllocator
from rltune.config.learning import SteeringConfig
from rltune.nouns.errors import InputError
from rltune.nouns.metrics import SCORE_METRIC
from rltune.rl.network import JobNetwork, NetworkConfig
from rltune.rl.policy_file import LearnedPolicy, SteeringPolicy, load_policy, save_policy
from rltune.rl.rules import Rules, Setup, make_setup
from rltune.rl.steering.env import SteeringEnv, VectorSteeringEnv
from rltune.rl.steering.levers import LEVERS, REACH, values_of
from rltune.rl.steering.network import SteeringNetwork
from rltune.rl.steering.observe import FEATURES
from rltune.rl.steering.rollout import play_rounds
from rltune.rl.steering.search import ConstantSearch
from rltune.simulate import ordered_by

ROUND_S = 20.0
MARKET = {"way_rule": "market"}
WORLDS = [("las", MARKET), ("gittins", MARKET), ("fifo", MARKET), ("las", {}), ("gittins", {}), ("srsf", {})]
"""Baselines with a market and on one pool."""


def setup_of(baseline: str, options: dict[str, Any], **more: Any) -> Setup:
    given = {"backfill": "skip", "score": "jct", "window": 120} | more
    costs = {} if baseline == "fifo" else COSTS
    return make_setup(busy(), CLUSTER, Rules(baseline=baseline, options=costs | options, **given))


def network(seed: int | None = None, round_s: float = ROUND_S) -> SteeringNetwork:
    """Untrained, or with a last layer drawn by ``seed``."""
    torch.manual_seed(seed or 0)
    made = SteeringNetwork(SteeringConfig(round_s=round_s, hidden=8))
    if seed is not None:
        torch.nn.init.normal_(made.actor[-1].weight, std=2.0)
    return made


def policy_of(setup: Setup, seed: int | None = None) -> SteeringPolicy:
    return SteeringPolicy(network(seed), setup.rules, {})


def play(env: VectorSteeringEnv, choose: Any) -> Any:
    """Returns of an episode in each row, from jobs 0, 57, ...; ``choose``: shape -> actions."""
    observation, _ = env.reset(options={"first_job": 57 * np.arange(env.num_envs)})
    total, over = np.zeros(env.num_envs), np.zeros(env.num_envs, bool)
    while not over.all():
        assert env.observation_space["world"].contains(observation["world"])
        observation, rewards, ended, _, _ = env.step(choose(env.action_space.shape))
        total += rewards
        over |= ended
    return total


def randomly(seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return lambda shape: rng.normal(size=shape)


def assert_same(one: rltune.Result, other: rltune.Result) -> None:
    for name in ("start_s", "end_s", "pool"):
        assert np.array_equal(getattr(one.runs, name), getattr(other.runs, name)), name
    assert np.array_equal(one.end_s, other.end_s)


@pytest.mark.parametrize(("baseline", "options"), WORLDS)
def test_an_untrained_agent_is_its_baseline(baseline: str, options: dict[str, Any]) -> None:
    """Training would not begin where the baseline is, and "better than its start" would mean nothing."""
    setup = setup_of(baseline, options)
    given = dict(setup.rules.options)
    named = rltune.simulate(busy(), CLUSTER, policy=baseline, backfill="skip", **given)
    steered = rltune.simulate(busy(), CLUSTER, policy=policy_of(setup), backfill="skip", **given)
    assert_same(steered, named)
    assert len(steered.decisions) > 3
    window = rltune.simulate(busy().jobs.take(slice(57, 177)), CLUSTER, policy=baseline, backfill="skip", **given)
    assert_same(play_rounds(setup, network(), [0, 57]).results[1], window)


@pytest.mark.slow
def test_beside_the_milp_an_untrained_agent_is_its_baseline_too() -> None:
    """A policy trained beside a rule could not be judged with the allocator that users run."""
    setup, jobs = setup_of("las", MARKET), busy(60)
    options = dict(setup.rules.options) | {"backfill": "skip"}
    named, steered = (
        rltune.simulate(jobs, CLUSTER, policy=policy, allocator=MilpAllocator(time_limit_s=600), **options)
        for policy in ("las", policy_of(setup))
    )
    assert_same(steered, named)


@pytest.mark.parametrize(("baseline", "options"), WORLDS)
@pytest.mark.parametrize("score", ["jct", "wait", "bsld", "utilization"])
def test_the_return_is_the_score(baseline: str, options: dict[str, Any], score: str) -> None:
    """A learner would be paid for something else than what is reported."""
    env = VectorSteeringEnv(setup_of(baseline, options, score=score), 2, round_s=ROUND_S, autoreset=False)
    total = play(env, randomly(3))
    for i in range(2):
        result = env.result(i)
        assert result.finished.all()
        named = -result.scores()[SCORE_METRIC[score]].mean() if score != "utilization" else result.utilization()
        assert total[i] == pytest.approx(named, rel=1e-9)


def test_a_paired_return_is_the_gain_on_the_baseline() -> None:
    """The reward of training would favour windows, not decisions."""
    scores = {}
    for reward in ("relative", "score"):
        for name, choose in (("untrained", np.zeros), ("random", randomly(5))):
            env = VectorSteeringEnv(setup_of("las", MARKET, reward=reward), 2, round_s=ROUND_S, autoreset=False)
            scores[reward, name] = play(env, choose)
            if reward == "relative":
                unit = np.array([env._followed(57 * i, 0).cost for i in range(2)]) + env._floor
    assert scores["relative", "untrained"] == pytest.approx(0.0, abs=1e-9)
    gain = (scores["score", "random"] - scores["score", "untrained"]) / unit
    assert np.abs(gain).max() > 1e-4
    assert scores["relative", "random"] == pytest.approx(gain, rel=1e-6, abs=1e-9)


def test_a_simulation_follows_the_episode() -> None:
    """A file would not do in `simulate` what its training saw."""
    setup = setup_of("gittins", MARKET)
    played = play_rounds(setup, network(4), [57]).results[0]
    jobs = busy().jobs.take(slice(57, 177))
    options = dict(setup.rules.options)
    steered = rltune.simulate(jobs, CLUSTER, policy=policy_of(setup, 4), backfill="skip", **options)
    assert_same(steered, played)
    named = rltune.simulate(jobs, CLUSTER, policy="gittins", backfill="skip", **options)
    assert not np.array_equal(named.end_s, steered.end_s)


def test_levers_are_bounded_and_keep_their_sign() -> None:
    """An agent could turn the hysteresis off, and jobs would take turns for ever."""
    usual = np.array([3.0, 0.2, 0.3, 0.01, 1.3, np.nan])
    assert np.array_equal(values_of(np.zeros(6), usual), usual, equal_nan=True)
    high, low = values_of(np.full(6, 9.0), usual), values_of(np.full(6, -9.0), usual)
    assert high[:5] == pytest.approx([12.0, 0.8, 1.2, 0.04, 2.2])
    assert low[:5] == pytest.approx([0.75, 0.05, 0.075, 0.0025, 1.075])
    assert np.isnan(high[5])
    with pytest.raises(ValueError, match="no numbers"):
        values_of(np.full(6, np.nan), usual)
    assert len(LEVERS) == len(REACH) == 6


def test_a_lever_has_the_effect_of_its_option() -> None:
    """The agent would turn knobs other than those it is told of."""
    setup = setup_of("las", MARKET)
    factor = np.array([0.5, -0.5, 0.5, -0.5, 0.5, 0.8])
    made = network(round_s=1e9)
    made.set_constant(torch.tensor(factor))
    values = values_of(factor.astype(np.float32), np.array([3.0, 0.2, 0.3, 0.01, 2.0, 1.0]))
    options = dict(setup.rules.options)
    steered = rltune.simulate(busy(), CLUSTER, policy=SteeringPolicy(made, setup.rules, {}), backfill="skip", **options)
    named = rltune.simulate(
        busy(), CLUSTER, policy="las", backfill="skip", **options | dict(zip(LEVERS, values.tolist(), strict=True))
    )
    # Up to the first round, and to the first change of prices, they differ: at the end of a busy stretch they do not.
    shown = {name: steered.decisions[0][name] for name in LEVERS}
    assert shown == pytest.approx(dict(zip(LEVERS, values.tolist(), strict=True)))
    assert named.scores()["jct_s"].mean() == pytest.approx(steered.scores()["jct_s"].mean(), rel=0.02)


def test_the_environment_keeps_to_gymnasium() -> None:
    """Other libraries could not train on it."""
    check_env(SteeringEnv(setup_of("las", MARKET), round_s=ROUND_S), skip_render_check=True)


def test_the_observation_depends_on_neither_order_nor_run_times() -> None:
    """The agent would see run times that nobody knows, or learn the order of rows."""
    seen = []
    for factor, flipped in ((1.0, False), (3.0, False), (1.0, True)):
        columns: dict[str, Any] = {
            "submit_s": [0, 0, 0, 50, 50], "duration_s": [1e3 * factor, 2e3 * factor, 3e3, 100, 200], "num_gpus": [4, 2, 1, 4, 2],
            "job_id": list("edcba") if flipped else list("abcde"),
        }  # fmt: skip
        trace = rltune.traces.Trace.of(rltune.JobTable.from_columns(columns), name="t", source="user")
        cluster = rltune.load_cluster({"pools": [{"nodes": 1, "gpus_per_node": 8}]})
        rules = Rules(runtimes="unknown", backfill="skip", baseline="las", window=5, options=COSTS | MARKET)
        env = SteeringEnv(make_setup(trace, cluster, rules), round_s=1.0)
        env.reset(options={"first_job": 0})
        observation, *_ = env.step(np.zeros(6))
        assert env.vector.training.value.sim.clock[0, 0] == 50.0
        seen.append(observation["world"])
    assert np.array_equal(seen[0], seen[1])
    assert np.array_equal(seen[0], seen[2])
    assert seen[0].shape == (len(FEATURES),)


def test_autoreset_and_a_restored_environment_go_on_alike() -> None:
    """A training that was cut off would go on with other episodes."""
    setup, rng = setup_of("las", MARKET, reward="relative", window=40), np.random.default_rng(0)
    env = VectorSteeringEnv(setup, 2, seed=1, round_s=ROUND_S)
    env.reset(seed=3)
    ended = sum(env.step(rng.normal(size=(2, 6)))[2].sum() for _ in range(60))
    assert ended > 1
    state = json_copy(env.state())
    other = VectorSteeringEnv(setup, 2, seed=9, round_s=ROUND_S)
    other.restore(state)
    for _ in range(40):
        action = rng.normal(size=(2, 6))
        mine, theirs = env.step(action), other.step(action)
        assert np.array_equal(mine[0]["world"], theirs[0]["world"])
        assert mine[1] == pytest.approx(theirs[1])


def json_copy(state: dict[str, Any]) -> dict[str, Any]:
    """Copies of the arrays: the state refers to what the environment goes on changing."""
    return {
        "rows": {name: part.copy() for name, part in state["rows"].items()},
        "own": {name: part.copy() for name, part in state["own"].items()},
        "rng": json.loads(json.dumps(state["rng"])),
    }


def test_a_file_brings_the_same_policy_back(tmp_path: Path) -> None:
    """What was trained could not be used."""
    setup = setup_of("gittins", MARKET)
    policy = SteeringPolicy(network(4), setup.rules, {"kept": "epoch 1"})
    save_policy(tmp_path / "policy.safetensors", policy)
    read = load_policy(tmp_path)
    assert isinstance(read, SteeringPolicy)
    assert (read.rules, read.origin, read.network.config) == (policy.rules, policy.origin, policy.network.config)
    options = dict(setup.rules.options) | {"backfill": "skip"}
    by_file = rltune.simulate(busy(), CLUSTER, policy=str(tmp_path / "policy.safetensors"), **options)
    assert_same(by_file, rltune.simulate(busy(), CLUSTER, policy=policy, **options))
    save_policy(tmp_path / "picks.safetensors", LearnedPolicy(JobNetwork(NetworkConfig(visible=4)), setup.rules, {}))
    assert isinstance(load_policy(tmp_path / "picks.safetensors"), LearnedPolicy)


def test_a_command_knows_what_acts_on_the_baseline_of_a_file(tmp_path: Path) -> None:
    """It would say of the cost of suspensions, which the baseline pays, that it has no effect."""
    save_policy(tmp_path / "policy.safetensors", policy_of(setup_of("las", MARKET)))
    assert ordered_by(str(tmp_path / "policy.safetensors")) == "las"
    assert ordered_by("tiresias") == "las_levels"


def test_where_nothing_can_be_set_it_is_refused() -> None:
    """A policy would seem to be used, and its baseline would run."""
    setup = setup_of("las", MARKET)
    fifo = SteeringPolicy(network(), Rules(baseline="fifo", backfill="skip"), {})
    with pytest.raises(InputError, match="has nothing to set"):
        rltune.simulate(rltune.load_trace("synthetic", jobs=50), CLUSTER, policy=fifo)
    with pytest.raises(InputError, match="has nothing to set"):
        rltune.simulate(busy(), CLUSTER, policy=fifo, resume_s=5.0)
    with pytest.raises(InputError, match="not to one of your own"):
        rltune.simulate(busy(), CLUSTER, policy=policy_of(setup), allocator=Nowhere(), **dict(setup.rules.options))
    with pytest.raises(InputError, match="picks nobody"):
        rltune.who_is_next(policy_of(setup), {"submit_s": [0], "duration_s": [1], "num_gpus": [1]}, "uniform")


class Nowhere:
    """An allocator that starts nothing."""

    def allocate(self, snapshot: Any, order: Any, backfill: str) -> rltune.Plan:
        return rltune.Plan(())


def test_the_search_finds_a_lever_that_pays() -> None:
    """``algo=cma`` would stay at the baseline whatever the levers are worth."""
    # With the market all but off, prices are what there is to be found.
    setup = setup_of("las", MARKET | {"market_refusal": 0.05}, reward="relative")
    search = ConstantSearch(
        [setup], SteeringConfig(hidden=8), {"windows": 3, "envs": 2, "population": 6, "sigma": 0.4}, 0
    )
    steps, returned = 0, []
    for _ in range(4):
        mean, steps, _ = search.epoch(steps)
        returned.append(mean)
    assert steps > 0
    assert returned[-1] > returned[0]
    constant = search.network.means({"world": torch.rand(2, len(FEATURES))})
    assert torch.equal(constant[0], constant[1])
