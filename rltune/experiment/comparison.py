"""Simulations side by side, each against the first of the same jobs, with paired intervals."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rltune.config.declare import defaults
from rltune.experiment.outcomes import is_judged
from rltune.nouns.documents import read_yaml
from rltune.nouns.errors import InputError
from rltune.nouns.metrics import reduction
from rltune.nouns.renamed import translated
from rltune.rundir import SCHEMA_VERSION
from rltune.simulator.options import Options
from rltune.simulator.result import DAY_S

COMPARED = ("wait_s", "jct_s", "bsld")
IGNORED = ("name", "runs", "sweep", "remove_partial", "progress", "export", "step_s")
"""Options that change no result."""
NEEDED = ("summary.json", "config.yaml", "jobs.parquet")


@dataclass(frozen=True)
class Run:
    """One simulation's directory, read: its options as dotted names, its summary and its row a job."""

    path: Path
    options: dict[str, Any]
    summary: dict[str, Any]
    jobs: pd.DataFrame

    @property
    def metrics(self) -> dict[str, Any]:
        (row,) = self.summary["policies"].values()
        return dict(row)

    @property
    def sha256(self) -> str:
        return str(self.summary["trace"]["sha256"])


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """Run directories: those named, and those in a named folder (a sweep, or one of sweeps), by time of making; each once."""
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.is_dir():
            raise InputError(f"{path}: no such directory; give run directories, or the folder of a sweep")
        inside = (
            [path]
            if is_finished(path)
            else runs_in(path) or [r for p in sorted(path.iterdir()) if p.is_dir() for r in runs_in(p)]
        )
        if not inside:
            raise InputError(
                f"{path}: no finished run in it; python -m rltune.simulate makes one ({', '.join(NEEDED)}), train and evaluate too"
            )
        torn = [p.name for p in path.iterdir() if is_torn(p)] if not is_finished(path) else []
        if torn:
            raise InputError(
                f"{path}: {', '.join(sorted(torn))} lack some of {', '.join(NEEDED)}; remove them or run them again"
            )
        for each in inside:
            found.setdefault(each.resolve(), each)
    return list(found.values())


def is_finished(path: Path) -> bool:
    """Whether a directory is a finished run of any command."""
    return is_judged(path) or is_run(path)


def runs_in(folder: Path) -> list[Path]:
    """The finished runs right below a folder, by time of making."""
    return sorted((p for p in folder.iterdir() if is_finished(p)), key=created)


def is_run(path: Path) -> bool:
    """Whether a directory has the files of a simulation."""
    return not path.name.startswith(".") and all((path / name).is_file() for name in NEEDED)


def is_torn(path: Path) -> bool:
    """Whether a folder has some files of a run, but not all."""
    if not path.is_dir() or path.name.startswith(".") or is_run(path):
        return False
    return (path / "summary.json").is_file() and (path / "config.yaml").is_file() and simulated(path)


def simulated(path: Path) -> bool:
    """Whether the summary of a folder is one of simulate."""
    try:
        return bool(_json(path / "summary.json").get("command") == "simulate")
    except InputError:
        return True


def created(path: Path) -> tuple[str, int, str]:
    """When the run was made, as far as its manifest tells."""
    manifest = path / "manifest.json"
    when = str(_json(manifest).get("created", "")) if manifest.is_file() else ""
    return when, (path / "summary.json").stat().st_mtime_ns, path.name


def read_run(path: Path) -> Run:
    """One run; InputError where it is of another command, or damaged."""
    summary = _json(path / "summary.json")
    if summary.get("command") != "simulate":
        raise InputError(f"{path}: a run of {summary.get('command')!r}; only those of simulate can be compared")
    try:
        config = read_yaml(path / "config.yaml", "a run of simulate").value
        jobs = pd.read_parquet(path / "jobs.parquet", columns=["job_id", "submit_s", "finished", *COMPARED])
    except (InputError, OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: damaged ({str(error).splitlines()[0]}); run the simulation again") from None
    if not isinstance(config, Mapping):
        raise InputError(f"{path / 'config.yaml'}: damaged (no options in it); run the simulation again")
    config = translated(config)
    if isinstance(config.get("options"), Mapping):
        # Runs of before kept only the options that were given.
        config["options"] = defaults(Options) | dict(config["options"])
    return Run(path, flat(config), summary, jobs)


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, TypeError, OSError, RecursionError) as error:
        raise InputError(f"{path}: damaged ({error}); run the simulation again") from None


def flat(options: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested options by dotted name."""
    out: dict[str, Any] = {}
    for key, value in options.items():
        if not above and key in IGNORED:
            continue
        dotted = f"{above}{key}"
        out |= flat(value, f"{dotted}.") if isinstance(value, Mapping) and value else {dotted: value}
    return out


def by_jobs(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs of the same jobs together: across others neither pairs nor means say anything."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.sha256, []).append(run)
    return list(groups.values())


def comparison(runs: Sequence[Run]) -> dict[str, Any]:
    """compare.json: options that differ, a row a run, each run against the first of the same jobs."""
    names = list(dict.fromkeys(name for run in runs for name in run.options))
    sizes = [run.summary["cluster"] for run in runs]
    differing = [n for n in names if len({json.dumps(run.options.get(n), default=str) for run in runs}) > 1]
    rows = [
        {
            "run": str(run.path),
            "options": {name: run.options.get(name) for name in differing},
            "cluster": {"name": size["name"], "nodes": size["nodes"], "gpus": size["gpus"]},
            **figures(run),
        }
        for run, size in zip(runs, sizes, strict=True)
    ]
    remarks = []
    firsts: dict[str, Run] = {}
    for run in runs:
        firsts.setdefault(run.sha256, run)
    others = [run for run in runs if firsts[run.sha256] is not run]
    pairs = [against(run, firsts[run.sha256]) for run in others]
    for run, found in zip(others, pairs, strict=True):
        lost = len(run.jobs) - found[0]["jobs"]
        if lost:
            remarks.append(f"{run.path.name}: {lost:,} jobs did not finish in both runs and enter no difference")
    return {
        "schema_version": SCHEMA_VERSION,
        "command": "compare",
        "trace": runs[0].summary["trace"],
        "differing": differing,
        "rows": rows,
        "comparisons": [each for found in pairs for each in found],
        "remarks": remarks,
    }


def figures(run: Run) -> dict[str, Any]:
    """One run's figures. Cost: GPU-hours of the whole cluster, held or not, over the makespan."""
    row = run.metrics
    return {
        "wait_s": row["wait_s"]["mean"],
        "wait_s_p99": row["wait_s"]["p99"],
        "jct_s": row["jct_s"]["mean"],
        "bsld": row["bsld"]["mean"],
        "utilization": row["utilization"]["mean"],
        "energy_kwh": row["energy_kwh"]["mean"],
        "cost_gpu_h": run.summary["cluster"]["gpus"] * row["makespan_s"]["mean"] / 3600,
        "unfinished": row["unfinished"],
    }


def against(run: Run, first: Run) -> list[dict[str, Any]]:
    """Reduction of each mean against the first run, over the jobs that finished in both; intervals resample days."""
    both = first.jobs.merge(run.jobs, on="job_id", suffixes=("_first", ""), validate="one_to_one")
    both = both[both.finished & both.finished_first]
    days = np.floor(both.submit_s / DAY_S).to_numpy()
    out = []
    for metric in COMPARED:
        ours, theirs = both[metric].to_numpy(), both[f"{metric}_first"].to_numpy()
        found = reduction(ours, theirs, pairs=days) if len(both) else {"reduction": None, "ci95": [None, None]}
        out.append({"run": str(run.path), "against": str(first.path), "metric": metric, "jobs": len(both), **found})
    return out


def figure_table(found: Mapping[str, Any]) -> pd.DataFrame:
    """What the figure shows."""
    return pd.DataFrame([{**row, "run": short(row)} for row in found["rows"]])


def short(row: Mapping[str, Any]) -> str:
    """A run by what sets it apart."""
    apart = [f"{name.removeprefix('cluster.')}={value}" for name, value in row["options"].items()]
    return ", ".join(apart) or Path(row["run"]).name
