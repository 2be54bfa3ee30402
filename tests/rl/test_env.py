"""The training environment: legal, bounded, reproducible, and paid exactly by the score it trains for."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import rltune
from rltune.allocators.milp import MilpAllocator
from rltune.nouns.cluster import Cluster, Pool
from rltune.nouns.errors import InputError
from rltune.nouns.jobs import JobTable
from rltune.nouns.metrics import SCORE_METRIC, SCORES
from rltune.rl.env import JoinedEnv, SchedulingEnv, VectorSchedulingEnv
from rltune.rl.joint import JointPlacement
from rltune.rl.rules import Rules, make_setup
from rltune.traces import Trace

SMALL = Cluster("small", (Pool("a", 3, 4), Pool("b", 2, 8, first_node_id=3)))
DISCIPLINES = ("blocking", "skip", "easy")


@lru_cache
def crowd(seed: int = 0, jobs: int = 120) -> Trace:
    """A queue that builds up: more work than the small cluster takes."""
    return rltune.load_trace(
        "synthetic",
        jobs=jobs,
        seed=seed,
        arrivals_per_h=200.0,
        users=5,
        gpu_mix={1: 0.5, 2: 0.2, 3: 0.1, 8: 0.15, 14: 0.05},
    )


def trace_of(*jobs: tuple[float, float, int]) -> Trace:
    submit, duration, gpus = zip(*jobs, strict=True)
    table = JobTable.from_columns({"submit_s": submit, "duration_s": duration, "num_gpus": gpus})
    return Trace.of(table, name="hand", source="user")


def make(trace: Trace, cluster: Cluster = SMALL, n: int = 0, **options: Any) -> Any:
    """A single environment (n = 0), or a vectorised one; rules as options, a window of all jobs unless told."""
    rules = Rules(**({"window": len(trace), "visible": 16} | options))
    setup = make_setup(trace, cluster, rules)
    joint = None
    if rules.allocator == "milp":
        joint = JointPlacement(MilpAllocator(time_limit_s=600))
    return SchedulingEnv(setup, joint) if n == 0 else VectorSchedulingEnv(setup, n, seed=0, joint=joint)


def play(env: SchedulingEnv, choose: Any, **reset: Any) -> tuple[float, rltune.Result, list[int]]:
    """One episode: its return, schedule and actions. ``choose``: mask -> action."""
    observation, _ = env.reset(**reset)
    total, over, actions = 0.0, False, []
    while not over:
        actions.append(int(choose(observation["action_mask"])))
        observation, reward, over, truncated, _ = env.step(actions[-1])
        assert not truncated
        total += reward
        assert len(actions) < 20_000, "the episode does not end"
    return total, env.vector.result(0), actions


def randomly(seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return lambda mask: rng.choice(np.flatnonzero(mask))


def first_legal(mask: np.ndarray) -> int:
    return int(np.argmax(mask))


def score_of(result: rltune.Result, score: str) -> float:
    """The score as the metrics define it, larger is better."""
    return result.utilization() if score == "utilization" else -float(result.scores()[SCORE_METRIC[score]].mean())


def rules_of(backfill: str) -> list[dict[str, Any]]:
    known = [{"baseline": "sjf", "runtimes": "exact"}, {"baseline": "saf", "runtimes": "predicted"}]
    return known if backfill == "easy" else [*known, {"baseline": "fifo", "runtimes": "unknown"}]


CASES = [{"backfill": d} | rules for d in DISCIPLINES for rules in rules_of(d)]


def name_of(case: dict[str, Any]) -> str:
    return f"{case['backfill']}-{case['runtimes']}"


# --- Gymnasium ------------------------------------------------------------------------


def test_gymnasium_accepts_it_without_ray() -> None:
    """A researcher with another RL library would have to install Ray, or would meet a broken interface."""
    code = """
import sys, warnings
warnings.simplefilter("error")
warnings.filterwarnings("ignore", category=DeprecationWarning)
import rltune
from gymnasium.utils.env_checker import check_env
from rltune.rl.env import SchedulingEnv
from rltune.rl.rules import Rules, make_setup
trace = rltune.load_trace("synthetic", jobs=60, arrivals_per_h=600.0)
setup = make_setup(trace, rltune.load_cluster("uniform", nodes=2), Rules(window=40, visible=8))
check_env(SchedulingEnv(setup), skip_render_check=True)
assert not [m for m in sys.modules if m.split(".")[0] in ("ray", "torch")], "imported"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_random_agent_of_gymnasium_can_play() -> None:
    """``action_space.sample(mask)`` would not take our mask."""
    env = make(crowd(jobs=40), backfill="skip")
    env.action_space.seed(0)
    _, result, _ = play(env, lambda mask: env.action_space.sample(mask.astype(np.int8)))
    assert result.started.all()


# --- what it pays ---------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=name_of)
@pytest.mark.parametrize("score", SCORES)
def test_returns_are_the_score_of_the_finished_schedule(score: str, case: dict[str, Any]) -> None:
    """Training would optimise something else than the table reports."""
    env = make(crowd(), score=score, **case)
    for seed in range(3):
        total, result, _ = play(env, randomly(seed))
        assert result.started.all()
        assert total == pytest.approx(score_of(result, score), rel=1e-9, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.sampled_from([0, 1, 7.5, 40, 400]), st.integers(1, 6)), min_size=1, max_size=15
    ),
    st.sampled_from(SCORES),
    st.sampled_from(DISCIPLINES),
    st.integers(0, 5),
)
def test_returns_telescope_on_any_little_workload(
    jobs: list[tuple[float, float, int]], score: str, backfill: str, seed: int
) -> None:
    """Ties, zero seconds or a single job would be paid wrongly."""
    env = make(trace_of(*jobs), Cluster("c", (Pool("a", 2, 3),)), score=score, backfill=backfill, visible=4)
    total, result, _ = play(env, randomly(seed))
    assert total == pytest.approx(score_of(result, score), rel=1e-9, abs=1e-12)


PAID = [(score, last) for score in SCORES for last in (False, True)]


@pytest.mark.parametrize("backfill", DISCIPLINES)
@pytest.mark.parametrize(("score", "last"), PAID)
def test_a_job_that_can_never_run_is_not_paid_for(score: str, backfill: str, last: bool) -> None:
    """One dropped job would change the score of all others, or the episode would never end."""
    jobs = trace_of((0, 10, 4), (50 if last else 3, 10, 99), (4, 20, 12), (5, 5, 1))
    env = make(jobs, score=score, backfill=backfill)
    total, result, _ = play(env, first_legal)
    assert int(result.started.sum()) == 3
    assert total == pytest.approx(score_of(result, score))


@pytest.mark.parametrize("score", ["wait", "bsld", "jct", "slowdown"])
@pytest.mark.parametrize("backfill", DISCIPLINES)
def test_warm_up_jobs_are_not_scored(score: str, backfill: str) -> None:
    """The jobs that only make the cluster warm would be rewarded as if the agent had placed them."""
    env = make(crowd(), score=score, backfill=backfill, warmup=30, window=60)
    env.reset(options={"first_job": 7})
    placed_before = env.vector.result(0).started
    assert 1 <= placed_before.sum() <= 31  # the last instant of the warm-up may start one more
    total, result, _ = play(env, randomly(1), options={"first_job": 7})
    scored = ~placed_before
    costs = result.scores()[SCORE_METRIC[score]]
    assert len(costs) == 90
    assert total == pytest.approx(-costs[scored].mean())


def test_relative_rewards_are_in_units_of_the_baseline() -> None:
    """reward=relative would not let windows of little wait count like windows of much, or not pay what was gained."""
    plain = make(crowd(), score="wait", backfill="skip", visible=120)
    relative = make(crowd(), score="wait", backfill="skip", visible=120, reward="relative")
    baseline, *_ = play(plain, first_legal)
    assert play(relative, first_legal)[0] == 0
    for seed in range(3):
        (a, *_), (b, *_) = play(plain, randomly(seed)), play(relative, randomly(seed))
        # One window: it is its own mean.
        assert b == pytest.approx((a - baseline) / (2 * abs(baseline)), rel=1e-3)


# --- what it does ---------------------------------------------------------------------


@pytest.mark.parametrize("allocator", ["best_fit", "lexicographic"])
@pytest.mark.parametrize("order", ["fifo", "sjf", "saf", "largest"])
@pytest.mark.parametrize("backfill", ["skip", "easy"])
def test_the_first_legal_action_is_the_baseline(backfill: str, order: str, allocator: str) -> None:
    """An untrained policy would not be the heuristic it starts from, and comparisons would mix two simulators."""
    for seed in range(4):
        trace = crowd(seed)
        env = make(trace, backfill=backfill, baseline=order, visible=1 + 40 * (seed % 2), allocator=allocator)
        _, result, _ = play(env, first_legal)
        expected = rltune.simulate(trace, SMALL, policy=order, backfill=backfill, allocator=allocator)
        assert result.schedule.equals(expected.schedule)


@pytest.mark.parametrize("backfill", ["skip", "easy"])
@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.sampled_from([0, 1, 10, 20, 50]), st.integers(1, 8)), min_size=1, max_size=15
    ),
    st.sampled_from(["fifo", "sjf", "largest"]),
    st.sampled_from(["best_fit", "lexicographic"]),
    st.sampled_from(["exact", "predicted"]),
    st.sampled_from([1, 2, 16]),
)
@example([(0, 10, 1), (0, 10, 5), (0, 10, 7), (7, 1, 1), (7, 1, 1)], "fifo", "best_fit", "predicted", 16)
def test_the_first_legal_action_is_the_baseline_on_any_little_workload(
    backfill: str, jobs: list[tuple[float, float, int]], order: str, allocator: str, runtimes: str, visible: int
) -> None:
    """Ties, a reservation that moves, or a queue longer than what is visible would make it another simulator."""
    trace, cluster = trace_of(*jobs), Cluster("c", (Pool("a", 3, 4),))
    rules = {"baseline": order, "allocator": allocator, "runtimes": runtimes}
    env = make(trace, cluster, backfill=backfill, visible=visible, **rules)
    _, result, _ = play(env, first_legal)
    expected = rltune.simulate(
        trace, cluster, policy=order, backfill=backfill, allocator=allocator, runtimes=runtimes, oversized="drop"
    )
    assert np.array_equal(result.start_s, expected.start_s, equal_nan=True)


def test_with_enough_waiting_the_easy_reservation_holds() -> None:
    """Random backfilling would delay the job that the reservation protects beyond its shadow time."""
    # Job 0 runs until 100; job 1 needs everything and is reserved for 100 whatever the agent backfills.
    jobs = [
        (0, 100, 5),
        (1, 50, 8),
        *((2 + k, d, g) for k, (d, g) in enumerate([(10, 1), (300, 2), (97, 3), (20, 1), (500, 1)] * 2)),
    ]
    env = make(trace_of(*jobs), Cluster("c", (Pool("a", 1, 8),)), baseline="fifo", visible=16)
    for seed in range(20):
        observation, _ = env.reset()
        rng, over = np.random.default_rng(seed), False
        while not over:
            job_one = np.isnan(env.vector.training.value.sim.start[0, 1])
            now = env.vector.training.value.sim.clock[0, 0]
            mask = observation["action_mask"]
            # At second 100 the protected job is first in order and the agent takes it.
            action = first_legal(mask) if job_one and now >= 100 else rng.choice(np.flatnonzero(mask))
            observation, _, over, _, _ = env.step(action)
        assert env.vector.result(0).start_s[1] <= 100 or env.vector.result(0).start_s[0] > 0


def test_blocking_waits_for_the_picked_job() -> None:
    """Under blocking a picked job that does not fit would be skipped, unlike in the reference protocol."""
    trace = trace_of((0, 10, 4), (1, 5, 4), (2, 1, 1), (3, 1, 1))
    cluster = Cluster("c", (Pool("a", 1, 4),))
    env = make(trace, cluster, backfill="blocking", baseline="fifo")
    _, result, actions = play(env, first_legal)
    assert result.start_s.tolist() == [0, 10, 15, 15]
    assert actions == [0, 0, 0, 0]


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(CASES), st.integers(0, 10_000), st.sampled_from([1, 3, 16]))
def test_observations_stay_in_their_box_and_the_mask_is_true(case: dict[str, Any], seed: int, visible: int) -> None:
    """A learner would meet values outside the declared space, or be offered jobs that cannot start."""
    env = make(crowd(seed % 3), visible=visible, **case)
    observation, _ = env.reset()
    rng, over = np.random.default_rng(seed), False
    row, arrays = env.vector.training.row(0), SMALL.arrays()
    while not over:
        assert env.observation_space.contains(observation)
        mask = observation["action_mask"]
        assert mask.any()
        queued = int(row.sim.counts[0])
        assert not mask[min(queued, visible) : visible].any()
        assert not observation["jobs"][min(queued, visible) :].any()
        if case["backfill"] != "blocking":
            for a in np.flatnonzero(mask[:visible]):
                wanted, free = int(row.sim.jobs.gpus[row.sim.queue[row.episode.slot[a]]]), row.sim.space.free
                held = []
                for lo, hi, cap in zip(arrays.pool_lo, arrays.pool_hi, arrays.pool_cap, strict=True):
                    nodes = math.ceil(wanted / cap)
                    held.append(nodes <= hi - lo and sum(sorted(free[lo:hi])[-nodes:]) >= wanted)
                assert any(held)
        assert (row.sim.space.free >= 0).all()
        if case["runtimes"] == "unknown":
            assert not observation["jobs"][:, [1, 2, 4, 10]].any()  # run_time, area, bounded_slowdown, ends_before
        observation, _, over, _, _ = env.step(int(rng.choice(np.flatnonzero(mask))))
    assert env.observation_space.contains(observation)


def test_extreme_jobs_stay_in_the_box() -> None:
    """A job of a year, a million seconds of waiting or a full cluster would leave the declared space."""
    year = 365 * 86_400.0
    env = make(trace_of((0, 10 * year, 28), (1, 0, 1), (2, year, 28), (year, 0.5, 28)), backfill="skip", score="bsld")
    observation, _ = env.reset()
    over = False
    while not over:
        assert env.observation_space.contains(observation)
        observation, reward, over, _, _ = env.step(first_legal(observation["action_mask"]))
        assert np.isfinite(reward)


@pytest.mark.parametrize("backfill", DISCIPLINES)
def test_illegal_actions_are_counted_and_harmless(backfill: str) -> None:
    """A faulty agent would corrupt the episode, or its faults would pass unseen."""
    env = make(crowd(jobs=60), backfill=backfill)
    observation, info = env.reset()
    assert info.get("illegal_actions", 0) == 0
    rng, over, illegal, total = np.random.default_rng(0), False, 0, 0.0
    while not over:
        action = int(rng.integers(0, 17))
        illegal += int(observation["action_mask"][action] == 0)
        observation, reward, over, _, info = env.step(action)
        total += reward
        assert info.get("illegal_actions", 0) == illegal
    assert illegal > 0
    result = env.vector.result(0)
    assert result.started.all()
    assert total == pytest.approx(score_of(result, "wait"))
    assert env.reset()[1].get("illegal_actions", 0) == 0


@pytest.mark.parametrize("action", [-1, 17, 1000])
def test_actions_outside_the_space_are_refused_or_counted(action: int) -> None:
    """-1 would wrap around to the wait action and pass as legal."""
    env = make(crowd(jobs=60), backfill="skip")
    env.reset()
    try:
        *_, info = env.step(action)
    except (InputError, ValueError, IndexError, AssertionError):
        return
    assert info.get("illegal_actions", 0) == 1


# --- reproducible, and many at once ---------------------------------------------------


@pytest.mark.parametrize("n", [0, 3])
def test_same_seed_same_trajectory(n: int) -> None:
    """A result could not be reproduced."""

    def trajectory(seed: int) -> list[Any]:
        env = make(crowd(), window=30, n=n, backfill="easy")
        observation, _ = env.reset(seed=seed)
        rng, out = np.random.default_rng(1), []
        for _ in range(150):
            masks = np.atleast_2d(observation["action_mask"])
            acts = np.array([rng.choice(np.flatnonzero(m)) for m in masks])
            observation, reward, over, _, _ = env.step(acts if n else int(acts[0]))
            out.append((acts.tolist(), np.asarray(reward).tolist(), observation["jobs"].sum().item()))
            if n == 0 and over:
                observation, _ = env.reset()
        return out

    assert trajectory(5) == trajectory(5)
    assert trajectory(5) != trajectory(6)


def test_a_restored_environment_goes_on_alike() -> None:
    """A training that was cut off would go on with other episodes than it had begun."""
    rules = Rules(backfill="easy", baseline="fifo", visible=8, window=20, warmup=5, reward="relative")
    setups = [make_setup(crowd(), SMALL, rules), make_setup(crowd(), Cluster("one", (Pool("a", 4, 8),)), rules)]
    first, second = (JoinedEnv([VectorSchedulingEnv(setup, 2, seed=k) for setup in setups]) for k in (1, 2))
    second.reset(seed=9)
    seen, _ = first.reset(seed=3)
    for _ in range(30):
        seen, *_ = first.step(seen["action_mask"].argmax(1))
    second.restore(copy.deepcopy(first.state()))
    for _ in range(60):
        actions = seen["action_mask"].argmax(1)
        one, two = first.step(actions), second.step(actions)
        seen = one[0]
        assert all(np.array_equal(seen[name], two[0][name]) for name in seen)
        assert all(np.array_equal(a, b) for a, b in zip(one[1:4], two[1:4], strict=True))
    with pytest.raises(ValueError, match="another number"):
        VectorSchedulingEnv(setups[0], 3).restore(first.envs[0].state())


def test_vectorised_rows_are_single_episodes() -> None:
    """Training would see other episodes than evaluation: rows would leak into each other."""
    firsts = [0, 11, 50, 90]
    vector = make(crowd(), window=30, n=len(firsts), backfill="easy", score="bsld")
    seen, _ = vector.reset(options={"first_job": firsts})
    singles = [make(crowd(), window=30, backfill="easy", score="bsld") for _ in firsts]
    alone = [env.reset(options={"first_job": k})[0] for env, k in zip(singles, firsts, strict=True)]
    rng, done = np.random.default_rng(0), np.zeros(len(firsts), bool)
    while not done.all():
        for i in np.flatnonzero(~done):
            for key in seen:
                assert np.array_equal(seen[key][i], alone[i][key])
        acts = np.array([rng.choice(np.flatnonzero(mask)) for mask in seen["action_mask"]])
        seen, rewards, over, _, _ = vector.step(acts)
        for i in np.flatnonzero(~done):
            alone[i], reward, end, _, _ = singles[i].step(int(acts[i]))
            assert reward == rewards[i]
            assert end == over[i]
        done |= over


def test_a_finished_row_begins_anew_at_the_next_step() -> None:
    """Gymnasium's NEXT_STEP: the step after the last would be learned from as if it were a decision."""
    env = make(crowd(), window=5, n=2, backfill="skip")
    assert env.metadata["autoreset_mode"] is gym.vector.AutoresetMode.NEXT_STEP
    observation, _ = env.reset(seed=0)
    for _ in range(200):
        before = env.training.value.sim.clock.copy()
        observation, rewards, over, truncated, _ = env.step(observation["action_mask"].argmax(1))
        assert not truncated.any()
        if over.any():
            row = int(np.argmax(over))
            assert env.result(row).started.all()  # still the finished episode
            observation, rewards, again, _, _ = env.step(observation["action_mask"].argmax(1))
            assert rewards[row] == 0 and not again[row]
            assert (
                np.isnan(env.training.value.sim.start[row]).sum() == 5
                and env.training.value.sim.clock[row, 0] != before[row, 0]
            )
            return
    pytest.fail("no episode ended")


def test_without_autoreset_a_finished_row_rests() -> None:
    """Evaluation would play finished windows again and again, and count the allocator's work for them."""
    env = make(crowd(), window=20, n=3, backfill="skip")
    env = VectorSchedulingEnv(env.setup, 3, autoreset=False)
    observation, _ = env.reset(options={"first_job": [0, 40, 90]})
    ended = np.zeros(3, int)
    for _ in range(200):
        observation, rewards, over, _, _ = env.step(observation["action_mask"].argmax(1))
        assert not rewards[ended > 0].any()
        ended += over
    assert ended.tolist() == [1, 1, 1]
    assert all(env.result(i).started.all() for i in range(3))


def test_joined_environments_are_their_parts() -> None:
    """Training on clusters of several sizes would mix up rows, rewards or resets."""

    def parts() -> list[Any]:
        return [make(crowd(), window=12, n=2, backfill="skip"), make(crowd(), Cluster("c", (Pool("a", 2, 16),)), n=3)]

    joined, alone = JoinedEnv(parts()), parts()
    seen, _ = joined.reset(seed=4)
    children = [int(np.random.SeedSequence([4, k]).generate_state(1)[0]) for k in (0, 1)]
    apart = [env.reset(seed=child)[0] for env, child in zip(alone, children, strict=True)]
    assert joined.observation_space["jobs"].shape == seen["jobs"].shape == (5, 16, 12)
    for _ in range(300):
        acts = seen["action_mask"].argmax(1)
        seen, rewards, over, _, _ = joined.step(acts)
        found = [env.step(part) for env, part in zip(alone, (acts[:2], acts[2:]), strict=True)]
        apart = [one[0] for one in found]
        assert np.array_equal(rewards, np.concatenate([one[1] for one in found]))
        assert np.array_equal(over, np.concatenate([one[2] for one in found]))
        assert all(np.array_equal(seen[key], np.concatenate([one[key] for one in apart])) for key in seen)
    joined.reset(options={"first_job": [1, 2, 0, 0, 0]})
    assert [env._first_job.tolist() for env in joined.envs] == [[1, 2], [0, 0, 0]]
    *_, info = joined.step(np.full(5, 99))
    assert info["illegal_actions"].tolist() == [1] * 5


def test_episodes_are_drawn_from_every_start() -> None:
    """The first or last window of a stretch would never be trained on."""
    env = make(crowd(), window=117, n=1, backfill="skip")
    seen = {int(env.reset(seed=k)[0] is not None and env._first_job[0]) for k in range(60)}
    assert seen == {0, 1, 2, 3}


@pytest.mark.parametrize("first_job", [-1, 91])
def test_a_window_outside_the_trace_is_refused(first_job: int) -> None:
    """Compiled code would read past the end of the trace."""
    env = make(crowd(), window=30)
    with pytest.raises(ValueError, match="0 to 90 are possible"):
        env.reset(options={"first_job": first_job})


# --- with the MILP --------------------------------------------------------------------


def overbooked(result: rltune.Result) -> bool:
    caps = {pool.name: pool.gpus_per_node for pool in result.cluster.pools}
    uses: dict[tuple[str, int], list[tuple[float, float, int]]] = {}
    for row in result.schedule.itertuples():
        for node, gpus in zip(row.nodes, row.gpus, strict=True):
            uses.setdefault((row.pool, node), []).append((row.start_s, row.end_s, gpus))
    return any(
        sum(g for s, e, g in held if s <= at < e) > caps[pool] for (pool, _), held in uses.items() for at, _, _ in held
    )


@pytest.mark.parametrize("backfill", ["skip", "easy"])
def test_milp_schedules_are_valid_and_paid_right(backfill: str) -> None:
    """Placing the jobs of an instant anew would over-allocate, split gangs, or pay for another schedule."""
    trace = trace_of(*[(60 * (k // 6), 30 + 17 * (k % 5), (1, 2, 3, 8, 1, 5)[k % 6]) for k in range(48)])
    env = make(trace, allocator="milp", backfill=backfill)
    for seed in range(2):
        total, result, _ = play(env, randomly(seed) if seed else first_legal)
        assert result.started.all()
        assert [sum(g) for g in result.schedule.gpus] == trace.jobs.num_gpus.tolist()
        assert all(len(set(n)) == len(n) for n in result.schedule.nodes)
        assert not overbooked(result)
        assert total == pytest.approx(score_of(result, "wait"))
    assert env.vector.joint.stats["solves"] > 0


# --- rules ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"score": "speed"}, "score='speed' is unknown"),
        ({"backfill": "conservative"}, "backfill='conservative' is unknown"),
        ({"baseline": "sfj"}, "policy 'sfj' is unknown"),
        ({"allocator": "worst"}, "allocator 'worst' is unknown"),
        ({"runtimes": "unknown"}, "runtimes=unknown knows no run times"),
        ({"runtimes": "unknown", "baseline": "fifo", "backfill": "easy"}, "runtimes=unknown knows no run times"),
        ({"runtimes": "some"}, "runtimes='some' is unknown"),
        ({"reward": "sparse"}, "reward='sparse' is unknown"),
        ({"allocator": "milp", "backfill": "blocking"}, "backfill=blocking starts one at a time"),
        ({"visible": 0}, "visible=0"),
        ({"window": 0}, "window=0"),
        ({"warmup": -1}, "warmup=-1"),
        ({"window": 121}, "120 jobs of a stretch are fewer than an episode's 121"),
        ({"window": 100, "warmup": 21}, "120 jobs of a stretch are fewer than an episode's 121"),
    ],
)
def test_rules_that_make_no_sense_are_refused(options: dict[str, Any], said: str) -> None:
    """A wrong option would train something else, or fail in compiled code."""
    with pytest.raises(InputError, match=said):
        make_setup(crowd(), SMALL, replace(Rules(window=30), **options) if options else Rules())


def test_a_repository_path_is_not_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Environments would only work from the checkout's folder."""
    monkeypatch.chdir(tmp_path)
    assert play(make(crowd(jobs=20), backfill="skip"), first_legal)[1].started.all()
