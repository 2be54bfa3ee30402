"""A generator calibrated to the statistics of Alibaba PAI: shares of GPUs, and GPU types."""

from __future__ import annotations

import numpy as np

from rltune.nouns.jobs import WHOLE
from rltune.traces.calibrated import CLAMP_S, draw
from rltune.traces.helios_calibrated import resized, table
from rltune.traces.pai_statistics import GPU_TYPES, PAI, REQUESTS
from rltune.traces.trace import Trace

NAME = "alibaba_calibrated"


def alibaba_calibrated(
    seed: int = 0, clamp_s: float | None = CLAMP_S, jobs: int | None = None, shares: bool = True
) -> Trace:
    """Alibaba PAI in July and August 2020, generated from its statistics; no users, terminated GPU tasks only.

    Args:
        clamp_s: longest duration, seconds; None goes on to 2^18 s, which the sample does not show.
        jobs: how many in the same 64 days, which scales the load; None: the published 732,691.
        shares: whether tasks of one GPU may ask for 10, 25 or 50 % of it; else each gets a whole one.
    """
    facts, told = resized(PAI, NAME, clamp_s, jobs)
    drawn = draw(facts, rng := np.random.default_rng(seed))
    n = len(drawn.num_gpus)
    requests = _drawn(REQUESTS, n, rng)
    milli = np.where((drawn.num_gpus == 1) & shares, requests * (WHOLE // 100), WHOLE)
    types = np.array(list(GPU_TYPES), dtype=object)[_drawn(dict(enumerate(GPU_TYPES.values())), n, rng)]
    notes = (
        f"calibrated synthetic: no real task, from statistics of Alibaba PAI, seed {seed}",
        "assumed: requests for a share are as frequent among tasks of one GPU as among all up to one GPU, "
        "GPU types are independent of size and duration, "
        f"batches of {facts.batch_jobs:g} tasks {facts.batch_gap_s:g} s apart",
        "arrival is the task's START time, as in the log",
        *((f"{int((milli < WHOLE).sum())} tasks ask for a share of a GPU",) if shares else ()),
        *told,
    )
    return Trace.of(
        table(drawn, {"gpu_milli": milli, "gpu_type": types}, clamp_s, prefix="pai", source=NAME),
        name=NAME,
        source="calibrated",
        label="alibaba (calibrated synthetic)",
        notes=notes,
    )


def _drawn(weights: dict[int, int], n: int, rng: np.random.Generator) -> np.ndarray:
    """(n,) keys in the shares of their weights."""
    edges = np.cumsum(list(weights.values())) / sum(weights.values())
    found: np.ndarray = np.array(list(weights))[np.searchsorted(edges[:-1], rng.random(n), side="right")]
    return found
