"""The MILP in training on the full build: it places what the agent has started, and never worse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_full_env import CLUSTER, FAULTS, mixed

from rltune.allocators.milp import MilpAllocator
from rltune.core.reference import ref
from rltune.core.state import NOW
from rltune.nouns.cluster import Cluster, Pool
from rltune.nouns.jobs import WHOLE, JobTable
from rltune.nouns.throughput import Throughput
from rltune.rl.env import SchedulingEnv, VectorSchedulingEnv
from rltune.rl.joint import JointPlacement
from rltune.rl.kernels import expected_start, misfit_of
from rltune.rl.rows import FRESH, Batch, Row, copied
from rltune.rl.rules import Rules, make_setup
from rltune.simulator.few import USABLE
from rltune.traces import Trace

FEW = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
UNLIKE = Cluster("unlike", (Pool("a", 3, 4, "V100"), Pool("b", 3, 8, "P100"), Pool("c", 2, 4, "V100")))


class Alone:
    """A copy of one row, on which a decision can be tried."""

    def __init__(self, row: Row) -> None:
        self.value = copied(row)
        self._first = ref(self.value)
        self.batch = ref(Batch(self.value, np.array([self._first.address]), self.value.sim))

    def row(self, i: int) -> Row:
        return self.value


def fresh_of(row: Row) -> list[int]:
    return row.episode.fresh[: row.episode.mark[FRESH]].tolist()


def cost_of(row: Row, table: Any) -> float:
    """The objective of `MilpAllocator` with its defaults, from the state: quadratic fragmentation, slowdown, locality."""
    sim = row.sim
    loose = sim.space.room.loose / WHOLE
    total = sum(
        np.interp(f, np.arange(table.shape[1]), table[p]) for f, p in zip(loose, sim.cluster.node_pool, strict=True)
    )
    for job in fresh_of(row):
        fastest = sim.choices.rate[sim.choices.ptr[sim.jobs.cls[job]]]
        total += 10.0 * (fastest / sim.detail.rate[job] - 1.0)
        total += 0.1 * (sim.alloc_len[job] - 1)
    return float(total)


class Watched:
    """A joint placement whose every decision is compared with the solver's and with where the jobs were."""

    fewest = 1

    def __init__(self) -> None:
        self.allocator = MilpAllocator(time_limit_s=600)
        self.asked = JointPlacement(MilpAllocator(time_limit_s=600))
        self.decisions = self.moved = 0

    def on(self, *state: Any) -> Watched:
        self.inner, self.solver = JointPlacement(self.allocator).on(*state), self.asked.on(*state)
        self.solver._few.value.counts[USABLE] = 0
        return self

    def place(self, rows: Any, i: int, waited: bool) -> None:
        row = rows.row(i)
        other, table = Alone(row), self.inner.joint.measure.table
        held = misfit_of(rows.batch, i) if row.sim.params.backfill == 2 else -1
        due = expected_start(rows.batch, i, held) if held >= 0 else np.inf
        before, nodes, turn = cost_of(row, table), row.sim.alloc_node.copy(), row.sim.turn[fresh_of(row)].copy()
        self.inner.place(rows, i, waited)
        self.solver.place(other, 0, waited)
        assert cost_of(row, table) <= before + 1e-6
        slices = any(
            row.sim.detail.demand.profile[row.sim.choices.way[row.sim.detail.way[j]]] >= 0 for j in fresh_of(row)
        )
        if not slices and len(fresh_of(row)) <= 6:
            assert cost_of(row, table) == pytest.approx(cost_of(other.value, table), abs=1e-5)
        if held >= 0:
            assert expected_start(rows.batch, i, held) <= due
        assert row.sim.detail.status[fresh_of(row)].tolist() == [2] * len(fresh_of(row))
        assert (row.sim.start[fresh_of(row)] <= row.sim.clock[NOW]).all()
        assert np.array_equal(row.sim.turn[fresh_of(row)], turn)
        self.decisions += 1
        self.moved += not np.array_equal(nodes, row.sim.alloc_node)


def play(rules: Rules, trace: Trace, cluster: Cluster, seed: int, joint: Any) -> float:
    """One episode of random legal actions, seldom waiting; its return and its score must be the same."""
    env = VectorSchedulingEnv(make_setup(trace, cluster, rules), 1, joint=joint, autoreset=False)
    rng, total, over = np.random.default_rng(seed), 0.0, False
    observation, _ = env.reset(options={"first_job": [0]})
    while not over:
        legal = np.flatnonzero(observation["action_mask"][0])
        jobs = legal[legal < rules.visible]
        action = rng.choice(jobs) if len(jobs) and rng.random() < 0.9 else legal[-1]
        observation, rewards, ended, _, _ = env.step(np.array([action]))
        total, over = total + rewards[0], bool(ended[0])
    result = env.result(0)
    assert result.finished.all()
    assert total == pytest.approx(-result.scores()["jct_s"].mean(), rel=1e-9)
    return total


@pytest.mark.parametrize("backfill", ["skip", "easy"])
@pytest.mark.parametrize("options", [{}, FAULTS | {"migrate_s": 3.0}], ids=["calm", "faults"])
def test_decisions_on_all_that_jobs_may_ask_for(backfill: str, options: dict[str, Any]) -> None:
    """Shares, gangs, slices and jobs without GPUs would be placed worse than they stood, or delay who waits longest."""
    rules = Rules("jct", backfill, "fifo", "milp", visible=8, window=80, options=options | {"max_retries": 50})
    watched = Watched()
    play(rules, mixed(), CLUSTER, 1, watched)
    assert watched.moved > 0


@FEW
@given(st.data())
def test_few_jobs_are_placed_as_the_solver_would(data: st.DataObject) -> None:
    """What is answered without the solver, for speed, would be worse than what it is asked for."""
    n = data.draw(st.integers(5, 40))
    rows = data.draw(
        st.lists(
            st.tuples(
                st.integers(0, 60), st.sampled_from([5, 30, 100]), st.sampled_from([1, 1, 2, 3, 4, 8, 12]),
                st.sampled_from([WHOLE, WHOLE, WHOLE, 300, 700]),
            ), min_size=n, max_size=n,
        )
    )  # fmt: skip
    submit, run, gpus, milli = zip(*rows, strict=True)
    columns = {"submit_s": submit, "duration_s": run, "gpu_milli": milli}
    columns["num_gpus"] = [1 if m < WHOLE else g for g, m in zip(gpus, milli, strict=True)]
    trace = Trace.of(JobTable.from_columns(columns), name="drawn", source="user")
    speed = data.draw(st.sampled_from([None, Throughput.published()]))
    backfill = data.draw(st.sampled_from(["skip", "easy"]))
    rules = Rules("jct", backfill, "sjf", "milp", visible=8, window=n, options={"speed": speed, "max_retries": 3})
    play(rules, trace, UNLIKE, data.draw(st.integers(0, 99)), Watched())


@pytest.mark.parametrize("seed", range(4))
def test_a_reserved_job_gets_its_quota_in_time(seed: int) -> None:
    """A job moved to slower GPUs would hold its virtual cluster's quota for longer than the reservation counts on."""
    rng, n = np.random.default_rng(seed), 60
    columns = {
        "submit_s": np.sort(rng.integers(0, 100, n)).tolist(), "duration_s": rng.integers(5, 90, n).tolist(),
        "num_gpus": rng.choice([1, 1, 2, 3], n).tolist(), "vc": rng.choice(["x", "y"], n).tolist(),
    }  # fmt: skip
    trace = Trace.of(JobTable.from_columns(columns), name="drawn", source="user")
    options = {"speed": Throughput.published(), "quotas": {"x": 5.0, "y": 9.0}}
    watched = Watched()
    play(Rules("jct", "easy", "fifo", "milp", visible=8, window=n, options=options), trace, UNLIKE, seed, watched)
    assert watched.allocator.stats.fallbacks["contested_quota"] > 0


def test_gymnasium_accepts_it() -> None:
    """Other learners than ours could not use it."""
    rules = Rules(allocator="milp", backfill="easy", baseline="sjf", visible=8, window=40, options=FAULTS)
    env = SchedulingEnv(make_setup(mixed(), CLUSTER, rules), JointPlacement(MilpAllocator(time_limit_s=600)))
    check_env(env, skip_render_check=True)
