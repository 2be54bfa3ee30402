"""Learned policies in an evaluation: seeds, their mean, and policies that kept no epoch."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from entry_cases import QUICK, ROWS, Command, no_nan, write

from rltune import compare as comparing
from rltune.rl.network import JobNetwork, NetworkConfig
from rltune.rl.policy_file import LearnedPolicy, load_policy, save_policy
from rltune.rl.rules import Rules


def save_seeds(folder: Path, seeds: int, weights: float) -> list[str]:
    """Policies of several seeds, as training leaves them; ``weights``: how far from the baseline order."""
    paths = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        network = JobNetwork(NetworkConfig(visible=4, hidden=8))
        for tensor in network.parameters():
            torch.nn.init.normal_(tensor, std=weights)
        origin = {
            "seed": seed,
            "kept": "epoch 5" if weights else "baseline order",
            "trace": "elsewhere",
            "trace_sha256": "0",
        }
        paths.append(str(folder / f"s{seed}.safetensors"))
        save_policy(Path(paths[-1]), LearnedPolicy(network, Rules(baseline="sjf", visible=4), origin))
    return paths


def test_several_seeds_stand_in_one_table_with_their_mean(here: Path, command: Command) -> None:
    """A lucky seed would stand for the method, or the MILP's part could not be told from the policy's."""
    write(here / "jobs.csv", ROWS)
    seeds = save_seeds(here, 2, 1.0)
    status, out, err = command(
        "evaluate", "+trace=file", "trace.path=jobs.csv", *QUICK, f"checkpoint=[{','.join(seeds)}]"
    )
    assert status == 0, err
    assert "a transfer" in err
    summary = json.loads((Path(out.splitlines()[-1]) / "summary.json").read_text())
    assert no_nan(summary)
    rows = summary["policies"]
    learned = {f"learned-easy-exact-s{k}{placed}" for k in (0, 1) for placed in ("", "+milp")}
    assert {name for name, row in rows.items() if row["learned"]} == learned
    assert rows["sjf-easy-exact+milp"]["allocator_stats"]["calls"] > 0
    assert rows["learned-easy-exact-s0"]["allocator"] == "best_fit"
    assert {seed["policy"] for seed in summary["seeds"]} == {
        "learned-easy-exact+milp, mean of 2", "learned-easy-exact, mean of 2",
    }  # fmt: skip
    means = [rows[f"learned-easy-exact-s{k}"]["wait_s"]["mean"] for k in (0, 1)]
    told = next(s for s in summary["seeds"] if s["policy"] == "learned-easy-exact, mean of 2")
    assert (told["min"], told["max"]) == (min(means), max(means))
    assert told["mean"] == pytest.approx(sum(means) / 2)
    against = {
        c["against"]: c for c in summary["comparisons"] if c["policy"] == told["policy"] and c["metric"] == "wait_s"
    }
    gain = 1 - told["mean"] / rows["fifo-easy-exact"]["wait_s"]["mean"]
    assert against["fifo-easy-exact"]["reduction"] == pytest.approx(gain)
    assert told["policy"] in out


def test_shipped_models_go_by_name_in_every_command(here: Path, command: Command) -> None:
    """policy=helios would be refused, or be a heuristic's row, and its runs could not be compared."""
    write(here / "jobs.csv", ROWS)
    jobs = ("+trace=file", "trace.path=jobs.csv", "nodes=2", "progress=false")
    for options in (("policy=helios", "name=learned"), ("policy=f4", "name=plain")):
        status, _, err = command("simulate", *jobs, *options, "backfill=easy", "runs=sims")
        assert status == 0, err
        remarks = json.loads((here / "sims" / options[1][5:] / "summary.json").read_text())["remarks"]
        assert [each for each in remarks if "transfer" in each] == (
            ["policy=helios was trained with allocator=milp; this is a transfer"] if "name=learned" in options else []
        )
    assert comparing.main(["sims/learned", "sims/plain", "--name", "both"]) == 0
    found = json.loads((here / "runs" / "both" / "compare.json").read_text())
    # It has learned nothing, as its card says.
    assert found["differing"] == ["policy"] and found["comparisons"][0]["reduction"] == 0
    for policy in ("policy=[fifo,helios]", "policy=helios"):
        status, out, err = command(
            "evaluate", "+trace=file", "trace.path=jobs.csv", *QUICK, policy, "allocator=best_fit"
        )
        assert status == 0, err
        rows = json.loads((Path(out.splitlines()[-1]) / "summary.json").read_text())["policies"]
        assert {name for name, row in rows.items() if row["learned"]} == {"learned-easy-exact"}
        assert ("fifo-easy-exact" in rows) == (policy != "policy=helios")


@pytest.mark.parametrize("again", [0, 1])
@pytest.mark.thorough
def test_only_seeds_of_one_recipe_are_averaged(here: Path, command: Command, again: int) -> None:
    """The same policy twice, or two unlike ones, would be called a mean of seeds."""
    write(here / "jobs.csv", ROWS)
    seeds = save_seeds(here, 2, 1.0)
    other = load_policy(seeds[1])
    save_policy(Path(seeds[1]), replace(other, origin=other.origin | {"algo": "dqn"}))
    status, out, err = command(
        "evaluate", "+trace=file", "trace.path=jobs.csv", *QUICK, f"checkpoint=[{seeds[0]},{seeds[again]}]"
    )
    assert status == 0, err
    assert json.loads((Path(out.splitlines()[-1]) / "summary.json").read_text())["seeds"] == []


def test_heuristics_named_twice_are_one_row(here: Path, command: Command) -> None:
    """An alias, or a word typed twice, would be a stack trace."""
    write(here / "jobs.csv", ROWS)
    quick = [option for option in QUICK if not option.startswith(("policy", "backfill"))]
    options = ("policy=[fifo,sjf,fifo]", "backfill=[skip,skip]")
    status, out, err = command("evaluate", "+trace=file", "trace.path=jobs.csv", *quick, *options)
    assert status == 0, err
    rows = json.loads((Path(out.splitlines()[-1]) / "summary.json").read_text())["policies"]
    assert list(rows) == ["fifo-skip", "sjf-skip-exact", "sjf-skip-predicted"]


def test_a_policy_that_kept_no_epoch_is_told_and_is_its_order(here: Path, command: Command) -> None:
    """The baseline order would be quoted as a learned result."""
    write(here / "jobs.csv", ROWS)
    (path,) = save_seeds(here, 1, 0.0)
    status, out, err = command("evaluate", "+trace=file", "trace.path=jobs.csv", *QUICK, f"checkpoint={path}")
    assert status == 0, err
    run = Path(out.splitlines()[-1])
    rows = json.loads((run / "summary.json").read_text())["policies"]
    assert rows["learned-easy-exact"]["wait_s"] == rows["sjf-easy-exact"]["wait_s"]
    assert rows["learned-easy-exact+milp"]["wait_s"] == rows["sjf-easy-exact+milp"]["wait_s"]
    for text in (out, (run / "table.md").read_text()):
        assert "learned-easy-exact: training kept its baseline order sjf" in " ".join(text.split())


def test_both_commands_guard_a_policy_and_tell_how_often_it_decided(here: Path, command: Command) -> None:
    """Who decided would be unknown, or a typo among the guard's options pass without a word."""
    write(here / "jobs.csv", ROWS)
    (path,) = save_seeds(here, 1, 1.0)
    trace = ("+trace=file", "trace.path=jobs.csv")
    status, out, err = command(
        "evaluate", *trace, *QUICK, "allocator=best_fit", f"checkpoint={path}", "guard=true", "shadow.rule=f1"
    )
    assert status == 0, err
    summary = json.loads((Path(out.splitlines()[-1]) / "summary.json").read_text())
    told = summary["policies"]["learned-easy-exact+guard"]["guard"]
    assert told["rules"] == ["sjf", "f1"]
    assert sum(told["decisions"].values()) >= told["checks"] > 0
    assert any("what was learned decided" in line for line in summary["notes"])
    guarded = (f"policy={path}", "guard=true", "backfill=easy")
    status, out, err = command("simulate", *trace, *guarded, "shadow.every_s=60")
    assert status == 0, err
    summary = json.loads((Path(out.splitlines()[-1]) / "summary.json").read_text())
    assert summary["simulation"]["guard"] == {"ahead_s": 7200.0, "every_s": 60, "rule": None, "tolerance": 0.01}
    assert next(iter(summary["policies"].values()))["guard"]["checks"] > 0
    assert "guard" in out
    for wrong, told_of in ((("policy=sjf", "guard=true"), "guard"), ((*guarded, "shadow.ahead_s=0"), "ahead_s")):
        status, _, err = command("simulate", *trace, *wrong)
        assert (status, told_of in err) == (2, True), err
