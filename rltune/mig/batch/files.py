"""A plan as files: tables of runs and instances, and JSON that `read_plans` takes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import pandas as pd

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
from rltune.nouns.checked import Checked, checked, model_of
from rltune.nouns.documents import Document, read_json
from rltune.nouns.errors import InputError

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


class InstanceEntry(Checked):
    """An instance in a file; times in seconds, as in `Instance`."""

    gpu: int
    """Its place in the list of GPUs."""
    profile: str
    start: int
    """Memory slice."""
    create_s: float | None
    ready_s: float | None
    destroy_s: float | None = None
    gone_s: float | None = None
    busy_until_s: float = 0.0

    def of(self, gpus: Sequence[str]) -> Instance:
        """The instance on one of the GPUs; InputError where there is no such GPU or profile."""
        if not 0 <= self.gpu < len(gpus):
            raise InputError(f"an instance is on GPU {self.gpu}; there are {len(gpus)}")
        place = Placement(geometry(gpus[self.gpu]).profile(self.profile), self.start)
        return Instance(self.gpu, place, self.create_s, self.ready_s, self.destroy_s, self.gone_s, self.busy_until_s)


RunEntry: Any = model_of(Run)


class LeftEntry(Checked):
    """What a GPU held when the batch arrived."""

    instances: list[InstanceEntry]
    reconfiguring_until_s: float


class BatchEntry(Checked):
    """The plan of one batch; times in seconds from its arrival."""

    label: str
    arrival_s: float
    tasks: list[str]
    method: str
    makespan_s: float
    left: list[LeftEntry]
    instances: list[InstanceEntry]
    runs: list[RunEntry]

    def on(self, gpus: tuple[str, ...]) -> Plan:
        """The plan, checked: a GPU could follow it."""
        left = tuple(Left(tuple(i.of(gpus) for i in one.instances), one.reconfiguring_until_s) for one in self.left)
        runs = tuple(Run(**run.model_dump()) for run in self.runs)
        plan = Plan(gpus, tuple(i.of(gpus) for i in self.instances), runs, self.method, left)
        check_form(plan)
        check_runs(plan)
        check_reconfigurations(plan)
        return plan


class PlanFile(Checked):
    """A ``plan.json``."""

    accepted = "a plan.json of a run directory is needed"
    schema_version: Literal[1]
    gpus: list[str]
    """Models."""
    batches: list[BatchEntry]


def read_plans(path: str | Path) -> list[Plan]:
    """Plans of a ``plan.json``; InputError for what is none, or what no GPU could follow."""
    value = read_json(path, "the plan.json of a run directory, or plan anew")
    try:
        file = checked(PlanFile, Document("is no plan.json", value))
        gpus = tuple(geometry(model).model for model in file.gpus)
        return [batch.on(gpus) for batch in file.batches]
    except InputError as error:
        raise InputError(f"{path}: {error}; plan anew") from None
