"""Training of the index form end to end, small; and what it refuses before anything runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from training_commands import evaluate, train

from rltune.config.commands import Train
from rltune.entry import run_main
from rltune.rl.policy_file import SteeringPolicy, load_policy
from rltune.rl.training import Curve
from rltune.train import main as train_main

SMALL = (
    "+trace=synthetic", "trace.jobs=900", "trace.arrivals_per_h=400", "nodes=4", "protocol.window=60", "agent=index",
    "baseline=las", "backfill=skip", "runtimes=unknown", "allocator=best_fit", "options.resume_s=60", "options.way_rule=market",
    "steering.round_s=600", "steering.hidden=8", "epochs=2", "rounds_per_epoch=64", "validate_every=1", "validation_windows=4",
    "progress=false", "oversized=drop", "score=jct",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("algo", [("algo=ppo", "algo.envs=4", "algo.minibatch=32"), ("algo=cma", "algo.windows=3")])
def test_it_is_trained_judged_and_gone_on_with(algo: tuple[str, ...], tmp_path: Path) -> None:
    """The documented commands would fail, or their policy would be left out of the table."""
    done = train(*SMALL, *algo, "name=first", runs=tmp_path)
    assert done.returncode == 0, done.stderr
    policy = load_policy(tmp_path / "first")
    assert isinstance(policy, SteeringPolicy)
    assert policy.rules.baseline == "las" and policy.network.config.round_s == 600
    assert len(Curve.read(tmp_path / "first" / "curve.csv").rows) == 2
    name = "cma-skip-unknown" if algo[0] == "algo=cma" else "learned-skip-unknown"
    table = json.loads((tmp_path / "first" / "summary.json").read_text())["policies"]
    assert {name, "las-skip"} <= set(table)
    if table[name]["kept"] == "baseline order":
        assert table[name]["jct_s"] == table["las-skip"]["jct_s"]
    keep = ("+trace", "trace.", "nodes", "protocol.", "progress", "oversized")
    same = [option for option in SMALL if option.startswith(keep)]
    judged = evaluate(
        *same, f"checkpoint={tmp_path / 'first'}", "windows=4", "policy=[fifo]", "name=judged", runs=tmp_path
    )
    assert judged.returncode == 0, judged.stderr
    assert name in json.loads((tmp_path / "judged" / "summary.json").read_text())["policies"]
    again = train(*SMALL, *algo, "epochs=1", "evaluate=false", f"resume={tmp_path / 'first'}", runs=tmp_path)
    if algo[0] == "algo=cma":
        assert again.returncode == 2 and "algo=cma searches from the baseline on" in again.stderr
    else:
        assert again.returncode == 0, again.stderr
        assert len(Curve.read(Path(again.stdout.splitlines()[-1]) / "curve.csv").rows) == 3


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("algo=dqn",), "agent=index is not trained by algo=dqn; use ppo or cma"),
        (("agent=pick", "algo=cma"), "agent=pick is not trained by algo=cma; use ppo or dqn or sac"),
        (("agent=table",), "agent"),
        (("allocator=milp",), "agent=index is trained beside a placement rule"),
        (("algo=cma", "checkpoint=runs/x"), "algo=cma searches from the baseline on"),
        (("steering.round_s=0",), "steering: round_s=0"),
        (("steering.spread=2",), "spread=2"),
        (("options.way_rule=fastest", "options.resume_s=0", "baseline=fifo"), "has nothing to set"),
    ],
)
def test_what_does_not_go_together_is_refused(
    options: tuple[str, ...],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A long training would fail on its way, or train something else than what was asked."""
    given = [option.split("=")[0] for option in options]
    own = [option for option in SMALL if option.split("=")[0] not in given]
    # In this process: a new one takes seconds to load what it needs.
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "argv", ["rltune.train", *own, *options, f"runs={tmp_path}"])
    with pytest.raises(SystemExit) as ended:
        run_main(train_main, Train)
    assert ended.value.code == 2
    assert told in capfd.readouterr().err.strip().splitlines()[-1]
