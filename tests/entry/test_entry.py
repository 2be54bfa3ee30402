"""A good run of a command leaves what the house page lists."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from entry_cases import QUICK, ROWS, Command, no_nan, refused, write


def test_an_evaluation_with_options_of_the_simulation(here: Path, command: Command) -> None:
    """Rows that cannot be simulated would stop the others, or vanish without a word; options would be ignored."""
    write(here / "jobs.csv", ROWS)
    quick = [option for option in QUICK if not option.startswith(("policy", "backfill"))]
    rows = ("policy=[fifo,las]", "backfill=[blocking,skip,easy]", "runtimes=exact", "options.gpu_mtbf_s=3000")
    status, out, err = command("evaluate", "+trace=file", "trace.path=jobs.csv", *quick, *rows)
    assert status == 0, err
    summary = json.loads((here / out.splitlines()[-1] / "summary.json").read_text())
    assert set(summary["policies"]) == {"fifo-skip", "las-skip", "fifo-easy-exact"}
    assert [note.partition(" are left out")[0] for note in summary["notes"][:2]] == [
        "rows with backfill=blocking", "rows with backfill=easy, of policies that suspend,",
    ]  # fmt: skip
    told = command("evaluate", "+trace=file", "trace.path=jobs.csv", *quick, "policy=[lass]")
    refused(told, here / "nowhere", "policy 'lass' is unknown")


def test_a_good_run_leaves_what_the_house_page_lists(here: Path) -> None:
    """Other tools would not find the run, its files or the keys they read."""
    write(here / "jobs.csv", ROWS)
    command = [sys.executable, "-m", "rltune.evaluate", "+trace=file", "trace.path=jobs.csv", *QUICK]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    run = here / done.stdout.splitlines()[-1]
    assert {p.name for p in run.iterdir()} == {
        "config.yaml", "manifest.json", "summary.json", "table.md", "windows.csv", "jobs.parquet", "box.png", "cdf.png",
    }  # fmt: skip
    assert [p.name for p in here.iterdir() if p.name not in ("jobs.csv", "runs")] == []
    summary = json.loads((run / "summary.json").read_text())
    assert no_nan(summary)
    assert (summary["schema_version"], summary["command"], summary["protocol"]) == (1, "evaluate", "window")
    assert {"name", "source", "jobs", "sha256"} <= summary["trace"].keys()
    assert (summary["trace"]["source"], summary["trace"]["jobs"]) == ("user", 120)
    assert (summary["cluster"]["nodes"], summary["cluster"]["gpus"]) == (2, 16)
    assert set(summary["policies"]) == {
        "fifo-skip", "sjf-skip-exact", "sjf-skip-predicted", "fifo-easy-exact", "fifo-easy-predicted", "sjf-easy-exact",
        "sjf-easy-predicted",
    }  # fmt: skip
    for row in summary["policies"].values():
        assert row["wait_s"].keys() >= {"mean", "ci95", "p50", "p95", "p99", "max"}
        assert {"jct_s", "bsld", "utilization", "fragmentation", "makespan_s"} <= row.keys()
        assert row["unfinished"] == 0
        assert row["wait_s"]["ci95"][0] <= row["wait_s"]["mean"] <= row["wait_s"]["ci95"][1]
    assert summary["comparisons"] == []
    assert {"wall_s", "peak_rss_mb", "jobs_per_s"} <= summary["runtime"].keys()
    manifest = json.loads((run / "manifest.json").read_text())
    assert {"schema_version", "git_commit", "seeds", "packages", "trace"} <= manifest.keys()
    jobs = pd.read_parquet(run / "jobs.parquet")
    assert {"policy", "window", "job_id", "submit_s", "start_s", "end_s", "wait_s", "num_gpus"} <= set(jobs.columns)
    mean = jobs[jobs.policy == "fifo-skip"].wait_s.mean()
    assert summary["policies"]["fifo-skip"]["wait_s"]["mean"] == pytest.approx(mean)


def test_trace_with_and_without_plus_is_the_same(here: Path, command: Command) -> None:
    """``trace=synthetic``, as every other option is written, would be refused as unknown."""
    told = [command("evaluate", f"{plus}trace=synthetic", *QUICK) for plus in ("+", "")]
    assert [status for status, _, _ in told] == [0, 0], told[1][2]
    one, two = (json.loads((Path(out.splitlines()[-1]) / "summary.json").read_text()) for _, out, _ in told)
    assert one["trace"] == two["trace"]
    assert one["policies"] == two["policies"]


def test_dropped_jobs_are_counted_in_the_summary(here: Path, command: Command) -> None:
    """A job that can never run would vanish from the table in silence."""
    write(here / "jobs.csv", [*ROWS[:-10], *(f"big{k},{3300 + k},5,17" for k in range(3)), *ROWS[-10:]])
    status, out, err = command(
        "evaluate", "+trace=file", "trace.path=jobs.csv", *QUICK, "oversized=drop", "windows=[11]"
    )
    assert status == 0, err
    assert "big0" in err and "counted as unfinished" in err
    summary = json.loads((Path(out.splitlines()[-1]) / "summary.json").read_text())
    assert {row["unfinished"] for row in summary["policies"].values()} == {3}


def test_a_stretch_in_which_nothing_can_run_is_told(here: Path, command: Command) -> None:
    """oversized=drop on a cluster too small for every job would be a stack trace."""
    write(here / "jobs.csv", [f"j{k},{k},5,17" for k in range(120)])
    told = command("evaluate", "+trace=file", "trace.path=jobs.csv", *QUICK, "oversized=drop")
    refused(told, here, "17 GPUs")
