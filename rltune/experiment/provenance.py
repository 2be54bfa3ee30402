"""Where a policy comes from, and what that forbids: none is judged on jobs it, or its parents, was trained on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from rltune.experiment.setup import Experiment
from rltune.nouns.errors import InputError
from rltune.nouns.jobs import JobTable

Origin = Mapping[str, Any]

ONE_LOG = {"philly_sia": "philly", "rltune_helios": "philly", "rltune_philly": "philly", "rltune_alibaba": "philly"}
"""Traces cut from another one's log; their names differ, their jobs do not."""
SAME_WHEN_RESUMED = ("algo", "trace_sha256", "train", "validate", "cluster", "nodes", "protocol")
RECIPE = (*SAME_WHEN_RESUMED, "agent", "parent")
"""What policies must share to differ in their seed alone."""


def describe(experiment: Experiment, algo: str, seed: int, parent: Origin | None) -> dict[str, Any]:
    """What a policy file tells of its making, training's own figures apart. JSON values."""
    trace = experiment.trace
    return {
        "algo": algo,
        "seed": seed,
        "trace": trace.name,
        "source": trace.source,
        "trace_sha256": trace.sha256,
        "files": list(trace.files),
        "train": experiment.ranges["train"],
        "validate": experiment.ranges["validate"],
        "jobs": {name: _bounds(experiment.stretches[name].jobs) for name in ("train", "validate")},
        "cluster": experiment.cluster.name,
        "nodes": [experiment.sized(nodes).nodes for nodes in experiment.train_node_counts],
        "protocol": experiment.protocol["name"],
        "parent": dict(parent) if parent is not None else None,
    }


def _bounds(jobs: JobTable) -> list[Any]:
    """First and last job of a stretch, and how many."""
    return [str(jobs.job_id[0]), str(jobs.job_id[-1]), len(jobs)]


def recipe(origin: Origin) -> str:
    """Equal for policies that differ in their seed alone."""
    return json.dumps({name: origin.get(name) for name in RECIPE}, sort_keys=True)


def lineage(origin: Origin | None) -> Iterator[Origin]:
    """A policy's origin and those of its parents, youngest first."""
    while origin is not None:
        yield origin
        origin = origin.get("parent")


def check_unseen(experiment: Experiment, origin: Origin) -> list[str]:
    """Refuse a policy whose line was trained on this log by other stretches; remarks on what cannot be told apart."""
    here = experiment.trace
    now = describe(experiment, "", 0, None)
    remarks = []
    for each in lineage(origin):
        if each.get("trace_sha256") == here.sha256:
            if [each.get("train"), each.get("validate")] != [now["train"], now["validate"]]:
                raise InputError(
                    f"checkpoint: trained on {each.get('train')}, validated on {each.get('validate')} of {here.name}, not "
                    "this run's stretches; give trace.train and trace.validate as they were, so that test jobs stay unseen"
                )
            continue
        remarks.append(f"the policy was trained on {each.get('trace')} ({each.get('source')}), not here: a transfer")
        same_file = bool(here.files) and list(here.files) == each.get("files")
        if (same_file or log_of(each.get("trace")) == log_of(here.name)) and each.get("jobs") != now["jobs"]:
            remarks.append(
                f"{each.get('trace')} and {here.name} may be of one log; test jobs may have been seen in training"
            )
    return remarks


def log_of(trace: Any) -> str:
    """The log that a trace of the catalogue is cut from."""
    return ONE_LOG.get(str(trace), str(trace))


def check_same(experiment: Experiment, origin: Origin, algo: str) -> None:
    """Refuse to go on with a run (resume=...) on other jobs, stretches, machines or protocol."""
    now = describe(experiment, algo, 0, None)
    for name in SAME_WHEN_RESUMED:
        if origin.get(name) != now[name]:
            raise InputError(
                f"resume: the run was trained with {name}={origin.get(name)}, not {now[name]}; give the options it had, "
                "or fine-tune with checkpoint=..."
            )
