"""Simulated schedules on simulated GPUs: what the simulator books, a driver must accept; and what is wrong is caught."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest

import rltune
from rltune.device_commands import rehearse as command
from rltune.devices.rehearsal import rehearse
from rltune.nouns.cluster import Cluster, Pool
from rltune.nouns.errors import InputError
from rltune.nouns.jobs import JobTable
from rltune.nouns.mig_profiles import NAMES

CLUSTER = Cluster(
    "mixed",
    (
        Pool("a", 2, 2, "A100-80GB", mig=True),
        Pool("b", 1, 3, "A30", mig=True, first_node_id=7),
        Pool("plain", 1, 4, "V100"),
    ),
)
PROFILES = sorted({*NAMES["A100-80GB"].values(), *NAMES["A30"].values()})


def drawn(seed: int, n: int = 300) -> JobTable:
    """Jobs of every kind: slices, whole GPUs, shares, none; some without duration, many at one instant."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(["mig", "mig", "mig", "whole", "share", "none"], n)
    return JobTable.from_columns(
        {
            "job_id": [f"j{k}" for k in range(n)],
            "submit_s": np.sort(rng.integers(0, 200, n)),
            "duration_s": rng.choice([0, 1, 5, 5, 30, 100], n),
            "num_gpus": np.where(kind == "whole", rng.choice([1, 2, 4], n), 1),
            "gpu_milli": np.select([kind == "share", kind == "none"], [300, 0], 1000),
            "mig": [str(rng.choice(PROFILES)) if k == "mig" else None for k in kind],
            "gpu_type": ["V100" if k in ("share", "none") else None for k in kind],
            "priority": rng.integers(0, 3, n),
        }
    )


@pytest.mark.parametrize("policy", ["fifo", "srtf", "priority"])
@pytest.mark.parametrize("allocator", ["first_fit", "best_fit", "fgd"])
def test_what_the_simulator_books_a_device_accepts(policy, allocator):
    """A schedule would hold slices that no GPU has free, so that its numbers were of no machine there is."""
    jobs = drawn(len(policy) + len(allocator))
    result = rltune.simulate(jobs, CLUSTER, policy=policy, backfill="skip", allocator=allocator)
    done = rehearse(result.attempts, CLUSTER)
    slices = int((jobs.mig.codes[result.runs.job] >= 0).sum())
    assert done.refusals == [] and slices > 100
    assert done.total.created == done.total.destroyed == slices
    assert sum(done.skipped.values()) == len(result.runs) - slices
    assert set(done.skipped) == {"whole GPUs", "a share of a GPU"} | (
        {"no GPU"} if (jobs.gpu_milli == 0).any() else set()
    )
    held = result.runs.end_s - result.runs.start_s
    assert done.total.run_s == pytest.approx(held[jobs.mig.codes[result.runs.job] >= 0].sum())


def test_costs_are_the_documented_ones():
    """The seconds of creating and destroying instances would be reported wrongly."""
    jobs = JobTable.from_columns(
        {"submit_s": [0, 0], "duration_s": [10, 20], "num_gpus": [1, 1], "mig": ["3g.40gb", "1g.6gb"]}
    )
    options = {"policy": "fifo", "backfill": "skip", "allocator": "first_fit", "mig_reconfiguration": False}
    done = rehearse(rltune.simulate(jobs, CLUSTER, **options).attempts, CLUSTER)
    assert [(key, k.create_s, k.destroy_s, k.run_s) for key, k in done.kinds.items()] == [
        (("A100-80GB", "3g.40gb"), 0.20, 0.21, 10), (("A30", "1g.6gb"), 0.11, 0.10, 20),
    ]  # fmt: skip
    assert done.overhead == pytest.approx(0.62 / 30) and done.gpus == 2


@pytest.fixture
def schedule() -> pd.DataFrame:
    result = rltune.simulate(drawn(5), CLUSTER, policy="fifo", backfill="skip", allocator="first_fit")
    return result.attempts


def test_a_corrupted_schedule_is_caught(schedule):
    """Slices that overlap, begin where they may not, or that the type has not, would pass for a possible schedule."""
    cut = schedule.index[schedule.mig.eq("3g.40gb") & (schedule.end_s > schedule.start_s)]
    beside = schedule.loc[[cut[0]]].assign(job_id="twin")
    twin = rehearse(pd.concat([schedule, beside], ignore_index=True), CLUSTER)
    first = twin.refusals[0]
    assert (first.job, first.action, first.status) == ("twin", "create", "INSUFFICIENT_RESOURCES")
    for column, value, told in (("first_slice", 1, "INVALID_ARGUMENT"), ("mig", "1g.6gb", "NOT_SUPPORTED")):
        wrong = schedule.copy()
        wrong.loc[cut[0], column] = value
        found = rehearse(wrong, CLUSTER).refusals
        assert (found[0].job, found[0].status) == (schedule.job_id[cut[0]], told)
    longer = schedule.copy()
    longer.loc[cut, "end_s"] += 50
    assert rehearse(longer, CLUSTER).refusals


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [
        ("pool", "plain", "pool 'plain' of mixed has no MIG; pools with it: a, b"),
        ("gpu", 2, "GPU 2: pool a has no such GPU"),
        ("end_s", -1.0, "is no time"),
        ("end_s", np.nan, "is no time"),
    ],
)
def test_a_schedule_of_another_cluster_is_refused(schedule, column, value, told):
    """What is on no GPU of the cluster would be rehearsed on one that is not there."""
    schedule.loc[schedule.index[schedule.mig.notna() & schedule.pool.eq("a")][0], column] = value
    with pytest.raises(InputError, match=told):
        rehearse(schedule, CLUSTER)


def test_the_command(tmp_path, schedule, capsys):
    """A run directory would not be found out, or one that cannot be held would end as if it could."""
    pools = [asdict(pool) for pool in CLUSTER.pools]
    (tmp_path / "summary.json").write_text(json.dumps({"cluster": {"name": "mixed", "pools": pools}}))
    schedule.to_parquet(tmp_path / "runs.parquet", index=False)
    args = argparse.Namespace(directory=str(tmp_path), json=False)
    assert command.run(args) == 0
    told = capsys.readouterr().out
    assert "refused: 0" in told and "3g.40gb" in told and "with whole GPUs" in told
    twice = pd.concat([schedule, schedule[schedule.mig.notna()]], ignore_index=True)
    twice.to_parquet(tmp_path / "runs.parquet", index=False)
    assert command.run(args) == 1
    told = capsys.readouterr().out
    assert "INSUFFICIENT_RESOURCES" in told and "more (--json lists all)" in told
    assert command.run(argparse.Namespace(directory=str(tmp_path), json=True)) == 1
    assert len(json.loads(capsys.readouterr().out)["refusals"]) > 100
    schedule.drop(columns="gpu").to_parquet(tmp_path / "runs.parquet", index=False)
    with pytest.raises(InputError, match="column 'gpu' is missing"):
        command.run(args)
    with pytest.raises(InputError, match="no run of"):
        command.run(argparse.Namespace(directory=str(tmp_path / "none"), json=False))
