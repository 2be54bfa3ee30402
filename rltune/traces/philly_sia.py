"""The traces of the published RLTune comparison, all made from the passed Philly jobs (Sia's copy).

Virtual clusters and GPU types given to them here are the comparison's
convention, not data: Philly publishes no GPU type, and its jobs are not Helios's
or Alibaba's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rltune.nouns.errors import InputError
from rltune.traces.folder import need, traces_folder
from rltune.traces.formats import read_trace
from rltune.traces.rltune_csv import GPU_TYPES
from rltune.traces.table import Reading
from rltune.traces.trace import Trace

FILES = ("philly_2017/sia_philly_original.csv.gz", "philly_sia/philly.csv", "philly.csv")
VIRTUAL_CLUSTERS = 5

Columns = dict[str, Any]


def load_philly_sia(folder: str | Path | None = None) -> Trace:
    """82,247 passed jobs, no VC, no GPU type; input of the golden schedules."""
    return _load(folder, "philly_sia", 1, lambda columns: {})


def load_rltune_philly(folder: str | Path | None = None, squeeze: int = 1) -> Trace:
    """The jobs for RLTune's Philly cluster; ``squeeze``: submit times are floor-divided by it."""
    return _load(folder, "rltune_philly", squeeze, lambda columns: {})


def load_rltune_helios(folder: str | Path | None = None, squeeze: int = 1) -> Trace:
    """The jobs with a VC "0" to "4": rank of their Philly VC by job count (ties by name) mod 5."""
    note = "VC = rank of the Philly VC mod 5, a convention"
    return _load(folder, "rltune_helios", squeeze, _ranked_vcs, note)


def load_rltune_alibaba(folder: str | Path | None = None, squeeze: int = 1) -> Trace:
    """The jobs with a GPU type by their number mod 5: T4, MISC, P100, V100, V100-32GB."""
    note = "GPU type = job number mod 5, a convention"
    return _load(folder, "rltune_alibaba", squeeze, _types_in_turn, note)


def _ranked_vcs(columns: Mapping[str, Any]) -> Columns:
    jobs_of = Counter(columns["vc"])
    ranked = sorted(jobs_of, key=lambda vc: (-jobs_of[vc], vc))
    code = {vc: str(rank % VIRTUAL_CLUSTERS) for rank, vc in enumerate(ranked)}
    return {"vc": [code[vc] for vc in columns["vc"]]}


def _types_in_turn(columns: Mapping[str, Any]) -> Columns:
    return {"gpu_type": np.resize(np.array(GPU_TYPES, dtype=object), len(columns["job_id"]))}


def _load(
    folder: str | Path | None,
    name: str,
    squeeze: int,
    assign: Callable[[Mapping[str, Any]], Columns],
    *notes: str,
) -> Trace:
    if not isinstance(squeeze, int) or isinstance(squeeze, bool) or squeeze < 1:
        raise InputError(f"trace {name}: squeeze={squeeze!r}; use a whole number >= 1")

    def change(found: Reading) -> Reading:
        kept = {column: values for column, values in found.columns.items() if column != "vc"}
        kept["submit_s"] = kept["submit_s"] // squeeze
        kept["duration_s"] = np.floor(np.asarray(kept["duration_s"], dtype=np.float64))
        told = (*found.notes, *notes, *((f"submit times floor-divided by {squeeze}",) if squeeze > 1 else ()))
        origin = found.origin if squeeze == 1 else None
        return replace(found, columns=kept | assign(found.columns), notes=told, origin=origin)

    remedy = "put Sia's philly.csv there (siasosp23/artifacts) or use +trace=synthetic, which needs no file"
    path = need(traces_folder(folder), FILES, name, remedy)
    return read_trace(path, name=name, source="real", label=name, change=change)
