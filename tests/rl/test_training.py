"""Training end to end, small: a run directory, seeds, resuming, fine-tuning, a sweep on a local Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from training_commands import train

from rltune.config.commands import Train
from rltune.entry import run_main
from rltune.rl.checkpoints import newest
from rltune.rl.policy_file import load_policy, save_policy
from rltune.rl.training import Curve, worth_keeping
from rltune.train import main as train_main

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("training")]

SMALL = (
    "trace.jobs=900", "trace.arrivals_per_h=400", "nodes=4", "protocol.window=32", "visible=8", "epochs=2",
    "windows_per_epoch=4", "validate_every=1", "validation_windows=4", "evaluate=false", "allocator=best_fit",
    "algo.envs=4", "algo.threads=1", "progress=false", "oversized=drop",
)  # fmt: skip


# Of the session: between two tests of the group a worker may run those of other modules.
@pytest.fixture(scope="session")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    done = train("+trace=synthetic", *SMALL, "name=first", runs=runs)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(runs / "first")
    return runs / "first"


def test_a_run_leaves_what_the_documentation_lists(first_run: Path) -> None:
    """A user would look for the policy, the curve or the figure and not find it."""
    names = {path.name for path in first_run.iterdir()}
    assert {
        "checkpoint", "policy.safetensors", "curve.csv", "learning_curve.png", "config.yaml", "manifest.json", "summary.json",
    } <= names  # fmt: skip
    assert len(Curve.read(first_run / "curve.csv").rows) == 2
    assert load_policy(first_run).origin["source"] == "synthetic"


@pytest.fixture(scope="session")
def longer_run(first_run: Path) -> Path:
    """The same training, an epoch longer."""
    done = train("+trace=synthetic", *SMALL, "epochs=3", "name=again", runs=first_run.parent)
    assert done.returncode == 0, done.stderr
    return first_run.parent / "again"


@pytest.mark.thorough
def test_the_same_seed_gives_the_same_policy(first_run: Path, longer_run: Path) -> None:
    """A published result could not be reproduced from its seed."""
    assert without_clock(longer_run)[:2] == without_clock(first_run)


def without_clock(run: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k != "wall_s"} for row in Curve.read(run / "curve.csv").rows]


@pytest.mark.thorough
def test_resuming_goes_on_where_the_run_stopped(first_run: Path, longer_run: Path) -> None:
    """A user who resumes would train from scratch, lose the curve so far, or get another policy than in one go."""
    done = train("+trace=synthetic", *SMALL, "epochs=1", f"resume={first_run}", "name=longer", runs=first_run.parent)
    assert done.returncode == 0, done.stderr
    longer = first_run.parent / "longer"
    assert [row["epoch"] for row in without_clock(longer)] == [1, 2, 3]
    assert without_clock(longer) == without_clock(longer_run)
    assert newest(longer / "checkpoint").state["origin"]["parent"] is None
    for name in ("network", "average"):
        one, two = (newest(run / "checkpoint").state["outcome"][name] for run in (longer, longer_run))
        assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("other", ["score=bsld", "algo=dqn", "seed=1", "network.hidden=8"])
def test_resuming_with_other_options_is_refused(
    first_run: Path, other: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The run would go on with its old options while its config.yaml tells the new ones."""
    own = [option for option in SMALL if option.split("=")[0] != other.split("=")[0]]
    # In this process: a new one takes seconds to load what it needs.
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    words = ["+trace=synthetic", *own, other, f"resume={first_run}", "name=other", f"runs={first_run.parent}"]
    monkeypatch.setattr(sys, "argv", ["rltune.train", *words])
    with pytest.raises(SystemExit) as end:
        run_main(train_main, Train)
    told = capfd.readouterr().err
    assert end.value.code == 2
    assert "error: resume: the run was trained with " in told and len(told.strip().splitlines()) == 1, told
    assert not (first_run.parent / "other").exists()


@pytest.mark.slow
def test_a_parent_worse_than_the_baseline_is_not_kept(first_run: Path) -> None:
    """Fine-tuning a bad policy would ship it, under the name of the baseline order."""
    parent = load_policy(first_run)
    torch.manual_seed(3)
    for weights in parent.network.parameters():
        torch.nn.init.normal_(weights, std=3.0)
    save_policy(first_run.parent / "bad.safetensors", parent)
    checkpoint = f"checkpoint={first_run.parent / 'bad.safetensors'}"
    options = ("epochs=1", "algo.lr=0.0", "algo.lr_end=0.0", "baseline=sjf", "name=rescued")
    done = train("+trace=synthetic", *SMALL, *options, checkpoint, runs=first_run.parent)
    assert done.returncode == 0, done.stderr
    rescued = load_policy(first_run.parent / "rescued")
    assert rescued.origin["kept"] == "baseline order"
    assert rescued.origin["validation_score"] == rescued.origin["baseline_score"]
    assert rescued.origin["parent"]["seed"] == 0


@pytest.mark.slow
def test_fine_tuning_starts_from_the_given_policy(first_run: Path) -> None:
    """Fine-tuning would throw the trained weights away: with a learning rate of 0 they must come out as they went in."""
    parent = load_policy(first_run)
    for weights in parent.network.parameters():
        torch.nn.init.normal_(weights, std=0.1)
    save_policy(first_run.parent / "parent.safetensors", parent)
    done = train(
        "+trace=synthetic", *SMALL, "epochs=1", f"checkpoint={first_run.parent / 'parent.safetensors'}", "algo.lr=0.0", "algo.lr_end=0.0",
        "baseline=fifo", "name=tuned", runs=first_run.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # A bad parent is not kept; what training goes on with is the running average of the weights.
    tuned = newest(first_run.parent / "tuned" / "checkpoint").state["outcome"]["average"]
    given = parent.network.state_dict()
    assert all(torch.equal(given[name], tuned[name]) for name in given)


FULL = (
    "baseline=las", "backfill=skip", "allocator=milp", "throughput=published", "cluster.pools.0.gpu_type=P100",
    "options.resume_s=60", "options.node_mtbf_s=200000",
)  # fmt: skip


@pytest.mark.slow
def test_what_the_full_build_simulates_is_trained_on_and_evaluated(tmp_path: Path) -> None:
    """Failures, costs and unlike speeds would be options of `simulate` alone, or a policy be judged on another system."""
    own = [option for option in SMALL if not option.startswith(("allocator", "evaluate", "epochs"))]
    done = train("+trace=synthetic", *own, *FULL, "epochs=1", "evaluate=false", "name=full", runs=tmp_path)
    assert done.returncode == 0, done.stderr
    rules = load_policy(tmp_path / "full").rules
    assert (rules.options["resume_s"], rules.options["node_mtbf_s"]) == (60, 200000)
    assert rules.options["speed"]["name"] == "published" and rules.baseline == "las"
    keep = ("trace.", "nodes", "protocol.", "progress", "oversized")
    same = [option for option in own if option.startswith(keep)]
    command = [
        sys.executable,
        "-m",
        "rltune.evaluate",
        "+trace=synthetic",
        *same,
        FULL[4],
        f"checkpoint={tmp_path / 'full'}",
    ]
    told = subprocess.run(
        [*command, "windows=4", "policy=[fifo]", "name=judged", f"runs={tmp_path}"], capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=280, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert "(as trained)" in told.stderr
    summary = json.loads((tmp_path / "judged" / "summary.json").read_text())
    policies = summary["policies"]
    assert {"las-skip", "learned-skip-exact", "learned-skip-exact+milp", "las-skip-exact+milp", "fifo-skip"} <= set(
        policies
    )
    assert not any("blocking" in name for name in policies)
    if policies["learned-skip-exact"]["kept"] == "baseline order":
        assert policies["learned-skip-exact"]["jct_s"] == policies["las-skip"]["jct_s"]
    assert policies["learned-skip-exact+milp"]["allocator_stats"]["calls"] > 0


@pytest.mark.slow
def test_a_sweep_runs_on_a_local_ray(tmp_path: Path) -> None:
    """The documented multirun over traces and scores with the Ray launcher would fail or leave no runs."""
    done = train(
        "-m", "+trace=synthetic,helios_calibrated", "score=wait,bsld", "hydra/launcher=ray",
        "+hydra.launcher.ray.init.num_cpus=2", *(o for o in SMALL if not o.startswith(("trace.", "nodes"))), "nodes=30",
        "epochs=1", runs=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    (folder,) = tmp_path.glob("sweep-train-*")
    assert len([path for path in folder.iterdir() if (path / "summary.json").is_file()]) == 4


def test_a_policy_is_kept_only_if_clearly_better_than_its_baseline() -> None:
    """The best of many epochs by its mean alone is the one that was lucky on a few windows, and loses elsewhere."""
    rng = np.random.default_rng(0)
    baseline = -rng.lognormal(5, 2, 80)
    better, luckier = baseline * 0.9, baseline.copy()
    luckier[np.argmin(baseline)] *= 0.1
    assert worth_keeping(better, baseline, baseline)
    assert luckier.mean() > better.mean()
    assert not worth_keeping(luckier, baseline, baseline)
    assert not worth_keeping(better, better * 0.9, baseline)
    assert not worth_keeping(baseline, baseline, baseline)
