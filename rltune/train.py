"""``python -m rltune.train +trace=helios``: train a policy, keep the best, show the table on held-back jobs."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rltune.config.commands import Train
from rltune.entry import run_main
from rltune.experiment.evaluation import evaluate_into, heuristic_cases, report_fallbacks
from rltune.experiment.provenance import check_same, check_unseen, describe
from rltune.experiment.setup import Experiment, make_experiment, resolve_rules, spread
from rltune.nouns.errors import InputError
from rltune.report.console import say, training_progress
from rltune.report.figures import learning_curve
from rltune.rl.env import JoinedEnv, VectorSchedulingEnv
from rltune.rl.network import NetworkConfig
from rltune.rl.policy_file import PARENT, LearnedPolicy, load_policy, save_policy
from rltune.rl.rllib import start_ray
from rltune.rl.rules import Rules, needs_run_time
from rltune.rl.runtime import tune
from rltune.rl.training import Curve, Judged, Outcome, Validator, build, load_weights, start_of, train_epochs
from rltune.rundir import SCHEMA_VERSION, RunDirectory, describe_trace, manifest, peak_rss_mb, remove_if_asked

AVERAGE = "average.safetensors"
"""In checkpoint/: the running average of the weights."""


def main(cfg: dict[str, Any]) -> str:
    """One training run; returns its directory."""
    begun = time.perf_counter()
    check_options(cfg)
    remove_if_asked(cfg)
    tune(int(cfg["algo"]["threads"]))
    resumed = Path(cfg["resume"]) if cfg["resume"] else None
    if resumed is not None and not (resumed / "checkpoint").is_dir():
        raise InputError(f"resume={resumed} is no training run directory (no checkpoint/ in it)")
    parent = load_policy(resumed or cfg["checkpoint"]) if resumed or cfg["checkpoint"] else None
    experiment = make_experiment(cfg)
    if parent is not None:
        _check_parent(experiment, parent, cfg, resumed is not None)
    rules, network = _rules_and_network(experiment, cfg, parent, resumed is not None)
    name = cfg["name"] or default_name(experiment, rules, cfg)
    with RunDirectory(cfg["runs"], str(name)) as run:
        _announce(experiment, rules, cfg)
        outcome = _train(experiment, rules, network, cfg, run, parent, resumed)
        line = parent.origin.get("parent") if resumed and parent else parent.origin if parent else None
        origin = describe(experiment, cfg["algo"]["name"], int(cfg["seed"]), line) | _figures(outcome)
        say(f"kept      {outcome.kept}")
        policy = LearnedPolicy(outcome.network, replace(rules, reward="score"), origin)
        save_policy(run.file("policy.safetensors"), policy)
        outcome.curve.write(run.file("curve.csv"))
        learning_curve(run.file("curve.csv"), run.file("learning_curve.png"), experiment.trace.label, rules.score)
        run.write_text("config.yaml", yaml.safe_dump(cfg, sort_keys=False))
        run.write_json("manifest.json", manifest(experiment.trace, [cfg["seed"]], experiment.ranges))
        summary = {
            "schema_version": SCHEMA_VERSION,
            "command": "train",
            "trace": describe_trace(experiment.trace),
            "protocol": experiment.protocol["name"],
            "training": origin,
            "runtime": {"wall_s": round(time.perf_counter() - begun, 1), "peak_rss_mb": round(peak_rss_mb(), 1)},
        }
        if cfg["evaluate"]:
            summary |= evaluate_into(run, experiment, [policy], heuristic_cases(), progress=cfg["progress"])
        run.write_json("summary.json", summary)
    return str(run.final)


def default_name(experiment: Experiment, rules: Rules, cfg: dict[str, Any]) -> str:
    """Names that tell the members of a sweep apart."""
    parts = (
        "train",
        experiment.trace.name,
        experiment.protocol["name"],
        rules.score,
        cfg["algo"]["name"],
        f"s{cfg['seed']}",
    )
    return "-".join((*parts, f"{datetime.now():%m%d-%H%M%S}"))


def check_options(cfg: dict[str, Any]) -> None:
    """Refuse what the declarations cannot: an order that there is none of, two ways to go on at once."""
    if cfg["baseline"] != "auto":
        needs_run_time(cfg["baseline"])
    if cfg["resume"] and cfg["checkpoint"]:
        raise InputError("resume=... goes on with a run, checkpoint=... fine-tunes its policy anew; give one of them")


def _rules_and_network(
    experiment: Experiment, cfg: dict[str, Any], parent: LearnedPolicy | None, resuming: bool
) -> tuple[Rules, NetworkConfig]:
    """Rules and architecture; a resumed run keeps its own, a fine-tuned policy its architecture and visible jobs."""
    if parent is not None and resuming:
        return replace(parent.rules, reward="relative"), parent.network.config
    network = parent.network.config if parent is not None else NetworkConfig(visible=cfg["visible"], **cfg["network"])
    return resolve_rules(experiment, cfg, visible=network.visible, reward="relative"), network


def _check_parent(experiment: Experiment, parent: LearnedPolicy, cfg: dict[str, Any], resuming: bool) -> None:
    """Refuse to go on with a policy that has seen the test stretch, or with a run of other options."""
    for remark in check_unseen(experiment, parent.origin):
        say(f"note: {remark}")
    if not resuming:
        return
    check_same(experiment, parent.origin, cfg["algo"]["name"])
    protocol, given = experiment.protocol, {name: cfg[name] for name in ("score", "backfill", "runtimes", "visible")}
    given |= {
        "allocator": experiment.allocator_name,
        "baseline": cfg["baseline"] if cfg["baseline"] != "auto" else parent.rules.baseline,
    }
    given |= {f"protocol.{name}": protocol[name] for name in ("window", "warmup")} | {"options": experiment.options}
    for name, value in given.items():
        had = getattr(parent.rules, name.removeprefix("protocol."))
        if had != value:
            raise InputError(f"resume: the run was trained with {name}={had}, not {value}; add {name}={had}")


def _validator(experiment: Experiment, rules: Rules, network: NetworkConfig, cfg: dict[str, Any]) -> Validator:
    """Windows that do not overlap, warm-up included; for the month the whole stretch at every size, by day."""
    rules = replace(rules, reward="score")
    judged = []
    for nodes in experiment.node_counts:
        cluster = experiment.sized(nodes)
        if experiment.protocol["name"] == "month" and rules.score != "utilization":
            whole = replace(rules, window=len(experiment.stretches["validate"].jobs), warmup=0)
            setup = experiment.setup("validate", whole, cluster)
            judged.append(Judged(setup, [0], experiment.joint(cluster), by_day=True))
        else:
            setup = experiment.setup("validate", rules, cluster)
            # Windows that overlap would count one burst of waiting several times.
            apart = min(cfg["validation_windows"], max(1, (setup.high - 1) // setup.length + 1))
            judged.append(Judged(setup, spread(0, setup.high - 1, apart), experiment.joint(cluster)))
    return Validator(judged, network)


def _train(
    experiment: Experiment,
    rules: Rules,
    network: NetworkConfig,
    cfg: dict[str, Any],
    run: RunDirectory,
    parent: LearnedPolicy | None,
    resumed: Path | None,
) -> Outcome:
    clusters = [experiment.sized(nodes) for nodes in experiment.train_node_counts]
    setups = [experiment.setup("train", rules, cluster) for cluster in clusters]
    joints = [experiment.joint(cluster) for cluster in clusters]
    validator = _validator(experiment, rules, network, cfg)
    if cfg["algo"]["envs"] < len(setups):
        raise InputError(
            f"algo.envs={cfg['algo']['envs']}: {len(setups)} cluster sizes to train on need as many episodes side by side"
        )

    def vector_env(context: dict[str, Any]) -> VectorSchedulingEnv | JoinedEnv:
        # Seeds come with the first reset: RLlib gives every worker its own. RLlib makes one row to see the spaces.
        rows = max(int(context.get("num_envs", 1)), len(setups))
        shares = [len(part) for part in np.array_split(range(rows), len(setups))]
        parts = zip(setups, shares, joints, strict=True)
        envs = [VectorSchedulingEnv(setup, share, joint=joint) for setup, share, joint in parts]
        return envs[0] if len(envs) == 1 else JoinedEnv(envs)

    start_ray()
    batch = cfg["windows_per_epoch"] * rules.window
    algorithm = build(cfg["algo"], vector_env, network, batch, int(cfg["seed"]))
    if resumed is not None:
        algorithm.restore_from_path(str((resumed / "checkpoint").resolve()))
    elif parent is not None:
        load_weights(algorithm, parent.network)
    kept = parent.origin["kept"] if resumed is not None and parent is not None else PARENT
    start = start_of(algorithm, validator, parent.network if parent is not None else None, kept)
    if resumed is not None:
        start[0].average = load_policy(resumed / "checkpoint" / AVERAGE).network
        start[0].curve = Curve.read(resumed / "curve.csv")
    with training_progress(cfg["epochs"], rules.score, cfg["progress"]) as on_epoch:
        outcome = train_epochs(algorithm, validator, cfg["epochs"], cfg["validate_every"], on_epoch, start)
    algorithm.save_to_path(str(run.file("checkpoint").resolve()))
    algorithm.stop()
    save_policy(run.file("checkpoint") / AVERAGE, LearnedPolicy(outcome.average, rules, {}))
    for what, used in (("training", joints), ("validation", [each.joint for each in validator.judged])):
        for joint in used:
            report_fallbacks(what, joint.stats if joint is not None else {})
    if cfg["algo"]["env_runners"] > 0 and joints[0] is not None:
        say("note: joint placements of sampling workers, and their fallbacks, are not counted here")
    return outcome


def _figures(outcome: Outcome) -> dict[str, Any]:
    """How training went, beside where the policy comes from."""
    return {
        "epochs": len(outcome.curve.rows),
        "steps": outcome.curve.rows[-1]["steps"],
        "kept": outcome.kept,
        "validation_score": outcome.score,
        "baseline_score": outcome.baseline_score,
    }


def _announce(experiment: Experiment, rules: Rules, cfg: dict[str, Any]) -> None:
    clusters = [experiment.sized(nodes) for nodes in experiment.train_node_counts]
    sizes = ", ".join(f"{cluster.nodes} nodes ({cluster.gpus} GPUs)" for cluster in clusters)
    say(f"trace     {experiment.trace.label}: {len(experiment.stretches['train'].jobs):,} jobs to train on")
    for note in experiment.trace.notes:
        say(f"          note: {note}")
    say(f"cluster   {experiment.cluster.name}: {sizes}; protocol {experiment.protocol['name']}")
    if left_out := experiment.train_sizes_left_out:
        say(f"          note: not trained on {', '.join(map(str, left_out))} nodes, which cannot hold the widest job")
    shown = {k: v for k, v in asdict(rules).items() if k != "reward"}
    say("rules     " + ", ".join(f"{k}={v}" for k, v in shown.items()))
    budget = f"{cfg['epochs']} epochs of {cfg['windows_per_epoch']} windows"
    say(f"learning  {cfg['algo']['name']}, {budget}, seed {cfg['seed']}")


if __name__ == "__main__":
    run_main(main, Train)
