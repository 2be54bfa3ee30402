"""The network: blind to row order, bound by the mask, and the baseline order before it has learned anything."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import rltune
from rltune.nouns.errors import InputError
from rltune.rl.network import GPUS, ORDER_POSITION, JobNetwork, NetworkConfig
from rltune.rl.observe import CLUSTER_FEATURES, JOB_FEATURES
from rltune.rl.rollout import play
from rltune.rl.rules import Rules, make_setup

V = 12


def trained(attention: bool = False, **options: Any) -> JobNetwork:
    """A network whose corrections are not zero."""
    torch.manual_seed(3)
    network = JobNetwork(NetworkConfig(visible=V, attention=attention, hidden=16, **options))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network.eval()


def observation(batch: int = 5, jobs: int = 8, seed: int = 0) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(seed)
    rows = rng.random((batch, V, len(JOB_FEATURES)), np.float32)
    rows[:, jobs:] = 0
    mask = np.zeros((batch, V + 1), np.int8)
    mask[:, :jobs] = rng.random((batch, jobs)) < 0.5
    mask[:, V] = 1
    cluster = rng.random((batch, len(CLUSTER_FEATURES)), np.float32)
    return {"jobs": torch.from_numpy(rows), "cluster": torch.from_numpy(cluster), "action_mask": torch.from_numpy(mask)}


@pytest.mark.parametrize("attention", [False, True])
def test_exchanging_two_jobs_exchanges_their_scores(attention: bool) -> None:
    """The network would learn slots of the queue instead of jobs."""
    network, obs = trained(attention), observation()
    obs["jobs"][:, 2, ORDER_POSITION] = obs["jobs"][:, 6, ORDER_POSITION]
    swap = torch.arange(V)
    swap[2], swap[6] = 6, 2
    other = obs | {"jobs": obs["jobs"][:, swap]}
    with torch.no_grad():
        (before, _), (after, _) = network.scores(obs), network.scores(other)
        value, value_after = network(obs)[1], network(other)[1]
    assert not torch.allclose(before[:, 2], before[:, 6], atol=1e-3)
    torch.testing.assert_close(after[:, :V], before[:, :V][:, swap], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(after[:, V], before[:, V], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(value, value_after, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("attention", [False, True])
def test_empty_rows_change_nothing(attention: bool) -> None:
    """Padding would be scored as if it were jobs: the same queue would be judged by how much room is left beside it."""
    network, obs = trained(attention), observation(jobs=8)
    with torch.no_grad():
        scores, context = network.scores(obs)
        narrow, narrow_context = network.scores(obs | {"jobs": obs["jobs"][:, :8]})
    torch.testing.assert_close(scores[:, :8], narrow[:, :8], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(context, narrow_context, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("attention", [False, True])
def test_what_is_masked_is_never_chosen(attention: bool) -> None:
    """The policy would pick jobs that cannot start, greedily or by chance."""
    network = trained(attention)
    for seed in range(5):
        obs = observation(batch=64, seed=seed)
        with torch.no_grad():
            logits, _ = network(obs)
        legal = obs["action_mask"].bool()
        assert legal.gather(1, logits.argmax(1, keepdim=True)).all()
        drawn = torch.distributions.Categorical(logits=logits).sample((200,)).T
        assert legal.gather(1, drawn).all()


@pytest.mark.parametrize("attention", [False, True])
def test_no_visible_job_and_no_nan(attention: bool) -> None:
    """Attention over nothing would give NaN, and one NaN gradient ends the training."""
    network, obs = trained(attention).train(), observation(batch=3)
    obs["jobs"][1] = 0
    obs["action_mask"][1, :V] = 0
    logits, value = network(obs)
    assert torch.isfinite(logits).all() and torch.isfinite(value).all()
    assert logits[1].argmax() == V
    (logits.clamp(min=-100).sum() + value.sum()).backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in network.parameters())


def test_presence_is_told_by_a_feature_that_is_never_zero() -> None:
    """A present job would be taken for padding."""
    assert JOB_FEATURES[GPUS] == "gpus"
    assert JOB_FEATURES[ORDER_POSITION] == "order_position"


def crowded() -> rltune.Trace:
    return rltune.load_trace("synthetic", jobs=100, arrivals_per_h=300.0, gpu_mix={1: 0.5, 2: 0.2, 8: 0.2, 12: 0.1})


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize(
    ("order", "backfill"), [("sjf", "easy"), ("saf", "easy"), ("fifo", "skip"), ("smallest", "skip")]
)
def test_an_untrained_greedy_policy_is_the_baseline(order: str, backfill: str, attention: bool) -> None:
    """Learning would start from noise, and the gain of a trained policy over its baseline could not be told."""
    cluster = rltune.load_cluster({"pools": [{"nodes": 4, "gpus_per_node": 8}]})
    setup = make_setup(crowded(), cluster, Rules(baseline=order, backfill=backfill, visible=70, window=70))
    torch.manual_seed(1)
    network = JobNetwork(NetworkConfig(visible=70, attention=attention))
    played = play(setup, network, [0, 11, 30])
    for start, result in zip([0, 11, 30], played.results, strict=True):
        expected = rltune.simulate(crowded().window(start, 70), cluster, policy=order, backfill=backfill)
        assert result.schedule.equals(expected.schedule)
    waits = [-result.wait_s.mean() for result in played.results]
    assert played.returns == pytest.approx(waits)


def test_batches_of_play_do_not_matter() -> None:
    """The result of a window would depend on which windows are evaluated beside it."""
    cluster = rltune.load_cluster({"pools": [{"nodes": 4, "gpus_per_node": 8}]})
    setup = make_setup(crowded(), cluster, Rules(baseline="saf", visible=V, window=20))
    network = trained()
    together = play(setup, network, range(70))  # more than one batch
    assert len(together.results) == 70
    for start in (0, 63, 64, 69):
        alone = play(setup, network, [start])
        assert alone.results[0].schedule.equals(together.results[start].schedule)
        assert alone.returns[0] == together.returns[start]
        assert alone.decisions[0] == together.decisions[start]


def test_a_policy_that_sees_another_number_of_jobs_is_refused() -> None:
    """Tensors of the wrong width would be a stack trace."""
    setup = make_setup(crowded(), rltune.load_cluster("uniform"), Rules(visible=V + 1, window=20))
    with pytest.raises(InputError, match=f"sees {V} jobs, visible={V + 1}"):
        play(setup, trained(), [0])


IMPOSSIBLE = [{"hidden": 0}, {"visible": 0}, {"hidden": 30, "attention": True}, {"attention": True, "heads": 0}]


@pytest.mark.parametrize("options", IMPOSSIBLE, ids=str)
def test_impossible_architectures_are_refused(options: dict[str, Any]) -> None:
    """network.hidden=30 network.attention=true would be an assertion deep in Torch."""
    with pytest.raises(InputError, match="network: hidden="):
        NetworkConfig(**options)
