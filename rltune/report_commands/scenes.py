"""conf/report.yaml: what the report judges, as commands of `rltune.evaluate`."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rltune.config.files import CONF, read_conf
from rltune.experiment.scenes import Told
from rltune.nouns.documents import read_yaml
from rltune.nouns.errors import InputError
from rltune.policies.orders import ORDERS
from rltune.policies.preemptive import PREEMPTIVE
from rltune.traces import load_trace
from rltune.traces.folder import MissingTrace, traces_folder
from rltune.traces.load import GENERATED

RULES = {"orders": [*ORDERS], "suspending": [*PREEMPTIVE], "all": [*ORDERS, *PREEMPTIVE]}
"""What ``rules`` of a scene stands for."""


@dataclass(frozen=True)
class Planned:
    """A scene to be run: ``words`` are the options of `rltune.evaluate` without its run directory.

    ``directory``: the run directory's name, another one for other options and other jobs, so that no run is taken for another.
    """

    name: str
    words: tuple[str, ...]
    directory: str
    told: Told


def planned(full: bool, only: Sequence[str] = ()) -> tuple[list[Planned], list[str]]:
    """The scenes of the quick or the full report, those ``only`` where named; and what is left out, with the reason.

    InputError for a name that there is not.
    """
    listed = [dict(each) for each in read_yaml(CONF / "report.yaml", "the list of scenes").value["scenes"]]
    known = [each["name"] for each in listed]
    if unknown := [name for name in only if name not in known]:
        raise InputError(f"--only {unknown[0]}: no such scene; there are {', '.join(known)}")
    chosen = [each for each in listed if (each["name"] in only if only else full or not each.get("full_only"))]
    found, left_out = [], []
    for scene in chosen:
        trace, why = _trace(scene)
        if trace is None:
            left_out.append(f"{scene['title']}: left out, {why}")
        else:
            found.append(_planned(scene, trace, full))
    return found, left_out


@cache
def jobs_of(trace: str, folder: Path) -> tuple[str, str]:
    """What tells the jobs that lie in ``folder`` from others of the name ("" if none do), and why there are none.

    A real log that has come since makes another run; drawn jobs follow from the options.
    """
    if trace in GENERATED:
        return trace, ""
    try:
        found = load_trace(read_conf("trace", trace)["name_or_path"], folder=folder)
        return (found.sha256 if found.source == "real" else found.source), ""
    except MissingTrace as error:
        return "", str(error)


def _trace(scene: dict[str, Any]) -> tuple[str | None, str]:
    """The first trace of the scene that is here; None with the reason."""
    found = {name: jobs_of(name, traces_folder()) for name in scene["traces"]}
    return next((name for name, (there, _) in found.items() if there), None), next(iter(found.values()))[1]


def _planned(scene: dict[str, Any], trace: str, full: bool) -> Planned:
    rules = scene["rules"]
    policies = RULES[rules] if isinstance(rules, str) else rules
    own = [*scene["options"], *scene["traces"][trace], *scene.get("full" if full else "quick", ())]
    words = (f"+trace={trace}", *own, f"policy=[{','.join(policies)}]")
    title = scene["title"] + ("" if trace == next(iter(scene["traces"])) else f" ({trace})")
    command = shlex.join(["python", "-m", "rltune.evaluate", *words])
    digest = hashlib.sha256(json.dumps([words, jobs_of(trace, traces_folder())[0]]).encode()).hexdigest()[:8]
    return Planned(
        scene["name"], words, f"{scene['name']}-{digest}", Told(title, " ".join(scene["says"].split()), command)
    )
