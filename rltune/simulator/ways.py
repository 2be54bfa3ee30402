"""Ways to run from measured tables, for jobs whose trace names only one.

- *mig_profiles*: a job of one whole GPU may take a slice of it. How much of its speed a slice keeps depends on the model,
  which traces do not name: each job is given one of the measured training jobs (`rltune.mig.profiles`), drawn by the
  seed, and the medians of its speeds over batch sizes. Profiles of a GPU type that was not measured are taken to be as fast
  as those with as many compute slices that were. An assumption, and said so in the result.
- *slices*: the same, and where the measurements are absent with made-up speeds of three kinds of models.
- *gpu_heterogeneity*: a job may use GPU types beside the one it names, as many GPUs, at the speeds of Gavel's table
  (`rltune.nouns.throughput`).

Both write the column ``ways`` of the job table, which the result shows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from rltune.core.choices import Offered
from rltune.mig.profiles import FILE, read_profiles
from rltune.nouns.cluster import Cluster, eligibility
from rltune.nouns.jobs import WHOLE, Category, JobTable
from rltune.nouns.mig_profiles import NAMES
from rltune.nouns.throughput import chip, usable
from rltune.simulator.options import Options
from rltune.traces.folder import find, need, traces_folder
from rltune.traces.heterogeneity import load_throughput

Floats = npt.NDArray[np.float64]
MADE_UP_SLICES = {
    "large model": {"1g": 0.2, "2g": 0.35, "3g": 0.5},
    "middling model": {"1g": 0.5, "2g": 0.8, "3g": 0.95},
    "small model": {"1g": 0.9, "2g": 0.95, "3g": 1.0},
}
"""Speeds on slices over that of the whole GPU where no measurements are at hand: round numbers, in the range of those."""
REMEDY = "get it from its publishers, or list ways in the job table"


def with_ways(
    jobs: JobTable, cluster: Cluster, options: Options, speed: Floats | None
) -> tuple[JobTable, tuple[str, ...]]:
    """The jobs with the ways of the table that the options name, and remarks on them. Jobs that list some keep those."""
    if options.ways is None:
        return jobs, ()
    texts = jobs.ways.values()
    types = options.ways == "gpu_heterogeneity"
    notes = _types(jobs, cluster, texts) if types else _slices(jobs, cluster, options, speed, texts)
    return replace(jobs, ways=Category.of(texts, len(jobs))), notes


def ways_left_out(offered: Offered) -> tuple[str, ...]:
    """What was not offered of the jobs' ways."""
    count = offered.slower
    return (f"{count} jobs lose ways that are slower than way_least_speed allows",) if count else ()


def slice_speeds() -> dict[str, dict[str, float]]:
    """Training job -> kind of profile (``1g``) -> speed over that of the whole GPU, at most 1; medians over batch sizes."""
    name = str(FILE)
    path = need(traces_folder(None), (name,), "ways=mig_profiles", REMEDY)
    rows = read_profiles(path)
    rows = rows[rows.task == "train"]
    found: dict[str, dict[str, float]] = {}
    for gpu, kinds in NAMES.items():
        for model, mine in rows[rows.gpu == gpu].groupby("model"):
            for kind, profile in kinds.items():
                # A slice of the whole GPU is the whole GPU.
                if kind != "7g" and profile in mine and mine[profile].notna().any():
                    found.setdefault(str(model), {})[kind] = min(1.0, float(mine[profile].median()))
    return found


def _slices(jobs: JobTable, cluster: Cluster, options: Options, speed: Floats | None, texts: Any) -> tuple[str, ...]:
    """Add slices of the GPUs that each job of one whole GPU may use."""
    absent = options.ways == "slices" and find(traces_folder(None), (str(FILE),)) is None
    measured, classes = MADE_UP_SLICES if absent else slice_speeds(), eligibility(jobs, cluster)
    models, how = sorted(measured), "made up for" if absent else "measured of"
    drawn = np.random.default_rng(options.seed).integers(len(models), size=len(jobs))
    given = 0
    single = (jobs.num_gpus == 1) & (jobs.gpu_milli == WHOLE) & (jobs.mig.codes < 0) & (jobs.ways.codes < 0)
    for row in np.flatnonzero(single):
        of_type: dict[str, float] = {}
        for p in classes.pools[classes.ptr[classes.cls[row]] : classes.ptr[classes.cls[row] + 1]]:
            if cluster.pools[p].mig:
                of_type.setdefault(cluster.pools[p].gpu_type, 1.0 if speed is None else float(speed[row, p]))
        if not of_type:
            continue
        keeps = measured[models[drawn[row]]]
        slices = [
            f"{NAMES[gpu][kind]}:{gpu}@{whole * share:.6g}"
            for gpu, whole in of_type.items()
            for kind, share in keeps.items()
            if kind in NAMES[gpu]
        ]
        texts[row] = " | ".join(["request", *slices])
        given += 1
    return (
        f"ways {options.ways}: {given} jobs of one GPU may take a MIG slice of it, at the speeds {how} one of "
        f"{len(models)} training jobs ({', '.join(models)}) drawn by seed {options.seed}: an assumption, traces name no models",
    )


def _types(jobs: JobTable, cluster: Cluster, texts: Any) -> tuple[str, ...]:
    """Let jobs of whole GPUs use every measured type, and their own as before."""
    table = load_throughput("gavel")
    anywhere = replace(jobs, gpu_type=Category.absent(len(jobs)))
    known = np.array([chip(pool.gpu_type) in table.types for pool in cluster.pools])
    measured = np.array([chip(name) in table.types for name in jobs.gpu_type.names] + [True])
    whole = (jobs.gpu_milli == WHOLE) & (jobs.mig.codes < 0) & (jobs.ways.codes < 0) & measured[jobs.gpu_type.codes]
    may_use = usable(anywhere, cluster) & known & whole[:, None]
    speeds = table.speeds(jobs, cluster, may_use)
    for row in np.flatnonzero(may_use.any(axis=1)):
        of_type = {cluster.pools[p].gpu_type: speeds.speed[row, p] for p in np.flatnonzero(may_use[row])}
        texts[row] = " | ".join(f"{jobs.num_gpus[row]}x{gpu}@{value:.6g}" for gpu, value in of_type.items())
        if any(pool.gpu_type == "any" for pool in cluster.pools):
            texts[row] += f" | {jobs.num_gpus[row]}xany@1"
    untouched = int((~may_use.any(axis=1)).sum())
    left = (f"ways gpu_heterogeneity: {untouched} jobs whose GPU type is not measured keep what they ask for",)
    return (*(note.replace("throughput", "ways", 1) for note in speeds.notes), *(left if untouched else ()))
