"""No policy is judged on jobs that it, or a policy it was tuned from, was trained on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rltune.config.choices import node
from rltune.config.commands import Evaluate
from rltune.config.declare import defaults
from rltune.config.traces import trace_node
from rltune.experiment.provenance import check_same, check_unseen, describe
from rltune.experiment.setup import Experiment, make_experiment
from rltune.nouns.errors import InputError


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    options: dict[str, Any] = defaults(Evaluate) | {
        "trace": trace_node("synthetic") | {"jobs": 2000},
        "cluster": {"auto": True},
        "protocol": node("protocol", "window"),
        "allocator": node("allocator", "best_fit"),
        "throughput": node("throughput", "none"),
    }
    return make_experiment(options)


def test_the_same_stretches_are_accepted(experiment: Experiment) -> None:
    """make eval would refuse the policies that ship."""
    assert check_unseen(experiment, describe(experiment, "ppo", 0, None)) == []


@pytest.mark.parametrize("name", ["train", "validate"])
def test_other_stretches_of_the_same_log_are_refused(experiment: Experiment, name: str) -> None:
    """A policy trained on September would be shown to win in September."""
    origin = describe(experiment, "ppo", 0, None) | {name: [0.5, 0.9]}
    with pytest.raises(InputError, match=r"give trace.train and trace.validate as they were"):
        check_unseen(experiment, origin)


def test_the_parents_of_a_policy_count(experiment: Experiment) -> None:
    """Fine-tuning once on another trace would wash off what a policy has seen."""
    seen = describe(experiment, "ppo", 0, None) | {"train": [0.0, 1.0]}
    elsewhere = describe(experiment, "ppo", 0, seen) | {"trace": "x", "trace_sha256": "0", "files": []}
    with pytest.raises(InputError, match="so that test jobs stay unseen"):
        check_unseen(experiment, elsewhere)


def test_another_cut_of_the_same_file_is_told(experiment: Experiment) -> None:
    """The first half of a log, under the same name, holds jobs that the whole one trained on."""
    here = replace(experiment, trace=replace(experiment.trace, files=("jobs.csv",)))
    origin = describe(here, "ppo", 0, None) | {"trace_sha256": "0"}
    assert check_unseen(here, origin) == ["the policy was trained on synthetic (synthetic), not here: a transfer"]
    other = origin | {"jobs": {"train": ["a", "b", 9], "validate": ["c", "d", 9]}}
    assert any("may have been seen" in remark for remark in check_unseen(here, other))


def test_two_traces_of_one_log_are_told(experiment: Experiment) -> None:
    """A policy of philly judged on rltune_helios has met the same jobs under another name."""
    here = replace(experiment, trace=replace(experiment.trace, name="rltune_helios", files=("philly_sia.csv",)))
    changed = {"trace": "philly", "trace_sha256": "0", "files": ["philly.csv"], "jobs": None}
    origin = describe(experiment, "ppo", 0, None) | changed
    assert any("may have been seen" in remark for remark in check_unseen(here, origin))


def test_a_run_goes_on_only_with_what_it_began_with(experiment: Experiment) -> None:
    """resume= with another trace or cluster would mix two experiments in one curve."""
    origin = describe(experiment, "ppo", 0, None)
    check_same(experiment, origin, "ppo")
    for name, other in (
        ("algo", "dqn"),
        ("nodes", [7]),
        ("protocol", "month"),
        ("train", [0.0, 0.5]),
        ("trace_sha256", "0"),
    ):
        with pytest.raises(InputError, match=f"resume: the run was trained with {name}="):
            check_same(experiment, origin | {name: other}, "ppo")
