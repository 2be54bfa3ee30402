"""Trainings and evaluations in a comparison: what each learned, beside the best heuristic of equal knowledge.

Rows are grouped by what they were judged on (jobs, protocol, machines): only within a group do their figures mean the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rltune.nouns.documents import read_yaml
from rltune.nouns.errors import InputError
from rltune.nouns.metrics import SCORE_METRIC

JUDGED = ("train", "evaluate")
"""Commands whose runs are read here."""
NEEDED = ("summary.json", "config.yaml")


def is_judged(path: Path) -> bool:
    """Whether a directory is a finished run of train or evaluate."""
    if path.name.startswith(".") or not all((path / name).is_file() for name in NEEDED):
        return False
    try:
        return bool(json.loads((path / "summary.json").read_text()).get("command") in JUDGED)
    except (ValueError, OSError, AttributeError, RecursionError):
        return False


def judged_groups(paths: Sequence[Path]) -> tuple[list[dict[str, Any]], list[str]]:
    """``{"label", "metric", "rows"}`` of each group, in the order of the runs, and remarks on runs without a table.

    InputError where a run is damaged.
    """
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    remarks = []
    for path in paths:
        try:
            summary = json.loads((path / "summary.json").read_text())
            config = read_yaml(path / "config.yaml", "a run of train or evaluate").value
            metric = SCORE_METRIC[config["score"]]
            if not summary.get("policies"):
                remarks.append(
                    f"{path.name}: it was not evaluated (evaluate=false), so it has no row; rltune.evaluate judges it"
                )
                continue
            for block in (summary, *summary.get("further", ())):
                key, label = _judged_on(summary, block, metric)
                group = groups.setdefault(key, {"label": label, "metric": metric, "rows": []})
                _extend(group["rows"], list(_rows(path, block, metric)))
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise InputError(f"{path}: damaged ({type(error).__name__} {error}); run it again") from None
    return list(groups.values()), remarks


def _judged_on(summary: Mapping[str, Any], block: Mapping[str, Any], metric: str) -> tuple[tuple[Any, ...], str]:
    """What tells groups apart, and how it is called."""
    cluster, test = block["cluster"], block["test"]
    windows = f"{test['windows']} windows" if test["windows"] > 1 else f"{test['jobs']:,} jobs"
    label = f"{summary['trace']['label']}, {windows}, {cluster['name']} with {cluster['nodes']} nodes, by {metric}"
    key = (summary["trace"]["sha256"], str(test), summary["protocol"], json.dumps(cluster), metric)
    return key, label


def _rows(path: Path, block: Mapping[str, Any], metric: str) -> Iterator[dict[str, Any]]:
    """Learned rows with their gain on the best heuristic that knows no more, then that heuristic; of heuristics alone the best."""
    policies = block["policies"]
    learned = [name for name, row in policies.items() if row["learned"]]
    best = {name: _best(policies, metric, {policies[name]["runtimes"], "unknown"}) for name in learned}
    for name in learned:
        pair: Mapping[str, Any] = next(
            (
                c
                for c in block["comparisons"]
                if (c["policy"], c.get("against"), c["metric"]) == (name, best[name], metric)
            ),
            {},
        )
        yield {"run": str(path), **_figures(name, policies[name]), "against": best[name],
               "gain": pair.get("reduction"), "ci95": pair.get("ci95", [None, None])}  # fmt: skip
    for name in dict.fromkeys(best.values() if learned else [_best(policies, metric, None)]):
        if name is not None:
            yield {
                "run": str(path),
                **_figures(name, policies[name]),
                "against": None,
                "gain": None,
                "ci95": [None, None],
            }


def _best(policies: Mapping[str, Any], metric: str, known: set[str] | None) -> str | None:
    sign = -1 if metric == "utilization" else 1
    others = [
        name for name, row in policies.items() if not row["learned"] and (known is None or row["runtimes"] in known)
    ]
    return min(others, key=lambda name: sign * policies[name][metric]["mean"], default=None)


def _figures(name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    means = {key: row[key]["mean"] for key in ("wait_s", "jct_s", "bsld", "utilization")}
    return {
        "row": name,
        "learned": row["learned"],
        **means,
        "wait_s_p99": row["wait_s"]["p99"],
        "unfinished": row["unfinished"],
    }


def _extend(rows: list[dict[str, Any]], more: Sequence[dict[str, Any]]) -> None:
    """A heuristic that two runs share stands once."""
    there = {(row["row"], row["wait_s"], row["jct_s"]) for row in rows if not row["learned"]}
    rows += [row for row in more if row["learned"] or (row["row"], row["wait_s"], row["jct_s"]) not in there]
