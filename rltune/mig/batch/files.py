"""A plan as files: tables of runs and instances, and JSON that `read_plans` takes back."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from rltune.errors import InputError
from rltune.mig.batch.plan import (
    Instance,
    Left,
    Plan,
    Run,
    check_form,
    check_reconfigurations,
    check_runs,
)
from rltune.mig.batch.tasks import Tasks
from rltune.mig.geometry import Placement, geometry

SCHEMA_VERSION = 1
TIMES = ("create_s", "ready_s", "destroy_s", "gone_s")
"""Of an instance."""


def run_table(batches: Sequence[Tasks], plans: Sequence[Plan]) -> pd.DataFrame:
    """A row a task, in order of start; times in seconds from the arrival of the first batch that arrives at 0."""
    rows = []
    for number, (tasks, plan) in enumerate(zip(batches, plans, strict=True)):
        for run in plan.runs:
            instance = plan.instances[run.instance]
            rows.append(
                {"batch": tasks.label or str(number), "task": tasks.names[run.task]}
                | _place(plan, instance)
                | {"start_s": tasks.arrival_s + run.start_s, "end_s": tasks.arrival_s + run.end_s}
            )
    return pd.DataFrame(rows).sort_values(["start_s", "gpu", "start_slice"], ignore_index=True)


def instance_table(batches: Sequence[Tasks], plans: Sequence[Plan]) -> pd.DataFrame:
    """A row an instance that a batch creates or destroys; missing times: it was there before, or stays."""
    rows = []
    for number, (tasks, plan) in enumerate(zip(batches, plans, strict=True)):
        for instance in plan.instances:
            times = {
                name: None if (value := getattr(instance, name)) is None else tasks.arrival_s + value for name in TIMES
            }
            if any(value is not None for value in times.values()):
                rows.append({"batch": tasks.label or str(number)} | _place(plan, instance) | times)
    places = ("gpu", "model", "gpu_slices", "profile", "start_slice", "slices")
    columns = ("batch", *places, *TIMES)
    frame = pd.DataFrame(rows, columns=list(columns))
    return frame.astype(dict.fromkeys(columns[-4:], float))


def _place(plan: Plan, instance: Instance) -> dict[str, Any]:
    profile = geometry(plan.gpus[instance.gpu]).profiles[instance.placement.profile]
    return {
        "gpu": instance.gpu,
        "model": plan.gpus[instance.gpu],
        "gpu_slices": geometry(plan.gpus[instance.gpu]).slices,
        "profile": profile.name,
        "start_slice": instance.placement.start,
        "slices": profile.size,
    }


def plans_as_json(batches: Sequence[Tasks], plans: Sequence[Plan]) -> dict[str, Any]:
    """What `read_plans` reads; times of a batch in seconds from its arrival."""
    return {
        "schema_version": SCHEMA_VERSION,
        "gpus": list(plans[0].gpus),
        "batches": [
            {
                "label": tasks.label,
                "arrival_s": tasks.arrival_s,
                "tasks": list(tasks.names),
                "method": plan.method,
                "makespan_s": plan.makespan_s,
                "left": [_left_as_json(plan, gpu) for gpu in range(len(plan.left))],
                "instances": [_instance_as_json(plan, instance) for instance in plan.instances],
                "runs": [asdict(run) for run in plan.runs],
            }
            for tasks, plan in zip(batches, plans, strict=True)
        ],
    }


def _left_as_json(plan: Plan, gpu: int) -> dict[str, Any]:
    left = plan.left[gpu]
    held = [_instance_as_json(plan, instance) for instance in left.instances]
    return {"instances": held, "reconfiguring_until_s": left.reconfiguring_until_s}


def _instance_as_json(plan: Plan, instance: Instance) -> dict[str, Any]:
    profile = geometry(plan.gpus[instance.gpu]).profiles[instance.placement.profile]
    value = asdict(instance) | {"profile": profile.name, "start": instance.placement.start}
    del value["placement"]
    return value


def read_plans(path: str | Path) -> list[Plan]:
    """Plans of a ``plan.json``; InputError for what is none, or what no GPU could follow."""
    try:
        value = json.loads(Path(path).read_text())
        if value["schema_version"] != SCHEMA_VERSION:
            raise InputError(f"schema_version {value['schema_version']}, not {SCHEMA_VERSION}")
        gpus = tuple(geometry(model).model for model in value["gpus"])
        plans = [_plan(gpus, batch) for batch in value["batches"]]
        for plan in plans:
            check_form(plan)
            check_runs(plan)
            check_reconfigurations(plan)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give the plan.json of a run directory") from None
    except InputError as error:
        raise InputError(f"{path}: {error}; plan anew") from None
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise InputError(f"{path}: is no plan.json ({type(error).__name__}: {error}); plan anew") from None
    return plans


def _plan(gpus: tuple[str, ...], batch: dict[str, Any]) -> Plan:
    left = tuple(
        Left(tuple(_instance(gpus, i) for i in held["instances"]), _seconds(held["reconfiguring_until_s"]))
        for held in batch["left"]
    )
    instances = tuple(_instance(gpus, i) for i in batch["instances"])
    return Plan(gpus, instances, tuple(_run(run) for run in batch["runs"]), str(batch["method"]), left)


def _run(value: dict[str, Any]) -> Run:
    fields = dict(value)
    times = {name: _seconds(fields.pop(name)) for name in ("start_s", "end_s")}
    return Run(task=_whole(fields.pop("task")), instance=_whole(fields.pop("instance")), **times, **fields)


def _instance(gpus: tuple[str, ...], value: dict[str, Any]) -> Instance:
    fields = dict(value)
    gpu = _whole(fields.pop("gpu"))
    if not 0 <= gpu < len(gpus):
        raise InputError(f"an instance is on GPU {gpu}; there are {len(gpus)}")
    profile = geometry(gpus[gpu]).profile(str(fields.pop("profile")))
    busy_s = _seconds(fields.pop("busy_until_s", 0.0))
    times = {name: None if value is None else _seconds(value) for name, value in fields.items() if name in TIMES}
    others = {name: value for name, value in fields.items() if name not in (*TIMES, "start")}
    place = Placement(profile, _whole(fields["start"]))
    return Instance(gpu=gpu, placement=place, busy_until_s=busy_s, **times, **others)


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{value!r} is no number of seconds")
    return float(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"{value!r} is no whole number")
    return value
