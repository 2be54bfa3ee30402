"""The published simulator's schedules, node for node."""

from __future__ import annotations

import gzip
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rltune

SETS = ("philly_x1", "philly_x10", "helios_x1", "helios_x10", "alibaba_x10")


def as_golden(result: rltune.Result) -> dict[str, list[int]]:
    """{job_id: [start, node, gpus, node, gpus, ...]} of the jobs that ran."""
    schedule = result.schedule
    out = {}
    for row in schedule[~schedule.start_s.isna()].itertuples():
        pairs = [x for pair in zip(row.nodes, row.gpus, strict=True) for x in pair]
        out[row.job_id] = [int(row.start_s), *pairs]
    return out


@pytest.mark.parametrize("name", SETS)
def test_every_golden_schedule_is_reproduced(name: str, golden: Path, real_traces: Path) -> None:
    """A user who compares with the published numbers would compare different schedules."""
    data: dict[str, Any] = json.loads(gzip.decompress((golden / "rltune" / f"{name}.json.gz").read_bytes()))
    cluster_name, squeeze = name.split("_x")
    trace = rltune.load_trace(f"rltune_{cluster_name}", folder=real_traces, squeeze=int(squeeze))
    cluster = rltune.load_cluster(f"rltune_{cluster_name}")
    checked = 0
    for policy, windows in data["policies"].items():
        for expected in windows:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                result = rltune.simulate(
                    trace.window(expected["start"], data["batch"]),
                    cluster,
                    policy=policy,
                    backfill="blocking",
                    allocator="lexicographic",
                )
            assert as_golden(result) == expected["schedule"], (policy, expected["start"])
            scores = result.scores()
            assert scores["wait_s"].mean() == pytest.approx(expected["wait_s"], rel=1e-12)
            assert scores["jct_s"].mean() == pytest.approx(expected["jct_s"], rel=1e-12)
            assert scores["bsld"].mean() == pytest.approx(expected["bsld"], rel=1e-12)
            assert int(result.started.sum()) == expected["scheduled"]
            starts = result.start_s[result.started]
            assert starts.max() - starts.min() == expected["makespan_s"]
            checked += 1
    assert checked == 6 * 16


def test_skipping_reproduces_the_recorded_means(real_traces: Path, golden: Path) -> None:
    """The headline table (FIFO blocking against skipping on the 16 public windows) would no longer be ours."""
    data = json.loads(gzip.decompress((golden / "rltune" / "helios_x1.json.gz").read_bytes()))
    starts = [window["start"] for window in data["policies"]["fcfs"]]
    trace = rltune.load_trace("rltune_helios", folder=real_traces)
    recorded = {"fifo": 6_217, "smallest": 5_482, "sjf": 4_869, "f1": 4_976}
    for policy, wait_s in recorded.items():
        means = []
        for start in starts:
            result = rltune.simulate(
                trace.window(start, 256), "rltune_helios", policy=policy, backfill="skip",
                allocator="lexicographic", oversized="drop",
            )  # fmt: skip
            means.append(result.scores()["wait_s"].mean())
        assert np.mean(means) == pytest.approx(wait_s, abs=1.0), policy


def test_the_month_reproduces_the_recorded_means(real_traces: Path) -> None:
    """Skipping FIFO, SJF and SAF on Helios September would differ from an independent simulator's figures."""
    trace = rltune.load_trace("helios", folder=real_traces).between("2020-09-01", "2020-09-28")
    assert len(trace) == 25_596
    recorded = {(100, "fifo"): 1_038, (100, "saf"): 1_358, (85, "fifo"): 10_915, (85, "saf"): 4_841}
    for (nodes, policy), wait_s in recorded.items():
        cluster = rltune.load_cluster("helios", nodes=nodes)
        result = rltune.simulate(trace, cluster, policy=policy, backfill="skip")
        assert result.wait_s.mean() == pytest.approx(wait_s, abs=1.0), (nodes, policy)
