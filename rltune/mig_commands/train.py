"""``python -m rltune.mig train``: train the agent for batches on generated families, keep the best epoch."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import yaml

from rltune.config.mig import RANGE
from rltune.entry import typed
from rltune.experiment.resuming import Earlier, Signals, earlier_run, go_on, resumable
from rltune.mig.batch.families import FAMILIES
from rltune.mig.geometry import geometry
from rltune.nouns.errors import InputError
from rltune.report.console import progress_bar, say
from rltune.rl.algorithm_state import state_of
from rltune.rl.checkpoints import Checkpoints
from rltune.rl.mig.agent import Agent, load, save_agent
from rltune.rl.mig.batches import Mixture, Sampler, drawn, family_profiles
from rltune.rl.mig.env import Episode, Setup, VectorBatchEnv
from rltune.rl.mig.network import NetworkConfig
from rltune.rl.mig.rllib import build_batch_ppo, load_weights
from rltune.rl.mig.training import Outcome, Validator, start_of, train_epochs
from rltune.rl.rllib import start_ray
from rltune.rl.runtime import tune
from rltune.rundir import CHECKPOINT, SCHEMA_VERSION, RunDirectory, peak_rss_mb, remove_if_asked

VALIDATION = 1
"""Beside the seed, what tells validation batches from training ones."""


MODULE, FORMAT = "rltune.mig train", "rltune-mig-checkpoint-1"
FREE = (
    "name",
    "runs",
    "remove_partial",
    "progress",
    "checkpoint",
    "resume",
    "epochs",
    "checkpoint_every",
    "validate_every",
)
"""Options that may change when a run is gone on with."""


def train(cfg: dict[str, Any]) -> str:
    """One training run with the options of `rltune.config.mig.MigTrain`; returns its directory."""
    begun = time.perf_counter()
    check_options(cfg)
    remove_if_asked(cfg)
    tune(int(cfg["algo"]["threads"]))
    earlier = earlier_run(cfg["resume"], FORMAT) if cfg["resume"] else None
    if earlier is not None:
        _check_same(earlier, cfg)
    parent = load(cfg["checkpoint"]) if cfg["checkpoint"] else None
    network = NetworkConfig(**cfg["network"]) if parent is None else parent.network.config
    if earlier is not None:
        network = NetworkConfig(**earlier.state["network"])
    with Signals() as signals, _run_directory(cfg, earlier) as run:
        saved = earlier.epochs if earlier is not None and not earlier.finished else None
        checkpoints = Checkpoints(run.file(CHECKPOINT), cfg["checkpoint_every"], saved)
        with resumable(run, checkpoints, MODULE, typed()):
            line = earlier.state["parent"] if earlier is not None else None if parent is None else parent.origin
            outcome = _train(cfg, network, parent, line, (run, checkpoints, signals), earlier)
            say(
                f"kept      {outcome.kept}: makespan / area bound {outcome.ratio:.4f} (at first {outcome.start_ratio:.4f})"
            )
            origin = _keep(cfg, line, outcome, run)
            learning_curve(run.file("curve.csv"), run.file("learning_curve.png"), outcome.start_ratio)
            run.write_text("config.yaml", yaml.safe_dump(cfg, sort_keys=False))
            runtime = {"wall_s": round(time.perf_counter() - begun, 1), "peak_rss_mb": round(peak_rss_mb(), 1)}
            summary = {"schema_version": SCHEMA_VERSION, "command": "mig train", "runtime": runtime}
            run.write_json("summary.json", summary | {"training": origin})
    return str(run.final)


def _run_directory(cfg: dict[str, Any], earlier: Earlier | None) -> RunDirectory:
    """A run that was cut off goes on in its own directory, under its name; others get a new one."""
    if earlier is None or earlier.finished:
        name = cfg["name"] or f"mig-{cfg['family']}-s{cfg['seed']}-{datetime.now():%m%d-%H%M%S}"
        return RunDirectory(cfg["runs"], str(name))
    return RunDirectory(cfg["runs"], str(cfg["name"] or earlier.name), adopt=earlier.path)


def _check_same(earlier: Earlier, cfg: dict[str, Any]) -> None:
    """Refuse to go on under other options."""
    for name, had in earlier.state["options"].items():
        if name not in FREE and cfg.get(name) != had:
            raise InputError(f"resume: the run was trained with {name}={had}, not {cfg.get(name)}; give what it had")


def check_options(cfg: dict[str, Any]) -> None:
    """Refuse what the declarations cannot see."""
    if cfg["resume"] and cfg["checkpoint"]:
        raise InputError("resume=... goes on with a run, checkpoint=... trains its agent anew; give one of them")
    for option in ("tasks", "online_tasks"):
        if len(cfg[option]) != 2 or cfg[option][0] > cfg[option][1]:
            raise InputError(f"{option}={cfg[option]}; {RANGE}")
    if geometry(cfg["gpu"]).compute != 7:
        raise InputError(
            f"gpu={cfg['gpu']}: the families are of GPUs with seven slices; train on one, the agent serves all"
        )


def _keep(cfg: dict[str, Any], line: Any, outcome: Outcome, run: RunDirectory) -> dict[str, Any]:
    """Write what has been learned, policy and curve; returns how it came about. ``line``: the origin of the parent."""
    origin = {
        "options": {
            k: v
            for k, v in cfg.items()
            if k not in ("name", "runs", "remove_partial", "progress", "checkpoint", "resume")
        },
        "parent": line,
        "kept": outcome.kept,
        "steps": outcome.rows[-1]["steps"],
        "validation_ratio": outcome.ratio,
        "start_ratio": outcome.start_ratio,
    }
    save_agent(run.file("policy.safetensors"), Agent(outcome.network, origin))
    outcome.write_curve(run.file("curve.csv"))
    return origin


def _problem(cfg: dict[str, Any]) -> tuple[Setup, Sampler, Validator]:
    """What is trained on, who draws it, and the batches of validation."""
    model, seed = geometry(cfg["gpu"]).model, int(cfg["seed"])
    families = tuple(FAMILIES) if cfg["family"] == "all" else (cfg["family"],)
    mixture = Mixture(
        families, tuple(cfg["tasks"]), cfg["online"], tuple(cfg["online_tasks"]), cfg["window"], cfg["needy"]
    )
    sampler = Sampler(mixture, model, seed)
    most = max(*mixture.tasks, *mixture.online_tasks)
    setup = Setup(model, family_profiles(model), max(mixture.tasks[1], mixture.window), most)
    tasks = cfg["validation_tasks"]
    batches = drawn(families, cfg["validation_batches"], tasks, model, [seed, VALIDATION])
    episodes = [Episode(batch.seconds[model], tasks) for family in families for batch in batches[family]]
    return setup, sampler, Validator(Setup(model, setup.profiles, tasks, tasks), episodes)


def _train(
    cfg: dict[str, Any],
    network: NetworkConfig,
    parent: Agent | None,
    line: Any,
    kept_in: tuple[RunDirectory, Checkpoints, Signals],
    earlier: Earlier | None,
) -> Outcome:
    run, checkpoints, signals = kept_in
    setup, sampler, validator = _problem(cfg)

    def vector_env(context: dict[str, Any]) -> VectorBatchEnv:
        # Seeds come with the first reset: RLlib gives every worker its own. RLlib makes one row to see the spaces.
        return VectorBatchEnv(setup, int(context.get("num_envs", 1)), sampler)

    start_ray()
    signals.again()
    last = cfg["epochs"] if earlier is None else earlier.last(cfg["epochs"])
    algorithm = build_batch_ppo(vector_env, network, cfg["algo"], cfg["steps_per_epoch"], last, int(cfg["seed"]))
    begun_at = 0
    if earlier is not None:
        outcome, begun_at = go_on(algorithm, earlier, lambda tree: Outcome.of_tree(tree, network))
    else:
        if parent is not None:
            load_weights(algorithm, parent.network)
        outcome = start_of(algorithm, validator)
    about = {"format": FORMAT, "begun_at": begun_at, "network": network.as_dict(), "options": cfg, "parent": line}
    with progress_bar("training", last - len(outcome.rows), cfg["progress"]) as update:

        def on_epoch(outcome: Outcome) -> None:
            state = {"outcome": outcome.tree(), "algorithm": state_of(algorithm)}
            checkpoints.take(len(outcome.rows), about | state)
            judged = outcome.rows[-1]["validation_ratio"]
            if judged is not None:
                # To look at while it goes on: in its hidden directory.
                _keep(cfg, line, outcome, run)
            update(1, None if judged is None else f"makespan / area bound on validation {judged:.4f}")
            signals.check()

        train_epochs(algorithm, validator, last, cfg["validate_every"], on_epoch, outcome)
    checkpoints.save()
    algorithm.stop()
    return outcome


def learning_curve(csv: Path, png: Path, start: float) -> None:
    """Makespan / area bound on the validation batches by environment steps, with where training began as a line; from curve.csv."""
    judged = pd.read_csv(csv).dropna(subset=["validation_ratio"])
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    axes.plot(judged.steps, judged.validation_ratio, "o-", ms=3, label="agent, greedy")
    axes.axhline(start, color="grey", ls="--", label="where training began")
    axes.set_xlabel("environment steps")
    axes.set_ylabel("makespan / area bound, validation batches")
    axes.legend(frameon=False)
    axes.grid(alpha=0.2)
    figure.savefig(png, dpi=130)
    plt.close(figure)
