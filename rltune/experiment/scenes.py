"""Run directories as scenes of a page: evaluations and trainings by cluster size, simulations by their jobs; learning curves."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from rltune.config.files import PACKAGE
from rltune.experiment.comparison import Run, against, by_jobs, read_run, short
from rltune.experiment.comparison import comparison as compared
from rltune.experiment.outcomes import is_judged
from rltune.models.catalogue import SEED, models, read_card
from rltune.nouns.errors import InputError
from rltune.nouns.metrics import SCORE_METRIC
from rltune.report.page.scene import COMPARED, METRICS, Curve, Scene, ranked

JOB_COLUMNS = ("submit_s", "num_gpus", "vc", "priority", *METRICS)
OLD = "the run was made before this was recorded; evaluate again"
WINDOWS = "windows on an empty cluster have no common time; the month protocol has"
PLAIN = re.compile(r"[^\w-]+", re.ASCII)


@dataclass(frozen=True)
class Told:
    """What a list of scenes says of one, where the run directory cannot: title, why it is here, the command that makes it."""

    title: str = ""
    says: str = ""
    command: str = ""


def scenes_of(paths: Sequence[Path], told: Mapping[str, Told] | None = None) -> list[Scene]:
    """Scenes of run directories, in their order; ``told`` by name of a directory. InputError where a run is damaged."""
    scenes: list[Scene] = []
    for path in paths:
        if is_judged(path):
            scenes += judged_scenes(path, (told or {}).get(path.name, Told()))
    groups = by_jobs([read_run(path) for path in paths if not is_judged(path)])
    scenes += [simulated_scene(group) for group in groups]
    names = [scene.name for scene in scenes]
    if len(set(names)) < len(names):
        raise InputError(f"two of {', '.join(names)} bear one name; give run directories of different names")
    return scenes


def judged_scenes(path: Path, told: Told) -> list[Scene]:
    """One scene a cluster size of an evaluation (or of a training's)."""
    try:
        summary = json.loads((path / "summary.json").read_text())
        config = yaml.safe_load((path / "config.yaml").read_text())
        blocks = [summary, *summary.get("further", ())] if summary.get("policies") else []
        return [_judged_scene(path, summary, config, block, len(blocks) > 1, told) for block in blocks]
    except (KeyError, TypeError, ValueError, OSError, yaml.YAMLError) as error:
        raise InputError(f"{path}: damaged ({type(error).__name__} {error}); run it again") from None


def _judged_scene(
    path: Path, summary: dict[str, Any], config: dict[str, Any], block: dict[str, Any], several: bool, told: Told
) -> Scene:
    suffix = f"-{block['cluster']['nodes']}" if several else ""
    # Of a checkpoint's score where there is one; runs of before did not say.
    metric = block.get("metric", SCORE_METRIC[config["score"]])
    rows = ranked([_row(name, row, block) for name, row in block["policies"].items()], metric)
    jobs = _frame(path / f"jobs{suffix}.parquet")
    jobs = pd.DataFrame(columns=["row", *JOB_COLUMNS]) if jobs is None else jobs.rename(columns={"policy": "row"})
    if "jct_s" not in jobs and len(jobs):
        jobs["jct_s"] = jobs.end_s - jobs.submit_s
    pools = _frame(path / f"pools{suffix}.parquet")
    energy, no_energy = _energy({name: row.get("energy_kwh") for name, row in block["policies"].items()})
    title = (
        told.title or f"{summary['trace']['label']}, {summary['protocol']} protocol, {block['cluster']['name']} cluster"
    )
    return Scene(
        name=PLAIN.sub("_", path.name + suffix),
        title=title + (f", {block['cluster']['nodes']} nodes" if several or not told.title else ""),
        says=told.says,
        source=str(summary["trace"]["source"]),
        facts=_facts(path, summary, config, block, told.command),
        metric=metric,
        rows=rows,
        energy=energy,
        jobs=jobs.reindex(columns=["row", *JOB_COLUMNS]),
        pools=None if pools is None else pools.rename(columns={"policy": "row"}),
        no_energy=no_energy,
        no_pools="" if pools is not None else WINDOWS if block["test"]["windows"] > 1 else OLD,
        no_bound=_no_bound([row.get("bounds") for row in block["policies"].values()]),
        remarks=[*summary["trace"]["notes"], *summary.get("remarks", ()), *block["notes"]],
    )


def _row(name: str, row: Mapping[str, Any], block: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a summary as one of `Scene.rows`."""
    model = row.get("model")
    placed = "".join(f"+{part}" for part in name.split("+")[1:])
    out = {
        "row": name,
        "label": f"{model}{placed}" if model else name,
        "policy": row["policy"],
        "learned": bool(row["learned"]),
        "model": model or "",
        "runtimes": row["runtimes"],
        "unfinished": row["unfinished"],
        **_figures(row),
    }
    pairs = [pair for pair in block.get("against_best", ()) if pair["policy"] == name]
    return out | _gains(pairs)


def _figures(row: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a row of any summary."""
    out: dict[str, Any] = {}
    for metric in METRICS:
        found = row.get(metric) or {}
        low, high = found.get("ci95", (None, None))
        out |= {metric: found.get("mean"), f"{metric}_low": low, f"{metric}_high": high}
        out |= {f"{metric}_{key}": found.get(key) for key in ("p50", "p95", "p99", "max")}
    for name in ("utilization", "fragmentation", "makespan_s", "energy_kwh"):
        out[name] = (row.get(name) or {}).get("mean")
    bounds = row.get("bounds") or {}
    for metric in ("wait_s", "jct_s"):
        found = bounds.get(metric) or {}
        out |= {f"bound_{metric}": found.get("bound"), f"above_{metric}": found.get("above")}
    return {key: np.nan if value is None else float(value) for key, value in out.items()}


def _gains(pairs: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Gains on the best rule, of one row."""
    out: dict[str, Any] = {"against": ""}
    for metric in COMPARED:
        out |= {f"gain_{metric}{end}": np.nan for end in ("", "_low", "_high")}
    for pair in pairs:
        ends = [np.nan if end is None else end for end in pair["ci95"]]
        gain = np.nan if pair["reduction"] is None else pair["reduction"]
        metric = pair["metric"]
        out |= {f"gain_{metric}": gain, f"gain_{metric}_low": ends[0], f"gain_{metric}_high": ends[1]}
        out["against"] = pair["against"] or ""
    return out


def _energy(found: Mapping[str, Any]) -> tuple[pd.DataFrame, str]:
    """Busy and idle kWh by row and type; and why there are none."""
    frame = pd.DataFrame(columns=["row", "gpu_type", "busy", "idle"])
    given = {name: each for name, each in found.items() if each}
    reasons = [each["reason"] for each in given.values() if each["mean"] is None]
    if reasons or not given:
        return frame, reasons[0] if reasons else OLD
    rows = [
        {"row": name, "gpu_type": kind, **part}
        for name, each in given.items()
        for kind, part in each["by_type"].items()
    ]
    return pd.DataFrame(rows), ""


def _no_bound(found: Sequence[Mapping[str, Any] | None]) -> str:
    reasons = [each["reason"] for each in found if each and "reason" in each]
    return reasons[0] if reasons else "" if any(found) else OLD


def _facts(
    path: Path, summary: Mapping[str, Any], config: Mapping[str, Any], block: Mapping[str, Any], command: str
) -> list[tuple[str, str]]:
    cluster, test = block["cluster"], block["test"]
    windows = f"{test['windows']} windows of {test['jobs'] // test['windows']} jobs, each on an empty cluster"
    facts = [
        *_common(path, summary, cluster),
        ("jobs", f"{test['jobs']:,} of the test stretch {_range(test['range'])}"),
        ("protocol", windows if test["windows"] > 1 else "one continuous stretch (month protocol)"),
    ]
    if block.get("load") is not None:
        facts.append(("offered load", f"{block['load']:.0%} of the GPU time while jobs arrive"))
    options = {key: value for key, value in (config.get("options") or {}).items() if key in _changed(config)}
    if options:
        facts.append(("options", ", ".join(f"{key}={value}" for key, value in options.items())))
    facts.append(
        ("placed by", str((config.get("allocator") or {}).get("name", "-")) + "; rules beside a MILP by best fit")
    )
    return [*facts, *([("command", command)] if command else [])]


def _changed(config: Mapping[str, Any]) -> set[str]:
    """Names of options of the simulation that are not at their defaults."""
    from rltune.config.commands import simulation_options

    try:
        return set(simulation_options(config))
    except (KeyError, TypeError):
        return set()


def _common(path: Path, summary: Mapping[str, Any], cluster: Mapping[str, Any]) -> list[tuple[str, str]]:
    trace = summary["trace"]
    files = f" ({', '.join(trace['files'])})" if trace["files"] else ""
    facts = [
        ("trace", f"{trace['label']}{files}, {trace['source']}, {trace['jobs']:,} jobs, sha256 {trace['sha256'][:12]}"),
        ("cluster", f"{cluster['name']}: {cluster['nodes']:,} nodes, {cluster['gpus']:,} GPUs"),
    ]
    manifest = path / "manifest.json"
    if manifest.is_file():
        found = json.loads(manifest.read_text())
        commit = f", commit {str(found['git_commit'])[:10]}" if found.get("git_commit") else ""
        changed = " with changes" if found.get("git_dirty") else ""
        facts.append(("made", f"{found.get('created', '-')}{commit}{changed}, run directory {path.name}"))
    return facts


def _range(bounds: Any) -> str:
    low, high = bounds
    return f"from {low} to {high}"


def _frame(path: Path) -> pd.DataFrame | None:
    return pd.read_parquet(path) if path.is_file() else None


def simulated_scene(runs: Sequence[Run]) -> Scene:
    """Simulations of the same jobs; the best rule is that of the least mean wait."""
    found = compared(runs)
    # Runs on several clusters are one scene all the same: that is what is compared.
    names = {str(run.path): _name(run, row, runs) for run, row in zip(runs, found["rows"], strict=True)}
    rules = [run for run in runs if not _is_learned(run)] or list(runs)
    best = min(rules, key=lambda run: run.metrics["wait_s"]["mean"] or np.inf)
    rows = []
    for run in runs:
        name = names[str(run.path)]
        pairs = [] if run is best else [pair | {"against": names[str(best.path)]} for pair in against(run, best)]
        told = run.metrics | {"bounds": run.summary.get("bounds")}
        rows.append(
            {"row": name, "label": name, "policy": str(run.options.get("policy")), "learned": _is_learned(run), "model": "",
             "runtimes": str(run.options.get("runtimes")), "unfinished": run.metrics["unfinished"], **_figures(told), **_gains(pairs)}
        )  # fmt: skip
    energy, no_energy = _energy({names[str(run.path)]: run.metrics.get("energy_kwh") for run in runs})
    pools = [
        frame.assign(row=names[str(run.path)])
        for run in runs
        if (frame := _frame(run.path / "pools.parquet")) is not None
    ]
    first, cluster = runs[0], runs[0].summary["cluster"]
    remarks = [*first.summary.get("remarks", ()), *found["remarks"]]
    return Scene(
        name=PLAIN.sub("_", first.path.name),
        title=f"{first.summary['trace']['label']}: {len(runs)} simulations",
        says="",
        source=str(first.summary["trace"]["source"]),
        facts=[*_common(first.path, first.summary, cluster), ("runs", ", ".join(run.path.name for run in runs))],
        metric="wait_s",
        rows=ranked(rows, "wait_s"),
        energy=energy,
        jobs=pd.concat([_jobs_of(run, names[str(run.path)]) for run in runs], ignore_index=True),
        pools=pd.concat(pools, ignore_index=True) if pools else None,
        no_energy=no_energy,
        no_pools="" if pools else OLD,
        no_bound=_no_bound([run.summary.get("bounds") for run in runs]),
        remarks=list(dict.fromkeys(remarks)),
    )


def _name(run: Run, row: Mapping[str, Any], runs: Sequence[Run]) -> str:
    """What sets a run apart, if that is short; else its directory's name."""
    told = short(row) if len(runs) > 1 else next(iter(run.summary["policies"]))
    return told.removeprefix("policy=") if len(told) <= 40 else run.path.name


def _is_learned(run: Run) -> bool:
    from rltune.api import is_learned

    policy = str(run.summary.get("simulation", {}).get("policy", ""))
    return is_learned(policy)


def _jobs_of(run: Run, name: str) -> pd.DataFrame:
    frame = pd.read_parquet(run.path / "jobs.parquet")
    return frame[frame.finished].reindex(columns=list(JOB_COLUMNS)).assign(row=name)


def shipped_curves() -> tuple[list[Curve], str]:
    """Learning curves of the shipped models, and why there are none (an installed package does not have them)."""
    groups: dict[str, list[str]] = {}
    for name in models():
        groups.setdefault(SEED.sub("", name), []).append(name)
    curves, missing = [], []
    for stem, names in groups.items():
        seeds = read_card(stem)["seeds"]
        files = {name: [PACKAGE.parent / file for file in seeds[name]["curve"]] for name in names}
        absent = [path for paths in files.values() for path in paths if not path.is_file()]
        if absent:
            missing.append(stem)
            continue
        frames = {name: pd.concat([pd.read_csv(path) for path in paths[-1:]]) for name, paths in files.items()}
        kept = {name: str(seeds[name]["kept"]) for name in names}
        curves.append(
            curve_of(
                stem, str(read_card(stem)["says"]), frames, kept, str(read_card(stem)["training"].get("score", ""))
            )
        )
    why = f"the learning curves of {', '.join(missing)} lie in the checkout (experiments/results/training), not in the package"
    return curves, why if missing else ""


def run_curve(path: Path) -> Curve | None:
    """The learning curve of a training's run directory; None for other runs."""
    if not (path / "curve.csv").is_file():
        return None
    summary = json.loads((path / "summary.json").read_text())
    score = str(yaml.safe_load((path / "config.yaml").read_text()).get("score", ""))
    kept = str(summary.get("training", summary).get("kept", ""))
    return curve_of(
        PLAIN.sub("_", path.name), path.name, {path.name: pd.read_csv(path / "curve.csv")}, {path.name: kept}, score
    )


def curve_of(name: str, title: str, frames: Mapping[str, pd.DataFrame], kept: Mapping[str, str], score: str) -> Curve:
    """From the files' columns: validation_score (negative where less is better), or validation_ratio of MIG batches."""
    ratio = all("validation_ratio" in frame for frame in frames.values())
    column = "validation_ratio" if ratio else "validation_score"
    sign = 1.0 if ratio or score == "utilization" else -1.0
    seeds = {}
    for each, frame in frames.items():
        judged = frame.dropna(subset=[column])
        seeds[each] = pd.DataFrame(
            {"epoch": judged.epoch, "steps": judged.steps, "value": sign * judged[column]}
        ).reset_index(drop=True)
    first = next(iter(frames.values()))
    baseline = None if "baseline_score" not in first else sign * float(first.baseline_score.iloc[0])
    unit = (
        "makespan / area bound, validation"
        if ratio
        else f"mean {score}{' (s)' if score in ('wait', 'jct') else ''}, validation"
    )
    epochs = {each: int(what.split()[1]) if what.startswith("epoch ") else None for each, what in kept.items()}
    says = "; ".join(f"{each}: kept {what or 'unknown'}" for each, what in kept.items())
    return Curve(
        name, name, unit, seeds, baseline, epochs, says if title == name else f"{title[:1].upper()}{title[1:]}. {says}."
    )
