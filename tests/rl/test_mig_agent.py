"""The agent for batches: what its network knows, its file, its plans."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, safe_open, save_file

from rltune.mig.batch.families import FAMILIES, family_batch
from rltune.mig.batch.plan import check_plan
from rltune.mig.batch.tasks import Tasks, tasks_of
from rltune.nouns.errors import InputError
from rltune.nouns.mig_profiles import TYPES
from rltune.rl.mig.agent import Agent, load, save_agent, untrained
from rltune.rl.mig.batches import Mixture, Sampler, family_profiles
from rltune.rl.mig.env import Setup, VectorBatchEnv
from rltune.rl.mig.network import BatchNetwork, NetworkConfig

MODEL = "A100-80GB"
ORIGIN = {"kept": "epoch 5", "options": {"family": "all"}}


def shaken(seed: int = 0) -> Agent:
    """An agent of which no weight is zero."""
    torch.manual_seed(seed)
    network = BatchNetwork(NetworkConfig(hidden=8, pair=4)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return Agent(network, ORIGIN)


def some_observations() -> dict[str, torch.Tensor]:
    """In the middle of episodes."""
    env = VectorBatchEnv(Setup(MODEL, family_profiles(MODEL), 20, 50), 16, Sampler(Mixture(), MODEL, 1))
    seen, _ = env.reset(seed=1)
    rng = np.random.default_rng(1)
    for _ in range(12):
        mask = seen["action_mask"]
        seen, _, _, _, _ = env.step(np.argmax(rng.random(mask.shape) * mask, 1))
    return {name: torch.from_numpy(values) for name, values in seen.items()}


def test_exchanging_tasks_or_placements_exchanges_their_scores() -> None:
    """The same batch in another order would be planned otherwise, and larger ones could not be planned at all."""
    network, seen = shaken().network, some_observations()
    visible, places = seen["tasks"].shape[1], seen["places"].shape[1]
    rng = np.random.default_rng(0)
    of_task, of_place = (torch.from_numpy(rng.permutation(n)) for n in (visible, places))
    action = torch.arange(visible * places).reshape(visible, places)[of_task][:, of_place].flatten()
    action = torch.cat([action, visible * places + of_place, torch.tensor([(visible + 1) * places])])
    exchanged = {
        "tasks": seen["tasks"][:, of_task],
        "places": seen["places"][:, of_place],
        "gpu": seen["gpu"],
        "action_mask": seen["action_mask"][:, action],
    }
    with torch.inference_mode():
        logits, value = network(seen)
        other_logits, other_value = network(exchanged)
    assert torch.allclose(logits[:, action], other_logits, atol=1e-4)
    assert torch.allclose(value, other_value, atol=1e-5)


def test_only_legal_actions_have_a_chance() -> None:
    """Training would end with an error at the first illegal action drawn."""
    seen = some_observations()
    chances = torch.softmax(shaken().network(seen)[0], 1)
    assert chances[seen["action_mask"] == 0].max() == 0
    assert chances.sum(1).detach() == pytest.approx(np.ones(16), abs=1e-5)


@pytest.mark.parametrize("agent", [untrained(), shaken()], ids=["prior", "random weights"])
@pytest.mark.parametrize("model", TYPES)
def test_every_type_of_gpu_is_planned(agent: Agent, model: str) -> None:
    """One checkpoint serves all types; a plan would be refused by the check, or a task that needs memory forgotten."""
    rng = np.random.default_rng(2)
    columns = {"1g": rng.uniform(10, 90, 40), "2g": rng.uniform(5, 60, 40), "4g": rng.uniform(3, 40, 40)}
    columns["1g"][::3] = np.inf
    tasks = tasks_of(model, columns)
    for samples, window in ((0, None), (3, None), (0, 5)):
        plan = agent.plan(tasks, model, samples=samples, window=window)
        check_plan(tasks, plan)
        assert plan.method == "ppo" and plan.gpus == (model,)


def test_samples_only_improve_a_plan_and_follow_the_generator() -> None:
    """More samples could give a worse plan, or a published figure could not be had again."""
    tasks = family_batch("wide_times", 12, np.random.default_rng(4), MODEL)
    agent = untrained()
    greedy = agent.plan(tasks, "a100-80gb")
    drawn, again = (agent.plan(tasks, "a100-80gb", samples=16, rng=np.random.default_rng(9)) for _ in range(2))
    assert drawn.makespan_s <= greedy.makespan_s
    assert drawn == again


def test_a_window_of_one_plans_in_the_order_of_the_batch() -> None:
    """Online, a task would be planned before those that came earlier."""
    tasks = family_batch("bad_scaling", 9, np.random.default_rng(4), MODEL)
    plan = untrained().plan(tasks, MODEL, window=1)
    starts = [run.start_s for run in sorted(plan.runs, key=lambda run: run.task)]
    # A later task may begin before an earlier one only by the wait for the earlier one's instance to be ready.
    assert all(later >= earlier - 1.0 for earlier, later in itertools.pairwise(starts))


def test_the_shipped_agent_is_better_than_the_rule_it_started_from() -> None:
    """A checkpoint that no longer fits the features or the network would plan worse than no training."""
    agent = load("mig_batch")
    rng = np.random.default_rng(77)
    batches = [family_batch(family, 14, rng, MODEL) for family in FAMILIES for _ in range(3)]
    trained, prior = (np.mean([a.plan(t, MODEL).makespan_s for t in batches]) for a in (agent, untrained()))
    assert trained < 0.97 * prior


def test_online_plans_begin_alike_whatever_is_hidden() -> None:
    """An online plan would be made with knowledge that a user does not have yet."""
    table = family_batch("mix_scaling_soft", 16, np.random.default_rng(4), MODEL).seconds[MODEL]
    other = table.copy()
    other[8:] *= 3.0
    plans = [shaken().plan(Tasks(tuple(map(str, range(16))), {MODEL: t}), MODEL, window=5) for t in (table, other)]
    early = [sorted((r.start_s, r.end_s, r.task) for r in plan.runs)[:4] for plan in plans]
    assert early[0] == early[1]


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda a, t: a.plan(t, "a30"), "no times on A30"),
        (lambda a, t: a.plan(t, MODEL, samples=-1), "samples=-1"),
        (lambda a, t: a.plan(t, MODEL, window=0), "window=0"),
        (lambda a, t: a.plan(t, "b100"), "b100"),
    ],
)
def test_what_cannot_be_planned_is_said_in_one_line(call: Callable[[Agent, Tasks], Any], what: str) -> None:
    """A user would see a traceback of array shapes."""
    with pytest.raises(InputError, match=what):
        call(untrained(), family_batch("bad_scaling", 3, np.random.default_rng(0), MODEL))


def test_a_task_that_fits_no_slice_of_this_model_is_named() -> None:
    """It would be left out of the plan."""
    fine = family_batch("bad_scaling", 2, np.random.default_rng(0), MODEL).seconds[MODEL]
    none = fine.copy()
    none[1] = np.inf
    tasks = Tasks(("a", "b"), {MODEL: none, "H100-80GB": fine})
    with pytest.raises(InputError, match="'b' fits no slice of A100"):
        untrained().plan(tasks, MODEL)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A good file."""
    save_agent(tmp_path / "policy.safetensors", shaken())
    return tmp_path / "policy.safetensors"


def test_round_trip(path: Path) -> None:
    """An agent would plan otherwise after loading."""
    agent, read = shaken(), load(path.parent)
    assert read.origin == ORIGIN
    for name, tensor in agent.network.state_dict().items():
        assert torch.equal(tensor, read.network.state_dict()[name])
    save_agent(path.with_name("again.safetensors"), read)
    assert path.with_name("again.safetensors").read_bytes() == path.read_bytes()


def changed(path: Path, weights: Callable[[Any], Any] = lambda w: w, **header: str) -> None:
    """Write the file anew with other weights or header entries."""
    with safe_open(str(path), framework="pt") as opened:
        before = dict(opened.metadata())
    save_file(weights(load_file(path)), path, before | header)


def poisoned(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    weights["wait.bias"][0] = float("nan")
    return weights


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "missing": lambda p: p.unlink(),
    "empty": lambda p: p.write_bytes(b""),
    "truncated": lambda p: p.write_bytes(p.read_bytes()[:-40]),
    "text": lambda p: p.write_text("these are not weights"),
    "pickle": lambda p: p.write_bytes(pickle.dumps({"weights": np.zeros(3)})),
    "foreign safetensors": lambda p: save_file({"a": torch.zeros(2)}, p),
    "a policy of the queue": lambda p: changed(p, format="rltune-policy-1"),
    "other features": lambda p: changed(p, features="[]"),
    "other architecture": lambda p: changed(p, network='{"hidden": 16, "pair": 4}'),
    "no architecture": lambda p: changed(p, network="[]"),
    "weights that are no numbers": lambda p: changed(p, weights=poisoned),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_is_no_agent_is_refused_by_name(path: Path, damage: str) -> None:
    """A user would see a traceback, or plans by chance."""
    DAMAGES[damage](path)
    with pytest.raises(InputError, match=r"policy\.safetensors"):
        load(path)
