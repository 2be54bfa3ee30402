"""Trained for bounded slowdown, wait and JCT: is each best at its own? ``python experiments/scores.py`` (RLTUNE_TRACES set).

Three trainings on Helios, windows of 256 jobs, alike but for the score (which also chooses the baseline, by validation), then all three
policies, and a rule beside them, on the same 64 windows of the test stretch. Trainings that lie in ``--runs`` already are taken
from there. Writes results/scores.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hybrid import gain, percent
from recording import RESULTS, machine

import rltune
from rltune.config.files import read_conf
from rltune.experiment.setup import spread
from rltune.traces import split

COMMAND = "RLTUNE_TRACES=... OMP_NUM_THREADS=1 python experiments/scores.py"
TRAINING = ("allocator=best_fit", "epochs=30", "windows_per_epoch=16", "evaluate=false", "progress=false")
SCORES = ("bsld", "wait", "jct")
METRICS = {"bsld": "bsld", "wait": "wait_s", "jct": "jct_s"}
RULES = ("fifo", "sjf", "saf", "f1", "f2", "f3", "f4", "wfp3", "unicef")
WINDOWS, LENGTH = 64, 256


def trained(runs: Path, name: str, *options: str) -> Any:
    """The policy of a training, which is done now if it is not there."""
    if not (runs / name).is_dir():
        command = [sys.executable, "-m", "rltune.train", *options, *TRAINING, f"name={name}", f"runs={runs}"]
        subprocess.run(command, check=True)
    return rltune.load_policy(str(runs / name))


def windows(name: str, stretch: str = "test") -> tuple[list[rltune.Trace], Any]:
    """Windows of a stretch of a trace, evenly spaced as in `rltune.evaluate`, and the cluster of its window protocol."""
    node = read_conf("trace", name)
    part = split(rltune.load_trace(node["name_or_path"]), node[stretch])
    begins = spread(0, len(part.jobs) - LENGTH, WINDOWS)
    return [part.window(begin, LENGTH) for begin in begins], rltune.load_cluster(node["clusters"]["window"])


def play(policy: Any, among: list[rltune.Trace], cluster: Any) -> dict[str, Any]:
    """Score -> (n_windows, 2): jobs of each window, and sum of their values; with EASY and run times known."""
    found: dict[str, list[tuple[int, float]]] = {score: [] for score in SCORES}
    for each in among:
        result = rltune.simulate(each, cluster, policy=policy, backfill="easy", allocator="best_fit", oversized="drop")
        values = result.scores()
        for score in SCORES:
            mine = values[METRICS[score]]
            found[score].append((len(mine), float(mine.sum())))
    return {score: np.array(rows) for score, rows in found.items()}


def mean(rows: Any) -> float:
    """Over all jobs of all windows."""
    return float(rows[:, 1].sum() / rows[:, 0].sum())


def measure(runs: Path) -> dict[str, Any]:
    """Policies by score, rules, and each policy at its own score against the two others."""
    policies = {score: trained(runs, f"score_{score}", "+trace=helios", f"score={score}") for score in SCORES}
    among, cluster = windows("helios")
    played = {f"trained for {score}": play(policy, among, cluster) for score, policy in policies.items()}
    played |= {rule: play(rule, among, cluster) for rule in RULES}
    origins = {
        score: {"kept": p.origin["kept"], "baseline": p.baseline, "steps": p.origin["steps"], "seed": p.origin["seed"]}
        for score, p in policies.items()
    }
    own = {
        score: {
            other: gain([played[f"trained for {score}"][score]], [played[f"trained for {other}"][score]])
            for other in SCORES if other != score
        }
        | {"own baseline": gain([played[f"trained for {score}"][score]], [played[policies[score].baseline][score]])}
        for score in SCORES
    }  # fmt: skip
    rows = [{"rule": name} | {score: mean(of[score]) for score in SCORES} for name, of in played.items()]
    return {"policies": origins, "own": own, "rows": rows}


def text(out: dict[str, Any]) -> str:
    """The tables."""
    about = out["_about"]
    lines = [
        "# Trained for a score", "",
        f"`{about['command']}`; real Helios log; machine: {about['machine']}. Trainings: `python -m rltune.train +trace=helios score=...",
        f"{' '.join(TRAINING)}`; validation in August, test on {WINDOWS} windows of {LENGTH} jobs in September, 25 nodes.", "",
        "| policy | kept | baseline |", "|---|---|---|",
    ]  # fmt: skip
    lines += [f"| trained for {score} | {p['kept']} | {p['baseline']} |" for score, p in out["policies"].items()]
    lines += ["", "| rule (all with EASY) | bounded slowdown | wait, s | JCT, s |", "|---|---|---|---|"]
    lines += [f"| {r['rule']} | {r['bsld']:,.2f} | {r['wait']:,.0f} | {r['jct']:,.0f} |" for r in out["rows"]]
    lines += ["", "Each at its own score: how much less than the others have, percent (95 %, windows drawn anew):", ""]
    lines += ["| trained for | than trained for bsld | wait | jct | than its own baseline |", "|---|---|---|---|---|"]
    for score, found in out["own"].items():
        cells = [percent(found.get(other)) for other in (*SCORES, "own baseline")]
        lines.append(f"| {score} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def record(
    name: str, measure: Callable[[Path], dict[str, Any]], text: Callable[[dict[str, Any]], str], command: str
) -> None:
    """Measure with the trainings of ``--runs`` and write results/NAME.json and .md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/scores"))
    out = {"_about": {"command": command, "machine": machine(), "source": "real"}} | measure(parser.parse_args().runs)
    (RESULTS / f"{name}.json").write_text(json.dumps(out, indent=1) + "\n")
    (RESULTS / f"{name}.md").write_text(text(out))


if __name__ == "__main__":
    record("scores", measure, text, COMMAND)
