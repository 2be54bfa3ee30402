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
from rltune.mig.batch.families import FAMILIES
from rltune.mig.geometry import geometry
from rltune.nouns.errors import InputError
from rltune.report.console import progress_bar, say
from rltune.rl.mig.agent import Agent, load, save_agent
from rltune.rl.mig.batches import Mixture, Sampler, drawn, family_profiles
from rltune.rl.mig.env import Episode, Setup, VectorBatchEnv
from rltune.rl.mig.network import NetworkConfig
from rltune.rl.mig.rllib import build_batch_ppo, load_weights
from rltune.rl.mig.training import Outcome, Validator, train_epochs
from rltune.rl.rllib import start_ray
from rltune.rl.runtime import tune
from rltune.rundir import SCHEMA_VERSION, RunDirectory, peak_rss_mb, remove_if_asked

VALIDATION = 1
"""Beside the seed, what tells validation batches from training ones."""


def train(cfg: dict[str, Any]) -> str:
    """One training run with the options of `rltune.config.mig.MigTrain`; returns its directory."""
    begun = time.perf_counter()
    check_options(cfg)
    remove_if_asked(cfg)
    tune(int(cfg["algo"]["threads"]))
    parent = load(cfg["checkpoint"]) if cfg["checkpoint"] else None
    network = NetworkConfig(**cfg["network"]) if parent is None else parent.network.config
    name = cfg["name"] or f"mig-{cfg['family']}-s{cfg['seed']}-{datetime.now():%m%d-%H%M%S}"
    with RunDirectory(cfg["runs"], str(name)) as run:
        outcome = _train(cfg, network, parent, run)
        say(f"kept      {outcome.kept}: makespan / area bound {outcome.ratio:.4f} (at first {outcome.start_ratio:.4f})")
        learning_curve(run.file("curve.csv"), run.file("learning_curve.png"), outcome.start_ratio)
        run.write_text("config.yaml", yaml.safe_dump(cfg, sort_keys=False))
        runtime = {"wall_s": round(time.perf_counter() - begun, 1), "peak_rss_mb": round(peak_rss_mb(), 1)}
        summary = {"schema_version": SCHEMA_VERSION, "command": "mig train", "runtime": runtime}
        run.write_json("summary.json", summary | {"training": _keep(cfg, parent, outcome, run)})
    return str(run.final)


def check_options(cfg: dict[str, Any]) -> None:
    """Refuse what the declarations cannot see."""
    for option in ("tasks", "online_tasks"):
        if len(cfg[option]) != 2 or cfg[option][0] > cfg[option][1]:
            raise InputError(f"{option}={cfg[option]}; {RANGE}")
    if geometry(cfg["gpu"]).compute != 7:
        raise InputError(
            f"gpu={cfg['gpu']}: the families are of GPUs with seven slices; train on one, the agent serves all"
        )


def _keep(cfg: dict[str, Any], parent: Agent | None, outcome: Outcome, run: RunDirectory) -> dict[str, Any]:
    """Write what has been learned so far, policy and curve; returns how it came about."""
    origin = {
        "options": {
            k: v for k, v in cfg.items() if k not in ("name", "runs", "remove_partial", "progress", "checkpoint")
        },
        "parent": None if parent is None else parent.origin,
        "kept": outcome.kept,
        "steps": outcome.rows[-1]["steps"],
        "validation_ratio": outcome.ratio,
        "start_ratio": outcome.start_ratio,
    }
    save_agent(run.file("policy.safetensors"), Agent(outcome.network, origin))
    outcome.write_curve(run.file("curve.csv"))
    return origin


def _train(cfg: dict[str, Any], network: NetworkConfig, parent: Agent | None, run: RunDirectory) -> Outcome:
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
    validator = Validator(Setup(model, setup.profiles, tasks, tasks), episodes)

    def vector_env(context: dict[str, Any]) -> VectorBatchEnv:
        # Seeds come with the first reset: RLlib gives every worker its own. RLlib makes one row to see the spaces.
        return VectorBatchEnv(setup, int(context.get("num_envs", 1)), sampler)

    start_ray()
    algorithm = build_batch_ppo(vector_env, network, cfg["algo"], cfg["steps_per_epoch"], cfg["epochs"], seed)
    if parent is not None:
        load_weights(algorithm, parent.network)
    with progress_bar("training", cfg["epochs"], cfg["progress"]) as update:

        def on_epoch(outcome: Outcome) -> None:
            judged = outcome.rows[-1]["validation_ratio"]
            if judged is not None:
                # A run that is cut off leaves what it had, in its hidden directory.
                _keep(cfg, parent, outcome, run)
            update(1, None if judged is None else f"makespan / area bound on validation {judged:.4f}")

        outcome = train_epochs(algorithm, validator, cfg["epochs"], cfg["validate_every"], on_epoch)
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
