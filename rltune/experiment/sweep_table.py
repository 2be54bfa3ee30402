"""One table and one figure at the end of a sweep, from the summaries of its members: sweep.json, sweep.md, sweep.png."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rltune.experiment.comparison import comparison, figure_table, read_run
from rltune.experiment.sweeping import set_apart
from rltune.nouns.documents import read_yaml
from rltune.nouns.leftovers import whole_file
from rltune.nouns.metrics import SCORE_METRIC
from rltune.report.comparison import comparison_lines, print_comparison
from rltune.report.figures import what_if_figure
from rltune.report.sweep import gain_figure, print_sweep, sweep_lines
from rltune.rundir import SCHEMA_VERSION


def conclude_simulations(folder: Path, members: Sequence[Path]) -> None:
    """As `rltune.compare` sets runs side by side, each against the first of the same jobs."""
    found = comparison([read_run(path) for path in members])
    apart = [set_apart(path) for path in members]
    found["differing"] = list(dict.fromkeys(name for each in apart for name in each))
    for row, each in zip(found["rows"], apart, strict=True):
        row["options"] = {name: each.get(name) for name in found["differing"]}
    title = f"sweep of {len(members)} simulations"
    write(folder, found, comparison_lines(found, title, "sweep.json"))
    what_if_figure(figure_table(found), folder / "sweep.png", title)
    print_comparison(found, title)


def conclude_policies(folder: Path, members: Sequence[Path]) -> None:
    """Of trainings and evaluations: what was kept, the gain on validation, and the test beside the best heuristic."""
    rows = [member_row(path) for path in members]
    apart = list(dict.fromkeys(name for row in rows for name in row["options"]))
    found = {"schema_version": SCHEMA_VERSION, "command": "sweep", "differing": apart, "rows": rows}
    title = f"sweep of {len(members)} runs"
    write(folder, found, sweep_lines(found, title))
    gain_figure(rows, folder / "sweep.png", title)
    print_sweep(found, title)


def write(folder: Path, found: Mapping[str, Any], lines: Sequence[str]) -> None:
    """sweep.json and sweep.md, each whole or as it was."""
    for name, text in (("sweep.json", json.dumps(found, indent=1, allow_nan=False)), ("sweep.md", "\n".join(lines))):
        with whole_file(folder / name) as partial:
            partial.write_text(text + "\n")


def member_row(path: Path) -> dict[str, Any]:
    """One member: the options that set it apart, and its figures; None for what it has not."""
    summary = json.loads((path / "summary.json").read_text())
    config = read_yaml(path / "config.yaml", "a member of a sweep").value
    training = summary.get("training") or {}
    row = {
        "run": path.name,
        "options": set_apart(path),
        "trace": summary["trace"]["label"],
        "kept": training.get("kept"),
        "steps": training.get("steps"),
        "validation_gain": validation_gain(training),
        "wall_s": summary["runtime"]["wall_s"],
    }
    return row | tested(summary, SCORE_METRIC[config["score"]], config["allocator"]["name"])


def validation_gain(training: Mapping[str, Any]) -> float | None:
    """Of the policy kept on its baseline order, as a share; larger is better."""
    if not training.get("baseline_score"):
        return None
    return float((training["validation_score"] - training["baseline_score"]) / abs(training["baseline_score"]))


def tested(summary: Mapping[str, Any], metric: str, allocator: str) -> dict[str, Any]:
    """The learned row on the test stretch (of the first cluster size), and the best heuristic that knows no more of run times."""
    nothing = dict.fromkeys(("learned", "heuristic", "best", "gain"))
    out: dict[str, Any] = {"metric": metric, **nothing, "ci95": [None, None]}
    policies = summary.get("policies") or {}
    learned = sorted(
        (name for name, row in policies.items() if row["learned"]), key=lambda n: policies[n]["allocator"] != allocator
    )
    known = {policies[learned[0]]["runtimes"], "unknown"} if learned else {row["runtimes"] for row in policies.values()}
    others = [name for name, row in policies.items() if not row["learned"] and row["runtimes"] in known]
    sign = -1 if metric == "utilization" else 1
    if others:
        best = min(others, key=lambda name: sign * policies[name][metric]["mean"])
        out |= {"heuristic": best, "best": policies[best][metric]["mean"]}
    if learned:
        out["learned"] = policies[learned[0]][metric]["mean"]
        pair = next((c for c in summary["comparisons"] if is_pair(c, learned[0], out["heuristic"], metric)), None)
        if pair is not None:
            out |= {"gain": pair["reduction"], "ci95": pair["ci95"]}
    return out


def is_pair(found: Mapping[str, Any], policy: str, against: str | None, metric: str) -> bool:
    """Whether a comparison of a summary is that of these rows."""
    return (found["policy"], found["against"], found["metric"]) == (policy, against, metric)


def validation_score(path: Path) -> float:
    """What a search over trainings maximises: the kept policy's score on the validation stretch."""
    return float(json.loads((path / "summary.json").read_text())["training"]["validation_score"])


def mean_wait(path: Path) -> float:
    """What a search over simulations minimises, in seconds."""
    (row,) = json.loads((path / "summary.json").read_text())["policies"].values()
    return float(row["wait_s"]["mean"])
