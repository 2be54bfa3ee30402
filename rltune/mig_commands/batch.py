"""``python -m rltune.mig batch tasks.csv gpu=a100-80gb``: plan batches of tasks on MIG GPUs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from rltune.mig.batch.bounds import Bounds, bounds
from rltune.mig.batch.exact import MOST_TASKS, shortest
from rltune.mig.batch.files import instance_table, plans_as_json, run_table
from rltune.mig.batch.plan import Left, Plan, check_plan
from rltune.mig.batch.search import Outcome
from rltune.mig.batch.sequence import search_sequence
from rltune.mig.batch.tasks import Tasks, read_tasks
from rltune.mig.geometry import geometry
from rltune.nouns.errors import InputError
from rltune.report.console import say
from rltune.report.gantt import gantt
from rltune.report.mig import batch_table
from rltune.rundir import SCHEMA_VERSION, RunDirectory, manifest_of_file, peak_rss_mb, remove_if_asked


def plan_batches(cfg: dict[str, Any]) -> str:
    """Read, search, check, write; returns the run directory."""
    begun = time.perf_counter()
    gpus = check_options(cfg)
    remove_if_asked(cfg)
    path = Path(cfg["tasks"])
    batches = read_tasks(path, dict.fromkeys(gpus))
    counted = ", ".join(f"{gpus.count(model)} x {model}" for model in dict.fromkeys(gpus))
    say(f"tasks     {sum(map(len, batches))} in {len(batches)} batch{'es' * (len(batches) > 1)} ({path}) on {counted}")
    name = cfg["name"] or f"mig-batch-{path.stem}-{len(gpus)}gpu-{datetime.now():%m%d-%H%M%S}"
    with RunDirectory(cfg["runs"], str(name)) as run:
        outcomes = search_sequence(batches, gpus, cfg["seconds"], cfg["seed"], cfg["steps"], _agent_plans(cfg, gpus))
        plans = [outcome.plan for outcome in outcomes]
        for tasks, plan in zip(batches, plans, strict=True):
            check_plan(tasks, plan)
        rows = [_row(*row, gpus, cfg) for row in zip(batches, outcomes, strict=True)]
        run_table(batches, plans).to_parquet(run.file("plan.parquet"), index=False)
        instance_table(batches, plans).to_parquet(run.file("instances.parquet"), index=False)
        run.write_json("plan.json", plans_as_json(batches, plans))
        end = max(tasks.arrival_s + plan.makespan_s for tasks, plan in zip(batches, plans, strict=True))
        title = f"{path.name} on {counted}: last task ends at {end:,.2f} s"
        gantt(run.file("plan.parquet"), run.file("instances.parquet"), run.file("gantt.png"), title)
        run.write_text("config.yaml", yaml.safe_dump(cfg, sort_keys=False))
        run.write_json("manifest.json", manifest_of_file(path, cfg["seed"]))
        runtime = {"wall_s": round(time.perf_counter() - begun, 2), "peak_rss_mb": round(peak_rss_mb(), 1)}
        summary = {"schema_version": SCHEMA_VERSION, "command": "mig batch", "gpus": list(gpus), "batches": rows}
        run.write_json("summary.json", summary | {"end_s": end, "runtime": runtime})
    batch_table(rows)
    return str(run.final)


def check_options(cfg: Mapping[str, Any]) -> tuple[str, ...]:
    """GPU models, one a GPU; InputError for options that make no sense."""
    if not cfg["tasks"]:
        raise InputError("tasks: name a CSV, as in: python -m rltune.mig batch tasks.csv gpu=a100-80gb")
    models = cfg["gpu"] if isinstance(cfg["gpu"], list) else [cfg["gpu"]]
    if not models:
        raise InputError("gpu=[]; give a GPU model, or a list of them")
    return tuple(geometry(model).model for model in models for _ in range(cfg["gpus"]))


def _agent_plans(
    cfg: Mapping[str, Any], gpus: Sequence[str]
) -> Callable[[Tasks, Sequence[Left]], Sequence[Plan]] | None:
    """The trained agent's plan of each batch that finds its GPU empty; it knows one GPU."""
    if cfg["agent"] is None:
        return None
    if len(gpus) > 1:
        raise InputError(f"agent={cfg['agent']}: the agent plans one GPU, not {len(gpus)}; leave it out (agent=null)")
    # PyTorch takes seconds to load, and most runs do without.
    from rltune.rl.mig.agent import load

    agent = load(cfg["agent"])
    return lambda tasks, left: () if left[0].instances else (agent.plan(tasks, gpus[0]),)


def _row(tasks: Tasks, outcome: Outcome, gpus: Sequence[str], cfg: Mapping[str, Any]) -> dict[str, Any]:
    """What the summary says of a batch."""
    plan = outcome.plan
    known: Bounds = bounds(tasks, gpus, cfg["prove_s"], plan.left)
    shortest_s = None
    if len(gpus) == 1 and len(tasks) <= MOST_TASKS and not plan.left[0].instances and cfg["prove_s"] > 0:
        shortest_s = shortest(tasks, gpus[0], plan.makespan_s)
    least = known.best if shortest_s is None else shortest_s
    fixed = [end for name, end in outcome.seeds.items() if name.startswith("fixed")]
    others = {name: end for name, end in outcome.seeds.items() if not name.startswith("fixed")}
    return {
        "label": tasks.label,
        "tasks": len(tasks),
        "arrival_s": tasks.arrival_s,
        "method": plan.method,
        "makespan_s": plan.makespan_s,
        "bounds_s": asdict(known),
        "shortest_s": shortest_s,
        "gap": plan.makespan_s / least - 1,
        "ratio_to_area": plan.makespan_s / known.area,
        "reconfigurations": plan.reconfigurations,
        "others_s": others | ({"best fixed partition": min(fixed)} if fixed else {}),
        "search": {"steps": outcome.steps, "seconds": round(outcome.seconds, 4), "trace": outcome.trace},
    }
