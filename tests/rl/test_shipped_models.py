"""Policies that come with the package: found by name, described by their cards, asked about a live queue."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rltune
from rltune.models.__main__ import main as models_main
from rltune.models.catalogue import FOLDER, models, read_card
from rltune.nouns.cluster import Cluster, Pool
from rltune.nouns.errors import InputError
from rltune.policies.orders import ALIASES, ORDERS
from rltune.policies.preemptive import PREEMPTIVE, PREEMPTIVE_ALIASES
from rltune.rl.mig.agent import load as load_agent
from rltune.rl.network import JobNetwork, NetworkConfig
from rltune.rl.picking import Picking
from rltune.rl.policy_file import LearnedPolicy
from rltune.rl.rules import Rules
from rltune.simulator.decisions import take_snapshot

ROOT = Path(__file__).parents[2]
WAITING = {"job_id": ["a", "b", "c"], "submit_s": [0, 60, 100], "duration_s": [7200, 600, 60], "num_gpus": [8, 1, 2]}
RUNNING = {"end_s": [900], "nodes": [[0]], "gpus": [[6]]}


def test_names_of_models_are_no_names_of_orders() -> None:
    """policy=NAME would mean one thing in one command and another in the next."""
    assert not set(models()) & {*ORDERS, *ALIASES, *PREEMPTIVE, *PREEMPTIVE_ALIASES}


@pytest.mark.parametrize("name", models())
def test_a_card_says_what_its_file_says(name: str) -> None:
    """A card would tell of other data, seeds or steps than the weights were trained with, or lack its limits."""
    card = read_card(name)
    origin = rltune.load_policy(name).origin if card["kind"] == "scheduler" else load_agent(name).origin
    told = card["seeds"][name]
    assert (told["steps"], told["kept"]) == (origin["steps"], origin["kept"])
    assert told["seed"] == (origin["seed"] if "seed" in origin else origin["options"]["seed"])
    assert card["limits"] and card["figures"]["rows"] and (ROOT / card["figures"]["record"]).exists()
    if card["kind"] == "scheduler":
        rules = rltune.load_policy(name).rules
        assert all(
            card["training"][key] == getattr(rules, key) for key in ("score", "backfill", "runtimes", "baseline")
        )
        assert (card["data"]["trace"], card["training"]["epochs"]) == (origin["trace"], origin["epochs"])
        assert [str(day) in card["data"]["train"] for day in origin["train"]] == [True, True]


def recorded(name: str) -> list[float]:
    """Mean waits in the record of a scheduler's card, of every row that can be meant."""
    rows = json.loads((ROOT / read_card(name)["figures"]["record"] / "summary.json").read_text())["policies"]
    return [row["wait_s"]["mean"] for row in rows.values()]


@pytest.mark.parametrize("name", models("scheduler"))
def test_figures_of_cards_stand_in_their_records(name: str) -> None:
    """A card would show a figure that nothing measured."""
    measured = {round(each) for each in recorded(name)}
    assert set(read_card(name)["figures"]["rows"].values()) <= measured


def test_an_unknown_name_lists_orders_and_models(capsys: pytest.CaptureFixture[str]) -> None:
    """Somebody who mistypes a name would not learn what there is."""
    for ask in (
        lambda: rltune.who_is_next("heliso", WAITING, "helios"),
        lambda: rltune.simulate(rltune.load_trace("synthetic", jobs=5), "uniform", policy="heliso"),
    ):
        with pytest.raises(InputError, match=r"policy 'heliso' is unknown; known are fifo, .*helios, .*rltune_helios"):
            ask()
    with pytest.raises(InputError, match=r"heliso does not exist; .* shipped model: helios"):
        rltune.load_policy("heliso")
    assert models_main([]) == 0 and all(name in capsys.readouterr().out.split() for name in ["helios"])
    assert models_main(["helios_window_s2"]) == 0 and "epoch 85" in capsys.readouterr().out
    assert models_main(["heliso"]) == 2 and "known are helios" in capsys.readouterr().err


def test_a_directory_of_a_models_name_does_not_hide_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """policy=helios beside a folder of traces called helios would be refused, or policy=fifo mean a file."""
    monkeypatch.chdir(tmp_path)
    for name in ("helios", "fifo"):
        (tmp_path / name).mkdir()
    assert rltune.load_policy("helios").baseline == "f4"
    assert rltune.who_is_next("fifo", WAITING, "helios").wait == []


# --- who is next? -----------------------------------------------------------------------


def test_the_documented_three_lines() -> None:
    """The documented answer would not be what one gets."""
    text = (ROOT / "docs" / "howto" / "policy.md").read_text()
    lines = [line.strip() for line in text[text.index("    policy = rltune.load_policy(") :].splitlines()[:3]]
    names: dict[str, Any] = {"rltune": rltune}
    exec("\n".join(lines[:2]), names)
    code, answer = lines[2].split("  # ")
    assert str(eval(code, names)) == answer == "Next(start=['b'], wait=['a'])"


def test_a_busy_cluster_leaves_jobs_waiting() -> None:
    """Jobs would be told to start on GPUs that others hold, or behind a reservation that they delay."""
    one = rltune.load_cluster("helios", nodes=1)
    assert rltune.who_is_next("fifo", WAITING, one, now_s=300, running=RUNNING) == (["b"], ["a", "c"])
    assert rltune.who_is_next("fifo", WAITING, one, now_s=301, running=RUNNING) == (["c"], ["a", "b"])
    start, wait = rltune.who_is_next("helios", WAITING, one, now_s=300, running=RUNNING)
    assert start in (["b"], ["c"]) and sorted(start + wait) == ["a", "b", "c"]
    assert rltune.who_is_next(lambda queue, _: queue.num_gpus, WAITING, one, running=RUNNING).start == ["b"]


def scrambled(backfill: str) -> LearnedPolicy:
    """A policy of random weights: its picks are its own."""
    torch.manual_seed(5)
    network = JobNetwork(NetworkConfig(visible=8))
    with torch.no_grad():
        for weights in network.parameters():
            weights.normal_(0.0, 0.3)
    return LearnedPolicy(network.eval(), Rules(backfill=backfill, baseline="sjf", visible=8), {})


@pytest.mark.parametrize("backfill", ["easy", "skip"])
def test_it_answers_as_it_does_in_a_simulation(backfill: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a live queue a policy would do something else than what it was judged by."""
    policy, seen = scrambled(backfill), []
    take = Picking.take

    def both(self: Picking, state: Any) -> None:
        # `answer` makes a `Picking` of its own.
        monkeypatch.setattr(Picking, "take", take)
        sim = state.value
        snapshot = take_snapshot(sim, np.zeros(len(sim.jobs.submit)))
        start, wait = policy.answer(snapshot)
        assert sorted([*start, *wait]) == list(range(len(snapshot.queue)))
        before = set(sim.active[: sim.counts[1]].tolist())
        take(self, state)
        started = set(snapshot.queue.job.tolist()) - set(sim.queue[: sim.counts[0]].tolist())
        seen.append((set(snapshot.queue.job[start].tolist()), started))
        assert not started & before
        monkeypatch.setattr(Picking, "take", both)

    monkeypatch.setattr(Picking, "take", both)
    cluster = Cluster("c", (Pool("a", 3, 8), Pool("b", 4, 4)))
    jobs = rltune.load_trace("synthetic", jobs=120, arrivals_per_h=400.0, seed=3)
    rltune.simulate(jobs, cluster, policy=policy, backfill=backfill, oversized="drop")
    assert len(seen) > 100 and any(started for _, started in seen)
    assert all(answered == started for answered, started in seen)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "later": ({"now_s": 50}, "job c is submitted later"),
    "no such node": (
        {"running": {"end_s": [1], "nodes": [[9]], "gpus": [[1]]}},
        "node 9 is none of cluster helios; 0 to 0",
    ),
    "too many": (
        {"running": {"end_s": [1], "nodes": [[0]], "gpus": [[9]]}},
        "jobs hold 1 GPUs more on node 0 than it has",
    ),
    "no ends": ({"running": {"nodes": [[0]], "gpus": [[9]]}}, "column end_s is missing"),
    "ragged": ({"running": {"end_s": [1], "nodes": [[0]], "gpus": [[1, 2]]}}, "row 1: as many gpus"),
    "backfill": ({"backfill": "eager"}, "backfill='eager' is unknown"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_queues_are_refused_in_one_line(case: str) -> None:
    """A live scheduler would act on a queue that cannot be."""
    options, message = BAD[case]
    with pytest.raises(InputError, match=message):
        rltune.who_is_next("fifo", WAITING, rltune.load_cluster("helios", nodes=1), **options)
    with pytest.raises(InputError, match="waiting: job a"):
        rltune.who_is_next("fifo", WAITING, Cluster("small", (Pool("p", 1, 4),)))


@pytest.mark.slow
def test_the_wheel_holds_models_and_cards(tmp_path: Path) -> None:
    """An installed package would know the names and lack the weights."""
    shutil.copytree(ROOT / "rltune", tmp_path / "source" / "rltune", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / "source")
    words = [
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        str(tmp_path),
        str(tmp_path / "source"),
    ]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert {f"rltune/models/{path.name}" for path in FOLDER.glob("*.*")} <= inside
