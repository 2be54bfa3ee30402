"""Generators calibrated to the published statistics of the four Helios clusters."""

from __future__ import annotations

from datetime import datetime, time
from typing import Any

import numpy as np

from rltune.nouns.errors import InputError
from rltune.nouns.jobs import JobTable
from rltune.traces.calibrated import CLAMP_S, Drawn, draw, owners
from rltune.traces.helios_statistics import CLUSTERS, INVENTED_VCS
from rltune.traces.labels import Ints, tilted
from rltune.traces.statistics import ClusterStatistics, Outcomes
from rltune.traces.trace import Trace

STATUS_STREAM = 1
"""The ends of jobs are drawn from a stream of their own: with or without them, the jobs are the same."""


def helios_calibrated(
    seed: int = 0,
    clamp_s: float | None = CLAMP_S,
    cluster: str = "venus",
    jobs: int | None = None,
    statuses: bool = False,
) -> Trace:
    """Jobs from 2020-04-01 to 2020-09-27 as the published statistics of a Helios cluster describe them.

    Args:
        clamp_s: longest duration, seconds; None keeps the published tail (up to 2^21 s).
        cluster: which of ``CLUSTERS``.
        jobs: how many in the same six months, which scales the load; None: as published.
        statuses: whether jobs end completed, cancelled or failed in the published shares.
    """
    name = "helios_calibrated" if cluster == "venus" else f"helios_{cluster}_calibrated"
    if cluster not in CLUSTERS:
        raise InputError(f"trace helios_calibrated: cluster {cluster!r}; known are {', '.join(CLUSTERS)}")
    facts, told = resized(CLUSTERS[cluster], name, clamp_s, jobs)
    drawn = draw(facts, rng := np.random.default_rng(seed))
    vc, user = owners(facts, drawn, rng)
    more: dict[str, Any] = {
        "vc": np.array(list(facts.vc_nodes), dtype=object)[vc],
        "user": np.array([f"u{k:03d}" for k in range(facts.users)], dtype=object)[user],
    }
    if statuses and facts.outcomes is not None:
        more["status"] = ends(facts.outcomes, drawn, np.random.default_rng([seed, STATUS_STREAM]))
    load = "VC load by VC size" if facts.vc_busy is None else "VC load by its GPUs in use in May"
    if cluster in INVENTED_VCS:
        load = f"the sizes of its {len(facts.vc_nodes)} VCs, {load}"
    notes = (
        f"calibrated synthetic: no real job, from published statistics of {cluster.title()}, seed {seed}",
        f"assumed: weekend factor {facts.weekend_factor}, batches of {facts.batch_jobs:g} jobs, {load}",
        *told,
    )
    return Trace.of(
        table(drawn, more, clamp_s, prefix=cluster, source=name),
        name=name,
        source="calibrated",
        origin=datetime.combine(facts.months[0][0], time()),
        label=f"{'helios' if cluster == 'venus' else f'helios {cluster}'} (calibrated synthetic)",
        notes=notes,
    )


def helios_earth_calibrated(
    seed: int = 0, clamp_s: float | None = None, jobs: int | None = None, statuses: bool = True
) -> Trace:
    """SenseTime Earth, generated from its published statistics; its VCs as on 2020-09-01."""
    return helios_calibrated(seed, clamp_s, "earth", jobs, statuses)


def helios_saturn_calibrated(
    seed: int = 0, clamp_s: float | None = None, jobs: int | None = None, statuses: bool = True
) -> Trace:
    """SenseTime Saturn, generated from its published statistics; the sizes of its VCs are invented."""
    return helios_calibrated(seed, clamp_s, "saturn", jobs, statuses)


def helios_uranus_calibrated(
    seed: int = 0, clamp_s: float | None = None, jobs: int | None = None, statuses: bool = True
) -> Trace:
    """SenseTime Uranus, generated from its published statistics; the sizes of its VCs are invented."""
    return helios_calibrated(seed, clamp_s, "uranus", jobs, statuses)


def resized(
    facts: ClusterStatistics, name: str, clamp_s: float | None, jobs: int | None
) -> tuple[ClusterStatistics, tuple[str, ...]]:
    """The statistics at the wanted number of jobs, and what must be told of that and of the clamp."""
    if clamp_s is not None and clamp_s < 1:
        raise InputError(f"trace {name}: clamp_s={clamp_s}; use seconds >= 1 or null")
    if jobs is not None and jobs < 1:
        raise InputError(f"trace {name}: jobs={jobs}; use a whole number >= 1 or null")
    told = "durations are not clamped" if clamp_s is None else f"durations clamped at {clamp_s:g} s"
    if jobs is None or jobs == facts.jobs:
        return facts, (told,)
    return facts.scaled(jobs), (told, f"{jobs} jobs instead of {facts.jobs}: {jobs / facts.jobs:.4g} times the load")


def ends(outcomes: Outcomes, drawn: Drawn, rng: np.random.Generator) -> np.ndarray:
    """(n_jobs,) how each job ends: in the published shares of jobs and GPU time, and by gang size as far as they allow."""
    stratum: Ints = np.searchsorted(outcomes.sizes, drawn.num_gpus)
    labels = tilted(
        drawn.gpu_seconds,
        outcomes.jobs_pct,
        outcomes.gpu_time_pct,
        rng,
        stratum=stratum,
        base=np.array(outcomes.by_size_pct),
    )
    found: np.ndarray = np.array(outcomes.names, dtype=object)[labels]
    return found


def table(drawn: Drawn, more: dict[str, Any], clamp_s: float | None, prefix: str, source: str) -> JobTable:
    """The drawn jobs and further columns (n_jobs,) in order of submission, named ``prefix-000000`` on."""
    duration_s = drawn.duration_s if clamp_s is None else np.minimum(drawn.duration_s, np.floor(clamp_s))
    order = np.argsort(drawn.submit_s, kind="stable")
    columns = {
        "job_id": [f"{prefix}-{k:06d}" for k in range(len(order))],
        "submit_s": drawn.submit_s[order],
        "duration_s": duration_s[order],
        "num_gpus": drawn.num_gpus[order],
        **{name: np.asarray(values)[order] for name, values in more.items()},
    }
    return JobTable.from_columns(columns, source=source)
