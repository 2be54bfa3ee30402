"""Shockwave's simulated experiment (Zheng et al., NSDI 2023): 120 jobs on 32 V100, every job with its first batch size.

Its simulator is a fork of Gavel's with rounds of 120 s, 1,000 s between allocations and 20 s lost by a restart
(uw-mad-dash/shockwave, commit 8a44f4a). Its jobs change their batch size while they train; here all are static, as in its own
runs with every mode set to static.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from rltune.nouns.errors import InputError
from rltune.rounds.clock import Terms
from rltune.rounds.jobs import Floats, RoundJobs

WORKERS = np.array([32])
RESET_S = 1000.0
TERMS = Terms(round_s=120.0, restart_s=20.0, restart_from_s=115.0, failing=True, whole=True, dropped_ends=True)
SAMPLES = {"ResNet-18": 50_000, "ResNet-50": 100_000, "Transformer": 10_000, "LM": 59_675, "Recommendation": 117_907}
"""Length of an epoch: CIFAR-10, ImageNet (as shortened there), Multi30k, Wikitext-2, ML-20M."""
OVERRUN = 1.5
"""A job is removed as finished when it has run for longer than so many times its exclusive run time."""
UNFAIR = 1.05


def read_shockwave_jobs(path: Path, rates: Mapping[tuple[str, int], Floats]) -> RoundJobs:
    """The trace (submit_s, model, num_gpus, total_steps); ``rates``: (model, GPUs) -> (1,) steps a second on V100."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; set RLTUNE_TRACES to the folder of shockwave_120/")
    table = pd.read_csv(path)
    if missing := {"submit_s", "model", "num_gpus", "total_steps"} - set(table):
        raise InputError(f"{path.name}: column {', '.join(sorted(missing))} is missing")
    kinds = list(zip(table["model"], table["num_gpus"], strict=True))
    if unknown := set(kinds) - set(rates):
        raise InputError(f"{path.name}: no speed is known of {sorted(unknown)[0]}; give a table that has it")
    rate = np.array([rates[kind] for kind in kinds]).reshape(-1, 1)
    submit, gpus, steps = (table[name].to_numpy() for name in ("submit_s", "num_gpus", "total_steps"))
    return RoundJobs(
        submit.astype(np.float64),
        gpus.astype(np.int64),
        steps.astype(np.float64),
        rate,
        tuple(table["model"]),
        ("V100",),
    )


def exclusive_s(jobs: RoundJobs) -> Floats:
    """(n_jobs,) run time alone: whole epochs, each of as many steps, fractional, as its samples fill batches."""
    out = np.zeros(len(jobs))
    for j, model in enumerate(jobs.model):
        found = re.fullmatch(r"(.+) \(batch size (\d+)\)", model)
        if found is None or found[1] not in SAMPLES:
            raise InputError(f"job {j}: model {model!r} is not one of {', '.join(SAMPLES)} with its batch size")
        samples, batch = SAMPLES[found[1]], int(found[2])
        epochs = math.ceil(jobs.steps[j] / math.ceil(samples / batch))
        out[j] = epochs * (samples / batch) / jobs.rate[j, 0]
    return out


def scores(jobs: RoundJobs, jct_s: Floats, alone_s: Floats) -> dict[str, float]:
    """Mean JCT, makespan, worst finish-time fairness and the share of jobs above 1.05, as published.

    Fairness of a job: JCT over its exclusive run time times jobs / GPUs of the whole experiment, whatever its gang.
    """
    ftf = np.round(jct_s / (alone_s * max(1.0, len(jobs) / float(WORKERS.sum()))), 5)
    return {
        "mean_jct_s": float(jct_s.mean()),
        "makespan_s": float((jobs.arrival_s + jct_s).max()),
        "worst_ftf": float(ftf.max()),
        "unfair_fraction": float((ftf > UNFAIR).mean()),
    }
