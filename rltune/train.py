"""``python -m rltune.train +trace=helios``: train a policy, keep the best, show the table on held-back jobs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import yaml

from rltune.config.commands import Train
from rltune.config.learning import AGENTS, NetworkConfig, SteeringConfig
from rltune.entry import answer_early, run_main, typed

FOOTER = """A log of your own: +trace=jobs.csv (its columns may bear any usual names; trace.columns.submit_s=NAME says which). With the
defaults it needs 1,707 jobs: an episode is protocol.window=256 jobs, and trace.validate holds 15 % of them."""
if __name__ == "__main__":
    # What follows loads PyTorch and Ray, for which a slip in an option need not wait.
    answer_early(Train, FOOTER)

from rltune.experiment.evaluation import Case, evaluate_into, heuristic_cases, report_fallbacks
from rltune.experiment.parts import has_parts
from rltune.experiment.provenance import check_unseen, describe
from rltune.experiment.resuming import FORMAT, Earlier, Signals, check_earlier, earlier_run, go_on, resumable, rules_of
from rltune.experiment.setup import Experiment, check_long_enough, make_experiment, resolve_rules, spread
from rltune.experiment.sweep_table import conclude_policies, validation_score
from rltune.experiment.sweeping import Sweep
from rltune.nouns.errors import InputError
from rltune.report.console import say, training_progress
from rltune.report.figures import learning_curve
from rltune.report.tracking import check_tracking, tracking
from rltune.rl.algorithm_state import state_of
from rltune.rl.checkpoints import Checkpoints
from rltune.rl.env import JoinedEnv, VectorSchedulingEnv
from rltune.rl.policy_file import PARENT, AnyPolicy, LearnedPolicy, SteeringPolicy, load_policy, policy_of, save_policy
from rltune.rl.rllib import start_ray
from rltune.rl.rules import Rules, Setup, needs_run_time
from rltune.rl.runtime import tune
from rltune.rl.steering.env import VectorSteeringEnv
from rltune.rl.steering.search import ConstantSearch
from rltune.rl.training import (
    Architecture,
    Judged,
    Outcome,
    Rllib,
    Validator,
    build,
    load_weights,
    start_of,
    train_epochs,
)
from rltune.rundir import (
    CHECKPOINT,
    SCHEMA_VERSION,
    RunDirectory,
    describe_trace,
    manifest,
    peak_rss_mb,
    remove_if_asked,
)

MODULE = "rltune.train"
SWEEP = Sweep(MODULE, conclude_policies, validation_score, "maximize")


def main(cfg: dict[str, Any]) -> str:
    """One training run; returns its directory."""
    begun = time.perf_counter()
    check_options(cfg)
    remove_if_asked(cfg)
    tune(int(cfg["algo"]["threads"]))
    earlier = earlier_run(cfg["resume"]) if cfg["resume"] else None
    parent = load_policy(cfg["checkpoint"]) if cfg["checkpoint"] else None
    experiment = make_experiment(cfg)
    check_long_enough(experiment)
    if earlier is not None:
        check_earlier(experiment, earlier, cfg)
    elif parent is not None:
        for remark in check_unseen(experiment, parent.origin):
            say(f"note: {remark}")
    rules, network = _rules_and_network(experiment, cfg, parent, earlier)
    line = earlier.state["origin"]["parent"] if earlier else parent.origin if parent else None
    origin = describe(experiment, cfg["algo"]["name"], int(cfg["seed"]), line)
    if cfg["agent"] == "index":
        origin["agent"] = "index"
    with Signals() as signals, _run_directory(cfg, experiment, rules, earlier) as run:
        _announce(experiment, rules, cfg)
        saved = earlier.epochs if earlier is not None and not earlier.finished else None
        checkpoints = Checkpoints(run.file(CHECKPOINT), cfg["checkpoint_every"], saved)
        with resumable(run, checkpoints, MODULE, typed()):
            about = {"rules": asdict(rules), "network": network.as_dict(), "origin": origin, "options": cfg}
            about["agent"] = cfg["agent"]
            course = Course(experiment, rules, network, cfg, about)
            outcome = _train(course, run, parent, earlier, checkpoints, signals)
            signals.check()
            origin |= _figures(outcome)
            say(f"kept      {outcome.kept}")
            policy = policy_of(outcome.network, replace(rules, reward="score"), origin)
            _write(run, experiment, cfg, policy, outcome)
            summary = {
                "schema_version": SCHEMA_VERSION,
                "command": "train",
                "trace": describe_trace(experiment.trace),
                "protocol": experiment.protocol["name"],
                "training": origin,
                "runtime": {"wall_s": round(time.perf_counter() - begun, 1), "peak_rss_mb": round(peak_rss_mb(), 1)},
            }
            if cfg["evaluate"]:
                summary |= evaluate_into(run, experiment, [policy], cases_beside(policy), progress=cfg["progress"])
            run.write_json("summary.json", summary)
    return str(run.final)


def _run_directory(cfg: dict[str, Any], experiment: Experiment, rules: Rules, earlier: Earlier | None) -> RunDirectory:
    """A run that was cut off goes on in its own directory, under its name; others get a new one."""
    if earlier is None or earlier.finished:
        return RunDirectory(cfg["runs"], str(cfg["name"] or default_name(experiment, rules, cfg)))
    return RunDirectory(cfg["runs"], str(cfg["name"] or earlier.name), adopt=earlier.path)


def _write(run: RunDirectory, experiment: Experiment, cfg: dict[str, Any], policy: AnyPolicy, outcome: Outcome) -> None:
    """What a training leaves beside its summary."""
    save_policy(run.file("policy.safetensors"), policy)
    outcome.curve.write(run.file("curve.csv"))
    learning_curve(run.file("curve.csv"), run.file("learning_curve.png"), experiment.trace.label, policy.rules.score)
    run.write_text("config.yaml", yaml.safe_dump(cfg, sort_keys=False))
    run.write_json("manifest.json", manifest(experiment.trace, [cfg["seed"]], experiment.ranges))


def default_name(experiment: Experiment, rules: Rules, cfg: dict[str, Any]) -> str:
    """Names that tell the members of a sweep apart."""
    parts = (
        "train",
        experiment.trace.name,
        experiment.protocol["name"],
        rules.score,
        *(["index"] if cfg["agent"] == "index" else []),
        cfg["algo"]["name"],
        f"s{cfg['seed']}",
    )
    return "-".join((*parts, f"{datetime.now():%m%d-%H%M%S}"))


def check_options(cfg: dict[str, Any]) -> None:
    """Refuse what the declarations cannot: an order that there is none of, what does not go together."""
    check_tracking(cfg["track"])
    if cfg["baseline"] != "auto":
        needs_run_time(cfg["baseline"])
    if cfg["resume"] and cfg["checkpoint"]:
        raise InputError("resume=... goes on with a run, checkpoint=... fine-tunes its policy anew; give one of them")
    agent, algo = cfg["agent"], cfg["algo"]["name"]
    if algo not in AGENTS[agent]:
        raise InputError(f"agent={agent} is not trained by algo={algo}; use {' or '.join(AGENTS[agent])}")
    if agent == "index" and cfg["allocator"]["name"] == "milp":
        raise InputError(
            "agent=index is trained beside a placement rule: give allocator=fgd or another one; evaluate and simulate take its "
            "policy with allocator=milp too"
        )
    if algo == "cma" and (cfg["resume"] or cfg["checkpoint"]):
        raise InputError("algo=cma searches from the baseline on: leave out resume and checkpoint")


def cases_beside(policy: AnyPolicy) -> list[Case]:
    """The heuristics of the table; in a market those of the policy's own backfill, since reservations there take long."""
    rules = policy.rules
    return heuristic_cases(backfill=(rules.backfill,)) if has_parts(rules.options) else heuristic_cases()


def _rules_and_network(
    experiment: Experiment, cfg: dict[str, Any], parent: AnyPolicy | None, earlier: Earlier | None
) -> tuple[Rules, Architecture]:
    """Rules and architecture; a resumed run keeps its own, a fine-tuned policy its architecture and visible jobs."""
    if earlier is not None:
        kind = SteeringConfig if cfg["agent"] == "index" else NetworkConfig
        return rules_of(earlier), kind(**earlier.state["network"])
    if parent is not None and isinstance(parent, SteeringPolicy) != (cfg["agent"] == "index"):
        other = "index" if isinstance(parent, SteeringPolicy) else "pick"
        raise InputError(f"checkpoint: it is an agent in {other} form; add agent={other}")
    if cfg["agent"] == "index":
        steering = parent.network.config if isinstance(parent, SteeringPolicy) else SteeringConfig(**cfg["steering"])
        return resolve_rules(experiment, cfg, visible=cfg["visible"], reward="relative"), steering
    network = (
        parent.network.config
        if isinstance(parent, LearnedPolicy)
        else NetworkConfig(visible=cfg["visible"], **cfg["network"])
    )
    return resolve_rules(experiment, cfg, visible=network.visible, reward="relative"), network


def _validator(experiment: Experiment, rules: Rules, network: Architecture, cfg: dict[str, Any]) -> Validator:
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


class Course(NamedTuple):
    """What a training is: jobs and machines, rules, network, options; ``about``: the same as plain values."""

    experiment: Experiment
    rules: Rules
    network: Architecture
    cfg: dict[str, Any]
    about: dict[str, Any]


def _train(
    course: Course,
    run: RunDirectory,
    parent: AnyPolicy | None,
    earlier: Earlier | None,
    checkpoints: Checkpoints,
    signals: Signals,
) -> Outcome:
    """Train to the last epoch, with a checkpoint behind it."""
    experiment, rules, network, cfg, about = course
    clusters = [experiment.sized(nodes) for nodes in experiment.train_node_counts]
    setups = [experiment.setup("train", rules, cluster) for cluster in clusters]
    joints = [experiment.joint(cluster) for cluster in clusters]
    validator = _validator(experiment, rules, network, cfg)
    if cfg["algo"]["name"] == "cma":
        return _search(course, run, setups, validator, signals)
    start_ray()
    signals.again()
    algo = dict(cfg["algo"])
    if earlier is not None and "learning_starts" in algo:
        algo["learning_starts"] += int(earlier.state["outcome"]["curve"][-1]["steps"])
    makes = _vector_env(course, setups, joints)
    algorithm = build(algo, makes, network, _steps_an_epoch(course), int(cfg["seed"]))
    if earlier is not None:
        outcome, begun_at = go_on(algorithm, earlier, lambda tree: Outcome.of_tree(tree, network))
        if "learning_starts" in algo:
            say(
                "note: the replay buffer is not kept: it fills again, and learning waits for algo.learning_starts steps"
            )
        last = earlier.last(cfg["epochs"])
    else:
        if parent is not None:
            load_weights(algorithm, parent.network)
        begins_with = Rllib(algorithm).network
        outcome = start_of(begins_with, validator, parent.network if parent is not None else None, PARENT)
        begun_at, last = 0, cfg["epochs"]
    done, track = len(outcome.curve.rows), check_tracking(cfg["track"])
    with (
        tracking(run.path, run.final.name, track, cfg, outcome.curve.rows) as log,
        training_progress(last - done, rules.score, cfg["progress"]) as progress,
    ):

        def on_epoch(outcome: Outcome, learner: Mapping[str, float]) -> None:
            state = {
                "format": FORMAT,
                "begun_at": begun_at,
                "outcome": outcome.tree(),
                "algorithm": state_of(algorithm),
            }
            checkpoints.take(len(outcome.curve.rows), state | about)
            log(len(outcome.curve.rows), outcome.curve.rows[-1] | dict(learner))
            progress(outcome.curve.rows[-1])
            signals.check()

        train_epochs(Rllib(algorithm), validator, last, cfg["validate_every"], on_epoch, outcome)
    checkpoints.save()
    algorithm.stop()
    _report_joints(joints, validator, cfg)
    return outcome


def _steps_an_epoch(course: Course) -> int:
    """Environment steps: decisions of the pick form, rounds of the index form."""
    if isinstance(course.network, SteeringConfig):
        return int(course.cfg["rounds_per_epoch"])
    return int(course.cfg["windows_per_epoch"]) * course.rules.window


def _search(course: Course, run: RunDirectory, setups: list[Setup], validator: Validator, signals: Signals) -> Outcome:
    """CMA-ES over constant levers, an epoch a generation; it leaves no checkpoint."""
    cfg, steering = course.cfg, course.network
    assert isinstance(steering, SteeringConfig)
    search = ConstantSearch(setups, steering, cfg["algo"], int(cfg["seed"]))
    outcome = start_of(search.network, validator, None, PARENT)
    with (
        tracking(run.path, run.final.name, check_tracking(cfg["track"]), cfg, outcome.curve.rows) as log,
        training_progress(cfg["epochs"], course.rules.score, cfg["progress"]) as progress,
    ):

        def on_epoch(outcome: Outcome, told: Mapping[str, float]) -> None:
            log(len(outcome.curve.rows), outcome.curve.rows[-1] | dict(told))
            progress(outcome.curve.rows[-1])
            signals.check()

        train_epochs(search, validator, cfg["epochs"], cfg["validate_every"], on_epoch, outcome)
    return outcome


def _vector_env(course: Course, setups: list[Setup], joints: list[Any]) -> Callable[[dict[str, Any]], Any]:
    """What makes the environment of a process: its episodes are shared out to the cluster sizes."""
    cfg, network = course.cfg, course.network
    if cfg["algo"]["envs"] < len(setups):
        raise InputError(
            f"algo.envs={cfg['algo']['envs']}: {len(setups)} cluster sizes to train on need as many episodes side by side"
        )

    def vector_env(context: dict[str, Any]) -> Any:
        # Seeds come with the first reset: RLlib gives every worker its own. RLlib makes one row to see the spaces.
        rows = max(int(context.get("num_envs", 1)), len(setups))
        shares = [len(part) for part in np.array_split(range(rows), len(setups))]
        parts = zip(setups, shares, joints, strict=True)
        envs: list[Any]
        if isinstance(network, SteeringConfig):
            envs = [VectorSteeringEnv(setup, share, round_s=network.round_s) for setup, share, _ in parts]
        else:
            envs = [VectorSchedulingEnv(setup, share, joint=joint) for setup, share, joint in parts]
        return envs[0] if len(envs) == 1 else JoinedEnv(envs)

    return vector_env


def _report_joints(joints: list[Any], validator: Validator, cfg: dict[str, Any]) -> None:
    """What the allocator could not do as it would."""
    for what, used in (("training", joints), ("validation", [each.joint for each in validator.judged])):
        for joint in used:
            report_fallbacks(what, joint.stats if joint is not None else {})
    if cfg["algo"]["env_runners"] > 0 and joints[0] is not None:
        say("note: joint placements of sampling workers, and their fallbacks, are not counted here")


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
    run_main(main, Train, FOOTER, sweep=SWEEP)
