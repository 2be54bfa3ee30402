"""``python -m rltune.evaluate +trace=helios checkpoint=...``: a policy beside every heuristic, on held-back jobs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import yaml

from rltune.entry import run_main
from rltune.errors import InputError
from rltune.evaluation import Case, evaluate_into, heuristic_cases
from rltune.experiment import Experiment, make_experiment
from rltune.options import is_whole
from rltune.origin import check_unseen
from rltune.report.console import say
from rltune.rl.policy_file import LearnedPolicy, load_policy
from rltune.rl.runtime import tune
from rltune.rundir import SCHEMA_VERSION, RunDirectory, describe_trace, manifest, peak_rss_mb

EXAMPLES = {"policy": "[fifo,sjf]", "backfill": "[skip,easy]", "runtimes": "[exact]", "checkpoint": "runs/NAME"}
"""Options that are one text or a list of texts."""


def main(cfg: dict[str, Any]) -> str:
    """One evaluation; returns the run directory."""
    begun = time.perf_counter()
    check_options(cfg)
    tune(1)
    policies = [load_policy(path) for path in _listed(cfg["checkpoint"])]
    experiment = make_experiment(cfg)
    remarks = _check_policies(experiment, policies)
    name = cfg["name"] or f"evaluate-{experiment.trace.name}-{experiment.protocol['name']}-{datetime.now():%m%d-%H%M%S}"
    with RunDirectory(cfg["runs"], str(name)) as run:
        say(f"trace     {experiment.trace.label}: {len(experiment.stretches['test'].jobs):,} test jobs")
        for note in experiment.trace.notes:
            say(f"          note: {note}")
        block = evaluate_into(
            run,
            experiment,
            policies,
            cases_of(cfg),
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


def check_options(cfg: dict[str, Any]) -> None:
    """Refuse windows, heuristics and checkpoints of the wrong kind, in one line each."""
    windows = cfg["windows"]
    if isinstance(windows, int) and not isinstance(windows, bool):
        if windows < 1:
            raise InputError(f"windows={windows}; at least 1 is needed")
    elif not isinstance(windows, list) or not windows or not all(is_whole(start, 0) for start in windows):
        raise InputError(f"windows={windows!r}; a whole number of at least 1 or a list of first jobs is needed")
    for option, example in EXAMPLES.items():
        values = _listed(cfg[option])
        absent = option == "checkpoint" and cfg[option] is None
        if not absent and (not values or not all(isinstance(value, str) and value for value in values)):
            raise InputError(f"{option}={cfg[option]!r}; a text or a list of texts is needed, e.g. {example}")
    cases_of(cfg)


def cases_of(cfg: dict[str, Any]) -> list[Case]:
    """The heuristic rows that the options ask for."""
    policy = "all" if cfg["policy"] == "all" else _listed(cfg["policy"])
    return heuristic_cases(policy, _listed(cfg["backfill"]), _listed(cfg["runtimes"]))


def _listed(value: Any) -> list[Any]:
    """An option that may be one value, a list, or nothing."""
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def _check_policies(experiment: Experiment, policies: Sequence[LearnedPolicy]) -> list[str]:
    """Refuse policies that cannot be judged together or have seen the test stretch; remarks on the others."""
    scores = {policy.rules.score for policy in policies}
    if len(scores) > 1:
        raise InputError(f"checkpoint: trained for different scores ({', '.join(sorted(scores))}); give seeds of one")
    remarks = sorted({remark for policy in policies for remark in check_unseen(experiment, policy.origin)})
    for remark in remarks:
        say(f"note: {remark}")
    return remarks


if __name__ == "__main__":
    run_main(main, "evaluate")
