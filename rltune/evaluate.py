"""``python -m rltune.evaluate +trace=helios checkpoint=...``: a policy beside every heuristic, on held-back jobs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import yaml

from rltune.config.commands import Evaluate, simulation_options
from rltune.entry import answer_early, run_main

if __name__ == "__main__":
    # What follows loads PyTorch, for which a slip in an option need not wait.
    answer_early(Evaluate)

from rltune.api import is_learned
from rltune.experiment.evaluation import Case, evaluate_into, heuristic_cases
from rltune.experiment.provenance import check_unseen
from rltune.experiment.setup import Experiment, make_experiment
from rltune.experiment.sweep_table import conclude_policies
from rltune.experiment.sweeping import Sweep
from rltune.models.catalogue import file_of
from rltune.nouns.errors import InputError
from rltune.report.console import say
from rltune.rl.policy_file import AnyPolicy, load_policy
from rltune.rl.runtime import tune
from rltune.rundir import SCHEMA_VERSION, RunDirectory, describe_trace, manifest, peak_rss_mb, remove_if_asked
from rltune.simulator.guard import Guard

SWEEP = Sweep("rltune.evaluate", conclude_policies)


def main(cfg: dict[str, Any]) -> str:
    """One evaluation; returns the run directory."""
    begun = time.perf_counter()
    orders, learned = named_policies(cfg)
    cases = cases_of(cfg, orders)
    if cfg["guard"] and not learned:
        raise InputError("guard=true guards learned policies; give checkpoint=..., or leave guard out")
    remove_if_asked(cfg)
    tune(1)
    policies = [guarded(cfg, named(load_policy(path), path)) for path in learned]
    options, remarks = options_of(cfg, policies)
    experiment = make_experiment(cfg, options)
    remarks += _check_policies(experiment, policies)
    name = cfg["name"] or f"evaluate-{experiment.trace.name}-{experiment.protocol['name']}-{datetime.now():%m%d-%H%M%S}"
    with RunDirectory(cfg["runs"], str(name)) as run:
        say(f"trace     {experiment.trace.label}: {len(experiment.stretches['test'].jobs):,} test jobs")
        for note in experiment.trace.notes:
            say(f"          note: {note}")
        block = evaluate_into(
            run,
            experiment,
            policies,
            cases,
            score=cfg["score"],
            windows=cfg["windows"],
            progress=cfg["progress"],
        )
        if remarks:
            block["remarks"] = remarks
        run.write_text("config.yaml", yaml.safe_dump(cfg, sort_keys=False))
        run.write_json(
            "manifest.json", manifest(experiment.trace, [p.origin.get("seed") for p in policies], experiment.ranges)
        )
        wall = time.perf_counter() - begun
        rows = sum(len(b["policies"]) for b in [block, *block.get("further", [])])
        run.write_json(
            "summary.json",
            {
                "schema_version": SCHEMA_VERSION,
                "command": "evaluate",
                "trace": describe_trace(experiment.trace),
                "protocol": experiment.protocol["name"],
                **block,
                "checkpoints": [policy.origin for policy in policies],
                "runtime": {
                    "wall_s": round(wall, 1),
                    "peak_rss_mb": round(peak_rss_mb(), 1),
                    "jobs_per_s": round(rows * block["test"]["jobs"] / wall),
                },
            },
        )
    return str(run.final)


def named_policies(cfg: dict[str, Any]) -> tuple[str | list[str], list[str]]:
    """Heuristic orders (or ``all``), and learned policies: those of ``checkpoint``, and models and files among ``policy``."""
    named = _listed(cfg["policy"])
    learned = [*_listed(cfg["checkpoint"]), *(name for name in named if is_learned(name))]
    orders = [name for name in named if not is_learned(name)]
    return ("all" if orders == ["all"] else orders), list(dict.fromkeys(learned))


def named(policy: AnyPolicy, name: str) -> AnyPolicy:
    """The policy, with the name of the shipped model in its origin where it is one."""
    return replace(policy, origin={**policy.origin, "model": name}) if file_of(name) is not None else policy


def guarded(cfg: dict[str, Any], policy: AnyPolicy) -> AnyPolicy:
    """The policy, under guard where that is asked for."""
    return policy.guarded(Guard(**cfg["shadow"])) if cfg["guard"] else policy


def cases_of(cfg: dict[str, Any], orders: str | list[str]) -> list[Case]:
    """The heuristic rows that the options ask for; InputError for a list of none."""
    for option in ("policy", "backfill", "runtimes", "windows"):
        if cfg[option] == []:
            raise InputError(f"{option}=[]; one value or a list of some is needed")
    return heuristic_cases(orders, _listed(cfg["backfill"]), _listed(cfg["runtimes"]))


def options_of(cfg: dict[str, Any], policies: Sequence[AnyPolicy]) -> tuple[dict[str, Any], list[str]]:
    """Options of the simulation: those given, else those that the policies were trained with; and remarks."""
    given, trained = simulation_options(cfg), [dict(policy.rules.options) for policy in policies]
    if not trained or all(each == given for each in trained):
        return given, []
    told = ", ".join(f"{name}={value}" for name, value in trained[0].items()) or "none"
    if given:
        remark = f"the policy was trained with other options ({told}), not these: a transfer"
        say(f"note: {remark}")
        return given, [remark]
    if any(each != trained[0] for each in trained):
        raise InputError("checkpoint: the policies were trained with different options; give seeds of one")
    say(f"options   {told} (as trained)")
    return trained[0], []


def _listed(value: Any) -> list[Any]:
    """An option that may be one value, a list, or nothing."""
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def _check_policies(experiment: Experiment, policies: Sequence[AnyPolicy]) -> list[str]:
    """Refuse policies that cannot be judged together or have seen the test stretch; remarks on the others."""
    scores = {policy.rules.score for policy in policies}
    if len(scores) > 1:
        raise InputError(f"checkpoint: trained for different scores ({', '.join(sorted(scores))}); give seeds of one")
    remarks = sorted({remark for policy in policies for remark in check_unseen(experiment, policy.origin)})
    for remark in remarks:
        say(f"note: {remark}")
    return remarks


if __name__ == "__main__":
    run_main(main, Evaluate, sweep=SWEEP)
