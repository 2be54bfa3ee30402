"""A generator calibrated to the statistics of Microsoft Philly."""

from __future__ import annotations

from datetime import datetime, time

import numpy as np

from rltune.traces.calibrated import Drawn, draw
from rltune.traces.helios_calibrated import STATUS_STREAM, ends, resized, table
from rltune.traces.labels import tilted
from rltune.traces.philly_statistics import PHILLY, VC_SHARES
from rltune.traces.trace import Trace

NAME = "philly_calibrated"


def philly_calibrated(
    seed: int = 0, clamp_s: float | None = None, jobs: int | None = None, statuses: bool = True
) -> Trace:
    """Microsoft Philly from 2017-10-01 to 2017-12-22, generated from its statistics; no users.

    Args:
        clamp_s: longest duration, seconds; None keeps the log's tail (up to 2^23 s).
        jobs: how many in the same time, which scales the load; None: the log's 101,661.
        statuses: whether jobs end passed, killed or failed in the published shares.
    """
    facts, told = resized(PHILLY, NAME, clamp_s, jobs)
    drawn = draw(facts, rng := np.random.default_rng(seed))
    more = {"vc": _virtual_clusters(drawn, rng)}
    if statuses and facts.outcomes is not None:
        more["status"] = ends(facts.outcomes, drawn, np.random.default_rng([seed, STATUS_STREAM]))
    notes = (
        f"calibrated synthetic: no real job, from statistics of Philly, seed {seed}",
        f"assumed: batches of {facts.batch_jobs:g} jobs, {facts.batch_gap_s:g} s apart on average, "
        f"rates of days spread by {facts.day_spread:g}",
        "the log's users are not published in the copies the statistics are of: none are generated",
        *told,
    )
    return Trace.of(
        table(drawn, more, clamp_s, prefix="philly", source=NAME),
        name=NAME,
        source="calibrated",
        origin=datetime.combine(facts.months[0][0], time()),
        label="philly (calibrated synthetic)",
        notes=notes,
    )


def _virtual_clusters(drawn: Drawn, rng: np.random.Generator) -> np.ndarray:
    """(n_jobs,) VC of each job's batch, in the log's shares of jobs and GPU time; none gets a wider gang than it had."""
    jobs_pct, time_pct, widest = np.array(list(VC_SHARES.values())).T
    widths, kind = np.unique(drawn.num_gpus[drawn.batches.first], return_inverse=True)
    labels = tilted(
        drawn.batch_seconds,
        jobs_pct,
        time_pct,
        rng,
        jobs=drawn.batches.jobs,
        stratum=kind,
        base=widths[:, None] <= widest,
    )
    names: np.ndarray = np.array(list(VC_SHARES), dtype=object)[labels[drawn.batches.of_job]]
    return names
