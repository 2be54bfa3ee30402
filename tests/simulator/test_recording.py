"""What `decisions=True` writes down is what was decided: beside the schedule, the kernels' order and the networks themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import rltune
from rltune.allocators.milp import MilpAllocator
from rltune.config.learning import SteeringConfig
from rltune.inspect.decisions import latest
from rltune.nouns.cluster import Cluster, Pool
from rltune.nouns.errors import InputError
from rltune.policies.meanings import MEANINGS
from rltune.policies.orders import ORDERS
from rltune.policies.preemptive import PREEMPTIVE
from rltune.rl.network import JobNetwork, NetworkConfig
from rltune.rl.observe import CLUSTER_FEATURES, JOB_FEATURES
from rltune.rl.policy_file import LearnedPolicy, SteeringPolicy
from rltune.rl.rules import Rules
from rltune.rl.steering.levers import LEVERS, values_of
from rltune.rl.steering.network import SteeringNetwork
from rltune.rl.steering.observe import FEATURES
from rltune.simulator.recording import MOST, NOBODY, WAITS, Recorder

CLUSTER = Cluster("c", (Pool("a", 3, 8), Pool("b", 4, 4)))
WAIT_BIAS = 6.0
COSTS = {"resume_s": 5.0, "suspend_s": 1.0, "migrate_s": 2.0, "quantum_s": 300.0}


def trace() -> rltune.Trace:
    """Busy enough that jobs queue."""
    return rltune.load_trace("synthetic", jobs=80, arrivals_per_h=600.0, seed=3)


def told(milp: bool = False, **options: Any) -> tuple[rltune.Result, pd.DataFrame]:
    """A simulation and its decisions; the schedule is that of the same simulation that nobody wrote down."""
    plain, result = (
        rltune.simulate(
            trace(),
            CLUSTER,
            oversized="drop",
            decisions=decisions,
            **options,
            **({"allocator": MilpAllocator(time_limit_s=600)} if milp else {}),
        )
        for decisions in (False, True)
    )
    assert result.recorded is not None
    assert plain.schedule.equals(result.schedule) and plain.recorded is None
    return result, result.recorded.decisions().to_pandas()


def starts(result: rltune.Result) -> list[tuple[float, int]]:
    """(second, job) of every run whose job had waited; a job that moves to other GPUs at once has not."""
    runs = result.runs
    ends = set(zip(runs.end_s.tolist(), runs.job.tolist(), strict=True))
    found = zip(runs.start_s.tolist(), runs.job.tolist(), strict=True)
    return sorted(each for each in found if each not in ends)


def decided(rows: pd.DataFrame) -> list[tuple[float, int]]:
    """The same as the decisions tell it."""
    return sorted((row.time_s, job) for row in rows.itertuples() for job in row.started.tolist())


def network(visible: int) -> JobNetwork:
    """With random weights."""
    torch.manual_seed(4)
    made = JobNetwork(NetworkConfig(visible=visible))
    with torch.no_grad():
        for weights in made.parameters():
            weights.normal_(0.0, 0.3)
        # Now and then it is better to wait.
        made.wait.bias += WAIT_BIAS
    return made.eval()


@pytest.mark.parametrize(
    "options",
    [{"policy": "sjf"}, {"policy": lambda queue, _: queue.run_s}, {"policy": "sjf", "milp": True}, {"policy": "sjf", "max_retries": 3},
     {"policy": "sjf", "milp": True, "max_retries": 3}],
    ids=["lean", "own", "lean-milp", "full", "full-milp"],
)  # fmt: skip
def test_a_rule_starts_whom_its_scores_say(options: dict[str, Any]) -> None:
    """The page would show another order than the one that decided, or leave starts out."""
    result, rows = told(**options)
    assert decided(rows) == starts(result)
    run_s = result.jobs.duration_s
    for row in rows.itertuples():
        fitting = row.job[row.legal]
        assert row.score.tolist() == run_s[row.job].tolist() == sorted(row.score) and len(row.job) >= min(
            row.waiting, MOST
        )
        assert row.chosen == row.started[0] == fitting[0] and set(row.started) <= set(fitting)
        others = [job for job in row.job.tolist() if job not in row.started]
        assert row.runner_up == (others[0] if others else NOBODY)


def test_a_policy_that_suspends_goes_by_attained_service() -> None:
    """A job that was suspended would be shown with the service of a new one."""
    result, rows = told(policy="las", **COSTS)
    assert decided(rows) == starts(result) and len(result.runs) > len(result.jobs)
    runs, gpus = result.runs, result.runs.held_gpus()
    for row in rows.itertuples():
        held = np.clip(row.time_s - runs.start_s, 0.0, runs.end_s - runs.start_s) * gpus
        attained = np.bincount(runs.job, held, len(result.jobs))
        assert np.allclose(row.score, attained[row.job]) and (np.diff(row.score) >= 0).all()


@pytest.mark.parametrize("backfill", ["skip", "easy", "blocking"])
@pytest.mark.parametrize("options", [{}, {"max_retries": 3}], ids=["lean", "full"])
def test_a_network_picks_by_what_was_written_down(backfill: str, options: dict[str, Any]) -> None:
    """Scores, mask or features on the page would be those of another observation."""
    if options and backfill == "blocking":
        return
    policy = LearnedPolicy(network(8), Rules(backfill=backfill, baseline="sjf", visible=8, window=10), {})
    result, rows = told(policy=policy, backfill=backfill, **options)
    if backfill != "blocking":
        assert decided(rows) == starts(result)
    assert (rows.chosen == WAITS).any() and (rows.runner_up >= 0).any()
    for row in rows.itertuples(index=False):
        n, jobs, mask = len(row.job), np.zeros((1, 8, len(JOB_FEATURES)), np.float32), np.zeros((1, 9), np.int8)
        jobs[0, :n] = np.stack([getattr(row, f"job_{name}") for name in JOB_FEATURES], axis=1)
        mask[0, :n], mask[0, 8] = row.legal, not np.isnan(row.wait_score)
        cluster = np.array([[getattr(row, f"seen_{name}") for name in CLUSTER_FEATURES]], np.float32)
        with torch.inference_mode():
            seen = {"action_mask": mask, "cluster": cluster, "jobs": jobs}
            logits = policy.network({name: torch.from_numpy(value) for name, value in seen.items()})[0][0]
        best = [a for a in logits.argsort(descending=True, stable=True).tolist() if mask[0, a]]
        named = [int(row.job[a]) if a < 8 else WAITS for a in best] + [NOBODY]
        assert (
            np.allclose(row.score[row.legal], logits[:n].numpy()[row.legal], atol=1e-4)
            and np.isnan(row.score[~row.legal]).all()
        )
        assert (row.chosen, row.runner_up) == (named[0], named[1])
        assert row.chosen_p == pytest.approx(float(logits.softmax(0)[best[0]]), abs=1e-4)


def test_a_chosen_job_is_told_however_far_back_it_stands() -> None:
    """With more visible jobs than are written down, the chosen one could be left out."""
    scores = np.zeros(41, np.float32)
    scores[[30, 35]] = 3.0, 2.0
    recorder = Recorder("logit")
    recorder.picked(0.0, 99, (np.arange(100, 140), np.ones(41, np.int8), np.zeros((40, 12)), np.zeros(8)), scores)
    (row,) = recorder.rows
    assert row.jobs.tolist() == [*range(100, 100 + MOST), 130, 135] and (row.chosen, row.runner_up) == (130, 135)


def test_the_index_form_goes_by_its_levers() -> None:
    """The order on the page would be the baseline's, not that of the round."""
    torch.manual_seed(1)
    steers = SteeringNetwork(SteeringConfig(round_s=600.0, hidden=8))
    torch.nn.init.normal_(steers.actor[-1].weight, std=2.0)
    policy = SteeringPolicy(steers.eval(), Rules(backfill="skip", baseline="las", window=10), {})
    result, rows = told(policy=policy, **COSTS)
    assert decided(rows) == starts(result) and rows.lever_gpu_power.nunique() > 3
    usual = np.array([np.nan] * 4 + [2.0, 1.0])
    gpus, power = result.jobs.num_gpus.astype(float), LEVERS.index("gpu_power")
    runs = result.runs
    for _, row in rows.iterrows():
        world = torch.tensor(np.array([[row[f"seen_{name}"] for name in FEATURES]], np.float32))
        with torch.inference_mode():
            levers = values_of(steers.means({"world": world})[0].numpy(), usual)
        assert row.lever_gpu_power == pytest.approx(levers[power])
        held = np.clip(row.time_s - runs.start_s, 0.0, runs.end_s - runs.start_s) * runs.held_gpus()
        attained = np.bincount(runs.job, held, len(result.jobs))[row.job]
        assert (
            np.allclose(row.score, attained * gpus[row.job] ** (levers[power] - 1.0))
            and (np.diff(row.score) >= 0).all()
        )


def test_terms_of_the_program_add_up() -> None:
    """The table of terms would not come to the objective beside it."""
    result, rows = told(policy="sjf", milp=True)
    plans, levels = result.recorded.plans().to_pandas(), result.recorded.levels
    assert set(plans.time_s) <= set(rows.time_s) and len(plans) > 10
    for row in plans.to_dict("records"):
        for side, objective in (("winner", row["objective"]), ("runner_up", row["runner_up_objective"])):
            if objective is not None:
                sums = [
                    sum(w * row[f"{side}_{term}"] * (-1 if term == "value" else 1) for term, w in level.items())
                    for level in levels
                ]
                assert np.allclose(sums, objective)


def test_every_named_policy_says_what_its_key_is() -> None:
    """The column of scores would have no meaning."""
    assert set(MEANINGS) == {*ORDERS, *PREEMPTIVE}


def test_what_takes_no_decision_is_refused() -> None:
    """A rule that waits for one job would leave an empty table, or another schedule."""
    with pytest.raises(InputError, match="decisions=true: under backfill=blocking"):
        rltune.simulate(trace(), CLUSTER, policy="sjf", backfill="blocking", decisions=True)


def test_the_latest_instant_is_found() -> None:
    """The page would show a decision that was still to come."""
    times = np.array([1.0, 5.0, 5.0, 9.0])
    assert [latest(times, at).tolist() for at in (0.5, 1.0, 7.0, 9.0)] == [[], [0], [1, 2], [3]]
