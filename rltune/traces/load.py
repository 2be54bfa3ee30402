"""``load_trace``: a name of the catalogue or a path -> a checked trace."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rltune.nouns.errors import InputError
from rltune.traces.folder import find, need, traces_folder
from rltune.traces.formats import read_trace
from rltune.traces.helios_calibrated import (
    helios_calibrated,
    helios_earth_calibrated,
    helios_saturn_calibrated,
    helios_uranus_calibrated,
)
from rltune.traces.helios_statistics import CLUSTERS
from rltune.traces.pai_calibrated import alibaba_calibrated
from rltune.traces.pai_statistics import PAI
from rltune.traces.philly_calibrated import philly_calibrated
from rltune.traces.philly_sia import (
    load_philly_sia,
    load_rltune_alibaba,
    load_rltune_helios,
    load_rltune_philly,
)
from rltune.traces.philly_statistics import PHILLY
from rltune.traces.synthetic import SyntheticJobs
from rltune.traces.table import Reading
from rltune.traces.trace import Trace

HELIOS_FILES = (
    "helios_venus_2020/venus_jobs.csv.gz",
    "cluster_log.csv",
    "helios/cluster_log.csv",
    "Venus/cluster_log.csv",
    "helios/Venus/cluster_log.csv",
)
PHILLY_FILES = ("philly_2017/philly_jobs.csv.gz", "cluster_job_log", "philly/cluster_job_log")
ALIBABA_FILES = (
    "alibaba_pai_2020/pai_tasks_60k.csv.gz",
    "pai_task_table.csv",
    "alibaba/pai_task_table.csv",
    "alibaba/pai_task_table.csv.gz",
)
MOST_JOBS = 50_000_000
"""Of a generator: sixty times the largest published trace, some GB of memory."""
SUFFIXES = (".csv", ".csv.gz", ".json", ".json.gz", ".parquet")
"""A word that ends so is a path."""


def load_trace(name_or_path: str | Path, *, folder: str | Path | None = None, seed: int = 0, **options: Any) -> Trace:
    """A trace by name (see ``TRACES``) or from a file of any known format.

    Args:
        name_or_path: a name first; a file that bears one is reached as ``./helios``.
        folder: where real traces lie; default $RLTUNE_TRACES, then ``traces/``.
        seed: of the generators; reading a file uses none.
        options: of that trace, e.g. ``squeeze=10`` of ``rltune_helios``; of a table of one's own ``columns={"submit_s": "sent"}``, where
            its column names do not tell what they are.

    Raises InputError, in one line, for whatever is missing, malformed or unknown.
    """
    word = str(name_or_path)
    load = TRACES.get(word)
    if load is None:
        if not (word.endswith(SUFFIXES) or os.sep in word or Path(word).exists()):
            raise InputError(f"trace {word!r} is unknown; use a file or one of {', '.join(TRACES)}")
        if strange := sorted(set(options) - {"columns"}):
            raise InputError(f"trace {word}: unknown option {', '.join(strange)}; a file has columns alone")
        return read_trace(Path(word), name=Path(word).name, source="user", columns=options.get("columns"))
    if isinstance(jobs := options.get("jobs"), int) and jobs > MOST_JOBS:
        raise InputError(f"trace {word}: jobs={jobs}; at most {MOST_JOBS:,} can be drawn")
    accepted = inspect.signature(load).parameters
    unknown = sorted(set(options) - set(accepted))
    if unknown:
        known = ", ".join(option for option in accepted if option not in ("folder", "seed")) or "none"
        raise InputError(f"trace {word}: unknown option {', '.join(unknown)}; known: {known}")
    common = {"folder": folder, "seed": seed}
    found = load(**{key: value for key, value in common.items() if key in accepted}, **options)
    return found.draw() if isinstance(found, SyntheticJobs) else found


def from_config(config: Mapping[str, Any]) -> Trace:
    """The trace of a ``conf/trace`` node; its stretches are for ``split``, ``path`` is a file's."""
    arguments = {str(key): value for key, value in config.items() if str(key) not in _NOT_ARGUMENTS}
    path = arguments.pop("path", None)
    if path is not None:
        arguments["name_or_path"] = path
    if "name_or_path" not in arguments:
        raise InputError("trace: neither name_or_path nor path; e.g. +trace=file trace.path=jobs.csv")
    return load_trace(**arguments)


_NOT_ARGUMENTS = ("_target_", "train", "validate", "test", "clusters", "oversized")


def load_helios(folder: str | Path | None = None, seed: int = 0) -> Trace:
    """SenseTime Venus; where the real log is absent, the generator calibrated to its statistics."""
    path = find(traces_folder(folder), HELIOS_FILES)
    if path is None:
        return replace(helios_calibrated(seed=seed), name="helios")
    return read_trace(path, name="helios", source="real")


def load_philly(folder: str | Path | None = None) -> Trace:
    """Microsoft Philly, all jobs that ran."""
    remedy = "`python -m rltune.traces fetch philly` gets it, and +trace=synthetic needs no file"
    path = need(traces_folder(folder), PHILLY_FILES, "philly", remedy)
    return read_trace(path, name="philly", source="real")


def load_alibaba(folder: str | Path | None = None, load_scale: float = 1.0) -> Trace:
    """Alibaba PAI; ``load_scale`` multiplies the arrival rate (1/0.082 restores the sample's full load)."""
    if not 0 < float(load_scale) < np.inf:
        raise InputError(f"trace alibaba: load_scale={load_scale}; use a number > 0")

    def change(found: Reading) -> Reading:
        arrival_s = np.asarray(found.columns["submit_s"], dtype=np.float64) / float(load_scale)
        notes = (*found.notes, f"arrival rate multiplied by {load_scale:g}")
        return replace(found, columns=found.columns | {"submit_s": arrival_s}, notes=notes)

    remedy = "`python -m rltune.traces fetch alibaba` gets it, and +trace=synthetic needs no file"
    path = need(traces_folder(folder), ALIBABA_FILES, "alibaba", remedy)
    return read_trace(path, name="alibaba", source="real", change=change if load_scale != 1 else None)


TRACES: dict[str, Callable[..., Trace | SyntheticJobs]] = {
    "helios": load_helios,
    "helios_calibrated": helios_calibrated,
    "helios_earth_calibrated": helios_earth_calibrated,
    "helios_saturn_calibrated": helios_saturn_calibrated,
    "helios_uranus_calibrated": helios_uranus_calibrated,
    "philly": load_philly,
    "philly_calibrated": philly_calibrated,
    "philly_sia": load_philly_sia,
    "rltune_philly": load_rltune_philly,
    "rltune_helios": load_rltune_helios,
    "rltune_alibaba": load_rltune_alibaba,
    "alibaba": load_alibaba,
    "alibaba_calibrated": alibaba_calibrated,
    "synthetic": SyntheticJobs,
}
"""Every name and what loads it; a loader's parameters are that trace's options, so are the fields of `SyntheticJobs`."""
GENERATED = {
    "helios_calibrated": CLUSTERS["venus"].jobs,
    "helios_earth_calibrated": CLUSTERS["earth"].jobs,
    "helios_saturn_calibrated": CLUSTERS["saturn"].jobs,
    "helios_uranus_calibrated": CLUSTERS["uranus"].jobs,
    "philly_calibrated": PHILLY.jobs,
    "alibaba_calibrated": PAI.jobs,
}
"""Generators, which need no file, and how many jobs each draws by default: a list need not draw them all."""
